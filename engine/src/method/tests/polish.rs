//! Polished grids against least squares, finite differences and every other zero point.

use super::*;
use crate::encoding::{Affine, AffineData, Mask};

/// Grouped integers, under a mask or not.
fn affine(encoding: &Encoding) -> &Affine {
    match encoding {
        Encoding::Affine(affine) => affine,
        Encoding::Sparse(sparse) => affine(sparse.inner()),
        other => panic!("{:?}", other.layout()),
    }
}

/// The damage with other scales, zero points or offsets.
fn with(
    (weights, inputs): (&Array2<f32>, &LayerInputs),
    of: &Affine,
    (scales, zeros, offsets): (Vec<f32>, Vec<u8>, Vec<f32>),
) -> f64 {
    let data = AffineData { codes: of.codes().to_vec(), scales, zeros };
    let (shape, layout) = (of.shape(), of.layout().clone());
    let other = if layout.has_offsets {
        Affine::with_offsets(shape, layout, data, offsets)
    } else {
        Affine::new(shape, layout, data)
    };
    damage(weights, &Encoding::Affine(other), inputs)
}

fn scales_only(rounds: i64) -> Step {
    Step::new("polish").with("what", "scales").with("rounds", rounds)
}

#[test]
fn scale_and_offset_of_a_row_are_those_of_the_normal_equations() {
    let (weights, inputs) = (normals(51, 7, 40), correlated(52, 300, 40));
    let quantiser = Step::new("hqq").with("bits", 3).with("granularity", "channel");
    let found = compress(&[quantiser, scales_only(1)], &weights, &inputs);
    let found = affine(&found);
    let gram = inputs.gram.as_ref().unwrap();
    let form = |a: &[f64], b: &[f64]| -> f64 {
        let term = |i: usize| (0..40).map(|j| a[i] * gram.get(i, j) * b[j]).sum::<f64>();
        (0..40).map(term).sum()
    };
    for row in 0..7 {
        let q: Vec<f64> = (0..40).map(|i| f64::from(found.codes()[row * 40 + i])).collect();
        let (one, w) = ([1.0; 40], weights.row(row).mapv(f64::from).to_vec());
        let (qq, q1, ones) = (form(&q, &q), form(&q, &one), form(&one, &one));
        let (qw, w1) = (form(&q, &w), form(&one, &w));
        let determinant = qq * ones - q1 * q1;
        let scale = (qw * ones - w1 * q1) / determinant;
        let offset = (w1 * qq - qw * q1) / determinant;
        let off = |found: f32, wanted: f64| (f64::from(found) - wanted).abs();
        assert!(off(found.scales()[row], scale) < 1e-5 * scale.abs(), "{row}: scale {scale}");
        assert!(off(found.offsets()[row], offset) < 1e-5 * offset.abs(), "{row}: {offset}");
    }
}

#[test]
fn where_grids_have_settled_no_move_of_one_helps() {
    let (weights, inputs) = (normals(55, 5, 48), correlated(56, 300, 48));
    let of = (&weights, &inputs);
    for quantiser in [
        Step::new("hqq").with("bits", 2).with("group_size", 16),
        Step::new("round-to-nearest").with("bits", 3).with("group_size", 16),
        Step::new("gptq").with("bits", 2).with("group_size", 16).with("symmetry", "asymmetric"),
    ] {
        let settled = compress(&[quantiser, scales_only(20)], &weights, &inputs);
        let least = damage(&weights, &settled, &inputs);
        let settled = affine(&settled);
        let parts = || {
            let zeros = settled.zeros().to_vec();
            (settled.scales().to_vec(), zeros, settled.offsets().to_vec())
        };
        for group in 0..15 {
            for factor in [0.99, 1.01] {
                let mut moved = parts();
                moved.0[group] *= factor;
                assert!(with(of, settled, moved) >= least, "scale {group}");
                let mut moved = parts();
                if let Some(offset) = moved.2.get_mut(group) {
                    *offset *= factor;
                    assert!(with(of, settled, moved) >= least, "offset {group}");
                }
            }
            if settled.layout().has_offsets || settled.layout().symmetric {
                continue;
            }
            // Any other zero point, with any scale.
            for zero in 0..=settled.layout().largest() {
                for factor in [0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5] {
                    let mut moved = parts();
                    (moved.0[group], moved.1[group]) = (moved.0[group] * factor, zero);
                    assert!(with(of, settled, moved) >= least * (1.0 - 1e-6), "zero {group}");
                }
            }
        }
    }
}

#[test]
fn polish_of_moving_zeros_never_worsens_and_keeps_what_a_mask_drops() {
    let (weights, inputs) = (normals(57, 12, 64), correlated(58, 300, 64));
    let quantisers = [
        Step::new("hqq").with("bits", 2).with("group_size", 16),
        Step::new("hqq").with("bits", 3).with("symmetry", "asymmetric").with("group_size", 32),
        Step::new("round-to-nearest").with("bits", 2).with("symmetry", "asymmetric"),
    ];
    for quantiser in quantisers {
        for mask in [None, Some(Step::new("magnitude").with("fraction", 0.4))] {
            let base: Vec<Step> = mask.iter().cloned().chain([quantiser.clone()]).collect();
            let plain = compress(&base, &weights, &inputs);
            let first = damage(&weights, &plain, &inputs);
            let mut last = first;
            for rounds in 1..=5 {
                let polish = Step::new("polish").with("rounds", rounds);
                let steps = [base.clone(), vec![polish]].concat();
                let polished = compress(&steps, &weights, &inputs);
                let found = damage(&weights, &polished, &inputs);
                assert!(found <= last * (1.0 + 1e-6), "{base:?} {rounds}: {found} after {last}");
                last = found;
                assert_eq!(polished.layout(), plain.layout());
                let dropped = |mask: &Mask, i: usize| !mask.keeps(i);
                if let (Encoding::Sparse(a), Encoding::Sparse(b)) = (&plain, &polished) {
                    assert_eq!(a.mask(), b.mask());
                    let decoded = polished.decode();
                    let values = decoded.iter().enumerate();
                    assert!(values.filter(|(i, _)| dropped(b.mask(), *i)).all(|(_, &v)| v == 0.0));
                }
            }
            assert!(last < 0.9 * first, "{base:?}: {last} of {first}");
        }
    }
}
