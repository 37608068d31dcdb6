//! Exports that write layers into the output as they are compressed, stopped and gone on with.

use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, export, finished_for, forecast};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::{Error, Observer, Result, target};
use lapidary_tests::observers::At;
use lapidary_tests::{names_in, on_threads, plan, read, read_folder, rtn, sample, write};
use tempfile::TempDir;

/// Targets that hold parts of layers as they are computed, which are written into the output at once.
const INTO_PLACE: [&str; 3] = ["compressed-tensors", "gguf", "archive"];

/// Exports for another target.
fn export_for(
    id: &str,
    (checkpoint, plan): (&Checkpoint, &Plan),
    out: &Path,
    observer: &dyn Observer,
) -> Result<Report> {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target::find(id)?, destination, observer)
}

/// A plan of blocks for llama.cpp, of integers in groups for others.
fn plan_for(id: &str, checkpoint: &Checkpoint) -> Plan {
    let blocks = Step::new("gguf-blocks").with("type", "Q4_0");
    let step = if id == "gguf" { blocks } else { rtn(4).with("group_size", 32) };
    plan(checkpoint, &[("*_proj.weight", vec![step])]).expect("it works")
}

/// The file of the output that layers are written into, beside those of finished layers.
fn begun(out: &Path) -> (PathBuf, Vec<PathBuf>) {
    let finished = finished_for(out).expect("it works");
    let files = names_in(&finished).into_iter().map(|name| finished.join(name));
    let (mut begun, layers): (Vec<_>, Vec<_>) = files.partition(|path| {
        path.file_name().is_some_and(|name| !name.display().to_string().ends_with(".safetensors"))
    });
    assert_eq!(begun.len(), 1, "{begun:?} {layers:?}");
    (begun.remove(0), layers)
}

#[test]
fn layers_written_into_the_output_are_taken_over_unless_they_are_damaged() {
    for id in INTO_PLACE {
        let folder = TempDir::new().unwrap();
        let checkpoint = sample();
        let plan = plan_for(id, &checkpoint);
        let case = (&checkpoint, &plan);
        let out = folder.path().join("out");
        let unbroken = At::listening();
        export_for(id, case, &out, &unbroken).unwrap();
        let all = unbroken.compressed();
        let whole = read_folder(&out);
        std::fs::remove_dir_all(&out).unwrap();
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        let beside = forecast(&checkpoint, &plan, target::find(id).unwrap(), destination).unwrap();
        let is_little = beside.store_bytes < 2500 * all.len() as u64;
        assert_eq!(is_little, id != "gguf", "{id}: {} bytes beside the output", beside.store_bytes);
        let stop = |stage, nth| {
            let observer = At::cancelling(stage, nth);
            let done = on_threads(1, || export_for(id, case, &out, &observer));
            assert!(matches!(done, Err(Error::Cancelled)), "{id}: {done:?}");
        };
        let go_on = |finished: usize| {
            let observer = At::listening();
            export_for(id, case, &out, &observer).unwrap();
            assert_eq!(observer.compressed().len(), all.len() - finished, "{id}");
            assert!(read_folder(&out) == whole, "{id}");
            assert_eq!(names_in(folder.path()), ["out"], "{id}: nothing hidden");
            std::fs::remove_dir_all(&out).unwrap();
        };
        for (stage, is_all) in [("Compressing", false), ("Writing", true), ("Proving", true)] {
            stop(stage, 20);
            let (_, layers) = begun(&out);
            assert!(!layers.is_empty() && (layers.len() == all.len()) == is_all, "{id}: {stage}");
            // Of an archive nothing lies apart but what says where it lies.
            let is_small = |path: &PathBuf| read(path).len() < 4096;
            assert_eq!(layers.iter().all(is_small), id != "gguf", "{id}");
            go_on(layers.len());
        }
        // llama.cpp has other orders of rows of q and k, which therefore lie apart.
        let is_apart = |name: &&String| name.contains("q_proj") || name.contains("k_proj");
        let apart = all.iter().filter(|name| id == "gguf" && is_apart(name)).count();
        stop("Proving", 1);
        let (file, _) = begun(&out);
        let bytes = read(&file).len();
        write(&file, &vec![0x55; bytes]);
        go_on(apart);
        stop("Proving", 1);
        std::fs::remove_file(begun(&out).0).unwrap();
        go_on(apart);
    }
}

#[test]
fn layers_written_into_one_output_are_taken_over_for_another() {
    let folder = TempDir::new().unwrap();
    let checkpoint = sample();
    let plan = plan_for("archive", &checkpoint);
    let case = (&checkpoint, &plan);
    let [out, other] = ["out", "other"].map(|name| folder.path().join(name));
    let unbroken = At::listening();
    export_for("archive", case, &other, &unbroken).unwrap();
    let stop = |id| {
        let observer = At::cancelling("Compressing", 20);
        let done = on_threads(1, || export_for(id, case, &out, &observer));
        assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
        begun(&out)
    };
    let (_, layers) = stop("compressed-tensors");
    let observer = At::listening();
    export_for("archive", case, &out, &observer).unwrap();
    assert_eq!(observer.compressed().len(), unbroken.compressed().len() - layers.len());
    assert!(read_folder(&out) == read_folder(&other));
    assert_eq!(names_in(folder.path()), ["other", "out"], "nothing hidden");
    // A plan for which none of these layers serves leaves nothing of that file.
    std::fs::remove_dir_all(&out).unwrap();
    stop("archive");
    let other_plan = plan_for("gguf", &checkpoint);
    let observer = At::cancelling("Compressing", 1);
    let done = on_threads(1, || export_for("gguf", (&checkpoint, &other_plan), &out, &observer));
    assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    assert_eq!(finished_for(&out), None);
}
