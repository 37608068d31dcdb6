//! Everything the person can do, and the one place that changes the document.

pub mod actions;
pub mod allocate;
mod answers;
mod calibrate;
mod edit;
pub mod evaluate;
pub mod evolve;
mod export;
pub mod finished;
mod look;
mod menu;
mod pressed;
pub mod removal;
mod view;
mod ways;
mod when;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::plan::{Assignment, Rule};
use lapidary_engine::target::Lint;

pub use answers::absorb;
pub use look::request as look_again;
pub use pressed::pressed;
pub use ways::{Direction, Grow};

use crate::commands::allocate::Allocate;
use crate::commands::evaluate::Evaluate;
use crate::commands::finished::Finished;
use crate::document::brush::Brush;
use crate::document::calibrations::Ask;
use crate::document::capacity;
use crate::document::columns::{self, Column};
use crate::document::look::{Quantity, Tab};
use crate::document::model::{MapMode, Pane, Side};
use crate::document::project::{self, Project};
use crate::document::recipe;
use crate::document::recovery::{self, Unsaved};
use crate::document::selection::How;
use crate::document::settings::Colours;
use crate::document::shades::Scaling;
use crate::document::{Document, FigureToSave, Question, Sheet, Slot};
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
    /// A click on a tensor in a part of the window.
    Click(usize, How, Pane),
    /// A click on the row of a fused group.
    ClickGroup(usize, How),
    /// Select these tensors.
    Select(Vec<usize>),
    /// Select every layer the list shows.
    SelectAll,
    /// Move the cursor in the list or on the map; the flag adds to the selection.
    Walk(Direction, bool),
    /// Give the selected layers an assignment.
    Assign(Assignment),
    /// Give the selected layers the method of that id.
    SetMethod(&'static str),
    /// Set the bits of the selected layers.
    SetBits(i64),
    /// Paint layers with the brush.
    Paint(Vec<usize>),
    /// Take the brush, or lay it down.
    SetBrush(Option<Brush>),
    /// Take a brush with the assignment of the layer in the inspector, or lay it down.
    ToggleBrush,
    /// Take back what was set for the selected layers by hand, so that the rules decide.
    Forget,
    /// Copy the assignment of the layer in the inspector.
    CopyAssignment,
    /// Give it to the selected layers.
    PasteAssignment,
    /// Begin from a starting point.
    Preset(&'static str),
    /// Replace the rules; the text names the step.
    SetRules(&'static str, Vec<Rule>),
    /// Write the plan anew with few rules.
    SumUp,
    /// Say in the status bar that something is wrong.
    Complain(String),
    /// Change what is typed in the palette.
    TypePalette(String),
    /// Mend a lint.
    Mend(Arc<Lint>),
    /// Mend all that a click can.
    MendAll,
    /// Take over the plan of another target.
    TakePlanOf(&'static str),
    /// Split each layer over that many devices.
    SetTensorParallel(u32),
    /// Write weight files of at most so many bytes; 0 as the source.
    SetShardBytes(u64),
    /// Go to a step of the history.
    GoTo(usize),
    /// Show another part in the left column.
    SetSide(Side),
    /// Select every layer shown that is not selected.
    Invert,
    /// Let the selection grow.
    Grow(Grow),
    /// Show the layers of a fused group one by one, or as one row.
    Unfold(usize),
    /// Give the layers of a fused group assignments of their own, or one again.
    Split(usize),
    /// Show layers before their assignment, or after it.
    ToggleAfter,
    /// Keep the selected layers.
    Keep,
    /// Take the blocks or experts of the selection out of the model, or put them back if all are out.
    ToggleRemoval(removal::Parts),
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
    /// Lay the metric on the colours in another way.
    SetScaling(Scaling),
    /// Show the map by blocks or by bytes.
    SetMapMode(MapMode),
    /// Show it in the other way.
    ToggleMapMode,
    /// Change the filter of the list.
    SetFilter(String),
    /// A click on the head of a column.
    SortBy(Column),
    /// Show or hide a column.
    ToggleColumn(Column),
    /// Move a column to the right, or to the left.
    MoveColumn(Column, isize),
    /// Go back to the usual columns.
    ResetColumns,
    /// Show the list as a tree by block, or flat.
    ToggleTree,
    /// Hide or show the tensors of a block in the tree.
    Fold(Option<u32>),
    /// These tensors are on screen.
    Visible(Pane, Vec<usize>),
    /// Put the selected rows, or all, on the clipboard as CSV.
    CopyRows,
    /// Put a text on the clipboard.
    Copy(String),
    /// Show a part of the inspector.
    SetTab(Tab),
    /// Try what forms can hold of these values.
    Hold(capacity::Choice),
    /// Let the forms of a method stand out.
    Highlight(Option<&'static str>),
    /// Choose what the picture shows.
    SetQuantity(Quantity),
    /// Picture these rows and columns of the inspected layer near by.
    LookNear(Range<usize>, Range<usize>),
    /// Ask about a rank.
    SetRank(usize),
    /// Show the spectrum of the assignment's error too, or not.
    ToggleErrorSpectrum,
    /// Open a small window, or close it.
    ToggleSheet(Sheet),
    /// Change the folder in the export form.
    SetExportFolder(String),
    /// Say what the export takes: time, disk, memory.
    Foretell,
    /// Export; the flag replaces an earlier output.
    Export(bool),
    /// Stop the export.
    CancelExport,
    /// Stop measuring, or go on with it.
    ToggleMeasuring,
    /// Compare with a second checkpoint.
    Compare(PathBuf),
    /// Leave the second checkpoint.
    StopComparing,
    /// Something about calibrations.
    Calibration(Ask),
    /// Run the model.
    Evaluate(Evaluate),
    /// Spend a budget.
    Allocate(Allocate),
    /// Something about finished checkpoints.
    Finished(Finished),
    /// Open what was written, and close the form it was written by.
    OpenOutput(PathBuf),
    /// Show what was written in the system's own window of files.
    ShowInFolder(PathBuf),
    /// Save a figure, asking for the name of its file.
    SaveFigure(Arc<FigureToSave>),
    /// Clear the status bar.
    Dismiss,
    /// Ask what to do with work of a window that did not close.
    AskRecovery,
    /// Open it.
    Recover(PathBuf),
    /// Throw it away.
    DiscardRecovery(PathBuf),
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
        Command::ToggleSheet(sheet) => export::toggle_sheet(document, jobs, sheet),
        Command::SetExportFolder(folder) => document.export_folder = folder,
        Command::Export(replace) => export::export(document, jobs, replace),
        Command::Foretell => export::foretell(document, jobs),
        Command::CancelExport => jobs.cancel_export(),
        Command::ToggleMeasuring => toggle_measuring(document, jobs),
        Command::Dismiss => document.notice = None,
        Command::Complain(text) => document.complain(text),
        Command::TypePalette(text) => document.palette = text,
        Command::Copy(text) => copy(document, text),
        Command::CopyRows => copy_rows(document),
        Command::CopyAssignment => copy_assignment(document),
        Command::PasteAssignment => match document.copied.clone() {
            Some(copied) => apply(document, jobs, Command::Assign(Assignment::clone(&copied))),
            None => document.say("Copy an assignment first (C)"),
        },
        Command::Calibration(ask) => calibrate::carry_out(document, jobs, ask),
        Command::Evaluate(command) => evaluate::apply(document, jobs, command),
        Command::Allocate(command) => allocate::apply(document, jobs, command),
        Command::Finished(command) => finished::apply(document, jobs, command),
        Command::OpenOutput(path) => {
            document.sheet = None;
            apply(document, jobs, Command::Open(path));
        }
        Command::ShowInFolder(path) => jobs.show_in_folder(path),
        Command::SaveFigure(figure) => save_figure(document, jobs, figure),
        Command::Answer(yes) => {
            let chosen = document.question.take().and_then(|question| {
                if yes { Some(question.command) } else { question.no.map(|(_, command)| command) }
            });
            if let Some(command) = chosen {
                apply(document, jobs, command);
            }
        }
        Command::AskRecovery => ask_recovery(document),
        Command::Recover(path) => {
            let what = "Opening what was not saved".to_owned();
            document.opening = Slot::Running { what, progress: None };
            jobs.recover(path);
        }
        Command::DiscardRecovery(path) => {
            recovery::discard(&path);
            ask_recovery(document);
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
        Command::Quit if document.at_work().is_some() => {
            let what = document.at_work().unwrap_or_default();
            let text = format!("{what} is running. Stop it and close?");
            ask(document, &text, "Stop it and close", Command::QuitAnyway);
        }
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
        Command::Compare(path) => {
            let what = format!("Opening {}", path.display());
            model.other = Slot::Running { what, progress: None };
            model.tab = Tab::Compare;
            jobs.compare(model, path);
            None
        }
        Command::StopComparing => {
            jobs.stop_comparing();
            model.other = Slot::Idle;
            model.changed();
            None
        }
        command if is_edit(&command) => edit::edit(model, command),
        view => view::view(model, view),
    };
    look::request(model, jobs);
    if let Some(text) = said {
        document.say(text);
    }
}

/// Whether a command changes what undo covers.
fn is_edit(command: &Command) -> bool {
    matches!(
        command,
        Command::Assign(_)
            | Command::SetMethod(_)
            | Command::SetBits(_)
            | Command::Paint(_)
            | Command::Keep
            | Command::ToggleRemoval(_)
            | Command::Forget
            | Command::ToggleLock
            | Command::Preset(_)
            | Command::SetRules(..)
            | Command::SumUp
            | Command::Mend(_)
            | Command::MendAll
            | Command::SetTarget(_)
            | Command::TakePlanOf(_)
            | Command::SetTensorParallel(_)
            | Command::SetShardBytes(_)
            | Command::Undo
            | Command::Redo
            | Command::GoTo(_)
    )
}

fn ask(document: &mut Document, text: &str, yes: &'static str, command: Command) {
    document.question = Some(Question { text: text.to_owned(), yes, command, no: None });
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
    let recipe = |id| recipe::kinds().find(|kind| kind.id == id).map(|kind| kind.file_name);
    let suggestion = match purpose {
        Purpose::WriteImatrix => "imatrix.gguf".to_owned(),
        Purpose::WriteRecipe(id) => recipe(id).unwrap_or("recipe").to_owned(),
        _ => format!("{title}.ron"),
    };
    jobs.pick(purpose, &suggestion);
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
    let checkpoint = project::relative_checkpoint(model.checkpoint.path(), &path);
    let project = Project::of(checkpoint, model.history.current(), model.view());
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

/// Asks about work of a window that did not close, if there is any.
fn ask_recovery(document: &mut Document) {
    let orphans = recovery::orphans(&document.home);
    let found = orphans.into_iter().find_map(|path| Some((Unsaved::read(&path).ok()?, path)));
    let Some((unsaved, path)) = found else {
        return;
    };
    let name = PathBuf::from(&unsaved.project.checkpoint);
    let name = unsaved.file.as_deref().unwrap_or(&name).file_name();
    let name = name.map_or_else(|| "a model".to_owned(), |n| n.to_string_lossy().into_owned());
    document.question = Some(Question {
        text: format!(
            "A window on {name} ended without saving its plan. The last step was: {}. Open it again?",
            unsaved.step
        ),
        yes: "Open it",
        command: Command::Recover(path.clone()),
        no: Some(("Throw it away", Command::DiscardRecovery(path))),
    });
}

fn copy(document: &mut Document, text: String) {
    let lines = text.lines().count();
    document.clipboard = Some(text);
    document.say(format!("Copied {lines} lines to the clipboard"));
}

fn copy_assignment(document: &mut Document) {
    let Some(model) = document.model.as_deref() else {
        return;
    };
    let Some(layer) = model.selection.cursor().filter(|&layer| model.is_matrix(layer)) else {
        document.say("Only weight matrices have assignments");
        return;
    };
    let copied = Assignment { locked: false, ..Assignment::clone(&model.assignment(layer)) };
    let said = format!("Copied {}; V gives it to the selected layers", copied.label());
    document.copied = Some(Arc::new(copied));
    document.say(said);
}

fn copy_rows(document: &mut Document) {
    let Some(model) = document.model.as_deref() else {
        return;
    };
    let selected: Vec<usize> =
        model.rows().iter().copied().filter(|&layer| model.selection.has(layer)).collect();
    let rows = if selected.len() > 1 { &selected[..] } else { model.rows() };
    let text = columns::csv(model, &model.list.columns, rows);
    copy(document, text);
}

fn save_figure(document: &mut Document, jobs: &mut Jobs, figure: Arc<FigureToSave>) {
    jobs.pick(Purpose::SaveFigure(figure.format), &figure.file_name());
    document.figure_to_save = Some(figure);
}

fn toggle_measuring(document: &mut Document, jobs: &mut Jobs) {
    document.measuring_stopped = !document.measuring_stopped;
    match document.model.as_deref() {
        Some(model) if !document.measuring_stopped => jobs.measure(model),
        _ => jobs.stop_measuring(),
    }
}
