//! All singular values at once, to full accuracy, of a matrix that fits into memory.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{MatRef, Par, Spec};
use ndarray::{ArrayView2, CowArray, Ix2};

/// Pieces into which the decomposition is cut. Fixed, as the cuts decide the order of sums: the values are the
/// same to the last bit whatever number of threads works on the pieces.
const PIECES: usize = 8;
/// rows·cols·min(rows, cols) up to which the decomposition, which cannot be stopped, ends within about 0.1 s on
/// two cores: order 670.
const MOST_OPERATIONS: u128 = 300_000_000;
/// Entries up to which two copies of the matrix in f64 are held: 32 MiB each.
const MOST_ENTRIES: u128 = 1 << 22;

/// Whether a `[rows, cols]` matrix is small enough to be decomposed at once: it takes about 0.1 s, in which
/// nothing can stop it. Larger ones go [by the Gram matrix](super::singular_values_by_gram).
pub fn is_direct(rows: usize, cols: usize) -> bool {
    let entries = rows as u128 * cols as u128;
    entries <= MOST_ENTRIES && entries * rows.min(cols) as u128 <= MOST_OPERATIONS
}

/// Bytes that the direct way holds at once: the matrix in f32, and twice in f64.
pub fn direct_bytes(rows: usize, cols: usize) -> u64 {
    (rows as u64).saturating_mul(cols as u64).saturating_mul(4 + 2 * 8)
}

/// The singular value below which those of [`singular_values`] are noise: n·ε·σ₁ (the bound of LAPACK's users'
/// guide, and numpy's `matrix_rank`).
pub fn direct_floor(singular_values: &[f64]) -> f64 {
    let largest = singular_values.first().copied().unwrap_or(0.0);
    largest * singular_values.len() as f64 * f64::EPSILON
}

/// All singular values of a `[rows, cols]` matrix, largest first, `min(rows, cols)` of them.
///
/// Computed in f64 by faer's bidiagonalisation: about 8/3·n³ operations for a square matrix of order n.
/// `None` if the iteration does not converge, as with values that are not finite.
pub fn singular_values(matrix: ArrayView2<'_, f32>) -> Option<Vec<f64>> {
    singular_values_f64(matrix.mapv(f64::from).view())
}

/// [`singular_values`] of a matrix of f64.
pub fn singular_values_f64(matrix: ArrayView2<'_, f64>) -> Option<Vec<f64>> {
    let (rows, cols) = matrix.dim();
    if rows == 0 || cols == 0 {
        return Some(Vec::new());
    }
    let wide: CowArray<'_, f64, Ix2> = matrix.as_standard_layout();
    let view = MatRef::from_row_major_slice(wide.as_slice()?, rows, cols);
    let (par, no) = (Par::rayon(PIECES), ComputeSvdVectors::No);
    let mut values = Diag::<f64>::zeros(rows.min(cols));
    let scratch = svd_scratch::<f64>(rows, cols, no, no, par, Spec::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    svd(view, values.as_mut(), None, None, par, stack, Spec::default()).ok()?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    values.iter().all(|value| value.is_finite()).then_some(values)
}
