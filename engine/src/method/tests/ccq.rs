//! CCQ: what its codes leave of normal values in their true bits, and what feedback is good for.

use super::*;

fn ccq(form: &str, rounding: &str) -> Step {
    Step::new("ccq").with("form", form).with("rounding", rounding)
}

/// The codes alone leave 0.100 and 0.112; the best of some steps for each 64 weights gains some of that, of which scales of 4
/// bits lose a part.
#[test]
fn normal_weights_leave_what_is_known_in_the_bits_of_the_layouts() {
    let weights = normals(71, 128, 640);
    let shape = MatrixShape { rows: 128, cols: 640 };
    for (form, known, bits) in [
        ("wint2.5", 0.092..0.100, 2.5 + 32.0 / 640.0),
        ("wint2", 0.104..0.1135, 2.0625 + 96.0 / 640.0),
        // 92 words for 640 weights, the last of which are four of seven; the code alone, under the best of some steps for a row.
        ("wint2.286", 0.0985..0.1025, (16.0 * 92.0 + 32.0) / 640.0),
    ] {
        let encoding = try_compress(&[ccq(form, "nearest")], &weights, None).unwrap();
        let off = &weights - &encoding.decode();
        let squares = |m: &Array2<f32>| m.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let found = squares(&off) / squares(&weights);
        assert!(known.contains(&found), "{form}: {found}");
        let stored = encoding.layout().bytes(shape) as f64 * 8.0 / shape.elements() as f64;
        assert!((stored - bits).abs() < 1e-9, "{form}: {stored} bits");
        assert!(found > (-2.0 * stored).exp2(), "{form} is below Shannon's bound");
    }
}

#[test]
fn blocks_of_any_size_have_scales_of_their_own() {
    let mut weights = normals(72, 6, 200);
    for (i, mut part) in weights.axis_chunks_iter_mut(ndarray::Axis(1), 64).enumerate() {
        part *= [1.0, 0.25, 3.0, 0.5][i];
    }
    weights.row_mut(2).fill(0.0);
    for form in ["wint2.5", "wint2"] {
        let decoded = try_compress(&[ccq(form, "nearest")], &weights, None).unwrap().decode();
        assert!(decoded.row(2).iter().all(|&value| value == 0.0));
        for (a, b) in weights
            .axis_chunks_iter(ndarray::Axis(1), 64)
            .zip(decoded.axis_chunks_iter(ndarray::Axis(1), 64))
        {
            let off = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let norm = a.iter().map(|a| a * a).sum::<f32>();
            assert!(off < 0.2 * norm, "{form}: {off} of {norm}");
        }
    }
}

/// The scale of a row of WINT2.5 is 4096 times finer than its steps.
#[test]
fn small_weights_do_not_vanish_in_half_floats() {
    let weights = normals(75, 4, 256) * 1e-4;
    let task = Task {
        tensor: "layer.weight",
        weights: weights.view(),
        dtype: DType::F16,
        previous: None,
        fused_peak: None,
        inputs: None,
        observer: &Silent,
    };
    for form in ["wint2.5", "wint2", "wint2.286"] {
        let decoded = run_chain(&[ccq(form, "nearest")], &task).unwrap().decode();
        let squares = |m: &Array2<f32>| m.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let found = squares(&(&weights - &decoded)) / squares(&weights);
        assert!(found < 0.125, "{form}: {found}");
    }
}

#[test]
fn feedback_leaves_less_in_the_outputs() {
    let (weights, inputs) = (normals(73, 48, 256), correlated(74, 900, 256));
    for (form, most) in [("wint2.5", 0.97), ("wint2", 0.6), ("wint2.286", 0.85)] {
        let left = |rounding: &str| {
            damage(&weights, &compress(&[ccq(form, rounding)], &weights, &inputs), &inputs)
        };
        let (fed, nearest) = (left("feedback"), left("nearest"));
        assert!(fed < most * nearest, "{form}: {fed} and {nearest}");
    }
    let inputs = inputs_of(Array2::eye(256).view());
    for form in ["wint2.5", "wint2", "wint2.286"] {
        let [fed, nearest] = ["feedback", "nearest"]
            .map(|rounding| compress(&[ccq(form, rounding)], &weights, &inputs).decode());
        assert_eq!(fed, nearest, "{form}: unrelated inputs make nothing good");
    }
}

/// One scale a row: rows of any size, none and zeros, are as good as one another.
#[test]
fn words_alone_have_the_scale_of_their_row() {
    let mut weights = normals(75, 4, 210);
    for (mut row, size) in weights.rows_mut().into_iter().zip([1.0, 1e-3, 0.0, 200.0]) {
        row *= size;
    }
    let encoding = try_compress(&[ccq("wint2.286", "nearest")], &weights, None).unwrap();
    assert_eq!(encoding.bytes(), 4 * (2 * 30 + 4));
    let decoded = encoding.decode();
    for (row, found) in weights.rows().into_iter().zip(decoded.rows()) {
        let off = row.iter().zip(&found).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        assert!(off <= 0.13 * row.dot(&row), "{off}");
    }
}

/// Codes under a mask need to be near to the weights that stay alone: those are met better, the others are zero.
#[test]
fn under_a_mask_codes_are_free_where_weights_are_dropped() {
    let weights = normals(76, 24, 256);
    let mask = || Step::new("magnitude").with("pattern", "n-of-m");
    for form in ["wint2.5", "wint2", "wint2.286"] {
        let whole = try_compress(&[ccq(form, "nearest")], &weights, None).unwrap().decode();
        let chain = [mask(), ccq(form, "nearest")];
        let found = try_compress(&chain, &weights, None).unwrap();
        let shape = MatrixShape { rows: 24, cols: 256 };
        assert_eq!(chain_layout(&chain, shape, DType::F32).unwrap(), found.layout());
        assert_eq!(found.bytes(), found.layout().bytes(shape));
        let Encoding::Sparse(sparse) = &found else { panic!("a mask") };
        let (decoded, keeps) = (found.decode(), |i: usize| sparse.mask().keeps(i));
        let left = |of: &Array2<f32>| -> f64 {
            let pairs = weights.iter().zip(of).enumerate().filter(|(i, _)| keeps(*i));
            pairs.map(|(_, (w, d))| f64::from(w - d).powi(2)).sum()
        };
        assert!(left(&decoded) < 0.7 * left(&whole), "{form}: {} {}", left(&decoded), left(&whole));
        assert!(decoded.iter().enumerate().all(|(i, &value)| keeps(i) || value == 0.0));
    }
    let inputs = correlated(77, 300, 256);
    let fed = try_compress(&[mask(), ccq("wint2.5", "feedback")], &weights, Some(&inputs));
    assert!(fed.unwrap_err().sentence().contains("round to the nearest under the mask"));
}
