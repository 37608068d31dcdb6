//! Statistics and spectra: against numpy on the sample, and on tensors made to be awkward.

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::statistics::{Statistics, measure, measure_spectrum};
use lapidary_tests::{
    Weights, assert_says, data, normals, on_threads, read_json, repository, sample,
};
use serde_json::Value;
use tempfile::TempDir;

/// Relative difference allowed to numpy's values.
const TOLERANCE: f64 = 1e-4;

/// Asserts `found` = `wanted` within 1e-4 of `wanted`, or within `floor`.
#[track_caller]
fn assert_close(what: &str, found: f64, wanted: f64, floor: f64) {
    let allowed = (TOLERANCE * wanted.abs()).max(floor);
    assert!((found - wanted).abs() <= allowed, "{what}: {found} where numpy says {wanted}");
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("no {name} in the golden row"))
}

fn golden() -> Vec<Value> {
    let path = repository().join("tests/golden/sample_statistics.json");
    let Value::Array(rows) = read_json(&path)["tensors"].take() else {
        panic!("the golden file holds no tensors");
    };
    rows
}

#[test]
fn every_sample_tensor_is_as_numpy_measures_it() {
    let sample = sample();
    let rows = golden();
    assert_eq!(rows.len(), sample.tensors().len());
    assert_eq!(rows.len(), 57);
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let index = sample.find(name).unwrap();
        let found = measure(&sample, index, &Silent).unwrap();
        let std = number(&row, "std");
        let n = sample.tensors()[index].parameters() as f64;
        // A mean may cancel to nothing, and so be known only relative to what was summed: the golden file
        // holds nine digits, sums of n terms in f64 err by far less than 1e-9 of a standard deviation.
        let check = |field: &str, value: f64, floor: f64| {
            assert_close(&format!("{field} of {name}"), value, number(&row, field), floor);
        };
        check("mean", found.mean, 1e-9 * std);
        check("std", found.std, 0.0);
        check("min", found.min, 0.0);
        check("max", found.max, 0.0);
        check("abs_max", found.abs_max, 0.0);
        // Excess kurtosis is a difference to 3 and may be near 0: 1e-8 is the rounding of the 3.
        check("kurtosis", found.kurtosis, 1e-8);
        // Counts are exact: the golden file's rounding is much less than one element.
        check("outlier_fraction", found.outlier_fraction, 1e-3 / n);
        check("zeros", found.zeros, 1e-3 / n);
        assert_eq!(found.finite as f64, n, "{name}");
        assert_eq!(found.non_finite(), 0, "{name}");
        assert_eq!(found.histogram.total(), found.finite, "{name}");
    }
}

#[test]
fn every_singular_value_of_the_sample_is_as_numpy_computes_it() {
    let sample = sample();
    let mut matrices = 0;
    for row in golden() {
        let name = row["name"].as_str().unwrap();
        let index = sample.find(name).unwrap();
        let tensor = &sample.tensors()[index];
        assert_eq!(tensor.matrix.is_some(), row.get("singular_values").is_some(), "{name}");
        let Some(wanted) = row.get("singular_values").and_then(Value::as_array) else {
            continue;
        };
        matrices += 1;
        let found = measure_spectrum(&sample, index, &Silent).unwrap();
        assert_eq!(found.singular_values.len(), wanted.len(), "{name}");
        for (i, (found, wanted)) in found.singular_values.iter().zip(wanted).enumerate() {
            assert_close(&format!("σ{i} of {name}"), *found, wanted.as_f64().unwrap(), 0.0);
        }
        for (field, found) in
            [("stable_rank", found.stable_rank), ("effective_rank", found.effective_rank)]
        {
            assert_close(&format!("{field} of {name}"), found, number(&row, field), 0.0);
        }
    }
    assert_eq!(matrices, 44, "embedding, head and seven layers of six blocks");
}

#[test]
fn statistics_do_not_depend_on_the_threads() {
    let stories = Checkpoint::open(&data("stories260K")).unwrap();
    let sample = sample();
    for checkpoint in [&stories, &sample] {
        let all = || -> Vec<Statistics> {
            (0..8).map(|index| measure(checkpoint, index, &Silent).unwrap()).collect()
        };
        let one = on_threads(1, all);
        assert_eq!(one, on_threads(2, all));
        assert_eq!(one, on_threads(7, all));
    }
}

#[test]
fn a_tensor_of_many_pieces_is_summed_once_each_on_any_number_of_threads() {
    // Five pieces of 2¹⁸ elements, the last one short.
    let values = normals(8, 1_200_000);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let one = on_threads(1, || measured("F32", &[1200, 1000], &bytes));
    for n in [2, 7] {
        assert_eq!(on_threads(n, || measured("F32", &[1200, 1000], &bytes)), one);
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    assert_close("mean", one.mean, mean, 1e-12);
    assert_close("std", one.std, variance.sqrt(), 1e-12);
    assert_eq!(one.finite, 1_200_000);
    assert_eq!(one.histogram.total(), 1_200_000);
}

/// The statistics of a file of a single tensor.
fn measured(dtype: &str, shape: &[usize], bytes: &[u8]) -> Statistics {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("one.safetensors");
    Weights::new().with("t", dtype, shape, bytes).write(&path);
    let checkpoint = Checkpoint::open(&path).expect("a valid file");
    measure(&checkpoint, 0, &Silent).expect("statistics")
}

fn bytes_of<const N: usize>(values: &[f64], encode: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| encode(value)).collect()
}

#[test]
fn non_finite_values_are_counted_never_averaged() {
    let values = [
        1.0,
        f64::NAN,
        -3.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        f64::NAN,
        -0.0,
        f64::INFINITY,
        f64::INFINITY,
    ];
    let f16 = |v: f64| -> [u8; 2] {
        let pattern: u16 = match v {
            v if v.is_nan() => 0x7e00,
            f64::INFINITY => 0x7c00,
            f64::NEG_INFINITY => 0xfc00,
            1.0 => 0x3c00,
            -3.0 => 0xc200,
            v if v.is_sign_negative() => 0x8000,
            _ => 0,
        };
        pattern.to_le_bytes()
    };
    let bf16 = |v: f64| -> [u8; 2] {
        let [_, _, low, high] = (v as f32).to_le_bytes();
        [low, high]
    };
    let all = [
        ("F64", bytes_of(&values, f64::to_le_bytes)),
        ("F32", bytes_of(&values, |v| (v as f32).to_le_bytes())),
        ("F16", bytes_of(&values, f16)),
        ("BF16", bytes_of(&values, bf16)),
    ];
    for (dtype, bytes) in all {
        let found = measured(dtype, &[2, 5], &bytes);
        let counts = (found.finite, found.nan, found.positive_infinity, found.negative_infinity);
        assert_eq!(counts, (4, 2, 3, 1), "{dtype}");
        assert_eq!(found.mean, -0.5, "{dtype}");
        assert_eq!((found.min, found.max, found.abs_max), (-3.0, 1.0, 3.0), "{dtype}");
        assert_eq!(found.zeros, 0.5, "{dtype}: two of the four finite values");
        assert_eq!(found.std, 2.25_f64.sqrt(), "{dtype}");
        assert_eq!(found.histogram.total(), 4, "{dtype}");
        assert_eq!(found.histogram.underflow + found.histogram.overflow, 0);
    }
}

#[test]
fn a_tensor_of_nothing_finite_has_no_moments() {
    let found = measured("F32", &[3], &[f32::NAN.to_le_bytes(); 3].concat());
    assert_eq!((found.finite, found.nan), (0, 3));
    let moments = [
        found.mean,
        found.std,
        found.min,
        found.max,
        found.abs_max,
        found.kurtosis,
        found.zeros,
        found.outlier_fraction,
    ];
    assert!(moments.iter().all(|value| value.is_nan()), "{found:?}");
    assert_eq!(found.histogram.total(), 0);
}

#[test]
fn empty_tensors_and_scalars_have_statistics() {
    for shape in [&[0][..], &[0, 5], &[3, 0]] {
        for dtype in ["F32", "BF16", "I64"] {
            let found = measured(dtype, shape, &[]);
            assert_eq!((found.finite, found.nan), (0, 0), "{dtype} {shape:?}");
            assert!(found.mean.is_nan());
            assert_eq!(found.histogram.total(), 0);
        }
    }
    let found = measured("F32", &[], &2.5_f32.to_le_bytes());
    assert_eq!(
        (found.finite, found.mean, found.std, found.min, found.max),
        (1, 2.5, 0.0, 2.5, 2.5)
    );
    assert!(found.kurtosis.is_nan(), "one value has no shape: {}", found.kurtosis);
    assert_eq!(found.histogram.total(), 1);
}

#[test]
fn integers_and_small_floats_are_measured_as_numbers() {
    let signed = [-3_i64, -3, 5, 0, 100];
    let expect_signed = |dtype: &str, bytes: &[u8]| {
        let found = measured(dtype, &[5], bytes);
        assert_eq!(
            (found.mean, found.min, found.max, found.zeros),
            (19.8, -3.0, 100.0, 0.2),
            "{dtype}"
        );
        assert_eq!(found.histogram.total(), 5);
    };
    expect_signed("I8", &signed.map(|v| (v as i8).to_le_bytes()).concat());
    expect_signed("I16", &signed.map(|v| (v as i16).to_le_bytes()).concat());
    expect_signed("I32", &signed.map(|v| (v as i32).to_le_bytes()).concat());
    expect_signed("I64", &signed.map(i64::to_le_bytes).concat());
    let unsigned = [7_u64, 0, 250, 0];
    let expect_unsigned = |dtype: &str, bytes: &[u8]| {
        let found = measured(dtype, &[4], bytes);
        assert_eq!((found.mean, found.max, found.zeros), (64.25, 250.0, 0.5), "{dtype}");
    };
    expect_unsigned("U8", &unsigned.map(|v| (v as u8).to_le_bytes()).concat());
    expect_unsigned("U16", &unsigned.map(|v| (v as u16).to_le_bytes()).concat());
    expect_unsigned("U32", &unsigned.map(|v| (v as u32).to_le_bytes()).concat());
    expect_unsigned("U64", &unsigned.map(u64::to_le_bytes).concat());
    let found = measured("BOOL", &[4], &[1, 0, 1, 1]);
    assert_eq!((found.mean, found.zeros), (0.75, 0.25));
    // 1.5, −448 (the largest), 2^−9 (the smallest), NaN.
    let found = measured("F8_E4M3", &[4], &[0x3c, 0xfe, 0x01, 0x7f]);
    assert_eq!((found.finite, found.nan), (3, 1));
    assert_eq!((found.min, found.max), (-448.0, 1.5));
    assert_eq!(found.mean, (1.5 - 448.0 + 2_f64.powi(-9)) / 3.0);
    // 1.5, −57344 (the largest), 2^−16 (the smallest), −∞, NaN.
    let found = measured("F8_E5M2", &[5], &[0x3e, 0xfb, 0x01, 0xfc, 0x7d]);
    assert_eq!((found.finite, found.nan, found.negative_infinity), (3, 1, 1));
    assert_eq!((found.min, found.max), (-57344.0, 1.5));
    let found = measured("F64", &[3], &[1e300, -1e-300, 0.5].map(f64::to_le_bytes).concat());
    assert_eq!((found.min, found.max), (-1e-300, 1e300));
}

#[test]
fn a_histogram_ends_at_eight_standard_deviations_and_counts_the_rest() {
    // 9,999 ones alternating in sign and a spike: mean ≈ 0, std ≈ 10.
    let mut values: Vec<f32> = (0..9_999).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    values.push(1000.0);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let found = measured("F32", &[100, 100], &bytes);
    assert_eq!((found.histogram.underflow, found.histogram.overflow), (0, 1));
    assert_eq!(found.histogram.total(), 10_000);
    assert_eq!(found.histogram.counts.len(), 256);
    assert_eq!(found.outlier_fraction, 1e-4);
    assert!(found.histogram.high < 100.0, "{}", found.histogram.high);
    assert_eq!(found.histogram.low, -1.0);
}

#[test]
fn a_spectrum_of_nan_is_refused_by_name_and_types_without_numbers_too() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bad.safetensors");
    Weights::new()
        .f32("layers.0.fc1.weight", &[2, 2], &[1.0, f32::NAN, 0.0, 2.0])
        .with("complex", "C64", &[1], &[0; 8])
        .write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let find = |name: &str| checkpoint.find(name).unwrap();
    assert_says(
        measure_spectrum(&checkpoint, find("layers.0.fc1.weight"), &Silent),
        &["layers.0.fc1.weight", "NaN"],
    );
    assert_says(measure(&checkpoint, find("complex"), &Silent), &["complex", "C64"]);
    assert_says(measure_spectrum(&checkpoint, find("complex"), &Silent), &["complex"]);
}
