//! Water-filling: bits from sensitivity and size in closed form, then rounded to what there is.

use std::cmp::Ordering;

use crate::allocator::repair::repaired;
use crate::allocator::{About, Needs, Problem, Solution, Solver, bounded};
use crate::error::Result;
use crate::observer::Observer;

/// min Σ cₙ·4^(−Bₙ) subject to Σ PₙBₙ/8 ≤ budget, where Pₙ are a group's weights, Bₙ their effective bits and
/// cₙ = Pₙ·Gₙ²·Sₙ² is fitted to its scores: Bₙ = clamp(½·log₂(2·ln 2·cₙ/(Pₙ·V))), V by bisection.
///
/// Bits are rounded to the nearest useful option, then single steps bring the choice within the budget and spend the rest.
/// Groups that are not clamped share one slope, as far as damage quarters with every bit.
pub(super) struct WaterFilling;

/// The registry's entry.
pub(super) static ENTRY: WaterFilling = WaterFilling;

static ABOUT: About = About {
    id: "water-filling",
    title: "Water-filling",
    summary: "Bits in closed form, as if damage fell to a quarter with every bit: half a bit more for each doubling of a group's sensitivity.",
    citation: "Young, Foundations of large language model compression, part 1: weight quantization, arXiv:2409.02026",
    needs: Needs::Scores,
};

impl Solver for WaterFilling {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, _observer: &dyn Observer) -> Result<Solution> {
        let water = continuous(problem)?;
        let nearest = |(group, bits): (usize, &f64)| {
            let distance =
                |option: usize| (problem.groups()[group].effective_bits(option) - bits).abs();
            let distances = problem.useful(group).iter().map(|&option| distance(option));
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            nearest.map_or(0, |(position, _)| position)
        };
        let rounded = water.bits.iter().enumerate().map(nearest).collect();
        let choice = problem.choice_of_useful(&repaired(problem, rounded));
        Ok(bounded(problem, choice, problem.budget()))
    }
}

/// The solution in real numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Water {
    /// Effective bits of each group's weights, between those of its smallest and its largest useful option.
    pub bits: Vec<f64>,
    /// log₂ V: what one more bit of one weight saves where nothing is clamped.
    pub log2_price: f64,
}

/// What the closed form needs of a group.
struct Reach {
    weights: f64,
    least_bits: f64,
    most_bits: f64,
    /// log₂(2·ln 2·c/P), −∞ where no option does damage.
    level: f64,
}

impl Reach {
    fn of(problem: &Problem, group: usize) -> Self {
        let held = &problem.groups()[group];
        let useful = problem.useful(group);
        let weights = held.weights.max(1) as f64;
        // The mean over options of log₂(damage·4^bits): least squares for a line of slope −2.
        let fits = useful.iter().filter(|&&option| held.options[option].damage > 0.0);
        let fit = |&option: &usize| {
            held.options[option].damage.log2() + 2.0 * held.effective_bits(option)
        };
        let fits: Vec<f64> = fits.map(fit).collect();
        let level = if fits.is_empty() {
            f64::NEG_INFINITY
        } else {
            let sensitivity = fits.iter().sum::<f64>() / fits.len() as f64;
            sensitivity + (2.0 * std::f64::consts::LN_2 / weights).log2()
        };
        let bits = useful.iter().map(|&option| held.effective_bits(option));
        let least_bits = bits.clone().fold(f64::INFINITY, f64::min);
        Self { weights, least_bits, most_bits: bits.fold(0.0, f64::max), level }
    }

    fn bits(&self, log2_price: f64) -> f64 {
        (0.5 * (self.level - log2_price)).clamp(self.least_bits, self.most_bits)
    }
}

/// Bits of each group as if any number of them were to be had.
///
/// Cost: groups × options once, then groups for each of at most 200 bisections.
pub fn continuous(problem: &Problem) -> Result<Water> {
    problem.refuse_below_least(problem.budget())?;
    let groups: Vec<Reach> = (0..problem.groups().len()).map(|g| Reach::of(problem, g)).collect();
    let bytes = |price: f64| groups.iter().map(|g| g.weights * g.bits(price) / 8.0).sum::<f64>();
    let finite = || groups.iter().filter(|group| group.level.is_finite());
    let ordered = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or(Ordering::Equal);
    let lowest = finite().map(|group| group.level - 2.0 * group.most_bits).min_by(ordered);
    let highest = finite().map(|group| group.level - 2.0 * group.least_bits).max_by(ordered);
    let (mut low, mut high) = (lowest.unwrap_or(0.0), highest.unwrap_or(0.0));
    let budget = problem.budget() as f64;
    if bytes(low) <= budget {
        high = low;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if bytes(middle) <= budget {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Water { bits: groups.iter().map(|group| group.bits(high)).collect(), log2_price: high })
}
