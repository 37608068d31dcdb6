//! Codes of research methods in the layouts that transformers loads, AQLM's and `SpQR`'s: written, proved, decoded by other
//! code, read back in, converted there and back, and what keeps a layer from them.

use std::path::Path;
use std::sync::LazyLock;

use lapidary_engine::Silent;
use lapidary_engine::calibration::{Calibration, Folder, Part, Prefix, Record, Settings, Text};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Counterpart, compare, layers, pairs};
use lapidary_engine::export::{Destination, Report, convert, export, verify};
use lapidary_engine::job::{self, Limits, Measured, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Weights as _};
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Case, Lint, Manifest, Storage, lints, mend_all};
use lapidary_tests::reader::Output;
use lapidary_tests::{Weights, normal_matrix, plan, read_json, read_output, small_llama, write};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

const LAYERS: &str = "model.layers.*_proj.weight";

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn small(folder: &Path) -> Checkpoint {
    small_llama(folder);
    let mut config = read_json(&folder.join("config.json"));
    config["dtype"] = json!("float32");
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("a folder of its own")
}

/// AQLM without data, in little time.
fn aqlm(codebooks: i64, bits: i64, run: i64) -> Step {
    let step = Step::new("aqlm").with("nearest", "weights").with("rounds", 1).with("beam", 2);
    step.with("codebooks", codebooks).with("code_bits", bits).with("run", run)
}

/// A finished calibration of every matrix of a checkpoint.
fn calibrated(root: &Path, checkpoint: &Checkpoint) -> (Folder, Calibration) {
    let settings = Settings {
        model: "small".to_owned(),
        model_key: "1".to_owned(),
        texts: vec![Text { name: "t".to_owned(), hash: "h".to_owned() }],
        sequence_tokens: 64,
        tokens: 192,
        seed: 0,
        prefix: Prefix::Original,
        has_grams: true,
    };
    let record = |(seed, tensor): (usize, &lapidary_engine::checkpoint::Tensor)| {
        let channels = tensor.matrix?.shape.cols;
        let x = normal_matrix(seed as u64, 192, channels);
        let (mut sums, mut gram) = (Channels::new(channels), Gram::new(channels));
        sums.add(x.view());
        gram.add(x.view());
        let layers = vec![tensor.name.clone()];
        Some(Record { layers, routed_of: None, inputs: sums.statistics(), gram: Some(gram) })
    };
    let records: Vec<Record> = checkpoint.tensors().iter().enumerate().filter_map(record).collect();
    let folder = Folder::create(root, settings).expect("a folder of its own");
    folder.write_part(Part::Block(0), &records).expect("a folder of its own");
    folder.finish().expect("a folder of its own");
    let calibration = folder.load();
    (folder, calibration)
}

/// What a network reads of a layer.
fn read(checkpoint: &Checkpoint, name: &str, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    CheckpointWeights::new(checkpoint).read(name, 0, &mut values, &Silent).expect("numbers");
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Checks an export as a whole, and gives how many layers it holds compressed.
fn check(source: &Checkpoint, plan: &Plan, id: &str, (out, report): (&Path, &Report)) -> usize {
    let manifest = Manifest::new(source, plan, target::find(id).expect("a target")).expect("sizes");
    let on_disk: usize = read_output(out).values().map(Vec::len).sum();
    assert_eq!(
        (manifest.total_bytes(), report.totals.total_bytes),
        (on_disk as u64, on_disk as u64)
    );
    let (output, again) = (Output::open(out), Checkpoint::open(out).expect("it opens"));
    let promised: usize = manifest.entries.iter().map(|entry| entry.specs.len()).sum();
    assert_eq!(output.tensors.len(), promised);
    let mut native = Vec::new();
    for (entry, pair) in manifest.entries.iter().zip(pairs(source, &again)) {
        let tensor = &source.tensors()[entry.tensor];
        let pair = pair.unwrap_or_else(|| panic!("{} has no pair", tensor.name));
        let found = output.weights(&tensor.name);
        assert_eq!(bits(&read(&again, &tensor.name, found.len())), bits(&found), "{}", tensor.name);
        let compared = compare(source, entry.tensor, &again, &pair, &Silent).expect("values");
        let said = report.tensors.iter().find(|said| said.name == tensor.name).expect("a line");
        assert_eq!(compared.relative_error.to_bits(), said.relative_error.to_bits());
        let is_native = entry.storage == Storage::Native;
        assert_eq!(matches!(pair, Counterpart::Compressed { .. }), is_native, "{pair:?}");
        if is_native {
            native.push(tensor.module().to_owned());
        }
    }
    let mut modules = output.quantised_modules();
    modules.sort();
    native.sort();
    assert_eq!(modules, native);
    assert_eq!(verify(out, source, &Silent).expect("a proof").faults, Vec::<String>::new());
    native.len()
}

/// To an archive and back: the same bytes. In full: what is read.
fn check_conversions(folder: &Path, id: &str, out: &Path) {
    let opened = Checkpoint::open(out).expect("it opens");
    let convert_to = |from: &Checkpoint, id: &str, to_folder: &Path| {
        convert(from, target::find(id).expect("a target"), to(to_folder), &Silent)
            .unwrap_or_else(|error| panic!("{id}: {error}"))
    };
    let (archive, back, dense) = (folder.join("a"), folder.join("b"), folder.join("d"));
    let report = convert_to(&opened, "archive", &archive);
    assert_eq!(report.totals.dense, 0);
    convert_to(&Checkpoint::open(&archive).expect("it opens"), id, &back);
    let (was, is) = (read_output(out), read_output(&back));
    assert_eq!(was["model.safetensors"], is["model.safetensors"]);
    assert_eq!(read_json(&out.join("config.json")), read_json(&back.join("config.json")));
    convert_to(&opened, "dense", &dense);
    let (dense, output) = (Output::open(&dense), Output::open(out));
    for name in dense.tensors.keys() {
        assert_eq!(bits(&dense.weights(name)), bits(&output.weights(name)), "{name}");
    }
}

#[test]
fn additive_codes_are_written_as_aqlm_stores_them() {
    let folder = TempDir::new().unwrap();
    let source = small(&folder.path().join("m"));
    let wide = "model.layers.0.mlp.*_proj.weight";
    // Codes of few bits and of two bytes; one codebook and more; layers kept and not; another method of such codes.
    let vectors = Step::new("vector-quantisation").with("code_bits", 4).with("run", 8);
    let cases = [
        (LAYERS, aqlm(2, 4, 8), 7),
        (LAYERS, aqlm(1, 6, 4), 7),
        (wide, aqlm(1, 9, 4), 3),
        (LAYERS, vectors, 7),
    ];
    for (i, (pattern, step, count)) in cases.into_iter().enumerate() {
        let plan = plan(&source, &[(pattern, vec![step])]).unwrap();
        let store = job::run(&source, &plan, Limits::default(), None, &Silent).unwrap();
        let folder = folder.path().join(i.to_string());
        let out = folder.join("out");
        let report =
            export(&source, &plan, target::find("aqlm").unwrap(), to(&out), &Silent).unwrap();
        assert_eq!(check(&source, &plan, "aqlm", (&out, &report)), count);
        let output = Output::open(&out);
        for (index, tensor) in source.tensors().iter().enumerate() {
            let Ok(encoding) = store.get(index) else { continue };
            let wanted = encoding.decode().into_raw_vec_and_offset().0;
            assert_eq!(bits(&output.weights(&tensor.name)), bits(&wanted), "{}", tensor.name);
        }
        let kept = &output.quantization["linear_weights_not_to_quantize"];
        let is_kept = |name: &str| kept.as_array().unwrap().contains(&json!(name));
        assert!(is_kept("lm_head") && is_kept("lm_head.weight"));
        assert_eq!(is_kept("model.layers.0.self_attn.q_proj"), count == 3);
        check_conversions(&folder, "aqlm", &out);
    }
}

#[test]
fn small_groups_and_single_weights_are_written_as_spqr_stores_them() {
    let folder = TempDir::new().unwrap();
    let source = small(&folder.path().join("m"));
    let (kept, calibration) = calibrated(&folder.path().join("c"), &source);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &source, calibrated: &measured };
    for (i, share) in [0.0, 0.02].into_iter().enumerate() {
        let plan =
            plan(&source, &[(LAYERS, vec![Step::new("spqr").with("share", share)])]).unwrap();
        let folder = folder.path().join(i.to_string());
        let (out, archive) = (folder.join("out"), folder.join("archive"));
        let report =
            export(subject, &plan, target::find("spqr").unwrap(), to(&out), &Silent).unwrap();
        assert_eq!(check(&source, &plan, "spqr", (&out, &report)), 7);
        // The same layers as they were made: numbers of tiles are rounded to F16, and no more.
        let exact = export(subject, &plan, target::find("archive").unwrap(), to(&archive), &Silent);
        let exact = exact.unwrap();
        let (made, output) = (Checkpoint::open(&archive).unwrap(), Output::open(&out));
        for (a, b) in exact.tensors.iter().zip(&report.tensors) {
            assert_eq!(a.name, b.name);
            let found = output.weights(&a.name);
            let wanted = read(&made, &a.name, found.len());
            let norm: f32 = wanted.iter().map(|w| w * w).sum();
            let off: f32 = wanted.iter().zip(&found).map(|(a, b)| (a - b) * (a - b)).sum();
            assert!((off / norm).sqrt() < 2e-3, "{}: {}", a.name, (off / norm).sqrt());
            assert!((a.relative_error - b.relative_error).abs() < 2e-3);
        }
        check_conversions(&folder, "spqr", &out);
        let shapes = &output.quantization["shapes"];
        // 2 % of 48 · 48 weights, rounded up.
        let few = if i == 0 { 0 } else { 47 };
        assert_eq!(shapes["model.layers.0.self_attn.o_proj.col_vals.shape"], few);
        assert_eq!(shapes["model.layers.0.self_attn.o_proj.dense_weights.shape"], 48 * 3);
        assert_eq!(output.quantization["modules_to_not_convert"], json!(["lm_head"]));
    }
}

#[test]
fn what_spqr_has_no_form_for_is_stored_in_full_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let source = small(&folder.path().join("m"));
    let because = |id: &str, name: &str, step: Step| {
        let plan = plan(&source, &[(name, vec![step])]).unwrap();
        let manifest = Manifest::new(&source, &plan, target::find(id).unwrap()).unwrap();
        let entry = &manifest.entries[source.find(name).unwrap()];
        match &entry.storage {
            Storage::Dense { because } => because.clone(),
            other => panic!("{other:?}"),
        }
    };
    let o = "model.layers.0.self_attn.o_proj.weight";
    let spqr = || Step::new("spqr");
    for step in [
        spqr().with("bits", 4),
        spqr().with("group_size", 32),
        spqr().with("statistic_bits", 4),
        spqr().with("statistic_rows", 32),
    ] {
        assert!(because("spqr", o, step).contains("3 bits for weights, scales"));
    }
    assert!(because("spqr", o, spqr().with("statistics", "plain")).contains("single weights"));
    assert!(because("spqr", o, aqlm(1, 4, 8)).contains("sums of entries"));
    assert!(because("spqr", "lm_head.weight", spqr()).contains("head in full precision"));
    assert!(because("aqlm", o, spqr()).contains("single weights"));
    assert!(because("aqlm", o, aqlm(1, 4, 7)).contains("runs of 7 do not divide its 48 inputs"));
    assert!(because("aqlm", o, lapidary_tests::rtn(4)).contains("have no form in AQLM"));
    for (name, value) in [("books", "own"), ("scales", "none")] {
        let vectors = Step::new("vector-quantisation").with(name, value);
        assert!(because("aqlm", o, vectors).contains("one set of codebooks"));
    }
}

fn found(checkpoint: &Checkpoint, plan: &Plan, id: &str) -> Vec<Lint> {
    let aim = Aim::from(target::find(id).expect("a target"));
    let manifest = Manifest::new(checkpoint, plan, aim.target).expect("layouts");
    lints(&Case { checkpoint, plan, aim, entries: &manifest.entries })
}

/// k and v have too few vectors for 9 bits, so theirs are codes of other bits: they are kept.
#[test]
fn layers_too_small_for_the_codebooks_of_the_others_are_kept() {
    let folder = TempDir::new().unwrap();
    let source = small(folder.path());
    let mut plan = plan(&source, &[(LAYERS, vec![aqlm(1, 9, 4)])]).unwrap();
    assert!(found(&source, &plan, "aqlm").iter().any(|lint| lint.id == "several-schemes"));
    mend_all(&source, &mut plan, Aim::from(target::find("aqlm").unwrap()));
    assert!(found(&source, &plan, "aqlm").is_empty());
    let label = |name: &str| plan.assignment(&format!("model.layers.0.{name}_proj.weight")).label();
    assert_eq!((label("self_attn.k").as_str(), label("self_attn.v").as_str()), ("keep", "keep"));
    assert_eq!(label("mlp.up"), "1×9-bit additive g4 of weights");
}

/// transformers keeps a module whose name ends in that of a kept one.
#[test]
fn a_module_whose_name_ends_in_that_of_a_kept_one_is_found() {
    let folder = TempDir::new().unwrap();
    let kept = "layers.0.mlp.down_proj.weight";
    let (long, other) = (format!("vision.{kept}"), "layers.0.mlp.down_proj2.weight");
    let mut weights = Weights::new();
    for name in [kept, &long, other] {
        weights = weights.normal(name, &[32, 32]);
    }
    weights.write(&folder.path().join("model.safetensors"));
    write(&folder.path().join("config.json"), br#"{"model_type": "llama"}"#);
    let source = Checkpoint::open(folder.path()).unwrap();
    for (name, is_kept) in [(long.as_str(), true), (other, false)] {
        let plan = plan(&source, &[(name, vec![aqlm(1, 4, 8)])]).unwrap();
        let all = found(&source, &plan, "aqlm");
        assert_eq!(all.iter().any(|lint| lint.id == "kept-within"), is_kept, "{name}: {all:?}");
    }
}

#[test]
fn folders_that_say_otherwise_are_not_read() {
    let folder = TempDir::new().unwrap();
    let source = small(&folder.path().join("m"));
    let out = folder.path().join("out");
    let plan = plan(&source, &[(LAYERS, vec![aqlm(1, 4, 8)])]).unwrap();
    export(&source, &plan, target::find("aqlm").unwrap(), to(&out), &Silent).unwrap();
    let config = read_json(&out.join("config.json"));
    let name = "model.layers.0.self_attn.o_proj.weight";
    let because = |key: &str, value: serde_json::Value| {
        let mut other = config.clone();
        other["quantization_config"][key] = value;
        write(&out.join("config.json"), other.to_string().as_bytes());
        let again = Checkpoint::open(&out).unwrap();
        match pairs(&source, &again)[source.find(name).unwrap()].clone() {
            Some(Counterpart::Unreadable { because, .. }) => because,
            other => panic!("{other:?}"),
        }
    };
    assert!(because("out_group_size", json!(2)).contains("2 outputs"));
    assert!(because("nbits_per_codebook", json!(5)).contains("codebooks"));
    assert!(because("in_group_size", json!(4)).contains("codebooks"));
    assert!(because("quant_method", json!("spqr")).contains("does not say"));
    assert!(because("quant_method", json!("quip")).contains("quip"));
}

/// Weights and config.json of a folder of AQLM and one of `SpQR`.
static WRITTEN: LazyLock<[(Vec<u8>, Vec<u8>); 2]> = LazyLock::new(|| {
    let folder = TempDir::new().expect("a folder");
    let source = small(&folder.path().join("m"));
    let (kept, calibration) = calibrated(&folder.path().join("c"), &source);
    let measured = Measured { folder: &kept, calibration: &calibration };
    let subject = Subject { checkpoint: &source, calibrated: &measured };
    [("aqlm", aqlm(2, 4, 8)), ("spqr", Step::new("spqr"))].map(|(id, step)| {
        let plan = plan(&source, &[("*.o_proj.weight", vec![step])]).expect("a plan");
        let out = folder.path().join(id);
        export(subject, &plan, target::find(id).expect("a target"), to(&out), &Silent)
            .expect("an export");
        ["model.safetensors", "config.json"]
            .map(|name| lapidary_tests::read(&out.join(name)))
            .into()
    })
});

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of the header and of the parts that say where others lie come first and last in such a small file.
    #[test]
    fn mutated_folders_never_panic(
        which in 0_usize..2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
    ) {
        let (mut bytes, config) = WRITTEN[which].clone();
        let header = 8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1]);
        for (at, value, is_header) in edits {
            let at = if is_header { at.index(header) } else { at.index(bytes.len()) };
            bytes[at] = value;
        }
        let folder = TempDir::new().expect("a folder");
        write(&folder.path().join("model.safetensors"), &bytes);
        write(&folder.path().join("config.json"), &config);
        if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
            for (name, counterpart) in layers(&checkpoint) {
                if let Counterpart::Compressed { layer, .. } = counterpart {
                    layer.encoding(&checkpoint, &Silent).ok();
                    let mut row = vec![0.0; layer.shape.cols];
                    CheckpointWeights::new(&checkpoint).read(&name, 0, &mut row, &Silent).ok();
                }
            }
        }
    }
}
