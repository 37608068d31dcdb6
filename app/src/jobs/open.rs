//! Opening a checkpoint or project without holding up the window.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::Result;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::held;
use lapidary_engine::plan::Plan;
use lapidary_engine::target;

use crate::document::draft::Draft;
use crate::document::model::Opened;
use crate::document::project::{Project, View};
use crate::document::recovery::Unsaved;
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

/// Opens work that was kept, with its checkpoint.
pub(super) fn recover(path: &Path) -> Result<Opened> {
    let unsaved = Unsaved::read(path)?;
    let checkpoint = Arc::new(Checkpoint::open(Path::new(&unsaved.project.checkpoint))?);
    let draft = unsaved.project.draft(&checkpoint)?;
    let recovered = Some(path.to_path_buf());
    Ok(Opened { checkpoint, draft, view: unsaved.project.view, project: unsaved.file, recovered })
}

/// Opens a project (`.ron`) with its checkpoint, or a checkpoint with an empty plan.
fn open(path: &Path) -> Result<Opened> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ron")) {
        let project = Project::read(path)?;
        let checkpoint = Arc::new(Checkpoint::open(&project.checkpoint_path(path))?);
        let draft = project.draft(&checkpoint)?;
        let (view, project) = (project.view, Some(path.to_path_buf()));
        return Ok(Opened { checkpoint, draft, view, project, recovered: None });
    }
    let checkpoint = Arc::new(held(Checkpoint::open(path)?)?);
    let target = target::default_for(&checkpoint);
    let view = View { metric: "kurtosis".to_owned(), ..View::default() };
    let draft = Draft::new(Plan::default(), target);
    Ok(Opened { checkpoint, draft, view, project: None, recovered: None })
}
