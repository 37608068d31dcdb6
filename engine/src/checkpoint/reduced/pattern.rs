//! Settings that speak of blocks by a period, as "every sixth block": kept where the blocks that stay have their kind by it
//! still, written out block by block where config.json can say that, and refused where it cannot.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

type Object = Map<String, Value>;

/// A rule by which every so many blocks are of another kind.
struct Periodic {
    /// The number of blocks.
    key: &'static str,
    /// What is added to the number of a block before it is divided; a key that holds it where there is one.
    plus: u64,
    /// The key of what is taken off before.
    offset: Option<&'static str>,
    /// Lists that decide instead, where they are there.
    instead: &'static [&'static str],
}

const NO_OFFSET: Periodic = Periodic { key: "", plus: 1, offset: None, instead: &[] };

/// Rules that cannot be written out block by block.
const PERIODS: &[Periodic] = &[
    Periodic { key: "moe_layer_freq", plus: 0, ..NO_OFFSET },
    Periodic { key: "interleave_moe_layer_step", instead: &["moe_layers"], ..NO_OFFSET },
    Periodic { key: "moe_layer_interval", ..NO_OFFSET },
    Periodic { key: "no_rope_layer_interval", instead: &["no_rope_layers"], ..NO_OFFSET },
    Periodic { key: "full_attention_interval", instead: &["layer_types"], ..NO_OFFSET },
    Periodic { key: "sliding_window_pattern", instead: &["layer_types"], ..NO_OFFSET },
    Periodic { key: "global_attn_every_n_layers", plus: 0, instead: &["layer_types"], ..NO_OFFSET },
    Periodic { key: "attn_layer_period", plus: 0, offset: Some("attn_layer_offset"), ..NO_OFFSET },
    Periodic {
        key: "expert_layer_period",
        plus: 0,
        offset: Some("expert_layer_offset"),
        ..NO_OFFSET
    },
];

/// Models whose blocks attend to all tokens by a period and can say so block by block: the model, the key of the period if it
/// has one, the usual period, and the kinds of the others and of every so-manieth.
const ATTENTION: &[(&str, &str, u64, [&str; 2])] = &[
    ("gemma2", "", 2, ["sliding_attention", "full_attention"]),
    ("gemma3", "sliding_window_pattern", 6, ["sliding_attention", "full_attention"]),
    ("gemma3_text", "sliding_window_pattern", 6, ["sliding_attention", "full_attention"]),
    ("cohere2", "sliding_window_pattern", 4, ["sliding_attention", "full_attention"]),
    ("qwen3_next", "full_attention_interval", 4, ["linear_attention", "full_attention"]),
];

/// Sees to it that blocks `kept`, in this order, will be of the kinds they are.
///
/// # Errors
/// [`Error::Plan`] for a rule that would give one of them another kind.
pub(super) fn keep(object: &mut Object, kept: &[u32]) -> Result<()> {
    attention_types(object, kept);
    write_out_attention(object, kept);
    write_out_dense(object, kept);
    for rule in PERIODS {
        let is_decided = rule.instead.iter().any(|key| is_list(object, key));
        let period = object.get(rule.key).and_then(Value::as_u64).filter(|period| *period > 1);
        let Some(period) = period.filter(|_| !is_decided) else { continue };
        let offset = rule.offset.and_then(|key| object.get(key)?.as_u64()).unwrap_or(0);
        let is_met = |block: u64| (block + rule.plus) % period == offset % period;
        if let Some(block) = moved(kept, &is_met) {
            return Err(Error::plan(
                format!(
                    "its {} is {period}, by which block {block} would become one of another kind",
                    rule.key
                ),
                format!(
                    "take out {period} blocks in a row, or others that leave the order of kinds as it is"
                ),
            ));
        }
    }
    Ok(())
}

/// The first block whose place among those that stay is not of its kind.
fn moved(kept: &[u32], is_met: &dyn Fn(u64) -> bool) -> Option<u32> {
    let mut all = (0_u64..).zip(kept);
    all.find(|(new, old)| is_met(*new) != is_met(u64::from(**old))).map(|(_, old)| *old)
}

fn is_list(object: &Object, key: &str) -> bool {
    object.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// `layer_types` for a model whose kinds of attention follow a period that the blocks left do not.
///
/// It is written for all blocks, as if it had been there: what goes is taken out of it like out of any list.
fn write_out_attention(object: &mut Object, kept: &[u32]) {
    let model = object.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let known = ATTENTION.iter().find(|(name, ..)| *name == model);
    let Some((_, key, usual, kinds)) = known.filter(|_| !is_list(object, "layer_types")) else {
        return;
    };
    let period = object.get(*key).and_then(Value::as_u64).unwrap_or(*usual).max(1);
    let is_full = |block: u64| (block + 1).is_multiple_of(period);
    if moved(kept, &is_full).is_none() {
        return;
    }
    let blocks = ["num_hidden_layers"].iter().find_map(|key| object.get(*key)?.as_u64());
    let kind = |block: u64| json!(kinds[usize::from(is_full(block))]);
    let types: Vec<Value> = (0..blocks.unwrap_or_default()).map(kind).collect();
    object.insert("layer_types".to_owned(), types.into());
}

/// `mlp_only_layers` for a mixture whose `decoder_sparse_step` the blocks left do not follow.
fn write_out_dense(object: &mut Object, kept: &[u32]) {
    let step = object.get("decoder_sparse_step").and_then(Value::as_u64).unwrap_or(1).max(1);
    let is_sparse = |block: u64| (block + 1).is_multiple_of(step);
    if moved(kept, &is_sparse).is_none() {
        return;
    }
    let listed: Vec<u64> = object
        .get("mlp_only_layers")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_u64).collect())
        .unwrap_or_default();
    let is_dense = |block: &u64| listed.contains(block) || !is_sparse(*block);
    let dense: Vec<u64> = kept.iter().copied().map(u64::from).filter(is_dense).collect();
    object.insert("decoder_sparse_step".to_owned(), json!(1));
    object.insert("mlp_only_layers".to_owned(), json!(dense));
}

/// GPT-Neo says its kinds of attention as runs of a pattern: they become one run of all blocks that stay.
fn attention_types(object: &mut Object, kept: &[u32]) {
    let Some(runs) = object.get("attention_types").and_then(Value::as_array) else { return };
    let mut kinds: Vec<Value> = Vec::new();
    for run in runs {
        let (Some(pattern), Some(times)) = (run[0].as_array(), run[1].as_u64()) else { return };
        for _ in 0..times.min(1 << 14) {
            kinds.extend(pattern.iter().cloned());
        }
    }
    let stays: Vec<Value> =
        kept.iter().filter_map(|&block| kinds.get(block as usize).cloned()).collect();
    object.insert("attention_types".to_owned(), json!([[stays, 1]]));
}
