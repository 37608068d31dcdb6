//! Codes for one weight or several at once: points of a codebook that every reader knows, under scales.

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::encoding::affine::floats;
use crate::numeric::codebook::Codebook;
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::{dense_bytes, pack_codes, unpack_codes};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Codes for several weights without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VectorsLayout {
    /// The points.
    pub codebook: Codebook,
    /// Which weights share a scale; groups are whole numbers of codes, unless those are digits.
    pub grouping: Grouping,
    /// Element type of the scales: F16, BF16 or F32.
    pub scale_dtype: DType,
}

impl VectorsLayout {
    /// Codes of one row; the last may stand for weights beyond the row.
    pub fn codes_per_row(&self, cols: usize) -> usize {
        cols.div_ceil(self.codebook.dim())
    }

    /// Bytes of so many codes.
    pub(super) fn code_bytes(&self, codes: usize) -> usize {
        dense_bytes(codes, self.codebook.bits())
    }

    /// Codes and scales. Codes stand for every weight, so a mask above them saves nothing.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let scales = self.grouping.scales(shape.rows, shape.cols) as u64;
        let codes = self.code_bytes(shape.rows * self.codes_per_row(shape.cols));
        codes as u64 + scales * self.scale_dtype.bits() / 8
    }

    /// Whether there is such a codebook and its codes lie within groups.
    pub(super) fn is_valid(&self) -> bool {
        let is_whole = match self.grouping {
            Grouping::Group(size) => {
                size > 0 && (self.codebook.is_digits() || size.is_multiple_of(self.codebook.dim()))
            }
            Grouping::Tensor | Grouping::Channel => true,
        };
        self.codebook.is_valid() && is_whole
    }
}

/// w = scale · point of the code.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    shape: MatrixShape,
    layout: VectorsLayout,
    codes: Vec<u32>,
    scales: Vec<f32>,
}

impl Vectors {
    /// Holds codes, row by row, and scales exactly representable in the layout's type.
    ///
    /// # Panics
    /// If the numbers of codes or scales do not fit the shape.
    pub fn new(
        shape: MatrixShape,
        layout: VectorsLayout,
        codes: Vec<u32>,
        scales: Vec<f32>,
    ) -> Self {
        assert_eq!(codes.len(), shape.rows * layout.codes_per_row(shape.cols), "whole rows");
        assert_eq!(scales.len(), layout.grouping.scales(shape.rows, shape.cols), "all scales");
        Self { shape, layout, codes, scales }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Codebook and scales.
    pub fn layout(&self) -> &VectorsLayout {
        &self.layout
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let (codebook, grouping) = (self.layout.codebook, self.layout.grouping);
        let n = self.layout.codes_per_row(self.shape.cols);
        let codes = &self.codes[row * n..(row + 1) * n];
        let first = grouping.first_scale(row, self.shape.cols);
        for (values, &code) in out.chunks_mut(codebook.dim()).zip(codes) {
            codebook.point(code, values);
        }
        let groups = out.chunks_mut(grouping.width(self.shape.cols));
        for (values, scale) in groups.zip(&self.scales[first..]) {
            for value in values {
                *value *= scale;
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let codes = pack_codes(&self.codes, self.layout.codebook.bits());
        let mut scales = Vec::new();
        write_f32(self.layout.scale_dtype, &self.scales, &mut scales);
        vec![
            Part::new("codes", DType::U8, codes),
            Part::new("scales", self.layout.scale_dtype, scales),
        ]
    }

    pub(super) fn from_parts<'a>(
        layout: &VectorsLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let (bits, n) = (layout.codebook.bits(), shape.rows * layout.codes_per_row(shape.cols));
        let bytes = part("codes").filter(|bytes| bytes.len() == layout.code_bytes(n))?;
        let codes = unpack_codes(bytes, bits, n);
        if !codes.iter().all(|&code| layout.codebook.has(code)) {
            return None;
        }
        let scales = layout.grouping.scales(shape.rows, shape.cols);
        let scales = floats(part("scales")?, layout.scale_dtype, scales)?;
        Some(Self { shape, layout: layout.clone(), codes, scales })
    }
}
