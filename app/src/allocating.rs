//! What window and command line share to score and search candidates: which they are, and the network they are
//! measured on.

use std::path::Path;

use lapidary_engine::allocator::{Problem, Refined, Search};
use lapidary_engine::calibration::model_key;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::Baseline;
use lapidary_engine::method::{self, Needs, Step};
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::plan::Assignment;
use lapidary_engine::scores::{Measuring, Metric, Question, Remembered, UnitScores};
use lapidary_engine::search::{self, Task, Wish};
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache, Key};
use lapidary_engine::text::{Cut, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Observer, Result};

use crate::builtin;

/// The longest window on which candidates are measured, in tokens: many short ones say more than one long one.
const LONGEST: usize = 512;

/// The folder of searches in the program's own.
pub const SEARCHES: &str = "searches";

/// Methods at numbers of bits, and any other assignments.
///
/// # Errors
/// [`Error::Plan`] for a method that has none of the bits, for bits that no method has, and for nothing at all.
pub fn palette(methods: &[String], bits: &[i64], others: &[Assignment]) -> Result<Vec<Assignment>> {
    let mut palette = Vec::new();
    for &bits in bits {
        let before = palette.len();
        palette.extend(
            methods
                .iter()
                .map(|id| at_bits(id, bits))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten(),
        );
        if palette.len() == before && !methods.is_empty() {
            return Err(Error::plan(
                format!("{} has no {bits} bits", methods.join(", ")),
                "choose other bits, or a method whose bits can be chosen",
            ));
        }
    }
    for other in others {
        let other = Assignment { locked: false, ..other.clone() };
        if !other.is_keep() && !palette.contains(&other) {
            palette.push(other);
        }
    }
    if palette.is_empty() {
        return Err(Error::plan("there are no candidates", "choose a method and bits at least"));
    }
    Ok(palette)
}

/// Stacks of every height, of which each layer gets one: any of them is the beginning of the highest.
pub fn stacks(known: Needs) -> Vec<Assignment> {
    method::stacks(known).into_iter().map(|step| Assignment::of(vec![step])).collect()
}

/// A method at a number of bits; `None` where it has no such.
fn at_bits(id: &str, bits: i64) -> Result<Option<Assignment>> {
    let first = Assignment::of(vec![Step::new(method::find(id)?.about().id)]);
    let candidate = first.with_bits(bits);
    let of = |assignment: &Assignment| assignment.steps.first().map(|step| step.method.clone());
    Ok((of(&candidate) == of(&first) && (1..=16).contains(&bits)).then_some(candidate))
}

/// Scores every candidate; on the text, if damage is to be measured. What was told before of the same layers is not
/// computed again: it is kept with what else was measured.
///
/// # Errors
/// [`Error::Plan`] where damage is to be measured and there is no text; what scoring says; [`Error::Cancelled`].
pub fn score(
    question: &Question<'_>,
    metric: Metric,
    text: Option<(&Source, usize)>,
    observer: &dyn Observer,
) -> Result<Vec<UnitScores>> {
    if !metric.is_measured() {
        let cache = Cache::new(&builtin::home().join("measured"), CACHE_LIMIT_BYTES);
        let model = model_key(question.subject.checkpoint, Some(&cache), observer)?;
        let remembered = Remembered::new(&cache, question, [&model, ""]);
        return question.score_remembering((metric, None), Some(&remembered), observer);
    }
    let text = text.ok_or_else(|| {
        Error::plan("damage is measured on a text, and there is none", "give one")
    })?;
    let run = |measuring: Measuring<'_>, remembered: &Remembered<'_>| {
        question.score_remembering((metric, Some(measuring)), Some(remembered), observer)
    };
    on_text(question, text, &run, observer)
}

/// Cheap scores set right where the budget of `problem` hangs on them, on the first tokens of a text.
///
/// # Errors
/// What the text, the network and [`Question::refined`] say.
pub fn refine(
    question: &Question<'_>,
    given: (&[UnitScores], &Problem),
    (source, tokens): (&Source, usize),
    observer: &dyn Observer,
) -> Result<(Vec<UnitScores>, Refined)> {
    let run = |measuring: Measuring<'_>, remembered: &Remembered<'_>| {
        question.refined(given, measuring, Some(remembered), observer)
    };
    on_text(question, (source, tokens), &run, observer)
}

/// Runs `work` with the original on the first tokens of a text, and with what was measured on them before.
fn on_text<T>(
    question: &Question<'_>,
    (source, tokens): (&Source, usize),
    work: &dyn Fn(Measuring<'_>, &Remembered<'_>) -> Result<T>,
    observer: &dyn Observer,
) -> Result<T> {
    let checkpoint = question.subject.checkpoint;
    let cache = Cache::new(&builtin::home().join("measured"), CACHE_LIMIT_BYTES);
    let model = model_key(checkpoint, Some(&cache), observer)?;
    let weights = CheckpointWeights::new(checkpoint);
    let network = network(checkpoint, &weights)?;
    let ids = sequences(&network, (checkpoint, source), Some(tokens), observer)?;
    let text = Key::of([format!("{ids:?}").as_str()]).to_string();
    let baseline = Baseline::new(&network, &ids, observer)?;
    let measuring = Measuring { baseline: &baseline, weights: &weights, tokens: baseline.tokens() };
    work(measuring, &Remembered::new(&cache, question, [&model, &text]))
}

/// What is searched, on which text, from where.
#[derive(Clone, Copy)]
pub struct Searching<'a> {
    /// The model, its target, the candidates.
    pub question: &'a Question<'a>,
    /// Every level of every unit.
    pub scores: &'a [UnitScores],
    /// The same under a budget.
    pub problem: &'a Problem,
    /// What minibatches are drawn from.
    pub source: &'a Source,
    /// How, and from where.
    pub wish: &'a Wish,
    /// Where it is kept; a folder of the model in the program's own if `None`.
    pub folder: Option<&'a Path>,
}

impl std::fmt::Debug for Searching<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searching").field("wish", &self.wish).finish_non_exhaustive()
    }
}

/// Searches, or goes on with the same search; `each` sees it after every generation.
///
/// # Errors
/// What the text, the network and [`search::run`] say.
pub fn search(
    of: &Searching<'_>,
    each: &mut dyn FnMut(&Search),
    observer: &dyn Observer,
) -> Result<Search> {
    let subject = of.question.subject;
    let checkpoint = subject.checkpoint;
    let home = builtin::home();
    let cache = Cache::new(&home.join("measured"), CACHE_LIMIT_BYTES);
    let key = model_key(checkpoint, Some(&cache), observer)?;
    let own = home.join(SEARCHES).join(&key);
    let identity = format!("{key} {}", subject.calibrated.key());
    let weights = CheckpointWeights::new(checkpoint);
    let network = network(checkpoint, &weights)?;
    let sequences = sequences(&network, (checkpoint, of.source), None, observer)?;
    let task = Task {
        subject,
        identity: &identity,
        scores: of.scores,
        problem: of.problem,
        network: &network,
        sequences: &sequences,
    };
    search::run(&task, of.wish, of.folder.unwrap_or(&own), each, observer)
}

/// A text as sequences for a network: the first `tokens` of it, or all.
fn sequences(
    network: &Network<'_>,
    (checkpoint, source): (&Checkpoint, &Source),
    tokens: Option<usize>,
    observer: &dyn Observer,
) -> Result<Vec<Vec<u32>>> {
    let tokenizer = Tokenizer::open(checkpoint)?;
    let texts = source.read(observer)?;
    let encoded = tokenizer.encode_documents(texts.documents(), Specials::Added, observer)?;
    let length = network.design().context.min(LONGEST);
    let cut = cut(&encoded, &Cut { budget: tokens, ..Cut::scoring(length) })?;
    Ok(cut.list.into_iter().map(|sequence| sequence.ids).collect())
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
