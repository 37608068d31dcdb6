//! The exact multiple-choice knapsack, for one budget or for all of them at once.

use crate::allocator::hull::Relaxation;
use crate::allocator::{About, Needs, Point, Problem, Solution, Solver, bounded, distance, exact};
use crate::error::Result;
use crate::observer::Observer;

/// min Σ damage with Σ bytes ≤ budget, one option for each group, without approximation: a dynamic programme over
/// groups whose states are what no other state beats in both bytes and damage.
///
/// One budget is solved around the linear relaxation (`exact.rs`), all of them by [`Frontier`].
pub(super) struct Knapsack;

/// The registry's entry.
pub(super) static ENTRY: Knapsack = Knapsack;

static ABOUT: About = About {
    id: "knapsack",
    title: "Knapsack",
    summary: "The choice of least total damage within the budget, exact to the byte.",
    citation: "Pisinger, A minimal algorithm for the multiple-choice knapsack problem, European Journal of Operational Research 83 (1995)",
    needs: Needs::Scores,
};

impl Solver for Knapsack {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, observer: &dyn Observer) -> Result<Solution> {
        let around = around_relaxation(problem, problem.budget(), observer)?;
        if around.within_bytes == 0 {
            return Ok(around);
        }
        Ok(better(around, Frontier::of(problem, observer)?.looked_up(problem.budget())?))
    }
}

/// The solution of a budget; [`Solution::within_bytes`] is 0 where the search could finish.
fn around_relaxation(problem: &Problem, budget: u64, observer: &dyn Observer) -> Result<Solution> {
    problem.refuse_below_least(budget)?;
    let points = problem.points();
    match exact::least_cost(&points, budget as f64, 0.0, observer)? {
        Some(found) if found.is_proven => {
            let choice = problem.choice_of_useful(&found.positions);
            Ok(Solution { choice, within_bytes: 0 })
        }
        Some(found) => Ok(bounded(problem, problem.choice_of_useful(&found.positions), budget)),
        None => Ok(bounded(problem, problem.smallest(), budget)),
    }
}

fn better(a: Solution, b: Solution) -> Solution {
    if a.choice.damage <= b.choice.damage { a } else { b }
}

/// States of all groups together that a frontier keeps for going back: 8 bytes each.
const MOST_STATES: usize = 1 << 21;

/// Where a state came from: the state before, and the group's position.
#[derive(Clone, Copy, Debug)]
struct Trace {
    before: u32,
    position: u16,
}

/// A partial choice of the groups so far.
#[derive(Clone, Copy)]
struct State {
    bytes: u64,
    damage: f64,
    trace: Trace,
}

/// Every choice that no other beats in both bytes and damage: the least damage of every budget.
///
/// Groups are added one by one; of the states only those are kept that no other beats. Where more are left than
/// memory allows, the best of each of equally wide ranges of bytes stays; [`Frontier::slack_bytes`] is the sum of what
/// those that went may have been smaller, or what the linear relaxation proves, if that is less. Choices keep their true bytes throughout, so none exceeds its budget.
///
/// Cost: groups × options × states, at most 2²¹ states of all groups together (16 MB); a look-up walks back once.
#[derive(Clone, Debug)]
pub struct Frontier {
    problem: Problem,
    points: Vec<Point>,
    traces: Vec<Vec<Trace>>,
    slack_bytes: u64,
    relaxation: Relaxation,
}

impl Frontier {
    /// The frontier of a problem, whatever its budget.
    pub fn of(problem: &Problem, observer: &dyn Observer) -> Result<Self> {
        let most = (MOST_STATES / problem.groups().len().max(1)).clamp(512, 1 << 14);
        Self::of_at_most(problem, most, observer)
    }

    /// The same with at most `most` states after each group, which are at least two.
    pub fn of_at_most(problem: &Problem, most: usize, observer: &dyn Observer) -> Result<Self> {
        let root = Trace { before: 0, position: 0 };
        let mut states = vec![State { bytes: 0, damage: 0.0, trace: root }];
        let mut traces = Vec::with_capacity(problem.groups().len());
        let mut slack_bytes = 0;
        for group in 0..problem.groups().len() {
            observer.go_on()?;
            states = extended(problem, group, &states);
            slack_bytes += thin(&mut states, most.max(2));
            traces.push(states.iter().map(|state| state.trace).collect());
        }
        let point = |state: &State| Point { bytes: state.bytes, damage: state.damage };
        let points: Vec<Point> = states.iter().map(point).collect();
        let relaxation = Relaxation::of(&problem.points());
        let slack_bytes = slack_bytes.min(proven_slack(problem, &relaxation, &points));
        Ok(Self { problem: problem.clone(), points, traces, slack_bytes, relaxation })
    }

    /// Its points by bytes; damage falls strictly.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// A look-up of any budget does no more damage than every choice of a budget smaller by this; 0 where the frontier is exact.
    pub fn slack_bytes(&self) -> u64 {
        self.slack_bytes
    }

    /// The solution of a budget: a look-up; where the frontier has slack, improved by a search around the relaxation.
    pub fn at(&self, budget: u64, observer: &dyn Observer) -> Result<Solution> {
        let found = self.looked_up(budget)?;
        if self.slack_bytes == 0 {
            return Ok(found);
        }
        let around = around_relaxation(&self.problem, budget, observer)?;
        // A search that finished is right even where sums in another order say otherwise in their last digit.
        Ok(if around.within_bytes == 0 { around } else { better(around, found) })
    }

    /// The solution that the frontier itself has for a budget.
    pub fn looked_up(&self, budget: u64) -> Result<Solution> {
        self.problem.refuse_below_least(budget)?;
        let fitting = self.points.partition_point(|point| point.bytes <= budget);
        let mut at = fitting.saturating_sub(1);
        let mut positions = vec![0; self.traces.len()];
        for (position, traces) in positions.iter_mut().zip(&self.traces).rev() {
            let trace = traces[at];
            (*position, at) = (usize::from(trace.position), trace.before as usize);
        }
        let choice = self.problem.choice_of_useful(&positions);
        if self.slack_bytes == 0 {
            return Ok(Solution { choice, within_bytes: 0 });
        }
        let proven = distance(&self.relaxation, &self.problem.smallest(), choice.damage, budget);
        Ok(Solution { choice, within_bytes: proven.min(self.slack_bytes) })
    }
}

/// How far from exact a look-up is at most, as the relaxation proves: just before the next point it is farthest.
fn proven_slack(problem: &Problem, relaxation: &Relaxation, points: &[Point]) -> u64 {
    let best = problem.best();
    let smallest = problem.smallest();
    let before_next =
        |pair: &[Point]| distance(relaxation, &smallest, pair[0].damage, pair[1].bytes - 1);
    let last =
        points.last().map_or(0, |last| if last.damage <= best.damage { 0 } else { u64::MAX });
    points.windows(2).map(before_next).fold(last, u64::max)
}

/// Every state with every useful option of a group, dominated ones left out.
fn extended(problem: &Problem, group: usize, states: &[State]) -> Vec<State> {
    let useful = problem.useful(group);
    let mut extended = Vec::with_capacity(states.len() * useful.len());
    for (position, &option) in useful.iter().enumerate() {
        let (bytes, damage) = problem.at(group, option);
        extended.extend(states.iter().enumerate().map(|(before, state)| State {
            bytes: state.bytes + bytes,
            damage: state.damage + damage,
            trace: Trace { before: before as u32, position: position as u16 },
        }));
    }
    // Runs that are already in order: a stable sort merges them.
    extended.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage)));
    let mut least = f64::INFINITY;
    extended.retain(|state| {
        let is_better = state.damage < least;
        least = least.min(state.damage);
        is_better
    });
    extended
}

/// Leaves at most `most` states, the smallest and the best among them; by how many bytes a state that went was
/// smaller, at most, than the one that stands for it.
fn thin(states: &mut Vec<State>, most: usize) -> u64 {
    let (Some(first), Some(last)) = (states.first(), states.last()) else {
        return 0;
    };
    if states.len() <= most {
        return 0;
    }
    let (first, width) = (first.bytes, (last.bytes - first.bytes) / (most as u64 - 1) + 1);
    let range = |state: &State| (state.bytes - first) / width;
    let mut kept: Vec<State> = vec![states[0]];
    let mut loss = 0;
    for of_range in states[1..].chunk_by(|a, b| range(a) == range(b)) {
        let (Some(smallest), Some(best)) = (of_range.first(), of_range.last()) else {
            continue;
        };
        loss = loss.max(best.bytes - smallest.bytes);
        kept.push(*best);
    }
    *states = kept;
    loss
}
