//! Starting points: plans as rules, made for a model, fitted to a target.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Role};
use crate::error::Result;
use crate::method::Step;
use crate::plan::{Assignment, Plan, Rule};
use crate::target::nearest::is_held_by;
use crate::target::{Aim, Lint, Target, mend_all};

/// A starting point.
pub struct Preset {
    /// Its name for scripts.
    pub id: &'static str,
    /// Its name on screen.
    pub title: &'static str,
    /// What it does and when to take it.
    pub summary: &'static str,
    /// Whether it gives tensors of a GGUF file other types: what prunes, or keeps all, has none to give.
    pub retypes: bool,
    rules: fn(&Checkpoint, &dyn Target) -> Result<Vec<Rule>>,
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
        retypes: true,
        rules: |_, _| {
            let eight = rtn(8).with("granularity", "channel");
            Ok(vec![Rule::new("default", Assignment::of(vec![eight]))?])
        },
    },
    Preset {
        id: "4-bit",
        title: "4 bits, ends kept",
        summary: "4 bits in groups of 128 with clipping searched; embeddings, head, and the first and last block stay as they are, since errors there hurt most.",
        retypes: true,
        rules: four_bits,
    },
    Preset {
        id: "q4-k-m",
        title: "Like Q4_K_M",
        summary: "llama.cpp's usual mixture: Q4_K, but Q6_K for v and down in the first and last eighth and every third block between, and for the head. Targets without these blocks get integers of as many bits in groups of 32.",
        retypes: true,
        rules: |checkpoint, target| Mixture::new(checkpoint, target).like_m(4),
    },
    Preset {
        id: "q5-k-m",
        title: "Like Q5_K_M",
        summary: "The same over Q5_K: nearly lossless.",
        retypes: true,
        rules: |checkpoint, target| Mixture::new(checkpoint, target).like_m(5),
    },
    Preset {
        id: "q3-k-m",
        title: "Like Q3_K_M",
        summary: "llama.cpp's smaller mixture: Q3_K; Q5_K for v of the first two blocks and down of the first sixteenth of them, Q4_K for the other v and down and for what attention gives; Q6_K for the head.",
        retypes: true,
        rules: |checkpoint, target| Mixture::new(checkpoint, target).like_q3_k_m(),
    },
    Preset {
        id: "2-of-4",
        title: "2:4 sparsity",
        summary: "Of every 4 weights the 2 smallest become zero, in all layers of the blocks: to measure what it costs. No current loader saves a byte for it.",
        retypes: false,
        rules: |_, _| {
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
        retypes: false,
        rules: |_, _| Ok(Vec::new()),
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

fn four_bits(checkpoint: &Checkpoint, _target: &dyn Target) -> Result<Vec<Rule>> {
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

/// What llama.cpp's mixtures are made of, for a model and a target.
struct Mixture<'a> {
    checkpoint: &'a Checkpoint,
    prefixes: Vec<(u32, String)>,
    /// Whether the target holds super-blocks; else integers stand for them.
    has_blocks: bool,
}

impl<'a> Mixture<'a> {
    fn new(checkpoint: &'a Checkpoint, target: &dyn Target) -> Self {
        let matrices = || checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
        let has_blocks = matrices().any(|tensor| is_held_by(tensor, &blocks(4), target));
        Self { checkpoint, prefixes: block_prefixes(checkpoint).into_iter().collect(), has_blocks }
    }

    /// Weights of so many bits.
    fn form(&self, bits: i64) -> Assignment {
        let integers = rtn(bits).with("group_size", 32);
        match bits {
            _ if self.has_blocks => blocks(bits),
            4 | 5 => Assignment::of(vec![integers.with("symmetry", "asymmetric")]),
            _ => Assignment::of(vec![integers]),
        }
    }

    /// The rule for the layer of a role in a block, if it has one.
    fn rule(&self, at: usize, role: Role, bits: i64) -> Result<Option<Rule>> {
        let (block, prefix) = &self.prefixes[at];
        let found = self.checkpoint.tensors().iter().find(|tensor| {
            tensor.place.block == Some(*block)
                && tensor.place.role == role
                && tensor.matrix.is_some()
        });
        let Some(last) = found.and_then(|tensor| tensor.module().rsplit('.').next()) else {
            return Ok(None);
        };
        Rule::new(&format!("{prefix}*{last}.weight"), self.form(bits)).map(Some)
    }

    /// What every mixture ends in: `Q6_K` for the head, or for the embedding that is also the head.
    fn rest(&self, bits: i64) -> Result<Vec<Rule>> {
        let has_head = self.checkpoint.tensors().iter().any(|t| t.place.role == Role::Head);
        let head = if has_head { "role:head" } else { "role:embedding" };
        let mut rules = vec![Rule::new(head, self.form(6))?];
        rules.extend(kept(&[Role::Router, Role::Position])?);
        rules.push(Rule::new("default", self.form(bits))?);
        Ok(rules)
    }

    /// `Q4_K_M`, `Q5_K_M`.
    fn like_m(&self, bits: i64) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for at in 0..self.prefixes.len() {
            if takes_more_bits(at, self.prefixes.len()) {
                rules.extend(self.rule(at, Role::V, 6)?);
                rules.extend(self.rule(at, Role::Down, 6)?);
            }
        }
        rules.extend(self.rest(bits)?);
        Ok(rules)
    }

    /// `Q3_K_M`.
    fn like_q3_k_m(&self) -> Result<Vec<Rule>> {
        let mut rules = Vec::new();
        for at in 0..self.prefixes.len() {
            let first = at < self.prefixes.len() / 16;
            rules.extend(self.rule(at, Role::V, if at < 2 { 5 } else { 4 })?);
            rules.extend(self.rule(at, Role::Down, if first { 5 } else { 4 })?);
            rules.extend(self.rule(at, Role::O, 4)?);
        }
        rules.extend(self.rest(3)?);
        Ok(rules)
    }
}

/// Super-blocks of so many bits.
fn blocks(bits: i64) -> Assignment {
    let step = Step::new("gguf-blocks").with("type", format!("Q{bits}_K").as_str());
    Assignment::of(vec![step])
}

impl Preset {
    /// The plan for a model, fitted to a target: rules that match nothing are left out, what the target does not hold
    /// becomes the nearest that it does, and locked layers stay. Gives what had to be fitted.
    ///
    /// # Errors
    /// None that a correct preset causes.
    pub fn plan(&self, checkpoint: &Checkpoint, now: &Plan, aim: Aim) -> Result<(Plan, Vec<Lint>)> {
        let matches = |rule: &Rule| checkpoint.tensors().iter().any(|t| rule.pattern.matches(t));
        let rules: Vec<Rule> =
            (self.rules)(checkpoint, aim.target)?.into_iter().filter(matches).collect();
        let mut plan = Plan::default();
        plan.set_rules(checkpoint, rules);
        plan.keep_locks_of(now);
        let fitted = mend_all(checkpoint, &mut plan, aim);
        // What was fitted is by name; as rules it can be read.
        let plan = if fitted.is_empty() { plan } else { plan.summed_up(checkpoint) };
        Ok((plan, fitted))
    }
}
