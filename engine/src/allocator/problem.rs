//! What is allocated, as data: candidates of fused groups with bytes and damage, what may be chosen, a choice.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::allocator::hull::Points;
use crate::error::{Error, Result};

/// The most options of a group.
const MOST_OPTIONS: usize = 1 << 16;

/// Beyond this many bytes in all, sums in f64 would no longer be exact.
const MOST_BYTES: u64 = 1 << 53;

/// One candidate of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Which assignment of the caller's palette it is; groups share labels.
    pub label: usize,
    /// Nominal bits of a weight, which floors and ceilings are held against.
    pub bits: f64,
    /// Exact bytes of the whole group under it.
    pub bytes: u64,
    /// What it does to the model, in the unit of the score; damages of groups add up. A measured one may be negative.
    pub damage: f64,
}

/// Layers that are assigned together, with their candidates.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name, for messages.
    pub name: String,
    /// Weights in all its layers.
    pub weights: u64,
    /// The candidates, in any order.
    pub options: Vec<Level>,
    /// The option that it keeps whatever the budget, floor and ceiling.
    pub locked: Option<usize>,
    /// The fewest nominal bits it may have.
    pub floor_bits: Option<f64>,
    /// The most nominal bits it may have.
    pub ceiling_bits: Option<f64>,
}

impl Group {
    /// A group that is free to take any of `options`.
    pub fn new(name: impl Into<String>, weights: u64, options: Vec<Level>) -> Self {
        let name = name.into();
        Self { name, weights, options, locked: None, floor_bits: None, ceiling_bits: None }
    }

    /// Effective bits of a weight under an option, everything on disk counted.
    pub fn effective_bits(&self, option: usize) -> f64 {
        8.0 * self.options[option].bytes as f64 / self.weights.max(1) as f64
    }

    fn allows(&self, option: usize) -> bool {
        if let Some(locked) = self.locked {
            return option == locked;
        }
        let bits = self.options[option].bits;
        self.floor_bits.is_none_or(|floor| bits >= floor)
            && self.ceiling_bits.is_none_or(|ceiling| bits <= ceiling)
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: String, mend: &str| {
            Err(Error::plan(format!("group {} {why}", self.name), mend.to_owned()))
        };
        let n = self.options.len();
        if n == 0 || n > MOST_OPTIONS {
            return refuse(format!("has {n} options"), "give it at least one and at most 65536");
        }
        if let Some(locked) = self.locked.filter(|locked| *locked >= n) {
            return refuse(format!("is locked to option {locked} of {n}"), "lock it to one it has");
        }
        let bad = self.options.iter().find(|o| !o.damage.is_finite() || !o.bits.is_finite());
        if let Some(bad) = bad {
            let why = format!("has an option of {} bits with damage {}", bad.bits, bad.damage);
            return refuse(why, "score it again, or leave the option out");
        }
        if !(0..n).any(|option| self.allows(option)) {
            return refuse(
                "has no option between its floor and its ceiling".to_owned(),
                "lower the floor, raise the ceiling, or add an option between them",
            );
        }
        Ok(())
    }
}

/// An option for every group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The index of each group's option.
    pub options: Vec<usize>,
    /// Bytes of all groups.
    pub bytes: u64,
    /// Sum of the damages, in the order of the groups.
    pub damage: f64,
}

/// Groups and a budget, checked: finite scores, every group with something to choose, sums that are exact.
#[derive(Clone, Debug)]
pub struct Problem {
    groups: Vec<Group>,
    budget: u64,
    allowed: Vec<Vec<usize>>,
    useful: Vec<Vec<usize>>,
}

impl Problem {
    /// Groups under a budget in bytes; refuses what makes no sense, naming the group, but not a budget too small:
    /// that is for who solves it.
    pub fn new(groups: Vec<Group>, budget: u64) -> Result<Self> {
        groups.iter().try_for_each(Group::check)?;
        let largest = |group: &Group| group.options.iter().map(|o| o.bytes).max().unwrap_or(0);
        let all = groups.iter().try_fold(0_u64, |sum, group| sum.checked_add(largest(group)));
        if all.is_none_or(|all| all > MOST_BYTES) {
            return Err(Error::plan(
                format!("the options of {} groups add up to more than 2^53 bytes", groups.len()),
                "check the sizes they were given",
            ));
        }
        let allowed: Vec<Vec<usize>> = groups.iter().map(allowed).collect();
        let useful = groups.iter().zip(&allowed).map(|(g, allowed)| useful(g, allowed)).collect();
        Ok(Self { groups, budget, allowed, useful })
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Bytes that a choice may have.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Changes the budget.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// Options that a group may have, by bytes, then by damage.
    pub fn allowed(&self, group: usize) -> &[usize] {
        &self.allowed[group]
    }

    /// Of [`Problem::allowed`] those that no other beats: damage falls as bytes grow. At least one.
    pub fn useful(&self, group: usize) -> &[usize] {
        &self.useful[group]
    }

    /// The choice of these options.
    ///
    /// # Panics
    /// If there is not one option for each group, or a group does not have it.
    pub fn choice(&self, options: Vec<usize>) -> Choice {
        assert_eq!(options.len(), self.groups.len(), "one option for each group");
        let chosen = || self.groups.iter().zip(&options).map(|(group, &o)| group.options[o]);
        let bytes = chosen().map(|option| option.bytes).sum();
        let damage = chosen().map(|option| option.damage).sum::<f64>() + 0.0;
        Choice { options, bytes, damage }
    }

    /// Whether every group has an option that it may have.
    pub fn is_allowed(&self, options: &[usize]) -> bool {
        options.len() == self.groups.len()
            && options.iter().zip(&self.allowed).all(|(option, allowed)| allowed.contains(option))
    }

    /// The choice of fewest bytes.
    pub fn smallest(&self) -> Choice {
        self.choice(self.useful.iter().map(|useful| useful[0]).collect())
    }

    /// The choice of least damage, and of those of fewest bytes.
    pub fn best(&self) -> Choice {
        self.choice(self.useful.iter().map(|useful| useful[useful.len() - 1]).collect())
    }

    /// Every label, once, in order.
    pub fn labels(&self) -> Vec<usize> {
        let all = self.groups.iter().flat_map(|group| &group.options);
        all.map(|option| option.label).collect::<BTreeSet<usize>>().into_iter().collect()
    }

    /// Every group at `label`; where it may not or does not have it, at the allowed option of nearest bits, the
    /// smaller of two. `None` where no group has the label.
    pub fn uniform(&self, label: usize) -> Option<Choice> {
        let of = |group: &Group| group.options.iter().find(|o| o.label == label).map(|o| o.bits);
        let usual = self.groups.iter().find_map(of)?;
        let option = |(group, allowed): (&Group, &Vec<usize>)| {
            let bits = of(group).unwrap_or(usual);
            let distance = |option: usize| {
                let candidate = group.options[option];
                ((candidate.bits - bits).abs(), candidate.label != label)
            };
            let nearer = |a: &&usize, b: &&usize| {
                distance(**a).partial_cmp(&distance(**b)).unwrap_or(Ordering::Equal)
            };
            allowed.iter().min_by(nearer).copied().unwrap_or(0)
        };
        Some(self.choice(self.groups.iter().zip(&self.allowed).map(option).collect()))
    }

    /// The uniform choices of all labels, by bytes, then by damage.
    pub fn uniforms(&self) -> Vec<(usize, Choice)> {
        let of = |label| Some((label, self.uniform(label)?));
        let mut all: Vec<(usize, Choice)> = self.labels().into_iter().filter_map(of).collect();
        all.sort_by(|(_, a), (_, b)| a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage)));
        all
    }

    /// An [`Error::Plan`] that names the fewest bytes possible, where `budget` is below them.
    pub fn refuse_below_least(&self, budget: u64) -> Result<()> {
        let least = self.smallest().bytes;
        if least <= budget {
            return Ok(());
        }
        Err(Error::plan(
            format!(
                "no choice fits a budget of {budget} bytes: {least} bytes is the least these {} groups can have",
                self.groups.len()
            ),
            format!(
                "allow at least {least} bytes, lower a floor, unlock a layer, or offer smaller options"
            ),
        ))
    }

    /// What each group can usefully be, as (bytes, damage): bytes are exact in f64.
    pub(super) fn points(&self) -> Vec<Points> {
        let of =
            |group: usize| self.useful[group].iter().map(move |&option| self.at(group, option));
        let points = |group| of(group).map(|(bytes, damage)| (bytes as f64, damage)).collect();
        (0..self.groups.len()).map(points).collect()
    }

    /// The choice of these positions among each group's [`Problem::useful`].
    pub(super) fn choice_of_useful(&self, positions: &[usize]) -> Choice {
        self.choice(positions.iter().zip(&self.useful).map(|(&p, useful)| useful[p]).collect())
    }

    /// Bytes and damage of a group's option.
    pub(super) fn at(&self, group: usize, option: usize) -> (u64, f64) {
        let option = self.groups[group].options[option];
        (option.bytes, option.damage)
    }
}

fn allowed(group: &Group) -> Vec<usize> {
    let mut allowed: Vec<usize> = (0..group.options.len()).filter(|&o| group.allows(o)).collect();
    allowed.sort_by(|&a, &b| {
        let (a, b) = (group.options[a], group.options[b]);
        a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage))
    });
    allowed
}

fn useful(group: &Group, allowed: &[usize]) -> Vec<usize> {
    let mut useful: Vec<usize> = Vec::new();
    for &option in allowed {
        let is_better = useful
            .last()
            .is_none_or(|&last| group.options[option].damage < group.options[last].damage);
        if is_better {
            useful.push(option);
        }
    }
    useful
}
