//! What errors count: H of the inputs, and what of it the walk needs.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};

use crate::numeric::cholesky::Lower;
use crate::numeric::gram::Gram;
use crate::numeric::product::multiply;

/// H + d·I `[cols, cols]`, or the identity.
#[derive(Debug)]
pub struct Metric {
    cols: usize,
    known: Option<Known>,
    /// How much the errors of each row count; alike where there are none.
    rows: Vec<f64>,
}

#[derive(Debug)]
struct Known {
    h: Array2<f64>,
    ahead: Array2<f64>,
    /// H over the largest of its diagonal.
    narrow: Array2<f32>,
    peak: f64,
}

/// What a change of one run of inputs does to another: H, or what is left of it where all runs behind make good what
/// they can.
#[derive(Clone, Copy, Debug)]
pub(super) struct Coupling<'a> {
    matrix: Option<&'a Array2<f64>>,
    /// Whether there is nothing below the blocks of the runs.
    is_upper: bool,
}

impl<'a> Coupling<'a> {
    /// An element.
    pub(super) fn get(self, i: usize, j: usize) -> f64 {
        self.matrix.map_or(f64::from(u8::from(i == j)), |h| h[[i, j]])
    }

    /// Part of a row; `None` of the identity.
    pub(super) fn row(self, i: usize, span: Range<usize>) -> Option<&'a [f64]> {
        let h = self.matrix?;
        let first = i * h.ncols();
        h.as_slice().map(|all| &all[first + span.start..first + span.end])
    }

    /// out = x·C\[.., columns\] of whole runs, x `[rows, cols]` row-major.
    pub(super) fn times(self, x: &[f64], columns: Range<usize>, out: &mut [f64]) {
        let width = columns.len();
        if width == 0 {
            return;
        }
        let rows = out.len() / width;
        let cols = x.len() / rows.max(1);
        match self.matrix.and_then(|h| h.as_slice()) {
            Some(h) => {
                let depth = if self.is_upper { columns.end } else { cols };
                let h = MatRef::from_row_major_slice(h, cols, cols);
                let h = h.submatrix(0, columns.start, depth, width);
                let x = MatRef::from_row_major_slice(x, rows, cols).subcols(0, depth);
                let out = MatMut::from_row_major_slice_mut(out, rows, width);
                matmul(out, Accum::Replace, x, h, 1.0, Par::Seq);
            }
            None => {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(cols)) {
                    out.copy_from_slice(&x[columns.clone()]);
                }
            }
        }
    }
}

impl Metric {
    /// The identity: every weight counts alike.
    pub fn plain(cols: usize) -> Self {
        Self { cols, known: None, rows: Vec::new() }
    }

    /// The identity, where errors of each row count so much, more than 0.
    pub fn counting(cols: usize, rows: Vec<f64>) -> Self {
        Self { cols, known: None, rows }
    }

    /// How much errors of a row count.
    pub(super) fn of_row(&self, row: usize) -> f64 {
        self.rows.get(row).copied().unwrap_or(1.0)
    }

    /// How much errors of each row count; none where all count alike.
    pub(super) fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// H + d·I for H = `gram` / tokens and d = `damping` · mean of the diagonal of inputs that are not always zero; the
    /// identity where all are. Runs are of `run` inputs. Cost: 1/3·n³ operations for the factor, 20·n² bytes that stay,
    /// 8·n² beside them. The same on any number of threads. `None` once `is_cancelled`, or where H + d·I is not positive
    /// definite.
    pub fn new(
        gram: &Gram,
        (damping, run): (f64, usize),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let (cols, tokens) = (gram.channels(), gram.tokens().max(1) as f64);
        let diagonal = gram.diagonal();
        let alive = diagonal.iter().filter(|&&square| square > 0.0).count();
        if alive == 0 {
            return Some(Self::plain(cols));
        }
        let added = damping * diagonal.iter().sum::<f64>() / tokens / alive as f64;
        let mut h = gram.to_dense();
        h /= tokens;
        h.diag_mut().map_inplace(|value| *value += added);
        let backwards = |i: usize, j: usize| h[[cols - 1 - i, cols - 1 - j]];
        let lower = Lower::of(cols, &backwards, is_cancelled)?;
        // H = R·Rᵀ with R upper triangular.
        let upper = |i: usize, j: usize| lower.get(cols - 1 - i, cols - 1 - j);
        let mut ahead = Array2::zeros((cols, cols));
        ahead.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(i, mut row)| {
            for j in i / run * run..cols {
                let end = ((j / run + 1) * run).min(cols);
                row[j] = (i.max(j)..end).map(|k| upper(i, k) * upper(j, k)).sum::<f64>();
            }
        });
        drop(lower);
        let peak = h.diag().iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let narrow = h.mapv(|value| (value / peak) as f32);
        Some(Self { cols, known: Some(Known { h, ahead, narrow, peak }), rows: Vec::new() })
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether errors of inputs can make good one another.
    pub(super) fn is_plain(&self) -> bool {
        self.known.is_none()
    }

    /// H + d·I.
    pub(super) fn all(&self) -> Coupling<'_> {
        Coupling { matrix: self.known.as_ref().map(|known| &known.h), is_upper: false }
    }

    /// out = factor·x·(H + d·I) in f32, for directions; the factor.
    pub(super) fn direct(&self, x: &[f32], out: &mut [f32]) -> f64 {
        let rows = x.len() / self.cols.max(1);
        let Some(known) = &self.known else {
            out.copy_from_slice(x);
            return 1.0;
        };
        let views = (
            ArrayView2::from_shape((rows, self.cols), x),
            ArrayViewMut2::from_shape((rows, self.cols), out),
        );
        if let (Ok(x), Ok(out)) = views {
            multiply(1.0, x, known.narrow.view(), false, out);
        }
        known.peak.recip()
    }

    /// With H + d·I = V·D·Vᵀ, V upper triangular with ones on the diagonal and D diagonal in blocks of the runs: V·D. A
    /// run that is fixed after those before it and before those behind, which will make good what they can, counts by
    /// its block of D, about wⱼ·Dⱼ + Σ (wₐ − ŵₐ)·(V·D)ₐⱼ.
    pub(super) fn ahead(&self) -> Coupling<'_> {
        Coupling { matrix: self.known.as_ref().map(|known| &known.ahead), is_upper: true }
    }
}
