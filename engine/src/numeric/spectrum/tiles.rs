//! A symmetric matrix that holds its lower triangle only, in square tiles.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut as _;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _,
};

/// Order of a tile. Fixed, as the tiles decide the order of sums; small enough that a tile of f64 (128 KiB) and
/// what it is multiplied by stay in the second-level cache, and that work on one takes well under a millisecond
/// per hundred columns.
pub(in crate::numeric) const TILE: usize = 128;

/// Where tile (i, j), j ≤ i, lies.
fn place(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}

/// A symmetric `[n, n]` matrix: about 4·n² bytes, half of what all entries would take.
///
/// Tile (i, j), j ≤ i, holds rows i·[`TILE`].. and columns j·[`TILE`].., column by column, and lies at
/// i·(i + 1)/2 + j. Tiles of the diagonal hold all their entries. Work is handed out by the tile, each done by
/// one thread in a fixed order: results do not depend on the number of threads.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::numeric) struct SymmetricTiles {
    order: usize,
    tiles: Vec<Vec<f64>>,
}

impl SymmetricTiles {
    /// Zeros.
    pub(in crate::numeric) fn zeros(order: usize) -> Self {
        let rows = order.div_ceil(TILE);
        let side = |i: usize| TILE.min(order - i * TILE);
        let tile = |i: usize| (0..=i).map(move |j| vec![0.0; side(i) * side(j)]);
        Self { order, tiles: (0..rows).flat_map(tile).collect() }
    }

    /// n, the number of rows and of columns.
    pub(in crate::numeric) fn order(&self) -> usize {
        self.order
    }

    /// Number of rows of tiles.
    pub(in crate::numeric) fn tile_rows(&self) -> usize {
        self.order.div_ceil(TILE)
    }

    /// The rows, and columns, that tile row `i` covers.
    pub(in crate::numeric) fn span(&self, i: usize) -> Range<usize> {
        i * TILE..((i + 1) * TILE).min(self.order)
    }

    /// Tile (i, j), j ≤ i.
    pub(in crate::numeric) fn tile(&self, i: usize, j: usize) -> MatRef<'_, f64> {
        let (rows, cols) = (self.span(i).len(), self.span(j).len());
        MatRef::from_column_major_slice(&self.tiles[place(i, j)], rows, cols)
    }

    /// The largest magnitude of an entry; NaN or infinite where one is.
    pub(in crate::numeric) fn largest(&self) -> f64 {
        let values = self.tiles.iter().flatten();
        values.fold(0.0, |largest: f64, value| {
            // `max` would pass over a NaN.
            if value.is_nan() {
                f64::NAN
            } else if largest.is_nan() {
                largest
            } else {
                largest.max(value.abs())
            }
        })
    }

    /// Rows `from ..` of column `j` of the lower triangle, piece by piece; `from` ≥ j.
    pub(in crate::numeric) fn column(&self, j: usize, from: usize) -> impl Iterator<Item = &[f64]> {
        (from / TILE..self.tile_rows()).map(move |i| {
            let rows = self.span(i);
            let tile = &self.tiles[place(i, j / TILE)];
            let column = &tile[j % TILE * rows.len()..][..rows.len()];
            &column[from.saturating_sub(rows.start)..]
        })
    }

    /// Entry (i, j), j ≤ i.
    pub(in crate::numeric) fn get(&self, i: usize, j: usize) -> f64 {
        self.tile(i / TILE, j / TILE)[(i % TILE, j % TILE)]
    }

    /// Puts rows of the whole matrix, all of one row of tiles, one after the other into `out`, `[rows, n]`: some rows at a
    /// time, as the lines of a tile are columns.
    ///
    /// # Panics
    /// If the rows are of several rows of tiles, or `out` has another number of elements.
    pub(in crate::numeric) fn copy_rows(&self, rows: Range<usize>, out: &mut [f64]) {
        let (n, i) = (self.order, rows.start / TILE);
        assert_eq!(out.len(), rows.len() * n, "all entries of these rows");
        let own = rows.start - i * TILE..rows.end - i * TILE;
        for j in 0..self.tile_rows() {
            let (tile, span) = (&self.tiles[place(i.max(j), i.min(j))], self.span(j));
            if j > i {
                let columns = tile.chunks(span.len()).skip(own.start);
                for (row, column) in out.chunks_mut(n).zip(columns) {
                    row[span.clone()].copy_from_slice(column);
                }
                continue;
            }
            for (at, column) in span.zip(tile.chunks(self.span(i).len())) {
                let values = out.chunks_mut(n).zip(&column[own.clone()]);
                values.for_each(|(row, value)| row[at] = *value);
            }
        }
    }

    /// The tiles with their row and column of tiles, for work that is handed out by the tile.
    pub(in crate::numeric) fn par_tiles_mut(
        &mut self,
    ) -> impl rayon::prelude::IndexedParallelIterator<Item = ([usize; 2], MatMut<'_, f64>)> {
        let order = self.order;
        self.tiles.par_iter_mut().enumerate().map(move |(at, tile)| {
            let (i, j) = position(at);
            let rows = TILE.min(order - i * TILE);
            let cols = tile.len() / rows;
            ([i, j], MatMut::from_column_major_slice_mut(tile, rows, cols))
        })
    }

    /// Multiplies every entry by `factor`.
    pub(in crate::numeric) fn scale(&mut self, factor: f64) {
        self.tiles.par_iter_mut().flatten().for_each(|value| *value *= factor);
    }

    /// A ← A + α·Lᵀ·R on the rows and columns from `from` on: k operations per entry of the square matrix, half
    /// of them saved by symmetry. L and R are `[k, n]`, fastest where columns are contiguous; Lᵀ·R must be
    /// symmetric. Stops early once `is_cancelled`.
    pub(in crate::numeric) fn add_product(
        &mut self,
        from: usize,
        alpha: f64,
        [left, right]: [MatRef<'_, f64>; 2],
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) {
        let (order, first) = (self.order, from / TILE);
        let span = |i: usize| (i * TILE).max(from)..((i + 1) * TILE).min(order);
        let from_tile = first * (first + 1) / 2;
        self.tiles[from_tile..].par_iter_mut().enumerate().for_each(|(at, tile)| {
            let (i, j) = position(from_tile + at);
            if j < first || is_cancelled() {
                return;
            }
            let (rows, cols) = (span(i), span(j));
            let side = ((i + 1) * TILE).min(order) - i * TILE;
            let width = tile.len() / side;
            let tile = MatMut::from_column_major_slice_mut(tile, side, width);
            let part = tile.submatrix_mut(
                rows.start - i * TILE,
                cols.start - j * TILE,
                rows.len(),
                cols.len(),
            );
            let l = left.subcols(rows.start, rows.len()).transpose();
            let r = right.subcols(cols.start, cols.len());
            matmul(part, Accum::Add, l, r, alpha, Par::Seq);
        });
    }

    /// V·A on the rows and columns from `from` on, those before taken as zero: `[k, n]` as V, zero before
    /// `from`. 2·k operations per entry of the square matrix. Stops early once `is_cancelled`.
    pub(in crate::numeric) fn multiplied_by(
        &self,
        from: usize,
        v: MatRef<'_, f64>,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Mat<f64> {
        let first = from / TILE;
        let mut product = Mat::zeros(v.nrows(), self.order);
        product.par_col_chunks_mut(TILE).enumerate().skip(first).for_each(|(i, out)| {
            let start = from.saturating_sub(i * TILE);
            let mut out = out.subcols_mut(start, self.span(i).len() - start);
            for j in first..self.tile_rows() {
                if is_cancelled() {
                    return;
                }
                let tile = if j > i { self.tile(j, i) } else { self.tile(i, j).transpose() };
                let skip = from.saturating_sub(j * TILE);
                let (rows, cols) = (tile.nrows() - skip, tile.ncols() - start);
                let tile = tile.submatrix(skip, start, rows, cols);
                let factor = v.subcols(j * TILE + skip, rows);
                matmul(out.rb_mut(), Accum::Add, factor, tile, 1.0, Par::Seq);
            }
        });
        product
    }
}

/// Row and column of the tile that lies at `at`.
fn position(at: usize) -> (usize, usize) {
    // i is the largest with i·(i + 1)/2 ≤ at; the root is exact enough to be off by one at most.
    let mut i = ((2.0 * at as f64).sqrt() as usize).saturating_sub(1);
    while (i + 1) * (i + 2) / 2 <= at {
        i += 1;
    }
    (i, at - i * (i + 1) / 2)
}
