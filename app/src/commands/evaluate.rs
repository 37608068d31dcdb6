//! What a person does with runs of the model.

use crate::commands::allocate;
use crate::document::evaluation::{Evaluating, Order, Page, What, Wish, Work};
use crate::document::{Document, Sheet};
use crate::jobs::{self, Jobs, Ran};

/// Something about running the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Evaluate {
    /// Show a part of the window, opening it.
    Show(Page),
    /// Change what is asked for.
    Wish(Wish),
    /// Score the text.
    Score,
    /// Continue the prompt.
    Continue,
    /// Answer the questions.
    Answer,
    /// Stop; what was found so far is kept.
    Cancel,
    /// Order runs, or turn the order round.
    OrderBy(Order),
    /// Hold others against this run, or against none.
    Choose(String),
    /// Delete a run.
    Delete(String),
    /// Bring back the run deleted last.
    Restore,
}

pub(super) fn apply(document: &mut Document, jobs: &mut Jobs, command: Evaluate) {
    let Some(model) = document.model.as_deref() else {
        return;
    };
    let state = &mut document.evaluation;
    match command {
        Evaluate::Show(page) => {
            state.page = page;
            if document.sheet == Some(Sheet::Evaluate) {
                return;
            }
            document.sheet = Some(Sheet::Evaluate);
            // The built-in sample has a text it never saw.
            let heldout = model.checkpoint.path().join("heldout_oz.txt");
            if document.settings.evaluation_text.is_none() && heldout.is_file() {
                document.settings.evaluation_text = Some(heldout);
            }
            if state.runs.is_empty() {
                jobs.list_runs(model, &document.home);
            }
        }
        Evaluate::Wish(wish) => state.wish = wish,
        Evaluate::Score => match state.wish.source(document.settings.evaluation_text.as_deref()) {
            Some(text) if state.work.is_none() => {
                begin(state);
                jobs.evaluate(model, state.wish.clone(), text, &document.home);
            }
            Some(_) => {}
            None => document.complain("Choose a text first"),
        },
        Evaluate::Continue if state.work.is_none() => {
            begin(state);
            state.continued = Default::default();
            jobs.continue_prompt(model, state.wish.clone());
        }
        Evaluate::Answer if state.work.is_none() => {
            begin(state);
            state.answers = None;
            jobs.answer(model, state.wish.clone());
        }
        Evaluate::Continue | Evaluate::Answer => {}
        Evaluate::Cancel => jobs.cancel_evaluation(),
        Evaluate::OrderBy(order) => {
            let (now, is_reversed) = state.order;
            state.order = (order, now == order && !is_reversed);
        }
        Evaluate::Choose(id) => {
            state.chosen = Some(id).filter(|id| state.chosen.as_ref() != Some(id));
        }
        Evaluate::Delete(id) => delete(document, &id),
        Evaluate::Restore => restore(document),
    }
}

fn begin(state: &mut Evaluating) {
    state.work = Some(Work::begin());
    state.partial = None;
    state.failed = None;
}

fn delete(document: &mut Document, id: &str) {
    let state = &mut document.evaluation;
    let Some(at) = state.runs.iter().position(|kept| kept.id == id) else {
        return;
    };
    match jobs::set_kept(&document.home, &state.runs[at], false) {
        Ok(()) => {
            state.deleted = Some(state.runs.remove(at));
            allocate::hold_against(document);
        }
        Err(error) => document.complain(error.sentence()),
    }
}

fn restore(document: &mut Document) {
    let Some(kept) = document.evaluation.deleted.take() else {
        return;
    };
    match jobs::set_kept(&document.home, &kept, true) {
        Ok(()) => {
            document.evaluation.runs.push(kept);
            document.evaluation.runs.sort_by(|a, b| a.id.cmp(&b.id));
            allocate::hold_against(document);
        }
        Err(error) => document.complain(error.sentence()),
    }
}

pub(super) fn absorb(document: &mut Document, ran: Ran) {
    let state = &mut document.evaluation;
    match ran {
        Ran::Progress(progress) => {
            if let Some(work) = &mut state.work {
                work.take(progress);
            }
        }
        Ran::Runs(runs) => {
            state.runs = runs;
            allocate::hold_against(document);
        }
        Ran::Partial(partial) => state.partial = Some(partial),
        Ran::Scored(kept) => {
            state.chosen.get_or_insert_with(|| kept.id.clone());
            state.runs.retain(|other| other.id != kept.id);
            let is_complete = kept.record.evaluation.is_complete();
            state.runs.push(*kept);
            allocate::hold_against(document);
            document.say(if is_complete {
                "The text was scored; the run is kept"
            } else {
                "Stopped; what was scored is kept as a run of a part"
            });
        }
        Ran::Token(place, piece) => state.continued[place].push(piece),
        Ran::Answered(answers) => state.answers = Some(answers),
        Ran::Ended(failed) => {
            state.work = None;
            state.partial = None;
            state.failed = failed;
        }
    }
}

/// Forgets what is of another model; what was asked for stays, but for another checkpoint.
pub(super) fn reset(document: &mut Document, jobs: &mut Jobs) {
    jobs.forget_evaluation();
    let old = std::mem::take(&mut document.evaluation);
    let what = match old.wish.what {
        What::Other(_) => What::Plan,
        what => what,
    };
    document.evaluation.wish = Wish { what, ..old.wish };
    if document.sheet == Some(Sheet::Evaluate) {
        document.sheet = None;
    }
}
