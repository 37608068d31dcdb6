//! What background work answers, taken into the document.

use std::path::{Path, PathBuf};

use lapidary_engine::export::finished_for;
use lapidary_engine::job::{Damage, Weighting};
use lapidary_engine::target;

use crate::commands::edit::layers_text;
use crate::commands::{Command, allocate, apply, calibrate, evaluate, evolve, finished, look};
use crate::document::calibrations::Ask;
use crate::document::evaluation::What;
use crate::document::measurements::Finding;
use crate::document::model::{Model, Opened};
use crate::document::recipe::{Taken, Told};
use crate::document::{Document, Exported, Sheet, Slot};
use crate::jobs::{Event, Jobs, Picked, Purpose};
use crate::theme::text;

/// Takes an answer into the document.
pub fn absorb(document: &mut Document, jobs: &mut Jobs, event: Event) {
    match event {
        Event::Opened { path, result } => opened(document, jobs, path, *result),
        Event::ExportProgress(now) => {
            if let Slot::Running { progress, .. } = &mut document.export {
                *progress = Some(now);
            }
        }
        Event::Foretold(result) => {
            document.foretold = match *result {
                Ok(foretold) => Slot::Ready(foretold),
                Err(sentence) => Slot::Failed(sentence),
            };
        }
        Event::Noted(text) => document.say(text),
        Event::Exported(result) => exported(document, result),
        Event::Picked(purpose, Picked::Path(path)) => picked(document, jobs, purpose, path),
        Event::Picked(_, Picked::Closed) => {}
        Event::Picked(purpose, Picked::NoDialog) => {
            let figure = document.figure_to_save.as_ref();
            let suggested = figure.filter(|_| matches!(purpose, Purpose::SaveFigure(_)));
            let suggested = suggested.map(|figure| {
                let folder = std::env::current_dir().unwrap_or_default();
                folder.join(figure.file_name()).display().to_string()
            });
            document.typed_path = suggested.unwrap_or_default();
            document.sheet = Some(Sheet::Path(purpose));
        }
        Event::RecipeRead(path, Ok(taken)) => recipe_read(document, jobs, &path, *taken),
        Event::RecipeWritten(Ok(told)) => tell(document, told),
        Event::RecipeRead(_, Err(sentence)) | Event::RecipeWritten(Err(sentence)) => {
            document.complain(sentence);
        }
        Event::Calibration(news) => calibrate::absorb(document, jobs, news),
        Event::Ran(ran) => evaluate::absorb(document, ran),
        Event::Scoring(news) => allocate::absorb(document, jobs, news),
        Event::Evolved(news) => evolve::absorb(document, news),
        Event::Finished(news) => finished::absorb(document, news),
        Event::Saved(Ok(path)) => document.say(format!("Saved {}", path.display())),
        Event::Saved(Err(sentence)) => document.complain(sentence),
        about_the_model => {
            if let Some(model) = document.model.as_deref_mut() {
                learned(model, jobs, about_the_model);
            }
        }
    }
}

/// Takes in what was found out about the open model.
fn learned(model: &mut Model, jobs: &mut Jobs, event: Event) {
    match event {
        Event::Found(findings) => {
            let tried = model.preview.as_ref().map(|(layer, ..)| *layer);
            let is_of_preview = findings.iter().any(|(layer, _)| Some(*layer) == tried);
            for (layer, finding) in findings {
                model.take(layer, finding);
            }
            if is_of_preview {
                look::complete_preview(model, jobs);
            }
        }
        Event::Preview(layer, assignment, result) => {
            if let Ok(preview) = &result {
                let of = model.checkpoint.tensors()[layer].matrix.map_or(0, |m| m.shape.rows);
                let relative_error = preview.relative_error;
                let damage = Damage { relative_error, weighting: Weighting::None, rows: of, of };
                // Beside errors weighted by inputs a plain one says another thing.
                if model.record(layer).is_none() {
                    model.take(layer, Finding::Damage((assignment.clone(), Ok(damage))));
                }
            }
            model.preview = Some((layer, assignment, result));
            look::complete_preview(model, jobs);
        }
        Event::Profile(layer, result) => {
            model.look.profiles.insert(layer, Some(result));
            model.look.asked.profiles.retain(|&asked| asked != layer);
        }
        Event::Picture(subject, result) => {
            model.look.picture = Some((subject, result));
            look::request(model, jobs);
        }
        Event::Near(near) => model.look.near = Some(near),
        Event::OtherOpened(Ok(other)) => {
            model.other = Slot::Ready(*other);
            model.changed();
        }
        Event::OtherOpened(Err(sentence)) => model.other = Slot::Failed(sentence),
        Event::Compared(layer, result) => {
            if let Slot::Ready(other) = &mut model.other {
                other.found[layer] = Some(result);
                model.changed();
            }
        }
        Event::LaidOut(laid_out) => {
            let present = model.history.current().clone();
            if !model.outcome.take(laid_out, &present) {
                look::request(model, jobs);
            }
            model.changed();
        }
        Event::Capacity(values, news) => model.look.capacity.take(values, news),
        Event::Estimate(layer, estimate) => model.look.estimate = Some((layer, estimate)),
        Event::Cuts(subject, result) => model.look.cuts = Some((subject, result)),
        Event::ErrorSpectrum(subject, result) => {
            model.look.error_spectrum = Some((subject, result));
        }
        Event::Opened { .. }
        | Event::Foretold(_)
        | Event::ExportProgress(_)
        | Event::Noted(_)
        | Event::Exported(_)
        | Event::Picked(..)
        | Event::RecipeRead(..)
        | Event::RecipeWritten(_)
        | Event::Calibration(_)
        | Event::Ran(_)
        | Event::Scoring(_)
        | Event::Evolved(_)
        | Event::Finished(_)
        | Event::Saved(_) => {}
    }
}

fn opened(document: &mut Document, jobs: &mut Jobs, path: PathBuf, result: Result<Opened, String>) {
    match result {
        Err(sentence) => {
            document.opening = Slot::Failed(sentence.clone());
            // The model that was open stays open.
            document.complain(sentence);
        }
        Ok(opened) => {
            document.opening = Slot::Idle;
            if !document.export.is_running() {
                document.export = Slot::Idle;
            }
            document.export_folder.clear();
            document.measuring_stopped = false;
            if opened.recovered.is_none() {
                document.settings.opened(&path);
                document.save_settings();
            }
            document.recovered.clone_from(&opened.recovered);
            if opened.recovered.is_some() {
                document.say("Opened what was not saved; save it to keep it");
            }
            let mut model = Box::new(Model::new(opened));
            jobs.measure(&model);
            jobs.leave_calibrations();
            jobs.list_calibrations(&model, true);
            look::request(&mut model, jobs);
            document.model = Some(model);
            evaluate::reset(document, jobs);
            allocate::reset(document, jobs);
        }
    }
}

fn exported(document: &mut Document, result: Option<Result<Exported, String>>) {
    match result {
        None => {
            document.export = Slot::Idle;
            let finished = finished_for(Path::new(&document.export_folder));
            document.say(match finished {
                None => "Export cancelled; nothing was left behind",
                Some(_) => {
                    "Export cancelled; finished layers are kept beside the folder, and the next export goes on with them"
                }
            });
        }
        Some(Err(sentence)) => {
            document.complain(sentence.clone());
            document.export = Slot::Failed(sentence);
        }
        Some(Ok(exported)) => {
            let bytes = text::bytes(exported.report.totals.total_bytes);
            document.say(format!("Exported and proved: {bytes} in {}", exported.folder.display()));
            document.export = Slot::Ready(exported);
        }
    }
}

/// Makes a recipe the plan, as one step of undo; locked layers stay.
fn recipe_read(document: &mut Document, jobs: &mut Jobs, path: &Path, taken: Taken) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut plan = taken.plan;
    let removal = plan.removal().clone();
    plan.keep_locks_of(model.plan());
    if !removal.is_empty() {
        plan.set_removal(removal);
    }
    let n = plan.len();
    let target = taken.target.and_then(|id| target::find(id).ok());
    model.history.edit(&format!("Take over {name}"), |draft| {
        if let Some(target) = target {
            draft.choose(target);
        }
        *draft.plan_mut() = plan;
    });
    model.plan_changed();
    look::request(model, jobs);
    let done = format!("Took over {name}: {} compressed", layers_text(n));
    tell(document, Told { done, unsaid: taken.unsaid.into() });
}

/// Says what was done; what could not be is listed in a sheet.
pub(super) fn tell(document: &mut Document, told: Told) {
    let n = told.unsaid.len();
    if n > 0 {
        document.say(format!("{}; {n} things could not be said", told.done));
        document.sheet = Some(Sheet::Told);
    } else {
        document.say(told.done.clone());
    }
    document.told = Some(told);
}

pub(super) fn picked(document: &mut Document, jobs: &mut Jobs, purpose: Purpose, path: PathBuf) {
    match purpose {
        Purpose::OpenFolder | Purpose::OpenFile => apply(document, jobs, Command::Open(path)),
        Purpose::SaveProject => apply(document, jobs, Command::SaveAs(path)),
        Purpose::CompareFolder | Purpose::CompareFile => {
            apply(document, jobs, Command::Compare(path));
        }
        Purpose::EvaluationText | Purpose::EvaluationModel | Purpose::Questions => {
            document.sheet = Some(Sheet::Evaluate);
            let wish = &mut document.evaluation.wish;
            match purpose {
                Purpose::EvaluationModel => wish.what = What::Other(path),
                Purpose::Questions => wish.questions = Some(path),
                _ => {
                    document.settings.evaluation_text = Some(path);
                    document.save_settings();
                }
            }
        }
        Purpose::SaveFigure(_) => {
            if let Some(figure) = document.figure_to_save.take() {
                jobs.save_figure(figure, path);
            }
        }
        Purpose::ReadRecipe(kind) => {
            if let Some(model) = document.model.as_deref() {
                jobs.read_recipe(model, Some(kind), path);
            }
        }
        Purpose::RecoverFolder | Purpose::RecoverFile => {
            if let Some(model) = document.model.as_deref() {
                jobs.read_recipe(model, None, path);
            }
        }
        Purpose::WriteRecipe(kind) => {
            if let Some(model) = document.model.as_deref() {
                jobs.write_recipe(model, kind, path);
            }
        }
        Purpose::CalibrationFile | Purpose::CalibrationFolder => {
            apply(document, jobs, Command::Calibration(Ask::Add(path)));
        }
        Purpose::ReadImatrix => apply(document, jobs, Command::Calibration(Ask::Import(path))),
        Purpose::WriteImatrix => apply(document, jobs, Command::Calibration(Ask::Export(path))),
        Purpose::FinishedFolder(task, field) | Purpose::FinishedFile(task, field) => {
            finished::picked(document, jobs, (task, field), path);
        }
        Purpose::ExportFolder => {
            // The dialog names a folder that exists; the output becomes a new one inside it.
            let name = document.model.as_ref().map_or_else(
                || "export".to_owned(),
                |model| format!("{}-{}", model.checkpoint.title(), model.target.about().id),
            );
            document.export_folder = path.join(name).display().to_string();
        }
    }
}
