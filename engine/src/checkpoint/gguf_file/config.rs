//! The keys of a GGUF file in the words of config.json.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::disk::Source;
use crate::error::{Error, Result};
use crate::format::gguf::{self, Header, TensorInfo};
use crate::tensor::{DType, Decoder};

/// The tensor of what rotary frequencies are divided by.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
/// The most frequencies of a head.
const MAX_DIVISORS: u64 = 1 << 12;

/// Architectures that are read: llama.cpp's names, and classes of transformers.
const KNOWN: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

pub(super) fn refused(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::plan(
        format!("{} cannot be run: {what}", path.display()),
        "open the safetensors checkpoint it was made from",
    )
}

/// Whether tensors of this architecture have the names and the order of the source here.
pub(super) fn is_known(architecture: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == architecture)
}

/// A part of the model with its header.
pub(super) type Part = (Source, Header);

/// The tensor of this name, with the part it lies in.
fn find<'p>(parts: &'p [Part], name: &str) -> Option<(&'p Part, &'p TensorInfo)> {
    let within = |part: &'p Part| {
        let info = part.1.tensors.iter().find(|info| info.name == name)?;
        Some((part, info))
    };
    parts.iter().find_map(within)
}

/// A config.json of the keys of the first part.
///
/// # Errors
/// [`Error::Plan`] for another architecture, a key that is missing or one that is not understood.
pub(super) fn of(parts: &[Part]) -> Result<Value> {
    let (source, header) = parts.first().ok_or_else(|| refused(Path::new(""), "it is no file"))?;
    let path = source.path();
    let name = header.text("general.architecture").unwrap_or("unnamed");
    let class = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, class)| class);
    let class = class.ok_or_else(|| {
        let known: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
        refused(
            path,
            format!("its architecture is {name}, and those read are {}", known.join(", ")),
        )
    })?;
    if header.metadata.contains_key(&format!("{name}.expert_count")) {
        return Err(refused(path, "it is a mixture of experts"));
    }
    let has = |tensor: &str| find(parts, tensor).is_some();
    let mut config = Map::new();
    config.insert("architectures".to_owned(), json!([class]));
    config.insert("model_type".to_owned(), json!(name));
    let rows = find(parts, "token_embd.weight").map(|(_, info)| info);
    numbers((header, rows), name, &mut config)
        .ok_or_else(|| refused(path, "its keys are not complete"))?;
    config.insert("tie_word_embeddings".to_owned(), json!(!has("output.weight")));
    config.insert("attention_bias".to_owned(), json!(has("blk.0.attn_output.bias")));
    config.insert("mlp_bias".to_owned(), json!(has("blk.0.ffn_gate.bias")));
    config.insert("rope_scaling".to_owned(), scaling((path, header), find(parts, DIVISORS), name)?);
    Ok(Value::Object(config))
}

fn real(header: &Header, key: &str) -> Option<f64> {
    match header.metadata.get(key)? {
        gguf::Value::Float(value) => Some(*value),
        _ => None,
    }
}

fn numbers(
    (header, embedding): (&Header, Option<&TensorInfo>),
    name: &str,
    config: &mut Map<String, Value>,
) -> Option<()> {
    let number = |key: &str| header.unsigned(&format!("{name}.{key}"));
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
    put("hidden_size", json!(hidden));
    put("num_attention_heads", json!(heads));
    put("num_key_value_heads", json!(number("attention.head_count_kv").unwrap_or(heads)));
    let head = number("attention.key_length").or_else(|| hidden.checked_div(heads))?;
    put("head_dim", json!(head));
    put("num_hidden_layers", json!(number("block_count")?));
    put("intermediate_size", json!(number("feed_forward_length")?));
    put("max_position_embeddings", json!(number("context_length")?));
    put("vocab_size", json!(embedding?.extents.get(1)?));
    let epsilon = real(header, &format!("{name}.attention.layer_norm_rms_epsilon"))?;
    put("rms_norm_eps", json!(epsilon));
    let base = real(header, &format!("{name}.rope.freq_base")).unwrap_or(1e4);
    put("rope_theta", json!(base));
    put("hidden_act", json!("silu"));
    Some(())
}

/// Rotary scaling: even, by `YaRN`, or by divisors of each frequency.
fn scaling(
    (path, header): (&Path, &Header),
    found: Option<(&Part, &TensorInfo)>,
    name: &str,
) -> Result<Value> {
    let key = |key: &str| format!("{name}.rope.scaling.{key}");
    let factor = real(header, &key("factor"));
    match (header.text(&key("type")), found) {
        (None | Some("none"), None) => Ok(Value::Null),
        (Some("linear"), None) => Ok(json!({"rope_type": "linear", "factor": factor})),
        (Some("yarn"), None) => {
            let read = |name: &str| real(header, &key(name));
            let factor = factor.ok_or_else(|| refused(path, "its rotary scaling has no factor"))?;
            let original = header.unsigned(&key("original_context_length"));
            let temperature = 0.1 * factor.max(1.0).ln() + 1.0;
            let table = [
                ("rope_type", Some(json!("yarn"))),
                ("factor", Some(json!(factor))),
                ("original_max_position_embeddings", original.map(|tokens| json!(tokens))),
                ("beta_fast", read("yarn_beta_fast").map(|turns| json!(turns))),
                ("beta_slow", read("yarn_beta_slow").map(|turns| json!(turns))),
                ("attention_factor", read("attn_factor").map(|by| json!(by * temperature))),
            ];
            let said = table.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            Ok(Value::Object(said.collect()))
        }
        (None | Some("none"), Some(((source, of), info))) => {
            let count = info.elements().filter(|&n| n <= MAX_DIVISORS && info.kind == 0);
            let count = count.ok_or_else(|| refused(path, "its rope_freqs make no sense"))?;
            let begin = of.data + info.offset;
            let mut divisors = vec![0.0_f32; count as usize];
            let bytes = source.bytes(begin..begin + 4 * count)?;
            if let Some(decoder) = Decoder::new(DType::F32) {
                decoder.f32s(bytes, &mut divisors);
            }
            // The rule of LongRoPE with one set of factors and no other change.
            Ok(json!({
                "rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                "attention_factor": 1.0,
            }))
        }
        (Some(other), _) => Err(refused(path, format!("its rotary scaling is {other}"))),
    }
}
