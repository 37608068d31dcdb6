//! Trying an assignment on the layer in the inspector.

use std::sync::Arc;

use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::job;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::Statistics;

use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Compresses one layer in the background and measures its error. The latest request wins.
    pub fn preview(
        &mut self,
        checkpoint: SharedCheckpoint,
        plan: Arc<Plan>,
        (layer, assignment): (usize, Arc<Assignment>),
        statistics: Option<Arc<Statistics>>,
    ) {
        let ticket = self.begin(Kind::Preview);
        self.spawn("preview", move || {
            if let Some(result) = sentence(job::preview(
                &checkpoint,
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
