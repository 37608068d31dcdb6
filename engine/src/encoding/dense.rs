//! Weights as they are, in the precision of their element type.

use crate::encoding::{Mask, Part, gather, scatter};
use crate::tensor::{DType, Decoder, MatrixShape, write_f32};

/// A matrix whose values are all exactly representable in `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    shape: MatrixShape,
    dtype: DType,
    values: Vec<f32>,
}

impl Dense {
    /// Holds `values` (row-major) rounded to `dtype`.
    ///
    /// # Panics
    /// If `values` does not have `shape.elements()` elements or `dtype` holds no weights.
    pub fn new(shape: MatrixShape, dtype: DType, values: &[f32]) -> Self {
        assert_eq!(values.len(), shape.elements(), "values and shape must agree");
        let mut bytes = Vec::new();
        write_f32(dtype, values, &mut bytes);
        let mut rounded = vec![0.0; values.len()];
        if let Some(decoder) = Decoder::new(dtype) {
            decoder.f32s(&bytes, &mut rounded);
        }
        Self { shape, dtype, values: rounded }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[row * self.shape.cols..(row + 1) * self.shape.cols]);
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let mut bytes = Vec::new();
        write_f32(self.dtype, &gather(&self.values, mask), &mut bytes);
        vec![Part::new("values", self.dtype, bytes)]
    }

    pub(super) fn from_parts<'a>(
        dtype: DType,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bytes = part("values")?;
        let kept = (bytes.len() as u64 * 8 / dtype.bits()) as usize;
        let mut values = vec![0.0; kept];
        Decoder::new(dtype)?.f32s(bytes, &mut values);
        let values = scatter(values, shape.elements(), mask, |_| 0.0)?;
        Some(Self { shape, dtype, values })
    }
}
