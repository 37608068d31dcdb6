//! Questions with options, answered by the likelihood of each option after the question.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::Network;
use crate::numeric::likelihood::log_sum_exp;
use crate::observer::{Observer, Progress, Unit};
use crate::text::{Question, Specials, Tokenizer};

/// How a question was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// ln p of each option after the question.
    pub log_likelihoods: Vec<f64>,
    /// Bytes of each option, for the likelihood per byte.
    pub bytes: Vec<u64>,
    /// Index of the right one.
    pub answer: usize,
}

impl Answered {
    /// The most likely option.
    pub fn choice(&self) -> usize {
        best(self.log_likelihoods.iter().copied())
    }

    /// The most likely option per byte, which does not favour short ones.
    pub fn choice_by_byte(&self) -> usize {
        let pairs = self.log_likelihoods.iter().zip(&self.bytes);
        best(pairs.map(|(nats, bytes)| nats / (*bytes).max(1) as f64))
    }
}

/// Index of the largest, the first of equals.
fn best(values: impl Iterator<Item = f64>) -> usize {
    let first = (0, f64::NEG_INFINITY);
    values
        .enumerate()
        .fold(first, |best, (i, value)| if value > best.1 { (i, value) } else { best })
        .0
}

/// Questions answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// In the order of the file; fewer than there are if it was cancelled.
    pub answered: Vec<Answered>,
}

impl Probe {
    /// Share of questions answered rightly, with its standard error √(p·(1 − p)/(n − 1)).
    pub fn accuracy(&self) -> [f64; 2] {
        self.share(|answered| answered.choice() == answered.answer)
    }

    /// The same by likelihood per byte.
    pub fn accuracy_by_byte(&self) -> [f64; 2] {
        self.share(|answered| answered.choice_by_byte() == answered.answer)
    }

    fn share(&self, is_right: impl Fn(&Answered) -> bool) -> [f64; 2] {
        let n = self.answered.len() as f64;
        let share = self.answered.iter().filter(|answered| is_right(answered)).count() as f64 / n;
        [share, (share * (1.0 - share) / (n - 1.0)).sqrt()]
    }
}

/// Answers `questions`. Each option is tokenised with the question in front of it, so that tokens may cross the seam
/// as they would in a text; scored are the tokens beyond those of the question alone.
///
/// # Errors
/// [`Error::Plan`] for a question that is longer than the context; [`Error::Cancelled`] before the first answer; what
/// running says.
pub fn probe(
    network: &Network<'_>,
    tokenizer: &Tokenizer,
    questions: &[Question],
    observer: &dyn Observer,
) -> Result<Probe> {
    let mut probe = Probe::default();
    for (i, question) in questions.iter().enumerate() {
        observer.progress(Progress {
            stage: "Answering",
            item: format!("question {} of {}", i + 1, questions.len()),
            done: i as u64,
            total: questions.len() as u64,
            unit: Unit::Questions,
        });
        match answer(network, tokenizer, question, observer) {
            Ok(answered) => probe.answered.push(answered),
            Err(Error::Cancelled) if !probe.answered.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(probe)
}

/// A question and an option, with a space between words.
fn joined(prompt: &str, option: &str) -> String {
    let has_space =
        prompt.ends_with(char::is_whitespace) || option.starts_with(char::is_whitespace);
    if prompt.is_empty() || has_space {
        format!("{prompt}{option}")
    } else {
        format!("{prompt} {option}")
    }
}

fn answer(
    network: &Network<'_>,
    tokenizer: &Tokenizer,
    question: &Question,
    observer: &dyn Observer,
) -> Result<Answered> {
    let alone = tokenizer.encode(&question.prompt, Specials::Added)?;
    let mut sequences = Vec::new();
    for option in &question.options {
        let ids = tokenizer.encode(&joined(&question.prompt, option), Specials::Added)?;
        if ids.len() > network.design().context {
            return Err(Error::plan(
                format!("a question of {} tokens is longer than the context", ids.len()),
                format!("keep questions within {} tokens", network.design().context),
            ));
        }
        sequences.push(ids);
    }
    let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let logits = network.logits_of(&views, observer)?;
    let log_likelihood = |(ids, logits): (&Vec<u32>, &ndarray::Array2<f32>)| {
        let shared = ids.iter().zip(&alone).take_while(|(a, b)| a == b).count();
        let scored = shared.clamp(1, ids.len() - 1)..ids.len();
        let token = |at: usize| {
            let row = logits.row(at - 1).to_vec();
            f64::from(row[ids[at] as usize]) - log_sum_exp(&row)
        };
        scored.map(token).sum()
    };
    Ok(Answered {
        log_likelihoods: sequences.iter().zip(&logits).map(log_likelihood).collect(),
        bytes: question.options.iter().map(|option| option.len() as u64).collect(),
        answer: question.answer,
    })
}
