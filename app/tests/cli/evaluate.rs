//! `lapidary evaluate` from outside.

use std::path::Path;

use lapidary_engine::disk;
use serde_json::Value;
use tempfile::TempDir;

use crate::{fails, repository, run, sample, text, works};

fn evaluate(home: &Path, model: &Path, options: &[&str]) -> std::process::Output {
    let model = model.display().to_string();
    run(home, [&["evaluate", model.as_str()], options].concat())
}

fn heldout() -> String {
    sample().join("heldout_oz.txt").display().to_string()
}

#[test]
fn the_sample_and_a_plan_on_it_have_their_figures() {
    let home = TempDir::new().unwrap();
    let text = heldout();
    let options = ["--text", &text, "--tokens", "2048", "--json"];
    let alone: Value =
        serde_json::from_str(works(&evaluate(home.path(), &sample(), &options))).unwrap();
    let perplexity = alone["perplexity"].as_f64().unwrap();
    assert!((10.0..40.0).contains(&perplexity), "{perplexity}");
    assert_eq!(alone["tokens"], 2040, "the first token of eight windows of 256 is not scored");
    let nats = alone["nats_per_token"].as_f64().unwrap();
    assert!((nats.exp() - perplexity).abs() < 1e-9);
    assert!(alone["bits_per_character"].as_f64().unwrap() > 0.5);
    assert!(alone["perplexity_error"].as_f64().unwrap() > 0.0);
    assert!(alone["mean_kl"].is_null() && alone["flip_rate"].is_null());

    let project = repository().join("projects/sample-4-bit.ron");
    let options =
        [&options[..], &["--layers", "--blocks", "--prompt", "The old man", "--generate", "8"]]
            .concat();
    let planned: Value =
        serde_json::from_str(works(&evaluate(home.path(), &project, &options))).unwrap();
    let value = |name: &str| planned[name].as_f64().unwrap_or(f64::NAN);
    assert!(value("mean_kl") > 1e-4 && value("kl_p99") > value("mean_kl"), "{planned}");
    assert!(value("flip_rate") > 0.0 && value("flip_rate") < 0.5);
    assert!(value("top5_overlap") < 1.0 && value("overlap") < 1.0);
    assert!((value("reference_perplexity") - perplexity).abs() < 1e-9);
    let layers = planned["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 42);
    assert!(layers.iter().any(|layer| layer["output_error"].as_f64().unwrap() > 0.01));
    assert_eq!(planned["blocks"].as_array().unwrap().len(), 6);
    let continuation = &planned["continuation"];
    assert!(!continuation["text"].as_str().unwrap().is_empty(), "{continuation}");
    assert!(continuation["reference_text"].is_string());
}

#[test]
fn people_read_a_table_and_questions_are_answered() {
    let home = TempDir::new().unwrap();
    let questions = home.path().join("q.jsonl");
    let lines = "{\"question\": \"The sun rose in the\", \"choices\": [\"east\", \"zqxj vvk\"], \"answer\": 0}\n";
    disk::write_file(&questions, lines.as_bytes()).unwrap();
    let questions = questions.display().to_string();
    let (reference, heldout) = (sample().display().to_string(), heldout());
    let output = evaluate(
        home.path(),
        &sample(),
        &[
            "--text",
            &heldout,
            "--tokens",
            "512",
            "--reference",
            &reference,
            "--questions",
            &questions,
        ],
    );
    let said = works(&output);
    assert!(said.contains("perplexity") && said.contains("a tie with the reference"), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("the model") && line.contains("100 %")),
        "{said}"
    );
}

#[test]
fn what_cannot_be_scored_is_exit_2_with_one_line() {
    let home = TempDir::new().unwrap();
    let place = |name: &str| home.path().join(name);
    disk::write_file(&place("empty.txt"), b"  \n").unwrap();
    disk::write_file(&place("binary.txt"), b"\xff\xfe\x00\x01\x80").unwrap();
    disk::write_file(&place("short.txt"), b"It was a dark night.").unwrap();
    // Beside no config.json.
    let lone = place("lone").join("model.safetensors");
    disk::write_file(&lone, &crate::read(&sample().join("model.safetensors"))).unwrap();
    let heldout = heldout();
    let says = |model: &Path, options: &[&str], said: &[&str]| {
        fails(&evaluate(home.path(), model, options), 2, said);
    };
    says(&lone, &["--text", &heldout], &["config.json"]);
    says(&sample(), &["--text", "nowhere.txt"], &["nowhere.txt"]);
    says(&sample(), &["--text", "empty.txt"], &["empty.txt", "no text"]);
    says(&sample(), &["--text", "binary.txt"], &["binary.txt", "UTF-8"]);
    says(&sample(), &["--text", &heldout, "--layers"], &["--reference"]);
    says(&sample(), &["--text", &heldout, "--sequence-length", "1"], &["2 or more"]);
    let other = repository().join("tests/data/stories260K").display().to_string();
    says(&sample(), &["--text", "short.txt", "--reference", &other], &["vocabulary"]);
    let bare = place("bare");
    for name in ["config.json", "model.safetensors"] {
        disk::write_file(&bare.join(name), &crate::read(&sample().join(name))).unwrap();
    }
    says(&bare, &["--text", &heldout], &["no tokenizer.json"]);

    let output = evaluate(home.path(), &sample(), &["--text", "short.txt", "--json"]);
    let short: Value = serde_json::from_str(works(&output)).unwrap();
    assert_eq!(short["windows"], 1, "a text shorter than a window is one window");
    assert!(short["perplexity_error"].is_null());
    let usage = evaluate(home.path(), &sample(), &[]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
}
