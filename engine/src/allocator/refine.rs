//! Damages measured only where a choice hangs on them: the chosen options, and the steps whose price is near that of
//! the budget. All others are estimated from a cheap score, set right by what was measured of the same group.

use crate::allocator::{Choice, Group, Hull, Problem, explain_at, find};
use crate::error::Result;
use crate::observer::Observer;

/// A step is measured if its price lies within this factor of the budget's: estimates are seldom as far off.
const NEAR: f64 = 4.0;
/// Stands in for a damage that is not positive where logarithms are taken.
const LEAST: f64 = 1e-12;

/// What is known of the damages of every group's options.
#[derive(Clone, Debug, PartialEq)]
pub struct Refined {
    /// By group and option: measured, or estimated.
    pub damages: Vec<Vec<f64>>,
    /// Which of them were measured.
    pub is_measured: Vec<Vec<bool>>,
    /// The best choice by them.
    pub choice: Choice,
}

impl Refined {
    /// How many options were measured, and of how many that do damage.
    pub fn counts(&self) -> [usize; 2] {
        let all = || self.damages.iter().flatten().zip(self.is_measured.iter().flatten());
        [all().filter(|(_, is)| **is).count(), all().filter(|(damage, _)| **damage != 0.0).count()]
    }
}

/// Measures until every option that is chosen under the budget, and every step from it whose price is within a factor
/// of 4 of the budget's, is measured. The damages of `problem` are the cheap scores, in any unit; those of 0 are taken
/// as known. `measure` is given group and option.
///
/// An option that was not measured is estimated between those of its group that were, along lines in the logarithms of
/// cheap and measured damage, in proportion beyond them; in groups of which none was, by the median proportion.
///
/// Cost: a solution by the exact knapsack for each round; a round measures something, or is the last.
///
/// # Errors
/// What solving and `measure` say; [`crate::Error::Cancelled`].
pub fn refine(
    problem: &Problem,
    measure: &mut dyn FnMut(usize, usize) -> Result<f64>,
    observer: &dyn Observer,
) -> Result<Refined> {
    let mut known: Vec<Vec<Option<f64>>> =
        problem.groups().iter().map(|group| vec![None; group.options.len()]).collect();
    loop {
        observer.go_on()?;
        let groups = estimated(problem.groups(), &known);
        let estimate = Problem::new(groups, problem.budget())?;
        let choice = find("knapsack")?.solve(&estimate, observer)?.choice;
        let asked = hanging(&estimate, &choice, &known);
        if asked.is_empty() {
            let damages = |group: &Group| group.options.iter().map(|of| of.damage).collect();
            return Ok(Refined {
                damages: estimate.groups().iter().map(damages).collect(),
                is_measured: known
                    .iter()
                    .map(|of| of.iter().map(Option::is_some).collect())
                    .collect(),
                choice,
            });
        }
        for (group, option) in asked {
            observer.go_on()?;
            known[group][option] = Some(measure(group, option)?);
        }
    }
}

/// What is to be measured next, in the order of the groups.
fn hanging(problem: &Problem, choice: &Choice, known: &[Vec<Option<f64>>]) -> Vec<(usize, usize)> {
    let multiplier = Hull::of(problem).multiplier(problem.budget());
    let mut asked = Vec::new();
    for (group, known) in known.iter().enumerate() {
        let is_new = |option: usize| known[option].is_none() && problem.at(group, option).1 != 0.0;
        let why = explain_at(multiplier, problem, choice, group);
        let is_near = |price: f64| price * NEAR >= multiplier && price <= multiplier * NEAR;
        let steps = [why.up, why.down].into_iter().flatten().filter(|step| is_near(step.price));
        let steps = steps.filter(|_| !why.is_locked).map(|step| step.option);
        let options = std::iter::once(choice.options[group]).chain(steps);
        asked.extend(options.filter(|&option| is_new(option)).map(|option| (group, option)));
    }
    asked
}

/// The groups with what was measured in place of the cheap scores, and the others estimated.
fn estimated(groups: &[Group], known: &[Vec<Option<f64>>]) -> Vec<Group> {
    let pairs = |(group, known): (&Group, &Vec<Option<f64>>)| -> Vec<(f64, f64)> {
        let both = group.options.iter().zip(known);
        let mut pairs: Vec<(f64, f64)> = both
            .filter_map(|(option, known)| Some((option.damage.max(LEAST), (*known)?.max(LEAST))))
            .collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        pairs
    };
    let of_groups: Vec<Vec<(f64, f64)>> = groups.iter().zip(known).map(pairs).collect();
    let mut ratios: Vec<f64> = of_groups.iter().flatten().map(|(x, y)| y / x).collect();
    ratios.sort_by(f64::total_cmp);
    let usual = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
    let mut estimated = groups.to_vec();
    for ((group, known), pairs) in estimated.iter_mut().zip(known).zip(&of_groups) {
        for (option, known) in group.options.iter_mut().zip(known) {
            option.damage = match known {
                Some(known) => *known,
                None if option.damage == 0.0 => 0.0,
                None => estimate(pairs, option.damage.max(LEAST), usual),
            };
        }
    }
    estimated
}

/// The damage at a cheap score, along the pairs of cheap and measured ones by rising cheap score.
fn estimate(pairs: &[(f64, f64)], cheap: f64, usual: f64) -> f64 {
    let after = pairs.partition_point(|(x, _)| *x < cheap);
    match (after.checked_sub(1).map(|before| pairs[before]), pairs.get(after)) {
        (None, None) => cheap * usual,
        (Some((x, y)), None) | (None, Some(&(x, y))) => cheap * y / x,
        (Some((left, low)), Some(&(right, high))) => {
            let t = (cheap / left).ln() / (right / left).ln();
            if t.is_finite() { low * (high / low).powf(t) } else { low.midpoint(high) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::Level;
    use crate::numeric::seeds::Random;
    use crate::observer::Silent;

    /// Groups of falling damage by bits, and their damages as measured.
    fn instance(seed: u64, distort: f64) -> (Vec<Group>, Vec<Vec<f64>>) {
        let mut random = Random::new(seed);
        let mut truth = Vec::new();
        let mut groups = Vec::new();
        for at in 0..24 {
            let sensitivity = (random.uniform() * 4.0 - 2.0).exp();
            let factor = ((random.uniform() - 0.5) * 2.0 * distort.ln()).exp();
            let weights = 1000 + (random.uniform() * 4000.0) as u64;
            let mut options = Vec::new();
            let mut damages = Vec::new();
            for (label, bits) in [2.0, 3.0, 4.0, 5.0, 6.0, 8.0].into_iter().enumerate() {
                let damage = sensitivity * 4_f64.powf(-bits) * weights as f64;
                let noise = ((random.uniform() - 0.5) * distort.ln()).exp();
                let bytes = (bits * weights as f64 / 8.0) as u64;
                options.push(Level { label, bits, bytes, damage: damage * factor * noise * 7.0 });
                damages.push(damage);
            }
            groups.push(Group::new(format!("g{at}"), weights, options));
            truth.push(damages);
        }
        (groups, truth)
    }

    fn problem(groups: &[Group], damages: Option<&[Vec<f64>]>, budget: u64) -> Problem {
        let mut groups = groups.to_vec();
        for (group, damages) in groups.iter_mut().zip(damages.unwrap_or_default()) {
            for (option, damage) in group.options.iter_mut().zip(damages) {
                option.damage = *damage;
            }
        }
        Problem::new(groups, budget).unwrap()
    }

    /// True damage of a refined choice over that of the best, and the share of options that were measured.
    fn outcome(seed: u64, distort: f64, bits: f64) -> [f64; 2] {
        let (groups, truth) = instance(seed, distort);
        let weights: u64 = groups.iter().map(|group| group.weights).sum();
        let budget = (bits * weights as f64 / 8.0) as u64;
        let mut asked = Vec::new();
        let mut measure = |group: usize, option: usize| {
            assert!(!asked.contains(&(group, option)), "measured twice");
            asked.push((group, option));
            Ok(truth[group][option])
        };
        let found = refine(&problem(&groups, None, budget), &mut measure, &Silent).unwrap();
        let exact = problem(&groups, Some(&truth), budget);
        let best = find("knapsack").unwrap().solve(&exact, &Silent).unwrap().choice;
        let ours = exact.choice(found.choice.options.clone());
        assert!(ours.bytes <= budget);
        assert!((found.choice.damage - ours.damage).abs() < 1e-9 * ours.damage, "all measured");
        assert_eq!(found.counts(), [asked.len(), 24 * 6]);
        [ours.damage / best.damage, asked.len() as f64 / (24.0 * 6.0)]
    }

    #[test]
    fn scores_in_proportion_are_enough_for_the_best_choice() {
        for seed in 0..5 {
            let [ratio, share] = outcome(seed, 1.0, 3.3);
            assert!((ratio - 1.0).abs() < 1e-9 && share < 0.55, "{ratio} {share}");
        }
    }

    #[test]
    fn scores_that_are_off_by_factors_are_set_right_with_a_part_of_the_measurements() {
        for seed in 0..8 {
            for bits in [2.5, 3.3, 4.6] {
                let [ratio, share] = outcome(seed, 3.0, bits);
                assert!(ratio < 1.05 && share < 0.7, "{seed} {bits}: {ratio} {share}");
            }
        }
    }

    #[test]
    fn estimates_lie_between_what_was_measured_and_go_on_in_proportion() {
        let pairs = [(1.0, 2.0), (100.0, 800.0)];
        assert!((estimate(&pairs, 10.0, 9.0) - 40.0).abs() < 1e-9);
        assert!((estimate(&pairs, 0.5, 9.0) - 1.0).abs() < 1e-12);
        assert!((estimate(&pairs, 1000.0, 9.0) - 8000.0).abs() < 1e-9);
        assert!((estimate(&[], 3.0, 9.0) - 27.0).abs() < 1e-12);
    }
}
