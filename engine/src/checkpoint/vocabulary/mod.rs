//! The tokenizer of a checkpoint in the words of GGUF. In: tokenizer.json, `tokenizer_config.json`, the chat template.
//! Out: the pairs under `tokenizer.`. What llama.cpp would turn into other tokens is refused, never written.
//!
//! Two kinds are known: byte-level BPE (`gpt2`), and the BPE of pieces that sentencepiece trains (`llama`). Sources:
//! conversion/base.py and src/llama-vocab.cpp of llama.cpp, 2026-08.

mod ends;
mod pieces;
mod rules;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::vocabulary::ends::Ends;
use crate::checkpoint::vocabulary::rules::Kind;
use crate::checkpoint::{Checkpoint, Role};
use crate::disk;
use crate::error::{Error, Result};
use crate::format::gguf_writer::{NewValue, Pairs};

/// The largest tokenizer.json that is read, and the largest of the texts beside it.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
const MAX_SIDE_BYTES: u64 = 16 << 20;
/// What to do about a tokenizer that cannot be written.
const MEND: &str =
    "convert this model with llama.cpp's own convert_hf_to_gguf.py, or choose another target";

/// Types of tokens, as llama.cpp numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A tokenizer.json, as far as it is needed here.
#[derive(Deserialize)]
struct Rules {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Value,
    merges: Option<Vec<Merge>>,
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

/// What is known once the rules were read.
struct Vocabulary {
    kind: Kind,
    /// Ids by token, added ones apart.
    ids: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    tokens: Vec<String>,
    types: Vec<i32>,
}

/// Why a vocabulary cannot be written: what is wrong, and what to do.
pub(super) type Refusal = (String, String);

impl Checkpoint {
    /// The pairs under `tokenizer.` of a GGUF file: tokens, their types and scores, merges, how text is cut, special
    /// tokens, chat template. Read once, then remembered.
    ///
    /// # Errors
    /// [`Error::Plan`] without a tokenizer.json, or for one that llama.cpp would not follow to the letter.
    pub fn gguf_vocabulary(&self) -> Result<&Pairs> {
        let read = || {
            pairs(self).map_err(|error| {
                let mend = error.hint().unwrap_or_else(|| MEND.to_owned());
                (error.to_string(), mend)
            })
        };
        let known = self.vocabulary.get_or_init(read);
        known.as_ref().map_err(|(what, mend)| Error::plan(what.clone(), mend.clone()))
    }

    /// Rows of the table that ids look up.
    fn embedding_rows(&self) -> Option<usize> {
        let is_table = |tensor: &&crate::checkpoint::Tensor| {
            tensor.place.role == Role::Embedding
                && tensor.place.block.is_none()
                && tensor.shape.0.len() == 2
        };
        self.tensors.iter().find(is_table).map(|tensor| tensor.shape.0[0])
    }

    /// A file beside the weights.
    fn beside(&self, name: &str) -> Option<&Path> {
        let file = self.side_files.iter().find(|file| file.path.ends_with(name))?;
        Some(&file.path)
    }
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::plan(format!("its tokenizer cannot be written as GGUF: {what}"), MEND)
}

fn pairs(checkpoint: &Checkpoint) -> Result<Pairs> {
    let path = checkpoint.beside("tokenizer.json").ok_or_else(|| {
        Error::plan(
            format!(
                "{} has no tokenizer.json, which a GGUF file holds",
                checkpoint.path().display()
            ),
            "put the tokenizer.json of the model beside its weights",
        )
    })?;
    let rows = checkpoint.embedding_rows().ok_or_else(|| refused("the model has no embedding"))?;
    let bytes = disk::read_bytes(path, MAX_TOKENIZER_BYTES)?;
    let rules: Rules = serde_json::from_slice(&bytes)
        .map_err(|error| Error::malformed("tokenizer.json", path, error.to_string()))?;
    let found = Vocabulary::of(&rules, rows)?;
    let settings = match checkpoint.beside("tokenizer_config.json") {
        Some(path) => json(path)?,
        None => Value::Null,
    };
    let config = checkpoint.config().map(crate::checkpoint::Config::value);
    let ends = Ends::of(&rules, &settings, config, &found)?;
    let mut pairs = Pairs::default();
    found.write(&mut pairs)?;
    ends.write(&mut pairs);
    if let Some(template) = chat_template(checkpoint, &settings)? {
        pairs.push("tokenizer.chat_template", &NewValue::Text(template));
    }
    Ok(pairs)
}

fn json(path: &Path) -> Result<Value> {
    let bytes = disk::read_bytes(path, MAX_SIDE_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::malformed("tokenizer_config.json", path, error.to_string()))
}

/// The template in a file of its own, or the one in the settings; of several, the one called default.
fn chat_template(checkpoint: &Checkpoint, settings: &Value) -> Result<Option<String>> {
    if let Some(path) = checkpoint.beside("chat_template.jinja") {
        return Ok(Some(disk::read_text(path, MAX_SIDE_BYTES)?));
    }
    let found = match &settings["chat_template"] {
        Value::Array(named) => {
            let usual = named.iter().find(|template| template["name"] == "default");
            usual.and_then(|template| template["template"].as_str())
        }
        other => other.as_str(),
    };
    Ok(found.map(str::to_owned))
}

impl Vocabulary {
    /// Tokens of ids 0 to `rows`; ids that stand for none are unused.
    fn of(rules: &Rules, rows: usize) -> Result<Self> {
        let kind = rules::kind(rules)?;
        let model = &rules.model;
        let ids: BTreeMap<String, u32> = serde_json::from_value(model.vocab.clone())
            .map_err(|_other_form| refused("its vocabulary is no table of ids"))?;
        let merges = model.merges.iter().flatten().map(parts).collect::<Result<Vec<_>>>()?;
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; rows];
        for (token, &id) in &ids {
            let place = id as usize;
            if place >= rows {
                return Err(refused(format!(
                    "its ids go up to {id} and more, the embedding has {rows} rows"
                )));
            }
            tokens[place].clone_from(token);
            types[place] = if kind.has_pieces() { pieces::kind(token, model) } else { NORMAL };
        }
        for added in &rules.added_tokens {
            // Tokens for pictures have no row in some models: they are never looked up.
            let Some(place) = usize::try_from(added.id).ok().filter(|&place| place < rows) else {
                continue;
            };
            if types[place] == UNKNOWN {
                continue;
            }
            let is_control = added.special || looks_special(&added.content);
            types[place] = if is_control { CONTROL } else { USER_DEFINED };
            tokens[place] =
                if is_control { added.content.clone() } else { added.content.replace('▁', " ") };
        }
        Ok(Self { kind, ids, merges, tokens, types })
    }

    fn write(&self, pairs: &mut Pairs) -> Result<()> {
        let text = |text: &str| NewValue::Text(text.to_owned());
        let (model, pre) = match self.kind {
            Kind::Bytes(pre) => ("gpt2", pre),
            Kind::Pieces | Kind::PiecesAfterSpace => ("llama", "default"),
        };
        pairs.push("tokenizer.ggml.model", &text(model));
        pairs.push("tokenizer.ggml.pre", &text(pre));
        pairs.push("tokenizer.ggml.tokens", &NewValue::Texts(self.tokens.clone()));
        if let Kind::Bytes(_) = self.kind {
            pairs.push("tokenizer.ggml.token_type", &NewValue::I32s(self.types.clone()));
            let merges = self.merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
            pairs.push("tokenizer.ggml.merges", &NewValue::Texts(merges));
        } else {
            pairs.push("tokenizer.ggml.scores", &NewValue::F32s(pieces::scores(self)?));
            pairs.push("tokenizer.ggml.token_type", &NewValue::I32s(self.types.clone()));
            let space = NewValue::Bool(self.kind == Kind::PiecesAfterSpace);
            pairs.push("tokenizer.ggml.add_space_prefix", &space);
        }
        Ok(())
    }
}

/// Added tokens that llama.cpp treats as control tokens although they are not marked so.
fn looks_special(token: &str) -> bool {
    const NAMES: [&str; 4] = ["<pad>", "<mask>", "<2mass>", "[@BOS@]"];
    const FORMS: [(&str, &str); 3] = [("<|", "|>"), ("<\u{ff5c}", "\u{ff5c}>"), ("<unused", ">")];
    NAMES.contains(&token)
        || FORMS.iter().any(|(begin, end)| token.starts_with(begin) && token.ends_with(end))
}

/// The two tokens of a merge. A GGUF file writes them with a space between.
fn parts(merge: &Merge) -> Result<(String, String)> {
    let (left, right) = match merge {
        Merge::Text(text) => text.split_once(' ').unwrap_or((text, "")),
        Merge::Pair(left, right) => (left.as_str(), right.as_str()),
    };
    if left.is_empty() || right.is_empty() || left.contains(' ') || right.contains(' ') {
        return Err(refused(format!("the merge of {left:?} and {right:?} cannot be told apart")));
    }
    Ok((left.to_owned(), right.to_owned()))
}
