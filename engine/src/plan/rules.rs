//! A plan as people write it: assignments by exact name, by pattern with `*`, by role, or for everything.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::plan::{Assignment, Pattern, Plan, named_tensor};

/// An assignment for the layers that a pattern speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which layers.
    pub pattern: Pattern,
    /// What becomes of them.
    pub assignment: Arc<Assignment>,
}

impl Rule {
    /// A rule from a pattern as it is written.
    pub fn new(pattern: &str, assignment: Assignment) -> Result<Self> {
        Ok(Self { pattern: Pattern::parse(pattern)?, assignment: Arc::new(assignment) })
    }
}

/// Rules in order, read and written as a map from pattern to assignment.
///
/// An exact name outranks patterns with `*`, these outrank roles, and these the default; of two of one kind the first
/// in order decides.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(pub Vec<Rule>);

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for rule in &self.0 {
            map.serialize_entry(&rule.pattern.to_string(), rule.assignment.as_ref())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(RulesVisitor)
    }
}

/// Reads a map in its order, whose keys are all different: of two equal ones the second would be dead.
struct RulesVisitor;

impl<'de> Visitor<'de> for RulesVisitor {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensor names or patterns to assignments")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Rules, A::Error> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some(pattern) = map.next_key::<String>()? {
            let pattern =
                Pattern::parse(&pattern).map_err(|error| A::Error::custom(error.sentence()))?;
            if !seen.insert(pattern.clone()) {
                return Err(A::Error::custom(format!("{pattern} appears twice in the plan")));
            }
            rules.push(Rule { pattern, assignment: Arc::new(map.next_value()?) });
        }
        Ok(Rules(rules))
    }
}

impl Rules {
    /// The rules of `plan`: those by hand under the names of their layers, then its patterns in order.
    pub fn of(plan: &Plan) -> Self {
        let by_hand = plan.by_hand().map(|(name, assignment)| Rule {
            pattern: Pattern::Exact(name.to_owned()),
            assignment: assignment.clone(),
        });
        Self(by_hand.chain(plan.rules().iter().cloned()).collect())
    }

    /// The plan these rules make for a checkpoint. A pattern that matches nothing is no error here: it stands in
    /// [`Plan::matches`], and no export goes past it.
    ///
    /// # Errors
    /// [`crate::Error::Plan`] for an exact name that is not there, and for every defect [`Plan::check`] finds.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        let (exact, patterns): (Vec<_>, Vec<_>) =
            self.0.iter().cloned().partition(|rule| matches!(rule.pattern, Pattern::Exact(_)));
        let mut plan = Plan::default();
        plan.set_rules(checkpoint, patterns);
        for rule in exact {
            let name = rule.pattern.to_string();
            named_tensor(checkpoint, &name)?;
            plan.set(&name, Assignment::clone(&rule.assignment));
        }
        plan.check(checkpoint)?;
        Ok(plan)
    }

    /// Takes out the exact names that a checkpoint does not have, and gives them: for a recipe that comes from
    /// another model.
    pub fn without_strangers(self, checkpoint: &Checkpoint) -> (Self, Vec<String>) {
        let is_known = |rule: &Rule| match &rule.pattern {
            Pattern::Exact(name) => {
                let tensor = checkpoint.find(name).map(|index| &checkpoint.tensors()[index]);
                tensor.is_some_and(|tensor| tensor.matrix.is_some())
            }
            _ => true,
        };
        let (known, strangers): (Vec<_>, Vec<_>) = self.0.into_iter().partition(is_known);
        let names = strangers.into_iter().map(|rule| rule.pattern.to_string()).collect();
        (Self(known), names)
    }
}
