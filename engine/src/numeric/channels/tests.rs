//! Closed forms and oracles of the sums by channel.

use ndarray::{Array2, array, s};

use super::*;
use crate::numeric::seeds::Random;

fn normal(tokens: usize, channels: usize) -> Array2<f32> {
    let mut random = Random::new(7);
    Array2::from_shape_simple_fn((tokens, channels), || random.normal() as f32)
}

fn of(x: &Array2<f32>) -> Inputs {
    let mut sums = Channels::new(x.ncols());
    sums.add(x.view());
    sums.statistics()
}

#[test]
fn two_points_a_constant_zeros_and_what_is_no_number() {
    let nan = f32::NAN;
    let x = array![
        [-1.0, 2.0, 0.0, nan],
        [1.0, 2.0, 0.0, 3.0],
        [-1.0, 2.0, 0.0, f32::INFINITY],
        [1.0, 2.0, 0.0, -3.0]
    ];
    let found = of(&x);
    assert_eq!(found.tokens, 4);
    assert_eq!(found.mean, [0.0, 2.0, 0.0, 0.0]);
    assert_eq!(found.mean_square, [1.0, 4.0, 0.0, 9.0]);
    assert_eq!(found.absmax, [1.0, 2.0, 0.0, 3.0]);
    assert_eq!((found.kurtosis[0], found.kurtosis[3]), (-2.0, -2.0));
    assert!(found.kurtosis[1].is_nan() && found.kurtosis[2].is_nan());
    assert_eq!(found.not_finite, [0, 0, 0, 2]);
    let whole = found.whole;
    assert_eq!((whole.values, whole.nan, whole.infinite), (14, 1, 1));
    assert_eq!((whole.mean, whole.absmax), (8.0 / 14.0, 3.0));
    assert!((whole.rms - (38.0_f64 / 14.0).sqrt()).abs() < 1e-15);
}

#[test]
fn nothing_at_all() {
    let found = Channels::new(3).statistics();
    assert_eq!((found.tokens, found.mean_square.as_slice()), (0, [0.0; 3].as_slice()));
    assert_eq!((found.whole.values, found.whole.massive_share(), found.whole.rms), (0, 0.0, 0.0));
    assert!(found.convergence.is_empty() && found.change_after(1.0).is_none());
    let mut none = Channels::new(0);
    none.add(Array2::zeros((5, 0)).view());
    assert_eq!(none.statistics().channels(), 0);
}

#[test]
fn normals_have_no_kurtosis_and_their_median_magnitude() {
    let found = of(&normal(4000, 300));
    assert!(found.whole.kurtosis.abs() < 0.02, "{}", found.whole.kurtosis);
    // Φ⁻¹(3/4).
    assert!((found.whole.median_magnitude - 0.674_49).abs() < 0.004);
    assert_eq!((found.whole.massive, found.whole.outliers), (0, 0));
    assert_eq!(outlier_channels(&found.absmax, &found.mean_square), []);
}

#[test]
fn massive_values_and_channels_that_stand_out() {
    let mut x = normal(1000, 64);
    x[[3, 5]] = -1500.0;
    x[[700, 5]] = 90.0;
    x.column_mut(9).mapv_inplace(|value| 50.0 * value);
    let found = of(&x);
    assert_eq!(found.whole.massive, 1);
    assert_eq!(found.whole.massive_share(), 1.0 / 64_000.0);
    let limit = 6.0 * found.whole.rms as f32;
    let outliers = x.iter().filter(|value| value.abs() > limit).count() as u64;
    assert!(outliers > 5 && found.whole.outliers.abs_diff(outliers) <= 2, "{outliers}");
    let channels = outlier_channels(&found.absmax, &found.mean_square);
    let named: Vec<_> = channels.iter().map(|found| (found.channel, found.stands_out)).collect();
    assert_eq!(named, [(9, StandsOut::Both), (5, StandsOut::Both)]);
    // The same tokens without the large one: the peak alone is left.
    x[[3, 5]] = 0.0;
    x[[700, 5]] = 40.0;
    let found = of(&x);
    let channels = outlier_channels(&found.absmax, &found.mean_square);
    assert_eq!((channels[1].channel, channels[1].stands_out), (5, StandsOut::Peak));
}

#[test]
fn cuts_and_threads_change_no_bit_and_merging_adds() {
    let x = normal(2500, 300);
    let run = |threads: usize, step: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut sums = Channels::new(300);
            x.axis_chunks_iter(Axis(0), step).for_each(|piece| sums.add(piece));
            sums
        })
    };
    let (one, two) = (run(1, 100), run(2, 100));
    assert_eq!(one, two);
    let whole = run(2, 2500);
    assert_eq!((one.sums.clone(), &one.magnitudes), (whole.sums.clone(), &whole.magnitudes));
    let (mut first, mut second) = (Channels::new(300), Channels::new(300));
    first.add(x.slice(s![..1000, ..]));
    second.add(x.slice(s![1000.., ..]));
    first.merge(&second);
    let (merged, whole) = (first.statistics(), whole.statistics());
    assert_eq!((merged.tokens, &merged.absmax), (whole.tokens, &whole.absmax));
    for (a, b) in merged.mean_square.iter().zip(&whole.mean_square) {
        assert!((a - b).abs() <= 1e-6 * b);
    }
    assert_eq!(merged.whole.median_magnitude, whole.whole.median_magnitude);
}

#[test]
fn convergence_falls_as_one_over_the_root_and_keeps_few_points() {
    let x = normal(6400, 50);
    let mut sums = Channels::new(50);
    x.axis_chunks_iter(Axis(0), 64).for_each(|piece| sums.add(piece));
    let found = sums.statistics();
    let points = &found.convergence;
    assert!((8..=MOST_SNAPSHOTS).contains(&points.len()), "{}", points.len());
    let spacing = points[1].tokens - points[0].tokens;
    assert!(points.windows(2).all(|pair| pair[1].tokens - pair[0].tokens == spacing));
    // √(2/k)·√(1 − k/n): 4 % after a tenth or so.
    let early = found.change_after(0.15).unwrap();
    assert!((0.02..0.08).contains(&early), "{early}");
    assert!(found.change_after(0.95).unwrap() < early / 2.0);
    assert!(found.change_after(0.001).is_none());
    let constant = of(&Array2::ones((10, 2)));
    assert_eq!(constant.convergence, [Convergence { tokens: 10, change: 0.0 }]);
}
