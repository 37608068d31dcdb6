//! Exports of the sample: every target × several plans; read back by other code, predicted to the byte, the same
//! on any number of threads.

use std::collections::BTreeSet;
use std::path::Path;

use lapidary_engine::checkpoint::{Checkpoint, Tensor};
use lapidary_engine::export::{Destination, PAGE, REPORT, Report, discard_finished, export};
use lapidary_engine::job::{self, Encodings as _, Limits, Store};
use lapidary_engine::method::Step;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::measure;
use lapidary_engine::target::{self, Agreement, Manifest, Ready, Storage, Target, adapter};
use lapidary_engine::{Error, Observer, Progress, Silent};
use lapidary_tests::reader::{Output, header, round_to_bf16};
use lapidary_tests::{
    assert_says, names_in, on_threads, plan, read_folder, read_json, rtn, sample, sample_path,
    writable,
};
use tempfile::TempDir;

fn limits() -> Limits {
    Limits::default()
}

fn run(checkpoint: &Checkpoint, plan: &Plan, target: &'static dyn Target, folder: &Path) -> Report {
    let destination = Destination { folder, replace: false, limits: limits() };
    export(checkpoint, plan, target, destination, &Silent)
        .unwrap_or_else(|error| panic!("{}: {error}", target.about().id))
}

fn sparse(fraction: f64) -> Step {
    Step::new("magnitude").with("fraction", fraction)
}

fn asymmetric(bits: i64, group: i64) -> Step {
    rtn(bits).with("group_size", group).with("symmetry", "asymmetric")
}

/// Plans by name: every bit width, grouping and symmetry, masks, layers stored in full, locks and kept layers.
fn plans(sample: &Checkpoint) -> Vec<(&'static str, Plan)> {
    let named = |name, rules: &[(&str, Vec<Step>)]| (name, plan(sample, rules).expect(name));
    let (attention, feed) = ("*.self_attn.*_proj.weight", "*.mlp.*_proj.weight");
    let tensor = |bits: i64| rtn(bits).with("granularity", "tensor");
    let channel = |bits: i64| rtn(bits).with("granularity", "channel");
    vec![
        named("nothing", &[]),
        named("4-bit", &[(attention, vec![rtn(4).with("clipping", "mse")]), (feed, vec![rtn(4)])]),
        named(
            "mixed",
            &[
                (attention, vec![asymmetric(4, 32)]),
                (feed, vec![channel(8).with("symmetry", "asymmetric")]),
                ("lm_head.weight", vec![tensor(8)]),
                ("model.embed_tokens.weight", vec![rtn(8)]),
            ],
        ),
        named(
            "odd",
            &[
                (attention, vec![asymmetric(3, 100)]),
                ("*.down_proj.weight", vec![asymmetric(5, 16)]),
                ("*.mlp.*e_proj.weight", vec![rtn(2).with("group_size", 64)]),
                ("*.mlp.up_proj.weight", vec![rtn(2).with("group_size", 64)]),
                ("lm_head.weight", vec![asymmetric(7, 256)]),
            ],
        ),
        named(
            "sparse",
            &[(attention, vec![sparse(0.5), asymmetric(4, 64)]), (feed, vec![sparse(0.3)])],
        ),
        named(
            "one",
            &[(
                "model.layers.3.mlp.down_proj.weight",
                vec![tensor(2).with("symmetry", "asymmetric")],
            )],
        ),
    ]
}

#[test]
fn every_target_holds_what_the_store_holds_bit_for_bit() {
    let sample = sample();
    let mut native = 0;
    for (name, plan) in plans(&sample) {
        let store = job::run(&sample, &plan, limits(), None, &Silent).unwrap();
        for target in writable() {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            run(&sample, &plan, target, &out);
            let manifest = Manifest::new(&sample, &plan, target).unwrap();
            let what =
                |tensor: &Tensor| format!("{name} for {}: {}", target.about().id, tensor.name);
            let output = Output::open(&out);
            let source = Output::open(&sample_path());
            for entry in &manifest.entries {
                let tensor = &sample.tensors()[entry.tensor];
                let found = output.weights(&tensor.name);
                let is_same = |a: &f32, b: &f32| a.to_bits() == b.to_bits();
                let wanted: Vec<f32> = match entry.storage {
                    Storage::Copied => source.weights(&tensor.name),
                    Storage::Native | Storage::Changed { .. } => {
                        store.get(entry.tensor).unwrap().decode().into_raw_vec_and_offset().0
                    }
                    Storage::Dense { .. } => {
                        let decoded = store.get(entry.tensor).unwrap().decode();
                        decoded.iter().map(|&value| round_to_bf16(value)).collect()
                    }
                };
                native += usize::from(entry.storage == Storage::Native);
                assert_eq!(found.len(), wanted.len(), "{}", what(tensor));
                let same = found.iter().zip(&wanted).all(|(a, b)| is_same(a, b));
                assert!(same, "{}", what(tensor));
                // What the configuration calls quantised is what is stored so, and nothing else.
                let module = tensor.module().to_owned();
                assert_eq!(
                    output.quantised_modules().contains(&module),
                    entry.storage == Storage::Native,
                    "{}",
                    what(tensor)
                );
            }
            let promised: usize = manifest.entries.iter().map(|entry| entry.specs.len()).sum();
            assert_eq!(output.tensors.len(), promised, "no tensor more");
        }
    }
    assert!(native > 200, "only {native} layers were stored natively");
}

fn stored(store: &Store, tensor: usize, part: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let each = &mut |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    assert!(
        store.stored_part(tensor, part, each).is_ok_and(|there| there),
        "no {part} in the store"
    );
    bytes
}

#[test]
fn what_is_written_from_the_store_is_what_a_target_packs() {
    let sample = sample();
    let mut parts = BTreeSet::new();
    for (name, plan) in plans(&sample) {
        let store = job::run(&sample, &plan, limits(), None, &Silent).unwrap();
        for target in writable().chain(target::find("archive")) {
            let manifest = Manifest::new(&sample, &plan, target).unwrap();
            let native = manifest.entries.iter().filter(|entry| entry.storage == Storage::Native);
            let specs = native.flat_map(|entry| entry.specs.iter().map(move |spec| (entry, spec)));
            for (entry, spec) in specs {
                let tensor = &sample.tensors()[entry.tensor];
                let ready = entry.layout.as_ref();
                let ready = ready.and_then(|layout| target.ready(tensor, layout, &spec.name));
                let found = match ready {
                    None => continue,
                    Some(Ready::Bytes(bytes)) => bytes,
                    Some(Ready::Part(part)) => {
                        let bytes = stored(&store, entry.tensor, &part);
                        parts.insert(part);
                        bytes
                    }
                };
                let encoding = store.get(entry.tensor).unwrap();
                let packed = adapter::pack(target, tensor, &encoding, &spec.name);
                let what = || format!("{name} for {}: {}", target.about().id, spec.name);
                assert!(Some(found) == packed, "{}", what());
            }
        }
    }
    // Of an archive masks and zero points too.
    let all = ["codes", "mask", "scales", "zeros"].iter().all(|part| parts.contains(*part));
    assert!(all, "only {parts:?} were taken from the store");
}

#[test]
fn sizes_are_known_before_and_add_up_after() {
    let sample = sample();
    for (name, plan) in plans(&sample) {
        for target in writable() {
            let what = format!("{name} for {}", target.about().id);
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            let manifest = Manifest::new(&sample, &plan, target).unwrap();
            let report = run(&sample, &plan, target, &out);
            let files = read_folder(&out);
            let on_disk: u64 = files
                .iter()
                .filter(|(name, _)| ![REPORT, PAGE].contains(&name.as_str()))
                .map(|(_, bytes)| bytes.len() as u64)
                .sum();
            assert_eq!(manifest.total_bytes(), on_disk, "{what}");
            assert_eq!(report.totals.total_bytes, on_disk, "{what}");
            for file in &manifest.files {
                assert_eq!(file.plan.file_bytes(), files[&file.name].len() as u64, "{what}");
            }
            assert_eq!(report.files.len() + 2, files.len(), "the reports apart");
            for file in &report.files {
                assert_eq!(file.bytes, files[&file.name].len() as u64, "{what}: {}", file.name);
            }
            let sum = |of: fn(&lapidary_engine::export::TensorReport) -> u64| -> u64 {
                report.tensors.iter().map(of).sum()
            };
            assert_eq!(sum(|tensor| tensor.bytes), report.totals.tensor_bytes);
            assert_eq!(sum(|tensor| tensor.source_bytes), report.totals.source_bytes);
            let weights = files["model.safetensors"].len() as u64;
            assert_eq!(report.totals.tensor_bytes + report.totals.header_bytes, weights);
            let bits = report.totals.tensor_bytes as f64 * 8.0 / sample.parameters() as f64;
            assert_eq!(report.totals.bits_per_weight, bits);
            check_tensor_sizes(&report, &Output::open(&out), &what);
            // The report on disk is the report returned.
            let written = serde_json::to_string_pretty(&report).unwrap() + "\n";
            assert!(files[REPORT] == written.as_bytes(), "{what}");
        }
    }
}

/// Every tensor's bytes are those of the tensors in the file that hold it.
fn check_tensor_sizes(report: &Report, output: &Output, what: &str) {
    for tensor in &report.tensors {
        let module = tensor.name.trim_end_matches(".weight");
        let held: usize = output
            .tensors
            .iter()
            .filter(|(name, _)| {
                let rest = name.strip_prefix(module).unwrap_or("x");
                rest.is_empty() || rest.starts_with('.')
            })
            .map(|(_, stored)| stored.bytes.len())
            .sum();
        assert_eq!(held as u64, tensor.bytes, "{what}: {}", tensor.name);
        let elements: usize = tensor.shape.iter().product();
        assert_eq!(tensor.effective_bits, tensor.bytes as f64 * 8.0 / elements as f64);
    }
}

#[test]
fn reported_errors_are_those_of_the_files() {
    let sample = sample();
    let source = Output::open(&sample_path());
    for (name, plan) in plans(&sample) {
        for target in writable() {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            let report = run(&sample, &plan, target, &out);
            let output = Output::open(&out);
            for tensor in &report.tensors {
                let (before, after) = (source.weights(&tensor.name), output.weights(&tensor.name));
                let (mut error, mut norm) = (0.0, 0.0);
                for (&w, &d) in before.iter().zip(&after) {
                    error += (f64::from(w) - f64::from(d)).powi(2);
                    norm += f64::from(w).powi(2);
                }
                let wanted = (error / norm).sqrt();
                assert!(
                    (tensor.relative_error - wanted).abs() <= 1e-6 * wanted,
                    "{name}: {} of {}, {wanted} in the file",
                    tensor.relative_error,
                    tensor.name
                );
                assert_eq!(wanted == 0.0, tensor.stored == "copied", "{}", tensor.name);
            }
        }
    }
}

#[test]
fn bytes_do_not_depend_on_the_threads_or_the_memory() {
    let sample = sample();
    for (name, plan) in plans(&sample).into_iter().filter(|(name, _)| *name != "one") {
        for target in writable() {
            let folder = TempDir::new().unwrap();
            let export_with = |threads: usize, memory_bytes: u64| {
                let out = folder.path().join(format!("{threads}-{memory_bytes}"));
                let destination =
                    Destination { folder: &out, replace: false, limits: Limits { memory_bytes } };
                on_threads(threads, || {
                    export(&sample, &plan, target, destination, &Silent).unwrap();
                });
                read_folder(&out)
            };
            let one = export_with(1, 4 << 30);
            for (threads, memory_bytes) in [(2, 4 << 30), (7, 4 << 30), (7, 11 << 20)] {
                assert!(
                    export_with(threads, memory_bytes) == one,
                    "{name} for {} on {threads} threads in {memory_bytes} bytes",
                    target.about().id
                );
            }
        }
    }
}

#[test]
fn an_export_opens_here_again_with_its_side_files() {
    let sample = sample();
    let sides = [
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let source = read_folder(&sample_path());
    for (_, plan) in plans(&sample) {
        for target in writable() {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            run(&sample, &plan, target, &out);
            let files = read_folder(&out);
            for side in sides {
                assert_eq!(files[side], source[side], "{side}");
            }
            assert!(!files.contains_key("heldout_oz.txt"), "a text is no part of a model");
            let again = Checkpoint::open(&out).unwrap();
            for index in 0..again.tensors().len() {
                measure(&again, index, &Silent).unwrap();
            }
            let mut config = read_json(&out.join("config.json"));
            let quantised = config.as_object_mut().unwrap().remove("quantization_config");
            // MLX says it under two names.
            let again = config.as_object_mut().unwrap().remove("quantization");
            assert_eq!(again.is_some(), target.about().id == "mlx" && quantised.is_some());
            assert!(again.is_none() || again == quantised);
            assert_eq!(config, read_json(&sample_path().join("config.json")));
            let native = Manifest::new(&sample, &plan, target).unwrap();
            let is_native =
                |entry: &lapidary_engine::target::Entry| entry.storage == Storage::Native;
            assert_eq!(quantised.is_some(), native.entries.iter().any(is_native));
            let header = header(&out.join("model.safetensors"));
            assert_eq!(header["__metadata__"]["format"], "pt");
        }
    }
}

/// Stops after so many reports of progress.
struct Impatient {
    after: usize,
    seen: std::sync::atomic::AtomicUsize,
}

impl Observer for Impatient {
    fn progress(&self, _progress: Progress) {
        self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.seen.load(std::sync::atomic::Ordering::Relaxed) >= self.after
    }
}

#[test]
fn cancelling_at_any_time_leaves_nothing_but_finished_layers() {
    let sample = sample();
    let (_, plan) = plans(&sample).swap_remove(1);
    for target in writable() {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out");
        // At once, while compressing, while writing, while proving: some 84, 150 and 60 reports.
        let mut cancelled = 0;
        for after in [0, 1, 40, 83, 90, 120, 150, 160, 180, 190] {
            let destination = Destination { folder: &out, replace: false, limits: limits() };
            let observer = Impatient { after, seen: 0.into() };
            match export(&sample, &plan, target, destination, &observer) {
                Err(Error::Cancelled) => {
                    cancelled += 1;
                    let left = names_in(folder.path());
                    assert!(left.is_empty() || left == [".out.lapidary-work"], "after {after}");
                    for name in left {
                        assert_eq!(names_in(&folder.path().join(name)), ["finished"]);
                    }
                    // The next one begins anew.
                    discard_finished(&out).unwrap();
                    assert!(names_in(folder.path()).is_empty(), "after {after}");
                }
                Ok(_) => std::fs::remove_dir_all(&out).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(cancelled >= 8, "only {cancelled} of ten were cancelled");
    }
}

#[test]
fn fused_layers_stored_unequally_are_refused_where_it_matters() {
    let sample = sample();
    for (pattern, said) in [
        (
            "model.layers.2.self_attn.q_proj.weight",
            ["layers.2.self_attn.q_proj", "layers.2.self_attn.v_proj", "q k v"],
        ),
        (
            "model.layers.2.mlp.up_proj.weight",
            ["layers.2.mlp.gate_proj", "layers.2.mlp.up_proj", "gate up"],
        ),
    ] {
        for step in [rtn(8), rtn(4).with("group_size", 64), asymmetric(4, 64), Step::new("keep")] {
            for target in writable() {
                let id = target.about().id;
                // What the target holds, but for one.
                let base = if id == "awq" { asymmetric(4, 128) } else { rtn(4) };
                let rules = [("*_proj.weight", vec![base]), (pattern, vec![step.clone()])];
                let plan = plan(&sample, &rules).unwrap();
                let folder = TempDir::new().unwrap();
                let out = folder.path().join("out");
                let destination = Destination { folder: &out, replace: false, limits: limits() };
                let result = export(&sample, &plan, target, destination, &Silent);
                if target.capabilities().fused == Agreement::May {
                    result.unwrap();
                } else {
                    assert_says(result, &said);
                    assert!(names_in(folder.path()).is_empty(), "{id}");
                }
            }
        }
    }
}
