//! Outputs proved after the fact: of every target nothing is amiss, and what was changed since is named.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk;
use lapidary_engine::export::{Destination, REPORT, Verified, export, verify};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::target;
use lapidary_engine::{Error, Observer, Silent};
use lapidary_tests::{Weights, assert_says, plan, read, rtn, sample, sample_path, write};
use tempfile::TempDir;

fn exported(sample: &Checkpoint, plan: &Plan, id: &str, folder: &Path) {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    let target = target::find(id).expect("a target");
    export(sample, plan, target, destination, &Silent).unwrap_or_else(|e| panic!("{id}: {e}"));
}

/// AQLM without data, in little time.
fn quick_aqlm() -> Step {
    let step = Step::new("aqlm").with("nearest", "weights").with("codebooks", 1);
    step.with("code_bits", 3).with("rounds", 1).with("beam", 1)
}

fn verified(output: &Path, source: &Checkpoint) -> Verified {
    verify(output, source, &Silent).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn outputs_of_every_target_are_proved() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    // SpQR needs a calibration, and has its own test.
    for target in target::writable().filter(|target| target.about().id != "spqr") {
        let id = target.about().id;
        let step = match id {
            "aqlm" => quick_aqlm(),
            "awq" => rtn(4).with("group_size", 64).with("symmetry", "asymmetric"),
            "gguf" => Step::new("gguf-blocks").with("type", "Q4_0"),
            _ => rtn(4).with("group_size", 64),
        };
        let plan = plan(&sample, &[("model.layers.*_proj.weight", vec![step])]).unwrap();
        let out = folder.path().join(id);
        exported(&sample, &plan, id, &out);
        let found = verified(&out, &sample);
        assert_eq!(found.faults, Vec::<String>::new(), "{id}");
        assert!(found.is_reported, "{id}");
        let count = |stored: &str| found.tensors.iter().filter(|t| t.stored == stored).count();
        let compressed = count(if id == "dense" { "changed" } else { "compressed" });
        assert_eq!((compressed, count("missing")), (42, 0), "{id}");
        assert!(found.tensors.iter().all(|tensor| tensor.relative_error.is_some()), "{id}");
    }
}

#[test]
fn what_was_changed_since_is_named() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let plan = plan(&sample, &[("*.down_proj.weight", vec![rtn(4)])]).unwrap();
    exported(&sample, &plan, "compressed-tensors", &out);
    let weights = out.join("model.safetensors");
    let good = read(&weights);
    // Tensors lie by type, then name: of BF16, which comes last, the norm that ends the model.
    let mut bytes = good.clone();
    let n = bytes.len();
    bytes[n - 1] ^= 1;
    write(&weights, &bytes);
    let faults = verified(&out, &sample).faults;
    let is_named =
        |fault: &String| fault.contains("model.norm.weight was copied, and is not the same");
    assert!(faults.iter().any(is_named), "{faults:?}");
    assert!(
        faults.iter().any(|fault| fault.contains("model.safetensors was changed: its SHA-256"))
    );
    write(&weights, &good);
    // A file more or less, a report of nonsense, none at all.
    let licence = out.join("tokenizer.json");
    let kept = read(&licence);
    write(&licence, b"{}");
    let faults = verified(&out, &sample).faults;
    assert!(faults.len() == 1 && faults[0].contains("tokenizer.json has 2 bytes"), "{faults:?}");
    let mut other = kept.clone();
    other[0] = b' ';
    write(&licence, &other);
    let faults = verified(&out, &sample).faults;
    assert!(faults.len() == 1 && faults[0].contains("tokenizer.json was changed"), "{faults:?}");
    write(&licence, &kept);
    let report = out.join(REPORT);
    write(&report, b"{");
    assert_says(verify(&out, &sample, &Silent), &["report", REPORT]);
    disk::remove_file(&report).unwrap();
    let found = verified(&out, &sample);
    assert!(found.faults.is_empty() && !found.is_reported, "{:?}", found.faults);
}

#[test]
fn tensors_that_are_missing_too_many_or_of_no_use_are_named() {
    let folder = TempDir::new().unwrap();
    let open = |name: &str, weights: Weights| {
        let path = folder.path().join(name);
        weights.write(&path);
        (Checkpoint::open(&path).unwrap(), path)
    };
    let source = Weights::new().normal("a", &[4, 4]).normal("b", &[4]).normal("c", &[2]);
    let (source, _) = open("source.safetensors", source.f32("d", &[1], &[1.0]));
    let output = Weights::new().normal("a", &[4, 4]).normal("b", &[5]).f32("d", &[1], &[f32::NAN]);
    let (_, output) = open("output.safetensors", output.normal("x", &[3]));
    let found = verified(&output, &source);
    let said = ["shape", "c is missing", "NaN", "no tensor x"];
    assert_eq!(found.faults.len(), said.len(), "{:?}", found.faults);
    for part in said {
        assert!(
            found.faults.iter().any(|fault| fault.contains(part)),
            "{part}: {:?}",
            found.faults
        );
    }
    assert_eq!(found.tensors[0].stored, "identical");
}

struct Impatient;

impl Observer for Impatient {
    fn progress(&self, _progress: lapidary_engine::Progress) {}

    fn warn(&self, _text: String) {}

    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn proving_can_be_cancelled() {
    let done = verify(&sample_path(), &sample(), &Impatient);
    assert!(matches!(done, Err(Error::Cancelled)));
}
