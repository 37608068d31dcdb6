//! The proof: every file is opened again by the `safetensors` crate, every tensor decoded by code that shares
//! nothing with the writer, and compared bit for bit with what was computed, or byte for byte with the source.

use std::collections::HashMap;
use std::path::Path;

use ndarray::Array2;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::checkpoint::{MatrixKind, Tensor};
use crate::disk::Source;
use crate::encoding::{Encoding, SHIFT};
use crate::error::{Error, Result};
use crate::export::Work;
use crate::export::strips::{Layer, copy_rows, decode_rows, round};
use crate::format::layer::Reader;
use crate::numeric::distance::relative_error;
use crate::observer::{Progress, Unit};
use crate::target::{Entry, Storage, adapter, added_bias};
use crate::tensor::{DType, Decoder};

/// What the file holds of one tensor of the source.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proved {
    /// ‖W − Ŵ‖ / ‖W‖ of the decoded file against the source; 0 where copied.
    pub(super) relative_error: f64,
    /// That of the outputs, where what the layer receives was asked for.
    pub(super) output_error: Option<f64>,
}

impl Proved {
    /// What has no outputs, or none that are known.
    pub(super) fn of_weights(relative_error: f64) -> Self {
        Self { relative_error, output_error: None }
    }
}

pub(super) fn prove(work: &Work<'_>, folder: &Path) -> Result<Vec<Proved>> {
    let files = work.manifest.files.iter();
    let sources: Vec<Source> =
        files.map(|file| Source::open(&folder.join(&file.name))).collect::<Result<_>>()?;
    let mut read = Vec::new();
    for source in &sources {
        let bytes = source.bytes(0..source.len_bytes())?;
        let file = SafeTensors::deserialize(bytes);
        read.push(file.map_err(|error| failed(source.path(), error.to_string()))?);
    }
    let views: HashMap<&str, TensorView<'_>> = read.iter().flat_map(SafeTensors::iter).collect();
    Prover { work, folder, views: &views }.prove_all()
}

pub(super) fn failed(path: &Path, what: impl Into<String>) -> Error {
    Error::Proof { path: path.to_path_buf(), what: what.into() }
}

struct Prover<'a> {
    work: &'a Work<'a>,
    folder: &'a Path,
    views: &'a HashMap<&'a str, TensorView<'a>>,
}

impl Prover<'_> {
    fn prove_all(&self) -> Result<Vec<Proved>> {
        let manifest = self.work.manifest;
        let count: usize = manifest.entries.iter().map(|entry| entry.specs.len()).sum();
        let found = self.views.len();
        if found != count {
            let what = format!("{found} tensors were written, {count} were promised");
            return Err(failed(self.folder, what));
        }
        let total_bytes = manifest.tensor_bytes();
        let report = |item: &str, done_bytes| {
            self.work.observer.progress(Progress {
                stage: "Proving",
                item: item.to_owned(),
                done: done_bytes,
                total: total_bytes,
                unit: Unit::Bytes,
            });
        };
        let mut done_bytes = 0;
        let mut proofs = Vec::with_capacity(manifest.entries.len());
        for entry in &manifest.entries {
            self.work.observer.go_on()?;
            report(&self.work.checkpoint.tensors()[entry.tensor].name, done_bytes);
            proofs.push(self.prove(entry)?);
            done_bytes += entry.bytes;
        }
        report("", done_bytes);
        Ok(proofs)
    }

    fn prove(&self, entry: &Entry) -> Result<Proved> {
        let tensor = &self.work.checkpoint.tensors()[entry.tensor];
        self.check_specs(entry)?;
        if let Some(spec) = added_bias(tensor, entry) {
            let wanted = self.work.added_bias(entry.tensor, spec)?;
            if self.bytes(&spec.name) != Some(wanted.as_slice()) {
                return Err(failed(self.folder, format!("the bias {} differs", spec.name)));
            }
        }
        let found = match (&entry.storage, &entry.layout) {
            (Storage::Native, Some(layout)) => {
                adapter::reader(self.work.target, tensor, layout, &|name| self.bytes(name))
                    .map(Found::Layer)
            }
            (Storage::Dense { .. }, _) => self.read_dense(tensor),
            (Storage::Changed { .. }, _) if tensor.matrix.is_some() => self.read_dense(tensor),
            (Storage::Changed { .. }, _) => return self.prove_vector(entry.tensor),
            _ => return self.prove_copy(tensor),
        };
        let undecoded = || failed(self.folder, format!("tensor {} cannot be decoded", tensor.name));
        let (found, matrix) = found.zip(tensor.matrix).ok_or_else(undecoded)?;
        let mut wanted = self.work.encoding(entry.tensor)?;
        if entry.storage == Storage::Native {
            wanted = adapter::held(self.work.target, tensor, wanted)?;
        }
        self.check_shift(entry, &wanted)?;
        if wanted.shape() != matrix.shape {
            return Err(failed(self.folder, format!("tensor {} has another shape", tensor.name)));
        }
        let rounded = matches!(entry.storage, Storage::Dense { .. }).then_some(tensor.dtype);
        let layer = Layer {
            tensor: entry.tensor,
            shape: matrix.shape,
            found: &|row, out| found.read(row, matrix.shape.cols, out).ok_or_else(undecoded),
            wanted: &|row, out| {
                decode_rows(&wanted, row, out);
                if let Some(dtype) = rounded {
                    round(dtype, out);
                }
                Ok(())
            },
            is_same: |_, _| false,
            path: self.folder,
        };
        layer.prove(self.work, wanted.shift())
    }

    /// What is added to a layer's outputs plays no part in its weights, so it is compared by itself.
    fn check_shift(&self, entry: &Entry, expected: &Encoding) -> Result<()> {
        if entry.storage != Storage::Native || expected.shift().is_none() {
            return Ok(());
        }
        let is_shift = |name: &str| name == SHIFT || name.ends_with(&format!(".{SHIFT}"));
        let wanted = expected.parts().into_iter().find(|part| is_shift(&part.name));
        let spec = entry.specs.iter().find(|spec| is_shift(&spec.name));
        let found = spec.and_then(|spec| self.bytes(&spec.name));
        if found.is_some() && found == wanted.as_ref().map(|part| &*part.bytes) {
            return Ok(());
        }
        let name = &self.work.checkpoint.tensors()[entry.tensor].name;
        Err(failed(self.folder, format!("what is added to the outputs of {name} differs")))
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.views.get(name).map(safetensors::tensor::TensorView::data)
    }

    fn check_specs(&self, entry: &Entry) -> Result<()> {
        for spec in &entry.specs {
            let view = self.views.get(spec.name.as_str());
            let view = view
                .ok_or_else(|| failed(self.folder, format!("tensor {} is missing", spec.name)))?;
            if view.shape() != spec.shape.0 || view.dtype().to_string() != spec.dtype.name() {
                return Err(failed(
                    self.folder,
                    format!("tensor {} has another shape or type", spec.name),
                ));
            }
        }
        Ok(())
    }

    fn read_dense(&self, tensor: &Tensor) -> Option<Found<'_>> {
        let bytes =
            self.bytes(&tensor.name).filter(|bytes| bytes.len() as u64 == tensor.bytes())?;
        let (matrix, decoder) = (tensor.matrix?, Decoder::new(tensor.dtype)?);
        if matrix.kind != MatrixKind::Conv1d {
            return Some(Found::Dense(tensor.dtype, bytes));
        }
        let mut values = vec![0.0; matrix.shape.elements()];
        decoder.f32s(bytes, &mut values);
        let stored = Array2::from_shape_vec((matrix.shape.cols, matrix.shape.rows), values).ok()?;
        Some(Found::Turned(stored.reversed_axes()))
    }

    /// A vector with other values than the source has: it is that of the store.
    fn prove_vector(&self, index: usize) -> Result<Proved> {
        let tensor = &self.work.checkpoint.tensors()[index];
        let n = tensor.parameters() as usize;
        let mut found = Array2::zeros((1, n));
        let differs = || failed(self.folder, format!("the vector {} differs", tensor.name));
        let bytes = self.bytes(&tensor.name).filter(|bytes| bytes.len() as u64 == tensor.bytes());
        let (bytes, decoder) = bytes.zip(Decoder::new(tensor.dtype)).ok_or_else(differs)?;
        decoder.f32s(bytes, found.as_slice_mut().unwrap_or_default());
        let expected = self.work.vector(index)?;
        let is_same = found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        if !is_same || found.len() != expected.len() {
            return Err(differs());
        }
        let before = self.work.checkpoint.values(index)?;
        let before = Array2::from_shape_vec((1, n), before).map_err(|_lengths| differs())?;
        Ok(Proved::of_weights(relative_error(before.view(), found.view())))
    }

    fn prove_copy(&self, tensor: &Tensor) -> Result<Proved> {
        let copy = self.bytes(&tensor.name).unwrap_or_default();
        let mut at = 0;
        self.work.checkpoint.for_each_chunk(tensor, |bytes| {
            self.work.observer.go_on()?;
            let same = copy.get(at..at + bytes.len()) == Some(bytes);
            at += bytes.len();
            if same {
                Ok(())
            } else {
                Err(failed(self.folder, format!("tensor {} is not a faithful copy", tensor.name)))
            }
        })?;
        Ok(Proved::of_weights(0.0))
    }
}

/// A layer as the file holds it.
enum Found<'a> {
    Layer(Reader<'a>),
    /// Number by number, row by row.
    Dense(DType, &'a [u8]),
    Turned(Array2<f32>),
}

impl Found<'_> {
    /// Rows of `cols` weights from `row` on; `None` where there are fewer.
    fn read(&self, row: usize, cols: usize, out: &mut [f32]) -> Option<()> {
        match self {
            Self::Layer(reader) => reader.read(row * cols, out)?,
            Self::Dense(dtype, bytes) => {
                let at = |element: usize| (element as u64 * dtype.bits() / 8) as usize;
                let first = row * cols;
                let own = bytes.get(at(first)..at(first + out.len()))?;
                Decoder::new(*dtype)?.f32s(own, out);
            }
            Self::Turned(weights) => copy_rows(weights, row, out),
        }
        Some(())
    }
}
