//! What the inputs of a layer are like, channel by channel and as a whole, summed over tokens as they come.
//!
//! Every channel is summed by one thread in the order of the tokens, in f64, so that the sums depend neither on the
//! number of threads nor on how the tokens were cut into calls. Values that are NaN or infinite are counted and
//! left out.

mod outliers;

use ndarray::{ArrayView2, Axis, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};
use serde::{Deserialize, Serialize};

pub use outliers::{
    OutlierChannel, STANDS_OUT_DEVIATIONS, STANDS_OUT_MEDIANS, StandsOut, outlier_channels,
};

/// Channels that one thread sums.
const STRIP: usize = 128;
/// Bins of magnitudes: the upper 15 bits below the sign, so that a bin is at most 1/128 of its value wide.
const BINS: usize = 1 << 15;
/// Tokens whose magnitudes one thread counts.
const COUNTED_TOKENS: usize = 512;
/// Means kept on the way, at most; every second goes when there are more.
const MOST_SNAPSHOTS: usize = 16;

/// A massive activation is larger than this in magnitude, and …
pub const MASSIVE_MAGNITUDE: f64 = 100.0;
/// … larger than so many times the median magnitude of the layer's input (Sun, Chen, Kolter & Liu 2024).
pub const MASSIVE_MEDIANS: f64 = 1000.0;
/// An outlier is larger in magnitude than so many times the root mean square of the layer's input.
pub const OUTLIER_RMS: f64 = 6.0;
/// The running sums of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// Σx, Σx², Σx³, Σx⁴ of the finite values.
    powers: [f64; 4],
    largest: f32,
    nan: u64,
    infinite: u64,
}

impl Sums {
    fn add(&mut self, value: f32) {
        if !value.is_finite() {
            self.nan += u64::from(value.is_nan());
            self.infinite += u64::from(!value.is_nan());
            return;
        }
        let x = f64::from(value);
        let square = x * x;
        let [sum, squares, cubes, fourths] = &mut self.powers;
        *sum += x;
        *squares += square;
        *cubes += square * x;
        *fourths += square * square;
        self.largest = self.largest.max(value.abs());
    }

    fn merge(&mut self, other: &Self) {
        for (power, other) in self.powers.iter_mut().zip(other.powers) {
            *power += other;
        }
        self.largest = self.largest.max(other.largest);
        self.nan += other.nan;
        self.infinite += other.infinite;
    }

    /// Excess kurtosis of `n` values with these sums, n·m₄/m₂² − 3 about the mean; NaN where all are equal.
    fn kurtosis(&self, n: f64) -> f64 {
        let [m1, m2, m3, m4] = self.powers.map(|power| power / n);
        let variance = m2 - m1 * m1;
        // What rounding leaves of a constant.
        if variance <= 8.0 * f64::EPSILON * m2 {
            return f64::NAN;
        }
        let fourth = m4 - 4.0 * m1 * m3 + 6.0 * m1 * m1 * m2 - 3.0 * m1.powi(4);
        fourth / (variance * variance) - 3.0
    }
}

/// The mean squares after some of the tokens.
#[derive(Clone, Debug, PartialEq)]
struct Snapshot {
    tokens: u64,
    squares: Vec<f32>,
}

/// Running sums of a layer's inputs: 64 bytes a channel, 256 KiB, and at most 64 bytes a channel for the means on
/// the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    tokens: u64,
    sums: Vec<Sums>,
    /// Finite values by magnitude; empty before the first token.
    magnitudes: Vec<u64>,
    snapshots: Vec<Snapshot>,
    /// Calls from one snapshot to the next, and calls so far.
    stride: u64,
    calls: u64,
}

impl Channels {
    /// No tokens yet.
    pub fn new(channels: usize) -> Self {
        let sums = vec![Sums::default(); channels];
        Self { tokens: 0, sums, magnitudes: vec![], snapshots: vec![], stride: 1, calls: 0 }
    }

    /// Adds the tokens of `x`, `[tokens, channels]`. The end of a call is a point of the convergence.
    ///
    /// # Panics
    /// If the number of channels differs.
    pub fn add(&mut self, x: ArrayView2<'_, f32>) {
        assert_eq!(x.ncols(), self.sums.len(), "channels of the sums");
        if x.is_empty() {
            return;
        }
        self.sums.par_chunks_mut(STRIP).enumerate().for_each(|(strip, sums)| {
            let first = strip * STRIP;
            for row in x.slice(s![.., first..first + sums.len()]).rows() {
                for (sums, value) in sums.iter_mut().zip(row) {
                    sums.add(*value);
                }
            }
        });
        self.count(x);
        self.tokens += x.nrows() as u64;
        self.calls += 1;
        if self.calls.is_multiple_of(self.stride) {
            self.snapshot();
        }
    }
    /// Counts magnitudes.
    fn count(&mut self, x: ArrayView2<'_, f32>) {
        let of = |piece: ArrayView2<'_, f32>| {
            let mut counts = vec![0_u32; BINS];
            for value in piece.iter().filter(|value| value.is_finite()) {
                counts[bin(value.abs())] += 1;
            }
            counts
        };
        // So many bins are worth clearing for many values only; whole numbers add up to the same in any order.
        let pieces: Vec<_> = x.axis_chunks_iter(Axis(0), COUNTED_TOKENS).collect();
        let counted: Vec<Vec<u32>> = pieces.into_par_iter().map(of).collect();
        self.magnitudes.resize(BINS, 0);
        for counts in counted {
            for (all, count) in self.magnitudes.iter_mut().zip(counts) {
                *all += u64::from(count);
            }
        }
    }

    fn snapshot(&mut self) {
        let squares = self.mean_squares().iter().map(|&mean| mean as f32).collect();
        self.snapshots.push(Snapshot { tokens: self.tokens, squares });
        if self.snapshots.len() > MOST_SNAPSHOTS {
            let mut at = 0;
            self.snapshots.retain(|_| {
                at += 1;
                at % 2 == 0
            });
            self.stride *= 2;
        }
    }

    /// Adds the tokens of another sum, which came after these. Points of the convergence stay those of this one.
    ///
    /// # Panics
    /// If the number of channels differs.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(other.sums.len(), self.sums.len(), "channels of the sums");
        for (sums, other) in self.sums.iter_mut().zip(&other.sums) {
            sums.merge(other);
        }
        self.magnitudes.resize(BINS, 0);
        for (count, other) in self.magnitudes.iter_mut().zip(&other.magnitudes) {
            *count += other;
        }
        self.tokens += other.tokens;
        self.calls += other.calls;
    }

    /// Tokens added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.sums.len()
    }

    /// Finite values of a channel.
    fn finite(&self, sums: &Sums) -> f64 {
        (self.tokens - sums.nan - sums.infinite) as f64
    }

    /// Σx²/n of each channel; 0 where there is no value.
    fn mean_squares(&self) -> Vec<f64> {
        self.sums.iter().map(|sums| sums.powers[1] / self.finite(sums).max(1.0)).collect()
    }

    /// What the tokens so far say. Costs a few operations a channel and point of the convergence.
    pub fn statistics(&self) -> Inputs {
        let by = |value: &dyn Fn(&Sums, f64) -> f64| -> Vec<f32> {
            self.sums.iter().map(|sums| value(sums, self.finite(sums)) as f32).collect()
        };
        Inputs {
            tokens: self.tokens,
            mean: by(&|sums, n| sums.powers[0] / n.max(1.0)),
            mean_square: by(&|sums, n| sums.powers[1] / n.max(1.0)),
            absmax: self.sums.iter().map(|sums| sums.largest).collect(),
            kurtosis: by(&|sums, n| sums.kurtosis(n)),
            not_finite: self.sums.iter().map(|sums| sums.nan + sums.infinite).collect(),
            whole: self.whole(),
            convergence: self.convergence(),
        }
    }

    fn whole(&self) -> Whole {
        let mut all = Sums::default();
        self.sums.iter().for_each(|sums| all.merge(sums));
        let values: u64 = self.magnitudes.iter().sum();
        let n = (values as f64).max(1.0);
        let rms = (all.powers[1] / n).sqrt();
        let median = self.median(values);
        Whole {
            values,
            nan: all.nan,
            infinite: all.infinite,
            mean: all.powers[0] / n,
            rms,
            absmax: all.largest,
            kurtosis: all.kurtosis(n),
            median_magnitude: median,
            massive: self.above(MASSIVE_MAGNITUDE.max(MASSIVE_MEDIANS * median)),
            outliers: self.above(OUTLIER_RMS * rms),
        }
    }

    /// The middle of the bin that holds the median magnitude: within 1/256 of it. 0 without values.
    fn median(&self, values: u64) -> f64 {
        let mut below = 0;
        let holds = |count: &u64| {
            below += count;
            2 * below >= values
        };
        match self.magnitudes.iter().position(holds) {
            Some(bin) if values > 0 && bin > 0 => 0.5 * (edge(bin) + edge(bin + 1)),
            _ => 0.0,
        }
    }

    /// Values in the bins that lie above `magnitude` entirely.
    fn above(&self, magnitude: f64) -> u64 {
        let first = self.magnitudes.len().min(bin(magnitude as f32) + 1);
        self.magnitudes[first..].iter().sum()
    }

    fn convergence(&self) -> Vec<Convergence> {
        let end = self.mean_squares();
        let norm: f64 = end.iter().map(|s| s * s).sum();
        let change = |snapshot: &Snapshot| {
            let pairs = snapshot.squares.iter().zip(&end);
            let apart: f64 =
                pairs.map(|(&s, end)| (f64::from(s) - f64::from(*end as f32)).powi(2)).sum();
            let change = if apart == 0.0 { 0.0 } else { (apart / norm).sqrt() };
            Convergence { tokens: snapshot.tokens, change }
        };
        self.snapshots.iter().map(change).collect()
    }
}

/// The bin of a finite magnitude.
fn bin(magnitude: f32) -> usize {
    (magnitude.to_bits() >> 16) as usize
}

/// The smallest magnitude of a bin.
fn edge(bin: usize) -> f64 {
    f64::from(f32::from_bits((bin as u32) << 16))
}

/// A point of the convergence of the mean squares s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Convergence {
    /// Tokens so far.
    pub tokens: u64,
    /// ‖s − t‖ / ‖t‖, with s after so many tokens and t after all.
    pub change: f64,
}

/// The inputs of a layer, all channels together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whole {
    /// Finite values.
    pub values: u64,
    /// Values that are NaN.
    pub nan: u64,
    /// Values that are infinite.
    pub infinite: u64,
    /// Mean.
    pub mean: f64,
    /// Root mean square.
    pub rms: f64,
    /// Largest magnitude.
    pub absmax: f32,
    /// Excess kurtosis about the mean; NaN where all values are equal.
    pub kurtosis: f64,
    /// Median magnitude, to 1/256.
    pub median_magnitude: f64,
    /// Values larger in magnitude than [`MASSIVE_MAGNITUDE`] and than [`MASSIVE_MEDIANS`] medians; those within
    /// 1/128 above that are not counted.
    pub massive: u64,
    /// Values larger in magnitude than [`OUTLIER_RMS`] times the root mean square, to 1/128 as well.
    pub outliers: u64,
}

impl Whole {
    /// `count` as a share of the values; 0 without values.
    fn share(&self, count: u64) -> f64 {
        if self.values == 0 { 0.0 } else { count as f64 / self.values as f64 }
    }

    /// Share of the values that are massive.
    pub fn massive_share(&self) -> f64 {
        self.share(self.massive)
    }

    /// Share of the values that are outliers.
    pub fn outlier_share(&self) -> f64 {
        self.share(self.outliers)
    }
}

/// What the inputs of a layer are like; every list has one entry a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// Tokens seen.
    pub tokens: u64,
    /// Means.
    pub mean: Vec<f32>,
    /// Means of the squares, E\[x²\].
    pub mean_square: Vec<f32>,
    /// Largest magnitudes.
    pub absmax: Vec<f32>,
    /// Excess kurtoses; NaN where all values are equal.
    pub kurtosis: Vec<f32>,
    /// Values that are NaN or infinite; none of the other numbers counts them.
    pub not_finite: Vec<u64>,
    /// All channels together.
    pub whole: Whole,
    /// How the mean squares settled, up to 17 points.
    pub convergence: Vec<Convergence>,
}

impl Inputs {
    /// Mean squares measured elsewhere, over so many tokens; every other list is empty, and all channels together
    /// have their root mean square alone.
    pub fn of_mean_squares(tokens: u64, mean_square: Vec<f32>) -> Self {
        let sum: f64 = mean_square.iter().map(|&square| f64::from(square)).sum();
        let whole = Whole {
            values: tokens.saturating_mul(mean_square.len() as u64),
            nan: 0,
            infinite: 0,
            mean: f64::NAN,
            rms: (sum / mean_square.len().max(1) as f64).sqrt(),
            absmax: f32::NAN,
            kurtosis: f64::NAN,
            median_magnitude: f64::NAN,
            massive: 0,
            outliers: 0,
        };
        let (mean, absmax, kurtosis) = (vec![], vec![], vec![]);
        let (not_finite, convergence) = (vec![], vec![]);
        Self { tokens, mean, mean_square, absmax, kurtosis, not_finite, whole, convergence }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.mean_square.len()
    }

    /// Root mean square of each channel.
    pub fn rms(&self) -> Vec<f64> {
        self.mean_square.iter().map(|&square| f64::from(square).sqrt()).collect()
    }

    /// How far the mean squares after at most `share` of the tokens were from those of all; `None` without a point
    /// that early.
    pub fn change_after(&self, share: f64) -> Option<f64> {
        let limit = share * self.tokens as f64;
        let mut early = self.convergence.iter().filter(|point| point.tokens as f64 <= limit);
        early.next_back().map(|point| point.change)
    }
}

#[cfg(test)]
mod tests;
