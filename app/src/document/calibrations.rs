//! Calibrations of the open model: what the person wants, what is on disk, what is at work, and the one in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use lapidary_engine::Progress;
use lapidary_engine::calibration::{
    Ability, Calibration, Demands, Folder, Imported, Problem, Record, Settings, Stream,
    USUAL_TOKENS, Wishes,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::job;
use lapidary_engine::method::{LayerInputs, Needs, Step};
use lapidary_engine::numeric::channels::{self, StandsOut};
use lapidary_engine::text::Source;

use crate::document::Slot;
use crate::document::measurements::Measured;
use crate::document::model::Model;

/// What data should be like for a layer not to be named among the problems.
pub const DEMANDS: Demands = Demands { least_tokens: 1000, most_change: 0.1 };
/// Endings of files that are offered as text to calibrate with when they are dropped on the window.
const TEXT_ENDINGS: [&str; 4] = ["txt", "md", "jsonl", "ndjson"];

/// Through what a block's inputs have passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Before {
    /// The original blocks.
    #[default]
    Original,
    /// The blocks as the plan compresses them, all of them beforehand.
    Plan,
    /// The blocks as the plan compresses them, each as soon as it was measured.
    InTurn,
}

/// What the person has entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Files and folders, in order.
    pub paths: Vec<PathBuf>,
    /// Text typed or pasted.
    pub pasted: String,
    /// The field of JSON lines that holds the text.
    pub field: String,
    /// Tokens of a sequence; the usual number if `None`.
    pub sequence_tokens: Option<usize>,
    /// Tokens in all.
    pub tokens: usize,
    /// By which sequences are drawn.
    pub seed: u64,
    /// Whether Gram matrices are kept.
    pub has_grams: bool,
    /// Through which blocks the text passes on its way to a block.
    pub before: Before,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            pasted: String::new(),
            field: "text".to_owned(),
            sequence_tokens: None,
            tokens: USUAL_TOKENS,
            seed: 0,
            has_grams: true,
            before: Before::Original,
        }
    }
}

impl Form {
    /// What the engine is asked for.
    pub fn wishes(&self) -> Wishes {
        let field = Some(self.field.trim().to_owned()).filter(|field| !field.is_empty());
        let path = |path: &PathBuf| Source::Path { path: path.clone(), field: field.clone() };
        let pasted = (!self.pasted.trim().is_empty()).then(|| Source::pasted(&self.pasted));
        Wishes {
            sources: self.paths.iter().map(path).chain(pasted).collect(),
            sequence_tokens: self.sequence_tokens,
            tokens: self.tokens,
            seed: self.seed,
            has_grams: self.has_grams,
        }
    }
}

/// Whether a file has a JSON object in each line.
pub fn is_json_lines(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|ending| ending == "jsonl" || ending == "ndjson")
}

/// Whether a dropped file is text rather than a model.
pub fn is_text(path: &std::path::Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| TEXT_ENDINGS.contains(&ending.as_str()))
}

/// Something asked of calibrations.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Change what is entered.
    SetForm(Box<Form>),
    /// Add a file or folder to the texts, and show the form.
    Add(PathBuf),
    /// Run, or go on where a run with the same texts and settings stopped.
    Run,
    /// Stop; finished blocks are kept.
    Cancel,
    /// Use this one.
    Use(Folder),
    /// Remove this one from disk.
    Delete(Folder),
    /// Take an importance matrix of llama.cpp for a calibration.
    Import(PathBuf),
    /// Write the one in use as an importance matrix.
    Export(PathBuf),
}

/// How a run or an import ended: what it gave with sentences, or a sentence; `None` if it was cancelled.
pub type Ended = Option<Result<(Box<Loaded>, Vec<String>), String>>;

/// Something learnt about calibrations.
#[derive(Debug)]
pub enum News {
    /// Whether the model can be run.
    Able(Result<Ability, String>),
    /// What is on disk, the latest finished one in use.
    Listed(Vec<Known>, Option<Box<Loaded>>),
    /// A run has come this far.
    Progress(Progress),
    /// A run or an import ended.
    Ended(Ended),
    /// One of those on disk was loaded.
    Loaded(Box<Loaded>),
    /// A layer was seen through what it receives.
    Through(usize, Box<Through>),
    /// An importance matrix was written, with what could not be said in it.
    Exported(Result<(PathBuf, Vec<String>), String>),
}

/// A calibration on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Where.
    pub folder: Folder,
    /// Whether it is whole.
    pub is_finished: bool,
    /// Parts that are there.
    pub parts: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Known {
    /// Looks at a folder.
    pub fn of(folder: Folder) -> Self {
        let (is_finished, parts) = (folder.is_finished(), folder.parts().len());
        Self { is_finished, parts, bytes: folder.bytes(), folder }
    }
}

/// A calibration in use.
#[derive(Debug)]
pub struct Loaded {
    /// Where Gram matrices are read from.
    pub folder: Folder,
    /// What was measured.
    pub calibration: Calibration,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Of what was measured.
    pub fn new(folder: Folder, calibration: Calibration) -> Self {
        let layers: Vec<String> =
            calibration.records().iter().filter_map(|of| of.layers.first().cloned()).collect();
        let problems = calibration.problems(layers.iter().map(String::as_str), &DEMANDS);
        Self { folder, calibration, problems }
    }

    /// A line about it: texts and tokens.
    pub fn title(folder: &Folder) -> String {
        folder.settings().title()
    }
}

impl job::Calibrated for Loaded {
    fn known(&self, layer: &str) -> Needs {
        self.measured().known(layer)
    }

    fn inputs(&self, layer: &str, needs: Needs) -> lapidary_engine::Result<Option<LayerInputs>> {
        self.measured().inputs(layer, needs)
    }

    fn has_stream(&self, block: u32) -> bool {
        self.measured().has_stream(block)
    }

    fn stream(&self, block: u32) -> Option<Stream> {
        self.measured().stream(block)
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.calibration.settings)
    }

    fn imported(&self) -> Option<&Imported> {
        self.folder.imported()
    }
}

impl Loaded {
    fn measured(&self) -> job::Measured<'_> {
        job::Measured { folder: &self.folder, calibration: &self.calibration }
    }
}

/// A checkpoint with what a calibration knows of it, for a job.
pub fn subject<'a>(checkpoint: &'a Checkpoint, loaded: Option<&'a Loaded>) -> job::Subject<'a> {
    match loaded {
        Some(loaded) => job::Subject { checkpoint, calibrated: loaded },
        None => checkpoint.into(),
    }
}

/// A channel of a layer's inputs that stands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierChannel {
    /// Its number.
    pub channel: usize,
    /// In what it stands out.
    pub why: String,
}

/// The channels of a record that stand out, the strongest first; none of an imported one.
pub fn outliers(record: &Record) -> Vec<OutlierChannel> {
    let inputs = &record.inputs;
    if inputs.absmax.len() != inputs.mean_square.len() {
        return Vec::new();
    }
    let name = |found: &channels::OutlierChannel| {
        let power = format!("rms {:.1} times the median of the channels", found.power_medians);
        let peak = format!("largest value {:.1} times", found.peak_medians);
        let why = match found.stands_out {
            StandsOut::Both => format!("{power}, {peak}: all tokens do it"),
            StandsOut::Power => format!("{power}: all tokens do it"),
            StandsOut::Peak => format!("{peak} the median of the channels: few tokens do it"),
        };
        OutlierChannel { channel: found.channel, why }
    };
    channels::outlier_channels(&inputs.absmax, &inputs.mean_square).iter().map(name).collect()
}

/// A layer seen through what it receives; each is there as soon as it is computed.
#[derive(Clone, Debug, Default)]
pub struct Through {
    /// Channels that stand out.
    pub outliers: Vec<OutlierChannel>,
    /// Importance of each channel, Σ|w|·rms.
    pub importance: Measured<Vec<f64>>,
    /// Eigenvalues of Σ x·x^T / tokens; absent without a Gram matrix.
    pub eigenvalues: Measured<Vec<f64>>,
    /// Singular values of W·H^½; absent without a Gram matrix.
    pub whitened: Measured<Vec<f64>>,
    /// Whether all that can be computed is.
    pub is_done: bool,
}

/// Calibrations of the open model.
#[derive(Debug, Default)]
pub struct Calibrations {
    /// Whether the model can be run, once it is known.
    pub ability: Option<Result<Ability, String>>,
    /// Those on disk.
    pub known: Vec<Known>,
    /// The one in use.
    pub loaded: Option<Arc<Loaded>>,
    /// The one being made.
    pub run: Slot<()>,
    /// When its first progress came, and how far that was.
    pub since: Option<(Instant, u64)>,
    /// The layer in the inspector through what it receives.
    pub through: Option<(usize, Through)>,
    /// The layer that was asked for last.
    pub asked: Option<usize>,
}

impl Calibrations {
    /// Seconds a run will still take, once there is something to tell by.
    pub fn seconds_left(&self) -> Option<f64> {
        let Slot::Running { progress: Some(progress), .. } = &self.run else { return None };
        let (since, before) = self.since?;
        let done = progress.done.checked_sub(before).filter(|done| *done > 0)?;
        let left = progress.total.saturating_sub(progress.done);
        Some(since.elapsed().as_secs_f64() * left as f64 / done as f64)
    }

    /// An expert of each routed layer by block and number: tokens and share of the router's tokens.
    pub fn experts(&self, model: &Model) -> Vec<Expert> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        let expert = |record: &Record| {
            let layer = model.checkpoint.find(record.layers.first()?)?;
            let place = &model.checkpoint.tensors()[layer].place;
            let share = record.routed_share()?;
            let (block, expert) = (place.block?, place.expert?);
            Some(Expert { block, expert, layer, tokens: record.inputs.tokens, share })
        };
        let mut experts: Vec<Expert> =
            loaded.calibration.records().iter().filter_map(expert).collect();
        // An expert has two inputs, its own and that of its down projection: both saw the same tokens.
        experts.sort_by_key(|of| (of.block, of.expert, of.layer));
        experts.dedup_by_key(|of| (of.block, of.expert));
        experts
    }
}

/// What came to an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expert {
    /// Its block.
    pub block: u32,
    /// Its number.
    pub expert: u32,
    /// Its first layer.
    pub layer: usize,
    /// Tokens routed to it.
    pub tokens: u64,
    /// Their share of the router's tokens.
    pub share: f64,
}

impl Model {
    /// What was measured of the input of a layer.
    pub fn record(&self, layer: usize) -> Option<&Record> {
        let loaded = self.calibrations.loaded.as_ref()?;
        loaded.calibration.record(&self.checkpoint.tensors()[layer].name)
    }

    /// Takes a calibration into use: every error is measured anew, weighted by it.
    pub fn set_calibration(&mut self, loaded: Option<Box<Loaded>>) {
        self.calibrations.loaded = loaded.map(|loaded| Arc::new(*loaded));
        let loaded = self.calibrations.loaded.as_deref();
        let importance = subject(&self.checkpoint, loaded).importance();
        self.outcome.weigh(importance);
        self.calibrations.through = None;
        self.calibrations.asked = None;
        self.measured.damages.clear();
        self.look.forget_results();
        self.preview = None;
        self.changed();
    }

    /// Why steps cannot be taken on a layer for want of a calibration, as a sentence.
    pub fn why_uncalibrated(&self, layer: usize, steps: &[Step]) -> Option<String> {
        let loaded = self.calibrations.loaded.as_deref();
        let refusal = subject(&self.checkpoint, loaded).check_inputs(layer, steps);
        refusal.err().map(|error| error.sentence())
    }
}
