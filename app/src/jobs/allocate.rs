//! Scoring candidates without holding up the window.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{Bounds, Budget, Question, Solved};
use lapidary_engine::target;
use lapidary_engine::text::Source;
use lapidary_engine::{Error, Progress, Result};

use crate::allocating;
use crate::document::allocation::{Ready, Refinement, Wish};
use crate::document::calibrations;
use crate::document::model::Model;
use crate::document::ranking::Ranking;
use crate::jobs::{Event, Jobs, Kind};

/// What scoring answers.
#[derive(Debug)]
pub enum Scoring {
    /// How far it is.
    Progress(Progress),
    /// The end: what the slider moves over, or a sentence; `None` if it was cancelled.
    Ended(Option<std::result::Result<Box<Ready>, String>>),
    /// The end of a ranking: its plan, or a sentence; `None` if it was cancelled.
    Ranked(Option<std::result::Result<Box<Plan>, String>>),
}

impl Jobs {
    /// Scores the candidates of every layer and solves for every budget.
    pub fn score(&mut self, model: &Model, (wish, bounds): (Wish, Bounds), text: Option<PathBuf>) {
        let ticket = self.begin(Kind::Allocate);
        let checkpoint = model.checkpoint.clone();
        let (plan, target) = (model.plan().clone(), model.target);
        let loaded = model.calibrations.loaded.clone();
        self.spawn("scores", move || {
            let solve = || -> Result<Arc<Solved>> {
                let palette = wish.palette()?;
                let subject = calibrations::subject(&checkpoint, loaded.as_deref());
                let question =
                    Question { subject, plan: &Plan::clone(&plan), palette: &palette, target };
                let source = text.map(Source::path);
                let text = source.as_ref().map(|source| (source, wish.tokens));
                let scores = allocating::score(&question, wish.metric, text, &ticket)?;
                let given = (scores, palette.len());
                let place = (checkpoint.as_ref(), target);
                let solved = Solved::new(place, given, (&plan, &bounds), &ticket)?;
                Ok(Arc::new(solved))
            };
            let ended = match solve() {
                Ok(solved) => {
                    let target = target.about().id;
                    Some(Ok(Box::new(Ready { solved, wish, target, plan, refinement: None })))
                }
                Err(Error::Cancelled) => None,
                Err(error) => Some(Err(error.sentence())),
            };
            ticket.send(Event::Scoring(Scoring::Ended(ended)));
        });
    }

    /// Makes the plan of a ranking whose layers become `candidate`, shares and ranks apart.
    pub fn rank(&mut self, model: &Model, candidate: Assignment, ranking: Ranking) {
        let ticket = self.begin(Kind::Allocate);
        let checkpoint = model.checkpoint.clone();
        let (plan, target) = (model.plan().clone(), model.target);
        let loaded = model.calibrations.loaded.clone();
        self.spawn("ranking", move || {
            let subject = calibrations::subject(&checkpoint, loaded.as_deref());
            let palette = [candidate];
            let question = Question { subject, plan: &plan, palette: &palette, target };
            let found = match ranking {
                Ranking::Outputs(share) => question.promote(share, &ticket).map(|found| found.1),
                Ranking::Values(bytes) => {
                    question.rank(Budget::FileBytes(bytes), &ticket).map(|found| found.1)
                }
            };
            let ended = match found {
                Ok(plan) => Some(Ok(Box::new(plan))),
                Err(Error::Cancelled) => None,
                Err(error) => Some(Err(error.sentence())),
            };
            ticket.send(Event::Scoring(Scoring::Ranked(ended)));
        });
    }

    /// Sets scores right where a budget of so many bytes of all tensors hangs on them.
    pub fn refine(&mut self, model: &Model, (ready, bounds): (Ready, Bounds), at: (u64, PathBuf)) {
        let ticket = self.begin(Kind::Allocate);
        let checkpoint = model.checkpoint.clone();
        let loaded = model.calibrations.loaded.clone();
        self.spawn("refining", move || {
            let (budget, text) = at;
            let solve = || -> Result<Ready> {
                let palette = ready.wish.palette()?;
                let target = target::find(ready.target)?;
                let subject = calibrations::subject(&checkpoint, loaded.as_deref());
                let question = Question { subject, plan: &ready.plan, palette: &palette, target };
                let problem = ready.solved.problem(budget);
                let given = (ready.solved.scores(), &problem);
                let on = (&Source::path(text), ready.wish.tokens);
                let (scores, refined) = allocating::refine(&question, given, on, &ticket)?;
                let place = (checkpoint.as_ref(), target);
                let given = (scores, palette.len());
                let solved = Solved::new(place, given, (&ready.plan, &bounds), &ticket)?;
                let refinement = Some(Refinement { budget, counts: refined.counts() });
                Ok(Ready { solved: Arc::new(solved), refinement, ..ready.clone() })
            };
            let ended = match solve() {
                Ok(ready) => Some(Ok(Box::new(ready))),
                Err(Error::Cancelled) => None,
                Err(error) => Some(Err(error.sentence())),
            };
            ticket.send(Event::Scoring(Scoring::Ended(ended)));
        });
    }

    /// Asks scoring to stop; its end still comes.
    pub fn cancel_scoring(&self) {
        self.flags[Kind::Allocate as usize].store(true, Ordering::Relaxed);
    }

    /// Stops scoring and drops its answer, as its model is gone.
    pub fn forget_scoring(&mut self) {
        self.stop(Kind::Allocate);
    }
}
