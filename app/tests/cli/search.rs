//! `lapidary search`: generations, the budget, going on, what it refuses.

use serde_json::Value;
use tempfile::TempDir;

use crate::{fails, run, sample, works};

#[test]
fn a_search_keeps_the_budget_goes_on_and_becomes_a_project() {
    let home = TempDir::new().unwrap();
    let model = sample().display().to_string();
    let text = sample().join("heldout_oz.txt").display().to_string();
    let out = home.path().join("found.ron").display().to_string();
    let search = |more: &[&str]| {
        let arguments = [
            "search",
            &model,
            "--text",
            &text,
            "--target",
            "mlx",
            "--candidates",
            "3,4",
            "--score",
            "weights",
            "--offspring",
            "3",
            "--stages",
            "256:2,512:1",
            "--json",
        ];
        let output = run(home.path(), arguments.iter().chain(more));
        serde_json::from_str::<Value>(works(&output)).unwrap()
    };
    let two = search(&["--bits", "4", "--generations", "2", "--out", &out]);
    let bits = two["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 4.0 && bits > 3.7, "{bits}");
    let generations = two["generations"].as_array().unwrap();
    assert_eq!(generations.len(), 2);
    for generation in generations {
        let (parent, best) = (generation["parent"].as_f64(), generation["best"].as_f64());
        assert!(best.unwrap() > 0.0 && best <= parent, "{generation}");
        assert_eq!(generation["tokens"], 3 * 256 + 3 * 512);
    }
    let three = search(&["--bits", "4", "--generations", "3"]);
    assert_eq!(three["generations"].as_array().unwrap()[..2], generations[..]);
    // Of a project, from a choice that was found, in files of a size.
    let size = ["--size", "4MB", "--generations", "1", "--start", &out];
    let sized = search(&size);
    assert!(sized["weight_file_bytes"].as_u64().unwrap() <= 4_000_000);
    assert_eq!(sized["units"].as_array().unwrap().len(), two["units"].as_array().unwrap().len());
}

#[test]
fn what_cannot_be_searched_is_one_line() {
    let home = TempDir::new().unwrap();
    let model = sample().display().to_string();
    let text = sample().join("heldout_oz.txt").display().to_string();
    let search =
        |more: &[&str]| run(home.path(), ["search", &model, "--bits", "4"].iter().chain(more));
    fails(&search(&[]), 2, &["--text"]);
    fails(&search(&["--text", &text, "--stages", "512:x"]), 2, &["512:x", "4096:1"]);
    fails(
        &search(&["--text", &text, "--stages", "512:2,1024:4", "--score", "weights"]),
        2,
        &["stages"],
    );
}
