//! NVFP4 in GGUF: blocks and what multiplies them, by byte and by value; which layers have a place for that; files opened and
//! written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::Source;
use lapidary_engine::encoding::{Encoding, Float, FloatData};
use lapidary_engine::export::{Destination, convert, export, verify};
use lapidary_engine::format::gguf::{Header, read_header};
use lapidary_engine::job::{self, Encodings as _, Limits};
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{Cache, measure};
use lapidary_engine::target::{
    Aim, Case, Manifest, Storage, find, lints, mend_all, multiplier, retype, write_row,
};
use lapidary_engine::{Result, Silent};
use lapidary_tests::gguf::{Hand, pair, text};
use lapidary_tests::networks::gguf_of;
use lapidary_tests::{Weights, assert_says, on_threads, plan, read, sample, write};
use serde_json::{Value, json};
use tempfile::TempDir;

fn nvfp4() -> Vec<Step> {
    vec![Step::new("microscaling").with("format", "nvfp4")]
}

fn aim() -> Aim {
    find("gguf").expect("a target").into()
}

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn run(source: &Checkpoint, plan: &Plan, aim: Aim, out: &Path) {
    let manifest = Manifest::new(source, plan, aim.target)
        .and_then(|manifest| manifest.in_shards(source, aim))
        .expect("a manifest");
    let report = export(source, plan, aim, to(out), &Silent)
        .unwrap_or_else(|error| panic!("{}", error.sentence()));
    assert_eq!(report.totals.total_bytes, manifest.total_bytes());
}

fn header(path: &Path) -> Header {
    read_header(&Source::open(path).expect("a file")).expect("a header")
}

/// Type, extents and bytes of every tensor of a file.
fn tensors(path: &Path) -> BTreeMap<String, (u32, Vec<u64>, Vec<u8>)> {
    let (header, bytes) = (header(path), read(path));
    let of = |info: &lapidary_engine::format::gguf::TensorInfo| {
        let begin = (header.data + info.offset) as usize;
        let data = bytes[begin..begin + info.bytes().expect("a known type") as usize].to_vec();
        (info.name.clone(), (info.kind, info.extents.clone(), data))
    };
    header.tensors.iter().map(of).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect()
}

/// The definition: level · scale · number of the matrix, rounded once.
fn decoded(blocks: &[u8], times: f32) -> Vec<f32> {
    const LEVELS: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut out = Vec::new();
    for block in blocks.chunks_exact(36) {
        for run in 0..4 {
            let (exponent, mantissa) = (i32::from(block[run] >> 3), f64::from(block[run] & 7));
            let scale = match exponent {
                0 => mantissa * 2.0_f64.powi(-9),
                _ => (1.0 + mantissa / 8.0) * 2.0_f64.powi(exponent - 7),
            };
            let bytes = &block[4 + 8 * run..12 + 8 * run];
            let codes = bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4));
            out.extend(codes.map(|code| {
                let level = LEVELS[usize::from(code & 7)] * if code < 8 { 1.0 } else { -1.0 };
                (level * scale * f64::from(times)) as f32
            }));
        }
    }
    out
}

/// A model of one block whose rows have 64 inputs, with a tokenizer.
fn model(folder: &Path, config: &Value, more: &[(&str, &[usize])]) -> Checkpoint {
    let mut weights = Weights::new()
        .normal("model.embed_tokens.weight", &[64, 64])
        .normal("lm_head.weight", &[64, 64])
        .normal("model.norm.weight", &[64]);
    let attention: [(&str, &[usize]); 6] = [
        ("input_layernorm.weight", &[64]),
        ("post_attention_layernorm.weight", &[64]),
        ("self_attn.q_proj.weight", &[64, 64]),
        ("self_attn.k_proj.weight", &[64, 64]),
        ("self_attn.v_proj.weight", &[64, 64]),
        ("self_attn.o_proj.weight", &[64, 64]),
    ];
    for (name, shape) in attention.iter().chain(more) {
        weights = weights.normal(&format!("model.layers.0.{name}"), shape);
    }
    weights.write(&folder.join("model.safetensors"));
    let mut whole = json!({
        "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "rope_theta": 1e4,
    });
    for (key, value) in config.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    write(&folder.join("config.json"), whole.to_string().as_bytes());
    let vocab: serde_json::Map<String, Value> = (0..64_u32)
        .map(|id| (char::from_u32(256 + id).expect("a character").to_string(), id.into()))
        .collect();
    let rules = json!({
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    write(&folder.join("tokenizer.json"), rules.to_string().as_bytes());
    Checkpoint::open(folder).expect("a model")
}

const MLP: [(&str, &[usize]); 3] = [
    ("mlp.gate_proj.weight", &[64, 64]),
    ("mlp.up_proj.weight", &[64, 64]),
    ("mlp.down_proj.weight", &[64, 64]),
];

#[test]
fn blocks_and_their_scale_are_those_of_the_plan_and_open_again() {
    let sample = sample();
    let rules = [("*_proj.weight", nvfp4()), ("lm_head.weight", nvfp4())];
    let wish = plan(&sample, &rules).unwrap();
    let folder = TempDir::new().unwrap();
    for threads in [1, 3] {
        let out = folder.path().join(threads.to_string());
        on_threads(threads, || run(&sample, &wish, aim(), &out));
    }
    let path = gguf_of(&folder.path().join("1"));
    assert!(read(&path) == read(&gguf_of(&folder.path().join("3"))), "at any number of threads");
    assert_eq!(header(&path).unsigned("general.file_type"), Some(39));
    let found = tensors(&path);
    let scales = found.keys().filter_map(|name| name.strip_suffix(".scale")).count();
    assert_eq!(scales, 43, "42 layers and the head");
    let file = Checkpoint::open(&path).unwrap();
    assert_eq!(file.tensors().len(), sample.tensors().len(), "scales are no layers");
    assert!(file.gguf().unwrap().check_runs().is_ok());
    let store = job::run(&sample, &wish, Limits::default(), None, &Silent).unwrap();
    for (ours, theirs) in [
        ("model.layers.2.self_attn.v_proj.weight", "blk.2.attn_v"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down"),
        ("lm_head.weight", "output"),
        ("model.layers.4.self_attn.q_proj.weight", "blk.4.attn_q"),
    ] {
        let (kind, _, blocks) = &found[&format!("{theirs}.weight")];
        let (of_scale, extents, scale) = &found[&format!("{theirs}.scale")];
        assert_eq!((*kind, *of_scale, extents.as_slice()), (40, 0, &[1][..]), "{theirs}");
        let index = sample.find(ours).unwrap();
        let encoding = store.encoding(index).unwrap();
        let Encoding::Float(float) = &*encoding else { panic!("{ours}") };
        let times = 1.0 / float.global();
        assert_eq!(f32s(scale), [times], "{theirs}");
        let held = file.weights(file.find(ours).unwrap(), &Silent).unwrap();
        if !theirs.ends_with("attn_q") {
            let wanted = decoded(blocks, times);
            assert_eq!(held.as_slice().unwrap(), wanted, "{theirs}");
        }
        // Within the rounding of the inverse of what the plan has, where nothing is negative and nothing.
        assert_near(held.as_slice().unwrap(), encoding.decode().as_slice().unwrap(), theirs);
        assert!(!held.iter().any(|value| *value == 0.0 && value.is_sign_negative()), "{theirs}");
        let tensor = &file.tensors()[file.find(ours).unwrap()];
        assert_eq!((tensor.type_name(), tensor.stored_bits()), ("NVFP4", 4.5));
    }
    verify(&folder.path().join("1"), &sample, &Silent).unwrap();
}

/// Values that are the same but for the rounding of an inverse.
#[track_caller]
fn assert_near(found: &[f32], wanted: &[f32], name: &str) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs() / b.abs().max(1e-9));
    assert!(off.fold(0.0, f32::max) < 3e-7, "{name}");
}

/// How a plan that gives every layer NVFP4 stores each.
fn storages(checkpoint: &Checkpoint) -> BTreeMap<String, Storage> {
    let wish = plan(checkpoint, &[("*.weight", nvfp4())]).expect("a plan");
    let manifest = Manifest::new(checkpoint, &wish, aim().target).expect("a manifest");
    let entries = manifest.entries.iter();
    let named = entries
        .map(|entry| (checkpoint.tensors()[entry.tensor].name.clone(), entry.storage.clone()));
    named.collect()
}

#[track_caller]
fn assert_refused(storages: &BTreeMap<String, Storage>, name: &str, why: &str) {
    match &storages[name] {
        Storage::Dense { because } => assert!(because.contains(why), "{name}: {because}"),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn layers_whose_scale_is_not_read_are_stored_otherwise() {
    let folder = TempDir::new().unwrap();
    let of = |name: &str, config: Value, more: &[(&str, &[usize])]| {
        model(&folder.path().join(name), &config, more)
    };
    let up = "model.layers.0.mlp.up_proj.weight";
    let q = "model.layers.0.self_attn.q_proj.weight";
    let llama = of("llama", json!({"model_type": "llama"}), &MLP);
    let found = storages(&llama);
    for name in [up, q, "lm_head.weight", "model.layers.0.mlp.down_proj.weight"] {
        assert_eq!(found[name], Storage::Native, "{name}");
    }
    assert_refused(&found, "model.embed_tokens.weight", "looks tokens up");

    let biased = [MLP.as_slice(), &[("mlp.up_proj.bias", &[64])]].concat();
    let biased = of("biased", json!({"model_type": "llama", "mlp_bias": true}), &biased);
    let found = storages(&biased);
    assert_refused(&found, up, "beside the bias of ffn_up");
    assert_eq!(found["model.layers.0.mlp.gate_proj.weight"], Storage::Native);

    let qwen = of("qwen2", json!({"model_type": "qwen2"}), &MLP);
    let found = storages(&qwen);
    assert_refused(&found, up, "ffn_up of qwen2");
    assert_eq!((&found[q], &found["lm_head.weight"]), (&Storage::Native, &Storage::Native));
    // It is said, and a click gives them what they can be.
    let mut wish = plan(&qwen, &[("*_proj.weight", nvfp4())]).unwrap();
    let manifest = Manifest::new(&qwen, &wish, aim().target).unwrap();
    let case = Case { checkpoint: &qwen, plan: &wish, aim: aim(), entries: &manifest.entries };
    let said = lints(&case);
    assert!(said.iter().any(|lint| lint.what.contains("leaves out the scale")), "{said:?}");
    let mended = mend_all(&qwen, &mut wish, aim());
    assert_eq!(mended.len(), 3, "{mended:?}");
    let manifest = Manifest::new(&qwen, &wish, aim().target).unwrap();
    let native = manifest.entries.iter().filter(|entry| entry.storage == Storage::Native).count();
    assert_eq!(native, 7);
    let out = folder.path().join("mended");
    run(&qwen, &wish, aim(), &out);
    let kinds: BTreeMap<String, u32> =
        tensors(&gguf_of(&out)).into_iter().map(|(name, of)| (name, of.0)).collect();
    assert_eq!((kinds["blk.0.attn_q.weight"], kinds["blk.0.attn_q.scale"]), (40, 0));
    // Q4_0, or Q5_0 where scales are F32.
    assert!([2, 6].contains(&kinds["blk.0.ffn_up.weight"]), "{kinds:?}");
    assert!(!kinds.contains_key("blk.0.ffn_up.scale"));
    // Rows that 64 does not divide.
    let narrow = Weights::new().normal("model.layers.0.self_attn.q_proj.weight", &[8, 96]);
    narrow.write(&folder.path().join("narrow/model.safetensors"));
    let narrow = Checkpoint::open(&folder.path().join("narrow")).unwrap();
    assert_refused(&storages(&narrow), q, "no multiple of 64");
}

#[test]
fn every_expert_has_a_scale_of_its_own() {
    let config = json!({
        "model_type": "qwen3_moe", "moe_intermediate_size": 64, "num_experts": 3, "num_experts_per_tok": 1,
        "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
    });
    let mut more: Vec<(String, &[usize])> = vec![
        ("self_attn.q_norm.weight".into(), &[32]),
        ("self_attn.k_norm.weight".into(), &[32]),
        ("mlp.gate.weight".into(), &[3, 64]),
    ];
    for expert in 0..3 {
        for name in ["gate", "up", "down"] {
            more.push((format!("mlp.experts.{expert}.{name}_proj.weight"), &[64, 64]));
        }
    }
    let more: Vec<(&str, &[usize])> =
        more.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
    let folder = TempDir::new().unwrap();
    let source = model(&folder.path().join("m"), &config, &more);
    let wish = plan(&source, &[("*.experts.*.weight", nvfp4())]).unwrap();
    let out = folder.path().join("out");
    run(&source, &wish, aim(), &out);
    let found = tensors(&gguf_of(&out));
    let (kind, extents, blocks) = &found["blk.0.ffn_up_exps.weight"];
    assert_eq!((*kind, extents.as_slice()), (40, &[64, 64, 3][..]));
    let (_, extents, scales) = &found["blk.0.ffn_up_exps.scale"];
    assert_eq!(extents, &[3]);
    let scales = f32s(scales);
    assert!(scales[0] != scales[1] && scales[1] != scales[2]);
    let store = job::run(&source, &wish, Limits::default(), None, &Silent).unwrap();
    let mut whole = Vec::new();
    for (expert, blocks) in blocks.chunks_exact(64 * 36).enumerate() {
        let name = format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
        let wanted = store.encoding(source.find(&name).unwrap()).unwrap().decode();
        let values = decoded(blocks, scales[expert]);
        assert_near(&values, wanted.as_slice().unwrap(), &name);
        whole.extend(values);
    }
    // Opened again, the matrix of all experts has the values of each.
    let file = Checkpoint::open(&gguf_of(&out)).unwrap();
    let at = file.find("blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!(file.weights(at, &Silent).unwrap().as_slice().unwrap(), whole);
    assert!(file.find("blk.0.ffn_up_exps.scale").is_none());
}

#[test]
fn a_file_written_again_carries_scales_over_or_takes_them_along() {
    let sample = sample();
    let wish = plan(&sample, &[("*.self_attn.*_proj.weight", nvfp4())]).unwrap();
    let folder = TempDir::new().unwrap();
    run(&sample, &wish, aim(), &folder.path().join("first"));
    let path = gguf_of(&folder.path().join("first"));
    let source = Checkpoint::open(&path).unwrap();
    // The same type is the same file.
    let same = plan(&source, &[("*.self_attn.*_proj.weight", nvfp4())]).unwrap();
    run(&source, &same, aim(), &folder.path().join("same"));
    assert!(read(&gguf_of(&folder.path().join("same"))) == read(&path));
    // Others hold values times scale, which is gone; a layer that becomes NVFP4 gets its own. In parts, too.
    let q8 = vec![Step::new("gguf-blocks").with("type", "F32")];
    let rules = [("*.q_proj.weight", q8), ("*.down_proj.weight", nvfp4())];
    let wish = plan(&source, &rules).unwrap();
    for (name, shard_bytes) in [("one", 0), ("many", 700_000)] {
        let out = folder.path().join(name);
        run(&source, &wish, Aim { shard_bytes, ..aim() }, &out);
        verify(&out, &source, &Silent).unwrap();
    }
    let before = tensors(&path);
    let after = tensors(&gguf_of(&folder.path().join("one")));
    assert!(!after.contains_key("blk.3.attn_q.scale"));
    assert_eq!(after["blk.3.attn_k.scale"], before["blk.3.attn_k.scale"]);
    assert_eq!(after["blk.3.attn_k.weight"], before["blk.3.attn_k.weight"]);
    let times = f32s(&before["blk.3.attn_q.scale"].2)[0];
    assert_eq!(
        f32s(&after["blk.3.attn_q.weight"].2),
        decoded(&before["blk.3.attn_q.weight"].2, times)
    );
    assert_eq!(after["blk.3.ffn_down.weight"].0, 40);
    assert_eq!(after["blk.3.ffn_down.scale"].1, [1]);
    // By name, where every layer that can be has it, and the others what comes near.
    let (wish, fitted) =
        retype(&source, "nvfp4", &|_| lapidary_engine::method::Needs::Weights, aim()).unwrap();
    assert!(fitted.iter().any(|lint| lint.what.contains("looks tokens up")), "{fitted:?}");
    let out = folder.path().join("named");
    run(&source, &wish, aim(), &out);
    let named = tensors(&gguf_of(&out));
    assert!(named["blk.3.attn_q.weight"] == before["blk.3.attn_q.weight"], "as it was");
    assert_eq!((named["blk.0.ffn_up.weight"].0, named["output.scale"].0), (40, 0));
    assert!([2, 12].contains(&named["token_embd.weight"].0), "other blocks of 4 bits");
    // Parts that are written again count their tensors anew.
    let part = gguf_of(&folder.path().join("many"));
    let source = Checkpoint::open(&part).unwrap();
    let wide = vec![Step::new("gguf-blocks").with("type", "BF16")];
    let wish = plan(&source, &[("*.k_proj.weight", wide)]).unwrap();
    let out = folder.path().join("fewer");
    run(&source, &wish, aim(), &out);
    let count = |path: &Path| header(path).unsigned("split.tensors.count").unwrap();
    assert_eq!(count(&gguf_of(&out)), count(&part) - 6);
    let whole = Checkpoint::open(&gguf_of(&out)).unwrap();
    assert_eq!(whole.tensors().len(), sample.tensors().len());
    verify(&out, &source, &Silent).unwrap();
}

/// A file of one matrix of NVFP4 with tensors beside it.
fn by_hand(folder: &Path, beside: &[(&str, Vec<u64>, u32, Vec<u8>)]) -> PathBuf {
    let block = [&[0x38, 0x40, 0x7f, 0x00][..], &[0x27; 32]].concat();
    let mut tensors = vec![("blk.0.attn_q.weight".to_owned(), vec![64, 2], 40, block.repeat(2))];
    for (name, extents, kind, bytes) in beside {
        tensors.push(((*name).to_owned(), extents.clone(), *kind, bytes.clone()));
    }
    let pairs = vec![pair("general.architecture", 8, &text("strange"))];
    let path = folder.join("hand.gguf");
    write(&path, &Hand { pairs, tensors, alignment: 32 }.bytes());
    path
}

#[test]
fn scales_of_others_belong_to_their_matrix_where_they_fit_it() {
    let folder = TempDir::new().unwrap();
    let two = 2.0_f32.to_le_bytes().to_vec();
    let open = |beside: &[(&str, Vec<u64>, u32, Vec<u8>)]| {
        Checkpoint::open(&by_hand(folder.path(), beside)).expect("it opens")
    };
    let first = |file: &Checkpoint| {
        let index = file.find("blk.0.attn_q.weight").expect("the matrix");
        let weights = file.weights(index, &Silent).expect("its values");
        (weights[[0, 0]], weights[[1, 16]], weights[[0, 40]])
    };
    // 7 is 6, under 1 and 2; 0x7f is no number, and counts as nothing.
    let plain = open(&[]);
    assert_eq!(first(&plain), (6.0, 12.0, 0.0));
    let scaled = open(&[
        ("blk.0.attn_q.scale", vec![1], 0, two.clone()),
        ("blk.0.attn_q.input_scale", vec![1], 0, two.clone()),
    ]);
    assert_eq!(first(&scaled), (12.0, 24.0, 0.0));
    assert_eq!(scaled.tensors().len(), 1);
    let largest = |file: &Checkpoint| measure(file, 0, &Silent).unwrap().abs_max;
    assert_eq!(largest(&scaled), 2.0 * largest(&plain));
    // What was measured of one is not taken for the other.
    let key = |file: &Checkpoint| Cache::key(file, 0, &Silent).unwrap();
    assert_ne!(key(&scaled), key(&plain));
    // Another shape or type is a tensor of its own.
    let others = open(&[
        ("blk.0.attn_q.scale", vec![2], 0, two.repeat(2)),
        ("blk.0.attn_k.scale", vec![1], 0, two),
    ]);
    assert_eq!((first(&others).0, others.tensors().len()), (6.0, 3));
}

#[test]
fn a_checkpoint_in_nvfp4_becomes_a_gguf_file_without_being_compressed_again() {
    let sample = sample();
    let wish = plan(&sample, &[("*_proj.weight", nvfp4())]).unwrap();
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let packed = find("compressed-tensors").unwrap();
    export(&sample, &wish, packed, to(&at("packed")), &Silent).unwrap();
    let source = Checkpoint::open(&at("packed")).unwrap();
    let report = convert(&source, aim(), to(&at("converted")), &Silent).unwrap();
    assert_eq!(report.totals.dense, 0);
    run(&sample, &wish, aim(), &at("direct"));
    let (direct, converted) =
        (tensors(&gguf_of(&at("direct"))), tensors(&gguf_of(&at("converted"))));
    for (name, found) in direct.iter().filter(|(name, _)| name.starts_with("blk.")) {
        assert!(converted[name] == *found, "{name}");
    }
}

#[test]
fn a_scale_without_an_inverse_is_refused_by_name() -> Result<()> {
    let folder = TempDir::new().expect("a folder");
    let config = json!({"model_type": "llama"});
    let source = model(&folder.path().join("m"), &config, &MLP);
    let wish = plan(&source, &[("*.q_proj.weight", nvfp4())])?;
    let store = job::run(&source, &wish, Limits::default(), None, &Silent)?;
    let index = source.find("model.layers.0.self_attn.q_proj.weight").expect("the layer");
    let encoding = store.encoding(index)?;
    let Encoding::Float(float) = &*encoding else { panic!("no small floats") };
    let with = |global: f32, scale: f32| {
        let mut scales = float.scales().to_vec();
        scales[0] = scale;
        let data = FloatData { codes: float.codes().to_vec(), scales, global };
        Encoding::Float(Float::new(float.shape(), *float.layout(), data))
    };
    assert_eq!(multiplier(&with(0.5, 1.0), "a.weight")?, Some(2.0));
    for global in [0.0, f32::NAN, f32::INFINITY, 1e-39] {
        assert_says(multiplier(&with(global, 1.0), "a.weight"), &["a.weight", "inverse"]);
    }
    for scale in [480.0, -1.0, f32::NAN, 1.01] {
        let mut out = Vec::new();
        assert_says(
            write_row(&with(1.0, scale), 0, "a.weight", &mut out),
            &["a.weight", "16 inputs"],
        );
    }
    Ok(())
}
