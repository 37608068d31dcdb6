//! What a person does to search choices on the model itself.

use lapidary_engine::allocator::Generation;

use crate::commands::look;
use crate::document::Document;
use crate::document::evaluation::Work;
use crate::document::evolution::{Run, Wish};
use crate::jobs::{Evolved, Jobs};
use crate::theme::text;

/// The name of the step.
const STEP: &str = "Evolution";

/// Something about a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evolve {
    /// Change how it searches.
    Wish(Wish),
    /// Search under the budget of the slider, or go on.
    Start,
    /// Stop after what is tried now; it goes on from the last whole generation.
    Pause,
    /// Make its best choice the plan.
    Take,
}

pub(super) fn apply(document: &mut Document, jobs: &mut Jobs, command: Evolve) {
    match command {
        Evolve::Wish(wish) => document.evolution.wish = wish,
        Evolve::Start => start(document, jobs),
        Evolve::Pause => jobs.pause_evolution(),
        Evolve::Take => take(document, jobs),
    }
}

fn start(document: &mut Document, jobs: &mut Jobs) {
    let Some(model) = document.model.as_deref() else { return };
    let (Some(ready), Some(budget)) = (&document.allocation.ready, document.allocation.budget)
    else {
        return document.complain("Score the candidates first: the search chooses among them");
    };
    let Some(text) = document.settings.evaluation_text.clone() else {
        return document
            .complain("Choose a text in Evaluate first (Ctrl+R): choices are run on it");
    };
    let state = &mut document.evolution;
    if state.work.is_some() {
        return;
    }
    let wish = state.wish;
    let is_same = |run: &&mut Run| run.is_same((ready, budget), (&wish, &text));
    if let Some(run) = state.run.as_mut().filter(is_same) {
        run.wish = wish;
    } else {
        match Run::new((ready, budget), (wish, text), (&model.checkpoint, model.plan())) {
            Ok(run) => state.run = Some(run),
            Err(error) => return document.complain(error.sentence()),
        }
    }
    if let Some(run) = &state.run {
        state.failed = None;
        state.work = Some(Work::begin());
        jobs.evolve(model, run);
    }
}

/// Makes the best choice of the search the plan; locks of now hold, too.
fn take(document: &mut Document, jobs: &mut Jobs) {
    let (Some(model), Some(run)) = (document.model.as_deref_mut(), &document.evolution.run) else {
        return;
    };
    let Some(search) = &run.search else { return };
    let choice = search.best(&run.problem);
    let checkpoint = model.checkpoint.clone();
    let plan = run.ready.carried(&choice, model.plan(), &checkpoint);
    document.allocation.changed = plan.changed_from(model.plan(), &checkpoint);
    model.history.seal();
    model.history.edit(STEP, |draft| *draft.plan_mut() = plan);
    model.history.seal();
    model.plan_changed();
    look::request(model, jobs);
}

/// Takes in what a search found.
pub(super) fn absorb(document: &mut Document, news: Evolved) {
    let state = &mut document.evolution;
    match news {
        Evolved::Progress(progress) => {
            if let Some(work) = &mut state.work {
                work.take(progress);
            }
        }
        Evolved::Generation(search) => {
            if let Some(run) = &mut state.run {
                run.search = Some(search);
            }
        }
        Evolved::Ended(ended) => {
            state.work = None;
            let generations = state.run.as_ref().and_then(|run| run.search.as_ref());
            let generations = generations.map_or(&[][..], |search| search.generations());
            let kl = generations.last().and_then(Generation::fitness).map(text::value);
            let (n, kl) = (generations.len(), kl.unwrap_or_else(|| "–".to_owned()));
            match ended {
                Ok(true) => document.say(format!("{n} generations, KL {kl}")),
                Ok(false) => document.say(format!("Paused after {n} generations, KL {kl}")),
                Err(sentence) => state.failed = Some(sentence),
            }
        }
    }
}

/// Forgets what is of another model.
pub(super) fn reset(document: &mut Document, jobs: &mut Jobs) {
    jobs.forget_evolution();
    let wish = document.evolution.wish;
    document.evolution = crate::document::evolution::Evolving { wish, ..Default::default() };
}
