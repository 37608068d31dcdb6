//! Files of a folder and of the folders below it. In: a folder. Out: paths, sizes, times. Opens no file.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::disk::remove_file;
use crate::error::{Error, Result};

/// The most files and folders that [`list_visible`] looks at.
const MAX_ENTRIES: usize = 200_000;

/// A file found by [`list_tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// When it was last written or touched.
    pub modified: SystemTime,
}

/// Every plain file in `folder` and the folders below it, in no order. Links are not followed; what vanishes
/// meanwhile, or cannot be read, is left out; a folder that is not there is empty.
pub fn list_tree(folder: &Path) -> Vec<Found> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(info) = entry.metadata() else { continue };
            if info.is_dir() {
                folders.push(entry.path());
            } else if let (true, Ok(modified)) = (info.is_file(), info.modified()) {
                found.push(Found { path: entry.path(), bytes: info.len(), modified });
            }
        }
    }
    found
}

/// Removes those of `found` that were written or touched longest ago, by path where the clock was too coarse to tell,
/// until the others take at most `limit_bytes`, counted by `size`. What somebody else removes first counts as removed.
/// Returns what is left.
///
/// # Errors
/// [`Error::Io`] where a file cannot be removed.
pub fn keep_latest(
    mut found: Vec<Found>,
    limit_bytes: u64,
    size: impl Fn(&Found) -> u64,
) -> Result<u64> {
    let mut total_bytes: u64 = found.iter().map(&size).sum();
    // Oldest last.
    found.sort_by_cached_key(|found| Reverse((found.modified, found.path.clone())));
    while total_bytes > limit_bytes {
        let Some(oldest) = found.pop() else { break };
        remove_file(&oldest.path)?;
        total_bytes -= size(&oldest);
    }
    Ok(total_bytes)
}

/// The plain files below `folder` sorted by path. Whatever begins with a dot is passed
/// over, and so are links.
///
/// # Errors
/// [`Error::Io`] for a folder that cannot be listed, [`Error::Plan`] for a folder of more than 200,000 entries, and what
/// `go_on` says; it is asked before each folder.
pub fn list_visible(folder: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Vec<Found>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    let mut seen = 0;
    while let Some(at) = folders.pop() {
        go_on()?;
        for entry in std::fs::read_dir(&at).map_err(Error::io("list", &at))? {
            let entry = entry.map_err(Error::io("list", &at))?;
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(Error::plan(
                    format!("{} holds more than {MAX_ENTRIES} files", folder.display()),
                    "choose a folder of texts only",
                ));
            }
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // What vanishes meanwhile is left out.
            let Ok(info) = entry.metadata() else { continue };
            if info.is_dir() {
                folders.push(entry.path());
            } else if let (true, Ok(modified)) = (info.is_file(), info.modified()) {
                found.push(Found { path: entry.path(), bytes: info.len(), modified });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
