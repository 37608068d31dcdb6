//! Exports of models of other kinds: in shards, stored `[in, out]`, convolutional, with tied embeddings, without config.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::checkpoint::{Checkpoint, MatrixKind};
use lapidary_engine::export::{Destination, PAGE, REPORT, Report, export};
use lapidary_engine::job::{self, Limits};
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Manifest};
use lapidary_engine::{Result, Silent};
use lapidary_tests::reader::{Output, floats};
use lapidary_tests::{
    Weights, assert_says, data, names_in, plan, read_folder, read_json, read_output, rtn,
    sample_path, writable, write,
};
use serde_json::json;
use tempfile::TempDir;

fn run(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Result<Report> {
    let destination = Destination { folder, replace: false, limits: Limits::default() };
    export(checkpoint, plan, target::find(id)?, destination, &Silent)
}

/// Exports and checks what must hold of every export: promised bytes, and that it opens again.
fn run_checked(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Report {
    let report = run(checkpoint, plan, id, folder).unwrap_or_else(|error| panic!("{id}: {error}"));
    let manifest =
        Manifest::new(checkpoint, plan, target::find(id).expect("a target")).expect("a manifest");
    let on_disk: usize = read_output(folder).values().map(Vec::len).sum();
    assert_eq!(manifest.total_bytes(), on_disk as u64, "{id}");
    assert_eq!(report.totals.total_bytes, on_disk as u64, "{id}");
    Checkpoint::open(folder).unwrap_or_else(|error| panic!("{id}: {error}"));
    report
}

/// The sample cut into three shards with an index, its tensors dealt out in turn.
fn sharded_sample(folder: &Path) -> BTreeMap<String, String> {
    let whole = Output::open(&sample_path());
    let mut shards = vec![Weights::new(); 3];
    let mut map = BTreeMap::new();
    for (i, (name, stored)) in whole.tensors.iter().enumerate() {
        let shard = std::mem::take(&mut shards[i % 3]);
        shards[i % 3] = shard.with(name, "BF16", &stored.shape, &stored.bytes);
        map.insert(name.clone(), shard_name(i % 3));
    }
    for (i, shard) in shards.iter().enumerate() {
        shard.write(&folder.join(shard_name(i)));
    }
    let index = json!({"metadata": {"total_size": 11_540_992}, "weight_map": map}).to_string();
    write(&folder.join("model.safetensors.index.json"), index.as_bytes());
    for (name, bytes) in read_folder(&sample_path()) {
        if name != "model.safetensors" {
            write(&folder.join(name), &bytes);
        }
    }
    map
}

fn shard_name(i: usize) -> String {
    format!("model-{:05}-of-00003.safetensors", i + 1)
}

#[test]
fn shards_stay_shards_and_the_index_stays_true() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    let map = sharded_sample(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    assert!(checkpoint.has_index());
    assert_eq!(checkpoint.files().len(), 3);
    let rules = [
        ("*_proj.weight", vec![rtn(4).with("symmetry", "asymmetric")]),
        ("lm_head.weight", vec![rtn(3)]),
    ];
    let wish = plan(&checkpoint, &rules).unwrap();
    let whole = lapidary_tests::sample();
    for target in writable() {
        let id = target.about().id;
        let out = folder.path().join(id);
        run_checked(&checkpoint, &wish, id, &out);
        let output = Output::open(&out);
        let index = read_json(&out.join("model.safetensors.index.json"));
        let written = index["weight_map"].as_object().unwrap();
        assert_eq!(written.len(), output.tensors.len(), "{id}");
        let mut total = 0;
        for (name, stored) in &output.tensors {
            assert_eq!(written[name], stored.file.as_str(), "{id}: {name}");
            total += stored.bytes.len();
            // Parts of a layer lie where the layer lay.
            let module = name.rsplit_once('.').unwrap().0;
            assert_eq!(map[&format!("{module}.weight")], stored.file, "{id}: {name}");
        }
        assert_eq!(index["metadata"]["total_size"], total, "{id}");
        // The same tensors as from one file.
        let one = folder.path().join(format!("{id}-one"));
        let same = plan(&whole, &rules).unwrap();
        run_checked(&whole, &same, id, &one);
        let one = Output::open(&one);
        assert_eq!(one.quantization, output.quantization, "{id}");
        for (name, stored) in &one.tensors {
            assert_eq!(stored.bytes, output.tensors[name].bytes, "{id}: {name}");
        }
    }
}

/// A GPT-2 of one block whose linear layers are stored `[in, out]`.
fn gpt2(folder: &Path) {
    Weights::new()
        .normal("wte.weight", &[30, 32])
        .normal("wpe.weight", &[16, 32])
        .normal("h.0.attn.c_attn.weight", &[32, 96])
        .normal("h.0.attn.c_attn.bias", &[96])
        .normal("h.0.attn.c_proj.weight", &[32, 32])
        .normal("h.0.mlp.c_fc.weight", &[32, 128])
        .normal("h.0.mlp.c_proj.weight", &[128, 32])
        .normal("ln_f.weight", &[32])
        .write(&folder.join("model.safetensors"));
    let config = json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"});
    write(&folder.join("config.json"), config.to_string().as_bytes());
}

#[test]
fn layers_stored_in_by_out_keep_their_orientation() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    gpt2(&model);
    let checkpoint = Checkpoint::open(&model).unwrap();
    let name = "h.0.mlp.c_fc.weight";
    let index = checkpoint.find(name).unwrap();
    let matrix = checkpoint.tensors()[index].matrix.unwrap();
    assert_eq!(matrix.kind, MatrixKind::Conv1d);
    assert_eq!((matrix.shape.rows, matrix.shape.cols), (128, 32));
    let plan =
        plan(&checkpoint, &[("h.*weight", vec![rtn(4).with("granularity", "channel")])]).unwrap();
    let store = job::run(&checkpoint, &plan, Limits::default(), None, &Silent).unwrap();
    let decoded = store.get(index).unwrap().decode();
    for target in writable() {
        let id = target.about().id;
        let out = folder.path().join(id);
        let report = run_checked(&checkpoint, &plan, id, &out);
        let output = Output::open(&out);
        assert_eq!(output.tensors[name].shape, [32, 128], "{id}");
        let found = floats(&output.tensors[name]);
        for ((row, col), value) in decoded.indexed_iter() {
            assert_eq!(found[col * 128 + row], *value, "{id} at [{row}, {col}]");
        }
        // A channel is an output: 16 levels in each column of what is stored, more in a row.
        let distinct = |first: usize, step: usize, n: usize| {
            let levels = (0..n).map(|i| found[first + i * step].to_bits());
            levels.collect::<std::collections::BTreeSet<u32>>().len()
        };
        assert!(distinct(5, 128, 32) <= 16);
        assert!(distinct(5 * 128, 1, 128) > 16);
        assert_eq!(report.totals.dense, 4, "{id}");
        if id != "dense" {
            let layer = report.tensors.iter().find(|tensor| tensor.name == name);
            let because = layer.unwrap().because.clone().unwrap();
            assert!(because.contains("Conv1D") || id == "mlx", "{because}");
        }
    }
}

#[test]
fn convolutional_nets_compress_and_keep_their_counters() {
    let checkpoint = Checkpoint::open(&data("cifar10-resnet20")).unwrap();
    let before = Output::open(&data("cifar10-resnet20"));
    let plan =
        plan(&checkpoint, &[("*conv*.weight", vec![rtn(4).with("group_size", 16)])]).unwrap();
    assert_eq!(plan.len(), 19);
    let store = job::run(&checkpoint, &plan, Limits::default(), None, &Silent).unwrap();
    let folder = TempDir::new().unwrap();
    for target in writable() {
        let id = target.about().id;
        let out = folder.path().join(id);
        let report = run_checked(&checkpoint, &plan, id, &out);
        let after = Output::open(&out);
        assert_eq!(report.totals.dense, 19, "{id}");
        assert!(names_in(&out).contains(&"LICENSE".to_owned()));
        let mut changed = 0;
        for (name, stored) in &before.tensors {
            let now = &after.tensors[name];
            assert_eq!((&now.shape, now.dtype), (&stored.shape, stored.dtype), "{name}");
            changed += usize::from(now.bytes != stored.bytes);
        }
        assert_eq!(changed, 19, "{id}: kernels and nothing else");
        let kernel =
            report.tensors.iter().find(|tensor| tensor.name == "layer1.0.conv1.weight").unwrap();
        assert_eq!(kernel.shape, [16, 16, 3, 3]);
        assert!(kernel.relative_error > 0.03 && kernel.relative_error < 0.2);
        // A kernel [out, in, h, w] is the matrix [out, in·h·w], in the same order.
        let index = checkpoint.find(&kernel.name).unwrap();
        let decoded = store.get(index).unwrap().decode();
        assert_eq!(decoded.dim(), (16, 144));
        let wanted: Vec<f32> = decoded.iter().copied().collect();
        assert_eq!(floats(&after.tensors[&kernel.name]), wanted, "{id}");
    }
}

#[test]
fn a_tied_model_stays_tied_and_its_ragged_layers_fit() {
    let checkpoint = Checkpoint::open(&data("stories260K")).unwrap();
    let tied = checkpoint.tied().unwrap();
    assert_eq!(checkpoint.tensors()[tied.embedding].name, "model.embed_tokens.weight");
    assert_eq!(tied.head, None);
    let layers = plan(
        &checkpoint,
        &[
            ("*.self_attn.*_proj.weight", vec![rtn(4).with("group_size", 32)]),
            ("*.mlp.*_proj.weight", vec![rtn(4).with("group_size", 64)]),
            ("model.embed_tokens.weight", vec![rtn(8).with("group_size", 32)]),
        ],
    )
    .unwrap();
    let folder = TempDir::new().unwrap();
    for target in writable() {
        let id = target.about().id;
        let out = folder.path().join(id);
        let report = run_checked(&checkpoint, &layers, id, &out);
        let output = Output::open(&out);
        assert!(!output.tensors.contains_key("lm_head.weight"));
        let stored = |name: &str| {
            let tensor = report.tensors.iter().find(|tensor| tensor.name == name);
            let tensor = tensor.unwrap();
            (tensor.stored.as_str(), tensor.because.as_deref())
        };
        if id == "dense" {
            continue;
        }
        let embedding = match id {
            "mlx" => ("native", None),
            _ => ("dense", Some("the format does not cover embeddings")),
        };
        assert_eq!(stored("model.embed_tokens.weight"), embedding, "{id}");
        let (ragged, because) = stored("model.layers.0.mlp.down_proj.weight");
        let is_said = because.unwrap().contains("its 172 inputs") || id == "awq";
        assert!(ragged == "dense" && is_said, "{because:?}");
        let up = stored("model.layers.0.mlp.up_proj.weight");
        if id.starts_with("gptq") || id == "auto-round" {
            assert_eq!(up, ("dense", Some("its 172 outputs are no multiple of 32")));
            assert_eq!(stored("model.layers.0.self_attn.q_proj.weight"), ("native", None));
        } else if id != "awq" {
            assert_eq!(up, ("native", None), "{id}");
        }
        assert_eq!(output.quantised_modules().len(), report.totals.compressed, "{id}");
        let Some(ignored) = output.quantization["ignore"].as_array() else { continue };
        for module in ["lm_head", "model.layers.0.mlp.down_proj"] {
            assert!(ignored.contains(&json!(module)), "{id}: {module}");
        }
        let scales = &output.tensors["model.layers.0.self_attn.q_proj.weight_scale"];
        assert_eq!(scales.dtype, safetensors::Dtype::F32, "as the source's weights");
    }
}

#[test]
fn models_without_a_config_or_quantised_already_are_refused_with_a_mend() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    lapidary_tests::small_llama(&model);
    let step = || vec![rtn(4).with("group_size", 16)];
    let out = folder.path().join("out");

    let mut config = read_json(&model.join("config.json"));
    config["quantization_config"] = json!({"quant_method": "gptq"});
    write(&model.join("config.json"), config.to_string().as_bytes());
    let quantised = Checkpoint::open(&model).unwrap();
    let wish = plan(&quantised, &[("*_proj.weight", step())]).unwrap();
    for id in ["compressed-tensors", "compressed-tensors-int"] {
        assert_says(
            run(&quantised, &wish, id, &out),
            &["quantised already", "original checkpoint"],
        );
    }

    std::fs::remove_file(model.join("config.json")).unwrap();
    let bare = Checkpoint::open(&model).unwrap();
    let wish = plan(&bare, &[("*_proj.weight", step())]).unwrap();
    for id in ["compressed-tensors", "compressed-tensors-int"] {
        assert_says(run(&bare, &wish, id, &out), &["no config.json", "dense target"]);
    }
    run_checked(&bare, &wish, "dense", &out);
    assert_eq!(names_in(&out), [PAGE, REPORT, "model.safetensors"]);
}
