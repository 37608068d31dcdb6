//! Multiple-choice questions of a person, one JSON object a line, as the usual evaluation sets write them.
//! In: a file. Out: prompt, options, index of the right one. Never asks a model.
//!
//! | part | fields |
//! |---|---|
//! | prompt | `question`, `prompt`, `query`, `ctx`, `context`; a context and a question are joined by a line end |
//! | options | `choices`, `options`, `endings`: texts; or `{"text": […], "label": […]}`; or `{"A": …, "B": …}` |
//! | answer | `answer`, `label`, `gold`, `answerKey`: index from 0, label, letter, or the text of an option |

use std::path::Path;

use serde_json::{Map, Value};

use super::source::{for_each_line, read_utf8};
use crate::error::{Error, Result};
use crate::observer::Observer;

const MAX_BYTES: u64 = 64 << 20;
const MAX_OPTIONS: usize = 26;
const CONTEXTS: [&str; 2] = ["context", "ctx"];
const PROMPTS: [&str; 3] = ["question", "prompt", "query"];
const OPTIONS: [&str; 3] = ["choices", "options", "endings"];
const ANSWERS: [&str; 4] = ["answer", "label", "gold", "answerKey"];
const MEND: &str =
    "write each line as {\"question\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}";

/// A question with options, one of them right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub prompt: String,
    /// At least two, none empty.
    pub options: Vec<String>,
    /// Index of the right one.
    pub answer: usize,
}

/// Reads a file of questions.
///
/// # Errors
/// [`Error::Malformed`] naming the line and the field; [`Error::Plan`] for no question or more than 64 MiB;
/// [`Error::Io`]; [`Error::Cancelled`].
pub fn read_questions(path: &Path, observer: &dyn Observer) -> Result<Vec<Question>> {
    let text = read_utf8(path, MAX_BYTES)?;
    let mut questions = Vec::new();
    for_each_line(path, &text, observer, &mut |line, fields| {
        let bad = |what| {
            Error::malformed("question", path, format!("line {line} {what}")).mended_by(MEND)
        };
        questions.push(question(&fields).map_err(bad)?);
        Ok(())
    })?;
    if questions.is_empty() {
        return Err(Error::plan(format!("{} holds no question", path.display()), MEND));
    }
    Ok(questions)
}

/// The question of a line, or what is wrong with it.
fn question(fields: &Map<String, Value>) -> Result<Question, String> {
    let (options, labels) = options(fields)?;
    let answer = answer(fields, &options, &labels)?;
    Ok(Question { prompt: prompt(fields)?, options, answer })
}

fn one_of<'a>(
    fields: &'a Map<String, Value>,
    names: &[&'static str],
) -> Option<(&'static str, &'a Value)> {
    names.iter().find_map(|name| Some((*name, fields.get(*name).filter(|value| !value.is_null())?)))
}

fn prompt(fields: &Map<String, Value>) -> Result<String, String> {
    let text = |names: &[&'static str]| match one_of(fields, names) {
        Some((name, value)) => match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(format!("has a {name} that is not a text")),
        },
        None => Ok(None),
    };
    let parts: Vec<&str> = [text(&CONTEXTS)?, text(&PROMPTS)?].into_iter().flatten().collect();
    let prompt = parts.join("\n");
    if prompt.trim().is_empty() {
        return Err(format!("has no text in {} or {}", PROMPTS.join(", "), CONTEXTS.join(", ")));
    }
    Ok(prompt)
}

/// Options with their labels; labels are empty where none are written.
fn options(fields: &Map<String, Value>) -> Result<(Vec<String>, Vec<String>), String> {
    let Some((name, value)) = one_of(fields, &OPTIONS) else {
        return Err(format!("has no {}", OPTIONS.join(", ")));
    };
    let (options, labels) = match value {
        Value::Object(parts) => match parts.get("text").zip(parts.get("label")) {
            Some((text, label)) => (texts(name, text)?, texts(name, label)?),
            None => {
                (texts(name, &parts.values().cloned().collect())?, parts.keys().cloned().collect())
            }
        },
        other => (texts(name, other)?, Vec::new()),
    };
    if !(2..=MAX_OPTIONS).contains(&options.len()) {
        return Err(format!("has {} {name} where 2 to {MAX_OPTIONS} are needed", options.len()));
    }
    if !labels.is_empty() && labels.len() != options.len() {
        return Err(format!("has {} labels for {} {name}", labels.len(), options.len()));
    }
    Ok((options, labels))
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("has {name} that are not a list"))?;
    let text = |(at, value): (usize, &Value)| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("has {name} of which number {} is no text", at + 1)),
    };
    list.iter().enumerate().map(text).collect()
}

fn answer(
    fields: &Map<String, Value>,
    options: &[String],
    labels: &[String],
) -> Result<usize, String> {
    let Some((name, value)) = one_of(fields, &ANSWERS) else {
        return Err(format!("has no {}", ANSWERS.join(", ")));
    };
    let n = options.len();
    match value {
        Value::Number(number) => {
            let index = number.as_u64().filter(|index| *index < n as u64);
            index.map(|index| index as usize).ok_or_else(|| {
                format!("has the {name} {number}, but its options are numbered 0 to {}", n - 1)
            })
        }
        Value::String(text) => by_text(name, text, options, labels),
        _ => Err(format!("has the {name} {value}, which is neither a number nor a text")),
    }
}

/// The option a text means: by label where labels are written, else as text, letter or index if these agree.
fn by_text(name: &str, text: &str, options: &[String], labels: &[String]) -> Result<usize, String> {
    let text = text.trim();
    if let Some(index) = labels.iter().position(|label| label == text) {
        return Ok(index);
    }
    let letter = match text.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => {
            Some((letter.to_ascii_uppercase() - b'A') as usize)
        }
        _ => text.parse().ok(),
    };
    let mut same = options.iter().enumerate().filter(|(_, option)| option.trim() == text);
    let spelled = same.next().map(|(index, _)| index);
    if same.next().is_some() {
        return Err(format!("has several options that read {text:?}, its {name}"));
    }
    match (letter.filter(|index| *index < options.len()), spelled) {
        (Some(a), Some(b)) if a != b => Err(format!(
            "has the {name} {text:?}, which is option {a} by its place and option {b} by its text (counted from 0)"
        )),
        (Some(index), _) | (None, Some(index)) => Ok(index),
        (None, None) => {
            Err(format!("has the {name} {text:?}, which is none of its {} options", options.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Question, String> {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { panic!("{line}") };
        question(&fields)
    }

    #[test]
    fn the_usual_sets_are_read() {
        let right = |line: &str| {
            let question = of(line).unwrap();
            question.options[question.answer].clone()
        };
        let lines = [
            r#"{"question": "2+2?", "choices": ["3", "right"], "answer": 1}"#,
            r#"{"prompt": "2+2?", "options": ["right", "4"], "gold": "A"}"#,
            r#"{"ctx": "He", "endings": ["x", "y", "right"], "label": "2"}"#,
            r#"{"question": "q", "choices": {"text": ["x", "right"], "label": ["1", "2"]}, "answerKey": "2"}"#,
            r#"{"question": "q", "options": {"B": "x", "A": "right"}, "answer": "A"}"#,
            r#"{"query": "q", "choices": ["x", "right"], "answer": "right"}"#,
        ];
        for line in lines {
            assert_eq!(right(line), "right", "{line}");
        }
        let both =
            of(r#"{"context": "c", "question": "q", "choices": [1, 2], "answer": 0}"#).unwrap();
        assert_eq!(
            (both.prompt.as_str(), both.options),
            ("c\nq", vec!["1".to_owned(), "2".to_owned()])
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, said) in [
            (r#"{"choices": ["a", "b"], "answer": 0}"#, "no text in question"),
            (r#"{"question": 3, "choices": ["a", "b"], "answer": 0}"#, "not a text"),
            (r#"{"question": "q", "answer": 0}"#, "no choices"),
            (r#"{"question": "q", "choices": "a", "answer": 0}"#, "not a list"),
            (r#"{"question": "q", "choices": ["a"], "answer": 0}"#, "has 1 choices"),
            (r#"{"question": "q", "choices": ["a", ""], "answer": 0}"#, "number 2 is no text"),
            (r#"{"question": "q", "choices": ["a", "b"]}"#, "no answer"),
            (r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#, "0 to 1"),
            (r#"{"question": "q", "choices": ["a", "b"], "answer": -1}"#, "0 to 1"),
            (r#"{"question": "q", "choices": ["a", "b"], "answer": "C"}"#, "none of its 2"),
            (r#"{"question": "q", "choices": ["1", "0"], "answer": "1"}"#, "option 1 by its place"),
            (r#"{"question": "q", "choices": ["x y", "x y"], "answer": "x y"}"#, "several options"),
        ] {
            let what = of(line).unwrap_err();
            assert!(what.contains(said), "{line}: {what}");
        }
    }
}
