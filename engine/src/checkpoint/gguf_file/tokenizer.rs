//! The vocabulary of a GGUF file as a tokenizer.json.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::checkpoint::gguf_file::config::refused;
use crate::disk::Source;
use crate::error::{Error, Result};
use crate::format::gguf::{self, Array, Header};
use crate::format::gguf_values;

/// Types of tokens.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens with their types.
struct Tokens {
    tokens: Vec<String>,
    types: Vec<i32>,
}

impl Tokens {
    /// Ids by token, those that are unused or added apart; and the added ones.
    fn split(&self) -> (Map<String, Value>, Vec<Value>) {
        let (mut vocab, mut added) = (Map::new(), Vec::new());
        for (id, (token, kind)) in self.tokens.iter().zip(&self.types).enumerate() {
            match *kind {
                UNUSED => {}
                CONTROL | USER_DEFINED | UNKNOWN => {
                    vocab.insert(token.clone(), json!(id));
                    added.push(json!({
                        "id": id, "content": token, "special": *kind != USER_DEFINED,
                        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    }));
                }
                _ => {
                    vocab.insert(token.clone(), json!(id));
                }
            }
        }
        (vocab, added)
    }
}

/// A tokenizer.json.
///
/// # Errors
/// [`Error::Plan`] for a kind of tokenizer that is not known here, [`Error::Malformed`] for lists that do not fit.
pub(super) fn of(source: &Source, header: &Header) -> Result<Vec<u8>> {
    let list = |key: &str| match header.metadata.get(&format!("tokenizer.ggml.{key}")) {
        Some(gguf::Value::Array(list)) => Ok(list),
        _ => Err(refused(source.path(), format!("it has no list tokenizer.ggml.{key}"))),
    };
    let tokens = gguf_values::texts(source, list("tokens")?)?;
    let types = gguf_values::i32s(source, list("token_type")?)?;
    if tokens.len() != types.len() {
        return Err(refused(source.path(), "it has more or fewer types than tokens"));
    }
    let tokens = Tokens { tokens, types };
    let mut rules = match header.text("tokenizer.ggml.model") {
        Some("gpt2") => bytes(source, header, &tokens, list("merges")?)?,
        Some("llama") => pieces(source, header, &tokens, list("scores")?)?,
        other => {
            let name = other.unwrap_or("unnamed");
            return Err(refused(source.path(), format!("its tokenizer is {name}")));
        }
    };
    rules["post_processor"] = begin(header, &tokens);
    serde_json::to_vec(&rules)
        .map_err(|error| Error::Unsupported { what: format!("its tokenizer ({error})") })
}

fn flag(header: &Header, key: &str, default: bool) -> bool {
    match header.metadata.get(key) {
        Some(gguf::Value::Bool(value)) => *value,
        _ => default,
    }
}

/// The token that is put before a text, if one is.
fn begin(header: &Header, tokens: &Tokens) -> Value {
    let adds = flag(header, "tokenizer.ggml.add_bos_token", false);
    let id = header.unsigned("tokenizer.ggml.bos_token_id").filter(|_| adds);
    let token = id.and_then(|id| tokens.tokens.get(usize::try_from(id).ok()?));
    let (Some(id), Some(token)) = (id, token) else { return Value::Null };
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let mut known = Map::new();
    known.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
    json!({
        "type": "TemplateProcessing", "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), text("B", 1)], "special_tokens": known,
    })
}

fn bytes(source: &Source, header: &Header, tokens: &Tokens, merges: &Array) -> Result<Value> {
    let byte_level = |cut: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cut});
    let cut = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let (pre, ignores) = match header.text("tokenizer.ggml.pre") {
        Some("gpt-2") => (byte_level(true), false),
        Some("smollm") => {
            (json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), false)
        }
        Some("llama-bpe") => (cut(LLAMA_3), true),
        Some("dbrx") => (cut(LLAMA_3), false),
        Some("qwen2") => (cut(QWEN_2), false),
        other => {
            let name = other.unwrap_or("unnamed");
            return Err(refused(source.path(), format!("its pre-tokenizer is {name}")));
        }
    };
    let (vocab, added) = tokens.split();
    let merges = gguf_values::texts(source, merges)?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre, "decoder": byte_level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": ignores, "vocab": vocab, "merges": merges},
    }))
}

/// Pieces are merged in the order of their scores, each in every way that two others make it.
fn pieces(source: &Source, header: &Header, tokens: &Tokens, scores: &Array) -> Result<Value> {
    let scores = gguf_values::f32s(source, scores)?;
    if scores.len() != tokens.tokens.len() {
        return Err(refused(source.path(), "it has more or fewer scores than tokens"));
    }
    let normal = tokens.tokens.iter().zip(&tokens.types).enumerate();
    let ids: BTreeMap<&str, usize> = normal
        .filter(|(_, (_, kind))| **kind == 1)
        .map(|(id, (token, _))| (token.as_str(), id))
        .collect();
    let mut merges: Vec<(usize, &str, &str)> = Vec::new();
    for (token, id) in &ids {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(known.map(|(left, right)| (*id, left, right)));
    }
    merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.0.cmp(&b.0)));
    let merges: Vec<[&str; 2]> = merges.iter().map(|(_, left, right)| [*left, *right]).collect();
    let (vocab, added) = tokens.split();
    let unknown = tokens.types.iter().position(|kind| *kind == UNKNOWN);
    let unknown = unknown.map(|id| tokens.tokens[id].as_str());
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if flag(header, "tokenizer.ggml.add_space_prefix", true) {
        let before = json!({"type": "Prepend", "prepend": "▁"});
        json!({"type": "Sequence", "normalizers": [before, spaces]})
    } else {
        spaces
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges},
    }))
}
