//! Budgets spent on the sample in every way, each plan run on its held-out text beside the original.

use std::path::Path;
use std::time::{Duration, Instant};

use lapidary_engine::allocator::{self, Choice, Problem, Settings, Stage};
use lapidary_engine::calibration::{Calibration, Folder, Wishes, calibrate_with_texts};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::{Baseline, Figure, From, evaluate};
use lapidary_engine::job::{self, Limits, StoreWeights, Subject};
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::{
    Bounds, Measuring, Metric, Question, UnitScores, groups, plan_of, uniform,
};
use lapidary_engine::search::{self, Task, Wish};
use lapidary_engine::target::{self, Target};
use lapidary_engine::text::{Cut, Sequences, Source, Specials, Tokenizer, cut};
use lapidary_engine::{Error, Result, Silent};

use crate::trials::{count, markdown};

/// Tokens of a window, those of the model's context.
const LENGTH: usize = 256;
/// Tokens of the calibration.
const CALIBRATION_TOKENS: usize = 4096;
/// Tokens on which candidates are measured.
const MEASURED_TOKENS: usize = 2048;
/// Tokens of the held-out text that plans are scored on.
const SCORED_TOKENS: usize = 16_000;
/// Bits a layer may have.
const CANDIDATES: [i64; 6] = [2, 3, 4, 5, 6, 8];
/// The budgets, in bits of a code; scales and offsets of groups of 128 take a quarter of a bit more.
const BUDGETS: [f64; 5] = [2.5, 3.0, 3.5, 4.0, 5.0];
/// What a group of 128 takes beside its codes, in bits a weight.
const OVERHEAD: f64 = 0.25;
/// The scores, with their names.
const METRICS: [(Metric, &str); 4] = [
    (Metric::Weights, "weights"),
    (Metric::Outputs, "outputs"),
    (Metric::Linearity, "linearity"),
    (Metric::Measured, "measured"),
];
/// What stands over the table.
const HEADING: [&str; 7] = [
    "bits",
    "plan",
    "bytes of units",
    "predicted",
    "KL where it was measured",
    "perplexity, held out",
    "KL, held out",
];

/// The sample, calibrated and scored.
pub struct Bench {
    checkpoint: Checkpoint,
    target: &'static dyn Target,
    folder: Folder,
    calibration: Calibration,
    /// The text to measure on, and the held-out one.
    measured: Vec<Vec<u32>>,
    held_out: Sequences,
    /// By metric, with the seconds it took.
    scores: Vec<(Vec<UnitScores>, Duration)>,
    home: tempfile::TempDir,
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("home", &self.home).finish_non_exhaustive()
    }
}

impl Bench {
    /// Calibrates the sample with a text, and scores every candidate by every metric.
    ///
    /// # Errors
    /// Whatever reading, tokenizing and running say.
    pub fn new(text: &Path) -> Result<Self> {
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
        let measured = sequences(&checkpoint, text, None)?.list;
        let measured = measured.into_iter().map(|sequence| sequence.ids).collect();
        let held_out = sequences(&checkpoint, &sample.join("heldout_oz.txt"), Some(SCORED_TOKENS))?;
        let target = target::find("mlx")?;
        let scores = Vec::new();
        let mut bench =
            Self { checkpoint, target, folder, calibration, measured, held_out, scores, home };
        bench.scores =
            METRICS.iter().map(|(metric, _)| bench.score(*metric)).collect::<Result<_>>()?;
        Ok(bench)
    }

    fn score(&self, metric: Metric) -> Result<(Vec<UnitScores>, Duration)> {
        let calibrated = job::Measured { folder: &self.folder, calibration: &self.calibration };
        let subject = Subject { checkpoint: &self.checkpoint, calibrated: &calibrated };
        let palette = CANDIDATES.map(|bits| Assignment::keep().with_bits(bits));
        let plan = Plan::default();
        let question = Question { subject, plan: &plan, palette: &palette, target: self.target };
        let begun = Instant::now();
        let weights = CheckpointWeights::new(&self.checkpoint);
        let network = self.network(&weights)?;
        let baseline = Baseline::new(&network, self.first(), &Silent)?;
        let tokens = baseline.tokens();
        let measuring = Measuring { baseline: &baseline, weights: &weights, tokens };
        let scores = question.score(metric, Some(measuring), &Silent)?;
        Ok((scores, begun.elapsed()))
    }

    /// The sequences on which candidates are measured.
    fn first(&self) -> &[Vec<u32>] {
        &self.measured[..self.measured.len().min(MEASURED_TOKENS / LENGTH)]
    }

    fn network<'a>(&self, weights: &'a dyn Weights) -> Result<Network<'a>> {
        let config = self.checkpoint.config();
        Network::open(config.ok_or_else(|| Error::plan("no config.json", "restore it"))?, weights)
    }

    /// The table, and a line about how long each score and the searches took. `say` hears each row as it comes.
    ///
    /// # Errors
    /// Whatever solving, compressing and running say.
    pub fn tables(&self, say: &mut dyn FnMut(&[String])) -> Result<[String; 2]> {
        let mut rows = Vec::new();
        let mut searching = Duration::ZERO;
        for bits in BUDGETS {
            for (name, choice, is_predicted) in self.choices(bits, &mut searching)? {
                let row = self.row(bits, &name, &choice, is_predicted)?;
                say(&row);
                rows.push(row);
            }
        }
        let times: Vec<String> = METRICS
            .iter()
            .zip(&self.scores)
            .map(|((_, name), (_, time))| format!("{name} {:.0} s", time.as_secs_f64()))
            .collect();
        let about = format!(
            "Scoring took: {}; the {} searches {:.0} s; {} threads. Scored on {} tokens of heldout_oz.txt.\n",
            times.join(", "),
            BUDGETS.len(),
            searching.as_secs_f64(),
            rayon::current_num_threads(),
            self.held_out.scored_tokens(),
        );
        Ok([markdown(&HEADING, &rows), about])
    }

    /// Every way to spend a budget, and whether the damage of its choice is in nats.
    fn choices(&self, bits: f64, searching: &mut Duration) -> Result<Vec<(String, Choice, bool)>> {
        let mut choices = Vec::new();
        let place = CANDIDATES.iter().position(|&candidate| candidate as f64 == bits);
        let (weights, _) = &self.scores[0];
        if let Some(choice) = place.and_then(|place| uniform(weights, place)) {
            choices.push(("uniform".to_owned(), choice, false));
        }
        let ratio = allocator::find("ratio")?.solve(&self.problem(1, bits)?, &Silent)?;
        choices.push(("by ratio, outputs".to_owned(), ratio.choice, false));
        for (at, (metric, name)) in METRICS.iter().enumerate() {
            let solution = allocator::find("knapsack")?.solve(&self.problem(at, bits)?, &Silent)?;
            choices.push((format!("knapsack, {name}"), solution.choice, metric.is_measured()));
        }
        let start = choices.last().map(|(_, choice, _)| choice.options.clone());
        let begun = Instant::now();
        choices.push(("evolution".to_owned(), self.evolved(bits, start)?, false));
        *searching += begun.elapsed();
        Ok(choices)
    }

    fn problem(&self, metric: usize, bits: f64) -> Result<Problem> {
        let groups = groups(&self.checkpoint, &self.scores[metric].0, &Bounds::default());
        let weights: u64 = groups.iter().map(|group| group.weights).sum();
        Problem::new(groups, ((bits + OVERHEAD) * weights as f64 / 8.0).floor() as u64)
    }

    /// The search of `lapidary search` with its defaults, from the knapsack's choice by measured scores.
    fn evolved(&self, bits: f64, start: Option<Vec<usize>>) -> Result<Choice> {
        let stage = |survivors, tokens| Stage { survivors, tokens };
        let stages = vec![stage(4, 512), stage(1, 4096)];
        let settings = Settings { offspring: 16, generations: 40, stages, ..Settings::default() };
        let last = METRICS.len() - 1;
        let problem = self.problem(last, bits)?;
        let weights = CheckpointWeights::new(&self.checkpoint);
        let network = self.network(&weights)?;
        let task = Task {
            subject: Subject::from(&self.checkpoint),
            identity: "the sample",
            scores: &self.scores[last].0,
            problem: &problem,
            network: &network,
            sequences: &self.measured,
        };
        let folder = self.home.path().join("search");
        let found = search::run(&task, &Wish { settings, start }, &folder, &mut |_| {}, &Silent)?;
        Ok(found.best(&problem))
    }

    fn row(
        &self,
        bits: f64,
        name: &str,
        choice: &Choice,
        is_predicted: bool,
    ) -> Result<Vec<String>> {
        let (scores, _) = &self.scores[0];
        let plan = plan_of(&self.checkpoint, scores, choice, &Plan::default());
        let store = job::run(&self.checkpoint, &plan, Limits::default(), None, &Silent)?;
        let (original, compressed) =
            (CheckpointWeights::new(&self.checkpoint), StoreWeights::new(&self.checkpoint, &store));
        let (original, compressed) = (self.network(&original)?, self.network(&compressed)?);
        let baseline = Baseline::ends(&original, (self.first(), LENGTH), &Silent)?;
        let measured = baseline.kl(&compressed, From::Embedding, usize::MAX, &Silent)?;
        let found = evaluate(&compressed, Some(&original), &self.held_out, &Silent)?;
        let of = |figure: Figure, digits: usize| {
            format!("{:.digits$} ± {:.digits$}", figure.value, figure.error)
        };
        let kl = found.mean_kl().map_or_else(|| "–".to_owned(), |kl| of(kl, 4));
        let predicted =
            if is_predicted { format!("{:.4}", choice.damage) } else { "–".to_owned() };
        Ok(vec![
            format!("{bits}"),
            name.to_owned(),
            count(choice.bytes),
            predicted,
            format!("{measured:.4}"),
            of(found.perplexity(), 3),
            kl,
        ])
    }
}

fn sequences(checkpoint: &Checkpoint, text: &Path, budget: Option<usize>) -> Result<Sequences> {
    let tokenizer = Tokenizer::open(checkpoint)?;
    let texts = Source::path(text).read(&Silent)?;
    let tokens = tokenizer.encode_documents(texts.documents(), Specials::Added, &Silent)?;
    cut(&tokens, &Cut { budget, ..Cut::scoring(LENGTH) })
}
