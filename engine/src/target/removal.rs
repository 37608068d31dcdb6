//! A plan that takes parts out of a model, told by the tensors of the whole model: what becomes of each, and what is wrong.

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::target::{
    Aim, Case, Entry, Fix, Lint, Severity, Storage, Target, dead_rules, entries, lints,
};

/// What becomes of every tensor of a plan, as [`entries`] says it; those that are taken out have no bytes and no tensors in the
/// output, and tensors that are cut the bytes that are left of them.
///
/// # Errors
/// Those of [`entries`] and [`Plan::reduced`].
pub fn entries_of_whole(
    checkpoint: &Checkpoint,
    plan: &Plan,
    target: &dyn Target,
) -> Result<Vec<Entry>> {
    let Some(reduced) = plan.reduced(checkpoint)? else {
        return entries(checkpoint, plan, target);
    };
    let gone = |tensor| Entry {
        tensor,
        layout: None,
        storage: Storage::Copied,
        specs: Vec::new(),
        bytes: 0,
    };
    let mut all: Vec<Entry> = (0..checkpoint.tensors().len()).map(gone).collect();
    let left = entries(&reduced.checkpoint, &reduced.plan, target)?;
    for (entry, place) in left.into_iter().zip(reduced.checkpoint.places_in(checkpoint)) {
        if let Some(tensor) = place {
            all[tensor] = Entry { tensor, ..entry };
        }
    }
    Ok(all)
}

/// Everything to know about a plan for a target, as [`lints`] says it, by the tensors of the whole model. What cannot be
/// taken out is an error; what is taken out is a note.
pub fn lints_of_whole(checkpoint: &Checkpoint, plan: &Plan, aim: Aim) -> Vec<Lint> {
    let reduced = match plan.reduced(checkpoint) {
        Ok(Some(reduced)) => reduced,
        Ok(None) => {
            let found = entries(checkpoint, plan, aim.target);
            let found =
                found.map(|entries| lints(&Case { checkpoint, plan, aim, entries: &entries }));
            return found.unwrap_or_default();
        }
        Err(error) => return vec![refused(checkpoint, plan, error)],
    };
    let mut all = dead_rules(checkpoint, plan);
    let (left, plan_left) = (&reduced.checkpoint, &reduced.plan);
    if let Ok(entries) = entries(left, plan_left, aim.target) {
        let case = Case { checkpoint: left, plan: plan_left, aim, entries: &entries };
        let places = left.places_in(checkpoint);
        let place = |index: usize| places.get(index).copied().flatten();
        all.extend(lints(&case).into_iter().map(|lint| Lint {
            tensors: lint.tensors.iter().filter_map(|&index| place(index)).collect(),
            fix: lint.fix.and_then(|fix| match fix {
                Fix::As(index) => place(index).map(Fix::As),
                other => Some(other),
            }),
            ..lint
        }));
    }
    all.push(noted(checkpoint, plan));
    all.sort_by_key(|lint| lint.severity);
    all
}

fn refused(checkpoint: &Checkpoint, plan: &Plan, error: Error) -> Lint {
    let (what, mend) = match error {
        Error::Plan { what, mend } => (what, mend),
        other => (other.to_string(), "put back what was taken out".to_owned()),
    };
    Lint {
        id: "not-removable",
        severity: Severity::Error,
        tensors: plan.removed_tensors(checkpoint),
        what,
        mend,
        fix: None,
    }
}

fn noted(checkpoint: &Checkpoint, plan: &Plan) -> Lint {
    Lint {
        id: "removed",
        severity: Severity::Note,
        tensors: plan.removed_tensors(checkpoint),
        what: format!("the output is a smaller model: {} taken out", plan.removal().told()),
        mend: "run the plan on a text before you rely on it".to_owned(),
        fix: None,
    }
}

/// [`Error::Plan`] with the first pattern of a plan that matches nothing.
///
/// # Errors
/// That one.
pub fn refuse_dead_rules(checkpoint: &Checkpoint, plan: &Plan) -> Result<()> {
    let found = dead_rules(checkpoint, plan).into_iter().next();
    found.map_or(Ok(()), |lint| Err(Error::plan(lint.what, lint.mend)))
}
