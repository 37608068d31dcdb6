//! Which bits the target holds, for buttons of bits: what is grey, and why.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lapidary_engine::plan::Assignment;
use lapidary_engine::target;

use crate::allocating;
use crate::document::model::Model;

/// Layers of a selection that are asked one by one.
const MOST_ASKED: usize = 64;

/// For numbers of bits that no layer can have as it is quantised now: why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldBits(BTreeMap<i64, String>);

impl HeldBits {
    /// Asks for every number of bits. Cost: a look at each layer, and some layouts for each that differs from those before.
    pub fn of(model: &Model, bits: impl IntoIterator<Item = i64>) -> Self {
        let layers = differing(model, |layer| {
            let of = model.plan().get(&model.checkpoint.tensors()[layer].name);
            of.map_or(0, |of| Arc::as_ptr(of).addr())
        });
        let refused = |bits: i64| {
            let wanted = |layer: usize| vec![model.assignment(layer).with_bits(bits)];
            Some((bits, why_not(model, &layers, wanted)?))
        };
        Self(bits.into_iter().filter_map(refused).collect())
    }

    /// The same for layers that these quantisers round, whatever they are now.
    pub fn by(model: &Model, methods: &[String], bits: impl IntoIterator<Item = i64>) -> Self {
        let layers = differing(model, |_layer| 0);
        let refused = |bits: i64| {
            let palette = match allocating::palette(methods, &[bits], &[]) {
                Ok(palette) => palette,
                Err(error) => return Some((bits, error.sentence())),
            };
            Some((bits, why_not(model, &layers, |_layer| palette.clone())?))
        };
        if methods.is_empty() {
            return Self::default();
        }
        Self(bits.into_iter().filter_map(refused).collect())
    }

    /// Why no layer can have so many bits.
    pub fn why_not(&self, bits: i64) -> Option<&str> {
        self.0.get(&bits).map(String::as_str)
    }
}

impl Model {
    /// Why none of the selected layers can have so many bits; of many of them, why none of the model can.
    pub fn why_not_bits(&self, bits: i64) -> Option<String> {
        let matrices = self.selection.layers().filter(|&layer| self.is_matrix(layer));
        let layers: Vec<usize> = matrices.take(MOST_ASKED + 1).collect();
        if layers.len() > MOST_ASKED {
            return self.held_bits.why_not(bits).map(str::to_owned);
        }
        why_not(self, &layers, |layer| vec![self.assignment(layer).with_bits(bits)])
    }
}

/// One layer of each kind, extents and number of `key`: what a target holds of it, it holds of the others.
fn differing(model: &Model, key: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut seen = HashSet::new();
    let tensors = model.checkpoint.tensors().iter().enumerate();
    let is_new = |(layer, tensor): &(usize, &lapidary_engine::checkpoint::Tensor)| {
        let Some(matrix) = tensor.matrix else { return false };
        let what = (tensor.place.role.name(), matrix.kind as u8, matrix.shape.rows);
        seen.insert((what, matrix.shape.cols, tensor.dtype.name(), key(*layer)))
    };
    tensors.filter(is_new).map(|(layer, _)| layer).collect()
}

/// The reason that most of the layers give, where none can have any of what is wanted.
fn why_not(
    model: &Model,
    layers: &[usize],
    wanted: impl Fn(usize) -> Vec<Assignment>,
) -> Option<String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for &layer in layers {
        let tensor = &model.checkpoint.tensors()[layer];
        for wanted in wanted(layer) {
            if target::held_at_same_bits(tensor, &wanted, model.target).is_some() {
                return None;
            }
            let why = target::refusal(tensor, &wanted, model.target).unwrap_or_default();
            *reasons.entry(why).or_default() += 1;
        }
    }
    let most = reasons.into_iter().max_by_key(|(_, n)| *n);
    most.map(|(why, _)| format!("{} does not hold it: {why}.", model.target.about().title))
}
