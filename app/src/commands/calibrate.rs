//! Calibrations: what is asked of them, and what was learnt.

use std::time::Instant;

use lapidary_engine::calibration::Folder;

use crate::commands::{answers, look};
use crate::document::calibrations::{Ask, Before, Ended, Loaded, News};
use crate::document::look::Tab;
use crate::document::model::Model;
use crate::document::recipe::Told;
use crate::document::{Document, Sheet, Slot};
use crate::jobs::Jobs;

/// Carries out what is asked.
pub(super) fn carry_out(document: &mut Document, jobs: &mut Jobs, ask: Ask) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    match ask {
        Ask::SetForm(form) => document.calibration_form = *form,
        Ask::Add(path) => {
            document.sheet = Some(Sheet::Calibrate);
            if !document.calibration_form.paths.contains(&path) {
                document.calibration_form.paths.push(path);
            }
        }
        Ask::Run | Ask::Import(_) if model.calibrations.run.is_running() => {
            document.complain("A calibration is running; wait for it or cancel it first");
        }
        Ask::Run => {
            begin(model, "Calibrating");
            let form = &document.calibration_form;
            let before = if model.plan_compresses() { form.before } else { Before::Original };
            jobs.calibrate(model, form.wishes(), before);
        }
        Ask::Cancel => jobs.cancel_calibrating(),
        Ask::Use(folder) => jobs.load_calibration(folder),
        Ask::Delete(folder) => delete(document, jobs, folder),
        Ask::Import(path) => {
            begin(model, "Importing");
            jobs.import_calibration(model, path);
        }
        Ask::Export(path) => match model.calibrations.loaded.clone() {
            Some(loaded) => jobs.export_calibration(loaded, path),
            None => document.say("Calibrate first"),
        },
    }
}

fn begin(model: &mut Model, what: &str) {
    model.calibrations.run = Slot::Running { what: what.to_owned(), progress: None };
    model.calibrations.since = None;
}

fn delete(document: &mut Document, jobs: &mut Jobs, folder: Folder) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    if model.calibrations.run.is_running() {
        document.complain("A calibration is running; wait for it or cancel it first");
        return;
    }
    if model.calibrations.loaded.as_ref().is_some_and(|loaded| loaded.folder == folder) {
        model.set_calibration(None);
    }
    let failed = folder.delete().err();
    jobs.list_calibrations(model, false);
    look::request(model, jobs);
    match failed {
        Some(error) => document.complain(error.sentence()),
        None => document.say("Deleted the calibration"),
    }
}

/// Takes in what was learnt.
pub(super) fn absorb(document: &mut Document, jobs: &mut Jobs, news: News) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    match news {
        News::Able(ability) => model.calibrations.ability = Some(ability),
        News::Listed(known, latest) => {
            model.calibrations.known = known;
            if latest.is_some() && model.calibrations.loaded.is_none() {
                take(model, jobs, latest);
            }
        }
        News::Progress(now) => progress(model, now),
        News::Ended(ended) => self::ended(document, jobs, ended),
        News::Loaded(loaded) => take(model, jobs, Some(loaded)),
        News::Through(layer, through) => model.calibrations.through = Some((layer, *through)),
        News::Exported(Ok((path, unsaid))) => {
            let done = format!("Wrote {}", path.display());
            answers::tell(document, Told { done, unsaid: unsaid.into() });
        }
        News::Exported(Err(sentence)) => document.complain(sentence),
    }
}

fn take(model: &mut Model, jobs: &mut Jobs, loaded: Option<Box<Loaded>>) {
    model.set_calibration(loaded);
    look::request(model, jobs);
}

fn progress(model: &mut Model, now: lapidary_engine::Progress) {
    let calibrations = &mut model.calibrations;
    let Slot::Running { progress, .. } = &mut calibrations.run else { return };
    let is_new = progress.as_ref().is_none_or(|before| before.stage != now.stage);
    if is_new {
        calibrations.since = Some((Instant::now(), now.done));
    }
    *progress = Some(now);
}

fn ended(document: &mut Document, jobs: &mut Jobs, ended: Ended) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    match ended {
        None => {
            model.calibrations.run = Slot::Idle;
            jobs.list_calibrations(model, false);
            document.say(
                "Calibration cancelled; finished blocks are kept, and Calibrate goes on there",
            );
        }
        Some(Err(sentence)) => {
            model.calibrations.run = Slot::Failed(sentence.clone());
            jobs.list_calibrations(model, false);
            document.complain(sentence);
        }
        Some(Ok((loaded, unsaid))) => {
            let done = format!("Calibrated with {}", Loaded::title(&loaded.folder));
            model.calibrations.run = Slot::Ready(());
            // What was asked for is on show.
            model.tab = Tab::Activations;
            take(model, jobs, Some(loaded));
            jobs.list_calibrations(model, false);
            if document.sheet == Some(Sheet::Calibrate) {
                document.sheet = None;
            }
            answers::tell(document, Told { done, unsaid: unsaid.into() });
        }
    }
}
