//! Scales of inputs folded into norms: the network stays as it was, and so do the files, the proof and the figures.

use std::collections::HashMap;

use lapidary_engine::calibration::{
    Calibration, Folder, Prefix, Run, Settings, calibrate, model_key,
};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Layout;
use lapidary_engine::export::{Destination, Report, export, forecast, verify};
use lapidary_engine::fold::{norms, settle};
use lapidary_engine::job::{self, Limits, Measured, Sequential, Store, StoreWeights, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::numeric::weighted::gram_weighted_error;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::Question;
use lapidary_engine::target::{Manifest, Storage, find};
use lapidary_engine::{Observer, Result, Silent};
use lapidary_tests::{
    assert_says, names_in, on_threads, plan, read_folder, repository, rtn, sample,
};
use ndarray::Array2;
use tempfile::TempDir;

fn golden(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).expect("a network")
}

fn logits(checkpoint: &Checkpoint, weights: &dyn Weights) -> Array2<f32> {
    let network = Network::open(checkpoint.config().expect("a config"), weights).expect("one");
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % network.design().vocabulary as u32).collect();
    network.logits_of(&[&ids], &Silent).expect("logits").remove(0)
}

/// ‖A − B‖/‖A‖.
fn apart(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    lapidary_engine::numeric::distance::relative_error(a.view(), b.view())
}

/// Weights of which some tensors are replaced.
struct Changed<'a> {
    base: CheckpointWeights<'a>,
    by: HashMap<String, Vec<f32>>,
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

#[test]
fn norms_divided_before_layers_multiplied_leave_every_network_as_it_was() {
    let root = repository().join("tests/golden/networks");
    let mut divided = 0;
    for name in names_in(&root).iter().filter(|name| !name.contains('.')) {
        let checkpoint = golden(name);
        let mut random = Random::new(11);
        let mut changed = Changed { base: CheckpointWeights::new(&checkpoint), by: HashMap::new() };
        let has_head = checkpoint.config().is_some() && !name.contains("bert");
        for norm in norms(&checkpoint).expect("a known network") {
            if norm.why_not.is_some() {
                continue;
            }
            let weight = checkpoint.values(norm.weight).expect("a norm");
            let bias = norm.bias.map(|bias| checkpoint.values(bias).expect("a bias"));
            let bias = bias.unwrap_or_default();
            let wanted: Vec<f32> =
                weight.iter().map(|_| (2.0 * random.normal()).exp() as f32).collect();
            let new = norm.divided(&weight, &bias, &wanted);
            assert_eq!(norm.divisors(&weight, &new.weight), new.by, "{name}");
            // What is stored is in the type it is stored in.
            let stored =
                |values: &[f32]| values.iter().all(|v| v.to_bits().is_multiple_of(1 << 16));
            assert!(stored(&new.weight) && stored(&new.bias), "{name}");
            divided += new.by.iter().filter(|&&by| by != 1.0).count();
            let tensor = |index: usize| checkpoint.tensors()[index].name.clone();
            changed.by.insert(tensor(norm.weight), new.weight);
            norm.bias.map(|index| changed.by.insert(tensor(index), new.bias));
            for &layer in &norm.layers {
                let mut weights = checkpoint.weights(layer, &Silent).expect("weights");
                for mut row in weights.rows_mut() {
                    row.iter_mut().zip(&new.by).for_each(|(weight, by)| *weight *= by);
                }
                changed.by.insert(tensor(layer), weights.into_raw_vec_and_offset().0);
            }
        }
        if has_head {
            let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
            let off = apart(&original, &logits(&checkpoint, &changed));
            assert!(off < 2e-5, "{name}: {off}");
        }
    }
    assert!(divided > 1000, "only {divided} outputs of norms were divided");
}

/// A calibration of a checkpoint with text that is drawn.
fn calibrated(checkpoint: &Checkpoint, root: &TempDir) -> (Folder, Calibration) {
    let weights = CheckpointWeights::new(checkpoint);
    let network = Network::open(checkpoint.config().expect("a config"), &weights).expect("one");
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
        prefix: Prefix::Original,
        has_grams: true,
    };
    let run = Run {
        network: &network,
        compressed: None,
        in_turn: None,
        sequences: ids.chunks(40).collect(),
        settings: settings.clone(),
    };
    let calibration = calibrate(&run, root.path(), &Silent).expect("a calibration");
    (Folder::create(root.path(), settings).expect("its folder"), calibration)
}

/// What reads the first norm of a block.
const QKV: [&str; 3] =
    ["*.self_attn.q_proj.weight", "*.self_attn.k_proj.weight", "*.self_attn.v_proj.weight"];

fn awq(bits: i64, scales: &str) -> Step {
    Step::new("awq").with("bits", bits).with("group_size", 32).with("scales", scales)
}

fn run(subject: Subject<'_>, plan: &Plan) -> Store {
    job::run(subject, plan, Limits::default(), None, &Silent).expect("a job")
}

/// Σ over the layers behind norms of the squared error of their outputs.
fn damage(subject: Subject<'_>, plan: &Plan, store: &Store, layers: &[usize]) -> f64 {
    let settled = settle(subject.checkpoint, plan);
    let of = |&layer: &usize| {
        let checkpoint = subject.checkpoint;
        let name = &checkpoint.tensors()[layer].name;
        let inputs = subject.calibrated.inputs(name, lapidary_engine::method::Needs::Gram);
        let inputs = inputs.expect("readable").expect("measured");
        let decoded = job::freed_weights(checkpoint, &settled, store, layer).expect("stored");
        let weights = checkpoint.weights(layer, &Silent).expect("weights");
        gram_weighted_error(weights.view(), decoded.view(), &inputs.gram.expect("kept")).error
    };
    layers.iter().map(of).sum()
}

#[test]
fn folded_scales_cost_no_byte_and_leave_no_more_error_than_rounding() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let every = |step: Step| plan(&checkpoint, &[("*_proj.weight", vec![step])]).expect("a plan");
    for bits in [3, 8] {
        let folded = every(awq(bits, "folded"));
        let settled = settle(&checkpoint, &folded);
        assert_eq!(settled.folds.len(), 12, "two norms a block");
        assert_eq!(settled.kept.len(), 1, "{:?}", settled.kept);
        assert_eq!(settled.kept[0].layers.len(), 12, "o and down read no norm");
        let layers: Vec<usize> = settled.folds.iter().flat_map(|f| f.layers.clone()).collect();
        let store = run(subject, &folded);
        let [rounded, kept] = [rtn(bits).with("group_size", 32), awq(bits, "kept")].map(|step| {
            let plan = every(step);
            let store = run(subject, &plan);
            damage(subject, &plan, &store, &layers)
        });
        let found = damage(subject, &folded, &store, &layers);
        assert!(
            found < if bits == 3 { 0.99 } else { 1.0 } * rounded,
            "{bits}: {found} against {rounded}"
        );
        assert!(found < 1.25 * kept, "{bits}: {found} against {kept}");
        // Plain integers, of as many bytes as rounding.
        let target = find("compressed-tensors").expect("a target");
        let of = |plan: &Plan| Manifest::new(&checkpoint, plan, target).expect("a manifest");
        let (ours, plain) = (of(&folded), of(&every(rtn(bits).with("group_size", 32))));
        for &layer in &layers {
            assert!(matches!(ours.entries[layer].layout, Some(Layout::Affine(_))));
            assert_eq!(ours.entries[layer].bytes, plain.entries[layer].bytes);
        }
        let changed = |entry: &&lapidary_engine::target::Entry| {
            matches!(entry.storage, Storage::Changed { .. })
        };
        assert_eq!(ours.entries.iter().filter(changed).count(), 12);
        if bits == 8 {
            let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
            let off =
                apart(&original, &logits(&checkpoint, &StoreWeights::new(&checkpoint, &store)));
            assert!(off < 0.02, "{off}");
        }
    }
}

fn exported(subject: Subject<'_>, plan: &Plan, target: &str, out: &std::path::Path) -> Report {
    let destination = Destination { folder: out, replace: true, limits: Limits::default() };
    let target = find(target).expect("a target");
    let manifest = Manifest::new(subject.checkpoint, plan, target).expect("a manifest");
    let report = export(subject, plan, target, destination, &Silent)
        .unwrap_or_else(|error| panic!("{}: {error}", target.about().id));
    assert_eq!(report.totals.total_bytes, manifest.total_bytes(), "{}", target.about().id);
    report
}

/// Cancels behind so many reports of compressing.
struct Stops {
    left: std::sync::atomic::AtomicUsize,
}

impl Observer for Stops {
    fn progress(&self, progress: lapidary_engine::Progress) {
        use std::sync::atomic::Ordering::SeqCst;
        if progress.stage == "Compressing" {
            let one_less = |left: usize| Some(left.saturating_sub(1));
            self.left.fetch_update(SeqCst, SeqCst, one_less).expect("always some");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.left.load(std::sync::atomic::Ordering::SeqCst) == 0
    }
}

#[test]
fn a_stopped_export_goes_on_with_the_norms_that_took_scales() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let rules = QKV.map(|layer| (layer, vec![awq(4, "folded")]));
    let plan = plan(&checkpoint, &rules).expect("a plan");
    let whole = root.path().join("whole");
    exported(subject, &plan, "dense", &whole);
    let out = root.path().join("out");
    // In the midst of a block: some that share a norm are finished, others are not.
    for reports in [4, 8, 11] {
        let destination = Destination { folder: &out, replace: true, limits: Limits::default() };
        let stops = Stops { left: reports.into() };
        let target = find("dense").expect("a target");
        let stopped = on_threads(1, || export(subject, &plan, target, destination, &stops));
        assert!(matches!(stopped, Err(lapidary_engine::Error::Cancelled)), "{stopped:?}");
    }
    exported(subject, &plan, "dense", &out);
    assert!(read_folder(&out) == read_folder(&whole));
}

#[test]
fn every_target_runs_as_the_store_and_is_verified_by_what_its_norms_say() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let mut rules = QKV.map(|layer| (layer, vec![awq(4, "folded")])).to_vec();
    rules.push(("*.mlp.gate_proj.weight", vec![awq(4, "folded")]));
    rules.push(("*.mlp.up_proj.weight", vec![awq(4, "folded")]));
    let polished = vec![awq(4, "folded"), Step::new("polish")];
    rules.push(("model.layers.0.mlp.up_proj.weight", polished));
    let plan = plan(&checkpoint, &rules).expect("a plan");
    let store = run(subject, &plan);
    let wanted = logits(&checkpoint, &StoreWeights::new(&checkpoint, &store));
    let mut native = 0;
    for id in ["dense", "compressed-tensors", "gguf", "archive"] {
        let home = TempDir::new().expect("a folder");
        let out = home.path().join("out");
        let report = exported(subject, &plan, id, &out);
        assert_eq!(report.totals.changed, 12, "{id}");
        native += report.totals.compressed;
        let layers = report.tensors.iter().filter(|tensor| tensor.scaled_with.is_some());
        let errors: Vec<f64> = layers.map(|tensor| tensor.relative_error).collect();
        assert_eq!(errors.len(), 30, "{id}");
        // Against the source as it is they would be off by as much as the scales are from 1.
        assert!(errors.iter().all(|&error| error > 0.0 && error < 0.2), "{id}: {errors:?}");
        let verified = verify(&out, &checkpoint, &Silent).expect("readable");
        assert!(verified.faults.is_empty(), "{id}: {:?}", verified.faults);
        let path = if id == "gguf" { gguf_of(&out) } else { out.clone() };
        let opened = Checkpoint::open(&path).expect("the export opens");
        let off = apart(&wanted, &logits(&opened, &CheckpointWeights::new(&opened)));
        assert!(off < if id == "dense" { 0.02 } else { 1e-2 }, "{id}: {off}");
        if id == "compressed-tensors" {
            drop(opened);
            with_source_of_norm(&out, &checkpoint);
            let faults = verify(&out, &checkpoint, &Silent).expect("readable").faults;
            let said = |part: &str| faults.iter().any(|fault| fault.contains(part));
            assert!(said("input_layernorm") && said("q_proj"), "{faults:?}");
        }
    }
    assert!(native >= 90, "{native} layers were stored as integers");
}

/// Puts the first norm of the source back into an export, as if it had not been divided.
fn with_source_of_norm(out: &std::path::Path, source: &Checkpoint) {
    let path = out.join("model.safetensors");
    let mut bytes = lapidary_tests::read(&path);
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let name = "model.layers.0.input_layernorm.weight";
    let all: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let first = all[name]["data_offsets"][0].as_u64().expect("an offset") as usize + 8 + header;
    let tensor = &source.tensors()[source.find(name).expect("a norm")];
    let before = source.element_bytes(tensor, 0, tensor.parameters()).expect("bytes");
    bytes[first..first + before.len()].copy_from_slice(before);
    lapidary_tests::write(&path, &bytes);
}

#[test]
fn blocks_compressed_in_turn_fold_as_a_job_behind_them_does() {
    let checkpoint = golden("llama");
    let folded = plan(&checkpoint, &QKV.map(|name| (name, vec![awq(3, "folded")]))).expect("one");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = checkpoint.config().expect("a config");
    let network = Network::open(config, &weights).expect("a network");
    let made = Sequential::new(&checkpoint, &folded, Limits::default(), None, &Silent);
    let made = made.expect("a store");
    let in_turn = made.weights();
    let compressed = Network::open(config, &in_turn).expect("a network");
    let ids: Vec<u32> = (0..120).map(|i| (i * 11 + 5) % 64).collect();
    let settings = Settings {
        model: checkpoint.title(),
        model_key: model_key(&checkpoint, None, &Silent).expect("a key"),
        texts: vec![],
        sequence_tokens: 40,
        tokens: 120,
        seed: 0,
        prefix: Prefix::InTurn { plan: "p".to_owned() },
        has_grams: true,
    };
    let run = Run {
        network: &network,
        compressed: Some(&compressed),
        in_turn: Some(&made),
        sequences: ids.chunks(40).collect(),
        settings: settings.clone(),
    };
    let root = TempDir::new().expect("a folder");
    calibrate(&run, root.path(), &Silent).expect("a calibration");
    let folder = Folder::create(root.path(), settings).expect("its folder");
    let calibration = folder.load();
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let store = job::run(subject, &folded, Limits::default(), None, &Silent).expect("a job");
    let mut same = 0;
    for tensor in 0..checkpoint.tensors().len() {
        assert_eq!(store.has(tensor), made.store().has(tensor));
        if store.has(tensor) {
            let pair = (store.get(tensor).expect("stored"), made.store().get(tensor));
            assert_eq!(pair.0, pair.1.expect("stored"));
            same += 1;
        }
    }
    let folds = settle(&checkpoint, &folded).folds.len();
    assert!(folds > 1 && same == 4 * folds, "{same} of {folds} norms");
}

fn gguf_of(folder: &std::path::Path) -> std::path::PathBuf {
    let name = names_in(folder).into_iter().find(|name| name.contains(".gguf"));
    folder.join(name.expect("a file"))
}

#[test]
fn what_cannot_be_folded_is_kept_with_its_reason() {
    let reasons = |name: &str, rules: &[(&str, Vec<Step>)]| {
        let checkpoint = golden(name);
        let plan = plan(&checkpoint, rules).expect("a plan");
        let settled = settle(&checkpoint, &plan);
        let is_kept = |layer: &usize| {
            let name = &checkpoint.tensors()[*layer].name;
            !lapidary_engine::method::chain_folds(&settled.plan.assignment(name).steps)
        };
        assert!(settled.kept.iter().flat_map(|kept| &kept.layers).all(is_kept), "{name}");
        let all: Vec<String> = settled.kept.into_iter().map(|kept| kept.because).collect();
        (settled.folds.len(), all)
    };
    let folded = || vec![awq(4, "folded")];
    let (folds, all) =
        reasons("llama", &QKV[..2].iter().map(|&name| (name, folded())).collect::<Vec<_>>());
    assert!(folds == 0 && all.len() == 2 && all[0].contains("v_proj.weight reads"), "{all:?}");
    let (folds, all) = reasons("mixtral", &[("*.w1.weight", folded()), ("*.w3.weight", folded())]);
    assert!(folds == 0 && all.len() == 1 && all[0].contains("a router"), "{all:?}");
    let (folds, all) = reasons("llama", &[("*.down_proj.weight", folded())]);
    assert!(folds == 0 && all[0].contains("something else than what a norm gives"), "{all:?}");
    let (folds, all) = reasons("bert", &[("*.query.weight", folded())]);
    assert!(folds == 0 && all.len() == 1, "{all:?}");
    // A masked layer folds too; a correction behind it sees what it was scaled by.
    let chain = || vec![Step::new("wanda"), awq(4, "folded"), Step::new("eora").with("rank", 2)];
    let (folds, all) = reasons("qwen2", &QKV.map(|name| (name, chain())));
    assert!(folds > 0 && all.is_empty(), "{all:?}");
}

#[test]
fn folding_needs_a_calibration_and_gives_the_same_bytes_on_any_number_of_threads() {
    let checkpoint = golden("gemma");
    let rules = QKV.map(|name| (name, vec![awq(4, "folded")]));
    let plan = plan(&checkpoint, &rules).expect("a plan");
    let limits = Limits::default();
    let bare = job::run(&checkpoint, &plan, limits, None, &Silent);
    assert_says(bare, &["q_proj", "calibrate first"]);
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let made = |threads| {
        let store = on_threads(threads, || run(subject, &plan));
        let all = (0..checkpoint.tensors().len()).filter(|&tensor| store.has(tensor));
        all.map(|tensor| (tensor, store.get(tensor).expect("stored"))).collect::<Vec<_>>()
    };
    let one = made(1);
    assert_eq!(one, made(3));
    let folds = settle(&checkpoint, &plan).folds.len();
    assert_eq!(one.len(), 4 * folds, "three layers and their norm");
    // A layer seen alone has scales of its own, around all else.
    let layer = checkpoint.find("model.layers.0.self_attn.q_proj.weight").expect("a layer");
    let alone = job::compress_layer(subject, &plan, layer, &Silent).expect("an encoding");
    let weights = checkpoint.weights(layer, &Silent).expect("weights");
    assert!(matches!(alone.layout(), Layout::Scaled(_)));
    assert!(apart(&weights, &alone.decode()) < 0.2);
}

#[test]
fn an_allocation_counts_folded_scales_as_an_export_does() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let palette = [Assignment::of(vec![awq(4, "folded")])];
    for id in ["compressed-tensors", "archive"] {
        let (plan, target) = (Plan::default(), find(id).expect("a target"));
        let question = Question { subject, plan: &plan, palette: &palette, target };
        let (mut folded, mut kept) = (0, 0);
        for unit in question.units() {
            for option in question.options(&unit).expect("options") {
                let mut plan = Plan::default();
                for (&layer, assignment) in unit.layers.iter().zip(&option.assignments) {
                    let name = &checkpoint.tensors()[layer].name;
                    plan.set(name, Assignment::clone(assignment));
                }
                let manifest = Manifest::new(&checkpoint, &plan, target).expect("a manifest");
                let bytes: u64 =
                    unit.layers.iter().map(|&layer| manifest.entries[layer].bytes).sum();
                assert_eq!(option.bytes, bytes, "{id}: {:?}", unit.layers);
                let is_candidate = option.candidate.is_some();
                folded += usize::from(is_candidate && !settle(&checkpoint, &plan).folds.is_empty());
                kept += usize::from(is_candidate && settle(&checkpoint, &plan).folds.is_empty());
            }
        }
        assert!(folded > 0 && kept > 0, "{id}: o and down read no norm");
    }
}

#[test]
fn what_folds_is_forecast_by_its_layers_and_told_apart_in_the_report() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let plan =
        plan(&checkpoint, &QKV.map(|layer| (layer, vec![awq(4, "folded")]))).expect("a plan");
    let out = root.path().join("out");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let target = find("compressed-tensors").expect("a target");
    let foretold = forecast(subject, &plan, target, destination).expect("a forecast");
    assert_eq!(foretold.layers, 18, "norms are no layers");
    let report = exported(subject, &plan, "compressed-tensors", &out);
    assert_eq!((report.totals.compressed, report.totals.changed), (18, 6));
    assert_eq!(report.tensors.iter().filter(|tensor| tensor.is_compressed()).count(), 18);
    let norm = report.tensors.iter().find(|tensor| tensor.stored == "changed").expect("a norm");
    assert!(norm.told().starts_with("changed: "), "{}", norm.told());
    assert_eq!(report.calibration.as_ref(), Some(&calibration.settings));
    let page = lapidary_tests::read(&out.join("lapidary-report.html"));
    let page = String::from_utf8(page).expect("text");
    assert!(page.contains("norms and biases changed") && page.contains("Calibrated with"));
    assert!(!page.contains("× changed") && !page.contains("in full: "), "norms are no layers");
}
