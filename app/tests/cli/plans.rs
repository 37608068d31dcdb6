//! `lapidary check`, `targets` and `recipe`.

use std::path::Path;

use serde_json::Value;

use crate::{repository, run};

fn project(folder: &Path, name: &str, target: &str, plan: &str) -> String {
    let path = folder.join(name);
    let sample = repository().join("assets/sample-books-6m").canonicalize().expect("the sample");
    let text = format!(
        "(version: 2, checkpoint: {:?}, target: {target:?}, plan: {{{plan}}})",
        sample.to_string_lossy()
    );
    lapidary_engine::disk::write_file(&path, text.as_bytes()).expect("a project");
    path.to_string_lossy().into_owned()
}

const FIVE: &str =
    r#""role:down": (steps: [(method: "round-to-nearest", parameters: {"bits": 5})])"#;
const UNEQUAL: &str =
    r#""role:q": (steps: [(method: "round-to-nearest", parameters: {"bits": 4})])"#;

#[test]
fn check_names_problems_and_mends_them() {
    let folder = tempfile::tempdir().unwrap();
    let legal = project(folder.path(), "five.ron", "compressed-tensors", FIVE);
    let output = run(folder.path(), ["check", &legal]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("warning: 6 layers: stored in full"), "{text}");
    assert!(text.contains("(--mend does it)") && text.contains("weight files take 11,5"), "{text}");

    let illegal = project(folder.path(), "unequal.ron", "compressed-tensors", UNEQUAL);
    let output = run(folder.path(), ["check", &illegal, "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["problems"].as_array().unwrap().len(), 6);
    assert_eq!(json["problems"][0]["id"], "unequal-fused");
    let mended = folder.path().join("mended.ron");
    let output = run(folder.path(), ["check", &illegal, "--mend", &mended.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("Mended: model.layers.0.self_attn"));
    assert_eq!(run(folder.path(), ["check", &mended.to_string_lossy()]).status.code(), Some(0));
    let out = folder.path().join("out");
    let output = run(folder.path(), ["compress", &illegal, "--out", &out.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(2), "an illegal plan never reaches export");
    assert!(!out.exists());
}

#[test]
fn targets_are_listed_with_every_rule() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), ["targets", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids: Vec<&str> = json.as_array().unwrap().iter().filter_map(|t| t["id"].as_str()).collect();
    assert_eq!(
        ids,
        [
            "dense",
            "compressed-tensors",
            "compressed-tensors-0.18",
            "compressed-tensors-int",
            "gptq",
            "gptq-v2",
            "auto-round",
            "awq",
            "aqlm",
            "spqr",
            "gguf",
            "mlx",
            "archive"
        ]
    );
    assert_eq!(json[1]["capabilities"]["kernel"]["inputs_multiple"], 128);
    for id in ["gptq", "gptq-v2", "awq", "aqlm", "spqr", "mlx"] {
        let target = json.as_array().unwrap().iter().find(|target| target["id"] == id).unwrap();
        assert_eq!(target["writes"], true, "{id}");
    }
    let table = String::from_utf8(run(folder.path(), ["targets"]).stdout).unwrap();
    assert!(table.contains("llama.cpp") && table.contains("HIGGS has no target"));
}

#[test]
fn recipes_travel_and_say_what_they_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let five = project(folder.path(), "five.ron", "dense", FIVE);
    let output = run(folder.path(), ["recipe", "write", &five, "--as", "tensor-types"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ffn_down"), "{text}");
    assert!(!output.stderr.is_empty(), "groups of 128 have no type of 5 bits");
    let recipe = folder.path().join("own.ron");
    let own = recipe.to_string_lossy();
    assert_eq!(
        run(folder.path(), ["recipe", "write", &five, "--as", "lapidary", "--out", &own])
            .status
            .code(),
        Some(0)
    );
    let again = folder.path().join("again.ron");
    let again = again.to_string_lossy();
    // Onto another model: roles travel, names need not be the same.
    let other = repository().join("tests/../assets/sample-books-6m");
    let model = other.to_string_lossy();
    let output = run(
        folder.path(),
        ["recipe", "read", &own, "--as", "lapidary", "--model", &model, "--out", &again],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("6 layers compressed"));
    let out = folder.path().join("packed");
    let packed = out.to_string_lossy();
    let four = repository().join("projects/sample-4-bit.ron");
    run(folder.path(), ["compress", &four.to_string_lossy(), "--out", &packed]);
    let output =
        run(folder.path(), ["recipe", "recover", &packed, "--model", &model, "--out", &again]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("42 layers compressed"));
    let output = run(folder.path(), ["recipe", "write", &five, "--as", "morse"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no recipe dialect \"morse\""));
    assert!(
        String::from_utf8(run(folder.path(), ["recipe", "list"]).stdout)
            .unwrap()
            .contains("evopress")
    );
}

const FOUR: &str =
    r#""*_proj.weight": (steps: [(method: "round-to-nearest", parameters: {"bits": 4})])"#;

#[test]
fn another_target_than_the_projects_takes_the_plan_it_has_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = project(folder.path(), "four.ron", "dense", FOUR);
    let compress = |target: &str| {
        let output = run(folder.path(), ["compress", &path, "--target", target]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let config = folder.path().join(format!("four-{target}/config.json"));
        let bytes = lapidary_engine::disk::read_bytes(&config, 1 << 20).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["quantization_config"].take()
    };
    let mlx = compress("mlx");
    assert_eq!((&mlx["bits"], &mlx["group_size"]), (&4.into(), &128.into()));
    assert_eq!(compress("gptq")["checkpoint_format"], "gptq");
    // What was written opens again, and runs.
    let looked = run(folder.path(), ["inspect", "four-gptq"]);
    assert_eq!(looked.status.code(), Some(0), "{looked:?}");
    // A plan of the project's own for the target goes before.
    let text = String::from_utf8(crate::read(Path::new(&path))).unwrap();
    let eight = FOUR.replace("\"bits\": 4", "\"bits\": 8");
    let text = text.trim_end().trim_end_matches(')').to_owned()
        + &format!(", plans: {{\"mlx\": {{{eight}}}}})");
    lapidary_engine::disk::write_file(Path::new(&path), text.as_bytes()).unwrap();
    std::fs::remove_dir_all(folder.path().join("four-mlx")).unwrap();
    assert_eq!(compress("mlx")["bits"], 8);
    let output = run(folder.path(), ["compress", &path, "--target", "floppy"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no target \"floppy\""));
}

#[test]
fn parts_are_taken_out_and_what_is_left_is_exported_and_proved() {
    let folder = tempfile::tempdir().unwrap();
    let sample = repository().join("assets/sample-books-6m").canonicalize().expect("the sample");
    let sample = sample.to_string_lossy().into_owned();
    let less = folder.path().join("less.ron").to_string_lossy().into_owned();
    let asked = ["remove", &sample, "--remove-blocks", "1,4", "--target", "dense", "--out", &less];
    let output = run(folder.path(), asked);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("blocks 1 and 4 taken out"), "{said}");
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let output = run(folder.path(), ["compress", &less, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("2 of 6 blocks taken out: 1 and 4"), "{said}");
    let output = run(folder.path(), ["verify", &out, "--source", &sample, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["faults"].as_array().map(Vec::len), Some(0));
    let output = run(folder.path(), ["diff", &sample, &out]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("B is without blocks 1 and 4 of A"), "{said}");
    // What cannot be, is refused in a sentence, and nothing is written.
    let none = folder.path().join("none.ron").to_string_lossy().into_owned();
    for (blocks, words) in [
        ("0-5", "leave at least one block"),
        ("6", "there is no block 6"),
        ("x", "write blocks as"),
    ] {
        let output =
            run(folder.path(), ["remove", &sample, "--remove-blocks", blocks, "--out", &none]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words), "{said}");
        assert!(!Path::new(&none).exists());
    }
    // Back again, and the project is one that older programs read.
    let back = folder.path().join("back.ron").to_string_lossy().into_owned();
    let output = run(folder.path(), ["remove", &less, "--put-back", "--out", &back]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = lapidary_engine::disk::read_text(Path::new(&back), 1 << 20).unwrap();
    assert!(text.contains("version: 2") && !text.contains("removed"), "{text}");
}

#[test]
fn the_blocks_that_do_least_are_found_by_running_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let sample = repository().join("assets/sample-books-6m").canonicalize().expect("the sample");
    let text = sample.join("heldout_oz.txt").to_string_lossy().into_owned();
    let sample = sample.to_string_lossy().into_owned();
    let asked =
        ["remove", &sample, "--text", &text, "--tokens", "256", "--least-blocks", "2", "--json"];
    let output = run(folder.path(), asked);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let influences = json["influences"]["blocks"].as_array().unwrap();
    let influences: Vec<f64> = influences.iter().filter_map(Value::as_f64).collect();
    assert!(
        influences.len() == 6 && influences.iter().all(|of| (0.0..=2.0).contains(of)),
        "{influences:?}"
    );
    let removed = json["removed"]["blocks"].as_array().unwrap();
    let removed: Vec<usize> = removed.iter().filter_map(|of| Some(of.as_u64()? as usize)).collect();
    let most = removed.iter().map(|&block| influences[block]).fold(0.0, f64::max);
    let beaten = influences.iter().filter(|of| **of < most).count();
    assert!(removed.len() == 2 && beaten == 1, "{removed:?} of {influences:?}");
    // Run, it is worse than the whole, and says by how much.
    let asked = [
        "evaluate",
        &sample,
        "--text",
        &text,
        "--tokens",
        "256",
        "--remove-blocks",
        "1",
        "--layers",
        "--json",
    ];
    let output = run(folder.path(), asked);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["mean_kl"].as_f64().unwrap() > 0.01, "{json}");
    let layers = json["layers"].as_array().unwrap();
    let names: Vec<&str> = layers.iter().filter_map(|layer| layer["name"].as_str()).collect();
    assert!(!names.is_empty() && !names.iter().any(|name| name.contains("layers.1.")), "{names:?}");
    assert!(names.iter().any(|name| name.contains("layers.5.")), "{names:?}");
    assert!(layers.iter().all(|layer| layer["output_error"].as_f64() == Some(0.0)), "{layers:?}");
}
