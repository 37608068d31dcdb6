//! Compressed checkpoints written for other targets: codes taken over where a target has a form for them, numbers kept.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, Report, convert, cut, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::network::{CheckpointWeights, Weights as _};
use lapidary_engine::plan::Plan;
use lapidary_engine::target;
use lapidary_tests::{assert_says, plan, read_output, rtn, sample};
use ndarray::Array2;
use tempfile::TempDir;

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn export_to(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Report {
    let target = target::find(id).expect("a target");
    export(checkpoint, plan, target, to(folder), &Silent).unwrap_or_else(|e| panic!("{id}: {e}"))
}

#[test]
fn codes_are_taken_over_where_a_target_holds_them() {
    let sample = sample();
    let four = rtn(4).with("group_size", 64);
    let rules = [
        ("*.mlp.*_proj.weight", vec![four]),
        ("*.self_attn.*_proj.weight", vec![Step::new("nf4")]),
    ];
    let plan = plan(&sample, &rules).unwrap();
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    export_to(&sample, &plan, "archive", &at("archive"));
    let archive = Checkpoint::open(&at("archive")).unwrap();
    for id in ["compressed-tensors", "mlx"] {
        export_to(&sample, &plan, id, &at(id));
        let made = at(&format!("{id}-made"));
        let report = convert(&archive, target::find(id).unwrap(), to(&made), &Silent).unwrap();
        let (a, b) = (read_output(&made), read_output(&at(id)));
        assert_eq!(a, b, "{id}");
        assert!(report.totals.compressed > 0 && report.totals.dense > 0);
        let because = report.tensors.iter().find_map(|tensor| tensor.because.as_ref());
        assert!(because.is_some_and(|because| because.contains("4-bit floats")), "{because:?}");
        let worst =
            report.tensors.iter().filter(|t| t.stored == "native").map(|t| t.relative_error);
        assert_eq!(worst.fold(0.0, f64::max), 0.0, "nothing is rounded on the way");
    }
}

/// From each format of integers to each other, through the same numbers.
#[test]
fn integers_go_from_format_to_format() {
    let sample = sample();
    let step = rtn(4).with("group_size", 128).with("clipping", "mse");
    let plan = plan(&sample, &[("model.layers.*_proj.weight", vec![step])]).unwrap();
    let folder = TempDir::new().unwrap();
    let ids = ["compressed-tensors", "compressed-tensors-int", "gptq", "gptq-v2", "mlx", "archive"];
    let decoded = |path: &Path, name: &str| -> Array2<f32> {
        let checkpoint = Checkpoint::open(path).unwrap();
        let weights = CheckpointWeights::new(&checkpoint);
        let extents = weights.extents(name).unwrap();
        let mut values = vec![0.0; extents[0] * extents[1]];
        weights.read(name, 0, &mut values, &Silent).unwrap();
        Array2::from_shape_vec((extents[0], extents[1]), values).unwrap()
    };
    for from in ids {
        let source = folder.path().join(from);
        export_to(&sample, &plan, from, &source);
        let checkpoint = Checkpoint::open(&source).unwrap();
        for id in ids {
            let out = folder.path().join(format!("{from}-{id}"));
            let done = convert(&checkpoint, target::find(id).unwrap(), to(&out), &Silent);
            let report = done.unwrap_or_else(|error| panic!("{from} to {id}: {error}"));
            assert_eq!(
                report.totals.dense,
                0,
                "{from} to {id}: {:?}",
                report.tensors.iter().find_map(|t| t.because.clone())
            );
            for name in
                ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.k_proj.weight"]
            {
                let (a, b) = (decoded(&source, name), decoded(&out, name));
                // Scales of 16 bits in one type may be rounded in the other, where both are not the same.
                let near = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 0.002 * a.abs());
                assert!(near, "{from} to {id}: {name}");
            }
        }
    }
    let dense = folder.path().join("dense");
    export_to(&sample, &plan, "dense", &dense);
    let whole = Checkpoint::open(&dense).unwrap();
    let out = folder.path().join("out");
    let target = target::find("mlx").unwrap();
    assert_says(convert(&whole, target, to(&out), &Silent), &["holds no compressed layer"]);
}

/// Levels of each layer, by the parts that an archive has.
fn heights(folder: &Path) -> BTreeMap<String, i64> {
    let archive = Checkpoint::open(folder).expect("an archive");
    let mut heights = BTreeMap::new();
    for tensor in archive.tensors() {
        let level = tensor.name.strip_suffix(".signs").and_then(|name| name.rsplit_once('.'));
        if let Some((layer, _)) = level {
            *heights.entry(layer.to_owned()).or_default() += 1;
        }
    }
    heights
}

#[test]
fn a_stack_is_cut_to_any_size_as_if_it_had_been_compressed_so() {
    let sample = sample();
    let stack = |levels: i64| vec![Step::new("bitstack").with("levels", levels).with("rank", 2)];
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rules = [("*.mlp.*_proj.weight", stack(4)), ("*.self_attn.o_proj.weight", vec![rtn(4)])];
    export_to(&sample, &plan(&sample, &rules).unwrap(), "archive", &at("whole"));
    let whole = Checkpoint::open(&at("whole")).unwrap();
    let target = target::find("archive").unwrap();
    let file = |name: &str| read_output(&at(name))["model.safetensors"].len() as u64;
    let most = file("whole");
    let to_size = |size: u64, name: &str| cut(&whole, (size, target), to(&at(name)), &Silent);
    assert_says(to_size(1000, "none"), &["one level of every layer", "more than 1,000", "bytes"]);
    to_size(most, "all").unwrap();
    assert_eq!(read_output(&at("all")), read_output(&at("whole")), "all of it fits");
    let mut before: Option<(BTreeMap<String, i64>, f64)> = None;
    for (name, less) in [("most", 300_000), ("more", 600_000), ("less", 900_000)] {
        let size = most - less;
        let report = to_size(size, name).unwrap();
        let (found, heights) = (file(name), heights(&at(name)));
        // A level of the largest layers, 704 × 256, takes 26 kB.
        assert!(found <= size && found > size - 30_000, "{found} of {size}");
        let as_planned: Vec<(String, Vec<Step>)> =
            heights.iter().map(|(layer, &levels)| (layer.clone(), stack(levels))).collect();
        let as_planned = as_planned.iter().map(|(layer, steps)| (layer.as_str(), steps.clone()));
        let rules: Vec<_> = as_planned.chain([rules[1].clone()]).collect();
        export_to(
            &sample,
            &plan(&sample, &rules).unwrap(),
            "archive",
            &at(&format!("{name} made")),
        );
        assert_eq!(read_output(&at(name)), read_output(&at(&format!("{name} made"))), "{name}");
        let error: f64 = report.tensors.iter().map(|tensor| tensor.relative_error).sum();
        if let Some((higher, less)) = before {
            assert!(heights.iter().all(|(layer, &n)| n <= higher[layer]), "of a larger one");
            assert!(error > less, "{error} and {less}");
        }
        before = Some((heights, error));
    }
    let rules = [("*.mlp.*_proj.weight", vec![rtn(4)])];
    export_to(&sample, &plan(&sample, &rules).unwrap(), "archive", &at("integers"));
    let integers = Checkpoint::open(&at("integers")).unwrap();
    let out = at("out");
    assert_says(cut(&integers, (most, target), to(&out), &Silent), &["no stack of levels"]);
}
