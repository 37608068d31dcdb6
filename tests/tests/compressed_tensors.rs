//! The compressed-tensors layouts against golden vectors made by numpy, and decoded by a reader written here.

use lapidary_engine::encoding::{Affine, AffineData, AffineLayout};
use lapidary_engine::format::compressed_tensors::{Packing, Scheme, pack, stored, unpack};
use lapidary_engine::numeric::grouping::Grouping;
use lapidary_engine::numeric::packing::{
    dense_bytes, pack_dense_words, pack_padded_words, unpack_dense,
};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_tests::{data, read_json};
use serde_json::Value;

/// Bits and golden vectors.
fn golden() -> Vec<(u32, Value)> {
    let Value::Object(bits) = read_json(&data("compressed_tensors.json"))["bits"].take() else {
        panic!("the golden file holds no vectors");
    };
    let all: Vec<(u32, Value)> =
        bits.into_iter().map(|(bits, value)| (bits.parse().expect("bits"), value)).collect();
    assert_eq!(all.len(), 7, "2 to 8 bits");
    all
}

fn integers(value: &Value) -> Vec<i64> {
    let row = value.as_array().expect("a row of integers");
    row.iter().map(|n| n.as_i64().expect("an integer")).collect()
}

fn rows(value: &Value) -> Vec<Vec<i64>> {
    value.as_array().expect("rows").iter().map(integers).collect()
}

/// Codes q + 2^(bits−1) of signed integers.
fn codes(signed: &[i64], bits: u32) -> Vec<u8> {
    signed.iter().map(|q| u8::try_from(q + (1 << (bits - 1))).expect("a code")).collect()
}

fn words(bytes: &[u8]) -> Vec<i64> {
    assert_eq!(bytes.len() % 4, 0, "whole words");
    bytes.as_chunks::<4>().0.iter().map(|word| i64::from(i32::from_le_bytes(*word))).collect()
}

#[test]
fn rows_pack_to_the_golden_words_dense_and_padded() {
    for (bits, golden) in golden() {
        let signed = rows(&golden["q_signed"]);
        let dense = rows(&golden["weight_packed_i32_dense"]);
        let padded = rows(&golden["weight_packed_i32_padded_legacy"]);
        assert_eq!((signed.len(), dense.len(), padded.len()), (2, 2, 2));
        for ((signed, dense), padded) in signed.iter().zip(dense).zip(padded) {
            let codes = codes(signed, bits);
            let packed = pack_dense_words(&codes, bits);
            assert_eq!(words(&packed), dense, "{bits} bits");
            assert_eq!(unpack_dense(&packed, bits, codes.len()), codes, "{bits} bits");
            assert_eq!(dense_bytes(codes.len(), bits).next_multiple_of(4), packed.len());
            let packed = pack_padded_words(&codes, bits);
            assert_eq!(words(&packed), padded, "{bits} bits");
        }
    }
}

/// A matrix in random codes, scales and zero points.
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
    let scales = (0..groups).map(|group| 0.5 + group as f32).collect();
    let data = AffineData { codes, scales, zeros };
    Affine::new(shape, layout, data)
}

fn layout(bits: u32, grouping: Grouping, symmetric: bool) -> AffineLayout {
    AffineLayout { bits, grouping, symmetric, scale_dtype: DType::F32, has_offsets: false }
}

#[test]
fn weights_and_zero_points_of_a_layer_pack_to_the_golden_words() {
    for (bits, golden) in golden() {
        let signed = rows(&golden["q_signed"]);
        let shape = MatrixShape { rows: signed.len(), cols: signed[0].len() };
        assert_eq!(integers(&golden["weight_shape"]), [shape.rows as i64, shape.cols as i64]);
        let data = AffineData {
            codes: codes(&signed.concat(), bits),
            scales: vec![1.0; 2],
            zeros: vec![1 << (bits - 1); 2],
        };
        let weights = Affine::new(shape, layout(bits, Grouping::Channel, true), data);
        let packed = pack(Packing::Packed, &weights, "weight_packed").unwrap();
        let wanted = rows(&golden["weight_packed_i32_dense"]).concat();
        assert_eq!(words(&packed), wanted, "{bits} bits");
        let plain = pack(Packing::Int, &weights, "weight").unwrap();
        let plain: Vec<i64> = plain.iter().map(|&byte| i64::from(byte as i8)).collect();
        assert_eq!(plain, signed.concat(), "{bits} bits");

        let zeros = rows(&golden["zp_signed_out_by_group"]);
        assert_eq!((zeros.len(), zeros[0].len()), (40, 2));
        let shape = MatrixShape { rows: 40, cols: 32 };
        let data = AffineData {
            codes: vec![0; shape.elements()],
            scales: vec![1.0; 80],
            zeros: codes(&zeros.concat(), bits),
        };
        let layer = Affine::new(shape, layout(bits, Grouping::Group(16), false), data);
        let packed = pack(Packing::Packed, &layer, "weight_zero_point").unwrap();
        let wanted = rows(&golden["weight_zero_point_i32"]).concat();
        assert_eq!(words(&packed), wanted, "{bits} bits");
        let plain = pack(Packing::Int, &layer, "weight_zero_point").unwrap();
        let plain: Vec<i64> = plain.iter().map(|&byte| i64::from(byte as i8)).collect();
        assert_eq!(plain, zeros.concat(), "{bits} bits");
    }
}

/// Every layout over a ragged and an even matrix.
fn layers() -> Vec<Affine> {
    let mut layers = Vec::new();
    for (rows, cols) in [(5, 48), (33, 64), (1, 7), (0, 16), (3, 0)] {
        for bits in 2..=8 {
            for grouping in
                [Grouping::Tensor, Grouping::Channel, Grouping::Group(16), Grouping::Group(20)]
            {
                for symmetric in [true, false] {
                    let shape = MatrixShape { rows, cols };
                    layers.push(affine(shape, layout(bits, grouping, symmetric)));
                }
            }
        }
    }
    layers
}

#[test]
fn what_is_packed_has_the_promised_shape_and_unpacks_to_what_was_packed() {
    for layer in layers() {
        for packing in [Packing::Packed, Packing::Int] {
            let (shape, layout) = (layer.shape(), layer.layout());
            let what = format!("{packing:?} {layout:?} {shape}");
            let tensors: Vec<(&str, Vec<u8>)> = stored(packing, layout, shape)
                .into_iter()
                .map(|(suffix, dtype, extents)| {
                    let bytes = pack(packing, &layer, suffix).unwrap();
                    let promised = dtype.bytes(extents.elements().unwrap()).unwrap();
                    assert_eq!(bytes.len() as u64, promised, "{what}: {suffix}");
                    (suffix, bytes)
                })
                .collect();
            let get = |name: &str| {
                let (_, bytes) = tensors.iter().find(|(suffix, _)| *suffix == name)?;
                Some(bytes.as_slice())
            };
            let found = unpack(packing, layout, shape, &get).unwrap();
            for ((row, col), &value) in found.indexed_iter() {
                let (code, scale, zero) = at(&layer, row, col);
                assert_eq!(value, scale * (code - zero), "{what} at [{row}, {col}]");
            }
            let without = |missing: &'static str| {
                unpack(packing, layout, shape, &|name| get(name).filter(|_| name != missing))
            };
            assert!(without("weight_scale").is_none(), "{what}");
            assert_eq!(without("weight_zero_point").is_none(), !layout.symmetric, "{what}");
            assert!(pack(packing, &layer, "weight_g_idx").is_none());
        }
    }
}

/// Code, scale and zero point of a weight.
fn at(layer: &Affine, row: usize, col: usize) -> (f32, f32, f32) {
    let (cols, layout) = (layer.shape().cols, layer.layout());
    let group = match layout.grouping {
        Grouping::Tensor => 0,
        Grouping::Channel => row,
        Grouping::Group(size) => row * cols.div_ceil(size) + col / size,
    };
    let code = layer.codes()[row * cols + col];
    (f32::from(code), layer.scales()[group], f32::from(layer.zeros()[group]))
}

#[test]
fn schemes_say_what_readers_of_every_age_accept() {
    // The fields of QuantizationArgs and QuantizationScheme that releases before 2026 know; others are refused there.
    const WEIGHTS: [&str; 10] = [
        "num_bits",
        "type",
        "symmetric",
        "strategy",
        "group_size",
        "dynamic",
        "observer",
        "observer_kwargs",
        "actorder",
        "block_structure",
    ];
    const GROUP: [&str; 5] =
        ["targets", "weights", "input_activations", "output_activations", "format"];
    for layer in layers() {
        let scheme = Scheme::of(layer.layout());
        let config = scheme.config(Packing::Packed, &["model.layers.0.q".to_owned()]);
        let weights = config["weights"].as_object().unwrap();
        assert!(weights.keys().all(|key| WEIGHTS.contains(&key.as_str())));
        let group = config.as_object().unwrap();
        assert!(group.keys().all(|key| GROUP.contains(&key.as_str())));
        assert_eq!(weights["num_bits"], layer.layout().bits);
        assert_eq!(weights["symmetric"], layer.layout().symmetric);
        match layer.layout().grouping {
            Grouping::Group(size) => {
                assert_eq!(weights["strategy"], "group");
                assert_eq!(weights["group_size"], size);
            }
            Grouping::Channel | Grouping::Tensor => assert_eq!(weights["strategy"], "channel"),
        }
    }
}
