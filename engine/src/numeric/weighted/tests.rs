//! Closed forms and brute force of what weighs weights by their inputs.

use ndarray::{Array2, array};

use super::*;
use crate::numeric::seeds::Random;

fn normal(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
}

fn gram_of(x: &Array2<f32>) -> Gram {
    let mut gram = Gram::new(x.ncols());
    gram.add(x.view());
    gram
}

/// Σ (X·Wᵀ)² in f64.
fn energy(x: &Array2<f32>, w: &Array2<f32>) -> f64 {
    x.mapv(f64::from).dot(&w.mapv(f64::from).t()).iter().map(|y| y * y).sum()
}

#[track_caller]
fn assert_near(found: f64, wanted: f64, tolerance: f64) {
    assert!((found - wanted).abs() <= tolerance * wanted.abs(), "{found} for {wanted}");
}

#[test]
fn errors_by_gram_by_outputs_and_by_hand_agree() {
    let (x, w) = (normal(1, 700, 150), normal(2, 90, 150));
    let decoded = w.mapv(|w| (w * 2.0).round() / 2.0);
    let wanted = energy(&x, &(&w - &decoded)) / energy(&x, &w);
    let by_gram = gram_weighted_error(w.view(), decoded.view(), &gram_of(&x));
    assert_near(by_gram.share(), wanted, 1e-5);
    let mut outputs = OutputError::default();
    outputs.add(x.view(), w.view(), decoded.view());
    assert_near(outputs.sums.share(), wanted, 1e-5);
    assert_near(outputs.sums.norm, by_gram.norm, 1e-5);
    let mut halves = OutputError::default();
    halves.add(x.slice(s![..256, ..]), w.view(), decoded.view());
    let mut rest = OutputError::default();
    rest.add(x.slice(s![256.., ..]), w.view(), decoded.view());
    halves.merge(&rest);
    assert_eq!(halves.tokens, 700);
    assert_near(halves.sums.error, outputs.sums.error, 1e-14);
    assert_near(outputs.sums.relative(), wanted.sqrt(), 1e-5);
}

#[test]
fn the_diagonal_is_exact_where_channels_do_not_meet() {
    // Each token touches one channel: H is diagonal.
    let x = array![[2.0_f32, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 0.0]];
    let (w, d) = (array![[1.0_f32, 2.0], [3.0, -1.0]], array![[1.0_f32, 1.0], [2.0, -1.0]]);
    let diagonal = diagonal_weighted_error(w.view(), d.view(), &[1.0, 2.5]);
    // Σ over tokens: 4·1 + 10·1 of 4·10 + 10·5; a quarter of that in the mean.
    assert_eq!((diagonal.error, diagonal.norm), (3.5, 22.5));
    let full = gram_weighted_error(w.view(), d.view(), &gram_of(&x));
    assert_eq!((full.error, full.norm), (14.0, 90.0));
    assert_eq!(full.share(), diagonal.share());
    let none = diagonal_weighted_error(w.view(), w.view(), &[0.0, 0.0]);
    assert_eq!((none.share(), none.relative()), (0.0, 0.0));
    assert_eq!(channel_importance(w.view(), &[4.0, 9.0]), [8.0, 9.0]);
}

#[test]
fn threads_change_no_bit() {
    let (x, w) = (normal(1, 600, 200), normal(2, 300, 200));
    let decoded = w.mapv(f32::round);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut outputs = OutputError::default();
            outputs.add(x.view(), w.view(), decoded.view());
            let gram = gram_of(&x);
            let values = whitened_singular_values(w.view(), &gram, &|| false).unwrap();
            let error = gram_weighted_error(w.view(), decoded.view(), &gram);
            (outputs, error, values)
        })
    };
    assert_eq!(run(1), run(2));
}

/// Singular values of W·Xᵀ / √tokens, which are those of W·H^½.
fn wanted(w: &Array2<f32>, x: &Array2<f32>) -> Vec<f64> {
    let outputs = w.mapv(f64::from).dot(&x.mapv(f64::from).t()) / (x.nrows() as f64).sqrt();
    singular_values_f64(outputs.view()).unwrap()
}

#[test]
fn the_whitened_spectrum_is_that_of_the_outputs() {
    // Both directions, few and many tokens; the last three are too large for the direct way.
    for (rows, cols, tokens) in [
        (5, 9, 40),
        (9, 5, 40),
        (60, 80, 7),
        (80, 60, 7),
        (1, 30, 3),
        (30, 1, 3),
        (40, 4000, 300),
        (3000, 400, 900),
        (3000, 400, 20),
    ] {
        let (w, x) = (normal(1, rows, cols), normal(2, tokens, cols));
        let found = whitened_singular_values(w.view(), &gram_of(&x), &|| false).unwrap();
        assert_eq!(found.len(), rows.min(cols));
        let wanted = wanted(&w, &x);
        for (i, value) in found.iter().enumerate() {
            let wanted_value = wanted.get(i).copied().unwrap_or(0.0);
            let off = (value - wanted_value).abs() / wanted[0];
            let limit = if wanted_value > 0.05 * wanted[0] { 1e-5 } else { 1e-3 };
            assert!(off < limit, "{rows} × {cols}, {tokens}: σ{i} = {value} for {wanted_value}");
        }
    }
}

#[test]
fn spectra_of_both_large_ways_agree_with_the_direct_one() {
    let (w, x) = (normal(1, 200, 300), normal(2, 150, 300));
    let gram = gram_of(&x);
    let outputs = output_gram(w.view(), &gram, &|| false).unwrap();
    let values = eigenvalues_of::<Infallible>(outputs, &|| false).unwrap();
    let direct = whitened_singular_values(w.view(), &gram, &|| false).unwrap();
    for (value, direct) in values.iter().zip(&direct).take(100) {
        assert_near((value / 150.0).sqrt(), *direct, 1e-5);
    }
    let zero = whitened_singular_values(w.view(), &Gram::new(300), &|| false).unwrap();
    assert_eq!(zero, vec![0.0; 200]);
    let cancelled = whitened_singular_values(w.view(), &gram, &|| true);
    assert_eq!(cancelled, Err(Stopped::Cancelled));
    let bad = w.mapv(|_| f32::NAN);
    assert_eq!(whitened_singular_values(bad.view(), &gram, &|| false), Err(Stopped::NotFinite));
}

#[test]
fn the_coding_rate_has_its_closed_forms() {
    // White noise of variance v: d/2·ln(1 + d·v/ε²).
    let rate = coding_rate(&[20.0; 4], 10, 0.5);
    assert_near(rate, 2.0 * (1.0_f64 + 4.0 * 2.0 / 0.25).ln(), 1e-14);
    assert_eq!((coding_rate(&[], 0, 1.0), coding_rate(&[0.0; 3], 7, 1.0)), (0.0, 0.0));
    assert!(coding_rate(&[20.0; 4], 10, 1e9) < 1e-15);
    // Sylvester: det(I + a·Z·Zᵀ) = det(I + a·Zᵀ·Z); the factor d stays that of the channels.
    let x = normal(3, 30, 12);
    let values = gram_of(&x).eigenvalues(&|| false).unwrap();
    let other = gram_of(&x.t().to_owned()).eigenvalues(&|| false).unwrap();
    let sum: f64 = other.iter().map(|value| (12.0 / 30.0 * value).ln_1p()).sum();
    assert_near(coding_rate(&values, 30, 1.0), 0.5 * sum, 1e-6);
}
