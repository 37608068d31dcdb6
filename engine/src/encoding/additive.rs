//! Codes for runs of inputs: sums of entries of codebooks that were made for the matrix, each output under a scale.

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::encoding::affine::floats;
use crate::numeric::packing::{dense_bytes, pack_codes, unpack_codes};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Codes and codebooks without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AdditiveLayout {
    /// Codebooks whose entries are added, 1 to 16.
    pub codebooks: usize,
    /// Bits of a code, 1 to 16.
    pub bits: u32,
    /// Inputs that a code stands for.
    pub dim: usize,
    /// Whether each run of inputs has codebooks of its own; else all runs have the same.
    pub by_run: bool,
    /// Element type of the entries: F16, BF16 or F32.
    pub value_dtype: DType,
    /// Element type of the scales, one for each output, where there are any: F16, BF16 or F32.
    pub scale_dtype: Option<DType>,
}

impl AdditiveLayout {
    /// Entries of a codebook: 2^bits.
    pub fn entries(&self) -> usize {
        1 << self.bits
    }

    /// Runs of inputs of a row; the last may be shorter.
    pub fn runs(&self, cols: usize) -> usize {
        cols.div_ceil(self.dim)
    }

    /// Codes of a matrix: rows × runs × codebooks.
    pub fn codes(&self, shape: MatrixShape) -> usize {
        shape.rows * self.runs(shape.cols) * self.codebooks
    }

    /// Sets of codebooks; none where a matrix has no weights.
    pub fn sets(&self, shape: MatrixShape) -> usize {
        match shape.elements() {
            0 => 0,
            _ if self.by_run => self.runs(shape.cols),
            _ => 1,
        }
    }

    /// Values of all codebooks, `[sets, codebooks, entries, dim]`.
    pub fn values(&self, shape: MatrixShape) -> usize {
        self.sets(shape) * self.codebooks * self.entries() * self.dim
    }

    /// Scales: one for each output, or none.
    pub fn scales(&self, shape: MatrixShape) -> usize {
        if self.scale_dtype.is_some() { shape.rows } else { 0 }
    }

    /// Codes, codebooks, scales. Codes stand for every weight, so a mask above them saves nothing.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let of = |n: usize, dtype: DType| n as u64 * dtype.bits() / 8;
        let scales = self.scale_dtype.map_or(0, |dtype| of(self.scales(shape), dtype));
        let codes = dense_bytes(self.codes(shape), self.bits) as u64;
        codes + of(self.values(shape), self.value_dtype) + scales
    }

    /// Whether numbers are within bounds, and nothing overflows for a matrix of at most `most` weights.
    pub(super) fn is_valid(&self, shape: MatrixShape, most: usize) -> bool {
        let is_small = (1..=16).contains(&self.codebooks) && (1..=16).contains(&self.bits);
        if !is_small || !(1..=shape.cols.max(1)).contains(&self.dim) {
            return false;
        }
        let of_set = self.dim.checked_mul(self.codebooks << self.bits);
        let values = of_set.and_then(|n| n.checked_mul(self.sets(shape)));
        values.is_some_and(|n| n <= most)
    }
}

/// ŵ = sₒ·Σ over codebooks c of C\[c\]\[code\], for each run of inputs of each output.
#[derive(Clone, Debug, PartialEq)]
pub struct Additive {
    shape: MatrixShape,
    layout: AdditiveLayout,
    codes: Vec<u32>,
    values: Vec<f32>,
    scales: Vec<f32>,
}

impl Additive {
    /// Holds codes, row by row, run by run, codebook by codebook; values and scales exactly representable in the
    /// layout's types.
    ///
    /// # Panics
    /// If the numbers of codes, values or scales do not fit the shape.
    pub fn new(
        shape: MatrixShape,
        layout: AdditiveLayout,
        codes: Vec<u32>,
        (values, scales): (Vec<f32>, Vec<f32>),
    ) -> Self {
        assert_eq!(codes.len(), layout.codes(shape), "a code for each run and codebook");
        assert_eq!(values.len(), layout.values(shape), "whole codebooks");
        assert_eq!(scales.len(), layout.scales(shape), "a scale for each output");
        Self { shape, layout, codes, values, scales }
    }

    /// A matrix without weights.
    ///
    /// # Panics
    /// If it has any.
    pub fn empty(shape: MatrixShape, layout: AdditiveLayout) -> Self {
        let (codes, scales) = (vec![0; layout.codes(shape)], vec![0.0; layout.scales(shape)]);
        Self::new(shape, layout, codes, (Vec::new(), scales))
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Codebooks, bits, types.
    pub fn layout(&self) -> &AdditiveLayout {
        &self.layout
    }

    /// Codes, row by row, run by run, codebook by codebook.
    pub fn codes(&self) -> &[u32] {
        &self.codes
    }

    /// The codebooks, `[sets, codebooks, entries, dim]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// One scale for each output, where there are any.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let (layout, dim) = (&self.layout, self.layout.dim);
        let of_set = layout.codebooks * layout.entries() * dim;
        let n = layout.runs(self.shape.cols) * layout.codebooks;
        let codes = self.codes[row * n..(row + 1) * n].chunks(layout.codebooks);
        for (run, (out, codes)) in out.chunks_mut(dim).zip(codes).enumerate() {
            let first = if layout.by_run { run * of_set } else { 0 };
            let set = &self.values[first..first + of_set];
            out.fill(0.0);
            for (codebook, &code) in set.chunks(layout.entries() * dim).zip(codes) {
                let entry = &codebook[code as usize * dim..(code as usize + 1) * dim];
                out.iter_mut().zip(entry).for_each(|(value, entry)| *value += entry);
            }
            if let Some(scale) = self.scales.get(row) {
                for value in out {
                    *value *= scale;
                }
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let of = |name: &str, dtype: DType, values: &[f32]| {
            let mut bytes = Vec::new();
            write_f32(dtype, values, &mut bytes);
            Part::new(name, dtype, bytes)
        };
        let mut parts = vec![
            Part::new("codes", DType::U8, pack_codes(&self.codes, self.layout.bits)),
            of("codebooks", self.layout.value_dtype, &self.values),
        ];
        parts.extend(self.layout.scale_dtype.map(|dtype| of("scales", dtype, &self.scales)));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &AdditiveLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let n = layout.codes(shape);
        let bytes = part("codes").filter(|bytes| bytes.len() == dense_bytes(n, layout.bits))?;
        let codes = unpack_codes(bytes, layout.bits, n);
        let values = floats(part("codebooks")?, layout.value_dtype, layout.values(shape))?;
        let scales = match layout.scale_dtype {
            Some(dtype) => floats(part("scales")?, dtype, layout.scales(shape))?,
            None => Vec::new(),
        };
        Some(Self { shape, layout: layout.clone(), codes, values, scales })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_added_run_by_run_under_the_scale_of_the_row() {
        let shape = MatrixShape { rows: 2, cols: 3 };
        let layout = AdditiveLayout {
            codebooks: 2,
            bits: 1,
            dim: 2,
            by_run: false,
            value_dtype: DType::BF16,
            scale_dtype: Some(DType::F32),
        };
        let values = vec![1.0, 2.0, 3.0, 4.0, 0.5, 0.25, -1.0, 8.0];
        let codes = vec![0, 0, 1, 1, 1, 0, 0, 1];
        let data = (values.clone(), vec![1.0, 10.0]);
        let additive = Additive::new(shape, layout.clone(), codes.clone(), data);
        let mut row = [0.0; 3];
        additive.decode_row(0, &mut row);
        assert_eq!(row, [1.5, 2.25, 2.0]);
        additive.decode_row(1, &mut row);
        assert_eq!(row, [35.0, 42.5, 0.0]);
        // 8 codes of a bit, 8 values of two bytes, 2 scales of four.
        assert_eq!(layout.bytes(shape), 1 + 16 + 8);
        let by_run = AdditiveLayout { by_run: true, scale_dtype: None, ..layout };
        let values = [values.clone(), values.iter().map(|value| -value).collect()].concat();
        let additive = Additive::new(shape, by_run.clone(), codes, (values, Vec::new()));
        additive.decode_row(1, &mut row);
        assert_eq!(row, [3.5, 4.25, 0.0], "the last value of a set is that of its own run");
        assert_eq!(by_run.bytes(shape), 1 + 32);
    }
}
