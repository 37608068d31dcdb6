//! Writing the files of a manifest, tensor by tensor.

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::disk::NewFolder;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::format::safetensors::Spec;
use crate::job::Store;
use crate::observer::{Observer, Progress};
use crate::target::{Entry, Manifest, Storage, Target};
use crate::tensor::write_f32;

type Write<'w> = dyn FnMut(&[u8]) -> Result<()> + 'w;

pub(super) fn write(
    checkpoint: &Checkpoint,
    store: &Store,
    manifest: &Manifest,
    target: &dyn Target,
    folder: &NewFolder,
    observer: &dyn Observer,
) -> Result<()> {
    let total_bytes = manifest.weight_file_bytes();
    let mut done_bytes = 0;
    let entry_of: HashMap<&str, &Entry> = manifest
        .entries
        .iter()
        .flat_map(|entry| {
            entry
                .specs
                .iter()
                .map(move |spec| (spec.name.as_str(), entry))
        })
        .collect();
    let source = Sources {
        checkpoint,
        store,
        target,
        observer,
    };
    for file in &manifest.files {
        file.plan.write(folder.file(&file.name)?, |spec, write| {
            observer.go_on()?;
            observer.progress(Progress {
                stage: "Writing",
                item: spec.name.clone(),
                done_bytes,
                total_bytes,
            });
            done_bytes += spec.bytes()?;
            match entry_of.get(spec.name.as_str()) {
                Some(entry) => source.write(entry, spec, write),
                None => Ok(()),
            }
        })?;
    }
    for text in &manifest.texts {
        let mut file = folder.file(&text.name)?;
        file.write(&text.bytes)?;
        file.finish()?;
    }
    for side in &manifest.copies {
        observer.go_on()?;
        folder.copy(&side.path)?;
    }
    Ok(())
}

/// Where the bytes of an output tensor come from.
struct Sources<'a> {
    checkpoint: &'a Checkpoint,
    store: &'a Store,
    target: &'a dyn Target,
    observer: &'a dyn Observer,
}

impl Sources<'_> {
    fn write(&self, entry: &Entry, spec: &Spec, write: &mut Write<'_>) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[entry.tensor];
        match &entry.storage {
            Storage::Copied => self.checkpoint.for_each_chunk(tensor, |bytes| {
                self.observer.go_on()?;
                write(bytes)
            }),
            Storage::Dense { .. } => write(&dense_bytes(tensor, &self.store.get(entry.tensor)?)),
            Storage::Native => {
                let encoding = self.store.get(entry.tensor)?;
                let bytes = self.target.pack(tensor, &encoding, &spec.name);
                write(&bytes.ok_or_else(|| Error::Unsupported {
                    what: format!("storing {}", spec.name),
                })?)
            }
        }
    }
}

/// The decoded weights in the element type and orientation of the source.
pub(super) fn dense_bytes(tensor: &Tensor, encoding: &Encoding) -> Vec<u8> {
    let weights = encoding.decode();
    let mut bytes = Vec::with_capacity(tensor.bytes() as usize);
    let is_transposed = tensor
        .matrix
        .is_some_and(|matrix| matrix.kind == MatrixKind::Conv1d);
    let stored = if is_transposed {
        weights.t()
    } else {
        weights.view()
    };
    for row in stored.rows() {
        match row.as_slice() {
            Some(values) => write_f32(tensor.dtype, values, &mut bytes),
            None => write_f32(tensor.dtype, &row.to_vec(), &mut bytes),
        }
    }
    bytes
}
