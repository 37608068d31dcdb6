//! Measuring every tensor: statistics first, spectra after, and before both what is selected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::checkpoint::{Checkpoint, SharedCheckpoint};
use lapidary_engine::{Error, Observer as _, statistics};

use crate::document::model::Model;
use crate::jobs::{Event, Jobs, Kind, Ticket};

/// The tensor to measure before all others.
#[derive(Default)]
pub(super) struct Urgent(AtomicUsize);

impl Urgent {
    fn set(&self, layer: Option<usize>) {
        self.0.store(layer.map_or(0, |layer| layer + 1), Ordering::Relaxed);
    }

    fn get(&self) -> Option<usize> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// What is still to be measured.
struct Agenda {
    statistics: Vec<bool>,
    spectra: Vec<bool>,
    /// Matrices by size: many small spectra are there before one large one.
    spectra_order: Vec<usize>,
}

/// One thing to measure.
enum Task {
    Statistics(usize),
    Spectrum(usize),
}

impl Agenda {
    fn new(model: &Model) -> Self {
        let tensors = model.checkpoint.tensors();
        let layers = 0..tensors.len();
        let mut spectra_order: Vec<usize> =
            layers.clone().filter(|&layer| tensors[layer].matrix.is_some()).collect();
        spectra_order.sort_by_key(|&layer| tensors[layer].parameters());
        let is_due =
            |layer: usize| tensors[layer].matrix.is_some() && model.spectrum_state(layer).is_none();
        Self {
            statistics: layers
                .clone()
                .map(|layer| model.statistics_state(layer).is_none())
                .collect(),
            spectra: layers.map(is_due).collect(),
            spectra_order,
        }
    }

    fn next(&mut self, urgent: Option<usize>) -> Option<Task> {
        if let Some(layer) = urgent {
            if std::mem::take(&mut self.statistics[layer]) {
                return Some(Task::Statistics(layer));
            }
            if std::mem::take(&mut self.spectra[layer]) {
                return Some(Task::Spectrum(layer));
            }
        }
        if let Some(layer) = self.statistics.iter().position(|&due| due) {
            self.statistics[layer] = false;
            return Some(Task::Statistics(layer));
        }
        let layer = self.spectra_order.iter().copied().find(|&layer| self.spectra[layer])?;
        self.spectra[layer] = false;
        Some(Task::Spectrum(layer))
    }
}

impl Jobs {
    /// Measures what a model still lacks.
    pub fn measure(&mut self, model: &Model) {
        let ticket = self.begin(Kind::Measure);
        let mut agenda = Agenda::new(model);
        let checkpoint = model.checkpoint.clone();
        self.urgent.set(model.selection.cursor());
        let urgent = self.urgent.clone();
        self.spawn("measure", move || {
            while !ticket.is_cancelled() {
                let Some(task) =
                    agenda.next(urgent.get().filter(|&layer| layer < checkpoint.tensors().len()))
                else {
                    return;
                };
                measure(&checkpoint, &task, &ticket);
            }
        });
    }

    /// Says which layer is on screen, to be measured next.
    pub fn measure_first(&self, layer: Option<usize>) {
        self.urgent.set(layer);
    }
}

fn measure(checkpoint: &SharedCheckpoint, task: &Task, ticket: &Ticket) {
    let event = match *task {
        Task::Statistics(layer) => sentence(statistics::measure(checkpoint, layer, ticket))
            .map(|r| Event::Statistics(layer, r)),
        Task::Spectrum(layer) => {
            let checkpoint: &Checkpoint = checkpoint;
            sentence(statistics::measure_spectrum(checkpoint, layer, ticket))
                .map(|r| Event::Spectrum(layer, r))
        }
    };
    if let Some(event) = event {
        ticket.send(event);
    }
}

/// The value or a sentence; `None` if it was cancelled.
pub(super) fn sentence<T>(result: lapidary_engine::Result<T>) -> Option<Result<Arc<T>, String>> {
    match result {
        Ok(value) => Some(Ok(Arc::new(value))),
        Err(Error::Cancelled) => None,
        Err(error) => Some(Err(error.sentence())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three tensors, the last two of them matrices, the second smaller than the third.
    fn agenda() -> Agenda {
        Agenda {
            statistics: vec![true; 3],
            spectra: vec![false, true, true],
            spectra_order: vec![1, 2],
        }
    }

    fn take(agenda: &mut Agenda, urgent: Option<usize>) -> Vec<(char, usize)> {
        let named = |task| match task {
            Task::Statistics(layer) => ('m', layer),
            Task::Spectrum(layer) => ('s', layer),
        };
        std::iter::from_fn(|| agenda.next(urgent).map(named)).collect()
    }

    #[test]
    fn the_selected_layer_comes_first_then_statistics_then_small_spectra() {
        let selected = take(&mut agenda(), Some(2));
        assert_eq!(selected, [('m', 2), ('s', 2), ('m', 0), ('m', 1), ('s', 1)]);
        let unselected = take(&mut agenda(), None);
        assert_eq!(unselected, [('m', 0), ('m', 1), ('m', 2), ('s', 1), ('s', 2)]);
    }
}
