//! The float formats of compressed-tensors: written as the package writes them, read back to the bit, taken over.

use std::collections::BTreeSet;
use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Counterpart, compare, pairs};
use lapidary_engine::encoding::{Encoding, Float, FloatData};
use lapidary_engine::export::{Destination, convert, export, verify};
use lapidary_engine::format::compressed_tensors::{FloatReader, Floats};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::target;
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_tests::{plan, read_json, rtn, sample};
use tempfile::TempDir;

const ALL: [Floats; 5] =
    [Floats::Channels, Floats::Squares, Floats::Nvfp4, Floats::Mxfp4, Floats::Mxfp8];

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn step(floats: Floats) -> Step {
    match floats {
        Floats::Channels => Step::new("fp8").with("granularity", "channel"),
        Floats::Squares => Step::new("fp8").with("granularity", "square"),
        Floats::Nvfp4 => Step::new("microscaling").with("format", "nvfp4"),
        Floats::Mxfp4 => Step::new("microscaling").with("format", "mxfp4"),
        Floats::Mxfp8 => Step::new("microscaling").with("format", "mxfp8"),
    }
}

/// The codes and bytes of the package's own FP4, and what every code of every form decodes to.
#[test]
fn codes_lie_as_the_package_packs_them() {
    let codes = vec![0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7, 9, 15];
    let packed = [0, 17, 34, 67, 84, 102, 119, 249];
    let shape = MatrixShape { rows: 1, cols: 16 };
    let layout = Floats::Nvfp4.layout(DType::BF16);
    let data = FloatData { codes, scales: vec![2.0], global: 4.0 };
    let float = Float::new(shape, layout, data);
    let parts = ["weight_packed", "weight_scale", "weight_global_scale"]
        .map(|suffix| (suffix, Floats::Nvfp4.pack(&float, suffix).expect(suffix)));
    assert_eq!(parts[0].1, packed);
    assert_eq!(
        (parts[1].1.as_slice(), parts[2].1.as_slice()),
        (&[0x40][..], &4_f32.to_le_bytes()[..])
    );
    let get = |name: &str| parts.iter().find(|part| part.0 == name).map(|part| part.1.as_slice());
    let reader = FloatReader::new(Floats::Nvfp4, DType::F8E4M3, shape, &get).unwrap();
    let mut out = [0.0; 16];
    reader.read(0, &mut out).unwrap();
    let halves = [0., 0., 0.5, 0.5, 1., 1., 1.5, 2., 2., 3., 4., 4., 6., 6., -0.5, -6.];
    assert_eq!(out, halves.map(|level: f32| level / 2.0));
    assert_eq!(reader.encoding().unwrap(), Encoding::Float(float));
}

#[test]
fn every_form_is_written_proved_read_back_and_taken_over() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let target = target::find("compressed-tensors").unwrap();
    for floats in ALL {
        let name = format!("{floats:?}");
        let plan = plan(&sample, &[("model.layers.*_proj.weight", vec![step(floats)])]).unwrap();
        let out = folder.path().join(&name);
        let report = export(&sample, &plan, target, to(&out), &Silent)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((report.totals.compressed, report.totals.dense), (42, 0), "{name}");
        let config = read_json(&out.join("config.json"));
        let quantization = &config["quantization_config"];
        assert_eq!(quantization["format"], floats.name(), "{name}");
        let weights = quantization["config_groups"]["group_0"]["weights"].as_object().unwrap();
        let known = [
            "num_bits",
            "type",
            "symmetric",
            "strategy",
            "group_size",
            "block_structure",
            "dynamic",
            "observer",
        ];
        assert!(weights.keys().all(|key| known.contains(&key.as_str())), "{weights:?}");
        // Read back as any compressed checkpoint: errors are those that were measured.
        let opened = Checkpoint::open(&out).unwrap();
        for (index, pair) in pairs(&sample, &opened).iter().enumerate() {
            let pair = pair.as_ref().expect("a counterpart");
            let found = compare(&sample, index, &opened, pair, &Silent).unwrap();
            let reported = &report.tensors[index];
            assert_eq!(matches!(pair, Counterpart::Compressed { .. }), reported.stored == "native");
            let (a, b) = (found.relative_error, reported.relative_error);
            assert!((a - b).abs() <= 1e-12 * (a + b), "{name}, {}: {a} and {b}", reported.name);
        }
        assert!(verify(&out, &sample, &Silent).unwrap().faults.is_empty(), "{name}");
        let again = folder.path().join(format!("{name}-archive"));
        let archive = target::find("archive").unwrap();
        let taken = convert(&opened, archive, to(&again), &Silent).unwrap();
        let worst = taken.tensors.iter().map(|tensor| tensor.relative_error).fold(0.0, f64::max);
        assert_eq!((taken.totals.dense, worst), (0, 0.0), "{name}");
    }
}

#[test]
fn integers_and_floats_are_groups_of_one_model() {
    let sample = sample();
    let folder = TempDir::new().unwrap();
    let rules = [
        ("*.self_attn.*_proj.weight", vec![step(Floats::Channels)]),
        ("*.up_proj.weight", vec![step(Floats::Nvfp4)]),
        ("*.gate_proj.weight", vec![step(Floats::Nvfp4)]),
        ("*.down_proj.weight", vec![rtn(4).with("group_size", 64)]),
    ];
    let plan = plan(&sample, &rules).unwrap();
    let target = target::find("compressed-tensors").unwrap();
    let out = folder.path().join("out");
    let report = export(&sample, &plan, target, to(&out), &Silent).unwrap();
    assert_eq!(report.totals.dense, 0);
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["quantization_config"]["format"], "mixed-precision");
    let groups = config["quantization_config"]["config_groups"].as_object().unwrap();
    let formats: BTreeSet<&str> =
        groups.values().map(|group| group["format"].as_str().unwrap()).collect();
    let wanted = ["float-quantized", "nvfp4-pack-quantized", "pack-quantized"];
    assert_eq!(formats.into_iter().collect::<Vec<_>>(), wanted);
    assert!(verify(&out, &sample, &Silent).unwrap().faults.is_empty());
}
