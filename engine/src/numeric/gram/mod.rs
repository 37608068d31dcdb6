//! Sums of products over tokens: the Gram matrix Σ x·xᵀ of a layer's inputs, and Σ x·yᵀ of two.
//!
//! Products are taken in f32, [`PIECE_TOKENS`] tokens at a time, and added in f64: an entry (i, j) is off by some
//! 1e-6·√(Σxᵢ²·Σxⱼ²) at most, however many tokens there are. Tiles are handed out to threads whole, each in a fixed
//! order: the same tokens in the same calls give the same bytes on any number of threads.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::rotation::{Rotation, apply_both};
use crate::numeric::spectrum::tiles::{SymmetricTiles, TILE};
use crate::numeric::spectrum::{Cholesky, Stopped, eigenvalues_of};

/// Tokens whose products are added in f32.
pub const PIECE_TOKENS: usize = 256;
/// Tokens that are transposed at once: 16 MiB for 4096 channels.
const BATCH_TOKENS: usize = 1024;
/// Rows whose quadratic forms one thread takes at a time.
const ROWS: usize = 64;

/// Σ x·xᵀ over tokens, `[channels, channels]`: half of it, in tiles, 4·channels² bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    tokens: u64,
    tiles: SymmetricTiles,
}

impl Gram {
    /// No tokens yet.
    pub fn new(channels: usize) -> Self {
        Self { tokens: 0, tiles: SymmetricTiles::zeros(channels) }
    }

    /// Adds the tokens of `x`, `[tokens, channels]`. A value that is NaN or infinite makes its row and column NaN.
    /// tokens·channels² operations; memory for the transpose of 1024 tokens.
    ///
    /// # Panics
    /// If the number of channels differs.
    pub fn add(&mut self, x: ArrayView2<'_, f32>) {
        assert_eq!(x.ncols(), self.channels(), "channels of a Gram matrix");
        for batch in x.axis_chunks_iter(Axis(0), BATCH_TOKENS) {
            let columns = transposed(batch);
            let k = batch.nrows();
            self.tiles.par_tiles_mut().for_each_init(product, |product, ([i, j], tile)| {
                add_products([&columns[i], &columns[j]], k, product, tile);
            });
        }
        self.tokens += x.nrows() as u64;
    }

    /// Adds the tokens of another sum.
    ///
    /// # Panics
    /// If the number of channels differs.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(other.channels(), self.channels(), "channels of a Gram matrix");
        let theirs = &other.tiles;
        self.tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
            tile += theirs.tile(i, j);
        });
        self.tokens += other.tokens;
    }

    /// Tokens added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Channels, the order of the matrix.
    pub fn channels(&self) -> usize {
        self.tiles.order()
    }

    /// Bytes it holds in memory.
    pub fn bytes(&self) -> u64 {
        Self::bytes_for(self.channels())
    }

    /// Bytes that the sum for so many channels holds in memory.
    pub fn bytes_for(channels: usize) -> u64 {
        let (whole, rest) = ((channels / TILE) as u64, (channels % TILE) as u64);
        let tile = TILE as u64;
        8 * (whole * (whole + 1) / 2 * tile * tile + rest * (whole * tile + rest))
    }

    /// Σ xᵢ·xⱼ.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.tiles.get(i.max(j), i.min(j))
    }

    /// Σ x² of each channel.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.channels()).map(|i| self.tiles.get(i, i)).collect()
    }

    /// The lower triangle in tiles.
    pub(in crate::numeric) fn tiles(&self) -> &SymmetricTiles {
        &self.tiles
    }

    /// Whether every entry is a number.
    pub fn is_finite(&self) -> bool {
        self.tiles.largest().is_finite()
    }

    /// All entries, `[channels, channels]`: 8·channels² bytes.
    pub fn to_dense(&self) -> Array2<f64> {
        let mut dense = Array2::zeros((self.channels(), self.channels()));
        let mut rows = dense.axis_chunks_iter_mut(Axis(0), TILE).collect::<Vec<_>>();
        rows.par_chunks_mut(1).enumerate().for_each(|(i, rows)| {
            for rows in rows {
                self.write_rows(i, rows.view_mut());
            }
        });
        dense
    }

    /// All entries rounded to f32.
    pub fn to_dense_f32(&self) -> Array2<f32> {
        self.to_dense().mapv(|value| value as f32)
    }

    /// Row `i` of the lower triangle, its i + 1 entries rounded to f32, appended to `out`.
    pub fn write_lower_row(&self, i: usize, out: &mut Vec<f32>) {
        out.extend((0..=i).map(|j| self.tiles.get(i, j) as f32));
    }

    /// The sum over `tokens` of which `lower` holds the lower triangle row by row. `None` where its length is not
    /// channels·(channels + 1)/2.
    pub fn from_lower(channels: usize, tokens: u64, lower: &[f32]) -> Option<Self> {
        let entries = channels.checked_mul(channels.checked_add(1)?)? / 2;
        if lower.len() != entries {
            return None;
        }
        let mut tiles = SymmetricTiles::zeros(channels);
        tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
            for c in 0..tile.ncols() {
                for r in 0..tile.nrows() {
                    let (row, col) = (i * TILE + r, j * TILE + c);
                    let (row, col) = (row.max(col), row.min(col));
                    tile[(r, c)] = f64::from(lower[row * (row + 1) / 2 + col]);
                }
            }
        });
        Some(Self { tokens, tiles })
    }

    /// Rows of tile row `i`.
    fn write_rows(&self, i: usize, mut out: ArrayViewMut2<'_, f64>) {
        for j in 0..self.tiles.tile_rows() {
            let tile =
                if j > i { self.tiles.tile(j, i).transpose() } else { self.tiles.tile(i, j) };
            for c in 0..tile.ncols() {
                for r in 0..tile.nrows() {
                    out[[r, j * TILE + c]] = tile[(r, c)];
                }
            }
        }
    }

    /// dᵀ·H·d of each row d of `rows`, `[n, channels]`, with H = Σ x·xᵀ: Σ over tokens of (d·x)². channels²
    /// operations a row, in f64.
    ///
    /// # Panics
    /// If the number of channels differs.
    pub fn quadratic_forms(&self, rows: ArrayView2<'_, f32>) -> Vec<f64> {
        assert_eq!(rows.ncols(), self.channels(), "channels of a Gram matrix");
        let pieces: Vec<_> = rows.axis_chunks_iter(Axis(0), ROWS).collect();
        pieces.into_par_iter().flat_map_iter(|piece| self.forms_of(piece)).collect()
    }

    fn forms_of(&self, rows: ArrayView2<'_, f32>) -> Vec<f64> {
        let (n, channels) = rows.dim();
        let wide: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
        let d = MatRef::from_row_major_slice(&wide, n, channels);
        let mut forms = vec![0.0; n];
        let mut buffer = vec![0.0; n * TILE];
        for i in 0..self.tiles.tile_rows() {
            for j in 0..=i {
                let (rows, cols) = (self.tiles.span(i), self.tiles.span(j));
                let left = d.subcols(rows.start, rows.len());
                let right = d.subcols(cols.start, cols.len());
                let product = &mut buffer[..n * cols.len()];
                let mut product = MatMut::from_row_major_slice_mut(product, n, cols.len());
                let out = product.as_mut();
                matmul(out, Accum::Replace, left, self.tiles.tile(i, j), 1.0, Par::Seq);
                // Tiles beside the diagonal count for their mirror image too.
                let weight = if i == j { 1.0 } else { 2.0 };
                for (row, form) in forms.iter_mut().enumerate() {
                    let sum: f64 =
                        (0..cols.len()).map(|c| product[(row, c)] * right[(row, c)]).sum();
                    *form += weight * sum;
                }
            }
        }
        forms
    }

    /// All eigenvalues of Σ x·xᵀ, largest first; those below zero, which are rounding, as zero. 4/3·channels³
    /// operations, 4·channels² bytes. Values below some 1e-6 of the largest are rounding of the f32 products.
    ///
    /// # Errors
    /// See [`Stopped`]; never [`Stopped::Block`].
    pub fn eigenvalues(
        &self,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<f64>, Stopped<std::convert::Infallible>> {
        let mut values = rayon::scope(|_| eigenvalues_of(self.tiles.clone(), is_cancelled))?;
        for value in &mut values {
            *value = value.max(0.0);
        }
        Ok(values)
    }

    /// Σ x·xᵀ ≈ L·Lᵀ, of no more columns than there were tokens. `None` once `is_cancelled`.
    pub fn cholesky(&self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<Cholesky> {
        let most = usize::try_from(self.tokens).unwrap_or(usize::MAX);
        rayon::scope(|_| Cholesky::new(self.tiles.clone(), most, is_cancelled))
    }

    /// The sum of the inputs times `factors`, Σ (f ⊙ x)·(f ⊙ x)ᵀ.
    ///
    /// # Panics
    /// If the number of channels differs.
    #[must_use]
    pub fn scaled(&self, factors: &[f64]) -> Self {
        assert_eq!(factors.len(), self.channels(), "channels of a Gram matrix");
        let mut scaled = self.clone();
        scaled.tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
            for c in 0..tile.ncols() {
                for r in 0..tile.nrows() {
                    tile[(r, c)] *= factors[i * TILE + r] * factors[j * TILE + c];
                }
            }
        });
        scaled
    }

    /// The sum of the turned inputs, Σ (R·x)·(R·x)ᵀ; 24·channels² bytes beside it while it is turned.
    ///
    /// # Panics
    /// If the number of channels differs.
    #[must_use]
    pub fn turned(&self, rotation: &Rotation) -> Self {
        let channels = self.channels();
        assert_eq!(rotation.len(), channels, "channels of a Gram matrix");
        let mut dense = self.to_dense().into_raw_vec_and_offset().0;
        apply_both(rotation, Some(rotation), &mut dense);
        let mut turned = self.clone();
        turned.tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
            for c in 0..tile.ncols() {
                for r in 0..tile.nrows() {
                    let (row, col) = (i * TILE + r, j * TILE + c);
                    tile[(r, c)] = dense[row.max(col) * channels + row.min(col)];
                }
            }
        });
        turned
    }

    /// The sum about the mean, Σ (x − μ)·(x − μ)ᵀ, of which `sums` is Σ x.
    ///
    /// # Panics
    /// If the number of channels differs.
    #[must_use]
    pub fn centred(&self, sums: &[f64]) -> Self {
        assert_eq!(sums.len(), self.channels(), "channels of a Gram matrix");
        let mut centred = self.clone();
        let tokens = self.tokens.max(1) as f64;
        centred.tiles.par_tiles_mut().for_each(|([i, j], mut tile)| {
            for c in 0..tile.ncols() {
                for r in 0..tile.nrows() {
                    tile[(r, c)] -= sums[i * TILE + r] * sums[j * TILE + c] / tokens;
                }
            }
        });
        centred
    }
}

/// Σ x·yᵀ over tokens, `[channels of x, channels of y]`, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Cross {
    sums: Array2<f64>,
}

impl Cross {
    /// No tokens yet.
    pub fn new(channels_x: usize, channels_y: usize) -> Self {
        Self { sums: Array2::zeros((channels_x, channels_y)) }
    }

    /// Adds tokens: `x` and `y` are `[tokens, channels]`. 2·tokens·channels² operations.
    ///
    /// # Panics
    /// If the tokens of both differ in number, or the channels from those of the sum.
    pub fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) {
        assert_eq!(x.nrows(), y.nrows(), "one token of each");
        assert_eq!([x.ncols(), y.ncols()], [self.sums.nrows(), self.sums.ncols()], "channels");
        let width = self.sums.ncols();
        for (x, y) in
            x.axis_chunks_iter(Axis(0), BATCH_TOKENS).zip(y.axis_chunks_iter(Axis(0), BATCH_TOKENS))
        {
            let (k, left, right) = (x.nrows(), transposed(x), transposed(y));
            let Some(sums) = self.sums.as_slice_mut() else { return };
            let strips = sums.par_chunks_mut(TILE * width.max(1)).zip(left);
            strips.for_each_init(product, |product, (strip, left)| {
                let rows = strip.len() / width;
                for (j, right) in right.iter().enumerate() {
                    let strip = MatMut::from_row_major_slice_mut(strip, rows, width);
                    let cols = TILE.min(width - j * TILE);
                    let tile = strip.subcols_mut(j * TILE, cols);
                    add_products([&left, right], k, product, tile);
                }
            });
        }
    }

    /// Adds the tokens of another sum.
    ///
    /// # Panics
    /// If the numbers of channels differ.
    pub fn merge(&mut self, other: &Self) {
        self.sums += &other.sums;
    }

    /// Σ x·yᵀ.
    pub fn sums(&self) -> ArrayView2<'_, f64> {
        self.sums.view()
    }
}

/// Room for the products of one tile.
fn product() -> Vec<f32> {
    vec![0.0; TILE * TILE]
}

/// The channels of `[tokens, channels]`, [`TILE`] at a time, each with its tokens side by side: products of what
/// lies side by side are the fastest.
fn transposed(x: ArrayView2<'_, f32>) -> Vec<Vec<f32>> {
    let (tokens, channels) = x.dim();
    let strip = |first: usize| {
        let x = x.slice(s![.., first..(first + TILE).min(channels)]);
        let mut columns = vec![0.0; x.len()];
        for (t, row) in x.rows().into_iter().enumerate() {
            for (column, value) in columns.chunks_exact_mut(tokens).zip(row) {
                column[t] = *value;
            }
        }
        columns
    };
    let firsts: Vec<usize> = (0..channels).step_by(TILE).collect();
    firsts.into_par_iter().map(strip).collect()
}

/// T ← T + L·Rᵀ over `tokens` tokens, in pieces; L and R hold one channel after the other.
fn add_products(
    [left, right]: [&[f32]; 2],
    tokens: usize,
    product: &mut [f32],
    mut tile: MatMut<'_, f64>,
) {
    let (rows, cols) = (tile.nrows(), tile.ncols());
    let left = MatRef::from_column_major_slice(left, tokens, rows);
    let right = MatRef::from_column_major_slice(right, tokens, cols);
    let product = &mut product[..rows * cols];
    for first in (0..tokens).step_by(PIECE_TOKENS) {
        let k = PIECE_TOKENS.min(tokens - first);
        let (l, r) = (left.subrows(first, k).transpose(), right.subrows(first, k));
        let out = MatMut::from_column_major_slice_mut(product, rows, cols);
        matmul(out, Accum::Replace, l, r, 1.0, Par::Seq);
        for (c, values) in product.chunks_exact(rows).enumerate() {
            for (sum, value) in tile.as_mut().col_mut(c).iter_mut().zip(values) {
                *sum += f64::from(*value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
