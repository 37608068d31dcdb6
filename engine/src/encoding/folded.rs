//! A matrix of another shape, whose rows and columns are the digits of this one's: sums of Kronecker products, and trains of cores.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::encoding::{Encoding, Layout, Part};
use crate::tensor::MatrixShape;

/// A folded layout: rows are `[rows, rest]`, columns `[cols, rest]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FoldedLayout {
    /// The first digit of a row is below this, which divides the rows.
    pub rows: usize,
    /// The first digit of a column is below this, which divides the columns.
    pub cols: usize,
    /// How the matrix of first digits by second digits is held.
    pub inner: Box<Layout>,
}

impl FoldedLayout {
    /// `[rows·cols, rest·rest]` of what lies within; `None` where the digits do not divide.
    pub fn inner_shape(&self, shape: MatrixShape) -> Option<MatrixShape> {
        let rest =
            |n: usize, first: usize| (first > 0 && n.is_multiple_of(first)).then(|| n / first);
        let (below, beside) = (rest(shape.rows, self.rows)?, rest(shape.cols, self.cols)?);
        let rows = self.rows.checked_mul(self.cols)?;
        Some(MatrixShape { rows, cols: below.checked_mul(beside)? })
    }

    pub(super) fn inner_or_none(&self, shape: MatrixShape) -> MatrixShape {
        self.inner_shape(shape).unwrap_or(MatrixShape { rows: 0, cols: 0 })
    }

    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        self.inner.bytes(self.inner_or_none(shape))
    }
}

/// The digits of a matrix of that shape as another: W\[i·m + k, j·n + l\] is its \[i·cols + j, k·n + l\]. With a product within,
/// W = Σ Aᵣ ⊗ Bᵣ (Van Loan & Pitsianis 1993).
pub fn folded(weights: &Array2<f64>, (rows, cols): (usize, usize)) -> Array2<f64> {
    let (m, n) = (weights.nrows() / rows.max(1), weights.ncols() / cols.max(1));
    Array2::from_shape_fn((rows * cols, m * n), |(first, second)| {
        weights[[first / cols * m + second / n, first % cols * n + second % n]]
    })
}

/// What another encoding of a matrix of another shape stands for.
#[derive(Clone, Debug)]
pub struct Folded {
    shape: MatrixShape,
    rows: usize,
    cols: usize,
    inner: Box<Encoding>,
    /// The weights: rows need those of many rows within.
    decoded: Vec<f32>,
}

impl PartialEq for Folded {
    fn eq(&self, other: &Self) -> bool {
        let of = |folded: &Self| (folded.shape, folded.rows, folded.cols);
        of(self) == of(other) && self.inner == other.inner
    }
}

impl Folded {
    /// `inner` as a matrix of this shape, whose rows begin with a digit below `rows`, its columns with one below `cols`.
    ///
    /// # Panics
    /// If the shape of `inner` is not that of the digits.
    pub fn new(shape: MatrixShape, (rows, cols): (usize, usize), inner: Encoding) -> Self {
        let layout = FoldedLayout { rows, cols, inner: Box::new(inner.layout()) };
        assert_eq!(layout.inner_shape(shape), Some(inner.shape()), "a matrix of the digits");
        let values = inner.decode();
        let (m, n) = (shape.rows / rows, shape.cols / cols);
        let mut decoded = Vec::with_capacity(shape.elements());
        for row in 0..shape.rows {
            for first in 0..cols {
                let within = values.row(row / m * cols + first);
                let start = row % m * n;
                decoded.extend(within.iter().skip(start).take(n));
            }
        }
        Self { shape, rows, cols, inner: Box::new(inner), decoded }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The matrix of digits.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> FoldedLayout {
        FoldedLayout { rows: self.rows, cols: self.cols, inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.decoded[row * out.len()..(row + 1) * out.len()]);
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        self.inner.parts()
    }

    pub(super) fn from_parts<'a>(
        layout: &FoldedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let inner = Encoding::from_parts(&layout.inner, layout.inner_shape(shape)?, part)?;
        Some(Self::new(shape, (layout.rows, layout.cols), inner))
    }
}
