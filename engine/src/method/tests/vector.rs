//! Vector quantisation: stages, runs with codebooks of their own, whole rows.

use super::*;
use crate::encoding::folded;

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

fn factored(bits: i64, run: i64, dims: i64) -> Step {
    vectors(1, bits, run).with("books", "factored").with("dims", dims)
}

/// What is left is what the runs have outside of the basis and what the points leave in it: never less than the first, and with
/// all dimensions what plain codebooks leave.
#[test]
fn factored_codebooks_leave_the_tail_of_the_runs_and_what_points_do() {
    let (rows, cols) = (250, 128);
    // Runs of 8 whose i-th value is 1/i of the first.
    let mut weights = normals(35, rows, cols);
    for (j, mut column) in weights.columns_mut().into_iter().enumerate() {
        column /= 1.0 + (j % 8) as f32;
    }
    let runs = folded(&weights.mapv(f64::from), (rows, cols / 8)).mapv(|value| value as f32);
    let unit = inputs_of(Array2::eye(8).view());
    let values =
        whitened_singular_values(runs.view(), unit.gram.as_ref().unwrap(), &|| false).unwrap();
    let energies: Vec<f64> = values.iter().map(|value| value * value).collect();
    let all: f64 = energies.iter().sum();
    let mut before = f64::INFINITY;
    for dims in [1, 2, 4, 8] {
        let tail = energies[dims..].iter().sum::<f64>() / all;
        let found = left(&weights, factored(8, 8, dims as i64));
        assert!(found > 0.999 * tail, "{dims}: {found} for a tail of {tail}");
        assert!(found < before, "{dims} dimensions: {found} after {before}");
        before = found;
    }
    let plain = left(&weights, vectors(1, 8, 8).with("scales", "none"));
    assert!((before / plain - 1.0).abs() < 0.05, "{before} and {plain}");
}

/// Runs in a plane: two dimensions lose nothing that eight have, and take less.
#[test]
fn runs_of_few_dimensions_need_no_more() {
    let (points, basis) = (normals(36, 16, 2), normals(37, 2, 8));
    let runs = points.dot(&basis);
    let weights = Array2::from_shape_fn((120, 64), |(row, col)| {
        runs[[(row * 7 + col / 8 * 5) % 16, col % 8]]
    });
    assert!(left(&weights, factored(4, 8, 2)) < 1e-9);
    assert!(left(&weights, factored(4, 8, 1)) > 1e-3);
    let shape = MatrixShape { rows: 120, cols: 64 };
    let bytes = |step: Step| chain_layout(&[step], shape, DType::BF16).unwrap().bytes(shape);
    // Codes of half a byte, 16 points of two numbers, two directions of eight.
    assert_eq!(bytes(factored(4, 8, 2)), 120 * 8 / 2 + 2 * 16 * 2 + 2 * 2 * 8);
    assert_eq!(bytes(vectors(1, 4, 8).with("scales", "none")), 120 * 8 / 2 + 2 * 16 * 8);
    // 60 inputs have no run of 8: those of 6 are the longest that are whole.
    let shape = MatrixShape { rows: 3, cols: 60 };
    let encoding = try_compress(&[factored(3, 8, 4)], &normals(38, 3, 60), None).unwrap();
    assert_eq!(encoding.layout(), chain_layout(&[factored(3, 8, 4)], shape, DType::F32).unwrap());
    assert_eq!(encoding.bytes(), encoding.layout().bytes(shape));
}

/// What a text of so many tokens in these shares knows of its tokens.
fn read(tokens: u64, shares: Vec<f32>) -> LayerInputs {
    let (mean, mean_square) = (Vec::new(), Vec::new());
    LayerInputs { tokens, mean, mean_square, gram: None, shares }
}

fn left_by_row(weights: &Array2<f32>, step: Step, inputs: &LayerInputs) -> Vec<f64> {
    let decoded = try_compress(&[step], weights, Some(inputs)).unwrap().decode();
    let rows = weights.rows().into_iter().zip(decoded.rows());
    rows.map(|(a, b)| a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum()).collect()
}

/// Tokens that occur are met better at the cost of those that do not, and all of them together by their counts.
#[test]
fn rows_are_counted_by_how_often_their_token_occurs() {
    let weights = normals(39, 400, 32);
    // The first 40 tokens occur, the others do not.
    let shares: Vec<f32> = (0..40).map(|_| 1.0 / 40.0).collect();
    let inputs = read(40_000, shares);
    let counts = |row: usize| if row < 40 { 1001.0 } else { 1.0 };
    for (books, scales) in
        [("shared", "outputs"), ("shared", "none"), ("own", "none"), ("factored", "none")]
    {
        let step = vectors(1, 6, 4).with("books", books).with("scales", scales);
        let [alike, counted] = ["alike", "by-tokens"]
            .map(|how| left_by_row(&weights, step.clone().with("counted", how), &inputs));
        let sum = |left: &[f64]| -> f64 {
            left.iter().enumerate().map(|(row, left)| counts(row) * left).sum()
        };
        assert!(
            sum(&counted) < 0.85 * sum(&alike),
            "{books}, {scales}: {} {}",
            sum(&counted),
            sum(&alike)
        );
        let all = |left: &[f64]| left.iter().sum::<f64>();
        assert!(all(&counted) > all(&alike), "{books}: what is gained is paid for");
    }
}

/// With equal counts nothing changes but rounding, and tokens that nobody counted are refused.
#[test]
fn equal_counts_are_no_counts() {
    let weights = normals(40, 64, 16);
    let step = vectors(2, 4, 4);
    let inputs = read(6400, vec![1.0 / 64.0; 64]);
    let [alike, counted] = ["alike", "by-tokens"].map(|how| {
        left_by_row(&weights, step.clone().with("counted", how), &inputs).iter().sum::<f64>()
    });
    assert!((counted / alike - 1.0).abs() < 0.02, "{counted} {alike}");
    let refused = try_compress(&[step.with("counted", "by-tokens")], &weights, None).unwrap_err();
    assert!(refused.to_string().contains("which nobody counted"), "{refused}");
}
