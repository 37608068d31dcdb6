//! The forward pass against logits that transformers computed for tiny random networks of every architecture.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::network::{CheckpointWeights, Network, architectures};
use lapidary_engine::{Result, Silent};
use lapidary_tests::{assert_says, on_threads, read, read_json, repository, write};
use ndarray::{Array2, s};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens of each sequence, and the logits transformers gave them.
struct Golden {
    sequences: Vec<Vec<u32>>,
    logits: Vec<Array2<f32>>,
}

impl Golden {
    fn of(name: &str) -> Self {
        let bytes =
            read(&repository().join(format!("tests/golden/networks/{name}/golden.safetensors")));
        let file = SafeTensors::deserialize(&bytes).expect("a golden file");
        let tokens = file.tensor("tokens").expect("tokens");
        let logits = file.tensor("logits").expect("logits");
        let [sequences, length, vocabulary] = logits.shape()[..] else { panic!("three extents") };
        let ids: Vec<u32> = tokens
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32)
            .collect();
        let values = logits.data().chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
        let all = Array2::from_shape_vec((sequences * length, vocabulary), values).expect("logits");
        let part = |i: usize| all.slice(s![i * length..(i + 1) * length, ..]).to_owned();
        Self {
            sequences: ids.chunks(length).map(<[u32]>::to_vec).collect(),
            logits: (0..sequences).map(part).collect(),
        }
    }
}

/// Every network there is.
fn names() -> Vec<String> {
    let folder = repository().join("tests/golden/networks");
    let entries = std::fs::read_dir(folder).expect("the folder of networks");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn open(name: &str) -> Checkpoint {
    let path = repository().join(format!("tests/golden/networks/{name}"));
    Checkpoint::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn logits(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<Vec<Array2<f32>>> {
    let weights = CheckpointWeights::new(checkpoint);
    let config = checkpoint.config().expect("a config.json");
    let network = Network::open(config, &weights)?;
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    network.logits_of(&sequences, &Silent)
}

/// ‖a − b‖∞ / ‖b‖∞.
fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let largest = b.iter().fold(0.0_f32, |largest, b| largest.max(b.abs()));
    a.iter().zip(b).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn logits_of_every_architecture_are_those_of_transformers() {
    let names = names();
    assert!(names.len() >= 33, "{} networks", names.len());
    let mut failures = Vec::new();
    for name in &names {
        let golden = Golden::of(name);
        match logits(&open(name), &golden.sequences) {
            Err(error) => failures.push(format!("{name}: {}", error.sentence())),
            Ok(found) => {
                let pairs = found.iter().zip(&golden.logits);
                let worst = pairs.map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
                if worst.is_nan() || worst > 2e-5 {
                    failures.push(format!("{name}: off by {worst:e}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), names.len(), failures.join("\n"));
}

/// A copy of a network whose config.json is changed.
fn changed(name: &str, change: impl Fn(&mut Value)) -> (TempDir, Checkpoint) {
    let folder = TempDir::new().expect("a folder");
    let from = repository().join(format!("tests/golden/networks/{name}"));
    copy(&from, folder.path(), "model.safetensors");
    let mut config = read_json(&from.join("config.json"));
    change(&mut config);
    write(&folder.path().join("config.json"), config.to_string().as_bytes());
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    (folder, checkpoint)
}

fn copy(from: &Path, to: &Path, name: &str) {
    write(&to.join(name), &read(&from.join(name)));
}

#[test]
fn every_logit_is_the_same_on_any_number_of_threads() {
    for name in ["gemma2", "qwen3_moe", "gpt_neox"] {
        let golden = Golden::of(name);
        let checkpoint = open(name);
        let on = |threads| on_threads(threads, || logits(&checkpoint, &golden.sequences));
        assert_eq!(on(1).expect("logits"), on(3).expect("logits"), "{name}");
    }
}

#[test]
fn what_config_and_weights_disagree_in_is_said_with_its_name() {
    let ids = [vec![1, 2, 3]];
    let run = |change: &dyn Fn(&mut Value)| logits(&changed("llama", change).1, &ids);
    let says = |change: &dyn Fn(&mut Value), said: &[&str]| {
        assert_says(run(change), said);
    };
    run(&|_| {}).expect("logits");
    says(
        &|c| c["intermediate_size"] = json!(40),
        &["gate_proj.weight has shape", "[40, ", "config.json"],
    );
    says(&|c| c["num_hidden_layers"] = json!(9), &["layers.", "q_proj.weight", "more"]);
    says(&|c| c["hidden_size"] = json!("wide"), &["hidden_size", "not a whole number"]);
    says(&|c| c["hidden_size"] = json!(1_u64 << 60), &["hidden_size", "not a whole number"]);
    says(&|c| c["num_key_value_heads"] = json!(3), &["cannot share 3"]);
    says(
        &|c| c["rope_scaling"] = json!({"type": "dynamic", "factor": 2.0}),
        &["dynamic", "not supported"],
    );
    says(&|c| c["rope_scaling"] = json!({"type": "linear"}), &["linear", "factor"]);
    says(&|c| c["hidden_act"] = json!("mish"), &["hidden_act", "mish"]);
    says(
        &|c| c["model_type"] = json!("rwkv7"),
        &["\"rwkv7\"", "weights can be looked at", "llama"],
    );
    says(&|c| drop(c.as_object_mut().expect("an object").remove("model_type")), &["model_type"]);
    says(&|c| drop(c.as_object_mut().expect("an object").remove("vocab_size")), &["no vocab_size"]);
}

#[test]
fn ids_and_positions_beyond_the_tables_are_refused() {
    let too_large = logits(&open("llama"), &[vec![1, 64]]);
    assert_says(too_large, &["token 64", "knows only 64", "tokenizer"]);
    let too_long = logits(&open("gpt2"), &[vec![1; 2000]]);
    assert_says(too_long, &["positions of the network", "shorter"]);
}

#[test]
fn every_architecture_has_a_network_that_proves_it() {
    let configs = names().into_iter().map(|name| {
        let path = repository().join(format!("tests/golden/networks/{name}/config.json"));
        read_json(&path)["model_type"].as_str().expect("a type").to_owned()
    });
    let proved: Vec<String> = configs.collect();
    for known in architectures::known().filter(|known| *known != "gemma3") {
        assert!(proved.iter().any(|name| name == known), "no golden network of {known}");
    }
}
