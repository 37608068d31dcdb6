//! Assignments made from others: other bits, another step at one stage.

use crate::method::{About, METHODS, Method, Stage, Step, Value, find};
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

    /// This assignment with parameters of its quantiser changed; one that has none stays, and so does what the
    /// quantiser does not take.
    fn with_parameters(&self, change: &[(&str, Value)]) -> Self {
        let Some(step) = self.step_at(Stage::Quantise) else {
            return self.clone();
        };
        let taken = change.iter().filter(|(name, _)| takes(step, name));
        let step = taken.fold(step.clone(), |step, (name, value)| step.with(name, value.clone()));
        self.with_step_at(Stage::Quantise, Some(step))
    }

    /// This assignment with other weights sharing a scale; one without a quantiser stays.
    pub fn with_grouping(&self, grouping: Grouping) -> Self {
        match grouping {
            Grouping::Group(size) => self.with_parameters(&[
                (GRANULARITY, "group".into()),
                (GROUP_SIZE, (size as i64).into()),
            ]),
            Grouping::Channel => self.with_parameters(&[(GRANULARITY, "channel".into())]),
            Grouping::Tensor => self.with_parameters(&[(GRANULARITY, "tensor".into())]),
        }
    }

    /// This assignment with another grid: `symmetric`, `asymmetric`; one without a quantiser stays.
    pub fn with_grid(&self, grid: &str) -> Self {
        self.with_parameters(&[(GRID, grid.into())])
    }

    /// The grid of its quantiser, given or by default, where it has one.
    pub fn grid(&self) -> Option<String> {
        let step = self.step_at(Stage::Quantise)?;
        let resolved = find(&step.method).ok()?.about().resolve(&step.parameters).ok()?;
        resolved.get(GRID).map(ToString::to_string)
    }

    /// This assignment with its quantiser at `bits`; one that has none, or that has no choice of bits, gets the first
    /// quantiser of the registry that has.
    pub fn with_bits(&self, bits: i64) -> Self {
        let first = || {
            let steps = METHODS.iter().map(|method| Step::new(method.about().id));
            let is_quantiser = |step: &Step| {
                find(&step.method).is_ok_and(|method| method.about().stage == Stage::Quantise)
            };
            { steps }.find(|step| is_quantiser(step) && takes(step, BITS))
        };
        let own = self.step_at(Stage::Quantise).filter(|step| takes(step, BITS));
        let step = own.cloned().or_else(first);
        self.with_step_at(Stage::Quantise, step.map(|step| step.with(BITS, bits)))
    }
}

/// The quantisers whose bits can be chosen, in the order of the registry.
pub fn quantisers_of_bits() -> impl Iterator<Item = &'static About> {
    let all = METHODS.iter().map(|method| method.about());
    all.filter(|about| about.stage == Stage::Quantise && takes(&Step::new(about.id), BITS))
}

/// Whether the method of a step has a parameter of that name.
fn takes(step: &Step, name: &str) -> bool {
    let has = |method: &dyn Method| method.about().parameters.iter().any(|p| p.name == name);
    find(&step.method).is_ok_and(has)
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
    fn what_a_quantiser_does_not_take_is_left_out_or_replaces_it() {
        let blocks = Assignment::of(vec![Step::new("gguf-blocks")]);
        assert_eq!(blocks.with_grouping(Grouping::Group(64)).with_grid("asymmetric"), blocks);
        assert_eq!(blocks.with_bits(5).label(), "5-bit g128");
        let hqq = Assignment::of(vec![Step::new("hqq")]);
        assert_eq!(hqq.grid().as_deref(), Some("fractional"));
        assert_eq!(hqq.with_bits(3).with_grid("asymmetric").label(), "3-bit g64 hqq whole");
    }

    #[test]
    fn removing_the_last_step_keeps_the_layer() {
        let locked = Assignment { locked: true, ..Assignment::keep().with_bits(4) };
        let kept = locked.with_step_at(Stage::Quantise, None);
        assert!(kept.is_keep() && kept.locked);
    }
}
