//! Where a network's numbers come from: a checkpoint as it is or compressed, or either with some layers replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::checkpoint::{Checkpoint, MatrixKind};
use crate::compare::{CompressedLayer, Counterpart, layers};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::tensor::{CHUNK_ELEMENTS, Decoder, Factors};

/// Numbers by the name of their tensor. Matrices are `[out, in]`, whichever way they are stored.
pub trait Weights: Sync {
    /// Extents of a tensor; `None` where there is none of that name.
    fn extents(&self, name: &str) -> Option<Vec<usize>>;

    /// Elements `first ..` of a tensor in row-major order, as many as `out` holds; whole rows of a matrix.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for values that are no numbers or stored in a form that is not read here, what
    /// reading says, [`Error::Cancelled`].
    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()>;

    /// What is added to the outputs of the layer whose matrix has this name, beside its bias.
    ///
    /// # Errors
    /// What reading says.
    fn shift(&self, _name: &str, _observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

/// Weights under other names; those without a name here are not there.
pub struct Renamed<'a> {
    /// Where they come from.
    pub base: &'a dyn Weights,
    /// The name there of each.
    pub names: BTreeMap<String, String>,
}

impl std::fmt::Debug for Renamed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renamed").field("names", &self.names.len()).finish_non_exhaustive()
    }
}

impl Weights for Renamed<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        self.base.extents(self.names.get(name)?)
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        let name = self.names.get(name).ok_or_else(|| missing(name))?;
        self.base.read(name, first, out, observer)
    }

    fn shift(&self, name: &str, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        match self.names.get(name) {
            Some(name) => self.base.shift(name, observer),
            None => Ok(None),
        }
    }
}

/// The weights of a checkpoint; layers stored compressed are decoded as they are read.
#[derive(Debug)]
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    compressed: BTreeMap<String, Counterpart>,
}

impl<'a> CheckpointWeights<'a> {
    /// Reads headers, and 16 bytes a packed layer.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let compressed = layers(checkpoint)
            .into_iter()
            .filter(|(_, layer)| !matches!(layer, Counterpart::Plain { .. }))
            .collect();
        Self { checkpoint, compressed }
    }

    fn read_plain(
        &self,
        index: usize,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[index];
        if let Some(matrix) = tensor.matrix.filter(|matrix| matrix.kind == MatrixKind::Conv1d) {
            let cols = matrix.shape.cols;
            let rows = first / cols..(first + out.len()) / cols;
            let block = self.checkpoint.weight_block(index, rows, 0..cols)?;
            out.copy_from_slice(block.as_slice().unwrap_or_default());
            return Ok(());
        }
        let decoder = Decoder::new(tensor.dtype).ok_or_else(|| Error::Unsupported {
            what: format!("running a network whose tensor {} is {}", tensor.name, tensor.dtype),
        })?;
        out.par_chunks_mut(CHUNK_ELEMENTS).enumerate().try_for_each(|(chunk, out)| {
            observer.go_on()?;
            let at = (first + chunk * CHUNK_ELEMENTS) as u64;
            let bytes = self.checkpoint.element_bytes(tensor, at, out.len() as u64)?;
            decoder.f32s(&bytes, out);
            Ok(())
        })
    }

    fn read_layer(
        &self,
        layer: &CompressedLayer,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        let wanted = first..first + out.len();
        let parts = layer.read_parts(self.checkpoint, wanted, observer)?;
        let reader = parts.reader().ok_or_else(|| Error::Unsupported {
            what: format!("reading the parts of {}, which do not fit together,", layer.module),
        })?;
        let damaged = || Error::Unsupported { what: format!("decoding {}", layer.module) };
        out.par_chunks_mut(CHUNK_ELEMENTS).enumerate().try_for_each(|(chunk, out)| {
            observer.go_on()?;
            reader.read(first + chunk * CHUNK_ELEMENTS, out).ok_or_else(damaged)
        })
    }
}

impl Weights for CheckpointWeights<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        match self.compressed.get(name) {
            Some(Counterpart::Compressed { layer, .. }) => {
                return Some(vec![layer.shape.rows, layer.shape.cols]);
            }
            Some(Counterpart::Unreadable { .. }) => return Some(Vec::new()),
            _ => {}
        }
        if let Some(gguf) = self.checkpoint.gguf() {
            return gguf.extents(name).map(<[usize]>::to_vec);
        }
        let tensor = &self.checkpoint.tensors()[self.checkpoint.find(name)?];
        match tensor.matrix.filter(|matrix| matrix.kind == MatrixKind::Conv1d) {
            Some(matrix) => Some(vec![matrix.shape.rows, matrix.shape.cols]),
            None => Some(tensor.shape.0.clone()),
        }
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        match self.compressed.get(name) {
            Some(Counterpart::Compressed { layer, .. }) => {
                return self.read_layer(layer, first, out, observer);
            }
            Some(Counterpart::Unreadable { because, .. }) => {
                return Err(Error::Unsupported {
                    what: format!("running {name}, where {because},"),
                });
            }
            _ => {}
        }
        if self.checkpoint.gguf().is_some() {
            observer.go_on()?;
            return self.checkpoint.read_gguf(name, first, out);
        }
        let index = self.checkpoint.find(name).ok_or_else(|| missing(name))?;
        self.read_plain(index, first, out, observer)
    }

    fn shift(&self, name: &str, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        match self.compressed.get(name) {
            Some(Counterpart::Compressed { layer, .. }) => layer.shift(self.checkpoint, observer),
            _ => self.checkpoint.decoder().map_or(Ok(None), |by| by.shift(name)),
        }
    }
}

fn missing(name: &str) -> Error {
    Error::plan(format!("the checkpoint has no tensor {name}"), "download it again")
}

/// Weights of which some matrices are replaced: a plan tried out, a layer disturbed.
pub struct Replaced<'a> {
    /// Where all others come from.
    pub base: &'a dyn Weights,
    /// Matrices `[out, in]` by name.
    pub by: HashMap<String, Arc<Array2<f32>>>,
    /// What is added to the outputs of those matrices, where something is.
    pub shifts: HashMap<String, Vec<f32>>,
}

impl std::fmt::Debug for Replaced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replaced").field("layers", &self.by.len()).finish_non_exhaustive()
    }
}

impl Weights for Replaced<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        self.by.get(name).map(|m| m.shape().to_vec()).or_else(|| self.base.extents(name))
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        let Some(matrix) = self.by.get(name) else {
            return self.base.read(name, first, out, observer);
        };
        let found = matrix.as_slice().and_then(|all| all.get(first..first + out.len()));
        out.copy_from_slice(found.ok_or_else(|| missing(name))?);
        Ok(())
    }

    fn shift(&self, name: &str, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        if self.by.contains_key(name) {
            return Ok(self.shifts.get(name).cloned());
        }
        self.base.shift(name, observer)
    }
}

/// Weights freed of scales that were folded, so that each layer can be held against the original on the original's inputs.
/// As a network they are not what `base` is.
pub struct Freed<'a> {
    /// The weights as they are.
    pub base: &'a dyn Weights,
    /// By what matrices `[out, in]` were multiplied, by name.
    pub factors: &'a BTreeMap<String, Factors>,
}

impl std::fmt::Debug for Freed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Freed").field("layers", &self.factors.len()).finish_non_exhaustive()
    }
}

impl Weights for Freed<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        self.base.extents(name)
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        self.base.read(name, first, out, observer)?;
        if let (Some(factors), Some([_, cols])) =
            (self.factors.get(name), self.extents(name).as_deref())
        {
            for (row, weights) in (first / cols.max(&1)..).zip(out.chunks_mut(*cols.max(&1))) {
                factors.divide(row, weights);
            }
        }
        Ok(())
    }

    fn shift(&self, name: &str, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        self.base.shift(name, observer)
    }
}
