//! The one selection that list, map and inspector share.

use std::collections::BTreeSet;

/// Selected tensors, and the one that stands for them in the inspector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    layers: BTreeSet<usize>,
    cursor: Option<usize>,
}

/// How a click changes a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Only what was clicked.
    Replace,
    /// What was clicked comes in or goes out.
    Toggle,
    /// Everything between the cursor and what was clicked, in the order on screen.
    Range,
}

impl Selection {
    /// Selects one layer.
    pub fn one(layer: usize) -> Self {
        Self::of([layer])
    }

    /// Selects several layers; the first is the cursor.
    pub fn of(layers: impl IntoIterator<Item = usize>) -> Self {
        let layers: Vec<usize> = layers.into_iter().collect();
        Self { cursor: layers.first().copied(), layers: layers.into_iter().collect() }
    }

    /// The selected tensors, by index.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.layers.iter().copied()
    }

    /// Number of selected tensors.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Whether a tensor is selected.
    pub fn has(&self, layer: usize) -> bool {
        self.layers.contains(&layer)
    }

    /// The tensor the inspector shows.
    pub fn cursor(&self) -> Option<usize> {
        self.cursor
    }

    /// A click on `layer`, where `order` is what the screen shows.
    pub fn click(&mut self, layer: usize, how: How, order: &[usize]) {
        match how {
            How::Replace => *self = Self::one(layer),
            How::Toggle => {
                if !self.layers.remove(&layer) {
                    self.layers.insert(layer);
                    self.cursor = Some(layer);
                } else if self.cursor == Some(layer) {
                    self.cursor = self.layers.first().copied();
                }
            }
            How::Range => {
                let place = |layer: usize| order.iter().position(|&other| other == layer);
                let (Some(from), Some(to)) = (self.cursor.and_then(place), place(layer)) else {
                    *self = Self::one(layer);
                    return;
                };
                self.layers = order[from.min(to)..=from.max(to)].iter().copied().collect();
            }
        }
    }

    /// Moves the cursor to `layer`: alone, or with everything selected so far.
    pub fn go(&mut self, layer: usize, extend: bool) {
        if !extend {
            self.layers.clear();
        }
        self.layers.insert(layer);
        self.cursor = Some(layer);
    }
}

/// The tensor `step` places from the cursor in `order`, or the first.
pub fn neighbour(cursor: Option<usize>, step: isize, order: &[usize]) -> Option<usize> {
    let at = cursor.and_then(|cursor| order.iter().position(|&layer| layer == cursor));
    let next = match at {
        None => 0,
        Some(at) => at.saturating_add_signed(step).min(order.len().saturating_sub(1)),
    };
    order.get(next).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clicks_select_toggle_and_range() {
        let order = [5, 3, 8, 1];
        let mut selection = Selection::default();
        selection.click(3, How::Replace, &order);
        selection.click(1, How::Range, &order);
        assert_eq!(selection.layers().collect::<Vec<_>>(), [1, 3, 8]);
        assert_eq!(selection.cursor(), Some(3));
        selection.click(3, How::Toggle, &order);
        assert_eq!(
            (selection.layers().collect::<Vec<_>>(), selection.cursor()),
            (vec![1, 8], Some(1))
        );
    }

    #[test]
    fn walking_stops_at_the_ends_and_may_gather() {
        let order = [5, 3, 8];
        assert_eq!(neighbour(None, 1, &order), Some(5));
        assert_eq!(neighbour(Some(5), -1, &order), Some(5));
        assert_eq!(neighbour(Some(5), 7, &order), Some(8));
        assert_eq!(neighbour(None, 1, &[]), None);
        let mut selection = Selection::one(5);
        selection.go(3, true);
        assert_eq!((selection.len(), selection.cursor()), (2, Some(3)));
        selection.go(8, false);
        assert_eq!((selection.len(), selection.cursor()), (1, Some(8)));
    }
}
