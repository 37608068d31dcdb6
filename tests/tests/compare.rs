//! Two checkpoints compared: planted differences, names with and without prefixes, quantised layers of every form
//! the format has, and exports against the errors their own reports state.

use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Comparison, Counterpart, compare, pairs};
use lapidary_engine::export::{Destination, REPORT, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::{Error, Observer, Result, Silent};
use lapidary_tests::{
    Weights, assert_says, normals, on_threads, plan, read_json, rtn, sample, sample_path, writable,
    write,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two lone files opened; the folder lives as long as they do.
struct Two {
    _folder: TempDir,
    a: Checkpoint,
    b: Checkpoint,
}

impl Two {
    fn new(a: &Weights, b: &Weights) -> Self {
        let folder = TempDir::new().expect("a folder");
        let open = |name: &str, weights: &Weights| {
            let path = folder.path().join(name);
            weights.write(&path);
            Checkpoint::open(&path).expect("it opens")
        };
        Self { a: open("a.safetensors", a), b: open("b.safetensors", b), _folder: folder }
    }

    fn compare(&self, name: &str) -> Result<Comparison> {
        compare_by_name(&self.a, &self.b, name)
    }
}

fn compare_by_name(a: &Checkpoint, b: &Checkpoint, name: &str) -> Result<Comparison> {
    let index = a.find(name).expect("the tensor");
    let counterpart = pairs(a, b).swap_remove(index).expect("a counterpart");
    compare(a, index, b, &counterpart, &Silent)
}

/// Compares two lone tensors of so many values.
fn of_values(a: &[f32], b: &[f32]) -> Comparison {
    let weights = |values: &[f32]| Weights::new().f32("w", &[values.len()], values);
    Two::new(&weights(a), &weights(b)).compare("w").expect("comparable")
}

#[test]
fn identical_tensors_are_identical() {
    let sample = sample();
    for index in 0..sample.tensors().len() {
        let found = compare_by_name(&sample, &sample, &sample.tensors()[index].name).unwrap();
        assert!(found.identical && found.norm > 0.0);
        assert_eq!((found.relative_error, found.cosine, found.distance), (0.0, 1.0, 0.0));
        assert_eq!((found.changed, found.max_abs_difference), (0.0, 0.0));
        assert_eq!(found.bit_distance, Some(0.0));
    }
}

#[test]
fn planted_differences_are_found() {
    // More than two pieces, and not a whole number of them.
    let values = normals(3, 600_000);
    let n = values.len() as f64;
    let mut flipped = values.clone();
    flipped[599_999] = f32::from_bits(flipped[599_999].to_bits() ^ 1);
    let found = of_values(&values, &flipped);
    assert!(!found.identical && found.relative_error > 0.0);
    assert_eq!((found.changed, found.bit_distance), (1.0 / n, Some(1.0 / n)));
    let difference = f64::from(values[599_999]) - f64::from(flipped[599_999]);
    assert_eq!(found.max_abs_difference, difference.abs());

    // Scaled by a power of two: exact, so that the numbers are known.
    let scaled: Vec<f32> = values.iter().map(|value| value * 0.75).collect();
    let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
    let found = of_values(&values, &doubled);
    assert!((found.cosine - 1.0).abs() < 1e-12 && (found.relative_error - 1.0).abs() < 1e-12);
    let found = of_values(&values, &scaled);
    assert!((found.cosine - 1.0).abs() < 1e-9 && (found.relative_error - 0.25).abs() < 1e-7);
    let negative: Vec<f32> = values.iter().map(|value| -value).collect();
    let found = of_values(&values, &negative);
    assert!((found.cosine + 1.0).abs() < 1e-12 && (found.relative_error - 2.0).abs() < 1e-12);
    assert_eq!(found.bit_distance, Some(1.0));

    let halves = values.iter().enumerate();
    let half: Vec<f32> = halves.map(|(i, v)| if i % 2 == 0 { *v } else { v + 1.0 }).collect();
    let found = of_values(&values, &half);
    assert_eq!(found.changed, 0.5);
    assert!((found.max_abs_difference - 1.0).abs() < 1e-6);
    assert!((found.distance - (n / 2.0).sqrt()).abs() < 1e-3);
}

#[test]
fn zeros_signs_and_empties() {
    let found = of_values(&[0.0, 1.0], &[-0.0, 1.0]);
    assert!(!found.identical, "a bit differs");
    assert_eq!((found.changed, found.relative_error, found.cosine), (0.0, 0.0, 1.0));
    assert_eq!(found.bit_distance, Some(0.5));
    let found = of_values(&[0.0], &[2.0]);
    assert!(found.relative_error.is_infinite() && found.cosine.is_nan());
    let found = of_values(&[], &[]);
    assert!(found.identical);
    assert_eq!((found.changed, found.cosine, found.bit_distance), (0.0, 1.0, Some(0.0)));
}

#[test]
fn values_that_are_not_finite_are_named_unless_identical() {
    let of = |values: &[f32]| Weights::new().f32("w", &[3], values);
    let two = Two::new(&of(&[1.0, 2.0, 3.0]), &of(&[1.0, f32::NAN, f32::INFINITY]));
    let error = assert_says(two.compare("w"), &["tensor w", "2 of its values", "b.safetensors"]);
    assert!(matches!(error, Error::Numeric { .. }));
    let two = Two::new(&of(&[f32::NAN, 2.0, 3.0]), &of(&[1.0, 2.0, 3.0]));
    assert_says(two.compare("w"), &["1 of its values", "a.safetensors"]);
    let two = Two::new(&of(&[f32::NAN, 2.0, 3.0]), &of(&[f32::NAN, 2.0, 3.0]));
    let found = two.compare("w").unwrap();
    assert!(found.identical);
    assert_eq!((found.relative_error, found.norm), (0.0, 13_f64.sqrt()));
}

#[test]
fn element_types_may_differ() {
    let bf16 = [0x3f80_u16, 0x4000, 0xc040].map(u16::to_le_bytes).concat();
    let a = Weights::new().with("w", "BF16", &[3], &bf16);
    let same = Two::new(&a, &Weights::new().f32("w", &[3], &[1.0, 2.0, -3.0]));
    let found = same.compare("w").unwrap();
    assert!(found.identical);
    assert_eq!(found.bit_distance, None, "not stored alike");
    let other = Two::new(&a, &Weights::new().f32("w", &[3], &[1.0, 2.0, -3.001]));
    assert!(!other.compare("w").unwrap().identical);
    // 64-bit integers beyond 2^53 are the same f64, but not the same.
    let long = |n: i64| Weights::new().with("w", "I64", &[1], &n.to_le_bytes());
    let two = Two::new(&long(1 << 60), &long((1 << 60) + 1));
    assert!(!two.compare("w").unwrap().identical);
    // Elements that are no numbers are identical or cannot be compared.
    let nibbles = |byte: u8| Weights::new().with("w", "F4", &[2], &[byte]);
    assert!(Two::new(&nibbles(7), &nibbles(7)).compare("w").unwrap().identical);
    assert_says(Two::new(&nibbles(7), &nibbles(8)).compare("w"), &["F4", "tensor w"]);
    assert_says(Two::new(&nibbles(7), &long(1).f32("v", &[1], &[1.0])).compare("w"), &["[2]"]);
}

#[test]
fn shapes_that_differ_are_an_error() {
    let two = Two::new(&Weights::new().normal("w", &[4, 6]), &Weights::new().normal("w", &[6, 4]));
    let error = assert_says(two.compare("w"), &["tensor w", "[6, 4]", "[4, 6]"]);
    assert!(matches!(error, Error::Shape { .. }));
}

#[test]
fn the_threads_do_not_matter() {
    let (a, b) = (normals(1, 1_500_000), normals(2, 1_500_000));
    let weights = |values: &[f32]| Weights::new().f32("w", &[1500, 1000], values);
    let two = Two::new(&weights(&a), &weights(&b));
    let one = on_threads(1, || two.compare("w").unwrap());
    for threads in [2, 3, 8] {
        let found = on_threads(threads, || two.compare("w").unwrap());
        assert_eq!(found.relative_error.to_bits(), one.relative_error.to_bits());
        assert_eq!(found, one);
    }
}

#[test]
fn prefixes_are_no_obstacle_unless_ambiguous() {
    let names = |names: &[&str]| {
        names.iter().fold(Weights::new(), |weights, name| weights.normal(name, &[2, 2]))
    };
    let found = |a: &[&str], b: &[&str]| -> Vec<(String, Option<String>)> {
        let two = Two::new(&names(a), &names(b));
        let name = |found: Option<Counterpart>| match found? {
            Counterpart::Plain { tensor } => Some(two.b.tensors()[tensor].name.clone()),
            other => panic!("{other:?}"),
        };
        let tensors = two.a.tensors().iter().map(|tensor| tensor.name.clone());
        tensors.zip(pairs(&two.a, &two.b).into_iter().map(name)).collect()
    };
    let check = |a: &[&str], b: &[&str], wanted: &[(&str, Option<&str>)]| {
        let owned = |(a, b): &(&str, Option<&str>)| ((*a).to_owned(), b.map(str::to_owned));
        let mut wanted: Vec<_> = wanted.iter().map(owned).collect();
        let mut found = found(a, b);
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    };
    check(
        &["model.norm.weight", "lm_head.weight", "h.0.w"],
        &["norm.weight", "lm_head.weight", "transformer.h.0.w"],
        &[
            ("model.norm.weight", Some("norm.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("h.0.w", Some("transformer.h.0.w")),
        ],
    );
    check(
        &["model.layers.0.w", "visual.w", "w"],
        &["language_model.model.layers.0.w", "visual.w", "visual.v"],
        &[
            ("model.layers.0.w", Some("language_model.model.layers.0.w")),
            ("visual.w", Some("visual.w")),
            ("w", None),
        ],
    );
    // Two of either side could be meant; the same name is always meant.
    check(&["x"], &["model.x", "transformer.x"], &[("x", None)]);
    check(&["x", "model.x"], &["x"], &[("x", Some("x")), ("model.x", None)]);
    check(&["model.x", "module.x"], &["x"], &[("model.x", None), ("module.x", None)]);
}

/// Every plan under which layers are stored natively, and some in full.
fn chains() -> Vec<Vec<Step>> {
    let asymmetric = |bits: i64| rtn(bits).with("symmetry", "asymmetric");
    vec![
        vec![rtn(4)],
        vec![asymmetric(8).with("granularity", "channel")],
        vec![asymmetric(2).with("group_size", 64)],
        vec![Step::new("magnitude").with("fraction", 0.5), rtn(8).with("granularity", "tensor")],
        vec![asymmetric(5).with("group_size", 16)],
        vec![asymmetric(3).with("group_size", 100)],
    ]
}

fn reread(number: f64) -> String {
    let value: Value = serde_json::from_str(&json!(number).to_string()).expect("a number");
    value.to_string()
}

#[test]
fn exports_have_exactly_the_errors_of_their_reports() {
    let sample = sample();
    let (mut compressed, mut inexact) = (0, 0);
    for chain in chains() {
        let plan =
            plan(&sample, &[("*_proj.weight", chain), ("lm_head.weight", vec![rtn(6)])]).unwrap();
        for target in writable() {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("out");
            let limits = Limits::default();
            let destination = Destination { folder: &out, replace: false, limits };
            let stated = export(&sample, &plan, target, destination, &Silent).unwrap();
            let exported = Checkpoint::open(&out).unwrap();
            let report = read_json(&out.join(REPORT));
            let pairs = pairs(&sample, &exported);
            for (index, tensor) in sample.tensors().iter().enumerate() {
                let said = report["tensors"].as_array().unwrap();
                let said = said.iter().find(|said| said["name"] == tensor.name).unwrap();
                let pair = pairs[index].as_ref().unwrap();
                let is_native = matches!(pair, Counterpart::Compressed { .. });
                assert_eq!(is_native, said["stored"] == "native", "{}", tensor.name);
                let found = compare(&sample, index, &exported, pair, &Silent).unwrap();
                let wanted = stated.tensors.iter().find(|said| said.name == tensor.name).unwrap();
                let wanted = wanted.relative_error;
                assert_eq!(found.relative_error.to_bits(), wanted.to_bits(), "{}", tensor.name);
                // As text: reading a number back may change its last bit.
                assert_eq!(said["relative_error"].to_string(), reread(wanted), "{}", tensor.name);
                assert_eq!(found.identical, said["stored"] == "copied", "{}", tensor.name);
                assert_eq!(found.bit_distance.is_none(), is_native);
                compressed += usize::from(is_native);
                inexact += usize::from(wanted > 0.0);
            }
            let used: usize = pairs.iter().flatten().map(|pair| pair.tensors().len()).sum();
            assert_eq!(used, exported.tensors().len(), "every tensor belongs to one of the source");
        }
    }
    assert!(compressed > 200 && inexact > 300, "{compressed} compressed, {inexact} inexact");
}

const Q: &str = "model.layers.0.self_attn.q_proj";

/// A folder with one layer `[2, 4]` stored as `weights` and config.json with one group.
fn quantised(folder: &Path, weights: &Weights, format: &str, scheme: Value) -> Checkpoint {
    weights.write(&folder.join("model.safetensors"));
    let config = json!({"quantization_config": {
        "quant_method": "compressed-tensors", "format": format, "ignore": [],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}},
    }});
    write(&folder.join("config.json"), config.to_string().as_bytes());
    Checkpoint::open(folder).expect("it opens")
}

/// The layer that [`quantised`] ones are compared with.
fn source(folder: &Path, values: &[f32]) -> Checkpoint {
    let path = folder.join("source/a.safetensors");
    Weights::new().f32(&format!("{Q}.weight"), &[2, 4], values).write(&path);
    Checkpoint::open(&path).expect("it opens")
}

fn named(suffix: &str) -> String {
    format!("{Q}.{suffix}")
}

fn int8(codes: [i8; 8]) -> Weights {
    Weights::new().with(&named("weight"), "I8", &[2, 4], &codes.map(|code| code as u8))
}

#[test]
fn other_writers_schemes_decode() {
    let folder = TempDir::new().unwrap();
    let a = source(folder.path(), &[1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0]);
    let codes = [2, 4, 6, 8, -2, -4, -6, -8];
    let same = |b: &Checkpoint| {
        let found = compare_by_name(&a, b, &named("weight")).unwrap();
        assert!(found.identical, "{found:?}");
    };
    // One scale for the tensor, as [1]; as a scalar; asymmetric.
    let scheme = |strategy: &str, symmetric: bool| json!({"num_bits": 8, "symmetric": symmetric, "strategy": strategy});
    let half = 0.5_f32.to_le_bytes();
    for shape in [&[1][..], &[]] {
        let weights = int8(codes).with(&named("weight_scale"), "F32", shape, &half);
        same(&quantised(folder.path(), &weights, "int-quantized", scheme("tensor", true)));
    }
    let shifted = codes.map(|code| code + 3);
    let weights = int8(shifted).with(&named("weight_scale"), "F32", &[1], &half).with(
        &named("weight_zero_point"),
        "I8",
        &[1],
        &[3],
    );
    same(&quantised(folder.path(), &weights, "int-quantized", scheme("tensor", false)));
    // Scales of a channel without their second extent, in BF16, beside the scale of the inputs.
    let weights = int8([1, 2, 3, 4, -2, -4, -6, -8])
        .with(&named("weight_scale"), "BF16", &[2], &[0x80, 0x3f, 0x00, 0x3f])
        .with(&named("input_scale"), "F32", &[1], &half);
    let b = quantised(folder.path(), &weights, "int-quantized", scheme("channel", true));
    same(&b);
    assert_eq!(pairs(&a, &b)[0].as_ref().unwrap().tensors().len(), 2, "not the inputs' scale");
    // Packed to 8 bits in one word a row, with the shape as 32-bit integers.
    let packed: Vec<u8> = codes.iter().map(|&code: &i8| (code as u8) ^ 0x80).collect();
    let weights = Weights::new()
        .with(&named("weight_packed"), "I32", &[2, 1], &packed)
        .with(&named("weight_scale"), "F32", &[2, 1], &[half, half].concat())
        .with(&named("weight_shape"), "I32", &[2], &[2, 0, 0, 0, 4, 0, 0, 0]);
    same(&quantised(folder.path(), &weights, "pack-quantized", scheme("channel", true)));
}

#[test]
fn what_cannot_be_read_says_why() {
    let folder = TempDir::new().unwrap();
    let a = source(folder.path(), &[1.0; 8]);
    let name = named("weight");
    let scale = |weights: Weights| weights.with(&named("weight_scale"), "F32", &[2, 1], &[0; 8]);
    let scheme = json!({"num_bits": 8, "strategy": "channel"});
    let why = |weights: &Weights, format: &str, scheme: &Value, said: &str| {
        let b = quantised(folder.path(), weights, format, scheme.clone());
        let pair = pairs(&a, &b).swap_remove(0).expect("a counterpart");
        assert!(matches!(pair, Counterpart::Unreadable { .. }), "{pair:?}");
        assert_eq!(pair.tensors().len(), b.tensors().len(), "{said}");
        assert_says(compare(&a, 0, &b, &pair, &Silent), &[&name, said, "not supported"]);
    };
    let fp8 = || scale(Weights::new().with(&name, "F8_E4M3", &[2, 4], &[0; 8]));
    why(&fp8(), "float-quantized", &scheme, "its format is float-quantized");
    let inverse = Weights::new().with(&name, "F8_E4M3", &[2, 4], &[0; 8]).with(
        &named("weight_scale_inv"),
        "F32",
        &[1, 1],
        &[0; 4],
    );
    why(&inverse, "int-quantized", &scheme, "no weight_scale");
    why(
        &scale(int8([0; 8])),
        "int-quantized",
        &json!({"num_bits": 4, "type": "float"}),
        "4-bit float",
    );
    why(&scale(int8([0; 8])), "pack-quantized", &scheme, "no weight_shape");
    let asymmetric = json!({"num_bits": 8, "strategy": "channel", "symmetric": false});
    why(&scale(int8([0; 8])), "int-quantized", &asymmetric, "no weight_zero_point");
    let group = json!({"num_bits": 8, "strategy": "group", "group_size": 2});
    why(&scale(int8([0; 8])), "int-quantized", &group, "weight_scale is F32 of shape 2 × 1");
    let ordered = scale(int8([0; 8])).with(&named("weight_g_idx"), "I32", &[4], &[0; 16]);
    why(&ordered, "int-quantized", &scheme, "weight_g_idx");
    let gptq = Weights::new()
        .with(&named("qweight"), "I32", &[1, 4], &[0; 16])
        .with(&named("qzeros"), "I32", &[1, 1], &[0; 4])
        .with(&named("scales"), "F16", &[1, 4], &[0; 8]);
    why(&gptq, "int-quantized", &scheme, "GPTQ or AWQ");
    let bitsandbytes = Weights::new().with(&name, "U8", &[4, 1], &[0; 4]).with(
        &format!("{name}.absmax"),
        "F32",
        &[1],
        &[0; 4],
    );
    why(&bitsandbytes, "int-quantized", &scheme, "bitsandbytes");
    // Padded to whole words: 20 codes of 3 bits are two words either way, in another order.
    let padded = Weights::new()
        .with(&named("weight_packed"), "I32", &[1, 2], &[0; 8])
        .with(&named("weight_scale"), "F32", &[1, 1], &[0; 4])
        .with(
            &named("weight_shape"),
            "I64",
            &[2],
            &[[1, 0, 0, 0, 0, 0, 0, 0], [20, 0, 0, 0, 0, 0, 0, 0]].concat(),
        );
    why(&padded, "pack-quantized", &json!({"num_bits": 3, "strategy": "channel"}), "padded");
    // Without config.json.
    let path = folder.path().join("alone/b.safetensors");
    scale(int8([0; 8])).write(&path);
    let b = Checkpoint::open(&path).unwrap();
    assert_says(compare_by_name(&a, &b, &name), &["no config.json"]);
}

#[test]
fn a_compressed_first_side_asks_for_the_other_order() {
    let folder = TempDir::new().unwrap();
    let a = source(folder.path(), &[1.0; 8]);
    let weights = int8([2; 8]).with(&named("weight_scale"), "F32", &[1], &0.5_f32.to_le_bytes());
    let scheme = json!({"num_bits": 8, "strategy": "tensor"});
    let b = quantised(folder.path(), &weights, "int-quantized", scheme);
    assert!(compare_by_name(&a, &b, &named("weight")).unwrap().identical);
    for name in [named("weight"), named("weight_scale")] {
        assert_says(compare_by_name(&b, &a, &name), &["in parts that the second does not have"]);
        assert!(compare_by_name(&b, &b, &name).unwrap().identical, "part by part");
    }
}

/// Cancels at once.
struct Cancelled;

impl Observer for Cancelled {
    fn is_cancelled(&self) -> bool {
        true
    }
}

#[test]
fn comparing_can_be_cancelled() {
    let sample = Checkpoint::open(&sample_path()).unwrap();
    let found = compare(&sample, 0, &sample, &Counterpart::Plain { tensor: 0 }, &Cancelled);
    assert!(matches!(found, Err(Error::Cancelled)));
}
