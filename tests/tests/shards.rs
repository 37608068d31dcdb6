//! Weight files of a wished size: none larger, all of a layer in one, an index that is true, the same tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::Source;
use lapidary_engine::export::{Destination, Report, convert, export, verify};
use lapidary_engine::format::gguf::{Header, read_header};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Manifest};
use lapidary_tests::reader::Output;
use lapidary_tests::{
    assert_says, names_in, plan, read, read_json, read_output, rtn, sample, sample_path,
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

/// The GGUF files of a folder in order, with their headers.
fn parts(folder: &Path) -> Vec<(PathBuf, Header)> {
    let is_gguf = |name: &String| Path::new(name).extension() == Some("gguf".as_ref());
    let names = names_in(folder).into_iter().filter(is_gguf);
    let open = |name: String| {
        let path = folder.join(name);
        let header = read_header(&Source::open(&path).expect("it works")).expect("it works");
        (path, header)
    };
    names.map(open).collect()
}

/// Every tensor of GGUF files by name: extents, type, data.
fn tensors(parts: &[(PathBuf, Header)]) -> BTreeMap<String, (Vec<u64>, u32, Vec<u8>)> {
    let mut tensors = BTreeMap::new();
    for (path, header) in parts {
        let bytes = read(path);
        for info in &header.tensors {
            let begin = (header.data + info.offset) as usize;
            let data = bytes[begin..begin + info.bytes().expect("it works") as usize].to_vec();
            let before = tensors.insert(info.name.clone(), (info.extents.clone(), info.kind, data));
            assert!(before.is_none(), "{} lies in two files", info.name);
        }
    }
    tensors
}

#[test]
fn gguf_files_are_split_as_llama_gguf_split_does_and_open_by_any_part() {
    let sample = sample();
    let step = lapidary_engine::method::Step::new("gguf-blocks").with("type", "Q8_0");
    let plan = plan(&sample, &[("*.mlp.*_proj.weight", vec![step])]).unwrap();
    let folder = TempDir::new().unwrap();
    let whole = folder.path().join("whole");
    export(&sample, &plan, aim("gguf", 0), to(&whole), &Silent).unwrap();
    let whole = parts(&whole);
    let wanted = tensors(&whole);
    assert!(whole.len() == 1 && !whole[0].1.metadata.contains_key("split.count"));
    let all = wanted.len() as u64;
    for (limit_bytes, least, most) in [(1, all, all + 1), (400_000, 8, all), (3_000_000, 3, 5)] {
        let out = folder.path().join(limit_bytes.to_string());
        let report = export(&sample, &plan, aim("gguf", limit_bytes), to(&out), &Silent).unwrap();
        let parts = parts(&out);
        let count = parts.len() as u64;
        assert!((least..=most).contains(&count), "{count} files of {limit_bytes} bytes");
        for (at, (path, header)) in (0..).zip(&parts) {
            let name = format!("sample-books-6m-{:05}-of-{count:05}.gguf", at + 1);
            assert!(path.ends_with(&name), "{}", path.display());
            let said = ["split.no", "split.count", "split.tensors.count"];
            let said = said.map(|key| header.unsigned(key));
            assert_eq!(said, [Some(at), Some(count), Some(all)], "{name}");
            assert_eq!(header.text("general.architecture").is_some(), at == 0, "{name}");
            let bytes = read(path).len() as u64;
            let alone = header.tensors.len() <= usize::from(at > 0);
            assert!(bytes <= limit_bytes || alone, "{name}: {bytes} > {limit_bytes}");
            let listed = report.files.iter().find(|file| file.name == name).unwrap();
            assert_eq!(listed.bytes, bytes, "{name}");
        }
        assert_eq!(tensors(&parts), wanted, "{limit_bytes}");
        let found = verify(&out, &sample, &Silent).unwrap();
        assert_eq!((found.faults, found.is_reported), (Vec::new(), true), "{limit_bytes}");
        let straight = Checkpoint::open(&whole[0].0).unwrap();
        for (path, _) in [&parts[0], &parts[1]] {
            let opened = Checkpoint::open(path).unwrap();
            assert_eq!(opened.tensors().len(), straight.tensors().len());
            for tensor in straight.tensors() {
                let extents = straight.gguf().unwrap().extents(&tensor.name).unwrap();
                let mut values = [0.0, 1.0].map(|fill| vec![fill; extents.iter().product()]);
                let [ours, theirs] = &mut values;
                opened.read_gguf(&tensor.name, 0, ours).unwrap();
                straight.read_gguf(&tensor.name, 0, theirs).unwrap();
                assert_eq!(ours, theirs, "{}", tensor.name);
            }
        }
        std::fs::remove_file(&parts[1].0).unwrap();
        assert_says(Checkpoint::open(&parts[0].0), &["is missing", "into one folder"]);
        std::fs::rename(&parts[0].0, &parts[1].0).unwrap();
        std::fs::copy(&parts[1].0, &parts[0].0).unwrap();
        assert_says(Checkpoint::open(&parts[0].0), &["part 0", "name part 1", "beside the other"]);
    }
}

#[test]
fn what_is_already_an_archive_is_refused() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let sample = sample();
    let plan = four_bits(&sample);
    let archive = folder.path().join("archive");
    export(&sample, &plan, aim("archive", 0), to(&archive), &Silent).unwrap();
    let archive = Checkpoint::open(&archive).unwrap();
    let done = export(&archive, &Plan::default(), aim("archive", 9), to(&out), &Silent);
    assert_says(done, &["archive", "unpack"]);
    assert_eq!(names_in(folder.path()), ["archive"], "{}", sample_path().display());
}
