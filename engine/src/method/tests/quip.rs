//! `QuIP#`: what its codebooks leave of any independent weights, and what feedback is good for.

use super::*;

fn relative(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let off = squares(&mut weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d)));
    off / squares(&mut weights.iter().map(|&w| f64::from(w)))
}

fn quip(bits: i64) -> Step {
    Step::new("quip-sharp").with("bits", bits)
}

/// Turned, weights of any distribution are normal, so what is left is that of the codebook: 0.0919, 0.0296, 0.00971.
#[test]
fn weights_of_any_tails_leave_what_normal_ones_do() {
    let normal = normals(2, 192, 288);
    let heavy = normal.mapv(|x| x * x.abs());
    let two = normal.mapv(f32::signum);
    for (bits, known) in [(2, 0.0919), (3, 0.0296), (4, 0.00971)] {
        let step = [quip(bits).with("rounding", "nearest")];
        for (weights, what) in [(&normal, "normal"), (&heavy, "signed squares"), (&two, "signs")] {
            let found = relative(weights, &try_compress(&step, weights, None).unwrap());
            // The scale is fitted to the codes, which gains a little where there are many.
            assert!((0.95..1.03).contains(&(found / known)), "{bits} bits of {what}: {found}");
            assert!(found > (-2.0 * bits as f64).exp2(), "{bits} bits are below Shannon's bound");
        }
    }
}

#[test]
fn feedback_leaves_less_in_the_outputs_than_the_nearest_points_and_at_2_bits_than_gptq() {
    let (weights, inputs) = (normals(1, 96, 160), correlated(2, 800, 160));
    for bits in [2, 3, 4] {
        let left = |step: Step| damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
        let (fed, nearest) = (left(quip(bits)), left(quip(bits).with("rounding", "nearest")));
        assert!(fed < 0.6 * nearest, "{bits} bits: {fed} and {nearest}");
    }
    let left = |step: Step| damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
    let gptq = Step::new("gptq").with("bits", 2).with("granularity", "channel");
    let (fed, gptq) = (left(quip(2)), left(gptq.with("clipping", "mse")));
    assert!(fed < 0.9 * gptq, "{fed} and {gptq}");
}

/// With unrelated inputs of one size nothing is fed: R·H·Rᵀ = H.
#[test]
fn feedback_of_unrelated_inputs_is_the_nearest_point() {
    let weights = normals(3, 40, 64);
    let inputs = inputs_of(Array2::eye(64).view());
    let fed = compress(&[quip(2)], &weights, &inputs).decode();
    let nearest = compress(&[quip(2).with("rounding", "nearest")], &weights, &inputs).decode();
    for (fed, nearest) in fed.iter().zip(&nearest) {
        assert!((fed - nearest).abs() < 1e-5, "{fed} {nearest}");
    }
}

#[test]
fn another_seed_is_another_basis_and_the_same_is_the_same() {
    let weights = normals(5, 16, 40);
    let with = |seed: i64| {
        let step = quip(2).with("rounding", "nearest").with("seed", seed);
        try_compress(&[step], &weights, None).unwrap()
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1).decode(), with(2).decode());
}
