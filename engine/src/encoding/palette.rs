//! Palettes: every weight is one of 2^b values of a table, one table for the matrix or for each run of rows.

use serde::{Deserialize, Serialize};

use crate::encoding::affine::floats;
use crate::encoding::{Mask, Part, gather, scatter};
use crate::numeric::packing::{dense_bytes, pack_dense, unpack_dense};
use crate::tensor::{DType, MatrixShape, write_f32};

/// A palette without its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PaletteLayout {
    /// Bits of a code, 1 to 8.
    pub bits: u32,
    /// Rows that share a table; the last run may be shorter. `None` where all do.
    pub rows: Option<usize>,
    /// Element type of the tables: F16, BF16 or F32.
    pub value_dtype: DType,
}

impl PaletteLayout {
    /// Values of a table: 2^bits.
    pub fn levels(&self) -> usize {
        1 << self.bits
    }

    /// Rows that share a table, at least 1.
    pub fn run(&self, shape: MatrixShape) -> usize {
        self.rows.unwrap_or(shape.rows).max(1)
    }

    /// Tables of a matrix; none where it has no weights.
    pub fn tables(&self, shape: MatrixShape) -> usize {
        if shape.elements() == 0 { 0 } else { shape.rows.div_ceil(self.run(shape)) }
    }

    /// ⌈kept·b/8⌉ for codes, and 2^b values for each table.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        let values = (self.tables(shape) * self.levels()) as u64;
        dense_bytes(kept, self.bits) as u64 + values * self.value_dtype.bits() / 8
    }
}

/// A matrix of codes into tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Palette {
    shape: MatrixShape,
    layout: PaletteLayout,
    codes: Vec<u8>,
    values: Vec<f32>,
}

impl Palette {
    /// Holds row-major codes and tables, one after another, of values exactly representable in the layout's type.
    ///
    /// # Panics
    /// If the numbers of codes or values do not fit the shape.
    pub fn new(
        shape: MatrixShape,
        layout: PaletteLayout,
        codes: Vec<u8>,
        values: Vec<f32>,
    ) -> Self {
        assert_eq!(codes.len(), shape.elements(), "one code a weight");
        assert_eq!(values.len(), layout.tables(shape) * layout.levels(), "whole tables");
        Self { shape, layout, codes, values }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bits, rows of a table, type of its values.
    pub fn layout(&self) -> &PaletteLayout {
        &self.layout
    }

    /// One code a weight, row-major.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The tables, one after another.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let cols = self.shape.cols;
        let first = row / self.layout.run(self.shape) * self.layout.levels();
        let table = &self.values[first..first + self.layout.levels()];
        for (value, &code) in out.iter_mut().zip(&self.codes[row * cols..(row + 1) * cols]) {
            *value = table[usize::from(code)];
        }
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let codes = pack_dense(&gather(&self.codes, mask), self.layout.bits);
        let mut values = Vec::new();
        write_f32(self.layout.value_dtype, &self.values, &mut values);
        vec![
            Part::new("codes", DType::U8, codes),
            Part::new("palette", self.layout.value_dtype, values),
        ]
    }

    pub(super) fn from_parts<'a>(
        layout: &PaletteLayout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let n = layout.tables(shape) * layout.levels();
        let values = floats(part("palette")?, layout.value_dtype, n)?;
        let kept = mask.map_or(shape.elements(), Mask::kept);
        let bytes = part("codes").filter(|bytes| bytes.len() == dense_bytes(kept, layout.bits))?;
        let codes = unpack_dense(bytes, layout.bits, kept);
        let codes = scatter(codes, shape.elements(), mask, |_| 0)?;
        Some(Self { shape, layout: layout.clone(), codes, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_rows_have_tables_of_their_own() {
        let shape = MatrixShape { rows: 3, cols: 2 };
        let layout = PaletteLayout { bits: 1, rows: Some(2), value_dtype: DType::BF16 };
        let values = vec![-1.0, 1.0, 0.25, 8.0];
        let palette = Palette::new(shape, layout.clone(), vec![0, 1, 1, 1, 0, 1], values);
        let mut row = [0.0; 2];
        palette.decode_row(1, &mut row);
        assert_eq!(row, [1.0, 1.0]);
        palette.decode_row(2, &mut row);
        assert_eq!(row, [0.25, 8.0]);
        // 6 codes of one bit, 4 values of two bytes.
        assert_eq!(layout.bytes_of(shape, 6), 1 + 8);
    }
}
