//! Special tokens: what begins and ends a text, and which of them are added to every one.

use serde_json::Value;

use crate::checkpoint::vocabulary::{Rules, Vocabulary, refused};
use crate::error::Result;
use crate::format::gguf_writer::{NewValue, Pairs};

/// Ids of special tokens, and which are added.
pub(super) struct Ends {
    begin: Option<u32>,
    end: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    adds_begin: bool,
    adds_end: bool,
}

impl Ends {
    /// What tokenizer.json adds decides; `tokenizer_config.json` and then config.json say which ids there are.
    pub(super) fn of(
        rules: &Rules,
        settings: &Value,
        config: Option<&Value>,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let rows = vocabulary.tokens.len() as u64;
        let id_of = |token: &str| {
            let added = rules.added_tokens.iter().find(|added| added.content == token);
            let normal = || vocabulary.ids.get(token).map(|&id| u64::from(id));
            let id = added.map(|added| added.id).or_else(normal)?;
            if id < rows { u32::try_from(id).ok() } else { None }
        };
        let (first, last) = added(rules.post_processor.as_ref())?;
        let named = |key: &str| {
            let value = &settings[key];
            id_of(value.as_str().or_else(|| value["content"].as_str())?)
        };
        let numbered = |key: &str| {
            let value = &config?[key];
            let id = value.as_u64().or_else(|| value[0].as_u64())?;
            if id < rows { u32::try_from(id).ok() } else { None }
        };
        let known = |token: Option<&str>| match token {
            None => Ok(None),
            Some(token) => {
                let unknown = || refused(format!("it adds {token:?}, which is no token"));
                id_of(token).map(Some).ok_or_else(unknown)
            }
        };
        let (first, last) = (known(first)?, known(last)?);
        let unknown = rules.model.unk_token.as_deref().and_then(id_of);
        Ok(Self {
            begin: first.or_else(|| named("bos_token")).or_else(|| numbered("bos_token_id")),
            end: last.or_else(|| named("eos_token")).or_else(|| numbered("eos_token_id")),
            unknown: unknown.or_else(|| named("unk_token")),
            padding: named("pad_token").or_else(|| numbered("pad_token_id")),
            adds_begin: first.is_some(),
            adds_end: last.is_some(),
        })
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        for (key, id) in [
            ("tokenizer.ggml.bos_token_id", self.begin),
            ("tokenizer.ggml.eos_token_id", self.end),
            ("tokenizer.ggml.unknown_token_id", self.unknown),
            ("tokenizer.ggml.padding_token_id", self.padding),
        ] {
            if let Some(id) = id {
                pairs.push(key, &NewValue::U32(id));
            }
        }
        pairs.push("tokenizer.ggml.add_bos_token", &NewValue::Bool(self.adds_begin));
        pairs.push("tokenizer.ggml.add_eos_token", &NewValue::Bool(self.adds_end));
    }
}

/// The tokens that a post-processor puts before and after a text.
fn added(processor: Option<&Value>) -> Result<(Option<&str>, Option<&str>)> {
    let Some(processor) = processor else { return Ok((None, None)) };
    match processor["type"].as_str() {
        Some("ByteLevel") => Ok((None, None)),
        Some("TemplateProcessing") => template(processor),
        Some("Sequence") => {
            let all = processor["processors"].as_array().map_or(&[][..], Vec::as_slice);
            all.iter().try_fold((None, None), |(first, last), one| {
                let (before, after) = added(Some(one))?;
                Ok((before.or(first), after.or(last)))
            })
        }
        other => Err(refused(format!(
            "what it adds to a text is said by {}, which llama.cpp does not follow",
            other.unwrap_or("a rule without a type")
        ))),
    }
}

/// `[special] text [special]`: at most one on either side.
fn template(processor: &Value) -> Result<(Option<&str>, Option<&str>)> {
    let parts = processor["single"].as_array().map_or(&[][..], Vec::as_slice);
    let special = |part: &Value| part.get("SpecialToken").is_some();
    let token = |part: usize| parts[part]["SpecialToken"]["id"].as_str();
    match parts {
        [text] if !special(text) => Ok((None, None)),
        [first, text] if special(first) && !special(text) => Ok((token(0), None)),
        [text, last] if !special(text) && special(last) => Ok((None, token(1))),
        [first, text, last] if special(first) && !special(text) && special(last) => {
            Ok((token(0), token(2)))
        }
        _ => Err(refused("it adds more than one token before or after a text")),
    }
}
