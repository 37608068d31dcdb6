//! How a tokenizer cuts text, told from its rules: which of llama.cpp's pre-tokenizers does exactly the same.
//!
//! llama.cpp's converter tells them by a hash of the tokens of a test text, which names a model; here the rules
//! themselves are compared, so that an unknown model with known rules is written, and unknown rules are refused.

use serde_json::Value;

use crate::checkpoint::vocabulary::{Rules, refused};
use crate::error::Result;

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes, merged within the pieces that the pre-tokenizer of this name cuts.
    Bytes(&'static str),
    /// Characters, merged over the whole text; bytes where there is no token for one.
    Pieces,
    /// The same of the text with a space before it.
    PiecesAfterSpace,
}

impl Kind {
    pub(super) fn has_pieces(self) -> bool {
        !matches!(self, Self::Bytes(_))
    }
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A step of a pre-tokenizer.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Bytes as characters, after a cut as GPT-2 makes it.
    CutToBytes,
    /// Bytes as characters.
    ToBytes,
    /// A cut at every match of a pattern, the match a piece of its own.
    Isolated(&'a str),
    /// A cut at every digit.
    Digits,
    /// A space in front, and spaces as `▁`.
    Spaces { before: bool },
}

/// The kind of a tokenizer.json.
///
/// # Errors
/// What keeps llama.cpp from doing the same.
pub(super) fn kind(rules: &Rules) -> Result<Kind> {
    let model = &rules.model;
    let is_bpe = model.kind.as_deref().unwrap_or("BPE") == "BPE" && model.merges.is_some();
    if !is_bpe {
        let kind = model.kind.as_deref().unwrap_or("unnamed");
        return Err(refused(format!("its model is {kind}, not BPE with merges")));
    }
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if affixes.iter().any(|affix| affix.as_deref().is_some_and(|affix| !affix.is_empty())) {
        return Err(refused("it marks the ends of words"));
    }
    let steps = steps(rules.pre_tokenizer.as_ref())?;
    if steps.iter().any(|step| matches!(step, Step::CutToBytes | Step::ToBytes)) {
        return bytes(rules, &steps);
    }
    pieces(rules, &steps)
}

fn bytes(rules: &Rules, steps: &[Step<'_>]) -> Result<Kind> {
    match kind_of(rules.normalizer.as_ref()) {
        // llama.cpp does not compose characters; texts in use are composed already.
        None | Some("NFC") => {}
        Some(other) => return Err(refused(format!("it changes text by {other} first"))),
    }
    let pre = match (steps, rules.model.ignore_merges) {
        ([Step::CutToBytes], false) => "gpt-2",
        ([Step::Digits, Step::CutToBytes], false) => "smollm",
        ([Step::Isolated(LLAMA_3), Step::ToBytes], true) => "llama-bpe",
        ([Step::Isolated(LLAMA_3), Step::ToBytes], false) => "dbrx",
        ([Step::Isolated(QWEN_2), Step::ToBytes], false) => "qwen2",
        _ => return Err(refused("llama.cpp has no pre-tokenizer known here that cuts text alike")),
    };
    Ok(Kind::Bytes(pre))
}

fn pieces(rules: &Rules, steps: &[Step<'_>]) -> Result<Kind> {
    if !rules.model.byte_fallback {
        return Err(refused("it has neither bytes nor tokens for them"));
    }
    let normalized = spaces(rules.normalizer.as_ref());
    let before = match (steps, normalized) {
        ([], Some(before)) => before,
        ([Step::Spaces { before }], None) if rules.normalizer.is_none() => *before,
        _ => return Err(refused("its rules for spaces are not those of sentencepiece")),
    };
    Ok(if before { Kind::PiecesAfterSpace } else { Kind::Pieces })
}

/// Whether a normalizer puts a space before the text, if all it does besides is to write spaces as `▁`.
fn spaces(normalizer: Option<&Value>) -> Option<bool> {
    let normalizer = normalizer?;
    let one = std::slice::from_ref(normalizer);
    let all = normalizer["normalizers"].as_array().map_or(one, Vec::as_slice);
    let (mut before, mut replaced) = (false, false);
    for step in all {
        match step["type"].as_str()? {
            "Prepend" if step["prepend"] == "▁" => before = true,
            "Replace" if step["pattern"]["String"] == " " && step["content"] == "▁" => {
                replaced = true;
            }
            _ => return None,
        }
    }
    replaced.then_some(before)
}

fn kind_of(rule: Option<&Value>) -> Option<&str> {
    rule.map(|rule| rule["type"].as_str().unwrap_or("a rule without a type"))
}

fn steps(pre_tokenizer: Option<&Value>) -> Result<Vec<Step<'_>>> {
    let Some(rule) = pre_tokenizer else { return Ok(Vec::new()) };
    let Some(all) = rule["pretokenizers"].as_array() else { return Ok(vec![step(rule)?]) };
    all.iter().map(step).collect()
}

fn step(rule: &Value) -> Result<Step<'_>> {
    let unknown = || refused(format!("llama.cpp does not cut text by {rule}"));
    let is = |key: &str, default: bool| rule[key].as_bool().unwrap_or(default);
    match rule["type"].as_str() {
        Some("ByteLevel") if is("add_prefix_space", true) => {
            Err(refused("it puts a space before every text, and llama.cpp none before bytes"))
        }
        Some("ByteLevel") if is("use_regex", true) => Ok(Step::CutToBytes),
        Some("ByteLevel") => Ok(Step::ToBytes),
        Some("Digits") if is("individual_digits", false) => Ok(Step::Digits),
        Some("Split") if rule["behavior"] == "Isolated" && !is("invert", false) => {
            rule["pattern"]["Regex"].as_str().map(Step::Isolated).ok_or_else(unknown)
        }
        Some("Metaspace") if rule["replacement"] == "▁" && !is("split", true) => {
            let scheme = rule["prepend_scheme"].as_str().unwrap_or("always");
            Ok(Step::Spaces { before: scheme != "never" })
        }
        _ => Err(unknown()),
    }
}
