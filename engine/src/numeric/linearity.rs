//! How linear a block is: hidden states before and after it, token by token.
//!
//! What is added up, for the tokens fitted and for those held out: n, Σx, Σy, Σ x·xᵀ (half), Σ x·yᵀ, Σ ‖y‖², and the
//! sum of the cosines between x and y: 12·channels² bytes each.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Accum, Mat, MatRef, Par};
use ndarray::{ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use crate::numeric::gram::{Cross, Gram};
use crate::numeric::spectrum::Cholesky;

/// One call in so many is held out of the fit.
pub const HELD_OUT_CALL: u64 = 4;
/// Pieces into which products are cut. Fixed, as the cuts decide the order of sums.
const PIECES: usize = 8;

/// Sums over the tokens of a block.
#[derive(Clone, Debug)]
pub struct Linearity {
    fitted: Sums,
    held_out: Sums,
    calls: u64,
}

/// What the sums say. Shares are of 1: how much of the centred outputs the best linear map of the inputs explains,
/// 1 − min ‖X̃·A − Ỹ‖²/‖Ỹ‖² over A (Razzhigaev et al. 2024).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearityScores {
    /// Tokens fitted; with few more than channels the shares come out too large.
    pub fitted_tokens: u64,
    /// Tokens held out.
    pub held_out_tokens: u64,
    /// Share of the block's output that is linear in its input, on the tokens fitted.
    pub linear: f64,
    /// The same map on the tokens held out; may be negative, `None` without such tokens.
    pub linear_held_out: Option<f64>,
    /// The same of output − input, what the block adds to the residual stream.
    pub linear_without_residual: f64,
    /// That on the tokens held out.
    pub linear_without_residual_held_out: Option<f64>,
    /// Mean cosine between input and output of all tokens.
    pub cosine: f64,
    /// √(Σ‖output − input‖²/Σ‖input‖²) of all tokens.
    pub relative_change: f64,
}

impl Linearity {
    /// No tokens yet, of hidden states of so many channels.
    pub fn new(channels: usize) -> Self {
        Self { fitted: Sums::new(channels), held_out: Sums::new(channels), calls: 0 }
    }

    /// Adds the hidden states of tokens before and after the block, both `[tokens, channels]`. Every fourth call is
    /// held out, so a call should be a sequence, or several. 3·tokens·channels² operations.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) {
        self.calls += 1;
        if self.calls.is_multiple_of(HELD_OUT_CALL) {
            self.held_out.add(x, y);
        } else {
            self.fitted.add(x, y);
        }
    }

    /// The sum over the inputs of all tokens, for their [coding rate](crate::numeric::weighted::coding_rate).
    pub fn input_gram(&self) -> Gram {
        let mut all = self.fitted.gram.clone();
        all.merge(&self.held_out.gram);
        all
    }

    /// What the tokens so far say; some 8·channels³ operations. Constant outputs count as linear. `None` once
    /// `is_cancelled`, which is asked between steps.
    pub fn scores(&self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<LinearityScores> {
        let cholesky = self.fitted.gram.centred(&self.fitted.x).cholesky(is_cancelled)?;
        let (whole, whole_held_out) = self.explained(&cholesky, 0.0, is_cancelled)?;
        let (added, added_held_out) = self.explained(&cholesky, 1.0, is_cancelled)?;
        let both = |of: &dyn Fn(&Sums) -> f64| of(&self.fitted) + of(&self.held_out);
        let tokens = self.fitted.tokens() + self.held_out.tokens();
        let inputs = both(&|sums| sums.gram.diagonal().iter().sum());
        let changes = both(&|sums| sums.squares(1.0).max(0.0));
        Some(LinearityScores {
            fitted_tokens: self.fitted.tokens(),
            held_out_tokens: self.held_out.tokens(),
            linear: whole,
            linear_held_out: whole_held_out,
            linear_without_residual: added,
            linear_without_residual_held_out: added_held_out,
            cosine: both(&|sums| sums.cosines) / tokens.max(1) as f64,
            relative_change: if changes == 0.0 { 0.0 } else { (changes / inputs).sqrt() },
        })
    }

    /// The shares of y − `residual`·x explained, fitted and held out.
    fn explained(
        &self,
        cholesky: &Cholesky,
        residual: f64,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<(f64, Option<f64>)> {
        let means = self.fitted.means(residual);
        let cross = self.fitted.cross_about(&means, residual);
        let pivots = cholesky.pivots();
        let mut part = Mat::from_fn(pivots.len(), cross.ncols(), |i, j| cross[(pivots[i], j)]);
        let triangle = cholesky.triangle();
        let par = Par::rayon(PIECES);
        solve_lower_triangular_in_place(triangle.as_ref(), part.as_mut(), par);
        let explained = part.col_iter().map(|column| column.squared_norm_l2()).sum::<f64>();
        let total = self.fitted.squares_about(&means, residual);
        let fitted = share(total - explained, total);
        if is_cancelled() {
            return None;
        }
        if self.held_out.tokens() == 0 {
            return Some((fitted, None));
        }
        // The map itself, zero but for the rows of the pivots.
        solve_upper_triangular_in_place(triangle.transpose(), part.as_mut(), par);
        let mut map = Mat::zeros(cross.nrows(), cross.ncols());
        for (i, &row) in pivots.iter().enumerate() {
            for j in 0..map.ncols() {
                map[(row, j)] = part[(i, j)];
            }
        }
        let left = self.held_out.left_by(map.as_ref(), &means, residual);
        let total = self.held_out.squares_about(&means, residual);
        if is_cancelled() { None } else { Some((fitted, Some(share(left, total)))) }
    }
}

/// 1 − left/total, at most 1; 1 where there is nothing to explain.
fn share(left: f64, total: f64) -> f64 {
    if total <= 0.0 { 1.0 } else { 1.0 - left.max(0.0) / total }
}

/// Sums over tokens.
#[derive(Clone, Debug)]
struct Sums {
    gram: Gram,
    cross: Cross,
    x: Vec<f64>,
    y: Vec<f64>,
    y_squares: f64,
    cosines: f64,
}

/// Means of x and of y − r·x.
struct Means {
    x: Vec<f64>,
    y: Vec<f64>,
}

impl Sums {
    fn new(channels: usize) -> Self {
        Self {
            gram: Gram::new(channels),
            cross: Cross::new(channels, channels),
            x: vec![0.0; channels],
            y: vec![0.0; channels],
            y_squares: 0.0,
            cosines: 0.0,
        }
    }

    fn tokens(&self) -> u64 {
        self.gram.tokens()
    }

    fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) {
        self.gram.add(x);
        self.cross.add(x, y);
        for (x, y) in x.rows().into_iter().zip(y.rows()) {
            let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
            let sums = self.x.iter_mut().zip(&mut self.y);
            for ((sum_x, sum_y), (&x, &y)) in sums.zip(x.iter().zip(y)) {
                let (x, y) = (f64::from(x), f64::from(y));
                *sum_x += x;
                *sum_y += y;
                xx += x * x;
                yy += y * y;
                xy += x * y;
            }
            self.y_squares += yy;
            // A token that is zero on one side alone has turned by a right angle.
            self.cosines += if xx == 0.0 && yy == 0.0 {
                1.0
            } else if xy == 0.0 {
                0.0
            } else {
                xy / (xx.sqrt() * yy.sqrt())
            };
        }
    }

    fn means(&self, residual: f64) -> Means {
        let n = self.tokens().max(1) as f64;
        let x = self.x.iter().map(|sum| sum / n).collect();
        let y = self.y.iter().zip(&self.x).map(|(y, x)| (y - residual * x) / n).collect();
        Means { x, y }
    }

    /// Σ ‖y − r·x‖².
    fn squares(&self, residual: f64) -> f64 {
        let cross: f64 = self.cross.sums().diag().sum();
        let inputs: f64 = self.gram.diagonal().iter().sum();
        self.y_squares - 2.0 * residual * cross + residual * residual * inputs
    }

    /// Σ ‖(y − r·x) − mean‖².
    fn squares_about(&self, means: &Means, residual: f64) -> f64 {
        let n = self.tokens() as f64;
        let sums = self.y.iter().zip(&self.x).map(|(y, x)| y - residual * x);
        let pairs = sums.zip(&means.y);
        self.squares(residual) + pairs.map(|(sum, mean)| mean * (n * mean - 2.0 * sum)).sum::<f64>()
    }

    /// Σ (x − mean)·((y − r·x) − mean)ᵀ.
    fn cross_about(&self, means: &Means, residual: f64) -> Mat<f64> {
        let n = self.tokens() as f64;
        let mut cross = self.cross.sums().to_owned();
        if residual != 0.0 {
            let gram = self.gram.to_dense();
            Zip::from(&mut cross).and(&gram).for_each(|sum, square| *sum -= residual * square);
        }
        Mat::from_fn(cross.nrows(), cross.ncols(), |i, j| {
            let y = self.y[j] - residual * self.x[j];
            cross[[i, j]] - means.x[i] * y - self.x[i] * means.y[j] + n * means.x[i] * means.y[j]
        })
    }

    /// Σ ‖(y − r·x − mean) − Aᵀ·(x − mean)‖².
    fn left_by(&self, map: MatRef<'_, f64>, means: &Means, residual: f64) -> f64 {
        let n = self.tokens() as f64;
        let gram = self.gram.to_dense();
        let gram = Mat::from_fn(gram.nrows(), gram.ncols(), |i, j| {
            let mean = &means.x;
            gram[[i, j]] - self.x[i] * mean[j] - mean[i] * self.x[j] + n * mean[i] * mean[j]
        });
        let cross = self.cross_about(means, residual);
        let mut mapped = Mat::zeros(map.nrows(), map.ncols());
        matmul(mapped.as_mut(), Accum::Replace, gram.as_ref(), map, 1.0, Par::rayon(PIECES));
        let mut sum = self.squares_about(means, residual);
        for j in 0..map.ncols() {
            for i in 0..map.nrows() {
                sum += map[(i, j)] * (mapped[(i, j)] - 2.0 * cross[(i, j)]);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};

    use super::*;
    use crate::numeric::seeds::Random;
    use crate::numeric::weighted::coding_rate;

    fn normal(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
        let mut random = Random::new(seed);
        Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
    }

    fn scores(x: &Array2<f32>, y: &Array2<f32>, step: usize) -> LinearityScores {
        let mut sums = Linearity::new(x.ncols());
        let pieces = x.axis_chunks_iter(Axis(0), step).zip(y.axis_chunks_iter(Axis(0), step));
        pieces.for_each(|(x, y)| sums.add(x, y));
        sums.scores(&|| false).unwrap()
    }

    #[test]
    fn a_linear_map_with_an_offset_scores_one() {
        let x = normal(1, 800, 30);
        let y = x.dot(&normal(2, 30, 30)) + 5.0;
        let found = scores(&x, &y, 100);
        assert_eq!((found.fitted_tokens, found.held_out_tokens), (600, 200));
        for share in [found.linear, found.linear_without_residual] {
            assert!((share - 1.0).abs() < 1e-5, "{found:?}");
        }
        assert!((found.linear_held_out.unwrap() - 1.0).abs() < 1e-5);
        assert!((found.linear_without_residual_held_out.unwrap() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn noise_is_linear_by_chance_alone_and_not_where_held_out() {
        // In sample d/(T − 1) = 60/899; held out no better than the mean, by about −d/T.
        let found = scores(&normal(1, 1200, 60), &normal(2, 1200, 60), 100);
        assert!((found.linear - 60.0 / 899.0).abs() < 0.01, "{found:?}");
        assert!((found.linear_held_out.unwrap() + 0.07).abs() < 0.03, "{found:?}");
        assert!(found.cosine.abs() < 0.02);
        assert!((found.relative_change - 2_f64.sqrt()).abs() < 0.02);
    }

    #[test]
    fn fewer_tokens_than_channels_fit_exactly() {
        let found = scores(&normal(1, 20, 50), &normal(2, 20, 50), 20);
        assert!((found.linear - 1.0).abs() < 1e-4, "{found:?}");
        assert_eq!(found.linear_held_out, None);
    }

    #[test]
    fn a_block_that_does_nothing_and_no_tokens() {
        let x = normal(3, 100, 8);
        let found = scores(&x, &x, 10);
        assert!((found.cosine - 1.0).abs() < 1e-12 && found.relative_change < 1e-3, "{found:?}");
        assert!((found.linear - 1.0).abs() < 1e-5);
        let none = Linearity::new(4).scores(&|| false).unwrap();
        assert_eq!((none.fitted_tokens, none.linear, none.relative_change), (0, 1.0, 0.0));
        assert!(Linearity::new(4).scores(&|| true).is_none());
    }

    #[test]
    fn a_least_squares_line_by_hand() {
        // x = 0, 1, 2, y = 0, 2, 1: slope ½, 1 − 3/2/2 = ¼ explained; y − x is 0, 1, −1: slope −½, ¼ of 2 too.
        let x = Array2::from_shape_vec((3, 1), vec![0.0, 1.0, 2.0]).unwrap();
        let y = Array2::from_shape_vec((3, 1), vec![0.0, 2.0, 1.0]).unwrap();
        let found = scores(&x, &y, 3);
        assert!((found.linear - 0.25).abs() < 1e-12);
        assert!((found.linear_without_residual - 0.25).abs() < 1e-12);
        assert!((found.relative_change - (2.0_f64 / 5.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_inputs_of_all_calls_have_a_coding_rate() {
        let x = normal(3, 400, 10);
        let mut sums = Linearity::new(10);
        x.axis_chunks_iter(Axis(0), 50).for_each(|piece| sums.add(piece, piece));
        let gram = sums.input_gram();
        assert_eq!(gram.tokens(), 400);
        let rate = coding_rate(&gram.eigenvalues(&|| false).unwrap(), 400, 1.0);
        assert!((rate - 5.0 * 11_f64.ln()).abs() < 0.3, "{rate}");
    }
}
