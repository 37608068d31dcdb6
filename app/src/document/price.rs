//! What the next step of a layer costs and saves: which click is worth it.

use std::cell::OnceCell;
use std::sync::Arc;

use lapidary_engine::job::{self, Curve, Damage};
use lapidary_engine::plan::Assignment;
use lapidary_engine::target::{self, Next};

use crate::document::model::Model;

/// A step with the bytes after it, less those before.
type NextStep = (Arc<Assignment>, i64);

/// The steps down and up of a layer, once they are worked out.
pub type NextSteps = [OnceCell<Option<NextStep>>; 2];

/// The next step of a layer, and what it changes.
#[derive(Clone, Debug)]
pub struct Step {
    /// The assignment after it.
    pub assignment: Arc<Assignment>,
    /// Bytes after it, less those before.
    pub bytes: i64,
    /// Squared relative error after it, less that before; `None` while one of them is not known.
    pub damage: Option<f64>,
}

impl Step {
    /// Change of damage for each million bytes that the step saves or costs; `None` where it does neither.
    pub fn price(&self) -> Option<f64> {
        let megabytes = self.bytes.unsigned_abs() as f64 / 1e6;
        (self.bytes != 0).then(|| Some(self.damage?.abs() / megabytes))?
    }
}

impl Model {
    /// Every way to quantise a layer that takes bits, in forms the target holds where it has any of these bits.
    pub fn curves(&self, layer: usize) -> Vec<Curve> {
        let tensor = &self.checkpoint.tensors()[layer];
        let mut curves = job::curves(&self.assignment(layer));
        for curve in &mut curves {
            for assignment in &mut curve.assignments {
                if let Some(held) = target::held_in_other_grid(tensor, assignment, self.target) {
                    *assignment = held;
                }
            }
        }
        curves
    }

    /// The next step of a layer with more or fewer bits, among those the target holds. Which one that is, is worked
    /// out once for each assignment.
    pub fn next_step(&self, layer: usize, next: Next) -> Option<Step> {
        let known = &self.next_steps[layer][usize::from(next == Next::Up)];
        let (assignment, bytes) = known.get_or_init(|| self.find_step(layer, next)).clone()?;
        let now = self.damage(layer);
        let damage = self.damage_of(layer, &assignment).zip(now);
        let change = |(then, now): (Damage, Damage)| {
            then.relative_error.powi(2) - now.relative_error.powi(2)
        };
        Some(Step { assignment, bytes, damage: damage.map(change) })
    }

    fn find_step(&self, layer: usize, next: Next) -> Option<NextStep> {
        let tensor = &self.checkpoint.tensors()[layer];
        let now = self.assignment(layer);
        if now.locked {
            return None;
        }
        let assignment = target::step_from(tensor, &now, next, self.target)?;
        let entry =
            target::entry_of(&self.checkpoint, layer, Some(&assignment), self.target).ok()?;
        Some((Arc::new(assignment), entry.bytes as i64 - self.bytes(layer) as i64))
    }
}
