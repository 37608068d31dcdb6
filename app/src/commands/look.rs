//! After every command: what the window now shows and nobody has computed yet is asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use lapidary_engine::job::Preview;
use lapidary_engine::method;
use lapidary_engine::plan::Assignment;
use lapidary_engine::target::Next;

use crate::document::capacity::Values;
use crate::document::damages::Found;
use crate::document::look::{Seen, Subject, Tab, Trying};
use crate::document::metrics::{Needs, sensitive};
use crate::document::model::Model;
use crate::jobs::{Jobs, Trial};

/// Asks for everything the window lacks.
pub fn request(model: &mut Model, jobs: &mut Jobs) {
    let inspected = model.inspected();
    jobs.measure_first(&inspected, model.visible.concat());
    preview(model, jobs);
    let outcome = &model.outcome;
    if outcome.is_late && outcome.defect.is_none() && outcome.in_flight.is_none() {
        model.outcome.in_flight = Some(model.history.current().clone());
        jobs.lay_out(model);
    }
    trials(model, jobs);
    match model.tab {
        Tab::Weights => profiles(model, jobs, inspected),
        Tab::Outliers => {
            picture(model, jobs);
            near(model, jobs);
        }
        Tab::Spectrum => {
            estimate(model, jobs);
            error_spectrum(model, jobs);
            cuts(model, jobs);
            through(model, jobs);
        }
        Tab::Activations => through(model, jobs),
        Tab::Bits | Tab::Compare | Tab::Damage | Tab::Capacity => {}
    }
    capacity(model, jobs);
}

/// What is to be tried on samples of layers: what the inspector shows, then the whole plan, then the prices of steps.
/// The list is made anew when plan, selection or what is shown has changed.
fn trials(model: &mut Model, jobs: &mut Jobs) {
    // In the midst of a gesture over a large model the list is not made anew with every frame.
    if model.history.is_open() && model.checkpoint.tensors().len() > LONG_LIST {
        return;
    }
    let state = Trying {
        plan: model.plan().clone(),
        target: model.target.about().id,
        inspected: model.inspected(),
        curves: model.tab == Tab::Damage,
        prices: model.wants(Needs::Price),
        exact: model.wants(Needs::Damage),
        sensitivities: model.wants(Needs::Sensitivity),
        visible: model.visible.concat(),
    };
    if model.look.asked.trials.as_ref() == Some(&state) {
        return;
    }
    let mut wanted = Wanted { model, seen: BTreeSet::new(), trials: Vec::new() };
    let compressed = || model.outcome.entries.iter().filter(|entry| entry.is_compressed());
    for &layer in &state.inspected {
        wanted.add(layer, &model.assignment(layer), false);
    }
    if let (true, Some(&layer)) = (state.curves, state.inspected.first()) {
        for curve in model.curves(layer) {
            for assignment in curve.assignments {
                wanted.add(layer, &Arc::new(assignment), false);
            }
        }
        wanted.add_prices(layer);
    }
    for entry in compressed() {
        wanted.add(entry.tensor, &model.assignment(entry.tensor), false);
    }
    if state.sensitivities {
        let four = Arc::new(sensitive());
        let all = 0..model.checkpoint.tensors().len();
        all.for_each(|layer| wanted.add(layer, &four, false));
    }
    if state.prices {
        let all = 0..model.checkpoint.tensors().len();
        state.visible.iter().copied().chain(all).for_each(|layer| wanted.add_prices(layer));
    }
    if state.exact {
        for entry in compressed() {
            wanted.add(entry.tensor, &model.assignment(entry.tensor), true);
        }
    }
    // The preview measures the plain error on every row; what inputs make of it takes longer, and comes last.
    if let Some(&layer) = state.inspected.first().filter(|&&layer| model.record(layer).is_some()) {
        wanted.add(layer, &model.assignment(layer), true);
    }
    let trials = wanted.trials;
    jobs.try_out(&model.checkpoint, model.calibrations.loaded.as_ref(), trials);
    model.look.asked.trials = Some(state);
}

/// Trials as they are gathered.
struct Wanted<'a> {
    model: &'a Model,
    seen: BTreeSet<usize>,
    trials: Vec<Trial>,
}

impl Wanted<'_> {
    fn add(&mut self, layer: usize, assignment: &Arc<Assignment>, exact: bool) {
        if assignment.is_keep() || !self.model.is_matrix(layer) {
            return;
        }
        let known = self.model.measured.damages.get(layer, assignment);
        let is_enough = |found: &Found| match found {
            Ok(damage) => damage.is_exact() || !exact,
            Err(_) => true,
        };
        if !known.is_some_and(is_enough) {
            self.trials.push(Trial { layer, assignment: assignment.clone(), exact });
        }
    }

    /// The steps up and down from a layer's assignment.
    fn add_prices(&mut self, layer: usize) {
        if !self.seen.insert(layer) {
            return;
        }
        self.add(layer, &self.model.assignment(layer), false);
        for next in [Next::Down, Next::Up] {
            if let Some(step) = self.model.next_step(layer, next) {
                self.add(layer, &step.assignment, false);
            }
        }
    }
}

/// Has the assignment of the layer in the inspector tried, unless it has been.
fn preview(model: &Model, jobs: &mut Jobs) {
    let Some(layer) = model.selection.cursor() else {
        return;
    };
    let assignment = model.assignment(layer);
    let is_matrix = model.checkpoint.tensors()[layer].matrix.is_some();
    let statistics = model.statistics(layer).cloned();
    let has_bins = |preview: &Result<Arc<Preview>, String>| {
        statistics.is_none() || preview.as_ref().map_or(true, |preview| preview.after.is_some())
    };
    let is_known = model.preview.as_ref().is_some_and(|(known, tried, found)| {
        *known == layer && *tried == assignment && has_bins(found)
    });
    if is_matrix && !assignment.is_keep() && !is_known {
        jobs.preview(model, (layer, assignment), statistics);
    }
}

/// A preview that was made before the statistics of its layer were known has no histogram: it is made again once both
/// are there.
pub(super) fn complete_preview(model: &Model, jobs: &mut Jobs) {
    let Some((layer, _, Ok(found))) = &model.preview else { return };
    if found.after.is_none() && model.statistics(*layer).is_some() {
        preview(model, jobs);
    }
}

fn profiles(model: &mut Model, jobs: &mut Jobs, inspected: Vec<usize>) {
    model.look.profiles.retain(|layer, _| inspected.contains(layer));
    let is_lacking = |layer: &usize| {
        model.checkpoint.tensors()[*layer].matrix.is_some()
            && !model.look.profiles.contains_key(layer)
    };
    let lacking: Vec<usize> = inspected.into_iter().filter(is_lacking).collect();
    if lacking.is_empty() || lacking == model.look.asked.profiles {
        return;
    }
    model.look.asked.profiles.clone_from(&lacking);
    jobs.profile(model, lacking);
}

/// What the picture should show now: the weights, what the assignment makes of them, or its error.
fn subject(model: &Model, is_error: bool) -> Option<Subject> {
    let layer = model.selection.cursor()?;
    model.checkpoint.tensors()[layer].matrix?;
    let assignment = model.assignment(layer);
    match (is_error, assignment.is_keep()) {
        (true, true) => None,
        (true, false) => Some((layer, Seen::Error(assignment))),
        (false, false) if model.look.after => Some((layer, Seen::After(assignment))),
        (false, _) => Some((layer, Seen::Weights)),
    }
}

fn picture(model: &mut Model, jobs: &mut Jobs) {
    let Some(subject) = subject(model, model.look.quantity.is_error()) else {
        return;
    };
    let is_known = model.look.picture.as_ref().is_some_and(|(known, _)| *known == subject);
    if !is_known && model.look.asked.picture.as_ref() != Some(&subject) {
        model.look.asked.picture = Some(subject.clone());
        model.look.wanted = None;
        jobs.picture(model, subject);
    }
}

/// Asks for a part near by, once the whole is there and its finest level is too coarse.
fn near(model: &mut Model, jobs: &mut Jobs) {
    let look = &mut model.look;
    let (Some((subject, Ok(picture))), Some((rows, cols))) = (&look.picture, &look.wanted) else {
        return;
    };
    let wanted = (subject.clone(), rows.clone(), cols.clone());
    if look.asked.near.as_ref() != Some(&wanted) {
        let picture = picture.clone();
        look.asked.near = Some(wanted.clone());
        jobs.picture_near(model.checkpoint.clone(), &picture, wanted);
    }
}

/// Has the layer in the inspector seen through what it receives.
fn through(model: &mut Model, jobs: &mut Jobs) {
    let Some(layer) = model.selection.cursor() else {
        return;
    };
    let calibrations = &model.calibrations;
    let is_known = calibrations.through.as_ref().is_some_and(|(of, _)| *of == layer);
    if model.record(layer).is_some() && !is_known && calibrations.asked != Some(layer) {
        model.calibrations.asked = Some(layer);
        jobs.see_through(model, layer);
    }
}

/// Tensors from which going through all of them is no work for every frame.
const LONG_LIST: usize = 3000;

/// Weights from which an exact spectrum takes longer than one cares to wait.
const LONG_SPECTRUM: u64 = 1 << 20;

fn estimate(model: &mut Model, jobs: &mut Jobs) {
    let Some(layer) = model.selection.cursor() else {
        return;
    };
    let tensor = &model.checkpoint.tensors()[layer];
    let is_long = tensor.matrix.is_some() && tensor.parameters() >= LONG_SPECTRUM;
    let is_known = model.spectrum_state(layer).is_some();
    if is_long && !is_known && model.look.asked.estimate != Some(layer) {
        model.look.asked.estimate = Some(layer);
        jobs.estimate_spectrum(model, layer);
    }
}

fn error_spectrum(model: &mut Model, jobs: &mut Jobs) {
    if !model.look.wants_error_spectrum {
        return;
    }
    let Some(subject) = subject(model, true) else {
        return;
    };
    let is_known = model.look.error_spectrum.as_ref().is_some_and(|(known, _)| *known == subject);
    if !is_known && model.look.asked.error_spectrum.as_ref() != Some(&subject) {
        model.look.asked.error_spectrum = Some(subject.clone());
        jobs.error_spectrum(model, subject);
    }
}

/// Has the cuts of a tensor train computed.
fn cuts(model: &mut Model, jobs: &mut Jobs) {
    let Some((layer, Seen::Error(assignment))) = subject(model, true) else {
        return;
    };
    if !method::has_cuts(&assignment.steps) {
        return;
    }
    let subject = (layer, Seen::Error(assignment));
    let is_known = model.look.cuts.as_ref().is_some_and(|(known, _)| *known == subject);
    if !is_known && model.look.asked.cuts.as_ref() != Some(&subject) {
        model.look.asked.cuts = Some(subject.clone());
        jobs.cuts(model, subject);
    }
}

/// Has forms tried on what the panel shows, for as long as it does.
fn capacity(model: &mut Model, jobs: &mut Jobs) {
    let wanted = model.selection.cursor().filter(|_| model.tab == Tab::Capacity);
    let wanted = wanted.map(|layer| model.look.capacity.values(layer));
    let is_matrix = |values: &Values| match values {
        Values::Layer(layer) => model.is_matrix(*layer),
        Values::Source(_) => true,
    };
    let wanted = wanted.filter(is_matrix);
    if model.look.capacity.in_flight.is_some() && model.look.capacity.in_flight != wanted {
        jobs.stop_capacity();
        model.look.capacity.in_flight = None;
    }
    let Some(values) = wanted else { return };
    if model.look.capacity.in_flight.is_none() && model.look.capacity.lacks(values) {
        model.look.capacity.in_flight = Some(values);
        jobs.try_capacity(model, values);
    }
}
