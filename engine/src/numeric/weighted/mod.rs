//! Weights seen through their inputs: errors and importances weighted by second moments, the spectrum of W·H^½.
//!
//! W is `[rows, cols]` = `[out, in]`, H = Σ x·xᵀ / tokens is `[cols, cols]`, Δ = W − Ŵ.

use std::convert::Infallible;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::numeric::gram::Gram;
use crate::numeric::spectrum::tiles::{SymmetricTiles, TILE};
use crate::numeric::spectrum::{
    Stopped, eigenvalues_of, is_direct, singular_values_by_gram, singular_values_f64,
};

/// Rows of W·H that are held at once.
const ROWS: usize = 4 * TILE;
/// Tokens whose outputs are held at once.
const TOKENS: usize = 256;

/// A squared error and the squared norm it is measured against, as sums that can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightedError {
    /// Σ over tokens of ‖Δ·x‖², or its estimate.
    pub error: f64,
    /// Σ over tokens of ‖W·x‖², or its estimate.
    pub norm: f64,
}

impl WeightedError {
    /// Both sums together.
    pub fn merge(self, next: Self) -> Self {
        Self { error: self.error + next.error, norm: self.norm + next.norm }
    }

    /// error / norm: 0 where there is no error, ∞ where only the norm is zero.
    pub fn share(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.norm }
    }

    /// √(error / norm), as the relative error of weights.
    pub fn relative(&self) -> f64 {
        self.share().sqrt()
    }
}

/// tr(Δ·H·Δᵀ) and tr(W·H·Wᵀ): the squared error of the outputs over the tokens of `gram`, summed. Exact for those
/// tokens, but for the rounding of `gram`. 2·rows·cols² operations.
///
/// # Panics
/// If the shapes do not fit.
pub fn gram_weighted_error(
    weights: ArrayView2<'_, f32>,
    decoded: ArrayView2<'_, f32>,
    gram: &Gram,
) -> WeightedError {
    let difference = &weights - &decoded;
    let sum = |forms: Vec<f64>| forms.iter().map(|form| form.max(0.0)).sum();
    WeightedError {
        error: sum(gram.quadratic_forms(difference.view())),
        norm: sum(gram.quadratic_forms(weights)),
    }
}

/// Σ Δᵢⱼ²·E\[xⱼ²\] and Σ wᵢⱼ²·E\[xⱼ²\]: the same with the diagonal of H alone, as importance matrices hold it; exact
/// where channels are uncorrelated. One pass.
///
/// # Panics
/// If the shapes do not fit.
pub fn diagonal_weighted_error(
    weights: ArrayView2<'_, f32>,
    decoded: ArrayView2<'_, f32>,
    mean_square: &[f32],
) -> WeightedError {
    assert_eq!(weights.dim(), decoded.dim(), "two matrices of one shape");
    assert_eq!(weights.ncols(), mean_square.len(), "one mean square a channel");
    let of_row = |(w, d): (ndarray::ArrayView1<'_, f32>, ndarray::ArrayView1<'_, f32>)| {
        let mut sums = WeightedError::default();
        for ((&w, &d), &square) in w.iter().zip(d).zip(mean_square) {
            let (w, d, square) = (f64::from(w), f64::from(d), f64::from(square));
            sums.error += (w - d) * (w - d) * square;
            sums.norm += w * w * square;
        }
        sums
    };
    let rows: Vec<_> = weights.rows().into_iter().zip(decoded.rows()).collect();
    let sums: Vec<WeightedError> = rows.into_par_iter().map(of_row).collect();
    sums.into_iter().fold(WeightedError::default(), WeightedError::merge)
}

/// Σᵢ |wᵢⱼ|·√E\[xⱼ²\] of each channel j: the importances of Wanda (Sun, Liu, Bair & Kolter 2024), |wᵢⱼ|·‖xⱼ‖ up to
/// the number of tokens, summed by channel. One pass.
///
/// # Panics
/// If the shapes do not fit.
pub fn channel_importance(weights: ArrayView2<'_, f32>, mean_square: &[f32]) -> Vec<f64> {
    assert_eq!(weights.ncols(), mean_square.len(), "one mean square a channel");
    let mut sums = vec![0.0; weights.ncols()];
    for row in weights.rows() {
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += f64::from(weight.abs());
        }
    }
    sums.iter().zip(mean_square).map(|(sum, &square)| sum * f64::from(square).sqrt()).collect()
}

/// ‖(W − Ŵ)·x‖² and ‖W·x‖² summed over tokens as they come: the error of a layer's outputs without a Gram matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OutputError {
    /// The sums.
    pub sums: WeightedError,
    /// Tokens added.
    pub tokens: u64,
}

impl OutputError {
    /// Adds the tokens of `x`, `[tokens, cols]`; products in f32, sums of their squares in f64. 4·tokens·rows·cols
    /// operations. Same bytes on any number of threads, and however the tokens are cut into multiples of 256.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add(
        &mut self,
        x: ArrayView2<'_, f32>,
        weights: ArrayView2<'_, f32>,
        decoded: ArrayView2<'_, f32>,
    ) {
        assert_eq!(weights.dim(), decoded.dim(), "two matrices of one shape");
        assert_eq!(x.ncols(), weights.ncols(), "one input a column");
        let firsts: Vec<usize> = (0..weights.nrows()).step_by(TILE).collect();
        for batch in x.axis_chunks_iter(Axis(0), TOKENS) {
            let strip = |&first: &usize| {
                let rows = first..(first + TILE).min(weights.nrows());
                let weights = weights.slice(s![rows.clone(), ..]);
                let difference = &weights - &decoded.slice(s![rows, ..]);
                WeightedError {
                    error: squared_outputs(batch, difference.view()),
                    norm: squared_outputs(batch, weights),
                }
            };
            let strips: Vec<WeightedError> =
                firsts.iter().collect::<Vec<_>>().into_par_iter().map(strip).collect();
            self.sums = strips.into_iter().fold(self.sums, WeightedError::merge);
        }
        self.tokens += x.nrows() as u64;
    }

    /// Adds the tokens of another sum.
    pub fn merge(&mut self, other: &Self) {
        self.sums = self.sums.merge(other.sums);
        self.tokens += other.tokens;
    }
}

/// Σ (X·Wᵀ)².
fn squared_outputs(x: ArrayView2<'_, f32>, weights: ArrayView2<'_, f32>) -> f64 {
    let (x, weights) = (x.as_standard_layout(), weights.as_standard_layout());
    let (Some(inputs), Some(rows)) = (x.as_slice(), weights.as_slice()) else { return 0.0 };
    let inputs = MatRef::from_row_major_slice(inputs, x.nrows(), x.ncols());
    let rows = MatRef::from_row_major_slice(rows, weights.nrows(), weights.ncols());
    let mut outputs = Mat::<f32>::zeros(x.nrows(), weights.nrows());
    matmul(outputs.as_mut(), Accum::Replace, inputs, rows.transpose(), 1.0, Par::Seq);
    let columns = outputs
        .col_iter()
        .map(|column| column.iter().map(|&y| f64::from(y) * f64::from(y)).sum::<f64>());
    columns.sum()
}

/// Singular values of W·H^½ with H = Σ x·xᵀ / tokens, largest first, `min(rows, cols)` of them: their squares add up
/// to the mean of ‖W·x‖², and the tail beyond rank r is the least error of outputs of that rank.
///
/// Small layers: those of W·L with H = L·Lᵀ, directly. Others, where rows ≤ cols: roots of the eigenvalues of
/// W·H·Wᵀ, 2·rows·cols² + 4/3·rows³ operations; else through the Gram matrix of W·L, 2·cols³ + 2·rows·cols². H may
/// have any rank. Values below some 5e-4·σ₁ are rounding of the f32 products in `gram` (of their squares, 2⁻²²·σ₁²).
/// The same on any number of threads.
///
/// # Errors
/// See [`Stopped`]; never [`Stopped::Block`].
///
/// # Panics
/// If the shapes do not fit.
pub fn whitened_singular_values(
    weights: ArrayView2<'_, f32>,
    gram: &Gram,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, Stopped<Infallible>> {
    let (rows, cols) = weights.dim();
    assert_eq!(cols, gram.channels(), "one channel a column");
    if !gram.is_finite() || !weights.iter().all(|weight| weight.is_finite()) {
        return Err(Stopped::NotFinite);
    }
    let mut values = if rows <= cols && !is_direct(rows, cols) {
        let outputs = output_gram(weights, gram, is_cancelled).ok_or(Stopped::Cancelled)?;
        let mut values = rayon::scope(|_| eigenvalues_of(outputs, is_cancelled))?;
        for value in &mut values {
            *value = value.max(0.0).sqrt();
        }
        values
    } else {
        by_factor(weights, gram, is_cancelled)?
    };
    let tokens = (gram.tokens().max(1) as f64).sqrt();
    values.resize(rows.min(cols), 0.0);
    for value in &mut values {
        *value /= tokens;
    }
    Ok(values)
}

/// Singular values of W·L, L·Lᵀ = Σ x·xᵀ.
fn by_factor(
    weights: ArrayView2<'_, f32>,
    gram: &Gram,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f64>, Stopped<Infallible>> {
    let cholesky = gram.cholesky(is_cancelled).ok_or(Stopped::Cancelled)?;
    let (rows, rank) = (weights.nrows(), cholesky.rank());
    let product = |first: std::ops::Range<usize>, columns: std::ops::Range<usize>| {
        let mut product = Array2::<f64>::zeros((first.len(), columns.len()));
        let w = weights.slice(s![first, ..]).mapv(f64::from);
        let factor = cholesky.factor().subcols(columns.start, columns.len());
        if let (Some(w_values), Some(out)) = (w.as_slice(), product.as_slice_mut()) {
            let w = MatRef::from_row_major_slice(w_values, w.nrows(), w.ncols());
            let out = MatMut::from_row_major_slice_mut(out, w.nrows(), columns.len());
            // Cut into a fixed number of pieces, as the cuts may decide the order of sums.
            matmul(out, Accum::Replace, w, factor, 1.0, Par::rayon(8));
        }
        product
    };
    if is_direct(rows, rank) {
        return singular_values_f64(product(0..rows, 0..rank).view()).ok_or(Stopped::NoConvergence);
    }
    let block = |rows, columns| Ok(product(rows, columns));
    singular_values_by_gram([rows, rank], &block, is_cancelled)
}

/// W·(Σ x·xᵀ)·Wᵀ, `[rows, rows]`. `None` once `is_cancelled`.
fn output_gram(
    weights: ArrayView2<'_, f32>,
    gram: &Gram,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<SymmetricTiles> {
    let (rows, cols) = weights.dim();
    let mut outputs = SymmetricTiles::zeros(rows);
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        let block = weights.slice(s![first..first + count, ..]);
        let block = Mat::from_fn(count, cols, |i, j| f64::from(block[[i, j]]));
        let product = gram.tiles().multiplied_by(0, block.as_ref(), is_cancelled);
        if is_cancelled() {
            return None;
        }
        let within = first / TILE..(first + count).div_ceil(TILE);
        outputs.par_tiles_mut().filter(|([i, _], _)| within.contains(i)).for_each(
            |([i, j], tile)| {
                if is_cancelled() {
                    return;
                }
                let left = product.as_ref().subrows(i * TILE - first, tile.nrows());
                let right = weights.slice(s![j * TILE..j * TILE + tile.ncols(), ..]);
                let right = Mat::from_fn(cols, tile.ncols(), |k, c| f64::from(right[[c, k]]));
                matmul(tile, Accum::Replace, left, right.as_ref(), 1.0, Par::Seq);
            },
        );
    }
    (!is_cancelled()).then_some(outputs)
}

/// The coding rate ½·ln det(I + (d/ε²)·Σ z·zᵀ/n) of n tokens of d channels, in nats: ½·Σ ln(1 + d·λ/ε²) over the
/// eigenvalues λ of Σ z·zᵀ/n (Yu, Chan, You, Song & Ma 2020, eq. 1; Yu et al. 2023). `eigenvalues` are those of
/// Σ z·zᵀ, see [`Gram::eigenvalues`]; their number is d. ε is in units of the values: the error that a code may
/// leave in the whole of z.
pub fn coding_rate(eigenvalues: &[f64], tokens: u64, epsilon: f64) -> f64 {
    let factor = eigenvalues.len() as f64 / (epsilon * epsilon * tokens.max(1) as f64);
    0.5 * eigenvalues.iter().map(|value| (factor * value.max(0.0)).ln_1p()).sum::<f64>()
}

#[cfg(test)]
mod tests;
