//! A plan written with few rules, so that people can read it and other models can take it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Role, Tensor};
use crate::plan::{Assignment, Pattern, Plan, Rule};

impl Plan {
    /// The same assignments written anew: the commonest one as the default, roles where most layers of a role have
    /// another, patterns for whole blocks and for modules of a block, and names for what is left.
    pub fn summed_up(&self, checkpoint: &Checkpoint) -> Self {
        let wanted: Vec<(&Tensor, Arc<Assignment>)> = checkpoint
            .tensors()
            .iter()
            .filter(|tensor| tensor.matrix.is_some())
            .map(|tensor| (tensor, unlocked(&self.assignment(&tensor.name))))
            .collect();
        let mut rules = roles_and_default(&wanted);
        let mut plan = Self::default();
        plan.set_rules(checkpoint, rules.clone());
        let globs = globs(&wanted, &plan);
        rules.splice(0..0, globs);
        plan.set_rules(checkpoint, rules);
        // Whatever the rules do not say is said by name; locks always are.
        for tensor in checkpoint.tensors() {
            let assignment = self.assignment(&tensor.name);
            if assignment != plan.assignment(&tensor.name) {
                plan.set(&tensor.name, Assignment::clone(&assignment));
            }
        }
        plan.removal = self.removal.clone();
        plan
    }
}

impl Plan {
    /// What became of the layers that another plan has otherwise, as `42 layers are now 4-bit g128 asym`; nothing where
    /// both are the same.
    pub fn told_since(&self, before: &Self, checkpoint: &Checkpoint) -> Option<String> {
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        for layer in self.changed_from(before, checkpoint) {
            *labels
                .entry(self.assignment(&checkpoint.tensors()[layer].name).label())
                .or_default() += 1;
        }
        let told = |(label, count): (&String, &usize)| match count {
            1 => format!("1 layer is now {label}"),
            n => format!("{n} layers are now {label}"),
        };
        let mut told: Vec<String> = labels.iter().map(told).collect();
        if self.removal != before.removal {
            // Every layer counts as changed then: what happened is what is said.
            let said = format!("{} taken out", self.removal.told());
            let nothing = "nothing is taken out any more".to_owned();
            told = vec![if self.removal.is_empty() { nothing } else { said }];
        }
        (!told.is_empty()).then(|| told.join(", "))
    }
}

fn unlocked(assignment: &Arc<Assignment>) -> Arc<Assignment> {
    if assignment.locked {
        return Arc::new(Assignment { locked: false, ..Assignment::clone(assignment) });
    }
    assignment.clone()
}

/// The assignment that most of some layers have; of equally many the first.
fn commonest<'a>(
    layers: impl Iterator<Item = &'a (&'a Tensor, Arc<Assignment>)>,
) -> Option<Arc<Assignment>> {
    let mut counts: Vec<(&Arc<Assignment>, usize)> = Vec::new();
    for (_, assignment) in layers {
        match counts.iter_mut().find(|(known, _)| *known == assignment) {
            Some((_, count)) => *count += 1,
            None => counts.push((assignment, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(known, _)| known.clone())
}

fn roles_and_default(wanted: &[(&Tensor, Arc<Assignment>)]) -> Vec<Rule> {
    let default = commonest(wanted.iter());
    let Some(default) = default else {
        return Vec::new();
    };
    let mut rules = Vec::new();
    for role in Role::ALL {
        let of_role = || wanted.iter().filter(|(tensor, _)| tensor.place.role == role);
        if let Some(assignment) = commonest(of_role())
            && assignment != default
        {
            rules.push(Rule { pattern: Pattern::Role(role), assignment });
        }
    }
    if !default.is_keep() {
        rules.push(Rule { pattern: Pattern::Default, assignment: default });
    }
    rules
}

/// What the names in a block begin with, and how a module of it ends.
fn parts(tensor: &Tensor) -> Option<(String, String)> {
    let number = format!(".{}.", tensor.place.block?);
    let at = tensor.name.find(&number)? + number.len();
    let last = tensor.module().rsplit('.').next()?;
    let ending = &tensor.name[tensor.module().len()..];
    Some((tensor.name[..at].to_owned(), format!("{last}{ending}")))
}

/// Patterns for blocks, and for modules of a block, all of whose layers have one assignment that the plan so far does
/// not give them.
fn globs(wanted: &[(&Tensor, Arc<Assignment>)], so_far: &Plan) -> Vec<Rule> {
    let mut candidates: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, (tensor, _)) in wanted.iter().enumerate() {
        if let Some((prefix, ending)) = parts(tensor) {
            candidates.entry(format!("{prefix}*")).or_default().push(i);
            candidates.entry(format!("{prefix}*{ending}")).or_default().push(i);
        }
    }
    let mut rules = Vec::new();
    let mut said = vec![false; wanted.len()];
    // The shortest patterns, which are those of whole blocks, first.
    let mut ordered: Vec<(&String, &Vec<usize>)> = candidates.iter().collect();
    ordered.sort_by_key(|(pattern, _)| pattern.len());
    for (pattern, members) in ordered {
        let assignment = &wanted[members[0]].1;
        let is_off = |&&i: &&usize| !said[i] && so_far.assignment(&wanted[i].0.name) != wanted[i].1;
        let worth = members.iter().filter(is_off).count() > 1;
        if worth && members.iter().all(|&i| wanted[i].1 == *assignment) {
            for &i in members {
                said[i] = true;
            }
            let pattern = Pattern::Glob(pattern.clone());
            rules.push(Rule { pattern, assignment: assignment.clone() });
        }
    }
    rules
}
