//! Opening a checkpoint or project without holding up the window.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::Result;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::Plan;
use lapidary_engine::target;

use crate::document::draft::Draft;
use crate::document::model::Opened;
use crate::document::project::{Project, View};
use crate::jobs::{Event, Jobs, Kind};

impl Jobs {
    /// Opens `path` in the background.
    pub fn open(&mut self, path: PathBuf) {
        let ticket = self.begin(Kind::Open);
        self.spawn("open", move || {
            let result = open(&path).map_err(|error| error.sentence());
            ticket.send(Event::Opened { path, result: Box::new(result) });
        });
    }
}

/// Opens a project (`.ron`) with its checkpoint, or a checkpoint with an empty plan.
fn open(path: &Path) -> Result<Opened> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ron")) {
        let project = Project::read(path)?;
        let checkpoint = Arc::new(Checkpoint::open(&project.checkpoint_path(path))?);
        let draft = project.draft(&checkpoint)?;
        let (view, project) = (project.view, Some(path.to_path_buf()));
        return Ok(Opened { checkpoint, draft, view, project });
    }
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let target = target::default_for(&checkpoint);
    let view = View { metric: "kurtosis".to_owned(), ..View::default() };
    Ok(Opened { checkpoint, draft: Draft::new(Plan::default(), target), view, project: None })
}
