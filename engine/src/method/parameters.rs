//! Parameter schemas, values, and their checks: the one source of forms, project validation and help.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A parameter of a method.
#[derive(Debug)]
pub struct Parameter {
    /// Name in project files.
    pub name: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What it does and what to choose, in a sentence or two.
    pub help: &'static str,
    /// Type, range and default.
    pub kind: Kind,
    /// Shown and used only while another parameter has this value.
    pub only_when: Option<(&'static str, &'static str)>,
}

/// Type, range and default of a parameter.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
        /// Where nothing is said.
        default: i64,
        /// Values offered at one click; empty for none.
        usual: &'static [i64],
    },
    /// A number in a closed range.
    Fraction {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
        /// Where nothing is said.
        default: f64,
    },
    /// One of a few names; the first is the default.
    Choice(&'static [Option_]),
}

/// One value of a [`Kind::Choice`].
#[derive(Debug)]
pub struct Option_ {
    /// Name in project files.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// A value as written in a project.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// A name.
    Text(String),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Fraction(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Fraction(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// Parameters by name, as written; those left out have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(pub BTreeMap<String, Value>);

/// Parameters checked against their schema, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved(BTreeMap<&'static str, Value>);

impl Resolved {
    /// The integer called `name`.
    ///
    /// # Panics
    /// If the schema has no such integer: an error in the method, not in its input.
    pub fn integer(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Value::Integer(value)) => *value,
            other => panic!("the schema has no integer {name}: {other:?}"),
        }
    }

    /// The fraction called `name`.
    ///
    /// # Panics
    /// If the schema has no such fraction.
    pub fn fraction(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Value::Fraction(value)) => *value,
            other => panic!("the schema has no fraction {name}: {other:?}"),
        }
    }

    /// The choice called `name`.
    ///
    /// # Panics
    /// If the schema has no such choice.
    pub fn choice(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(Value::Text(value)) => value,
            other => panic!("the schema has no choice {name}: {other:?}"),
        }
    }

    /// Whether `parameter` has an effect, given the others.
    pub fn uses(&self, parameter: &Parameter) -> bool {
        parameter.only_when.is_none_or(|(name, value)| self.choice(name) == value)
    }

    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl Kind {
    /// The value where nothing is said.
    pub fn default_value(&self) -> Value {
        match self {
            Self::Integer { default, .. } => Value::Integer(*default),
            Self::Fraction { default, .. } => Value::Fraction(*default),
            Self::Choice(options) => {
                Value::Text(options.first().map_or("", |option| option.id).to_owned())
            }
        }
    }

    /// `value` as this kind, or what would be allowed.
    fn accept(&self, value: &Value) -> std::result::Result<Value, String> {
        match (self, value) {
            (Self::Integer { min, max, .. }, Value::Integer(n)) if (min..=max).contains(&n) => {
                Ok(Value::Integer(*n))
            }
            (Self::Integer { min, max, .. }, _) => {
                Err(format!("a whole number from {min} to {max}"))
            }
            (Self::Fraction { min, max, .. }, value) => {
                let number = match value {
                    Value::Integer(n) => *n as f64,
                    Value::Fraction(x) => *x,
                    Value::Text(_) => f64::NAN,
                };
                let allowed = (*min..=*max).contains(&number);
                allowed
                    .then_some(Value::Fraction(number))
                    .ok_or_else(|| format!("a number from {min} to {max}"))
            }
            (Self::Choice(options), value) => {
                let found = matches!(value, Value::Text(text) if options.iter().any(|option| option.id == text));
                let ids: Vec<&str> = options.iter().map(|option| option.id).collect();
                found.then(|| value.clone()).ok_or_else(|| format!("one of {}", ids.join(", ")))
            }
        }
    }
}

pub(super) fn resolve(
    method: &str,
    schema: &'static [Parameter],
    given: &Parameters,
) -> Result<Resolved> {
    for name in given.0.keys() {
        if !schema.iter().any(|parameter| parameter.name == name) {
            let known: Vec<&str> = schema.iter().map(|parameter| parameter.name).collect();
            let mend = if known.is_empty() {
                "remove it".to_owned()
            } else {
                format!("use {}", known.join(", "))
            };
            return Err(Error::plan(format!("{method} has no parameter {name:?}"), mend));
        }
    }
    let mut resolved = BTreeMap::new();
    for parameter in schema {
        let value = match given.0.get(parameter.name) {
            None => parameter.kind.default_value(),
            Some(value) => parameter.kind.accept(value).map_err(|allowed| {
                Error::plan(
                    format!("{method} cannot take {} = {value}", parameter.name),
                    format!("give {allowed}"),
                )
            })?,
        };
        resolved.insert(parameter.name, value);
    }
    Ok(Resolved(resolved))
}
