//! What is said of a conversion before it begins, held against the conversion itself, for every target.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{
    Contents, Destination, Prospect, Report, convert, cut, export, prospect, prospect_of_plan,
};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim};
use lapidary_engine::{Error, Silent};
use lapidary_tests::networks::gguf_of;
use lapidary_tests::{assert_says, plan, read_output, rtn, sample};
use tempfile::TempDir;

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn made(plan: &Plan, id: &str, folder: &Path) -> Checkpoint {
    let target = target::find(id).expect("a target");
    export(&sample(), plan, target, to(folder), &Silent).unwrap_or_else(|e| panic!("{e}"));
    Checkpoint::open(folder).expect("an output")
}

/// Weight files, their bytes, and the bytes of everything, on disk.
fn on_disk(folder: &Path) -> (usize, u64, u64) {
    let files = read_output(folder);
    let is_weights = |name: &str| {
        name.ends_with(".safetensors")
            || std::path::Path::new(name).extension() == Some("gguf".as_ref())
    };
    let weights: Vec<u64> = files
        .iter()
        .filter(|(name, _)| is_weights(name))
        .map(|(_, bytes)| bytes.len() as u64)
        .collect();
    let all = files.values().map(|bytes| bytes.len() as u64).sum();
    (weights.len(), weights.iter().sum(), all)
}

fn bytes_of(found: &Prospect) -> (usize, u64, u64) {
    (found.weight_files, found.weight_bytes, found.output_bytes)
}

/// Holds what was told against what was written.
#[track_caller]
fn assert_told(told: &Prospect, report: &Report, out: &Path) {
    let id = &report.target;
    assert_eq!(bytes_of(told), on_disk(out), "{id}");
    let totals = &report.totals;
    let found = (told.compressed, told.dense_layers(), told.copied);
    assert_eq!(found, (totals.compressed, totals.dense, totals.copied), "{id}");
    for (because, layers) in &told.dense {
        let is_it = |of: &&str| *of == because.as_str();
        let of = report.tensors.iter().filter_map(|tensor| tensor.because.as_deref());
        assert_eq!(of.filter(is_it).count(), *layers, "{id}: {because}");
    }
    assert_eq!(told.least_bytes, None, "{id}: there are no stacks");
}

#[test]
fn every_target_is_told_as_it_turns_out() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rules = [
        ("*.mlp.*_proj.weight", vec![rtn(4).with("group_size", 64)]),
        // Of a fused group one alone, which most targets must refuse.
        ("*.self_attn.q_proj.weight", vec![rtn(4).with("group_size", 64)]),
        ("*.self_attn.o_proj.weight", vec![Step::new("nf4")]),
        ("lm_head.weight", vec![rtn(8).with("granularity", "channel")]),
    ];
    let archive = made(&plan(&sample(), &rules).unwrap(), "archive", &at("archive"));
    let contents = Contents::read(&archive, Limits::default(), &Silent).unwrap();
    let (mut able, mut unable) = (0, 0);
    for target in target::writable() {
        for shard_bytes in [0, 2_000_000] {
            let id = target.about().id;
            let aim = Aim { shard_bytes, ..target.into() };
            let out = at(&format!("{id}-{shard_bytes}"));
            let told = prospect(&archive, &contents, aim);
            let done = convert(&archive, aim, to(&out), &Silent);
            match (told, done) {
                (Ok(told), Ok(report)) => {
                    able += 1;
                    assert_told(&told, &report, &out);
                }
                (Err(told), Err(done)) => {
                    unable += 1;
                    assert_eq!(told.sentence(), done.sentence(), "{id}");
                }
                (told, done) => panic!("{id}: told {told:?}, done {:?}", done.map(|of| of.totals)),
            }
        }
    }
    assert!(able >= 10 && unable >= 8, "{able} targets hold it, {unable} do not");
}

#[test]
fn the_least_size_of_stacks_is_the_one_that_a_cut_takes() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let stack = Step::new("bitstack").with("levels", 3).with("rank", 2);
    let rules = [("*.mlp.*_proj.weight", vec![stack]), ("*.self_attn.o_proj.weight", vec![rtn(4)])];
    let archive = made(&plan(&sample(), &rules).unwrap(), "archive", &at("archive"));
    let contents = Contents::read(&archive, Limits::default(), &Silent).unwrap();
    let target = target::find("archive").unwrap();
    let told = prospect(&archive, &contents, target).unwrap();
    let least = told.least_bytes.expect("stacks");
    cut(&archive, (least, target), to(&at("least")), &Silent).unwrap();
    assert_eq!(on_disk(&at("least")).1, least);
    let less = cut(&archive, (least - 1, target), to(&at("less")), &Silent);
    assert_says(less, &["one level of every layer"]);
    cut(&archive, (told.weight_bytes, target), to(&at("all")), &Silent).unwrap();
    assert_eq!(on_disk(&at("all")), bytes_of(&told));
    // Where levels are decoded, there is nothing to cut.
    let dense = prospect(&archive, &contents, target::find("dense").unwrap()).unwrap();
    assert_eq!((dense.least_bytes, dense.compressed), (None, 0));
}

#[test]
fn other_types_of_a_gguf_file_are_told_to_the_byte() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let eight =
        [("model.layers.*_proj.weight", vec![Step::new("gguf-blocks").with("type", "Q8_0")])];
    made(&plan(&sample(), &eight).unwrap(), "gguf", &at("gguf"));
    let source = Checkpoint::open(&gguf_of(&at("gguf"))).unwrap();
    let aim: Aim = target::find("gguf").unwrap().into();
    for kind in ["Q4_K", "Q8_0", "q4-k-m"] {
        let (plan, _) =
            target::retype(&source, kind, &|_| lapidary_engine::method::Needs::Weights, aim)
                .unwrap();
        let told = prospect_of_plan(&source, &plan, aim).unwrap();
        let out = at(kind);
        let report = export(&source, &plan, aim, to(&out), &Silent).unwrap();
        assert_eq!(bytes_of(&told), on_disk(&out), "{kind}");
        assert_eq!(
            (told.compressed, told.copied),
            (report.totals.compressed, report.totals.copied)
        );
    }
    // Another target takes no GGUF file, before as after the start.
    let dense = target::find("dense").unwrap();
    let told = prospect_of_plan(&source, &Plan::default(), dense);
    let done = export(&source, &Plan::default(), dense, to(&at("dense")), &Silent);
    assert_eq!(told.unwrap_err().sentence(), done.unwrap_err().sentence());
}

#[test]
fn what_holds_nothing_compressed_is_refused_before_anything_is_read() {
    let told = Contents::read(&sample(), Limits::default(), &Silent);
    assert!(matches!(&told, Err(Error::Plan { .. })));
    assert_says(told, &["holds no compressed layer"]);
}
