//! The filter of the layer list: words, patterns with `*`, and conditions as `kurtosis > 10`.

use crate::document::metrics::{METRICS, find};
use crate::document::model::Model;

/// One part of a filter; all must hold.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    /// The name contains it.
    Word(String),
    /// The whole name matches it; `*` stands for any characters, `?` for one.
    Pattern(String),
    /// A number compares so with a limit.
    Condition(Quantity, Comparison, f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    Metric(&'static str),
    Block,
    Expert,
    Parameters,
    SourceBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

/// Operators, the longer before those they begin with.
const OPERATORS: [(&str, Comparison); 8] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::Unequal),
    ("==", Comparison::Equal),
    ("≥", Comparison::AtLeast),
    (">", Comparison::More),
    ("<", Comparison::Less),
    ("=", Comparison::Equal),
];

/// Units of numbers, the longer before those they end in.
const UNITS: [(&str, f64); 8] = [
    ("%", 0.01),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("k", 1e3),
    ("m", 1e6),
    ("g", 1e9),
    ("b", 1.0),
];

/// A filter that was understood.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

impl Filter {
    /// Understands a text.
    ///
    /// # Errors
    /// A sentence for a condition on an unknown quantity or with no number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = joined(text);
        let mut words: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let is_unit = UNITS.iter().any(|(unit, _)| *unit == word);
            match words.last_mut() {
                Some(last)
                    if is_unit
                        && last.contains(['<', '>', '='])
                        && last.ends_with(|c: char| c.is_ascii_digit()) =>
                {
                    last.push_str(word);
                }
                _ => words.push(word.to_owned()),
            }
        }
        let terms = words.iter().map(|word| term(word)).collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether a tensor passes. A value that is not known yet passes no condition.
    pub fn passes(&self, model: &Model, tensor: usize) -> bool {
        if self.terms.is_empty() {
            return true;
        }
        let name = model.checkpoint.tensors()[tensor].name.to_lowercase();
        let short = model.short_name(tensor).to_lowercase();
        self.terms.iter().all(|term| match term {
            Term::Word(word) => name.contains(word) || short.contains(word),
            Term::Pattern(pattern) => matches(pattern, &name) || matches(pattern, &short),
            Term::Condition(quantity, comparison, limit) => {
                quantity.value(model, tensor).is_some_and(|value| comparison.holds(value, *limit))
            }
        })
    }

    /// Whether it compares this metric.
    pub fn names(&self, id: &str) -> bool {
        let is_named = |term: &Term| matches!(term, Term::Condition(Quantity::Metric(metric), ..) if *metric == id);
        self.terms.iter().any(is_named)
    }
}

impl Quantity {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "block" => Self::Block,
            "expert" => Self::Expert,
            "parameters" | "weights" => Self::Parameters,
            "source-bytes" => Self::SourceBytes,
            "size" => Self::Metric("bytes"),
            other => Self::Metric(find(&other.replace('_', "-"))?.id),
        })
    }

    fn value(self, model: &Model, tensor: usize) -> Option<f64> {
        let place = model.checkpoint.tensors()[tensor].place;
        match self {
            Self::Metric(id) => (find(id)?.value)(model, tensor),
            Self::Block => place.block.map(f64::from),
            Self::Expert => place.expert.map(f64::from),
            Self::Parameters => Some(model.checkpoint.tensors()[tensor].parameters() as f64),
            Self::SourceBytes => Some(model.checkpoint.tensors()[tensor].bytes() as f64),
        }
    }
}

impl Comparison {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Less => value < limit,
            Self::AtMost => value <= limit,
            Self::More => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
            Self::Unequal => value != limit,
        }
    }
}

/// The text without spaces around operators, so that a condition is one word.
fn joined(text: &str) -> String {
    let mut out = String::new();
    for character in text.to_lowercase().chars() {
        let is_operator = |c: char| "<>=!≥".contains(c);
        if is_operator(character) {
            out.truncate(out.trim_end().len());
        }
        let follows_operator = out.chars().last().is_some_and(is_operator);
        if !(character.is_whitespace() && follows_operator) {
            out.push(character);
        }
    }
    out
}

fn term(word: &str) -> Result<Term, String> {
    let operator = OPERATORS.iter().find_map(|(sign, comparison)| {
        word.split_once(sign).map(|(name, number)| (name, number, *comparison))
    });
    let Some((name, number, comparison)) = operator else {
        let is_pattern = word.contains(['*', '?']);
        return Ok(if is_pattern { Term::Pattern(word.into()) } else { Term::Word(word.into()) });
    };
    let quantity = Quantity::named(name).ok_or_else(|| {
        let known: Vec<&str> = METRICS.iter().map(|metric| metric.id).collect();
        format!(
            "“{name}” is no quantity; there are {}, block, expert, parameters",
            known.join(", ")
        )
    })?;
    let limit = number_of(number).ok_or_else(|| {
        format!("“{name}” is compared with no number; write {name} > 10, or 5 %, or 1.5 MB")
    })?;
    Ok(Term::Condition(quantity, comparison, limit))
}

/// A number with an optional unit: `10`, `1e-3`, `5%`, `1.5mb`, `7k`.
fn number_of(text: &str) -> Option<f64> {
    let with_unit = || {
        let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
        Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor)
    };
    text.parse().ok().or_else(with_unit).filter(|number| number.is_finite())
}

/// Whether all of `name` matches a pattern of `*` and `?`. Linear in practice: on a mismatch the last `*` takes one
/// more character.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_patterns_and_conditions_are_told_apart() {
        let filter = Filter::parse("down *.3.* Kurtosis > 10 bytes<=1.5 MB rank>=50%").unwrap();
        assert!(filter.terms.contains(&Term::Word("down".into())));
        assert!(filter.terms.contains(&Term::Pattern("*.3.*".into())));
        let condition =
            |id, comparison, limit| Term::Condition(Quantity::Metric(id), comparison, limit);
        assert!(filter.terms.contains(&condition("kurtosis", Comparison::More, 10.0)));
        assert!(filter.terms.contains(&condition("rank", Comparison::AtLeast, 0.5)));
        assert!(filter.names("kurtosis") && !filter.names("zeros"));
    }

    #[test]
    fn a_unit_may_stand_apart_from_its_number() {
        let filter = Filter::parse("bytes <= 1.5 MB").unwrap();
        let wanted = Term::Condition(Quantity::Metric("bytes"), Comparison::AtMost, 1.5e6);
        assert_eq!(filter.terms, [wanted]);
    }

    #[test]
    fn mistakes_are_said_in_a_sentence() {
        let unknown = Filter::parse("curtosis > 10").unwrap_err();
        assert!(unknown.contains("curtosis") && unknown.contains("kurtosis"), "{unknown}");
        assert!(Filter::parse("kurtosis >").unwrap_err().contains("no number"));
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("*.down_proj.weight", "model.layers.3.mlp.down_proj.weight"));
        assert!(matches("a*b?d*", "aXXbbcd.."));
        assert!(!matches("down", "model.down"));
        assert!(!matches("*.down", "model.down.weight"));
        assert!(matches("*", ""));
    }
}
