//! Weight files of a conversion that outlive an attempt which stops: the next one goes on behind the last tensor that was
//! written whole. In: the layout of a file, whatever gives its tensors. Out: the file, the same as if nothing had stopped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::disk::{self, NewFile, NewFolder, Source};
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Spec};
use crate::observer::Observer;
use crate::target::{Manifest, WeightFile};

/// Grows with every change of what a conversion writes.
const VERSION: u32 = 1;

/// What is written between two notes of how far it went.
const NOTED_BYTES: u64 = 64 << 20;

/// The most bytes of a note that is read.
const MAX_NOTE_BYTES: u64 = 4096;

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// How far a file was written.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Tensors that are whole.
    tensors: usize,
    /// Bytes up to the end of the last of them.
    bytes: u64,
    /// The BLAKE3 of those bytes.
    blake3: String,
}

/// Where such files lie, and all that decides their bytes beside their layout.
#[derive(Debug)]
pub(super) struct Kept {
    folder: PathBuf,
    identity: String,
}

/// Gives the bytes of a tensor, piece by piece.
pub(super) type Data<'d> = dyn FnMut(&Spec, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> + 'd;

impl Kept {
    /// For a source and what `said` tells of the conversion; `None` where a file of the source was changed, or the system
    /// does not tell.
    pub(super) fn new(folder: PathBuf, source: &Checkpoint, said: &str) -> Option<Self> {
        let mut hasher = Hasher::new();
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text(&format!("lapidary conversion {VERSION} of {}", env!("CARGO_PKG_VERSION")));
        text(said);
        for file in source.files() {
            text(&disk::absolute(file.path()).to_string_lossy());
            text(&format!("{:?}", file.identity()?));
        }
        Some(Self { folder, identity: hasher.finalize().to_hex().to_string() })
    }

    /// Where a file lies until the output is whole.
    fn path(&self, name: &str, plan: &FilePlan) -> PathBuf {
        let mut hasher = Hasher::new();
        hasher.update(self.identity.as_bytes()).update(name.as_bytes()).update(plan.header());
        self.folder.join(format!("{}.safetensors", hasher.finalize().to_hex()))
    }

    /// The paths of the files of a manifest.
    fn paths(&self, manifest: &Manifest) -> BTreeSet<PathBuf> {
        let path = |file: &crate::target::OutputFile| match &file.plan {
            WeightFile::Safetensors(plan) => Some(self.path(&file.name, plan)),
            WeightFile::Gguf(_) => None,
        };
        manifest.files.iter().filter_map(path).collect()
    }

    /// Bytes that lie there of a manifest; whether they are whole is seen when they are read.
    pub(super) fn there_bytes(&self, manifest: &Manifest) -> u64 {
        let bytes = |path: &PathBuf| disk::file_bytes(path).unwrap_or(0);
        self.paths(manifest).iter().map(bytes).sum()
    }

    /// Removes what other conversions left there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn remove_others(&self, manifest: &Manifest) -> Result<()> {
        let files = self.paths(manifest);
        let notes: BTreeSet<PathBuf> = files.iter().map(|path| note_path(path)).collect();
        for (name, _) in disk::list_files(&self.folder).unwrap_or_default() {
            let path = self.folder.join(name);
            if !files.contains(&path) && !notes.contains(&path) {
                disk::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Writes a file behind what is there of it, and puts it into the output. `skip` is told the bytes of each tensor that
    /// was there.
    ///
    /// # Errors
    /// Those of `data` and of writing; what was written whole is kept then.
    pub(super) fn write(
        &self,
        (name, plan): (&str, &FilePlan),
        (output, observer): (&NewFolder, &dyn Observer),
        skip: &mut dyn FnMut(&Spec) -> Result<()>,
        data: &mut Data<'_>,
    ) -> Result<()> {
        let path = self.path(name, plan);
        let begun = begun(&path, plan, observer)?;
        let mut written = match begun {
            Some((note, hasher)) => {
                let file = NewFile::behind(&path, note.bytes)?;
                Written { path: &path, file, hasher, tensors: note.tensors, noted: note.bytes }
            }
            None => Written::begin(&path, plan.header())?,
        };
        if written.tensors > 0 {
            let (there, all) = (written.tensors, plan.specs.len());
            observer
                .warn(format!("going on: {there} of {all} tensors of {name} were written before"));
        }
        plan.specs[..written.tensors].iter().try_for_each(skip)?;
        for spec in &plan.specs[written.tensors..] {
            written.add(spec, data)?;
        }
        written.finish()?;
        output.adopt(&path, name)
    }
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// How far an earlier attempt came with a file, and the hash up to there; `None` where nothing of it is whole.
fn begun(path: &Path, plan: &FilePlan, observer: &dyn Observer) -> Result<Option<(Note, Hasher)>> {
    let note = disk::read_bytes(&note_path(path), MAX_NOTE_BYTES).ok();
    let note: Option<Note> = note.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(note) = note.filter(|note| note.tensors <= plan.specs.len()) else { return Ok(None) };
    let Ok(source) = Source::open(path) else { return Ok(None) };
    let tensors = plan.specs[..note.tensors].iter().map(Spec::bytes).sum::<Result<u64>>()?;
    if note.bytes != plan.header_bytes() + tensors || source.len_bytes() < note.bytes {
        return Ok(None);
    }
    let mut hasher = Hasher::new();
    for at in (0..note.bytes).step_by(PIECE_BYTES as usize) {
        observer.go_on()?;
        hasher.update(source.bytes(at..note.bytes.min(at + PIECE_BYTES))?);
    }
    let is_whole = hasher.finalize().to_hex().as_str() == note.blake3;
    Ok(is_whole.then_some((note, hasher)))
}

/// A file being written.
struct Written<'p> {
    path: &'p Path,
    file: NewFile,
    /// Of all that was written.
    hasher: Hasher,
    tensors: usize,
    /// Bytes that the last note speaks of.
    noted: u64,
}

impl<'p> Written<'p> {
    fn begin(path: &'p Path, header: &[u8]) -> Result<Self> {
        disk::remove_file(&note_path(path))?;
        disk::remove_file(path)?;
        let mut file = NewFile::within(path)?;
        file.write(header)?;
        let mut hasher = Hasher::new();
        hasher.update(header);
        Ok(Self { path, file, hasher, tensors: 0, noted: 0 })
    }

    /// Appends a tensor; where that fails, notes those before it.
    fn add(&mut self, spec: &Spec, data: &mut Data<'_>) -> Result<()> {
        let (before, whole) = (self.file.written_bytes(), self.hasher.clone());
        let (file, hasher) = (&mut self.file, &mut self.hasher);
        let done = data(spec, &mut |bytes| {
            hasher.update(bytes);
            file.write(bytes)
        });
        let written = self.file.written_bytes() - before;
        if let Err(error) = done {
            // What failed says more than that a note could not be written either.
            self.note(before, &whole).ok();
            return Err(error);
        }
        if written != spec.bytes()? {
            return Err(Error::Shape {
                tensor: spec.name.clone(),
                expected: format!("{} bytes for {}", spec.bytes()?, spec.shape),
                found: vec![written as usize],
            });
        }
        self.tensors += 1;
        let all = self.file.written_bytes();
        if all - self.noted >= NOTED_BYTES {
            self.note(all, &self.hasher.clone())?;
        }
        Ok(())
    }

    /// Notes that so many bytes are whole.
    fn note(&mut self, bytes: u64, hasher: &Hasher) -> Result<()> {
        self.file.sync()?;
        let blake3 = hasher.finalize().to_hex().to_string();
        let note = Note { tensors: self.tensors, bytes, blake3 };
        let text = serde_json::to_vec(&note)
            .map_err(|error| Error::Unsupported { what: format!("writing a note ({error})") })?;
        self.noted = bytes;
        disk::write_file(&note_path(self.path), &text)
    }

    fn finish(mut self) -> Result<()> {
        self.note(self.file.written_bytes(), &self.hasher.clone())?;
        self.file.finish()
    }
}
