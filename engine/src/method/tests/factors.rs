//! Products whose factors are grouped integers, beside those of whole numbers.

use super::*;
use crate::tensor::MatrixShape;

fn integers(step: Step, bits: i64) -> Step {
    step.with("factors", "integers").with("factor_bits", bits).with("factor_group", 32)
}

#[test]
fn integers_lose_little_at_eight_bits_and_win_by_rank_at_four() {
    // Singular values that fall slowly, as those of weights do.
    let (weights, inputs) = (normals(41, 120, 160), correlated(42, 600, 160));
    let shape = MatrixShape { rows: 120, cols: 160 };
    let chain = |correction: Step| {
        vec![Step::new("round-to-nearest").with("bits", 3).with("group_size", 32), correction]
    };
    let error = |steps: &[Step]| damage(&weights, &compress(steps, &weights, &inputs), &inputs);
    let bytes = |steps: &[Step]| chain_layout(steps, shape, DType::BF16).unwrap().bytes(shape);
    let plain = chain(Step::new("eora").with("rank", 8));
    let eight = chain(integers(Step::new("eora").with("rank", 8), 8));
    let four = chain(integers(Step::new("eora").with("rank", 24), 4));
    let [plain_error, eight_error, four_error] = [&plain, &eight, &four].map(|s| error(s));
    assert!(eight_error < 1.002 * plain_error, "{eight_error} where {plain_error} is left");
    assert!(bytes(&eight) < bytes(&plain) && bytes(&four) < bytes(&plain));
    assert!(four_error < 0.8 * plain_error, "{four_error} where {plain_error} is left");
    assert_eq!(chain_label(&four[1..]), "+ rank 24 of 4-bit g32");
}

#[test]
fn a_product_of_integers_leaves_the_tail_and_its_rounding() {
    for nearest in ["weights", "outputs"] {
        let (weights, inputs) = (normals(43, 60, 90), correlated(44, 300, 90));
        let step = || Step::new("low-rank").with("nearest", nearest).with("rank", 20);
        let error = |step: Step| damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
        let whole = error(step());
        let mut last = f64::INFINITY;
        for bits in [2, 3, 4, 6, 8] {
            let found = error(integers(step(), bits));
            assert!(found < last, "{bits} bits: {found} after {last}");
            last = found;
        }
        assert!(last < 1.005 * whole, "{nearest}: {last} where {whole} is left");
        // To half a bit: as large as said.
        let layout = compress(&[integers(step(), 4)], &weights, &inputs).layout();
        let shape = MatrixShape { rows: 60, cols: 90 };
        assert_eq!(layout.bytes(shape), 60 * 20 / 2 + 60 * 4 + 20 * 90 / 2 + 20 * 3 * 4);
    }
}

#[test]
fn a_correction_of_integers_is_never_worse_than_none() {
    for seed in 45..50 {
        let (weights, inputs) = (normals(seed, 40, 96), correlated(seed + 9, 300, 96));
        for base in ["gptq", "keep-a-half", "nf4"] {
            let base = match base {
                "keep-a-half" => Step::new("magnitude"),
                other => Step::new(other),
            };
            let alone = damage(
                &weights,
                &compress(std::slice::from_ref(&base), &weights, &inputs),
                &inputs,
            );
            for bits in [2, 3, 4] {
                let steps = [base.clone(), integers(Step::new("eora").with("rank", 3), bits)];
                let found = damage(&weights, &compress(&steps, &weights, &inputs), &inputs);
                assert!(found <= alone, "{base:?} {bits}: {found} where {alone} was");
            }
        }
    }
    // Nothing to make good: zeros stay zeros.
    let (weights, inputs) = (Array2::zeros((4, 40)), correlated(1, 60, 40));
    let steps = [Step::new("nf4"), integers(Step::new("eora").with("rank", 3), 4)];
    assert!(compress(&steps, &weights, &inputs).decode().iter().all(|&value| value == 0.0));
}
