//! `lapidary demo`: the built-in sample, compressed by its example project, then shown.

use std::path::PathBuf;

use clap::Args;
use lapidary_engine::export::Destination;
use lapidary_engine::job::Limits;

use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::{compress, output, window};
use crate::document::project::Project;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The folder to write; by default one of the program's own.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let builtin = builtin::unpack(&builtin::home())?;
        let project = builtin.demo_project();
        output::print(&format!(
            "compressing the built-in sample as {} says\n\n",
            project.display()
        ))?;
        let out = self.out.unwrap_or_else(|| builtin.demo_output());
        // The program's own folder, or what an earlier demo left in the one named, is replaced without asking.
        let destination = Destination { folder: &out, replace: true, limits: Limits::default() };
        let choice = Choice { home: builtin::home(), named: None };
        let opened = Project::read(&project)?;
        let report = compress::run((&project, &opened), &choice, destination)?;
        output::print(&compress::describe(&report, &out, "the source"))?;
        if window::has_display() {
            return window::open(Some(project));
        }
        output::print("\nthere is no display; on a desktop the window would open now\n")
    }
}
