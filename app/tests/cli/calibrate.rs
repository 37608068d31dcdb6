//! `lapidary calibrate`: what it prints, what it keeps, importance matrices out and in.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::{fails, lapidary, names_in, run, sample, text, works};

fn calibrate(home: &Path, more: &[&str]) -> std::process::Output {
    let sample = sample();
    let held_out = sample.join("heldout_oz.txt").display().to_string();
    let sample = sample.display().to_string();
    let arguments = ["calibrate", &sample, "--text", &held_out, "--tokens", "600"];
    run(home, arguments.iter().chain(more))
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(works(output)).expect("JSON")
}

#[test]
fn inputs_are_measured_kept_and_written_as_an_importance_matrix_that_is_read_again() {
    let home = TempDir::new().unwrap();
    let more = ["--sequence-length", "64", "--json", "--imatrix-out", "out.gguf"];
    let first = json(&calibrate(home.path(), &more));
    assert_eq!((&first["tokens"], &first["sequence_tokens"]), (&640.into(), &64.into()));
    let sites = first["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 6 * 4 + 1, "q k v, o, gate up, down of six blocks, and the head");
    let down = &sites[3];
    assert_eq!(down["layers"][0], "model.layers.0.mlp.down_proj.weight");
    assert_eq!((&down["channels"], &down["tokens"]), (&768.into(), &640.into()));
    let number = |site: &Value, name: &str| site[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    let rms = number(down, "rms");
    assert!(rms > 0.1 && number(down, "absmax") > rms && number(down, "kurtosis") > 3.0, "{down}");
    assert!(first["problems"][0].as_str().unwrap().contains("640 tokens, fewer than 1000"));
    let folder = first["folder"].as_str().unwrap().to_owned();
    assert!(names_in(Path::new(&folder)).contains(&"block-00005.gram.safetensors".to_owned()));
    assert_eq!(json(&calibrate(home.path(), &more)), first, "the second run reads the first");

    let sample = sample().display().to_string();
    let arguments = ["calibrate", &sample, "--imatrix", "out.gguf", "--json"];
    let second = json(&run(home.path(), arguments));
    let imported = second["sites"].as_array().unwrap();
    assert_eq!(imported.len(), 6 * 7 + 1, "one a layer");
    assert!(second["folder"] != first["folder"] && imported[0]["absmax"].is_null());
    let found = imported.iter().find(|site| site["layers"][0] == down["layers"][0]).unwrap();
    assert!((number(found, "rms") - rms).abs() < 1e-5 * rms, "{found}");
}

#[test]
fn the_table_has_a_line_for_each_input_and_no_gram_matrix_is_kept_unasked() {
    let home = TempDir::new().unwrap();
    let output = calibrate(home.path(), &["--no-gram", "--sequence-length", "64"]);
    let lines: Vec<&str> = works(&output).lines().collect();
    assert!(lines[0].starts_with("layers") && lines[0].contains("kurtosis"), "{}", lines[0]);
    assert!(lines[1].starts_with("model.layers.0.self_attn.q_proj.weight and 2 more"));
    assert!(lines.iter().any(|line| line.contains("fewer than 1000")));
    let kept = lines.last().unwrap();
    assert!(kept.starts_with("heldout_oz.txt, 640 tokens in sequences of 64; kept in "), "{kept}");
    let folder = kept.split("kept in ").nth(1).unwrap();
    assert!(names_in(Path::new(folder)).iter().all(|name| !name.contains("gram")));
}

#[test]
fn behind_the_plan_of_a_project_later_blocks_receive_something_else() {
    let home = TempDir::new().unwrap();
    let project = sample().join("../../projects/sample-4-bit.ron").display().to_string();
    let held_out = sample().join("heldout_oz.txt").display().to_string();
    let arguments = ["calibrate", &project, "--text", &held_out, "--tokens", "600", "--json"];
    let plain = json(&run(home.path(), arguments));
    let behind = json(&run(home.path(), arguments.iter().copied().chain(["--behind-plan"])));
    assert_ne!(plain["folder"], behind["folder"]);
    let rms = |report: &Value, site: usize| report["sites"][site]["rms"].as_f64().unwrap();
    assert_eq!(rms(&plain, 3), rms(&behind, 3), "nothing stands before the first block");
    assert_ne!(rms(&plain, 23), rms(&behind, 23));
    let output = calibrate(home.path(), &["--behind-plan"]);
    fails(&output, 2, &["is not a project", "give a project (.ron)"]);
}

#[test]
fn what_cannot_be_calibrated_is_one_line() {
    let home = TempDir::new().unwrap();
    let output = calibrate(home.path(), &["--sequence-length", "4096"]);
    fails(&output, 2, &["4096 tokens", "context of 256", "shorter"]);
    let sample = sample().display().to_string();
    let output = run(home.path(), ["calibrate", &sample, "--text", "nowhere.txt"]);
    fails(&output, 2, &["nowhere.txt"]);
    let output = lapidary(home.path()).args(["calibrate", &sample]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

/// A project of GPTQ for every layer of the blocks.
fn gptq_project(folder: &Path) -> String {
    let sample = sample().display().to_string();
    let plan =
        r#"{"model.layers.*_proj.weight": (steps: [(method: "gptq", parameters: {"bits": 4})])}"#;
    let project = format!("(version: 2, checkpoint: {sample:?}, target: \"dense\", plan: {plan})");
    let path = folder.join("gptq.ron");
    lapidary_engine::disk::write_file(&path, project.as_bytes()).expect("a folder of the test");
    path.display().to_string()
}

#[test]
fn a_plan_that_needs_data_takes_the_calibration_of_its_model() {
    let home = TempDir::new().unwrap();
    let project = gptq_project(home.path());
    let compress = |more: &[&str]| {
        let arguments = ["compress", &project, "--out", "out", "--force"];
        run(home.path(), arguments.iter().chain(more))
    };
    let missing = ["q_proj.weight", "Gram matrix", "lapidary calibrate"];
    fails(&compress(&[]), 2, &missing);
    works(&calibrate(home.path(), &["--no-gram", "--sequence-length", "64"]));
    fails(&compress(&[]), 2, &missing);
    let kept = json(&calibrate(home.path(), &["--sequence-length", "64", "--json"]));
    let kept = kept["folder"].as_str().unwrap().to_owned();
    let output = compress(&[]);
    let printed = works(&output);
    assert!(printed.contains("calibrated with heldout_oz.txt, 640 tokens"), "{printed}");
    assert!(printed.contains("gptq") && printed.contains("proved"), "{printed}");
    works(&compress(&["--calibration", &kept]));
    fails(&compress(&["--calibration", "out"]), 2, &["out is no calibration"]);
    let text = home.path().join("text.txt");
    lapidary_engine::disk::write_file(&text, b"It was a dark and stormy night.").unwrap();
    let text = text.display().to_string();
    let evaluated = json(&run(home.path(), ["evaluate", &project, "--text", &text, "--json"]));
    assert!(evaluated["mean_kl"].as_f64().unwrap() > 0.0, "{evaluated}");
}

#[test]
fn what_was_measured_behind_one_plan_is_not_taken_for_another() {
    let home = TempDir::new().unwrap();
    let project = gptq_project(home.path());
    let other = lapidary_engine::disk::read_text(Path::new(&project), 1 << 16).unwrap();
    let three = home.path().join("three.ron");
    let other = other.replace("\"bits\": 4", "\"bits\": 3");
    lapidary_engine::disk::write_file(&three, other.as_bytes()).unwrap();
    let three = three.display().to_string();
    let held_out = sample().join("heldout_oz.txt").display().to_string();
    let arguments = ["calibrate", &project, "--text", &held_out, "--tokens", "640"];
    let more = ["--sequence-length", "64", "--sequential"];
    works(&run(home.path(), arguments.iter().chain(&more)));
    let compress =
        |project: &str| run(home.path(), ["compress", project, "--out", "out", "--force"]);
    let output = compress(&project);
    assert!(works(&output).contains("in turn"), "its own plan takes it");
    fails(&compress(&three), 2, &["no finished calibration", "lapidary calibrate"]);
    works(&calibrate(home.path(), &["--sequence-length", "64"]));
    let output = compress(&three);
    assert!(!works(&output).contains("in turn"), "the one behind the original");
}
