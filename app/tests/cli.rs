//! The program from outside: exit codes, what stands on stdout and stderr, what is left on disk.

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

const HEADER_FIELDS: [&str; 7] = ["name", "shape", "dtype", "block", "role", "parameters", "bytes"];
const VALUE_FIELDS: [&str; 8] =
    ["mean", "std", "min", "max", "abs_max", "kurtosis", "outlier_fraction", "zeros"];
/// Beyond the contract: what is not finite is counted, and what bits carry.
const COUNT_FIELDS: [&str; 7] = [
    "nan",
    "positive_infinity",
    "negative_infinity",
    "mean_abs_deviation",
    "super_weights",
    "lossless_floor_bits",
    "narrowest_type",
];
const SPECTRUM_FIELDS: [&str; 3] = ["singular_values", "stable_rank", "effective_rank"];

#[test]
fn inspect_prints_one_json_array_with_the_promised_fields() {
    let home = TempDir::new().unwrap();
    let inspect = |options: &[&str]| {
        let mut arguments = vec![OsStr::new("inspect").to_owned(), sample().into()];
        arguments.extend(options.iter().map(Into::into));
        json(&run(home.path(), arguments))
    };
    let all = |sets: &[&[&'static str]]| -> BTreeSet<&str> { sets.concat().into_iter().collect() };

    let headers = inspect(&["--headers", "--json"]);
    assert_eq!(headers.len(), 57);
    for row in &headers {
        assert_eq!(keys(row), all(&[&HEADER_FIELDS]));
    }
    let rows = inspect(&["--json"]);
    assert_eq!(rows.len(), 57);
    for (row, header) in rows.iter().zip(&headers) {
        assert_eq!(keys(row), all(&[&HEADER_FIELDS, &VALUE_FIELDS, &COUNT_FIELDS]));
        for field in HEADER_FIELDS {
            assert_eq!(row[field], header[field]);
        }
        for field in VALUE_FIELDS {
            assert!(row[field].is_number(), "{field} of {}", row["name"]);
        }
    }
    let down =
        rows.iter().find(|row| row["name"] == "model.layers.3.mlp.down_proj.weight").unwrap();
    assert_eq!(down["shape"], serde_json::json!([256, 768]));
    assert_eq!(
        (&down["dtype"], &down["block"], &down["role"]),
        (&"BF16".into(), &3.into(), &"down".into())
    );
    assert_eq!((&down["parameters"], &down["bytes"]), (&196_608.into(), &393_216.into()));
    let embedding = rows.iter().find(|row| row["name"] == "model.embed_tokens.weight").unwrap();
    assert!(embedding["block"].is_null());

    let spectra = inspect(&["--spectrum", "--json"]);
    for row in &spectra {
        let fields: [&[&str]; 4] = [&HEADER_FIELDS, &VALUE_FIELDS, &COUNT_FIELDS, &SPECTRUM_FIELDS];
        assert_eq!(keys(row), all(&fields));
        let is_matrix = row["shape"].as_array().unwrap().len() == 2;
        let values = row["singular_values"].as_array();
        assert_eq!(
            values.map(Vec::len),
            is_matrix.then_some(if row["role"] == "k" || row["role"] == "v" { 128 } else { 256 })
        );
        assert_eq!(row["stable_rank"].is_number(), is_matrix);
        assert_eq!(row["effective_rank"].is_number(), is_matrix);
    }
}

#[test]
fn inspect_says_how_weights_are_arranged() {
    let home = TempDir::new().unwrap();
    let arguments = ["inspect", "--structure", "--json"].map(OsStr::new);
    let rows = json(&run(home.path(), [&arguments[..], &[sample().as_os_str()]].concat()));
    for row in &rows {
        let is_matrix = row["shape"].as_array().unwrap().len() == 2;
        assert_eq!(row["group_peaks"]["128"].is_number(), is_matrix, "{}", row["name"]);
        assert_eq!(row["largest"].as_array().map(Vec::len), is_matrix.then_some(32));
        assert!(row["lossless_floor_bits"].as_f64().unwrap() < 16.0);
        assert!(row["narrowest_type"].is_null(), "BF16 is what the sample needs");
        let shares = ["outliers_in_columns", "outliers_in_rows", "outliers_scattered"];
        let sum: f64 = shares.iter().filter_map(|share| row[share].as_f64()).sum();
        assert!(!is_matrix || sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{}", row["name"]);
    }
    let down =
        rows.iter().find(|row| row["name"] == "model.layers.3.mlp.down_proj.weight").unwrap();
    assert_eq!(down["hot_rows"], serde_json::json!([116]));
    let first = &down["largest"][0];
    assert_eq!((&first[0], &first[1]), (&116.into(), &514.into()));
    assert_eq!(first[2].as_f64().unwrap().abs(), down["abs_max"].as_f64().unwrap());
}

#[test]
fn inspect_without_json_prints_a_table() {
    let home = TempDir::new().unwrap();
    let output = run(home.path(), [OsStr::new("inspect"), sample().as_os_str()]);
    let table = works(&output);
    assert_eq!(table.lines().filter(|line| line.contains("BF16")).count(), 57);
    assert!(table.contains("model.layers.5.self_attn.o_proj.weight"));
    let headers =
        run(home.path(), [OsStr::new("inspect"), sample().as_os_str(), OsStr::new("--headers")]);
    assert!(!works(&headers).contains("kurtosis"));
}

/// The rows of `lapidary diff A B --json`.
fn diff(home: &Path, a: &Path, b: &Path) -> Vec<Value> {
    let arguments = [OsStr::new("diff"), a.as_os_str(), b.as_os_str(), OsStr::new("--json")];
    json(&run(home, arguments))
}

const DIFF_FIELDS: [&str; 8] = [
    "name",
    "shape",
    "relative_error",
    "cosine",
    "max_abs_difference",
    "changed",
    "bit_distance",
    "identical",
];

#[test]
fn diff_of_a_model_and_its_export_has_the_errors_of_the_report() {
    let home = TempDir::new().unwrap();
    let out = home.path().join("out");
    works(&run(home.path(), [OsStr::new("demo"), OsStr::new("--out"), out.as_os_str()]));
    let report: Value = serde_json::from_slice(&read(&out.join(REPORT))).unwrap();
    let rows = diff(home.path(), &sample(), &out);
    assert_eq!(rows.len(), 57);
    for (row, said) in rows.iter().zip(report["tensors"].as_array().unwrap()) {
        assert_eq!(keys(row), DIFF_FIELDS.into_iter().collect());
        for field in ["name", "shape", "relative_error"] {
            assert_eq!(row[field], said[field], "{}", row["name"]);
        }
        assert_eq!(row["identical"], said["stored"] == "copied");
        assert_eq!(row["bit_distance"].is_null(), said["stored"] == "native");
    }
    let arguments =
        [OsStr::new("diff"), sample().as_os_str(), out.as_os_str()].map(ToOwned::to_owned);
    let output = run(home.path(), arguments);
    let table = works(&output);
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("15 identical, 42 differ, 0 only in A, 0 only in B, total"), "{last}");
    assert_eq!(table.lines().count(), 59);
    // The other way round nothing is decoded, and it says so.
    let rows = diff(home.path(), &out, &sample());
    let row = rows.iter().find(|row| row["because"].is_string()).expect("a reason");
    assert!(row["because"].as_str().unwrap().contains("other way round"), "{row}");
    assert!(row["relative_error"].is_null() && row["identical"].is_null());
}

#[test]
fn diff_lists_what_only_one_side_has_and_what_cannot_be_compared() {
    let home = TempDir::new().unwrap();
    let file = |name: &str, tensors: &[(&str, &[f32])]| {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, values) in tensors {
            let begin = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let offsets = [begin, data.len()];
            let entry = serde_json::json!({"dtype": "F32", "shape": [values.len()], "data_offsets": offsets});
            header.insert((*name).to_owned(), entry);
        }
        let header = Value::from(header).to_string();
        let length = (header.len() as u64).to_le_bytes();
        let path = home.path().join(name);
        disk::write_file(&path, &[&length[..], header.as_bytes(), &data].concat()).unwrap();
        path
    };
    let a = file(
        "a.safetensors",
        &[("same", &[1.0]), ("w", &[3.0, 4.0]), ("long", &[1.0, 2.0]), ("mine", &[0.0])],
    );
    let b = file(
        "b.safetensors",
        &[("same", &[1.0]), ("w", &[3.0, 0.0]), ("long", &[1.0]), ("yours", &[0.0])],
    );
    let rows = diff(home.path(), &a, &b);
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).expect(name).clone();
    assert_eq!(rows.len(), 5);
    assert_eq!(row("mine"), serde_json::json!({"name": "mine", "only_in": "a"}));
    assert_eq!(row("yours"), serde_json::json!({"name": "yours", "only_in": "b"}));
    assert_eq!(
        (&row("same")["identical"], &row("same")["relative_error"]),
        (&true.into(), &0.0.into())
    );
    let w = row("w");
    assert_eq!((&w["relative_error"], &w["cosine"]), (&0.8.into(), &0.6.into()));
    assert_eq!((&w["changed"], &w["max_abs_difference"]), (&0.5.into(), &4.0.into()));
    assert!(row("long")["because"].as_str().unwrap().contains("shape [1]"));
    let output = run(home.path(), [OsStr::new("diff"), a.as_os_str(), b.as_os_str()]);
    let table = works(&output);
    assert!(table.contains("only in A") && table.contains("only in B"), "{table}");
    let wanted = "1 identical, 1 differ, 1 cannot be compared, 1 only in A, 1 only in B";
    assert!(table.lines().last().unwrap().starts_with(wanted), "{table}");
    fails(&run(home.path(), ["diff", "a.safetensors", "nowhere"]), 2, &["nowhere"]);
    assert_eq!(run(home.path(), ["diff", "a.safetensors"]).status.code(), Some(2));
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
            .filter(|(name, _)| name != REPORT)
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
fn a_full_disk_is_exit_1_and_leaves_nothing() {
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
    assert!(names_in(home.path()).is_empty(), "{:?}", names_in(home.path()));
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_exit_130_and_leaves_nothing() {
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
    assert_eq!(names_in(home.path()), ["long.ron"]);
}
