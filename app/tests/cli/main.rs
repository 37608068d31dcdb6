//! The program from outside: exit codes, what stands on stdout and stderr, what is left on disk.

mod archive;
mod calibrate;
mod diff;
mod evaluate;
mod inspect;
mod plan;
mod plans;
mod recover;
mod retype;
mod said;
mod search;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lapidary_engine::disk;
use serde_json::Value;
use tempfile::TempDir;

const REPORT: &str = "lapidary-report.json";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sample() -> PathBuf {
    repository().join("assets/sample-books-6m")
}

/// The program, without a display, with its home in `home`.
fn lapidary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapidary"));
    command
        .current_dir(home)
        .env("LAPIDARY_HOME", home.join("home"))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("RUST_LOG");
    command
}

fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(home: &Path, arguments: I) -> Output {
    lapidary(home).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn read(path: &Path) -> Vec<u8> {
    let source = disk::Source::open(path).unwrap_or_else(|error| panic!("{error}"));
    let bytes = source.bytes(0..source.len_bytes());
    bytes.unwrap_or_else(|error| panic!("{error}")).to_vec()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Asserts exit code 0 and nothing on stderr; returns stdout.
#[track_caller]
fn works(output: &Output) -> &str {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// Asserts the exit code, an empty stdout, and one line on stderr that says each of `said`.
#[track_caller]
fn fails(output: &Output, code: i32, said: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(text(&output.stdout), "");
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "not one line: {stderr}");
    assert!(stderr.starts_with("lapidary: "), "{stderr}");
    for part in said {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
}

fn json(output: &Output) -> Vec<Value> {
    match serde_json::from_str(works(output)).expect("one JSON document") {
        Value::Array(rows) => rows,
        other => panic!("not an array: {other}"),
    }
}

fn keys(row: &Value) -> BTreeSet<&str> {
    let row = row.as_object().expect("an object");
    row.keys().map(String::as_str).collect()
}

/// Writes a file of F32 tensors: name, shape, values.
fn weights(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let offsets = [begin, data.len()];
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    disk::write_file(path, &[&length[..], header.as_bytes(), &data].concat())
        .expect("a file of weights");
}

#[test]
fn bad_usage_is_exit_2_and_help_is_exit_0() {
    let home = TempDir::new().unwrap();
    for arguments in [
        &["inspect"][..],
        &["frobnicate", "--hard"],
        &["inspect", "m", "--colour"],
        &["inspect", "m", "--headers", "--spectrum"],
        &["compress", "p.ron", "--memory", "much"],
    ] {
        let output = run(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["inspect", "--help"]] {
        let output = run(home.path(), arguments);
        assert!(!works(&output).is_empty(), "{arguments:?}");
    }
}

#[test]
fn bad_input_is_exit_2_with_one_line_that_names_it() {
    let home = TempDir::new().unwrap();
    let place = |name: &str| home.path().join(name);
    let write = |name: &str, text: &[u8]| disk::write_file(&place(name), text).unwrap();
    fails(&run(home.path(), ["inspect", "nowhere"]), 2, &["nowhere"]);
    write("garbage.safetensors", b"not a model at all");
    for options in [&[][..], &["--json"], &["--headers"]] {
        let arguments = [&["inspect", "garbage.safetensors"], options].concat();
        fails(
            &run(home.path(), arguments),
            2,
            &["garbage.safetensors", "not a valid safetensors file"],
        );
    }
    fails(&run(home.path(), ["compress", "nowhere.ron"]), 2, &["nowhere.ron"]);
    let sample = sample().display().to_string();
    let project = |rest: &str| format!("(version: 1, checkpoint: \"{sample}\", {rest})");
    for (text, said) in [
        ("(version: 1, chekpoint: \"m\")".to_owned(), "chekpoint"),
        ("(version: 99, checkpoint: \"m\")".to_owned(), "newer Lapidary"),
        ("(version: 1, checkpoint: \"gone\")".to_owned(), "gone"),
        (project("target: \"floppy\""), "floppy"),
        (project("plan: {\"*.absent\": (steps: [(method: \"keep\")])}"), "*.absent"),
        (
            project(
                "plan: {\"lm_head.weight\": (steps: [(method: \"round-to-nearest\", parameters: {\"bits\": 40})])}",
            ),
            "bits = 40",
        ),
        ("(version".to_owned(), "p.ron"),
    ] {
        write("p.ron", text.as_bytes());
        fails(&run(home.path(), ["compress", "p.ron"]), 2, &[said]);
    }
    assert_eq!(names_in(home.path()), ["garbage.safetensors", "p.ron"], "nothing is left");
}

#[test]
fn every_project_compresses_and_is_not_overwritten_unasked() {
    let home = TempDir::new().unwrap();
    let projects = names_in(&repository().join("projects"));
    assert!(projects.len() >= 3, "{projects:?}");
    for name in projects {
        let project = repository().join("projects").join(&name);
        let out = home.path().join(&name);
        let compress = |options: &[&str]| {
            let mut arguments = vec![OsStr::new("compress").to_owned(), project.clone().into()];
            arguments.extend([OsStr::new("--out").to_owned(), out.clone().into()]);
            arguments.extend(options.iter().map(Into::into));
            run(home.path(), arguments)
        };
        let first = compress(&[]);
        let printed = works(&first);
        assert!(printed.contains("proved"), "{printed}");
        assert!(printed.contains(&*out.join(REPORT).to_string_lossy()));
        let report: Value = serde_json::from_slice(&read(&out.join(REPORT))).unwrap();
        let on_disk: u64 = disk::list_files(&out)
            .unwrap()
            .iter()
            .filter(|(name, _)| name != REPORT && name != "lapidary-report.html")
            .map(|(_, bytes)| bytes)
            .sum();
        assert_eq!(report["totals"]["total_bytes"], on_disk);
        fails(&compress(&[]), 2, &["already exists", "--force"]);
        assert_eq!(works(&compress(&["--force"])), printed);
    }
}

#[test]
fn demo_works_without_a_display_on_an_empty_machine() {
    let home = TempDir::new().unwrap();
    let out = home.path().join("result");
    // Twice: the second replaces the first.
    for _ in 0..2 {
        let output = run(home.path(), [OsStr::new("demo"), OsStr::new("--out"), out.as_os_str()]);
        let printed = works(&output);
        assert!(printed.contains("model.layers.0.mlp.down_proj.weight"));
        assert!(printed.contains(&*out.join(REPORT).to_string_lossy()));
        assert!(printed.contains("no display"), "{printed}");
    }
    let report: Value = serde_json::from_slice(&read(&out.join(REPORT))).unwrap();
    assert_eq!(report["totals"]["compressed"], 42);
    assert!(home.path().join("home/assets/sample-books-6m").is_dir());
    // Without --out it goes to the program's own place.
    works(&run(home.path(), ["demo"]));
    assert!(home.path().join("home/demo").join(REPORT).is_file());
    // A folder of somebody else's is not replaced.
    let other = home.path().join("thesis");
    disk::write_file(&other.join("thesis.tex"), b"years of work").unwrap();
    let output = run(home.path(), [OsStr::new("demo"), OsStr::new("--out"), other.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("not written by Lapidary"));
    assert_eq!(names_in(&other), ["thesis.tex"]);
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_display_it_says_so_and_names_the_commands() {
    let home = TempDir::new().unwrap();
    fails(
        &run(home.path(), ["frobnicate"]),
        2,
        &["cannot open frobnicate: No such", "check the path"],
    );
    for arguments in [Vec::new(), vec![sample()]] {
        let output = run(home.path(), arguments);
        fails(
            &output,
            1,
            &["no display", "lapidary inspect", "lapidary compress", "lapidary demo"],
        );
    }
}

/// A project in `folder` that keeps a machine busy for a while.
fn long_project(folder: &Path) {
    let steps = "(steps: [(method: \"round-to-nearest\", parameters: {\"bits\": 8, \"group_size\": 16, \"clipping\": \"mse\"})])";
    let project = format!(
        "(version: 1, checkpoint: \"{}\", plan: {{\"*.weight\": {steps}}})",
        sample().display()
    );
    disk::write_file(&folder.join("long.ron"), project.as_bytes()).expect("a project");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_exit_1_and_leaves_finished_layers_only() {
    let home = TempDir::new().unwrap();
    let project = repository().join("projects/sample-sparse.ron");
    // A file may grow to 2,000 blocks of half a KiB: less than the weights, more than any layer.
    let script = "trap '' XFSZ; ulimit -f 2000; exec \"$0\" compress \"$1\" --out out";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_lapidary")])
        .arg(&project)
        .current_dir(home.path())
        .output()
        .unwrap();
    fails(&output, 1, &["cannot write", "model.safetensors", "nothing half-written was left"]);
    assert_eq!(names_in(home.path()), [".out.lapidary-work"]);
    assert_eq!(names_in(&home.path().join(".out.lapidary-work")), ["finished"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_exit_130_and_leaves_finished_layers_only() {
    let home = TempDir::new().unwrap();
    long_project(home.path());
    let mut child = lapidary(home.path())
        .args(["compress", "long.ron", "--out", "out"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The partial folder shows that the job has begun and listens.
    while names_in(home.path()).len() == 1 {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    fails(&output, 130, &["cancelled"]);
    let mut left = names_in(home.path());
    left.retain(|name| name != ".out.lapidary-work");
    assert_eq!(left, ["long.ron"]);
}
