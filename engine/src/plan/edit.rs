//! Assignments made from others: other bits, another step at one stage.

use crate::method::{METHODS, Method, Stage, Step, find};
use crate::numeric::grouping::Grouping;
use crate::plan::Assignment;

/// The name under which every quantiser takes its bits.
const BITS: &str = "bits";
/// The name under which it takes what shares a scale.
const GRANULARITY: &str = "granularity";
/// The name under which it takes the size of groups.
const GROUP_SIZE: &str = "group_size";
/// The name under which it takes its grid.
const GRID: &str = "symmetry";

impl Assignment {
    /// The step at `stage`, if there is one.
    pub fn step_at(&self, stage: Stage) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| find(&step.method).is_ok_and(|method| method.about().stage == stage))
    }

    /// This assignment with another step at `stage`, or none; keep where nothing is left.
    pub fn with_step_at(&self, stage: Stage, step: Option<Step>) -> Self {
        let stage_of = |step: &Step| find(&step.method).map(|method| method.about().stage).ok();
        let others = self
            .steps
            .iter()
            .filter(|step| !matches!(stage_of(step), Some(at) if at == stage || at == Stage::Keep));
        let mut steps: Vec<Step> = others.cloned().chain(step).collect();
        steps.sort_by_key(stage_of);
        if steps.is_empty() {
            return Self { locked: self.locked, ..Self::keep() };
        }
        Self { steps, locked: self.locked }
    }

    /// This assignment with parameters of its quantiser changed; one that has none stays.
    fn with_parameters(&self, change: impl FnOnce(Step) -> Step) -> Self {
        match self.step_at(Stage::Quantise) {
            Some(step) => self.with_step_at(Stage::Quantise, Some(change(step.clone()))),
            None => self.clone(),
        }
    }

    /// This assignment with other weights sharing a scale; one without a quantiser stays.
    pub fn with_grouping(&self, grouping: Grouping) -> Self {
        self.with_parameters(|step| match grouping {
            Grouping::Group(size) => step.with(GRANULARITY, "group").with(GROUP_SIZE, size as i64),
            Grouping::Channel => step.with(GRANULARITY, "channel"),
            Grouping::Tensor => step.with(GRANULARITY, "tensor"),
        })
    }

    /// This assignment with another grid: `symmetric`, `asymmetric`; one without a quantiser stays.
    pub fn with_grid(&self, grid: &str) -> Self {
        self.with_parameters(|step| step.with(GRID, grid))
    }

    /// The grid its quantiser is given, where one is.
    pub fn grid(&self) -> Option<String> {
        let step = self.step_at(Stage::Quantise)?;
        step.parameters.0.get(GRID).map(ToString::to_string)
    }

    /// This assignment with its quantiser at `bits`; one that has none gets the first quantiser of the registry.
    pub fn with_bits(&self, bits: i64) -> Self {
        let takes_bits = |method: &&&dyn Method| {
            let about = method.about();
            about.stage == Stage::Quantise
                && about.parameters.iter().any(|parameter| parameter.name == BITS)
        };
        let first = || METHODS.iter().find(takes_bits).map(|method| Step::new(method.about().id));
        let step = self.step_at(Stage::Quantise).cloned().or_else(first);
        self.with_step_at(Stage::Quantise, step.map(|step| step.with(BITS, bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_change_the_quantiser_and_leave_the_rest() {
        let pruned = Assignment::of(vec![Step::new("magnitude")]);
        let both = pruned.with_bits(3);
        assert_eq!(both.steps.len(), 2);
        assert_eq!(both.steps[0].method, "magnitude", "sparsity stays first");
        assert_eq!(both.with_bits(5).label(), "50 % sparse, 5-bit g128");
        assert_eq!(Assignment::keep().with_bits(4).label(), "4-bit g128");
    }

    #[test]
    fn removing_the_last_step_keeps_the_layer() {
        let locked = Assignment { locked: true, ..Assignment::keep().with_bits(4) };
        let kept = locked.with_step_at(Stage::Quantise, None);
        assert!(kept.is_keep() && kept.locked);
    }
}
