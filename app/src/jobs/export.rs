//! Exporting, and saying what it takes, without holding up the window.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::Error;
use lapidary_engine::export::{self, Destination};
use lapidary_engine::job::Limits;

use crate::document::calibrations::subject;
use crate::document::model::Model;
use crate::document::{Exported, Foretold};
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Says what the export of `model` to `folder` takes. What is there already counts as replaced: that is asked later.
    pub fn foretell(&mut self, model: &Model, folder: PathBuf) {
        let ticket = self.begin(Kind::Foretell);
        let (checkpoint, draft) = (model.checkpoint.clone(), model.history.current().clone());
        let loaded = model.calibrations.loaded.clone();
        self.spawn("foretell", move || {
            let destination =
                Destination { folder: &folder, replace: true, limits: Limits::default() };
            let subject = subject(&checkpoint, loaded.as_deref());
            let foretold = export::forecast(subject, draft.plan(), draft.aim(), destination)
                .and_then(|forecast| {
                    let estimate = export::estimate(subject, draft.plan(), &forecast, &ticket)?;
                    Ok(Foretold { forecast, estimate })
                });
            match foretold {
                Err(Error::Cancelled) => {}
                foretold => {
                    let foretold = foretold.map_err(|error| error.sentence());
                    ticket.send(Event::Foretold(Box::new(foretold)));
                }
            }
        });
    }

    /// Runs the plan of `model` and writes it to `folder`.
    pub fn export(&mut self, model: &Model, folder: PathBuf, replace: bool) {
        // Both would want the whole machine.
        self.stop(Kind::Foretell);
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
