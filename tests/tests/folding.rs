//! Scales of inputs folded into norms: the network stays as it was, and so do the files, the proof and the figures.

use std::collections::HashMap;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::Layout;
use lapidary_engine::export::{Destination, forecast, verify};
use lapidary_engine::fold::{Divides, producers, settle};
use lapidary_engine::job::{self, Limits, Measured, StoreWeights, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::CheckpointWeights;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::scores::Question;
use lapidary_engine::target::{Manifest, Storage, find};
use lapidary_tests::networks::{
    Changed, apart, assert_goes_on, assert_same_in_turn, awq, calibrated, damage, exported,
    gguf_of, golden, logits, run,
};
use lapidary_tests::{assert_says, names_in, on_threads, plan, repository, rtn, sample};
use tempfile::TempDir;

#[test]
fn norms_divided_before_layers_multiplied_leave_every_network_as_it_was() {
    let root = repository().join("tests/golden/networks");
    let mut divided = 0;
    for name in names_in(&root).iter().filter(|name| !name.contains('.')) {
        let checkpoint = golden(name);
        let mut random = Random::new(11);
        let mut changed = Changed { base: CheckpointWeights::new(&checkpoint), by: HashMap::new() };
        let has_head = checkpoint.config().is_some() && !name.contains("bert");
        for producer in producers(&checkpoint).expect("a known network") {
            let Divides::Norm(norm) = &producer.divides else { continue };
            if producer.why_not.is_some() {
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
            for &layer in &producer.layers {
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

/// What reads the first norm of a block.
const QKV: [&str; 3] =
    ["*.self_attn.q_proj.weight", "*.self_attn.k_proj.weight", "*.self_attn.v_proj.weight"];

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
        assert_eq!(settled.folds.len(), 24, "two norms a block, v and up");
        assert!(settled.kept.is_empty(), "{:?}", settled.kept);
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

#[test]
fn a_stopped_export_goes_on_with_the_norms_that_took_scales() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let rules = QKV.map(|layer| (layer, vec![awq(4, "folded")]));
    let plan = plan(&checkpoint, &rules).expect("a plan");
    // In the midst of a block: some that share a norm are finished, others are not.
    assert_goes_on(subject, &plan, &[4, 8, 11], root.path());
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
            let norm = "model.layers.0.input_layernorm.weight";
            lapidary_tests::with_tensor_of(&out, &checkpoint, norm);
            let faults = verify(&out, &checkpoint, &Silent).expect("readable").faults;
            let said = |part: &str| faults.iter().any(|fault| fault.contains(part));
            assert!(said("input_layernorm") && said("q_proj"), "{faults:?}");
        }
    }
    assert!(native >= 90, "{native} layers were stored as integers");
}

#[test]
fn blocks_compressed_in_turn_fold_as_a_job_behind_them_does() {
    let checkpoint = golden("llama");
    let folded = plan(&checkpoint, &QKV.map(|name| (name, vec![awq(3, "folded")]))).expect("one");
    let folds = settle(&checkpoint, &folded).folds.len();
    assert!(folds > 1);
    assert_same_in_turn(&checkpoint, &folded, 4 * folds);
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
    let (folds, all) = reasons("gpt2", &[("*.mlp.c_proj.weight", folded())]);
    assert!(folds == 0 && all[0].contains("an activation without a gate"), "{all:?}");
    let shared = ("*.v_proj.weight", vec![rtn(8).with("granularity", "tensor")]);
    let (folds, all) = reasons("llama", &[("*.o_proj.weight", folded()), shared]);
    assert!(
        folds == 0 && all.len() == 2 && all[0].contains("the rows of model.layers.0"),
        "{all:?}"
    );
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
        // An archive assigns each layer alone, and q alone cannot fold.
        assert!(folded > 0 && (kept > 0) == (id == "archive"), "{id}: {folded} {kept}");
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
    assert!(page.contains("tensors changed beside them") && page.contains("Calibrated with"));
    assert!(!page.contains("× changed") && !page.contains("in full: "), "norms are no layers");
}
