//! Bad files: each is an error whose sentence names the file, the tensor and the cause.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, export};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::measure;
use lapidary_engine::target;
use lapidary_engine::{Error, Result, Silent};
use lapidary_tests::{
    Weights, assert_says, plan, raw_file, read, rtn, small_llama, writable, write,
};
use proptest::prelude::{ProptestConfig, any, prop};
use proptest::strategy::Strategy as _;
use serde_json::json;
use tempfile::TempDir;

/// Opens `bytes` as `model.safetensors`.
fn open(bytes: &[u8]) -> Result<Checkpoint> {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write(&path, bytes);
    Checkpoint::open(&path)
}

/// Asserts that opening `bytes` fails, blames the file, and says each of `said`.
#[track_caller]
fn assert_refused(bytes: &[u8], said: &[&str]) {
    let error = assert_says(open(bytes), &["model.safetensors"]);
    assert!(matches!(error, Error::Malformed { .. }), "the file is to blame: {error:?}");
    assert!(error.is_bad_input());
    let sentence = error.sentence();
    for part in said {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

/// A file whose header is `header` and that has `n` bytes of data.
fn with_header(header: &str, n: usize) -> Vec<u8> {
    raw_file(header, &vec![0; n])
}

fn export_to(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Result<Report> {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target::find(id)?, destination, &Silent)
}

#[test]
fn files_that_are_no_safetensors() {
    assert_refused(b"", &["0 bytes"]);
    assert_refused(b"\x03\x04\x05", &["3 bytes"]);
    assert_refused(&[0xfe; 200], &["first 8 bytes", "more than the format's"]);
    assert_refused(&with_header("[1, 2]", 0), &["not a JSON object"]);
    assert_refused(&with_header("{\"a\": ", 0), &["header cannot be read"]);
    assert_refused(&with_header("{\"a\": 3}", 0), &["tensor a"]);
    assert_refused(&with_header("{\"__metadata__\": {\"a\": 3}}", 0), &["__metadata__"]);
    let latin1 = raw_file("{\"caf\u{e9}\": 1}", &[]);
    let cut: Vec<u8> = latin1.into_iter().filter(|byte| *byte != 0xa9).collect();
    assert_refused(&cut, &[]);
}

#[test]
fn files_of_other_kinds_are_named_with_what_to_do() {
    let of = |magic: &[u8]| [magic, &[3, 0, 0, 0, 9, 1, 0, 0, 0xff, 0xfe, 7, 7]].concat();
    assert_refused(&of(b"GGUF"), &["GGUF", "llama.cpp", "it was made from"]);
    assert_refused(&of(b"PK\x03\x04"), &["zip archive", "PyTorch", "convert it to safetensors"]);
    for protocol in 2..=5 {
        assert_refused(&of(&[0x80, protocol, 0x7d, 0x71]), &["pickle", "can run code"]);
    }
    assert_refused(&of(b"\x89HDF\r\n\x1a\n"), &["HDF5", "convert"]);
    assert_refused(b"{\"model_type\": \"gpt2\"}", &["JSON text", "open the .safetensors file"]);
    assert_refused(b"# A model card\n\nWith words.\n", &["it is a text", "the folder"]);
    assert_refused(b"<!DOCTYPE html><html></html>", &["web page", "download the file itself"]);
    assert_refused(b"version https://git-lfs.github.com/spec/v1\noid", &["git lfs pull"]);
    for bytes in [&of(b"GGUF")[..], b"# A model card", b"PK\x03\x04"] {
        let sentence = open(bytes).unwrap_err().sentence();
        assert!(!sentence.contains("announce") && !sentence.contains("again"), "{sentence}");
    }
}

#[test]
fn headers_longer_than_the_file() {
    let mut bytes = Weights::new().f32("a", &[2], &[1.0, 2.0]).bytes();
    bytes[..8].copy_from_slice(&5_000_u64.to_le_bytes());
    assert_refused(&bytes, &["header of 5000 bytes is longer than the file"]);
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_refused(&bytes, &["18446744073709551615", "more than the format's 100000000"]);
    bytes[..8].copy_from_slice(&100_000_001_u64.to_le_bytes());
    assert_refused(&bytes, &["100000001"]);
}

#[test]
fn offsets_that_overlap_leave_the_file_or_leave_holes() {
    let entry = |begin: u64, end: u64| {
        let n = end.wrapping_sub(begin) / 4;
        json!({"dtype": "F32", "shape": [n], "data_offsets": [begin, end]})
    };
    let file = |a, b, n| with_header(&json!({"a": a, "b": b}).to_string(), n);
    assert!(open(&file(entry(0, 8), entry(8, 12), 12)).is_ok());
    assert_refused(&file(entry(0, 8), entry(4, 12), 12), &["tensor b overlaps a"]);
    assert_refused(&file(entry(0, 8), entry(0, 8), 8), &["tensor b overlaps a"]);
    assert_refused(
        &file(entry(0, 8), entry(8, 16), 12),
        &["offsets 8 to 16 of tensor b lie outside the file"],
    );
    assert_refused(
        &file(entry(0, 8), entry(12, 16), 16),
        &["4 bytes before tensor b belong to nothing"],
    );
    assert_refused(&file(entry(4, 8), entry(8, 12), 12), &["4 bytes before tensor a"]);
    assert_refused(
        &file(entry(0, 8), entry(8, 12), 20),
        &["8 bytes at its end belong to no tensor"],
    );
    let backwards = json!({"dtype": "F32", "shape": [1], "data_offsets": [8, 4]});
    assert_refused(&file(entry(0, 8), backwards, 12), &["tensor b", "outside"]);
    let far = json!({"dtype": "F32", "shape": [1], "data_offsets": [u64::MAX - 3, u64::MAX]});
    assert_refused(&file(entry(0, 8), far, 12), &["tensor b", "outside"]);
    let negative = json!({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]});
    assert_refused(&file(entry(0, 8), negative, 12), &["tensor b"]);
    let short = json!({"dtype": "F32", "shape": [3], "data_offsets": [8, 12]});
    assert_refused(
        &file(entry(0, 8), short, 12),
        &["tensor b", "needs 12 bytes, its offsets hold 4"],
    );
}

#[test]
fn names_that_appear_twice() {
    let one = r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let two = r#"{"dtype":"U8","shape":[1],"data_offsets":[1,2]}"#;
    assert_refused(
        &with_header(&format!(r#"{{"twin":{one},"twin":{two}}}"#), 2),
        &["tensor twin appears twice"],
    );
    let folder = TempDir::new().unwrap();
    for shard in ["a.safetensors", "b.safetensors"] {
        Weights::new().f32("twin", &[1], &[1.0]).write(&folder.path().join(shard));
    }
    assert_says(
        Checkpoint::open(folder.path()),
        &["b.safetensors", "tensor twin is also in another file"],
    );
}

#[test]
fn types_and_shapes_that_cannot_be() {
    let entry = |dtype: &str, shape: serde_json::Value, end: u64| {
        json!({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).to_string()
    };
    assert_refused(
        &with_header(&entry("Q4_K", json!([2]), 8), 8),
        &["tensor w has the unknown dtype Q4_K"],
    );
    assert_refused(
        &with_header(&entry("F32", json!([1_u64 << 40, 1_u64 << 40]), 0), 0),
        &["tensor w overflows", "1099511627776 × 1099511627776"],
    );
    // The number of elements fits in 64 bits, the number of bits does not.
    assert_refused(
        &with_header(&entry("F64", json!([1_u64 << 62]), 0), 0),
        &["tensor w overflows"],
    );
    assert_refused(&with_header(&entry("F32", json!([-2]), 8), 8), &["tensor w"]);
    assert_refused(
        &with_header(&entry("F4", json!([3]), 1), 1),
        &["tensor w", "does not fill whole bytes"],
    );
}

/// A folder with an index that maps `a` to `shard`, and the shard `good.safetensors`.
fn indexed(shard: &str) -> Result<Checkpoint> {
    let folder = TempDir::new().expect("a folder");
    let inside = folder.path().join("model");
    Weights::new().f32("a", &[1], &[1.0]).write(&inside.join("good.safetensors"));
    Weights::new().f32("a", &[1], &[1.0]).write(&folder.path().join("outside.safetensors"));
    let index = json!({"metadata": {}, "weight_map": {"a": shard}}).to_string();
    write(&inside.join("model.safetensors.index.json"), index.as_bytes());
    Checkpoint::open(&inside)
}

#[test]
fn indexes_that_lead_nowhere_or_outside() {
    assert!(indexed("good.safetensors").is_ok());
    let index = "model.safetensors.index.json";
    assert_says(
        indexed("missing.safetensors"),
        &[index, "missing.safetensors", "not in the folder"],
    );
    for outside in [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/../../outside.safetensors",
        "sub/good.safetensors",
        "..",
        ".",
        "",
        "..\\outside.safetensors",
        "C:\\model.safetensors",
        "./good.safetensors",
    ] {
        let error = assert_says(indexed(outside), &[index, "not a file name in its folder"]);
        assert!(matches!(error, Error::Malformed { .. }), "{outside}");
    }
}

#[test]
fn indexes_that_disagree_with_the_shards() {
    let folder = TempDir::new().unwrap();
    let inside = folder.path();
    Weights::new().f32("a", &[1], &[1.0]).write(&inside.join("one.safetensors"));
    Weights::new().f32("b", &[1], &[1.0]).write(&inside.join("two.safetensors"));
    let open = |text: String| {
        write(&inside.join("model.safetensors.index.json"), text.as_bytes());
        Checkpoint::open(inside)
    };
    let map = |a: &str, b: &str, c: Option<&str>| {
        let mut map = json!({"a": a, "b": b});
        if let Some(c) = c {
            map["c"] = json!(c);
        }
        json!({ "weight_map": map }).to_string()
    };
    assert!(open(map("one.safetensors", "two.safetensors", None)).is_ok());
    assert_says(
        open(map("two.safetensors", "one.safetensors", None)),
        &["tensor a is in one.safetensors, not in two.safetensors"],
    );
    assert_says(
        open(map("one.safetensors", "two.safetensors", Some("two.safetensors"))),
        &["tensor c is not in the shard two.safetensors"],
    );
    assert_says(
        open("{\"weight_map\": [1]}".to_owned()),
        &["model.safetensors.index.json", "line 1"],
    );
    assert_says(open("{}".to_owned()), &["index.json", "weight_map"]);
}

#[test]
fn paths_that_hold_no_model() {
    let folder = TempDir::new().unwrap();
    assert_says(Checkpoint::open(&folder.path().join("nowhere")), &["nowhere", "check the path"]);
    write(&folder.path().join("pytorch_model.bin"), b"a pickle");
    assert_says(Checkpoint::open(folder.path()), &["holds no .safetensors file", "can run code"]);
}

#[test]
fn config_json_that_is_none() {
    let folder = TempDir::new().unwrap();
    small_llama(folder.path());
    for (text, said) in
        [("{\"model_type\": ", "line 1"), ("[]", "not a JSON object"), ("\u{0}", "line 1")]
    {
        write(&folder.path().join("config.json"), text.as_bytes());
        let mend = "repair or move away config.json";
        assert_says(Checkpoint::open(folder.path()), &["config.json", said, mend]);
        // A lone file is a way to look all the same, unless its folder's config.json is broken too.
        assert_says(Checkpoint::open(&folder.path().join("model.safetensors")), &["config.json"]);
    }
    write(&folder.path().join("config.json"), b"\xff\xfe{}");
    assert_says(Checkpoint::open(folder.path()), &["config.json", "move away"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok(), "it is optional");
}

#[test]
fn empty_tensors_and_scalars_work_all_the_way() {
    let folder = TempDir::new().unwrap();
    small_llama(folder.path());
    let config = read(&folder.path().join("config.json"));
    let model = folder.path().join("awkward");
    write(&model.join("config.json"), &config);
    Weights::new()
        .normal("model.layers.0.self_attn.o_proj.weight", &[4, 32])
        .f32("model.layers.0.mlp.up_proj.weight", &[0, 32], &[])
        .f32("model.layers.0.mlp.down_proj.weight", &[32, 0], &[])
        .f32("scale", &[], &[3.0])
        .f32("nothing", &[0], &[])
        .f32("monster", &[0, usize::MAX, usize::MAX], &[])
        .f32("conv1.weight", &[0, 1 << 40, 1 << 40, 3], &[])
        .with("steps", "I64", &[], &7_i64.to_le_bytes())
        .write(&model.join("model.safetensors"));
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert_eq!(checkpoint.tensors().len(), 8);
    assert_says(
        plan(&checkpoint, &[("model.layers.0.mlp.up_proj.weight", vec![rtn(4)])]),
        &["model.layers.0.mlp.up_proj.weight", "0 × 32 holds no values"],
    );
    for index in 0..8 {
        measure(&checkpoint, index, &Silent).unwrap();
    }
    let step = rtn(4).with("group_size", 16).with("symmetry", "asymmetric");
    for granularity in ["group", "channel", "tensor"] {
        let step = step.clone().with("granularity", granularity);
        let plan = plan(&checkpoint, &[("model.layers.*", vec![step])]).unwrap();
        for target in writable() {
            let id = target.about().id;
            let out = folder.path().join(format!("{id}-{granularity}"));
            let report = export_to(&checkpoint, &plan, id, &out)
                .unwrap_or_else(|error| panic!("{id} {granularity}: {error}"));
            assert_eq!(report.tensors.len(), 8);
            assert!(report.tensors.iter().all(|t| t.relative_error.is_finite()));
            Checkpoint::open(&out).unwrap();
        }
    }
}

/// A valid file of several tensors, types and metadata.
fn valid() -> Vec<u8> {
    Weights::new()
        .normal("model.layers.0.mlp.up_proj.weight", &[3, 8])
        .normal("conv1.weight", &[2, 3, 1, 1])
        .with("counter", "I64", &[], &[1; 8])
        .with("half", "BF16", &[2, 2], &[3; 8])
        .f32("empty", &[0, 4], &[])
        .bytes()
}

/// Opens a file and, where that works, looks at everything in it.
fn look(bytes: &[u8]) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write(&path, bytes);
    let Ok(checkpoint) = Checkpoint::open(&path) else {
        return;
    };
    for (index, tensor) in checkpoint.tensors().iter().enumerate() {
        measure(&checkpoint, index, &Silent).ok();
        assert_eq!(tensor.matrix.is_some(), checkpoint.weights(index, &Silent).is_ok());
    }
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = valid();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        look(&bytes);
    }

    #[test]
    fn headers_of_odd_numbers_never_panic(
        shape in prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 1 << 31, 1 << 40, u64::MAX]), 0..6),
        dtype in prop::sample::select(vec!["F32", "F4", "BF16", "I64", "F8_E4M3", "BOOL", "C64"]),
        end in prop::sample::select(vec![0, 1, 4, 8, 24, u64::MAX]),
        name in "[a-z.0-9]{0,12}".prop_map(|name| name + ".weight"),
    ) {
        let header = json!({ name: {"dtype": dtype, "shape": shape, "data_offsets": [0, end]} });
        look(&with_header(&header.to_string(), (end % 100) as usize));
    }
}
