//! The recipes of finished checkpoints, read off folders and GGUF files made by hand; headers of GGUF files that
//! are cut, changed or false.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::disk::{self, Source};
use lapidary_engine::format::gguf::{self, Header, Value};
use lapidary_engine::method;
use lapidary_engine::recipe::{Recovered, recover};
use lapidary_engine::{Error, Result};
use lapidary_tests::{Weights, assert_says, plain_llama, write};
use proptest::prelude::*;
use serde_json::json;

/// A GGUF file in the making.
#[derive(Clone, Default)]
struct Gguf {
    pairs: Vec<Vec<u8>>,
    infos: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push([&text(key), kind.to_le_bytes().as_slice(), value].concat());
        self
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    fn info(mut self, name: &str, extents: &[u64], kind: u32, offset: u64) -> Self {
        let extents: Vec<u8> = [(extents.len() as u64).to_le_bytes()[..4].to_vec()]
            .into_iter()
            .chain(extents.iter().map(|e| e.to_le_bytes().to_vec()))
            .flatten()
            .collect();
        self.infos.push(
            [text(name), extents, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()]
                .concat(),
        );
        self
    }

    /// The next tensor, after the last, at a multiple of 32.
    fn tensor(mut self, name: &str, extents: &[u64], kind: u32) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        let block = gguf::BlockType::of(kind).expect("a type");
        let elements: u64 = extents.iter().product();
        self.data.resize(self.data.len() + (elements / block.elements * block.bytes) as usize, 1);
        self.info(name, extents, kind, offset)
    }

    fn bytes(&self) -> Vec<u8> {
        self.versioned(3)
    }

    fn versioned(&self, version: u32) -> Vec<u8> {
        let counts = [self.infos.len() as u64, self.pairs.len() as u64];
        let mut bytes = [b"GGUF".as_slice(), &version.to_le_bytes()].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes.extend(self.pairs.concat());
        bytes.extend(self.infos.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

fn header_of(bytes: &[u8]) -> Result<Header> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    disk::write_expendable_file(&path, bytes)?;
    gguf::read_header(&Source::open(&path)?)
}

/// A file with a value of each kind and two tensors.
fn small() -> Gguf {
    let words =
        [&8_u32.to_le_bytes(), 2_u64.to_le_bytes().as_slice(), &text("a"), &text("")].concat();
    let many = [&4_u32.to_le_bytes(), 5000_u64.to_le_bytes().as_slice(), &vec![0; 20_000]].concat();
    Gguf::default()
        .text("general.architecture", "llama")
        .pair("u8", 0, &[200])
        .pair("i8", 1, &[0xff])
        .pair("u16", 2, &[1, 2])
        .pair("i16", 3, &[0xfe, 0xff])
        .pair("u32", 4, &[1, 0, 0, 0])
        .pair("i32", 5, &[0xfd, 0xff, 0xff, 0xff])
        .pair("f32", 6, &1.5_f32.to_le_bytes())
        .pair("bool", 7, &[1])
        .pair("u64", 10, &7_u64.to_le_bytes())
        .pair("i64", 11, &(-7_i64).to_le_bytes())
        .pair("f64", 12, &0.25_f64.to_le_bytes())
        .pair("words", 9, &words)
        .pair("many", 9, &many)
        .tensor("token_embd.weight", &[64, 3], 2)
        .tensor("output_norm.weight", &[64], 0)
}

#[test]
fn a_header_is_read_whole() {
    let bytes = small().bytes();
    for version in [2, 3] {
        let header = header_of(&small().versioned(version)).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.text("general.architecture"), Some("llama"));
        assert_eq!((header.unsigned("u8"), header.unsigned("u16")), (Some(200), Some(513)));
        assert_eq!((header.unsigned("u32"), header.unsigned("u64")), (Some(1), Some(7)));
        assert_eq!(header.metadata["i8"], Value::Signed(-1));
        assert_eq!(header.metadata["i16"], Value::Signed(-2));
        assert_eq!(header.metadata["i32"], Value::Signed(-3));
        assert_eq!(header.metadata["i64"], Value::Signed(-7));
        assert_eq!(header.metadata["f32"], Value::Float(1.5));
        assert_eq!(header.metadata["f64"], Value::Float(0.25));
        assert_eq!(header.metadata["bool"], Value::Bool(true));
        let Value::Array(words) = &header.metadata["words"] else { panic!("a list") };
        let expected = vec![Value::Text("a".to_owned()), Value::Text(String::new())];
        assert_eq!(words.elements, Some(expected));
        let Value::Array(many) = &header.metadata["many"] else { panic!("a list") };
        assert_eq!((many.count, &many.elements), (5000, &None));
        assert_eq!(many.range.end - many.range.start, 20_000);
        let [embedding, norm] = header.tensors.as_slice() else { panic!("two tensors") };
        assert_eq!(
            (embedding.name.as_str(), embedding.extents.as_slice()),
            ("token_embd.weight", [64, 3].as_slice())
        );
        assert_eq!((embedding.block_type().unwrap().name, embedding.bytes()), ("q4_0", Some(108)));
        assert_eq!((norm.offset, norm.bytes()), (128, Some(256)));
        assert_eq!(header.data + 128 + 256, bytes.len() as u64);
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes = small().bytes();
    // The long list has the same byte 20,000 times: a few of its places will do.
    for end in (0..bytes.len()).filter(|end| !(600..20_000).contains(end) || end % 997 == 0) {
        let error = header_of(&bytes[..end]).expect_err(&format!("{end} of {}", bytes.len()));
        assert!(matches!(error, Error::Malformed { .. }), "{end}: {error}");
    }
}

#[test]
fn what_is_false_is_named() {
    let big = u64::MAX.to_le_bytes();
    let list = |kind: u32, count: [u8; 8]| [kind.to_le_bytes().as_slice(), &count].concat();
    let cases: Vec<(Gguf, &[&str])> = vec![
        (Gguf::default().text("a", "1").text("a", "2"), &["key a appears twice"]),
        (Gguf::default().pair("a", 13, &[0; 8]), &["a has the unknown type 13"]),
        (
            Gguf::default().pair("a", 9, &list(9, 1_u64.to_le_bytes())),
            &["a is a list of the unknown type 9"],
        ),
        (Gguf::default().pair("a", 9, &list(4, big)), &["list a ends beyond"]),
        (Gguf::default().pair("a", 9, &list(8, big)), &["list a ends beyond"]),
        (Gguf::default().pair("a", 8, &big), &["a is 18446744073709551615 bytes long"]),
        (
            small().pair("general.alignment", 4, &[3, 0, 0, 0]),
            &["general.alignment", "power of two"],
        ),
        (small().info("a", &[], 0, 0), &["tensor a has 0 extents"]),
        (small().info("a", &[1; 5], 0, 0), &["tensor a has 5 extents"]),
        (small().info("a", &[u64::MAX, 3], 0, 0), &["tensor a", "too large"]),
        (small().info("a", &[u64::MAX / 4], 28, 0), &["tensor a"]),
        (small().info("a", &[33], 2, 0), &["tensor a of [33]", "q4_0"]),
        (small().info("a", &[32], 2, 7), &["tensor a", "not aligned"]),
        (small().info("a", &[1 << 40], 0, 0), &["tensor a ends beyond"]),
        (small().info("a", &[32], 2, u64::MAX - 31), &["tensor a ends beyond"]),
        (small().info("a", &[32], 2, 0), &["overlap"]),
        (small().info("token_embd.weight", &[0], 0, 0), &["token_embd.weight appears twice"]),
    ];
    for (file, said) in cases {
        assert_says(header_of(&file.bytes()), said);
    }
    assert_says(header_of(b"GGML\x03\0\0\0"), &["does not begin with GGUF"]);
    assert_says(header_of(&small().versioned(1)), &["version 1 of GGUF", "not supported"]);
    assert_says(header_of(&small().versioned(3 << 24)), &["big-endian"]);
    let mut counts = small().bytes();
    counts[8..16].copy_from_slice(&big);
    assert_says(header_of(&counts), &["number of tensors"]);
    counts = small().bytes();
    counts[16..24].copy_from_slice(&big);
    assert_says(header_of(&counts), &["number of key-value pairs"]);
}

proptest! {
    #[test]
    fn changed_headers_never_panic(at in 4..700_usize, byte: u8, more in prop::collection::vec((4..700_usize, any::<u8>()), 0..4)) {
        let mut bytes = small().bytes();
        for (at, byte) in more.into_iter().chain([(at, byte)]) {
            bytes[at] = byte;
        }
        if let Err(error) = header_of(&bytes) {
            prop_assert!(!error.sentence().contains('\n'), "{}", error.sentence());
        }
    }
}

fn labels(recovered: &Recovered) -> BTreeMap<&str, String> {
    recovered
        .layers
        .iter()
        .map(|(name, steps)| (name.as_str(), method::chain_label(steps)))
        .collect()
}

#[test]
fn the_recipe_of_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model-Q4_K_M.gguf");
    let file = Gguf::default()
        .text("general.architecture", "qwen3moe")
        .tensor("token_embd.weight", &[256, 8], 14)
        .tensor("output_norm.weight", &[256], 0)
        .tensor("blk.0.attn_q.weight", &[256, 16], 12)
        .tensor("blk.0.attn_q.bias", &[16], 0)
        .tensor("blk.0.attn_v.weight", &[256, 8], 8)
        .tensor("blk.0.ffn_down.weight", &[384, 16], 1)
        .tensor("blk.0.ffn_up_exps.weight", &[256, 4, 3], 2)
        .tensor("blk.1.ffn_up.weight", &[256, 24], 39)
        .tensor("blk.1.ssm_in.weight", &[256, 8], 8)
        .tensor("blk.7.ffn_up.weight", &[256, 24], 8)
        .tensor("blk.8.ffn_up.weight", &[256, 2], 23)
        .tensor("blk.8.ffn_gate.weight", &[256, 2], 21);
    write(&path, &file.bytes());
    let recovered = recover(&path).unwrap();
    assert_eq!(recovered, recover(folder.path()).unwrap());
    assert_eq!(recovered.source, "GGUF, 12 tensors");
    let labels = labels(&recovered);
    let of = |name: &str| labels[format!("{name}.weight").as_str()].as_str();
    assert_eq!(of("model.embed_tokens"), "Q6_K");
    assert_eq!(of("model.layers.0.self_attn.q_proj"), "Q4_K");
    assert_eq!(of("model.layers.0.self_attn.v_proj"), "Q8_0");
    assert_eq!(of("model.layers.0.mlp.down_proj"), "keep");
    assert_eq!(of("model.layers.0.mlp.experts.2.up_proj"), "Q4_0");
    assert!(of("model.layers.1.mlp.up_proj").to_ascii_lowercase().contains("mxfp4"), "{labels:?}");
    assert_eq!(labels.len(), 11, "{labels:?}");
    let said = |part: &str| {
        assert!(
            recovered.unsaid.iter().any(|s| s.contains(part)),
            "{part}: {:?}",
            recovered.unsaid
        );
    };
    assert_eq!(of("model.layers.8.mlp.up_proj"), "IQ4_XS");
    said("iq3_s is read as 3-bit g32, the nearest grid here, for blk.8.ffn_gate.");
    said("not known here: blk.1.ssm_in.");
    let model = tempfile::tempdir().unwrap();
    let checkpoint = plain_llama(model.path());
    let imported = recovered.on(&checkpoint);
    assert_eq!(imported.layers.len(), 5);
    let missing = imported.unsaid.last().unwrap();
    assert!(missing.contains("experts.0.up_proj") && missing.contains("layers.7"), "{missing}");
}

#[test]
fn parts_of_a_gguf_file_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: u32| folder.path().join(format!("m-{number:05}-of-00002.gguf"));
    let first = Gguf::default().text("general.architecture", "gpt2").tensor(
        "token_embd.weight",
        &[32, 2],
        8,
    );
    write(&part(1), &first.bytes());
    assert_says(
        recover(&part(1)),
        &["one of 2 parts", "00002-of-00002.gguf is missing", "one folder"],
    );
    write(&part(2), &Gguf::default().tensor("blk.0.attn_qkv.weight", &[32, 6], 2).bytes());
    for path in [part(1), part(2), folder.path().to_path_buf()] {
        let recovered = recover(&path).unwrap();
        let labels = labels(&recovered);
        let names: Vec<&str> = labels.into_keys().collect();
        assert_eq!(names, ["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"]);
    }
}

/// A folder whose codes have these endings, with a configuration.
fn quantised(folder: &Path, endings: &[&str], config: &serde_json::Value) {
    let mut weights =
        Weights::new().normal("model.norm.weight", &[4]).normal("lm_head.weight", &[4, 4]);
    for module in ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"] {
        for ending in endings {
            weights = weights.normal(&format!("model.layers.0.{module}{ending}"), &[4, 4]);
        }
    }
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), config.to_string().as_bytes());
}

#[test]
fn the_recipes_of_folders() {
    let group = |bits: u32| json!({"num_bits": bits, "type": "int", "strategy": "channel"});
    let compressed = json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": group(4)},
                          "group_1": {"targets": ["re:.*down_proj"], "weights": group(8)}},
    }});
    let gptq = json!({"quantization_config": {
        "quant_method": "gptq", "bits": 4, "group_size": -1, "sym": true, "dynamic": {"+:.*down": {"bits": 8}},
    }});
    let auto_round = json!({"quantization_config": {
        "quant_method": "intel/auto-round", "bits": 4, "group_size": -1, "sym": true,
        "extra_config": {"model.layers.0.mlp.down_proj": {"bits": 8}},
    }});
    let mlx = json!({"quantization": {
        "bits": 4, "group_size": 64, "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64},
    }});
    let cases: [(_, _, &[&str], _, _); 4] = [
        (
            "compressed-tensors",
            "compressed-tensors",
            &[".weight_packed", ".weight_scale"],
            compressed,
            " channel",
        ),
        ("GPTQ", "gptq", &[".qweight", ".scales"], gptq, " channel"),
        ("AutoRound", "auto-round", &[".qweight", ".scales"], auto_round, " channel"),
        ("MLX", "mlx", &[".weight", ".scales", ".biases"], mlx, " g64 hqq"),
    ];
    for (name, target, endings, config, grid) in cases {
        let folder = tempfile::tempdir().unwrap();
        quantised(folder.path(), endings, &config);
        let recovered = recover(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(recovered.source, format!("{name}, 4 layers"));
        assert_eq!(recovered.target, target);
        let labels = labels(&recovered);
        let block =
            |module: &str| labels[format!("model.layers.0.{module}.weight").as_str()].as_str();
        assert_eq!(labels["lm_head.weight"], "keep", "{name}");
        assert_eq!(block("self_attn.q_proj"), format!("4-bit{grid}"), "{name}");
        assert_eq!(block("mlp.down_proj"), format!("8-bit{grid}"), "{name}");
        let model = tempfile::tempdir().unwrap();
        assert_eq!(recovered.on(&plain_llama(model.path())).layers.len(), 4, "{name}");
    }
}

#[test]
fn folders_without_a_recipe_say_why() {
    let folder = tempfile::tempdir().unwrap();
    assert_says(recover(folder.path()), &["no config.json and no .gguf file", "give the folder"]);
    quantised(folder.path(), &[".weight"], &json!({"model_type": "llama"}));
    assert_says(recover(folder.path()), &["no quantization_config", "give the folder"]);
    let quip = json!({"quantization_config": {"quant_method": "quip", "bits": 4}});
    quantised(folder.path(), &[".qweight"], &quip);
    assert_says(recover(folder.path()), &["quantised by quip", "give a model of"]);
    let awq = json!({"quantization_config": {"quant_method": "awq", "bits": 9}});
    quantised(folder.path(), &[".qweight"], &awq);
    assert_says(recover(folder.path()), &["its bits are not within 1 and 8"]);
    let beside = json!({"bits": 3, "group_size": 64});
    quantised(folder.path(), &[".qweight"], &json!({"model_type": "llama"}));
    write(&folder.path().join("quantize_config.json"), beside.to_string().as_bytes());
    assert_eq!(
        labels(&recover(folder.path()).unwrap())["model.layers.0.mlp.down_proj.weight"],
        "3-bit g64"
    );
    assert_says(recover(Path::new("/nowhere/none.txt")), &["none.txt", "give a .gguf file"]);
}

#[test]
fn a_recovered_recipe_names_the_target_whose_format_the_folder_has() {
    let of = |config: serde_json::Value, endings: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        quantised(folder.path(), endings, &json!({"quantization_config": config}));
        recover(folder.path()).unwrap_or_else(|error| panic!("{config}: {error}"))
    };
    let groups = |format: &str, bits: u32| {
        let weights = json!({"num_bits": bits, "type": "int", "strategy": "channel"});
        let group = json!({"targets": ["Linear"], "weights": weights});
        let groups = json!({"group_0": group});
        json!({"quant_method": "compressed-tensors", "format": format, "config_groups": groups})
    };
    let packed: &[&str] = &[".weight_packed", ".weight_scale"];
    assert_eq!(of(groups("pack-quantized", 8), packed).target, "compressed-tensors");
    assert_eq!(of(groups("pack-quantized", 3), packed).target, "compressed-tensors-0.18");
    assert_eq!(of(groups("int-quantized", 3), packed).target, "compressed-tensors-int");
    let gptq = |more: &str, value: serde_json::Value| json!({"quant_method": "gptq", "bits": 4, "group_size": 64, more: value});
    let words: &[&str] = &[".qweight", ".scales"];
    assert_eq!(of(gptq("checkpoint_format", json!("gptq")), words).target, "gptq");
    assert_eq!(of(gptq("checkpoint_format", json!("gptq_v2")), words).target, "gptq-v2");
    assert_eq!(of(gptq("sym", json!(false)), words).target, "gptq-v2");
    let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true});
    let awq = of(awq, words);
    assert_eq!((awq.target, awq.source.as_str()), ("awq", "AWQ, 4 layers"));
    assert_eq!(labels(&awq)["model.layers.0.mlp.down_proj.weight"], "4-bit g64 asym");
    assert!(awq.unsaid[0].contains("said nowhere"), "{:?}", awq.unsaid);
    for id in ["gptq-v2", "auto-round", "awq", "mlx", "gguf", "archive", "compressed-tensors-0.18"]
    {
        lapidary_engine::target::find(id).unwrap();
    }
}
