//! Exports that stop and go on: to the same bytes, from what is whole and fits only; and what happens meanwhile to the
//! source and to the place of the output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{
    Destination, Report, convert, discard_finished, export, finished_for,
};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Target};
use lapidary_engine::{Error, Observer, Result, Silent, disk};
use lapidary_tests::observers::At;
use lapidary_tests::{
    assert_says, names_in, normals, on_threads, plan, read, read_folder, rtn, small_llama, write,
};
use tempfile::TempDir;

/// Layers that the plan of these tests compresses.
const LAYERS: usize = 7;

fn target() -> &'static dyn Target {
    target::find("dense").expect("it works")
}

fn bits(checkpoint: &Checkpoint, bits: i64) -> Plan {
    plan(checkpoint, &[("*_proj.weight", vec![rtn(bits)])]).expect("it works")
}

fn export_to(
    checkpoint: &Checkpoint,
    plan: &Plan,
    out: &Path,
    observer: &dyn Observer,
) -> Result<Report> {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target(), destination, observer)
}

/// Stops an export behind some reports of compressing; gives the files of finished layers.
fn stop(checkpoint: &Checkpoint, plan: &Plan, out: &Path, reports: usize) -> Vec<PathBuf> {
    let observer = At::cancelling("Compressing", reports);
    let done = on_threads(1, || export_to(checkpoint, plan, out, &observer));
    assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    assert!(!out.exists());
    let finished = finished_for(out).expect("it works");
    names_in(&finished).iter().map(|name| finished.join(name)).collect()
}

/// A model, and what an unbroken export makes of it.
fn model(folder: &Path) -> (Checkpoint, Plan, BTreeMap<String, Vec<u8>>) {
    let path = folder.join("model");
    small_llama(&path);
    let checkpoint = Checkpoint::open(&path).expect("it works");
    let plan = bits(&checkpoint, 4);
    let whole = folder.join("whole");
    export_to(&checkpoint, &plan, &whole, &Silent).expect("it works");
    let files = read_folder(&whole);
    std::fs::remove_dir_all(whole).expect("it works");
    (checkpoint, plan, files)
}

#[test]
fn what_was_stopped_goes_on_to_the_same_bytes() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    for (finished, reports) in [(1, 3), (3, 6), (6, 13)] {
        let out = folder.path().join(format!("out-{finished}"));
        let there = stop(&checkpoint, &plan, &out, reports);
        assert_eq!(there.len(), finished, "after {reports} reports");
        let observer = At::listening();
        export_to(&checkpoint, &plan, &out, &observer).unwrap();
        assert_eq!(observer.compressed().len(), LAYERS - finished);
        let wanted = format!("going on: {finished} of {LAYERS} layers were finished before");
        assert_eq!(observer.said(), [wanted]);
        assert!(read_folder(&out) == whole);
        assert!(finished_for(&out).is_none());
    }
    assert_eq!(names_in(folder.path()), ["model", "out-1", "out-3", "out-6"], "nothing hidden");
}

#[test]
fn an_export_stopped_while_it_is_written_or_proved_compresses_nothing_again() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    let out = folder.path().join("out");
    for stage in ["Writing", "Proving"] {
        let observer = At::cancelling(stage, 4);
        let done = export_to(&checkpoint, &plan, &out, &observer);
        assert!(matches!(done, Err(Error::Cancelled)), "{stage}");
        let work = folder.path().join(".out.lapidary-work");
        assert_eq!(names_in(&work), ["finished"], "{stage}: nothing half-written");
    }
    let observer = At::listening();
    export_to(&checkpoint, &plan, &out, &observer).unwrap();
    assert!(observer.compressed().is_empty());
    assert!(read_folder(&out) == whole);
}

#[test]
fn what_is_damaged_is_made_anew() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    let out = folder.path().join("out");
    let there = stop(&checkpoint, &plan, &out, 13);
    let [a, b, c, d, ..] = there.as_slice() else { panic!("six layers: {there:?}") };
    // A bit of a code, the half of a file, a file of something else, no content.
    let mut bytes = read(a);
    *bytes.last_mut().unwrap() ^= 1;
    write(a, &bytes);
    let bytes = read(b);
    write(b, &bytes[..bytes.len() / 2]);
    write(c, b"years of work");
    write(d, b"");
    let observer = At::listening();
    export_to(&checkpoint, &plan, &out, &observer).unwrap();
    assert_eq!(observer.said(), [format!("going on: 2 of {LAYERS} layers were finished before")]);
    assert_eq!(observer.compressed().len(), LAYERS - 2);
    assert!(read_folder(&out) == whole);
}

#[test]
fn only_layers_of_the_same_plan_and_source_are_taken_over() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, four, _) = model(folder.path());
    let out = folder.path().join("out");
    // Another plan that leaves two layers as they were.
    assert_eq!(stop(&checkpoint, &four, &out, 13).len(), 6);
    let rules = [("*.q_proj.weight", vec![rtn(4)]), ("*.o_proj.weight", vec![rtn(4)])];
    let rest = ("*_proj.weight", vec![rtn(8)]);
    let [q, o] = rules;
    let other = plan(&checkpoint, &[q, o, rest]).unwrap();
    let observer = At::listening();
    export_to(&checkpoint, &other, &out, &observer).unwrap();
    let again = observer.compressed();
    assert_eq!(again.len(), 5, "{again:?}");
    assert!(again.iter().all(|name| !name.contains("q_proj") && !name.contains("o_proj")));
    std::fs::remove_dir_all(&out).unwrap();
    // The same bytes written again are another source, as far as that can be told without reading it.
    stop(&checkpoint, &four, &out, 13);
    drop(checkpoint);
    let weights = folder.path().join("model/model.safetensors");
    disk::touch(&weights, SystemTime::now() - Duration::from_secs(100)).unwrap();
    let checkpoint = Checkpoint::open(&folder.path().join("model")).unwrap();
    let observer = At::listening();
    export_to(&checkpoint, &four, &out, &observer).unwrap();
    assert_eq!((observer.compressed().len(), observer.said().len()), (LAYERS, 0));
}

#[test]
fn layers_of_another_plan_make_room_when_theirs_is_given_up() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, four, _) = model(folder.path());
    let out = folder.path().join("out");
    let before = stop(&checkpoint, &four, &out, 13);
    // Another plan for the same folder: of the first it takes over one layer, and leaves nothing of the others.
    let rules = [("*.q_proj.weight", vec![rtn(4)]), ("*_proj.weight", vec![rtn(8)])];
    let other = plan(&checkpoint, &rules).unwrap();
    let after = stop(&checkpoint, &other, &out, 7);
    let kept = after.iter().filter(|path| before.contains(path)).count();
    assert!(kept == 1 && after.len() > 1 && after.len() <= LAYERS, "{before:?} {after:?}");
    let observer = At::listening();
    export_to(&checkpoint, &other, &out, &observer).unwrap();
    assert_eq!(observer.compressed().len(), LAYERS - after.len());
    // A plan that compresses nothing leaves nothing either.
    std::fs::remove_dir_all(&out).unwrap();
    stop(&checkpoint, &four, &out, 13);
    let observer = At::cancelling("Writing", 1);
    let done = export_to(&checkpoint, &Plan::default(), &out, &observer);
    assert!(matches!(done, Err(Error::Cancelled)), "{done:?}");
    assert_eq!(finished_for(&out), None);
}

#[test]
fn finished_layers_can_be_thrown_away_unless_they_are_at_work() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, _) = model(folder.path());
    let out = folder.path().join("out");
    assert!(!discard_finished(&out).unwrap());
    stop(&checkpoint, &plan, &out, 6);
    assert!(discard_finished(&out).unwrap());
    assert_eq!(names_in(folder.path()), ["model"]);
    let act = || {
        assert_says(discard_finished(&out), &["another export", "out", "running"]);
    };
    let observer = At::new("Writing", 2, &act);
    export_to(&checkpoint, &plan, &out, &observer).unwrap();
    assert!(observer.seen() > 2);
}

#[test]
fn of_two_exports_to_one_folder_the_second_is_refused() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    let out = folder.path().join("out");
    let archive = folder.path().join("archive");
    let destination = Destination { folder: &archive, replace: false, limits: Limits::default() };
    export(&checkpoint, &plan, target::find("archive").unwrap(), destination, &Silent).unwrap();
    let archive = Checkpoint::open(&archive).unwrap();
    for stage in ["Compressing", "Writing", "Proving"] {
        let refused = AtomicUsize::new(0);
        let second = || {
            let relative = folder.path().join("model/../out");
            for out in [&out, &relative] {
                let done = export_to(&checkpoint, &plan, out, &Silent);
                assert_says(done, &["another export", "out", "choose another"]);
            }
            let destination =
                Destination { folder: &out, replace: false, limits: Limits::default() };
            let done = convert(&archive, target(), destination, &Silent);
            assert_says(done, &["another export"]);
            refused.fetch_add(1, Ordering::SeqCst);
        };
        export_to(&checkpoint, &plan, &out, &At::new(stage, 2, &second)).unwrap();
        assert_eq!(refused.into_inner(), 1, "{stage}");
        assert!(read_folder(&out) == whole, "the first is not disturbed");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_source_that_changes_is_refused_whenever_it_does() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let path = folder.path().join("model");
    let weights = path.join("model.safetensors");
    let changes: [(&str, &(dyn Fn() + Sync)); 3] = [
        ("touched", &|| {
            disk::touch(&weights, SystemTime::now() - Duration::from_secs(50)).unwrap();
        }),
        ("replaced", &|| write(&weights, &read(&weights))),
        ("shorter", &|| {
            let file = std::fs::File::options().write(true).open(&weights).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
    ];
    for (what, change) in changes {
        for stage in ["before", "Compressing", "Writing", "Proving"] {
            small_llama(&path);
            let checkpoint = Checkpoint::open(&path).unwrap();
            let plan = bits(&checkpoint, 4);
            if stage == "before" {
                change();
            }
            let observer = At::new(stage, 2, change);
            let done = on_threads(1, || export_to(&checkpoint, &plan, &out, &observer));
            let said = if what == "shorter" { "model.safetensors" } else { "was changed since" };
            let error = assert_says(done, &[said]);
            assert!(error.is_bad_input() || what == "shorter", "{what}, {stage}: {error}");
            assert!(!out.exists(), "{what}, {stage}");
            discard_finished(&out).unwrap();
            assert_eq!(names_in(folder.path()), ["model"], "{what}, {stage}");
        }
    }
}

#[test]
fn a_text_beside_the_weights_that_changes_is_refused() {
    let folder = TempDir::new().unwrap();
    let (out, path) = (folder.path().join("out"), folder.path().join("model"));
    small_llama(&path);
    write(&path.join("tokenizer.json"), b"{}");
    let checkpoint = Checkpoint::open(&path).unwrap();
    write(&path.join("tokenizer.json"), b"{\"longer\": true}");
    let done = export_to(&checkpoint, &bits(&checkpoint, 4), &out, &Silent);
    assert_says(done, &["tokenizer.json", "was changed"]);
    assert!(!out.exists());
}

#[test]
fn a_place_that_vanishes_or_is_taken_is_said() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    let deep = folder.path().join("deep");
    let out = deep.join("out");
    for stage in ["Compressing", "Writing", "Proving"] {
        let vanish = || std::fs::remove_dir_all(&deep).unwrap();
        let done =
            on_threads(1, || export_to(&checkpoint, &plan, &out, &At::new(stage, 2, &vanish)));
        let error = assert_says(done, &["cannot", ".out.lapidary-work"]);
        assert!(matches!(error, Error::Io { .. }), "{stage}: {error}");
        assert!(!out.exists(), "{stage}");
        std::fs::remove_dir_all(&deep).ok();
    }
    let taken = || write(&out.join("thesis.tex"), b"years of work");
    let done = export_to(&checkpoint, &plan, &out, &At::new("Proving", 2, &taken));
    assert!(matches!(done, Err(Error::Exists { .. })), "{done:?}");
    assert_eq!(names_in(&out), ["thesis.tex"]);
    std::fs::remove_dir_all(&out).unwrap();
    export_to(&checkpoint, &plan, &out, &Silent).unwrap();
    assert!(read_folder(&out) == whole);
    assert_eq!(names_in(&deep), ["out"]);
}

#[test]
fn names_may_be_of_any_language_but_not_of_any_length() {
    let folder = TempDir::new().unwrap();
    let (checkpoint, plan, whole) = model(folder.path());
    let longest = "ℵ".repeat(85);
    assert_eq!(longest.len(), 255);
    for name in ["模型 — größe\u{301} 🪨", " two  spaces ", "%s\\n'\"$(x)", ".hidden", &longest]
    {
        let out = folder.path().join(name);
        stop(&checkpoint, &plan, &out, 6);
        export_to(&checkpoint, &plan, &out, &Silent).unwrap();
        assert!(read_folder(&out) == whole, "{name:?}");
        std::fs::remove_dir_all(&out).unwrap();
    }
    let before = names_in(folder.path());
    let done = export_to(&checkpoint, &plan, &folder.path().join("n".repeat(300)), &Silent);
    assert!(matches!(assert_says(done, &["cannot write"]), Error::Io { .. }));
    assert_eq!(names_in(folder.path()), before);
    assert_eq!(before, ["model"]);
}

#[test]
fn tensors_may_have_names_of_any_language_and_length() {
    let folder = TempDir::new().unwrap();
    let names = [
        format!("{}.weight", "n".repeat(300)),
        "слой внимания.0.weight".to_owned(),
        "层 \u{1F48E} \"x\" <b>&\\.weight".to_owned(),
    ];
    let mut weights = lapidary_tests::Weights::new();
    for name in &names {
        weights = weights.f32(name, &[16, 32], &normals(3, 512));
    }
    let path = folder.path().join("model.safetensors");
    weights.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let plan = plan(&checkpoint, &[("*", vec![rtn(4)])]).unwrap();
    let out = folder.path().join("out");
    assert_eq!(stop(&checkpoint, &plan, &out, 3).len(), 1);
    let report = export_to(&checkpoint, &plan, &out, &Silent).unwrap();
    let mut found: Vec<&str> = report.tensors.iter().map(|tensor| &*tensor.name).collect();
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(report.totals.dense, 3);
}
