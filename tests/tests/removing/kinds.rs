//! Blocks of several kinds: those that are left keep theirs, or what cannot say so is refused.

use lapidary_engine::Result;
use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_tests::{assert_says, write};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::repaired;

/// A letter for each block: f and s attend to all tokens and to a window, l is linear.
fn kinds(letters: &str) -> Value {
    let kind = |letter| match letter {
        'f' => "full_attention",
        's' => "sliding_attention",
        _ => "linear_attention",
    };
    letters.chars().map(kind).collect()
}

/// What transformers 5.23 says of twelve blocks of each model without such a list, less the first.
#[test]
fn lists_that_models_take_for_granted_are_written_out() {
    let types = [
        ("gemma2", "fsfsfsfsfsf"),
        ("vaultgemma", "fsfsfsfsfsf"),
        ("gpt_oss", "fsfsfsfsfsf"),
        ("gemma3_text", "ssssfsssssf"),
        ("gemma3n_text", "sssfssssfss"),
        ("cohere2", "ssfsssfsssf"),
        ("exaone4", "ssfsssfsssf"),
        ("afmoe", "ssfsssfsssf"),
        ("olmo3", "ssfsssfsssf"),
        ("cwm", "sssfsssfsss"),
        ("granite_swa", "sssfsssfsss"),
        ("modernbert", "ssfssfssfss"),
        ("qwen3_next", "llflllflllf"),
        ("qwen3_5_text", "llflllflllf"),
        ("qwen3_5_moe_text", "llflllflllf"),
        ("olmo_hybrid", "llflllflllf"),
        ("bailing_hybrid", "llllflllllf"),
        ("minimax", "lflflflflfl"),
    ];
    for (model, wanted) in types {
        let config = json!({"model_type": model, "num_hidden_layers": 12});
        let said = repaired(&config, 12, &[0]).unwrap();
        assert_eq!(said["layer_types"], kinds(wanted), "{model}");
        // What is behind all others goes without a word.
        let said = repaired(&config, 12, &[11]).unwrap();
        assert_eq!(said["layer_types"], Value::Null, "{model}");
    }
    for model in ["llama4_text", "smollm3"] {
        let config = json!({"model_type": model, "num_hidden_layers": 8, "no_rope_layers": []});
        let said = repaired(&config, 8, &[1]).unwrap();
        assert_eq!(said["no_rope_layers"], json!([1, 1, 0, 1, 1, 1, 0]), "{model}");
        let config =
            json!({"model_type": model, "num_hidden_layers": 6, "no_rope_layer_interval": 3});
        let said = repaired(&config, 6, &[0]).unwrap();
        assert_eq!(said["no_rope_layers"], json!([1, 0, 1, 1, 0]), "{model}");
    }
}

#[test]
fn other_words_for_kinds_are_mended() {
    let said = |config: Value, blocks: usize, removed: &[u32]| {
        repaired(&config, blocks, removed).unwrap_or_else(|error| panic!("{error}"))
    };
    let config = json!({"num_hidden_layers": 6, "hybrid_override_pattern": "M-M*-E"});
    assert_eq!(said(config, 6, &[1, 3])["hybrid_override_pattern"], "MM-E");
    let lists =
        json!({"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3, 5, 6, 7], "head_dim": 8});
    let config = json!({"num_hidden_layers": 8, "linear_attn_config": lists});
    let wanted = json!({"full_attn_layers": [3, 6], "kda_layers": [1, 2, 4, 5], "head_dim": 8});
    assert_eq!(said(config, 8, &[1, 6])["linear_attn_config"], wanted);
    let config = json!({"model_type": "recurrent_gemma", "num_hidden_layers": 5, "block_types": ["recurrent", "recurrent", "attention"]});
    let wanted = json!(["recurrent", "attention", "recurrent", "recurrent"]);
    assert_eq!(said(config.clone(), 5, &[0])["block_types"], wanted);
    assert_eq!(said(config, 5, &[0, 1, 2])["block_types"].as_array().unwrap().len(), 3);
    let config = json!({
        "num_hidden_layers": 6, "num_dense_layers": 2, "moe_layer_start_index": 1, "moe_layer_end_index": 4, "hybrid_layer_ids": [1, 4],
    });
    let wanted = json!({
        "num_hidden_layers": 4, "num_dense_layers": 1, "moe_layer_start_index": 0, "moe_layer_end_index": 2, "hybrid_layer_ids": [0, 2],
    });
    assert_eq!(said(config, 6, &[0, 3]), wanted);
    let config = json!({"num_hidden_layers": 4, "moe_layer_end_index": -1});
    assert_eq!(said(config, 4, &[0])["moe_layer_end_index"], -1);
}

#[test]
fn kinds_that_cannot_be_said_are_refused() {
    let refused = |config: Value, removed: &[u32], words: &[&str]| {
        assert_says(repaired(&config, 8, removed), words);
    };
    let config = |model: &str| json!({"model_type": model, "num_hidden_layers": 8});
    refused(config("mimo_v2_flash"), &[2], &["layer_types", "last blocks alone"]);
    assert!(repaired(&config("mimo_v2_flash"), 8, &[6, 7]).is_ok());
    let exaone =
        json!({"model_type": "exaone4", "num_hidden_layers": 8, "sliding_window_pattern": "LLLG"});
    refused(exaone, &[0], &["layer_types"]);
    // What Jamba does not say is as it is said.
    refused(config("jamba"), &[0], &["layer_period"]);
    assert!(repaired(&config("jamba"), 8, &[6, 7]).is_ok());
    // The last block of Gemma 4 attends to all tokens, whatever is said of it.
    let gemma = json!({"model_type": "gemma4_text", "num_hidden_layers": 8, "layer_types": kinds("sssfsssf")});
    refused(gemma.clone(), &[7], &["block 6", "attends to all tokens"]);
    assert_eq!(repaired(&gemma, 8, &[0, 1]).unwrap()["layer_types"], kinds("sfsssf"));
    assert_eq!(repaired(&gemma, 8, &[4, 5, 6, 7]).unwrap()["layer_types"], kinds("sssf"));
    refused(config("gemma4_text"), &[7], &["block 6", "attends to all tokens"]);
    refused(config("gemma4_text"), &[0], &["layer_types"]);
    let letters = json!({"num_hidden_layers": 8, "hybrid_override_pattern": "M-M*"});
    refused(letters, &[0], &["hybrid_override_pattern", "4 letters"]);
    for key in ["hidden_size_per_layer_input", "num_mem_blocks"] {
        refused(json!({"num_hidden_layers": 8, key: 2}), &[0], &[key]);
    }
    let nested = json!({"text_config": {"num_hidden_layers": 8, "quantization_config": {"quant_method": "awq"}}});
    refused(nested, &[0], &["compressed already"]);
}

/// Blocks 1 and 3 of four have experts.
fn unlike(folder: &std::path::Path, config: &Value) -> Checkpoint {
    let mut weights = lapidary_tests::Weights::new();
    for block in 0..4 {
        let name = |part: &str| format!("model.layers.{block}.{part}");
        weights = weights.normal(&name("self_attn.q_proj.weight"), &[8, 8]);
        if block % 2 == 0 {
            weights = weights.normal(&name("mlp.up_proj.weight"), &[8, 8]);
            continue;
        }
        for expert in 0..=block {
            weights =
                weights.normal(&name(&format!("mlp.experts.{expert}.up_proj.weight")), &[8, 8]);
        }
    }
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("it opens")
}

#[test]
fn blocks_built_otherwise_need_a_word_that_says_so() {
    let left = |config: Value, removed: &[u32]| -> Result<Value> {
        let folder = TempDir::new().expect("a folder");
        let removal = Removal::of_blocks(removed.iter().copied());
        let reduced = unlike(folder.path(), &config).without(&removal)?;
        Ok(reduced.config().expect("a config").value().clone())
    };
    let silent = json!({"num_hidden_layers": 4});
    assert_says(left(silent.clone(), &[0]), &["block 1", "place of block 0", "built otherwise"]);
    assert!(left(silent.clone(), &[2, 3]).is_ok() && left(silent, &[0, 1]).is_ok());
    let said = json!({"num_hidden_layers": 4, "mlp_only_layers": [0, 2]});
    assert_eq!(left(said, &[0]).unwrap()["mlp_only_layers"], json!([1]));
    let types = json!(["dense", "sparse", "dense", "sparse"]);
    let said = left(json!({"num_hidden_layers": 4, "mlp_layer_types": types}), &[1]).unwrap();
    assert_eq!(said["mlp_layer_types"], json!(["dense", "dense", "sparse"]));
}

#[test]
fn towers_beside_the_text_keep_their_blocks() {
    let folder = TempDir::new().unwrap();
    let mut weights = lapidary_tests::Weights::new();
    for block in 0..3 {
        for tower in ["model.layers", "visual.blocks"] {
            weights = weights.normal(&format!("{tower}.{block}.mlp.down_proj.weight"), &[8, 8]);
        }
    }
    weights.write(&folder.path().join("model.safetensors"));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.removable_blocks(), Some(3));
    let tensors = checkpoint.tensors();
    for (index, part) in checkpoint.parts_of(0..tensors.len()).into_iter().enumerate() {
        let block = tensors[index].place.block;
        assert!(block.is_some(), "{}", tensors[index].name);
        let wanted = block.filter(|_| tensors[index].name.starts_with("model."));
        assert_eq!(part, wanted.map(|block| (block, None)), "{}", tensors[index].name);
    }
}
