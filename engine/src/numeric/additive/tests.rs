//! Additive codes against plain loops, closed forms and all codes of a small matrix.

use ndarray::Array2;

use super::*;
use crate::numeric::gram::Gram;
use crate::numeric::seeds::Random;

fn normals(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal() as f32)
}

fn gram(cols: usize) -> Gram {
    let mut x = normals(12, 4 * cols, cols);
    for j in 1..cols {
        let (left, mut right) = x.multi_slice_mut((ndarray::s![.., j - 1], ndarray::s![.., j]));
        right.scaled_add(0.7, &left);
    }
    let mut gram = Gram::new(cols);
    gram.add(x.view());
    gram
}

fn metric(cols: usize, run: usize) -> Metric {
    Metric::new(&gram(cols), (0.01, run), &|| false).unwrap()
}

const AS_IS: Stored<'_> = Stored { value: &|value| value, scale: &|scale| scale };

fn half(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

/// The error by plain loops.
fn plain(state: &Additive<'_>, h: &dyn Fn(usize, usize) -> f64) -> f64 {
    let (rows, cols, dim) = (state.rows, state.cols, state.books.dim);
    let mut error = 0.0;
    for row in 0..rows {
        let value = |i: usize| {
            let codes = &state.codes[(row * state.runs() + i / dim) * state.books.codebooks..];
            let of = |book: usize| f64::from(state.books.entry(book, codes[book])[i % dim]);
            f64::from(state.scales[row]) * (0..state.books.codebooks).map(of).sum::<f64>()
        };
        let left: Vec<f64> =
            (0..cols).map(|i| f64::from(state.weights[[row, i]]) - value(i)).collect();
        for i in 0..cols {
            let along = (0..cols).map(|j| left[i] * h(i, j) * left[j]).sum::<f64>();
            error += state.metric.of_row(row) * along;
        }
    }
    error
}

#[test]
fn no_step_of_any_round_is_worse_and_the_error_is_what_it_says() {
    for (rows, cols, shape) in
        [(40, 40, [2, 16, 8]), (9, 35, [3, 4, 4]), (70, 20, [1, 32, 8]), (5, 7, [4, 16, 16])]
    {
        let weights = normals(1, rows, cols);
        let counts = (0..rows).map(|row| 0.1 + (row * 7 % 5) as f64).collect();
        let metrics = [metric(cols, shape[2]), Metric::plain(cols), Metric::counting(cols, counts)];
        for metric in &metrics {
            let stored = Stored { value: &half, scale: &half };
            let mut state =
                Additive::new(weights.view(), metric, (stored, shape), &|| false).unwrap();
            let h = |i: usize, j: usize| metric.all().get(i, j);
            let mut last = state.error();
            for round in 0..6 {
                let mut seen = Vec::new();
                state.round(8, &mut |moved, error| seen.push((moved, error)), &|| false).unwrap();
                for (moved, error) in seen {
                    assert!(
                        error <= last * (1.0 + 1e-12),
                        "{moved:?} of round {round}: {last} to {error}"
                    );
                    last = error;
                }
                let exact = plain(&state, &h);
                assert!(
                    (state.error() / exact - 1.0).abs() < 1e-9,
                    "{} for {exact}",
                    state.error()
                );
            }
            let stored = state.books.values.iter().chain(&state.scales);
            assert!(stored.copied().all(|value| half(value) == value));
        }
    }
}

/// s = w·H·qᵀ/(q·H·qᵀ) by plain loops, q = ŵ/s.
#[test]
fn scales_are_those_of_least_squares() {
    let (rows, cols, shape) = (37, 21, [2, 8, 4]);
    let weights = normals(11, rows, cols);
    let metric = metric(cols, shape[2]);
    let mut state = Additive::new(weights.view(), &metric, (AS_IS, shape), &|| false).unwrap();
    state.move_codes(8, &|| false).unwrap();
    let sums = |state: &Additive<'_>, row: usize| {
        let mut sums = vec![0.0; cols];
        state.sums(row, &state.entries_f64(), &mut sums);
        sums
    };
    state.move_scales(&|| false).unwrap();
    for row in 0..rows {
        let q = sums(&state, row);
        let w: Vec<f64> = weights.row(row).iter().map(|&w| f64::from(w)).collect();
        let form = |a: &[f64], b: &[f64]| -> f64 {
            let along =
                |i: usize| (0..cols).map(|j| a[i] * metric.all().get(i, j) * b[j]).sum::<f64>();
            (0..cols).map(along).sum()
        };
        let (found, best) = (f64::from(state.scales[row]), form(&w, &q) / form(&q, &q));
        assert!((found / best - 1.0).abs() < 1e-6, "{found} for {best}");
    }
    let exact = plain(&state, &|i, j| metric.all().get(i, j));
    assert!((state.error() / exact - 1.0).abs() < 1e-9, "{} for {exact}", state.error());
}

/// H + d·I = V·D·Vᵀ: with C = V·D, C·D⁻¹·Cᵀ over blocks of the runs.
#[test]
fn what_lies_ahead_is_the_factor_of_the_matrix() {
    let (cols, run) = (21, 4);
    let metric = metric(cols, run);
    let (all, ahead) = (metric.all(), metric.ahead());
    for j in 0..cols {
        for i in 0..cols {
            assert!(i / run <= j / run || ahead.get(i, j) == 0.0, "below the blocks");
        }
    }
    // The last run has nothing behind it, so its block is that of H; the first is what is left of H beside the others.
    for i in 20..cols {
        assert!((ahead.get(i, i) - all.get(i, i)).abs() < 1e-9);
    }
    // Σ over the runs of ‖what is left of a run‖ by D is the error: for any E, tr(E·H·Eᵀ) = Σⱼ eⱼ·Dⱼ·eⱼᵀ with
    // eⱼ = Eⱼ + Σ Eₐ·Vₐⱼ, and eⱼ·Dⱼ = Σ Eₐ·(V·D)ₐⱼ.
    let error = normals(4, 1, cols).mapv(f64::from);
    let sum = |c: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..cols).map(|j| (0..cols).map(|i| error[[0, i]] * c(i, j)).sum()).collect()
    };
    let whole: f64 = sum(&|i, j| all.get(i, j)).iter().zip(error.iter()).map(|(a, b)| a * b).sum();
    let carried = sum(&|i, j| ahead.get(i, j));
    let mut parts = 0.0;
    for start in (0..cols).step_by(run) {
        let width = run.min(cols - start);
        let block = faer::Mat::from_fn(width, width, |i, j| ahead.get(start + i, start + j));
        let right = faer::Mat::from_fn(width, 1, |i, _| carried[start + i]);
        let solved = faer::linalg::solvers::Solve::solve(&block.partial_piv_lu(), &right);
        parts += (0..width).map(|i| solved[(i, 0)] * carried[start + i]).sum::<f64>();
    }
    assert!((parts / whole - 1.0).abs() < 1e-9, "{parts} for {whole}");
}

/// Of a matrix with two runs of two inputs, all codes tried: with every sum followed, codes at rest are no worse than
/// moving one run could make them, and mostly the best of all.
#[test]
fn codes_of_a_small_matrix_are_nearly_the_best_of_all() {
    let (cols, dim, entries) = (4, 2, 4);
    let metric = metric(cols, dim);
    let h = |i: usize, j: usize| metric.all().get(i, j);
    let mut best = 0;
    for seed in 0..20 {
        let weights = normals(100 + seed, 1, cols);
        let mut state =
            Additive::new(weights.view(), &metric, (AS_IS, [1, entries, dim]), &|| false).unwrap();
        // Other entries than the points themselves.
        state.books.values = normals(7, 1, entries * dim).into_raw_vec_and_offset().0;
        state.renew(&|| false).unwrap();
        for _ in 0..3 {
            state.move_codes(64, &|| false).unwrap();
        }
        let found = plain(&state, &h);
        let mut least = f64::INFINITY;
        for all in 0..entries * entries {
            let own = [(all % entries) as u16, (all / entries) as u16];
            let kept = std::mem::replace(&mut state.codes, own.to_vec());
            let error = plain(&state, &h);
            state.codes = kept;
            let alone = own.iter().zip(&state.codes).filter(|(a, b)| a != b).count() == 1;
            assert!(
                !alone || error >= found * (1.0 - 1e-6),
                "one run could move: {error}, {found}"
            );
            least = least.min(error);
        }
        best += usize::from(found <= least * (1.0 + 1e-6));
    }
    assert!(best >= 17, "only {best} of 20 are the best of all");
}

/// The entries of one codebook of single inputs are then means: Lloyd's iteration, 0.1175 and 0.0345 of normal values.
#[test]
fn single_inputs_without_data_are_lloyds_iteration() {
    let weights = normals(8, 100, 200);
    let metric = Metric::plain(200);
    let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
    for (entries, known) in [(4, 0.1175), (8, 0.0345)] {
        let mut state =
            Additive::new(weights.view(), &metric, (AS_IS, [1, entries, 1]), &|| false).unwrap();
        for _ in 0..40 {
            state.round(1, &mut |_, _| {}, &|| false).unwrap();
        }
        let found = state.error() / squares;
        // The scales of rows gain a little.
        assert!((0.95..1.02).contains(&(found / known)), "{entries}: {found} for {known}");
    }
}

#[test]
fn the_threads_change_no_bit_and_a_cancelled_round_is_nothing() {
    let weights = normals(5, 90, 70);
    let metric = metric(70, 8);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let of = (AS_IS, [2, 16, 8]);
            let mut state = Additive::new(weights.view(), &metric, of, &|| false).unwrap();
            state.round(8, &mut |_, _| {}, &|| false).unwrap();
            state.round(8, &mut |_, _| {}, &|| false).unwrap();
            assert!(state.round(8, &mut |_, _| {}, &|| true).is_none());
            (state.error(), state.scales.clone(), state.books.clone())
        })
    };
    assert_eq!(on(1), on(3));
}
