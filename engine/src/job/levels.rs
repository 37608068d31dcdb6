//! Layers under the assignments that a search tries, in a folder: each is compressed once, when it is first needed,
//! and found again by whoever searches the same model.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use blake3::Hasher;

use crate::disk::{self, Found, NewFile};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::job::{self, Subject, encoded};
use crate::method;
use crate::observer::Observer;
use crate::plan::{Assignment, Plan};
use crate::tensor::MatrixShape;

/// How the files of levels end.
const ENDING: &str = "safetensors";
/// For how long a level is kept although nobody uses it.
const UNUSED: Duration = Duration::from_hours(7 * 24);

/// Encodings in a folder, the last used of them in memory too.
///
/// One file each, named by a hash of whose layer it is and of what was done; it carries a hash of its content, and
/// what is damaged is made anew. On disk are Σ bytes over the levels that were tried, until [`Levels::trim`].
#[derive(Debug)]
pub struct Levels {
    folder: PathBuf,
    identity: String,
    held: Mutex<Held>,
}

/// What is held in memory, by path, with the time of its last use.
#[derive(Debug)]
struct Held {
    encodings: HashMap<PathBuf, (u64, Arc<Encoding>)>,
    /// Files that were written or found whole.
    whole: HashSet<PathBuf>,
    uses: u64,
    bytes: u64,
    limit_bytes: u64,
}

/// A layer under an assignment, among those it is compressed with: fused layers may share a scale.
#[derive(Clone, Copy, Debug)]
pub struct Level<'a> {
    /// The layers of the unit, and what each is assigned.
    pub unit: (&'a [usize], &'a [Arc<Assignment>]),
    /// Which of them it is.
    pub at: usize,
}

impl Level<'_> {
    /// Whether the layer stays as it is.
    pub fn is_keep(&self) -> bool {
        self.unit.1[self.at].is_keep()
    }

    /// Compresses the layer.
    ///
    /// # Errors
    /// Those of [`job::compress_layer`].
    pub fn compress(&self, subject: Subject<'_>, observer: &dyn Observer) -> Result<Encoding> {
        let mut plan = Plan::default();
        for (&layer, assignment) in self.unit.0.iter().zip(self.unit.1) {
            let name = &subject.checkpoint.tensors()[layer].name;
            plan.set(name, Assignment { locked: false, ..Assignment::clone(assignment) });
        }
        job::compress_layer(subject, &plan, self.unit.0[self.at], observer)
    }
}

impl Levels {
    /// The levels in `folder` of the model and calibration that `identity` stands for. At most `limit_bytes` of
    /// encodings, and one more, are held in memory.
    pub fn new(folder: &Path, identity: &str, limit_bytes: u64) -> Self {
        let held = Held {
            encodings: HashMap::new(),
            whole: HashSet::new(),
            uses: 0,
            bytes: 0,
            limit_bytes,
        };
        Self { folder: folder.to_owned(), identity: identity.to_owned(), held: Mutex::new(held) }
    }

    /// Removes the levels of any model that nobody used for a week, those unused for longest first, until all take at
    /// most `limit_bytes` on disk. What was used since stays, as a search may be at it.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be removed.
    pub fn trim(&self, limit_bytes: u64) -> Result<()> {
        let now = SystemTime::now();
        let is_old =
            |found: &Found| now.duration_since(found.modified).is_ok_and(|age| age > UNUSED);
        let all = disk::list_tree(&self.folder).into_iter().filter(|found| is_level(&found.path));
        let (old, used): (Vec<Found>, Vec<Found>) = all.partition(is_old);
        let used_bytes: u64 = used.iter().map(|found| found.bytes).sum();
        disk::keep_latest(old, limit_bytes.saturating_sub(used_bytes), |found| found.bytes)?;
        Ok(())
    }

    /// Compresses a layer, unless that was done before.
    ///
    /// # Errors
    /// Those of [`job::compress_layer`]; [`Error::Io`] where the folder cannot be written.
    pub fn make(
        &self,
        subject: Subject<'_>,
        level: Level<'_>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let (path, layout, shape) = self.place(subject, level)?;
        if self.held().whole.contains(&path) {
            return Ok(());
        }
        let encoding = match encoded::read(&path, &layout, shape) {
            Ok(encoding) => {
                // Whoever cannot mark it as used still has it.
                disk::touch(&path, SystemTime::now()).ok();
                encoding
            }
            Err(_absent_or_damaged) => {
                let encoding = level.compress(subject, observer)?;
                encoded::write(NewFile::replacing(&path)?, &encoding, true)?;
                encoding
            }
        };
        let mut held = self.held();
        held.whole.insert(path.clone());
        held.keep(path, Arc::new(encoding));
        Ok(())
    }

    /// A layer that was compressed before.
    ///
    /// # Errors
    /// What reading says.
    pub fn get(&self, subject: Subject<'_>, level: Level<'_>) -> Result<Arc<Encoding>> {
        let (path, layout, shape) = self.place(subject, level)?;
        if let Some(encoding) = self.held().used(&path) {
            return Ok(encoding);
        }
        let encoding = Arc::new(encoded::read(&path, &layout, shape)?);
        self.held().keep(path, encoding.clone());
        Ok(encoding)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a level lies, and what it is.
    fn place(
        &self,
        subject: Subject<'_>,
        level: Level<'_>,
    ) -> Result<(PathBuf, Layout, MatrixShape)> {
        let tensors = subject.checkpoint.tensors();
        let tensor = &tensors[level.unit.0[level.at]];
        let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
            what: format!("compressing tensor {}", tensor.name),
        })?;
        let steps = &level.unit.1[level.at].steps;
        let layout = method::alone_layout(steps, matrix.shape, tensor.dtype)?;
        let mut hasher = Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text(&format!("lapidary level {}", method::VERSION));
        text(&self.identity);
        text(&tensor.name);
        for (&layer, assignment) in level.unit.0.iter().zip(level.unit.1) {
            text(&tensors[layer].name);
            text(&serde_json::to_string(&assignment.steps).unwrap_or_default());
        }
        let name = hasher.finalize().to_hex();
        let path = self.folder.join(&name.as_str()[..2]).join(format!("{name}.{ENDING}"));
        Ok((path, layout, matrix.shape))
    }
}

impl Held {
    fn used(&mut self, path: &Path) -> Option<Arc<Encoding>> {
        self.uses += 1;
        let (last, encoding) = self.encodings.get_mut(path)?;
        *last = self.uses;
        Some(encoding.clone())
    }

    /// Holds one more, and lets go of those not used for longest beyond the limit.
    fn keep(&mut self, path: PathBuf, encoding: Arc<Encoding>) {
        self.uses += 1;
        let bytes = footprint(&encoding);
        if self.encodings.insert(path.clone(), (self.uses, encoding)).is_none() {
            self.bytes += bytes;
        }
        while self.bytes > self.limit_bytes && self.encodings.len() > 1 {
            let oldest = self.encodings.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else { break };
            if let Some((_, gone)) = self.encodings.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(footprint(&gone));
            }
        }
    }
}

/// Bytes that an encoding takes in memory, or some more: codes have a byte each there.
fn footprint(encoding: &Encoding) -> u64 {
    encoding.bytes().max(encoding.shape().elements() as u64)
}

/// Whether a file is named like a level, so that nothing else is removed as one.
fn is_level(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    let is_hash = stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && path.extension().is_some_and(|ending| ending == ENDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_unused_for_longest_go_first_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let day = Duration::from_hours(24);
        let file = |name: &str, days: u32| {
            let path = folder.path().join(name);
            disk::write_file(&path, &[0; 100]).unwrap();
            disk::touch(&path, SystemTime::now() - days * day).unwrap();
            path
        };
        let level = |letter: &str, days| file(&format!("{}.{ENDING}", letter.repeat(64)), days);
        let (oldest, old, used) = (level("a", 30), level("b", 20), level("c", 1));
        let other = file("model.safetensors", 90);
        let levels = Levels::new(folder.path(), "", 0);
        let there = || [&oldest, &old, &used, &other].map(|path| path.is_file());
        levels.trim(300).unwrap();
        assert_eq!(there(), [true; 4], "all three take 300");
        levels.trim(299).unwrap();
        assert_eq!(there(), [false, true, true, true]);
        levels.trim(0).unwrap();
        assert_eq!(there(), [false, false, true, true], "a search may be at the one of yesterday");
    }
}
