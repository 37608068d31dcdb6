//! A plan as people write it: assignments by exact name or by pattern with `*`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::{Assignment, Plan, mend_for_name};

/// Assignments by tensor name or pattern; `*` stands for any characters.
///
/// An exact name outranks every pattern. Two patterns may not give one layer different assignments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rules(pub BTreeMap<String, Assignment>);

impl Rules {
    /// The rules that name each layer of `plan`.
    pub fn of(plan: &Plan) -> Self {
        Self(
            plan.iter()
                .map(|(name, assignment)| (name.to_owned(), assignment.clone()))
                .collect(),
        )
    }

    /// The plan these rules make for a checkpoint.
    ///
    /// # Errors
    /// [`Error::Plan`] for a name or pattern that matches nothing, for patterns that disagree, and for every
    /// defect [`Plan::check`] finds.
    pub fn resolve(&self, checkpoint: &Checkpoint) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut decided_by: BTreeMap<&str, &str> = BTreeMap::new();
        let (patterns, names): (Vec<_>, Vec<_>) = self
            .0
            .iter()
            .partition(|(pattern, _)| pattern.contains('*'));
        for (pattern, assignment) in patterns {
            // A pattern speaks of weight matrices only: `*` must not trip over a norm.
            let is_match = |name: &str| matches(pattern, name);
            let layers = checkpoint
                .tensors()
                .iter()
                .filter(|tensor| tensor.matrix.is_some() && is_match(&tensor.name));
            let mut hits = 0;
            for tensor in layers {
                hits += 1;
                let earlier = decided_by.insert(&tensor.name, pattern);
                if let Some(earlier) =
                    earlier.filter(|earlier| self.0.get(*earlier) != Some(assignment))
                {
                    return Err(Error::plan(
                        format!(
                            "the patterns {earlier} and {pattern} disagree about layer {}",
                            tensor.name
                        ),
                        "narrow one of them, or name the layer exactly",
                    ));
                }
                plan.set(&tensor.name, assignment.clone());
            }
            if hits == 0 {
                return Err(Error::plan(
                    format!(
                        "the pattern {pattern} matches no layer of {}",
                        checkpoint.path().display()
                    ),
                    "correct or remove it",
                ));
            }
        }
        for (name, assignment) in names {
            if checkpoint.find(name).is_none() {
                return Err(Error::plan(
                    format!(
                        "the plan names layer {name}, which {} does not have",
                        checkpoint.path().display()
                    ),
                    mend_for_name(checkpoint, name),
                ));
            }
            plan.set(name, assignment.clone());
        }
        plan.check(checkpoint)?;
        Ok(plan)
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
            (
                "*.down_proj.weight",
                "model.layers.0.mlp.down_proj.weight",
                true,
            ),
            ("*.down_proj", "model.layers.0.mlp.down_proj.weight", false),
            (
                "model.layers.*.mlp.*.weight",
                "model.layers.12.mlp.up_proj.weight",
                true,
            ),
            (
                "model.layers.1.*",
                "model.layers.12.mlp.up_proj.weight",
                false,
            ),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
