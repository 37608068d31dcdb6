//! The walk of optimal brain surgery along the inputs: one column of weights after the other is fixed, and what that
//! changes in the outputs is made good in the columns to come (Frantar & Alistarh 2022, 2023; Frantar et al. 2022).

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut2, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::inverse::InverseFactor;
use crate::numeric::product::multiply;
use crate::numeric::vector::{Loops, vectorised};

/// Columns fixed before those behind them are brought up to date at once, at least.
pub const BLOCK: usize = 128;
/// Rows that one thread takes at a time.
const ROWS: usize = 64;

/// Decides what the weights become.
pub trait Choice: Sync {
    /// What is remembered of a row.
    type Row: Send + Sync;

    /// Called before the columns of `block` are fixed, with all weights as they are now, row by row.
    fn begin(&self, _block: Range<usize>, _weights: &[f32], _rows: &mut [Self::Row]) {}

    /// What weight `at` of a row becomes; `values` are the row as it is now, up to date to the end of the block.
    fn choose(&self, row: &mut Self::Row, at: usize, values: &[f32]) -> f32;
}

/// Walks along the columns of `weights`, row-major, in the order of `factor`, `block` columns at a time.
///
/// For each column i and row: e = (w − choice)/Uᵢᵢ and wⱼ ← wⱼ − e·Uᵢⱼ for all j > i; behind the block as one
/// product. f32 throughout, as the rounding that follows is coarser by orders of magnitude. Cost: rows·cols² operations. Same bytes on any number of threads. `None` once
/// `is_cancelled`, which is asked for every strip of 64 rows.
///
/// # Panics
/// If the number of weights is not `rows.len()` times the order of the factor.
pub fn sweep<C: Choice>(
    weights: &mut [f32],
    factor: &InverseFactor,
    (choice, rows): (&C, &mut [C::Row]),
    block: usize,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<()> {
    let n = factor.order().len();
    assert_eq!(weights.len(), rows.len() * n, "one weight a row and input");
    for start in (0..n).step_by(block.max(1)) {
        let columns = start..(start + block).min(n);
        choice.begin(columns.clone(), weights, rows);
        let strips = weights.par_chunks_mut(ROWS * n).zip(rows.par_iter_mut().chunks(ROWS));
        strips.for_each(|(strip, rows)| {
            if !is_cancelled() {
                fix(strip, factor, (choice, rows), columns.clone());
            }
        });
        if is_cancelled() {
            return None;
        }
    }
    Some(())
}

/// Fixes a block of columns in a strip of rows.
fn fix<C: Choice>(
    strip: &mut [f32],
    factor: &InverseFactor,
    (choice, rows): (&C, Vec<&mut C::Row>),
    columns: Range<usize>,
) {
    let n = factor.order().len();
    let count = rows.len();
    let mut errors = Array2::zeros((count, columns.len()));
    for ((values, row), mut errors) in strip.chunks_mut(n).zip(rows).zip(errors.rows_mut()) {
        for (i, kept) in columns.clone().zip(&mut errors) {
            let upper = &factor.row(i)[..columns.end - i];
            let chosen = choice.choose(row, i, values);
            let error = (values[i] - chosen) / upper[0];
            values[i] = chosen;
            if error != 0.0 {
                let values = &mut values[i + 1..columns.end];
                vectorised(Subtract { error, upper: &upper[1..], values });
            }
            *kept = error;
        }
    }
    if columns.end < n {
        let upper = factor.upper().slice_move(s![columns.clone(), columns.end..]);
        if let Ok(strip) = ArrayViewMut2::from_shape((count, n), strip) {
            let behind = strip.slice_move(s![.., columns.end..]);
            multiply(-1.0, errors.view(), upper, true, behind);
        }
    }
}

/// values − error · upper.
struct Subtract<'a> {
    error: f32,
    upper: &'a [f32],
    values: &'a mut [f32],
}

impl Loops for Subtract<'_> {
    type Found = ();

    #[expect(clippy::inline_always, reason = "the loop becomes vectors only where it is inlined")]
    #[inline(always)]
    fn run(self) {
        for (value, u) in self.values.iter_mut().zip(self.upper) {
            *value -= self.error * u;
        }
    }
}
