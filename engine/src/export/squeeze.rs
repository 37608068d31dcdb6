//! Folders whose safetensors files take the bytes of their entropy, and give every bit back: any checkpoint, archives among
//! them. In: a folder or a file, perhaps a base. Out: a folder, read back and compared by hash. See [`crate::format::squeezed`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::disk::{self, NewFile, NewFolder, Source};
use crate::error::{Error, Result};
use crate::export::{Destination, forecast, restore};
use crate::format::adapter;
use crate::format::safetensors::{Entry, read_header};
use crate::format::squeezed::{LIST, MAGIC, SUFFIX, chunk_bytes, squeeze as squeeze_chunk};
use crate::observer::{Observer, Progress, Unit};

/// Chunks that are coded side by side.
const BATCH: usize = 16;
/// Of so many chunks one is coded for an estimate.
const SAMPLED: usize = 32;

/// What became of the weight files of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Squeezed {
    /// The file or folder that is needed to restore them, as it was given; `None` where none is.
    pub base: Option<String>,
    /// Each, in the order of names.
    pub files: Vec<SqueezedFile>,
}

/// A weight file before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqueezedFile {
    /// Its name before.
    pub name: String,
    /// Its bytes before.
    pub bytes: u64,
    /// Its bytes now.
    pub squeezed_bytes: u64,
    /// Its BLAKE3 before, in hexadecimal.
    pub blake3: String,
}

/// Tensors that others may be held against, by name.
#[derive(Debug, Default)]
pub(super) struct Base {
    files: Vec<Source>,
    tensors: BTreeMap<String, (usize, Entry)>,
}

impl Base {
    /// The tensors of a folder or a file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut base = Self::default();
        for file in weight_files(path)? {
            let source = Source::open(&file)?;
            for entry in read_header(&source)?.entries {
                base.tensors.insert(entry.name.clone(), (base.files.len(), entry));
            }
            base.files.push(source);
        }
        Ok(base)
    }

    /// The bytes that stand in the place of those of `entry`; `None` without a tensor of that name, type and shape.
    pub(super) fn bytes(&self, entry: &Entry, within: Range<u64>) -> Result<Option<&[u8]>> {
        let Some((file, found)) = self.tensors.get(&entry.name) else { return Ok(None) };
        if found.dtype != entry.dtype || found.shape != entry.shape {
            return Ok(None);
        }
        let first = found.range.start;
        self.files[*file].bytes(first + within.start..first + within.end).map(Some)
    }
}

/// The safetensors files of a folder by name, or the file itself.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut names: Vec<String> =
        disk::list_files(path)?.into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.ends_with(".safetensors"));
    names.sort();
    if names.is_empty() {
        return Err(Error::plan(
            format!("{} holds no safetensors file", path.display()),
            "name the folder of a checkpoint, or one safetensors file",
        ));
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}

/// Squeezed folders have no folders within, so an adapter would be left out.
fn refuse_adapter(path: &Path) -> Result<()> {
    if !path.join(adapter::FOLDER).join(adapter::WEIGHTS).is_file() {
        return Ok(());
    }
    Err(Error::plan(
        format!("{} has an adapter, which would not be squeezed with it", path.display()),
        "convert it to an archive, and squeeze that",
    ))
}

/// Pieces of a tensor, each a chunk.
pub(super) fn pieces(entry: &Entry) -> impl Iterator<Item = Range<u64>> {
    let (bytes, step) = (entry.range.end - entry.range.start, chunk_bytes(entry.dtype));
    (0..bytes).step_by(step).map(move |at| at..bytes.min(at + step as u64))
}

/// What coding a file takes: where it lies, what it may be held against, who listens.
struct Work<'a> {
    source: &'a Source,
    base: Option<&'a Base>,
    observer: &'a dyn Observer,
}

impl Work<'_> {
    /// A piece of a tensor, squeezed.
    fn chunk(&self, entry: &Entry, piece: &Range<u64>) -> Result<Vec<u8>> {
        self.observer.go_on()?;
        let first = entry.range.start;
        let bytes = self.source.bytes(first + piece.start..first + piece.end)?;
        let base = match self.base {
            Some(base) => base.bytes(entry, piece.clone())?,
            None => None,
        };
        Ok(squeeze_chunk(entry.dtype, bytes, base))
    }

    /// Writes the squeezed file.
    fn write(&self, mut file: NewFile, each: &dyn Fn(&str, u64)) -> Result<(u64, String)> {
        let (source, header) = (self.source, read_header(self.source)?);
        let start = header.entries.first().map_or(source.len_bytes(), |entry| entry.range.start);
        let mut hasher = Hasher::new();
        hasher.update(source.bytes(0..start)?);
        for bytes in [MAGIC.as_slice(), &source.len_bytes().to_le_bytes(), source.bytes(0..start)?]
        {
            file.write(bytes)?;
        }
        for entry in &header.entries {
            let all: Vec<Range<u64>> = pieces(entry).collect();
            for batch in all.chunks(BATCH) {
                let chunks = batch.par_iter().map(|piece| self.chunk(entry, piece));
                for (chunk, piece) in chunks.collect::<Result<Vec<_>>>()?.iter().zip(batch) {
                    let first = entry.range.start;
                    hasher.update(source.bytes(first + piece.start..first + piece.end)?);
                    file.write(chunk)?;
                    each(&entry.name, piece.end - piece.start);
                }
            }
        }
        let hash = hasher.finalize();
        file.write(hash.as_bytes())?;
        let bytes = file.written_bytes();
        file.finish()?;
        Ok((bytes, hash.to_hex().to_string()))
    }
}

/// Squeezes the safetensors files of a folder, or one file, and copies the other files of the folder; each chunk of a tensor
/// alone, or against the tensor of the same name, type and shape of `base`, whichever is less. What was written is
/// restored once more and compared by its BLAKE3. Folders within are left out. Cost: some 10 ns a byte of weights, twice.
///
/// # Errors
/// Those of reading and writing; [`Error::Plan`] for a folder without weights; [`Error::Proof`] where what was written does not
/// come back.
pub fn squeeze(
    path: &Path,
    base: Option<&Path>,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Squeezed> {
    refuse_adapter(path)?;
    let files = weight_files(path)?;
    let opened = base.map(Base::open).transpose()?;
    let folder = NewFolder::create(destination.folder, destination.replace, LIST)?;
    let sources: Vec<Source> =
        files.iter().map(|file| Source::open(file)).collect::<Result<_>>()?;
    let total: u64 = sources.iter().map(Source::len_bytes).sum();
    // Never more than a thousandth beyond the original's.
    forecast::room(destination, total + total / 1000, 0, 0)?;
    let done = std::cell::Cell::new(0);
    let each = |name: &str, bytes: u64| {
        done.set(done.get() + bytes);
        let item = name.to_owned();
        let (done, unit) = (done.get(), Unit::Bytes);
        observer.progress(Progress { stage: "Squeezing", item, done, total, unit });
    };
    let mut found =
        Squeezed { base: base.map(|base| base.display().to_string()), files: Vec::new() };
    for source in &sources {
        let name = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let work = Work { source, base: opened.as_ref(), observer };
        let (squeezed_bytes, blake3) =
            work.write(folder.file(&format!("{name}{SUFFIX}"))?, &each)?;
        let (bytes, written) = (source.len_bytes(), folder.path().join(format!("{name}{SUFFIX}")));
        restore::prove(&written, opened.as_ref(), &blake3, observer)?;
        if !source.is_unchanged() {
            return Err(Error::plan(
                format!("{} was changed while it was read", source.path().display()),
                "give the same command again once it is whole",
            ));
        }
        found.files.push(SqueezedFile { name, bytes, squeezed_bytes, blake3 });
    }
    copy_others(path, &files, &folder)?;
    let mut list = serde_json::to_vec_pretty(&found)
        .map_err(|error| Error::Unsupported { what: format!("writing {LIST} ({error})") })?;
    list.push(b'\n');
    let mut file = folder.file(LIST)?;
    file.write(&list)?;
    file.finish()?;
    observer.go_on()?;
    folder.finish()?;
    Ok(found)
}

/// The files of the folder `path` that are not weights.
fn copy_others(path: &Path, weights: &[PathBuf], folder: &NewFolder) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    for (name, _) in disk::list_files(path)? {
        let file = path.join(name);
        if !weights.contains(&file) {
            folder.copy(&file)?;
        }
    }
    Ok(())
}

/// About how many bytes the weight files of a folder would take: one chunk of 32 of every tensor is coded, at least one.
///
/// # Errors
/// As of [`squeeze`].
pub fn estimate_squeezed(
    path: &Path,
    base: Option<&Path>,
    observer: &dyn Observer,
) -> Result<(u64, u64)> {
    refuse_adapter(path)?;
    let base = base.map(Base::open).transpose()?;
    let (mut before, mut after) = (0, 0.0);
    for file in weight_files(path)? {
        let source = Source::open(&file)?;
        let work = Work { source: &source, base: base.as_ref(), observer };
        let mut tensors = 0;
        for entry in read_header(&source)?.entries {
            let all: Vec<Range<u64>> = pieces(&entry).step_by(SAMPLED).collect();
            let chunks = all.par_iter().map(|piece| work.chunk(&entry, piece));
            let chunks = chunks.collect::<Result<Vec<_>>>()?;
            let coded: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
            let sampled: u64 = all.iter().map(|piece| piece.end - piece.start).sum();
            let bytes = entry.range.end - entry.range.start;
            after += coded as f64 * bytes as f64 / sampled.max(1) as f64;
            tensors += bytes;
        }
        before += source.len_bytes();
        after += (source.len_bytes() - tensors + fixed_bytes()) as f64;
    }
    Ok((before, after as u64))
}

/// Bytes of a squeezed file beside header and chunks.
fn fixed_bytes() -> u64 {
    MAGIC.len() as u64 + 8 + blake3::OUT_LEN as u64
}
