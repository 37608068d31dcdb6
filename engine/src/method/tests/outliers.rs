//! Outliers and what they stand behind, against closed forms and each other.

use ndarray::{Array2, array};

use super::*;

fn outliers(nearest: &str, share: f64) -> Step {
    Step::new("sparse-outliers").with("nearest", nearest).with("share", share)
}

#[test]
fn outliers_of_weights_are_the_largest_errors_made_exact() {
    let weights = normals(31, 20, 90);
    let rounded = Step::new("round-to-nearest").with("bits", 3);
    let before = try_compress(std::slice::from_ref(&rounded), &weights, None).unwrap().decode();
    let steps = [rounded, outliers("weights", 0.05)];
    let after = try_compress(&steps, &weights, None).unwrap().decode();
    let error = |at: usize, from: &Array2<f32>| (&weights - from)[[at / 90, at % 90]].abs();
    let mut order: Vec<usize> = (0..1800).collect();
    order.sort_by(|&a, &b| error(b, &before).total_cmp(&error(a, &before)));
    for (i, &at) in order.iter().enumerate() {
        let (was, is) = (error(at, &before), error(at, &after));
        if i < 90 {
            assert!(is <= was / 256.0, "{is} is left of {was}");
        } else {
            assert_eq!(is, was);
        }
    }
    assert_eq!(chain_label(&steps), "3-bit g128, + 5 % outliers");
}

#[test]
fn weights_far_outside_the_grid_are_made_good_first() {
    let (mut weights, inputs) = (normals(32, 16, 128), correlated(33, 400, 128));
    let spikes = [(0, 5, 30.0), (7, 100, -25.0), (15, 127, 40.0)];
    for (row, col, spike) in spikes {
        weights[[row, col]] = spike;
    }
    let quantiser = Step::new("round-to-nearest").with("bits", 3).with("clipping", "mse");
    for nearest in ["weights", "outputs"] {
        let steps = [quantiser.clone(), outliers(nearest, 0.01)];
        let [with, without] = [&steps[..], &steps[..1]]
            .map(|steps| damage(&weights, &compress(steps, &weights, &inputs), &inputs));
        assert!(with < 0.9 * without, "{nearest}: {with} of {without}");
    }
}

#[test]
fn each_part_of_a_repair_leaves_less_and_refinements_less_still() {
    let (weights, inputs) = (normals(34, 40, 96), correlated(35, 300, 96));
    let error = |steps: &[Step]| damage(&weights, &compress(steps, &weights, &inputs), &inputs);
    for base in ["round-to-nearest", "gptq", "magnitude", "awq", "nf4"] {
        let eora = Step::new("eora").with("rank", 4);
        let few = |n: i64| outliers("outputs", 0.02).with("refinements", n);
        let base = Step::new(base);
        let alone = error(std::slice::from_ref(&base));
        let corrected = error(&[base.clone(), eora.clone()]);
        assert!(error(&[base.clone(), few(0)]) < 0.97 * alone);
        let mut last = corrected;
        for refinements in [0, 1, 2, 6] {
            let found = error(&[base.clone(), eora.clone(), few(refinements)]);
            assert!(found <= last, "{base:?} {refinements}: {found} after {last}");
            last = found;
        }
        assert!(last < 0.97 * corrected, "{base:?}: {last} of {corrected}");
    }
}

#[test]
fn a_matrix_of_low_rank_with_spikes_is_told_apart() {
    let (left, right) = (normals(36, 30, 2), normals(37, 2, 50));
    let mut weights = left.dot(&right);
    for at in 0..15 {
        weights[[at * 2, at * 3 + 1]] += 50.0;
    }
    let product = Step::new("low-rank").with("rank", 2);
    let norm = |m: &Array2<f32>| m.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let left_by = |refinements: i64| {
        let few = outliers("weights", 0.01).with("refinements", refinements);
        let found = try_compress(&[product.clone(), few], &weights, None).unwrap();
        norm(&(&weights - &found.decode())) / norm(&weights)
    };
    let [once, often] = [0, 20].map(left_by);
    assert!(once > 1e-2 && often < 1e-4, "{once}, {often}");
}

#[test]
fn refusals_name_what_is_missing() {
    let weights = array![[1.0_f32, 2.0]];
    let alone =
        try_compress(&[Step::new("sparse-outliers")], &weights, None).unwrap_err().sentence();
    assert!(alone.contains("put a quantiser"), "{alone}");
    let steps = [Step::new("round-to-nearest"), outliers("outputs", 0.1)];
    let without = try_compress(&steps, &weights, None).unwrap_err().sentence();
    assert!(without.contains("layer.weight") && without.contains("calibrate first"), "{without}");
    let steps = [Step::new("round-to-nearest"), outliers("weights", 0.1), Step::new("eora")];
    let order = check_chain(&steps).unwrap_err().sentence();
    assert!(order.contains("eora cannot follow sparse-outliers"), "{order}");
}
