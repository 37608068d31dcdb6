//! Every target that writes, with models of every kind: tied, with biases, with experts, in shards, of several
//! precisions; proved, decoded by other code, read back in.

use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Counterpart, compare, pairs};
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::{self, Limits};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Weights as _};
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{Aim, Manifest, Storage, Target, mend_all, writable};
use lapidary_tests::reader::{Output, round_to_bf16};
use lapidary_tests::{Weights, normals, plan, rtn, write};
use serde_json::{Value, json};
use tempfile::TempDir;

const HIDDEN: usize = 128;
const KINDS: [&str; 4] = ["tied", "biases", "experts", "shards"];

/// The file with one more BF16 tensor of random values.
fn bf16(weights: Weights, name: &str, shape: &[usize]) -> Weights {
    let seed = name.bytes().fold(7, |seed, byte| seed * 31 % 65_521 + u64::from(byte));
    let values = normals(seed, shape.iter().product());
    let half = |value: &f32| (round_to_bf16(*value).to_bits() >> 16) as u16;
    let bytes: Vec<u8> = values.iter().flat_map(|value| half(value).to_le_bytes()).collect();
    weights.with(name, "BF16", shape, &bytes)
}

/// Names and shapes of a model of two blocks.
fn tensors(kind: &str) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![96, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    if kind != "tied" {
        tensors.push(("lm_head.weight".to_owned(), vec![96, HIDDEN]));
    }
    for block in 0..2 {
        let block = format!("model.layers.{block}");
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            let module = format!("{block}.self_attn.{name}");
            tensors.push((format!("{module}.weight"), vec![HIDDEN, HIDDEN]));
            if kind == "biases" {
                tensors.push((format!("{module}.bias"), vec![HIDDEN]));
            }
        }
        let parents: Vec<String> = match kind {
            "experts" => (0..3).map(|expert| format!("{block}.mlp.experts.{expert}")).collect(),
            _ => vec![format!("{block}.mlp")],
        };
        for parent in parents {
            for (name, rows, cols) in
                [("gate_proj", 256, HIDDEN), ("up_proj", 256, HIDDEN), ("down_proj", HIDDEN, 256)]
            {
                tensors.push((format!("{parent}.{name}.weight"), vec![rows, cols]));
            }
        }
        if kind == "experts" {
            tensors.push((format!("{block}.mlp.gate.weight"), vec![3, HIDDEN]));
        }
    }
    tensors
}

fn model(folder: &Path, kind: &str) -> Checkpoint {
    let files = if kind == "shards" { 2 } else { 1 };
    let name = |file: usize| match files {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-00002.safetensors", file + 1),
    };
    let mut shards = vec![Weights::new(); files];
    let mut map = serde_json::Map::new();
    for (i, (tensor, shape)) in tensors(kind).into_iter().enumerate() {
        let file = i % files;
        shards[file] = bf16(std::mem::take(&mut shards[file]), &tensor, &shape);
        map.insert(tensor, json!(name(file)));
    }
    for (file, shard) in shards.iter().enumerate() {
        shard.write(&folder.join(name(file)));
    }
    if files > 1 {
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        write(&folder.join("model.safetensors.index.json"), index.as_bytes());
    }
    let model_type = if kind == "experts" { "qwen2_moe" } else { "llama" };
    let config = json!({"model_type": model_type, "tie_word_embeddings": kind == "tied"});
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("a valid model")
}

/// A plan of 4 bits throughout, or of several precisions, fitted to a target.
fn fitted(checkpoint: &Checkpoint, is_mixed: bool, target: &'static dyn Target) -> Plan {
    let four = || vec![rtn(4).with("group_size", 32).with("symmetry", "asymmetric")];
    let mut rules = vec![("*_proj.weight", four())];
    if is_mixed {
        // Of two patterns the first decides.
        let eight = || vec![rtn(8).with("group_size", 64)];
        let others = [
            ("*down_proj.weight", eight()),
            ("*.0.self_attn.*_proj.weight", vec![Step::new("keep")]),
            ("model.embed_tokens.weight", eight()),
        ];
        rules.splice(0..0, others);
    }
    let mut plan = plan(checkpoint, &rules).expect("a plan");
    mend_all(checkpoint, &mut plan, Aim::from(target));
    plan
}

fn check(kind: &str, is_mixed: bool, target: &'static dyn Target) {
    let what = format!("{kind}, mixed {is_mixed}, for {}", target.about().id);
    let folder = TempDir::new().expect("a folder");
    let checkpoint = model(&folder.path().join("model"), kind);
    let plan = fitted(&checkpoint, is_mixed, target);
    let store = job::run(&checkpoint, &plan, Limits::default(), None, &Silent).expect("a job");
    let out = folder.path().join("out");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let report = export(&checkpoint, &plan, target, destination, &Silent)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let manifest = Manifest::new(&checkpoint, &plan, target).expect("a manifest");
    let output = Output::open(&out);
    let again = Checkpoint::open(&out).expect("it opens");
    let weights = CheckpointWeights::new(&again);
    let pairs = pairs(&checkpoint, &again);
    let mut native = 0;
    for entry in &manifest.entries {
        let tensor = &checkpoint.tensors()[entry.tensor];
        let found = output.weights(&tensor.name);
        let pair = pairs[entry.tensor].as_ref().unwrap_or_else(|| panic!("{what}: no pair"));
        let is_native = entry.storage == Storage::Native;
        assert_eq!(matches!(pair, Counterpart::Compressed { .. }), is_native, "{what}: {pair:?}");
        let compared = compare(&checkpoint, entry.tensor, &again, pair, &Silent).expect("values");
        let said = report.tensors.iter().find(|said| said.name == tensor.name).expect("a line");
        assert_eq!(compared.relative_error.to_bits(), said.relative_error.to_bits(), "{what}");
        // What a network reads is what other code decodes, and what the store holds.
        let mut read = vec![0.0; found.len()];
        weights.read(&tensor.name, 0, &mut read, &Silent).expect("numbers");
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&read), bits(&found), "{what}: {}", tensor.name);
        if is_native {
            let wanted = store.get(entry.tensor).expect("stored").decode();
            assert_eq!(found, wanted.into_raw_vec_and_offset().0, "{what}: {}", tensor.name);
            native += 1;
        }
    }
    assert_eq!(output.quantised_modules().len(), native, "{what}");
    let promised: usize = manifest.entries.iter().map(|entry| entry.specs.len()).sum();
    assert_eq!(output.tensors.len(), promised, "{what}");
    assert_eq!(native > 6, target.about().id != "dense", "{what}: {native}");
    check_config(&what, kind, is_mixed, target, &output.quantization);
}

/// What the configuration says of the whole model.
fn check_config(what: &str, kind: &str, is_mixed: bool, target: &dyn Target, config: &Value) {
    match target.about().id {
        "mlx" => {
            assert_eq!((&config["mode"], &config["bits"]), (&json!("affine"), &json!(4)), "{what}");
            let down = match kind {
                "experts" => "model.layers.1.mlp.switch_mlp.down_proj",
                _ => "model.layers.1.mlp.down_proj",
            };
            let wanted = json!({"group_size": 64, "bits": 8});
            assert_eq!(config[down] == wanted, is_mixed, "{what}: {config}");
            let embedding = if is_mixed { wanted } else { json!(false) };
            assert_eq!(config["model.embed_tokens"], embedding, "{what}");
        }
        id @ ("gptq" | "gptq-v2") => {
            let format = if id == "gptq" { "gptq" } else { "gptq_v2" };
            assert_eq!(config["checkpoint_format"], format, "{what}");
            assert_eq!(
                (&config["bits"], &config["desc_act"]),
                (&json!(4), &json!(false)),
                "{what}"
            );
            let rules = config["dynamic"].as_object().map_or(0, serde_json::Map::len);
            assert_eq!(rules > 0, is_mixed || kind == "experts", "{what}: {config}");
            let fused = &config["dynamic"][r"-:^model\.layers\.0\.self_attn\.qkv_proj$"];
            assert_eq!(fused.is_object(), is_mixed, "vLLM asks for the fused layer: {what}");
        }
        "auto-round" => {
            assert_eq!((&config["bits"], &config["sym"]), (&json!(4), &json!(true)), "{what}");
            let extra = |module: &str| &config["extra_config"][format!("model.layers.{module}")];
            let is_eight = extra("1.mlp.down_proj")["bits"] == 8;
            assert_eq!(is_eight, is_mixed && kind != "experts", "{what}: {config}");
            let is_kept = extra("0.self_attn.q_proj")["bits"] == 16;
            assert_eq!(is_kept, is_mixed, "{what}: {config}");
        }
        "compressed-tensors-0.18" => assert_eq!(config["version"], "0.18.0", "{what}"),
        "awq" => {
            assert_eq!((&config["zero_point"], &config["group_size"]), (&json!(true), &json!(32)));
            let kept = config["modules_to_not_convert"].as_array().expect("a list");
            assert!(kept.contains(&json!("lm_head")), "{what}: {kept:?}");
            assert_eq!(kept.contains(&json!("model.layers.0.self_attn.q_proj")), is_mixed);
        }
        _ => {}
    }
}

#[test]
fn every_kind_of_model_goes_through_every_format() {
    // One file of GGUF is another matter, and so are archives, which say themselves how they are stored.
    for target in lapidary_tests::writable() {
        for kind in KINDS {
            for is_mixed in [false, true] {
                check(kind, is_mixed, target);
            }
        }
    }
}

#[test]
fn weights_in_f32_lose_no_more_than_half_precision_of_their_scales() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model");
    let name = "model.layers.0.mlp.down_proj.weight";
    Weights::new().normal(name, &[64, 128]).write(&path.join("model.safetensors"));
    write(&path.join("config.json"), br#"{"model_type": "llama"}"#);
    let checkpoint = Checkpoint::open(&path).unwrap();
    for target in
        writable().filter(|target| ["gptq", "auto-round", "awq"].contains(&target.about().id))
    {
        let plan = fitted(&checkpoint, false, target);
        let store = job::run(&checkpoint, &plan, Limits::default(), None, &Silent).unwrap();
        let out = folder.path().join(target.about().id);
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        let report = export(&checkpoint, &plan, target, destination, &Silent).unwrap();
        assert_eq!(report.totals.compressed, 1);
        let found = Output::open(&out).weights(name);
        let wanted = store.get(0).unwrap().decode();
        let mut different = 0;
        for (&a, &b) in found.iter().zip(&wanted) {
            assert!((a - b).abs() <= b.abs() * 2_f32.powi(-11), "{a} for {b}");
            different += usize::from(a != b);
        }
        assert!(different > 1000, "F16 does not hold scales of F32");
    }
}
