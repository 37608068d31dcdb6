//! Measured results on disk, by the content of the tensor: a copy under another name, or a layer that a
//! fine-tuned model shares with its base, is measured once.
//!
//! `<folder>/v1/ab/<key in hex>.<kind>`, where `ab` are the key's first two digits: magic, the kind's version
//! (u32, little-endian), a checksum of name and content, the value as postcard writes it. A record that is
//! truncated, foreign, or of another version reads as absent. Records appear whole or not at all, carry the
//! same content under the same name whoever writes them, and may vanish at any time: so several windows share a
//! folder without a lock. The time of a file is that of its last use; the least recently used go first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use blake3::Hasher;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, File, MatrixKind, RowOrder, Tensor};
use crate::disk::{self, Found, Identity};
use crate::error::{Error, Result};
use crate::observer::Observer;

/// How much a cache holds unless told otherwise: 1 GiB.
pub const CACHE_LIMIT_BYTES: u64 = 1 << 30;
/// The largest value kept: 64 MiB, a spectrum of 8 million singular values.
pub const MAX_RECORD_BYTES: u64 = 64 << 20;

/// The subfolder, which changes with the layout described above.
const LAYOUT: &str = "v1";
const MAGIC: [u8; 4] = *b"LAPR";
/// Magic, version, checksum.
const HEADER_BYTES: usize = 4 + 4 + 32;
/// What a file takes on disk is a multiple of this.
const BLOCK_BYTES: u64 = 4096;
/// What is not a record, such as the temporary file of a writer that was killed, is removed at this age.
const LITTER_AGE: Duration = Duration::from_hours(1);

/// A value that can be kept.
pub trait Cached: Serialize + DeserializeOwned {
    /// The ending of its files: lower-case letters.
    const KIND: &'static str;
    /// One more whenever its fields or the way they are computed change: older records then read as absent.
    const VERSION: u32;
}

/// What a value is kept under: the BLAKE3 hash of a tensor's element type, shape, view as a matrix, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key([u8; 32]);

impl Key {
    /// A key of something other than a tensor, from everything that it depends on.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(b"lapidary parts 1\0");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Self(hasher.finalize().into())
    }
}

impl std::fmt::Display for Key {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Measured results in a folder. Cheap to make: nothing is read or written before it is asked for.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
    /// What may still be written before the folder is looked through again.
    budget_bytes: AtomicI64,
}

/// The keys of a weight file's tensors, as long as the file stays as it is.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    identity: Identity,
    keys: Vec<RememberedKey>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RememberedKey {
    name: String,
    /// Of everything but the bytes: a later version, or another config.json beside the file, may see the
    /// tensor as another matrix.
    view: Key,
    key: Key,
}

impl Cached for Remembered {
    const KIND: &'static str = "keys";
    const VERSION: u32 = 1;
}

impl Cache {
    /// The cache in `folder`, which holds at most `limit_bytes` in blocks of 4 KiB (see [`CACHE_LIMIT_BYTES`]).
    pub fn new(folder: &Path, limit_bytes: u64) -> Self {
        // Without a budget the first value written has the folder looked through.
        Self { folder: folder.join(LAYOUT), limit_bytes, budget_bytes: AtomicI64::new(0) }
    }

    /// The key of tensor `index`. Cost: reading and hashing all its bytes, some GB/s on one thread.
    ///
    /// # Errors
    /// [`Error::Io`] if the file has become shorter, [`Error::Cancelled`] within 2¹⁸ bytes.
    pub fn key(checkpoint: &Checkpoint, index: usize, observer: &dyn Observer) -> Result<Key> {
        let tensor = &checkpoint.tensors()[index];
        let mut hasher = begin(tensor);
        checkpoint.for_each_chunk(tensor, |bytes| {
            observer.go_on()?;
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(Key(hasher.finalize().into()))
    }

    /// The keys of all tensors as far as they are remembered. Reads one small file for each weight file, and no
    /// weights; a weight file that was written since, judged by length, time and inode, has none.
    pub fn known_keys(&self, checkpoint: &Checkpoint) -> Vec<Option<Key>> {
        let remembered: Vec<Option<Remembered>> =
            checkpoint.files().iter().map(|file| self.remembered(file)).collect();
        let known = |tensor: &Tensor| {
            let keys = &remembered[tensor.file].as_ref().filter(|_| !tensor.is_cut())?.keys;
            let name = tensor.source_name();
            let at = keys.binary_search_by(|known| known.name.as_str().cmp(name)).ok()?;
            (keys[at].view == view(tensor)).then_some(keys[at].key)
        };
        checkpoint.tensors().iter().map(known).collect()
    }

    /// Remembers the keys of `checkpoint`, one a tensor, beside those remembered already. A weight file that was
    /// written since it was opened is passed over: its keys may be those of either state.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be written, [`Error::Limit`] beyond [`MAX_RECORD_BYTES`].
    pub fn remember(&self, checkpoint: &Checkpoint, keys: &[Option<Key>]) -> Result<()> {
        for (at, file) in checkpoint.files().iter().enumerate() {
            let Some(identity) = file.identity() else { continue };
            let mut all = self.remembered(file).map_or_else(Vec::new, |before| before.keys);
            let known = all.len();
            let new = checkpoint.tensors().iter().zip(keys);
            let new = new.filter(|(tensor, _)| tensor.file == at && !tensor.is_cut());
            all.extend(new.filter_map(|(tensor, key)| {
                let name = tensor.source_name().to_owned();
                Some(RememberedKey { name, view: view(tensor), key: (*key)? })
            }));
            if all.len() == known {
                continue;
            }
            // Of one name, the key just computed counts.
            all.reverse();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all.dedup_by(|later, first| later.name == first.name);
            self.put(path_key(file), &Remembered { identity, keys: all })?;
        }
        Ok(())
    }

    fn remembered(&self, file: &File) -> Option<Remembered> {
        let identity = file.identity()?;
        self.get::<Remembered>(path_key(file)).filter(|record| record.identity == identity)
    }

    /// The value kept under `key`, marked as used now; `None` for whatever is not a whole record of this kind and
    /// version. Bit for bit what was put, NaN and infinities too.
    pub fn get<T: Cached>(&self, key: Key) -> Option<T> {
        let path = self.path(key, T::KIND);
        let record = disk::read_bytes(&path, MAX_RECORD_BYTES + HEADER_BYTES as u64).ok()?;
        let value = open_record(key, &record)?;
        // Whoever cannot mark it, as in a folder that may only be read, still has the value.
        disk::touch(&path, SystemTime::now()).ok();
        Some(value)
    }

    /// Keeps `value` under `key`, and looks through the folder when so much was written that it may be full.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be written, [`Error::Limit`] beyond [`MAX_RECORD_BYTES`].
    pub fn put<T: Cached>(&self, key: Key, value: &T) -> Result<()> {
        let record = make_record(key, value)?;
        disk::write_expendable_file(&self.path(key, T::KIND), &record)?;
        let bytes = on_disk(record.len() as u64) as i64;
        if self.budget_bytes.fetch_sub(bytes, Ordering::Relaxed) < bytes {
            self.trim()?;
        }
        Ok(())
    }

    /// Removes the least recently used records until the folder is within its limit, and then some, so that the
    /// next ones have room. What another window removes first counts as removed.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be removed.
    pub fn trim(&self) -> Result<()> {
        let now = SystemTime::now();
        let (records, mut litter): (Vec<Found>, Vec<Found>) =
            disk::list_tree(&self.folder).into_iter().partition(|found| is_record(&found.path));
        litter.retain(|found| now.duration_since(found.modified).is_ok_and(|age| age > LITTER_AGE));
        for found in &litter {
            disk::remove_file(&found.path)?;
        }
        let wanted_bytes = self.limit_bytes - self.limit_bytes / 16;
        let total_bytes = disk::keep_latest(records, wanted_bytes, |found| on_disk(found.bytes))?;
        // Half of what is left: another window may write as much.
        let budget_bytes = (self.limit_bytes - total_bytes) / 2;
        self.budget_bytes.store(i64::try_from(budget_bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, key: Key, kind: &str) -> PathBuf {
        let hex = key.to_string();
        self.folder.join(&hex[..2]).join(format!("{hex}.{kind}"))
    }
}

/// Bytes a file of so many takes.
fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// Whether a file is named like a record, so that nothing else is counted or removed as one.
fn is_record(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A hash of everything that measuring a tensor depends on, but for its bytes. Each field has a fixed length or
/// says its own, so that no two tensors read alike.
fn begin(tensor: &Tensor) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(b"lapidary tensor 1\0");
    // Tensors in codes are told by those, and by how their rows lie.
    hasher.update(tensor.type_name().as_bytes()).update(b"\0");
    let scales =
        tensor.coded.as_ref().map(|coded| &coded.scales).filter(|scales| !scales.is_empty());
    if let Some(scales) = scales {
        hasher.update(b"scaled\0").update(&(scales.len() as u64).to_le_bytes());
        scales.iter().for_each(|bits| {
            hasher.update(&bits.to_le_bytes());
        });
    }
    if let RowOrder::Woven { heads } = tensor.rows {
        hasher.update(b"woven\0").update(&(heads as u64).to_le_bytes());
    }
    let mut number = |n: usize| {
        hasher.update(&(n as u64).to_le_bytes());
    };
    number(tensor.shape.0.len());
    tensor.shape.0.iter().for_each(|&extent| number(extent));
    match &tensor.matrix {
        None => number(0),
        Some(matrix) => {
            number(if matrix.kind == MatrixKind::Conv1d { 2 } else { 1 });
            number(matrix.shape.rows);
            number(matrix.shape.cols);
        }
    }
    hasher
}

fn view(tensor: &Tensor) -> Key {
    Key(begin(tensor).finalize().into())
}

/// What the keys of a weight file's tensors are remembered under.
fn path_key(file: &File) -> Key {
    let mut hasher = Hasher::new();
    hasher.update(b"lapidary file 1\0");
    hasher.update(disk::absolute(file.path()).as_os_str().as_encoded_bytes());
    Key(hasher.finalize().into())
}

fn checksum<T: Cached>(key: Key, payload: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.update(&key.0).update(T::KIND.as_bytes()).update(b"\0");
    hasher.update(&T::VERSION.to_le_bytes()).update(payload);
    hasher.finalize().into()
}

fn make_record<T: Cached>(key: Key, value: &T) -> Result<Vec<u8>> {
    let cannot = |error: postcard::Error| Error::Unsupported {
        what: format!("keeping a result of the kind {} ({error})", T::KIND),
    };
    let payload = postcard::to_stdvec(value).map_err(cannot)?;
    let needed_bytes = payload.len() as u64;
    if needed_bytes > MAX_RECORD_BYTES {
        let what = format!("keeping a result of the kind {}", T::KIND);
        return Err(Error::Limit { what, needed_bytes, allowed_bytes: MAX_RECORD_BYTES });
    }
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
    record.extend(MAGIC);
    record.extend(T::VERSION.to_le_bytes());
    record.extend(checksum::<T>(key, &payload));
    record.extend(payload);
    Ok(record)
}

fn open_record<T: Cached>(key: Key, record: &[u8]) -> Option<T> {
    let (header, payload) = record.split_at_checked(HEADER_BYTES)?;
    let rest = header.strip_prefix(&MAGIC)?.strip_prefix(&T::VERSION.to_le_bytes())?;
    if rest != checksum::<T>(key, payload) {
        return None;
    }
    let (value, rest) = postcard::take_from_bytes(payload).ok()?;
    rest.is_empty().then_some(value)
}
