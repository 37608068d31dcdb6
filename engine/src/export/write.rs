//! Writing the files of a manifest, tensor by tensor.

use std::cell::Cell;

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::checkpoint::{MatrixKind, Tensor};
use crate::disk::NewFolder;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::export::kept::Kept;
use crate::export::{Work, gguf, slots};
use crate::format::safetensors::Spec;
use crate::observer::{Observer, Progress, Unit};
use crate::target::{Entry, Ready, Storage, WeightFile, adapter, added_bias};
use crate::tensor::{CHUNK_ELEMENTS, put_f32, write_f32};

type Write<'w> = dyn FnMut(&[u8]) -> Result<()> + 'w;

/// Says which tensor is written next.
struct Announcing<'a> {
    observer: &'a dyn Observer,
    done_bytes: Cell<u64>,
    total_bytes: u64,
}

impl Announcing<'_> {
    fn begin(&self, name: &str, bytes: u64) -> Result<()> {
        self.observer.go_on()?;
        let done = self.done_bytes.replace(self.done_bytes.get() + bytes);
        let (stage, unit) = ("Writing", Unit::Bytes);
        let (item, total) = (name.to_owned(), self.total_bytes);
        self.observer.progress(Progress { stage, item, done, total, unit });
        Ok(())
    }
}

/// Writes all files but for what layers were written into them already; weight files behind what `kept` has of them, and
/// where they are kept if this stops. Those may not be on the disk yet.
pub(super) fn write(work: &Work<'_>, folder: &NewFolder, kept: Option<&Kept>) -> Result<()> {
    let manifest = work.manifest;
    let total_bytes = manifest.weight_file_bytes();
    let announcing = Announcing { observer: work.observer, done_bytes: Cell::new(0), total_bytes };
    let begin = |name: &str, bytes: u64| announcing.begin(name, bytes);
    let entry_of = slots::entries_by_name(manifest);
    let mut held = None;
    for file in &manifest.files {
        let plan = match &file.plan {
            WeightFile::Safetensors(plan) => plan,
            WeightFile::Gguf(plan) => {
                let new = slots::begin(folder, &file.name, plan.plan.header())?.passing();
                gguf::write(work, plan, new, &begin)?;
                continue;
            }
        };
        let mut data = |spec: &Spec, write: &mut Write<'_>| match entry_of.get(spec.name.as_str()) {
            Some(entry) => write_tensor(work, (entry, spec), &mut held, write),
            None => Ok(()),
        };
        let begin_spec = |spec: &Spec| begin(&spec.name, spec.bytes()?);
        if let Some(kept) = kept {
            let mut data = |spec: &Spec, write: &mut Write<'_>| {
                begin_spec(spec)?;
                data(spec, write)
            };
            let mut skip = begin_spec;
            kept.write((&file.name, plan), (folder, work.observer), &mut skip, &mut data)?;
            continue;
        }
        let is_there = |spec: &Spec, at: u64| {
            begin_spec(spec)?;
            let entry = entry_of.get(spec.name.as_str());
            Ok(entry.is_some_and(|entry| slots::is_there(work, (entry, spec), at)))
        };
        let new = slots::begin(folder, &file.name, plan.header())?.passing();
        plan.write_around(new, is_there, data)?;
    }
    write_beside(work, folder)
}

/// The texts and the copies.
fn write_beside(work: &Work<'_>, folder: &NewFolder) -> Result<()> {
    for text in &work.manifest.texts {
        let mut file = folder.file(&text.name)?;
        file.write(&text.bytes)?;
        file.finish()?;
    }
    for side in &work.manifest.copies {
        work.observer.go_on()?;
        if folder.copy(&side.path)? != side.bytes {
            return Err(Error::plan(
                format!("{} was changed since the model was opened", side.path.display()),
                "open the model again, or give the same command again, once it is whole",
            ));
        }
    }
    Ok(())
}

/// What the files hold of the layer that was written last, by its tensor: its tensors often lie side by side.
type Held = Option<(usize, Encoding)>;

fn write_tensor(
    work: &Work<'_>,
    (entry, spec): (&Entry, &Spec),
    held: &mut Held,
    write: &mut Write<'_>,
) -> Result<()> {
    let tensor = &work.checkpoint.tensors()[entry.tensor];
    work.checkpoint.check_unchanged(tensor.file)?;
    if added_bias(tensor, entry) == Some(spec) {
        return write(&work.added_bias(entry.tensor, spec)?);
    }
    match &entry.storage {
        Storage::Copied => work.checkpoint.for_each_chunk(tensor, |bytes| {
            work.observer.go_on()?;
            write(bytes)
        }),
        Storage::Changed { .. } if tensor.matrix.is_some() => {
            write(&dense_bytes(tensor, &work.encoding(entry.tensor)?))
        }
        Storage::Changed { .. } => {
            let mut bytes = Vec::with_capacity(tensor.bytes() as usize);
            write_f32(tensor.dtype, &work.vector(entry.tensor)?, &mut bytes);
            write(&bytes)
        }
        Storage::Dense { .. } => write(&dense_bytes(tensor, &work.encoding(entry.tensor)?)),
        Storage::Native => {
            if write_ready(work, (entry, spec), write)? {
                return Ok(());
            }
            let bytes = packed(work, (entry, spec), held)?;
            let what = || Error::Unsupported { what: format!("storing {}", spec.name) };
            write(&bytes.ok_or_else(what)?)
        }
    }
}

/// Writes what is known without the numbers of its layer, or lies in the store as it is to be written. What the store gives
/// here is not held against its hash: that is done where the proof reads the whole layer, to compare the file with it.
fn write_ready(
    work: &Work<'_>,
    (entry, spec): (&Entry, &Spec),
    write: &mut Write<'_>,
) -> Result<bool> {
    let tensor = &work.checkpoint.tensors()[entry.tensor];
    let Some(layout) = &entry.layout else { return Ok(false) };
    match work.target.ready(tensor, layout, &spec.name) {
        Some(Ready::Bytes(bytes)) => write(&bytes).map(|()| true),
        Some(Ready::Part(part)) => work.encodings.stored_part(entry.tensor, &part, &mut |bytes| {
            work.observer.go_on()?;
            write(bytes)
        }),
        None => Ok(false),
    }
}

/// The bytes of a tensor, packed from the encoding of its layer, which is read once for all that follow one another.
fn packed(
    work: &Work<'_>,
    (entry, spec): (&Entry, &Spec),
    held: &mut Held,
) -> Result<Option<Vec<u8>>> {
    let tensor = &work.checkpoint.tensors()[entry.tensor];
    if held.as_ref().is_none_or(|(of, _)| *of != entry.tensor) {
        // Before another is read: two would take the memory of two.
        *held = None;
        let read = adapter::held(work.target, tensor, work.encoding(entry.tensor)?)?;
        *held = Some((entry.tensor, read));
    }
    let Some((_, encoding)) = held.as_ref() else { return Ok(None) };
    Ok(adapter::pack(work.target, tensor, encoding, &spec.name))
}

/// The decoded weights in the element type and orientation of the source.
pub(super) fn dense_bytes(tensor: &Tensor, encoding: &Encoding) -> Vec<u8> {
    let weights = encoding.decode();
    let mut bytes = vec![0; tensor.bytes() as usize];
    let is_transposed = tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Conv1d);
    let stored = if is_transposed { weights.t() } else { weights.view() };
    let stored = stored.as_standard_layout();
    let values = stored.as_slice().unwrap_or_default();
    let piece_bytes = (CHUNK_ELEMENTS as u64 * tensor.dtype.bits() / 8) as usize;
    let pieces = bytes.par_chunks_mut(piece_bytes).zip(values.par_chunks(CHUNK_ELEMENTS));
    pieces.for_each(|(bytes, values)| put_f32(tensor.dtype, values, bytes));
    bytes
}
