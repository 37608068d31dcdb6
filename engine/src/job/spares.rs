//! Memory of layers that are done, for those to come: new pages cost the system more than reading weights into them.

use std::sync::{Mutex, PoisonError};

use ndarray::Array2;

/// Weights of layers in f32 that nobody needs any more. One is only taken for as many weights, so that no layer is held in
/// more memory than its own.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Vec<f32>>>);

impl Spares {
    /// Memory for `elements` weights, whatever they hold; none where none of that size is left.
    pub(super) fn take(&self, elements: usize) -> Vec<f32> {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spares.iter().position(|spare| spare.capacity() == elements);
        found.map_or_else(Vec::new, |at| spares.swap_remove(at))
    }

    pub(super) fn give(&self, weights: Array2<f32>) {
        let (values, _) = weights.into_raw_vec_and_offset();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }

    /// Keeps one for each of these numbers of weights at most, and lets go of all others: what is left is within the memory
    /// that the layers to come are counted with.
    pub(super) fn keep_for(&self, layers: impl Iterator<Item = usize>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = Vec::new();
        for elements in layers {
            if let Some(at) = spares.iter().position(|spare| spare.capacity() == elements) {
                kept.push(spares.swap_remove(at));
            }
        }
        *spares = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_next_layers_take_is_kept() {
        let spares = Spares::default();
        for (rows, cols) in [(2, 3), (3, 2), (4, 4), (1, 1)] {
            spares.give(Array2::zeros((rows, cols)));
        }
        spares.keep_for([16, 6, 9].into_iter());
        let capacity = |elements| spares.take(elements).capacity();
        assert_eq!([6, 6, 16, 1, 9].map(capacity), [6, 0, 16, 0, 0]);
    }
}
