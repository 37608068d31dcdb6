//! What targets make of blocks, small floats, offsets and tables: forecast to the byte, refused with a reason, mended.

use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::encoding::{BlockType, Encoding};
use lapidary_engine::job;
use lapidary_engine::method::Step;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::target::{self, Aim, Case, Fix, Manifest, Severity, Storage, lints};
use lapidary_tests::{Weights, plan, rtn, write};
use tempfile::TempDir;

/// A llama of one block of square layers.
fn llama(folder: &Path, hidden: usize) -> Checkpoint {
    let mut weights = Weights::new();
    for name in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.down"] {
        let name = format!("model.layers.0.{name}_proj.weight");
        weights = weights.normal(&name, &[hidden, hidden]);
    }
    weights.write(&folder.join("model.safetensors"));
    write(&folder.join("config.json"), br#"{"model_type": "llama"}"#);
    Checkpoint::open(folder).expect("a valid model")
}

#[test]
fn blocks_and_floats_are_forecast_to_the_byte_where_they_are_held() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 256);
    let layer = checkpoint.find("model.layers.0.mlp.down_proj.weight").unwrap();
    let bytes = |target: &str, step: &Step| {
        let rule = ("*.down_proj.weight", vec![step.clone()]);
        let plan = plan(&checkpoint, &[rule]).unwrap();
        let target = target::find(target).unwrap();
        let entry = Manifest::new(&checkpoint, &plan, target).unwrap().entries[layer].clone();
        match entry.storage {
            target::Storage::Native => Ok(entry.bytes),
            target::Storage::Dense { because } => Err(because),
            target::Storage::Copied | target::Storage::Changed { .. } => panic!("it is compressed"),
        }
    };
    let n = 256 * 256;
    for kind in BlockType::ALL {
        let step = Step::new("gguf-blocks").with("type", kind.name());
        let wanted = (n / kind.weights() * kind.bytes()) as u64;
        assert_eq!(bytes("gguf", &step), Ok(wanted), "{kind}");
        for other in ["mlx", "compressed-tensors", "gptq", "gptq-v2", "awq", "dense"] {
            let because = bytes(other, &step).unwrap_err();
            assert!(!because.is_empty() && !because.ends_with('.'), "{other}: {because}");
        }
    }
    let micro = |format: &str| Step::new("microscaling").with("format", format);
    let (n, groups) = (n as u64, n as u64 / 32);
    assert_eq!(bytes("gguf", &micro("mxfp4")), Ok(n / 2 + groups));
    // A scale for 16 inputs, and the number of the matrix in a tensor of its own.
    assert_eq!(bytes("gguf", &micro("nvfp4")), Ok(n / 2 + n / 16 + 4));
    assert_eq!(bytes("mlx", &micro("mxfp4")), Ok(n / 2 + groups));
    assert_eq!(bytes("mlx", &micro("mxfp8")), Ok(n + groups));
    assert!(bytes("mlx", &micro("nvfp4")).is_err());
    // An offset in 32 bits beside each scale, as MLX stores them anyway; others want whole zero points.
    assert_eq!(bytes("mlx", &Step::new("hqq")), Ok(n / 2 + 2 * 4 * n / 64));
    let because = bytes("compressed-tensors", &Step::new("hqq")).unwrap_err();
    assert!(because.contains("whole zero points"), "{because}");
    assert!(bytes("compressed-tensors", &Step::new("hqq").with("symmetry", "asymmetric")).is_ok());
}

#[test]
fn what_is_not_held_becomes_the_nearest_that_is() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 96);
    let name = "model.layers.0.mlp.down_proj.weight";
    let tensor = &checkpoint.tensors()[checkpoint.find(name).unwrap()];
    let instead = |target: &str, step: Step| {
        let now = Assignment::of(vec![step]);
        target::held_instead(tensor, &now, target::find(target).unwrap()).label()
    };
    let blocks = |kind: &str| Step::new("gguf-blocks").with("type", kind);
    assert_eq!(instead("gguf", blocks("Q4_K")), "Q5_0", "as llama-quantize falls back");
    assert_eq!(instead("gguf", blocks("Q6_K")), "Q8_0");
    assert!(instead("compressed-tensors", blocks("Q4_K")).starts_with("4-bit"));
    assert_eq!(instead("compressed-tensors", Step::new("hqq")), "4-bit g32 hqq whole");
    assert!(instead("gptq", Step::new("optimal-palette")).starts_with("4-bit"));
}

#[test]
fn a_method_is_never_taken_for_another_by_hand() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 128);
    let name = "model.layers.0.mlp.down_proj.weight";
    let tensor = &checkpoint.tensors()[checkpoint.find(name).unwrap()];
    for id in ["compressed-tensors", "awq", "gguf", "mlx"] {
        let target = target::find(id).unwrap();
        for method in ["quip-sharp", "higgs", "ternary"] {
            let wanted = Assignment::of(vec![Step::new(method)]);
            assert_eq!(target::held_at_same_bits(tensor, &wanted, target), None, "{method} {id}");
            assert_eq!(target::held_by_same_method(tensor, &wanted, target), None, "{method} {id}");
            assert!(target::refusal(tensor, &wanted, target).is_some(), "{method} {id}");
        }
    }
    // What a format asks of the same method is fitted: scales in the layer before, zero points, groups.
    let awq = target::find("awq").unwrap();
    let wanted = Assignment::of(vec![Step::new("awq").with("group_size", 16)]);
    let held =
        target::held_by_same_method(tensor, &wanted, awq).expect("AWQ at the target of its name");
    assert_eq!(held.steps[0].method, "awq");
    assert_eq!(target::refusal(tensor, &held, awq), None, "{}", held.label());
}

#[test]
fn fused_layers_share_the_global_scale_of_nvfp4() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 64);
    let rule = |pattern: &'static str| (pattern, vec![Step::new("microscaling")]);
    let global = |plan: &Plan, role: &str| {
        let name = format!("model.layers.0.self_attn.{role}_proj.weight");
        let layer = checkpoint.find(&name).unwrap();
        match job::compress_layer(&checkpoint, plan, layer, &Silent).unwrap() {
            Encoding::Float(float) => float.global(),
            other => panic!("{:?}", other.layout()),
        }
    };
    let all = plan(&checkpoint, &[rule("*.self_attn.*")]).unwrap();
    let [q, k, v, o] = ["q", "k", "v", "o"].map(|role| global(&all, role));
    assert!(q == k && k == v && q != o, "{q} {k} {v} {o}");
    let alone = |role: &str| {
        let mut plan = Plan::default();
        let name = format!("model.layers.0.self_attn.{role}_proj.weight");
        plan.set(&name, Assignment::of(vec![Step::new("microscaling")]));
        global(&plan, role)
    };
    let least = ["q", "k", "v"].map(alone).into_iter().fold(f32::INFINITY, f32::min);
    assert_eq!(q, least, "the largest weight of the three decides");
}

#[test]
fn codes_of_3_5_6_and_7_bits_are_for_later_readers() {
    let folder = TempDir::new().unwrap();
    let checkpoint = llama(folder.path(), 256);
    let layer = checkpoint.find("model.layers.0.mlp.down_proj.weight").unwrap();
    let laid_out = |id: &str, step: Step| {
        let plan = plan(&checkpoint, &[("*.down_proj.weight", vec![step])]).unwrap();
        let aim = Aim::from(target::find(id).unwrap());
        let entries = Manifest::new(&checkpoint, &plan, aim.target).unwrap().entries;
        let case = Case { checkpoint: &checkpoint, plan: &plan, aim, entries: &entries };
        (entries[layer].storage == Storage::Native, lints(&case))
    };
    for bits in 2..=8 {
        let step = rtn(bits).with("group_size", 128);
        let (is_held, all) = laid_out("compressed-tensors", step.clone());
        let is_shared = [2, 4, 8].contains(&bits);
        assert_eq!(is_held, is_shared, "{bits} bits");
        let note = all.iter().find(|lint| lint.id == "newer-readers");
        let fix = note.and_then(|lint| lint.fix.clone());
        let wanted = (!is_shared).then_some(Fix::Target("compressed-tensors-0.18"));
        assert_eq!(fix, wanted, "{bits} bits");
        assert!(note.is_none_or(|n| n.severity == Severity::Note && n.tensors == [layer]));
        let (is_held, all) = laid_out("compressed-tensors-0.18", step);
        assert!(is_held && all.iter().all(|lint| lint.id == "slow-kernel"), "{bits}: {all:?}");
    }
    // A mask alone, and blocks of llama.cpp, are held by neither.
    for step in [Step::new("magnitude"), Step::new("gguf-blocks").with("type", "Q4_0")] {
        let (is_held, all) = laid_out("compressed-tensors", step);
        assert!(!is_held && all.iter().all(|lint| lint.id != "newer-readers"), "{all:?}");
    }
}
