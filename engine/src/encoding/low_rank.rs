//! Products of two thin matrices.

use serde::{Deserialize, Serialize};

use crate::encoding::described::SIDES;
use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::tensor::MatrixShape;

/// Left `[rows, rank]` and right `[rank, cols]` without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LowRankLayout {
    /// Columns of the left factor, rows of the right one.
    pub rank: usize,
    /// How the left factor is held.
    pub left: Box<Layout>,
    /// How the right factor is held.
    pub right: Box<Layout>,
}

impl LowRankLayout {
    pub(super) fn shapes(&self, shape: MatrixShape) -> [MatrixShape; 2] {
        [
            MatrixShape { rows: shape.rows, cols: self.rank },
            MatrixShape { rows: self.rank, cols: shape.cols },
        ]
    }

    /// The bytes of both factors.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let [left, right] = self.shapes(shape);
        self.left.bytes(left) + self.right.bytes(right)
    }
}

/// W ≈ left·right, with left `[rows, rank]` and right `[rank, cols]` in any encoding of their own.
#[derive(Clone, Debug)]
pub struct LowRank {
    left: Box<Encoding>,
    right: Box<Encoding>,
    /// The right factor decoded, row-major: every row of the product needs all of it.
    decoded: Vec<f32>,
}

impl PartialEq for LowRank {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.right == other.right
    }
}

impl LowRank {
    /// The product of two factors.
    ///
    /// # Panics
    /// If the columns of the left are not as many as the rows of the right.
    pub fn new(left: Encoding, right: Encoding) -> Self {
        assert_eq!(left.shape().cols, right.shape().rows, "one rank");
        let decoded = right.decode().into_raw_vec_and_offset().0;
        Self { left: Box::new(left), right: Box::new(right), decoded }
    }

    /// `[rows, cols]` of the product.
    pub fn shape(&self) -> MatrixShape {
        MatrixShape { rows: self.left.shape().rows, cols: self.right.shape().cols }
    }

    /// The left factor, `[rows, rank]`.
    pub fn left(&self) -> &Encoding {
        &self.left
    }

    /// The right factor, `[rank, cols]`.
    pub fn right(&self) -> &Encoding {
        &self.right
    }

    /// Rank and how the factors are held.
    pub fn layout(&self) -> LowRankLayout {
        LowRankLayout {
            rank: self.left.shape().cols,
            left: Box::new(self.left.layout()),
            right: Box::new(self.right.layout()),
        }
    }

    /// A row of the product: the factors' values in f32, their products added in f64 in the order of the rank.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let mut left = vec![0.0; self.left.shape().cols];
        self.left.decode_row(row, &mut left);
        let mut sums = vec![0.0_f64; out.len()];
        for (weight, right) in left.iter().zip(self.decoded.chunks(out.len().max(1))) {
            let weight = f64::from(*weight);
            for (sum, &value) in sums.iter_mut().zip(right) {
                *sum += weight * f64::from(value);
            }
        }
        for (value, sum) in out.iter_mut().zip(sums) {
            *value = sum as f32;
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = parts_within(&self.left, SIDES[0]);
        parts.extend(parts_within(&self.right, SIDES[1]));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &LowRankLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let [left, right] = layout.shapes(shape);
        let of = |side: &'static str| move |name: &str| part(&format!("{side}{name}"));
        let left = Encoding::from_parts(&layout.left, left, &of(SIDES[0]))?;
        let right = Encoding::from_parts(&layout.right, right, &of(SIDES[1]))?;
        Some(Self::new(left, right))
    }
}
