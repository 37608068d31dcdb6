//! Biases that come of low rank about the mean: in the store, in every target that can hold them, refused elsewhere.

use lapidary_engine::calibration::{
    Calibration, Folder, Prefix, Run, Settings, calibrate, model_key,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, convert, export, verify};
use lapidary_engine::job::{self, Limits, Measured, Moments, Store, StoreWeights, Subject};
use lapidary_engine::method::{LayerInputs, Needs, Step};
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::numeric::distance::relative_error;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{Manifest, find};
use lapidary_engine::{Result, Silent};
use lapidary_tests::{assert_says, plan, read_json, repository};
use ndarray::Array2;
use tempfile::TempDir;

fn golden(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).expect("a network")
}

fn ids(checkpoint: &Checkpoint, weights: &dyn Weights) -> Vec<u32> {
    let network = Network::open(checkpoint.config().expect("a config"), weights).expect("one");
    let mut random = Random::new(5);
    let vocabulary = network.design().vocabulary as f64;
    (0..160).map(|_| (random.uniform() * vocabulary) as u32).collect()
}

fn logits(checkpoint: &Checkpoint, weights: &dyn Weights) -> Array2<f32> {
    let network = Network::open(checkpoint.config().expect("a config"), weights).expect("one");
    let ids = ids(checkpoint, weights);
    network.logits_of(&[&ids[..24]], &Silent).expect("logits").remove(0)
}

fn apart(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    relative_error(a.view(), b.view())
}

fn calibrated(checkpoint: &Checkpoint, root: &TempDir) -> (Folder, Calibration) {
    let weights = CheckpointWeights::new(checkpoint);
    let network = Network::open(checkpoint.config().expect("a config"), &weights).expect("one");
    let ids = ids(checkpoint, &weights);
    let settings = Settings {
        model: checkpoint.title(),
        model_key: model_key(checkpoint, None, &Silent).expect("a key"),
        texts: vec![],
        sequence_tokens: 32,
        tokens: ids.len() as u64,
        seed: 0,
        prefix: Prefix::Original,
        has_grams: true,
    };
    let run = Run {
        network: &network,
        compressed: None,
        in_turn: None,
        sequences: ids.chunks(32).collect(),
        settings: settings.clone(),
    };
    let calibration = calibrate(&run, root.path(), &Silent).expect("a calibration");
    (Folder::create(root.path(), settings).expect("its folder"), calibration)
}

fn centred(rank: i64) -> Vec<Step> {
    let step = Step::new("low-rank").with("nearest", "outputs").with("rank", rank);
    vec![step.with("centre", "bias")]
}

fn run(subject: Subject<'_>, plan: &Plan) -> Store {
    job::run(subject, plan, Limits::default(), None, &Silent).expect("a job")
}

fn exported(subject: Subject<'_>, plan: &Plan, id: &str, out: &std::path::Path) -> Result<Report> {
    let destination = Destination { folder: out, replace: true, limits: Limits::default() };
    let target = find(id).expect("a target");
    let manifest = Manifest::new(subject.checkpoint, plan, target)?;
    let report = export(subject, plan, target, destination, &Silent)?;
    assert_eq!(report.totals.total_bytes, manifest.total_bytes(), "{id}");
    Ok(report)
}

/// A model, its layers that are given a bias, and how many biases change and how many are new.
type Case = (&'static str, &'static [&'static str], usize, usize);

#[test]
fn a_model_with_shifted_outputs_runs_alike_from_store_files_and_archive() {
    let cases: [Case; 4] = [
        // One layer is given a bias, so all of its kind are.
        ("llama", &["model.layers.0.self_attn.o_proj.weight"], 0, 8),
        ("llama", &["*.q_proj.weight", "*.down_proj.weight"], 0, 14),
        ("opt", &["*.fc1.weight", "*.q_proj.weight"], 4, 0),
        ("gpt2", &["*.mlp.c_proj.weight"], 2, 0),
    ];
    for (name, patterns, changed, added) in cases {
        let checkpoint = golden(name);
        let root = TempDir::new().expect("a folder");
        let (folder, calibration) = calibrated(&checkpoint, &root);
        let measured = Measured { folder: &folder, calibration: &calibration };
        let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
        let rules: Vec<(&str, Vec<Step>)> = patterns.iter().map(|&p| (p, centred(6))).collect();
        let plan = plan(&checkpoint, &rules).expect("a plan");
        let store = run(subject, &plan);
        let wanted = logits(&checkpoint, &StoreWeights::new(&checkpoint, &store));
        let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
        assert!(apart(&original, &wanted) > 1e-3, "{name}: it is another model");
        for id in ["archive", "dense", "compressed-tensors", "mlx"] {
            let out = root.path().join(id);
            let report = exported(subject, &plan, id, &out).unwrap_or_else(|e| panic!("{id}: {e}"));
            let opened = Checkpoint::open(&out).expect("the export opens");
            let found = logits(&opened, &CheckpointWeights::new(&opened));
            let off = apart(&wanted, &found);
            // An archive holds numbers as they are; elsewhere weights and biases are rounded to bf16.
            assert!(off <= if id == "archive" { 0.0 } else { 0.03 }, "{name} {id}: {off}");
            let count = report.tensors.iter().filter(|tensor| tensor.added.is_some()).count();
            let wanted = if id == "archive" { (0, 0) } else { (changed, added) };
            assert_eq!((report.totals.changed, count), wanted, "{name} {id}");
            let verified = verify(&out, &checkpoint, &Silent).expect("readable");
            assert!(verified.faults.is_empty(), "{name} {id}: {:?}", verified.faults);
        }
        // Unpacked, the archive is the dense export.
        let (archive, unpacked) = (root.path().join("archive"), root.path().join("unpacked"));
        let archive = Checkpoint::open(&archive).expect("the archive opens");
        let limits = Limits::default();
        let destination = Destination { folder: &unpacked, replace: false, limits };
        convert(&archive, find("dense").expect("a target"), destination, &Silent).expect("dense");
        let [a, b] = [&unpacked, &root.path().join("dense")].map(|folder| {
            let opened = Checkpoint::open(folder).expect("it opens");
            logits(&opened, &CheckpointWeights::new(&opened))
        });
        assert_eq!(a, b, "{name}");
        if added > 0 {
            let config = read_json(&unpacked.join("config.json"));
            assert_eq!(config["attention_bias"], true);
            assert_eq!(config["mlp_bias"] == true, patterns.len() > 1, "{config}");
        }
    }
}

#[test]
fn a_bias_that_was_all_zeros_leaves_a_report_that_can_be_read() {
    let original = golden("llama");
    let root = TempDir::new().expect("a folder");
    let given = root.path().join("given");
    let export_of = |checkpoint: &Checkpoint, layer: &str, out: &std::path::Path| {
        let calibrations = TempDir::new().expect("a folder");
        let (folder, calibration) = calibrated(checkpoint, &calibrations);
        let measured = Measured { folder: &folder, calibration: &calibration };
        let subject = Subject { checkpoint, calibrated: &measured };
        let plan = plan(checkpoint, &[(layer, centred(5))]).expect("a plan");
        exported(subject, &plan, "dense", out).expect("an export")
    };
    // Its siblings are given biases of zeros.
    export_of(&original, "model.layers.0.self_attn.o_proj.weight", &given);
    let checkpoint = Checkpoint::open(&given).expect("it opens");
    let out = root.path().join("out");
    let report = export_of(&checkpoint, "model.layers.1.self_attn.o_proj.weight", &out);
    let changed: Vec<f64> = report
        .tensors
        .iter()
        .filter(|tensor| tensor.stored == "changed")
        .map(|tensor| tensor.relative_error)
        .collect();
    assert_eq!(changed, [1.0], "all of what is there");
    let verified = verify(&out, &checkpoint, &Silent).expect("the report is readable");
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
}

#[test]
fn a_bias_that_no_loader_reads_is_refused_and_held_by_an_archive() {
    for (name, layer, target) in [
        ("mistral_window", "*.q_proj.weight", "dense"),
        ("qwen2", "*.o_proj.weight", "compressed-tensors"),
        ("qwen3", "*.up_proj.weight", "dense"),
        ("qwen3", "*.o_proj.weight", "compressed-tensors"),
    ] {
        let checkpoint = golden(name);
        let root = TempDir::new().expect("a folder");
        let (folder, calibration) = calibrated(&checkpoint, &root);
        let measured = Measured { folder: &folder, calibration: &calibration };
        let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
        let plan = plan(&checkpoint, &[(layer, centred(5))]).expect("a plan");
        let out = root.path().join("out");
        let said = ["read no bias there", "leave the mean in the product", "archive"];
        assert_says(exported(subject, &plan, target, &out), &said);
        assert!(!out.exists(), "nothing was left");
        exported(subject, &plan, "archive", &out).expect("an archive");
    }
}

#[test]
fn the_error_that_is_told_is_that_of_outputs_with_their_bias() {
    let checkpoint = golden("opt");
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let layer = (0..checkpoint.tensors().len())
        .find(|&layer| checkpoint.tensors()[layer].name.ends_with("fc2.weight"));
    let layer = layer.expect("a layer behind a ReLU, whose outputs have a mean");
    let name = checkpoint.tensors()[layer].name.as_str();
    let inputs = subject.calibrated.inputs(name, Needs::Gram).expect("readable").expect("kept");
    let weights = checkpoint.weights(layer, &Silent).expect("weights");
    let mut errors = Vec::new();
    for rank in [3, 3] {
        let mut steps = centred(rank);
        if errors.len() == 1 {
            steps[0] = steps[0].clone().with("centre", "none");
        }
        let plan = plan(&checkpoint, &[(name, steps)]).expect("a plan");
        let made = job::compress_layer(subject, &plan, layer, &Silent).expect("an encoding");
        let decoded = made.decode();
        let of = (decoded.view(), made.shift());
        let told = Moments::relative_error_of(Some(&inputs), weights.view(), of, &Silent);
        let told = told.expect("not cancelled").expect("a number");
        assert!((told - by_gram(&weights, &decoded, made.shift(), &inputs)).abs() < 1e-5 * told);
        errors.push(told);
    }
    assert!(errors[0] < 0.97 * errors[1], "{errors:?}");
}

/// √(Σ‖Δ·x − d‖² / Σ‖W·x‖²) by tr(Δ·H·Δᵀ) − 2·n·d·Δ·μ + n·‖d‖².
fn by_gram(
    weights: &Array2<f32>,
    decoded: &Array2<f32>,
    shift: Option<&[f32]>,
    inputs: &LayerInputs,
) -> f64 {
    let gram = inputs.gram.as_ref().expect("kept");
    let (left, n) = (weights - decoded, gram.tokens() as f64);
    let mut error: f64 = gram.quadratic_forms(left.view()).iter().sum();
    for (row, &d) in left.rows().into_iter().zip(shift.unwrap_or_default()) {
        let pairs = row.iter().zip(&inputs.mean);
        let lost: f64 = pairs.map(|(&w, &m)| f64::from(w) * f64::from(m)).sum();
        error += n * f64::from(d) * (f64::from(d) - 2.0 * lost);
    }
    (error / gram.quadratic_forms(weights.view()).iter().sum::<f64>()).sqrt()
}
