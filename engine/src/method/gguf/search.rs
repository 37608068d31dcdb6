//! The scale, and the minimum, of least Σ w(x − x̂)² for a few values of a block.
//!
//! Tried are steps near the one that spans the values; for each the codes are found and scale and minimum fitted to
//! them by least squares, as llama.cpp does. Sums run in eight lanes added in one order.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use std::cmp::Ordering;

use crate::encoding::IQ4_LEVELS;
use crate::numeric::vector;

/// Values of which all are nearer to zero than this are zero.
pub(super) const NOTHING: f32 = 1e-30;
/// Rounds of codes from the fitted scale and a scale from the codes, after the search.
const ROUNDS: usize = 2;
/// Adding and subtracting it rounds |v| < 2²² to a whole number, ties to even.
const WHOLE: f32 = 12_582_912.0;

/// Eight sums.
type Lanes = [f32; 8];

#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    (value + WHOLE) - WHOLE
}

#[inline(always)]
fn add(lanes: Lanes) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Σ of `term(x, w)` over values and weights.
#[inline(always)]
fn sum(x: &[f32], w: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for i in 0..8 {
            lanes[i] += term(x[i], w[i]);
        }
    }
    add(lanes)
}

/// The value of largest magnitude with its sign, the first of several.
#[inline(always)]
pub(super) fn peak(x: &[f32]) -> f32 {
    let (low, high) = vector::extremes(x, (0.0, 0.0));
    match high.total_cmp(&-low) {
        Ordering::Greater => high,
        Ordering::Less => low,
        Ordering::Equal => x.iter().copied().find(|value| value.abs() == high).unwrap_or(0.0),
    }
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn extremes(x: &[f32]) -> (f32, f32) {
    vector::extremes(x, (f32::INFINITY, f32::NEG_INFINITY))
}

/// Levels that a code is a whole multiple of, or an entry of a table.
pub(super) trait Grid {
    /// The level nearest to `value`.
    fn nearest(&self, value: f32) -> f32;
    /// The levels to which the value of largest magnitude is sent in turn.
    fn targets(&self) -> impl Iterator<Item = f32>;
}

/// The whole numbers −n … n − 1.
#[derive(Clone, Copy)]
pub(super) struct Whole(pub(super) f32);

impl Grid for Whole {
    #[inline(always)]
    fn nearest(&self, value: f32) -> f32 {
        round(value).max(-self.0).min(self.0 - 1.0)
    }

    #[inline(always)]
    fn targets(&self) -> impl Iterator<Item = f32> {
        let n = self.0;
        (-9..=9_i8).map(move |step| -n - 0.1 * f32::from(step))
    }
}

/// The levels of IQ4.
#[derive(Clone, Copy)]
pub(super) struct Iq4;

/// Half-way between the levels of IQ4, and the way from each level to the next.
const IQ4_STEPS: [(f32, f32); 15] = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (low, high) = (IQ4_LEVELS[i] as f32, IQ4_LEVELS[i + 1] as f32);
        steps[i] = (f32::midpoint(low, high), high - low);
        i += 1;
    }
    steps
};

impl Grid for Iq4 {
    #[inline(always)]
    fn nearest(&self, value: f32) -> f32 {
        let mut level = f32::from(IQ4_LEVELS[0]);
        for (middle, step) in IQ4_STEPS {
            level += if value > middle { step } else { 0.0 };
        }
        level
    }

    #[inline(always)]
    fn targets(&self) -> impl Iterator<Item = f32> {
        let near = |level: f32| (-6..=6_i8).map(move |step| level + 1.5 * f32::from(step));
        near(-127.0).chain(near(113.0))
    }
}

/// The code of the level of IQ4 nearest to `value`.
#[inline(always)]
pub(super) fn iq4_code(value: f32) -> u8 {
    IQ4_STEPS.iter().map(|&(middle, _)| u8::from(value > middle)).sum()
}

/// The best scale for the codes that 1/s gives, and by how much it lowers the error Σwx²: by (Σwqx)²/Σwq².
#[inline(always)]
fn fitted(x: &[f32], w: &[f32], inverse: f32, grid: &impl Grid) -> (f32, f32) {
    let (mut qx, mut qq) = ([0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for i in 0..8 {
            let q = grid.nearest(x[i] * inverse);
            qx[i] += w[i] * q * x[i];
            qq[i] += w[i] * q * q;
        }
    }
    let (qx, qq) = (add(qx), add(qq));
    if qq > 0.0 { (qx / qq, qx * qx / qq) } else { (0.0, 0.0) }
}

/// The scale s of least Σ w(x − s·q)² with every q on the grid, as far as the search finds it; 0 for zeros.
#[inline(always)]
pub(super) fn scale(x: &[f32], w: &[f32], grid: impl Grid) -> f32 {
    let peak = peak(x);
    if peak.abs() < NOTHING {
        return 0.0;
    }
    let (mut best, mut gain) = (0.0, 0.0);
    for target in grid.targets() {
        let found = fitted(x, w, target / peak, &grid);
        if found.1 > gain {
            (best, gain) = found;
        }
    }
    for _ in 0..ROUNDS {
        let found = fitted(x, w, inverse(best), &grid);
        if found.1 <= gain {
            break;
        }
        (best, gain) = found;
    }
    best
}

/// Steps tried by [`offset`]: the span of the values in n + `first`, n + `first` + 0.1, … parts.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// Largest code.
    pub(super) n: f32,
    /// Where the search begins.
    pub(super) first: f32,
    /// How many are tried.
    pub(super) count: u8,
}

/// Scale and minimum that fit the codes round((x − low)/s) best, and by how much they lower the error Σwx²: by
/// s·Σwqx − m·Σwx.
#[inline(always)]
fn fitted_offset(
    (x, w): (&[f32], &[f32]),
    (sum_w, sum_x): (f32, f32),
    (low, inverse): (f32, f32),
    n: f32,
) -> ((f32, f32), f32) {
    let (mut q1, mut q2, mut qx) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for i in 0..8 {
            let q = round((x[i] - low) * inverse).max(0.0).min(n);
            let wq = w[i] * q;
            q1[i] += wq;
            q2[i] += wq * q;
            qx[i] += wq * x[i];
        }
    }
    let (q1, q2, qx) = (add(q1), add(q2), add(qx));
    let d = sum_w * q2 - q1 * q1;
    let (s, m) = ((sum_w * qx - sum_x * q1) / d, (q1 * qx - q2 * sum_x) / d);
    match (d > 0.0 && s > 0.0, m >= 0.0) {
        (true, true) => ((s, m), s * qx - m * sum_x),
        _ if q2 > 0.0 && qx > 0.0 => ((qx / q2, 0.0), qx * qx / q2),
        _ => ((0.0, 0.0), f32::NEG_INFINITY),
    }
}

/// Scale s ≥ 0 and minimum m ≥ 0 of least Σ w(x − (s·q − m))², q = 0 … n, as far as the search finds them.
#[inline(always)]
pub(super) fn offset(x: &[f32], w: &[f32], steps: Steps) -> (f32, f32) {
    let (low, high) = extremes(x);
    let low = low.min(0.0);
    if high - low < NOTHING {
        return (0.0, if low > -NOTHING { 0.0 } else { -low });
    }
    let (sum_w, sum_x) = (sum(x, w, |_, w| w), sum(x, w, |x, w| w * x));
    let sums = (sum_w, sum_x);
    let (mut best, mut gain) = (((high - low) / steps.n, -low), f32::NEG_INFINITY);
    for step in 0..steps.count {
        let parts = steps.n + steps.first + 0.1 * f32::from(step);
        let found = fitted_offset((x, w), sums, (low, parts / (high - low)), steps.n);
        if found.1 > gain {
            (best, gain) = found;
        }
    }
    for _ in 0..ROUNDS {
        let found = fitted_offset((x, w), sums, (-best.1, 1.0 / best.0), steps.n);
        if found.1 <= gain {
            break;
        }
        (best, gain) = found;
    }
    best
}

/// Σ w(x − s·q)² with every q the nearest on the grid.
#[inline(always)]
pub(super) fn error(x: &[f32], w: &[f32], scale: f32, grid: impl Grid) -> f32 {
    let inverse = inverse(scale);
    sum(x, w, |x, w| {
        let away = x - scale * grid.nearest(x * inverse);
        w * away * away
    })
}

/// 1/s, or 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale.abs() < NOTHING { 0.0 } else { 1.0 / scale }
}

/// Σ w(x − (s·q − m))² with every q the nearest of 0 … n.
#[inline(always)]
pub(super) fn offset_error(x: &[f32], w: &[f32], (scale, minimum): (f32, f32), n: f32) -> f32 {
    let inverse = inverse(scale);
    sum(x, w, |x, w| {
        let q = round((x + minimum) * inverse).max(0.0).min(n);
        let away = x - (scale * q - minimum);
        w * away * away
    })
}

/// The minimum m of least Σ w(x − (s·q − m))² with the codes that s and `minimum` give.
#[inline(always)]
pub(super) fn fitted_minimum(x: &[f32], w: &[f32], (scale, minimum): (f32, f32), n: f32) -> f32 {
    let inverse = inverse(scale);
    let away = sum(x, w, |x, w| {
        let q = round((x + minimum) * inverse).max(0.0).min(n);
        w * (scale * q - x)
    });
    away / sum(x, w, |_, w| w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_on_a_grid_are_found_exactly() {
        let w = [1.0; 32];
        let x: [f32; 32] = std::array::from_fn(|i| 0.25 * ((i % 16) as f32 - 8.0));
        assert!((scale(&x, &w, Whole(8.0)).abs() - 0.25).abs() < 1e-6);
        assert_eq!(error(&x, &w, 0.25, Whole(8.0)), 0.0);
        let x: [f32; 32] = std::array::from_fn(|i| 0.5 * (i % 16) as f32 - 2.0);
        let (s, m) = offset(&x, &w, Steps { n: 15.0, first: -1.0, count: 21 });
        assert!((s - 0.5).abs() < 1e-5 && (m - 2.0).abs() < 1e-5, "{s} {m}");
        assert!(offset_error(&x, &w, (s, m), 15.0) < 1e-8);
        let x: [f32; 32] = std::array::from_fn(|i| -0.01 * f32::from(IQ4_LEVELS[i % 16]));
        assert!((scale(&x, &w, Iq4) + 0.01).abs() < 1e-6);
        for (code, &level) in IQ4_LEVELS.iter().enumerate() {
            assert_eq!(usize::from(iq4_code(f32::from(level))), code);
            assert_eq!(Iq4.nearest(f32::from(level) + 0.4), f32::from(level));
        }
    }

    #[test]
    fn zeros_and_constants_are_exact() {
        let w = [1.0; 16];
        assert_eq!(scale(&[0.0; 16], &w, Whole(32.0)), 0.0);
        let steps = Steps { n: 3.0, first: -0.5, count: 16 };
        assert_eq!(offset(&[0.0; 16], &w, steps), (0.0, 0.0));
        assert_eq!(offset(&[-0.75; 16], &w, steps), (0.0, 0.75));
        let (s, m) = offset(&[0.75; 16], &w, steps);
        assert!(offset_error(&[0.75; 16], &w, (s, m), 3.0) < 1e-12, "{s} {m}");
    }

    #[test]
    fn weights_move_the_fit_towards_what_counts() {
        let x: [f32; 16] = std::array::from_fn(|i| ((i * 7 % 16) as f32 - 7.3) * 0.1);
        let mut w = [1.0; 16];
        w[3] = 1000.0;
        let of_third = |scale: f32| {
            let q = Whole(4.0).nearest(x[3] / scale);
            (x[3] - scale * q).abs()
        };
        assert!(of_third(scale(&x, &w, Whole(4.0))) <= of_third(scale(&x, &[1.0; 16], Whole(4.0))));
        assert!(of_third(scale(&x, &w, Whole(4.0))) < 1e-3);
    }
}
