//! `convert --type`: GGUF files written again with tensors in other types; `inspect` of what they hold.

use std::process::Command;

use lapidary_engine::disk;
use tempfile::TempDir;

use crate::{fails, names_in, read, run, sample, text, works};

#[test]
fn gguf_files_are_inspected_and_given_other_types() {
    let home = TempDir::new().unwrap();
    let at = |name: &str| home.path().join(name);
    let project = format!(
        "(version: 1, checkpoint: {:?}, target: \"gguf\", plan: {{\n\
         \"*_proj.weight\": (steps: [(method: \"gguf-blocks\", parameters: {{\"type\": \"Q8_0\"}})]),\n}})\n",
        sample().display().to_string()
    );
    disk::write_file(&at("p.ron"), project.as_bytes()).unwrap();
    works(&run(home.path(), ["compress", "p.ron", "--out", "first"]));
    let file = "first/sample-books-6m.gguf";

    let table = run(home.path(), ["inspect", file, "--json"]);
    let rows: serde_json::Value = serde_json::from_str(works(&table)).unwrap();
    let down = "model.layers.1.mlp.down_proj.weight";
    let of = |name: &str| {
        let all = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
        all.cloned().unwrap_or_else(|| panic!("no {name}"))
    };
    let row = of(down);
    assert_eq!((&row["dtype"], &row["bits"]), (&"Q8_0".into(), &8.5.into()));
    assert_eq!(row["shape"], serde_json::json!([256, 768]));
    assert_eq!((&row["parameters"], &row["bytes"]), (&196_608.into(), &208_896.into()));
    assert!(row["std"].as_f64().is_some_and(|std| (0.001..1.0).contains(&std)), "{row}");
    assert!(of("model.norm.weight").get("bits").is_none());

    let done = run(
        home.path(),
        [
            "convert",
            file,
            "--target",
            "gguf",
            "--type",
            "Q4_K",
            "--shard-size",
            "800kB",
            "--out",
            "second",
        ],
    );
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("Q8_0 already, and encoded again"));
    assert!(text(&done.stdout).contains("\nproved: "));
    let parts = names_in(&at("second"));
    let part = parts.iter().find(|name| name.starts_with("sample-books-6m-00002-of-")).unwrap();
    let part = format!("second/{part}");
    let table = run(home.path(), ["inspect", &part, "--headers", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(works(&table)).unwrap();
    let kinds: std::collections::BTreeSet<&str> =
        rows.as_array().unwrap().iter().filter_map(|row| row["dtype"].as_str()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["F32", "Q4_K"]);
    let found = run(home.path(), ["verify", "second", "--source", file]);
    assert!(works(&found).contains("\nproved: "));
    // Both against each other, and the recipe of what was made.
    works(&run(home.path(), ["diff", file, &part]));
    let model = sample().display().to_string();
    let to = ["recipe", "recover", &part, "--model", &model, "--out", "r.ron"];
    works(&run(home.path(), to));
    let recipe = String::from_utf8(read(&at("r.ron"))).unwrap();
    assert!(recipe.contains("gguf-blocks") && !recipe.contains("round-to-nearest"), "{recipe}");
}

#[test]
fn a_calibration_counts_for_all_layers_but_the_embedding() {
    let home = TempDir::new().unwrap();
    let project = format!(
        "(version: 1, checkpoint: {:?}, target: \"gguf\", plan: {{}})\n",
        sample().display().to_string()
    );
    disk::write_file(&home.path().join("p.ron"), project.as_bytes()).unwrap();
    works(&run(home.path(), ["compress", "p.ron", "--out", "first"]));
    let file = "first/sample-books-6m.gguf";
    let held_out = sample().join("heldout_oz.txt").display().to_string();
    let text = ["calibrate", file, "--text", &held_out, "--tokens", "600", "--json"];
    works(&run(home.path(), text));
    let to = ["convert", file, "--target", "gguf", "--type", "Q3_K", "--weighted", "--out", "w"];
    works(&run(home.path(), to));
    let report = read(&home.path().join("w/lapidary-report.json"));
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let method = |name: &str| {
        let all = report["tensors"].as_array().unwrap().iter();
        let of = { all }.find(|tensor| tensor["name"] == name).expect("a tensor");
        (of["method"].as_str().unwrap_or_default().to_owned(), of["output_error"].as_f64())
    };
    let (down, lost) = method("model.layers.1.mlp.down_proj.weight");
    assert_eq!(down, "Q3_K gptq");
    assert!(lost.is_some_and(|lost| (0.001..0.2).contains(&lost)), "{lost:?}");
    assert_eq!(method("model.embed_tokens.weight"), ("Q3_K".to_owned(), None));
}

#[test]
fn what_a_gguf_file_cannot_become_is_said() {
    let home = TempDir::new().unwrap();
    let at = |name: &str| home.path().join(name);
    let project = format!(
        "(version: 1, checkpoint: {:?}, target: \"gguf\", plan: {{}})\n",
        sample().display().to_string()
    );
    disk::write_file(&at("p.ron"), project.as_bytes()).unwrap();
    works(&run(home.path(), ["compress", "p.ron", "--out", "first"]));
    let file = "first/sample-books-6m.gguf";
    let convert = |more: &[&str]| {
        let arguments = ["convert", file, "--out", "out", "--target"];
        run(home.path(), arguments.iter().chain(more))
    };
    fails(&convert(&["mlx"]), 2, &["is a GGUF file", "--type"]);
    fails(&convert(&["gguf"]), 2, &["is a GGUF file", "Q4_K"]);
    fails(&convert(&["gguf", "--type", "Q9_9"]), 2, &["Q9_9", "Q4_K"]);
    fails(&convert(&["gguf", "--type", "Q4_K", "--weighted"]), 2, &["calibrat"]);
    let whole = sample().display().to_string();
    let folder = ["convert", &whole, "--target", "gguf", "--type", "Q4_K", "--out", "out"];
    fails(&run(home.path(), folder), 2, &["no GGUF file"]);
    // In place of a project, too.
    let lone = run(home.path(), ["compress", file, "--out", "out"]);
    fails(&lone, 2, &["is a GGUF file, not a project", "lapidary convert", "--type"]);
    let folder = run(home.path(), ["compress", &whole, "--out", "out"]);
    fails(&folder, 2, &["is a model, not a project", "lapidary plan"]);
    assert!(!at("out").exists());
    // A project on it for another target says which one takes it, and one for llama.cpp is carried out.
    let of = |target: &str| {
        format!(
            "(version: 1, checkpoint: {file:?}, target: {target:?}, plan: {{\n\
             \"*.down_proj.weight\": (steps: [(method: \"microscaling\", parameters: {{\"format\": \"nvfp4\"}})]),\n}})\n"
        )
    };
    disk::write_file(&at("mlx.ron"), of("mlx").as_bytes()).unwrap();
    fails(&run(home.path(), ["compress", "mlx.ron", "--out", "out"]), 2, &["target gguf"]);
    disk::write_file(&at("gguf.ron"), of("gguf").as_bytes()).unwrap();
    let done = run(home.path(), ["compress", "gguf.ron", "--out", "small"]);
    assert!(works(&done).contains("NVFP4"));
    // The same file, where everything has its type already.
    let done = convert(&["gguf", "--type", "BF16"]);
    works(&done);
    assert!(read(&at("out/sample-books-6m.gguf")) == read(&at(file)));
}

#[test]
fn a_file_of_many_parts_needs_few_open_files() {
    let home = TempDir::new().unwrap();
    let project = format!(
        "(version: 1, checkpoint: {:?}, target: \"gguf\", plan: {{}})\n",
        sample().display().to_string()
    );
    disk::write_file(&home.path().join("p.ron"), project.as_bytes()).unwrap();
    works(&run(home.path(), ["compress", "p.ron", "--out", "first", "--shard-size", "60kB"]));
    let names = names_in(&home.path().join("first"));
    let parts: Vec<&String> = names.iter().filter(|name| name.contains("-of-")).collect();
    assert!(parts.len() > 40, "{}", parts.len());
    let script = "ulimit -n 32 && exec \"$0\" inspect --headers \"$1\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_lapidary")])
        .arg(home.path().join("first").join(parts[7]))
        .env("LAPIDARY_HOME", home.path().join("home"))
        .output()
        .unwrap();
    assert!(works(&output).contains("lm_head.weight"));
}
