//! config.json of a model without some of its blocks and experts: every number, list and rule in it that speaks of them.
//!
//! Keys are those of the models in transformers 5. What config.json cannot say afterwards is refused.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::checkpoint::Removal;
use crate::checkpoint::reduced::kinds::Structures;
use crate::checkpoint::reduced::pattern;
use crate::error::{Error, Result};

/// Numbers of blocks.
const COUNTS: [&str; 4] = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
/// Numbers of experts.
const EXPERTS: [&str; 5] = [
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
];
/// How many of them see a token.
const CHOSEN: [&str; 5] =
    ["num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"];
/// Lists of numbers of blocks.
pub(super) const LISTS: [&str; 10] = [
    "mlp_only_layers",
    "moe_layers",
    "moe_layer_indices",
    "attn_layer_indices",
    "full_attn_idxs",
    "cross_attention_layers",
    "global_attn_layers",
    "dense_layers",
    "hybrid_layer_ids",
    "rope_scaling_layers",
];
/// Numbers that say of how many of the first blocks something holds, or from which block on.
pub(super) const FIRST: [&str; 4] =
    ["max_window_layers", "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"];
/// The number of the last block of a kind.
pub(super) const LAST: &str = "moe_layer_end_index";
/// Objects whose keys are numbers of blocks.
const BY_BLOCK: [&str; 1] = ["per_layer_config"];
/// Lists that may have as many entries as there are blocks and do not speak of them.
const OTHER_LISTS: [&str; 5] = [
    "architectures",
    "mrope_section",
    "keys_to_ignore_at_inference",
    "bad_words_ids",
    "pruned_heads",
];
/// Settings by which blocks depend on others or on their place in a way that cannot be said of fewer.
const BOUND: [(&str, &str); 6] = [
    ("hidden_size_per_layer_input", "a table beside the blocks has columns for each of them"),
    ("num_mem_blocks", "blocks share the weights of some of them"),
    ("num_kv_shared_layers", "later blocks share keys and values of earlier ones"),
    ("scale_attn_by_inverse_layer_idx", "each block's attention is scaled by its number"),
    ("cla_share_factor", "neighbouring blocks share keys and values"),
    ("is_encoder_decoder", "the decoder's blocks read an encoder"),
];
/// Parts of config.json that describe the text model.
pub(super) const NESTED: [&str; 3] = ["text_config", "llm_config", "language_config"];

type Object = Map<String, Value>;

/// What is taken out of the model that a config.json describes.
pub(super) struct Cut<'a> {
    pub(super) removal: &'a Removal,
    /// Blocks in the files.
    pub(super) blocks: u32,
    /// Experts of a block before and after, where any are taken out.
    pub(super) experts: Option<[u32; 2]>,
    /// What blocks are made of.
    pub(super) structures: Structures,
}

fn number(object: &Object, key: &str) -> Option<u32> {
    object.get(key)?.as_u64().and_then(|number| u32::try_from(number).ok())
}

impl Cut<'_> {
    /// What config.json says afterwards.
    ///
    /// # Errors
    /// [`Error::Plan`] with what it cannot say.
    pub(super) fn repaired(&self, config: &Value) -> Result<Value> {
        let mut config = config.clone();
        let mut described = false;
        for key in NESTED {
            if let Some(nested) = config.get_mut(key).and_then(Value::as_object_mut) {
                described |= self.repair(nested)?;
            }
        }
        if let Some(all) = config.as_object_mut() {
            described |= self.repair(all)?;
        }
        if described {
            return Ok(config);
        }
        Err(Error::plan(
            "its config.json does not say how many blocks it has",
            "take config.json from the model these weights belong to",
        ))
    }

    /// Mends an object; gives whether it describes the blocks.
    fn repair(&self, object: &mut Object) -> Result<bool> {
        let counts: Vec<(&str, u32)> =
            COUNTS.iter().filter_map(|&key| Some((key, number(object, key)?))).collect();
        let Some(&(_, blocks)) = counts.first() else { return Ok(false) };
        self.check(&counts, object)?;
        if !self.removal.blocks.is_empty() {
            let kept: Vec<u32> =
                (0..blocks).filter(|block| !self.removal.has_block(*block)).collect();
            // Rules by period are looked at while all else is as it was.
            pattern::keep(object, &kept, blocks)?;
            self.structures.check(object, &kept, [blocks, self.blocks])?;
            for (key, _) in counts {
                object.insert(key.to_owned(), json!(kept.len()));
            }
            for (key, value) in object.iter_mut() {
                self.mend(key, value, blocks);
            }
        }
        self.repair_experts(object)?;
        Ok(true)
    }

    /// Refuses what cannot be said of fewer blocks.
    fn check(&self, counts: &[(&str, u32)], object: &Object) -> Result<()> {
        let [(key, blocks), rest @ ..] = counts else { return Ok(()) };
        if let Some((other, found)) = rest.iter().find(|(_, found)| found != blocks) {
            return Err(Error::plan(
                format!("its config.json says {blocks} blocks in {key} and {found} in {other}"),
                "take config.json from the model these weights belong to",
            ));
        }
        if *blocks > self.blocks {
            return Err(Error::plan(
                format!("its files hold {} blocks, and config.json says {blocks}", self.blocks),
                "download the whole model",
            ));
        }
        if let Some(block) = self.removal.blocks.iter().find(|block| *block >= blocks) {
            return Err(Error::plan(
                format!("block {block} is none of the {blocks} that run one behind another"),
                "leave what lies behind the last of them",
            ));
        }
        if self.removal.blocks.len() as u64 >= u64::from(*blocks) {
            return Err(Error::plan(
                format!("those are all the {blocks} blocks that run"),
                "leave at least one block",
            ));
        }
        let is_set = |key: &&(&str, &str)| match object.get(key.0) {
            Some(Value::Bool(is_set)) => *is_set,
            Some(Value::Number(number)) => {
                number.as_f64().is_some_and(|number| number > f64::from(key.0.ends_with("factor")))
            }
            _ => false,
        };
        match BOUND.iter().find(is_set).filter(|_| !self.removal.blocks.is_empty()) {
            Some((key, why)) => Err(Error::plan(
                format!("its {key} is {}: {why}", object[*key]),
                "leave every block in its place",
            )),
            None => Ok(()),
        }
    }

    /// Mends what speaks of `blocks` blocks.
    fn mend(&self, key: &str, value: &mut Value, blocks: u32) {
        match value {
            Value::Array(list) if LISTS.contains(&key) => {
                let new = |block: &Value| {
                    let block = u32::try_from(block.as_u64()?).ok()?;
                    self.removal.new_block(block)
                };
                *list = list.iter().filter_map(new).map(|block| json!(block)).collect();
            }
            Value::Array(list) if is_by_block(key, list, [blocks, self.blocks]) => {
                let mut block = 0..;
                list.retain(|_| block.next().is_none_or(|block| !self.removal.has_block(block)));
            }
            Value::Number(first) if FIRST.contains(&key) => {
                if let Some(first) = first.as_u64() {
                    let before = |block: &&u32| u64::from(**block) < first;
                    let gone = self.removal.blocks.iter().filter(before).count();
                    *value = json!(first - gone as u64);
                }
            }
            Value::Number(last) if key == LAST => {
                if let Some(last) = last.as_u64() {
                    let up_to = |block: &&u32| u64::from(**block) <= last;
                    let gone = self.removal.blocks.iter().filter(up_to).count();
                    *value = json!(last.saturating_sub(gone as u64));
                }
            }
            Value::Object(entries) if BY_BLOCK.contains(&key) => {
                let new = |(key, value): (String, Value)| match key.parse::<u32>() {
                    Ok(block) => Some((self.removal.new_block(block)?.to_string(), value)),
                    Err(_no_number) => Some((key, value)),
                };
                *entries = std::mem::take(entries).into_iter().filter_map(new).collect();
            }
            _ => {}
        }
    }

    fn repair_experts(&self, object: &mut Object) -> Result<()> {
        let Some([before, after]) = self.experts else { return Ok(()) };
        let keys: BTreeSet<&str> =
            EXPERTS.into_iter().filter(|key| number(object, key) == Some(before)).collect();
        if keys.is_empty() {
            return Err(Error::plan(
                format!(
                    "its config.json does not speak of the {before} experts that each block has"
                ),
                "take config.json from the model these weights belong to",
            ));
        }
        let groups =
            ["n_group", "num_expert_group"].into_iter().find_map(|key| number(object, key));
        if let Some(groups) = groups.filter(|groups| *groups > 1) {
            return Err(Error::plan(
                format!(
                    "its experts are chosen by groups, {groups} of them, which would be unlike"
                ),
                "take whole blocks out instead",
            ));
        }
        for key in CHOSEN {
            if let Some(chosen) = number(object, key).filter(|chosen| *chosen > after) {
                return Err(Error::plan(
                    format!(
                        "{after} experts would be left, and {chosen} of them see each token ({key})"
                    ),
                    format!("leave at least {chosen} experts in every block"),
                ));
            }
        }
        for key in keys {
            object.insert(key.to_owned(), json!(after));
        }
        Ok(())
    }
}

/// Whether a list has an entry for each block.
pub(super) fn is_by_block(key: &str, list: &[Value], lengths: [u32; 2]) -> bool {
    let is_other = OTHER_LISTS.contains(&key) || key.ends_with("token_id") || key.ends_with("_ids");
    !is_other && lengths.iter().any(|length| list.len() == *length as usize)
}
