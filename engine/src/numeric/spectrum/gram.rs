//! Singular values of a matrix of any size as roots of the eigenvalues of its Gram matrix.

use std::ops::Range;

use faer::MatRef;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::spectrum::band::reduce_to_band;
use crate::numeric::spectrum::chase::reduce_to_tridiagonal;
use crate::numeric::spectrum::tiles::{SymmetricTiles, TILE};
use crate::numeric::spectrum::tridiagonal::{NoEigenvalues, eigenvalues};

/// Entries of a block of the matrix: 16 MiB in f64, which the allocator hands out again without new pages.
const BLOCK_ENTRIES: usize = 1 << 21;
/// Fewest rows (or columns) of a block: products of fewer would wait for memory.
const MIN_BLOCK: usize = 128;
/// Columns transposed at once.
const COLUMNS_AT_ONCE: usize = 16;

/// Why a decomposition by blocks gave no singular values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped<E> {
    /// It was asked to stop.
    Cancelled,
    /// Some entries are NaN or infinite.
    NotFinite,
    /// The iteration for the eigenvalues did not converge.
    NoConvergence,
    /// A block could not be had.
    Block(E),
}

/// Reads the block `[rows, cols]` of a matrix.
pub type ReadBlock<'a, E> =
    &'a (dyn Fn(Range<usize>, Range<usize>) -> Result<Array2<f64>, E> + Sync);

/// All singular values of a `[rows, cols]` matrix, largest first, through its Gram matrix.
///
/// With n = min(rows, cols) and m = max(rows, cols): G = Aᵀ·A or A·Aᵀ of order n, summed over blocks of
/// whole rows or columns (n²·m operations); G to a band, the band to a tridiagonal matrix, and that one's
/// eigenvalues λ (4/3·n³ + 6·n²·b + 15·n²); σ = √max(λ, 0). Memory: 4·n² bytes and a block of 16 MiB or more.
///
/// Everything is f64. Each λ is off by at most some ten ε·λ₁ (ε = 2.2e-16; measured: 1.2e-15·λ₁), so σ by about
/// 1e-15·σ₁²/σ: relative to itself 1e-15 at the top, 1e-9 at σ = 1e-3·σ₁, 1e-7 at 1e-4·σ₁, and noise below
/// [`gram_floor`]. Squares of what f32 can hold, and of differences of such, neither over- nor underflow in f64.
/// The result is the same to the last bit on any number of threads.
///
/// `is_cancelled` is asked at least every few milliseconds, from any thread; `block` is called in order.
///
/// # Errors
/// See [`Stopped`].
pub fn singular_values_by_gram<E: Send>(
    [rows, cols]: [usize; 2],
    block: ReadBlock<'_, E>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, Stopped<E>> {
    // Inside the pool, so that handing out work does not wake a thread each time.
    rayon::scope(|_| {
        let gram = gram(rows, cols, block, is_cancelled)?;
        let mut values = eigenvalues_of(gram, is_cancelled)?;
        for value in &mut values {
            *value = value.max(0.0).sqrt();
        }
        Ok(values)
    })
}

/// All eigenvalues of a symmetric matrix, largest first; overwrites it. To a band, the band to a tridiagonal matrix,
/// and that one's eigenvalues: 4/3·n³ + 6·n²·b + 15·n² operations, each value to some ten ε times the largest in
/// magnitude.
///
/// # Errors
/// See [`Stopped`]; never [`Stopped::Block`].
pub(in crate::numeric) fn eigenvalues_of<E: Send>(
    mut matrix: SymmetricTiles,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, Stopped<E>> {
    let n = matrix.order();
    let largest = matrix.largest();
    if !largest.is_finite() {
        return Err(Stopped::NotFinite);
    }
    if largest == 0.0 {
        return Ok(vec![0.0; n]);
    }
    // A power of two, so that nothing is rounded: the fourth powers taken later stay in range.
    let scale = (-largest.log2().floor()).exp2();
    matrix.scale(scale);
    let band = reduce_to_band(&mut matrix, is_cancelled).ok_or(Stopped::Cancelled)?;
    drop(matrix);
    let tridiagonal = reduce_to_tridiagonal(band, is_cancelled).ok_or(Stopped::Cancelled)?;
    let mut values = eigenvalues(tridiagonal, is_cancelled).map_err(|why| match why {
        NoEigenvalues::Cancelled => Stopped::Cancelled,
        NoEigenvalues::NoConvergence => Stopped::NoConvergence,
    })?;
    for value in &mut values {
        *value /= scale;
    }
    values.sort_by(|a, b| b.total_cmp(a));
    Ok(values)
}

/// All eigenvalues of the symmetric `[n, n]` matrix of which `matrix` holds the lower triangle, largest first; the
/// entries above the diagonal are not looked at. Memory: 4·n² bytes beside the matrix.
///
/// # Errors
/// See [`Stopped`]; never [`Stopped::Block`].
///
/// # Panics
/// If the matrix is not square.
pub fn symmetric_eigenvalues(
    matrix: ArrayView2<'_, f64>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, Stopped<std::convert::Infallible>> {
    let (rows, cols) = matrix.dim();
    assert_eq!(rows, cols, "a square matrix");
    let mut tiles = SymmetricTiles::zeros(rows);
    tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
        for c in 0..tile.ncols() {
            for r in 0..tile.nrows() {
                let (row, col) = (i * TILE + r, j * TILE + c);
                tile[(r, c)] = matrix[[row.max(col), row.min(col)]];
            }
        }
    });
    rayon::scope(|_| eigenvalues_of(tiles, is_cancelled))
}

/// The singular value below which those of [`singular_values_by_gram`] are noise: σ₁·√(n·ε), some 1e-6·σ₁.
pub fn gram_floor(singular_values: &[f64]) -> f64 {
    let largest = singular_values.first().copied().unwrap_or(0.0);
    largest * (singular_values.len() as f64 * f64::EPSILON).sqrt()
}

/// Bytes that [`singular_values_by_gram`] holds at once for a matrix of f32.
pub fn gram_bytes(rows: usize, cols: usize) -> u64 {
    let n = rows.min(cols) as u64;
    let block = (block_length(rows.min(cols)) as u64).min(rows.max(cols) as u64) * n;
    // Half of G in tiles; the band and the panels of one step; a block in f64 and twice in f32.
    n * n * 4 + n * (8 * 1024) + block * (8 + 2 * 4)
}

/// Rows or columns of a block beside a side of `n`.
fn block_length(n: usize) -> usize {
    (BLOCK_ENTRIES / n.max(1)).max(MIN_BLOCK)
}

/// G of the smaller side.
fn gram<E>(
    rows: usize,
    cols: usize,
    block: ReadBlock<'_, E>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<SymmetricTiles, Stopped<E>> {
    let (n, length) = (rows.min(cols), rows.max(cols));
    let mut gram = SymmetricTiles::zeros(n);
    let step = block_length(n);
    for first in (0..length).step_by(step) {
        if is_cancelled() {
            return Err(Stopped::Cancelled);
        }
        let piece = first..(first + step).min(length);
        let values =
            if rows < cols { block(0..rows, piece.clone()) } else { block(piece.clone(), 0..cols) };
        let values = values.map_err(Stopped::Block)?;
        // One row or column of the smaller side after the other, each contiguous.
        let k = piece.len();
        let values = if rows < cols { by_rows(values) } else { transposed(&values) };
        let samples = MatRef::from_column_major_slice(&values, k, n);
        gram.add_product(0, 1.0, [samples, samples], is_cancelled);
    }
    if is_cancelled() {
        return Err(Stopped::Cancelled);
    }
    // A sum of squares of numbers is a number.
    let is_finite = (0..n).all(|i| gram.get(i, i).is_finite());
    if is_finite { Ok(gram) } else { Err(Stopped::NotFinite) }
}

/// The entries of a block row by row.
fn by_rows(block: Array2<f64>) -> Vec<f64> {
    if block.is_standard_layout() {
        block.into_raw_vec_and_offset().0
    } else {
        block.iter().copied().collect()
    }
}

/// The entries of a `[k, n]` block column by column.
fn transposed(block: &Array2<f64>) -> Vec<f64> {
    let (k, n) = block.dim();
    let mut columns = vec![0.0; k * n];
    // So many columns at a time that a piece of a row is two cache lines.
    columns.par_chunks_mut(k * COLUMNS_AT_ONCE).enumerate().for_each(|(piece, out)| {
        for (r, row) in block.rows().into_iter().enumerate() {
            let values = row.iter().skip(piece * COLUMNS_AT_ONCE);
            for (column, value) in out.chunks_exact_mut(k).zip(values) {
                column[r] = *value;
            }
        }
    });
    columns
}
