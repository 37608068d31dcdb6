//! Reading and writing recipes without holding up the window.

use std::path::PathBuf;

use lapidary_engine::disk;

use crate::document::model::Model;
use crate::document::recipe::{self, Told};
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Takes a recipe of a kind over onto the open model; without a kind, that of a finished checkpoint.
    pub fn read_recipe(&mut self, model: &Model, kind: Option<&'static str>, path: PathBuf) {
        let ticket = self.begin(Kind::Recipe);
        let checkpoint = model.checkpoint.clone();
        self.spawn("recipe", move || {
            let taken = match kind {
                Some(id) => recipe::read(id, &path, &checkpoint),
                None => recipe::recover(&path, &checkpoint),
            };
            let taken = taken.map(Box::new).map_err(|error| error.sentence());
            ticket.send(Event::RecipeRead(path, taken));
        });
    }

    /// Writes the plan as a recipe.
    pub fn write_recipe(&mut self, model: &Model, kind: &'static str, path: PathBuf) {
        let ticket = self.begin(Kind::Recipe);
        let (checkpoint, plan) = (model.checkpoint.clone(), model.plan().clone());
        self.spawn("recipe", move || {
            let written = recipe::write(kind, &checkpoint, &plan).and_then(|(text, unsaid)| {
                disk::write_named_file(&path, text.as_bytes())?;
                let done = format!("Wrote {}", path.display());
                Ok(Told { done, unsaid: unsaid.into() })
            });
            ticket.send(Event::RecipeWritten(written.map_err(|error| error.sentence())));
        });
    }
}
