//! What the methods of small floats have in common: peaks of tiles, and codes under given scales.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Levels, Tiling};
use crate::error::Result;
use crate::numeric::minifloat::{E2M1, E4M3, E5M2, FP4, Minifloat, NF4, Nearest};
use crate::numeric::vector::{Loops, extremes, vectorised};
use crate::observer::Observer;
use crate::tensor::MatrixShape;

/// Rows that one thread takes without asking whether to go on, as weights.
const PIECE: usize = 1 << 16;

/// The largest |w| of each tile of row-major `values`, in the order of their scales.
pub(super) fn peaks(
    values: &[f32],
    shape: MatrixShape,
    tiling: Tiling,
    observer: &dyn Observer,
) -> Result<Vec<f32>> {
    let width = tiling.width(shape.cols);
    let rows = values.par_chunks(shape.cols.max(1));
    let of_rows: Vec<Vec<f32>> = rows
        .with_min_len((PIECE / shape.cols.max(1)).max(1))
        .map(|row| {
            observer.go_on()?;
            Ok(vectorised(Peaks { row, width }))
        })
        .collect::<Result<_>>()?;
    let mut peaks = vec![0.0; tiling.scales(shape)];
    for (row, found) in of_rows.iter().enumerate() {
        let first = tiling.first_scale(row, shape.cols);
        for (peak, found) in peaks[first..].iter_mut().zip(found) {
            *peak = found.max(*peak);
        }
    }
    Ok(peaks)
}

/// The peaks of the tiles in a row.
struct Peaks<'a> {
    row: &'a [f32],
    width: usize,
}

impl Loops for Peaks<'_> {
    type Found = Vec<f32>;

    #[inline(always)]
    fn run(self) -> Vec<f32> {
        let mut peaks = Vec::with_capacity(self.row.len().div_ceil(self.width));
        for tile in self.row.chunks(self.width) {
            peaks.push(peak(tile));
        }
        peaks
    }
}

/// The codes of the tiles in a row.
struct Row<'a> {
    coder: &'a Coder,
    width: usize,
    values: &'a [f32],
    scales: &'a [f32],
    codes: &'a mut [u8],
}

impl Loops for Row<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let tiles = self.codes.chunks_mut(self.width).zip(self.values.chunks(self.width));
        for ((codes, values), &scale) in tiles.zip(self.scales) {
            if scale > 0.0 {
                self.coder.codes(values, scale, codes);
            }
        }
    }
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn peak(values: &[f32]) -> f32 {
    let (low, high) = extremes(values, (0.0, 0.0));
    high.max(-low)
}

/// Finds the nearest code.
enum Coder {
    Float(Minifloat),
    Table(Nearest),
}

impl Coder {
    fn new(levels: Levels) -> Self {
        match levels {
            Levels::Nf4 => Self::Table(Nearest::new(&NF4)),
            Levels::Fp4 => Self::Table(Nearest::new(&FP4)),
            Levels::E2m1 => Self::Float(E2M1),
            Levels::E4m3 => Self::Float(E4M3),
            Levels::E5m2 => Self::Float(E5M2),
        }
    }

    #[inline(always)]
    fn codes(&self, values: &[f32], scale: f32, codes: &mut [u8]) {
        match self {
            Self::Float(float) => {
                for (code, &value) in codes.iter_mut().zip(values) {
                    *code = float.encode(value / scale);
                }
            }
            Self::Table(table) => {
                for (code, &value) in codes.iter_mut().zip(values) {
                    *code = table.code(value / scale);
                }
            }
        }
    }
}

/// The codes of row-major `values`: of w/s, the nearest; where the scale is 0, those of zero.
pub(super) fn codes(
    (values, shape): (&[f32], MatrixShape),
    (levels, tiling): (Levels, Tiling),
    scales: &[f32],
    observer: &dyn Observer,
) -> Result<Vec<u8>> {
    let width = tiling.width(shape.cols);
    let coder = Coder::new(levels);
    let mut codes = vec![levels.zero(); values.len()];
    let rows = codes.par_chunks_mut(shape.cols.max(1)).zip(values.par_chunks(shape.cols.max(1)));
    let rows = rows.enumerate().with_min_len((PIECE / shape.cols.max(1)).max(1));
    rows.try_for_each(|(row, (codes, values))| {
        observer.go_on()?;
        let scales = &scales[tiling.first_scale(row, shape.cols)..];
        vectorised(Row { coder: &coder, width, values, scales, codes });
        Ok(())
    })?;
    Ok(codes)
}
