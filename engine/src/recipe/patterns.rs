//! Regular expressions of other tools, tried on names of layers within bounds of time.

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// The longest expression.
const MAX_CHARS: usize = 1 << 16;
/// Steps after which an expression with look-around is given up on.
const MAX_STEPS: usize = 100_000;
/// Bytes of a compiled expression.
const MAX_COMPILED_BYTES: usize = 4 << 20;

/// An expression and how it is tried.
#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    Plain(Plain),
    Regex(Box<Regex>),
}

impl Pattern {
    /// Matches from the beginning, as Python's `re.match`.
    pub(super) fn at_start(text: &str) -> Result<Self> {
        Self::new(text, format!(r"\A(?:{text})"), true)
    }

    /// Matches anywhere, as `re.search` and `std::regex_search`.
    pub(super) fn anywhere(text: &str) -> Result<Self> {
        Self::new(text, text.to_owned(), false)
    }

    fn new(text: &str, expression: String, at_start: bool) -> Result<Self> {
        if text.chars().count() > MAX_CHARS {
            let what = format!("an expression of {} characters is not read", text.len());
            return Err(Error::plan(what, "break it up into several"));
        }
        if let Some(plain) = Plain::new(text, at_start) {
            return Ok(Self { text: text.to_owned(), matcher: Matcher::Plain(plain) });
        }
        let regex = RegexBuilder::new(&expression)
            .backtrack_limit(MAX_STEPS)
            .delegate_size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|error| {
                let why = error.to_string().replace('\n', " ");
                Error::plan(
                    format!("the expression {text:?} is not understood ({})", why.trim()),
                    "correct the expression",
                )
            })?;
        Ok(Self { text: text.to_owned(), matcher: Matcher::Regex(Box::new(regex)) })
    }

    /// Whether it is an expression that takes long to try.
    pub(super) fn is_costly(&self) -> bool {
        matches!(self.matcher, Matcher::Regex(_))
    }

    /// Whether it matches a name.
    pub(super) fn matches(&self, name: &str) -> Result<bool> {
        match &self.matcher {
            Matcher::Plain(plain) if name.is_ascii() => Ok(plain.matches(name.as_bytes())),
            Matcher::Plain(plain) => {
                // One byte a letter, as the pattern has; none of its own bytes is this one.
                let byte = |letter: char| u8::try_from(letter).unwrap_or(u8::MAX);
                Ok(plain.matches(&name.chars().map(byte).collect::<Vec<u8>>()))
            }
            Matcher::Regex(regex) => regex.is_match(name).map_err(|_too_long| {
                Error::plan(
                    format!("the expression {:?} takes too long on {name}", self.text),
                    "write it without nested repetitions",
                )
            }),
        }
    }
}

/// Letters and dots, perhaps tied to the beginning or the end: what most lists of tensors consist of.
#[derive(Debug)]
struct Plain {
    from_start: bool,
    to_end: bool,
    /// One byte each; `None` stands for any.
    bytes: Vec<Option<u8>>,
}

impl Plain {
    fn new(text: &str, at_start: bool) -> Option<Self> {
        let after_start = text.strip_prefix('^');
        let body = after_start.unwrap_or(text);
        let before_end = body.strip_suffix('$').filter(|body| !body.ends_with('\\'));
        let body = before_end.unwrap_or(body);
        let mut bytes = Vec::with_capacity(body.len());
        let mut rest = body.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'.' => None,
                b'\\' => Some(rest.next().filter(|&next| next == b'.')?),
                b'_' | b'-' | b'/' => Some(byte),
                _ if byte.is_ascii_alphanumeric() => Some(byte),
                _ => return None,
            });
        }
        Some(Self {
            from_start: at_start || after_start.is_some(),
            to_end: before_end.is_some(),
            bytes,
        })
    }

    fn matches(&self, name: &[u8]) -> bool {
        let fits = |piece: &[u8]| {
            self.bytes.iter().zip(piece).all(|(want, &have)| want.is_none_or(|want| want == have))
        };
        let Some(last) = name.len().checked_sub(self.bytes.len()) else {
            return false;
        };
        let first = if self.to_end { last } else { 0 };
        let last = if self.from_start { 0 } else { last };
        (first..=last).any(|at| fits(&name[at..at + self.bytes.len()]))
    }
}

/// `text` as an expression that matches only itself.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if r".\+*?()|[]{}^$".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_patterns_match_as_expressions_do() {
        let names =
            ["blk.1.attn_q.weight", "blk.11.attn_q.weight", "output.weight", "blk-1.attn_q", ""];
        let texts = [
            "attn_q",
            "^output",
            r"blk\.1\.attn_q",
            "blk.1.",
            "weight$",
            "^blk.1.attn_q.weight$",
            r"^blk\.1",
            "",
            "^",
            "$",
            "^$",
            "blk.1..",
            r"attn_q\.weight$",
        ];
        for text in texts {
            for at_start in [false, true] {
                let pattern =
                    if at_start { Pattern::at_start(text) } else { Pattern::anywhere(text) };
                let pattern = pattern.unwrap();
                assert!(!pattern.is_costly(), "{text}");
                let prefix = if at_start { r"\A" } else { "" };
                let regex = Regex::new(&format!("{prefix}(?:{text})")).unwrap();
                for name in names {
                    let expected = regex.is_match(name).unwrap();
                    assert_eq!(pattern.matches(name).unwrap(), expected, "{text} on {name}");
                }
            }
        }
    }

    #[test]
    fn look_arounds_work_and_have_a_limit() {
        let pattern = Pattern::at_start(r"(?!.*lm_head).*proj$").unwrap();
        assert!(pattern.matches("model.q_proj").unwrap());
        assert!(!pattern.matches("lm_head.q_proj").unwrap());
        let endless = Pattern::anywhere(r"^(?=(a+)+$)\1b").unwrap();
        let result = endless.matches(&format!("{}!", "a".repeat(64)));
        assert!(result.is_err() || result.is_ok_and(|found| !found));
        assert!(Pattern::anywhere("(").is_err());
        assert!(Pattern::anywhere(&"a".repeat(MAX_CHARS + 1)).is_err());
    }
}
