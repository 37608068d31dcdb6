//! `lapidary plan`: budgets of bits and bytes, floors, what it refuses.

use serde_json::Value;
use tempfile::TempDir;

use crate::{fails, run, sample, works};

#[test]
fn a_budget_becomes_a_project_that_evaluates_and_keeps_it() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let out = home.path().join("plan.ron").display().to_string();
    let arguments = ["plan", &sample, "--bits", "5", "--score", "weights", "--out", &out, "--json"];
    let output = run(home.path(), arguments);
    let found: Value = serde_json::from_str(works(&output)).unwrap();
    let bits = found["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 5.0 && bits > 4.9, "{bits}");
    assert_eq!((&found["solver"], &found["within_bytes"]), (&"knapsack".into(), &0.into()));
    assert_eq!(found["units"].as_array().unwrap().len(), 25);
    let size = ["plan", &sample, "--size", "5MB", "--score", "weights", "--floor", "down=8"];
    let lines = run(home.path(), size);
    let text = works(&lines);
    assert!(text.contains("4-bit g128 everywhere") && text.contains("MB for"), "{text}");
    assert!(!text.contains("3-bit g128 everywhere"), "the target holds none: {text}");
    let again = run(home.path(), ["plan", &out, "--bits", "4.2", "--score", "weights"]);
    assert!(works(&again).contains("4.1"), "of a project");
}

#[test]
fn memory_is_a_budget_that_counts_keys_and_values() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let arguments = ["plan", &sample, "--memory", "6MB", "--context", "256", "--score", "weights"];
    let found: Value =
        serde_json::from_str(works(&run(home.path(), arguments.iter().chain(&["--json"]))))
            .unwrap();
    let memory = |name: &str| found["memory"][name].as_u64().unwrap();
    assert_eq!(memory("cache_bytes"), 6 * 2 * 2 * 64 * 2 * 256);
    assert!(memory("weight_bytes") + memory("cache_bytes") <= 6_000_000);
    assert!(memory("active_bytes_per_token") < memory("weight_bytes"));
    let lines = run(home.path(), arguments);
    assert!(works(&lines).contains("keys and values of 256 tokens 786"), "{lines:?}");
    let few = ["plan", &sample, "--memory", "1MB", "--score", "weights"];
    fails(&run(home.path(), few), 2, &["keys and values", "more memory"]);
}

#[test]
fn any_assignment_is_a_candidate_and_only_what_the_choice_hangs_on_is_measured() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let text = home.path().join("a.txt");
    let words = "The river ran down to the mill. ".repeat(30);
    lapidary_engine::disk::write_file(&text, words.as_bytes()).unwrap();
    let text = text.display().to_string();
    let chain = "round-to-nearest bits=4 group_size=32";
    let common = ["plan", &sample, "--bits", "6", "--target", "mlx", "--candidates", "3,4,8"];
    let more = ["--candidate", chain, "--score", "weights", "--text", &text, "--tokens", "64"];
    let all = || common.iter().chain(&more);
    let lines = run(home.path(), all());
    assert!(works(&lines).contains("4-bit g32 everywhere"), "{lines:?}");
    let refined = run(home.path(), all().chain(&["--refine", "--json"]));
    let found: Value = serde_json::from_str(works(&refined)).unwrap();
    let count = |name: &str| found[name].as_u64().unwrap();
    let (measured, candidates) = (count("measured_candidates"), count("candidates"));
    assert_eq!(candidates, 44 * 4);
    assert!(measured > 20 && measured < candidates, "{measured}");
    let arguments = ["plan", &sample, "--bits", "4", "--refine"];
    fails(&run(home.path(), arguments), 2, &["--text"]);
    let wrong = ["plan", &sample, "--bits", "4", "--candidate", "gptk bits=3"];
    fails(&run(home.path(), wrong), 2, &["gptk"]);
}

#[test]
fn what_cannot_be_planned_is_one_line() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let plan = |more: &[&str]| run(home.path(), ["plan", &sample].iter().chain(more));
    fails(&plan(&["--bits", "0.5", "--score", "weights"]), 2, &["bytes"]);
    fails(&plan(&["--size", "3 parsecs", "--score", "weights"]), 2, &["3 parsecs", "3.2MB"]);
    fails(&plan(&["--bits", "4", "--score", "outputs"]), 2, &["calibrat"]);
    fails(&plan(&["--bits", "4", "--solver", "guess"]), 2, &["guess", "knapsack"]);
    fails(&plan(&["--bits", "4", "--method", "gptq"]), 2, &["calibrat"]);
    fails(&plan(&["--bits", "4", "--floor", "nose=3"]), 2, &["nose=3"]);
}
