//! Reading blocks that are coefficients of pseudo-random columns: the register steps bit by bit from the seed of each.

use crate::encoding::SeededLayout;
use crate::format::archive::reader::Get;
use crate::format::archive::turned::code;
use crate::format::words::{floats, for_each_run};
use crate::tensor::{DType, MatrixShape};

/// The bits of a state whose sum is the new highest bit, for registers of 6 to 16 bits.
const TAPS: [&[u32]; 11] = [
    &[0, 1],
    &[0, 1],
    &[0, 2, 3, 4],
    &[0, 4],
    &[0, 3],
    &[0, 2],
    &[0, 1, 4, 6],
    &[0, 1, 3, 4],
    &[0, 1, 3, 5],
    &[0, 1],
    &[0, 1, 3, 12],
];

/// Seeds, exponents and coefficients.
#[derive(Debug)]
pub(super) struct Seeds<'a> {
    layout: SeededLayout,
    states: &'a [u8],
    exponents: &'a [u8],
    mantissas: &'a [u8],
    scale: f32,
}

impl<'a> Seeds<'a> {
    pub(super) fn new(layout: SeededLayout, get: &Get<'_, 'a>) -> Option<Self> {
        let [seeds, exponents, mantissas] = ["seeds", "exponents", "mantissas"].map(get);
        Some(Self {
            layout,
            states: seeds?,
            exponents: exponents?,
            mantissas: mantissas?,
            scale: *floats(get("scale")?, DType::F32, 1)?.first()?,
        })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let SeededLayout { block, coefficients, seed_bits } = self.layout;
        let in_row = shape.cols.div_ceil(block);
        for_each_run(col, (shape.cols, block), out, |(_, at), col, values| {
            let at = row * in_row + at;
            let mut state = code(self.states, at, seed_bits)?;
            let step = self.scale / (1_u32 << (15 - code(self.exponents, at, 4)?)) as f32;
            let taps = TAPS.get(seed_bits as usize - 6)?;
            let mut next = || {
                let sum: u32 = taps.iter().map(|tap| state >> tap & 1).sum();
                state = state >> 1 | (sum & 1) << (seed_bits - 1);
                let middle = (1_u32 << (seed_bits - 1)) as f32;
                (state as f32 - middle) / (middle - 1.0)
            };
            let first = col % block;
            (0..first * coefficients).for_each(|_| {
                next();
            });
            for value in values {
                let sum = (0..coefficients).try_fold(0.0_f32, |sum, k| {
                    let own = code(self.mantissas, at * coefficients + k, 4)?;
                    let below = 16.0 * (own >> 3) as f32;
                    Some(sum + next() * ((own as f32 - below) * step))
                })?;
                *value = sum.clamp(-f32::MAX, f32::MAX);
            }
            Some(())
        })
    }
}
