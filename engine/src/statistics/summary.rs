//! Moments, extremes, outliers and histogram of one tensor.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::numeric::distributions::Distribution;
use crate::numeric::histogram::Histogram;
use crate::numeric::moments::{Central, Extent};
use crate::observer::Observer;
use crate::statistics::Cached;
use crate::statistics::bits::{self, Bits};
use crate::statistics::sample::{Sample, chunks};
use crate::tensor::for_each_f64;

/// Bins of the histogram.
pub const HISTOGRAM_BINS: usize = 256;
/// The histogram ends at this many standard deviations from the mean, or at the extremes if they are nearer.
pub const HISTOGRAM_STDS: f64 = 8.0;
/// A weight further than this many standard deviations from the mean is an outlier.
pub const OUTLIER_STDS: f64 = 6.0;

/// A weight further than this many standard deviations from the mean is a super-weight.
pub const SUPER_WEIGHT_STDS: f64 = 50.0;
/// Super-weights that are listed by place; all are counted.
pub const MAX_SUPER_WEIGHTS: usize = 100;

/// A single weight of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Its place in the tensor as stored, row-major.
    pub index: u64,
    /// Its value.
    pub value: f64,
}

/// What a tensor is made of. Moments are those of the finite values; NaN where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Finite values.
    pub finite: u64,
    /// NaN values.
    pub nan: u64,
    /// Values of +∞.
    pub positive_infinity: u64,
    /// Values of −∞.
    pub negative_infinity: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Largest |w|.
    pub abs_max: f64,
    /// Excess kurtosis: 0 for a normal, 3 for a Laplace distribution; NaN where all values are equal.
    pub kurtosis: f64,
    /// Mean absolute deviation Σ|w − mean|/n: the scale of a Laplace distribution fitted to the values.
    pub mean_abs_deviation: f64,
    /// Share of values with |w − mean| > 6 std.
    pub outlier_fraction: f64,
    /// Number of values with |w − mean| > 50 std.
    pub super_weight_count: u64,
    /// The first of them, at most 100, in the order of the tensor.
    pub super_weights: Vec<Weight>,
    /// Share of values that are zero.
    pub zeros: f64,
    /// Histogram within 8 standard deviations of the mean.
    pub histogram: Histogram,
    /// Entropy of the bit planes; `None` for tensors that hold no floats.
    pub bits: Option<Bits>,
}

impl Statistics {
    /// NaN and infinite values.
    pub fn non_finite(&self) -> u64 {
        self.nan + self.positive_infinity + self.negative_infinity
    }

    /// The normal distribution of the same mean and standard deviation: the one of greatest likelihood.
    pub fn normal(&self) -> Distribution {
        Distribution::Normal { mean: self.mean, std: self.std }
    }

    /// The Laplace distribution around the mean whose scale is the mean absolute deviation.
    pub fn laplace(&self) -> Distribution {
        Distribution::Laplace { mean: self.mean, scale: self.mean_abs_deviation }
    }

    /// How far the histogram is from a distribution: the total variation ½Σ|p − q| over its readable bins and both tails,
    /// 0 for the same to 1 for nothing in common.
    pub fn distance(&self, distribution: Distribution) -> f64 {
        let histogram = self.histogram.readable();
        let n = histogram.total() as f64;
        let edge = |i: usize| histogram.low + i as f64 * histogram.width();
        let below = |i: usize| distribution.cumulative(edge(i));
        let tails = [
            (histogram.underflow, below(0)),
            (histogram.overflow, 1.0 - below(histogram.counts.len())),
        ];
        let bins = histogram.counts.iter().enumerate();
        let bins = bins.map(|(i, &count)| (count, below(i + 1) - below(i)));
        0.5 * bins.chain(tails).map(|(count, q)| (count as f64 / n - q).abs()).sum::<f64>()
    }
}

impl Cached for Statistics {
    const KIND: &'static str = "statistics";
    /// One more whenever a field or the way it is computed changes.
    const VERSION: u32 = 2;
}

/// Measures tensor `index`: about the time of reading it, four times over for elements of more than 16 bits.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for element types that are no numbers,
/// [`Error::Io`](crate::Error::Io) if the file has become shorter, [`Error::Cancelled`](crate::Error::Cancelled)
/// within a chunk of 2¹⁸ elements.
pub fn measure(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
) -> Result<Statistics> {
    let tensor = &checkpoint.tensors()[index];
    let sample = Sample::new(checkpoint, tensor, observer)?;
    let mut statistics = moments(&sample)?;
    statistics.bits = bits::measure(&sample, tensor.dtype)?;
    let reach = (statistics.max - statistics.mean).max(statistics.mean - statistics.min);
    if reach > SUPER_WEIGHT_STDS * statistics.std {
        find_super_weights(checkpoint, index, observer, &mut statistics)?;
    }
    Ok(statistics)
}

/// The last pass over a sample.
struct Tails {
    outliers: u64,
    histogram: Histogram,
}

fn moments(sample: &Sample<'_>) -> Result<Statistics> {
    let extent = sample.fold(
        Extent::default,
        |extent, value, count| extent.add(value.number, count),
        Extent::merge,
    )?;
    let mean = extent.mean();
    let central = sample.fold(
        Central::default,
        |central, value, count| {
            if value.number.is_finite() {
                central.add(value.number - mean, count);
            }
        },
        Central::merge,
    )?;
    let std = central.std(extent.finite);
    let Tails { outliers, histogram } = tails(sample, &extent, std)?;
    let defined = |value: f64| if extent.finite == 0 { f64::NAN } else { value };
    let share = |count: u64| defined(count as f64 / extent.finite as f64);
    Ok(Statistics {
        finite: extent.finite,
        nan: extent.nan,
        positive_infinity: extent.positive_infinity,
        negative_infinity: extent.negative_infinity,
        mean,
        std: defined(std),
        min: defined(extent.min),
        max: defined(extent.max),
        abs_max: defined(extent.max.max(-extent.min)),
        kurtosis: central.kurtosis(extent.finite),
        mean_abs_deviation: defined(central.absolutes / extent.finite as f64),
        outlier_fraction: share(outliers),
        super_weight_count: 0,
        super_weights: Vec::new(),
        zeros: share(extent.zeros),
        histogram,
        bits: None,
    })
}

/// Outliers and histogram, once mean and standard deviation are known.
fn tails(sample: &Sample<'_>, extent: &Extent, std: f64) -> Result<Tails> {
    let mean = extent.mean();
    let (low, high) = if extent.finite == 0 {
        (-1.0, 1.0)
    } else {
        (extent.min.max(mean - HISTOGRAM_STDS * std), extent.max.min(mean + HISTOGRAM_STDS * std))
    };
    let empty = || Tails { outliers: 0, histogram: Histogram::new(low, high, HISTOGRAM_BINS) };
    sample.fold(
        empty,
        |tails, value, count| {
            if value.number.is_finite() {
                tails.histogram.add(value.number, count);
                let is_outlier = (value.number - mean).abs() > OUTLIER_STDS * std;
                tails.outliers += if is_outlier { count } else { 0 };
            }
        },
        |a, b| Tails {
            outliers: a.outliers + b.outliers,
            histogram: a.histogram.merge(&b.histogram),
        },
    )
}

/// Finds the weights beyond [`SUPER_WEIGHT_STDS`]; only few tensors have one, so a pass of its own costs nothing.
fn find_super_weights(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
    statistics: &mut Statistics,
) -> Result<()> {
    let tensor = &checkpoint.tensors()[index];
    let (mean, limit) = (statistics.mean, SUPER_WEIGHT_STDS * statistics.std);
    for (first, n) in chunks(tensor) {
        observer.go_on()?;
        let mut index = first;
        for_each_f64(tensor.dtype, &checkpoint.element_bytes(tensor, first, n)?, |value| {
            if value.is_finite() && (value - mean).abs() > limit {
                statistics.super_weight_count += 1;
                if statistics.super_weights.len() < MAX_SUPER_WEIGHTS {
                    statistics.super_weights.push(Weight { index, value });
                }
            }
            index += 1;
        });
    }
    Ok(())
}
