//! Lapidary's own archive: safetensors files in which every encoding lies part by part, as it was computed.
//!
//! A layer called `name` is stored in the tensors `name.part`, each of one extent; the header's `__metadata__` has under
//! `lapidary_archive` a JSON text that tells for every layer of the file its layout, its matrix, and the tensor it stands
//! for. docs/archive.md has all of it.
//!
//! [`specs`] and [`pack`] write; [`Reader`] reads with other code, run by run, so that it can prove what was written.

mod additive;
mod coded;
mod columns;
mod leaf;
mod parted;
mod reader;
mod seeded;
mod turned;
mod windowed;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use reader::Reader;

use crate::encoding::{Encoding, Layout};
use crate::format::safetensors::Spec;
use crate::tensor::{DType, MatrixShape, Shape};

/// The entry of `__metadata__` that makes a file an archive.
pub const KEY: &str = "lapidary_archive";
/// The version that is written and read.
pub const VERSION: u32 = 1;

/// A layer of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Element type of the tensor it stands for.
    pub dtype: DType,
    /// Extents of that tensor.
    pub shape: Shape,
    /// The tensor as a matrix `[out, in]`.
    pub matrix: MatrixShape,
    /// Whether the tensor is the matrix transposed, as layers of the GPT-2 family are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_transposed: bool,
    /// How the matrix is encoded.
    pub layout: Layout,
}

impl Layer {
    /// What keeps the layer from being one, as half a sentence.
    fn fault(&self) -> Option<&'static str> {
        let MatrixShape { rows, cols } = self.matrix;
        let extents = self.shape.0.as_slice();
        let is_seen = match (self.is_transposed, extents) {
            (true, &[a, b]) => (a, b) == (cols, rows),
            (false, [first, ..]) => *first == rows,
            _ => false,
        };
        if !self.dtype.is_compressible() {
            Some("its type holds no weights")
        } else if !self.layout.is_valid(self.matrix) {
            Some("its layout makes no sense")
        } else if !is_seen || self.shape.elements() != Some(self.matrix.elements() as u64) {
            Some("its matrix is not that of its shape")
        } else {
            None
        }
    }
}

/// What a file says of its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    version: u32,
    /// Layers by the name of the tensor they stand for.
    pub layers: BTreeMap<String, Layer>,
}

impl Index {
    /// The index of a file that holds these layers.
    pub fn new(layers: BTreeMap<String, Layer>) -> Self {
        Self { version: VERSION, layers }
    }

    /// The entry of `__metadata__`.
    pub fn text(&self) -> String {
        // Names, numbers and lists always have a form in JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the `__metadata__` of a file: `None` where it is no archive.
    ///
    /// # Errors
    /// What is wrong, as half a sentence that names the layer.
    pub fn read(metadata: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Some(text) = metadata.get(KEY) else { return Ok(None) };
        let bad = |error: serde_json::Error| format!("its index is not understood ({error})");
        let Versioned { version } = serde_json::from_str(text).map_err(bad)?;
        if version != VERSION {
            return Err(format!("it is an archive of version {version}, and {VERSION} is read"));
        }
        let index: Self = serde_json::from_str(text).map_err(bad)?;
        for (name, layer) in &index.layers {
            if let Some(fault) = layer.fault() {
                return Err(format!("of layer {name:?} {fault}"));
            }
        }
        Ok(Some(index))
    }
}

/// The tensors that hold a layer called `name`.
pub fn specs(name: &str, layout: &Layout, shape: MatrixShape) -> Vec<Spec> {
    let spec = |part: crate::encoding::PartSpec| Spec {
        name: format!("{name}.{}", part.name),
        dtype: part.dtype,
        shape: Shape(vec![part.elements]),
    };
    layout.parts(shape).into_iter().map(spec).collect()
}

/// The bytes of the part called `part`; `None` where the encoding has none of that name.
pub fn pack(encoding: &Encoding, part: &str) -> Option<Vec<u8>> {
    let mut parts = encoding.parts().into_iter();
    parts.find(|found| found.name == part).map(|found| found.bytes.into_owned())
}
