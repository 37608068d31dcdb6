//! Tensors whose values do not lie in their files one after another in their element type, but in codes.

use std::sync::Arc;

use crate::checkpoint::Tensor;

/// What a tensor is stored in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// The encoding, as its format names it: `Q4_K`.
    pub name: String,
    /// Bits of a code, without scales and all else.
    pub bits: u32,
    /// Whether it is decoded here; otherwise it is only copied.
    pub is_readable: bool,
    /// Bits of numbers that lie in a tensor of their own and that its values are multiplied by: one for a matrix, or one for
    /// each expert; none where there is no such tensor.
    pub scales: Arc<[u32]>,
}

impl Tensor {
    /// What it is stored in: an encoding, or its element type.
    pub fn type_name(&self) -> &str {
        self.coded.as_ref().map_or(self.dtype.name(), |coded| &coded.name)
    }

    /// Whether its values can be read as numbers.
    pub fn is_readable(&self) -> bool {
        self.dtype.is_readable() && self.coded.as_ref().is_none_or(|coded| coded.is_readable)
    }

    /// Bits that a value takes on disk, scales and all else included.
    pub fn stored_bits(&self) -> f64 {
        match &self.coded {
            None => self.dtype.bits() as f64,
            Some(_) => self.bytes() as f64 * 8.0 / self.parameters().max(1) as f64,
        }
    }
}
