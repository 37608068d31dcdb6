//! A positive semidefinite matrix as L·Lᵀ, of whatever rank it is.

use faer::{Mat, MatRef};

use crate::numeric::spectrum::reflect::axpy;
use crate::numeric::spectrum::tiles::SymmetricTiles;

/// Columns found before the rest of the matrix is brought up to date at once.
const PANEL: usize = 64;

/// H ≈ L·Lᵀ with L `[n, rank]`, its rows in the order of H.
#[derive(Clone, Debug)]
pub struct Cholesky {
    n: usize,
    /// L, row by row.
    factor: Vec<f64>,
    pivots: Vec<usize>,
}

/// The matrix being taken apart.
struct Rest {
    matrix: SymmetricTiles,
    /// What is left of the diagonal, never negative; `None` where the pivot has been.
    diagonal: Vec<Option<f64>>,
    /// Columns of L, each of length n.
    columns: Vec<f64>,
    pivots: Vec<usize>,
}

impl Cholesky {
    /// Takes `matrix` apart with the largest entry left on the diagonal as the next pivot, until it is at most
    /// n·ε times the largest of H, or `most` columns are found (Higham 1990, LAPACK's `dpstrf`): the rest of H is
    /// then no more than n times that in trace. 2·n²·rank operations, half of them saved by symmetry.
    /// `None` once `is_cancelled`; a matrix that is not finite has rank 0.
    pub(in crate::numeric) fn new(
        matrix: SymmetricTiles,
        most: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let n = matrix.order();
        let diagonal: Vec<Option<f64>> = (0..n).map(|i| Some(matrix.get(i, i).max(0.0))).collect();
        let largest = diagonal.iter().flatten().copied().fold(0.0, f64::max);
        let floor = largest * n as f64 * f64::EPSILON;
        let mut rest = Rest { matrix, diagonal, columns: Vec::new(), pivots: Vec::new() };
        let most = if rest.matrix.largest().is_finite() { most.min(n) } else { 0 };
        while rest.pivots.len() < most {
            let before = rest.pivots.len();
            for _ in 0..PANEL.min(most - before) {
                if is_cancelled() {
                    return None;
                }
                if !rest.next_column(before, floor) {
                    return Some(rest.finish());
                }
            }
            rest.update(before, is_cancelled);
        }
        if is_cancelled() { None } else { Some(rest.finish()) }
    }

    /// Number of columns of L.
    pub fn rank(&self) -> usize {
        self.pivots.len()
    }

    /// L, `[n, rank]`.
    pub fn factor(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.factor, self.n, self.rank())
    }

    /// The rows of L that make a lower triangle, in order.
    pub fn pivots(&self) -> &[usize] {
        &self.pivots
    }

    /// The lower triangle of those rows, `[rank, rank]`.
    pub fn triangle(&self) -> Mat<f64> {
        let l = self.factor();
        Mat::from_fn(
            self.rank(),
            self.rank(),
            |i, j| if j > i { 0.0 } else { l[(self.pivots[i], j)] },
        )
    }
}

impl Rest {
    /// One more column of L, the matrix being up to date for the first `before`; false where nothing is left.
    fn next_column(&mut self, before: usize, floor: f64) -> bool {
        let n = self.matrix.order();
        let left = self.diagonal.iter().enumerate().filter_map(|(i, left)| Some((i, (*left)?)));
        // Of equal ones the first.
        let larger =
            |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
        let (pivot, value) = left.fold((n, 0.0), larger);
        if value <= floor {
            return false;
        }
        let at = |i: usize| self.matrix.get(i.max(pivot), i.min(pivot));
        let mut column: Vec<f64> = (0..n).map(at).collect();
        for done in self.columns[before * n..].chunks(n) {
            axpy(-done[pivot], done, &mut column);
        }
        let root = value.sqrt();
        for (entry, left) in column.iter_mut().zip(&mut self.diagonal) {
            match left {
                Some(left) => {
                    *entry /= root;
                    *left = (*left - *entry * *entry).max(0.0);
                }
                // Rows that have been pivots hold nothing but rounding.
                None => *entry = 0.0,
            }
        }
        column[pivot] = root;
        self.diagonal[pivot] = None;
        self.columns.extend(column);
        self.pivots.push(pivot);
        true
    }

    /// H ← H − L·Lᵀ of the columns from `before` on.
    fn update(&mut self, before: usize, is_cancelled: &(dyn Fn() -> bool + Sync)) {
        let n = self.matrix.order();
        let k = self.pivots.len() - before;
        let panel = MatRef::from_column_major_slice(&self.columns[before * n..], n, k);
        // Transposed, as products run fastest over what lies side by side.
        let panel = Mat::from_fn(k, n, |i, j| panel[(j, i)]);
        self.matrix.add_product(0, -1.0, [panel.as_ref(), panel.as_ref()], is_cancelled);
    }

    fn finish(self) -> Cholesky {
        let n = self.matrix.order();
        let rank = self.pivots.len();
        let mut factor = vec![0.0; n * rank];
        for (j, column) in self.columns.chunks(n.max(1)).enumerate() {
            for (i, value) in column.iter().enumerate() {
                factor[i * rank + j] = *value;
            }
        }
        Cholesky { n, factor, pivots: self.pivots }
    }
}
