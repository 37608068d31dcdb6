//! Scores solved for every budget at once: what a slider moves over.

use crate::allocator::{Choice, Frontier, Point, Problem};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::observer::Observer;
use crate::plan::Plan;
use crate::scores::{Bounds, UnitScores, groups, plan_of, uniform};
use crate::target::{Manifest, Target};

/// Scores with the least damage of every number of bytes. All bytes here are those of tensors as they are exported,
/// headers of files apart: those of the units, and of everything that is not allocated.
#[derive(Clone, Debug)]
pub struct Solved {
    scores: Vec<UnitScores>,
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
        let first = uniform(&scores, 0);
        let whole = plan_of(checkpoint, &scores, &first, plan);
        let all = Manifest::new(checkpoint, &whole, target)?.tensor_bytes();
        let fixed_bytes = all.saturating_sub(first.bytes);
        let whole = |point: Point| Point { bytes: point.bytes + fixed_bytes, ..point };
        let points = frontier.points().iter().copied().map(whole).collect();
        let uniforms = (0..candidates).map(|candidate| {
            let choice = uniform(&scores, candidate);
            whole(Point { bytes: choice.bytes, damage: choice.damage })
        });
        let uniforms = uniforms.collect();
        Ok(Self { scores, frontier, points, uniforms, fixed_bytes })
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

    /// Bytes of everything under a choice.
    pub fn bytes_of(&self, choice: &Choice) -> u64 {
        choice.bytes + self.fixed_bytes
    }

    /// The plan with a choice carried into it.
    pub fn plan(&self, checkpoint: &Checkpoint, choice: &Choice, plan: &Plan) -> Plan {
        plan_of(checkpoint, &self.scores, choice, plan)
    }
}
