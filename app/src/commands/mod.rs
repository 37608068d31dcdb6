//! Everything the person can do, and the one place that changes the document.

pub mod actions;
mod answers;
mod edit;

use std::path::PathBuf;

use lapidary_engine::plan::Assignment;

pub use answers::absorb;

use crate::document::columns::Column;
use crate::document::metrics::metric;
use crate::document::model::Model;
use crate::document::project::{self, Project, VERSION, View};
use crate::document::selection::{How, Selection};
use crate::document::settings::Colours;
use crate::document::{Document, Question, Sheet, Slot};
use crate::jobs::{Jobs, Purpose};

/// Something the person asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Open a checkpoint or project, asking first if edits would be lost.
    Open(PathBuf),
    /// Open it whatever is lost.
    OpenAnyway(PathBuf),
    /// Open the built-in sample.
    OpenSample,
    /// Show a file dialog.
    Pick(Purpose),
    /// Change the path being typed.
    TypePath(String),
    /// Take a path for a purpose, as a file dialog would give it.
    TakePath(Purpose, PathBuf),
    /// Save the project under its name, or ask for one.
    Save,
    /// Save the project there.
    SaveAs(PathBuf),
    /// A click on a tensor; the last is the order on screen.
    Click(usize, How, Vec<usize>),
    /// Select these tensors.
    Select(Vec<usize>),
    /// Select every layer the list shows.
    SelectAll,
    /// Move the cursor along the list.
    Walk(isize),
    /// Give the selected layers an assignment.
    Assign(Assignment),
    /// Set the bits of the selected layers.
    SetBits(i64),
    /// Keep the selected layers.
    Keep,
    /// Lock the selected layers, or unlock them if all are locked.
    ToggleLock,
    /// Take back the last step.
    Undo,
    /// Repeat the step taken back.
    Redo,
    /// Choose the target.
    SetTarget(&'static str),
    /// Choose the metric of the map.
    SetMetric(&'static str),
    /// Change the filter of the list.
    SetFilter(String),
    /// A click on the head of a column.
    SortBy(Column),
    /// Open a small window, or close it.
    ToggleSheet(Sheet),
    /// Change the folder in the export form.
    SetExportFolder(String),
    /// Export; the flag replaces an earlier output.
    Export(bool),
    /// Stop the export.
    CancelExport,
    /// Stop measuring, or go on with it.
    ToggleMeasuring,
    /// Clear the status bar.
    Dismiss,
    /// Answer the question.
    Answer(bool),
    /// Choose the colours.
    SetColours(Colours),
    /// Close the window, asking first if edits would be lost.
    Quit,
    /// Close the window whatever is lost.
    QuitAnyway,
}

/// Carries out a command: the one function that changes a document.
pub fn apply(document: &mut Document, jobs: &mut Jobs, command: Command) {
    match command {
        Command::Open(path) if document.has_unsaved_changes() => ask(
            document,
            "The plan has changes that are not saved. Open another model and lose them?",
            "Lose them and open",
            Command::OpenAnyway(path),
        ),
        Command::Open(path) | Command::OpenAnyway(path) => open(document, jobs, path),
        Command::OpenSample => open_sample(document, jobs),
        Command::Pick(purpose) => pick(document, jobs, purpose),
        Command::TypePath(path) => document.typed_path = path,
        Command::TakePath(purpose, path) => answers::picked(document, jobs, purpose, path),
        Command::Save => save(document, jobs),
        Command::SaveAs(path) => save_as(document, path),
        Command::ToggleSheet(sheet) => toggle_sheet(document, sheet),
        Command::SetExportFolder(folder) => document.export_folder = folder,
        Command::Export(replace) => export(document, jobs, replace),
        Command::CancelExport => jobs.cancel_export(),
        Command::ToggleMeasuring => toggle_measuring(document, jobs),
        Command::Dismiss => document.notice = None,
        Command::Answer(yes) => {
            if let Some(question) = document.question.take().filter(|_| yes) {
                apply(document, jobs, question.command);
            }
        }
        Command::SetColours(colours) => {
            document.settings.colours = colours;
            document.save_settings();
        }
        Command::Quit if document.has_unsaved_changes() => ask(
            document,
            "The plan has changes that are not saved. Close and lose them?",
            "Lose them and close",
            Command::QuitAnyway,
        ),
        Command::Quit if document.export.is_running() => ask(
            document,
            "An export is running. Stop it and close?",
            "Stop it and close",
            Command::QuitAnyway,
        ),
        Command::Quit | Command::QuitAnyway => document.quit = true,
        other => in_model(document, jobs, other),
    }
}

/// Commands that need an open model.
fn in_model(document: &mut Document, jobs: &mut Jobs, command: Command) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    let said = match command {
        Command::Click(layer, how, order) => {
            model.selection.click(layer, how, &order);
            None
        }
        Command::Select(layers) => {
            model.selection = Selection::of(layers);
            None
        }
        Command::SelectAll => {
            model.selection = Selection::of(model.rows().to_vec());
            None
        }
        Command::Walk(step) => {
            let rows = model.rows().to_vec();
            model.selection.walk(step, &rows);
            None
        }
        Command::SetMetric(id) => {
            model.metric = metric(id);
            None
        }
        Command::SetFilter(filter) => {
            model.filter = filter;
            model.refresh_rows();
            None
        }
        Command::SortBy(column) => {
            model.sort = model.sort.clicked(column);
            model.refresh_rows();
            None
        }
        Command::SetTarget(id) => model.set_target(id).err(),
        edit => edit::edit(model, edit),
    };
    jobs.measure_first(model.selection.cursor());
    request_preview(model, jobs);
    if let Some(text) = said {
        document.say(text);
    }
}

/// Has the assignment of the layer in the inspector tried, unless it has been.
fn request_preview(model: &mut Model, jobs: &mut Jobs) {
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

fn ask(document: &mut Document, text: &str, yes: &'static str, command: Command) {
    document.question = Some(Question { text: text.to_owned(), yes, command });
}

fn open(document: &mut Document, jobs: &mut Jobs, path: PathBuf) {
    let what = format!("Opening {}", path.display());
    document.opening = Slot::Running { what, progress: None };
    document.notice = None;
    jobs.open(path);
}

fn open_sample(document: &mut Document, jobs: &mut Jobs) {
    match crate::builtin::unpack(&document.home) {
        Ok(builtin) => apply(document, jobs, Command::Open(builtin.sample())),
        Err(error) => document.complain(format!("{error:#}")),
    }
}

fn pick(document: &Document, jobs: &mut Jobs, purpose: Purpose) {
    let title =
        document.model.as_ref().map_or_else(|| "plan".to_owned(), |model| model.checkpoint.title());
    jobs.pick(purpose, &format!("{title}.ron"));
}

fn save(document: &mut Document, jobs: &mut Jobs) {
    match document.model.as_ref().map(|model| model.project.clone()) {
        Some(Some(path)) => save_as(document, path),
        Some(None) => pick(document, jobs, Purpose::SaveProject),
        None => {}
    }
}

fn save_as(document: &mut Document, path: PathBuf) {
    let Some(model) = document.model.as_deref_mut() else {
        return;
    };
    let path = if path.extension().is_none() { path.with_extension("ron") } else { path };
    let tensors = model.checkpoint.tensors();
    let project = Project {
        version: VERSION,
        checkpoint: project::relative_checkpoint(model.checkpoint.path(), &path),
        target: model.target.about().id.to_owned(),
        plan: lapidary_engine::plan::Rules::of(model.plan()),
        view: View {
            selected: model.selection.layers().map(|layer| tensors[layer].name.clone()).collect(),
            metric: model.metric.id.to_owned(),
            filter: model.filter.clone(),
        },
    };
    match project.write(&path) {
        Ok(()) => {
            model.mark_saved();
            model.project = Some(path.clone());
            document.settings.opened(&path);
            document.save_settings();
            document.say(format!("Saved {}", path.display()));
        }
        Err(error) => document.complain(error.sentence()),
    }
}

fn toggle_sheet(document: &mut Document, sheet: Sheet) {
    let is_open = document.sheet == Some(sheet);
    document.sheet = (!is_open).then_some(sheet);
    if let (Sheet::Export, false, true, Some(model)) =
        (sheet, is_open, document.export_folder.is_empty(), &document.model)
    {
        let folder = std::env::current_dir().unwrap_or_default();
        let name = format!("{}-{}", model.checkpoint.title(), model.target.about().id);
        document.export_folder = folder.join(name).display().to_string();
    }
}

fn export(document: &mut Document, jobs: &mut Jobs, replace: bool) {
    let Some(model) = document.model.as_deref() else {
        return;
    };
    let folder = PathBuf::from(document.export_folder.trim());
    if document.export.is_running() {
        document.complain("An export is running; wait for it or cancel it first");
        return;
    }
    if folder.as_os_str().is_empty() {
        document.complain("Name a folder to export to");
        return;
    }
    if folder.exists() && !replace {
        let text = format!("{} already exists. Replace it?", folder.display());
        ask(document, &text, "Replace it", Command::Export(true));
        return;
    }
    jobs.export(model, folder.clone(), replace);
    document.export =
        Slot::Running { what: format!("Exporting to {}", folder.display()), progress: None };
}

fn toggle_measuring(document: &mut Document, jobs: &mut Jobs) {
    document.measuring_stopped = !document.measuring_stopped;
    match document.model.as_deref() {
        Some(model) if !document.measuring_stopped => jobs.measure(model),
        _ => jobs.stop_measuring(),
    }
}
