//! Starting points: plans as rules, made for a model, fitted to a target.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Role};
use crate::error::Result;
use crate::method::Step;
use crate::plan::{Assignment, Plan, Rule};
use crate::target::{Aim, Lint, mend_all};

/// A starting point.
pub struct Preset {
    /// Its name for scripts.
    pub id: &'static str,
    /// Its name on screen.
    pub title: &'static str,
    /// What it does and when to take it.
    pub summary: &'static str,
    rules: fn(&Checkpoint) -> Result<Vec<Rule>>,
}

impl std::fmt::Debug for Preset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.id)
    }
}

/// Every starting point, in the order menus show them.
pub static PRESETS: &[Preset] = &[
    Preset {
        id: "8-bit",
        title: "8 bits everywhere",
        summary: "Every matrix at 8 bits with a scale for each output row: half the size, damage hardly to be measured.",
        rules: |_| {
            let eight = rtn(8).with("granularity", "channel");
            Ok(vec![Rule::new("default", Assignment::of(vec![eight]))?])
        },
    },
    Preset {
        id: "4-bit",
        title: "4 bits, ends kept",
        summary: "4 bits in groups of 128 with clipping searched; embeddings, head, and the first and last block stay as they are, since errors there hurt most.",
        rules: four_bits,
    },
    Preset {
        id: "q4-k-m",
        title: "Like Q4_K_M",
        summary: "llama.cpp's usual mixture: 4 bits in groups of 32, 6 bits for v and down in the first and last eighth and every third block between, 6 bits for the head.",
        rules: like_q4_k_m,
    },
    Preset {
        id: "2-of-4",
        title: "2:4 sparsity",
        summary: "Of every 4 weights the 2 smallest become zero, in all layers of the blocks: to measure what it costs. No current loader saves a byte for it.",
        rules: |_| {
            let sparse = Step::new("magnitude").with("pattern", "n-of-m");
            let mut rules = vec![Rule::new("default", Assignment::of(vec![sparse]))?];
            rules.extend(kept(&[Role::Embedding, Role::Position, Role::Head, Role::Router])?);
            Ok(rules)
        },
    },
    Preset {
        id: "keep",
        title: "Keep everything",
        summary: "No rule and nothing by hand: every layer as it is on disk.",
        rules: |_| Ok(Vec::new()),
    },
];

fn rtn(bits: i64) -> Step {
    Step::new("round-to-nearest").with("bits", bits)
}

fn kept(roles: &[Role]) -> Result<Vec<Rule>> {
    roles.iter().map(|role| Rule::new(&format!("role:{role}"), Assignment::keep())).collect()
}

/// What the names of all tensors of a block begin with.
fn block_prefixes(checkpoint: &Checkpoint) -> BTreeMap<u32, String> {
    let mut prefixes = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let Some(block) = tensor.place.block else { continue };
        let number = format!(".{block}.");
        if let Some(at) = tensor.name.find(&number) {
            let prefix = &tensor.name[..at + number.len()];
            prefixes.entry(block).or_insert_with(|| prefix.to_owned());
        }
    }
    prefixes
}

fn four_bits(checkpoint: &Checkpoint) -> Result<Vec<Rule>> {
    let four = rtn(4).with("group_size", 128).with("clipping", "mse");
    let prefixes = block_prefixes(checkpoint);
    let mut rules = Vec::new();
    // A model of two blocks or fewer would be all ends.
    if prefixes.len() > 2 {
        for prefix in
            [prefixes.values().next(), prefixes.values().next_back()].into_iter().flatten()
        {
            rules.push(Rule::new(&format!("{prefix}*"), Assignment::keep())?);
        }
    }
    rules.extend(kept(&[Role::Embedding, Role::Position, Role::Head, Role::Router])?);
    rules.push(Rule::new("default", Assignment::of(vec![four]))?);
    Ok(rules)
}

/// Blocks that llama.cpp gives more bits: `use_more_bits` of llama-quant.cpp.
fn takes_more_bits(block: usize, blocks: usize) -> bool {
    let eighth = blocks / 8;
    block < eighth || block >= 7 * blocks / 8 || (block - eighth) % 3 == 2
}

fn like_q4_k_m(checkpoint: &Checkpoint) -> Result<Vec<Rule>> {
    let four = rtn(4).with("group_size", 32).with("symmetry", "asymmetric");
    let six = Assignment::of(vec![rtn(6).with("group_size", 32)]);
    let prefixes = block_prefixes(checkpoint);
    let roles: Vec<Role> = [Role::V, Role::Down]
        .into_iter()
        .filter(|role| checkpoint.tensors().iter().any(|tensor| tensor.place.role == *role))
        .collect();
    let mut rules = Vec::new();
    for (at, (&block, prefix)) in prefixes.iter().enumerate() {
        if !takes_more_bits(at, prefixes.len()) {
            continue;
        }
        let of_role = |role: Role| {
            let wanted = checkpoint.tensors().iter().find(|tensor| {
                tensor.place.block == Some(block)
                    && tensor.place.role == role
                    && tensor.matrix.is_some()
            })?;
            let last = wanted.module().rsplit('.').next()?;
            Some(format!("{prefix}*{last}.weight"))
        };
        for pattern in roles.iter().filter_map(|&role| of_role(role)) {
            rules.push(Rule::new(&pattern, six.clone())?);
        }
    }
    rules.push(Rule::new("role:head", six)?);
    rules.extend(kept(&[Role::Router, Role::Position])?);
    rules.push(Rule::new("default", Assignment::of(vec![four]))?);
    Ok(rules)
}

impl Preset {
    /// The plan for a model, fitted to a target: rules that match nothing are left out, what the target does not hold
    /// becomes the nearest that it does, and locked layers stay. Gives what had to be fitted.
    ///
    /// # Errors
    /// None that a correct preset causes.
    pub fn plan(&self, checkpoint: &Checkpoint, now: &Plan, aim: Aim) -> Result<(Plan, Vec<Lint>)> {
        let matches = |rule: &Rule| checkpoint.tensors().iter().any(|t| rule.pattern.matches(t));
        let rules: Vec<Rule> = (self.rules)(checkpoint)?.into_iter().filter(matches).collect();
        let mut plan = Plan::default();
        plan.set_rules(checkpoint, rules);
        plan.keep_locks_of(now);
        let fitted = mend_all(checkpoint, &mut plan, aim);
        // What was fitted is by name; as rules it can be read.
        let plan = if fitted.is_empty() { plan } else { plan.summed_up(checkpoint) };
        Ok((plan, fitted))
    }
}
