//! Saving a figure without holding up the window.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::disk;

use crate::document::FigureToSave;
use crate::jobs::{Event, Jobs, Kind};

/// Size of a saved figure in units, and pixels for each.
const SIZE: (f64, f64) = (720.0, 440.0);
const PIXELS: f64 = 2.0;

impl Jobs {
    /// Draws a figure into a file.
    pub fn save_figure(&mut self, figure: Arc<FigureToSave>, path: PathBuf) {
        let ticket = self.begin(Kind::Save);
        self.spawn("save", move || {
            let extension = figure.format.extension();
            let is_named = path.extension().is_some();
            let path = if is_named { path } else { path.with_extension(extension) };
            let drawn = figure.drawing.bytes(figure.format, SIZE, PIXELS);
            let saved = drawn.map_err(|error| error.to_string()).and_then(|bytes| {
                disk::write_named_file(&path, &bytes).map_err(|error| error.sentence())
            });
            ticket.send(Event::Saved(saved.map(|()| path)));
        });
    }
}
