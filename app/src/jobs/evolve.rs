//! Searching choices on the model itself without holding up the window.

use std::sync::atomic::Ordering;

use lapidary_engine::allocator::Search;
use lapidary_engine::scores::Question;
use lapidary_engine::target;
use lapidary_engine::text::Source;
use lapidary_engine::{Error, Progress, Result};

use crate::allocating::{self, Searching};
use crate::document::calibrations;
use crate::document::evolution::Run;
use crate::document::model::Model;
use crate::jobs::{Event, Jobs, Kind};

/// What a search answers.
#[derive(Debug)]
pub enum Evolved {
    /// How far it is.
    Progress(Progress),
    /// It as it was found on disk, or after a generation.
    Generation(Box<Search>),
    /// The end: whether it was let run, or a sentence.
    Ended(std::result::Result<bool, String>),
}

impl Jobs {
    /// Searches, or goes on with the same search.
    pub fn evolve(&mut self, model: &Model, run: &Run) {
        let ticket = self.begin(Kind::Evolve);
        let checkpoint = model.checkpoint.clone();
        let loaded = model.calibrations.loaded.clone();
        let run = Run { search: None, ..run.clone() };
        self.spawn("evolution", move || {
            let search = || -> Result<()> {
                let palette = run.ready.wish.palette()?;
                let question = Question {
                    subject: calibrations::subject(&checkpoint, loaded.as_deref()),
                    plan: &run.ready.plan,
                    palette: &palette,
                    target: target::find(run.ready.target)?,
                };
                let searching = Searching {
                    question: &question,
                    scores: run.ready.solved.scores(),
                    problem: &run.problem,
                    source: &Source::path(&run.text),
                    wish: &run.engine_wish(),
                    folder: None,
                };
                let mut each = |search: &Search| {
                    ticket.send(Event::Evolved(Evolved::Generation(Box::new(search.clone()))));
                };
                allocating::search(&searching, &mut each, &ticket).map(|_| ())
            };
            let ended = match search() {
                Ok(()) => Ok(true),
                Err(Error::Cancelled) => Ok(false),
                Err(error) => Err(error.sentence()),
            };
            ticket.send(Event::Evolved(Evolved::Ended(ended)));
        });
    }

    /// Asks the search to stop; its end still comes.
    pub fn pause_evolution(&self) {
        self.flags[Kind::Evolve as usize].store(true, Ordering::Relaxed);
    }

    /// Stops the search and drops its answers, as its model is gone.
    pub fn forget_evolution(&mut self) {
        self.stop(Kind::Evolve);
    }
}
