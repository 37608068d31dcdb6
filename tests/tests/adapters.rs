//! Corrections of low rank beside a format that has none: base and adapter are the layer that was computed, for every
//! reader of it; their bytes are those foretold; and what PEFT cannot hold is said.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::calibration::{Calibration, Folder};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Counterpart, compare, pairs};
use lapidary_engine::export::{
    Destination, Report, convert, estimate_squeezed, export, forecast, verify,
};
use lapidary_engine::job::{Limits, Measured, Subject};
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Weights as _};
use lapidary_engine::plan::Plan;
use lapidary_engine::recipe::recover;
use lapidary_engine::target::{self, Aim, Entry, Storage, TARGETS, entries};
use lapidary_tests::networks::{calibrated, exported, golden, logits};
use lapidary_tests::reader::{Output, floats};
use lapidary_tests::{
    assert_says, on_threads, plan, read, read_folder, read_json, rtn, sample, write,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIGHTS: &str = "adapter/adapter_model.safetensors";
const CONFIG: &str = "adapter/adapter_config.json";

fn eora(rank: i64) -> Step {
    Step::new("eora").with("rank", rank)
}

/// A checkpoint with what its layers receive.
struct Model {
    checkpoint: Checkpoint,
    folder: Folder,
    calibration: Calibration,
    _root: TempDir,
}

impl Model {
    fn new(checkpoint: Checkpoint) -> Self {
        let root = TempDir::new().expect("a folder");
        let (folder, calibration) = calibrated(&checkpoint, &root);
        Self { checkpoint, folder, calibration, _root: root }
    }

    /// Exports a plan to a target.
    fn export(&self, plan: &Plan, target: &str, out: &Path) -> Report {
        let measured = Measured { folder: &self.folder, calibration: &self.calibration };
        let subject = Subject { checkpoint: &self.checkpoint, calibrated: &measured };
        exported(subject, plan, target, out)
    }

    /// Two ranks over 4 bits in groups of 16.
    fn two_ranks(&self) -> Plan {
        let four = rtn(4).with("group_size", 16);
        let rules = [
            ("*.o_proj.weight", vec![four.clone(), eora(6)]),
            ("*.down_proj.weight", vec![four, eora(3)]),
        ];
        plan(&self.checkpoint, &rules).expect("a plan")
    }
}

/// Every file of a folder and of those within it.
fn whole(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = read_folder(folder);
    let within = read_folder(&folder.join("adapter"));
    files.extend(within.into_iter().map(|(name, bytes)| (format!("adapter/{name}"), bytes)));
    files
}

/// A matrix of an opened folder, as a network reads it.
fn weights(folder: &Path, name: &str) -> Vec<f32> {
    let opened = Checkpoint::open(folder).expect("a folder that opens");
    let weights = CheckpointWeights::new(&opened);
    let extents = weights.extents(name).expect("the layer is there");
    let mut values = vec![0.0; extents.iter().product()];
    weights.read(name, 0, &mut values, &Silent).expect("readable");
    values
}

/// A layer put together by the tests' own reader: base + B·A, multiplied as PEFT is told to.
fn put_together(folder: &Path, module: &str) -> Vec<f32> {
    let mut base = Output::open(folder).weights(&format!("{module}.weight"));
    let adapter = Output::open(&folder.join("adapter")).tensors;
    let factor = |side: &str| &adapter[&format!("base_model.model.{module}.lora_{side}.weight")];
    let (down, up) = (factor("A"), factor("B"));
    let (rank, cols) = (down.shape[0], down.shape[1]);
    assert_eq!(up.shape, [base.len() / cols, rank], "{module}");
    assert_eq!(scale(&read_json(&folder.join(CONFIG)), module, rank), 1.0);
    let (down, up) = (floats(down), floats(up));
    for (at, value) in base.iter_mut().enumerate() {
        let (row, col) = (at / cols, at % cols);
        let product: f64 = (0..rank)
            .map(|k| f64::from(up[row * rank + k]) * f64::from(down[k * cols + col]))
            .sum();
        *value += product as f32;
    }
    base
}

/// What PEFT multiplies the product of a module by: its own rank and alpha where a pattern is for it.
fn scale(config: &Value, module: &str, rank: usize) -> f64 {
    let targets = config["target_modules"].as_array().expect("a list");
    assert!(targets.iter().any(|target| target == module), "{module}");
    let key = format!("^{}", module.replace('.', "\\."));
    let of = |pattern: &str, plain: &str| {
        config[pattern].get(&key).unwrap_or(&config[plain]).as_f64().expect("a number")
    };
    assert_eq!(of("rank_pattern", "r"), rank as f64, "{module}");
    of("alpha_pattern", "lora_alpha") / rank as f64
}

#[test]
fn base_and_adapter_are_the_layer_in_every_target_that_has_one() {
    let model = Model::new(sample());
    let root = TempDir::new().unwrap();
    let layers = ["model.layers.1.self_attn.o_proj", "model.layers.2.mlp.down_proj"];
    for target in TARGETS.iter().filter(|target| target.capabilities().has_adapter()) {
        let id = target.about().id;
        let four = rtn(4).with("group_size", 64);
        let four = if id == "awq" { four.with("symmetry", "asymmetric") } else { four };
        let chain = |rank| vec![four.clone(), eora(rank)];
        let rules = [(&layers[0], chain(8)), (&layers[1], chain(4))];
        let rules = rules.map(|(module, chain)| (format!("{module}.weight"), chain));
        let rules: Vec<_> = rules.iter().map(|(name, c)| (name.as_str(), c.clone())).collect();
        let plan = plan(&model.checkpoint, &rules).unwrap();
        let out = root.path().join(id);
        let report = model.export(&plan, id, &out);
        let files = whole(&out);
        let counted = files.iter().filter(|(name, _)| !name.starts_with("lapidary-report"));
        let bytes: usize = counted.map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(report.totals.total_bytes, bytes as u64, "{id}");
        let uncorrected: Vec<_> =
            rules.iter().map(|(name, _)| (*name, vec![four.clone()])).collect();
        let uncorrected = lapidary_tests::plan(&model.checkpoint, &uncorrected).unwrap();
        let before = model.export(&uncorrected, id, &root.path().join("plain"));
        for (module, rank) in layers.into_iter().zip([8, 4]) {
            let name = format!("{module}.weight");
            let found = weights(&out, &name);
            assert_eq!(found, put_together(&out, module), "{id} {module}");
            let of = |report: &Report| {
                let found = report.tensors.iter().find(|tensor| tensor.name == name);
                found.expect("the layer").clone()
            };
            let (with, without) = (of(&report), of(&before));
            let source = &model.checkpoint.tensors()[model.checkpoint.find(&name).unwrap()];
            let [rows, cols] = source.shape.0[..] else { panic!("a matrix") };
            let factors = 2 * rank * (rows + cols) as u64;
            assert_eq!((with.stored.as_str(), with.adapter_bytes), ("native", Some(factors)));
            assert_eq!((with.bytes - without.bytes, without.adapter_bytes), (factors, None));
            assert!(with.relative_error < without.relative_error, "{id} {module}");
        }
        let proved = verify(&out, &model.checkpoint, &Silent).unwrap();
        assert_eq!(proved.faults, Vec::<String>::new(), "{id}");
        assert!(proved.is_reported, "{id}");
        let compressed = proved.tensors.iter().filter(|t| t.stored == "compressed");
        assert_eq!(compressed.count(), 2, "{id}");
    }
}

#[test]
fn a_folder_with_an_adapter_runs_and_compares_as_one_model() {
    let model = Model::new(golden("llama"));
    let (plan, root) = (model.two_ranks(), TempDir::new().unwrap());
    let (out, archive) = (root.path().join("out"), root.path().join("archive"));
    model.export(&plan, "compressed-tensors", &out);
    model.export(&plan, "archive", &archive);
    assert!(!archive.join("adapter").exists(), "an archive holds the sum itself");
    // The archive holds the layers as they were computed.
    let opened = [&out, &archive].map(|folder| Checkpoint::open(folder).unwrap());
    let [ours, whole] = opened.each_ref().map(CheckpointWeights::new);
    assert_eq!(logits(&opened[0], &ours), logits(&opened[1], &whole));
    for (index, counterpart) in pairs(&model.checkpoint, &opened[0]).iter().enumerate() {
        let counterpart = counterpart.as_ref().expect("nothing is missing");
        let corrected = ["o_proj", "down_proj"].iter().any(|role| {
            model.checkpoint.tensors()[index].name.ends_with(&format!("{role}.weight"))
        });
        assert_eq!(matches!(counterpart, Counterpart::Compressed { .. }), corrected);
        let found = compare(&model.checkpoint, index, &opened[0], counterpart, &Silent).unwrap();
        assert_eq!(found.relative_error > 0.0, corrected);
    }
    // Compared with itself part by part, both factors find themselves.
    for counterpart in pairs(&opened[0], &opened[0]).into_iter().enumerate() {
        assert_eq!(counterpart.1, Some(Counterpart::Plain { tensor: counterpart.0 }));
    }
    // Factors are listed with their layer, and are no layers of their own.
    let is_factor = |tensor: &&lapidary_engine::checkpoint::Tensor| tensor.name.contains("lora_");
    let factors: Vec<_> = opened[0].tensors().iter().filter(is_factor).collect();
    assert!(factors.len() == 8 && factors.iter().all(|factor| factor.matrix.is_none()));
    assert!(factors.iter().all(|factor| factor.place.block.is_some()));
    // Its recipe has the corrections with their ranks.
    let recovered = recover(&out).unwrap().on(&model.checkpoint);
    let ranks = recovered.layers.iter().filter_map(|(_, steps)| steps.get(1).cloned());
    assert_eq!(ranks.collect::<Vec<_>>(), [eora(6), eora(3), eora(6), eora(3)]);
}

#[test]
fn settings_give_each_rank_its_own_pattern_and_the_checkpoint_no_trace() {
    let model = Model::new(golden("llama"));
    let (plan, root) = (model.two_ranks(), TempDir::new().unwrap());
    let out = root.path().join("out");
    model.export(&plan, "compressed-tensors", &out);
    let config = read_json(&out.join(CONFIG));
    let fixed = [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("bias", json!("none")),
        ("r", json!(6)),
        ("lora_alpha", json!(6)),
        ("use_rslora", json!(false)),
        ("base_model_name_or_path", json!("..")),
    ];
    for (key, value) in fixed {
        assert_eq!(config[key], value, "{key}");
    }
    let down = |block| format!("^model\\.layers\\.{block}\\.mlp\\.down_proj");
    assert_eq!(config["rank_pattern"], json!({down(0): 3, down(1): 3}));
    assert_eq!(config["alpha_pattern"], config["rank_pattern"]);
    // The checkpoint proper is that of the plan without corrections, file by file.
    let four = rtn(4).with("group_size", 16);
    let rules = ["*.o_proj.weight", "*.down_proj.weight"].map(|name| (name, vec![four.clone()]));
    let plain = lapidary_tests::plan(&model.checkpoint, &rules).unwrap();
    let base = root.path().join("base");
    model.export(&plain, "compressed-tensors", &base);
    let files = |folder: &Path| {
        let mut files = read_folder(folder);
        files.retain(|name, _| !name.starts_with("lapidary-report"));
        files
    };
    assert_eq!(files(&out), files(&base));
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_in_files_of_any_size() {
    let model = Model::new(golden("llama"));
    let (plan, root) = (model.two_ranks(), TempDir::new().unwrap());
    let at = |name: &str| root.path().join(name);
    for threads in [1, 3] {
        on_threads(threads, || {
            model.export(&plan, "compressed-tensors", &at(&threads.to_string()))
        });
    }
    assert!(whole(&at("1")) == whole(&at("3")));
    let target = target::find("compressed-tensors").unwrap();
    let aim = Aim { shard_bytes: 8_000, ..target.into() };
    let measured = Measured { folder: &model.folder, calibration: &model.calibration };
    let subject = Subject { checkpoint: &model.checkpoint, calibrated: &measured };
    let out = at("sharded");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    let foretold = forecast(subject, &plan, aim, destination).unwrap();
    let report = export(subject, &plan, aim, destination, &Silent).unwrap();
    let files = whole(&out);
    let index = read_json(&out.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    assert!(map.len() > 20 && map.keys().all(|name| !name.contains("lora_")));
    let shards = files.keys().filter(|name| name.starts_with("model-")).count();
    assert!(shards > 3 && foretold.weight_files == shards + 1);
    let reports = files.iter().filter(|(name, _)| name.starts_with("lapidary-report"));
    let bytes: usize = files.values().map(Vec::len).sum();
    let bytes = (bytes - reports.map(|(_, bytes)| bytes.len()).sum::<usize>()) as u64;
    assert_eq!((foretold.output_bytes, report.totals.total_bytes), (bytes, bytes));
    assert_eq!(files[WEIGHTS], whole(&at("1"))[WEIGHTS]);
    assert_eq!(files[CONFIG], whole(&at("1"))[CONFIG]);
    assert!(verify(&out, &model.checkpoint, &Silent).unwrap().faults.is_empty());
}

/// A copy of an output in which one file is another, or none.
fn with(out: &Path, copy: &Path, name: &str, bytes: Option<&[u8]>) {
    for (file, before) in whole(out) {
        let bytes = if file == name { bytes } else { Some(before.as_slice()) };
        if let Some(bytes) = bytes {
            write(&copy.join(&file), bytes);
        }
    }
}

#[test]
fn a_damaged_adapter_is_refused_and_one_of_somebody_else_is_left_alone() {
    let model = Model::new(golden("llama"));
    let (plan, root) = (model.two_ranks(), TempDir::new().unwrap());
    let out = root.path().join("out");
    model.export(&plan, "compressed-tensors", &out);
    let mut copies = 0;
    let mut copy = |name: &str, bytes: Option<Vec<u8>>| {
        copies += 1;
        let copy = root.path().join(format!("copy-{copies}"));
        with(&out, &copy, name, bytes.as_deref());
        copy
    };
    let verified = |folder: &Path| verify(folder, &model.checkpoint, &Silent);
    let good = read(&out.join(WEIGHTS));
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 0x40;
    let faults = verified(&copy(WEIGHTS, Some(flipped))).unwrap().faults;
    let said = |part: &str| faults.iter().any(|fault| fault.contains(part));
    assert!(said("_proj.weight is") && said(&format!("{WEIGHTS} was changed")), "{faults:?}");
    let faults = verified(&copy(WEIGHTS, None)).unwrap().faults;
    let said = |part: &str| faults.iter().any(|fault| fault.contains(part));
    assert!(said(&format!("the file {WEIGHTS} of the report is not there")), "{faults:?}");
    assert!(said("o_proj.weight is") && said("and the report says"), "{faults:?}");
    let half = good[..good.len() / 2].to_vec();
    assert_says(verified(&copy(WEIGHTS, Some(half))), &["adapter_model.safetensors"]);
    assert_says(verified(&copy(CONFIG, None)), &["adapter_config.json"]);
    let config = read_json(&out.join(CONFIG));
    let changed = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        Some(config.to_string().into_bytes())
    };
    for (key, value, said) in [
        ("lora_alpha", json!(12), "by 12/6, not by 1"),
        ("rank_pattern", json!({}), "by 3/6, not by 1"),
        ("use_dora", json!(true), "use_dora"),
        ("target_modules", json!(["model.layers.0.mlp.down_proj"]), "does not list"),
        ("peft_type", json!("IA3"), "peft_type"),
    ] {
        assert_says(Checkpoint::open(&copy(CONFIG, changed(key, value))), &[said, "adapter"]);
    }
    let lone = lapidary_tests::Weights::new();
    let lone = lone.normal("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", &[3, 48]);
    assert_says(Checkpoint::open(&copy(WEIGHTS, Some(lone.bytes()))), &["two factors"]);
    // Anybody's fine-tuning says neither where it belongs nor that it is a part.
    let other = copy(CONFIG, changed("base_model_name_or_path", json!("someone/model")));
    write(&other.join(WEIGHTS), &lone.bytes());
    let opened = Checkpoint::open(&other).unwrap();
    assert!(!opened.has_adapter() && opened.find("lora").is_none());
    assert!(opened.tensors().iter().all(|tensor| !tensor.name.contains("lora_")));
}

#[test]
fn what_has_an_adapter_is_converted_and_not_compressed_again() {
    let model = Model::new(golden("llama"));
    let (plan, root) = (model.two_ranks(), TempDir::new().unwrap());
    let at = |name: &str| root.path().join(name);
    model.export(&plan, "compressed-tensors", &at("out"));
    model.export(&plan, "archive", &at("archive"));
    let opened = Checkpoint::open(&at("out")).unwrap();
    let to = |name: &str| (at(name), target::find(name.trim_start_matches("to ")).unwrap());
    for name in ["to archive", "to dense", "to compressed-tensors-int", "to mlx"] {
        let (folder, target) = to(name);
        let destination =
            Destination { folder: &folder, replace: false, limits: Limits::default() };
        let report = convert(&opened, target, destination, &Silent).unwrap();
        assert_eq!(folder.join("adapter").exists(), name.ends_with("int"), "{name}");
        let is_exact = name.ends_with("archive") || name.ends_with("int");
        for tensor in report.tensors.iter().filter(|tensor| tensor.name.contains("o_proj")) {
            assert_eq!(tensor.relative_error == 0.0, is_exact, "{name}");
        }
    }
    let layer = "model.layers.0.self_attn.o_proj.weight";
    for name in ["to archive", "to compressed-tensors-int", "archive"] {
        assert_eq!(weights(&at(name), layer), weights(&at("out"), layer), "{name}");
    }
    // And an archive for a runtime.
    let archive = Checkpoint::open(&at("archive")).unwrap();
    let target = target::find("compressed-tensors").unwrap();
    let out = at("from archive");
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    convert(&archive, target, destination, &Silent).unwrap();
    for file in [WEIGHTS, CONFIG, "model.safetensors"] {
        assert!(read(&out.join(file)) == read(&at("out").join(file)), "{file}");
    }
    let keep = Plan::default();
    let dense = target::find("dense").unwrap();
    let again = at("again");
    let destination = Destination { folder: &again, replace: false, limits: Limits::default() };
    assert_says(export(&opened, &keep, dense, destination, &Silent), &["adapter", "convert it"]);
    assert_says(estimate_squeezed(&at("out"), None, &Silent), &["adapter", "archive"]);
}

#[test]
fn what_peft_cannot_hold_is_stored_in_full_with_the_reason() {
    let stored = |checkpoint: &Checkpoint, chain: Vec<Step>, rule: &str, id: &str| {
        let plan = plan(checkpoint, &[(rule, chain)]).expect("a plan");
        let all = entries(checkpoint, &plan, target::find(id).expect("a target")).expect("entries");
        let entry = all.into_iter().find(Entry::is_compressed).expect("a layer");
        match entry.storage {
            Storage::Dense { because } => because,
            other => format!("{other:?}"),
        }
    };
    let llama = golden("llama");
    let four = || rtn(4).with("group_size", 16);
    let of = |chain: Vec<Step>, id: &str| stored(&llama, chain, "*.o_proj.weight", id);
    assert_eq!(of(vec![four(), eora(2)], "compressed-tensors"), "Native");
    let integers = eora(2).with("factors", "integers");
    let cases = [
        (vec![four(), integers], "compressed-tensors", "no integers for the factors"),
        (vec![rtn(3), eora(2)], "compressed-tensors", "3-bit codes"),
        (vec![Step::new("wanda"), eora(2)], "compressed-tensors", "no masks"),
        (vec![Step::new("low-rank").with("rank", 2)], "compressed-tensors", "two thin matrices"),
        (vec![four(), eora(2), Step::new("sparse-outliers")], "gptq", "single weights"),
        (vec![four(), eora(2)], "mlx", "have them in an adapter"),
        (vec![Step::new("gguf-blocks").with("type", "Q4_0"), eora(2)], "gguf", "in an adapter"),
        (vec![rtn(4).with("group_size", 32), eora(2)], "auto-round", "in an adapter"),
    ];
    for (chain, id, said) in cases {
        let why = of(chain, id);
        assert!(why.contains(said), "{id}: {why}");
    }
    let experts = golden("mixtral");
    let why =
        stored(&experts, vec![four(), eora(2)], "*.experts.0.w1.weight", "compressed-tensors");
    assert!(why.contains("single experts"), "{why}");
}
