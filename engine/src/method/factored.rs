//! Codebooks whose entries are points of a few dimensions, in a basis that all runs share (LR²VQ without its training).

use ndarray::{Array2, ArrayView2};

use crate::encoding::{
    Additive, AdditiveLayout, Dense, Encoding, Folded, FoldedLayout, Layout, LowRank,
    LowRankLayout, folded,
};
use crate::error::Result;
use crate::method::Task;
use crate::method::factors::{directions, fitted};
use crate::method::signs::saturated;
use crate::tensor::{DType, MatrixShape};

/// Of `[rows, cols]` the runs of inputs, as rows of one matrix, and how many dimensions their entries have.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    rows: usize,
    in_row: usize,
    /// `[runs of all rows, inputs of a run]`.
    shape: MatrixShape,
    dims: usize,
}

impl Runs {
    /// Runs of the largest divisor of the inputs up to `run`.
    pub(super) fn new(shape: MatrixShape, run: usize, dims: usize) -> Self {
        let run = (1..=run.min(shape.cols)).rev().find(|run| shape.cols.is_multiple_of(*run));
        let (rows, in_row) = (shape.rows.max(1), (shape.cols / run.unwrap_or(1)).max(1));
        let width = if shape.elements() == 0 { 0 } else { shape.cols / in_row };
        let shape = MatrixShape { rows: rows * in_row, cols: width };
        Self { rows, in_row, shape, dims: dims.min(width) }
    }

    /// The shape of what codes stand for: a point for each run.
    pub(super) fn points(self) -> MatrixShape {
        MatrixShape { rows: self.shape.rows, cols: self.dims }
    }

    /// Codes of such points, times the basis.
    pub(super) fn layout(self, codes: AdditiveLayout, dtype: DType) -> Layout {
        let (left, right) = (Layout::Additive(codes), Layout::Dense(dtype));
        let (left, right) = (Box::new(left), Box::new(right));
        let inner = Box::new(Layout::LowRank(LowRankLayout { rank: self.dims, left, right }));
        Layout::Folded(FoldedLayout { rows: self.rows, cols: self.in_row, inner })
    }

    /// How much each run counts, of what its row does.
    pub(super) fn counts(self, rows: &[f64]) -> Vec<f64> {
        rows.iter().flat_map(|&row| std::iter::repeat_n(row, self.in_row)).collect()
    }

    /// The basis as it is stored, `[dims, inputs of a run]`, and the points nearest to the runs in it: the leading directions of
    /// Σ x·xᵀ over the runs x, each counted, and least squares in what those are rounded to.
    pub(super) fn basis(
        self,
        weights: ArrayView2<'_, f32>,
        counts: Option<&[f64]>,
        task: &Task<'_>,
    ) -> Result<(Encoding, Array2<f32>)> {
        let runs = folded(&weights.mapv(f64::from), (self.rows, self.in_row));
        let mut across = runs.t().mapv(|value| value as f32);
        for (mut run, count) in across.columns_mut().into_iter().zip(counts.unwrap_or_default()) {
            run *= count.sqrt() as f32;
        }
        let basis = directions(across.view(), None, self.dims, task)?;
        let values: Vec<f32> =
            basis.t().iter().map(|&value| saturated(task.dtype, value as f32)).collect();
        let shape = MatrixShape { rows: self.dims, cols: self.shape.cols };
        let held = Encoding::Dense(Dense::new(shape, task.dtype, &values));
        let stored = held.decode().mapv(f64::from);
        let start = basis.t().dot(&runs.t());
        let points = fitted(&stored.t().to_owned(), &runs.t().to_owned(), start, task)?;
        Ok((held, points.t().mapv(|value| value as f32)))
    }

    /// What codes and basis are together.
    pub(super) fn whole(self, shape: MatrixShape, codes: Additive, basis: Encoding) -> Encoding {
        let inner = LowRank::new(Encoding::Additive(codes), basis);
        Encoding::Folded(Folded::new(shape, (self.rows, self.in_row), Encoding::LowRank(inner)))
    }

    /// A matrix without weights.
    pub(super) fn empty(self, shape: MatrixShape, codes: AdditiveLayout, dtype: DType) -> Encoding {
        let basis = MatrixShape { rows: self.dims, cols: self.shape.cols };
        let basis = Encoding::Dense(Dense::new(basis, dtype, &[]));
        self.whole(shape, Additive::empty(self.points(), codes), basis)
    }
}
