//! Blocks of a row as few coefficients of columns that a shift register makes from a seed.

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::encoding::affine::floats;
use crate::numeric::packing::{dense_bytes, pack_codes, pack_dense, unpack_codes, unpack_dense};
use crate::numeric::seeded::{Fit, MOST_COEFFICIENTS, REGISTERS, basis, step, weight};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Bits of an exponent and of a mantissa.
const HALF: u32 = 4;
/// The largest block that is believed.
const MOST_INPUTS: usize = 64;

/// Seeds and coefficients without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeededLayout {
    /// Inputs of a block; the last of a row may have fewer.
    pub block: usize,
    /// Columns that a block is made of.
    pub coefficients: usize,
    /// Bits of a seed.
    pub seed_bits: u32,
}

impl SeededLayout {
    /// Blocks of a row.
    pub fn in_row(&self, cols: usize) -> usize {
        cols.div_ceil(self.block)
    }

    pub(super) fn is_valid(&self) -> bool {
        let [least, most] = REGISTERS;
        (1..=MOST_INPUTS).contains(&self.block)
            && (1..=MOST_COEFFICIENTS).contains(&self.coefficients)
            && (least..=most).contains(&self.seed_bits)
    }

    /// Name, type and elements of each part.
    pub(super) fn parts(&self, shape: MatrixShape) -> [(&'static str, DType, usize); 4] {
        let blocks = shape.rows * self.in_row(shape.cols);
        [
            ("seeds", DType::U8, dense_bytes(blocks, self.seed_bits)),
            ("exponents", DType::U8, dense_bytes(blocks, HALF)),
            ("mantissas", DType::U8, dense_bytes(blocks * self.coefficients, HALF)),
            ("scale", DType::F32, 1),
        ]
    }

    /// A seed, an exponent and coefficients a block, and one scale. A mask above saves nothing.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let of = |(_, dtype, n): (_, DType, usize)| n as u64 * dtype.bits() / 8;
        self.parts(shape).into_iter().map(of).sum()
    }

    pub(super) fn bits(&self) -> u32 {
        let bits = self.seed_bits + HALF * (1 + self.coefficients as u32);
        bits.div_ceil(self.block as u32)
    }
}

/// Each block of a row is U(seed)·m·2^(exponent − 15)·scale: see [`crate::numeric::seeded`].
#[derive(Clone, Debug, PartialEq)]
pub struct Seeded {
    shape: MatrixShape,
    layout: SeededLayout,
    fits: Vec<Fit>,
    scale: f32,
}

impl Seeded {
    /// Holds the seeds and coefficients of blocks, row by row, in steps of a scale.
    ///
    /// # Panics
    /// If there is not one for each block.
    pub fn new(shape: MatrixShape, layout: SeededLayout, fits: &[Fit], scale: f32) -> Self {
        assert_eq!(fits.len(), shape.rows * layout.in_row(shape.cols), "all blocks");
        // What is not stored is not held.
        let fits = fits.iter().map(|fit| Fit { left: 0.0, ..*fit }).collect();
        Self { shape, layout, fits, scale }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Blocks, coefficients and seeds.
    pub fn layout(&self) -> &SeededLayout {
        &self.layout
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let SeededLayout { block, coefficients, seed_bits } = self.layout;
        let first = row * self.layout.in_row(self.shape.cols);
        let mut columns = vec![0.0; block * coefficients];
        for (out, fit) in out.chunks_mut(block).zip(&self.fits[first..]) {
            basis(fit.seed, seed_bits, &mut columns);
            let step = step(self.scale, fit.exponent);
            for (value, row) in out.iter_mut().zip(columns.chunks(coefficients)) {
                *value = weight(row, &fit.mantissas[..coefficients], step);
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let seeds: Vec<u32> = self.fits.iter().map(|fit| u32::from(fit.seed)).collect();
        let exponents: Vec<u8> = self.fits.iter().map(|fit| fit.exponent).collect();
        let of = |fit: &Fit| fit.mantissas.into_iter().take(self.layout.coefficients);
        let mantissas: Vec<u8> = self.fits.iter().flat_map(of).map(|m| m as u8 & 15).collect();
        let mut scale = Vec::new();
        write_f32(DType::F32, &[self.scale], &mut scale);
        let bytes = [
            pack_codes(&seeds, self.layout.seed_bits),
            pack_dense(&exponents, HALF),
            pack_dense(&mantissas, HALF),
            scale,
        ];
        let specs = self.layout.parts(self.shape).into_iter().zip(bytes);
        specs.map(|((name, dtype, _), bytes)| Part::new(name, dtype, bytes)).collect()
    }

    pub(super) fn from_parts<'a>(
        layout: SeededLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        for (name, dtype, n) in layout.parts(shape) {
            if part(name)?.len() as u64 != n as u64 * dtype.bits() / 8 {
                return None;
            }
        }
        let (n, p) = (shape.rows * layout.in_row(shape.cols), layout.coefficients);
        let seeds = unpack_codes(part("seeds")?, layout.seed_bits, n);
        let exponents = unpack_dense(part("exponents")?, HALF, n);
        let mantissas = unpack_dense(part("mantissas")?, HALF, n * p);
        let fit = |at: usize| {
            let mut own = [0; MOST_COEFFICIENTS];
            let codes = mantissas[at * p..(at + 1) * p].iter();
            own.iter_mut().zip(codes).for_each(|(m, &code)| *m = ((code << 4) as i8) >> 4);
            Fit { seed: seeds[at] as u16, exponent: exponents[at], mantissas: own, left: 0.0 }
        };
        let scale = floats(part("scale")?, DType::F32, 1)?[0];
        Some(Self { shape, layout, fits: (0..n).map(fit).collect(), scale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed 4 of a register of 6 bits (0x3 its taps): 2, 33, 48, 24, 12, 6, … by hand.
    #[test]
    fn blocks_are_columns_of_their_seed_times_coefficients() {
        let shape = MatrixShape { rows: 1, cols: 5 };
        let layout = SeededLayout { block: 3, coefficients: 2, seed_bits: 6 };
        let fit = |exponent, mantissas| Fit { seed: 4, exponent, mantissas, left: 0.0 };
        let fits = [fit(15, [1, 0, 0, 0]), fit(14, [-8, 7, 0, 0])];
        let seeded = Seeded::new(shape, layout, &fits, 2.0);
        let u = |state: f32| (state - 32.0) / 31.0;
        let mut row = [0.0; 5];
        seeded.decode_row(0, &mut row);
        let expected = [
            u(2.0) * 2.0,
            u(48.0) * 2.0,
            u(12.0) * 2.0,
            u(2.0) * -8.0 + u(33.0) * 7.0,
            u(48.0) * -8.0 + u(24.0) * 7.0,
        ];
        for (found, expected) in row.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let parts = seeded.parts();
        let bytes = |i: usize| &*parts[i].bytes;
        assert_eq!((bytes(0), bytes(1)), ([4 | 4 << 6, 1].as_slice(), [15 | 14 << 4].as_slice()));
        assert_eq!((bytes(2), bytes(3)), ([1, 8 | 7 << 4].as_slice(), [0, 0, 0, 64].as_slice()));
        assert_eq!(layout.bytes(shape), 2 + 1 + 2 + 4);
    }
}
