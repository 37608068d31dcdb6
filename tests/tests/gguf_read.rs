//! GGUF files opened as models: the same logits and the same tokens as the checkpoint they were made from.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::{self, Limits, StoreWeights};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Network, Weights};
use lapidary_engine::plan::Plan;
use lapidary_engine::target::find;
use lapidary_engine::text::{Specials, Tokenizer};
use lapidary_engine::{Result, Silent};
use lapidary_tests::{assert_says, data, plan, read, repository, sample, write};
use ndarray::Array2;
use tempfile::TempDir;

const TEXT: &str = "Once upon a time, there was a little  girl; she'd 12 naïve cats.\n\n\tThe end…";

/// Exports for llama.cpp and opens the one file.
fn again(checkpoint: &Checkpoint, plan: &Plan, out: &Path) -> Checkpoint {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    let target = find("gguf").expect("a target");
    export(checkpoint, plan, target, destination, &Silent).expect("an export");
    let names = lapidary_tests::names_in(out);
    let is_gguf = |name: &&String| Path::new(name).extension() == Some("gguf".as_ref());
    let name = names.iter().find(is_gguf).expect("a GGUF file");
    Checkpoint::open(&out.join(name)).unwrap_or_else(|error| panic!("{}", error.sentence()))
}

fn logits(checkpoint: &Checkpoint, weights: &dyn Weights, ids: &[u32]) -> Result<Array2<f32>> {
    let network = Network::open(checkpoint.config().expect("settings"), weights)?;
    Ok(network.logits_of(&[ids], &Silent)?.remove(0))
}

fn ids(checkpoint: &Checkpoint) -> Vec<u32> {
    let tokenizer = Tokenizer::open(checkpoint).expect("a tokenizer");
    tokenizer.encode(TEXT, Specials::Added).expect("ids")
}

#[test]
fn a_file_has_the_tokens_and_the_logits_of_its_source() {
    let folder = TempDir::new().unwrap();
    let stories = Checkpoint::open(&data("stories260K")).unwrap();
    for (name, source) in [("sample", sample()), ("stories", stories)] {
        let file = again(&source, &Plan::default(), &folder.path().join(name));
        let wanted = ids(&source);
        assert!(wanted.len() > 20, "{name}");
        assert_eq!(ids(&file), wanted, "{name}");
        let before = logits(&source, &CheckpointWeights::new(&source), &wanted).unwrap();
        let after = logits(&file, &CheckpointWeights::new(&file), &wanted).unwrap();
        let off = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-4, "{name}: {off}");
    }
}

#[test]
fn a_compressed_file_runs_as_its_plan_does() {
    let sample = sample();
    let blocks = |kind: &str| vec![Step::new("gguf-blocks").with("type", kind)];
    let mixed = vec![Step::new("microscaling").with("format", "mxfp4")];
    let rules = [
        ("*.self_attn.*_proj.weight", blocks("Q5_0")),
        ("*.mlp.*_proj.weight", mixed),
        ("lm_head.weight", blocks("Q8_0")),
    ];
    let wish = plan(&sample, &rules).unwrap();
    let folder = TempDir::new().unwrap();
    let file = again(&sample, &wish, &folder.path().join("out"));
    let store = job::run(&sample, &wish, Limits::default(), None, &Silent).unwrap();
    let ids = ids(&sample);
    let wanted = logits(&sample, &StoreWeights::new(&sample, &store), &ids).unwrap();
    let found = logits(&file, &CheckpointWeights::new(&file), &ids).unwrap();
    let off = wanted.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-4, "{off}");
    let destination =
        Destination { folder: &folder.path().join("x"), replace: false, limits: Limits::default() };
    let refused = export(&file, &Plan::default(), find("dense").unwrap(), destination, &Silent);
    assert_says(refused, &["finished GGUF file", "was made from"]);
}

#[test]
fn biases_norms_and_scaled_positions_come_back() {
    for name in [
        "llama_rope_llama3",
        "llama_rope_linear",
        "llama_rope_yarn",
        "llama_rope_yarn_attention_factor",
        "llama_tied_biases",
        "qwen2",
        "qwen3",
    ] {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("m");
        let from = repository().join(format!("tests/golden/networks/{name}"));
        for file in ["config.json", "model.safetensors"] {
            write(&model.join(file), &read(&from.join(file)));
        }
        let vocab: serde_json::Map<String, serde_json::Value> = (0..64_u32)
            .map(|id| (char::from_u32(256 + id).unwrap().to_string(), id.into()))
            .collect();
        let rules = serde_json::json!({
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        write(&model.join("tokenizer.json"), rules.to_string().as_bytes());
        let source = Checkpoint::open(&model).unwrap();
        let file = again(&source, &Plan::default(), &folder.path().join("out"));
        let ids: Vec<u32> = (0..40).map(|i| i * 37 % 64).collect();
        let before = logits(&source, &CheckpointWeights::new(&source), &ids).unwrap();
        let after = logits(&file, &CheckpointWeights::new(&file), &ids).unwrap();
        let largest = before.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let off = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-5 * largest, "{name}: {off} of {largest}");
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    let imatrix = data("imatrix").join("small.gguf");
    assert_says(Checkpoint::open(&imatrix), &["small.gguf", "architecture"]);
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("a.gguf"), b"GGUF\x03\0\0\0");
    assert_says(Checkpoint::open(&folder.path().join("a.gguf")), &["a.gguf", "GGUF"]);
}
