//! Impossible wishes, and a machine that does not play along: each is an error whose sentence names the layer or
//! folder, the cause and the mend, and leaves nothing behind.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, REPORT, Report, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::measure;
use lapidary_engine::target;
use lapidary_engine::{Error, Result, Silent};
use lapidary_tests::{
    Weights, assert_says, names_in, plan, read_folder, rtn, sample_path, small_llama, writable,
    write,
};
use tempfile::TempDir;

fn export_to(checkpoint: &Checkpoint, plan: &Plan, id: &str, out: &Path) -> Result<Report> {
    replace_or_not(checkpoint, plan, id, out, false)
}

fn replace_or_not(
    checkpoint: &Checkpoint,
    plan: &Plan,
    id: &str,
    folder: &Path,
    replace: bool,
) -> Result<Report> {
    let destination = Destination { folder, replace, limits: Limits::default() };
    export(checkpoint, plan, target::find(id)?, destination, &Silent)
}

#[test]
fn weights_that_are_nan_in_a_planned_layer() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut values = vec![0.5; 64];
    values[7] = f32::NAN;
    values[9] = f32::NEG_INFINITY;
    Weights::new()
        .f32("model.layers.0.mlp.up_proj.weight", &[2, 32], &values)
        .normal("model.layers.0.mlp.down_proj.weight", &[2, 32])
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let wish = |name: &str| plan(&checkpoint, &[(name, vec![rtn(4)])]).unwrap();
    let out = folder.path().join("out");
    let error = assert_says(
        export_to(&checkpoint, &wish("*"), "dense", &out),
        &["model.layers.0.mlp.up_proj.weight", "2 of its 64 weights are NaN", "keep this tensor"],
    );
    assert!(matches!(error, Error::Numeric { .. }));
    // The other layer may have been finished, and is kept for the next attempt; nothing else is left.
    let left = names_in(folder.path());
    assert!(
        left.iter().all(|name| name.starts_with('.') || name == "model.safetensors"),
        "{left:?}"
    );
    // Where the layer is kept its bytes are copied as they are.
    let report = export_to(&checkpoint, &wish("*.down_proj.weight"), "dense", &out).unwrap();
    assert_eq!(report.totals.copied, 1);
}

#[test]
fn plans_that_name_what_is_not_there() {
    let folder = TempDir::new().unwrap();
    small_llama(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let wish = |name: &str, step: Step| plan(&checkpoint, &[(name, vec![step])]);
    let place = folder.path().to_string_lossy().into_owned();
    assert_says(
        wish("model.layers.9.mlp.up_proj.weight", rtn(4)),
        &["layer model.layers.9.mlp.up_proj.weight", &place, "remove it"],
    );
    assert_says(
        wish("model.layers.0.mlp.up_proj", rtn(4)),
        &["write model.layers.0.mlp.up_proj.weight"],
    );
    let dead = wish("*.experts.*", rtn(4)).unwrap();
    assert_says(
        export_to(&checkpoint, &dead, "dense", &folder.path().join("out")),
        &["pattern *.experts.* matches no layer", &place, "correct or remove it"],
    );
    assert_says(wish("role:expert", rtn(4)), &["no role \"expert\"", "gate_up, down, router"]);
    assert_says(
        wish("model.norm.weight", rtn(4)),
        &["model.norm.weight", "role norm", "remove it from the plan"],
    );
    assert_says(
        wish("lm_head.weight", rtn(9)),
        &["layer lm_head.weight", "bits = 9", "a whole number from 2 to 8"],
    );
    assert_says(
        wish("lm_head.weight", rtn(4).with("colour", "red")),
        &["layer lm_head.weight", "no parameter \"colour\"", "granularity"],
    );
    assert_says(
        wish("lm_head.weight", Step::new("gzip")),
        &["layer lm_head.weight", "no method \"gzip\"", "round-to-nearest"],
    );
    assert_says(
        plan(&checkpoint, &[("lm_head.weight", vec![rtn(4), rtn(4)])]),
        &["layer lm_head.weight", "cannot follow"],
    );
    assert_says(
        plan(&checkpoint, &[("lm_head.weight", Vec::new())]),
        &["layer lm_head.weight", "without steps"],
    );
    assert_says(
        wish("lm_head.weight", Step::new("keep").with("bits", 4)),
        &["layer lm_head.weight", "keep has no parameter \"bits\""],
    );
}

#[test]
fn a_group_size_that_does_not_divide_works_densely_and_says_why_elsewhere() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    small_llama(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let plan = plan(
        &checkpoint,
        &[("model.layers.0.self_attn.o_proj.weight", vec![rtn(4).with("group_size", 32)])],
    )
    .unwrap();
    for target in writable() {
        let id = target.about().id;
        let report = export_to(&checkpoint, &plan, id, &folder.path().join(id)).unwrap();
        let layer =
            report.tensors.iter().find(|tensor| tensor.name.ends_with("o_proj.weight")).unwrap();
        assert_eq!(layer.stored, "dense", "{id}");
        assert_eq!(layer.method, "4-bit g32");
        assert!(layer.relative_error > 0.01 && layer.relative_error < 0.2);
        let because = layer.because.as_deref().unwrap();
        if id != "dense" {
            let grid = because.contains("no symmetric grid of 4 bits") && id == "awq";
            assert!(because.contains("its 48 inputs") || grid, "{id}: {because}");
        }
    }
}

#[cfg(unix)]
#[test]
fn an_output_folder_that_cannot_be_made() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    small_llama(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let plan = plan(&checkpoint, &[("lm_head.weight", vec![rtn(4)])]).unwrap();
    // A file where a folder is needed refuses everybody, the administrator too.
    write(&folder.path().join("file"), b"in the way");
    let below = folder.path().join("file").join("out");
    assert_says(export_to(&checkpoint, &plan, "dense", &below), &["cannot write", "file/out"]);
    let locked = Path::new("/proc/lapidary-out");
    if Path::new("/proc").is_dir() {
        assert_says(export_to(&checkpoint, &plan, "dense", locked), &["/proc"]);
    }
    assert_eq!(names_in(folder.path()), ["file", "model"]);
}

#[test]
fn an_output_that_is_there_is_replaced_only_when_asked_and_only_if_ours() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    small_llama(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let plan = plan(&checkpoint, &[("lm_head.weight", vec![rtn(4)])]).unwrap();
    let out = folder.path().join("out");
    let run = |replace| replace_or_not(&checkpoint, &plan, "dense", &out, replace);

    write(&out.join("thesis.tex"), b"years of work");
    let error = assert_says(run(false), &["out", "already exists", "--force"]);
    assert!(matches!(error, Error::Exists { .. }));
    assert_says(run(true), &["out", "not written by Lapidary", REPORT]);
    assert_eq!(names_in(&out), ["thesis.tex"], "untouched");

    std::fs::remove_file(out.join("thesis.tex")).unwrap();
    run(true).unwrap();
    let first = read_folder(&out);
    assert_says(run(false), &["already exists"]);
    run(true).unwrap();
    assert_eq!(read_folder(&out), first);
    assert_eq!(names_in(folder.path()), ["model", "out"], "nothing is left aside");

    // The source itself, or a folder around it, is never replaced.
    write(&model.join(REPORT), b"{}");
    for place in [model.as_path(), folder.path()] {
        assert_says(
            replace_or_not(&checkpoint, &plan, "dense", place, true),
            &["holds the source checkpoint"],
        );
    }
    assert!(model.join("model.safetensors").is_file());
}

#[test]
fn a_source_truncated_while_it_is_open() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    for (name, bytes) in read_folder(&sample_path()) {
        write(&model.join(name), &bytes);
    }
    let checkpoint = Checkpoint::open(&model).unwrap();
    let plan = plan(&checkpoint, &[("*_proj.weight", vec![rtn(4)])]).unwrap();
    let weights = model.join("model.safetensors");
    let file = std::fs::File::options().write(true).open(&weights).unwrap();
    file.set_len(1_000_000).unwrap();
    let last = checkpoint.tensors().len() - 1;
    assert_says(
        measure(&checkpoint, last, &Silent),
        &["model.safetensors", "became shorter while it was open"],
    );
    for target in writable() {
        let out = folder.path().join("out");
        assert_says(
            export_to(&checkpoint, &plan, target.about().id, &out),
            &["model.safetensors", "was changed since it was opened"],
        );
    }
    assert_eq!(names_in(folder.path()), ["model"], "nothing half-written is left");
}

#[test]
fn a_layer_beyond_the_memory_limit() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    small_llama(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let plan = plan(&checkpoint, &[("*_proj.weight", vec![rtn(4)])]).unwrap();
    let destination = Destination {
        folder: &folder.path().join("out"),
        replace: false,
        limits: Limits { memory_bytes: 1000 },
    };
    let target = target::find("dense").unwrap();
    let error = assert_says(
        export(&checkpoint, &plan, target, destination, &Silent),
        &["_proj.weight", "needs", "1000", "raise the limit"],
    );
    assert!(!error.is_bad_input(), "the machine's fault");
    assert_eq!(names_in(folder.path()), ["model"]);
}
