//! Scores solved for every budget at once: what a slider moves over.

use crate::allocator::{Choice, Explanation, Frontier, Hull, Point, Problem, explain_at};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::observer::Observer;
use crate::plan::Plan;
use crate::scores::allocate::least;
use crate::scores::{Bounds, UnitScores, groups, plan_of, uniform};
use crate::target::{Manifest, Target};

/// Scores with the least damage of every number of bytes. All bytes here are those of tensors as they are exported,
/// headers of files apart: those of the units, and of everything that is not allocated.
#[derive(Clone, Debug)]
pub struct Solved {
    scores: Vec<UnitScores>,
    problem: Problem,
    hull: Hull,
    frontier: Frontier,
    points: Vec<Point>,
    uniforms: Vec<Point>,
    fixed_bytes: u64,
}

impl Solved {
    /// Solves for every budget; `candidates` is the length of the palette that was scored. Cost: that of
    /// [`Frontier::of`].
    ///
    /// # Errors
    /// Those of [`Problem::new`] and of [`Manifest::new`]; [`crate::Error::Cancelled`].
    pub fn new(
        (checkpoint, target): (&Checkpoint, &dyn Target),
        (scores, candidates): (Vec<UnitScores>, usize),
        (plan, bounds): (&Plan, &Bounds),
        observer: &dyn Observer,
    ) -> Result<Self> {
        let problem = Problem::new(groups(checkpoint, &scores, bounds), u64::MAX)?;
        let frontier = Frontier::of(&problem, observer)?;
        let first = least(&scores);
        let whole = plan_of(checkpoint, &scores, &first, plan);
        let all = Manifest::new(checkpoint, &whole, target)?.tensor_bytes();
        let fixed_bytes = all.saturating_sub(first.bytes);
        let whole = |point: Point| Point { bytes: point.bytes + fixed_bytes, ..point };
        let points = frontier.points().iter().copied().map(whole).collect();
        let uniforms = (0..candidates).filter_map(|candidate| uniform(&scores, candidate));
        let uniforms = uniforms
            .map(|choice| whole(Point { bytes: choice.bytes, damage: choice.damage }))
            .collect();
        let hull = Hull::of(&problem);
        Ok(Self { scores, problem, hull, frontier, points, uniforms, fixed_bytes })
    }

    /// The same scores solved within other bounds of roles. Cost: that of [`Frontier::of`].
    ///
    /// # Errors
    /// Those of [`Problem::new`]: a unit that has no option between its bounds, by name; [`crate::Error::Cancelled`].
    pub fn within(
        &self,
        checkpoint: &Checkpoint,
        bounds: &Bounds,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let problem = Problem::new(groups(checkpoint, &self.scores, bounds), u64::MAX)?;
        let frontier = Frontier::of(&problem, observer)?;
        let whole = |point: &Point| Point { bytes: point.bytes + self.fixed_bytes, ..*point };
        let points = frontier.points().iter().map(whole).collect();
        let hull = Hull::of(&problem);
        Ok(Self { problem, hull, frontier, points, ..self.clone() })
    }

    /// The plan as a choice among what was scored, with the damage the scores predict for it; `None` where it gives
    /// a unit what was not scored.
    pub fn choice_of(&self, checkpoint: &Checkpoint, plan: &Plan) -> Option<Choice> {
        let option = |of: &UnitScores| {
            let names = of.unit.layers.iter().map(|&layer| &checkpoint.tensors()[layer].name);
            let assigned: Vec<_> = names.map(|name| plan.assignment(name)).collect();
            of.options.iter().position(|option| {
                let mut both = assigned.iter().zip(&option.assignments);
                both.all(|(now, scored)| now.steps == scored.steps)
            })
        };
        let options: Option<Vec<usize>> = self.scores.iter().map(option).collect();
        options.map(|options| self.problem.choice(options))
    }

    /// The unit a layer belongs to.
    pub fn unit_of(&self, layer: usize) -> Option<usize> {
        self.scores.iter().position(|of| of.unit.layers.contains(&layer))
    }

    /// Why a choice within a budget of `bytes` in all gives a unit what it has.
    ///
    /// # Panics
    /// If there is no such unit, or the choice is of another problem.
    pub fn explain(&self, bytes: u64, choice: &Choice, unit: usize) -> Explanation {
        let multiplier = self.hull.multiplier(bytes.saturating_sub(self.fixed_bytes));
        explain_at(multiplier, &self.problem, choice, unit)
    }

    /// The scores, in the order of choices.
    pub fn scores(&self) -> &[UnitScores] {
        &self.scores
    }

    /// The least damage of every size, by rising bytes.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Every candidate of the palette for all units that can have it.
    pub fn uniforms(&self) -> &[Point] {
        &self.uniforms
    }

    /// The fewest and the most bytes worth having.
    pub fn range(&self) -> [u64; 2] {
        let ends = [self.points.first(), self.points.last()];
        ends.map(|point| point.map_or(self.fixed_bytes, |point| point.bytes))
    }

    /// The choice of least damage of at most `bytes` in all; the smallest there is where that is less.
    ///
    /// # Errors
    /// None but what the frontier says.
    pub fn at(&self, bytes: u64) -> Result<Choice> {
        let [least, _] = self.range();
        let units = bytes.max(least).saturating_sub(self.fixed_bytes);
        Ok(self.frontier.looked_up(units)?.choice)
    }

    /// The units under a budget of `bytes` in all, for another solver or a search.
    pub fn problem(&self, bytes: u64) -> Problem {
        let mut problem = self.problem.clone();
        problem.set_budget(bytes.saturating_sub(self.fixed_bytes));
        problem
    }

    /// Bytes of everything under a choice.
    pub fn bytes_of(&self, choice: &Choice) -> u64 {
        choice.bytes + self.fixed_bytes
    }

    /// The plan with a choice carried into it.
    pub fn plan(&self, checkpoint: &Checkpoint, choice: &Choice, plan: &Plan) -> Plan {
        plan_of(checkpoint, &self.scores, choice, plan)
    }
}
