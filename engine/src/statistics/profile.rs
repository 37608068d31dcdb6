//! Rows and columns of a matrix, each with its own range, spread and tails.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::tensor::CHUNK_ELEMENTS;

/// Pieces a matrix is cut into. Fixed, as the cuts decide the order of sums.
const PIECES: usize = 32;

/// One number for each row, or for each column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Largest |w|.
    pub abs_max: Vec<f32>,
    /// Standard deviation of the population.
    pub std: Vec<f32>,
    /// Excess kurtosis; NaN where all values are equal.
    pub kurtosis: Vec<f32>,
}

/// The rows (outputs) and columns (inputs) of a matrix `[rows, cols]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Of each output row.
    pub rows: Line,
    /// Of each input column.
    pub cols: Line,
}

/// Sums of powers of one row or column, around a common shift.
#[derive(Clone, Copy, Default)]
struct Powers {
    n: u64,
    sums: [f64; 4],
    abs_max: f32,
}

impl Powers {
    #[inline]
    fn add(&mut self, w: f32, shift: f64) {
        if w.is_finite() {
            let d = f64::from(w) - shift;
            let square = d * d;
            self.n += 1;
            self.sums[0] += d;
            self.sums[1] += square;
            self.sums[2] += square * d;
            self.sums[3] += square * square;
            self.abs_max = self.abs_max.max(w.abs());
        }
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum += more;
        }
        self.abs_max = self.abs_max.max(other.abs_max);
    }

    /// Standard deviation and excess kurtosis from the moments around the shift.
    fn spread(&self) -> (f64, f64) {
        let [m1, m2, m3, m4] = self.sums.map(|sum| sum / self.n as f64);
        let variance = (m2 - m1 * m1).max(0.0);
        let fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1.powi(4);
        // Below the rounding of the sums there is no spread to speak of.
        let has_spread = variance > 1e-13 * m2;
        (variance.sqrt(), if has_spread { fourth / (variance * variance) - 3.0 } else { f64::NAN })
    }
}

impl Line {
    fn push(&mut self, powers: &Powers) {
        let (std, kurtosis) = powers.spread();
        self.abs_max.push(powers.abs_max);
        self.std.push(std as f32);
        self.kurtosis.push(kurtosis as f32);
    }

    fn of(all: &[Powers]) -> Self {
        let mut line = Self::default();
        for powers in all {
            line.push(powers);
        }
        line
    }
}

/// Rows cut into at most [`PIECES`] ranges of equal length.
pub(super) fn pieces(rows: usize) -> Vec<Range<usize>> {
    let length = rows.div_ceil(PIECES).max(1);
    (0..rows).step_by(length).map(|first| first..rows.min(first + length)).collect()
}

/// Passes the rows of a piece to `visit`, some 2¹⁸ weights at a time.
pub(super) fn visit_rows(
    checkpoint: &Checkpoint,
    index: usize,
    (piece, cols): (Range<usize>, usize),
    observer: &dyn Observer,
    mut visit: impl FnMut(usize, ArrayView1<'_, f32>),
) -> Result<()> {
    let step = (CHUNK_ELEMENTS / cols.max(1)).max(1);
    for first in piece.clone().step_by(step) {
        observer.go_on()?;
        let rows = first..piece.end.min(first + step);
        let block = checkpoint.weight_block(index, rows.clone(), 0..cols)?;
        let block: ArrayView2<'_, f32> = block.view();
        rows.zip(block.outer_iter()).for_each(|(row, weights)| visit(row, weights));
    }
    Ok(())
}

/// Measures the rows and columns of a layer; NaN and infinite values are left out. Cost: one pass; memory: 48 bytes
/// a column for each of 32 pieces. `mean` is the layer's own, so that sums of powers keep their digits.
///
/// # Errors
/// [`Error::Unsupported`] for a tensor that is no matrix, [`Error::Cancelled`], [`Error::Io`].
pub fn measure_profile(
    checkpoint: &Checkpoint,
    index: usize,
    mean: f64,
    observer: &dyn Observer,
) -> Result<Profile> {
    let tensor = &checkpoint.tensors()[index];
    let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
        what: format!("a profile of tensor {} ({})", tensor.name, tensor.why_no_matrix()),
    })?;
    let cols = matrix.shape.cols;
    let shift = if mean.is_finite() { mean } else { 0.0 };
    let parts: Vec<(Line, Vec<Powers>)> = pieces(matrix.shape.rows)
        .into_par_iter()
        .map(|piece| {
            let (mut rows, mut columns) = (Line::default(), vec![Powers::default(); cols]);
            visit_rows(checkpoint, index, (piece, cols), observer, |_, weights| {
                let mut powers = Powers::default();
                for (&w, column) in weights.iter().zip(&mut columns) {
                    powers.add(w, shift);
                    column.add(w, shift);
                }
                rows.push(&powers);
            })?;
            Ok((rows, columns))
        })
        .collect::<Result<_>>()?;
    let mut profile = Profile::default();
    let mut columns = vec![Powers::default(); cols];
    for (rows, more) in parts {
        profile.rows.abs_max.extend(rows.abs_max);
        profile.rows.std.extend(rows.std);
        profile.rows.kurtosis.extend(rows.kurtosis);
        columns.iter_mut().zip(&more).for_each(|(column, more)| column.merge(more));
    }
    profile.cols = Line::of(&columns);
    Ok(profile)
}
