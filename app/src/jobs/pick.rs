//! File dialogs, off the frame.

use rfd::AsyncFileDialog;

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
}

impl Jobs {
    /// Shows a dialog; the answer comes as [`Event::Picked`].
    pub fn pick(&mut self, purpose: Purpose, suggestion: &str) {
        let ticket = self.begin(Kind::Pick);
        let dialog = AsyncFileDialog::new();
        // The dialog is made on this thread, as macOS demands, and awaited on another.
        let future: std::pin::Pin<Box<dyn Future<Output = Option<rfd::FileHandle>> + Send>> =
            match purpose {
                Purpose::OpenFolder => {
                    Box::pin(dialog.set_title("Open a model's folder").pick_folder())
                }
                Purpose::OpenFile => Box::pin(
                    dialog
                        .set_title("Open a .safetensors file or a project")
                        .add_filter("Checkpoints and projects", &["safetensors", "ron"])
                        .pick_file(),
                ),
                Purpose::SaveProject => Box::pin(
                    dialog
                        .set_title("Save the project")
                        .add_filter("Projects", &["ron"])
                        .set_file_name(suggestion)
                        .save_file(),
                ),
                Purpose::ExportFolder => {
                    Box::pin(dialog.set_title("Export into this folder").pick_folder())
                }
            };
        self.spawn("dialog", move || {
            let chosen = pollster::block_on(future).map(|file| file.path().to_path_buf());
            ticket.send(Event::Picked(purpose, chosen));
        });
    }
}
