//! Where parts of encodings belong in the files of an output: there they are written at once, and not a second time when the
//! rest of the output is. Layers lie in such a file before it is whole; the store remembers where.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::{self, Source};
use crate::error::{Error, Result};
use crate::job::encoded;

/// What the names of such files begin with.
const PREFIX: &str = "output-";

/// Where a part of an encoding belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The name of a file beside those of the store, see [`Slots::file_name`].
    pub file: String,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Where in it the part begins.
    pub at: u64,
    /// Bytes of the part.
    pub bytes: u64,
}

impl Slot {
    /// Writes the part there.
    pub(super) fn fill(&self, folder: &Path, bytes: &[u8]) -> Result<()> {
        disk::write_within(&folder.join(&self.file), self.file_bytes, self.at, bytes)
    }

    /// Opens the file it lies in.
    pub(super) fn open(&self, folder: &Path) -> Result<Source> {
        if !is_name(&self.file) {
            return Err(Error::malformed("store", folder, "it names a file of another folder"));
        }
        Source::open(&folder.join(&self.file))
    }

    /// Its bytes in that file.
    pub(super) fn read<'s>(&self, source: &'s Source) -> Result<&'s [u8]> {
        source.bytes(self.at..self.at.saturating_add(self.bytes))
    }
}

/// The slots of an output, by tensor and by name of part.
#[derive(Clone, Debug, Default)]
pub struct Slots(HashMap<usize, BTreeMap<String, Slot>>);

impl Slots {
    /// The name of the file that is to be the output's file `name`, beside those of a store. Files of other headers have
    /// other names, so that nothing is ever written over a file of another layout.
    pub fn file_name(name: &str, header: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(header);
        format!("{PREFIX}{}", hasher.finalize().to_hex())
    }

    /// Says where a part belongs, unless that is known.
    pub fn add(&mut self, tensor: usize, part: &str, slot: Slot) {
        self.0.entry(tensor).or_default().entry(part.to_owned()).or_insert(slot);
    }

    /// Where a part belongs.
    pub fn get(&self, tensor: usize, part: &str) -> Option<&Slot> {
        self.0.get(&tensor)?.get(part)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.all().map(|slot| slot.bytes).fold(0, u64::saturating_add)
    }

    /// Bytes that the disk has given to the files so far.
    pub fn there_bytes(&self, folder: &Path) -> u64 {
        let files: BTreeSet<&str> = self.all().map(|slot| slot.file.as_str()).collect();
        files.iter().filter_map(|file| disk::allocated_bytes(&folder.join(file)).ok()).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Slot> {
        self.0.values().flat_map(BTreeMap::values)
    }
}

/// Whether a file of this name is one that parts are written into.
pub(super) fn is_name(name: &str) -> bool {
    let hash = name.strip_prefix(PREFIX);
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Removes such files that nothing in the folder says it lies in.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn remove_unused(folder: &Path) -> Result<()> {
    let files = disk::list_files(folder).unwrap_or_default();
    let (outputs, stored): (Vec<_>, Vec<_>) =
        files.into_iter().map(|(name, _)| name).partition(|name| is_name(name));
    if outputs.is_empty() {
        return Ok(());
    }
    let slots = stored.iter().flat_map(|name| encoded::slots(&folder.join(name)));
    let used: BTreeSet<String> = slots.map(|slot| slot.file).collect();
    let mut unused = outputs.iter().filter(|name| !used.contains(*name));
    unused.try_for_each(|name| disk::remove_file(&folder.join(name)))
}
