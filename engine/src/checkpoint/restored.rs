//! A compressed checkpoint as the model it stands for: one tensor for each compressed layer, in place of its parts, and a
//! config.json that does not speak of compression. In: which layers there are. Out: a checkpoint to lay out an export for.

use std::collections::BTreeSet;
use std::path::Path;

use crate::checkpoint::open::{has_conv1d, matrix_of, order};
use crate::checkpoint::{Checkpoint, RowOrder, Tensor, open, roles};
use crate::error::{Error, Result};
use crate::format::archive;
use crate::tensor::{DType, Shape};

/// What a compressed layer stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Name of the tensor.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its extents.
    pub shape: Shape,
    /// Indices of the tensors that hold it.
    pub parts: Vec<usize>,
}

/// Files beside the weights that say how they are quantised.
const STATED: [&str; 2] = ["quantize_config.json", "quantization_config.json"];

impl Checkpoint {
    /// The model whose layers `layers` this checkpoint holds compressed. Their values cannot be read from it: they are
    /// those of the parts, decoded. All other tensors are the same as here.
    ///
    /// # Errors
    /// What opening says; [`Error::Shape`] for a layer whose extents overflow.
    pub fn restored(&self, layers: &[Restored]) -> Result<Self> {
        let again = Self::open(&self.path)?;
        let parts: BTreeSet<usize> =
            layers.iter().flat_map(|layer| &layer.parts).copied().collect();
        let is_whole = |(index, _): &(usize, Tensor)| !parts.contains(index);
        let whole = again.tensors.into_iter().enumerate().filter(is_whole).map(|(_, whole)| whole);
        let mut tensors: Vec<Tensor> = whole.collect();
        for layer in layers {
            tensors.push(self.stood_for(layer)?);
        }
        let conv1d = has_conv1d(&tensors);
        for tensor in &mut tensors {
            tensor.matrix = matrix_of(tensor, conv1d);
        }
        tensors.sort_by_cached_key(order);
        let mut files = again.files;
        // It lies behind all others, and its tensors are parts of layers.
        files.retain(|file| !file.is_adapter());
        for file in &mut files {
            file.metadata.remove(archive::KEY);
        }
        let is_stated = |path: &Path| STATED.iter().any(|name| path.ends_with(name));
        let mut side_files = again.side_files;
        side_files.retain(|side| !is_stated(&side.path));
        let config = again.config.map(super::Config::unquantised);
        open::assemble(&self.path, files, tensors, (config, side_files, again.has_index))
    }

    fn stood_for(&self, layer: &Restored) -> Result<Tensor> {
        let bytes = layer.shape.elements().and_then(|n| layer.dtype.bytes(n));
        let bytes = bytes.ok_or_else(|| Error::Unsupported {
            what: format!("the shape {} of tensor {}", layer.shape, layer.name),
        })?;
        let mut files = layer.parts.iter().map(|&part| self.tensors[part].file);
        let file = files.find(|&file| !self.files[file].is_adapter()).unwrap_or(0);
        Ok(Tensor {
            name: layer.name.clone(),
            dtype: layer.dtype,
            shape: layer.shape.clone(),
            place: roles::place_of(&layer.name),
            matrix: None,
            coded: None,
            rows: RowOrder::Kept,
            file,
            // Beyond the end of every file: whoever reads it learns that it is not there.
            range: u64::MAX - bytes..u64::MAX,
            source: None,
            pieces: None,
        })
    }
}
