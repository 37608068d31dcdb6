//! Trying an assignment on the layer in the inspector.

use std::sync::Arc;

use lapidary_engine::job;
use lapidary_engine::plan::Assignment;
use lapidary_engine::statistics::Statistics;

use crate::document::calibrations::subject;
use crate::document::model::Model;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Compresses one layer in the background and measures its error. The latest request wins.
    pub fn preview(
        &mut self,
        model: &Model,
        (layer, assignment): (usize, Arc<Assignment>),
        statistics: Option<Arc<Statistics>>,
    ) {
        let ticket = self.begin(Kind::Preview);
        let (checkpoint, plan) = (model.checkpoint.clone(), model.plan().clone());
        let loaded = model.calibrations.loaded.clone();
        self.spawn("preview", move || {
            if let Some(result) = sentence(job::preview(
                subject(&checkpoint, loaded.as_deref()),
                &plan,
                layer,
                statistics.as_ref().map(|known| &known.histogram),
                &ticket,
            )) {
                ticket.send(Event::Preview(layer, assignment, result));
            }
        });
    }
}
