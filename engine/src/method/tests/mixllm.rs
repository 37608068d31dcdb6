//! `MixLLM`: its ends are GPTQ, and what it promotes is what suffers most.

use super::*;

fn mixllm(share: f64) -> Step {
    Step::new("mixllm").with("share", share).with("group_size", 32)
}

fn is_high(encoding: &Encoding) -> &[bool] {
    let Encoding::Mixed(mixed) = encoding else { panic!("rows of two kinds") };
    mixed.is_high()
}

#[test]
fn with_no_row_or_all_it_is_gptq() {
    let (weights, inputs) = (normals(61, 17, 100), correlated(62, 300, 100));
    for (share, bits, symmetry) in [(0.0, 4, "asymmetric"), (1.0, 8, "symmetric")] {
        for clipping in ["min-max", "mse", "weighted"] {
            let gptq = Step::new("gptq").with("bits", bits).with("symmetry", symmetry);
            let gptq = gptq.with("group_size", 32).with("clipping", clipping);
            let ours = mixllm(share).with("clipping", clipping);
            let [ours, gptq] = [ours, gptq].map(|step| compress(&[step], &weights, &inputs));
            assert_eq!(ours.decode(), gptq.decode(), "{share} {clipping}");
        }
    }
}

#[test]
fn the_rows_that_suffer_most_have_more_bits() {
    let (mut weights, x) = (normals(63, 40, 64), normals(64, 200, 64));
    for (row, mut values) in weights.rows_mut().into_iter().enumerate() {
        values *= 0.5 + (row * 7 % 10) as f32;
    }
    let inputs = inputs_of(x.view());
    let task = Task {
        tensor: "layer.weight",
        weights: weights.view(),
        dtype: DType::F32,
        previous: None,
        fused_peak: None,
        inputs: Some(&inputs),
        observer: &Silent,
    };
    let (saliences, energy) = row_saliences(&mixllm(0.25), &task).unwrap();
    let rounded = Step::new("round-to-nearest").with("group_size", 32);
    let rounded = compress(&[rounded.with("symmetry", "asymmetric")], &weights, &inputs).decode();
    let mean_square = |rows: &Array2<f32>, row: usize| {
        let outputs = x.dot(&rows.row(row));
        outputs.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>() / 200.0
    };
    let left = &weights - &rounded;
    for (row, &found) in saliences.iter().enumerate() {
        let plain = mean_square(&left, row);
        assert!((found / plain - 1.0).abs() < 1e-3, "row {row}: {found}, not {plain}");
    }
    let plain: f64 = (0..40).map(|row| mean_square(&weights, row)).sum();
    assert!((energy / plain - 1.0).abs() < 1e-3, "{energy}, not {plain}");
    let encoding = compress(&[mixllm(0.25)], &weights, &inputs);
    let of = |wanted: bool| {
        let rows = is_high(&encoding).iter().zip(&saliences);
        rows.filter(move |(is_high, _)| **is_high == wanted).map(|(_, salience)| *salience)
    };
    assert_eq!(of(true).count(), 10);
    assert!(of(true).fold(f64::INFINITY, f64::min) >= of(false).fold(0.0, f64::max));
}

#[test]
fn more_rows_of_more_bits_leave_less_in_the_bytes_they_take() {
    let (weights, inputs) = (normals(65, 64, 128), correlated(66, 500, 128));
    let mut last = f64::INFINITY;
    for share in [0.0, 0.125, 0.5, 1.0] {
        let encoding = compress(&[mixllm(share)], &weights, &inputs);
        let error = damage(&weights, &encoding, &inputs);
        assert!(error < last, "{error} with {share}, {last} with fewer");
        last = error;
        let rows = (64.0 * share) as u64;
        // Codes, 4 scales of 4 bytes, and 4 zero points of 4 bits where there are 4 bits.
        let expected = 8 + rows * (128 + 16) + (64 - rows) * (64 + 16 + 2);
        assert_eq!(encoding.bytes(), expected);
    }
}
