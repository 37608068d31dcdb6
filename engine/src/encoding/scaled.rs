//! Another encoding of W·diag(s), decoded back by dividing each input's column by its scale.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{INPUT_SCALES, prefix_under};
use crate::encoding::{Encoding, Layout, Mask, Part};
use crate::tensor::{DType, Decoder, MatrixShape, write_f32};

/// A scaled layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScaledLayout {
    /// Element type of the scales: F16, BF16 or F32.
    pub scale_dtype: DType,
    /// How the scaled weights are held.
    pub inner: Box<Layout>,
}

impl ScaledLayout {
    /// One scale an input, and the inner layout's bytes for `kept` weights.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        shape.cols as u64 * self.scale_dtype.bits() / 8 + self.inner.bytes_of(shape, kept)
    }
}

/// ŵᵢⱼ = inner ᵢⱼ / sⱼ, with one stored scale s an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    scale_dtype: DType,
    scales: Vec<f32>,
    inner: Box<Encoding>,
}

impl Scaled {
    /// `inner` with column j divided by `scales[j]`, each exactly representable in `scale_dtype` and not zero.
    ///
    /// # Panics
    /// If there is not one scale an input.
    pub fn new(scale_dtype: DType, scales: Vec<f32>, inner: Encoding) -> Self {
        assert_eq!(scales.len(), inner.shape().cols, "one scale an input");
        Self { scale_dtype, scales, inner: Box::new(inner) }
    }

    /// One scale an input.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The encoding of the scaled weights.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> ScaledLayout {
        ScaledLayout { scale_dtype: self.scale_dtype, inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.inner.decode_row(row, out);
        for (value, scale) in out.iter_mut().zip(&self.scales) {
            *value /= scale;
        }
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let mut bytes = Vec::new();
        write_f32(self.scale_dtype, &self.scales, &mut bytes);
        let mut parts = vec![Part::new(INPUT_SCALES, self.scale_dtype, bytes)];
        let prefix = prefix_under(&[INPUT_SCALES], &self.inner.layout(), "inner.");
        parts.extend(self.inner.parts_under(mask).into_iter().map(|part| part.before(prefix)));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &ScaledLayout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bytes = part(INPUT_SCALES)?;
        if bytes.len() as u64 * 8 != shape.cols as u64 * layout.scale_dtype.bits() {
            return None;
        }
        let mut scales = vec![0.0; shape.cols];
        Decoder::new(layout.scale_dtype)?.f32s(bytes, &mut scales);
        let prefix = prefix_under(&[INPUT_SCALES], &layout.inner, "inner.");
        let part = |name: &str| part(&format!("{prefix}{name}"));
        let inner = Encoding::from_parts_under(&layout.inner, shape, mask, &part)?;
        Some(Self { scale_dtype: layout.scale_dtype, scales, inner: Box::new(inner) })
    }
}
