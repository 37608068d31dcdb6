//! Factors in 8 and 16 bits: what they take to the byte, what rounding costs, and what the rank that it buys is worth.

use super::*;

fn remapped(rank: i64) -> Step {
    Step::new("low-rank").with("rank", rank).with("factors", "remapped")
}

fn squares(m: &Array2<f32>) -> f64 {
    m.iter().map(|x| f64::from(*x).powi(2)).sum()
}

fn left(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    squares(&(weights - &encoding.decode())) / squares(weights)
}

#[test]
fn every_rank_takes_the_longer_side_in_16_bits() {
    for (rows, cols) in [(40, 24), (24, 40), (32, 32), (1, 9), (9, 1)] {
        let shape = MatrixShape { rows, cols };
        let (short, long) = (rows.min(cols), rows.max(cols));
        for rank in [1, 5, short].into_iter().filter(|rank| *rank <= short) {
            let layout = chain_layout(&[remapped(rank as i64)], shape, DType::BF16).unwrap();
            // Rows of the left factor, of those in 8 bits, and of the right one have a scale.
            let scales = 2 * (short.min(rows) + rank);
            let marks = if rows == cols { 0 } else { long.div_ceil(8) };
            assert_eq!(layout.bytes(shape), (2 * rank * long + scales + marks) as u64);
        }
        let weights = normals(94, rows, cols);
        let found = try_compress(&[remapped(5)], &weights, None).unwrap();
        assert_eq!(found.bytes(), found.layout().bytes(shape));
    }
}

/// All ranks: what is left is the rounding to 8 bits, no more than a step of 1/127 in either factor.
#[test]
fn without_truncation_only_rounding_is_left() {
    for (rows, cols) in [(60, 60), (90, 40), (40, 90)] {
        let weights = normals(95, rows, cols);
        let found = left(&weights, &try_compress(&[remapped(16384)], &weights, None).unwrap());
        assert!(found < 2e-3 && found > 1e-7, "{rows} × {cols}: {found}");
    }
}

/// A matrix of a rank at which two factors of 16 bits are larger than it is itself.
#[test]
fn ranks_beyond_half_are_held_and_save_bytes() {
    let shape = MatrixShape { rows: 64, cols: 80 };
    let weights = normals(96, 64, 48).dot(&normals(97, 48, 80));
    let step = remapped(48);
    let bytes = |step: Step| chain_layout(&[step], shape, DType::BF16).unwrap().bytes(shape);
    let dense = 2 * shape.elements() as u64;
    assert!(bytes(step.clone()) < dense);
    assert!(bytes(Step::new("low-rank").with("rank", 48)) > dense);
    let found = left(&weights, &try_compress(&[step], &weights, None).unwrap());
    assert!(found < 2e-3, "{found}");
}

/// Singular values like 1/i: more of them in fewer bits leave less than few in 16, in the same bytes.
#[test]
fn more_rank_in_the_same_bytes_leaves_less() {
    let (a, b) = (normals(98, 96, 96), normals(99, 96, 120));
    let mut scaled = a.clone();
    for (i, mut column) in scaled.columns_mut().into_iter().enumerate() {
        column /= 1.0 + i as f32;
    }
    let weights = scaled.dot(&b);
    // 30·120 numbers of 16 bits, and 16·(96 + 120).
    let [many, few] = [remapped(28), Step::new("low-rank").with("rank", 16)].map(|step| {
        let encoding = try_compress(&[step], &weights, None).unwrap();
        (left(&weights, &encoding), encoding)
    });
    let shape = MatrixShape { rows: 96, cols: 120 };
    let in_16 = chain_layout(&[Step::new("low-rank").with("rank", 16)], shape, DType::BF16);
    let in_8 = chain_layout(&[remapped(28)], shape, DType::BF16);
    assert!(in_8.unwrap().bytes(shape) < in_16.unwrap().bytes(shape) + 300);
    assert!(many.0 < 0.7 * few.0, "{} and {}", many.0, few.0);
}

/// In outputs the error is the tail of W·H^½, and rounding adds little to it.
#[test]
fn outputs_leave_the_tail_of_the_whitened_spectrum() {
    let (weights, inputs) = (normals(100, 30, 50), correlated(101, 400, 50));
    let gram = inputs.gram.as_ref().unwrap();
    let values = whitened_singular_values(weights.view(), gram, &|| false).unwrap();
    let tail: f64 = values[12..].iter().map(|value| value * value).sum();
    let all: f64 = values.iter().map(|value| value * value).sum();
    let step = remapped(12).with("nearest", "outputs");
    let found = damage(&weights, &compress(&[step], &weights, &inputs), &inputs);
    let found = found / gram.tokens() as f64;
    assert!(found > tail * 0.999 && found < tail + 2e-3 * all, "{found} {tail} of {all}");
}
