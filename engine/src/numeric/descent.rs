//! Coordinate descent on tr((W − Ŵ)·H·(W − Ŵ)ᵀ): one weight, or one scale of several, at its best while the others stand.

use std::ops::Range;

use faer::MatRef;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::gram::Gram;

/// Rows that one thread takes along all columns, so that a row of H serves them all while it is near.
const ROWS: usize = 32;
/// Columns between two questions whether to go on.
const ASKED: usize = 64;

/// Weights Ŵ on their way, with what each would gain by moving.
pub struct Descent {
    cols: usize,
    h: Array2<f64>,
    /// Ŵ, row-major.
    values: Vec<f64>,
    /// (W − Ŵ)·H.
    gradient: Vec<f64>,
}

impl Descent {
    /// Begins at `values`, row-major, with H of `gram`. Memory: 8·cols² + 16·rows·cols bytes. `None` once `is_cancelled`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn new(
        weights: ArrayView2<'_, f32>,
        values: Vec<f64>,
        gram: &Gram,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let (rows, cols) = weights.dim();
        assert_eq!((values.len(), gram.channels()), (rows * cols, cols), "one shape");
        let error: Vec<f64> =
            weights.iter().zip(&values).map(|(&w, value)| f64::from(w) - value).collect();
        let error = MatRef::from_row_major_slice(&error, rows, cols);
        let product = gram.tiles().multiplied_by(0, error, is_cancelled);
        if is_cancelled() {
            return None;
        }
        let mut gradient = vec![0.0; rows * cols];
        gradient.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, out)| {
            for (col, value) in out.iter_mut().enumerate() {
                *value = product[(row, col)];
            }
        });
        Some(Self { cols, h: gram.to_dense(), values, gradient })
    }

    /// Ŵ, row-major.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Every weight in turn goes to `level(row, col, best)`, which must be the allowed value nearest to `best`. Never
    /// worse. Cost: cols operations for each weight that moves. Inputs that were always zero keep theirs. `None` once
    /// `is_cancelled`.
    pub fn move_weights(
        &mut self,
        level: &(dyn Fn(usize, usize, f64) -> f64 + Sync),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        let (n, h) = (self.cols.max(1), &self.h);
        let strips = self.values.par_chunks_mut(ROWS * n);
        strips.zip(self.gradient.par_chunks_mut(ROWS * n)).enumerate().for_each(
            |(strip, (values, gradient))| {
                for col in 0..n.min(h.ncols()) {
                    if col % ASKED == 0 && is_cancelled() {
                        return;
                    }
                    let own = h[[col, col]];
                    let (true, Some(along)) = (own > 0.0, h.row(col).to_slice()) else { continue };
                    let rows = values.chunks_mut(n).zip(gradient.chunks_mut(n)).enumerate();
                    for (row, (values, gradient)) in rows {
                        let best = values[col] + gradient[col] / own;
                        let moved = level(strip * ROWS + row, col, best) - values[col];
                        values[col] += moved;
                        subtract(moved, along, gradient);
                    }
                }
            },
        );
        (!is_cancelled()).then_some(())
    }

    /// The scale of the weights of each group in turn, `codes[i]·scale`, goes to `stored(best)` where that is better.
    /// `codes` are those of all weights less their zero point, row-major, `scales` ⌈cols/width⌉ to a row. Never
    /// worse. Cost: rows·cols² operations. `None` once `is_cancelled`.
    pub fn move_scales(
        &mut self,
        (codes, scales): (&[f32], &mut [f32]),
        width: usize,
        stored: &(dyn Fn(f64) -> f32 + Sync),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        let (n, h) = (self.cols.max(1), &self.h);
        let groups = self.cols.div_ceil(width).max(1);
        let rows = self.values.par_chunks_mut(n).zip(self.gradient.par_chunks_mut(n));
        let rows = rows.zip(scales.par_chunks_mut(groups)).enumerate();
        rows.for_each(|(row, ((values, gradient), scales))| {
            let codes = &codes[row * n..(row + 1) * n];
            let mut along = vec![0.0; n];
            for (group, scale) in scales.iter_mut().enumerate() {
                if is_cancelled() {
                    return;
                }
                let span = group * width..((group + 1) * width).min(n);
                combine(h, codes, span.clone(), &mut along);
                let dot = |with: &[f64]| -> f64 {
                    span.clone().map(|i| f64::from(codes[i]) * with[i]).sum()
                };
                let (slope, curve) = (dot(gradient), dot(&along));
                if curve <= 0.0 {
                    continue;
                }
                let next = stored(f64::from(*scale) + slope / curve);
                let moved = f64::from(next) - f64::from(*scale);
                if moved * (moved * curve - 2.0 * slope) < 0.0 && next > 0.0 {
                    *scale = next;
                    subtract(moved, &along, gradient);
                    let moved = values[span.clone()].iter_mut().zip(&codes[span.clone()]);
                    moved.for_each(|(value, code)| *value = f64::from(next * code));
                }
            }
        });
        (!is_cancelled()).then_some(())
    }
}

/// gradient ← gradient − factor·along.
fn subtract(factor: f64, along: &[f64], gradient: &mut [f64]) {
    if factor == 0.0 {
        return;
    }
    for (value, along) in gradient.iter_mut().zip(along) {
        *value -= factor * along;
    }
}

/// Σ codes[i]·H[i, ..] over the columns of a group.
fn combine(h: &Array2<f64>, codes: &[f32], span: Range<usize>, out: &mut [f64]) {
    out.fill(0.0);
    for i in span {
        if let (true, Some(row)) = (codes[i] != 0.0, h.row(i).to_slice()) {
            subtract(-f64::from(codes[i]), row, out);
        }
    }
}
