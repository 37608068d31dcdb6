//! GGUF files: their keys, names, rows and bytes against the source, for every architecture that is written; what
//! llama.cpp would not run as it is meant is refused with a sentence.

use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::disk::Source;
use lapidary_engine::export::{Destination, PAGE, REPORT, Report, export};
use lapidary_engine::format::gguf::{Header, Value, read_header};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{Manifest, Storage, find};
use lapidary_engine::{Result, Silent};
use lapidary_tests::networks::gguf_of;
use lapidary_tests::reader::Output;
use lapidary_tests::{
    Weights, assert_says, data, names_in, on_threads, plan, read, read_folder, read_json,
    read_output, repository, rtn, sample, sample_path, write,
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn run(checkpoint: &Checkpoint, plan: &Plan, out: &Path) -> Result<Report> {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    export(checkpoint, plan, find("gguf").expect("it works"), destination, &Silent)
}

/// Exports, and checks what must hold of every export; returns the one file.
fn written(checkpoint: &Checkpoint, plan: &Plan, out: &Path) -> (PathBuf, Header) {
    let report = run(checkpoint, plan, out).unwrap_or_else(|error| panic!("{}", error.sentence()));
    let manifest =
        Manifest::new(checkpoint, plan, find("gguf").expect("it works")).expect("it works");
    let files = read_output(out);
    let on_disk: usize = files.values().map(Vec::len).sum();
    assert_eq!(manifest.total_bytes(), on_disk as u64);
    assert_eq!(report.totals.total_bytes, on_disk as u64);
    let is_gguf = |name: &&String| Path::new(name).extension() == Some("gguf".as_ref());
    let path = files.keys().find(is_gguf).map(|name| out.join(name));
    let path = path.expect("a GGUF file");
    let header = read_header(&Source::open(&path).expect("it works")).expect("it works");
    (path, header)
}

/// Bytes of a tensor of the file.
fn tensor(path: &Path, header: &Header, name: &str) -> Vec<u8> {
    let found = header.tensors.iter().find(|tensor| tensor.name == name);
    let found = found.unwrap_or_else(|| panic!("no {name}"));
    let begin = (header.data + found.offset) as usize;
    read(path)[begin..begin + found.bytes().expect("it works") as usize].to_vec()
}

fn number(header: &Header, key: &str) -> u64 {
    header.unsigned(key).unwrap_or_else(|| panic!("no {key}"))
}

fn real(header: &Header, key: &str) -> f64 {
    match header.metadata[key] {
        Value::Float(value) => value,
        ref other => panic!("{key}: {other:?}"),
    }
}

/// Every kind of layer that is held: integers with and without an offset, super-blocks, small floats.
fn mixed(checkpoint: &Checkpoint) -> Plan {
    let blocks = |kind: &str| vec![Step::new("gguf-blocks").with("type", kind)];
    let grouped = |bits: i64| vec![rtn(bits).with("group_size", 32)];
    let hqq = Step::new("hqq").with("bits", 5).with("group_size", 32);
    let rules = [
        ("model.layers.*.self_attn.*_proj.weight", grouped(4)),
        (
            "model.layers.*.mlp.gate_proj.weight",
            vec![Step::new("microscaling").with("format", "mxfp4")],
        ),
        ("model.layers.*.mlp.up_proj.weight", vec![hqq]),
        ("model.layers.*.mlp.down_proj.weight", blocks("Q6_K")),
        ("lm_head.weight", grouped(8)),
        ("model.embed_tokens.weight", blocks("IQ4_NL")),
    ];
    plan(checkpoint, &rules).expect("it works")
}

#[test]
fn the_sample_is_one_file_with_tokenizer_and_keys() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let (path, header) = written(&sample, &Plan::default(), &folder.path().join("out"));
    assert_eq!(names_in(&folder.path().join("out")), [PAGE, REPORT, "sample-books-6m.gguf"]);
    assert_eq!(header.text("general.architecture"), Some("llama"));
    assert_eq!(header.text("tokenizer.ggml.model"), Some("gpt2"));
    assert_eq!(header.text("tokenizer.ggml.pre"), Some("gpt-2"));
    for (key, wanted) in [
        ("general.file_type", 32),
        ("llama.block_count", 6),
        ("llama.context_length", 256),
        ("llama.embedding_length", 256),
        ("llama.feed_forward_length", 768),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("llama.rope.dimension_count", 64),
        ("llama.vocab_size", 2048),
        ("tokenizer.ggml.eos_token_id", 0),
    ] {
        assert_eq!(number(&header, key), wanted, "{key}");
    }
    assert!((real(&header, "llama.attention.layer_norm_rms_epsilon") - 1e-5).abs() < 1e-11);
    assert_eq!(real(&header, "llama.rope.freq_base"), 1e4);
    let tokens = read_json(&sample_path().join("tokenizer.json"));
    let merges = tokens["model"]["merges"].as_array().unwrap().len();
    let count = |key: &str| match &header.metadata[key] {
        Value::Array(list) => list.count,
        other => panic!("{other:?}"),
    };
    assert_eq!(count("tokenizer.ggml.merges"), merges as u64);
    assert_eq!(count("tokenizer.ggml.tokens"), 2048);
    assert_eq!(count("tokenizer.ggml.token_type"), 2048);
    // Rows of q and k are woven: row 2i + p of a head of 64 is its row i + 32p. Others stay.
    let source = Output::open(&sample_path());
    let stored = |name: &str| &source.tensors[name].bytes;
    let before = stored("model.layers.3.self_attn.k_proj.weight");
    let after = tensor(&path, &header, "blk.3.attn_k.weight");
    let row = |bytes: &[u8], row: usize| bytes[row * 512..(row + 1) * 512].to_vec();
    for (at, from) in [(0, 0), (1, 32), (2, 1), (63, 63), (64, 64), (65, 96), (127, 127)] {
        assert_eq!(row(&after, at), row(before, from), "row {at}");
    }
    let same = [
        ("model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    for (ours, theirs) in same {
        assert!(tensor(&path, &header, theirs) == *stored(ours), "{ours}");
    }
    let norm = tensor(&path, &header, "blk.5.ffn_norm.weight");
    let wanted = source.weights("model.layers.5.post_attention_layernorm.weight");
    let wanted: Vec<u8> = wanted.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(norm, wanted, "norms are F32");
}

#[test]
fn every_kind_of_layer_is_held_and_bytes_do_not_depend_on_threads() {
    let sample = sample();
    let wish = mixed(&sample);
    let manifest = Manifest::new(&sample, &wish, find("gguf").unwrap()).unwrap();
    let native = manifest.entries.iter().filter(|entry| entry.storage == Storage::Native).count();
    assert_eq!(native, 44, "42 layers, the embedding and the head");
    let folder = TempDir::new().unwrap();
    let one = on_threads(1, || written(&sample, &wish, &folder.path().join("one")));
    let five = on_threads(5, || written(&sample, &wish, &folder.path().join("five")));
    assert!(read(&one.0) == read(&five.0), "the same bytes");
    let kind = |name: &str| {
        let found = one.1.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        found.block_type().unwrap().name
    };
    for (name, wanted) in [
        ("blk.0.attn_q.weight", "q4_0"),
        ("blk.0.ffn_gate.weight", "mxfp4"),
        ("blk.0.ffn_up.weight", "q5_1"),
        ("blk.0.ffn_down.weight", "q6_K"),
        ("output.weight", "q8_0"),
        ("token_embd.weight", "iq4_nl"),
        ("output_norm.weight", "f32"),
    ] {
        assert_eq!(kind(name), wanted, "{name}");
    }
}

#[test]
fn whole_zero_points_and_scales_of_32_bits_are_said_not_to_fit() {
    let because = |checkpoint: &Checkpoint, step: Step| {
        let plan = plan(checkpoint, &[("*.o_proj.weight", vec![step])]).unwrap();
        let manifest = Manifest::new(checkpoint, &plan, find("gguf").unwrap()).unwrap();
        let index = checkpoint.find("model.layers.0.self_attn.o_proj.weight").unwrap();
        match &manifest.entries[index].storage {
            Storage::Dense { because } => because.clone(),
            other => panic!("{other:?}"),
        }
    };
    let step = rtn(4).with("group_size", 32);
    let whole = because(&sample(), step.clone().with("symmetry", "asymmetric"));
    assert!(whole.contains("zero point"), "{whole}");
    let wide = Checkpoint::open(&data("stories260K")).unwrap();
    let wide = because(&wide, step);
    assert!(wide.contains("F32"), "{wide}");
}

#[test]
fn shards_become_one_file_with_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let [whole, cut] = ["a", "b"].map(|name| folder.path().join(name).join("model"));
    let source = Output::open(&sample_path());
    let mut shards = vec![Weights::new(); 2];
    let mut map = serde_json::Map::new();
    let name = |shard: usize| format!("model-0000{}-of-00002.safetensors", shard + 1);
    for (i, (tensor, stored)) in source.tensors.iter().enumerate() {
        let shard = std::mem::take(&mut shards[i % 2]);
        shards[i % 2] = shard.with(tensor, "BF16", &stored.shape, &stored.bytes);
        map.insert(tensor.clone(), json!(name(i % 2)));
    }
    for (i, shard) in shards.iter().enumerate() {
        shard.write(&cut.join(name(i)));
    }
    write(
        &cut.join("model.safetensors.index.json"),
        json!({"weight_map": map}).to_string().as_bytes(),
    );
    for (name, bytes) in read_folder(&sample_path()) {
        write(&whole.join(&name), &bytes);
        if name != "model.safetensors" {
            write(&cut.join(&name), &bytes);
        }
    }
    let export = |model: &Path| {
        let checkpoint = Checkpoint::open(model).unwrap();
        let wish = mixed(&checkpoint);
        read(&written(&checkpoint, &wish, &model.with_file_name("out")).0)
    };
    assert!(export(&whole) == export(&cut));
}

#[test]
fn a_tied_model_of_pieces_has_scores_and_no_output() {
    let checkpoint = Checkpoint::open(&data("stories260K")).unwrap();
    let folder = TempDir::new().unwrap();
    let blocks = vec![Step::new("gguf-blocks").with("type", "Q4_0")];
    let wish = plan(&checkpoint, &[("*.self_attn.*_proj.weight", blocks)]).unwrap();
    let (_, header) = written(&checkpoint, &wish, &folder.path().join("out"));
    assert!(!header.tensors.iter().any(|tensor| tensor.name == "output.weight"));
    assert_eq!(header.text("tokenizer.ggml.model"), Some("llama"));
    assert_eq!(header.metadata["tokenizer.ggml.add_bos_token"], Value::Bool(true));
    assert_eq!(header.metadata["tokenizer.ggml.add_space_prefix"], Value::Bool(true));
    let list = |key: &str| match &header.metadata[key] {
        Value::Array(list) => list.elements.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    let (tokens, scores) = (list("tokenizer.ggml.tokens"), list("tokenizer.ggml.scores"));
    let types = list("tokenizer.ggml.token_type");
    let kinds: Vec<i64> = [0, 1, 3, 300]
        .map(|id: usize| match types[id] {
            Value::Signed(kind) => kind,
            ref other => panic!("{other:?}"),
        })
        .to_vec();
    assert_eq!(kinds, [2, 3, 6, 1], "unknown, control, byte, normal");
    // The first merge makes the piece with the highest score.
    let rules = read_json(&data("stories260K").join("tokenizer.json"));
    let first = &rules["model"]["merges"][0];
    let first = match first {
        Json::String(text) => text.replace(' ', ""),
        pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    let best = (0..scores.len()).max_by(|&a, &b| score(&scores[a]).total_cmp(&score(&scores[b])));
    assert_eq!(tokens[best.unwrap()], Value::Text(first));
}

fn score(value: &Value) -> f64 {
    match value {
        Value::Float(score) => *score,
        other => panic!("{other:?}"),
    }
}

/// Something done to a document.
type Change = fn(&mut Json);

/// A tokenizer of as many single bytes as an embedding has rows.
fn bytes_tokenizer(rows: usize) -> Json {
    let plain = |byte: &u32| {
        (33..127).contains(byte) || (161..173).contains(byte) || (174..256).contains(byte)
    };
    let moved = (0..256).filter(|byte| !plain(byte)).zip(256..).map(|(_, code)| code);
    let characters = (0..256).filter(plain).chain(moved).take(rows);
    let vocab: serde_json::Map<String, Json> = characters
        .enumerate()
        .map(|(id, code)| (char::from_u32(code).expect("it works").to_string(), json!(id)))
        .collect();
    json!({
        "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

/// A network of the golden ones with a tokenizer, its config.json changed.
fn network(folder: &Path, name: &str, change: impl Fn(&mut Json)) -> Checkpoint {
    let from = repository().join(format!("tests/golden/networks/{name}"));
    write(&folder.join("model.safetensors"), &read(&from.join("model.safetensors")));
    let mut config = read_json(&from.join("config.json"));
    change(&mut config);
    write(&folder.join("config.json"), config.to_string().as_bytes());
    write(&folder.join("tokenizer.json"), bytes_tokenizer(64).to_string().as_bytes());
    Checkpoint::open(folder).expect("it works")
}

fn scaled_by_head(config: &mut Json) {
    config["query_pre_attn_scalar"] = config["head_dim"].clone();
    if config["model_type"] == "gemma3_text" {
        let blocks = config["num_hidden_layers"].as_u64().expect("it works") as usize;
        config["layer_types"] = json!(vec!["sliding_attention"; blocks]);
    }
}

#[test]
fn every_architecture_that_is_written_has_its_names_and_its_tensors_proved() {
    for (name, architecture, tensors) in [
        ("llama", "llama", &["output.weight"][..]),
        ("llama_rope_llama3", "llama", &["rope_freqs.weight"]),
        ("llama_tied_biases", "llama", &["blk.0.attn_q.bias", "blk.1.ffn_down.bias"]),
        ("mistral_window", "llama", &["blk.1.attn_v.weight"]),
        ("mixtral", "llama", &["blk.1.ffn_gate_exps.weight", "blk.0.ffn_gate_inp.weight"]),
        ("qwen2", "qwen2", &["blk.0.attn_q.bias"]),
        ("qwen3", "qwen3", &["blk.1.attn_q_norm.weight"]),
        ("qwen3_moe", "qwen3moe", &["blk.0.ffn_down_exps.weight"]),
        ("gemma", "gemma", &["blk.0.ffn_norm.weight"]),
        ("gemma2", "gemma2", &["blk.0.post_attention_norm.weight", "blk.0.post_ffw_norm.weight"]),
        ("gemma3_text", "gemma3", &["blk.0.attn_k_norm.weight"]),
        ("phi3", "phi3", &["blk.0.attn_qkv.weight", "blk.0.ffn_up.weight"]),
        ("gpt2", "gpt2", &["position_embd.weight", "output_norm.bias", "blk.0.attn_qkv.bias"]),
        ("gpt2_no_prefix", "gpt2", &["position_embd.weight", "blk.1.ffn_norm.weight"]),
    ] {
        let folder = TempDir::new().unwrap();
        let checkpoint = network(&folder.path().join("m"), name, scaled_by_head);
        let blocks = vec![Step::new("gguf-blocks").with("type", "Q8_0")];
        // A gate of experts stays F32, whatever is wished.
        let wish = plan(&checkpoint, &[("default", blocks)]).unwrap();
        for (at, wish) in [Plan::default(), wish].iter().enumerate() {
            let (_, header) = written(&checkpoint, wish, &folder.path().join(format!("{at}")));
            assert_eq!(header.text("general.architecture"), Some(architecture), "{name}");
            for wanted in tensors {
                let has = header.tensors.iter().any(|tensor| tensor.name == *wanted);
                assert!(has, "{name} has no {wanted}");
            }
        }
    }
}

#[test]
fn factors_of_long_contexts_are_written_as_tensors_and_a_temperature() {
    let folder = TempDir::new().unwrap();
    let divisors = |scale: f64| (0..6).map(|i| 1.0 + scale * f64::from(i)).collect::<Vec<f64>>();
    let checkpoint = network(&folder.path().join("m"), "phi3_longrope_short", |config| {
        config["rope_parameters"]["partial_rotary_factor"] = json!(1.0);
        config["rope_parameters"]["short_factor"] = json!(divisors(0.25));
        config["rope_parameters"]["long_factor"] = json!(divisors(0.5));
    });
    let (path, header) = written(&checkpoint, &Plan::default(), &folder.path().join("out"));
    for (name, scale) in [("long", 0.5), ("short", 0.25)] {
        let found = tensor(&path, &header, &format!("rope_factors_{name}.weight"));
        let wanted = divisors(scale).into_iter().flat_map(|by| (by as f32).to_le_bytes());
        assert_eq!(found, wanted.collect::<Vec<u8>>(), "{name}");
    }
    assert_eq!(header.unsigned("phi3.rope.scaling.original_context_length"), Some(48));
    // √(1 + ln(64/48)/ln 48), as transformers computes it where config.json says nothing.
    let temperature = real(&header, "phi3.rope.scaling.attn_factor");
    assert!((temperature - 1.036_491).abs() < 1e-5, "{temperature}");
}

#[test]
fn keys_and_experts_are_those_of_what_is_left() {
    let folder = TempDir::new().unwrap();
    for (name, experts) in [("mixtral", [1, 2]), ("qwen3_moe", [3, 0])] {
        let source = network(&folder.path().join(name), name, |_| {});
        let out = |at: &str| folder.path().join(format!("{name}-{at}"));
        let (whole, before) = written(&source, &Plan::default(), &out("whole"));
        let architecture = before.text("general.architecture").expect("one").to_owned();
        let mut less = Plan::default();
        let count = number(&before, &format!("{architecture}.expert_count")) as usize;
        let kept = experts.map(|gone| (0..count).filter(|at| *at != gone as usize).collect());
        let kept: [Vec<usize>; 2] = kept;
        let experts = (0..).zip(experts.map(|expert: u32| [expert].into()));
        less.set_removal(Removal { experts: experts.collect(), ..Removal::default() });
        run(&source, &less, &out("less")).unwrap_or_else(|error| panic!("{}", error.sentence()));
        let path = gguf_of(&out("less"));
        let header = read_header(&Source::open(&path).unwrap()).unwrap();
        let left = number(&header, &format!("{architecture}.expert_count"));
        assert_eq!(left as usize, count - 1, "{name}");
        for (block, kept) in kept.iter().enumerate() {
            for part in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps", "ffn_gate_inp"] {
                let part = format!("blk.{block}.{part}.weight");
                let all = tensor(&whole, &before, &part);
                let one = all.len() / count;
                let wanted: Vec<u8> =
                    kept.iter().flat_map(|expert| all[expert * one..][..one].to_vec()).collect();
                assert!(tensor(&path, &header, &part) == wanted, "{name}: {part}");
            }
        }
        // A whole block less, and the other under its number.
        less.set_removal(Removal::of_blocks([0]));
        run(&source, &less, &out("block")).unwrap_or_else(|error| panic!("{}", error.sentence()));
        let path = gguf_of(&out("block"));
        let header = read_header(&Source::open(&path).unwrap()).unwrap();
        assert_eq!(number(&header, &format!("{architecture}.block_count")), 1, "{name}");
        for part in ["attn_q", "ffn_down_exps", "attn_norm"] {
            let found = tensor(&path, &header, &format!("blk.0.{part}.weight"));
            let wanted = tensor(&whole, &before, &format!("blk.1.{part}.weight"));
            assert!(found == wanted, "{name}: {part}");
        }
        assert!(!header.tensors.iter().any(|tensor| tensor.name.starts_with("blk.1.")));
    }
    // Kinds of attention that llama.cpp counts out for itself: taken out in whole periods, or refused.
    let gemma = network(&folder.path().join("gemma3"), "gemma3_text", |config| {
        scaled_by_head(config);
        config["layer_types"] = json!([
            "sliding_attention",
            "sliding_attention",
            "sliding_attention",
            "sliding_attention"
        ]);
    });
    let mut less = Plan::default();
    less.set_removal(Removal::of_blocks([1]));
    assert!(run(&gemma, &less, &folder.path().join("gemma-less")).is_ok());
}

#[test]
fn what_is_added_to_norms_and_transposed_is_what_llama_cpp_expects() {
    let folder = TempDir::new().unwrap();
    let gemma = network(&folder.path().join("gemma"), "gemma", |_| {});
    let (path, header) = written(&gemma, &Plan::default(), &folder.path().join("out"));
    let source = Output::open(&folder.path().join("gemma"));
    let found = tensor(&path, &header, "blk.1.attn_norm.weight");
    let wanted = source.weights("model.layers.1.input_layernorm.weight");
    let wanted: Vec<u8> = wanted.iter().flat_map(|value| (value + 1.0).to_le_bytes()).collect();
    assert_eq!(found, wanted);
    let gpt = network(&folder.path().join("gpt"), "gpt2", |_| {});
    let (path, header) = written(&gpt, &Plan::default(), &folder.path().join("of-gpt"));
    let source = Output::open(&folder.path().join("gpt"));
    let (name, stored) =
        source.tensors.iter().find(|(n, _)| n.ends_with("h.0.mlp.c_fc.weight")).unwrap();
    let [inputs, outputs] = stored.shape[..] else { panic!("{name}") };
    let found = tensor(&path, &header, "blk.0.ffn_up.weight");
    let size = stored.bytes.len() / inputs / outputs;
    let at = |bytes: &[u8], element: usize| bytes[element * size..(element + 1) * size].to_vec();
    for (input, output) in [(0, 0), (1, 0), (0, 1), (inputs - 1, outputs - 2)] {
        let (there, here) = (output * inputs + input, input * outputs + output);
        assert_eq!(at(&found, there), at(&stored.bytes, here), "[{output}, {input}]");
    }
}

#[test]
fn what_llama_cpp_would_run_otherwise_is_refused() {
    let nothing = |_: &mut Json| {};
    let cases: [(&str, Change, &str); 9] = [
        ("gpt_neox", nothing, "architecture is gpt_neox"),
        ("llama_rope_yarn_mscale", nothing, "truncate"),
        ("gemma2", nothing, "query_pre_attn_scalar"),
        ("gemma3_text_new_keys", nothing, "layer_types"),
        ("qwen2_window", nothing, "use_sliding_window"),
        ("qwen3_moe_some_dense", nothing, "decoder_sparse_step"),
        ("phi3_longrope_short", nothing, "partial_rotary_factor"),
        ("llama", |config| config["hidden_act"] = json!("relu"), "activation is relu"),
        ("llama", |config| config["num_hidden_layers"] = json!(3), "3"),
    ];
    for (name, change, said) in cases {
        let folder = TempDir::new().unwrap();
        let checkpoint = network(&folder.path().join("m"), name, change);
        let out = folder.path().join("out");
        assert_says(run(&checkpoint, &Plan::default(), &out), &["GGUF", said]);
        assert_eq!(names_in(folder.path()), ["m"], "nothing is left");
        // Sizes are still forecast, without the header.
        Manifest::new(&checkpoint, &Plan::default(), find("gguf").unwrap()).unwrap();
    }
}

#[test]
fn tokenizers_that_llama_cpp_would_not_follow_are_refused() {
    let changes: [(Change, &str); 8] = [
        (|rules| rules["model"]["type"] = json!("WordPiece"), "WordPiece"),
        (|rules| rules["pre_tokenizer"]["add_prefix_space"] = json!(true), "space before every"),
        (|rules| rules["pre_tokenizer"] = json!({"type": "Whitespace"}), "Whitespace"),
        (|rules| rules["normalizer"] = json!({"type": "Lowercase"}), "Lowercase"),
        (|rules| rules["model"]["end_of_word_suffix"] = json!("</w>"), "ends of words"),
        (|rules| rules["model"]["vocab"]["new"] = json!(64), "64 rows"),
        (|rules| rules["model"]["merges"] = json!(["ab"]), "merge"),
        (|rules| rules["post_processor"] = json!({"type": "BertProcessing"}), "BertProcessing"),
    ];
    for (change, said) in changes {
        let folder = TempDir::new().unwrap();
        let model = folder.path().join("m");
        network(&model, "llama", |_| {});
        let mut rules = bytes_tokenizer(64);
        change(&mut rules);
        write(&model.join("tokenizer.json"), rules.to_string().as_bytes());
        let checkpoint = Checkpoint::open(&model).unwrap();
        let out = folder.path().join("out");
        assert_says(run(&checkpoint, &Plan::default(), &out), &["tokenizer", said]);
    }
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("m");
    network(&model, "llama", |_| {});
    std::fs::remove_file(model.join("tokenizer.json")).unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert_says(
        run(&checkpoint, &Plan::default(), &folder.path().join("out")),
        &["tokenizer.json"],
    );
}
