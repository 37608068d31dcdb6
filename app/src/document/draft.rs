//! What undo covers: the plan for each target that was chosen, the target, and how it will be run.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Target};

/// A person's work on a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    plan: Arc<Plan>,
    target: &'static str,
    /// Devices each layer is split over.
    pub tensor_parallel: u32,
    /// The most bytes of a weight file; 0 keeps the files of the source.
    pub shard_bytes: u64,
    others: BTreeMap<&'static str, Arc<Plan>>,
}

impl Draft {
    /// Work that begins with a plan for a target.
    pub fn new(plan: Plan, target: &'static dyn Target) -> Self {
        let target = target.about().id;
        Self {
            plan: Arc::new(plan),
            target,
            tensor_parallel: 1,
            shard_bytes: 0,
            others: BTreeMap::new(),
        }
    }

    /// The plan for the present target.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The plan for the present target, to change it.
    pub fn plan_mut(&mut self) -> &mut Plan {
        Arc::make_mut(&mut self.plan)
    }

    /// The present target.
    pub fn target(&self) -> &'static dyn Target {
        // Only ids of the registry get in.
        target::find(self.target).unwrap_or(target::TARGETS[0])
    }

    /// Target and run.
    pub fn aim(&self) -> Aim {
        let (target, shard_bytes) = (self.target(), self.shard_bytes);
        Aim { target, tensor_parallel: self.tensor_parallel, shard_bytes }
    }

    /// The plans of targets that were left, by id.
    pub fn others(&self) -> impl Iterator<Item = (&'static str, &Arc<Plan>)> {
        self.others.iter().map(|(id, plan)| (*id, plan))
    }

    /// The plan another target has of its own, or would begin with: the present one.
    pub fn plan_of(&self, id: &str) -> &Arc<Plan> {
        self.others.get(id).filter(|_| id != self.target).unwrap_or(&self.plan)
    }

    /// Goes to another target. The plan stays with the target that is left; a target that was chosen before has its
    /// own plan back, a new one begins with the present plan.
    pub fn choose(&mut self, target: &'static dyn Target) {
        let id = target.about().id;
        if id == self.target {
            return;
        }
        let plan = self.others.remove(id).unwrap_or_else(|| self.plan.clone());
        self.others.insert(self.target, std::mem::replace(&mut self.plan, plan));
        self.target = id;
    }

    /// Takes over the plan of another target.
    pub fn take_plan_of(&mut self, id: &str) {
        self.plan = self.plan_of(id).clone();
    }

    /// Gives a target that is not the present one a plan of its own.
    pub fn set_other(&mut self, target: &'static dyn Target, plan: Plan) {
        if target.about().id != self.target {
            self.others.insert(target.about().id, Arc::new(plan));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapidary_engine::plan::Assignment;

    #[test]
    fn every_target_keeps_its_plan() {
        let [dense, packed, ..] = target::TARGETS else { panic!("two targets") };
        let mut draft = Draft::new(Plan::default(), *packed);
        draft.plan_mut().set("a", Assignment::keep().with_bits(4));
        draft.choose(*dense);
        assert_eq!(draft.plan().len(), 1, "a new target begins with the plan there is");
        draft.plan_mut().set("b", Assignment::keep().with_bits(8));
        draft.choose(*packed);
        assert_eq!(draft.plan().len(), 1);
        draft.choose(*dense);
        assert_eq!(draft.plan().len(), 2);
        draft.take_plan_of(packed.about().id);
        assert_eq!(draft.plan().len(), 1);
    }
}
