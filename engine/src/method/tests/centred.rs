//! Low rank fitted on inputs less their mean, with a bias: against closed forms and the same without.

use super::*;

/// Inputs with their means, as a calibration keeps them.
fn with_means(x: ArrayView2<'_, f32>) -> LayerInputs {
    let tokens = x.nrows().max(1) as f64;
    let mean = |column: ndarray::ArrayView1<'_, f32>| {
        (column.iter().map(|&value| f64::from(value)).sum::<f64>() / tokens) as f32
    };
    LayerInputs { mean: x.columns().into_iter().map(mean).collect(), ..inputs_of(x) }
}

/// Tokens of correlated channels about means of their own.
fn about_means(seed: u64, tokens: usize, channels: usize, size: f32) -> Array2<f32> {
    let mut x = normals(seed, tokens, channels);
    for j in 1..channels {
        let (left, mut right) = x.multi_slice_mut((s![.., j - 1], s![.., j]));
        right.scaled_add(0.8, &left);
    }
    let means = normals(seed + 1, 1, channels);
    x += &(means * size);
    x
}

fn step(rank: i64, centre: &str) -> Step {
    Step::new("low-rank").with("nearest", "outputs").with("rank", rank).with("centre", centre)
}

/// Σ over tokens of ‖W·x − Ŵ·x − d‖², token by token.
fn output_error(x: &Array2<f32>, weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let left = (weights - &encoding.decode()).mapv(f64::from);
    let shift = encoding.shift().map_or_else(|| vec![0.0; weights.nrows()], <[f32]>::to_vec);
    let out = x.mapv(f64::from).dot(&left.t());
    let squares = out
        .rows()
        .into_iter()
        .map(|row| row.iter().zip(&shift).map(|(a, &d)| (a - f64::from(d)).powi(2)).sum::<f64>());
    squares.sum()
}

#[test]
fn the_error_is_the_tail_of_the_centred_and_never_more_than_without() {
    for (seed, size) in [(51, 0.0), (53, 0.5), (55, 3.0)] {
        let weights = normals(seed + 9, 30, 44);
        let x = about_means(seed, 400, 44, size);
        let inputs = with_means(x.view());
        let sums: Vec<f64> = inputs.mean.iter().map(|&m| f64::from(m) * 400.0).collect();
        let centred = inputs.gram.as_ref().unwrap().centred(&sums);
        let singular = whitened_singular_values(weights.view(), &centred, &|| false).unwrap();
        for rank in [1, 5, 12, 29] {
            let [with, without] =
                ["bias", "none"].map(|centre| compress(&[step(rank, centre)], &weights, &inputs));
            let [found, plain] = [&with, &without].map(|made| output_error(&x, &weights, made));
            // Singular values are those of a mean over the 400 tokens.
            let tail: f64 = singular[rank as usize..].iter().map(|value| value * value).sum();
            let tail = 400.0 * tail;
            assert!((found / tail - 1.0).abs() < 2e-3, "{rank}: {found} for a tail of {tail}");
            assert!(found <= plain * (1.0 + 1e-4), "{rank}: {found} beside {plain}");
            if size > 1.0 && rank == 5 {
                assert!(found < 0.9 * plain, "{rank}: {found} beside {plain}");
            }
        }
    }
}

#[test]
fn without_a_mean_the_product_is_the_same_and_the_bias_zero() {
    let weights = normals(61, 20, 32);
    let half = normals(62, 150, 32);
    let both = ndarray::concatenate(ndarray::Axis(0), &[half.view(), (-&half).view()]).unwrap();
    let mut inputs = with_means(both.view());
    inputs.mean.fill(0.0);
    let with = compress(&[step(6, "bias")], &weights, &inputs);
    let without = compress(&[step(6, "none")], &weights, &inputs);
    assert!(with.shift().unwrap().iter().all(|&shift| shift == 0.0));
    let Encoding::Shifted(with) = with else { panic!("a product and a bias") };
    assert_eq!(*with.inner(), without);
}

#[test]
fn an_affine_map_of_low_rank_is_found_and_no_constant_offset_matters() {
    let (rank, channels) = (4, 40);
    // Inputs that vary in four directions about a mean that lies in none of them.
    let spread = normals(71, 300, rank).dot(&normals(72, rank, channels));
    let weights = normals(73, 24, channels);
    let mut errors = Vec::new();
    for offset in [1.0, -7.0] {
        let x = &spread + &(normals(74, 1, channels) * offset);
        let inputs = with_means(x.view());
        let norm =
            output_error(&x, &weights, &compress(&[step(1, "none")], &(&weights * 0.0), &inputs));
        let [with, without] = ["bias", "none"].map(|centre| {
            let made = compress(&[step(rank as i64, centre)], &weights, &inputs);
            output_error(&x, &weights, &made) / norm
        });
        assert!(with < 1e-9, "{offset}: {with}");
        assert!(without > 1e3 * with, "{offset}: {without}");
        let less = compress(&[step(2, "bias")], &weights, &inputs);
        errors.push(output_error(&x, &weights, &less));
    }
    assert!((errors[0] / errors[1] - 1.0).abs() < 1e-3, "{errors:?}");
}

#[test]
fn a_bias_needs_means_and_comes_last() {
    let weights = normals(81, 8, 16);
    let bare = inputs_of(normals(82, 60, 16).view());
    let error = try_compress(&[step(2, "bias")], &weights, Some(&bare)).unwrap_err().sentence();
    assert!(error.contains("means of its inputs") && error.contains("layer.weight"), "{error}");
    let inputs = with_means(normals(82, 60, 16).view());
    let steps = [step(2, "bias"), Step::new("sparse-outliers")];
    let error = try_compress(&steps, &weights, Some(&inputs)).unwrap_err().sentence();
    assert!(error.contains("must be last"), "{error}");
    let shape = MatrixShape { rows: 8, cols: 16 };
    assert!(chain_layout(&steps, shape, DType::F32).is_err());
    // Bytes, parts and label.
    let made = compress(&steps[..1], &weights, &inputs);
    let layout = chain_layout(&steps[..1], shape, DType::F32).unwrap();
    assert_eq!((made.layout(), made.bytes()), (layout.clone(), 4 * (8 * 2 + 2 * 16 + 8)));
    assert!(layout.is_valid(shape) && layout.bytes(shape) == made.bytes());
    let parts = made.parts();
    let part = |name: &str| Some(parts.iter().find(|part| part.name == name)?.bytes.as_ref());
    assert_eq!(Encoding::from_parts(&layout, shape, &part), Some(made.clone()));
    assert_eq!(chain_label(&steps[..1]), "rank 2 whitened centred");
    let within = Layout::Sparse(crate::encoding::SparseLayout { kept: 3, inner: Box::new(layout) });
    assert!(!within.is_valid(shape), "a shift lies outermost");
}
