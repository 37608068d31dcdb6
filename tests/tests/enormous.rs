//! Tensors larger than 32 bits can count and models larger than any disk, as sparse files: opened, listed, laid out to the
//! byte, and refused before anything is computed where memory or disk are not enough.
#![cfg(unix)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::free_bytes;
use lapidary_engine::export::{Destination, Report, export};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Manifest};
use lapidary_engine::{Error, Result, Silent};
use lapidary_tests::{assert_says, names_in, plan, rtn, writable, write};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A model of zeros that take no place: tensors one after another by name, type, bytes of an element and extents.
fn sparse(folder: &Path, tensors: &[(&str, &str, u64, [u64; 2])]) -> Option<Checkpoint> {
    let (mut header, mut at) = (serde_json::Map::new(), 0_u64);
    for (name, dtype, bytes, shape) in tensors {
        let end = at + bytes * shape[0] * shape[1];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]});
        header.insert((*name).to_owned(), entry);
        at = end;
    }
    let header = Value::from(header).to_string();
    let path = folder.join("model.safetensors");
    let length = (header.len() as u64).to_le_bytes();
    write(&path, &[&length[..], header.as_bytes()].concat());
    let file = std::fs::File::options().write(true).open(&path).expect("it works");
    // File systems differ in how large a file may be.
    file.set_len(8 + header.len() as u64 + at).ok()?;
    assert!(file.metadata().expect("it works").blocks() * 512 < 1 << 20, "the file is not sparse");
    write(&folder.join("config.json"), br#"{"model_type": "llama"}"#);
    Some(Checkpoint::open(folder).expect("it works"))
}

fn run(checkpoint: &Checkpoint, plan: &Plan, folder: &Path) -> Result<Report> {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target::find("dense").expect("it works"), destination, &Silent)
}

#[test]
fn three_billion_weights_are_laid_out_and_refused_by_memory() {
    let folder = TempDir::new().unwrap();
    let (rows, cols) = (60_000_u64, 51_200_u64);
    let n = rows * cols;
    assert!(n > 3_000_000_000);
    let name = "model.layers.0.mlp.down_proj.weight";
    let tensors = [(name, "BF16", 2, [rows, cols]), ("extra.codes", "U8", 1, [rows, cols])];
    let model = folder.path().join("model");
    let checkpoint = sparse(&model, &tensors).expect("9 GB of nothing");
    assert_eq!(checkpoint.parameters(), 2 * n);
    assert_eq!(checkpoint.tensor_bytes(), 3 * n);
    let step = rtn(4).with("group_size", 128).with("symmetry", "asymmetric");
    let plan = plan(&checkpoint, &[(name, vec![step])]).unwrap();
    for target in writable() {
        for shard_bytes in [0, 5_000_000_000] {
            let aim = Aim { shard_bytes, ..target.into() };
            let manifest = Manifest::new(&checkpoint, &plan, target).unwrap();
            let manifest = manifest.in_shards(&checkpoint, aim).unwrap();
            let index = checkpoint.find(name).unwrap();
            let (held, rest) = (manifest.entries[index].bytes, manifest.tensor_bytes());
            assert_eq!(rest - held, n, "{}: bytes are copied", target.about().id);
            // Codes, and at least a scale of two bytes for each group; or all in full.
            let codes = if target.about().id == "compressed-tensors-int" { n } else { n / 2 };
            let least = codes + 2 * n / 128;
            let is_dense = held == 2 * n;
            assert!(is_dense || (least..codes + n / 30).contains(&held), "{held}");
            let files: u64 = manifest.files.iter().map(|file| file.plan.data_bytes()).sum();
            assert_eq!(files, rest);
            let count = if shard_bytes > 0 && rest > shard_bytes { 2 } else { 1 };
            assert_eq!(manifest.files.len(), count, "{}", target.about().id);
        }
    }
    let error = assert_says(
        run(&checkpoint, &plan, &folder.path().join("out")),
        &[name, "needs 61440000000 bytes", "4294967296 are available"],
    );
    assert!(matches!(error, Error::Limit { .. }));
    assert_eq!(names_in(folder.path()), ["model"]);
}

#[test]
fn a_model_larger_than_the_disk_is_refused_before_the_start() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    let free = free_bytes(folder.path()).unwrap();
    // Twice what is free, in rows of a MiB.
    let rows = 2 * free / (1 << 20) + 1;
    let tensors = [("model.embed_tokens.weight", "F16", 2, [rows, 1 << 19])];
    let Some(checkpoint) = sparse(&model, &tensors) else {
        assert!(free > 1 << 40, "a file of {rows} MiB must be possible here");
        return;
    };
    let error = assert_says(
        run(&checkpoint, &Plan::default(), &folder.path().join("out")),
        &["writing", "out", "free some"],
    );
    let Error::Limit { needed_bytes, allowed_bytes, .. } = error else { panic!("{error}") };
    assert!(needed_bytes >= rows << 20 && allowed_bytes < needed_bytes);
    assert_eq!(names_in(folder.path()), ["model"]);
}
