//! Chains in a line of text, as `magnitude pattern=n-of-m; gptq bits=4 group_size=64; polish`.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::method::{self, Step, Value};
use crate::plan::Assignment;

impl FromStr for Assignment {
    type Err = Error;

    /// An assignment from steps between semicolons, each a method's id and its parameters as `name=value`; what is not
    /// named has its default.
    ///
    /// # Errors
    /// [`Error::Plan`] for a parameter without a value, and whatever [`method::check_chain`] says.
    fn from_str(text: &str) -> Result<Self> {
        let steps = text.split(';').map(step).collect::<Result<Vec<Step>>>()?;
        method::check_chain(&steps)?;
        Ok(Self::of(steps))
    }
}

fn step(text: &str) -> Result<Step> {
    let mut words = text.split_whitespace();
    let mut step = Step::new(words.next().unwrap_or_default());
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| {
            Error::plan(format!("{word} gives no value in {text:?}"), "write it as name=value")
        })?;
        step = step.with(name, value_of(value));
    }
    Ok(step)
}

fn value_of(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => Value::Integer(whole),
        (_, Ok(fraction)) => Value::Fraction(fraction),
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_read_with_their_parameters() {
        let read: Assignment =
            " gptq bits=3 group_size=64 symmetry=asymmetric; polish".parse().unwrap();
        let gptq = Step::new("gptq").with("bits", 3).with("group_size", 64);
        let gptq = gptq.with("symmetry", "asymmetric");
        assert_eq!(read, Assignment::of(vec![gptq, Step::new("polish")]));
        let share: Assignment = "magnitude pattern=fraction fraction=0.5".parse().unwrap();
        assert_eq!(share.steps[0].parameters.0.get("fraction"), Some(&Value::Fraction(0.5)));
    }

    #[test]
    fn what_is_no_chain_is_refused_by_what_is_wrong() {
        for (text, says) in [
            ("gptq bits", "bits gives no value"),
            ("gptk bits=4", "there is no method \"gptk\""),
            ("gptq bits=99", "99"),
            ("", "there is no method"),
            ("polish; gptq", "gptq"),
        ] {
            let error = text.parse::<Assignment>().unwrap_err().sentence();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
