//! File dialogs, off the frame.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rfd::AsyncFileDialog;

use crate::document::finished::{Field, Task};
use crate::figure::Format;
use crate::jobs::{Event, Jobs, Kind};

/// What a chosen path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A model's folder to open.
    OpenFolder,
    /// A .safetensors file or project to open.
    OpenFile,
    /// Where to save the project.
    SaveProject,
    /// Where to make the output folder.
    ExportFolder,
    /// A second checkpoint's folder to compare with.
    CompareFolder,
    /// A second checkpoint's file to compare with.
    CompareFile,
    /// Where to save a figure.
    SaveFigure(Format),
    /// A recipe of this kind to take over.
    ReadRecipe(&'static str),
    /// A finished checkpoint, a folder or a file, whose recipe to take over.
    RecoverFolder,
    /// The same, as a file.
    RecoverFile,
    /// A text to score.
    EvaluationText,
    /// A checkpoint's folder to run.
    EvaluationModel,
    /// Questions to answer.
    Questions,
    /// Where to write the plan as a recipe of this kind.
    WriteRecipe(&'static str),
    /// A text file to calibrate with.
    CalibrationFile,
    /// A folder of texts to calibrate with.
    CalibrationFolder,
    /// An importance matrix to take for a calibration.
    ReadImatrix,
    /// Where to write the calibration as an importance matrix.
    WriteImatrix,
    /// A folder for the form of a task.
    FinishedFolder(Task, Field),
    /// A file for it.
    FinishedFile(Task, Field),
}

impl Purpose {
    /// What is asked for.
    pub fn title(self) -> &'static str {
        match self {
            Self::OpenFolder => "Open a model's folder",
            Self::OpenFile => "Open a .safetensors file or a project",
            Self::SaveProject => "Save the project",
            Self::ExportFolder => "Export into this folder",
            Self::CompareFolder => "Compare with a model's folder",
            Self::CompareFile => "Compare with a .safetensors file",
            Self::SaveFigure(_) => "Save the figure",
            Self::ReadRecipe(_) => "Take over a recipe",
            Self::RecoverFolder => "Take over the recipe of a finished model's folder",
            Self::RecoverFile => "Take over the recipe of a finished .gguf file",
            Self::EvaluationText => "Choose a text to score",
            Self::EvaluationModel => "Choose a model's folder to run",
            Self::Questions => "Choose questions in JSON lines",
            Self::WriteRecipe(_) => "Write the plan as a recipe",
            Self::CalibrationFile => "Calibrate with a text file",
            Self::CalibrationFolder => "Calibrate with a folder of texts",
            Self::ReadImatrix => "Take an importance matrix for a calibration",
            Self::WriteImatrix => "Write the calibration as an importance matrix",
            Self::FinishedFolder(_, Field::Folder) => "Write into this folder",
            Self::FinishedFolder(Task::Verify, Field::Base)
            | Self::FinishedFile(Task::Verify, Field::Base) => "What the output was made from",
            Self::FinishedFolder(_, Field::Base) | Self::FinishedFile(_, Field::Base) => {
                "What it is squeezed against"
            }
            Self::FinishedFolder(..) => "Choose a finished model's folder",
            Self::FinishedFile(..) => "Choose a finished .gguf or .safetensors file",
        }
    }
}

/// How a file dialog ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// A path was chosen.
    Path(PathBuf),
    /// The person closed it.
    Closed,
    /// The system showed none.
    NoDialog,
}

/// A dialog that is gone sooner was never there: nobody closes one so fast.
const LEAST_DIALOG: Duration = Duration::from_millis(300);

impl Jobs {
    /// Shows a dialog; the answer comes as [`Event::Picked`].
    pub fn pick(&mut self, purpose: Purpose, suggestion: &str) {
        let ticket = self.begin(Kind::Pick);
        let dialog = AsyncFileDialog::new();
        // The dialog is made on this thread, as macOS demands, and awaited on another.
        let future: std::pin::Pin<Box<dyn Future<Output = Option<rfd::FileHandle>> + Send>> =
            match purpose {
                Purpose::ReadRecipe(_)
                | Purpose::ReadImatrix
                | Purpose::CalibrationFile
                | Purpose::EvaluationText
                | Purpose::Questions => Box::pin(dialog.set_title(purpose.title()).pick_file()),
                Purpose::FinishedFile(..) => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter("Checkpoints", &["gguf", "safetensors"])
                        .pick_file(),
                ),
                Purpose::RecoverFile => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter("Finished checkpoints", &["gguf"])
                        .pick_file(),
                ),
                Purpose::WriteRecipe(_) | Purpose::WriteImatrix => Box::pin(
                    dialog.set_title(purpose.title()).set_file_name(suggestion).save_file(),
                ),
                Purpose::OpenFolder
                | Purpose::CompareFolder
                | Purpose::ExportFolder
                | Purpose::CalibrationFolder
                | Purpose::EvaluationModel
                | Purpose::RecoverFolder
                | Purpose::FinishedFolder(..) => {
                    Box::pin(dialog.set_title(purpose.title()).pick_folder())
                }
                Purpose::CompareFile => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter("Checkpoints", &["safetensors"])
                        .pick_file(),
                ),
                Purpose::OpenFile => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter("Checkpoints and projects", &["safetensors", "ron"])
                        .pick_file(),
                ),
                Purpose::SaveFigure(format) => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter(format.title(), &[format.extension()])
                        .set_file_name(suggestion)
                        .save_file(),
                ),
                Purpose::SaveProject => Box::pin(
                    dialog
                        .set_title(purpose.title())
                        .add_filter("Projects", &["ron"])
                        .set_file_name(suggestion)
                        .save_file(),
                ),
            };
        self.spawn("dialog", move || {
            let begin = Instant::now();
            let chosen = pollster::block_on(future).map(|file| file.path().to_path_buf());
            let picked = match chosen {
                Some(path) => Picked::Path(path),
                None if begin.elapsed() < LEAST_DIALOG => Picked::NoDialog,
                None => Picked::Closed,
            };
            ticket.send(Event::Picked(purpose, picked));
        });
    }
}
