//! `compress --target archive`, `unpack`, `convert` and `verify` from outside.

use std::path::Path;

use lapidary_engine::disk;
use tempfile::TempDir;

use crate::{fails, names_in, read, run, sample, works};

/// A project of two methods in `home`, exported as an archive and dense.
fn prepared(home: &Path) {
    let project = format!(
        "(version: 1, checkpoint: {:?}, target: \"archive\", plan: {{\n\
         \"*.up_proj.weight\": (steps: [(method: \"low-rank\", parameters: {{\"rank\": 8}})]),\n\
         \"*.down_proj.weight\": (steps: [(method: \"round-to-nearest\", parameters: {{\"bits\": 4}})]),\n}})\n",
        sample().display().to_string()
    );
    disk::write_file(&home.join("p.ron"), project.as_bytes()).expect("a file");
    let table = run(home, ["compress", "p.ron", "--out", "packed"]);
    assert!(works(&table).contains("0 compressed but stored in full"));
    works(&run(home, ["compress", "p.ron", "--target", "dense", "--out", "dense"]));
}

#[test]
fn archives_unpack_convert_and_are_verified() {
    let home = TempDir::new().unwrap();
    let at = |name: &str| home.path().join(name);
    prepared(home.path());
    works(&run(home.path(), ["unpack", "packed", "--out", "plain"]));
    assert_eq!(names_in(&at("plain")), names_in(&at("dense")));
    for name in names_in(&at("dense")).iter().filter(|name| !name.starts_with("lapidary-")) {
        assert_eq!(read(&at("plain").join(name)), read(&at("dense").join(name)), "{name}");
    }
    let again = run(home.path(), ["unpack", "packed", "--out", "plain"]);
    fails(&again, 2, &["already exists", "--force"]);
    works(&run(home.path(), ["unpack", "packed", "--out", "plain", "--force"]));
    let dry_run = ["convert", "packed", "--target", "compressed-tensors", "--dry-run"];
    let foretold = run(home.path(), dry_run);
    let told = works(&foretold);
    assert!(!at("packed-compressed-tensors").exists(), "nothing is written");
    let converted = run(home.path(), ["convert", "packed", "--target", "compressed-tensors"]);
    assert!(converted.status.success());
    let table = crate::text(&converted.stdout);
    assert!(table.contains("no products of two thin matrices"), "{table}");
    assert!(crate::text(&converted.stderr).contains("written in full"), "it is said at the end");
    assert!(at("packed-compressed-tensors").join("config.json").is_file());
    let weights = read(&at("packed-compressed-tensors").join("model.safetensors"));
    let bytes = lapidary::theme::text::count(weights.len() as u64);
    assert!(told.contains(&format!("{bytes} bytes in 1 weight files")), "{told}");
    assert!(told.contains("in full: ") && told.contains("no products of two thin matrices"));
    fails(&run(home.path(), ["convert", "dense", "--target", "mlx"]), 2, &["no compressed layer"]);
    fails(&run(home.path(), ["convert", "packed", "--target", "x"]), 2, &["no target", "archive"]);
    let source = sample().display().to_string();
    for output in ["packed", "dense", "plain/model.safetensors", "packed-compressed-tensors"] {
        let found = run(home.path(), ["verify", output, "--source", &source]);
        let table = works(&found);
        assert!(table.contains("\nproved: "), "{output}: {table}");
        // What was converted has a report against what it was converted from.
        let is_exported = matches!(output, "packed" | "dense");
        assert_eq!(table.contains("held against the report"), is_exported, "{output}: {table}");
    }
    let against = run(home.path(), ["verify", "packed-compressed-tensors", "--source", "packed"]);
    assert_eq!(against.status.code(), Some(1), "an archive is no source");
    damage(&at("dense").join("model.safetensors"));
    let found = run(home.path(), ["verify", "dense", "--source", &source, "--json"]);
    assert_eq!(found.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let first = json["faults"][0].as_str().expect("a fault");
    assert!(first.contains("model.norm.weight"), "{first}");
    assert!(crate::text(&found.stderr).contains("dense is not proved"));
}

/// Changes the last weight of a file.
fn damage(path: &Path) {
    let mut bytes = read(path);
    let n = bytes.len();
    bytes[n - 1] ^= 0x40;
    disk::write_file(path, &bytes).expect("a file");
}
