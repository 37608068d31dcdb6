//! GQSA against GPTQ and against dropping the smallest groups.

use super::*;

fn gqsa(bits: i64, dropped: f64) -> Step {
    Step::new("gqsa").with("bits", bits).with("dropped", dropped)
}

fn runs(encoding: &Encoding) -> &crate::encoding::Runs {
    let Encoding::Runs(runs) = encoding else { panic!("runs") };
    runs
}

#[test]
fn with_nothing_dropped_it_is_gptq_as_the_inputs_lie() {
    let (weights, inputs) = (normals(51, 12, 96), correlated(52, 300, 96));
    for (bits, symmetry) in [(4, "asymmetric"), (3, "symmetric")] {
        for clipping in ["min-max", "mse"] {
            let with = |step: Step| {
                let step = step.with("group_size", 32).with("symmetry", symmetry);
                compress(&[step.with("clipping", clipping)], &weights, &inputs)
            };
            let gptq = with(Step::new("gptq").with("bits", bits).with("order", "columns"));
            let ours = with(gqsa(bits, 0.0));
            let (Encoding::Affine(inner), Encoding::Affine(gptq)) = (runs(&ours).inner(), &gptq)
            else {
                panic!("grouped integers")
            };
            assert_eq!((inner.codes(), inner.scales()), (gptq.codes(), gptq.scales()));
            assert_eq!(inner.zeros(), gptq.zeros());
        }
    }
}

/// (1 − f)·(b + (16 + b)/g) + 1/g: half of 4 bits in groups of 16 is 2.6875 bits, not 2.
#[test]
fn its_bits_count_everything() {
    let shape = MatrixShape { rows: 64, cols: 256 };
    let bits = |step: Step| {
        let bytes = chain_layout(&[step], shape, DType::BF16).unwrap().bytes(shape);
        bytes as f64 * 8.0 / shape.elements() as f64
    };
    assert_eq!(bits(gqsa(4, 0.5)), 0.5 * (4.0 + 20.0 / 16.0) + 1.0 / 16.0);
    assert_eq!(bits(gqsa(3, 0.25).with("symmetry", "symmetric")), 0.75 * 4.0 + 1.0 / 16.0);
    let layout = chain_layout(&[gqsa(4, 0.3)], shape, DType::BF16).unwrap();
    let kept = 1024 - 307;
    assert_eq!(layout.density(shape), f64::from(kept) / 1024.0);
}

#[test]
fn groups_of_no_weight_go_first_and_rows_may_be_empty() {
    let (mut weights, inputs) = (normals(53, 10, 70), correlated(54, 300, 70));
    weights.row_mut(3).fill(0.0);
    weights.slice_mut(s![7, 16..32]).fill(0.0);
    // Five groups a row, the last of 6: those of zeros are 6 of 50.
    for saliency in ["group", "weights"] {
        let encoding = compress(&[gqsa(4, 0.12).with("saliency", saliency)], &weights, &inputs);
        let dropped: Vec<usize> = (0..50).filter(|&i| !runs(&encoding).keep()[i]).collect();
        assert_eq!(dropped, [15, 16, 17, 18, 19, 36], "{saliency}");
        assert!(encoding.decode().row(3).iter().all(|&value| value == 0.0));
    }
}

#[test]
fn what_goes_hurts_outputs_less_than_the_smallest_groups_would() {
    let (weights, inputs) = (normals(55, 60, 128), correlated(56, 700, 128));
    for (size, share) in [(8, 0.5), (16, 0.3)] {
        let mut order: Vec<usize> = (0..weights.len() / size).collect();
        let per_row = 128 / size;
        let span = |i: usize| s![i / per_row, i % per_row * size..(i % per_row + 1) * size];
        let norm = |i: usize| weights.slice(span(i)).iter().map(|w| w * w).sum::<f32>();
        order.sort_by(|&a, &b| norm(a).total_cmp(&norm(b)));
        let mut plain = weights.clone();
        for &i in &order[..(share * order.len() as f64) as usize] {
            plain.slice_mut(span(i)).fill(0.0);
        }
        let gram = inputs.gram.as_ref().unwrap();
        let smallest = gram_weighted_error(weights.view(), plain.view(), gram).error;
        let left = |saliency: &str| {
            let step = gqsa(8, share).with("group_size", size as i64).with("saliency", saliency);
            damage(&weights, &compress(&[step], &weights, &inputs), &inputs)
        };
        let (together, alone) = (left("group"), left("weights"));
        assert!(together < 0.5 * smallest, "{together} and {smallest}");
        assert!(together < 1.02 * alone, "{together} and {alone}");
    }
}

#[test]
fn a_mask_before_it_is_refused() {
    let steps = [Step::new("magnitude"), gqsa(4, 0.5)];
    let shape = MatrixShape { rows: 4, cols: 32 };
    let error = chain_layout(&steps, shape, DType::F32).unwrap_err().sentence();
    assert!(error.contains("remove the sparsity"), "{error}");
}
