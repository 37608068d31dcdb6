//! AQLM: what its codes leave, with data and without.

use super::*;
use crate::tensor::MatrixShape;

fn aqlm(codebooks: i64, bits: i64) -> Step {
    Step::new("aqlm").with("codebooks", codebooks).with("code_bits", bits)
}

fn relative(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let off: f64 =
        weights.iter().zip(&encoding.decode()).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
    off / weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
}

/// Bits a weight, codebooks and scales counted.
fn true_bits(encoding: &Encoding) -> f64 {
    encoding.bytes() as f64 * 8.0 / encoding.shape().elements() as f64
}

/// No code of normal values leaves less than 2^(−2·bits), at small codebooks and at such that cost more than the codes.
#[test]
fn normal_weights_are_never_below_shannon_when_codebooks_count() {
    let weights = normals(21, 128, 256);
    for (codebooks, bits, run) in [(4, 4, 8), (2, 8, 8), (1, 10, 8), (1, 4, 2), (3, 5, 16)] {
        let step = aqlm(codebooks, bits).with("run", run).with("nearest", "weights");
        let encoding = try_compress(&[step], &weights, None).unwrap();
        let (found, bound) = (relative(&weights, &encoding), (-2.0 * true_bits(&encoding)).exp2());
        assert!(found > 0.98 * bound, "{codebooks}×{bits}g{run}: {found} below {bound}");
    }
}

/// One codebook of single inputs is a scalar quantiser: 0.1175, 0.0345 and 0.0095 of normal values.
#[test]
fn single_inputs_leave_what_lloyd_and_max_do() {
    let weights = normals(22, 200, 300);
    for (bits, known) in [(2, 0.1175), (3, 0.0345), (4, 0.0095)] {
        let step = aqlm(1, bits).with("run", 1).with("nearest", "weights");
        let step = step.with("rounds", 100);
        let found = relative(&weights, &try_compress(&[step], &weights, None).unwrap());
        assert!((0.95..1.05).contains(&(found / known)), "{bits} bits: {found} for {known}");
    }
}

#[test]
fn outputs_are_nearer_than_with_gptq_of_as_many_bits() {
    let (weights, inputs) = (normals(23, 256, 256), correlated(24, 1200, 256));
    let left = |steps: &[Step]| {
        let encoding = compress(steps, &weights, &inputs);
        (damage(&weights, &encoding, &inputs), true_bits(&encoding))
    };
    let gptq = Step::new("gptq").with("bits", 2).with("group_size", 64);
    let (gptq, gptq_bits) = left(&[gptq.with("clipping", "weighted")]);
    let (quip, _) = left(&[Step::new("quip-sharp")]);
    let (found, bits) = left(&[aqlm(4, 4)]);
    assert!(bits < gptq_bits + 0.2, "{bits} and {gptq_bits}");
    assert!(found < 0.6 * gptq && found < quip, "{found}, GPTQ {gptq}, QuIP# {quip}");
    let (weights_alone, _) = left(&[aqlm(4, 4).with("nearest", "weights")]);
    assert!(found < 0.5 * weights_alone, "{found} and {weights_alone} without data");
    let (more, _) = left(&[aqlm(4, 4).with("beam", 1).with("rounds", 1)]);
    assert!(found < 0.95 * more, "{found}, and {more} in a round without a beam");
}

/// The entries are the weights themselves where there are no more runs than entries.
#[test]
fn fewer_runs_than_entries_leave_nothing_but_rounding() {
    for (rows, cols) in [(1, 40), (3, 21), (1, 1), (20, 3)] {
        let weights = normals(25, rows, cols);
        let inputs = correlated(26, 3 * cols + 5, cols);
        for step in [aqlm(1, 8), aqlm(1, 8).with("nearest", "weights")] {
            let encoding = compress(&[step], &weights, &inputs);
            assert!(relative(&weights, &encoding) < 1e-5, "{rows} × {cols}");
        }
    }
}

#[test]
fn too_many_entries_to_search_together_are_refused_with_a_mend() {
    let shape = MatrixShape { rows: 64, cols: 64 };
    let error = chain_layout(&[aqlm(2, 12)], shape, DType::BF16).unwrap_err().sentence();
    assert!(error.contains("2 codebooks of 12 bits") && error.contains("fewer bits"), "{error}");
    assert!(chain_layout(&[aqlm(1, 12)], shape, DType::BF16).is_ok());
    assert!(chain_layout(&[aqlm(4, 10)], shape, DType::BF16).is_ok());
    // 512 vectors have no use for more entries.
    let Layout::Additive(layout) = chain_layout(&[aqlm(1, 12)], shape, DType::BF16).unwrap() else {
        panic!("additive codes")
    };
    assert_eq!(layout.bits, 9);
}

#[test]
fn progress_is_told_within_a_layer_and_a_cancelled_layer_is_nothing() {
    let (weights, inputs) = (normals(29, 40, 64), correlated(30, 300, 64));
    for step in [aqlm(2, 4), Step::new("vector-quantisation").with("books", "own")] {
        let told = |most: usize| {
            let told = Told { shares: Mutex::new(Vec::new()), most };
            let task = Task {
                tensor: "layer.weight",
                weights: weights.view(),
                dtype: DType::F32,
                previous: None,
                fused_peak: None,
                inputs: Some(&inputs),
                observer: &told,
            };
            let found = run_chain(std::slice::from_ref(&step), &task);
            (found, told.shares.into_inner().expect("nobody panics"))
        };
        let (found, shares) = told(usize::MAX);
        assert!(found.is_ok() && shares.len() > 3, "{shares:?}");
        assert!(shares.iter().all(|share| (0.0..1.0).contains(share)), "{shares:?}");
        let (stopped, _) = told(1);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    }
}

#[test]
fn what_a_mask_drops_stays_zero() {
    let (weights, inputs) = (normals(27, 24, 64), correlated(28, 300, 64));
    let steps = [Step::new("magnitude").with("fraction", 0.5), aqlm(2, 6)];
    let decoded = compress(&steps, &weights, &inputs).decode();
    assert_eq!(decoded.iter().filter(|&&value| value == 0.0).count(), 24 * 32);
}
