//! One file per way to spend a budget of bytes on groups of layers. In: candidates with exact bytes and scores, as
//! data, or a fitness to call. Out: an option for each group. Never knows who scored, nor plans, files or windows.
//!
//! min Σ damage(g, o(g)) subject to Σ bytes(g, o(g)) ≤ budget, one allowed option o(g) for each group g. A locked
//! group keeps its option; floors and ceilings bound the others.

mod dual;
mod evolution;
mod exact;
mod explain;
mod hull;
mod knapsack;
mod lagrangian;
mod problem;
mod ratio;
mod refine;
mod repair;
mod water_filling;

pub use dual::{no_worse_than, smallest_within};
pub use evolution::{Candidate, Generation, Judged, Search, Settings, Stage, Trial};
pub use explain::{Explanation, Step, explain, explain_at};
pub use knapsack::Frontier;
pub use lagrangian::Hull;
pub use problem::{Choice, Group, Level, Problem};
pub use ratio::{by_share, split};
pub use refine::{Refined, refine};
pub use water_filling::{Water, continuous};

use crate::allocator::hull::Relaxation;
use crate::error::{Error, Result};
use crate::observer::Observer;

/// Every solver, in the order menus show them.
pub static SOLVERS: &[&dyn Solver] = &[
    &knapsack::ENTRY,
    &lagrangian::ENTRY,
    &water_filling::ENTRY,
    &dual::ENTRY,
    &ratio::ENTRY,
    &evolution::ENTRY,
];

/// What a solver must be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Scores that add up.
    Scores,
    /// A fitness of whole choices; with scores alone it takes their sum for it.
    Fitness,
}

/// What menus and help know of a solver.
#[derive(Debug)]
pub struct About {
    /// Name on the command line.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// The idea in one sentence.
    pub summary: &'static str,
    /// Where it comes from.
    pub citation: &'static str,
    /// What it must be given.
    pub needs: Needs,
}

/// A point of a frontier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Bytes of a choice.
    pub bytes: u64,
    /// Its damage.
    pub damage: f64,
}

/// A choice, and how far from the best it can be.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The choice.
    pub choice: Choice,
    /// Choices within a budget smaller by this many bytes are no better by their scores; 0 is exact. For the dual,
    /// whose bytes are no budget: no choice smaller by more than this has as little damage as was allowed.
    pub within_bytes: u64,
}

/// A way to choose.
pub trait Solver: Sync {
    /// Title and citation.
    fn about(&self) -> &'static About;

    /// A choice of at most the problem's budget; an [`Error::Plan`] with the fewest bytes possible where there is none.
    fn solve(&self, problem: &Problem, observer: &dyn Observer) -> Result<Solution>;
}

/// The solver called `id`.
pub fn find(id: &str) -> Result<&'static dyn Solver> {
    SOLVERS.iter().copied().find(|solver| solver.about().id == id).ok_or_else(|| {
        let known: Vec<&str> = SOLVERS.iter().map(|solver| solver.about().id).collect();
        Error::plan(
            format!("there is no solver {id:?}"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

/// A choice with the distance that the linear relaxation of the problem proves.
fn bounded(problem: &Problem, choice: Choice, budget: u64) -> Solution {
    let relaxation = Relaxation::of(&problem.points());
    let within_bytes = distance(&relaxation, &problem.smallest(), choice.damage, budget);
    Solution { choice, within_bytes }
}

/// How many bytes below a budget no choice has less than `damage`.
///
/// With L(b) the relaxation's least damage at b bytes, every choice of at most L⁻¹(damage) bytes has this damage or
/// more. With more damage than the smallest choice nothing is proven but that there is nothing smaller.
fn distance(relaxation: &Relaxation, smallest: &Choice, damage: f64, budget: u64) -> u64 {
    if damage > smallest.damage {
        return budget.saturating_add(1).saturating_sub(smallest.bytes);
    }
    // Sums in another order differ in their last digits.
    let least = relaxation.least_weight(damage) * (1.0 - 1e-12);
    budget.saturating_sub(least.floor() as u64)
}
