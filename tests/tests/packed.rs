//! The layouts of MLX, GPTQ and AWQ against golden vectors made by numpy, and what is packed unpacked again.

use lapidary_engine::encoding::{
    Affine, AffineData, AffineLayout, Encoding, Float, FloatData, FloatLayout, Layout, Levels,
    Tiling,
};
use lapidary_engine::format::gptq::Version;
use lapidary_engine::format::layer::Form;
use lapidary_engine::format::{Stored, awq, gptq, mlx};
use lapidary_engine::numeric::grouping::Grouping;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_tests::{data, read_json};
use ndarray::Array2;
use serde_json::Value;

fn integers(value: &Value) -> Vec<i64> {
    let row = value.as_array().expect("a row of integers");
    row.iter().map(|n| n.as_i64().expect("an integer")).collect()
}

/// The rows of a golden matrix, end to end, and how many they are.
fn rows(value: &Value) -> (Vec<i64>, usize) {
    let rows = value.as_array().expect("rows");
    (rows.iter().flat_map(integers).collect(), rows.len())
}

fn codes(values: &[i64]) -> Vec<u8> {
    values.iter().map(|&code| u8::try_from(code).expect("a code")).collect()
}

/// Words as the golden file has them: signed or not.
fn words(bytes: &[u8], signed: bool) -> Vec<i64> {
    let words = bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word));
    words.map(|w| if signed { i64::from(w) } else { i64::from(w.cast_unsigned()) }).collect()
}

fn layout(bits: u32, grouping: Grouping, symmetric: bool) -> AffineLayout {
    AffineLayout { bits, grouping, symmetric, scale_dtype: DType::BF16, has_offsets: false }
}

/// A matrix in random codes, scales that BF16 and F16 hold, and zero points.
fn affine(shape: MatrixShape, layout: AffineLayout) -> Affine {
    let mut random = Random::new(u64::from(layout.bits));
    let groups = layout.grouping.scales(shape.rows, shape.cols);
    let mut code = || (random.bits() % (1 << layout.bits)) as u8;
    let codes = (0..shape.elements()).map(|_| code()).collect();
    let zeros = if layout.symmetric {
        vec![layout.middle(); groups]
    } else {
        (0..groups).map(|_| code()).collect()
    };
    let scales = (0..groups).map(|group| 0.25 + (group % 100) as f32 / 64.0).collect();
    Affine::new(shape, layout, AffineData { codes, scales, zeros })
}

/// Packs every promised tensor, of its promised length, and unpacks them.
fn round_trip(
    form: &Form,
    shape: MatrixShape,
    stored: Vec<Stored>,
    pack: impl Fn(&str) -> Option<Vec<u8>>,
) -> Array2<f32> {
    let tensors: Vec<(&str, Vec<u8>)> = stored
        .into_iter()
        .map(|(suffix, dtype, extents)| {
            let bytes = pack(suffix).unwrap_or_else(|| panic!("{form:?}: {suffix}"));
            let promised = dtype.bytes(extents.elements().expect("extents")).expect("bytes");
            assert_eq!(bytes.len() as u64, promised, "{form:?} {shape}: {suffix}");
            (suffix, bytes)
        })
        .collect();
    assert!(pack("weight_packed").is_none());
    let get = |name: &str| {
        let (_, bytes) = tensors.iter().find(|(suffix, _)| *suffix == name)?;
        Some(bytes.as_slice())
    };
    for (missing, _) in tensors.iter().filter(|(suffix, _)| *suffix != "g_idx") {
        let without = form.unpack(shape, &|name| get(name).filter(|_| name != *missing));
        assert!(without.is_none(), "{form:?} without {missing}");
        let cut = |name: &str, bytes: &[u8]| usize::from(name == *missing && !bytes.is_empty());
        let short = |name: &str| get(name).map(|bytes| &bytes[cut(name, bytes)..]);
        let is_whole = shape.elements() == 0;
        assert_eq!(form.unpack(shape, &short).is_some(), is_whole, "{form:?}, short {missing}");
    }
    form.unpack(shape, &get).unwrap_or_else(|| panic!("{form:?} {shape}"))
}

#[test]
fn mlx_rows_pack_to_the_golden_words() {
    let golden = read_json(&data("packed.json"));
    let by_bits = golden["mlx_affine"].as_object().unwrap();
    assert_eq!(by_bits.len(), 6);
    for (bits, golden) in by_bits {
        let bits: u32 = bits.parse().unwrap();
        let (values, rows_of) = rows(&golden["q"]);
        let shape = MatrixShape { rows: rows_of, cols: values.len() / rows_of };
        let data = AffineData { codes: codes(&values), scales: vec![1.0; 2], zeros: vec![0; 2] };
        let layer = Affine::new(shape, layout(bits, Grouping::Group(32), false), data);
        let layer = Encoding::Affine(mlx::with_offsets(&layer));
        let packed = mlx::pack(&layer, "weight").unwrap();
        assert_eq!(words(&packed, false), rows(&golden["weight_u32"]).0, "{bits} bits");
    }
}

#[test]
fn mlx_layers_unpack_to_what_was_packed() {
    for bits in [2, 3, 4, 5, 6, 8] {
        for (rows, size) in [(1, 32), (5, 64), (3, 128), (0, 32)] {
            let shape = MatrixShape { rows, cols: 256 };
            let plain = affine(shape, layout(bits, Grouping::Group(size), true));
            let held = Encoding::Affine(mlx::with_offsets(&plain));
            let form = mlx::Form::of(&held.layout()).unwrap();
            let stored = form.stored(shape).unwrap();
            let pack = |suffix: &str| mlx::pack(&held, suffix);
            let found = round_trip(&Form::Mlx(form), shape, stored, pack);
            // Symmetric codes lose nothing by the offset.
            assert_eq!(found, Encoding::Affine(plain).decode(), "{form:?}");
            assert_eq!(found, held.decode());
        }
    }
}

#[test]
fn mlx_microscaling_floats_unpack_to_what_was_packed() {
    for (levels, codes) in [(Levels::E2m1, 16), (Levels::E4m3, 256)] {
        let shape = MatrixShape { rows: 4, cols: 128 };
        let tiling = Tiling::Rows(Grouping::Group(32));
        let layout = FloatLayout { levels, tiling, scale_dtype: DType::F8E8M0 };
        // Every code but those of E4M3 that are no number, and exponents from the least to the greatest.
        let code = |i: usize| if (i % codes) & 0x7f == 0x7f { 0 } else { (i % codes) as u8 };
        let scale = |i: usize| [2_f32.powi(-127), 0.5, 1.0, 2_f32.powi(120)][i % 4];
        let codes = (0..shape.elements()).map(code).collect();
        let data = FloatData { codes, scales: (0..16).map(scale).collect(), global: 1.0 };
        let float = Encoding::Float(Float::new(shape, layout, data));
        let form = mlx::Form::of(&float.layout()).unwrap();
        let stored = form.stored(shape).unwrap();
        assert_eq!(stored.len(), 2, "no biases");
        let pack = |suffix: &str| mlx::pack(&float, suffix);
        let found = round_trip(&Form::Mlx(form), shape, stored, pack);
        let same = found.iter().zip(&float.decode()).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{levels:?}");
    }
}

/// `[rows, cols]` values as `[cols, rows]`.
fn transposed<T: Copy>(values: &[T], cols: usize) -> Vec<T> {
    let column = |col: usize| values.iter().skip(col).step_by(cols).copied();
    (0..cols).flat_map(column).collect()
}

/// The golden layer of `[in, out]` codes and `[groups, out]` zero points.
fn golden_layer(bits: u32, codes_of: &Value, zeros: &Value) -> (Affine, usize) {
    let ((values, ins), (zeros, groups)) = (rows(codes_of), rows(zeros));
    let outs = values.len() / ins;
    let data = AffineData {
        codes: transposed(&codes(&values), outs),
        scales: vec![1.0; groups * outs],
        zeros: transposed(&codes(&zeros), outs),
    };
    let shape = MatrixShape { rows: outs, cols: ins };
    let layout = layout(bits, Grouping::Group(ins / groups), false);
    (Affine::new(shape, layout, data), groups)
}

#[test]
fn gptq_layers_pack_to_the_golden_words_in_both_versions() {
    let golden = read_json(&data("packed.json"));
    let golden = golden["gptq"].as_object().unwrap();
    let mut seen = 0;
    for (bits, value) in golden.iter().filter(|(key, _)| key.parse::<u32>().is_ok()) {
        let bits: u32 = bits.parse().unwrap();
        let (layer, groups) =
            golden_layer(bits, &value["q_in_by_out"], &value["zero_group_by_out"]);
        for (version, zeros) in [(Version::V1, "qzeros_v1"), (Version::V2, "qzeros_v2")] {
            let form = gptq::Form { version, bits, groups, scale_dtype: DType::F16 };
            let pack = |suffix: &str| words(&gptq::pack(form, &layer, suffix).unwrap(), true);
            assert_eq!(pack("qweight"), rows(&value["qweight"]).0, "{bits} bits");
            assert_eq!(pack("qzeros"), rows(&value[zeros]).0, "{bits} bits, {zeros}");
            let order: Vec<i64> = (0..64).map(|input| input / (64 / groups as i64)).collect();
            assert_eq!(pack("g_idx"), order);
        }
        seen += 1;
    }
    assert_eq!(seen, 4, "2, 3, 4 and 8 bits");
    // Symmetric zero points are the same word throughout, one less in v1.
    for (bits, word) in golden["sym_qzeros_word"].as_object().unwrap() {
        let bits: u32 = bits.parse().unwrap();
        let shape = MatrixShape { rows: 32, cols: 64 };
        let layer = affine(shape, layout(bits, Grouping::Group(32), true));
        for (version, key) in [(Version::V1, "v1"), (Version::V2, "v2")] {
            let form = gptq::Form { version, bits, groups: 2, scale_dtype: DType::F16 };
            let word = word[key].as_str().unwrap().trim_start_matches("0x");
            let word = i64::from(u32::from_str_radix(word, 16).unwrap());
            let zeros = words(&gptq::pack(form, &layer, "qzeros").unwrap(), false);
            assert!(zeros.iter().all(|zero| *zero == word), "{bits} bits, {key}");
        }
    }
}

#[test]
fn gptq_layers_unpack_to_what_was_packed() {
    for (rows, cols) in [(32, 64), (96, 128), (32, 160)] {
        // AutoRound has 5, 6 and 7 bits too.
        for bits in 2..=8 {
            for grouping in [Grouping::Group(32), Grouping::Channel, Grouping::Tensor] {
                for (symmetric, version) in
                    [(true, Version::V1), (true, Version::V2), (false, Version::V2)]
                {
                    let shape = MatrixShape { rows, cols };
                    let layer = affine(shape, layout(bits, grouping, symmetric));
                    let form = gptq::Form::of(layer.layout(), shape, version);
                    let stored = form.stored(shape).unwrap();
                    let pack = |suffix: &str| gptq::pack(form, &layer, suffix);
                    let found = round_trip(&Form::Gptq(form), shape, stored, pack);
                    assert_eq!(found, Encoding::Affine(layer).decode(), "{form:?}");
                }
            }
        }
    }
}

/// Inputs taken in another order have their groups in `g_idx`, as GPTQ with act-order leaves them.
#[test]
fn gptq_layers_in_another_order_of_inputs_decode() {
    let shape = MatrixShape { rows: 32, cols: 128 };
    let layer = affine(shape, layout(4, Grouping::Group(32), false));
    let form = gptq::Form::of(layer.layout(), shape, Version::V2);
    let mut tensors: Vec<(&str, Vec<u8>)> = ["qweight", "qzeros", "scales"]
        .map(|suffix| (suffix, gptq::pack(form, &layer, suffix).unwrap()))
        .to_vec();
    let group = |input: usize| (input * 7 + 3) % 4;
    let order = (0..shape.cols).flat_map(|input| (group(input) as i32).to_le_bytes()).collect();
    tensors.push(("g_idx", order));
    let unpack = |tensors: &[(&str, Vec<u8>)]| {
        let get = |name: &str| {
            let (_, bytes) = tensors.iter().find(|(suffix, _)| *suffix == name)?;
            Some(bytes.as_slice())
        };
        Form::Gptq(form).unpack(shape, &get)
    };
    let found = unpack(&tensors).unwrap();
    for ((row, col), &value) in found.indexed_iter() {
        let at = row * 4 + group(col);
        let code = f32::from(layer.codes()[row * 128 + col]);
        let wanted = layer.scales()[at] * (code - f32::from(layer.zeros()[at]));
        assert_eq!(value, wanted, "[{row}, {col}]");
    }
    // A group that is not there is refused; without the tensor, inputs lie in order.
    tensors[3].1[..4].copy_from_slice(&4_i32.to_le_bytes());
    assert!(unpack(&tensors).is_none());
    tensors[3].1[..4].copy_from_slice(&(-1_i32).to_le_bytes());
    assert!(unpack(&tensors).is_none());
    assert_eq!(unpack(&tensors[..3]).unwrap(), Encoding::Affine(layer).decode());
}

#[test]
fn awq_layers_pack_to_the_golden_words() {
    let golden = read_json(&data("packed.json"))["awq_gemm_4bit"].take();
    let (layer, groups) = golden_layer(4, &golden["q_in_by_out"], &golden["zeros"]);
    let form = awq::Form { group_size: layer.shape().cols / groups, scale_dtype: DType::F16 };
    for suffix in ["qweight", "qzeros"] {
        let packed = words(&awq::pack(form, &layer, suffix).unwrap(), true);
        assert_eq!(packed, rows(&golden[suffix]).0, "{suffix}");
    }
}

#[test]
fn awq_layers_unpack_to_what_was_packed() {
    for (rows, cols, group_size) in [(8, 64, 32), (40, 128, 64), (16, 128, 128)] {
        let shape = MatrixShape { rows, cols };
        let layer = affine(shape, layout(4, Grouping::Group(group_size), false));
        let form = awq::Form { group_size, scale_dtype: DType::F16 };
        let stored = form.stored(shape).unwrap();
        let pack = |suffix: &str| awq::pack(form, &layer, suffix);
        let found = round_trip(&Form::Awq(form), shape, stored, pack);
        assert_eq!(found, Encoding::Affine(layer).decode(), "{form:?}");
    }
}

#[test]
fn ragged_layers_are_refused_with_a_sentence() {
    let of = |bits: u32, size: usize| {
        mlx::Form::of(&Layout::Affine(layout(bits, Grouping::Group(size), true))).unwrap()
    };
    let shape = MatrixShape { rows: 4, cols: 96 };
    assert_eq!(of(4, 64).stored(shape).unwrap_err(), "groups of 64 do not divide its 96 inputs");
    let why = of(3, 16).stored(shape).unwrap_err();
    assert_eq!(why, "groups of 16 codes of 3 bits fill no whole words");
    assert_eq!(mlx::Form::of(&Layout::Affine(layout(4, Grouping::Channel, true))), None);
    let form = gptq::Form { version: Version::V1, bits: 4, groups: 3, scale_dtype: DType::F16 };
    let why = |rows, cols| form.stored(MatrixShape { rows, cols }).unwrap_err();
    assert_eq!(why(32, 48), "its 48 inputs are no multiple of 32");
    assert_eq!(why(20, 96), "its 20 outputs are no multiple of 32");
    assert_eq!(why(32, 64), "its 64 inputs are no 3 equal groups");
    let form = awq::Form { group_size: 64, scale_dtype: DType::F16 };
    let why = |rows, cols| form.stored(MatrixShape { rows, cols }).unwrap_err();
    assert_eq!(why(12, 64), "its 12 outputs are no multiple of 8");
    assert_eq!(why(16, 96), "groups of 64 do not divide its 96 inputs");
}
