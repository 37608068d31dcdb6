//! Work that was not saved, kept on disk while a window is open, and found again after a crash.
//!
//! Each window writes one file, `recovery/<name>.ron`, and holds a lock beside it. A file whose lock nobody holds
//! belongs to a window that did not close.

use std::path::{Path, PathBuf};

use lapidary_engine::disk::Lock;
use lapidary_engine::{Error, Result, disk};
use serde::{Deserialize, Serialize};

use crate::document::project::Project;

/// The largest file that is read back.
const MAX_BYTES: u64 = 64 << 20;

/// Work in progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsaved {
    /// Plan, target and view; the checkpoint by its whole path.
    pub project: Project,
    /// The project file it was opened from, if any.
    pub file: Option<PathBuf>,
    /// The name of the last step.
    pub step: String,
}

impl Unsaved {
    /// Reads it back.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = disk::read_text(path, MAX_BYTES)?;
        ron::from_str(&text).map_err(|error| Error::malformed("recovery", path, format!("{error}")))
    }

    /// Writes it; the file is the old one or the new one, never a part.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = ron::to_string(self)
            .map_err(|error| Error::Unsupported { what: format!("keeping the plan ({error})") })?;
        disk::write_expendable_file(path, text.as_bytes())
    }
}

/// Where this window keeps its work; both files vanish with it.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    lock_path: PathBuf,
    lock: Option<Lock>,
}

fn folder(home: &Path) -> PathBuf {
    home.join("recovery")
}

impl Keeper {
    /// A place of this window's own. Where the system gives no lock, work is not kept, and a warning is logged.
    pub fn new(home: &Path) -> Option<Self> {
        let folder = folder(home);
        for place in 0..u32::MAX {
            let path = folder.join(format!("{place}.ron"));
            let lock_path = path.with_extension("lock");
            if path.exists() {
                continue;
            }
            match made(&folder).and_then(|()| Lock::take(&lock_path)) {
                Ok(None) => {}
                Ok(lock @ Some(_)) => return Some(Self { path, lock_path, lock }),
                Err(error) => {
                    tracing::warn!("work will not be kept: {}", error.sentence());
                    return None;
                }
            }
        }
        None
    }

    /// The file to write.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was kept: it is saved, or not wanted.
    pub fn forget(&self) {
        // A file that is not there has been forgotten already.
        disk::remove_file(&self.path).ok();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.forget();
        self.lock = None;
        disk::remove_file(&self.lock_path).ok();
    }
}

/// Makes the folder, with the first file in it.
fn made(folder: &Path) -> Result<()> {
    let readme = folder.join("README");
    if readme.exists() {
        return Ok(());
    }
    disk::write_expendable_file(&readme, README.as_bytes())
}

/// Removes work whose window did not close, and its lock. What is not there has been removed already.
pub fn discard(path: &Path) {
    disk::remove_file(path).ok();
    disk::remove_file(&path.with_extension("lock")).ok();
}

/// What the folder is for, for whoever finds it.
const README: &str = "Plans of open Lapidary windows that are not saved yet. A file stays here only if its window did not close.\n";

/// Work whose window did not close, the latest first.
pub fn orphans(home: &Path) -> Vec<PathBuf> {
    let mut found: Vec<disk::Found> = disk::list_tree(&folder(home));
    found.retain(|file| file.path.extension().is_some_and(|extension| extension == "ron"));
    found.sort_by_key(|file| std::cmp::Reverse(file.modified));
    let is_orphan = |path: &PathBuf| {
        let lock_path = path.with_extension("lock");
        matches!(Lock::take(&lock_path), Ok(Some(_)))
    };
    found.into_iter().map(|file| file.path).filter(is_orphan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_orphan_only_when_nobody_holds_it() {
        let home = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(home.path()).unwrap();
        disk::write_file(keeper.path(), b"x").unwrap();
        assert!(orphans(home.path()).is_empty(), "it is held");
        let other = Keeper::new(home.path()).unwrap();
        assert_ne!(keeper.path(), other.path());
        let path = keeper.path().to_path_buf();
        // As a process that dies: the lock goes, the file stays.
        let Keeper { lock, .. } = &mut { keeper };
        drop(lock.take());
        assert_eq!(orphans(home.path()), std::slice::from_ref(&path));
        drop(other);
        discard(&path);
        assert!(orphans(home.path()).is_empty());
        let left: Vec<_> = disk::list_tree(home.path()).into_iter().map(|file| file.path).collect();
        assert_eq!(left, [home.path().join("recovery").join("README")], "no lock is left behind");
    }
}
