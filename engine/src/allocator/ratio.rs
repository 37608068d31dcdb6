//! By ratio: the least sensitive groups go low, the others stay high.

use crate::allocator::{About, Choice, Needs, Problem, Solution, Solver, bounded};
use crate::error::{Error, Result};
use crate::observer::Observer;

/// Two choices, as uniform 4 and uniform 8 bits; a group's sensitivity is what going from high to low does to it.
/// Groups are sorted by it, and from the least on as many go low as a share of the weights, or a budget, says.
///
/// As a solver of a budget, low is the largest uniform choice that fits (or the smallest choice of all) and high is
/// the next larger uniform one.
pub(super) struct ByRatio;

/// The registry's entry.
pub(super) static ENTRY: ByRatio = ByRatio;

static ABOUT: About = About {
    id: "ratio",
    title: "By ratio",
    summary: "Two precisions: the groups with least sensitivity take the lower one, as many as it takes.",
    citation: "NNCF, weight compression with mixed precision, openvinotoolkit/nncf: docs/usage/post_training_compression/weights_compression",
    needs: Needs::Scores,
};

impl Solver for ByRatio {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, _observer: &dyn Observer) -> Result<Solution> {
        problem.refuse_below_least(problem.budget())?;
        let mut low = problem.smallest();
        let mut high = None;
        for (_, uniform) in problem.uniforms() {
            if uniform.bytes > problem.budget() {
                high = Some(uniform);
                break;
            }
            low = uniform;
        }
        let high = high.unwrap_or_else(|| low.clone());
        let choice = split(problem, &low, &high)?;
        Ok(bounded(problem, choice, problem.budget()))
    }
}

/// Groups in the order in which they go low; those that gain nothing by it come last.
fn by_sensitivity(problem: &Problem, low: &Choice, high: &Choice) -> Vec<usize> {
    let rise = |group: usize| {
        problem.at(group, low.options[group]).1 - problem.at(group, high.options[group]).1
    };
    let mut order: Vec<usize> = (0..problem.groups().len()).collect();
    order.sort_by(|&a, &b| rise(a).total_cmp(&rise(b)));
    order
}

/// As few groups of `high` at `low`, the least sensitive first, as the budget demands. Both choices must be allowed.
pub fn split(problem: &Problem, low: &Choice, high: &Choice) -> Result<Choice> {
    check(problem, low, high)?;
    let mut mixed = high.clone();
    for group in by_sensitivity(problem, low, high) {
        if mixed.bytes <= problem.budget() {
            break;
        }
        let (before, after) =
            (problem.at(group, mixed.options[group]).0, problem.at(group, low.options[group]).0);
        mixed.options[group] = low.options[group];
        mixed.bytes = mixed.bytes - before + after;
    }
    if mixed.bytes > problem.budget() {
        return Err(Error::plan(
            format!(
                "no ratio fits a budget of {} bytes: all groups low have {} bytes",
                problem.budget(),
                low.bytes
            ),
            "raise the budget or choose a lower option",
        ));
    }
    Ok(problem.choice(mixed.options))
}

/// The least sensitive groups at `low` while their weights are at most `share` of all, the others at `high`.
pub fn by_share(problem: &Problem, low: &Choice, high: &Choice, share: f64) -> Result<Choice> {
    check(problem, low, high)?;
    let weights = |group: usize| problem.groups()[group].weights as f64;
    let all: f64 = (0..problem.groups().len()).map(weights).sum();
    let (mut options, mut gone) = (high.options.clone(), 0.0);
    for group in by_sensitivity(problem, low, high) {
        gone += weights(group);
        if gone > share * all {
            break;
        }
        options[group] = low.options[group];
    }
    Ok(problem.choice(options))
}

fn check(problem: &Problem, low: &Choice, high: &Choice) -> Result<()> {
    if problem.is_allowed(&low.options) && problem.is_allowed(&high.options) {
        return Ok(());
    }
    Err(Error::plan(
        "the low or the high choice has options that locks, floors or ceilings do not allow",
        "give two that keep to them, as uniform choices do",
    ))
}
