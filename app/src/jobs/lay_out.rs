//! Files, headers and lints of large models, laid out beside the frames.

use crate::document::model::Model;
use crate::document::outcome::LaidOut;
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Lays out what the plan comes to; the latest request wins.
    pub fn lay_out(&mut self, model: &Model) {
        let ticket = self.begin(Kind::LayOut);
        let (checkpoint, draft) = (model.checkpoint.clone(), model.history.current().clone());
        let importance = model.outcome.importance.clone();
        self.spawn("lay out", move || {
            ticket.send(Event::LaidOut(LaidOut::of(&checkpoint, &draft, importance.as_deref())));
        });
    }
}
