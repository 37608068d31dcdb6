//! Vector quantisation: stages, runs with codebooks of their own, whole rows.

use super::*;

fn vectors(stages: i64, bits: i64, run: i64) -> Step {
    let step = Step::new("vector-quantisation").with("stages", stages);
    step.with("code_bits", bits).with("run", run)
}

fn left(weights: &Array2<f32>, step: Step) -> f64 {
    let decoded = try_compress(&[step], weights, None).unwrap().decode();
    let off: f64 = weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
    off / weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
}

#[test]
fn single_weights_leave_what_lloyd_and_max_do() {
    let weights = normals(31, 150, 400);
    for (bits, known) in [(2, 0.1175), (3, 0.0345), (4, 0.0095)] {
        for scales in ["none", "outputs"] {
            let found = left(&weights, vectors(1, bits, 1).with("scales", scales));
            assert!((0.97..1.04).contains(&(found / known)), "{bits} bits: {found} for {known}");
        }
    }
}

/// Pairs leave less than single weights of as many bits, and each stage less than those before; none is below Shannon.
#[test]
fn the_error_falls_with_every_stage_and_with_longer_runs() {
    let weights = normals(32, 256, 256);
    let single = left(&weights, vectors(1, 2, 1));
    let pairs = left(&weights, vectors(1, 4, 2));
    let fours = left(&weights, vectors(1, 8, 4));
    assert!(fours < pairs && pairs < single, "{fours} {pairs} {single}");
    for bits in [3, 5] {
        let stages: Vec<f64> = (1..=4).map(|n| left(&weights, vectors(n, bits, 4))).collect();
        for (n, pair) in stages.windows(2).enumerate() {
            assert!(pair[1] < 0.8 * pair[0], "stage {} of {bits} bits: {pair:?}", n + 2);
            let rate = (n + 2) as f64 * bits as f64 / 4.0;
            // 16 entries for 4 values that were made for 16,384 vectors: what they know of the sample is little.
            assert!(pair[1] > 0.95 * (-2.0 * rate).exp2(), "{pair:?} at {rate} bits");
        }
    }
}

/// A matrix whose runs lie about points of their own, other points for each run of inputs.
#[test]
fn codebooks_of_their_own_find_what_shared_ones_cannot() {
    let (rows, points) = (200, normals(33, 4 * 6, 3));
    let weights = Array2::from_shape_fn((rows, 18), |(row, col)| {
        points[[col / 3 * 4 + (row * 7 + col / 3 * row) % 4, col % 3]]
    });
    let own = left(&weights, vectors(1, 2, 3).with("books", "own"));
    let shared = left(&weights, vectors(1, 2, 3).with("scales", "none"));
    assert!(own < 1e-6 && shared > 0.1, "{own} {shared}");
    // 24 points are as many as 5 bits hold.
    assert!(left(&weights, vectors(1, 5, 3).with("scales", "none")) < 1e-6);
}

/// Each row is one entry: with as many entries as there are different rows nothing is lost, and rows of a code are equal.
#[test]
fn whole_rows_share_entries() {
    let different = normals(34, 10, 50);
    let weights = Array2::from_shape_fn((60, 50), |(row, col)| different[[row % 10, col]]);
    let step = || vectors(1, 4, 16384).with("scales", "none");
    assert!(left(&weights, step()) < 1e-6);
    let few = try_compress(&[vectors(1, 2, 16384).with("scales", "none")], &weights, None);
    let decoded = few.unwrap().decode();
    let mut rows: Vec<Vec<u32>> =
        decoded.rows().into_iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect();
    rows.sort();
    rows.dedup();
    assert!(rows.len() <= 4, "{} different rows", rows.len());
}
