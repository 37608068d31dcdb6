//! The filter of the layer list: words, patterns with `*`, and conditions as `kurtosis > 10` or `eff. rank < 60 %`.
//!
//! A condition names a quantity by its id, its title, or the head of its column, in any case; the first words of a
//! name will do where no other begins so. A bare number has the unit the column shows: `60` is 60 % of a quantity
//! shown in percent, so a share is never written as a fraction of 1.

use crate::document::metrics::{METRICS, Metric, find};
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
const OPERATORS: [(&str, Comparison); 10] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    ("!=", Comparison::Unequal),
    ("==", Comparison::Equal),
    ("≥", Comparison::AtLeast),
    ("≤", Comparison::AtMost),
    ("≠", Comparison::Unequal),
    (">", Comparison::More),
    ("<", Comparison::Less),
    ("=", Comparison::Equal),
];

/// What operators are made of.
const SIGNS: [char; 7] = ['<', '>', '=', '!', '≥', '≤', '≠'];

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
        let lower = text.to_lowercase();
        let pieces = pieces(&lower);
        let (mut terms, mut words) = (Vec::new(), Vec::new());
        let mut rest = pieces.as_slice();
        while let Some((&piece, after)) = rest.split_first() {
            rest = after;
            let Some(comparison) = comparison_of(piece) else {
                words.push(piece);
                continue;
            };
            let (quantity, name) = take_name(&mut words)?;
            let number = after.first().copied().unwrap_or_default();
            let unit = after.get(1).filter(|unit| is_unit(unit));
            let unit = unit.filter(|_| number.ends_with(|c: char| c.is_ascii_digit()));
            let limit = quantity.limit(number, unit.copied().unwrap_or_default());
            let limit = limit.ok_or_else(|| {
                format!("“{name}” is compared with no number; write {name} > 10, or 5 %, or 1.5 MB")
            })?;
            rest = &after[1 + usize::from(unit.is_some())..];
            terms.extend(words.drain(..).map(Term::of_word));
            terms.push(Term::Condition(quantity, comparison, limit));
        }
        terms.extend(words.into_iter().map(Term::of_word));
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

impl Term {
    fn of_word(word: &str) -> Self {
        let is_pattern = word.contains(['*', '?']);
        if is_pattern { Self::Pattern(word.into()) } else { Self::Word(word.into()) }
    }
}

impl Quantity {
    /// Every quantity with its names: the id first, then what is read on screen.
    fn all() -> impl Iterator<Item = (Self, Vec<&'static str>)> {
        let others = [
            (Self::Block, vec!["block"]),
            (Self::Expert, vec!["expert"]),
            (Self::Parameters, vec!["parameters", "weights"]),
            (Self::SourceBytes, vec!["source-bytes"]),
        ];
        let names = |metric: &'static Metric| vec![metric.id, metric.title, metric.short];
        METRICS.iter().map(move |metric| (Self::Metric(metric.id), names(metric))).chain(others)
    }

    /// The quantity called `name`, or the only one with a name that begins with all its words.
    fn named(name: &str) -> Option<Self> {
        let name = spaced(name);
        let having = |fits: &dyn Fn(&str) -> bool| -> Vec<Self> {
            let of = |(_, names): &(Self, Vec<&str>)| names.iter().any(|n| fits(&spaced(n)));
            Self::all().filter(of).map(|(quantity, _)| quantity).collect()
        };
        if let Some(quantity) = having(&|whole| whole == name).first() {
            return Some(*quantity);
        }
        match having(&|whole| whole.starts_with(&format!("{name} ")))[..] {
            [quantity] if !name.is_empty() => Some(quantity),
            _ => None,
        }
    }

    /// A number with an optional unit, in the unit of the values: `10`, `1e-3`, `5 %`, `1.5 mb`, `7k`.
    fn limit(self, number: &str, unit: &str) -> Option<f64> {
        let text = format!("{number}{unit}");
        let bare = if let Self::Metric(id) = self
            && find(id)?.is_percent()
        {
            0.01
        } else {
            1.0
        };
        let with_unit = || {
            let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
            Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor)
        };
        let number = text.parse::<f64>().ok().map(|number| number * bare);
        number.or_else(with_unit).filter(|number| number.is_finite())
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

/// Words and operators, in order.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    for mut word in text.split_whitespace() {
        while let Some(at) = word.find(SIGNS) {
            if at > 0 {
                pieces.push(&word[..at]);
            }
            let of_operators = OPERATORS.iter().map(|(sign, _)| *sign);
            let sign = of_operators.into_iter().find(|sign| word[at..].starts_with(sign));
            // A lone `!` belongs to no operator, and is a word nothing is called.
            let end = at + sign.map_or(1, str::len);
            pieces.push(&word[at..end]);
            word = &word[end..];
        }
        if !word.is_empty() {
            pieces.push(word);
        }
    }
    pieces
}

fn comparison_of(piece: &str) -> Option<Comparison> {
    OPERATORS.iter().find(|(sign, _)| *sign == piece).map(|(_, comparison)| *comparison)
}

fn is_unit(word: &str) -> bool {
    UNITS.iter().any(|(unit, _)| *unit == word)
}

/// Takes the name of a quantity off the end of the words: as many of them as a name can have.
fn take_name(words: &mut Vec<&str>) -> Result<(Quantity, String), String> {
    for first in 0..words.len() {
        let name = words[first..].join(" ");
        if let Some(quantity) = Quantity::named(&name) {
            words.truncate(first);
            return Ok((quantity, name));
        }
    }
    let known: Vec<&str> = Quantity::all().map(|(_, names)| names[0]).collect();
    let known = known.join(", ");
    Err(match words.last() {
        Some(name) => format!("“{name}” is no quantity; there are {known}, and titles of columns"),
        None => format!("nothing is compared; write one of {known} before the sign"),
    })
}

/// A name in lower case, its words of letters and digits with one space between.
fn spaced(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
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
    fn a_bare_number_has_the_unit_the_column_shows() {
        let rank = |limit| [Term::Condition(Quantity::Metric("rank"), Comparison::Less, limit)];
        for text in ["rank < 60", "rank < 60 %", "rank<60%"] {
            assert_eq!(Filter::parse(text).unwrap().terms, rank(0.6), "{text}");
        }
        assert_eq!(Filter::parse("rank < 0.6").unwrap().terms, rank(0.006));
        let of = |text: &str| Filter::parse(text).unwrap().terms.remove(0);
        let kurtosis = Term::Condition(Quantity::Metric("kurtosis"), Comparison::More, 60.0);
        assert_eq!(of("kurtosis > 60"), kurtosis, "not shown in percent");
        let percent: Vec<&str> = METRICS.iter().filter(|m| m.is_percent()).map(|m| m.id).collect();
        let shares = [
            "damage",
            "damage-per-byte",
            "price-down",
            "price-up",
            "outliers",
            "rank",
            "zeros",
            "difference",
            "changed",
            "sensitivity",
            "activation-outliers",
        ];
        assert_eq!(percent, shares);
    }

    #[test]
    fn titles_of_columns_are_names_too() {
        for (text, id) in [
            ("eff rank < 60 %", "rank"),
            ("Eff. rank<60", "rank"),
            ("Effective rank share < 60 %", "rank"),
            ("effective rank < 60", "rank"),
            ("stable rank < 10", "stable-rank"),
            ("stable_rank < 10", "stable-rank"),
            ("1 − cos < 0.1", "cosine-distance"),
            ("damage/MB < 3", "damage-per-byte"),
            ("size < 1 MB", "bytes"),
        ] {
            let filter = Filter::parse(text).unwrap();
            assert!(filter.names(id) && filter.terms.len() == 1, "{text}: {filter:?}");
        }
        for metric in METRICS {
            for name in [metric.id, metric.title, metric.short] {
                let filter = Filter::parse(&format!("{name} >= 1")).unwrap();
                assert!(filter.names(metric.id) && filter.terms.len() == 1, "{name}: {filter:?}");
            }
        }
        let filter = Filter::parse("down stable rank < 10 v_proj bits ≤ 4").unwrap();
        assert!(filter.names("stable-rank") && filter.names("bits"));
        assert!(filter.terms.contains(&Term::Word("down".into())));
        assert!(filter.terms.contains(&Term::Word("v_proj".into())));
        assert_eq!(filter.terms.len(), 4);
    }

    #[test]
    fn mistakes_are_said_in_a_sentence() {
        let unknown = Filter::parse("curtosis > 10").unwrap_err();
        assert!(unknown.contains("curtosis") && unknown.contains("kurtosis"), "{unknown}");
        assert!(Filter::parse("kurtosis >").unwrap_err().contains("no number"));
        assert!(Filter::parse("kurtosis > high").unwrap_err().contains("no number"));
        for text in ["shape > 3", "down curtosis<3", "> 3", "rank share < 3", "gate ≤ 1"] {
            let sentence = Filter::parse(text).unwrap_err();
            assert!(sentence.contains("stable-rank") && sentence.contains("block"), "{sentence}");
        }
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
