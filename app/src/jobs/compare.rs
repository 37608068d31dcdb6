//! Comparing the open checkpoint with a second one: what is inspected first, then tensor by tensor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::Observer as _;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::tensor::Factors;
use lapidary_engine::{compare, export};

use crate::document::model::Model;
use crate::document::other::Other;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Opens a second checkpoint and compares every tensor with its counterpart.
    pub fn compare(&mut self, model: &Model, path: PathBuf) {
        let ticket = self.begin(Kind::Compare);
        let checkpoint = model.checkpoint.clone();
        let mut order = model.inspected();
        order.extend(
            (0..checkpoint.tensors().len())
                .filter(|layer| !order.contains(layer))
                .collect::<Vec<_>>(),
        );
        self.spawn("compare", move || {
            let other = match Checkpoint::open(&path) {
                Ok(other) => Arc::new(other),
                Err(error) => return ticket.send(Event::OtherOpened(Err(error.sentence()))),
            };
            let asked = export::as_exported(&checkpoint, &other).and_then(|left| {
                let left = left.map_or_else(|| checkpoint.clone(), Arc::new);
                Ok((export::folded_scales(&left, &other)?, left))
            });
            let (scales, left) = match asked {
                Ok(asked) => asked,
                Err(error) => return ticket.send(Event::OtherOpened(Err(error.sentence()))),
            };
            // What the export took out has no counterpart; everything here is told by the tensors of the open model.
            let places = left.places_in(&checkpoint);
            let place = |index: usize| places.get(index).copied().flatten();
            let mut pairs = vec![None; checkpoint.tensors().len()];
            let mut at_left = vec![None; pairs.len()];
            for (index, pair) in compare::pairs(&left, &other).into_iter().enumerate() {
                if let Some(whole) = place(index) {
                    (pairs[whole], at_left[whole]) = (pair, Some(index));
                }
            }
            let scales = scales.into_iter();
            let scales = scales.filter_map(|(index, factors)| Some((place(index)?, factors)));
            let scales: Arc<BTreeMap<usize, Factors>> = Arc::new(scales.collect());
            let other = Other { scales: scales.clone(), ..Other::new(other, pairs) };
            let (second, pairs) = (other.checkpoint.clone(), other.pairs.clone());
            ticket.send(Event::OtherOpened(Ok(Box::new(other))));
            for layer in order {
                if ticket.is_cancelled() {
                    return;
                }
                let (Some(pair), Some(index)) = (&pairs[layer], at_left[layer]) else { continue };
                let of = (&*left, index, scales.get(&layer));
                let found = compare::compare_scaled(of, &second, pair, &ticket);
                if let Some(answer) = sentence(found) {
                    ticket.send(Event::Compared(layer, answer));
                }
            }
        });
    }

    /// Stops comparing.
    pub fn stop_comparing(&mut self) {
        self.stop(Kind::Compare);
    }
}
