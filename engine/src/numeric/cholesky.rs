//! The Cholesky factor of a damped Gram matrix with its channels in some order.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{
    LltRegularization, cholesky_in_place, cholesky_in_place_scratch,
};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, MatMut, MatRef, Par, Spec};
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::gram::Gram;
use crate::numeric::spectrum::tiles::TILE;

/// Order of the blocks on the diagonal. Fixed, as the blocks decide the order of sums.
pub(super) const BLOCK: usize = 128;

/// Rows of a Gram matrix that are read at a time, in one row of its tiles.
const ROWS: usize = 8;
const _: () = assert!(TILE.is_multiple_of(ROWS), "in one row of tiles");

/// H + d·I = L·Lᵀ for H = `gram` / tokens, its rows and columns in the reverse of an order of the channels: read
/// backwards, L is an upper triangle R with H + d·I = R·Rᵀ in the order itself.
pub(super) struct Lower {
    n: usize,
    /// L row by row, [`pitch`] elements each; the blocks on the diagonal hold their inverse.
    pub(super) square: Vec<f64>,
    /// The blocks on the diagonal.
    diagonal: Vec<Mat<f64>>,
}

impl Lower {
    /// The factor for d = `damping` · mean of the diagonal. A channel without any input has H\[j, j\] = 1, so that it
    /// stands alone. Cost: 1/3·n³ operations, 8·n² bytes. The same bytes on any number of threads. `None` once
    /// `is_cancelled`, asked every some n·128² operations, or where H + d·I is not positive definite.
    ///
    /// # Panics
    /// If `order` is no order of the channels.
    pub(super) fn new(
        gram: &Gram,
        order: &[usize],
        damping: f64,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        Self::factorised(damped(gram, order, damping), order.len(), is_cancelled)
    }

    /// The factor L of the matrix of order `n` with these entries on and below the diagonal. Cost, bytes and `None` as of
    /// [`Self::new`].
    pub(super) fn of(
        n: usize,
        entry: &(dyn Fn(usize, usize) -> f64 + Sync),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let pitch = pitch(n);
        let mut square = vec![0.0; n * pitch];
        square.par_chunks_mut(pitch).enumerate().for_each(|(i, row)| {
            for (j, value) in row[..=i].iter_mut().enumerate() {
                *value = entry(i, j);
            }
        });
        Self::factorised(square, n, is_cancelled)
    }

    fn factorised(
        mut square: Vec<f64>,
        n: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let diagonal = factorise(&mut square, n, is_cancelled)?;
        Some(Self { n, square, diagonal })
    }

    /// Row i of L up to the diagonal, into the first i + 1 elements.
    pub(super) fn copy_row(&self, i: usize, out: &mut [f64]) {
        let first = i / BLOCK * BLOCK;
        out[..first].copy_from_slice(&self.square[i * pitch(self.n)..][..first]);
        let block = &self.diagonal[i / BLOCK];
        for (j, value) in out[first..=i].iter_mut().enumerate() {
            *value = block[(i - first, j)];
        }
    }

    /// An element of the lower triangle.
    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        if i / BLOCK == j / BLOCK {
            self.diagonal[i / BLOCK][(i % BLOCK, j % BLOCK)]
        } else {
            self.square[i * pitch(self.n) + j]
        }
    }
}

/// The lower triangle of H + d·I with rows and columns in the reverse of an order, row by row. A channel without any input
/// has 1 on the diagonal.
///
/// # Panics
/// If `order` is no order of the channels.
fn damped(gram: &Gram, order: &[usize], damping: f64) -> Vec<f64> {
    let n = gram.channels();
    assert_eq!(order.len(), n, "an order of all channels");
    let tokens = gram.tokens().max(1) as f64;
    let diagonal = gram.diagonal();
    let alive = diagonal.iter().filter(|&&square| square > 0.0).count().max(1);
    let added = damping * diagonal.iter().sum::<f64>() / tokens / alive as f64;
    let channels: Vec<usize> = order.iter().rev().copied().collect();
    let pitch = pitch(n);
    let mut square = vec![0.0; n * pitch];
    let mut rows: Vec<(usize, &mut [f64])> = square.chunks_mut(pitch).enumerate().collect();
    // Neighbours in the Gram matrix are read together, wherever they go.
    rows.sort_unstable_by_key(|&(i, _)| channels[i]);
    rows.par_chunks_mut(ROWS).for_each_init(Vec::new, |lines, rows| {
        let first = rows.first().map_or(0, |&(i, _)| channels[i]);
        lines.resize(rows.len() * n, 0.0);
        gram.tiles().copy_rows(first..first + rows.len(), lines);
        for ((i, row), line) in rows.iter_mut().zip(lines.chunks(n)) {
            for (value, &channel) in row.iter_mut().zip(&channels[..=*i]) {
                *value = line[channel] / tokens;
            }
            row[*i] = if diagonal[channels[*i]] > 0.0 { row[*i] + added } else { 1.0 };
        }
    });
    square
}

/// Elements from one row to the next of a matrix of order `n`: not a power of two, or the rows of a tile would fall on
/// the same lines of the cache, which made an order of 4096 half as fast again as one of 4000.
pub(super) fn pitch(n: usize) -> usize {
    if n.is_multiple_of(BLOCK) { n + 8 } else { n }.max(1)
}

/// `rows` rows of a matrix of order `n`.
pub(super) fn rows_of(a: &[f64], rows: usize, n: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(a, rows, pitch(n)).subcols(0, n)
}

/// The same to be written.
pub(super) fn rows_of_mut(a: &mut [f64], rows: usize, n: usize) -> MatMut<'_, f64> {
    MatMut::from_row_major_slice_mut(a, rows, pitch(n)).subcols_mut(0, n)
}

/// L in place of the lower triangle of L·Lᵀ, but for the blocks on the diagonal, which are returned, and whose inverse
/// takes their place. `None` where a pivot is not positive.
fn factorise(
    a: &mut [f64],
    n: usize,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<Mat<f64>>> {
    let pitch = pitch(n);
    let mut blocks = Vec::new();
    for k in (0..n).step_by(BLOCK) {
        if is_cancelled() {
            return None;
        }
        let width = BLOCK.min(n - k);
        let mut strip = rows_of_mut(&mut a[k * pitch..(k + width) * pitch], width, n);
        let (block, inverse) = factorise_block(strip.as_ref().subcols(k, width))?;
        // Above the diagonal too, where updates have left something.
        strip.as_mut().subcols_mut(k, width).copy_from(&inverse);
        blocks.push(block);
        let below = k + width;
        let mut panel = Mat::<f64>::zeros(n - below, width);
        let source = rows_of(a, n, n).submatrix(below, k, n - below, width);
        panel.par_row_chunks_mut(BLOCK).enumerate().for_each(|(i, out)| {
            let rows = source.subrows(i * BLOCK, out.nrows());
            matmul(out, Accum::Replace, rows, inverse.as_ref().transpose(), 1.0, Par::Seq);
        });
        let panel = panel.as_ref();
        a[below * pitch..].par_chunks_mut(BLOCK * pitch).enumerate().for_each(|(i, strip)| {
            if is_cancelled() {
                return;
            }
            let rows = strip.len() / pitch;
            let strip = rows_of_mut(strip, rows, n);
            let (mut found, rest) = strip.split_at_col_mut(below);
            let own = panel.subrows(i * BLOCK, rows);
            found.as_mut().subcols_mut(k, width).copy_from(own);
            let cols = i * BLOCK + rows;
            let before = panel.subrows(0, cols).transpose();
            matmul(rest.subcols_mut(0, cols), Accum::Add, own, before, -1.0, Par::Seq);
        });
    }
    (!is_cancelled()).then_some(blocks)
}

/// L and L⁻¹ of a small L·Lᵀ, of which the lower triangle is read.
fn factorise_block(block: MatRef<'_, f64>) -> Option<(Mat<f64>, Mat<f64>)> {
    let width = block.nrows();
    let mut l = Mat::from_fn(width, width, |i, j| if i < j { 0.0 } else { block[(i, j)] });
    let scratch = cholesky_in_place_scratch::<f64>(width, Par::Seq, Spec::default());
    let mut memory = MemBuffer::new(scratch);
    let (stack, exact) = (MemStack::new(&mut memory), LltRegularization::default());
    cholesky_in_place(l.as_mut(), exact, Par::Seq, stack, Spec::default()).ok()?;
    if (0..width).any(|i| !l[(i, i)].is_finite()) {
        return None;
    }
    let mut inverse = Mat::zeros(width, width);
    invert_lower_triangular(inverse.as_mut(), l.as_ref(), Par::Seq);
    Some((l, inverse))
}
