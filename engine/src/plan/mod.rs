//! What a person wants: an assignment for each layer, rules by pattern, locks. In: names and parameters.
//! Out: plain, comparable data. Making a plan opens no file and computes no matrix; never knows jobs or statistics.

mod chain;
mod edit;
mod pattern;
mod reduced;
mod rules;
mod summary;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use pattern::Pattern;
pub use reduced::Reduced;
pub use rules::{Rule, Rules};

pub use edit::quantisers_of_bits;

use crate::checkpoint::{Checkpoint, Removal, Tensor};
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

/// Where the assignment of a layer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing speaks of the layer: it is kept.
    Nothing,
    /// It was set for this layer by name.
    ByHand,
    /// The rule at this place in [`Plan::rules`].
    Rule(usize),
}

/// What a rule comes to on a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Layers its pattern speaks of.
    pub all: usize,
    /// Layers it decides: neither set by hand nor spoken of by a rule that outranks it.
    pub decided: usize,
}

/// An assignment for each layer: by hand, by tensor name, or else by ordered rules; layers nobody speaks of are kept. And
/// blocks and experts that are taken out of the model, whatever is assigned to their layers.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    by_hand: BTreeMap<Arc<str>, Arc<Assignment>>,
    rules: Arc<Vec<Rule>>,
    by_rule: Arc<ByRule>,
    removal: Arc<Removal>,
}

/// What the rules come to on a checkpoint, whatever is set by hand.
#[derive(Debug, Default)]
struct ByRule {
    /// The rule that decides each layer.
    rule: BTreeMap<Arc<str>, usize>,
    /// Matches of each rule.
    matches: Vec<Matches>,
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Assignment>, &Arc<Assignment>)| Arc::ptr_eq(a, b) || a == b;
        self.by_hand.len() == other.by_hand.len()
            && self.removal == other.removal
            && (Arc::ptr_eq(&self.rules, &other.rules) || self.rules == other.rules)
            && self.by_hand.keys().eq(other.by_hand.keys())
            && self.by_hand.values().zip(other.by_hand.values()).all(same)
    }
}

impl Plan {
    /// The assignment of a layer; `None` where it is kept without a word.
    pub fn get(&self, name: &str) -> Option<&Arc<Assignment>> {
        self.by_hand.get(name).or_else(|| self.given(name))
    }

    /// What the rules give a layer.
    fn given(&self, name: &str) -> Option<&Arc<Assignment>> {
        self.by_rule.rule.get(name).map(|&rule| &self.rules[rule].assignment)
    }

    /// The assignment of a layer, [`Assignment::keep`] where none is set.
    pub fn assignment(&self, name: &str) -> Arc<Assignment> {
        self.get(name).cloned().unwrap_or_else(|| Arc::new(Assignment::keep()))
    }

    /// Sets the assignment of a layer by hand. What the rules say anyway, or an unlocked keep where they say nothing,
    /// leaves no entry.
    pub fn set(&mut self, name: &str, assignment: Assignment) {
        let is_said = match self.given(name) {
            Some(given) => **given == assignment,
            None => assignment.is_keep() && !assignment.locked,
        };
        if is_said {
            self.by_hand.remove(name);
        } else {
            self.by_hand.insert(name.into(), Arc::new(assignment));
        }
    }

    /// Takes back what was set for a layer by hand, so that the rules decide.
    pub fn forget(&mut self, name: &str) {
        self.by_hand.remove(name);
    }

    /// Takes over the locked layers of another plan, and what it takes out.
    pub fn keep_locks_of(&mut self, other: &Self) {
        self.removal = other.removal.clone();
        for (name, assignment) in other.iter().filter(|(_, assignment)| assignment.locked) {
            self.set(name, Assignment::clone(assignment));
        }
    }

    /// Whether the layer is locked.
    pub fn is_locked(&self, name: &str) -> bool {
        self.get(name).is_some_and(|assignment| assignment.locked)
    }

    /// What was set by hand, by name.
    pub fn by_hand(&self) -> impl Iterator<Item = (&str, &Arc<Assignment>)> {
        self.by_hand.iter().map(|(name, assignment)| (name.as_ref(), assignment))
    }

    /// The rules in their order; exact names are not among them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Replaces the rules; what was set by hand stays. Exact names among them are set by hand. Cost: each rule is
    /// held against each tensor's name.
    pub fn set_rules(&mut self, checkpoint: &Checkpoint, rules: Vec<Rule>) {
        let (exact, rules): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| matches!(rule.pattern, Pattern::Exact(_)));
        // Of one rank the first in order decides, so a stable sort by rank makes "the first match" the answer.
        let mut order: Vec<usize> = (0..rules.len()).collect();
        order.sort_by_key(|&rule| rules[rule].pattern.rank());
        let decide = |tensor: &Tensor| {
            let rule = order.iter().copied().find(|&rule| rules[rule].pattern.matches(tensor))?;
            Some((Arc::from(tensor.name.as_str()), rule))
        };
        let rule: BTreeMap<Arc<str>, usize> =
            checkpoint.tensors().iter().filter_map(decide).collect();
        let count = |(at, wanted): (usize, &Rule)| {
            let spoken_of = checkpoint.tensors().iter().filter(|t| wanted.pattern.matches(t));
            let decided = rule.values().filter(|&&rule| rule == at);
            Matches { all: spoken_of.count(), decided: decided.count() }
        };
        let matches = rules.iter().enumerate().map(count).collect();
        self.by_rule = Arc::new(ByRule { rule, matches });
        self.rules = Arc::new(rules);
        let by_hand = std::mem::take(&mut self.by_hand);
        for (name, assignment) in by_hand {
            self.set(&name, Assignment::clone(&assignment));
        }
        for rule in exact {
            self.set(&rule.pattern.to_string(), Assignment::clone(&rule.assignment));
        }
    }

    /// Where the assignment of a layer comes from.
    pub fn origin(&self, name: &str) -> Origin {
        if self.by_hand.contains_key(name) {
            return Origin::ByHand;
        }
        self.by_rule.rule.get(name).map_or(Origin::Nothing, |&rule| Origin::Rule(rule))
    }

    /// What each rule comes to, in the order of [`Plan::rules`].
    pub fn matches(&self) -> Vec<Matches> {
        let mut matches = self.by_rule.matches.clone();
        for name in self.by_hand.keys() {
            if let Some(&rule) = self.by_rule.rule.get(name) {
                matches[rule].decided -= 1;
            }
        }
        matches
    }

    /// Layers with an assignment: those set by hand, then those of the rules, each by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Assignment>)> {
        let rest = self.by_rule.rule.iter().filter(|(name, _)| !self.by_hand.contains_key(*name));
        let rest = rest.map(|(name, &rule)| (name.as_ref(), &self.rules[rule].assignment));
        self.by_hand().chain(rest)
    }

    /// Number of layers that are not kept.
    pub fn len(&self) -> usize {
        self.iter().filter(|(_, assignment)| !assignment.is_keep()).count()
    }

    /// Whether every layer is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensors whose assignment differs between two plans of one checkpoint. Cost: one comparison of pointers
    /// for each assignment.
    pub fn changed_from(&self, other: &Self, checkpoint: &Checkpoint) -> Vec<usize> {
        let differs = |name: &str| match (self.get(name), other.get(name)) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && a != b,
            (None, None) => false,
            (Some(one), None) | (None, Some(one)) => !one.is_keep() || one.locked,
        };
        if self.removal != other.removal {
            // Whatever stays has another number, and perhaps other rows.
            return (0..checkpoint.tensors().len()).collect();
        }
        let mut changed: BTreeSet<usize> = BTreeSet::new();
        if !Arc::ptr_eq(&self.by_rule, &other.by_rule) {
            let names = checkpoint.tensors().iter().enumerate();
            changed.extend(names.filter(|(_, tensor)| differs(&tensor.name)).map(|(i, _)| i));
            return changed.into_iter().collect();
        }
        // Both are in the order of names, so that one walk along both finds what only one has.
        let (mut ours, mut theirs) =
            (self.by_hand.iter().peekable(), other.by_hand.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let our = if order == Ordering::Greater { None } else { ours.next() };
            let their = if order == Ordering::Less { None } else { theirs.next() };
            let is_same = matches!((our, their), (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b));
            if let (Some((name, _)), false) = (our.or(their), is_same)
                && differs(name)
            {
                changed.extend(checkpoint.find(name));
            }
        }
        changed.into_iter().collect()
    }

    /// Checks every entry against a checkpoint: what is taken out is there and can be spared, each layer exists, is a matrix
    /// of weights, and its assignment has a layout.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.check_removal(&self.removal)?;
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
