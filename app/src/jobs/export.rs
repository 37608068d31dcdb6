//! Exporting without holding up the window.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::Error;
use lapidary_engine::export::{self, Destination};
use lapidary_engine::job::Limits;

use crate::document::Exported;
use crate::document::calibrations::subject;
use crate::document::model::Model;
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Runs the plan of `model` and writes it to `folder`.
    pub fn export(&mut self, model: &Model, folder: PathBuf, replace: bool) {
        let ticket = self.begin(Kind::Export);
        let (checkpoint, plan) = (model.checkpoint.clone(), model.plan().clone());
        let aim = model.history.current().aim();
        let loaded = model.calibrations.loaded.clone();
        self.export_thread = self.spawn("export", move || {
            let destination = Destination { folder: &folder, replace, limits: Limits::default() };
            let subject = subject(&checkpoint, loaded.as_deref());
            let result = match export::export(subject, &plan, aim, destination, &ticket) {
                Ok(report) => Some(Ok(Exported { folder, report: Arc::new(report) })),
                Err(Error::Cancelled) => None,
                Err(error) => Some(Err(error.sentence())),
            };
            ticket.send(Event::Exported(result));
        });
    }
}
