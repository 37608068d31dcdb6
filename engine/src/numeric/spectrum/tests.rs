//! Singular values against constructions whose values are known, against each other, and against random matrices.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ndarray::{Array2, s};

use super::*;
use crate::numeric::seeds::Random;

const GO_ON: &(dyn Fn() -> bool + Sync) = &|| false;

fn normal(seed: u64, rows: usize, cols: usize) -> Array2<f64> {
    let mut random = Random::new(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.normal())
}

fn by_gram(matrix: &Array2<f64>) -> Vec<f64> {
    let (rows, cols) = matrix.dim();
    let block = |rows, cols| Ok::<_, ()>(matrix.slice(s![rows, cols]).to_owned());
    singular_values_by_gram([rows, cols], &block, GO_ON).unwrap()
}

fn estimated(matrix: &Array2<f64>, k: usize) -> LeadingEstimate {
    let (rows, cols) = matrix.dim();
    let block = |rows, cols| Ok::<_, ()>(matrix.slice(s![rows, cols]).to_owned());
    estimate_leading([rows, cols], k, &block, GO_ON).unwrap()
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// A `[rows, cols]` matrix with just these singular values: a diagonal between two reflections.
fn with_singular_values(values: &[f64], rows: usize, cols: usize) -> Array2<f64> {
    let mut matrix = Array2::zeros((rows, cols));
    for (i, value) in values.iter().enumerate() {
        matrix[[i, i]] = *value;
    }
    for _ in 0..2 {
        let u = normal(rows as u64, matrix.nrows(), 1);
        let norm = u.iter().map(|x| x * x).sum::<f64>();
        matrix = &matrix - &(&u * (2.0 / norm)).dot(&u.t().dot(&matrix));
        matrix = matrix.t().to_owned();
    }
    matrix
}

/// What the Gram way, and the matrices made for it, may be off by in σ²/σ₁²; and what the direct way is off by
/// (some 2e-14 where the Gram way is at 1e-15, against long double).
const GRAM_ERROR: f64 = 1e-14;
const DIRECT_ERROR: f64 = 4e-14;

/// Asserts that the eigenvalues σ² agree to `allowed`·σ₁² and the singular values well above the noise to 1e-9.
#[track_caller]
fn assert_agree(what: &str, found: &[f64], wanted: &[f64], allowed: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted[0];
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let error = (f * f - w * w).abs() / (largest * largest);
        assert!(error < allowed, "{what}: λ{i} is off by {error:e}");
        assert!(*w < 3e-3 * largest || (f - w).abs() < 1e-9 * w, "{what}: σ{i} {f} and {w}");
    }
}

#[test]
fn diagonal_and_rank_one_matrices() {
    let mut diagonal = Array2::zeros((3, 5));
    for (i, value) in [1.0, 3.0, 2.0].into_iter().enumerate() {
        diagonal[[i, i]] = value;
    }
    let values = singular_values(diagonal.view()).unwrap();
    for (value, expected) in values.iter().zip([3.0, 2.0, 1.0]) {
        assert!((value - expected).abs() < 1e-12, "{values:?}");
    }
    let ones = Array2::from_elem((4, 6), 0.5_f32);
    let values = singular_values(ones.view()).unwrap();
    assert!((values[0] - 0.5 * 24_f64.sqrt()).abs() < 1e-12);
    assert!((stable_rank(&values) - 1.0).abs() < 1e-12);
    assert!((effective_rank(&values) - 1.0).abs() < 1e-6);
}

#[test]
fn ranks_of_equal_singular_values_are_their_number() {
    let values = [2.0; 7];
    assert!((stable_rank(&values) - 7.0).abs() < 1e-12);
    assert!((effective_rank(&values) - 7.0).abs() < 1e-12);
    assert_eq!(rank_for_energy(&values, 0.5), 4);
    assert_eq!(rank_for_energy(&values, 1.0), 7);
}

#[test]
fn values_do_not_depend_on_the_threads() {
    let mut random = crate::numeric::seeds::Random::new(3);
    let matrix = Array2::from_shape_simple_fn((300, 420), || random.normal() as f32);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| singular_values(matrix.view()))
    };
    let one = on(1);
    assert!(one.is_some());
    assert_eq!(one, on(2));
    assert_eq!(one, on(7));
}

#[test]
fn zero_and_empty_matrices_have_rank_zero() {
    assert_eq!(singular_values(Array2::zeros((0, 3)).view()), Some(vec![]));
    let values = singular_values(Array2::zeros((2, 3)).view()).unwrap();
    assert_eq!((stable_rank(&values), effective_rank(&values)), (0.0, 0.0));
    assert_eq!(singular_values(Array2::from_elem((2, 2), f32::NAN).view()), None);
}

#[test]
fn known_singular_values_come_back_through_the_gram_matrix() {
    for (rows, cols) in [(150, 150), (90, 333), (333, 90)] {
        let n = rows.min(cols);
        let falling: Vec<f64> = (0..n).map(|i| 0.93_f64.powi(i as i32)).collect();
        assert_agree(
            &format!("{rows} × {cols}"),
            &by_gram(&with_singular_values(&falling, rows, cols)),
            &falling,
            GRAM_ERROR,
        );
        let equal = vec![2.5; n];
        assert_agree(
            "equal",
            &by_gram(&with_singular_values(&equal, rows, cols)),
            &equal,
            GRAM_ERROR,
        );
    }
}

#[test]
fn both_ways_agree_on_shapes_around_the_panels_and_tiles() {
    let shapes = [
        (1, 1),
        (1, 300),
        (300, 1),
        (2, 2),
        (3, 7),
        (31, 31),
        (32, 32),
        (33, 33),
        (63, 64),
        (64, 65),
        (67, 67),
        (67, 200),
        (200, 67),
        (96, 97),
        (128, 128),
        (129, 130),
        (300, 257),
    ];
    for (rows, cols) in shapes {
        let matrix = normal((rows * 1000 + cols) as u64, rows, cols);
        let direct = singular_values_f64(matrix.view()).unwrap();
        assert_agree(&format!("{rows} × {cols}"), &by_gram(&matrix), &direct, DIRECT_ERROR);
    }
}

#[test]
fn blocks_sum_to_the_same_whatever_the_longer_side() {
    // Several blocks of the longer side, the last one short, tall and wide.
    let matrix = normal(4, 40, 250_000);
    let wide = by_gram(&matrix);
    assert_agree("tall", &by_gram(&matrix.t().to_owned()), &wide, GRAM_ERROR);
    let trace: f64 = wide.iter().map(|s| s * s).sum();
    let squares: f64 = matrix.iter().map(|w| w * w).sum();
    assert!((trace - squares).abs() < 1e-12 * squares);
}

#[test]
fn five_directions_in_noise() {
    let (rows, cols) = (140, 210);
    let strong = [50.0, 40.0, 30.0, 20.0, 10.0];
    let matrix = with_singular_values(&strong, rows, cols) + normal(9, rows, cols) * 0.01;
    let values = by_gram(&matrix);
    for (value, strong) in values.iter().zip(strong) {
        assert!((value - strong).abs() < 0.05, "{value} {strong}");
    }
    let edge = marchenko_pastur_edge(rows, cols, 0.01);
    assert!(values[5] < 1.1 * edge);
    assert_eq!(above_edge(&values, 1.1 * edge), 5);
    // Without noise, the rest is below the floor that the method claims.
    let exact = by_gram(&with_singular_values(&strong, rows, cols));
    assert!(exact[5] < gram_floor(&exact), "{} {}", exact[5], gram_floor(&exact));
    assert!(gram_floor(&exact) < 1e-6 * exact[0]);
}

#[test]
fn noise_lies_between_the_edges_of_marchenko_and_pastur() {
    let (rows, cols, std) = (200, 450, 0.5);
    let values = by_gram(&(normal(21, rows, cols) * std));
    let (lower, upper) =
        (marchenko_pastur_lower_edge(rows, cols, std), marchenko_pastur_edge(rows, cols, std));
    assert!((values[0] / upper - 1.0).abs() < 0.03, "{} {upper}", values[0]);
    assert!((values[rows - 1] / lower - 1.0).abs() < 0.05, "{} {lower}", values[rows - 1]);
    assert!(above_edge(&values, upper) <= 2);
    // The density of s = σ/std is √((b² − s²)(s² − a²))/(π·y·s) up to its scale: the effective rank is
    // n·exp(−∫ q ln q), q = s/mean(s).
    let (steps, a, b) = (20_000, lower, upper);
    let points: Vec<(f64, f64)> = (0..steps)
        .map(|i| a + (b - a) * (f64::from(i) + 0.5) / f64::from(steps))
        .map(|x| (x, ((b * b - x * x) * (x * x - a * a)).sqrt() / x))
        .collect();
    let mass: f64 = points.iter().map(|p| p.1).sum();
    let mean = points.iter().map(|p| p.0 * p.1).sum::<f64>() / mass;
    let entropy: f64 =
        points.iter().map(|p| p.0 / mean * (p.0 / mean).ln() * p.1).sum::<f64>() / mass;
    let theory = rows as f64 * (-entropy).exp();
    let found = effective_rank(&values);
    assert!((found / theory - 1.0).abs() < 0.01, "{found} where theory says {theory}");
}

#[test]
fn the_gram_way_does_not_depend_on_the_threads() {
    for (rows, cols) in [(300, 420), (420, 170)] {
        let matrix = normal(3, rows, cols);
        let one = on_threads(1, || by_gram(&matrix));
        assert_eq!(one, on_threads(2, || by_gram(&matrix)));
        assert_eq!(one, on_threads(7, || by_gram(&matrix)));
    }
}

#[test]
fn the_largest_and_smallest_f32_neither_over_nor_underflow() {
    let matrix = normal(6, 70, 90);
    let plain = by_gram(&matrix);
    for factor in [120_f64.exp2(), (-140_f64).exp2()] {
        let scaled: Vec<f64> = by_gram(&(&matrix * factor)).iter().map(|s| s / factor).collect();
        assert_eq!(scaled, plain, "times {factor:e}");
    }
}

#[test]
fn what_is_not_finite_empty_or_zero() {
    for bad in [f64::NAN, f64::INFINITY] {
        let mut matrix = normal(6, 70, 90);
        matrix[[69, 3]] = bad;
        let block = |rows, cols| Ok::<_, ()>(matrix.slice(s![rows, cols]).to_owned());
        let gram = singular_values_by_gram([70, 90], &block, GO_ON);
        assert_eq!(gram, Err(Stopped::NotFinite));
        assert_eq!(estimate_leading([70, 90], 3, &block, GO_ON), Err(Stopped::NotFinite));
    }
    assert_eq!(by_gram(&Array2::zeros((0, 5))), [0.0; 0]);
    assert_eq!(by_gram(&Array2::zeros((40, 5))), [0.0; 5]);
    let zero = estimated(&Array2::zeros((40, 50)), 3);
    assert_eq!((zero.singular_values, zero.frobenius_norm), (vec![0.0; 3], 0.0));
    let failing = |_, _| Err::<Array2<f64>, _>("gone");
    let found = singular_values_by_gram([9, 5], &failing, GO_ON);
    assert_eq!(found, Err(Stopped::Block("gone")));
}

#[test]
fn cancelling_is_asked_often_and_obeyed_at_once() {
    let matrix = normal(3, 400, 420);
    let block = |rows, cols| Ok::<_, ()>(matrix.slice(s![rows, cols]).to_owned());
    let asked = AtomicUsize::new(0);
    let count = || {
        asked.fetch_add(1, Ordering::Relaxed);
        false
    };
    singular_values_by_gram([400, 420], &block, &count).unwrap();
    let in_all = asked.load(Ordering::Relaxed);
    assert!(in_all > 200, "asked {in_all} times");
    for k in [0, 1, in_all / 4, in_all / 2, in_all - 5] {
        let asked = AtomicUsize::new(0);
        let after = || asked.fetch_add(1, Ordering::Relaxed) >= k;
        let begun = Instant::now();
        let found = singular_values_by_gram([400, 420], &block, &after);
        assert_eq!(found, Err(Stopped::Cancelled), "after {k} of {in_all} questions");
        if k == 0 {
            assert!(begun.elapsed() < Duration::from_millis(200));
        }
        // Every tile that was to be worked on may ask once more.
        let more = asked.load(Ordering::Relaxed) - k;
        assert!(more < 50, "{more} questions after the answer");
    }
    let estimate = estimate_leading([400, 420], 8, &block, &|| true);
    assert_eq!(estimate, Err(Stopped::Cancelled));
}

#[test]
fn estimates_are_close_where_the_spectrum_falls_and_never_above() {
    let (rows, cols) = (180, 260);
    let falling: Vec<f64> = (0..rows).map(|i| 0.9_f64.powi(i as i32)).collect();
    let estimate = estimated(&with_singular_values(&falling, rows, cols), 20);
    assert_eq!(estimate.singular_values.len(), 20);
    for (value, wanted) in estimate.singular_values.iter().zip(&falling) {
        assert!(*value <= wanted * (1.0 + 1e-12), "{value} above {wanted}");
        assert!(*value > wanted * 0.99, "{value} for {wanted}");
    }
    let squares: f64 = falling.iter().map(|s| s * s).sum();
    assert!((estimate.frobenius_norm - squares.sqrt()).abs() < 1e-12 * squares.sqrt());
    // Noise, the worst case: some percent below.
    let noise = normal(8, rows, cols);
    let exact = singular_values_f64(noise.view()).unwrap();
    let values = estimated(&noise, 10).singular_values;
    assert!(values[0] <= exact[0] && values[0] > 0.85 * exact[0], "{} {}", values[0], exact[0]);
}

#[test]
fn estimates_are_exact_for_few_values_and_the_same_on_any_threads() {
    let low = with_singular_values(&[3.0, 2.0, 1.0], 120, 100);
    for (value, wanted) in estimated(&low, 8).singular_values.iter().zip([3.0, 2.0, 1.0, 0.0]) {
        assert!((value - wanted).abs() < 1e-12, "{value} {wanted}");
    }
    let small = normal(2, 12, 50);
    let exact = singular_values_f64(small.view()).unwrap();
    for (value, wanted) in estimated(&small, 64).singular_values.iter().zip(&exact) {
        assert!((value - wanted).abs() < 1e-12 * exact[0]);
    }
    let matrix = normal(3, 310, 240);
    let one = on_threads(1, || estimated(&matrix, 30));
    assert_eq!(one, on_threads(2, || estimated(&matrix, 30)));
    assert_eq!(one, on_threads(7, || estimated(&matrix, 30)));
}

#[test]
fn energies_and_tails_of_three_four_five() {
    let values = [4.0, 3.0, 0.0];
    assert_eq!(cumulative_energy(&values), [0.64, 1.0, 1.0]);
    assert_eq!(cumulative_energy(&[0.0]), [1.0]);
    assert_eq!(tail_error(&values, 0), 1.0);
    assert!((tail_error(&values, 1) - 0.6).abs() < 1e-15);
    assert_eq!((tail_error(&values, 2), tail_error(&values, 9)), (0.0, 0.0));
    assert_eq!(tail_error(&[0.0], 0), 0.0);
    // The error of the best approximation, against that approximation.
    let matrix = with_singular_values(&[5.0, 2.0, 1.0], 30, 20);
    let error = by_gram(&(&matrix - &with_singular_values(&[5.0], 30, 20)));
    let norm = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>().sqrt();
    let wanted = norm(&error) / norm(&[5.0, 2.0, 1.0]);
    assert!((tail_error(&[5.0, 2.0, 1.0], 1) - wanted).abs() < 1e-12);
}

#[test]
fn edges_of_noise() {
    assert_eq!(marchenko_pastur_edge(16, 9, 2.0), 14.0);
    assert_eq!(marchenko_pastur_lower_edge(16, 9, 2.0), 2.0);
    assert_eq!(marchenko_pastur_lower_edge(9, 16, 2.0), 2.0);
    assert_eq!(above_edge(&[3.0, 2.0, 1.0], 2.0), 1);
}

#[test]
fn small_matrices_are_decomposed_directly() {
    assert!(is_direct(512, 512) && is_direct(1, 1000) && is_direct(0, 0));
    assert!(!is_direct(1024, 1024) && !is_direct(usize::MAX, 2));
    assert!(gram_bytes(4096, 11_008) < 200 << 20, "{}", gram_bytes(4096, 11_008));
}
