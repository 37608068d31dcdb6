//! Weight files of a wished size: none larger, all of a layer in one, an index that is true, the same tensors.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, convert, export};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Manifest};
use lapidary_tests::reader::Output;
use lapidary_tests::{
    assert_says, names_in, plan, read_json, read_output, rtn, sample, sample_path,
};
use tempfile::TempDir;

const INDEX: &str = "model.safetensors.index.json";

fn four_bits(checkpoint: &Checkpoint) -> Plan {
    let step = rtn(4).with("symmetry", "asymmetric").with("group_size", 128);
    plan(checkpoint, &[("*.mlp.*_proj.weight", vec![step])]).expect("it works")
}

fn aim(id: &str, shard_bytes: u64) -> Aim {
    Aim { shard_bytes, ..target::find(id).expect("it works").into() }
}

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

/// The shards of a folder by name, and the tensors of each.
fn shards(folder: &Path) -> BTreeMap<String, (u64, Vec<String>)> {
    let weights = names_in(folder).into_iter().filter(|name| name.ends_with(".safetensors"));
    let shard = |name: String| {
        let path = folder.join(&name);
        let bytes = std::fs::metadata(&path).expect("it works").len();
        let header = lapidary_tests::reader::header(&path);
        let tensors =
            header.as_object().expect("it works").keys().filter(|key| *key != "__metadata__");
        assert_eq!(header["__metadata__"]["format"], "pt");
        (name, (bytes, tensors.cloned().collect()))
    };
    weights.map(shard).collect()
}

/// Holds a folder of shards against the wish and its own index.
fn check(folder: &Path, report: &Report, limit_bytes: u64) -> usize {
    let shards = shards(folder);
    let module = |name: &String| name.rsplit_once('.').expect("it works").0.to_owned();
    let mut of: BTreeMap<String, &str> = BTreeMap::new();
    for (at, (name, (bytes, tensors))) in shards.iter().enumerate() {
        let count = shards.len();
        assert_eq!(*name, format!("model-{:05}-of-{count:05}.safetensors", at + 1));
        let mut modules: Vec<String> = tensors.iter().map(module).collect();
        modules.sort();
        modules.dedup();
        assert!(*bytes <= limit_bytes || modules.len() == 1, "{name}: {bytes} > {limit_bytes}");
        for module in modules {
            let other = of.insert(module.clone(), name);
            assert_eq!(other, None, "{module} lies in two files");
        }
    }
    let index = read_json(&folder.join(INDEX));
    let map = index["weight_map"].as_object().expect("it works");
    let listed: usize = shards.values().map(|(_, tensors)| tensors.len()).sum();
    assert_eq!(map.len(), listed);
    for (name, (_, tensors)) in &shards {
        assert!(tensors.iter().all(|tensor| map[tensor] == **name), "{name}");
    }
    assert_eq!(index["metadata"]["total_size"], report.totals.tensor_bytes);
    shards.len()
}

#[test]
fn no_file_is_larger_than_wished_and_the_tensors_are_the_same() {
    let sample = sample();
    let plan = four_bits(&sample);
    for id in ["dense", "compressed-tensors", "gptq-v2", "awq", "mlx"] {
        let folder = TempDir::new().unwrap();
        let whole = folder.path().join("whole");
        export(&sample, &plan, aim(id, 0), to(&whole), &Silent).unwrap();
        let whole = Output::open(&whole);
        for (limit_bytes, least) in [(1, 20), (400_000, 8), (3_000_000, 2)] {
            let out = folder.path().join(limit_bytes.to_string());
            let aim = aim(id, limit_bytes);
            let manifest = Manifest::new(&sample, &plan, aim.target).unwrap();
            let manifest = manifest.in_shards(&sample, aim).unwrap();
            let report = export(&sample, &plan, aim, to(&out), &Silent).unwrap();
            let count = check(&out, &report, limit_bytes);
            assert!(count >= least, "{id}: {count} files of {limit_bytes} bytes");
            let files = read_output(&out);
            assert_eq!(files.len(), report.files.len());
            for file in &report.files {
                assert_eq!(file.bytes, files[&file.name].len() as u64, "{}", file.name);
            }
            for file in &manifest.files {
                assert_eq!(file.plan.file_bytes(), files[&file.name].len() as u64);
            }
            let cut = Output::open(&out);
            assert_eq!(cut.tensors.len(), whole.tensors.len());
            for (name, tensor) in &whole.tensors {
                assert!(cut.tensors[name].bytes == tensor.bytes, "{id}: {name}");
            }
            Checkpoint::open(&out).unwrap();
        }
    }
}

#[test]
fn files_are_filled_before_another_is_begun() {
    let sample = sample();
    let aim = aim("dense", 2_000_000);
    let manifest = Manifest::new(&sample, &Plan::default(), aim.target).unwrap();
    let manifest = manifest.in_shards(&sample, aim).unwrap();
    let bytes: Vec<u64> = manifest.files.iter().map(|file| file.plan.file_bytes()).collect();
    for pair in bytes.windows(2) {
        assert!(pair[0] + pair[1] > 2_000_000, "two files would have been one: {bytes:?}");
    }
}

#[test]
fn shards_of_a_source_become_one_file_and_one_becomes_an_archive_in_shards() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sample = sample();
    let plan = four_bits(&sample);
    export(&sample, &plan, aim("archive", 1_000_000), to(&at("archive")), &Silent).unwrap();
    let archive = Checkpoint::open(&at("archive")).unwrap();
    assert!(archive.is_archive() && archive.files().len() > 3);
    convert(&archive, aim("dense", 100_000_000), to(&at("dense")), &Silent).unwrap();
    assert!(!names_in(&at("dense")).iter().any(|name| name == INDEX), "one file has no index");
    export(&sample, &plan, aim("dense", 0), to(&at("straight")), &Silent).unwrap();
    let (through, straight) = (read_output(&at("dense")), read_output(&at("straight")));
    assert_eq!(through.keys().collect::<Vec<_>>(), straight.keys().collect::<Vec<_>>());
    assert!(through["model.safetensors"] == straight["model.safetensors"]);
    let cut = convert(&archive, aim("compressed-tensors", 500_000), to(&at("cut")), &Silent);
    assert!(check(&at("cut"), &cut.unwrap(), 500_000) > 5);
}

#[test]
fn what_is_one_file_or_already_an_archive_is_refused() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let sample = sample();
    let plan = four_bits(&sample);
    let done = export(&sample, &plan, aim("gguf", 1_000_000), to(&out), &Silent);
    assert_says(done, &["llama.cpp", "one file", "llama-gguf-split"]);
    let archive = folder.path().join("archive");
    export(&sample, &plan, aim("archive", 0), to(&archive), &Silent).unwrap();
    let archive = Checkpoint::open(&archive).unwrap();
    let done = export(&archive, &Plan::default(), aim("archive", 9), to(&out), &Silent);
    assert_says(done, &["archive", "unpack"]);
    assert_eq!(names_in(folder.path()), ["archive"], "{}", sample_path().display());
}
