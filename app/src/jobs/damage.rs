//! Trying assignments on samples of layers: one worker that goes through a list which every command may replace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::job::{self, Sample};
use lapidary_engine::plan::{Assignment, Plan};

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

#[derive(Default)]
struct Queue {
    trials: VecDeque<Trial>,
    /// The model to try on, and where answers go.
    place: Option<(SharedCheckpoint, Ticket)>,
    has_worker: bool,
}

impl Trials {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next trial; a worker that gets none is done.
    fn next(&self) -> Option<(Trial, SharedCheckpoint, Ticket)> {
        let mut queue = self.lock();
        let next = queue.trials.pop_front().zip(queue.place.clone());
        queue.has_worker = next.is_some();
        next.map(|(trial, (checkpoint, ticket))| (trial, checkpoint, ticket))
    }

    pub(super) fn clear(&self) {
        let mut queue = self.lock();
        queue.trials.clear();
        queue.place = None;
    }
}

impl Jobs {
    /// Tries assignments, in this order, in place of those still to be tried.
    pub fn try_out(&mut self, checkpoint: &SharedCheckpoint, trials: Vec<Trial>) {
        let queue = self.trials.clone();
        let is_placed = |place: &(SharedCheckpoint, Ticket)| Arc::ptr_eq(&place.0, checkpoint);
        if !queue.lock().place.as_ref().is_some_and(is_placed) {
            let ticket = self.begin(Kind::Damage);
            queue.lock().place = Some((checkpoint.clone(), ticket));
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
                let mut sample: Option<(SharedCheckpoint, usize, Sample)> = None;
                while let Some((trial, checkpoint, ticket)) = queue.next() {
                    sample = sample.filter(|(of, ..)| Arc::ptr_eq(of, &checkpoint));
                    run(&checkpoint, &trial, &mut sample, &ticket);
                }
            });
        }
    }
}

/// Tries one assignment; the sample of a layer is kept for the next trial on it.
fn run(
    checkpoint: &SharedCheckpoint,
    trial: &Trial,
    sample: &mut Option<(SharedCheckpoint, usize, Sample)>,
    ticket: &Ticket,
) {
    let layer = trial.layer;
    let damage = if trial.exact {
        exact(checkpoint, trial, ticket)
    } else {
        let known = sample.take().filter(|(_, of, _)| *of == layer);
        let taken =
            known.map_or_else(|| Sample::new(checkpoint, layer, ticket), |(.., taken)| Ok(taken));
        taken.and_then(|taken| {
            let damage = taken.damage(&trial.assignment.steps, ticket);
            *sample = Some((checkpoint.clone(), layer, taken));
            damage
        })
    };
    if let Some(found) = sentence(damage) {
        let found = found.map(|damage| *damage);
        let finding = Finding::Damage((trial.assignment.clone(), found));
        ticket.send(Event::Found(vec![(layer, finding)]));
    }
}

fn exact(
    checkpoint: &SharedCheckpoint,
    trial: &Trial,
    ticket: &Ticket,
) -> lapidary_engine::Result<job::Damage> {
    let tensor = &checkpoint.tensors()[trial.layer];
    let mut plan = Plan::default();
    plan.set(&tensor.name, Assignment::clone(&trial.assignment));
    let preview = job::preview(checkpoint, &plan, trial.layer, None, ticket)?;
    let of = tensor.matrix.map_or(0, |matrix| matrix.shape.rows);
    Ok(job::Damage { relative_error: preview.relative_error, rows: of, of })
}
