//! Scales of inputs folded into rows of the layer before: up for down, v for o. What is kept is divided by powers of two, so
//! nothing is rounded.

use std::collections::{BTreeSet, HashMap};

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{compare, compare_scaled, pairs};
use lapidary_engine::encoding::{Encoding, Layout};
use lapidary_engine::export::{Report, folded_scales, verify};
use lapidary_engine::fold::{ByRows, Divides, Rows, producers, settle};
use lapidary_engine::job::{self, Encodings as _, Measured, Store, StoreWeights, Subject};
use lapidary_engine::method::{Step, Takes as _};
use lapidary_engine::network::CheckpointWeights;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::Plan;
use lapidary_engine::scores::Question;
use lapidary_engine::target::{Manifest, Storage, find};
use lapidary_tests::networks::{
    Changed, apart, assert_goes_on, assert_same_in_turn, awq, calibrated, damage, exported,
    gguf_of, golden, logits, run,
};
use lapidary_tests::{names_in, on_threads, plan, repository, rtn, sample};
use tempfile::TempDir;

/// What reads rows of another layer.
const O_DOWN: [&str; 2] = ["*.o_proj.weight", "*.down_proj.weight"];
/// Those layers.
const V_UP: [&str; 2] = ["*.v_proj.weight", "*.up_proj.weight"];

/// The o and down of a model folded, v and up as they are given.
fn folded(checkpoint: &Checkpoint, bits: i64, before: Option<Step>) -> Plan {
    let mut rules = O_DOWN.map(|layer| (layer, vec![awq(bits, "folded")])).to_vec();
    rules.extend(before.iter().flat_map(|step| V_UP.map(|layer| (layer, vec![step.clone()]))));
    plan(checkpoint, &rules).expect("a plan")
}

/// Weights of a reader and of what it reads, with random scales moved between them.
fn moved(
    checkpoint: &Checkpoint,
    (rows, reader): (&Rows, usize),
    random: &mut Random,
) -> Vec<(usize, Vec<f32>)> {
    let takes = ByRows { rows, bounds: &[], is_by_twos: true };
    let drawn: Vec<f32> = (0..rows.inputs).map(|_| (2.0 * random.normal()).exp() as f32).collect();
    let scales = takes.stored(&takes.merged(&drawn));
    let by = rows.of_rows(&scales);
    assert_eq!(rows.of_inputs(&by), scales, "alike where they come of one row");
    assert!(by.iter().filter(|&&by| by != 1.0).count() > 1);
    let stored = |index: usize, change: &dyn Fn(usize, usize, f32) -> f32| {
        let mut weights = checkpoint.weights(index, &Silent).expect("weights");
        for ((i, j), weight) in weights.indexed_iter_mut() {
            *weight = change(i, j, *weight);
        }
        (index, weights.iter().copied().collect())
    };
    let mut changed = vec![
        stored(rows.weight, &|row, _, weight| weight / by[row]),
        stored(reader, &|_, input, weight| weight * scales[input]),
    ];
    changed.extend(rows.bias.map(|bias| {
        let values = checkpoint.values(bias).expect("a bias");
        (bias, values.iter().zip(&by).map(|(value, by)| value / by).collect())
    }));
    changed
}

#[test]
fn rows_divided_before_inputs_multiplied_leave_every_network_as_it_was_to_the_bit() {
    let root = repository().join("tests/golden/networks");
    let (mut shared, mut plain, mut refused) = (0, 0, BTreeSet::new());
    for name in names_in(&root).iter().filter(|name| !name.contains('.')) {
        let checkpoint = golden(name);
        let mut random = Random::new(11);
        let mut changed = Changed { base: CheckpointWeights::new(&checkpoint), by: HashMap::new() };
        let mut folds = 0;
        for producer in producers(&checkpoint).expect("a known network") {
            let Divides::Rows(rows) = &producer.divides else { continue };
            if let Some(because) = &producer.why_not {
                assert!(because.contains("an activation without a gate"), "{name}: {because}");
                refused.insert(name.clone());
                continue;
            }
            let [reader] = producer.layers[..] else { panic!("{name}: one layer reads rows") };
            for (index, values) in moved(&checkpoint, (rows, reader), &mut random) {
                let tensor = checkpoint.tensors()[index].name.clone();
                assert!(changed.by.insert(tensor, values).is_none(), "{name}: each once");
            }
            folds += 1;
            shared += usize::from(rows.map.shared > 1);
            plain += usize::from(rows.map.shared == 1);
        }
        assert!(folds > 0, "{name}: nothing folds");
        if !name.contains("bert") {
            let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
            assert_eq!(original, logits(&checkpoint, &changed), "{name}");
        }
    }
    assert!(shared > 10 && plain > 10, "{shared} of shared heads, {plain} others");
    for name in ["gpt2", "gpt_neox", "bert"] {
        assert!(refused.contains(name), "{name} has no gate");
    }
    assert!(!refused.contains("opt"), "ReLU passes a positive factor");
}

#[test]
fn no_layer_is_worse_for_folded_scales_and_no_row_for_taking_them() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let step = rtn(3).with("group_size", 32);
    let rounded = plan(&checkpoint, &[("*_proj.weight", vec![step.clone()])]).expect("a plan");
    let plain = run(subject, &rounded);
    for before in [None, Some(step)] {
        let folded = folded(&checkpoint, 3, before.clone());
        let settled = settle(&checkpoint, &folded);
        assert!(settled.folds.len() == 12 && settled.kept.is_empty(), "{:?}", settled.kept);
        let store = run(subject, &folded);
        let (mut sum, mut of) = (0.0, 0.0);
        for producer in &settled.folds {
            let (reader, matrix) = (producer.layers[0], producer.tensor());
            assert!(matches!(store.get(reader).expect("stored").layout(), Layout::Affine(_)));
            // All rows of these layers are in the sample that scales are searched on.
            let error = damage(subject, &folded, &store, &[reader]);
            let was = damage(subject, &rounded, &plain, &[reader]);
            assert!(error <= was, "{}: {error}, {was}", checkpoint.tensors()[reader].name);
            (sum, of) = (sum + error, of + was);
            let by = store.divided(matrix).expect("readable").expect("stored");
            let freed = job::freed_weights(&checkpoint, &settled, &store, matrix).expect("stored");
            let weights = checkpoint.weights(matrix, &Silent).expect("weights");
            if before.is_none() {
                assert!(by.iter().all(|by| by.log2().fract() == 0.0), "powers of two");
                assert_eq!(freed, weights, "not a bit is lost");
                continue;
            }
            assert!(
                by.iter()
                    .all(|by| (by / 2_f32.powi(by.log2().floor() as i32) * 8.0).fract() == 0.0)
            );
            let plain = plain.get(matrix).expect("stored").decode();
            let (error, was) = (apart(&weights, &freed), apart(&weights, &plain));
            assert!((error / was - 1.0).abs() < 0.01, "{error}, {was}: but for scales rounded");
        }
        assert!(sum < if before.is_some() { 0.97 } else { 1.0 } * of, "{sum} against {of}");
    }
}

#[test]
fn scales_cost_no_byte_and_what_takes_them_changes() {
    let checkpoint = sample();
    let target = find("compressed-tensors").expect("a target");
    let manifest = |plan: &Plan| Manifest::new(&checkpoint, plan, target).expect("a manifest");
    let rules = O_DOWN.map(|layer| (layer, vec![rtn(4).with("group_size", 32)]));
    let rounded = manifest(&plan(&checkpoint, &rules).expect("a plan"));
    let ours = manifest(&folded(&checkpoint, 4, None));
    assert_eq!(ours.total_bytes(), rounded.total_bytes());
    assert_eq!(ours.texts, rounded.texts, "loaders are told the same");
    let (mut changed, mut copied) = (0, 0);
    for (entry, other) in ours.entries.iter().zip(&rounded.entries) {
        assert_eq!((entry.bytes, &entry.specs), (other.bytes, &other.specs));
        if let Storage::Changed { because } = &entry.storage {
            assert!(because.starts_with("it takes the scales of model.layers."), "{because}");
            assert!(!entry.is_compressed());
            changed += 1;
        }
        copied += usize::from(entry.storage == Storage::Copied);
    }
    assert_eq!((changed, copied), (12, rounded.entries.len() - 24));
}

/// The logits of an export, and its report.
fn exported_logits(
    subject: Subject<'_>,
    plan: &Plan,
    (id, out): (&str, &std::path::Path),
) -> (Report, Checkpoint, ndarray::Array2<f32>) {
    let report = exported(subject, plan, id, out);
    let verified = verify(out, subject.checkpoint, &Silent).expect("readable");
    assert!(verified.is_reported && verified.faults.is_empty(), "{id}: {:?}", verified.faults);
    let path = if id == "gguf" { gguf_of(out) } else { out.to_path_buf() };
    let opened = Checkpoint::open(&path).expect("the export opens");
    let found = logits(&opened, &CheckpointWeights::new(&opened));
    (report, opened, found)
}

#[test]
fn every_target_runs_as_the_store_does_and_is_verified_compared_and_reported() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    // All layers by AWQ, so that v and up take scales and are scaled themselves; two are kept.
    let mut rules = vec![("*_proj.weight", vec![awq(4, "folded")])];
    // Of two patterns the first decides, before both the name.
    rules.insert(0, ("model.layers.1.self_attn.*_proj.weight", vec![Step::new("keep")]));
    rules.push(("model.layers.1.self_attn.o_proj.weight", vec![awq(4, "folded")]));
    let plan = plan(&checkpoint, &rules).expect("a plan");
    let store = run(subject, &plan);
    let wanted = logits(&checkpoint, &StoreWeights::new(&checkpoint, &store));
    for id in ["dense", "compressed-tensors", "gguf", "archive", "mlx"] {
        let home = TempDir::new().expect("a folder");
        let out = home.path().join("out");
        if id == "mlx" {
            exported(subject, &plan, id, &out);
            assert!(verify(&out, &checkpoint, &Silent).expect("readable").faults.is_empty());
            continue;
        }
        let (report, opened, found) = exported_logits(subject, &plan, (id, &out));
        let off = apart(&wanted, &found);
        assert!(off < if id == "dense" { 0.02 } else { 1e-2 }, "{id}: {off}");
        assert_eq!(report.totals.changed, 12, "{id}: 11 norms and one v");
        let of = |name: &str| report.tensors.iter().find(|tensor| tensor.name == name);
        let o = of("model.layers.1.self_attn.o_proj.weight").expect("o");
        assert_eq!(o.scaled_with.as_deref(), Some("model.layers.1.self_attn.v_proj.weight"));
        let v = of("model.layers.1.self_attn.v_proj.weight").expect("v");
        assert!(v.relative_error == 0.0 && v.stored == "changed", "{id}: {}", v.told());
        let divided = v.rows_divided.as_ref().expect("what it was divided by");
        assert_eq!(divided.split(' ').count(), v.shape[0]);
        let scaled = report.tensors.iter().filter(|tensor| tensor.scaled_with.is_some());
        assert_eq!(scaled.count(), 39, "{id}: 42 layers but for q, k and v of one block");
        assert!(report.tensors.iter().all(|of| of.relative_error < 0.7), "{id}");
        if id == "compressed-tensors" {
            compares_by_what_layers_do(&checkpoint, &opened, &report);
        }
    }
}

/// A comparison with the scales undone has the errors of the report, and one without them does not.
fn compares_by_what_layers_do(source: &Checkpoint, output: &Checkpoint, report: &Report) {
    let scales = folded_scales(source, output).expect("a report");
    assert_eq!(scales.len(), 40, "39 layers, and v that was kept");
    let pairs = pairs(source, output);
    let mut off = 0;
    for (index, tensor) in report.tensors.iter().enumerate() {
        let pair = pairs[index].as_ref().expect("a counterpart");
        let undone = compare_scaled((source, index, scales.get(&index)), output, pair, &Silent);
        let undone = undone.expect("readable").relative_error;
        let differs = (undone - tensor.relative_error).abs();
        assert!(differs <= 1e-6 * undone, "{}: {undone}, {}", tensor.name, tensor.relative_error);
        let plain = compare(source, index, output, pair, &Silent).expect("readable");
        off += usize::from(scales.contains_key(&index) && plain.relative_error > 1.5 * undone);
    }
    assert!(off >= 15, "{off} layers would seem far off");
}

#[test]
fn rows_of_the_source_put_back_are_found_out() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let out = root.path().join("out");
    exported(subject, &folded(&checkpoint, 4, None), "compressed-tensors", &out);
    let name = "model.layers.2.mlp.up_proj.weight";
    lapidary_tests::with_tensor_of(&out, &checkpoint, name);
    let faults = verify(&out, &checkpoint, &Silent).expect("readable").faults;
    assert!(faults.len() == 2 && faults[0].contains(name), "{faults:?}");
    assert!(faults[1].contains("its SHA-256"), "{faults:?}");
    // What the report no longer says is not guessed.
    let report = out.join(lapidary_engine::export::REPORT);
    let text = String::from_utf8(lapidary_tests::read(&report)).expect("text");
    let cut = text.replacen("\"rows_divided\": \"", "\"rows_divided\": \"1e99 ", 1);
    lapidary_tests::write(&report, cut.as_bytes());
    let faults = verify(&out, &checkpoint, &Silent).expect("readable").faults;
    assert!(faults.iter().any(|fault| fault.contains("by what each row of")), "{faults:?}");
}

#[test]
fn a_stopped_export_goes_on_with_the_rows_that_took_scales() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    // Kept v and up come with what reads them, finished or not.
    assert_goes_on(subject, &folded(&checkpoint, 4, None), &[3, 6, 11], root.path());
}

#[test]
fn blocks_compressed_in_turn_fold_as_a_job_behind_them_does() {
    let checkpoint = golden("qwen2");
    for before in [None, Some(rtn(4).with("group_size", 16))] {
        let folded = folded(&checkpoint, 3, before);
        let blocks = settle(&checkpoint, &folded).folds.len() / 2;
        // Two readers and what they read, and the bias of v.
        assert_same_in_turn(&checkpoint, &folded, 5 * blocks);
    }
}

fn all_of(store: &Store, checkpoint: &Checkpoint) -> Vec<(usize, Encoding)> {
    let stored = (0..checkpoint.tensors().len()).filter(|&tensor| store.has(tensor));
    stored.map(|tensor| (tensor, store.get(tensor).expect("stored"))).collect()
}

#[test]
fn each_expert_folds_into_its_own_up_the_same_on_any_number_of_threads() {
    let checkpoint = golden("mixtral");
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let step = rtn(8).with("group_size", 16);
    let rules = [
        ("*.w2.weight", vec![awq(8, "folded")]),
        ("*.w3.weight", vec![step]),
        ("*.o_proj.weight", vec![awq(8, "folded")]),
    ];
    let plan = plan(&checkpoint, &rules).expect("a plan");
    let settled = settle(&checkpoint, &plan);
    assert!(settled.kept.is_empty(), "{:?}", settled.kept);
    let name = |index: usize| checkpoint.tensors()[index].name.as_str();
    let mut experts = 0;
    for producer in &settled.folds {
        let reader = name(producer.layers[0]);
        let wanted = reader.replace(".w2.", ".w3.").replace(".o_proj.", ".v_proj.");
        assert_eq!(producer.name(&checkpoint), wanted);
        experts += usize::from(reader.contains(".w2."));
    }
    assert!(experts > 4, "{experts}");
    let store = on_threads(1, || run(subject, &plan));
    let other = on_threads(3, || run(subject, &plan));
    assert_eq!(all_of(&store, &checkpoint), all_of(&other, &checkpoint));
    let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
    let off = apart(&original, &logits(&checkpoint, &StoreWeights::new(&checkpoint, &store)));
    assert!(off > 0.0 && off < 0.05, "{off}");
}

#[test]
fn fused_rows_take_scales_where_they_are_values_and_nowhere_else() {
    for (name, o, qkv) in [
        ("gpt2", "*.attn.c_proj.weight", "*.attn.c_attn.weight"),
        ("phi3", "*.o_proj.weight", "*.qkv_proj.weight"),
        ("gpt_neox", "*.attention.dense.weight", "*.query_key_value.weight"),
    ] {
        let checkpoint = golden(name);
        let root = TempDir::new().expect("a folder");
        let (folder, calibration) = calibrated(&checkpoint, &root);
        let measured = Measured { folder: &folder, calibration: &calibration };
        let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
        let rules = [(o, vec![awq(8, "folded")]), (qkv, vec![rtn(8).with("group_size", 16)])];
        for rules in [&rules[..], &rules[..1]] {
            let plan = plan(&checkpoint, rules).expect("a plan");
            let store = run(subject, &plan);
            let producer = &settle(&checkpoint, &plan).folds[0];
            let Divides::Rows(rows) = &producer.divides else { panic!("{name}: rows") };
            let by = store.divided(rows.weight).expect("readable").expect("stored");
            let values: BTreeSet<usize> =
                (0..rows.inputs).map(|input| rows.map.row(input)).collect();
            assert_eq!(by.len(), 3 * values.len(), "{name}");
            let is_value = |row: usize| values.contains(&row) || by[row] == 1.0;
            assert!((0..by.len()).all(is_value), "{name}");
            let original = logits(&checkpoint, &CheckpointWeights::new(&checkpoint));
            let made = logits(&checkpoint, &StoreWeights::new(&checkpoint, &store));
            let off = apart(&original, &made);
            assert!(off > 0.0 && off < 0.05, "{name}: {off}");
            let out = root.path().join(format!("out-{}", plan.iter().count()));
            exported(subject, &plan, "dense", &out);
            let verified = verify(&out, &checkpoint, &Silent).expect("readable");
            assert!(verified.faults.is_empty(), "{name}: {:?}", verified.faults);
            let opened = Checkpoint::open(&out).expect("the export opens");
            let found = logits(&opened, &CheckpointWeights::new(&opened));
            assert!(apart(&made, &found) < 0.02, "{name}");
        }
    }
}

#[test]
fn an_allocation_keeps_scales_where_a_candidate_leaves_rows_no_choice() {
    let checkpoint = sample();
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let (plan, target) = (Plan::default(), find("archive").expect("a target"));
    let folds = |steps: &[Step]| {
        let palette: Vec<lapidary_engine::plan::Assignment> = steps
            .iter()
            .map(|step| lapidary_engine::plan::Assignment::of(vec![step.clone()]))
            .collect();
        let question = Question { subject, plan: &plan, palette: &palette, target };
        question.units().iter().filter(|unit| unit.folds).count()
    };
    assert_eq!(folds(&[awq(4, "folded"), rtn(3)]), 13, "o and down of each block, and the head");
    assert_eq!(
        folds(&[awq(4, "folded"), Step::new("low-rank").with("rank", 8)]),
        1,
        "a norm has no rows"
    );
    assert_eq!(folds(&[rtn(4)]), 0, "nobody asks");
}

#[test]
fn a_layer_on_its_own_has_scales_that_rows_could_take() {
    let checkpoint = golden("llama");
    let root = TempDir::new().expect("a folder");
    let (folder, calibration) = calibrated(&checkpoint, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &checkpoint, calibrated: &measured };
    let folded = folded(&checkpoint, 4, None);
    let o = checkpoint.find("model.layers.0.self_attn.o_proj.weight").expect("a layer");
    let alone = job::compress_layer(subject, &folded, o, &Silent).expect("an encoding");
    let Encoding::Scaled(alone) = alone else { panic!("its scales are around it") };
    let alone = Encoding::Scaled(alone);
    let parts = alone.parts();
    let scales = parts.iter().find(|part| part.name == "input_scales").expect("scales");
    let scales: Vec<f32> =
        scales.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // Four heads of eight read two of values.
    let (heads, dim) = (4, scales.len() / 4);
    for head in (0..heads).step_by(2) {
        let of = |head: usize| &scales[head * dim..(head + 1) * dim];
        assert_eq!(of(head), of(head + 1));
    }
}
