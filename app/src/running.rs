//! What window and command line share to run models: what can be run, texts scored, prompts continued.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapidary_engine::calibration::{Behind, Calibration, Folder, Wishes, calibrate_with_texts};
use lapidary_engine::checkpoint::{Checkpoint, GgufTensors, SharedCheckpoint};
use lapidary_engine::evaluation::{
    BlockScore, Continuation, Evaluation, Influences, OutputError, Probe, Sampling, TextRun,
    block_scores, evaluate_in_rounds, influences as engine_influences, output_errors, probe,
    subject_key,
};
use lapidary_engine::export;
use lapidary_engine::job::{self, Limits, Sequential, Store, StoreWeights};
use lapidary_engine::network::{CheckpointWeights, Freed, Network, Renamed, Weights};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::Cache;
use lapidary_engine::target::{self, Manifest, Target};
use lapidary_engine::tensor::Factors;
use lapidary_engine::text::{Cut, Question, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Observer, Result};

use crate::calibrated::{Choice, REMOVED, assignments, plan_key};
use crate::document::calibrations::{self, Loaded};
use crate::document::project::Project;

/// The longest window unless a person asks for another, in tokens.
const USUAL_LENGTH: usize = 2048;

/// A model that can be run: a checkpoint as it is, or after a plan.
#[derive(Debug)]
pub struct Subject {
    /// The checkpoint, without what the plan takes out.
    pub checkpoint: SharedCheckpoint,
    /// The one it was made of.
    pub whole: SharedCheckpoint,
    /// What it is, for a person.
    pub label: String,
    /// A hash of what tells it from others made of the same checkpoint.
    pub key: String,
    /// Bytes of its files of weights.
    pub bytes: u64,
    /// What the plan gives each layer it does not keep, as JSON of its steps.
    pub assignments: Option<BTreeMap<String, String>>,
    /// What the plan made of layers.
    store: Option<Store>,
    /// By what it multiplied those whose scales it folded.
    scales: BTreeMap<usize, Factors>,
}

impl Subject {
    /// A checkpoint as it is.
    pub fn plain(checkpoint: SharedCheckpoint, label: &str) -> Self {
        let bytes = checkpoint.files().iter().map(lapidary_engine::checkpoint::File::bytes).sum();
        let path = lapidary_engine::disk::absolute(checkpoint.path());
        let key = subject_key([path.to_string_lossy().as_ref()]);
        let (label, scales) = (label.to_owned(), BTreeMap::new());
        let whole = checkpoint.clone();
        Self { checkpoint, whole, label, key, bytes, assignments: None, store: None, scales }
    }

    /// A checkpoint after a plan, which is carried out now, with a calibration where it needs one.
    ///
    /// # Errors
    /// What the job says.
    pub fn planned(
        checkpoint: SharedCheckpoint,
        (plan, loaded): (&Plan, Option<&Loaded>),
        target: &'static dyn Target,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let label = plan_label(&checkpoint, plan);
        let settings = loaded.map(|loaded| loaded.folder.settings());
        let key = plan_key(&checkpoint, (plan, settings), target);
        let assignments = Some(assignments(&checkpoint, plan).collect());
        let given = calibrations::subject(&checkpoint, loaded);
        let carry_out = |given: job::Subject<'_>, plan: &Plan| {
            let bytes = Manifest::new(given.checkpoint, plan, target)?.weight_file_bytes();
            let store = job::run(given, plan, Limits::default(), None, observer)?;
            let scales = job::folded_factors(given.checkpoint, plan, &store)?;
            Ok((bytes, store, scales))
        };
        let (bytes, store, scales) = given.reduced(plan, carry_out)?;
        let left = plan.reduced(&checkpoint)?.map(|reduced| Arc::new(reduced.checkpoint));
        let (whole, checkpoint) = (checkpoint.clone(), left.unwrap_or(checkpoint));
        let store = Some(store);
        Ok(Self { checkpoint, whole, label, key, bytes, assignments, store, scales })
    }

    /// A folder, a file or a project (.ron), whose plan is carried out, with the calibration that is chosen; with a
    /// project its original too.
    ///
    /// # Errors
    /// What opening and the job say.
    pub fn open(
        path: &Path,
        choice: &Choice,
        observer: &dyn Observer,
    ) -> Result<(Self, Option<Self>)> {
        if !is_project(path) {
            let checkpoint = Arc::new(Checkpoint::open(path)?);
            let title = checkpoint.title();
            return Ok((Self::plain(checkpoint, &title), None));
        }
        let project = Project::read(path)?;
        let checkpoint = Arc::new(Checkpoint::open(&project.checkpoint_path(path))?);
        let plan = project.resolve(&checkpoint)?;
        let target = target::find(&project.target)?;
        let original = Self::plain(checkpoint.clone(), "the original");
        Ok((Self::prepared((checkpoint, plan), choice, target, observer)?, Some(original)))
    }

    /// A checkpoint after a plan, with the calibration that is chosen where it needs one.
    ///
    /// # Errors
    /// What choosing and the job say.
    pub fn prepared(
        (checkpoint, plan): (SharedCheckpoint, Plan),
        choice: &Choice,
        target: &'static dyn Target,
        observer: &dyn Observer,
    ) -> Result<Self> {
        if let Some(reduced) = plan.reduced(&checkpoint)?
            && let Ok(Some(loaded)) = choice.find(&reduced.checkpoint, &reduced.plan, observer)
        {
            let left = Arc::new(reduced.checkpoint);
            let given = (&reduced.plan, Some(&loaded));
            let planned = Self::planned(left, given, target, observer)?;
            let label = plan_label(&checkpoint, &plan);
            let settings = Some(loaded.folder.settings());
            let key = plan_key(&checkpoint, (&plan, settings), target);
            let assignments = Some(assignments(&checkpoint, &plan).collect());
            return Ok(Self { whole: checkpoint, label, key, assignments, ..planned });
        }
        observer.go_on()?;
        let loaded = choice.find(&checkpoint, &plan, observer)?;
        Self::planned(checkpoint, (&plan, loaded.as_ref()), target, observer)
    }

    /// Its weights, decoded as they are read.
    pub fn weights(&self) -> Box<dyn Weights + '_> {
        match &self.store {
            Some(store) => Box::new(StoreWeights::new(&self.checkpoint, store)),
            None => Box::new(CheckpointWeights::new(&self.checkpoint)),
        }
    }

    /// By what its layers are multiplied beside those of an original, whose names are given: by its own plan, or by that of an
    /// export whose report lies beside it.
    fn scales(&self, original: &Checkpoint) -> Result<BTreeMap<String, Factors>> {
        let left;
        let (of, found) = if self.store.is_some() {
            (&*self.checkpoint, self.scales.clone())
        } else {
            left = export::as_exported(original, &self.checkpoint)?;
            let of = left.as_ref().unwrap_or(original);
            (of, export::folded_scales(of, &self.checkpoint)?)
        };
        let named = |(index, factors): (usize, Factors)| {
            (of.tensors()[index].source_name().to_owned(), factors)
        };
        Ok(found.into_iter().map(named).collect())
    }

    /// Its weights by the names that layers have in the original, where parts of that were taken out: those have none.
    fn by_names_of<'a>(
        &self,
        original: &Checkpoint,
        base: &'a dyn Weights,
    ) -> Result<Option<Renamed<'a>>> {
        let exported = match self.store {
            Some(_) => None,
            None => export::as_exported(original, &self.checkpoint)?,
        };
        let of = exported.as_ref().unwrap_or(&self.checkpoint);
        if of.removal().is_empty() {
            return Ok(None);
        }
        let names = of.tensors().iter().map(|t| (t.source_name().to_owned(), t.name.clone()));
        Ok(Some(Renamed { base, names: names.collect() }))
    }

    /// The network it is, with these weights of it.
    ///
    /// # Errors
    /// [`Error::Plan`] without config.json; what the network says.
    pub fn network<'a>(&self, weights: &'a dyn Weights) -> Result<Network<'a>> {
        self.checkpoint.gguf().map_or(Ok(()), GgufTensors::check_runs)?;
        let config = self.checkpoint.config().ok_or_else(|| {
            Error::plan(
                format!(
                    "{} has no config.json, so it cannot be run",
                    self.checkpoint.path().display()
                ),
                "open the whole Hugging Face folder of the model",
            )
        })?;
        Network::open(config, weights)
    }
}

/// The checkpoint at a path: that of a project, or the path itself.
///
/// # Errors
/// What reading the project says.
pub fn checkpoint_path(path: &Path) -> Result<PathBuf> {
    if is_project(path) {
        return Ok(Project::read(path)?.checkpoint_path(path));
    }
    Ok(path.to_owned())
}

fn is_project(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ron")
}

/// The assignment most layers have, with how many others there are: `4-bit g128 and 2 others`.
pub fn plan_label(checkpoint: &Checkpoint, plan: &Plan) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let tensors = checkpoint.tensors().iter();
    for assignment in tensors.filter_map(|tensor| plan.get(&tensor.name)).filter(|a| !a.is_keep()) {
        *counts.entry(assignment.label()).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(_, count)| **count);
    let said = match (most, counts.len()) {
        (None, _) => "nothing compressed".to_owned(),
        (Some((label, n)), 1) => format!("{label}, {n} layers"),
        (Some((label, n)), 2) => format!("{label}, {n} layers, and 1 other kind"),
        (Some((label, n)), kinds) => format!("{label}, {n} layers, and {} other kinds", kinds - 1),
    };
    if plan.removal().is_empty() {
        return said;
    }
    format!("without {}; {said}", plan.removal().told())
}

/// The plan of [`Subject::assignments`]; `None` where one of them is of another version of the program.
pub fn plan_of(assignments: &BTreeMap<String, String>) -> Option<Plan> {
    let mut plan = Plan::default();
    if let Some(removal) = assignments.get(REMOVED) {
        plan.set_removal(serde_json::from_str(removal).ok()?);
    }
    for (name, steps) in assignments.iter().filter(|(name, _)| *name != REMOVED) {
        plan.set(name, Assignment::of(serde_json::from_str(steps).ok()?));
    }
    Some(plan)
}

/// Calibrates a checkpoint with texts; with `behind`, what a block receives has passed through the blocks before it as
/// that subject has them.
///
/// # Errors
/// What the engine says.
pub fn calibrate(
    checkpoint: &Checkpoint,
    wishes: &Wishes,
    behind: Option<&Subject>,
    place: (&Path, Option<&Cache>),
    observer: &dyn Observer,
) -> Result<(Folder, Calibration)> {
    if let Some(subject) = behind.filter(|of| of.checkpoint.removal() != checkpoint.removal()) {
        let told = subject.checkpoint.removal().told();
        return Err(Error::plan(
            format!("the plan takes out {told}, so what is behind it is of a model without them"),
            "save the project and run: lapidary calibrate PROJECT --text FILE --behind-plan",
        ));
    }
    let weights = behind.map(|subject| (subject.weights(), subject.key.clone()));
    let behind = weights.as_ref().map(|(weights, plan)| Behind {
        weights: weights.as_ref(),
        plan: plan.clone(),
        in_turn: None,
    });
    calibrate_with_texts(checkpoint, wishes, behind, place, observer)
}

/// Calibrates a checkpoint with texts while a plan is carried out block by block: what a block receives has passed
/// through the blocks before it as they were compressed with the same text.
///
/// # Errors
/// What the engine says.
pub fn calibrate_in_turn(
    checkpoint: &Checkpoint,
    wishes: &Wishes,
    (plan, target, limits): (&Plan, &'static dyn Target, Limits),
    place: (&Path, Option<&Cache>),
    observer: &dyn Observer,
) -> Result<(Folder, Calibration)> {
    let sequential = Sequential::new(checkpoint, plan, limits, None, observer)?;
    let (weights, plan) = (sequential.weights(), plan_key(checkpoint, (plan, None), target));
    let behind = Behind { weights: &weights, plan, in_turn: Some(&sequential) };
    calibrate_with_texts(checkpoint, wishes, Some(behind), place, observer)
}

/// A text to score, and what to find out besides.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The text.
    pub text: Source,
    /// Tokens of a window; what the model takes, 2,048 at most, if `None`.
    pub length: Option<usize>,
    /// The most tokens.
    pub limit: Option<usize>,
    /// Whether to measure the output error of every layer against the reference.
    pub layers: bool,
    /// Whether to measure what each block does.
    pub blocks: bool,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Found {
    /// The text and how it was cut.
    pub text: TextRun,
    /// The figures.
    pub evaluation: Evaluation,
    /// Output error by layer.
    pub layers: BTreeMap<String, OutputError>,
    /// What each block does.
    pub blocks: Vec<BlockScore>,
}

/// Scores a text. `partial` sees the figures as they grow; cancelling keeps the windows that were finished.
///
/// # Errors
/// What reading the text, the tokenizer and the networks say; [`Error::Cancelled`] before there was anything.
pub fn evaluate(
    (subject, reference): (&Subject, Option<&Subject>),
    wanted: &Wanted,
    partial: &mut dyn FnMut(&Evaluation),
    observer: &dyn Observer,
) -> Result<Found> {
    let weights = subject.weights();
    let network = subject.network(weights.as_ref())?;
    let other_weights = reference.map(Subject::weights);
    let other = match (reference, &other_weights) {
        (Some(reference), Some(weights)) => Some(reference.network(weights.as_ref())?),
        _ => None,
    };
    let tokenizer = Tokenizer::open(&subject.checkpoint)?;
    let texts = wanted.text.read(observer)?;
    let tokens = tokenizer.encode_documents(texts.documents(), Specials::Added, observer)?;
    let length = wanted.length.unwrap_or_else(|| network.design().context.min(USUAL_LENGTH));
    let sequences = cut(&tokens, &Cut { budget: wanted.limit, ..Cut::scoring(length) })?;
    let text = TextRun {
        name: name_of(&wanted.text),
        fingerprint: texts.fingerprint().to_string(),
        tokenizer: tokenizer.fingerprint().to_string(),
        length,
        limit: wanted.limit,
    };
    let evaluation = evaluate_in_rounds((&network, other.as_ref()), &sequences, partial, observer)?;
    let mut found = Found { text, evaluation, layers: BTreeMap::new(), blocks: Vec::new() };
    if !found.evaluation.is_complete() {
        return Ok(found);
    }
    let ids: Vec<Vec<u32>> = sequences.list.into_iter().map(|sequence| sequence.ids).collect();
    // What was scored stays, whatever comes of the rest.
    if let (true, Some(original), Some(other), Some(of_other)) =
        (wanted.layers, reference, &other, &other_weights)
    {
        let factors = subject.scales(&original.checkpoint).unwrap_or_else(|error| {
            let sentence = error.sentence();
            observer.warn(format!("scales that an export folded are not undone: {sentence}"));
            BTreeMap::default()
        });
        let renamed = subject.by_names_of(&original.checkpoint, weights.as_ref())?;
        let base = renamed.as_ref().map_or(weights.as_ref(), |renamed| renamed as &dyn Weights);
        let freed = Freed { base, factors: &factors };
        match output_errors((other, of_other.as_ref()), &freed, &ids, observer) {
            Err(Error::Cancelled) => return Ok(found),
            result => found.layers = result?,
        }
    }
    if wanted.blocks {
        match block_scores(&network, &ids, observer) {
            Err(Error::Cancelled) => return Ok(found),
            result => found.blocks = result?,
        }
    }
    Ok(found)
}

fn name_of(source: &Source) -> String {
    match source {
        Source::Path { path, .. } => path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned()),
        Source::Pasted { name, .. } => name.clone(),
    }
}

/// What each block and expert of a model does to so many tokens of a text.
///
/// # Errors
/// What reading the text, the tokenizer and the network say.
pub fn influences(
    subject: &Subject,
    (text, tokens): (&Source, usize),
    observer: &dyn Observer,
) -> Result<Influences> {
    let weights = subject.weights();
    let network = subject.network(weights.as_ref())?;
    let tokenizer = Tokenizer::open(&subject.checkpoint)?;
    let texts = text.read(observer)?;
    let all = tokenizer.encode_documents(texts.documents(), Specials::Added, observer)?;
    let length = network.design().context.min(USUAL_LENGTH);
    let sequences = cut(&all, &Cut { budget: Some(tokens), ..Cut::scoring(length) })?;
    let ids: Vec<Vec<u32>> = sequences.list.into_iter().map(|sequence| sequence.ids).collect();
    engine_influences(&network, &ids, observer)
}

/// Continues a prompt by at most `n` tokens, which `each` sees as they come; cancelling keeps them.
///
/// # Errors
/// What tokenizer and network say.
pub fn continue_prompt(
    subject: &Subject,
    (prompt, n, sampling): (&str, usize, Sampling),
    each: &mut dyn FnMut(&str),
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let tokenizer = Tokenizer::open(&subject.checkpoint)?;
    let ids = tokenizer.encode(prompt, Specials::Added)?;
    let weights = subject.weights();
    let network = subject.network(weights.as_ref())?;
    let mut running = Continuation::new(&network, &ids, sampling, observer)?;
    let mut pieces = Vec::new();
    while pieces.len() < n {
        match running.next_token(observer) {
            Ok(Some(id)) => {
                let piece = tokenizer.token(id).unwrap_or_default();
                each(&piece);
                pieces.push(piece);
            }
            Ok(None) | Err(Error::Cancelled) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(pieces)
}

/// Answers questions.
///
/// # Errors
/// What tokenizer and network say.
pub fn answer(subject: &Subject, questions: &[Question], observer: &dyn Observer) -> Result<Probe> {
    let tokenizer = Tokenizer::open(&subject.checkpoint)?;
    let weights = subject.weights();
    let network = subject.network(weights.as_ref())?;
    probe(&network, &tokenizer, questions, observer)
}

/// Which tokens of `a` and of `b` are not in the longest sequence both have in common.
pub fn differing(a: &[String], b: &[String]) -> (Vec<bool>, Vec<bool>) {
    // common[i][j]: length of the longest common sequence of a[i..] and b[j..].
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut of_a, mut of_b) = (vec![true; a.len()], vec![true; b.len()]);
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            (of_a[i], of_b[j]) = (false, false);
            (i, j) = (i + 1, j + 1);
        } else if common[i + 1][j] >= common[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    (of_a, of_b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_not_common_are_marked() {
        let tokens = |text: &str| -> Vec<String> { text.chars().map(String::from).collect() };
        let (a, b) = differing(&tokens("abcde"), &tokens("abxde"));
        assert_eq!(a, [false, false, true, false, false]);
        assert_eq!(a, b);
        let (a, b) = differing(&tokens("abc"), &tokens("xabc"));
        assert_eq!((a, b), (vec![false; 3], vec![true, false, false, false]));
        assert_eq!(differing(&[], &tokens("a")), (vec![], vec![true]));
    }
}
