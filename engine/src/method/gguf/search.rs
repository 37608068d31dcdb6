//! The scale of least Σ w(x − x̂)² for the values of every run of a block.
//!
//! Tried are steps near the one that spans the values; for each the codes are found and the scale fitted to them
//! by least squares, as llama.cpp does. The runs of a block stand side by side in the lanes of a vector, each by itself:
//! no sum goes across lanes, so that what is found does not depend on the processor.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use crate::encoding::IQ4_LEVELS;
use crate::numeric::vector;

/// Weights of a super-block.
pub(super) const SUPER: usize = 256;
/// Weights of a piece: two super-blocks, whose runs are searched side by side, or sixteen blocks.
pub(super) const PIECE: usize = 2 * SUPER;
/// Values of which all are nearer to zero than this are zero.
pub(super) const NOTHING: f32 = 1e-30;
/// Rounds of codes from the fitted scale and a scale from the codes, after the search.
pub(super) const ROUNDS: usize = 2;

/// `N` values of each of `L` runs: the first of all runs, the second of all, …
pub(super) type Lanes<const N: usize, const L: usize> = [[f32; L]; N];

/// How often the squared error of each value counts.
pub(super) trait Weights<const N: usize, const L: usize> {
    /// Of a value of a run.
    fn of(&self, value: usize, run: usize) -> f32;
}

/// Every value counts once.
pub(super) struct Alike;

impl<const N: usize, const L: usize> Weights<N, L> for Alike {
    #[inline(always)]
    fn of(&self, _: usize, _: usize) -> f32 {
        1.0
    }
}

impl<const N: usize, const L: usize> Weights<N, L> for Lanes<N, L> {
    #[inline(always)]
    fn of(&self, value: usize, run: usize) -> f32 {
        self[value][run]
    }
}

/// Runs of `N` values one after the other, side by side; N and L are powers of two.
///
/// The bits of a value's place, those of its run and then those within it, are turned by one until the run's come last: each turn
/// shuffles the two halves into each other, which vectors do, where moving each value by itself would take as long as the search.
#[inline(always)]
pub(super) fn side_by_side<const N: usize, const L: usize>(values: &[f32]) -> Lanes<N, L> {
    let mut lanes = [[0.0; L]; N];
    lanes.as_flattened_mut().copy_from_slice(&values[..N * L]);
    for _ in 0..L.ilog2() {
        let before = lanes;
        let (low, high) = before.as_flattened().split_at(N * L / 2);
        let pairs = lanes.as_flattened_mut().as_chunks_mut::<2>().0;
        for ((pair, &low), &high) in pairs.iter_mut().zip(low).zip(high) {
            *pair = [low, high];
        }
    }
    lanes
}

#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    (value + vector::WHOLE) - vector::WHOLE
}

/// `value`, at least `low` and at most `high`; `low` for what is no number.
#[inline(always)]
pub(super) fn within(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn extremes(x: &[f32]) -> (f32, f32) {
    vector::extremes(x, (f32::INFINITY, f32::NEG_INFINITY))
}

/// Smallest and largest value of every run, with zero among them.
#[inline(always)]
pub(super) fn spans<const N: usize, const L: usize>(x: &Lanes<N, L>) -> ([f32; L], [f32; L]) {
    let (mut low, mut high) = ([0.0; L], [0.0; L]);
    for x in x {
        for s in 0..L {
            low[s] = if x[s] < low[s] { x[s] } else { low[s] };
            high[s] = if x[s] > high[s] { x[s] } else { high[s] };
        }
    }
    (low, high)
}

/// Levels that a code is a whole multiple of, or an entry of a table.
pub(super) trait Grid: Copy {
    /// How many levels the value of largest magnitude is sent to in turn.
    const TARGETS: u8;

    /// The level nearest to `value`.
    fn nearest(&self, value: f32) -> f32;
    /// The number of the level nearest to `value`, from the lowest.
    fn code(&self, value: f32) -> u8;
    /// One of the levels to which the value of largest magnitude is sent.
    fn target(&self, i: u8) -> f32;
}

/// The whole numbers −n … n − 1.
#[derive(Clone, Copy)]
pub(super) struct Whole(pub(super) f32);

impl Grid for Whole {
    const TARGETS: u8 = 19;

    #[inline(always)]
    fn nearest(&self, value: f32) -> f32 {
        within(round(value), -self.0, self.0 - 1.0)
    }

    #[inline(always)]
    fn code(&self, value: f32) -> u8 {
        vector::byte(self.nearest(value) + self.0)
    }

    #[inline(always)]
    fn target(&self, i: u8) -> f32 {
        -self.0 - 0.1 * (f32::from(i) - 9.0)
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
    const TARGETS: u8 = 26;

    #[inline(always)]
    fn nearest(&self, value: f32) -> f32 {
        let mut level = f32::from(IQ4_LEVELS[0]);
        for (middle, step) in IQ4_STEPS {
            level += if value > middle { step } else { 0.0 };
        }
        level
    }

    #[inline(always)]
    fn code(&self, value: f32) -> u8 {
        IQ4_STEPS.iter().map(|&(middle, _)| u8::from(value > middle)).sum()
    }

    #[inline(always)]
    fn target(&self, i: u8) -> f32 {
        let (level, at) = if i < 13 { (-127.0, i) } else { (113.0, i - 13) };
        level + 1.5 * (f32::from(at) - 6.0)
    }
}

/// Scale and minimum of each run, and by how much they lower the error Σwx².
pub(super) struct Fits<const L: usize> {
    pub(super) scale: [f32; L],
    /// Zeros where scales stand alone.
    pub(super) minimum: [f32; L],
    pub(super) gain: [f32; L],
}

impl<const L: usize> Fits<L> {
    /// Those that lower it by so much, of which the better are to be found.
    #[inline(always)]
    pub(super) fn gaining(gain: f32) -> Self {
        Self { scale: [0.0; L], minimum: [0.0; L], gain: [gain; L] }
    }

    /// The better of each.
    #[inline(always)]
    pub(super) fn take(&mut self, other: &Self) {
        for s in 0..L {
            let is_better = other.gain[s] > self.gain[s];
            self.scale[s] = if is_better { other.scale[s] } else { self.scale[s] };
            self.minimum[s] = if is_better { other.minimum[s] } else { self.minimum[s] };
            self.gain[s] = if is_better { other.gain[s] } else { self.gain[s] };
        }
    }
}

/// The best scales for the codes that `inverse` of each gives: they gain (Σwqx)²/Σwq².
#[inline(always)]
fn fitted<const N: usize, const L: usize>(
    x: &Lanes<N, L>,
    w: &impl Weights<N, L>,
    inverse: &[f32; L],
    grid: impl Grid,
) -> Fits<L> {
    let (mut qx, mut qq) = ([0.0; L], [0.0; L]);
    for (v, x) in x.iter().enumerate() {
        for s in 0..L {
            let q = grid.nearest(x[s] * inverse[s]);
            let wq = w.of(v, s) * q;
            qx[s] += wq * x[s];
            qq[s] += wq * q;
        }
    }
    let mut found = Fits::gaining(0.0);
    for s in 0..L {
        let is_some = qq[s] > 0.0;
        found.scale[s] = if is_some { qx[s] / qq[s] } else { 0.0 };
        found.gain[s] = if is_some { qx[s] * qx[s] / qq[s] } else { 0.0 };
    }
    found
}

/// The scale s of least Σ w(x − s·q)² of each run with every q on the grid, as far as the search finds it; 0 for zeros.
#[inline(always)]
pub(super) fn scale<const N: usize, const L: usize>(
    x: &Lanes<N, L>,
    w: &impl Weights<N, L>,
    grid: impl Grid,
) -> [f32; L] {
    let (low, high) = spans(x);
    let mut peak = [0.0; L];
    for s in 0..L {
        peak[s] = if high[s] > -low[s] { high[s] } else { low[s] };
    }
    let mut best = Fits::gaining(0.0);
    for i in 0..targets(grid) {
        let mut inverse = [0.0; L];
        for s in 0..L {
            inverse[s] = grid.target(i) / peak[s];
        }
        best.take(&fitted(x, w, &inverse, grid));
    }
    for _ in 0..ROUNDS {
        best.take(&fitted(x, w, &inverses(&best.scale), grid));
    }
    for (scale, peak) in best.scale.iter_mut().zip(peak) {
        *scale = if peak.abs() < NOTHING { 0.0 } else { *scale };
    }
    best.scale
}

#[inline(always)]
fn targets<G: Grid>(_: G) -> u8 {
    G::TARGETS
}

/// Σ w(x − s·q)² of each run with every q the nearest on the grid.
#[inline(always)]
pub(super) fn error<const N: usize, const L: usize>(
    x: &Lanes<N, L>,
    w: &impl Weights<N, L>,
    scale: &[f32; L],
    grid: impl Grid,
) -> [f32; L] {
    let (inverse, mut error) = (inverses(scale), [0.0; L]);
    for (v, x) in x.iter().enumerate() {
        for s in 0..L {
            let away = x[s] - scale[s] * grid.nearest(x[s] * inverse[s]);
            error[s] += w.of(v, s) * away * away;
        }
    }
    error
}

/// 1/s, or 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale.abs() < NOTHING { 0.0 } else { 1.0 / scale }
}

#[inline(always)]
pub(super) fn inverses<const L: usize>(scale: &[f32; L]) -> [f32; L] {
    let mut inverses = [0.0; L];
    for s in 0..L {
        inverses[s] = inverse(scale[s]);
    }
    inverses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::gguf::offset::{Steps, offset, offset_error};

    /// One run alone.
    fn alone<const N: usize>(x: [f32; N]) -> Lanes<N, 1> {
        x.map(|value| [value])
    }

    #[test]
    fn values_on_a_grid_are_found_exactly() {
        let x: Lanes<32, 1> = std::array::from_fn(|i| [0.25 * ((i % 16) as f32 - 8.0)]);
        assert!((scale(&x, &Alike, Whole(8.0))[0].abs() - 0.25).abs() < 1e-6);
        assert_eq!(error(&x, &Alike, &[0.25], Whole(8.0)), [0.0]);
        let x: Lanes<32, 1> = std::array::from_fn(|i| [0.5 * (i % 16) as f32 - 2.0]);
        let (s, m) = offset(&x, &Alike, Steps { n: 15.0, first: -1.0, count: 21 });
        assert!((s[0] - 0.5).abs() < 1e-5 && (m[0] - 2.0).abs() < 1e-5, "{s:?} {m:?}");
        assert!(offset_error(&x, &Alike, (&s, &m), 15.0).0[0] < 1e-8);
        let x: Lanes<32, 1> = std::array::from_fn(|i| [-0.01 * f32::from(IQ4_LEVELS[i % 16])]);
        assert!((scale(&x, &Alike, Iq4)[0] + 0.01).abs() < 1e-6);
        for (code, &level) in IQ4_LEVELS.iter().enumerate() {
            assert_eq!(usize::from(Iq4.code(f32::from(level))), code);
            assert_eq!(Iq4.nearest(f32::from(level) + 0.4), f32::from(level));
        }
    }

    #[test]
    fn zeros_and_constants_are_exact() {
        assert_eq!(scale(&alone([0.0; 16]), &Alike, Whole(32.0)), [0.0]);
        let steps = Steps { n: 3.0, first: -0.5, count: 16 };
        assert_eq!(offset(&alone([0.0; 16]), &Alike, steps), ([0.0], [0.0]));
        assert_eq!(offset(&alone([-0.75; 16]), &Alike, steps), ([0.0], [0.75]));
        let x = alone([0.75; 16]);
        let (s, m) = offset(&x, &Alike, steps);
        assert!(offset_error(&x, &Alike, (&s, &m), 3.0).0[0] < 1e-12, "{s:?} {m:?}");
    }

    #[test]
    fn weights_move_the_fit_towards_what_counts() {
        let x: Lanes<16, 1> = std::array::from_fn(|i| [((i * 7 % 16) as f32 - 7.3) * 0.1]);
        let mut w = alone([1.0; 16]);
        w[3] = [1000.0];
        let of_third = |scale: [f32; 1]| {
            let q = Whole(4.0).nearest(x[3][0] / scale[0]);
            (x[3][0] - scale[0] * q).abs()
        };
        let weighted = of_third(scale(&x, &w, Whole(4.0)));
        assert!(weighted <= of_third(scale(&x, &Alike, Whole(4.0))));
        assert!(weighted < 1e-3);
    }

    /// Runs side by side are searched as each is alone, zeros and a run of one sign among them.
    #[test]
    fn runs_do_not_touch_each_other() {
        let mut random = crate::numeric::seeds::Random::new(31);
        let mut values: Vec<f32> = (0..256).map(|_| random.normal() as f32).collect();
        values[32..64].fill(0.0);
        values[64..96].iter_mut().for_each(|value| *value = value.abs() + 0.5);
        values[96..128].iter_mut().for_each(|value| *value = -value.abs() - 0.5);
        let weights: Vec<f32> = (0..256).map(|i| (i * 37 % 11) as f32 * 0.3).collect();
        let (x, w) = (side_by_side::<32, 8>(&values), side_by_side::<32, 8>(&weights));
        let steps = Steps { n: 15.0, first: -1.0, count: 21 };
        let (together, pairs) = (scale(&x, &w, Whole(8.0)), offset(&x, &w, steps));
        for run in 0..8 {
            let x = side_by_side::<32, 1>(&values[32 * run..]);
            let w = side_by_side::<32, 1>(&weights[32 * run..]);
            assert_eq!(scale(&x, &w, Whole(8.0))[0], together[run], "scale of {run}");
            let (s, m) = offset(&x, &w, steps);
            assert_eq!((s[0], m[0]), (pairs.0[run], pairs.1[run]), "scale and minimum of {run}");
        }
    }
}
