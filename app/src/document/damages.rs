//! What assignments were found to do to layers: estimates from samples first, exact errors where they were measured.

use std::sync::Arc;

use lapidary_engine::job::Damage;
use lapidary_engine::plan::Assignment;

/// The damage of an assignment, or a sentence why there is none.
pub type Found = Result<Damage, String>;

/// What was found, by layer.
#[derive(Clone, Debug, Default)]
pub struct Damages(Vec<Vec<(Arc<Assignment>, Found)>>);

/// Squared relative errors added up over the compressed layers of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DamageSum {
    /// Σ ‖W−Ŵ‖²/‖W‖² over the layers that are known.
    pub sum: f64,
    /// Layers whose damage is exact.
    pub exact: usize,
    /// Layers whose damage is an estimate.
    pub estimated: usize,
    /// Compressed layers whose damage is not known yet.
    pub unknown: usize,
}

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

    /// Takes in what was found; an estimate does not replace an exact error.
    pub fn put(&mut self, layer: usize, assignment: Arc<Assignment>, found: Found) {
        let known = &mut self.0[layer];
        let is_exact = |found: &Found| found.as_ref().is_ok_and(Damage::is_exact);
        match known.iter_mut().find(|(tried, _)| tried.steps == assignment.steps) {
            Some((_, before)) if is_exact(before) && !is_exact(&found) => {}
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
        let estimate = Damage { relative_error: 0.11, rows: 8, of: 64 };
        let exact = Damage { relative_error: 0.10, rows: 64, of: 64 };
        damages.put(0, four.clone(), Ok(estimate));
        assert_eq!(damages.get(0, &four), Some(&Ok(estimate)));
        damages.put(0, four.clone(), Ok(exact));
        damages.put(0, four.clone(), Ok(estimate));
        let locked = Assignment { locked: true, ..Assignment::clone(&four) };
        assert_eq!(damages.get(0, &locked), Some(&Ok(exact)));
        assert_eq!(damages.get(0, &four.with_bits(3)), None);
    }
}
