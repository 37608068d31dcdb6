//! Chains of methods tried on the whole sample: compressed, run on its held-out text, held against the original.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lapidary_engine::calibration::{Behind, Calibration, Folder, Wishes, calibrate_with_texts};
use lapidary_engine::checkpoint::{Checkpoint, Role, Tensor};
use lapidary_engine::evaluation::{Evaluation, Figure, evaluate};
use lapidary_engine::fold;
use lapidary_engine::job::{self, Limits, Moments, Sequential, Store, StoreWeights, Subject};
use lapidary_engine::method::LayerInputs;
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::plan::Plan;
use lapidary_engine::text::{Cut, Sequences, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Result, Silent};

/// Tokens of a window, those of the model's context.
const LENGTH: usize = 256;
/// Tokens of the calibration, as many as llama.cpp's figures were made with.
const CALIBRATION_TOKENS: usize = 200 * LENGTH;
/// Tokens whose predictions are held against the original's.
const KL_TOKENS: usize = 40 * LENGTH;
/// Tokens that are scored in a hurry.
const HURRIED_TOKENS: usize = 60 * LENGTH;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// Its name in the table.
    pub title: &'a str,
    /// The steps, as `gptq bits=4; polish`.
    pub chain: &'a str,
    /// The steps of the embedding, where every matrix is compressed; the blocks' alone without.
    pub embedding: Option<&'a str>,
    /// The steps of the head, where they are others than the blocks'.
    pub head: Option<&'a str>,
    /// Whether blocks are compressed in turn, each with what it receives behind those before.
    pub is_sequential: bool,
}

/// What a plan came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes of all tensors, exact.
    pub bytes: u64,
    /// Bits a weight of what was compressed.
    pub bits_per_weight: f64,
    /// How long compressing took.
    pub time: Duration,
    /// Nats per token beyond the original's, window by window.
    pub excess: Figure,
    /// Perplexity.
    pub perplexity: f64,
    /// Mean over the layers of ‖(W − Ŵ)x‖²/‖Wx‖² on the calibration's text.
    pub damage: f64,
    /// Mean KL divergence from the original of the first tokens.
    pub kl: f64,
}

/// What was tried, and what came out.
#[derive(Clone, Debug)]
pub struct Measured<'a> {
    /// What was tried.
    pub trial: Trial<'a>,
    /// What it came to.
    pub outcome: Outcome,
}

impl std::ops::Deref for Measured<'_> {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

impl Outcome {
    /// Perplexity over that of the original.
    pub fn ratio(&self) -> f64 {
        self.excess.value.exp()
    }

    /// Half the width of the interval of 95 % of the ratio, to first order.
    pub fn margin(&self) -> f64 {
        self.excess.margin() * self.ratio()
    }
}

/// The sample, calibrated and ready to be scored.
#[derive(Debug)]
pub struct Bench {
    checkpoint: Checkpoint,
    /// What it was calibrated with.
    text: PathBuf,
    folder: Folder,
    calibration: Calibration,
    /// All windows of the text, or a quarter of them in a hurry.
    sequences: Sequences,
    /// Those whose every prediction is held against the original's, which takes twice as long.
    first: Sequences,
    /// What the original makes of all of them.
    original: Evaluation,
    /// What it was calibrated with.
    wishes: Wishes,
    /// Where calibrations are kept.
    home: tempfile::TempDir,
}

impl Bench {
    /// Calibrates the sample with a text; in a hurry, a quarter of the held-out text is scored.
    ///
    /// # Errors
    /// Whatever reading, tokenizing and running say.
    pub fn new(text: &Path, is_hurried: bool) -> Result<Self> {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/sample-books-6m");
        let checkpoint = Checkpoint::open(&sample)?;
        let home = tempfile::tempdir().map_err(|error| {
            Error::plan(format!("no folder to work in ({error})"), "set TMPDIR")
        })?;
        let wishes = Wishes {
            sources: vec![Source::path(text)],
            sequence_tokens: Some(LENGTH),
            tokens: CALIBRATION_TOKENS,
            seed: 0,
            has_grams: true,
        };
        let place = (home.path(), None);
        let (folder, _) = calibrate_with_texts(&checkpoint, &wishes, None, place, &Silent)?;
        let calibration = folder.load();
        let budget = is_hurried.then_some(HURRIED_TOKENS);
        let held_out = sample.join("heldout_oz.txt");
        let sequences = windows(&checkpoint, &held_out, budget)?;
        let first = windows(&checkpoint, &held_out, Some(KL_TOKENS))?;
        let weights = CheckpointWeights::new(&checkpoint);
        let original = evaluate(&network(&checkpoint, &weights)?, None, &sequences, &Silent)?;
        let text = text.to_owned();
        Ok(Self { checkpoint, text, folder, calibration, sequences, first, original, wishes, home })
    }

    /// Bytes of the tensors of the original.
    pub fn original_bytes(&self) -> u64 {
        self.checkpoint.tensor_bytes()
    }

    /// A line about how it was measured.
    pub fn about(&self, time: Duration) -> String {
        let settings = self.folder.settings();
        format!(
            "Calibrated with {} tokens of {}, scored on {} tokens of heldout_oz.txt in windows of {LENGTH}; measured in {:.0} s on {} threads.\n",
            settings.tokens,
            settings.texts.iter().map(|text| text.name.as_str()).collect::<Vec<_>>().join(", "),
            self.sequences.scored_tokens(),
            time.as_secs_f64(),
            rayon::current_num_threads(),
        )
    }

    /// The sample.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What was measured of the inputs of its layers.
    pub fn calibrated(&self) -> job::Measured<'_> {
        job::Measured { folder: &self.folder, calibration: &self.calibration }
    }

    /// The sample with what was measured.
    pub fn subject<'a>(&'a self, calibrated: &'a job::Measured<'a>) -> Subject<'a> {
        Subject { checkpoint: &self.checkpoint, calibrated }
    }

    /// Windows of the text it was calibrated with.
    ///
    /// # Errors
    /// Whatever reading and tokenizing say.
    pub fn calibration_sequences(&self, tokens: usize) -> Result<Vec<Vec<u32>>> {
        let found = windows(&self.checkpoint, &self.text, Some(tokens))?;
        Ok(found.list.into_iter().map(|sequence| sequence.ids).collect())
    }

    /// Compresses and scores a chain.
    ///
    /// # Errors
    /// Whatever the methods and the network say.
    pub fn measure<'a>(&self, trial: &Trial<'a>) -> Result<Measured<'a>> {
        let mut plan = Plan::default();
        for tensor in self.checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some()) {
            let chain = match (tensor.place.role, trial.embedding) {
                (Role::Embedding, embedding) => embedding,
                (Role::Head, embedding) => embedding.and(trial.head.or(Some(trial.chain))),
                _ => Some(trial.chain),
            };
            if let Some(chain) = chain {
                plan.set(&tensor.name, chain.parse()?);
            }
        }
        let begun = Instant::now();
        if !trial.is_sequential {
            let outcome = self.carried_out(&plan, &self.calibrated(), begun)?;
            return Ok(Measured { trial: *trial, outcome });
        }
        let made = Sequential::new(&self.checkpoint, &plan, Limits::default(), None, &Silent)?;
        let (folder, calibration) = self.in_turn(trial, &made)?;
        let outcome = if trial.embedding.is_none() {
            // All is made: a job with this calibration would make the same again.
            self.scored(&plan, made.store(), begun.elapsed())?
        } else {
            let calibrated = job::Measured { folder: &folder, calibration: &calibration };
            self.carried_out(&plan, &calibrated, begun)?
        };
        Ok(Measured { trial: *trial, outcome })
    }

    /// Compresses and scores a plan.
    ///
    /// # Errors
    /// Whatever the methods and the network say.
    pub fn run(&self, plan: &Plan) -> Result<Outcome> {
        self.carried_out(plan, &self.calibrated(), Instant::now())
    }

    /// The same with what was measured of the inputs; `begun` is when compressing did.
    fn carried_out(
        &self,
        plan: &Plan,
        calibrated: &job::Measured<'_>,
        begun: Instant,
    ) -> Result<Outcome> {
        let store = job::run(self.subject(calibrated), plan, Limits::default(), None, &Silent)?;
        self.scored(plan, &store, begun.elapsed())
    }

    /// Scores what was made of a plan in some time.
    fn scored(&self, plan: &Plan, store: &Store, time: Duration) -> Result<Outcome> {
        let (original, compressed) =
            (CheckpointWeights::new(&self.checkpoint), StoreWeights::new(&self.checkpoint, store));
        let original = network(&self.checkpoint, &original)?;
        let compressed = network(&self.checkpoint, &compressed)?;
        let whole = evaluate(&compressed, None, &self.sequences, &Silent)?;
        let first = evaluate(&compressed, Some(&original), &self.first, &Silent)?;
        let unknown = Figure::exact(f64::NAN);
        let (bytes, bits_per_weight) = self.sizes(plan)?;
        Ok(Outcome {
            bytes,
            bits_per_weight,
            time,
            damage: self.damage(store, plan)?,
            excess: whole.nats_beyond(&self.original).unwrap_or(unknown),
            perplexity: whole.perplexity().value,
            kl: first.mean_kl().unwrap_or(unknown).value,
        })
    }

    /// What layers receive behind the blocks before them as the plan compresses those in turn.
    fn in_turn(&self, trial: &Trial<'_>, made: &Sequential<'_>) -> Result<(Folder, Calibration)> {
        let weights = made.weights();
        let plan = format!("{} / {:?}", trial.chain, trial.embedding);
        let behind = Behind { weights: &weights, plan, in_turn: Some(made) };
        let place = (self.home.path(), None);
        calibrate_with_texts(&self.checkpoint, &self.wishes, Some(behind), place, &Silent)
    }

    /// The mean squared relative error of the outputs of the layers that were compressed, on the calibration's text.
    fn damage(&self, store: &Store, plan: &Plan) -> Result<f64> {
        let settled = fold::settle(&self.checkpoint, plan);
        let (mut sum, mut layers) = (0.0, 0);
        for (index, tensor) in self.checkpoint.tensors().iter().enumerate() {
            let is_kept = settled.plan.assignment(&tensor.name).is_keep();
            let is_measured = store.has(index) && !is_kept;
            let record = self.calibration.record(&tensor.name).filter(|_| is_measured);
            let Some(gram) = record.and_then(|record| self.folder.gram(record)) else { continue };
            let weights = self.checkpoint.weights(index, &Silent)?;
            let decoded = job::freed_weights(&self.checkpoint, &settled, store, index)?;
            let inputs = LayerInputs {
                mean: record.map(|record| record.inputs.mean.clone()).unwrap_or_default(),
                ..LayerInputs::of_gram(gram)
            };
            let encoding = store.get(index)?;
            let made = (decoded.view(), encoding.shift());
            let error = Moments::relative_error_of(Some(&inputs), weights.view(), made, &Silent)?;
            sum += error.unwrap_or(f64::NAN).powi(2);
            layers += 1;
        }
        Ok(sum / f64::from(layers.max(1)))
    }

    /// Bytes of all tensors, and bits a weight of those that are compressed.
    fn sizes(&self, plan: &Plan) -> Result<(u64, f64)> {
        let (mut bytes, mut packed, mut weights) = (0, 0, 0);
        let settled = fold::settle(&self.checkpoint, plan);
        for tensor in self.checkpoint.tensors() {
            let taken = taken(tensor, &settled.plan)?;
            bytes += taken.unwrap_or(tensor.bytes());
            if let Some(taken) = taken {
                packed += taken;
                weights += tensor.parameters();
            }
        }
        Ok((bytes, packed as f64 * 8.0 / weights as f64))
    }
}

/// Bytes of a tensor that is compressed.
fn taken(tensor: &Tensor, plan: &Plan) -> Result<Option<u64>> {
    let Some((assignment, matrix)) = plan.get(&tensor.name).zip(tensor.matrix) else {
        return Ok(None);
    };
    let layout = assignment.layout(matrix.shape, tensor.dtype)?;
    Ok(Some(layout.bytes(matrix.shape)))
}

/// The network of a checkpoint with these weights.
///
/// # Errors
/// Whatever its config.json says wrong.
pub fn network<'a>(checkpoint: &Checkpoint, weights: &'a dyn Weights) -> Result<Network<'a>> {
    let config = checkpoint.config();
    Network::open(config.ok_or_else(|| Error::plan("no config.json", "restore it"))?, weights)
}

/// A text in windows, as far as `budget` goes.
fn windows(checkpoint: &Checkpoint, text: &Path, budget: Option<usize>) -> Result<Sequences> {
    let tokenizer = Tokenizer::open(checkpoint)?;
    let texts = Source::path(text).read(&Silent)?;
    let tokens = tokenizer.encode_documents(texts.documents(), Specials::Added, &Silent)?;
    cut(&tokens, &Cut { budget, ..Cut::scoring(LENGTH) })
}

/// Bits a weight, bytes, output error, perplexity, its ratio to the original's, KL and seconds.
pub fn figures(found: &Measured<'_>) -> Vec<String> {
    vec![
        format!("{:.3}", found.bits_per_weight),
        count(found.bytes),
        format!("{:.4} %", 100.0 * found.damage),
        format!("{:.3}", found.perplexity),
        format!("{:.4} ± {:.4}", found.ratio(), found.margin()),
        format!("{:.5}", found.kl),
        format!("{:.1}", found.time.as_secs_f64()),
    ]
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What stands over [`figures`].
pub const HEADING: [&str; 7] =
    ["bits/weight", "bytes", "output error", "perplexity", "× original", "KL", "s"];

/// A table in Markdown: names to the left, numbers to the right.
pub fn markdown(heading: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let mut rule = vec!["---:".to_owned(); heading.len()];
    if let Some(first) = rule.first_mut() {
        "---".clone_into(first);
    }
    let rows: String = rows.iter().map(|row| line(row)).collect();
    line(&heading) + &line(&rule) + &rows
}

/// Trials with their figures, in Markdown.
pub fn table(found: &[Measured<'_>]) -> String {
    let row = |found: &Measured<'_>| [vec![found.trial.title.to_owned()], figures(found)].concat();
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    markdown(&[&["method"][..], &HEADING].concat(), &rows)
}
