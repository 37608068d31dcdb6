//! What assignments were found to do to layers: estimates from samples first, exact errors where they were measured.

use std::sync::Arc;

use lapidary_engine::job::{Damage, Weighting};
use lapidary_engine::plan::Assignment;
use lapidary_engine::scores::Metric;

/// The damage of an assignment, or a sentence why there is none.
pub type Found = Result<Damage, String>;

/// What was found, by layer.
#[derive(Clone, Debug, Default)]
pub struct Damages(Vec<Vec<(Arc<Assignment>, Found)>>);

/// The mean over all weights of the squared relative errors of a plan: the number that scores by weights, and by outputs,
/// predict too.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeanDamage {
    /// Σ Pₗ/P·‖W−Ŵ‖²/‖W‖² over the layers that are known, Pₗ their weights of the P of the model.
    pub mean: f64,
    /// Layers whose damage is exact.
    pub exact: usize,
    /// Layers whose damage is an estimate.
    pub estimated: usize,
    /// Layers whose damage is weighted by their inputs.
    pub weighted: usize,
    /// Compressed layers whose damage is not known yet.
    pub unknown: usize,
    /// Compressed layers that have none, as it could not be worked out.
    pub without: usize,
}

impl MeanDamage {
    /// Compressed layers.
    pub fn layers(&self) -> usize {
        self.exact + self.estimated + self.unknown + self.without
    }

    /// Its name: outputs where errors are weighted by what layers receive, as Allocate names them.
    pub fn title(&self) -> &'static str {
        name_of_mean(self.weighted > 0)
    }
}

/// The name of the mean of the damages of weights, or of outputs.
pub fn name_of_mean(is_weighted: bool) -> &'static str {
    if is_weighted { Metric::Outputs.quantity() } else { Metric::Weights.quantity() }
}

/// What the mean is.
pub const MEAN: &str = "Σ p·d over the compressed layers: p is the share of the weights of the model that lie in the layer, and d is its damage as the list shows it, ‖W−Ŵ‖²/‖W‖² of weights or ‖(W−Ŵ)x‖²/‖Wx‖² of outputs. Kept layers count as 0.";

impl Damages {
    /// Nothing found yet for `n` tensors.
    pub fn new(n: usize) -> Self {
        Self(vec![Vec::new(); n])
    }

    /// What an assignment does to a layer, if it was tried. Locks play no part.
    pub fn get(&self, layer: usize, assignment: &Assignment) -> Option<&Found> {
        let is_it = |tried: &&(Arc<Assignment>, Found)| {
            std::ptr::eq(Arc::as_ptr(&tried.0), assignment) || tried.0.steps == assignment.steps
        };
        self.0[layer].iter().find(is_it).map(|(_, found)| found)
    }

    /// Forgets what was found, as another calibration weights errors in another way.
    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(Vec::clear);
    }

    /// Takes in what was found; an estimate does not replace an exact error, nor a plain error one that is weighted
    /// by the layer's inputs.
    pub fn put(&mut self, layer: usize, assignment: Arc<Assignment>, found: Found) {
        let known = &mut self.0[layer];
        let worth = |found: &Found| match found {
            Ok(damage) => Some((damage.weighting != Weighting::None, damage.is_exact())),
            Err(_) => None,
        };
        match known.iter_mut().find(|(tried, _)| tried.steps == assignment.steps) {
            Some((_, before)) if worth(before) > worth(&found) && found.is_ok() => {}
            Some((_, before)) => *before = found,
            None => known.push((assignment, found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_give_way_to_exact_errors_and_never_back() {
        let mut damages = Damages::new(1);
        let four = Arc::new(Assignment::keep().with_bits(4));
        let damage =
            |relative_error, weighting, rows| Damage { relative_error, weighting, rows, of: 64 };
        let estimate = damage(0.11, Weighting::None, 8);
        let exact = damage(0.10, Weighting::None, 64);
        let weighted = damage(0.07, Weighting::Gram, 8);
        damages.put(0, four.clone(), Ok(estimate));
        assert_eq!(damages.get(0, &four), Some(&Ok(estimate)));
        damages.put(0, four.clone(), Ok(exact));
        damages.put(0, four.clone(), Ok(estimate));
        let locked = Assignment { locked: true, ..Assignment::clone(&four) };
        assert_eq!(damages.get(0, &locked), Some(&Ok(exact)));
        assert_eq!(damages.get(0, &four.with_bits(3)), None);
        damages.put(0, four.clone(), Ok(weighted));
        damages.put(0, four.clone(), Ok(exact));
        assert_eq!(damages.get(0, &four), Some(&Ok(weighted)), "what inputs weight is worth more");
        damages.clear();
        assert_eq!(damages.get(0, &four), None);
    }
}
