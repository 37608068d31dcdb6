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
            if state.keeps.is_some_and(|keeps| !keeps[row * cols + i]) {
                return 0.0;
            }
            let codes = &state.codes[(row * state.runs() + i / dim) * state.books.codebooks..];
            let of =
                |book: usize| f64::from(state.books.entry(i / dim, book, codes[book])[i % dim]);
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

/// Some rounds, no step of which is worse, and the error is what it says.
fn no_step_is_worse(state: &mut Additive<'_>, (rounds, beams): (usize, usize)) {
    let metric = state.metric;
    let h = |i: usize, j: usize| metric.all().get(i, j);
    let mut last = state.error();
    for round in 0..rounds {
        let mut seen = Vec::new();
        state.round(beams, &mut |moved, error| seen.push((moved, error)), &|| false).unwrap();
        for (moved, error) in seen {
            let is_worse = error > last * (1.0 + 1e-12);
            assert!(!is_worse, "{moved:?} of round {round}: {last} to {error}");
            last = error;
        }
        let exact = plain(state, &h);
        assert!((state.error() / exact - 1.0).abs() < 1e-9, "{} for {exact}", state.error());
    }
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
            no_step_is_worse(&mut state, (6, 8));
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

/// Codes in turn, entries at random.
fn start(
    (rows, cols): (usize, usize),
    [codebooks, entries, dim]: [usize; 3],
    (by_run, keeps): (bool, Option<&[bool]>),
) -> Start<'_> {
    let runs = cols.div_ceil(dim);
    let mut random = Random::new(77);
    let n = if by_run { runs } else { 1 } * codebooks * entries * dim;
    let values = (0..n).map(|_| half(random.normal() as f32)).collect();
    let code = |at: usize| ((at * 7 + at / 3) % entries) as u16;
    Start {
        codes: (0..rows * runs * codebooks).map(code).collect(),
        books: Codebooks { codebooks, entries, dim, by_run, values },
        scales: (0..rows).map(|row| half(0.4 + (row % 3) as f32)).collect(),
        keeps,
    }
}

/// Without scales: they are 1.
const NO_SCALES: Stored<'_> = Stored { value: &|value| value, scale: &|_| 1.0 };

#[test]
fn what_is_resumed_is_where_it_was_and_no_step_is_worse() {
    let (rows, cols) = (37, 29);
    let weights = normals(41, rows, cols);
    let keeps: Vec<bool> = (0..rows * cols).map(|at| at * 11 % 7 > 2 && at % 90 > 9).collect();
    let metrics = [metric(cols, 4), Metric::plain(cols)];
    let kinds = [(false, None), (true, None), (false, Some(&keeps[..])), (true, Some(&keeps[..]))];
    for (metric, kind) in metrics.iter().flat_map(|metric| kinds.map(|kind| (metric, kind))) {
        for shape in [[2, 8, 4], [1, 16, 4], [3, 4, 4]] {
            let from = start((rows, cols), shape, kind);
            let of = (Stored { value: &half, scale: &half }, from.clone());
            let mut state = Additive::resume(weights.view(), metric, of, &|| false).unwrap();
            assert_eq!((&state.codes, &state.books), (&from.codes, &from.books));
            let (first, h) = (state.error(), |i: usize, j: usize| metric.all().get(i, j));
            assert!((first / plain(&state, &h) - 1.0).abs() < 1e-9);
            no_step_is_worse(&mut state, (5, 16));
            assert!(state.codes.iter().all(|&code| (code as usize) < shape[1]));
            let last = state.error();
            assert!(last < 0.6 * first, "{} {shape:?}: {last} of {first}", kind.0);
        }
    }
}

/// Under a mask, each code is at its best beside the others once none moves.
#[test]
fn codes_under_a_mask_are_where_no_single_one_could_be_better() {
    let (rows, cols, shape) = (6, 10, [2, 8, 4]);
    let weights = normals(43, rows, cols);
    let keeps: Vec<bool> = (0..rows * cols).map(|at| at * 5 % 11 > 3).collect();
    let metric = metric(cols, 4);
    let of = (AS_IS, start((rows, cols), shape, (true, Some(&keeps[..]))));
    let mut state = Additive::resume(weights.view(), &metric, of, &|| false).unwrap();
    for _ in 0..20 {
        state.move_codes(16, &|| false).unwrap();
    }
    let h = |i: usize, j: usize| metric.all().get(i, j);
    let found = plain(&state, &h);
    for at in 0..state.codes.len() {
        let own = state.codes[at];
        for other in 0..shape[1] as u16 {
            state.codes[at] = other;
            let error = plain(&state, &h);
            assert!(error >= found * (1.0 - 1e-6), "code {at} could be {other}: {error}, {found}");
        }
        state.codes[at] = own;
    }
}

/// What the least squares entries leave of four weights with two of them, each weight's code a bit: with q the places
/// of an entry, (Σ q·H·q')·c = Σ q·H·w.
fn best_entries(weights: &Array2<f32>, h: &dyn Fn(usize, usize) -> f64, codes: usize) -> f64 {
    let is = |row: usize, i: usize, entry: usize| {
        f64::from(u8::from((codes >> (row * 2 + i)) & 1 == entry))
    };
    let (mut a, mut b, mut whole) = ([[0.0; 2]; 2], [0.0; 2], 0.0);
    for (row, i, j) in (0..8).map(|at| (at / 4, at / 2 % 2, at % 2)) {
        let w = |i: usize| f64::from(weights[[row, i]]);
        whole += w(i) * h(i, j) * w(j);
        for entry in 0..2 {
            b[entry] += is(row, i, entry) * h(i, j) * w(j);
            (0..2).for_each(|k| a[entry][k] += is(row, i, entry) * h(i, j) * is(row, j, k));
        }
    }
    let determinant = a[0][0] * a[1][1] - a[0][1] * a[1][0];
    if determinant.abs() < 1e-9 {
        // All weights have one entry.
        let entry = usize::from(a[1][1] > a[0][0]);
        return whole - b[entry] * b[entry] / a[entry][entry];
    }
    let first = (b[0] * a[1][1] - b[1] * a[0][1]) / determinant;
    let second = (b[1] * a[0][0] - b[0] * a[1][0]) / determinant;
    whole - first * b[0] - second * b[1]
}

/// Of all 16 codes, each with its least squares entries, none leaves less than the best, wherever it begins; beginning at
/// each of them, that is found.
#[test]
fn four_weights_of_two_entries_are_never_below_the_best_of_all_codes() {
    for seed in 0..20 {
        let weights = normals(300 + seed, 2, 2);
        let metric = metric(2, 1);
        let h = |i: usize, j: usize| metric.all().get(i, j);
        let least = (0..16).map(|codes| best_entries(&weights, &h, codes));
        let least = least.fold(f64::INFINITY, f64::min);
        let floor = 1e-5 * weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
        let found = |codes: u16| {
            let any = start((2, 2), [1, 2, 1], (false, None));
            let codes = (0..4).map(|at| codes >> at & 1).collect();
            let of = (NO_SCALES, Start { codes, scales: vec![1.0; 2], ..any });
            let mut state = Additive::resume(weights.view(), &metric, of, &|| false).unwrap();
            for _ in 0..4 {
                state.move_entries(&|| false).unwrap();
            }
            for _ in 0..12 {
                state.round(16, &mut |_, _| {}, &|| false).unwrap();
            }
            assert_eq!(state.scales, [1.0; 2]);
            let codes = state.codes.iter().enumerate();
            let own = codes.map(|(at, &code)| usize::from(code) << at).sum();
            let (found, solved) = (plain(&state, &h), best_entries(&weights, &h, own));
            assert!((found - solved).abs() < floor, "{found}, least squares {solved}");
            assert!(found >= least - floor, "{found} below {least}");
            found
        };
        let best = (0..16).map(found).fold(f64::INFINITY, f64::min);
        assert!(best <= least + floor, "{best}, {least} is the best of all");
    }
}

/// With one codebook of single inputs and no data a round is one of Lloyd's: nearest entries, then means.
#[test]
fn a_round_of_single_inputs_is_one_of_lloyds() {
    let (weights, metric) = (normals(47, 20, 30), Metric::plain(30));
    let from = Start { scales: vec![1.0; 20], ..start((20, 30), [1, 5, 1], (false, None)) };
    let mut entries: Vec<f64> = from.books.values.iter().map(|&v| f64::from(v)).collect();
    let of = (NO_SCALES, from);
    let mut state = Additive::resume(weights.view(), &metric, of, &|| false).unwrap();
    for round in 0..8 {
        let mut sums = [(0.0, 0.0); 5];
        for &weight in &weights {
            let away = |at: &usize| (f64::from(weight) - entries[*at]).abs();
            let at = (0..5).min_by(|a, b| away(a).total_cmp(&away(b))).unwrap();
            sums[at] = (sums[at].0 + f64::from(weight), sums[at].1 + 1.0);
        }
        for (entry, (sum, n)) in entries.iter_mut().zip(sums) {
            *entry = if n > 0.0 { sum / n } else { *entry };
        }
        state.round(16, &mut |_, _| {}, &|| false).unwrap();
        for (&found, wanted) in state.books.values.iter().zip(&entries) {
            let off = (f64::from(found) - wanted).abs();
            assert!(off < 1e-5, "round {round}: {found} for {wanted}");
        }
    }
}
