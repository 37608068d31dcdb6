//! Another encoding, and what the outputs of its layer are shifted by: a bias beside that of the layer.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{SHIFT, prefix_under};
use crate::encoding::{Encoding, Layout, Part, affine, parts_within};
use crate::tensor::{DType, MatrixShape, round_f32, write_f32};

/// A shifted layout. It holds others and is held by none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShiftedLayout {
    /// Element type of the shift: F16, BF16 or F32.
    pub dtype: DType,
    /// How the weights are held.
    pub inner: Box<Layout>,
}

impl ShiftedLayout {
    /// One number an output, and the inner layout's bytes.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        shape.rows as u64 * self.dtype.bits() / 8 + self.inner.bytes(shape)
    }
}

/// ŷ = inner·x + d, beside the layer's own bias. As a matrix it is what lies within.
#[derive(Clone, Debug, PartialEq)]
pub struct Shifted {
    dtype: DType,
    shift: Vec<f32>,
    inner: Box<Encoding>,
}

impl Shifted {
    /// `inner` with outputs shifted by `shift`, rounded to `dtype`.
    ///
    /// # Panics
    /// If there is not one number an output.
    pub fn new(dtype: DType, shift: &[f32], inner: Encoding) -> Self {
        assert_eq!(shift.len(), inner.shape().rows, "one number an output");
        let shift = shift.iter().map(|&value| round_f32(dtype, value)).collect();
        Self { dtype, shift, inner: Box::new(inner) }
    }

    /// What is added to each output.
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// The encoding of the weights.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> ShiftedLayout {
        ShiftedLayout { dtype: self.dtype, inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut bytes = Vec::new();
        write_f32(self.dtype, &self.shift, &mut bytes);
        let mut parts = vec![Part::new(SHIFT, self.dtype, bytes)];
        let prefix = prefix_under(&[SHIFT], &self.inner.layout(), "inner.");
        parts.extend(parts_within(&self.inner, prefix));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &ShiftedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let shift = affine::floats(part(SHIFT)?, layout.dtype, shape.rows)?;
        let prefix = prefix_under(&[SHIFT], &layout.inner, "inner.");
        let part = |name: &str| part(&format!("{prefix}{name}"));
        let inner = Encoding::from_parts(&layout.inner, shape, &part)?;
        Some(Self { dtype: layout.dtype, shift, inner: Box::new(inner) })
    }
}
