//! What a person wants: an assignment for each layer, rules by pattern, locks. In: names and parameters.
//! Out: plain, comparable data. Making a plan opens no file and computes no matrix; never knows jobs or statistics.

mod edit;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use rules::Rules;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::Layout;
use crate::error::{Error, Result};
use crate::method::{self, Step};
use crate::tensor::{DType, MatrixShape};

/// What a person wants for one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Methods in order: sparsity first, then the quantiser.
    pub steps: Vec<Step>,
    /// Whether edits of several layers and solvers leave it alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
}

impl Assignment {
    /// The layer stays as it is.
    pub fn keep() -> Self {
        Self::of(vec![Step::new("keep")])
    }

    /// An unlocked chain of steps.
    pub fn of(steps: Vec<Step>) -> Self {
        Self { steps, locked: false }
    }

    /// Whether nothing is changed.
    pub fn is_keep(&self) -> bool {
        matches!(self.steps.as_slice(), [step] if step.method == "keep" && step.parameters.0.is_empty())
    }

    /// The exact layout it gives a matrix.
    pub fn layout(&self, shape: MatrixShape, dtype: DType) -> Result<Layout> {
        method::chain_layout(&self.steps, shape, dtype)
    }

    /// In a few characters, as `2:4 sparse, 4-bit g128`.
    pub fn label(&self) -> String {
        method::chain_label(&self.steps)
    }
}

/// An assignment for each layer, by tensor name; layers not named are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    assignments: BTreeMap<String, Arc<Assignment>>,
}

impl Plan {
    /// The assignment of a layer; `None` where it is kept without a word.
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        self.assignments.get(name).map(AsRef::as_ref)
    }

    /// The assignment of a layer, [`Assignment::keep`] where none is set.
    pub fn assignment(&self, name: &str) -> Arc<Assignment> {
        self.assignments.get(name).cloned().unwrap_or_else(|| Arc::new(Assignment::keep()))
    }

    /// Sets the assignment of a layer; an unlocked keep removes the entry.
    pub fn set(&mut self, name: &str, assignment: Assignment) {
        if assignment.is_keep() && !assignment.locked {
            self.assignments.remove(name);
        } else {
            self.assignments.insert(name.to_owned(), Arc::new(assignment));
        }
    }

    /// Whether the layer is locked.
    pub fn is_locked(&self, name: &str) -> bool {
        self.get(name).is_some_and(|assignment| assignment.locked)
    }

    /// Layers with an assignment, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Assignment)> {
        self.assignments.iter().map(|(name, assignment)| (name.as_str(), assignment.as_ref()))
    }

    /// Number of layers with an assignment.
    pub fn len(&self) -> usize {
        self.assignments.len()
    }

    /// Whether every layer is kept.
    pub fn is_empty(&self) -> bool {
        self.assignments.is_empty()
    }

    /// Checks every entry against a checkpoint: the layer exists, is a matrix of weights, and its assignment
    /// has a layout.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        for (name, assignment) in self.iter() {
            let tensor = named_tensor(checkpoint, name)?;
            let Some(matrix) = tensor.matrix else {
                if assignment.is_keep() {
                    continue;
                }
                let what = format!("the plan compresses {name}, but {}", tensor.why_no_matrix());
                return Err(Error::plan(what, "remove it from the plan"));
            };
            let in_layer = |error| match error {
                Error::Plan { what, mend } => Error::plan(format!("layer {name}: {what}"), mend),
                other => other,
            };
            assignment.layout(matrix.shape, tensor.dtype).map_err(in_layer)?;
        }
        Ok(())
    }
}

fn named_tensor<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a Tensor> {
    match checkpoint.find(name) {
        Some(index) => Ok(&checkpoint.tensors()[index]),
        None => Err(Error::plan(
            format!(
                "the plan names layer {name}, which {} does not have",
                checkpoint.path().display()
            ),
            mend_for_name(checkpoint, name),
        )),
    }
}

/// A suggestion for a name that is not there.
fn mend_for_name(checkpoint: &Checkpoint, name: &str) -> String {
    let with_weight = format!("{name}.weight");
    if checkpoint.find(&with_weight).is_some() {
        format!("write {with_weight}")
    } else {
        "remove it, or open the checkpoint the plan was made for".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlocked_keep_is_no_entry() {
        let mut plan = Plan::default();
        plan.set("a", Assignment::of(vec![Step::new("round-to-nearest")]));
        assert_eq!(plan.len(), 1);
        plan.set("a", Assignment::keep());
        assert!(plan.is_empty());
        plan.set("a", Assignment { locked: true, ..Assignment::keep() });
        assert!(plan.is_locked("a"));
    }

    #[test]
    fn labels_say_what_matters() {
        let steps = vec![
            Step::new("magnitude").with("pattern", "n-of-m"),
            Step::new("round-to-nearest")
                .with("bits", 3)
                .with("group_size", 64)
                .with("symmetry", "asymmetric"),
        ];
        assert_eq!(Assignment::of(steps).label(), "2:4 sparse, 3-bit g64 asym");
        assert_eq!(Assignment::keep().label(), "keep");
    }
}
