//! Lagrangian relaxation: the lower convex hulls of all groups, merged by slope.

use crate::allocator::hull::{self, HullStep};
use crate::allocator::{About, Choice, Needs, Point, Problem, Solution, Solver, bounded};
use crate::error::Result;
use crate::observer::Observer;

/// min Σ damage + λ·Σ bytes splits into groups: each takes the vertex of its lower convex hull where the slope passes
/// −λ. Falling λ visits the vertices of the hull of the whole frontier; between two of them lie better choices that
/// no λ finds. Cost: sorting the options once, then a walk.
pub(super) struct Lagrangian;

/// The registry's entry.
pub(super) static ENTRY: Lagrangian = Lagrangian;

static ABOUT: About = About {
    id: "lagrangian",
    title: "Lagrangian",
    summary: "One price for a byte everywhere: each group takes the option that is best at that price, and the price falls until the budget is spent.",
    citation: "Everett, Generalized Lagrange multiplier method for solving problems of optimum allocation of resources, Operations Research 11 (1963); Shoham & Gersho, Efficient bit allocation for an arbitrary set of quantizers, IEEE Trans. ASSP 36 (1988)",
    needs: Needs::Scores,
};

impl Solver for Lagrangian {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn solve(&self, problem: &Problem, _observer: &dyn Observer) -> Result<Solution> {
        problem.refuse_below_least(problem.budget())?;
        let choice = Hull::of(problem).at(problem, problem.budget())?;
        Ok(bounded(problem, choice, problem.budget()))
    }
}

/// The vertices of the convex hull of all choices: the frontier at once, without those between.
#[derive(Clone, Debug)]
pub struct Hull {
    steps: Vec<HullStep>,
    points: Vec<Point>,
}

impl Hull {
    /// The hull of a problem, whatever its budget.
    pub fn of(problem: &Problem) -> Self {
        let steps = hull::steps(&problem.points());
        let smallest = problem.smallest();
        let mut point = Point { bytes: smallest.bytes, damage: smallest.damage };
        let mut points = vec![point];
        for step in &steps {
            point.bytes += step.weight as u64;
            point.damage -= step.saved;
            points.push(point);
        }
        Self { steps, points }
    }

    /// Its vertices by bytes; damage falls, ever slower.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Damage that one more byte saves at this budget: the slope to the next vertex, and 0 where all is spent.
    pub fn multiplier(&self, budget: u64) -> f64 {
        self.steps.get(self.taken(budget)).map_or(0.0, HullStep::slope)
    }

    /// The last vertex within `budget` of the problem it was made of.
    pub fn at(&self, problem: &Problem, budget: u64) -> Result<Choice> {
        problem.refuse_below_least(budget)?;
        let mut positions = vec![0; problem.groups().len()];
        for step in &self.steps[..self.taken(budget)] {
            positions[step.group] = step.to;
        }
        Ok(problem.choice_of_useful(&positions))
    }

    /// How many steps fit.
    fn taken(&self, budget: u64) -> usize {
        self.points.partition_point(|point| point.bytes <= budget).saturating_sub(1)
    }
}
