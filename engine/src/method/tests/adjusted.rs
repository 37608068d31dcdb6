//! AWQ and polish, and every calibrated method on every shape and content.

use ndarray::Array2;

use super::*;
use crate::encoding::{Affine, AffineData};

#[test]
fn awq_is_never_worse_than_rounding_and_spares_large_inputs() {
    let weights = normals(18, 32, 128);
    let mut x = normals(19, 500, 128);
    x.column_mut(3).iter_mut().for_each(|value| *value *= 30.0);
    x.column_mut(77).iter_mut().for_each(|value| *value *= 15.0);
    for (inputs, gain) in [(inputs_of(x.view()), 0.7), (correlated(20, 400, 128), 1.0)] {
        for clipping in ["min-max", "weighted"] {
            let error = |method: &str| {
                let step = Step::new(method).with("bits", 3).with("clipping", clipping);
                damage(&weights, &compress(&[step], &weights, &inputs), &inputs)
            };
            let [awq, nearest] = ["awq", "round-to-nearest"].map(error);
            let bound = if clipping == "min-max" { gain * nearest } else { nearest };
            assert!(awq <= bound, "{clipping}: {awq} against {nearest}");
        }
    }
}

#[test]
fn polish_never_worsens_and_ends_where_no_single_move_helps() {
    let (weights, inputs) = (normals(21, 12, 64), correlated(22, 300, 64));
    for base in ["round-to-nearest", "gptq"] {
        for symmetry in ["symmetric", "asymmetric"] {
            let quantiser = || {
                Step::new(base).with("bits", 2).with("group_size", 32).with("symmetry", symmetry)
            };
            let mut last = damage(&weights, &compress(&[quantiser()], &weights, &inputs), &inputs);
            let first = last;
            for rounds in 1..=6 {
                let steps = [quantiser(), Step::new("polish").with("rounds", rounds)];
                let polished = compress(&steps, &weights, &inputs);
                let found = damage(&weights, &polished, &inputs);
                assert!(found <= last * (1.0 + 1e-6), "{base} {rounds}: {found} after {last}");
                last = found;
            }
            assert!(last < 0.9 * first, "{base} {symmetry}: {last} of {first}");
        }
        let steps = [
            Step::new(base).with("bits", 3),
            Step::new("polish").with("what", "codes").with("rounds", 20),
        ];
        let end = compress(&steps, &weights, &inputs);
        let Encoding::Affine(affine) = &end else { panic!("grouped integers") };
        let least = damage(&weights, &end, &inputs);
        for at in (0..weights.len()).step_by(5) {
            for moved in [-1_i16, 1] {
                let mut codes = affine.codes().to_vec();
                let Ok(code) = u8::try_from(i16::from(codes[at]) + moved) else { continue };
                codes[at] = code.min(7);
                let (scales, zeros) = (affine.scales().to_vec(), affine.zeros().to_vec());
                let data = AffineData { codes, scales, zeros };
                let other = Affine::new(affine.shape(), affine.layout().clone(), data);
                let other = damage(&weights, &Encoding::Affine(other), &inputs);
                assert!(other >= least * (1.0 - 1e-9), "{other} under {least}");
            }
        }
    }
}

#[test]
fn polished_scales_of_unrelated_inputs_are_those_of_a_regression() {
    let weights = normals(23, 6, 40);
    let x = Array2::<f32>::eye(40);
    let inputs = inputs_of(x.view());
    let quantiser = Step::new("round-to-nearest").with("bits", 3).with("granularity", "channel");
    let polish = Step::new("polish").with("what", "scales").with("rounds", 1);
    let Encoding::Affine(affine) = compress(&[quantiser, polish], &weights, &inputs) else {
        panic!("grouped integers")
    };
    for row in 0..6 {
        let codes = affine.codes()[row * 40..(row + 1) * 40].iter().map(|&c| f64::from(c) - 4.0);
        let codes: Vec<f64> = codes.collect();
        let dot: f64 = codes.iter().zip(weights.row(row)).map(|(c, w)| c * f64::from(*w)).sum();
        let best = dot / codes.iter().map(|c| c * c).sum::<f64>();
        let off = (f64::from(affine.scales()[row]) / best - 1.0).abs();
        assert!(off < 1e-3, "{} for {best}", affine.scales()[row]);
    }
}

/// Every method that needs data, and a few of their parameters.
fn chains() -> Vec<Vec<Step>> {
    let mut chains: Vec<Vec<Step>> = vec![
        vec![Step::new("round-to-nearest").with("clipping", "weighted")],
        vec![Step::new("low-rank").with("nearest", "outputs")],
        vec![Step::new("gptq").with("bits", 2).with("order", "columns").with("group_size", 17)],
        vec![Step::new("gptq").with("granularity", "tensor").with("symmetry", "asymmetric")],
        vec![Step::new("sparsegpt").with("pattern", "n-of-m").with("n", 3).with("m", 5)],
        vec![Step::new("sparsegpt"), Step::new("gptq")],
        vec![
            Step::new("gptq"),
            Step::new("sparse-outliers").with("nearest", "outputs").with("share", 0.1),
        ],
        vec![Step::new("aqlm").with("nearest", "weights"), Step::new("polish")],
        vec![Step::new("aqlm").with("rounds", 2), Step::new("polish").with("what", "scales")],
        vec![Step::new("magnitude"), Step::new("aqlm").with("rounds", 1), Step::new("polish")],
        vec![Step::new("vector-quantisation").with("books", "own"), Step::new("polish")],
        vec![
            Step::new("vector-quantisation").with("run", 16384).with("scales", "none"),
            Step::new("polish").with("rounds", 1),
        ],
        vec![Step::new("nf4"), Step::new("eora").with("rank", 2), Step::new("sparse-outliers")],
        vec![
            Step::new("nf4"),
            Step::new("eora").with("factors", "integers").with("factor_bits", 3),
        ],
    ];
    let calibrated = METHODS.iter().map(|m| m.about()).filter(|a| a.needs != Needs::Weights);
    // What refines stands behind sums of entries alone.
    for method in calibrated.filter(|about| about.stage != Stage::Refine) {
        let mut steps = vec![Step::new(method.id)];
        if method.stage > Stage::Quantise {
            steps.insert(0, Step::new("round-to-nearest").with("bits", 3));
        }
        chains.push(steps);
    }
    chains
}

#[test]
fn every_calibrated_method_takes_every_shape_and_content_on_any_number_of_threads() {
    let chains = chains();
    for (rows, cols) in [(1, 1), (1, 300), (150, 1), (7, 172), (0, 5), (5, 0), (0, 0)] {
        let mut x = normals(24, 90, cols);
        if cols > 2 {
            x.column_mut(cols / 2).fill(0.0);
        }
        let inputs = inputs_of(x.view());
        let mut spike = Array2::from_elem((rows, cols), 0.001);
        spike.iter_mut().take(1).for_each(|value| *value = 1000.0);
        let contents = [
            normals(25, rows, cols),
            Array2::zeros((rows, cols)),
            Array2::from_elem((rows, cols), -0.75),
            spike,
        ];
        for (steps, weights) in chains.iter().flat_map(|c| contents.iter().map(move |w| (c, w))) {
            let what = format!("{} of {rows} × {cols}", chain_label(steps));
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| compress(steps, weights, &inputs))
            };
            let encoding = on(1);
            let shape = encoding.shape();
            assert_eq!(encoding, on(3), "{what}");
            assert_eq!(
                chain_layout(steps, shape, DType::F32).unwrap(),
                encoding.layout(),
                "{what}"
            );
            assert_eq!(encoding.layout().bytes(shape), encoding.bytes(), "{what}");
            let decoded = encoding.decode();
            assert!(decoded.iter().all(|value| value.is_finite()), "{what}");
            let is_zero = weights.iter().all(|&weight| weight == 0.0);
            assert!(!is_zero || decoded.iter().all(|&value| value == 0.0), "{what}");
        }
    }
}
