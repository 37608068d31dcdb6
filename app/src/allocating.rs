//! What window and command line share to score candidates: which they are, and the network they are measured on.

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::Baseline;
use lapidary_engine::method::{self, Step};
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::plan::Assignment;
use lapidary_engine::scores::{Measuring, Metric, Question, UnitScores};
use lapidary_engine::text::{Cut, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Observer, Result};

/// The longest window on which candidates are measured, in tokens: many short ones say more than one long one.
const LONGEST: usize = 512;

/// A method at each number of bits.
///
/// # Errors
/// [`Error::Plan`] for a method that has no such bits.
pub fn palette(id: &str, bits: &[i64]) -> Result<Vec<Assignment>> {
    let first = Assignment::of(vec![Step::new(method::find(id)?.about().id)]);
    let at = |&bits: &i64| {
        let candidate = first.with_bits(bits);
        let of = |assignment: &Assignment| assignment.steps.first().map(|s| s.method.clone());
        if of(&candidate) == of(&first) && (1..=16).contains(&bits) {
            return Ok(candidate);
        }
        Err(Error::plan(
            format!("{id} has no {bits} bits"),
            "choose other candidates, or a method whose bits can be chosen",
        ))
    };
    bits.iter().map(at).collect()
}

/// Scores every candidate; on the text, if damage is to be measured.
///
/// # Errors
/// [`Error::Plan`] where damage is to be measured and there is no text; what scoring says; [`Error::Cancelled`].
pub fn score(
    question: &Question<'_>,
    metric: Metric,
    text: Option<(&Source, usize)>,
    observer: &dyn Observer,
) -> Result<Vec<UnitScores>> {
    if metric != Metric::Measured {
        return question.score(metric, None, observer);
    }
    let (source, tokens) = text.ok_or_else(|| {
        Error::plan("damage is measured on a text, and there is none", "give one")
    })?;
    let checkpoint = question.subject.checkpoint;
    let weights = CheckpointWeights::new(checkpoint);
    let network = network(checkpoint, &weights)?;
    let tokenizer = Tokenizer::open(checkpoint)?;
    let texts = source.read(observer)?;
    let encoded = tokenizer.encode_documents(texts.documents(), Specials::Added, observer)?;
    let length = network.design().context.min(LONGEST);
    let cut = cut(&encoded, &Cut { budget: Some(tokens), ..Cut::scoring(length) })?;
    let ids: Vec<Vec<u32>> = cut.list.into_iter().map(|sequence| sequence.ids).collect();
    let baseline = Baseline::new(&network, &ids, observer)?;
    let measuring = Measuring { baseline: &baseline, weights: &weights, tokens: baseline.tokens() };
    question.score(metric, Some(measuring), observer)
}

fn network<'a>(checkpoint: &Checkpoint, weights: &'a CheckpointWeights<'a>) -> Result<Network<'a>> {
    let config = checkpoint.config().ok_or_else(|| {
        Error::plan(
            format!("{} has no config.json, so it cannot be run", checkpoint.path().display()),
            "open the whole Hugging Face folder, or tell damage by the weights",
        )
    })?;
    Network::open(config, weights)
}
