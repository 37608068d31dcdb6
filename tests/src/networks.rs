//! Networks, calibrations of them and exports behind one, for the tests of what folds.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use lapidary_engine::calibration::{
    Calibration, Folder, Prefix, Run, Settings, calibrate, model_key,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, export};
use lapidary_engine::fold::settle;
use lapidary_engine::job::{self, Limits, Sequential, Store, Subject};
use lapidary_engine::method::{Needs, Step};
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::numeric::distance::relative_error;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::numeric::weighted::gram_weighted_error;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{Manifest, find};
use lapidary_engine::{Observer, Result, Silent};
use ndarray::Array2;
use tempfile::TempDir;

use crate::{names_in, on_threads, read_folder, repository};

/// A small network of `tests/golden/networks`.
pub fn golden(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).expect("a network")
}

/// What a network with these weights says of 24 tokens.
pub fn logits(checkpoint: &Checkpoint, weights: &dyn Weights) -> Array2<f32> {
    let network = Network::open(checkpoint.config().expect("a config"), weights).expect("one");
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % network.design().vocabulary as u32).collect();
    network.logits_of(&[&ids], &Silent).expect("logits").remove(0)
}

/// ‖A − B‖/‖A‖.
pub fn apart(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    relative_error(a.view(), b.view())
}

/// Weights of which some tensors are replaced.
pub struct Changed<'a> {
    /// Where the others come from.
    pub base: CheckpointWeights<'a>,
    /// Those that are replaced, by name.
    pub by: HashMap<String, Vec<f32>>,
}

impl Weights for Changed<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        self.base.extents(name)
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32], by: &dyn Observer) -> Result<()> {
        match self.by.get(name) {
            Some(values) => {
                out.copy_from_slice(&values[first..first + out.len()]);
                Ok(())
            }
            None => self.base.read(name, first, out, by),
        }
    }
}

/// A calibration of a checkpoint with text that is drawn.
pub fn calibrated(checkpoint: &Checkpoint, root: &TempDir) -> (Folder, Calibration) {
    calibrated_behind(checkpoint, None, root)
}

/// The same, or what layers receive while a plan is carried out block by block.
pub fn calibrated_behind(
    checkpoint: &Checkpoint,
    made: Option<&Sequential<'_>>,
    root: &TempDir,
) -> (Folder, Calibration) {
    let config = checkpoint.config().expect("a config");
    let weights = CheckpointWeights::new(checkpoint);
    let network = Network::open(config, &weights).expect("a network");
    let in_turn = made.map(Sequential::weights);
    let compressed = in_turn.as_ref().map(|of| Network::open(config, of).expect("a network"));
    let mut random = Random::new(5);
    let vocabulary = network.design().vocabulary as f64;
    let ids: Vec<u32> = (0..200).map(|_| (random.uniform() * vocabulary) as u32).collect();
    let settings = Settings {
        model: checkpoint.title(),
        model_key: model_key(checkpoint, None, &Silent).expect("a key"),
        texts: vec![],
        sequence_tokens: 40,
        tokens: 200,
        seed: 0,
        prefix: made.map_or(Prefix::Original, |_| Prefix::InTurn { plan: "p".to_owned() }),
        has_grams: true,
    };
    let run = Run {
        network: &network,
        compressed: compressed.as_ref(),
        in_turn: made.map(|made| made as _),
        sequences: ids.chunks(40).collect(),
        settings: settings.clone(),
    };
    let calibration = calibrate(&run, root.path(), &Silent).expect("a calibration");
    (Folder::create(root.path(), settings).expect("its folder"), calibration)
}

/// AWQ in groups of 32.
pub fn awq(bits: i64, scales: &str) -> Step {
    Step::new("awq").with("bits", bits).with("group_size", 32).with("scales", scales)
}

/// A job of a plan.
pub fn run(subject: Subject<'_>, plan: &Plan) -> Store {
    job::run(subject, plan, Limits::default(), None, &Silent).expect("a job")
}

/// Σ over layers of the squared error of their outputs.
pub fn damage(subject: Subject<'_>, plan: &Plan, store: &Store, layers: &[usize]) -> f64 {
    let settled = settle(subject.checkpoint, plan);
    let of = |&layer: &usize| {
        let checkpoint = subject.checkpoint;
        let name = &checkpoint.tensors()[layer].name;
        let inputs = subject.calibrated.inputs(name, Needs::Gram);
        let inputs = inputs.expect("readable").expect("measured");
        let decoded = job::freed_weights(checkpoint, &settled, store, layer).expect("stored");
        let weights = checkpoint.weights(layer, &Silent).expect("weights");
        gram_weighted_error(weights.view(), decoded.view(), &inputs.gram.expect("kept")).error
    };
    layers.iter().map(of).sum()
}

/// An export, as large as its manifest.
pub fn exported(subject: Subject<'_>, plan: &Plan, target: &str, out: &Path) -> Report {
    let destination = Destination { folder: out, replace: true, limits: Limits::default() };
    let target = find(target).expect("a target");
    let manifest = Manifest::new(subject.checkpoint, plan, target).expect("a manifest");
    let importance = subject.importance();
    let manifest = manifest.weighted(subject.checkpoint, plan, importance.as_ref());
    let manifest = manifest.expect("the same with what weighted it");
    let report = export(subject, plan, target, destination, &Silent)
        .unwrap_or_else(|error| panic!("{}: {error}", target.about().id));
    assert_eq!(report.totals.total_bytes, manifest.total_bytes(), "{}", target.about().id);
    report
}

/// Cancels behind so many reports of compressing.
struct Stops {
    left: AtomicUsize,
}

impl Observer for Stops {
    fn progress(&self, progress: lapidary_engine::Progress) {
        if progress.stage == "Compressing" {
            let one_less = |left: usize| Some(left.saturating_sub(1));
            self.left.fetch_update(SeqCst, SeqCst, one_less).expect("always some");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.left.load(SeqCst) == 0
    }
}

/// The GGUF file of a folder.
pub fn gguf_of(folder: &Path) -> PathBuf {
    let name = names_in(folder).into_iter().find(|name| name.contains(".gguf"));
    folder.join(name.expect("a file"))
}

/// Stops an export to `dense` behind so many reports of compressing, each time; asserts that it then ends as one that was
/// not stopped.
pub fn assert_goes_on(subject: Subject<'_>, plan: &Plan, stops: &[usize], root: &Path) {
    let whole = root.join("whole");
    exported(subject, plan, "dense", &whole);
    let out = root.join("out");
    for &reports in stops {
        let destination = Destination { folder: &out, replace: true, limits: Limits::default() };
        let stops = Stops { left: reports.into() };
        let target = find("dense").expect("a target");
        let stopped = on_threads(1, || export(subject, plan, target, destination, &stops));
        assert!(matches!(stopped, Err(lapidary_engine::Error::Cancelled)), "{stopped:?}");
    }
    exported(subject, plan, "dense", &out);
    assert!(read_folder(&out) == read_folder(&whole));
}

/// Compresses block by block while the model is calibrated, and again as a job with the calibration that leaves; asserts that
/// both made the same of `count` tensors.
pub fn assert_same_in_turn(checkpoint: &Checkpoint, plan: &Plan, count: usize) {
    let made = Sequential::new(checkpoint, plan, Limits::default(), None, &Silent);
    let made = made.expect("a store");
    let root = TempDir::new().expect("a folder");
    let (folder, _) = calibrated_behind(checkpoint, Some(&made), &root);
    let calibration = folder.load();
    let measured = job::Measured { folder: &folder, calibration: &calibration };
    let store = run(Subject { checkpoint, calibrated: &measured }, plan);
    let mut same = 0;
    for tensor in 0..checkpoint.tensors().len() {
        assert_eq!(store.has(tensor), made.store().has(tensor));
        if store.has(tensor) {
            let pair = (store.get(tensor).expect("stored"), made.store().get(tensor));
            assert_eq!(pair.0, pair.1.expect("stored"));
            same += 1;
        }
    }
    assert_eq!(same, count);
}
