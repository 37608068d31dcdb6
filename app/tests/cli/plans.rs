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
    assert!(
        text.contains("(--mend does it)") && text.contains("weights take 11,540,992 bytes"),
        "{text}"
    );

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
    assert!(
        String::from_utf8(run(folder.path(), ["targets"]).stdout).unwrap().contains("llama.cpp")
    );
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
