//! Blocks and experts taken out: what is left computes what the whole computes without them, in every format, under new
//! numbers, with a config.json that says so.

mod experts;
mod kinds;

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::compare::pairs;
use lapidary_engine::export::{Destination, REPORT, Report, as_exported, export, forecast, verify};
use lapidary_engine::job::{Limits, Measured, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{Batch, CheckpointWeights, Network, NoTaps};
use lapidary_engine::plan::{Plan, Rules};
use lapidary_engine::target::{
    self, Aim, Manifest, Severity, entries_of_whole, find, lints_of_whole,
};
use lapidary_engine::{Result, Silent};
use lapidary_tests::networks::{calibrated, gguf_of, golden, logits};
use lapidary_tests::{assert_says, plan, read_json, rtn, sample, sample_path, write};
use ndarray::Array2;
use serde_json::{Value, json};
use tempfile::TempDir;

fn exported(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Result<Report> {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    export(checkpoint, plan, find(id)?, destination, &Silent)
}

fn without(blocks: impl IntoIterator<Item = u32>) -> Plan {
    let mut plan = Plan::default();
    plan.set_removal(Removal::of_blocks(blocks));
    plan
}

/// What the whole network says of 24 tokens when these blocks are not run.
fn skipping(checkpoint: &Checkpoint, skipped: &[usize]) -> Array2<f32> {
    let weights = CheckpointWeights::new(checkpoint);
    let network = Network::open(checkpoint.config().expect("a config"), &weights).expect("one");
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % network.design().vocabulary as u32).collect();
    let mut x = network.embed(&[&ids], 0, &Silent).expect("hidden states");
    for index in (0..network.design().blocks.len()).filter(|index| !skipped.contains(index)) {
        let block = network.load(index, &Silent).expect("a block");
        let lengths = [ids.len()];
        network.run(&block, Batch::new(&mut x, &lengths), &mut NoTaps, &Silent).expect("a pass");
    }
    let head = network.load_head(&Silent).expect("a head");
    network.logits(&head, x.view(), &Silent).expect("logits")
}

fn said_by(checkpoint: &Checkpoint) -> Array2<f32> {
    logits(checkpoint, &CheckpointWeights::new(checkpoint))
}

#[test]
fn a_model_without_a_block_computes_what_the_whole_does_when_it_is_skipped() {
    let folder = TempDir::new().unwrap();
    for name in [
        "gemma2",
        "gemma3_text",
        "gemma3_text_new_keys",
        "qwen2_window",
        "qwen3_moe_some_dense",
        "llama",
        "gpt2",
        "opt",
        "phi3",
    ] {
        let source = golden(name);
        let blocks = source.blocks();
        for block in 0..blocks {
            let out = folder.path().join(format!("{name}-{block}"));
            let report = exported(&source, &without([block]), "dense", &out).unwrap();
            let reduced = Checkpoint::open(&out).unwrap();
            assert_eq!(reduced.blocks(), blocks - 1, "{name}");
            let expected = skipping(&source, &[block as usize]);
            assert_eq!(said_by(&reduced), expected, "{name} without block {block}");
            assert_eq!(report.removed, Removal::of_blocks([block]));
            let found = verify(&out, &source, &Silent).unwrap();
            assert_eq!(found.faults, Vec::<String>::new(), "{name}");
            assert!(found.is_reported && found.tensors.len() == reduced.tensors().len(), "{name}");
        }
    }
}

/// The step a target holds.
fn held(id: &str) -> Step {
    match id {
        "awq" => rtn(4).with("group_size", 64).with("symmetry", "asymmetric"),
        "gguf" => Step::new("gguf-blocks").with("type", "Q4_0"),
        _ => rtn(4).with("group_size", 64),
    }
}

/// The bytes of every tensor, by name.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<u8>> {
    let bytes = |tensor: &lapidary_engine::checkpoint::Tensor| {
        let mut all = Vec::new();
        let add = |bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        checkpoint.for_each_chunk(tensor, add).expect("bytes");
        (tensor.name.clone(), all)
    };
    checkpoint.tensors().iter().map(bytes).collect()
}

/// The names that tensors of six blocks have without blocks 1 and 4.
fn renumbered(name: &str) -> Option<String> {
    for (old, new) in [(0, Some(0)), (1, None), (2, Some(1)), (3, Some(2)), (4, None), (5, Some(3))]
    {
        let number = format!(".{old}.");
        if name.contains(&number) {
            return new.map(|new: u32| name.replace(&number, &format!(".{new}.")));
        }
    }
    Some(name.to_owned())
}

#[test]
fn every_target_writes_the_layers_of_the_whole_under_new_numbers() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    for target in target::writable() {
        let id = target.about().id;
        // One layer of a block that stays is unlike the others, so that configurations name it.
        let rules = [
            ("model.layers.*_proj.weight", vec![held(id)]),
            ("model.layers.5.mlp.down_proj.weight", vec![Step::new("keep")]),
        ];
        let mut wanted = plan(&sample, &rules).unwrap();
        let (whole, cut) = (folder.path().join(format!("{id}-whole")), folder.path().join(id));
        exported(&sample, &wanted, id, &whole).unwrap();
        wanted.set_removal(Removal::of_blocks([1, 4]));
        let destination = Destination { folder: &cut, replace: false, limits: Limits::default() };
        let told = forecast(&sample, &wanted, target, destination).unwrap();
        let report = exported(&sample, &wanted, id, &cut).unwrap();
        assert_eq!(report.totals.total_bytes, told.output_bytes, "{id}");
        assert!(
            report.coverage.starts_with("2 of 6 blocks taken out: 1 and 4; "),
            "{}",
            report.coverage
        );
        let reduced = wanted.reduced(&sample).unwrap().unwrap();
        let manifest = Manifest::new(&reduced.checkpoint, &reduced.plan, target).unwrap();
        assert_eq!(manifest.total_bytes(), report.totals.total_bytes, "{id}");
        let entries = entries_of_whole(&sample, &wanted, target).unwrap();
        let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(bytes, report.totals.tensor_bytes, "{id}");
        let open = |folder: &Path| match id {
            "gguf" => Checkpoint::open(&gguf_of(folder)).unwrap(),
            _ => Checkpoint::open(folder).unwrap(),
        };
        let (before, after) = (open(&whole), open(&cut));
        let left = tensors(&before).into_iter();
        let expected: BTreeMap<String, Vec<u8>> =
            left.filter_map(|(name, bytes)| Some((renumbered(&name)?, bytes))).collect();
        let found = tensors(&after);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{id}");
        assert!(found == expected, "{id}");
        let config = after.config().unwrap().value();
        assert_eq!(config["num_hidden_layers"], 4, "{id}");
        names_layers_that_are_there(id, config, &after);
        let found = verify(&cut, &sample, &Silent).unwrap();
        assert_eq!(found.faults, Vec::<String>::new(), "{id}");
    }
}

/// Whatever a configuration says of layers, it says of those in the file, and of the one that is kept.
fn names_layers_that_are_there(id: &str, config: &Value, after: &Checkpoint) {
    let said = config.to_string() + &config["quantization_config"].to_string();
    for gone in [4, 5] {
        let (dotted, escaped) = (format!("layers.{gone}."), format!("layers\\\\.{gone}\\\\."));
        assert!(!said.contains(&dotted) && !said.contains(&escaped), "{id}: {said}");
    }
    let is_said = ["compressed-tensors", "gptq", "awq"].iter().any(|of| id.starts_with(of));
    if is_said {
        let kept = ["layers.3.mlp.down_proj", "layers\\\\.3\\\\.mlp\\\\.down_proj"];
        assert!(kept.iter().any(|kept| said.contains(kept)), "{id}: {said}");
    }
    assert!(after.find("model.layers.3.mlp.down_proj.weight").is_some(), "{id}");
}

/// A model of `blocks` blocks with a config.json: a matrix and a norm in each.
fn model(folder: &Path, blocks: usize, config: &Value) -> Checkpoint {
    let mut weights = lapidary_tests::Weights::new();
    for block in 0..blocks {
        weights = weights
            .normal(&format!("model.layers.{block}.mlp.down_proj.weight"), &[8, 8])
            .normal(&format!("model.layers.{block}.input_layernorm.weight"), &[8]);
    }
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("it works")
}

fn repaired(config: &Value, blocks: usize, removed: &[u32]) -> Result<Value> {
    let folder = TempDir::new().expect("it works");
    let checkpoint = model(folder.path(), blocks, config);
    let reduced = checkpoint.without(&Removal::of_blocks(removed.iter().copied()))?;
    assert_eq!(reduced.blocks() as usize, blocks - removed.len());
    Ok(reduced.config().expect("it works").value().clone())
}

#[test]
fn everything_that_speaks_of_blocks_is_mended() {
    let kinds = |kinds: &str| -> Value {
        let kind = |c| if c == 'f' { "full_attention" } else { "sliding_attention" };
        kinds.chars().map(kind).collect()
    };
    // Lists with an entry for each block, lists of blocks, numbers of blocks; also where the text model is nested.
    let text = json!({
        "num_hidden_layers": 6, "layer_types": kinds("sfsfsf"), "no_rope_layers": [1, 1, 1, 0, 1, 0],
        "mlp_only_layers": [0, 2, 5], "max_window_layers": 4, "first_k_dense_replace": 1,
        "intermediate_size": [1, 2, 3, 4, 5, 6], "mrope_section": [1, 2, 3, 4, 5, 6], "eos_token_id": [1, 2, 3, 4, 5, 6],
        "per_layer_config": {"0": 1, "2": 2, "5": 3}, "sliding_window_pattern": 2, "hidden_size": 8,
    });
    let mended = json!({
        "num_hidden_layers": 4, "layer_types": kinds("ffsf"), "no_rope_layers": [1, 0, 1, 0],
        "mlp_only_layers": [3], "max_window_layers": 2, "first_k_dense_replace": 0,
        "intermediate_size": [2, 4, 5, 6], "mrope_section": [1, 2, 3, 4, 5, 6], "eos_token_id": [1, 2, 3, 4, 5, 6],
        "per_layer_config": {"3": 3}, "sliding_window_pattern": 2, "hidden_size": 8,
    });
    assert_eq!(repaired(&text, 6, &[0, 2]).unwrap(), mended);
    let nested = json!({"vision_config": {"num_hidden_layers": 6}, "text_config": text});
    let expected = json!({"vision_config": {"num_hidden_layers": 6}, "text_config": mended});
    assert_eq!(repaired(&nested, 6, &[0, 2]).unwrap(), expected);
    // Kinds by a period are written out where they do not follow it any more, and only there.
    let gemma =
        json!({"model_type": "gemma3_text", "num_hidden_layers": 6, "sliding_window_pattern": 3});
    assert_eq!(repaired(&gemma, 6, &[1]).unwrap()["layer_types"], kinds("sfssf"));
    let period = repaired(&gemma, 6, &[0, 1, 2]).unwrap();
    assert_eq!((&period["layer_types"], &period["num_hidden_layers"]), (&Value::Null, &json!(3)));
    let gemma = json!({"model_type": "gemma2", "num_hidden_layers": 4});
    assert_eq!(repaired(&gemma, 4, &[0]).unwrap()["layer_types"], kinds("fsf"));
    // Which blocks are dense is written out the same way.
    let qwen = json!({"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]});
    let said = repaired(&qwen, 6, &[0]).unwrap();
    assert_eq!(
        (&said["decoder_sparse_step"], &said["mlp_only_layers"]),
        (&json!(1), &json!([1, 2, 3]))
    );
    let said = repaired(&qwen, 6, &[0, 1]).unwrap();
    assert_eq!((&said["decoder_sparse_step"], &said["mlp_only_layers"]), (&json!(2), &json!([1])));
    let neo = json!({"num_layers": 4, "attention_types": [[["global", "local"], 2]], "attention_layers": ["global", "local", "global", "local"]});
    let said = repaired(&neo, 4, &[1]).unwrap();
    assert_eq!(said["attention_types"], json!([[["global", "global", "local"], 1]]));
    assert_eq!(said["attention_layers"], json!(["global", "global", "local"]));
}

#[test]
fn what_cannot_be_said_afterwards_is_refused() {
    let refused = |config: Value, removed: &[u32], words: &[&str]| {
        assert_says(repaired(&config, 4, removed), words);
    };
    let plain = || json!({"num_hidden_layers": 4});
    refused(plain(), &[0, 1, 2, 3], &["all there are", "leave at least one block"]);
    refused(plain(), &[4], &["there is no block 4", "4, counted from 0"]);
    refused(json!({"num_hidden_layers": 5}), &[1], &["4 blocks", "config.json says 5"]);
    refused(json!({}), &[1], &["does not say how many blocks"]);
    let step = json!({"num_hidden_layers": 4, "interleave_moe_layer_step": 2});
    refused(step, &[1], &["interleave_moe_layer_step is 2", "block 2", "2 blocks in a row"]);
    let shared = json!({"num_hidden_layers": 4, "num_kv_shared_layers": 2});
    refused(shared, &[1], &["num_kv_shared_layers", "share keys and values"]);
    let scaled = json!({"n_layer": 4, "scale_attn_by_inverse_layer_idx": true});
    refused(scaled, &[1], &["scaled by its number"]);
    let quantised = json!({"num_hidden_layers": 4, "quantization_config": {"bits": 4}});
    refused(quantised, &[1], &["compressed already", "safetensors checkpoint it was made from"]);
}

#[test]
fn a_calibration_of_the_whole_model_is_asked_by_the_names_of_the_source() {
    let source = golden("qwen2_window");
    let root = TempDir::new().unwrap();
    let (folder, calibration) = calibrated(&source, &root);
    let measured = Measured { folder: &folder, calibration: &calibration };
    let subject = Subject { checkpoint: &source, calibrated: &measured };
    let gptq = Step::new("gptq").with("bits", 4).with("group_size", 16);
    let mut wanted = plan(&source, &[("model.layers.*_proj.weight", vec![gptq])]).unwrap();
    let out = TempDir::new().unwrap();
    let run = |plan: &Plan, name: &str| {
        let out = out.path().join(name);
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        let report = export(subject, plan, find("dense").unwrap(), destination, &Silent).unwrap();
        assert!(report.calibration.is_some());
        tensors(&Checkpoint::open(&out).unwrap())
    };
    let whole = run(&wanted, "whole");
    wanted.set_removal(Removal::of_blocks([1]));
    let left = run(&wanted, "left");
    let expected = whole.into_iter().filter(|(name, _)| !name.contains("layers.1."));
    let expected: BTreeMap<String, Vec<u8>> =
        expected.map(|(name, bytes)| (name.replace("layers.2.", "layers.1."), bytes)).collect();
    assert!(left == expected);
}

#[test]
fn an_output_is_compared_with_the_source_by_what_the_report_says() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    exported(&sample, &without([1, 4]), "dense", &out).unwrap();
    let output = Checkpoint::open(&out).unwrap();
    let source = as_exported(&sample, &output).unwrap().unwrap();
    for (tensor, pair) in source.tensors().iter().zip(pairs(&source, &output)) {
        let pair = pair.unwrap_or_else(|| panic!("{} has no counterpart", tensor.name));
        let other = &output.tensors()[pair.tensors()[0]];
        assert_eq!(renumbered(tensor.source_name()).as_deref(), Some(other.name.as_str()));
    }
    // A report that says of other blocks is not believed.
    let path = out.join(REPORT);
    let mut report = read_json(&path);
    report["removed"]["blocks"] = json!([0, 4]);
    write(&path, report.to_string().as_bytes());
    let faults = verify(&out, &sample, &Silent).unwrap().faults;
    assert!(faults.iter().any(|fault| fault.contains("layers.0.")), "{faults:?}");
}

#[test]
fn a_file_that_would_hold_nothing_is_not_written() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    let mut map = serde_json::Map::new();
    for block in 0..3 {
        let file = format!("model-0000{}-of-00003.safetensors", block + 1);
        let name = format!("model.layers.{block}.mlp.down_proj.weight");
        lapidary_tests::Weights::new().normal(&name, &[8, 8]).write(&model.join(&file));
        map.insert(name, json!(file));
    }
    let index = json!({"metadata": {}, "weight_map": map});
    write(&model.join("model.safetensors.index.json"), index.to_string().as_bytes());
    write(&model.join("config.json"), br#"{"num_hidden_layers": 3}"#);
    let source = Checkpoint::open(&model).unwrap();
    let out = folder.path().join("out");
    exported(&source, &without([1]), "dense", &out).unwrap();
    let said = read_json(&out.join("model.safetensors.index.json"));
    let wanted = json!({
        "model.layers.0.mlp.down_proj.weight": "model-00001-of-00003.safetensors",
        "model.layers.1.mlp.down_proj.weight": "model-00003-of-00003.safetensors",
    });
    assert_eq!(said["weight_map"], wanted);
    assert!(!out.join("model-00002-of-00003.safetensors").exists());
    assert_eq!(said["metadata"]["total_size"], json!(2 * 64 * 4));
    assert_eq!(verify(&out, &source, &Silent).unwrap().faults, Vec::<String>::new());
}

#[test]
fn problems_and_plans_know_what_is_taken_out() {
    let sample = sample();
    let aim = Aim::from(find("compressed-tensors").unwrap());
    let mut wanted = plan(&sample, &[("role:down", vec![rtn(4).with("group_size", 64)])]).unwrap();
    let before = wanted.clone();
    wanted.set_removal(Removal::of_blocks([2]));
    assert_ne!(wanted, before);
    let found = lints_of_whole(&sample, &wanted, aim);
    let note = found.iter().find(|lint| lint.id == "removed").unwrap();
    assert!(note.what.contains("block 2 taken out"), "{note:?}");
    let names = note.tensors.iter().map(|&tensor| sample.tensors()[tensor].name.as_str());
    assert!(names.clone().count() == 9 && names.clone().all(|name| name.contains(".2.")));
    assert_eq!(wanted.told_since(&before, &sample).as_deref(), Some("block 2 taken out"));
    // What is left is told by the tensors of the whole.
    let entries = entries_of_whole(&sample, &wanted, aim.target).unwrap();
    let gone = |entry: &&target::Entry| entry.specs.is_empty();
    assert_eq!(entries.iter().filter(gone).count(), 9);
    let native = entries.iter().filter(|entry| entry.is_compressed());
    let names: Vec<&str> =
        native.map(|entry| sample.tensors()[entry.tensor].name.as_str()).collect();
    assert_eq!(names.len(), 5);
    assert!(names.contains(&"model.layers.5.mlp.down_proj.weight"), "{names:?}");
    wanted.set_removal(Removal::of_blocks(0..6));
    let found = lints_of_whole(&sample, &wanted, aim);
    assert_eq!((found[0].id, found[0].severity), ("not-removable", Severity::Error));
    // Names that the rules are written by are those of the whole model.
    assert_eq!(Rules::of(&wanted), Rules::of(&before));
    let whole = Checkpoint::open(&sample_path()).unwrap();
    assert!(Manifest::new(&whole, &without([1]), aim.target).is_err(), "parts must be gone before");
}
