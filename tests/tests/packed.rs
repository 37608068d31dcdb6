//! The layouts of MLX, GPTQ and AWQ against golden vectors made by numpy, and what is packed unpacked again.

use lapidary_engine::encoding::{
    Affine, AffineData, AffineLayout, Encoding, Float, FloatData, FloatLayout, Layout, Levels,
    Tiling,
};
use lapidary_engine::format::layer::Form;
use lapidary_engine::format::{Stored, mlx};
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
        let code = |i: usize| if i % codes & 0x7f == 0x7f { 0 } else { (i % codes) as u8 };
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
}
