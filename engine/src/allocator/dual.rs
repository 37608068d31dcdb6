//! The dual: the smallest choice that does no more damage than a reference.

use crate::allocator::hull::Relaxation;
use crate::allocator::{About, Choice, Needs, Problem, Solution, Solver, exact};
use crate::error::{Error, Result};
use crate::observer::Observer;

/// min Σ bytes with Σ damage ≤ that of a reference, as uniform bits: the knapsack with its axes exchanged.
///
/// As a solver of a budget its reference is the uniform choice of least damage within it, or the smallest choice
/// where none is. `L-GreCo` rounds damages up to 10,000 buckets; here they stay as they are.
pub(super) struct Dual;

/// The registry's entry.
pub(super) static ENTRY: Dual = Dual;

static ABOUT: About = About {
    id: "dual",
    title: "Smallest, no worse than uniform",
    summary: "The fewest bytes whose total damage is no more than that of one option everywhere.",
    citation: "Alimohammadi et al., L-GreCo: layerwise-adaptive gradient compression for efficient data-parallel deep learning, MLSys 2024, arXiv:2210.17357",
    needs: Needs::Scores,
};

impl Solver for Dual {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, observer: &dyn Observer) -> Result<Solution> {
        problem.refuse_below_least(problem.budget())?;
        let uniforms = problem.uniforms().into_iter().map(|(_, choice)| choice);
        let reference = uniforms
            .filter(|choice| choice.bytes <= problem.budget())
            .min_by(|a, b| a.damage.total_cmp(&b.damage))
            .unwrap_or_else(|| problem.smallest());
        no_worse_than(problem, &reference.options, observer)
    }
}

/// The smallest choice that does no more damage than these options, which must be allowed.
pub fn no_worse_than(
    problem: &Problem,
    reference: &[usize],
    observer: &dyn Observer,
) -> Result<Solution> {
    if !problem.is_allowed(reference) {
        return Err(Error::plan(
            "the reference has options that locks, floors or ceilings do not allow",
            "give one that keeps to them, or a damage instead",
        ));
    }
    let reference = problem.choice(reference.to_vec());
    let found = smallest_within(problem, reference.damage, observer)?;
    // The reference stands where nothing smaller was found.
    let is_better = (found.choice.bytes, found.choice.damage) < (reference.bytes, reference.damage);
    Ok(if is_better { found } else { Solution { choice: reference, ..found } })
}

/// The smallest choice of at most this damage, whatever the budget; an [`Error::Plan`] with the least damage possible where there is none.
pub fn smallest_within(
    problem: &Problem,
    most_damage: f64,
    observer: &dyn Observer,
) -> Result<Solution> {
    let best = problem.best();
    if most_damage.is_nan() || best.damage > most_damage {
        return Err(Error::plan(
            format!(
                "no choice does as little damage as {most_damage}: {} is the least these {} groups can have",
                best.damage,
                problem.groups().len()
            ),
            "allow more damage, raise a ceiling, or unlock a layer",
        ));
    }
    // Sums in another order may lie in their last digit beyond what is allowed: then a hair less is asked for.
    let scale: f64 = problem.groups().iter().flat_map(|g| &g.options).map(|o| o.damage.abs()).sum();
    for hair in [0.0, 1e-15, 1e-13] {
        let (choice, is_proven) = lightest(problem, most_damage - hair * scale, observer)?;
        if choice.damage <= most_damage {
            return Ok(solution(problem, choice, most_damage, is_proven));
        }
    }
    Ok(solution(problem, best, most_damage, false))
}

/// With what the relaxation proves, where the search was not finished.
fn solution(problem: &Problem, choice: Choice, most_damage: f64, is_proven: bool) -> Solution {
    let least = Relaxation::of(&problem.points()).least_weight(most_damage) * (1.0 - 1e-12);
    let gap = choice.bytes.saturating_sub(least.floor() as u64);
    Solution { choice, within_bytes: if is_proven { 0 } else { gap } }
}

/// The knapsack with damage for weight and bytes for cost, and whether it was solved to the end.
fn lightest(problem: &Problem, most: f64, observer: &dyn Observer) -> Result<(Choice, bool)> {
    let mut points = problem.points();
    for of_group in &mut points {
        of_group.reverse();
        for point in of_group.iter_mut() {
            *point = (point.1, point.0);
        }
    }
    let differences = points.iter().flat_map(|p| p.windows(2)).map(|pair| pair[0].1 - pair[1].1);
    let grain = differences.fold(0, |grain, bytes| gcd(grain, bytes as u64));
    let Some(found) = exact::least_cost(&points, most, grain as f64, observer)? else {
        return Ok((problem.best(), false));
    };
    let last = |group: usize| problem.useful(group).len() - 1;
    let positions: Vec<usize> =
        found.positions.iter().enumerate().map(|(group, &p)| last(group) - p).collect();
    Ok((problem.choice_of_useful(&positions), found.is_proven))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
