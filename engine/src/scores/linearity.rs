//! The linearity theorem: small damage to a layer does a model damage in proportion to the square of its relative error,
//! D ≈ Σ αₗ·tₗ², tₗ² = ‖Ŵₗ − Wₗ‖²/‖Wₗ‖². αₗ is the slope of a ladder of noise on that layer alone.
//!
//! Malinovskii et al., Pushing the limits of large language model quantization via the linearity theorem, 2024,
//! arXiv:2411.17525. It breaks at few bits, where errors are neither small nor like noise.

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};

use crate::error::Result;
use crate::numeric::seeds::Random;
use crate::observer::Observer;
use crate::scores::{Measuring, Question, Scored, Unit};

/// Relative norms of the noise: those of some 8, 5 and 4 bits.
const LADDER: [f64; 3] = [0.02, 0.05, 0.1];

/// How the divergence of a model grows with noise on one unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    /// Nats a token for each unit of squared relative error.
    pub alpha: f64,
    /// How well a line through the origin fits the ladder; 1 is exactly.
    pub r_squared: f64,
}

impl Sensitivity {
    /// The least squares line through the origin of divergences over squared relative errors.
    pub fn fit(ladder: &[(f64, f64)]) -> Self {
        let sum = |of: &dyn Fn(f64, f64) -> f64| ladder.iter().map(|&(x, y)| of(x, y)).sum::<f64>();
        let squares = sum(&|x, _| x * x);
        let alpha = if squares > 0.0 { sum(&|x, y| x * y) / squares } else { 0.0 };
        let mean = sum(&|_, y| y) / ladder.len().max(1) as f64;
        let (residual, spread) =
            (sum(&|x, y| (y - alpha * x).powi(2)), sum(&|_, y| (y - mean).powi(2)));
        Self { alpha, r_squared: if spread > 0.0 { 1.0 - residual / spread } else { 1.0 } }
    }
}

impl Question<'_> {
    /// The slope of KL(original ‖ changed) with Gaussian noise of three relative norms on every layer of a unit. The
    /// noise is the same but for its size, drawn by layer and row.
    ///
    /// Cost: three passes from the first block the unit is in.
    ///
    /// # Errors
    /// What reading and running say; [`crate::Error::Cancelled`].
    pub fn sensitivity(
        &self,
        unit: &Unit,
        measuring: Measuring<'_>,
        observer: &dyn Observer,
    ) -> Result<Sensitivity> {
        let checkpoint = self.subject.checkpoint;
        let mut layers = Vec::with_capacity(unit.layers.len());
        for &layer in &unit.layers {
            let weights = checkpoint.weights(layer, observer)?;
            let noise = noise(layer as u64, weights.view());
            layers.push((&checkpoint.tensors()[layer].name, weights, noise));
        }
        let mut ladder = Vec::with_capacity(LADDER.len());
        for t in LADDER {
            let disturbed = |(name, weights, noise): &(&String, Array2<f32>, Array2<f32>)| {
                (String::clone(name), Arc::new(weights + &(noise * t as f32)))
            };
            let by: HashMap<_, _> = layers.iter().map(disturbed).collect();
            ladder.push((t * t, self.divergence(unit, (by, HashMap::new()), measuring, observer)?));
        }
        Ok(Sensitivity::fit(&ladder))
    }

    /// Σ‖Δ‖²/Σ‖W‖² over the layers of a unit under an option.
    pub(super) fn squared_error(
        &self,
        unit: &Unit,
        option: &Scored,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let (mut error, mut norm) = (0.0, 0.0);
        for (at, &layer) in unit.layers.iter().enumerate() {
            let weights = self.subject.checkpoint.weights(layer, observer)?;
            norm += squares(weights.view());
            if let Some((decoded, _)) = self.decoded(unit, option, at, observer)? {
                error += squares((&weights - &decoded).view());
            }
        }
        Ok(if error == 0.0 { 0.0 } else { error / norm })
    }
}

/// Σ of squares, row by row.
fn squares(values: ArrayView2<'_, f32>) -> f64 {
    let row = |row: ndarray::ArrayView1<'_, f32>| -> f64 {
        row.iter().map(|&value| f64::from(value).powi(2)).sum()
    };
    let rows: Vec<f64> = values.axis_iter(Axis(0)).into_par_iter().map(row).collect();
    rows.into_iter().sum()
}

/// Normal noise of the norm of `weights`.
fn noise(layer: u64, weights: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut noise = Array2::zeros(weights.raw_dim());
    noise.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(row, mut values)| {
        let seed = Random::new(layer).bits() ^ Random::new(!(row as u64)).bits();
        let mut random = Random::new(seed);
        values.iter_mut().for_each(|value| *value = random.normal() as f32);
    });
    let norm = squares(noise.view());
    let factor = if norm > 0.0 { (squares(weights) / norm).sqrt() } else { 0.0 };
    noise * factor as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quadratic_gives_its_own_slope_and_a_curve_says_that_it_is_none() {
        let of = |kl: fn(f64) -> f64| LADDER.map(|t| (t * t, kl(t)));
        let exact = Sensitivity::fit(&of(|t| 3.5 * t * t));
        assert!((exact.alpha - 3.5).abs() < 1e-12 && exact.r_squared > 1.0 - 1e-12, "{exact:?}");
        let curved = Sensitivity::fit(&of(|t| t));
        assert!(curved.r_squared < 0.9, "{curved:?}");
        assert_eq!(Sensitivity::fit(&of(|_| 0.0)).alpha, 0.0);
    }

    #[test]
    fn noise_has_the_norm_of_the_weights_and_no_likeness_to_them() {
        let weights = Array2::from_shape_fn((40, 50), |(i, j)| (i as f32 - j as f32) / 30.0);
        let noise = noise(3, weights.view());
        let (of_weights, of_noise) = (squares(weights.view()), squares(noise.view()));
        assert!((of_noise / of_weights - 1.0).abs() < 1e-5);
        let product: f64 =
            weights.iter().zip(&noise).map(|(&w, &n)| f64::from(w) * f64::from(n)).sum();
        assert!((product / of_weights).abs() < 0.1, "{product} of {of_weights}");
        assert_eq!(super::noise(3, weights.view()), noise);
    }
}
