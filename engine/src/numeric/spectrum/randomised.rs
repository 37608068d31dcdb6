//! The leading singular values of a matrix of any size, estimated from random projections.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::prelude::{Reborrow as _, ReborrowMut as _};
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::ArrayView2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _};

use crate::numeric::seeds::Random;
use crate::numeric::spectrum::direct::singular_values_f64;
use crate::numeric::spectrum::gram::{ReadBlock, Stopped};
use crate::numeric::spectrum::reflect::{axpy, dot};

/// Directions beyond those asked for; Halko, Martinsson & Tropp ask for five to ten.
const OVERSAMPLING: usize = 16;
/// Fixed, so that an estimate is the same whenever it is made.
const SEED: u64 = 0x1a91_da27;
/// Entries of a block of rows: 8 MiB in f64, which the allocator hands out again without new pages.
const BLOCK_ENTRIES: usize = 1 << 20;
/// Rows, and terms, of one small product. Fixed, as it decides the order of sums.
const PIECE: usize = 128;
/// Pieces into which products are cut. Fixed, as the cuts decide the order of sums.
const PIECES: usize = 8;
/// Columns made orthogonal one after the other; those before them are taken out by products of matrices.
const NARROW: usize = 16;
/// What is left of a column when the others are taken out, below which it is nothing but rounding.
const NOTHING_NEW: f64 = 1e-13;

/// What [`estimate_leading`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct LeadingEstimate {
    /// Estimates of the leading singular values, largest first. Never above the true ones, but for rounding.
    pub singular_values: Vec<f64>,
    /// ‖A‖_F, exact but for rounding.
    pub frobenius_norm: f64,
}

/// An estimate of the `k` largest singular values of a `[rows, cols]` matrix: one power iteration from a Gaussian
/// start of l = k + 16 columns, Q = orth(A·Aᵀ·A·Ω), then the singular values of Qᵀ·A (Halko, Martinsson & Tropp
/// 2011, algorithms 4.4 and 5.1, with the columns made orthogonal after each product).
///
/// Reads the matrix four times in blocks of rows; 8·rows·cols·l operations; memory 8·l·(rows + cols) bytes and a
/// block of 8 MiB. Where the spectrum falls quickly the estimate is close; where it is flat, as in a matrix of
/// noise, the leading values come out too small by some percent. With l ≥ min(rows, cols) all is exact.
///
/// # Errors
/// See [`Stopped`].
pub fn estimate_leading<E: Send>(
    shape: [usize; 2],
    k: usize,
    block: ReadBlock<'_, E>,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<LeadingEstimate, Stopped<E>> {
    let [rows, cols] = shape;
    let n = rows.min(cols);
    let (k, l) = (k.min(n), (k + OVERSAMPLING).min(n));
    let mut random = Random::new(SEED);
    let blocks = RowBlocks { shape, block, is_cancelled };
    let start = (0..cols * l).map(|_| random.normal()).collect();
    let mut right = Columns { rows: cols, entries: start };
    let mut left = Columns { rows, entries: vec![0.0; rows * l] };
    let mut squares = 0.0;
    for pass in 0..2 {
        left.entries.fill(0.0);
        blocks.for_each(|piece, entries| {
            squares += if pass == 0 { dot(entries, entries) } else { 0.0 };
            let a = MatRef::from_row_major_slice(entries, piece.len(), cols);
            let out = left.view_mut().subrows_mut(piece.start, piece.len());
            add_product(out, a, right.view());
        })?;
        if !f64::is_finite(squares) {
            return Err(Stopped::NotFinite);
        }
        left.orthogonalise();
        right.entries.fill(0.0);
        blocks.for_each(|piece, entries| {
            let a = MatRef::from_row_major_slice(entries, piece.len(), cols);
            let q = left.view().subrows(piece.start, piece.len());
            add_product(right.view_mut(), a.transpose(), q);
        })?;
        if pass == 0 {
            right.orthogonalise();
        }
    }
    let projected = ArrayView2::from_shape((l, cols), &right.entries);
    let values = projected.ok().and_then(singular_values_f64);
    let mut values = values.ok_or(Stopped::NoConvergence)?;
    values.truncate(k);
    Ok(LeadingEstimate { singular_values: values, frobenius_norm: squares.sqrt() })
}

/// A matrix, block of rows by block of rows.
struct RowBlocks<'a, E> {
    shape: [usize; 2],
    block: ReadBlock<'a, E>,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl<E> RowBlocks<'_, E> {
    fn for_each(&self, mut visit: impl FnMut(Range<usize>, &[f64])) -> Result<(), Stopped<E>> {
        let [rows, cols] = self.shape;
        let step = (BLOCK_ENTRIES / cols.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            if (self.is_cancelled)() {
                return Err(Stopped::Cancelled);
            }
            let piece = first..(first + step).min(rows);
            let values = (self.block)(piece.clone(), 0..cols).map_err(Stopped::Block)?;
            let values = values.as_standard_layout();
            visit(piece, values.as_slice().unwrap_or_default());
        }
        Ok(())
    }
}

/// A tall matrix, column by column.
struct Columns {
    rows: usize,
    entries: Vec<f64>,
}

impl Columns {
    fn view(&self) -> MatRef<'_, f64> {
        let cols = self.entries.len() / self.rows;
        MatRef::from_column_major_slice(&self.entries, self.rows, cols)
    }

    fn view_mut(&mut self) -> MatMut<'_, f64> {
        let cols = self.entries.len() / self.rows;
        MatMut::from_column_major_slice_mut(&mut self.entries, self.rows, cols)
    }

    /// Replaces the columns by an orthonormal basis of what they span: Gram & Schmidt, everything twice, as twice
    /// is enough (Giraud, Langou & Rozložník 2005). Columns that add no direction become zero.
    fn orthogonalise(&mut self) {
        let rows = self.rows;
        for first in (0..self.view().ncols()).step_by(NARROW) {
            let (done, rest) = self.entries.split_at_mut(first * rows);
            let width = (rest.len() / rows).min(NARROW);
            let narrow = &mut rest[..width * rows];
            let before: Vec<f64> = narrow.chunks(rows).map(norm).collect();
            for _ in 0..2 {
                let done = MatRef::from_column_major_slice(done, rows, first);
                take_out(done, MatMut::from_column_major_slice_mut(narrow, rows, width));
                gram_schmidt(narrow, rows, &before);
            }
        }
    }
}

/// Makes columns orthonormal one after the other; zero where less than [`NOTHING_NEW`] of the length `before`
/// is left.
fn gram_schmidt(columns: &mut [f64], rows: usize, before: &[f64]) {
    for (j, before) in before.iter().enumerate() {
        let (above, rest) = columns.split_at_mut(j * rows);
        let column = &mut rest[..rows];
        for other in above.chunks(rows) {
            axpy(-dot(other, column), other, column);
        }
        let length = norm(column);
        let factor = if length > NOTHING_NEW * before { 1.0 / length } else { 0.0 };
        for value in column {
            *value *= factor;
        }
    }
}

/// C ← C + A·B, with C tall: by pieces small enough that what is read with long strides stays in the caches.
fn add_product(c: MatMut<'_, f64>, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    c.par_row_chunks_mut(PIECE).enumerate().for_each(|(i, mut c)| {
        let a = a.subrows(i * PIECE, c.nrows());
        for first in (0..a.ncols()).step_by(PIECE) {
            let n = PIECE.min(a.ncols() - first);
            let (a, b) = (a.subcols(first, n), b.subrows(first, n));
            matmul(c.rb_mut(), Accum::Add, a, b, 1.0, Par::Seq);
        }
    });
}

/// B ← B − Q·Qᵀ·B.
fn take_out(q: MatRef<'_, f64>, b: MatMut<'_, f64>) {
    let mut shares = Mat::zeros(q.ncols(), b.ncols());
    matmul(shares.as_mut(), Accum::Replace, q.transpose(), b.rb(), 1.0, Par::rayon(PIECES));
    matmul(b, Accum::Add, q, shares.as_ref(), -1.0, Par::rayon(PIECES));
}

fn norm(column: &[f64]) -> f64 {
    dot(column, column).sqrt()
}
