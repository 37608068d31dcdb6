//! What a person does to spend a budget.

use std::sync::Arc;

use lapidary_engine::Silent;
use lapidary_engine::plan::Plan;
use lapidary_engine::scores::{Bounds, Metric};

use crate::commands::evolve::{self, Evolve};
use crate::commands::look;
use crate::document::allocation::{Against, Ready, Wish};
use crate::document::evaluation::Work;
use crate::document::ranking::{Asked, Ranking};
use crate::document::selection::Selection;
use crate::document::{Document, Sheet};
use crate::jobs::{Jobs, Scoring};

/// The name of the step: what is dragged without letting go is one.
const STEP: &str = "Allocate";
/// The name of the step that a ranking is.
const RANKED: &str = "Rank layers";

/// Something about spending a budget.
#[derive(Clone, Debug, PartialEq)]
pub enum Allocate {
    /// Show or hide the window.
    Toggle,
    /// Change what is asked for.
    Wish(Wish),
    /// Score the candidates.
    Score,
    /// Say where rankings end.
    Ask(Asked),
    /// Make the plan of a ranking.
    Rank(Ranking),
    /// Measure where the choice at the slider hangs on scores that are cheap.
    Refine,
    /// Stop scoring.
    Cancel,
    /// Spend so many bytes, of all tensors as they are exported.
    Spend(u64),
    /// Select the layers that changed since the slider last stood still.
    SelectChanged,
    /// Give roles the fewest and the most bits they may have, and solve again.
    Bound(Bounds),
    /// Count the keys and values of so many tokens as memory.
    Context(u64),
    /// Search on the model itself.
    Evolve(Evolve),
}

pub(super) fn apply(document: &mut Document, jobs: &mut Jobs, command: Allocate) {
    match command {
        Allocate::Toggle => toggle(document),
        Allocate::Wish(wish) => {
            document.allocation.has_chosen |= wish.metric != document.allocation.wish.metric;
            document.allocation.wish = wish;
        }
        Allocate::Score => score(document, jobs),
        Allocate::Ask(asked) => document.allocation.asked = asked,
        Allocate::Rank(ranking) => rank(document, jobs, ranking),
        Allocate::Refine => refine(document, jobs),
        Allocate::Cancel => jobs.cancel_scoring(),
        Allocate::Spend(bytes) => spend(document, jobs, bytes),
        Allocate::SelectChanged => {
            let changed = document.allocation.changed.clone();
            if let Some(model) = document.model.as_deref_mut() {
                model.selection = Selection::of(changed);
                look::request(model, jobs);
            }
        }
        Allocate::Bound(bounds) => bound(document, bounds),
        Allocate::Context(tokens) => document.allocation.context = Some(tokens),
        Allocate::Evolve(command) => evolve::apply(document, jobs, command),
    }
}

/// Solves within other bounds; bounds that leave a layer nothing are refused, and those before stay.
fn bound(document: &mut Document, bounds: Bounds) {
    let (Some(model), state) = (document.model.as_deref(), &mut document.allocation) else {
        return;
    };
    if let Some(ready) = &mut state.ready {
        match ready.solved.within(&model.checkpoint, &bounds, &Silent) {
            Ok(solved) => ready.solved = Arc::new(solved),
            Err(error) => return document.complain(error.sentence()),
        }
    }
    state.bounds = bounds;
}

fn toggle(document: &mut Document) {
    let Some(model) = document.model.as_deref() else { return };
    if document.sheet == Some(Sheet::Allocate) {
        document.sheet = None;
        return;
    }
    document.sheet = Some(Sheet::Allocate);
    let state = &mut document.allocation;
    if !state.has_chosen {
        let is_calibrated = model.calibrations.loaded.is_some();
        state.wish.metric = if is_calibrated { Metric::Outputs } else { Metric::Weights };
    }
}

fn score(document: &mut Document, jobs: &mut Jobs) {
    let Some(model) = document.model.as_deref() else { return };
    let state = &mut document.allocation;
    if state.work.is_some() {
        return;
    }
    if let Err(error) = state.wish.palette() {
        return document.complain(error.sentence());
    }
    let text = document.settings.evaluation_text.clone();
    if state.wish.metric.is_measured() && text.is_none() {
        document.complain("Choose a text in Evaluate first (Ctrl+R): damage is measured on it");
        return;
    }
    state.work = Some(Work::begin());
    state.failed = None;
    jobs.score(model, (state.wish.clone(), state.bounds.clone()), text);
}

/// Ranks what all layers have, unless something else is under way.
fn rank(document: &mut Document, jobs: &mut Jobs, ranking: Ranking) {
    let Some(model) = document.model.as_deref() else { return };
    let state = &mut document.allocation;
    if state.work.is_some() {
        return;
    }
    match ranking.candidate(model) {
        Ok(candidate) => {
            state.work = Some(Work::begin());
            state.failed = None;
            jobs.rank(model, candidate, ranking);
        }
        Err(why_not) => document.complain(why_not),
    }
}

/// Sets the plan of a ranking as one step; locks of now hold, too.
fn take(document: &mut Document, jobs: &mut Jobs, plan: &Plan) {
    let Some(model) = document.model.as_deref_mut() else { return };
    let mut plan = plan.clone();
    plan.keep_locks_of(model.plan());
    model.history.seal();
    model.history.edit(RANKED, |draft| *draft.plan_mut() = plan);
    model.plan_changed();
    look::request(model, jobs);
}

/// Sets the scores right at the budget of the slider.
fn refine(document: &mut Document, jobs: &mut Jobs) {
    let (Some(model), state) = (document.model.as_deref(), &mut document.allocation) else {
        return;
    };
    let (Some(ready), Some(budget), None) = (&state.ready, state.budget, &state.work) else {
        return;
    };
    let Some(text) = document.settings.evaluation_text.clone() else {
        return document
            .complain("Choose a text in Evaluate first (Ctrl+R): damage is measured on it");
    };
    let given = (ready.clone(), state.bounds.clone());
    state.work = Some(Work::begin());
    state.failed = None;
    jobs.refine(model, given, (budget, text));
}

/// Sets the plan that spends so many bytes; locks of now hold, too.
fn spend(document: &mut Document, jobs: &mut Jobs, bytes: u64) {
    let (Some(model), state) = (document.model.as_deref_mut(), &mut document.allocation) else {
        return;
    };
    let Some(ready) = state.ready.clone() else { return };
    let choice = match ready.solved.at(bytes) {
        Ok(choice) => choice,
        Err(error) => return document.complain(error.sentence()),
    };
    if !model.history.is_open() || state.stop.is_none() {
        state.stop = Some(model.plan().clone());
    }
    let checkpoint = model.checkpoint.clone();
    let plan = ready.carried(&choice, model.plan(), &checkpoint);
    let empty = Arc::new(Plan::default());
    let before = state.stop.as_ref().unwrap_or(&empty);
    state.changed = plan.changed_from(before, &checkpoint);
    state.budget = Some(bytes);
    model.history.edit(STEP, |draft| *draft.plan_mut() = plan);
    model.plan_changed();
    look::request(model, jobs);
}

/// Takes in what scoring found.
pub(super) fn absorb(document: &mut Document, jobs: &mut Jobs, news: Scoring) {
    let state = &mut document.allocation;
    match news {
        Scoring::Ranked(ended) => {
            state.work = None;
            match ended {
                None => document.say("Ranking was stopped; the plan is as it was"),
                Some(Err(sentence)) => state.failed = Some(sentence),
                Some(Ok(plan)) => take(document, jobs, &plan),
            }
        }
        Scoring::Progress(progress) => {
            if let Some(work) = &mut state.work {
                work.take(progress);
            }
        }
        Scoring::Ended(ended) => {
            state.work = None;
            match ended {
                None => document.say("Scoring was stopped; what was scored before is still there"),
                Some(Err(sentence)) => state.failed = Some(sentence),
                Some(Ok(ready)) => begin(document, *ready),
            }
        }
    }
}

/// The slider begins where the plan is, but moves nothing before it is moved.
fn begin(document: &mut Document, ready: Ready) {
    let Some(model) = document.model.as_deref() else { return };
    let [least, most] = ready.solved.range();
    let state = &mut document.allocation;
    let budget = ready.refinement.map_or(model.outcome.tensor_bytes, |of| of.budget);
    state.budget = Some(budget.clamp(least, most));
    state.changed = Vec::new();
    state.stop = None;
    state.presets = ready.presets(&model.checkpoint, model.history.current().aim());
    state.replace(ready);
    hold_against(document);
}

/// Holds the runs there are against the scores there are.
pub(super) fn hold_against(document: &mut Document) {
    if let (Some(model), Some(ready)) = (document.model.as_deref(), &document.allocation.ready) {
        let runs = &document.evaluation.runs;
        document.allocation.against = Against::of(ready, &model.checkpoint, runs);
    }
}

/// Forgets what is of another model.
pub(super) fn reset(document: &mut Document, jobs: &mut Jobs) {
    evolve::reset(document, jobs);
    jobs.forget_scoring();
    let old = std::mem::take(&mut document.allocation);
    document.allocation.wish = Wish { others: Vec::new(), ..old.wish };
    if document.sheet == Some(Sheet::Allocate) {
        document.sheet = None;
    }
}
