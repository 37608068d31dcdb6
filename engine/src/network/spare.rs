//! Memory of matrices that were used, for those to come: new memory costs the system a page fault every 4 KiB.

use std::sync::{Mutex, PoisonError};

use ndarray::Array2;

/// Matrices kept at once: those of a block, and what passes through it.
const KEPT: usize = 32;

/// Matrices that are no longer needed.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<f32>>>);

impl Spare {
    /// A matrix `[rows, cols]` of any values: whoever takes it writes all of them.
    pub(super) fn take(&self, (rows, cols): (usize, usize)) -> Array2<f32> {
        let len = rows * cols;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<f32>| buffer.capacity() >= len && buffer.capacity() / 4 <= len;
        let best = kept.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let best = best.min_by_key(|(_, buffer)| buffer.capacity()).map(|(at, _)| at);
        let Some(mut buffer) = best.map(|at| kept.swap_remove(at)) else {
            return Array2::zeros((rows, cols));
        };
        drop(kept);
        buffer.resize(len, 0.0);
        Array2::from_shape_vec((rows, cols), buffer).unwrap_or_else(|_| Array2::zeros((rows, cols)))
    }

    /// `x` in spare memory.
    pub(super) fn copy(&self, x: ndarray::ArrayView2<'_, f32>) -> Array2<f32> {
        let mut copy = self.take(x.dim());
        copy.assign(&x);
        copy
    }

    /// Takes back the memory of a matrix.
    pub(super) fn give(&self, matrix: Array2<f32>) {
        let (buffer, _) = matrix.into_raw_vec_and_offset();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_where_it_fits() {
        let spare = Spare::default();
        let first = spare.take((4, 6));
        assert!(first.iter().all(|x| *x == 0.0));
        let place = first.as_ptr();
        spare.give(first);
        assert_ne!(spare.take((5, 6)).as_ptr(), place, "too small for this one");
        let smaller = spare.take((2, 5));
        assert_eq!((smaller.dim(), smaller.as_ptr()), ((2, 5), place));
    }
}
