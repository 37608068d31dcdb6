//! Sparse dictionaries: low rank where every row takes every atom, and nearer than that where rows lie in several subspaces.

use super::*;

fn dictionary(atoms: i64, share: f64) -> Step {
    Step::new("sparse-dictionary").with("atoms", atoms).with("share", share)
}

fn left(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum()
}

#[test]
fn with_all_atoms_it_is_low_rank() {
    let (weights, inputs) = (normals(1, 40, 60), correlated(2, 300, 60));
    for nearest in ["weights", "outputs"] {
        let with = |step: Step| {
            damage(
                &weights,
                &compress(&[step.with("nearest", nearest)], &weights, &inputs),
                &inputs,
            )
        };
        let full = with(dictionary(12, 1.0));
        let product = with(Step::new("low-rank").with("rank", 12));
        assert!((full / product - 1.0).abs() < 1e-3, "{nearest}: {full} and {product}");
    }
}

/// Rows of eight subspaces of four dimensions: all together need 32, each row four.
#[test]
fn rows_of_several_subspaces_are_nearer_than_in_one() {
    let (rows, cols) = (320, 64);
    let (spans, mixes) = (normals(3, 32, cols), normals(4, rows, 4));
    let mut weights = 0.02 * &normals(5, rows, cols);
    for (i, mut row) in weights.rows_mut().into_iter().enumerate() {
        for (j, &mix) in mixes.row(i).iter().enumerate() {
            row.scaled_add(mix, &spans.row(i % 8 * 4 + j));
        }
    }
    let encoding =
        try_compress(&[dictionary(32, 0.125).with("rounds", 30)], &weights, None).unwrap();
    // 4 of 32 entries for each row, a bit for each, and the atoms; low rank of as many bytes.
    let bytes = 4 * (rows * 4 + 32 * cols) + rows * 32 / 8;
    assert_eq!(encoding.bytes(), bytes as u64);
    let rank = bytes / 4 / (rows + cols);
    let product = Step::new("low-rank").with("rank", rank as i64 + 1);
    let product = try_compress(&[product], &weights, None).unwrap();
    assert!(product.bytes() > encoding.bytes());
    let (ours, theirs) = (left(&weights, &encoding), left(&weights, &product));
    assert!(ours < 0.5 * theirs, "{ours} and {theirs}");
}

#[test]
fn more_rounds_and_more_entries_leave_no_more() {
    let (weights, inputs) = (normals(6, 50, 80), correlated(7, 300, 80));
    let mut last = f64::INFINITY;
    for rounds in [1, 2, 5, 12] {
        let step = dictionary(24, 0.3).with("rounds", rounds).with("nearest", "outputs");
        let found = damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
        assert!(found <= last * (1.0 + 1e-6), "{rounds} rounds: {found} after {last}");
        last = found;
    }
    let mut last = f64::INFINITY;
    for share in [0.1, 0.3, 0.6, 1.0] {
        let found =
            left(&weights, &try_compress(&[dictionary(24, share)], &weights, None).unwrap());
        assert!(found < last, "{share}: {found} after {last}");
        last = found;
    }
}

#[test]
fn outputs_are_nearer_where_they_are_what_counts_and_integers_lose_little() {
    let (weights, inputs) = (normals(8, 60, 64), correlated(9, 400, 64));
    let with = |step: Step| damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
    let plain = with(dictionary(24, 0.5));
    let step = || dictionary(24, 0.5).with("nearest", "outputs");
    let ours = with(step());
    assert!(ours < 0.8 * plain, "{ours} and {plain}");
    let integers = with(step().with("factors", "integers"));
    assert!(integers < 1.01 * ours, "{integers} and {ours}");
}
