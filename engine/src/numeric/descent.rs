//! Coordinate descent on tr((W − Ŵ)·H·(W − Ŵ)ᵀ): one weight, or the grid of several, at its best while the others stand.

use std::ops::Range;

use faer::MatRef;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

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

    /// The grid of each group in turn goes where `kind` chooses. `codes` are those of all weights, row-major, `grids`
    /// ⌈cols/width⌉ to a row. Cost: rows·cols² operations, twice that under a mask; memory 8·cols²/width bytes more.
    /// `None` once `is_cancelled`.
    pub fn move_grids<K: Grids>(
        &mut self,
        kind: &K,
        (codes, grids): (&[f32], &mut [K::Grid]),
        width: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        let (n, h) = (self.cols.max(1), &self.h);
        let groups = self.cols.div_ceil(width).max(1);
        let span = |group: usize| group * width..((group + 1) * width).min(self.cols);
        let shared =
            (!kind.is_masked()).then(|| ones(h, &(0..groups).map(span).collect::<Vec<_>>()));
        let rows = self.values.par_chunks_mut(n).zip(self.gradient.par_chunks_mut(n));
        let rows = rows.zip(grids.par_chunks_mut(groups)).enumerate();
        rows.for_each(|(row, ((values, gradient), grids))| {
            let codes = &codes[row * n..(row + 1) * n];
            let mut along = [vec![0.0; n], vec![0.0; n]];
            for (group, grid) in grids.iter_mut().enumerate() {
                if is_cancelled() {
                    return;
                }
                let kept: Vec<usize> = span(group).filter(|i| kind.is_kept(row * n + i)).collect();
                combine(h, kept.iter().map(|&i| (i, f64::from(codes[i]))), &mut along[0]);
                match &shared {
                    Some(shared) => along[1].copy_from_slice(&shared[group]),
                    None => combine(h, kept.iter().map(|&i| (i, 1.0)), &mut along[1]),
                }
                let curves = Curves::new(&kept, codes, gradient, &along);
                let Some((next, moved)) = kind.choose(grid, &curves) else { continue };
                *grid = next;
                moved.iter().zip(&along).for_each(|(&by, along)| subtract(by, along, gradient));
                for i in kept {
                    values[i] = f64::from(kind.value(grid, codes[i]));
                }
            }
        });
        (!is_cancelled()).then_some(())
    }
}

/// How the grids of groups are made: ŵ = scale·code + origin.
pub trait Grids: Sync {
    /// What a group has.
    type Grid: Send;

    /// Another grid, and by how much its scale and its origin are larger; `None` where none is better.
    fn choose(&self, grid: &Self::Grid, curves: &Curves) -> Option<(Self::Grid, [f64; 2])>;

    /// The weight of a code.
    fn value(&self, grid: &Self::Grid, code: f32) -> f32;

    /// Whether any weights are dropped.
    fn is_masked(&self) -> bool;

    /// Whether a weight, row-major, follows its grid.
    fn is_kept(&self, at: usize) -> bool;
}

/// What it costs to move scale and origin of a group: with q its codes, 1 a one for each of its weights and
/// g = (W − Ŵ)·H, a by scale and b by origin change tr((W − Ŵ)·H·(W − Ŵ)ᵀ) by
/// a²·qHq + 2·a·b·qH1 + b²·1H1 − 2·(a·qg + b·1g).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curves {
    /// qHq, qH1 and 1H1.
    pub squares: [f64; 3],
    /// qg and 1g.
    pub slopes: [f64; 2],
}

impl Curves {
    fn new(kept: &[usize], codes: &[f32], gradient: &[f64], along: &[Vec<f64>; 2]) -> Self {
        let codes =
            |with: &[f64]| -> f64 { kept.iter().map(|&i| f64::from(codes[i]) * with[i]).sum() };
        let ones = |with: &[f64]| -> f64 { kept.iter().map(|&i| with[i]).sum() };
        Self {
            squares: [codes(&along[0]), ones(&along[0]), ones(&along[1])],
            slopes: [codes(gradient), ones(gradient)],
        }
    }

    /// What moving by `a` and `b` changes.
    pub fn change(&self, [a, b]: [f64; 2]) -> f64 {
        let ([qq, q1, one], [q, r]) = (self.squares, self.slopes);
        a * a * qq + 2.0 * a * b * q1 + b * b * one - 2.0 * (a * q + b * r)
    }

    /// Both at their best together, where that is one point.
    pub fn joint(&self) -> Option<[f64; 2]> {
        let ([qq, q1, one], [q, r]) = (self.squares, self.slopes);
        let determinant = qq * one - q1 * q1;
        (determinant > 1e-12 * qq * one)
            .then(|| [(q * one - r * q1) / determinant, (r * qq - q * q1) / determinant])
    }

    /// The best move of the origin beside a move of the scale.
    pub fn origin_beside(&self, a: f64) -> f64 {
        let [_, q1, one] = self.squares;
        if one > 0.0 { (self.slopes[1] - a * q1) / one } else { 0.0 }
    }

    /// How far to go from `from` along (1, −zero), where scale and origin move together about a zero point.
    pub fn about(&self, zero: f64, [a, b]: [f64; 2]) -> Option<f64> {
        let ([qq, q1, one], [q, r]) = (self.squares, self.slopes);
        let curve = qq - 2.0 * zero * q1 + zero * zero * one;
        let slope = q - zero * r - (a * (qq - zero * q1) + b * (q1 - zero * one));
        (curve > 0.0).then(|| slope / curve)
    }
}

/// Σ H[i, ..] over the columns of each group.
fn ones(h: &Array2<f64>, spans: &[Range<usize>]) -> Vec<Vec<f64>> {
    let of_span = |span: &Range<usize>| {
        let mut sum = vec![0.0; h.ncols()];
        combine(h, span.clone().map(|i| (i, 1.0)), &mut sum);
        sum
    };
    spans.par_iter().map(of_span).collect()
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

/// Σ factor·H[i, ..] over some columns.
fn combine(h: &Array2<f64>, columns: impl Iterator<Item = (usize, f64)>, out: &mut [f64]) {
    out.fill(0.0);
    for (i, factor) in columns {
        if let Some(row) = h.row(i).to_slice() {
            subtract(-factor, row, out);
        }
    }
}
