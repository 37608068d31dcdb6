//! What is open and what the person wants of it. Knows the engine, never egui.

pub mod allocation;
pub mod brush;
pub mod calibrations;
pub mod capacity;
pub mod columns;
pub mod damages;
pub mod draft;
pub mod evaluation;
pub mod evolution;
pub mod filter;
pub mod finished;
pub mod held_bits;
pub mod history;
pub mod list;
pub mod look;
pub mod map;
pub mod measurements;
pub mod metrics;
pub mod model;
pub mod other;
pub mod outcome;
pub mod price;
pub mod project;
pub mod ranking;
pub mod recipe;
pub mod recovery;
pub mod selection;
pub mod settings;
pub mod shades;
pub mod treemap;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::Progress;
use lapidary_engine::export::{Estimate, Forecast, Report};
use lapidary_engine::plan::Assignment;

use crate::commands::Command;
use crate::document::allocation::Allocating;
use crate::document::calibrations::Loaded;
use crate::document::draft::Draft;
use crate::document::evaluation::Evaluating;
use crate::document::evolution::Evolving;
use crate::document::finished::{Finished, Task};
use crate::document::model::Model;
use crate::document::recipe::Told;
use crate::document::settings::Settings;
use crate::figure::{Drawing, Format};
use crate::jobs::Purpose;

/// Background work that the person can see and cancel.
#[derive(Debug, Default)]
pub enum Slot<T> {
    /// Nothing was asked for.
    #[default]
    Idle,
    /// At work, perhaps with how far.
    Running {
        /// What is at work, for a person.
        what: String,
        /// How far, once known.
        progress: Option<Progress>,
    },
    /// Done.
    Ready(T),
    /// Not done: a sentence.
    Failed(String),
}

impl<T> Slot<T> {
    /// Whether it is at work.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// Something said in the status bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The sentence.
    pub text: String,
    /// Whether something went wrong.
    pub is_error: bool,
}

/// A question before something is lost.
#[derive(Debug)]
pub struct Question {
    /// The question.
    pub text: String,
    /// The button that does it.
    pub yes: &'static str,
    /// What it does.
    pub command: Command,
    /// The button that does something else instead of nothing, and what.
    pub no: Option<(&'static str, Command)>,
}

/// A finished export.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Where it lies.
    pub folder: PathBuf,
    /// What was written.
    pub report: Arc<Report>,
}

/// What was asked for, of what an export takes.
#[derive(Clone, Debug)]
pub struct Foretelling {
    /// Plan and target.
    pub draft: Arc<Draft>,
    /// The calibration in use.
    pub loaded: Option<Arc<Loaded>>,
    /// Where the export goes.
    pub folder: String,
}

impl Foretelling {
    /// What would be asked for now; nothing without a model.
    pub fn now(document: &Document) -> Option<Self> {
        let model = document.model.as_deref()?;
        Some(Self {
            draft: model.history.current().clone(),
            loaded: model.calibrations.loaded.clone(),
            folder: document.export_folder.trim().to_owned(),
        })
    }

    /// Whether the same would be asked for now.
    pub fn is_now(&self, document: &Document) -> bool {
        Self::now(document).is_some_and(|now| {
            let loaded = [&self.loaded, &now.loaded].map(|loaded| loaded.as_ref().map(Arc::as_ptr));
            Arc::ptr_eq(&self.draft, &now.draft)
                && loaded[0] == loaded[1]
                && self.folder == now.folder
        })
    }
}

/// What an export takes.
#[derive(Clone, Debug)]
pub struct Foretold {
    /// Bytes of the output, disk and memory.
    pub forecast: Forecast,
    /// Time.
    pub estimate: Estimate,
}

/// A figure on its way to a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureToSave {
    /// What it shows.
    pub drawing: Drawing,
    /// As what it is saved.
    pub format: Format,
}

impl FigureToSave {
    /// The name to suggest for its file: the title without what file systems do not take.
    pub fn file_name(&self) -> String {
        let plain = |c: char| if c.is_alphanumeric() || c == '-' { c } else { ' ' };
        let title: String = self.drawing.title().chars().map(plain).collect();
        let words: Vec<&str> = title.split_whitespace().collect();
        format!("{}.{}", words.join("-").to_lowercase(), self.format.extension())
    }
}

/// Which small window is open over the workbench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sheet {
    /// The export form.
    Export,
    /// Texts to calibrate with, and the calibrations there are.
    Calibrate,
    /// What came to each expert.
    Experts,
    /// Everything there is to do, to be found by typing.
    Palette,
    /// Running the model on texts.
    Evaluate,
    /// Spending a budget.
    Allocate,
    /// What is done with a finished checkpoint.
    Finished(Task),
    /// The list of keys.
    Keys,
    /// About this program.
    About,
    /// What a recipe could not say.
    Told,
    /// A path to type, where the system shows no file dialog.
    Path(Purpose),
}

/// Everything the window shows.
#[derive(Debug, Default)]
pub struct Document {
    /// The open model.
    pub model: Option<Box<Model>>,
    /// A model being opened; the open one stays until it has.
    pub opening: Slot<()>,
    /// The last export.
    pub export: Slot<Exported>,
    /// What an export takes, as it was asked last.
    pub foretold: Slot<Foretold>,
    /// What was asked for then.
    pub foretelling: Option<Foretelling>,
    /// The folder in the export form.
    pub export_folder: String,
    /// What is entered to calibrate with.
    pub calibration_form: calibrations::Form,
    /// The path in the welcome form, or in the sheet that stands in for a file dialog.
    pub typed_path: String,
    /// What is typed in the palette.
    pub palette: String,
    /// What the status bar says.
    pub notice: Option<Notice>,
    /// A question that waits for its answer.
    pub question: Option<Question>,
    /// The small window that is open.
    pub sheet: Option<Sheet>,
    /// The file of a window that did not close, from which the open model was recovered, until it is kept anew.
    pub recovered: Option<PathBuf>,
    /// What was done with a recipe, and what could not be.
    pub told: Option<Told>,
    /// An assignment to paste.
    pub copied: Option<Arc<Assignment>>,
    /// Whether measuring was stopped by the person.
    pub measuring_stopped: bool,
    /// Text to put on the clipboard.
    pub clipboard: Option<String>,
    /// A figure that waits for the name of its file.
    pub figure_to_save: Option<Arc<FigureToSave>>,
    /// Running the model on texts.
    pub evaluation: Evaluating,
    /// Spending a budget.
    pub allocation: Allocating,
    /// Searching plans on the model itself.
    pub evolution: Evolving,
    /// Converting, unpacking, squeezing and proving finished checkpoints.
    pub finished: Finished,
    /// Whether the window should close.
    pub quit: bool,
    /// Remembered between sessions.
    pub settings: Settings,
    /// The folder for the program's own data.
    pub home: PathBuf,
}

impl Document {
    /// Remembers the settings for the next session.
    pub fn save_settings(&self) {
        self.settings.save(&self.home);
    }

    /// Says something in the status bar.
    pub fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: false });
    }

    /// Says in the status bar that something went wrong.
    pub fn complain(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_error: true });
    }

    /// The window's title.
    pub fn title(&self) -> String {
        let Some(model) = &self.model else {
            return "Lapidary".to_owned();
        };
        let name = model.project.as_deref().and_then(Path::file_name);
        let name = name
            .map_or_else(|| model.checkpoint.title(), |name| name.to_string_lossy().into_owned());
        format!("{name}{} – Lapidary", if model.is_changed() { " •" } else { "" })
    }

    /// Whether closing the window would lose edits, a running export or conversion.
    pub fn would_lose_something(&self) -> bool {
        self.has_unsaved_changes() || self.at_work().is_some()
    }

    /// What is at work that writes or proves files, for a sentence.
    pub fn at_work(&self) -> Option<&'static str> {
        if self.export.is_running() {
            return Some("An export");
        }
        self.finished.at_work().map(Task::noun)
    }

    /// Whether closing or opening another model would lose edits.
    pub fn has_unsaved_changes(&self) -> bool {
        self.model.as_ref().is_some_and(|model| model.is_changed())
    }
}
