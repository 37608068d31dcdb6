//! Polished sums of codebook entries: what each round leaves, what stays, and normal equations.

use super::*;
use crate::encoding::Additive;

/// Codes into codebooks, under a mask or not.
fn additive(encoding: &Encoding) -> &Additive {
    match encoding {
        Encoding::Additive(additive) => additive,
        Encoding::Sparse(sparse) => additive(sparse.inner()),
        other => panic!("{:?}", other.layout()),
    }
}

fn aqlm(nearest: &str) -> Step {
    let step = Step::new("aqlm").with("codebooks", 2).with("code_bits", 4);
    step.with("run", 4).with("nearest", nearest)
}

fn vectors() -> Step {
    Step::new("vector-quantisation").with("code_bits", 4).with("run", 4)
}

fn polish(what: &str, rounds: i64) -> Step {
    Step::new("polish").with("what", what).with("rounds", rounds)
}

/// A hundredth of the mean of the diagonal of H.
fn damping(inputs: &LayerInputs) -> f64 {
    let diagonal = inputs.gram.as_ref().unwrap().diagonal();
    let alive = diagonal.iter().filter(|&&square| square > 0.0).count();
    0.01 * diagonal.iter().sum::<f64>() / alive as f64
}

/// tr((W − Ŵ)·(H + d·I)·(W − Ŵ)ᵀ) over all tokens.
fn objective(weights: &Array2<f32>, encoding: &Encoding, inputs: &LayerInputs) -> f64 {
    let decoded = encoding.decode();
    let off: f64 = weights.iter().zip(&decoded).map(|(w, d)| f64::from(w - d).powi(2)).sum();
    damage(weights, encoding, inputs) + damping(inputs) * off
}

#[test]
fn polished_sums_are_never_worse_round_by_round_and_outputs_are_nearer() {
    let (weights, inputs) = (normals(71, 48, 64), correlated(72, 400, 64));
    let bases = [
        aqlm("weights"),
        vectors().with("stages", 2),
        vectors().with("scales", "none"),
        vectors().with("books", "own"),
    ];
    for quantiser in bases {
        for mask in [None, Some(Step::new("magnitude").with("fraction", 0.4))] {
            let base: Vec<Step> = mask.iter().cloned().chain([quantiser.clone()]).collect();
            let plain = compress(&base, &weights, &inputs);
            let first = damage(&weights, &plain, &inputs);
            let mut last = objective(&weights, &plain, &inputs);
            for rounds in 1..=5 {
                let steps = [base.clone(), vec![polish("both", rounds)]].concat();
                let polished = compress(&steps, &weights, &inputs);
                let found = objective(&weights, &polished, &inputs);
                assert!(found <= last * (1.0 + 1e-6), "{base:?} {rounds}: {found} after {last}");
                last = found;
                assert_eq!(polished.layout(), plain.layout());
                if let (Encoding::Sparse(a), Encoding::Sparse(b)) = (&plain, &polished) {
                    assert_eq!(a.mask(), b.mask());
                    let decoded = polished.decode();
                    let mut values = decoded.iter().enumerate();
                    assert!(values.all(|(i, &value)| b.mask().keeps(i) || value == 0.0));
                }
                let left = damage(&weights, &polished, &inputs);
                assert!(rounds < 5 || left < 0.25 * first, "{base:?}: {left} of {first}");
            }
        }
    }
}

#[test]
fn what_does_not_move_is_the_same_to_the_bit() {
    let (weights, inputs) = (normals(73, 40, 48), correlated(74, 300, 48));
    for base in [aqlm("weights"), vectors(), vectors().with("books", "own")] {
        let plain = compress(std::slice::from_ref(&base), &weights, &inputs);
        let left = |encoding: &Encoding| objective(&weights, encoding, &inputs);
        let of = |what: &str| compress(&[base.clone(), polish(what, 3)], &weights, &inputs);
        let (codes, scales, both) = (of("codes"), of("scales"), of("both"));
        let before = additive(&plain);
        assert_eq!(additive(&codes).values(), before.values(), "{base:?}");
        assert_eq!(additive(&codes).scales(), before.scales(), "{base:?}");
        assert_ne!(additive(&codes).codes(), before.codes(), "{base:?}");
        assert_eq!(additive(&scales).codes(), before.codes(), "{base:?}");
        assert_ne!(additive(&scales).values(), before.values(), "{base:?}");
        for alone in [&codes, &scales] {
            assert!(left(alone) < 0.99 * left(&plain), "{base:?}");
            assert!(left(&both) < left(alone), "{base:?}");
        }
    }
}

/// Σ over the places of an entry that no mask drops of ((W − Ŵ)·(H + d·I))ᵢ = 0 where entries are at their best.
#[test]
fn entries_at_rest_are_those_of_the_normal_equations() {
    let (weights, inputs) = (normals(75, 30, 24), correlated(76, 300, 24));
    let (gram, d) = (inputs.gram.as_ref().unwrap(), damping(&inputs));
    let gradient = |encoding: &Encoding| -> f64 {
        let (found, left) = (additive(encoding), &weights - &encoding.decode());
        let is_kept = |at: usize| match encoding {
            Encoding::Sparse(sparse) => sparse.mask().keeps(at),
            _ => true,
        };
        let mut sums = vec![0.0; found.values().len()];
        for (row, i) in (0..30 * 24).filter(|&at| is_kept(at)).map(|at| (at / 24, at % 24)) {
            let carried = (0..24).map(|j| f64::from(left[[row, j]]) * gram.get(i, j)).sum::<f64>();
            let code = found.codes()[row * 6 + i / 4] as usize;
            sums[code * 4 + i % 4] += carried + d * f64::from(left[[row, i]]);
        }
        sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt()
    };
    for mask in [None, Some(Step::new("magnitude").with("fraction", 0.3))] {
        let quantiser = vectors().with("scales", "none");
        let base: Vec<Step> = mask.into_iter().chain([quantiser]).collect();
        let before = gradient(&compress(&base, &weights, &inputs));
        let steps = [base, vec![polish("scales", 20)]].concat();
        let after = gradient(&compress(&steps, &weights, &inputs));
        assert!(after < 1e-3 * before, "{after} of {before}");
    }
}

/// Where AQLM by outputs ends little is left to gain; without data most of what it gains is found behind it.
#[test]
fn what_was_made_by_outputs_is_nearly_at_rest() {
    let (weights, inputs) = (normals(77, 96, 96), correlated(78, 500, 96));
    let left = |steps: &[Step]| objective(&weights, &compress(steps, &weights, &inputs), &inputs);
    let (plain, outputs) = (left(&[aqlm("weights")]), left(&[aqlm("outputs")]));
    let again = left(&[aqlm("outputs"), polish("both", 3)]);
    assert!(again <= outputs * (1.0 + 1e-6) && again > 0.99 * outputs, "{again} of {outputs}");
    let polished = left(&[aqlm("weights"), polish("both", 16)]);
    assert!(polished < 1.1 * outputs && polished < 0.5 * plain, "{polished}, {outputs}, {plain}");
}

/// An entry for each row: there is no block of H for codes of so many inputs, which stay.
#[test]
fn codes_of_long_runs_stay_and_their_scales_move() {
    let (weights, inputs) = (normals(79, 40, 80), correlated(80, 300, 80));
    let rows = vectors().with("code_bits", 3).with("run", 16384);
    let before = compress(std::slice::from_ref(&rows), &weights, &inputs);
    let after = compress(&[rows.clone(), polish("both", 3)], &weights, &inputs);
    assert_eq!(additive(&before).codes(), additive(&after).codes());
    let [before, after] = [before, after].map(|e| objective(&weights, &e, &inputs));
    assert!(after < 0.99 * before, "{after} of {before}");
}

#[test]
fn points_in_a_basis_are_refused_with_a_mend() {
    let (weights, inputs) = (normals(81, 8, 16), correlated(82, 60, 16));
    let steps = [vectors().with("books", "factored").with("dims", 2), polish("both", 1)];
    let error = try_compress(&steps, &weights, Some(&inputs)).unwrap_err().sentence();
    assert!(error.contains("codes into codebooks") && error.contains("put one before"), "{error}");
}

#[test]
fn rounds_are_told_and_a_cancelled_polish_is_nothing() {
    let (weights, inputs) = (normals(83, 40, 64), correlated(84, 300, 64));
    let base = compress(&[aqlm("weights")], &weights, &inputs);
    let told = |most: usize| {
        let told = Told { shares: Mutex::new(Vec::new()), most };
        let task = Task {
            tensor: "layer.weight",
            weights: weights.view(),
            dtype: DType::F32,
            previous: Some(base.clone()),
            fused_peak: None,
            inputs: Some(&inputs),
            observer: &told,
        };
        let step = polish("both", 4);
        let method = find(&step.method).unwrap();
        let found = method.compress(&method.about().resolve(&step.parameters).unwrap(), task);
        (found, told.shares.into_inner().expect("nobody panics"))
    };
    let (found, shares) = told(usize::MAX);
    assert!(found.is_ok());
    assert_eq!(shares, [0.0, 0.25, 0.5, 0.75]);
    for most in 0..3 {
        assert!(matches!(told(most).0, Err(Error::Cancelled)));
    }
}
