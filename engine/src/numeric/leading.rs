//! The directions of the outputs in which a matrix does most: the leading left singular vectors of D·H^½.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_on_the_left_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply_on_the_left,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch, recommended_block_size,
};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::{Accum, Conj, Mat, MatRef, Par, Spec};
use ndarray::ArrayView2;

use crate::numeric::gram::Gram;
use crate::numeric::seeds::Random;

/// Pieces into which products are cut. Fixed, as the cuts may decide the order of sums.
const PIECES: usize = 8;
/// Rows up to which all directions are computed at once, which cannot be stopped: some 0.1 s.
const DIRECT_ROWS: usize = 400;
/// Products rows·cols² below which a decomposition is not cut.
const ALONE: usize = 1 << 28;
/// Directions beyond those asked for, at least.
const MORE: usize = 16;
/// Iterations, at most.
const MOST_ITERATIONS: usize = 24;
/// The iteration ends when what is left has fallen by less than this share of itself.
const CHANGE: f64 = 1e-4;

/// Orthonormal Q `[rows, rank]`: the leading eigenvectors of G = D·H·Dᵀ, H = Σ x·xᵀ or, without `gram`, the identity.
///
/// Then Q·Qᵀ·D is the matrix of that rank nearest to D in ‖(D − D̂)·H^½‖, whatever the rank of H (Wang et al. 2024
/// and Liu et al. 2024 find the same by whitening). Up to 400 rows all eigenvectors are computed; beyond, subspace
/// iteration from a fixed random start until the energy left falls by less than 1e-4 of itself: it ends above the least by
/// about that. Cost of an iteration: 4·rows·cols·rank + 2·cols²·rank operations in f64, and a QR decomposition of
/// `[rows, rank]`, between which `is_cancelled` is asked. `None` once it says so, or where nothing converges.
/// The same on any number of threads.
///
/// # Panics
/// If the channels of `gram` are not the columns of `d`.
pub fn leading_directions(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    rank: usize,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Mat<f64>> {
    let (rows, cols) = d.dim();
    assert!(gram.is_none_or(|gram| gram.channels() == cols), "one channel a column");
    let rank = rank.min(rows);
    if rank == 0 || cols == 0 {
        return Some(Mat::from_fn(rows, rank, |i, j| f64::from(u8::from(i == j))));
    }
    let d = Mat::from_fn(rows, cols, |i, j| f64::from(d[[i, j]]));
    let apply = |q: MatRef<'_, f64>| -> Option<Mat<f64>> {
        let mut back = product(q.transpose(), d.as_ref());
        if let Some(gram) = gram {
            back = gram.tiles().multiplied_by(0, back.as_ref(), is_cancelled);
        }
        let out = product(d.as_ref(), back.as_ref().transpose());
        (!is_cancelled()).then_some(out)
    };
    if rows <= DIRECT_ROWS {
        let all = apply(Mat::<f64>::identity(rows, rows).as_ref())?;
        let (vectors, _) = left_vectors(all.as_ref())?;
        return Some(vectors.subcols(0, rank).to_owned());
    }
    let total: f64 = match gram {
        None => d.col_iter().map(|col| col.iter().map(|v| v * v).sum::<f64>()).sum(),
        Some(gram) => {
            let rows = ndarray::Array2::from_shape_fn((rows, cols), |(i, j)| d[(i, j)] as f32);
            gram.quadratic_forms(rows.view()).iter().sum()
        }
    };
    iterate(rows, rank, total, &apply)
}

/// Subspace iteration with the projection of Rayleigh and Ritz.
fn iterate(
    rows: usize,
    rank: usize,
    total: f64,
    apply: &dyn Fn(MatRef<'_, f64>) -> Option<Mat<f64>>,
) -> Option<Mat<f64>> {
    let width = (rank + MORE.max(rank / 4)).min(rows);
    let mut random = Random::new(0);
    let start = Mat::from_fn(rows, width, |_, _| random.normal());
    let mut basis = orthonormal(start)?;
    let mut left_before = f64::INFINITY;
    for _ in 0..MOST_ITERATIONS {
        let image = apply(basis.as_ref())?;
        let small = product(basis.as_ref().transpose(), image.as_ref());
        let (turn, values) = left_vectors(small.as_ref())?;
        let left = (total - values[..rank].iter().sum::<f64>()).max(0.0);
        // No less than rounding leaves of the total.
        if left_before - left <= CHANGE * left + 1e-12 * total {
            return Some(product(basis.as_ref(), turn.as_ref().subcols(0, rank)));
        }
        left_before = left;
        basis = orthonormal(image)?;
    }
    let image = apply(basis.as_ref())?;
    let turn = left_vectors(product(basis.as_ref().transpose(), image.as_ref()).as_ref())?.0;
    Some(product(basis.as_ref(), turn.as_ref().subcols(0, rank)))
}

/// a·b.
fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, Par::rayon(PIECES));
    out
}

/// How the decomposition of a matrix is cut: small ones wait for their pieces longer than those take.
fn pieces(rows: usize, cols: usize) -> Par {
    if rows * cols * cols < ALONE { Par::Seq } else { Par::rayon(PIECES) }
}

/// Q `[rows, cols]` of the decomposition QR, whose columns span those of a matrix with no fewer rows than columns, and more where
/// they depend on each other; `None` of what is not finite.
fn orthonormal(mut matrix: Mat<f64>) -> Option<Mat<f64>> {
    let (rows, cols) = matrix.shape();
    let par = pieces(rows, cols);
    let block = recommended_block_size::<f64>(rows, cols);
    let scratch = StackReq::any_of(&[
        qr_in_place_scratch::<f64>(rows, cols, block, par, Spec::default()),
        apply_on_the_left_scratch::<f64>(rows, block, cols),
    ]);
    let mut memory = MemBuffer::new(scratch);
    let mut factor = Mat::zeros(block, cols);
    let stack = MemStack::new(&mut memory);
    qr_in_place(matrix.as_mut(), factor.as_mut(), par, stack, Spec::default());
    let mut basis = Mat::identity(rows, cols);
    let (reflections, out) = (matrix.as_ref(), basis.as_mut());
    let stack = MemStack::new(&mut memory);
    apply_on_the_left(reflections, factor.as_ref(), Conj::No, out, par, stack);
    let is_finite = basis.col_iter().all(|col| col.iter().all(|value| value.is_finite()));
    is_finite.then_some(basis)
}

/// Left singular vectors `[rows, min(rows, cols)]` and singular values, largest first.
fn left_vectors(matrix: MatRef<'_, f64>) -> Option<(Mat<f64>, Vec<f64>)> {
    let moved = || {
        // On some matrices of rank one the iteration does not end; beside rounding they are what is decomposed then.
        let size = matrix
            .row_iter()
            .flat_map(|row| row.iter().copied())
            .fold(0.0, |most: f64, x| most.max(x.abs()));
        let added = |i: usize, j: usize| if i == j { 1e-13 * size } else { 0.0 };
        Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] + added(i, j))
    };
    decomposed(matrix).or_else(|| decomposed(moved().as_ref()))
}

/// The same, where the iteration ends.
fn decomposed(matrix: MatRef<'_, f64>) -> Option<(Mat<f64>, Vec<f64>)> {
    let (rows, cols) = matrix.shape();
    let size = rows.min(cols);
    let (par, thin, no) = (pieces(rows, size), ComputeSvdVectors::Thin, ComputeSvdVectors::No);
    let mut values = Diag::<f64>::zeros(size);
    let mut vectors = Mat::<f64>::zeros(rows, size);
    let scratch = svd_scratch::<f64>(rows, cols, thin, no, par, Spec::default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    let out = Some(vectors.as_mut());
    svd(matrix, values.as_mut(), out, None, par, stack, Spec::default()).ok()?;
    let values: Vec<f64> = values.column_vector().iter().copied().collect();
    values.iter().all(|value| value.is_finite()).then_some((vectors, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 98 of one value and 42 of another, times each other: the iteration of singular values does not end on some of these.
    #[test]
    fn products_of_one_vector_have_that_vector() {
        for step in 0..40 {
            let size = 0.05 + 0.37 * f64::from(step);
            let d: Vec<f64> =
                (0..140).map(|i| if i < 98 { 0.002_929_687_5 } else { -0.75 }).collect();
            let matrix = Mat::from_fn(140, 140, |i, j| d[i] * (d[j] * size));
            let (vectors, values) = left_vectors(matrix.as_ref()).expect("vectors");
            let norm = d.iter().map(|x| x * x).sum::<f64>();
            assert!((values[0] / (norm * size) - 1.0).abs() < 1e-9, "{size}: {}", values[0]);
            let along: f64 = (0..140).map(|i| vectors[(i, 0)] * d[i]).sum();
            assert!((along.abs() / norm.sqrt() - 1.0).abs() < 1e-9, "{size}: {along}");
        }
    }
}
