//! Archives and checkpoints of other formats opened as the layers they hold, not as the parts these lie in.

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::{Checkpoint, Removal};
use lapidary_engine::compare::held;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::format::safetensors::Spec;
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Network, Weights as _};
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{Cache, measure};
use lapidary_engine::target::{Aim, Case, Manifest, Severity, find, lints};
use lapidary_tests::{assert_says, plan, rtn, sample};
use tempfile::TempDir;

#[test]
fn layers_of_every_format_are_seen_whole() {
    let sample = sample();
    let four = rtn(4).with("group_size", 128);
    let wish = |id: &str| match id {
        "archive" => plan(
            &sample,
            &[
                ("*.mlp.up_proj.weight", vec![Step::new("low-rank").with("rank", 8)]),
                ("*.mlp.down_proj.weight", vec![Step::new("gguf-blocks").with("type", "Q3_K")]),
                ("*.self_attn.q_proj.weight", vec![Step::new("nf4")]),
            ],
        ),
        _ => plan(&sample, &[("model.layers.*_proj.weight", vec![four.clone()])]),
    };
    let folder = TempDir::new().unwrap();
    for id in ["archive", "compressed-tensors", "gptq", "mlx"] {
        let out = folder.path().join(id);
        let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
        export(&sample, &wish(id).unwrap(), find(id).unwrap(), destination, &Silent).unwrap();
        let stored = Checkpoint::open(&out).unwrap();
        let seen = held(Checkpoint::open(&out).unwrap()).unwrap();
        let weights = CheckpointWeights::new(&stored);
        assert_eq!(seen.parameters(), sample.parameters(), "{id}");
        assert_eq!(seen.tensor_bytes(), stored.tensor_bytes(), "{id}");
        let mut coded = 0;
        for (index, tensor) in seen.tensors().iter().enumerate() {
            let what = format!("{} of {id}", tensor.name);
            let before = &sample.tensors()[sample.find(&tensor.name).unwrap()];
            assert_eq!((&tensor.shape, tensor.place), (&before.shape, before.place), "{what}");
            assert_eq!(tensor.matrix, before.matrix, "{what}");
            let Some(matrix) = tensor.matrix.filter(|_| tensor.coded.is_some()) else { continue };
            coded += 1;
            assert!(tensor.type_name().ends_with("-bit"), "{what}: {}", tensor.type_name());
            assert!((0.1..8.5).contains(&tensor.stored_bits()), "{what}: {}", tensor.stored_bits());
            let mut wanted = vec![0.0; matrix.shape.elements()];
            weights.read(&tensor.name, 0, &mut wanted, &Silent).unwrap();
            let found = seen.weights(index, &Silent).unwrap();
            assert!(found.iter().eq(&wanted), "{what}");
            // A few columns of some rows, more and fewer than are decoded at once.
            for (rows, cols) in [(3..17, 5..21), (0..matrix.shape.rows, 1..2)] {
                let part = seen.weight_block(index, rows.clone(), cols.clone()).unwrap();
                assert_eq!(part, found.slice(ndarray::s![rows, cols]), "{what}");
            }
            let mean = wanted.iter().map(|&w| f64::from(w)).sum::<f64>() / wanted.len() as f64;
            assert!((measure(&seen, index, &Silent).unwrap().mean - mean).abs() < 1e-9, "{what}");
            Cache::key(&seen, index, &Silent).unwrap();
        }
        assert!(coded >= 18, "{id}: {coded}");
        // No part can be taken out of what is only seen as what it decodes to.
        assert_says(seen.without(&Removal::of_blocks([1])), &["compressed already"]);
        let ids: Vec<u32> = (0..24).map(|i| i * 61 % 2048).collect();
        let logits = |checkpoint: &Checkpoint| {
            let weights = CheckpointWeights::new(checkpoint);
            let network = Network::open(checkpoint.config().unwrap(), &weights).unwrap();
            network.logits_of(&[ids.as_slice()], &Silent).unwrap().remove(0)
        };
        assert_eq!(logits(&seen), logits(&stored), "{id}");
        for target in ["dense", "gguf", "archive"] {
            let aim = Aim::from(find(target).unwrap());
            let plan = Plan::default();
            let manifest = Manifest::new(&seen, &plan, aim.target).unwrap();
            let entries = &manifest.entries;
            let case = Case { checkpoint: &seen, plan: &plan, aim, entries };
            let found = lints(&case);
            let is_said = |lint: &&lapidary_engine::target::Lint| lint.id == "finished-layers";
            let lint = found.iter().find(is_said).unwrap();
            assert_eq!(lint.severity, Severity::Error, "{id} for {target}");
            // What is kept is as large as it is stored, in the tensors that it is stored in.
            for (entry, tensor) in entries.iter().zip(seen.tensors()) {
                if tensor.coded.is_none() {
                    continue;
                }
                assert_eq!(entry.bytes, tensor.bytes(), "{} of {id} for {target}", tensor.name);
                let part = |spec: &Spec| {
                    let part = &stored.tensors()[stored.find(&spec.name).unwrap()];
                    (part.dtype, &part.shape) == (spec.dtype, &spec.shape)
                };
                assert!(!entry.specs.is_empty() && entry.specs.iter().all(part), "{}", tensor.name);
            }
            if target == "dense" {
                assert_eq!(manifest.tensor_bytes(), stored.tensor_bytes(), "{id}");
            }
        }
    }
}

#[test]
fn whole_models_stay_as_they_are() {
    let sample = sample();
    let plain = held(Checkpoint::open(sample.path()).unwrap()).unwrap();
    assert!(plain.decoder().is_none());
    assert_eq!(plain.tensors().len(), sample.tensors().len());
    assert!(plain.tensors().iter().all(|tensor| tensor.coded.is_none()));
}
