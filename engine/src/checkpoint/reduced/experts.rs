//! Experts of mixtures: those that have tensors of their own, and those that share one with a row for each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::checkpoint::reduced::tower::Tower;
use crate::checkpoint::{Checkpoint, Removal, Tensor, told_numbers};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The component of names behind which experts are.
const EXPERTS: &str = "experts";
/// Components beside it that hold a row, or a number, for each expert.
const ROUTERS: [&str; 5] =
    ["gate", "router", "e_score_correction_bias", "moe_statics", "expert_bias"];

/// The mixture of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mixture {
    block: u32,
    /// What the names of its tensors begin with inside the block, as `mlp.`.
    module: String,
    /// Experts it has.
    experts: u32,
}

/// The mixtures of a model, by block.
pub(super) struct Mixtures(BTreeMap<u32, Mixture>);

impl Mixtures {
    pub(super) fn of(checkpoint: &Checkpoint, tower: &Tower) -> Self {
        let mut all: BTreeMap<u32, Mixture> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let Some((block, inside)) = tower.block(&tensor.name) else { continue };
            let Some((module, behind)) = split(inside) else { continue };
            let first = behind.split('.').next().unwrap_or_default();
            let experts = match first.parse::<u32>() {
                Ok(expert) => expert.saturating_add(1),
                Err(_shared) => tensor.shape.0.first().map_or(0, |&extent| extent as u32),
            };
            let mixture = all.entry(block).or_insert_with(|| Mixture {
                block,
                module: module.to_owned(),
                experts,
            });
            mixture.experts = mixture.experts.max(experts);
        }
        Self(all)
    }

    /// Experts of all blocks.
    pub(super) fn count(&self) -> u32 {
        self.0.values().fold(0, |sum, mixture| sum.saturating_add(mixture.experts))
    }

    pub(super) fn get(&self, block: u32) -> Option<&Mixture> {
        self.0.get(&block)
    }

    /// Experts before and after, where any are taken out.
    pub(super) fn left(&self, removal: &Removal) -> Option<[u32; 2]> {
        let mut cut = self.0.values().filter_map(|mixture| {
            let removed = removal.experts_of(mixture.block)?.len() as u32;
            Some([mixture.experts, mixture.experts - removed])
        });
        cut.next()
    }

    /// Experts that are there, as many of every block, and some that stay.
    pub(super) fn check(&self, removal: &Removal) -> Result<()> {
        for (&block, experts) in &removal.experts {
            let there = self.get(block).map_or(0, |mixture| mixture.experts);
            if there == 0 {
                return Err(Error::plan(
                    format!("block {block} has no experts"),
                    "name a block that is a mixture of experts",
                ));
            }
            if let Some(expert) = experts.iter().find(|expert| **expert >= there) {
                return Err(Error::plan(
                    format!("block {block} has no expert {expert}: it has {there}, counted from 0"),
                    "name experts that are there",
                ));
            }
            if experts.len() as u32 >= there {
                return Err(Error::plan(
                    format!("experts {} are all that block {block} has", told_numbers(experts)),
                    "leave some of them, or take the whole block out",
                ));
            }
        }
        self.check_equal(removal)
    }

    /// config.json has one number of experts for all blocks.
    fn check_equal(&self, removal: &Removal) -> Result<()> {
        let mut left: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for mixture in self.0.values().filter(|mixture| !removal.has_block(mixture.block)) {
            let removed = removal.experts_of(mixture.block).map_or(0, BTreeSet::len) as u32;
            left.entry(mixture.experts - removed).or_default().insert(mixture.block);
        }
        let is_cut = removal.experts.keys().any(|block| removal.experts_of(*block).is_some());
        if !is_cut || left.len() < 2 {
            return Ok(());
        }
        let word = |blocks: &BTreeSet<u32>| if blocks.len() == 1 { "block" } else { "blocks" };
        let said: Vec<String> = left
            .iter()
            .map(|(count, blocks)| format!("{count} in {} {}", word(blocks), told_numbers(blocks)))
            .collect();
        let fewest = left.keys().next().copied().unwrap_or_default();
        Err(Error::plan(
            format!(
                "blocks would have unlike numbers of experts ({}), and config.json has one number for all",
                said.join(", ")
            ),
            format!("take out as many of every block, so that each keeps {fewest}"),
        ))
    }
}

/// What a name inside a block has before and behind the experts.
fn split(inside: &str) -> Option<(&str, &str)> {
    if let Some(behind) = inside.strip_prefix("experts.") {
        return Some(("", behind));
    }
    let at = inside.find(".experts.")? + 1;
    Some((&inside[..at], &inside[at + EXPERTS.len() + 1..]))
}

/// The expert that a tensor of this name inside the block belongs to, and the name before and behind its number.
pub(super) fn expert_of(inside: &str) -> Option<(u32, &str, &str)> {
    let (module, behind) = split(inside)?;
    let number = behind.split('.').next()?;
    let before = module.len() + EXPERTS.len() + 1;
    Some((number.parse().ok()?, &inside[..before], &inside[before + number.len()..]))
}

impl Mixture {
    /// Takes the rows of `removed` out of a tensor that has one for each expert.
    pub(super) fn cut(
        &self,
        tensor: &mut Tensor,
        inside: &str,
        removed: &BTreeSet<u32>,
    ) -> Result<()> {
        let of_mixture = inside.strip_prefix(&self.module);
        let first = of_mixture.and_then(|inside| inside.split('.').next()).unwrap_or_default();
        if first != EXPERTS && !ROUTERS.contains(&first) {
            return Ok(());
        }
        let experts = self.experts as usize;
        let Shape(extents) = &mut tensor.shape;
        let at = match extents.as_slice() {
            [first, ..] if *first == experts => 0,
            [1, second] if *second == experts => 1,
            _ => return Err(self.unlike(tensor)),
        };
        let run: usize = extents[at + 1..].iter().product();
        let bits = (run as u64).checked_mul(tensor.dtype.bits()).filter(|bits| bits % 8 == 0);
        let Some(run_bytes) = bits.map(|bits| bits / 8) else { return Err(self.unlike(tensor)) };
        extents[at] -= removed.len();
        let begin = tensor.range.start;
        let mut pieces: Vec<Range<u64>> = Vec::new();
        for expert in (0..self.experts).filter(|expert| !removed.contains(expert)) {
            let start = begin + u64::from(expert) * run_bytes;
            match pieces.last_mut() {
                Some(last) if last.end == start => last.end += run_bytes,
                _ => pieces.push(start..start + run_bytes),
            }
        }
        tensor.pieces = Some(pieces.into());
        tensor.source = Some(tensor.source_name().into());
        Ok(())
    }

    fn unlike(&self, tensor: &Tensor) -> Error {
        Error::plan(
            format!(
                "{} is {}, from which none of the {} experts of block {} can be taken",
                tensor.name, tensor.shape, self.experts, self.block
            ),
            "take whole blocks out instead",
        )
    }
}
