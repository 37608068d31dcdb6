//! Trying assignments on samples of layers: one worker that goes through a list which every command may replace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::job::{self, Calibrated as _, Moments, Sample};
use lapidary_engine::method::Needs;
use lapidary_engine::plan::Assignment;

use crate::document::calibrations::Loaded;
use crate::document::measurements::Finding;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind, Ticket};

/// An assignment to try on a layer.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The layer.
    pub layer: usize,
    /// What to try.
    pub assignment: Arc<Assignment>,
    /// Whether every row is wanted rather than a sample.
    pub exact: bool,
}

/// What is to be tried, in order.
#[derive(Default)]
pub(super) struct Trials(Mutex<Queue>);

/// A model, the calibration in use, and where answers go.
#[derive(Clone)]
struct Place {
    checkpoint: SharedCheckpoint,
    calibration: Option<Arc<Loaded>>,
    ticket: Ticket,
}

impl Place {
    fn is_of(&self, checkpoint: &SharedCheckpoint, calibration: Option<&Arc<Loaded>>) -> bool {
        Arc::ptr_eq(&self.checkpoint, checkpoint)
            && self.calibration.as_ref().map(Arc::as_ptr) == calibration.map(Arc::as_ptr)
    }
}

#[derive(Default)]
struct Queue {
    trials: VecDeque<Trial>,
    /// The model to try on, what weights its errors, and where answers go.
    place: Option<Place>,
    has_worker: bool,
}

impl Trials {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next trial; a worker that gets none is done.
    fn next(&self) -> Option<(Trial, Place)> {
        let mut queue = self.lock();
        let next = queue.trials.pop_front().zip(queue.place.clone());
        queue.has_worker = next.is_some();
        next
    }

    pub(super) fn clear(&self) {
        let mut queue = self.lock();
        queue.trials.clear();
        queue.place = None;
    }
}

impl Jobs {
    /// Tries assignments, in this order, in place of those still to be tried. Errors are weighted by the calibration.
    pub fn try_out(
        &mut self,
        checkpoint: &SharedCheckpoint,
        calibration: Option<&Arc<Loaded>>,
        trials: Vec<Trial>,
    ) {
        let queue = self.trials.clone();
        let is_placed =
            queue.lock().place.as_ref().is_some_and(|p| p.is_of(checkpoint, calibration));
        if !is_placed {
            let (checkpoint, calibration) = (checkpoint.clone(), calibration.cloned());
            let ticket = self.begin(Kind::Damage);
            queue.lock().place = Some(Place { checkpoint, calibration, ticket });
        }
        let needs_worker = {
            let mut queue = queue.lock();
            queue.trials = trials.into();
            let needs = !queue.has_worker && !queue.trials.is_empty();
            queue.has_worker |= needs;
            needs
        };
        if needs_worker {
            self.spawn("damage", move || {
                let mut sample: Option<Taken> = None;
                while let Some((trial, place)) = queue.next() {
                    run(&place, &trial, &mut sample);
                }
            });
        }
    }
}

/// A layer that was read for a trial, with what is known of its inputs.
struct Taken {
    checkpoint: SharedCheckpoint,
    calibration: Option<Arc<Loaded>>,
    layer: usize,
    is_whole: bool,
    sample: Sample,
}

impl Taken {
    fn new(place: &Place, trial: &Trial) -> lapidary_engine::Result<Self> {
        let (checkpoint, layer) = (&place.checkpoint, trial.layer);
        let read = if trial.exact { Sample::whole } else { Sample::new };
        let name = &checkpoint.tensors()[layer].name;
        let inputs = match &place.calibration {
            Some(loaded) => loaded.inputs(name, Needs::Gram)?.filter(|inputs| inputs.tokens > 0),
            None => None,
        };
        let sample = read(checkpoint, layer, &place.ticket)?.with_inputs(inputs);
        let (checkpoint, calibration) = (checkpoint.clone(), place.calibration.clone());
        Ok(Self { checkpoint, calibration, layer, is_whole: trial.exact, sample })
    }

    fn is_for(&self, place: &Place, trial: &Trial) -> bool {
        place.is_of(&self.checkpoint, self.calibration.as_ref())
            && (self.layer, self.is_whole) == (trial.layer, trial.exact)
    }

    fn damage(&self, trial: &Trial, ticket: &Ticket) -> lapidary_engine::Result<job::Damage> {
        let moments = Moments::of(self.sample.inputs());
        self.sample.damage_through(&trial.assignment.steps, &moments, ticket)
    }
}

/// Tries one assignment; what was read of a layer is kept for the next trial on it.
fn run(place: &Place, trial: &Trial, sample: &mut Option<Taken>) {
    let known = sample.take().filter(|taken| taken.is_for(place, trial));
    let taken = known.map_or_else(|| Taken::new(place, trial), Ok);
    let damage = taken.and_then(|taken| {
        let damage = taken.damage(trial, &place.ticket);
        *sample = Some(taken);
        damage
    });
    if let Some(found) = sentence(damage) {
        let found = found.map(|damage| *damage);
        let finding = Finding::Damage((trial.assignment.clone(), found));
        place.ticket.send(Event::Found(vec![(trial.layer, finding)]));
    }
}
