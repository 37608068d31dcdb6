//! Whether blocks that are built unlike others would stand in places of those, with nothing in config.json that says so.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::reduced::config::{FIRST, LAST, LISTS, is_by_block};
use crate::checkpoint::reduced::experts::expert_of;
use crate::checkpoint::reduced::pattern;
use crate::checkpoint::reduced::tower::Tower;
use crate::error::{Error, Result};

/// A number for what each block is made of, by the names of its tensors; of experts those of the first.
pub(super) struct Structures(BTreeMap<u32, u64>);

impl Structures {
    pub(super) fn of(checkpoint: &Checkpoint, tower: &Tower) -> Self {
        let mut all: BTreeMap<u32, u64> = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let Some((block, inside)) = tower.block(&tensor.name) else { continue };
            if expert_of(inside).is_some_and(|(expert, ..)| expert > 0) {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            inside.hash(&mut hasher);
            let sum = all.entry(block).or_default();
            *sum = sum.wrapping_add(hasher.finish());
        }
        Self(all)
    }

    /// Refuses blocks `kept` of so many where one would stand in the place of another kind that only its place tells.
    ///
    /// # Errors
    /// [`Error::Plan`] with that block.
    pub(super) fn check(
        &self,
        object: &Map<String, Value>,
        kept: &[u32],
        blocks: [u32; 2],
    ) -> Result<()> {
        let is_moved = |(new, old): &(u32, &u32)| self.0.get(new) != self.0.get(old);
        let Some((new, old)) = (0..).zip(kept).find(is_moved) else { return Ok(()) };
        if object.iter().any(|(key, value)| says_kinds(key, value, blocks)) {
            return Ok(());
        }
        Err(Error::plan(
            format!(
                "block {old} would come to the place of block {new}, which is built otherwise, and its config.json does not say which blocks are"
            ),
            "take out others, so that each place keeps its kind",
        ))
    }
}

/// Whether an entry of config.json says of blocks of which kind they are.
fn says_kinds(key: &str, value: &Value, blocks: [u32; 2]) -> bool {
    match value {
        Value::Array(list) => {
            !list.is_empty() && (LISTS.contains(&key) || is_by_block(key, list, blocks))
        }
        Value::Number(number) => {
            let is_known = key == LAST || FIRST.contains(&key) || pattern::is_period(key);
            is_known && key != "max_window_layers" && number.as_u64().is_some_and(|n| n > 0)
        }
        Value::String(_) => pattern::LETTERS.contains(&key),
        Value::Object(_) => key == "linear_attn_config",
        _ => false,
    }
}
