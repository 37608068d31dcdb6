//! A plan as people write it: assignments by exact name or by pattern with `*`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::{Assignment, Plan, named_tensor};

/// Assignments by tensor name or pattern; `*` stands for any characters.
///
/// An exact name outranks every pattern. Two patterns may not give one layer different assignments.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Rules(pub BTreeMap<String, Assignment>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(RulesVisitor)
    }
}

/// Reads a map whose keys are all different: of two equal ones a plain map would drop the first unsaid.
struct RulesVisitor;

impl<'de> Visitor<'de> for RulesVisitor {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensor names or patterns to assignments")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Rules, A::Error> {
        let mut rules = BTreeMap::new();
        while let Some(pattern) = map.next_key::<String>()? {
            let assignment = map.next_value()?;
            if rules.contains_key(&pattern) {
                return Err(A::Error::custom(format!("{pattern} appears twice in the plan")));
            }
            rules.insert(pattern, assignment);
        }
        Ok(Rules(rules))
    }
}

impl Rules {
    /// The rules that name each layer of `plan`.
    pub fn of(plan: &Plan) -> Self {
        Self(plan.iter().map(|(name, assignment)| (name.to_owned(), assignment.clone())).collect())
    }

    /// The plan these rules make for a checkpoint.
    ///
    /// # Errors
    /// [`Error::Plan`] for a name or pattern that matches nothing, for patterns that disagree, and for every
    /// defect [`Plan::check`] finds.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        let (patterns, names): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(pattern, _)| pattern.contains('*'));
        let mut plan = Plan::default();
        let mut decided_by = BTreeMap::new();
        for (pattern, assignment) in patterns {
            self.resolve_pattern(checkpoint, pattern, &mut decided_by)?
                .into_iter()
                .for_each(|name| plan.set(name, assignment.clone()));
        }
        for (name, assignment) in names {
            named_tensor(checkpoint, name)?;
            plan.set(name, assignment.clone());
        }
        plan.check(checkpoint)?;
        Ok(plan)
    }

    /// The layers a pattern names, noted in `decided_by`; an error where an earlier pattern said otherwise.
    fn resolve_pattern<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        pattern: &'a str,
        decided_by: &mut BTreeMap<&'a str, &'a str>,
    ) -> Result<Vec<&'a str>> {
        // A pattern speaks of weight matrices only: `*` must not trip over a norm.
        let layers: Vec<&str> = checkpoint
            .tensors()
            .iter()
            .filter(|tensor| tensor.matrix.is_some() && matches(pattern, &tensor.name))
            .map(|tensor| tensor.name.as_str())
            .collect();
        if layers.is_empty() {
            let what = format!(
                "the pattern {pattern} matches no layer of {}",
                checkpoint.path().display()
            );
            return Err(Error::plan(what, "correct or remove it"));
        }
        for layer in &layers {
            let earlier = decided_by.insert(layer, pattern);
            if let Some(earlier) =
                earlier.filter(|earlier| self.0.get(*earlier) != self.0.get(pattern))
            {
                return Err(Error::plan(
                    format!("the patterns {earlier} and {pattern} disagree about layer {layer}"),
                    "narrow one of them, or name the layer exactly",
                ));
            }
        }
        Ok(layers)
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any characters: greedy with one step back.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_characters() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight", true),
            ("*.down_proj", "model.layers.0.mlp.down_proj.weight", false),
            ("model.layers.*.mlp.*.weight", "model.layers.12.mlp.up_proj.weight", true),
            ("model.layers.1.*", "model.layers.12.mlp.up_proj.weight", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
