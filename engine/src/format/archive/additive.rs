//! Reading sums of entries of codebooks.

use crate::encoding::AdditiveLayout;
use crate::format::archive::reader::Get;
use crate::format::archive::turned::code;
use crate::format::words::{floats, for_each_run};
use crate::tensor::MatrixShape;

/// Codes, and the codebooks they are codes of.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    layout: AdditiveLayout,
    codes: &'a [u8],
    codebooks: Vec<f32>,
    scales: Option<Vec<f32>>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(
        layout: &AdditiveLayout,
        shape: MatrixShape,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        let codebooks = floats(get("codebooks")?, layout.value_dtype, layout.values(shape))?;
        let scales = match layout.scale_dtype {
            Some(dtype) => Some(floats(get("scales")?, dtype, shape.rows)?),
            None => None,
        };
        Some(Self { layout: layout.clone(), codes: get("codes")?, codebooks, scales })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let AdditiveLayout { codebooks, bits, dim, by_run, .. } = self.layout;
        let in_row = shape.cols.div_ceil(dim);
        let scale = match &self.scales {
            Some(scales) => Some(*scales.get(row)?),
            None => None,
        };
        for_each_run(col, (shape.cols, dim), out, |(_, run), col, values| {
            values.fill(0.0);
            for codebook in 0..codebooks {
                let at = (row * in_row + run) * codebooks + codebook;
                let set = if by_run { run * codebooks } else { 0 };
                let entry = ((set + codebook) << bits) + code(self.codes, at, bits)? as usize;
                let first = entry * dim + col % dim;
                let entry = self.codebooks.get(first..first + values.len())?;
                values.iter_mut().zip(entry).for_each(|(value, entry)| *value += entry);
            }
            if let Some(scale) = scale {
                for value in values {
                    *value *= scale;
                }
            }
            Some(())
        })
    }
}
