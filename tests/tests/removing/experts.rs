//! Experts taken out: the others are those they were, under new numbers, and the router chooses among them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::evaluation::{block_scores, influences};
use lapidary_engine::export::verify;
use lapidary_engine::network::{CheckpointWeights, Network};
use lapidary_engine::plan::Plan;
use lapidary_tests::networks::{Changed, apart, golden, logits};
use lapidary_tests::{assert_says, read_json, write};
use ndarray::Array2;
use serde_json::json;
use tempfile::TempDir;

use crate::{exported, said_by, tensors};

fn experts(all: &[(u32, &[u32])]) -> Removal {
    let set = |(block, experts): &(u32, &[u32])| (*block, experts.iter().copied().collect());
    Removal { blocks: BTreeSet::new(), experts: all.iter().map(set).collect() }
}

/// Weights by which the channel 0 of hidden states is 10 everywhere, and the routers' scores of `masked` experts are so low
/// that none of them is ever chosen.
fn masked(checkpoint: &Checkpoint, masked: &BTreeMap<u32, BTreeSet<u32>>) -> Array2<f32> {
    let base = CheckpointWeights::new(checkpoint);
    let mut by: HashMap<String, Vec<f32>> = HashMap::new();
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        let name = tensor.name.as_str();
        let Some(block) = tensor.place.block else {
            if name.ends_with("embed_tokens.weight") {
                let mut values = checkpoint.values(index).expect("it works");
                values.iter_mut().step_by(tensor.shape.0[1]).for_each(|value| *value = 10.0);
                by.insert(name.to_owned(), values);
            }
            continue;
        };
        let is_last = ["o_proj.weight", "w2.weight", "down_proj.weight"];
        let mut values = checkpoint.values(index).expect("it works");
        let cols = *tensor.shape.0.last().expect("it works");
        if is_last.iter().any(|last| name.ends_with(last)) {
            values[..cols].fill(0.0);
        } else if name.ends_with("post_attention_layernorm.weight") {
            values[0] = 1.0;
        } else if name.ends_with("gate.weight") {
            for &expert in masked.get(&block).into_iter().flatten() {
                values[expert as usize * cols..][..cols].fill(0.0);
                values[expert as usize * cols] = -1e6;
            }
        } else {
            continue;
        }
        by.insert(name.to_owned(), values);
    }
    logits(checkpoint, &Changed { base, by })
}

#[test]
fn a_model_without_experts_computes_what_a_router_that_never_chooses_them_does() {
    let folder = TempDir::new().unwrap();
    let cases: [(&str, Removal); 3] = [
        ("mixtral", experts(&[(0, &[1]), (1, &[2])])),
        ("qwen3_moe", experts(&[(0, &[0, 3]), (1, &[1, 2])])),
        ("qwen3_moe_some_dense", experts(&[(1, &[2])])),
    ];
    for (name, removal) in cases {
        let source = golden(name);
        let gone = removal.experts.clone();
        let mut plan = Plan::default();
        plan.set_removal(removal);
        let out = folder.path().join(name);
        let report = exported(&source, &plan, "dense", &out).unwrap();
        let reduced = Checkpoint::open(&out).unwrap();
        let count = |checkpoint: &Checkpoint| {
            let experts = checkpoint.tensors().iter().filter_map(|tensor| tensor.place.expert);
            experts.max().unwrap() + 1
        };
        let removed = gone.values().next().unwrap().len() as u32;
        assert_eq!(count(&reduced) + removed, count(&source), "{name}");
        let off = apart(&masked(&source, &gone), &masked(&reduced, &BTreeMap::new()));
        assert!(off < 1e-6, "{name}: {off}");
        // Those that are left are the experts they were.
        let whole = said_by(&source);
        assert!(apart(&whole, &said_by(&reduced)) > 1e-3, "{name}: nothing changed");
        assert!(report.coverage.contains("experts taken out"), "{}", report.coverage);
        assert_eq!(verify(&out, &source, &Silent).unwrap().faults, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn influence_is_one_less_the_cosine_and_every_token_goes_to_as_many_experts() {
    for name in ["gemma2", "mixtral", "qwen3_moe_some_dense"] {
        let checkpoint = golden(name);
        let weights = CheckpointWeights::new(&checkpoint);
        let network = Network::open(checkpoint.config().unwrap(), &weights).unwrap();
        let ids = |seed: u32| (0..30).map(|i| (i * seed + 5) % 64).collect::<Vec<u32>>();
        let sequences = [ids(7), ids(11), ids(13)];
        let found = influences(&network, &sequences, &Silent).unwrap();
        let blocks = block_scores(&network, &sequences, &Silent).unwrap();
        assert_eq!(found.blocks.len(), blocks.len(), "{name}");
        for (influence, block) in found.blocks.iter().zip(&blocks) {
            let wanted = 1.0 - block.linearity.cosine;
            assert!((influence - wanted).abs() < 1e-6, "{name}: {influence} and {wanted}");
        }
        let mut sent: BTreeMap<u32, u64> = BTreeMap::new();
        for of in &found.experts {
            *sent.entry(of.block).or_default() += of.tokens;
            assert_eq!(of.tokens > 0, of.saliency > 0.0, "{name}: {of:?}");
        }
        // Two experts see each of 90 tokens; dense blocks have none.
        let mixtures: Vec<u32> = match name {
            "gemma2" => vec![],
            "mixtral" => vec![0, 1],
            _ => vec![1],
        };
        let wanted: BTreeMap<u32, u64> = mixtures.into_iter().map(|block| (block, 180)).collect();
        assert_eq!(sent, wanted, "{name}");
    }
}

#[test]
fn experts_that_share_a_tensor_are_cut_out_of_it() {
    let folder = TempDir::new().unwrap();
    let mut weights = lapidary_tests::Weights::new();
    for block in 0..2 {
        let name = |part: &str| format!("model.layers.{block}.mlp.{part}");
        weights = weights
            .normal(&name("router.weight"), &[4, 8])
            .normal(&name("router.bias"), &[4])
            .normal(&name("experts.gate_up_proj"), &[4, 8, 6])
            .normal(&name("experts.gate_up_proj_bias"), &[4, 6])
            .normal(&name("shared_expert.up_proj.weight"), &[4, 8]);
    }
    weights.write(&folder.path().join("model.safetensors"));
    let config = json!({"num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2});
    write(&folder.path().join("config.json"), config.to_string().as_bytes());
    let source = Checkpoint::open(folder.path()).unwrap();
    let mut plan = Plan::default();
    plan.set_removal(experts(&[(0, &[0, 2]), (1, &[2, 3])]));
    let out = folder.path().join("out");
    exported(&source, &plan, "dense", &out).unwrap();
    let (before, after) = (tensors(&source), tensors(&Checkpoint::open(&out).unwrap()));
    for (block, kept) in [(0, [1, 3]), (1, [0, 1])] {
        for part in
            ["router.weight", "router.bias", "experts.gate_up_proj", "experts.gate_up_proj_bias"]
        {
            let name = format!("model.layers.{block}.mlp.{part}");
            let row = before[&name].len() / 4;
            let rows = kept.map(|expert: usize| before[&name][expert * row..][..row].to_vec());
            assert!(after[&name] == rows.concat(), "{name}");
        }
        let shared = format!("model.layers.{block}.mlp.shared_expert.up_proj.weight");
        assert!(after[&shared] == before[&shared], "{shared}");
    }
    let said = read_json(&out.join("config.json"));
    assert_eq!((&said["num_local_experts"], &said["num_experts_per_tok"]), (&json!(2), &json!(2)));
    let refused = |removal: Removal, words: &[&str]| assert_says(source.without(&removal), words);
    refused(experts(&[(0, &[0])]), &["unlike numbers of experts", "3 in block 0, 4 in block 1"]);
    refused(
        experts(&[(0, &[0, 1, 2]), (1, &[1, 2, 3])]),
        &["1 experts would be left", "at least 2"],
    );
    refused(experts(&[(0, &[0, 1, 2, 3])]), &["all that block 0 has"]);
    refused(experts(&[(0, &[4])]), &["no expert 4"]);
    // An expert of a block that goes goes with it.
    let mut both = Removal::of_blocks([1]);
    both.experts = experts(&[(0, &[1]), (1, &[1, 2])]).experts;
    assert_eq!(source.without(&both).unwrap().removal().experts.len(), 1);
}
