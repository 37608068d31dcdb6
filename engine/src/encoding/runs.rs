//! Whole runs of inputs of a row, kept or zero: a bit for each run, and those that are kept as the rows of another matrix.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{RUN_MASK, prefix_under};
use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::tensor::{DType, MatrixShape};

/// Kept runs without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunsLayout {
    /// Inputs of a run; the last of a row may have fewer.
    pub run: usize,
    /// Runs kept.
    pub kept: usize,
    /// How the kept ones are held: as a matrix `[kept, run]`.
    pub inner: Box<Layout>,
}

impl RunsLayout {
    /// Runs of a row.
    pub fn runs_per_row(&self, cols: usize) -> usize {
        cols.div_ceil(self.run)
    }

    /// Runs of a matrix.
    pub(super) fn runs(&self, shape: MatrixShape) -> usize {
        shape.rows * self.runs_per_row(shape.cols)
    }

    /// `[rows, cols]` of what holds the kept runs.
    pub fn inner_shape(&self) -> MatrixShape {
        MatrixShape { rows: self.kept, cols: self.run }
    }

    /// ⌈runs/8⌉ for the bits, and the inner layout's bytes.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        self.runs(shape).div_ceil(8) as u64 + self.inner.bytes(self.inner_shape())
    }

    /// What parts of the inner layout begin with.
    pub(super) fn prefix(&self) -> &'static str {
        prefix_under(&[RUN_MASK], &self.inner, "inner.")
    }

    /// Whether there are so many runs; what lies within is asked by itself.
    pub(super) fn is_valid(&self, shape: MatrixShape) -> bool {
        self.run > 0 && self.run <= shape.cols.max(1) && self.kept <= self.runs(shape)
    }
}

/// Kept runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Runs {
    shape: MatrixShape,
    run: usize,
    keep: Vec<bool>,
    /// Kept runs before each row.
    before: Vec<usize>,
    inner: Box<Encoding>,
}

impl Runs {
    /// Holds the runs that `keep` marks, row by row, in the rows of `inner`; what lies there beyond the end of a shorter
    /// last run is nobody's.
    ///
    /// # Panics
    /// If the numbers of runs do not fit the shape, or `inner` has not a row for each that is kept.
    pub fn new(shape: MatrixShape, run: usize, keep: Vec<bool>, inner: Encoding) -> Self {
        let per_row = shape.cols.div_ceil(run);
        assert_eq!(keep.len(), shape.rows * per_row, "one bit a run");
        let kept = keep.iter().filter(|&&keep| keep).count();
        assert_eq!(inner.shape(), MatrixShape { rows: kept, cols: run }, "a row for each kept run");
        let before = before(&keep, per_row);
        Self { shape, run, keep, before, inner: Box::new(inner) }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Which runs are kept, row by row.
    pub fn keep(&self) -> &[bool] {
        &self.keep
    }

    /// What holds the kept runs, one a row.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    pub(super) fn layout(&self) -> RunsLayout {
        let kept = self.inner.shape().rows;
        RunsLayout { run: self.run, kept, inner: Box::new(self.inner.layout()) }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let per_row = self.shape.cols.div_ceil(self.run);
        let keep = &self.keep[row * per_row..(row + 1) * per_row];
        let mut at = self.before.get(row).copied().unwrap_or(0);
        let mut values = vec![0.0; self.run];
        for (out, &keep) in out.chunks_mut(self.run).zip(keep) {
            if keep {
                self.inner.decode_row(at, &mut values);
                out.copy_from_slice(&values[..out.len()]);
                at += 1;
            } else {
                out.fill(0.0);
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let byte = |keep: &[bool]| {
            keep.iter().enumerate().fold(0, |byte, (i, &keep)| byte | u8::from(keep) << i)
        };
        let bits: Vec<u8> = self.keep.chunks(8).map(byte).collect();
        let prefix = self.layout().prefix();
        let inner = parts_within(&self.inner, prefix);
        std::iter::once(Part::new(RUN_MASK, DType::U8, bits)).chain(inner).collect()
    }

    pub(super) fn from_parts<'a>(
        layout: &RunsLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let runs = layout.runs(shape);
        let bits = part(RUN_MASK).filter(|bits| bits.len() == runs.div_ceil(8))?;
        let keep: Vec<bool> = (0..runs).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        if keep.iter().filter(|&&keep| keep).count() != layout.kept {
            return None;
        }
        let prefix = layout.prefix();
        let of_inner = |name: &str| part(&format!("{prefix}{name}"));
        let inner = Encoding::from_parts(&layout.inner, layout.inner_shape(), &of_inner)?;
        let before = before(&keep, layout.runs_per_row(shape.cols));
        Some(Self { shape, run: layout.run, keep, before, inner: Box::new(inner) })
    }
}

fn before(keep: &[bool], per_row: usize) -> Vec<usize> {
    let mut count = 0;
    let rows = keep.chunks(per_row.max(1));
    rows.map(|row| {
        let before = count;
        count += row.iter().filter(|&&keep| keep).count();
        before
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Dense;

    #[test]
    fn runs_that_are_dropped_cost_a_bit_and_nothing_else() {
        let shape = MatrixShape { rows: 3, cols: 7 };
        // Runs of 4 and of 3; the second row keeps none.
        let keep = vec![true, false, false, false, true, true];
        let inner = MatrixShape { rows: 3, cols: 4 };
        let values: Vec<f32> = (1..=12_u8).map(f32::from).collect();
        let inner = Encoding::Dense(Dense::new(inner, DType::BF16, &values));
        let runs = Encoding::Runs(Runs::new(shape, 4, keep, inner));
        let decoded = runs.decode();
        assert_eq!(decoded.row(0).to_vec(), [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
        assert_eq!(decoded.row(1).to_vec(), [0.0; 7]);
        assert_eq!(decoded.row(2).to_vec(), [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        assert_eq!((runs.bytes(), runs.layout().bytes(shape)), (25, 25));
        let parts = runs.parts();
        let restore = |parts: &[Part<'_>]| {
            let find =
                |name: &str| parts.iter().find(|part| part.name == name).map(|part| &*part.bytes);
            Encoding::from_parts(&runs.layout(), shape, &find)
        };
        assert_eq!(restore(&parts).as_ref(), Some(&runs));
        let mut more = parts;
        more[0].bytes.to_mut()[0] |= 2;
        assert!(restore(&more).is_none(), "a run too many");
    }
}
