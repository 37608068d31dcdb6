//! Tensor trains: what they leave is what their cuts discard.

use super::*;
use crate::encoding::folded;

fn train(cores: &str, rank: i64) -> Step {
    Step::new("tensor-train").with("cores", cores).with("rank", rank)
}

fn left(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum()
}

/// Σ_{i ≥ rank} σᵢ² of a matrix.
fn discarded(matrix: &Array2<f64>, rank: usize) -> f64 {
    let matrix = matrix.mapv(|value| value as f32);
    let unit = inputs_of(Array2::eye(matrix.ncols()).view());
    tail(&matrix, &unit, rank)
}

fn product_in(encoding: &Encoding) -> &crate::encoding::LowRank {
    match encoding {
        Encoding::Folded(folded) => product_in(folded.inner()),
        Encoding::LowRank(product) => product,
        other => panic!("{:?}", other.layout()),
    }
}

#[test]
fn two_cores_leave_the_tail_of_their_cut() {
    for (rows, cols, digits) in [(36, 64, (6, 8)), (30, 35, (5, 5)), (13, 40, (1, 5))] {
        let weights = normals(1, rows, cols);
        let cut = folded(&weights.mapv(f64::from), digits);
        for rank in [1, 3, 11, 4096] {
            let found = try_compress(&[train("two", rank)], &weights, None).unwrap();
            let known = discarded(&cut, (rank as usize).min(cut.nrows()).min(cut.ncols()));
            let off = left(&weights, &found) - known;
            assert!(off.abs() < 1e-4 * known + 1e-6, "{rows} × {cols}, {rank}: {off} of {known}");
        }
    }
}

#[test]
fn three_cores_leave_the_tails_of_both_cuts() {
    let weights = normals(2, 64, 120);
    // 64 = 4·4·4, 120 = 4·5·6.
    let cut = folded(&weights.mapv(f64::from), (4, 4));
    for rank in [1, 2, 5, 9] {
        let found = try_compress(&[train("three", rank)], &weights, None).unwrap();
        let first = product_in(&found);
        let q = first.left().decode().mapv(f64::from);
        let rest = q.t().dot(&cut);
        let n = rank as usize;
        let rest = rest.into_shape_with_order((n * 16, 30)).unwrap();
        let second = folded(&rest, (n * 4, 5));
        let known = discarded(&cut, n) + discarded(&second, n);
        let found = left(&weights, &found);
        assert!((found / known - 1.0).abs() < 1e-4, "{rank}: {found} for {known}");
    }
    let all = try_compress(&[train("three", 4096)], &weights, None).unwrap();
    assert!(left(&weights, &all) < 1e-6, "every rank is exact");
}

#[test]
fn a_kronecker_product_is_one_term_and_noise_gains_nothing() {
    let (a, b) = (normals(3, 6, 4), normals(4, 8, 16));
    let weights = Array2::from_shape_fn((48, 64), |(i, j)| a[[i / 8, j / 16]] * b[[i % 8, j % 16]]);
    // The digits of 48 and 64 are 6·8 and 8·8; of 64 = 4·16 a sum of two terms.
    let found = try_compress(&[train("two", 2)], &weights, None).unwrap();
    assert!(left(&weights, &found) < 1e-8 * weights.mapv(|w| w * w).sum() as f64);
    let noise = normals(5, 64, 64);
    let by_cores = left(&noise, &try_compress(&[train("two", 16)], &noise, None).unwrap());
    let low_rank = Step::new("low-rank").with("rank", 16);
    let by_rank = left(&noise, &try_compress(&[low_rank], &noise, None).unwrap());
    assert!((by_cores / by_rank - 1.0).abs() < 0.05, "{by_cores} and {by_rank}: flat spectra");
}

#[test]
fn cores_are_as_large_as_their_digits_and_integers_hold_more_rank() {
    let shape = MatrixShape { rows: 64, cols: 120 };
    let bytes = |step: Step| chain_layout(&[step], shape, DType::BF16).unwrap().bytes(shape);
    // 64 = 8·8, 120 = 10·12.
    assert_eq!(bytes(train("two", 7)), 2 * 7 * (80 + 96));
    assert_eq!(bytes(train("three", 7)), 2 * (16 * 7 + 7 * 20 * 7 + 7 * 24));
    let weights = normals(6, 64, 120);
    for cores in ["two", "three"] {
        let integers = train(cores, 12).with("factors", "integers");
        let (dense, whole) = (
            left(&weights, &try_compress(&[train(cores, 12)], &weights, None).unwrap()),
            left(&weights, &try_compress(&[integers], &weights, None).unwrap()),
        );
        assert!(whole < 1.002 * dense, "{cores}: {whole} for {dense}");
    }
}

fn cuts_of(step: Step, weights: &Array2<f32>) -> Vec<Cut> {
    let task = Task {
        tensor: "layer.weight",
        weights: weights.view(),
        dtype: DType::F32,
        previous: None,
        fused_peak: None,
        inputs: None,
        observer: &Silent,
    };
    cuts(&[step], &task).unwrap()
}

/// What lies beyond the rank of each cut is what the train leaves, and all of the first is all of the weights.
#[test]
fn cuts_say_what_a_train_leaves() {
    for (rows, cols) in [(64, 120), (48, 64), (13, 40), (1, 12)] {
        let weights = normals(7, rows, cols);
        let all: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        for (cores, count) in [("two", 1), ("three", 2)] {
            for rank in [1, 3, 8] {
                let cuts = cuts_of(train(cores, rank), &weights);
                assert_eq!(cuts.len(), count);
                let sum = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
                assert!((sum(&cuts[0].singular_values) / all - 1.0).abs() < 1e-9);
                assert!(cuts.iter().all(|cut| cut.singular_values.is_sorted_by(|a, b| a >= b)));
                let known: f64 = cuts.iter().map(|cut| sum(&cut.singular_values[cut.rank..])).sum();
                let found =
                    left(&weights, &try_compress(&[train(cores, rank)], &weights, None).unwrap());
                let off = (found - known).abs();
                assert!(off < 1e-4 * known + 1e-6 * all, "{cores} {rank}: {found} for {known}");
            }
        }
    }
    // 4·4·4 by 4·4·4: one value in each cut, that of all of it.
    let [a, b, c] = [8, 9, 10].map(|seed| normals(seed, 4, 4));
    let weights = Array2::from_shape_fn((64, 64), |(i, j)| {
        a[[i / 16, j / 16]] * b[[i / 4 % 4, j / 4 % 4]] * c[[i % 4, j % 4]]
    });
    let norm = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    for cut in cuts_of(train("three", 2), &weights) {
        let [first, second] = [cut.singular_values[0], cut.singular_values[1]];
        assert!((first / norm - 1.0).abs() < 1e-5 && second < 1e-5 * norm, "{first} {second}");
    }
    assert!(cuts_of(Step::new("low-rank"), &weights).is_empty(), "another method has none");
    let broken = Array2::from_elem((4, 4), f32::NAN);
    let task = Task {
        tensor: "broken.weight",
        weights: broken.view(),
        dtype: DType::F32,
        previous: None,
        fused_peak: None,
        inputs: None,
        observer: &Silent,
    };
    let why = cuts(&[train("two", 1)], &task).unwrap_err();
    assert!(why.to_string().contains("broken.weight"), "{why}");
}
