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

/// Lists with an entry for each block that config.json may leave out, as every so-manieth block is of another kind then.
struct Listed {
    models: &'static [&'static str],
    list: &'static str,
    /// The key of the period, if it has one, and the usual period.
    key: &'static str,
    usual: u64,
    /// What is added to the number of a block before it is divided.
    plus: u64,
    /// The kinds of the others, and of every so-manieth.
    kinds: [&'static str; 2],
}

const SLIDING: Listed = Listed {
    models: &[],
    list: "layer_types",
    key: "",
    usual: 4,
    plus: 1,
    kinds: ["sliding_attention", "full_attention"],
};

const LINEAR: Listed = Listed { kinds: ["linear_attention", "full_attention"], ..SLIDING };

/// What models of transformers 5.23 take such lists for where they are not there.
const LISTED: &[Listed] = &[
    Listed { models: &["gemma2", "vaultgemma", "gpt_oss"], usual: 2, ..SLIDING },
    Listed {
        models: &["gemma3", "gemma3_text"],
        key: "sliding_window_pattern",
        usual: 6,
        ..SLIDING
    },
    Listed { models: &["gemma3n_text"], usual: 5, ..SLIDING },
    Listed {
        models: &["cohere2", "exaone4", "exaone_moe"],
        key: "sliding_window_pattern",
        ..SLIDING
    },
    Listed { models: &["afmoe"], key: "global_attn_every_n_layers", ..SLIDING },
    Listed { models: &["olmo3"], ..SLIDING },
    Listed { models: &["cwm", "granite_swa", "granitemoe_swa"], plus: 0, ..SLIDING },
    Listed {
        models: &["modernbert", "modernbert-decoder"],
        key: "global_attn_every_n_layers",
        usual: 3,
        plus: 0,
        ..SLIDING
    },
    Listed {
        models: &["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"],
        key: "full_attention_interval",
        ..LINEAR
    },
    Listed { models: &["olmo_hybrid"], ..LINEAR },
    Listed { models: &["bailing_hybrid"], key: "layer_group_size", usual: 6, ..LINEAR },
    Listed {
        models: &["minimax"],
        usual: 2,
        kinds: ["full_attention", "linear_attention"],
        ..SLIDING
    },
    Listed {
        models: &["llama4_text", "smollm3"],
        list: "no_rope_layers",
        key: "no_rope_layer_interval",
        kinds: ["1", "0"],
        ..SLIDING
    },
];

/// Models whose kinds of blocks follow a rule of their own where config.json has no `layer_types`.
const OWN_RULES: [&str; 10] = [
    "beam",
    "cohere2_moe",
    "deepseek_v4",
    "embedding_gemma2_text",
    "flint",
    "gemma4_text",
    "gemma4_unified_text",
    "lfm3",
    "mimo_v2_flash",
    "neomme",
];

/// Models whose last block attends to all tokens, whatever config.json says of it.
const FULL_LAST: [&str; 2] = ["gemma4_text", "gemma4_unified_text"];

/// What config.json leaves out of the rules above, as models take it.
const USUAL: [(&str, &str, u64); 4] = [
    ("jamba", "attn_layer_period", 8),
    ("jamba", "attn_layer_offset", 4),
    ("jamba", "expert_layer_period", 2),
    ("jamba", "expert_layer_offset", 1),
];

/// Texts with a letter for each block.
pub(super) const LETTERS: [&str; 1] = ["hybrid_override_pattern"];

/// Lists of blocks within another object, counted from 1.
const FROM_ONE: [&str; 2] = ["full_attn_layers", "kda_layers"];

/// Sees to it that blocks `kept` of so many, in this order, will be of the kinds they are.
///
/// # Errors
/// [`Error::Plan`] for a rule that would give one of them another kind.
pub(super) fn keep(object: &mut Object, kept: &[u32], blocks: u32) -> Result<()> {
    for (model, key, usual) in USUAL {
        if is_model(object, &[model]) && !object.contains_key(key) {
            object.insert(key.to_owned(), json!(usual));
        }
    }
    attention_types(object, kept);
    write_out_list(object, kept, blocks);
    write_out_cycle(object, kept, blocks);
    write_out_dense(object, kept);
    cut_letters(object, kept, blocks)?;
    renumber_from_one(object, kept);
    check_own_rules(object, kept)?;
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

/// Whether this is the key of a period.
pub(super) fn is_period(key: &str) -> bool {
    key == "decoder_sparse_step" || PERIODS.iter().any(|rule| rule.key == key)
}

fn is_list(object: &Object, key: &str) -> bool {
    object.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn is_model(object: &Object, models: &[&str]) -> bool {
    object.get("model_type").and_then(Value::as_str).is_some_and(|model| models.contains(&model))
}

/// The list by block of a model whose kinds follow a period that the blocks left do not.
///
/// It is written for all blocks, as if it had been there: what goes is taken out of it like out of any list.
fn write_out_list(object: &mut Object, kept: &[u32], blocks: u32) {
    let known = LISTED.iter().find(|known| is_model(object, known.models));
    let Some(known) = known.filter(|known| !is_list(object, known.list)) else { return };
    let period = match object.get(known.key) {
        None | Some(Value::Null) => Some(known.usual),
        Some(said) => said.as_u64(),
    };
    // A rule that is not understood is refused further down.
    let Some(period) = period.filter(|period| *period > 0) else { return };
    let is_other = |block: u64| (block + known.plus).is_multiple_of(period);
    if moved(kept, &is_other).is_none() {
        return;
    }
    let kind = |block: u32| {
        let kind = known.kinds[usize::from(is_other(u64::from(block)))];
        kind.parse::<u64>().map_or_else(|_word| json!(kind), |number| json!(number))
    };
    object.insert(known.list.to_owned(), (0..blocks).map(kind).collect());
}

/// `RecurrentGemma` says its kinds as a list that begins again: it becomes one of all blocks.
fn write_out_cycle(object: &mut Object, kept: &[u32], blocks: u32) {
    if !is_model(object, &["recurrent_gemma"]) {
        return;
    }
    let usual = || vec![json!("recurrent"), json!("recurrent"), json!("attention")];
    let said = object.get("block_types").and_then(Value::as_array).cloned();
    let cycle = said.filter(|cycle| !cycle.is_empty()).unwrap_or_else(usual);
    let of = |block: u32| &cycle[block as usize % cycle.len()];
    if (0..).zip(kept).all(|(new, &old)| of(new) == of(old)) {
        return;
    }
    let all: Vec<Value> = (0..blocks).map(|block| of(block).clone()).collect();
    object.insert("block_types".to_owned(), all.into());
}

/// Takes the letters of blocks that go out of texts that have one for each.
fn cut_letters(object: &mut Object, kept: &[u32], blocks: u32) -> Result<()> {
    for key in LETTERS {
        let Some(text) = object.get(key).and_then(Value::as_str) else { continue };
        let letters: Vec<char> = text.chars().collect();
        if letters.len() != blocks as usize {
            return Err(Error::plan(
                format!("its {key} has {} letters for {blocks} blocks", letters.len()),
                "take config.json from the model these weights belong to",
            ));
        }
        let left: String = kept.iter().filter_map(|&block| letters.get(block as usize)).collect();
        object.insert(key.to_owned(), json!(left));
    }
    Ok(())
}

/// Kimi Linear says which blocks attend how in lists that count from 1.
fn renumber_from_one(object: &mut Object, kept: &[u32]) {
    let Some(of) = object.get_mut("linear_attn_config").and_then(Value::as_object_mut) else {
        return;
    };
    for key in FROM_ONE {
        let Some(list) = of.get_mut(key).and_then(Value::as_array_mut) else { continue };
        let place = |number: &Value| {
            let before = number.as_u64()?.checked_sub(1)?;
            let new = kept.iter().position(|&block| u64::from(block) == before)?;
            Some(json!(new + 1))
        };
        *list = list.iter().filter_map(place).collect();
    }
}

/// Refuses kinds that models decide themselves, where blocks would get others.
fn check_own_rules(object: &Object, kept: &[u32]) -> Result<()> {
    let has_types = is_list(object, "layer_types");
    let is_end = (0_u32..).zip(kept).all(|(new, &old)| new == old);
    let is_unread = LISTED.iter().any(|known| {
        let is_number = object.get(known.key).is_none_or(|said| said.is_u64() || said.is_null());
        is_model(object, known.models) && !is_list(object, known.list) && !is_number
    });
    if !has_types && !is_end && (is_model(object, &OWN_RULES) || is_unread) {
        return Err(Error::plan(
            "its blocks are of several kinds by a rule, and its config.json has no layer_types that say which is which",
            "take out the last blocks alone, or write layer_types into config.json",
        ));
    }
    let types = object.get("layer_types").and_then(Value::as_array).filter(|_| has_types);
    let last = kept.last().and_then(|&last| types?.get(last as usize)?.as_str());
    let (Some(&block), true) = (kept.last(), is_model(object, &FULL_LAST)) else { return Ok(()) };
    if last == Some("full_attention") {
        return Ok(());
    }
    Err(Error::plan(
        format!("block {block} would be the last, which attends to all tokens in this model"),
        "leave the last block, or take out others until one that does is the last",
    ))
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
