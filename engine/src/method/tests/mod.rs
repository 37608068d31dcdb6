//! The calibrated methods against plain loops, closed forms and each other.

mod adjusted;
mod aqlm;
mod blocks;
mod ccq;
mod centred;
mod coded;
mod dictionary;
mod factors;
mod gqsa;
mod higgs;
mod mixllm;
mod outliers;
mod polish;
mod quip;
mod remapped;
mod rounding;
mod seedlm;
mod signs;
mod spqr;
mod sums;
mod train;
mod vector;

use std::sync::Mutex;

use ndarray::{Array2, ArrayView2, s};

use super::*;
use crate::numeric::gram::Gram;
use crate::numeric::seeds::Random;
use crate::numeric::weighted::{gram_weighted_error, whitened_singular_values};
use crate::observer::Silent;

/// Remembers the shares that were told, and says no after so many.
struct Told {
    shares: Mutex<Vec<f64>>,
    most: usize,
}

impl Observer for Told {
    fn within(&self, share: f64) {
        self.shares.lock().expect("nobody panics").push(share);
    }

    fn is_cancelled(&self) -> bool {
        self.shares.lock().expect("nobody panics").len() > self.most
    }
}

fn normals(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
}

/// Inputs of which neighbours are alike, with channels of very different size.
fn correlated(seed: u64, tokens: usize, channels: usize) -> LayerInputs {
    let mut x = normals(seed, tokens, channels);
    for j in 1..channels {
        let (left, mut right) = x.multi_slice_mut((s![.., j - 1], s![.., j]));
        right.scaled_add(0.9, &left);
    }
    for (j, mut column) in x.columns_mut().into_iter().enumerate() {
        column *= 0.2 + (j * 13 % 7) as f32;
    }
    inputs_of(x.view())
}

fn inputs_of(x: ArrayView2<'_, f32>) -> LayerInputs {
    let mut gram = Gram::new(x.ncols());
    gram.add(x);
    LayerInputs::of_gram(gram)
}

/// Inputs of independent channels: H is diagonal to the last bit.
fn uncorrelated(channels: usize) -> LayerInputs {
    let x = Array2::from_shape_fn((channels, channels), |(t, j)| {
        if t == j { 1.0 + (j * 5 % 11) as f32 } else { 0.0 }
    });
    inputs_of(x.view())
}

fn compress(steps: &[Step], weights: &Array2<f32>, inputs: &LayerInputs) -> Encoding {
    try_compress(steps, weights, Some(inputs)).unwrap()
}

/// Of weights alone.
fn plain_task(weights: &Array2<f32>) -> Task<'_> {
    Task {
        tensor: "layer.weight",
        weights: weights.view(),
        dtype: DType::F32,
        previous: None,
        fused_peak: None,
        inputs: None,
        observer: &Silent,
    }
}

fn try_compress(
    steps: &[Step],
    weights: &Array2<f32>,
    inputs: Option<&LayerInputs>,
) -> Result<Encoding> {
    run_chain(steps, &Task { inputs, ..plain_task(weights) })
}

/// Σ over tokens of ‖(W − Ŵ)·x‖².
fn damage(weights: &Array2<f32>, encoding: &Encoding, inputs: &LayerInputs) -> f64 {
    let gram = inputs.gram.as_ref().unwrap();
    gram_weighted_error(weights.view(), encoding.decode().view(), gram).error
}

/// (H + d·I)⁻¹ by Gauss and Jordan, then its upper Cholesky factor, in plain loops; `order` as in the method.
fn plain_factor(inputs: &LayerInputs, order: &[usize], damping: f64) -> Vec<Vec<f64>> {
    let gram = inputs.gram.as_ref().unwrap();
    let (n, tokens) = (order.len(), gram.tokens() as f64);
    let mean = gram.diagonal().iter().sum::<f64>() / tokens / n as f64;
    let mut a = vec![vec![0.0; 2 * n]; n];
    for i in 0..n {
        for j in 0..n {
            a[i][j] = gram.get(order[i], order[j]) / tokens;
        }
        a[i][i] += damping * mean;
        a[i][n + i] = 1.0;
    }
    for k in 0..n {
        let pivot = a[k][k];
        a[k].iter_mut().for_each(|value| *value /= pivot);
        let row = a[k].clone();
        for (i, other) in a.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let factor = other[k];
            assert!(i != k);
            other.iter_mut().zip(&row).for_each(|(value, top)| *value -= factor * top);
        }
    }
    // H⁻¹ = Uᵀ·U, row by row.
    let mut u = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in i..n {
            let sum: f64 = (0..i).map(|k| u[k][i] * u[k][j]).sum();
            let left = a[i][n + j] - sum;
            u[i][j] = if i == j { left.sqrt() } else { left / u[i][i] };
        }
    }
    u
}

#[test]
fn gptq_is_that_of_plain_loops() {
    let (rows, cols) = (9, 70);
    let (weights, inputs) = (normals(1, rows, cols), correlated(2, 300, cols));
    let diagonal = inputs.gram.as_ref().unwrap().diagonal();
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    let u = plain_factor(&inputs, &order, 0.01);
    let rounded =
        compress(&[Step::new("round-to-nearest").with("group_size", 32)], &weights, &inputs);
    let Encoding::Affine(grid) = rounded else { panic!("grouped integers") };
    let step = Step::new("gptq").with("group_size", 32);
    let found = compress(&[step], &weights, &inputs).decode();
    for row in 0..rows {
        let mut w: Vec<f64> = order.iter().map(|&j| f64::from(weights[[row, j]])).collect();
        for i in 0..cols {
            let scale = f64::from(grid.scales()[row * 3 + order[i] / 32]);
            let level = scale * (w[i] / scale).round_ties_even().clamp(-8.0, 7.0);
            let error = (w[i] - level) / u[i][i];
            for j in i..cols {
                w[j] -= error * u[i][j];
            }
            assert!((f64::from(found[[row, order[i]]]) - level).abs() < 1e-5, "[{row}, {i}]");
        }
    }
}

#[test]
fn gptq_of_unrelated_inputs_is_round_to_nearest() {
    let (weights, inputs) = (normals(3, 20, 150), uncorrelated(150));
    for (order, clipping) in
        [("activation", "mse"), ("columns", "min-max"), ("columns", "weighted")]
    {
        let with = |method: &str| {
            Step::new(method).with("clipping", clipping).with("group_size", 48).with("bits", 3)
        };
        let nearest = compress(&[with("round-to-nearest")], &weights, &inputs);
        assert_eq!(compress(&[with("gptq").with("order", order)], &weights, &inputs), nearest);
    }
}

#[test]
fn gptq_hurts_outputs_less_than_rounding_and_rounds_dead_inputs_to_nearest() {
    let (weights, mut x) = (normals(4, 40, 200), normals(5, 600, 200));
    for j in 1..200 {
        let (left, mut right) = x.multi_slice_mut((s![.., j - 1], s![.., j]));
        right.scaled_add(0.8, &left);
    }
    x.column_mut(17).fill(0.0);
    x.column_mut(130).fill(0.0);
    let inputs = inputs_of(x.view());
    for bits in [2, 3, 4] {
        for group in [64, 128] {
            let with =
                |method: &str| Step::new(method).with("bits", bits).with("group_size", group);
            let nearest = compress(&[with("round-to-nearest")], &weights, &inputs);
            let walked = |order: &str| {
                let walked = compress(&[with("gptq").with("order", order)], &weights, &inputs);
                let [ours, theirs] = [&walked, &nearest].map(|e| damage(&weights, e, &inputs));
                assert!(ours < 0.7 * theirs, "{bits} bits: {ours} against {theirs}");
                walked
            };
            walked("columns");
            let walked = walked("activation").decode();
            for dead in [17, 130] {
                assert_eq!(walked.column(dead), nearest.decode().column(dead));
            }
        }
    }
}

#[test]
fn gptq_under_a_mask_keeps_its_zeros_and_makes_them_good() {
    let (weights, inputs) = (normals(6, 30, 96), correlated(7, 400, 96));
    let mask = Step::new("magnitude").with("fraction", 0.4);
    let with = |method: &str| vec![mask.clone(), Step::new(method).with("group_size", 32)];
    let nearest = compress(&with("round-to-nearest"), &weights, &inputs);
    let walked = compress(&with("gptq"), &weights, &inputs);
    let (Encoding::Sparse(a), Encoding::Sparse(b)) = (&nearest, &walked) else { panic!("masks") };
    assert_eq!(a.mask(), b.mask());
    assert!(damage(&weights, &walked, &inputs) < 0.5 * damage(&weights, &nearest, &inputs));
}

#[test]
fn weighted_clipping_is_never_worse_where_it_is_measured() {
    for seed in 0..5 {
        let (weights, inputs) = (normals(seed, 16, 128), correlated(seed + 9, 200, 128));
        let error = |clipping: &str| {
            let step = Step::new("round-to-nearest").with("bits", 3).with("clipping", clipping);
            let decoded = compress(&[step], &weights, &inputs).decode();
            let squares = weights.rows().into_iter().zip(decoded.rows()).flat_map(|(w, d)| {
                let terms = w.iter().zip(d.to_vec()).zip(&inputs.mean_square);
                let terms = terms.map(|((w, d), h)| f64::from(w - d).powi(2) * f64::from(*h));
                terms.collect::<Vec<_>>()
            });
            squares.sum::<f64>()
        };
        assert!(error("weighted") <= error("min-max"), "{seed}");
        assert!(error("weighted") < error("mse"), "{seed}: of little use");
    }
}

#[test]
fn what_is_not_there_is_refused_by_name_with_a_mend() {
    let weights = normals(1, 4, 32);
    let moments = LayerInputs { gram: None, ..correlated(1, 50, 32) };
    let other = correlated(1, 50, 31);
    let none = inputs_of(Array2::zeros((0, 32)).view());
    let mut said = 0;
    // What refines needs what enters its block, for which a job asks.
    let alone = METHODS.iter().filter(|m| m.about().stage != Stage::Refine);
    for method in alone.filter(|m| m.about().needs != Needs::Weights) {
        let about = method.about();
        let mut steps = vec![Step::new(about.id)];
        if about.stage > Stage::Quantise {
            steps.insert(0, Step::new("round-to-nearest"));
        }
        let sentence = |inputs: Option<&LayerInputs>| {
            try_compress(&steps, &weights, inputs).unwrap_err().sentence()
        };
        let without = sentence(None);
        assert!(
            without.contains("layer.weight") && without.contains("calibrate first"),
            "{without}"
        );
        assert!(sentence(Some(&other)).contains("31"), "{}", about.id);
        assert!(sentence(Some(&none)).contains("no token"), "{}", about.id);
        if about.needs == Needs::Gram {
            assert!(sentence(Some(&moments)).contains("did not keep"), "{}", about.id);
        }
        said += 1;
    }
    assert!(said > 0);
}

/// `SparseGPT` of a row by plain loops, keeping `n` of `m`; `u` is the factor of the inverse.
fn sparse_row(row: &[f32], u: &[Vec<f64>], (n, m): (usize, usize)) -> Vec<f64> {
    let cols = row.len();
    let mut w: Vec<f64> = row.iter().map(|&w| f64::from(w)).collect();
    let mut keep = vec![true; cols];
    for i in 0..cols {
        if i % m == 0 {
            let run = (cols - i).min(m);
            let mut order: Vec<usize> = (i..i + run).collect();
            let cost = |&at: &usize| (w[at] / u[at][at]).abs();
            order.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
            let dropped = run - (n * run).div_ceil(m);
            order[..dropped].iter().for_each(|&at| keep[at] = false);
        }
        if !keep[i] {
            let error = w[i] / u[i][i];
            for j in i..cols {
                w[j] -= error * u[i][j];
            }
            w[i] = 0.0;
        }
    }
    w
}

#[test]
fn sparsegpt_is_that_of_plain_loops() {
    let (rows, cols) = (7, 60);
    let (weights, inputs) = (normals(8, rows, cols), correlated(9, 300, cols));
    let u = plain_factor(&inputs, &(0..cols).collect::<Vec<_>>(), 0.01);
    let step = |pattern: &str| Step::new("sparsegpt").with("pattern", pattern);
    for (n, m) in [(2, 4), (5, 8), (1, 7)] {
        let step = step("n-of-m").with("n", n as i64).with("m", m as i64);
        let found = compress(&[step], &weights, &inputs).decode();
        for (row, found) in weights.rows().into_iter().zip(found.rows()) {
            let plain = sparse_row(&row.to_vec(), &u, (n, m));
            for (found, plain) in found.iter().zip(plain) {
                assert!((f64::from(*found) - plain).abs() < 1e-5, "{found}, not {plain}: {n}:{m}");
            }
        }
    }
}

#[test]
fn pruners_that_know_the_inputs_hurt_outputs_less() {
    let (weights, inputs) = (normals(10, 40, 200), correlated(11, 800, 200));
    let patterns = [
        vec![("pattern", Value::from("fraction")), ("fraction", Value::from(0.5))],
        vec![("pattern", Value::from("n-of-m")), ("n", Value::from(2)), ("m", Value::from(4))],
        vec![("pattern", Value::from("n-of-m")), ("n", Value::from(3)), ("m", Value::from(7))],
    ];
    for pattern in patterns {
        let with = |method: &str| {
            let step = Step::new(method);
            pattern.iter().fold(step, |step, (name, value)| step.with(name, value.clone()))
        };
        let error = |method: &str| {
            let encoding = compress(&[with(method)], &weights, &inputs);
            damage(&weights, &encoding, &inputs)
        };
        let [magnitude, wanda, sparsegpt] = ["magnitude", "wanda", "sparsegpt"].map(error);
        assert!(wanda < 0.8 * magnitude, "{wanda} against {magnitude}");
        assert!(sparsegpt < 0.5 * wanda, "{sparsegpt} against {wanda}");
    }
}

#[test]
fn wanda_of_equal_inputs_drops_the_smallest_of_each_row() {
    let weights = ndarray::array![[3.0_f32, -1.0, 2.0, 0.5], [0.1, 0.2, -0.3, 0.4]];
    let x = Array2::<f32>::eye(4);
    let found = compress(&[Step::new("wanda")], &weights, &inputs_of(x.view())).decode();
    assert_eq!(found, ndarray::array![[3.0, 0.0, 2.0, 0.0], [0.0, 0.0, -0.3, 0.4]]);
    let mut x = x;
    x.column_mut(3).fill(10.0);
    let found = compress(&[Step::new("wanda")], &weights, &inputs_of(x.view())).decode();
    assert_eq!(found.row(0).to_vec(), [3.0, 0.0, 0.0, 0.5], "a large input counts");
}

/// Σ_{i ≥ rank} σᵢ² of D·H^½ over all tokens.
fn tail(d: &Array2<f32>, inputs: &LayerInputs, rank: usize) -> f64 {
    let gram = inputs.gram.as_ref().unwrap();
    let values = whitened_singular_values(d.view(), gram, &|| false).unwrap();
    values[rank..].iter().map(|value| value * value).sum::<f64>() * gram.tokens() as f64
}

#[test]
fn a_whitened_product_leaves_the_discarded_tail() {
    for (rows, cols) in [(30, 50), (50, 30), (450, 40)] {
        let (weights, inputs) = (normals(12, rows, cols), correlated(13, 300, cols));
        let with = |nearest: &str, rank: i64| {
            let step = Step::new("low-rank").with("nearest", nearest).with("rank", rank);
            compress(&[step], &weights, &inputs)
        };
        for rank in [1, 7, 20] {
            let expected = tail(&weights, &inputs, rank as usize);
            let whitened = damage(&weights, &with("outputs", rank), &inputs);
            let off = (whitened / expected - 1.0).abs();
            assert!(off < 1e-3, "{rows} × {cols}, {rank}: {whitened} for {expected}");
            assert!(damage(&weights, &with("weights", rank), &inputs) > whitened);
        }
        let all = with("outputs", 4096).decode();
        assert!(all.iter().zip(&weights).all(|(a, b)| (a - b).abs() < 1e-4), "full rank");
    }
}

#[test]
fn a_correction_leaves_the_tail_of_the_error_and_is_never_worse() {
    let (weights, inputs) = (normals(14, 40, 96), correlated(15, 300, 96));
    for base in ["round-to-nearest", "gptq", "magnitude", "sparsegpt"] {
        let before = compress(&[Step::new(base)], &weights, &inputs);
        let difference = &weights - &before.decode();
        let mut last = damage(&weights, &before, &inputs);
        for rank in [1, 4, 16, 40] {
            let steps = [Step::new(base), Step::new("eora").with("rank", rank)];
            let corrected = compress(&steps, &weights, &inputs);
            let found = damage(&weights, &corrected, &inputs);
            let expected = tail(&difference, &inputs, rank as usize);
            let norm = damage(&weights, &before, &inputs);
            assert!((found - expected).abs() < 1e-4 * norm, "{base} {rank}: {found}, {expected}");
            assert!(found <= last, "{base} {rank}: {found} after {last}");
            last = found;
        }
    }
    let steps = [Step::new("keep")];
    let kept = compress(&steps, &weights, &inputs);
    assert_eq!(damage(&weights, &kept, &inputs), 0.0);
}

#[test]
fn new_encodings_are_restored_from_their_parts_and_as_large_as_said() {
    let (weights, inputs) = (normals(16, 13, 70), correlated(17, 200, 70));
    let rank = |method: &str| Step::new(method).with("rank", 5);
    let chains = [
        vec![rank("low-rank")],
        vec![Step::new("round-to-nearest").with("symmetry", "asymmetric"), rank("eora")],
        vec![Step::new("wanda"), Step::new("gptq"), rank("eora")],
        vec![Step::new("sparsegpt"), rank("eora")],
        vec![Step::new("awq"), rank("eora")],
        vec![Step::new("wanda"), Step::new("awq").with("bits", 3)],
        vec![Step::new("wanda"), Step::new("gptq"), Step::new("polish"), rank("eora")],
        vec![Step::new("gptq"), Step::new("sparse-outliers")],
        vec![rank("low-rank"), Step::new("sparse-outliers").with("nearest", "outputs")],
        vec![Step::new("gptq"), rank("eora").with("factors", "integers")],
        vec![rank("low-rank").with("factors", "integers").with("factor_bits", 3)],
        vec![Step::new("spqr")],
        vec![Step::new("ccq"), rank("eora")],
        vec![Step::new("ccq").with("form", "wint2"), Step::new("sparse-outliers")],
        vec![Step::new("gqsa").with("symmetry", "symmetric"), rank("eora")],
        vec![Step::new("mixllm"), rank("eora"), Step::new("sparse-outliers")],
        vec![Step::new("wanda"), Step::new("aqlm"), Step::new("polish"), rank("eora")],
        vec![Step::new("wanda"), Step::new("spqr"), rank("eora"), Step::new("sparse-outliers")],
        vec![Step::new("wanda"), Step::new("awq"), rank("eora"), Step::new("sparse-outliers")],
    ];
    for steps in chains {
        let encoding = compress(&steps, &weights, &inputs);
        let shape = encoding.shape();
        assert_eq!(chain_layout(&steps, shape, DType::F32).unwrap(), encoding.layout());
        assert_eq!(encoding.layout().bytes(shape), encoding.bytes(), "{}", chain_label(&steps));
        let parts = encoding.parts();
        let get = |name: &str| {
            let mut found = parts.iter().filter(|part| part.name == name);
            let part = found.next()?;
            assert!(found.next().is_none(), "two parts {name}");
            Some(&*part.bytes)
        };
        let restored = Encoding::from_parts(&encoding.layout(), shape, &get).unwrap();
        assert_eq!(restored, encoding);
        let mut row = vec![0.0; 70];
        restored.decode_row(12, &mut row);
        assert_eq!(encoding.decode().row(12).to_vec(), row);
        for missing in &parts {
            let get = |name: &str| get(name).filter(|_| name != missing.name);
            assert!(Encoding::from_parts(&encoding.layout(), shape, &get).is_none());
        }
    }
}
