//! What is said: numbers that are the same wherever they stand, reasons, the singular.

use std::path::Path;

use lapidary_engine::disk;
use serde_json::Value;
use tempfile::TempDir;

use crate::{REPORT, fails, read, run, sample, text, works};

/// Writes a project of the sample.
fn project(home: &Path, target: &str, plan: &str) {
    let source = sample().canonicalize().expect("the sample").display().to_string();
    let said =
        format!("(version: 1, checkpoint: {source:?}, target: {target:?}, plan: {{{plan}}})");
    disk::write_file(&home.join("p.ron"), said.as_bytes()).expect("a project");
}

#[test]
fn squeezed_folders_say_that_they_are() {
    let home = TempDir::new().unwrap();
    let model = sample().display().to_string();
    works(&run(home.path(), ["squeeze", &model, "--out", "sq"]));
    let mend = ["sq is squeezed", "lapidary unpack sq --out FOLDER"];
    fails(&run(home.path(), ["inspect", "sq"]), 2, &mend);
    fails(&run(home.path(), ["inspect", "sq/model.safetensors.squeezed"]), 2, &mend[1..]);
    fails(&run(home.path(), ["verify", "sq", "--source", &model]), 2, &mend);
    let recover = ["recipe", "recover", "sq", "--model", &model, "--out", "again.ron"];
    fails(&run(home.path(), recover), 2, &mend);
    let said = run(home.path(), ["unpack", "sq", "--out", "back"]);
    assert!(works(&said).starts_with("1 weight file, to the bit as it was, in back"));
    works(&run(home.path(), ["inspect", "back", "--headers"]));
}

#[test]
fn the_bytes_of_weight_files_are_the_same_everywhere() {
    let home = TempDir::new().unwrap();
    let four = r#""*_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4, "group_size": 32})])"#;
    for (target, file) in
        [("compressed-tensors", "model.safetensors"), ("gguf", "sample-books-6m.gguf")]
    {
        project(home.path(), target, four);
        let checked = run(home.path(), ["check", "p.ron", "--json"]);
        let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
        let lines = run(home.path(), ["compress", "p.ron", "--force", "--out", "out"]);
        let written = home.path().join("out").join(file);
        let bytes = std::fs::metadata(&written).unwrap().len();
        assert_eq!(checked["weight_file_bytes"], bytes, "{target}");
        let report = read(&home.path().join("out").join(REPORT));
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["totals"]["weight_file_bytes"], bytes, "{target}");
        let said = format!("weight files 11.5 MB → {:.2} MB", bytes as f64 / 1e6);
        assert!(works(&lines).contains(&said), "{said}: {lines:?}");
    }
    // Of a conversion, what lies on disk is what it was made from.
    let from = std::fs::metadata(home.path().join("out/sample-books-6m.gguf")).unwrap().len();
    let asked = ["convert", "out", "--target", "gguf", "--type", "Q8_0", "--out", "again"];
    let lines = run(home.path(), asked);
    let said = format!("weight files {:.2} MB → ", from as f64 / 1e6);
    assert!(text(&lines.stdout).contains(&said), "{said}: {lines:?}");
}

#[test]
fn what_a_gguf_file_has_no_type_for_is_refused_with_the_reason() {
    let home = TempDir::new().unwrap();
    project(home.path(), "gguf", "");
    works(&run(home.path(), ["compress", "p.ron", "--out", "first"]));
    let convert = |kind: &str| {
        let asked = ["convert", "first", "--target", "gguf", "--out", "second", "--type", kind];
        run(home.path(), asked)
    };
    fails(&convert("2-of-4"), 2, &["2-of-4 prunes model.layers.0", "fewer bytes for zeros"]);
    let unknown = convert("q9");
    fails(&unknown, 2, &["Q4_K_M", "Q4_K"]);
    assert!(!text(&unknown.stderr).contains("2-of-4"), "{unknown:?}");
    assert!(!home.path().join("second").exists());
    assert_eq!(convert("Q4_K_M").status.code(), Some(0));
}

#[test]
fn one_of_a_kind_is_said_in_the_singular() {
    let home = TempDir::new().unwrap();
    let one = r#""model.layers.0.self_attn.q_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4})])"#;
    project(home.path(), "compressed-tensors", one);
    let output = run(home.path(), ["check", "p.ron"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("1 error keeps p.ron from export"), "{output:?}");
    let words = home.path().join("a.txt");
    disk::write_file(&words, "The river ran down to the mill. ".repeat(4).as_bytes()).unwrap();
    let model = sample().display().to_string();
    let output = run(home.path(), ["evaluate", &model, "--text", "a.txt"]);
    assert!(works(&output).contains("scored in 1 window of "), "{output:?}");
    let help = run(home.path(), ["inspect", "--help"]);
    let words: Vec<&str> = works(&help).split_whitespace().collect();
    let said = words.join(" ");
    assert!(said.contains("excess kurtosis") && said.contains("6 standard deviations"), "{said}");
    assert!(said.contains("4 standard deviations"), "{said}");
}
