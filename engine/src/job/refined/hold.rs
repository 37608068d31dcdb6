//! What holds layers near to where refining began.
//!
//! φ alone leaves some of them free: what the first block's attention does hardly shows in its outputs, so that queries and keys
//! went hundreds of times their size for a gain in the fourth digit. Held is what a layer makes of its inputs.

use ndarray::Array2;

use crate::error::Result;
use crate::job::refined::objective::Curvature;
use crate::numeric::product::apply_rows;
use crate::observer::Observer;

/// What it costs that all outputs of a layer change by their own size, of the φ at the beginning.
const COST: f64 = 0.1;

/// A layer as it was.
struct Held {
    weights: Array2<f32>,
    /// A = Σ x·xᵀ of its inputs.
    gram: Array2<f32>,
    /// `COST`·φ₀/tr(W₀·A·W₀ᵀ), or 0 where its outputs are.
    weight: f64,
}

/// χ = Σ over layers of `COST`·φ₀·tr(Δ·A·Δᵀ)/tr(W₀·A·W₀ᵀ), Δ = W − W₀: the share by which the outputs of each changed, squared.
pub(super) struct Hold(Vec<Held>);

impl Hold {
    /// Holds layers where they are, with φ₀ and the products of inputs there. Memory: as much as both.
    pub(super) fn new(
        layers: impl Iterator<Item = Array2<f32>>,
        (curvatures, error): (&[Curvature], f64),
        observer: &dyn Observer,
    ) -> Result<Self> {
        let hold = |(weights, curvature): (Array2<f32>, &Curvature)| {
            let gram = curvature.gram.clone();
            let all = form(&weights, &product(&weights, &gram, observer)?);
            let weight = if all > 0.0 { COST * error / all } else { 0.0 };
            Ok(Held { weights, gram, weight })
        };
        layers.zip(curvatures).map(hold).collect::<Result<Vec<_>>>().map(Self)
    }

    /// χ of a layer at these weights; its derivatives are added to `slope`.
    pub(super) fn add(
        &self,
        layer: usize,
        weights: &Array2<f32>,
        slope: Option<&mut Array2<f32>>,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let held = &self.0[layer];
        let away = weights - &held.weights;
        let along = product(&away, &held.gram, observer)?;
        if let Some(slope) = slope {
            slope.scaled_add((2.0 * held.weight) as f32, &along);
        }
        Ok(held.weight * form(&away, &along))
    }

    /// Adds its own curvature, which is of the same form: rₒ = weight for every row.
    pub(super) fn stiffen(&self, curvatures: &mut [Curvature]) {
        for (held, curvature) in self.0.iter().zip(curvatures) {
            curvature.rows.iter_mut().for_each(|row| *row += held.weight);
        }
    }
}

/// W·A, A symmetric.
fn product(
    weights: &Array2<f32>,
    gram: &Array2<f32>,
    observer: &dyn Observer,
) -> Result<Array2<f32>> {
    let mut along = Array2::zeros(weights.dim());
    apply_rows(weights.view(), gram.view(), along.view_mut(), &|| observer.is_cancelled());
    observer.go_on()?;
    Ok(along)
}

/// Σ wᵢⱼ·aᵢⱼ.
fn form(weights: &Array2<f32>, along: &Array2<f32>) -> f64 {
    weights.iter().zip(along).map(|(w, a)| f64::from(*w) * f64::from(*a)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;
    use crate::observer::Silent;

    /// A layer that changed by all of its outputs costs a tenth of φ₀, and the derivatives are those of the cost.
    #[test]
    fn the_cost_is_the_share_of_the_outputs_that_changed() {
        let mut random = Random::new(3);
        let mut normal = |shape| Array2::from_shape_simple_fn(shape, || random.normal() as f32);
        let (start, x, away) = (normal((4, 6)), normal((50, 6)), normal((4, 6)));
        let curvature = Curvature { gram: x.t().dot(&x), rows: vec![1.0; 4] };
        let start_of = || std::iter::once(start.clone());
        let hold = Hold::new(start_of(), (std::slice::from_ref(&curvature), 7.0), &Silent).unwrap();
        assert_eq!(hold.add(0, &start, None, &Silent).unwrap(), 0.0);
        let all = hold.add(0, &(&start * 2.0), None, &Silent).unwrap();
        assert!((all - 7.0 * COST).abs() < 1e-5, "{all}");
        let at = |t: f32| hold.add(0, &(&start + &(&away * t)), None, &Silent).unwrap();
        let mut slope = Array2::zeros((4, 6));
        hold.add(0, &(&start + &away), Some(&mut slope), &Silent).unwrap();
        let wanted = (at(1.01) - at(0.99)) / 0.02;
        let found = form(&slope, &away);
        assert!((found - wanted).abs() < 1e-3 * wanted.abs(), "{found} for {wanted}");
        let mut stiff = [curvature];
        hold.stiffen(&mut stiff);
        assert!(stiff[0].rows.iter().all(|row| (row - 1.0 - hold.0[0].weight).abs() < 1e-12));
    }
}
