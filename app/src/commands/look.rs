//! After every command: what the window now shows and nobody has computed yet is asked for.

use crate::document::look::{Subject, Tab};
use crate::document::model::Model;
use crate::jobs::Jobs;

/// Asks for everything the window lacks.
pub(super) fn request(model: &mut Model, jobs: &mut Jobs) {
    let inspected = model.inspected();
    jobs.measure_first(&inspected, model.visible.concat());
    preview(model, jobs);
    if model.wants_damage() {
        jobs.measure_damage(model);
    }
    match model.tab {
        Tab::Weights => profiles(model, jobs, inspected),
        Tab::Outliers => {
            picture(model, jobs);
            near(model, jobs);
        }
        Tab::Spectrum => {
            estimate(model, jobs);
            error_spectrum(model, jobs);
        }
        Tab::Bits | Tab::Compare => {}
    }
}

/// Has the assignment of the layer in the inspector tried, unless it has been.
fn preview(model: &Model, jobs: &mut Jobs) {
    let Some(layer) = model.selection.cursor() else {
        return;
    };
    let assignment = model.assignment(layer);
    let is_matrix = model.checkpoint.tensors()[layer].matrix.is_some();
    let is_known = model
        .preview
        .as_ref()
        .is_some_and(|(known, tried, _)| *known == layer && *tried == assignment);
    if is_matrix && !assignment.is_keep() && !is_known {
        jobs.preview(model.checkpoint.clone(), model.plan().clone(), layer, assignment);
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

/// What the picture should show now.
fn subject(model: &Model, is_error: bool) -> Option<Subject> {
    let layer = model.selection.cursor()?;
    model.checkpoint.tensors()[layer].matrix?;
    if !is_error {
        return Some((layer, None));
    }
    let assignment = model.assignment(layer);
    (!assignment.is_keep()).then_some((layer, Some(assignment)))
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
