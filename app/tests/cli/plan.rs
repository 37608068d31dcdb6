//! `lapidary plan`: budgets of bits and bytes, floors, what it refuses.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::{fails, run, sample, text, works};

/// Asserts exit code 0; returns stdout, and what stands on stderr.
#[track_caller]
fn told(output: &std::process::Output) -> (&str, &str) {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

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
    let (table, said) = told(&lines);
    assert!(table.contains("4-bit g128 everywhere") && table.contains("MB for"), "{table}");
    assert!(!table.contains("3-bit g128 everywhere"), "the target holds none: {table}");
    let left_out = "3-bit g128, 5-bit g128, 6-bit g128 are left out, as no layer can have them";
    assert!(said.contains(left_out), "{said}");
    let again = run(home.path(), ["plan", &out, "--bits", "4.2", "--score", "weights"]);
    assert!(told(&again).0.contains("4.1"), "of a project");
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
    assert!(told(&lines).0.contains("keys and values of 256 tokens 786"), "{lines:?}");
    too_few(home.path(), ["--memory", "1MB"], "more memory, ", " bytes at least");
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
    assert!(told(&lines).0.contains("4-bit g32 everywhere"), "{lines:?}");
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

/// A budget that is too small names one of its own kind, between two texts, that is not.
#[track_caller]
fn too_few(home: &Path, [kind, amount]: [&str; 2], before: &str, after: &str) {
    let model = sample().display().to_string();
    let plan = |amount: &str| run(home, ["plan", &model, "--score", "weights", kind, amount]);
    let few = plan(amount);
    fails(&few, 2, &["are too"]);
    let said = text(&few.stderr).lines().last().expect("a line");
    let (_, number) = said.split_once(before).unwrap_or_else(|| panic!("{before:?}: {said}"));
    let (number, _) = number.split_once(after).unwrap_or_else(|| panic!("{after:?}: {said}"));
    told(&plan(number));
    let least: f64 = number.parse().expect("a number");
    let less =
        if kind == "--bits" { format!("{:.3}", least - 0.001) } else { format!("{}", least - 1.0) };
    assert_eq!(plan(&less).status.code(), Some(2), "{number} is the least");
}

#[test]
fn budgets_that_are_too_small_name_one_that_will_do() {
    let home = TempDir::new().unwrap();
    too_few(home.path(), ["--size", "1MB"], "allow at least ", " bytes, lower");
    too_few(home.path(), ["--bits", "1"], "allow at least ", " bits, lower");
}

#[test]
fn a_plan_says_what_its_target_will_not_run_and_what_each_role_has() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let common = ["plan", &sample, "--bits", "3.2", "--score", "weights", "--target", "gptq"];
    let more = ["--candidates", "2,3,4"];
    let all = || common.iter().chain(&more);
    let lines = run(home.path(), all());
    let (table, said) = told(&lines);
    assert!(said.contains("warning: ") && said.contains("Marlin"), "{said}");
    let spread = table.lines().find_map(|line| line.strip_prefix("layers: ")).unwrap();
    let counts = spread.split(", ").map(|part| part.split_once(" × ").unwrap().0.parse::<usize>());
    let down = table.lines().find(|line| line.starts_with("down ")).unwrap();
    assert!(down.contains(" 6 ") && down.contains("-bit g128"), "{down}");
    let output = run(home.path(), all().chain(&["--json"]));
    let found: Value = serde_json::from_str(works(&output)).unwrap();
    let units = found["units"].as_array().unwrap().iter();
    let layers: usize = units.map(|unit| unit["layers"].as_array().unwrap().len()).sum();
    assert_eq!(counts.map(Result::unwrap).sum::<usize>(), layers, "{spread}");
    let problems = found["problems"].as_array().unwrap();
    assert!(problems.iter().any(|of| of["id"] == "slow-kernel"), "{problems:?}");
    assert_eq!(found["left_out"], serde_json::json!([]));
    let help = run(home.path(), ["plan", "--help"]);
    let words: Vec<&str> = works(&help).split_whitespace().collect();
    for about in lapidary_engine::allocator::SOLVERS.iter().map(|solver| solver.about()) {
        let line = format!("{}: {}", about.id, about.summary);
        assert!(words.join(" ").contains(&line), "{line:?}: {help:?}");
    }
}

#[test]
fn what_cannot_be_planned_is_one_line() {
    let home = TempDir::new().unwrap();
    let sample = sample().display().to_string();
    let plan = |more: &[&str]| run(home.path(), ["plan", &sample].iter().chain(more));
    fails(&plan(&["--bits", "0.5", "--score", "weights"]), 2, &["0.5 bits", "allow at least"]);
    let none = ["--bits", "4", "--score", "weights", "--candidates", "3,5"];
    fails(&plan(&none), 2, &["no layer can have any", "3-bit g128, 5-bit g128", "another target"]);
    fails(&plan(&["--size", "3 parsecs", "--score", "weights"]), 2, &["3 parsecs", "3.2MB"]);
    fails(&plan(&["--bits", "4", "--score", "outputs"]), 2, &["calibrat"]);
    fails(&plan(&["--bits", "4", "--solver", "guess"]), 2, &["guess", "knapsack"]);
    fails(&plan(&["--bits", "4", "--method", "gptq"]), 2, &["calibrat"]);
    fails(&plan(&["--bits", "4", "--floor", "nose=3"]), 2, &["nose=3"]);
}
