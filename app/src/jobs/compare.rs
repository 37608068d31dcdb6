//! Comparing the open checkpoint with a second one: what is inspected first, then tensor by tensor.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::Observer as _;
use lapidary_engine::checkpoint::Checkpoint;
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
            let scales = match export::folded_scales(&checkpoint, &other) {
                Ok(scales) => Arc::new(scales),
                Err(error) => return ticket.send(Event::OtherOpened(Err(error.sentence()))),
            };
            let pairs = compare::pairs(&checkpoint, &other);
            let other = Other { scales: scales.clone(), ..Other::new(other, pairs) };
            let (second, pairs) = (other.checkpoint.clone(), other.pairs.clone());
            ticket.send(Event::OtherOpened(Ok(Box::new(other))));
            for layer in order {
                if ticket.is_cancelled() {
                    return;
                }
                let Some(pair) = &pairs[layer] else { continue };
                let of = (&*checkpoint, layer, scales.get(&layer));
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
