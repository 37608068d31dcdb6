//! Measuring every tensor: what the inspector shows first, then what is on screen, then statistics of all, how their
//! weights are arranged, and spectra, the small ones before the large.

use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::checkpoint::{Checkpoint, SharedCheckpoint};
use lapidary_engine::statistics::{
    self, CACHE_LIMIT_BYTES, Cache, Cached, Key, Statistics, Structure,
};
use lapidary_engine::{Error, Observer};

use crate::document::measurements::Finding;
use crate::document::model::Model;
use crate::jobs::{Event, Jobs, Kind, Ticket};

/// The tensors to measure before all others: those inspected, then those on screen.
#[derive(Default)]
pub(super) struct Urgent(Mutex<Wanted>);

/// What is on show.
#[derive(Clone, Default)]
struct Wanted {
    inspected: Vec<usize>,
    visible: Vec<usize>,
}

impl Urgent {
    fn set(&self, wanted: Wanted) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    fn get(&self) -> Wanted {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is still to be measured.
struct Agenda {
    statistics: Vec<bool>,
    structures: Vec<bool>,
    spectra: Vec<bool>,
    /// Matrices by size: many small spectra are there before one large one.
    spectra_order: Vec<usize>,
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Statistics(usize),
    Structure(usize),
    Spectrum(usize),
}

impl Agenda {
    fn new(model: &Model) -> Self {
        let tensors = model.checkpoint.tensors();
        let layers = 0..tensors.len();
        let is_matrix = |layer: usize| tensors[layer].matrix.is_some();
        let mut spectra_order: Vec<usize> =
            layers.clone().filter(|&layer| is_matrix(layer)).collect();
        spectra_order.sort_by_key(|&layer| tensors[layer].parameters());
        let known = &model.measured;
        Self {
            statistics: layers.clone().map(|layer| known.statistics[layer].is_none()).collect(),
            structures: layers
                .clone()
                .map(|layer| is_matrix(layer) && known.structures[layer].is_none())
                .collect(),
            spectra: layers
                .map(|layer| is_matrix(layer) && known.spectra[layer].is_none())
                .collect(),
            spectra_order,
        }
    }

    /// What a layer still lacks, the quickest first; spectra only where they are asked for.
    fn lacking(&mut self, layer: usize, with_spectrum: bool) -> Option<Task> {
        if std::mem::take(self.statistics.get_mut(layer)?) {
            return Some(Task::Statistics(layer));
        }
        if std::mem::take(&mut self.structures[layer]) {
            return Some(Task::Structure(layer));
        }
        (with_spectrum && std::mem::take(&mut self.spectra[layer])).then_some(Task::Spectrum(layer))
    }

    fn next(&mut self, wanted: &Wanted) -> Option<Task> {
        let inspected = wanted.inspected.iter().find_map(|&layer| self.lacking(layer, true));
        let visible = || wanted.visible.iter().find_map(|&layer| self.lacking(layer, false));
        if let Some(task) = inspected.or_else(visible) {
            return Some(task);
        }
        let first = |due: &mut Vec<bool>| {
            let layer = due.iter().position(|&due| due)?;
            due[layer] = false;
            Some(layer)
        };
        if let Some(layer) = first(&mut self.statistics) {
            return Some(Task::Statistics(layer));
        }
        if let Some(layer) = first(&mut self.structures) {
            return Some(Task::Structure(layer));
        }
        let layer = self.spectra_order.iter().copied().find(|&layer| self.spectra[layer])?;
        self.spectra[layer] = false;
        Some(Task::Spectrum(layer))
    }
}

/// Measures on a thread of its own. What was measured before, of the same bytes, is on disk.
struct Worker {
    checkpoint: SharedCheckpoint,
    ticket: Ticket,
    cache: Cache,
    /// The keys of the tensors, as far as they are known.
    keys: Vec<Option<Key>>,
    /// Keys found since they were last written down.
    new_keys: usize,
    /// Mean and standard deviation of the tensors whose statistics are known.
    spreads: Vec<Option<(f64, f64)>>,
}

/// Keys that are found before they are written down: few writes, and little is lost with a window.
const KEYS_A_WRITE: usize = 256;
/// Findings sent at once when a model is reopened.
const BATCH: usize = 256;

impl Worker {
    /// Everything that is on disk of tensors whose content is known without reading them.
    fn recall(&mut self, agenda: &mut Agenda) {
        self.keys = self.cache.known_keys(&self.checkpoint);
        let mut batch = Vec::new();
        for layer in 0..self.keys.len() {
            let Some(key) = self.keys[layer] else { continue };
            if self.ticket.is_cancelled() {
                return;
            }
            if agenda.statistics[layer]
                && let Some(found) = self.cache.get::<Statistics>(key)
            {
                agenda.statistics[layer] = false;
                self.spreads[layer] = Some((found.mean, found.std));
                batch.push((layer, Finding::Statistics(Ok(Arc::new(found)))));
            }
            if agenda.structures[layer]
                && let Some(found) = self.cache.get(key)
            {
                agenda.structures[layer] = false;
                batch.push((layer, Finding::Structure(Ok(Arc::new(found)))));
            }
            if agenda.spectra[layer]
                && let Some(found) = self.cache.get(key)
            {
                agenda.spectra[layer] = false;
                batch.push((layer, Finding::Spectrum(Ok(Arc::new(found)))));
            }
            if batch.len() >= BATCH {
                self.ticket.send(Event::Found(std::mem::take(&mut batch)));
            }
        }
        self.ticket.send(Event::Found(batch));
    }

    fn run(&mut self, task: Task) {
        let (layer, finding) = match task {
            Task::Statistics(layer) => (layer, self.statistics(layer).map(Finding::Statistics)),
            Task::Structure(layer) => (layer, self.structure(layer).map(Finding::Structure)),
            Task::Spectrum(layer) => {
                let spectrum = self.cached(layer, statistics::measure_spectrum);
                (layer, sentence(spectrum).map(Finding::Spectrum))
            }
        };
        if let Some(finding) = finding {
            self.ticket.send(Event::Found(vec![(layer, finding)]));
        }
    }

    fn statistics(&mut self, layer: usize) -> Option<Answer<Statistics>> {
        let measured = self.cached(layer, statistics::measure);
        if let Ok(found) = &measured {
            self.spreads[layer] = Some((found.mean, found.std));
        }
        sentence(measured)
    }

    fn structure(&mut self, layer: usize) -> Option<Answer<Structure>> {
        let Some(spread) = self.spreads[layer] else {
            return Some(Err("its statistics could not be measured".to_owned()));
        };
        sentence(self.cached(layer, |checkpoint, layer, observer| {
            statistics::measure_structure(checkpoint, layer, spread, observer)
        }))
    }

    /// A value from the disk if these very bytes were measured before; else measured, and kept.
    fn cached<T: Cached>(
        &mut self,
        layer: usize,
        measure: impl FnOnce(&Checkpoint, usize, &dyn Observer) -> lapidary_engine::Result<T>,
    ) -> lapidary_engine::Result<T> {
        let key = self.key(layer)?;
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        let measured = measure(&self.checkpoint, layer, &self.ticket)?;
        // A file written meanwhile may have given the key and the value different bytes.
        let file = &self.checkpoint.files()[self.checkpoint.tensors()[layer].file];
        if file.identity().is_some()
            && let Err(error) = self.cache.put(key, &measured)
        {
            tracing::warn!("cannot keep what was measured: {}", error.sentence());
        }
        Ok(measured)
    }

    fn key(&mut self, layer: usize) -> lapidary_engine::Result<Key> {
        if let Some(key) = self.keys[layer] {
            return Ok(key);
        }
        let key = Cache::key(&self.checkpoint, layer, &self.ticket)?;
        self.keys[layer] = Some(key);
        self.new_keys += 1;
        if self.new_keys >= KEYS_A_WRITE {
            self.remember();
        }
        Ok(key)
    }

    /// Writes down the keys found, so that the next opening need not read the weights.
    fn remember(&mut self) {
        if std::mem::take(&mut self.new_keys) == 0 {
            return;
        }
        if let Err(error) = self.cache.remember(&self.checkpoint, &self.keys) {
            tracing::warn!("cannot remember the keys of tensors: {}", error.sentence());
        }
    }
}

impl Jobs {
    /// Measures what a model still lacks.
    pub fn measure(&mut self, model: &Model) {
        let ticket = self.begin(Kind::Measure);
        let mut agenda = Agenda::new(model);
        let spread = |layer| model.statistics(layer).map(|known| (known.mean, known.std));
        let n = model.checkpoint.tensors().len();
        let mut worker = Worker {
            checkpoint: model.checkpoint.clone(),
            ticket,
            cache: Cache::new(&self.cache_folder, CACHE_LIMIT_BYTES),
            keys: vec![None; n],
            new_keys: 0,
            spreads: (0..n).map(spread).collect(),
        };
        self.measure_first(&model.inspected(), model.visible.concat());
        let urgent = self.urgent.clone();
        self.spawn("measure", move || {
            worker.recall(&mut agenda);
            while !worker.ticket.is_cancelled() {
                let Some(task) = agenda.next(&urgent.get()) else { break };
                worker.run(task);
            }
            worker.remember();
        });
    }

    /// Says what is on show, to be measured next.
    pub fn measure_first(&self, inspected: &[usize], visible: Vec<usize>) {
        self.urgent.set(Wanted { inspected: inspected.to_vec(), visible });
    }
}

/// A value, or a sentence why there is none.
pub(super) type Answer<T> = Result<Arc<T>, String>;

/// The value or a sentence; `None` if it was cancelled.
pub(super) fn sentence<T>(result: lapidary_engine::Result<T>) -> Option<Answer<T>> {
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
            structures: vec![false, true, true],
            spectra: vec![false, true, true],
            spectra_order: vec![1, 2],
        }
    }

    fn order(inspected: &[usize], visible: &[usize]) -> String {
        let wanted = Wanted { inspected: inspected.to_vec(), visible: visible.to_vec() };
        let mut agenda = agenda();
        let tasks = std::iter::from_fn(|| agenda.next(&wanted));
        let named = tasks.map(|task| match task {
            Task::Statistics(layer) => format!("m{layer}"),
            Task::Structure(layer) => format!("o{layer}"),
            Task::Spectrum(layer) => format!("s{layer}"),
        });
        named.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_inspected_come_first_then_the_visible_then_all() {
        assert_eq!(order(&[], &[]), "m0 m1 m2 o1 o2 s1 s2");
        assert_eq!(order(&[2], &[]), "m2 o2 s2 m0 m1 o1 s1");
        assert_eq!(order(&[2], &[1, 0]), "m2 o2 s2 m1 o1 m0 s1", "no spectrum of the visible yet");
        assert_eq!(order(&[99], &[7]), "m0 m1 m2 o1 o2 s1 s2", "of another model: left alone");
    }
}
