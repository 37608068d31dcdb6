//! The blocks that may be taken out: those of the text decoder, whatever else a model has.

use std::collections::BTreeMap;

use crate::checkpoint::roles;
use crate::checkpoint::{Checkpoint, Removal, told_numbers};
use crate::error::{Error, Result};

/// Words in the names of towers that are not the decoder of text.
const OTHERS: [&str; 9] =
    ["vision", "visual", "audio", "image", "speech", "encoder", "mtp", "connector", "projector"];

/// A stack of blocks, one behind another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tower {
    /// What the names of its tensors begin with, up to the number of the block.
    pub(super) stem: String,
    /// Blocks in the files.
    pub(super) blocks: u32,
}

/// The beginning of a name up to the number of its block, and that.
fn split(name: &str) -> Option<(&str, u32, &str)> {
    let range = roles::block_number(name)?;
    let number = name[range.clone()].parse().ok()?;
    let behind = name[range.end..].strip_prefix('.')?;
    Some((&name[..range.start], number, behind))
}

impl Tower {
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut towers: BTreeMap<&str, u32> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            if let Some((stem, block, _)) = split(&tensor.name) {
                let blocks = towers.entry(stem).or_default();
                *blocks = (*blocks).max(block.saturating_add(1));
            }
        }
        let is_other = |stem: &str| OTHERS.iter().any(|word| stem.contains(word));
        let all: Vec<(&str, u32)> = towers.into_iter().collect();
        let text: Vec<(&str, u32)> =
            all.iter().copied().filter(|(stem, _)| !is_other(stem)).collect();
        match (all.as_slice(), text.as_slice()) {
            ([(stem, blocks)], _) | (_, [(stem, blocks)]) => {
                Ok(Self { stem: (*stem).to_owned(), blocks: *blocks })
            }
            ([], _) => Err(Error::plan(
                format!("{} has no blocks that can be taken out", checkpoint.path().display()),
                "take nothing out of it",
            )),
            _ => {
                let stems: Vec<&str> = all.iter().map(|(stem, _)| *stem).collect();
                Err(Error::plan(
                    format!(
                        "{} has several stacks of blocks ({}), and which of them is meant cannot be told",
                        checkpoint.path().display(),
                        stems.join(", ")
                    ),
                    "take nothing out of it",
                ))
            }
        }
    }

    /// The block a tensor of this name is in, and its name in there.
    pub(super) fn block<'n>(&self, name: &'n str) -> Option<(u32, &'n str)> {
        let (stem, block, inside) = split(name)?;
        (stem == self.stem).then_some((block, inside))
    }

    /// Blocks that are there, and one that stays.
    pub(super) fn check(&self, removal: &Removal) -> Result<()> {
        let Self { blocks, .. } = self;
        let named = removal.blocks.iter().chain(removal.experts.keys());
        if let Some(block) = named.copied().find(|block| block >= blocks) {
            return Err(Error::plan(
                format!("there is no block {block}: the model has {blocks}, counted from 0"),
                "name blocks that are there",
            ));
        }
        if removal.blocks.len() as u64 >= u64::from(*blocks) {
            return Err(Error::plan(
                format!("blocks {} are all there are", told_numbers(&removal.blocks)),
                "leave at least one block",
            ));
        }
        Ok(())
    }
}
