//! Spectra of tensors of a checkpoint: read in blocks, of errors, estimated, cancelled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::numeric::spectrum::singular_values;
use lapidary_engine::statistics::{
    Spectrum, SpectrumMethod, estimate_spectrum, measure_error_spectrum, measure_spectrum,
};
use lapidary_engine::{Error, Observer, Silent};
use lapidary_tests::{Weights, assert_says, on_threads};
use ndarray::Array2;
use tempfile::TempDir;

const LARGE: &str = "h.0.mlp.c_fc.weight";
const SMALL: &str = "h.0.attn.c_attn.weight";

/// A GPT-2 of one block with layers on either side of what is decomposed directly, stored transposed; a plain
/// matrix too large for it; and one that is not finite.
fn checkpoint(folder: &TempDir) -> Checkpoint {
    let path = folder.path().join("model.safetensors");
    let mut bad = vec![0.5; 700 * 800];
    bad[123_456] = f32::NAN;
    Weights::new()
        .normal(SMALL, &[48, 144])
        .normal(LARGE, &[700, 750])
        .normal("plain.weight", &[690, 760])
        .f32("bad.weight", &[700, 800], &bad)
        .normal("h.0.ln_1.weight", &[48])
        .write(&path);
    Checkpoint::open(&path).expect("the model opens")
}

#[track_caller]
fn assert_close(found: &Spectrum, wanted: &[f64]) {
    assert_eq!(found.singular_values.len(), wanted.len());
    for (found, wanted_value) in found.singular_values.iter().zip(wanted) {
        // Eigenvalues σ² are right to some 1e-14 of the largest.
        let allowed = 1e-12 * wanted_value + 4e-14 * wanted[0] * wanted[0] / wanted_value;
        assert!((found - wanted_value).abs() < allowed, "{found} where {wanted_value} is right");
    }
}

#[test]
fn large_layers_go_by_the_gram_matrix_and_come_to_the_same() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    for (name, method) in [
        (SMALL, SpectrumMethod::Direct),
        (LARGE, SpectrumMethod::Gram),
        ("plain.weight", SpectrumMethod::Gram),
    ] {
        let index = checkpoint.find(name).unwrap();
        let found = measure_spectrum(&checkpoint, index, &Silent).unwrap();
        assert_eq!(found.method, method, "{name}");
        let weights = checkpoint.weights(index, &Silent).unwrap();
        let wanted = singular_values(weights.view()).unwrap();
        assert_close(&found, &wanted);
        assert!(found.noise_floor > 0.0 && found.noise_floor < 1e-6 * wanted[0]);
        let again = on_threads(7, || measure_spectrum(&checkpoint, index, &Silent).unwrap());
        assert_eq!(again, found, "{name}");
    }
}

#[test]
fn the_spectrum_of_an_error_is_that_of_the_difference() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    for name in [SMALL, LARGE, "plain.weight"] {
        let index = checkpoint.find(name).unwrap();
        let weights = checkpoint.weights(index, &Silent).unwrap();
        let rounded = weights.mapv(|w| (w * 2.0).round() / 2.0);
        let decode = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(rounded.row(row).as_slice().unwrap());
        };
        let found = measure_error_spectrum(&checkpoint, index, &decode, &Silent).unwrap();
        let difference: Array2<f32> = &weights - &rounded;
        assert_close(&found, &singular_values(difference.view()).unwrap());
        let all = |row: usize, out: &mut [f32]| {
            out.copy_from_slice(weights.row(row).as_slice().unwrap());
        };
        let none = measure_error_spectrum(&checkpoint, index, &all, &Silent).unwrap();
        assert!(none.singular_values.iter().all(|&s| s == 0.0), "{name}");
    }
}

#[test]
fn an_estimate_says_what_it_is_and_lies_below_the_truth() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let index = checkpoint.find(LARGE).unwrap();
    let exact = measure_spectrum(&checkpoint, index, &Silent).unwrap();
    let estimate = estimate_spectrum(&checkpoint, index, &Silent).unwrap();
    assert_eq!(estimate.estimated_singular_values.len(), 64);
    for (value, exact) in estimate.estimated_singular_values.iter().zip(&exact.singular_values) {
        assert!(*value < exact * (1.0 + 1e-12) && *value > 0.7 * exact, "{value} {exact}");
    }
    let squares: f64 = exact.singular_values.iter().map(|s| s * s).sum();
    assert!((estimate.frobenius_norm - squares.sqrt()).abs() < 1e-10 * squares.sqrt());
    assert!(estimate.estimated_stable_rank >= exact.stable_rank * (1.0 - 1e-12));
    let again = on_threads(7, || estimate_spectrum(&checkpoint, index, &Silent).unwrap());
    assert_eq!(again, estimate);
}

#[test]
fn what_has_no_spectrum_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let find = |name| checkpoint.find(name).unwrap();
    let bad = find("bad.weight");
    assert_says(measure_spectrum(&checkpoint, bad, &Silent), &["bad.weight", "NaN"]);
    assert_says(estimate_spectrum(&checkpoint, bad, &Silent), &["bad.weight", "NaN"]);
    let norm = find("h.0.ln_1.weight");
    assert_says(measure_spectrum(&checkpoint, norm, &Silent), &["h.0.ln_1.weight"]);
    assert_says(estimate_spectrum(&checkpoint, norm, &Silent), &["h.0.ln_1.weight"]);
}

/// Cancels at the question of that number.
struct CancelAfter(AtomicUsize);

impl Observer for CancelAfter {
    fn is_cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
    }
}

#[test]
fn a_large_spectrum_can_be_cancelled_at_any_point() {
    let folder = TempDir::new().unwrap();
    let checkpoint = checkpoint(&folder);
    let index = checkpoint.find(LARGE).unwrap();
    for questions in [0, 3, 20, 100, 250] {
        let observer = CancelAfter(AtomicUsize::new(questions));
        let begun = Instant::now();
        let found = measure_spectrum(&checkpoint, index, &observer);
        assert!(matches!(found, Err(Error::Cancelled)), "after {questions} questions");
        assert!(questions > 20 || begun.elapsed() < Duration::from_millis(500));
        let observer = CancelAfter(AtomicUsize::new(questions.min(3)));
        let found = estimate_spectrum(&checkpoint, index, &observer);
        assert!(matches!(found, Err(Error::Cancelled)), "after {questions} questions");
        let nothing = |_: usize, _: &mut [f32]| {};
        let observer = CancelAfter(AtomicUsize::new(questions));
        let found = measure_error_spectrum(&checkpoint, index, &nothing, &observer);
        assert!(matches!(found, Err(Error::Cancelled)), "after {questions} questions");
    }
}
