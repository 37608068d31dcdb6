//! `lapidary diff` from outside.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare;
use serde_json::Value;
use tempfile::TempDir;

use crate::{REPORT, fails, json, keys, read, run, sample, weights, works};

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
    // The other way round the first is decoded: the distance is the same, ‖A‖ another.
    let turned = diff(home.path(), &out, &sample());
    assert_eq!(turned.len(), rows.len());
    for row in &rows {
        let other = turned.iter().find(|other| other["name"] == row["name"]).expect("a row");
        assert_eq!(row["max_abs_difference"], other["max_abs_difference"], "{row}");
        assert_eq!(row["identical"], other["identical"], "{row}");
    }
}

#[test]
fn two_compressed_outputs_of_one_source_are_compared_as_they_decode() {
    let home = TempDir::new().unwrap();
    let output = |target: &str, bits: u32| {
        let source = sample().canonicalize().unwrap();
        let step = format!("(method: \"round-to-nearest\", parameters: {{\"bits\": {bits}}})");
        let plan = format!("\"*_proj.weight\": (steps: [{step}])");
        let text = format!(
            "(version: 1, checkpoint: {:?}, target: {target:?}, plan: {{{plan}}})",
            source.display().to_string()
        );
        lapidary_engine::disk::write_file(&home.path().join("p.ron"), text.as_bytes()).unwrap();
        let out = home.path().join(target);
        let asked = ["compress", "p.ron", "--out", &out.display().to_string()];
        assert_eq!(run(home.path(), asked).status.code(), Some(0));
        out
    };
    let (a, b) = (output("compressed-tensors", 8), output("gptq", 4));
    let rows = diff(home.path(), &a, &b);
    assert_eq!(rows.len(), 57, "layers, and none of their parts");
    let seen = |path: &Path| compare::held(Checkpoint::open(path).unwrap()).unwrap();
    let (a_seen, b_seen) = (seen(&a), seen(&b));
    for name in ["model.layers.0.mlp.down_proj.weight", "model.layers.5.self_attn.q_proj.weight"] {
        let values = |of: &Checkpoint| of.values(of.find(name).unwrap()).unwrap();
        let (a, b) = (values(&a_seen), values(&b_seen));
        let square = |value: f64| value * value;
        let norm: f64 = a.iter().map(|&a| square(f64::from(a))).sum();
        let apart: f64 = a.iter().zip(&b).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
        let row = rows.iter().find(|row| row["name"] == name).expect("a row");
        let found = row["relative_error"].as_f64().unwrap();
        assert!(found > 0.01 && (found - (apart / norm).sqrt()).abs() < 1e-9, "{row}");
    }
    let last = |a: &Path, b: &Path| {
        let output = run(home.path(), [OsStr::new("diff"), a.as_os_str(), b.as_os_str()]);
        works(&output).lines().last().unwrap().to_owned()
    };
    assert!(last(&a, &b).starts_with("15 identical, 42 differ, 0 only in A"), "{}", last(&a, &b));
    let same = "57 identical, 0 differ, 0 only in A, 0 only in B, total relative error 0";
    assert_eq!(last(&a, &a), same);
}

/// The sample calibrated, and every layer of its blocks by AWQ with scales that are folded.
fn folded_export(home: &Path) -> PathBuf {
    let sample = sample().display().to_string();
    let text = format!("{sample}/heldout_oz.txt");
    works(&run(home, ["calibrate", &sample, "--text", &text, "--tokens", "600"]));
    let plan = r#"{"model.layers.*_proj.weight": (steps: [(method: "awq", parameters: {"bits": 4, "group_size": 64, "scales": "folded"})])}"#;
    let project = format!(
        "(version: 2, checkpoint: {sample:?}, target: \"compressed-tensors\", plan: {plan})"
    );
    let path = home.join("awq.ron");
    lapidary_engine::disk::write_file(&path, project.as_bytes()).expect("a folder of the test");
    let out = home.join("out");
    let arguments = [OsStr::new("compress"), path.as_os_str(), OsStr::new("--out")];
    let output = run(home, [&arguments[..], &[out.as_os_str()]].concat());
    let printed = works(&output);
    assert!(printed.contains("42 layers compressed, 0 compressed but stored in full"), "{printed}");
    assert!(printed.contains("12 tensors changed beside them"), "{printed}");
    out
}

#[test]
fn diff_undoes_the_scales_that_an_export_folded_and_says_so() {
    let home = TempDir::new().unwrap();
    let out = folded_export(home.path());
    let report: Value = serde_json::from_slice(&read(&out.join(REPORT))).unwrap();
    let rows = diff(home.path(), &sample(), &out);
    let mut undone = 0;
    for (row, said) in rows.iter().zip(report["tensors"].as_array().unwrap()) {
        let (found, wanted) =
            (row["relative_error"].as_f64().unwrap(), said["relative_error"].as_f64().unwrap());
        assert!((found - wanted).abs() <= 1e-6 * wanted, "{row}: {wanted}");
        assert_eq!(row["scales_undone"] == true, said["stored"] == "native", "{row}");
        undone += usize::from(row["scales_undone"] == true);
    }
    assert_eq!(undone, 42);
    let arguments =
        [OsStr::new("diff"), sample().as_os_str(), out.as_os_str()].map(ToOwned::to_owned);
    let output = run(home.path(), &arguments);
    let last = works(&output).lines().last().unwrap().to_owned();
    assert!(last.contains("scales that the export folded undone in 42,"), "{last}");
    assert!(works(&output).contains("no, scales undone"));
    let source = sample();
    let arguments = [OsStr::new("verify"), out.as_os_str(), OsStr::new("--source")];
    works(&run(home.path(), [&arguments[..], &[source.as_os_str()]].concat()));
    // Layer by layer on the original's inputs, the export and the plan are as near as their weights.
    let text = source.join("heldout_oz.txt");
    let layers = |model: &Path, more: &[&OsStr]| {
        let text =
            [OsStr::new("--text"), text.as_os_str(), OsStr::new("--tokens"), OsStr::new("300")];
        let how = [
            OsStr::new("evaluate"),
            model.as_os_str(),
            OsStr::new("--layers"),
            OsStr::new("--json"),
        ];
        let output = run(home.path(), [&how[..], &text, more].concat());
        let found: Value = serde_json::from_str(works(&output)).unwrap();
        let layers = found["layers"].as_array().unwrap().clone();
        assert!(layers.len() >= 42, "{}", layers.len());
        layers.iter().map(|row| row["output_error"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    let most = layers(&out, &[OsStr::new("--reference"), source.as_os_str()]);
    assert!(most > 0.0 && most < 0.15, "{most}");
    let planned = layers(&home.path().join("awq.ron"), &[]);
    assert!((planned / most - 1.0).abs() < 0.05, "{planned}, {most}");
    // Without the report nobody knows of them, and nothing is undone.
    std::fs::remove_file(out.join(REPORT)).unwrap();
    let plain = diff(home.path(), &sample(), &out);
    assert!(plain.iter().all(|row| row["scales_undone"].is_null()));
    let far_off = rows.iter().zip(&plain).filter(|(undone, plain)| {
        let error = |row: &Value| row["relative_error"].as_f64().unwrap();
        undone["scales_undone"] == true && error(plain) > 1.2 * error(undone)
    });
    assert!(far_off.count() >= 10, "without it layers seem far off");
}

#[test]
fn diff_lists_what_only_one_side_has_and_what_cannot_be_compared() {
    let home = TempDir::new().unwrap();
    let (a, b) = (home.path().join("a.safetensors"), home.path().join("b.safetensors"));
    weights(
        &a,
        &[
            ("same", &[1], &[1.0]),
            ("w", &[2], &[3.0, 4.0]),
            ("long", &[2], &[1.0, 2.0]),
            ("mine", &[1], &[0.0]),
        ],
    );
    weights(
        &b,
        &[
            ("same", &[1], &[1.0]),
            ("w", &[2], &[3.0, 0.0]),
            ("long", &[1], &[1.0]),
            ("yours", &[1], &[0.0]),
        ],
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
    let wanted = "1 of 3 tensors that both have cannot be compared; of the others 1 identical, 1 differ, 1 only in A, 1 only in B";
    assert!(table.lines().last().unwrap().starts_with(wanted), "{table}");
    // 1 − 0.6: the table shows what small differences show in.
    assert!(table.contains("1 − cosine"), "{table}");
    let w = table.lines().find(|line| line.starts_with("w ")).unwrap();
    assert!(w.contains("0.4000") && !w.contains("0.6000"), "{w}");
    fails(&run(home.path(), ["diff", "a.safetensors", "nowhere"]), 2, &["nowhere"]);
    assert_eq!(run(home.path(), ["diff", "a.safetensors"]).status.code(), Some(2));
}

#[test]
fn diff_of_models_with_nothing_in_common_is_exit_2() {
    let home = TempDir::new().unwrap();
    let write = |name: &str, tensors: &[(&str, &[usize], &[f32])]| {
        weights(&home.path().join(name), tensors);
    };
    write("a.safetensors", &[("w", &[2], &[3.0, 4.0]), ("v", &[1], &[1.0])]);
    write("b.safetensors", &[("other", &[1], &[1.0])]);
    write("c.safetensors", &[("w", &[1], &[1.0]), ("other", &[1], &[1.0])]);
    for options in [&[][..], &["--json"]] {
        let diff = |b: &str| run(home.path(), [&["diff", "a.safetensors", b], options].concat());
        fails(
            &diff("b.safetensors"),
            2,
            &["no tensor of a.safetensors", "b.safetensors", "2 have no"],
        );
        fails(
            &diff("c.safetensors"),
            2,
            &["1 have no", "shape [1]", "two checkpoints of one model"],
        );
    }
}
