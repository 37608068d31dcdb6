//! Moments, extremes, outliers and histogram of one tensor.

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::numeric::histogram::Histogram;
use crate::numeric::moments::{Central, Extent};
use crate::observer::Observer;
use crate::tensor::{CHUNK_ELEMENTS, for_each_f64};

/// Bins of the histogram.
pub const HISTOGRAM_BINS: usize = 256;
/// The histogram ends at this many standard deviations from the mean, or at the extremes if they are nearer.
pub const HISTOGRAM_STDS: f64 = 8.0;
/// A weight further than this many standard deviations from the mean is an outlier.
pub const OUTLIER_STDS: f64 = 6.0;

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
    /// Share of values with |w − mean| > 6 std.
    pub outlier_fraction: f64,
    /// Share of values that are zero.
    pub zeros: f64,
    /// Histogram within 8 standard deviations of the mean.
    pub histogram: Histogram,
}

impl Statistics {
    /// NaN and infinite values.
    pub fn non_finite(&self) -> u64 {
        self.nan + self.positive_infinity + self.negative_infinity
    }
}

/// Measures tensor `index`: about the time of reading it, three times over for elements of more than 16 bits.
///
/// # Errors
/// [`Error::Unsupported`] for element types that are no numbers, [`Error::Io`] if the file has become shorter,
/// [`Error::Cancelled`] within a chunk of 2¹⁸ elements.
pub fn measure(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
) -> Result<Statistics> {
    let tensor = &checkpoint.tensors()[index];
    if !tensor.dtype.is_readable() {
        return Err(Error::Unsupported {
            what: format!("reading the {} values of tensor {}", tensor.dtype, tensor.name),
        });
    }
    let sample = if tensor.dtype.bits() <= 16 {
        Sample::Counted(count_patterns(checkpoint, tensor, observer)?)
    } else {
        Sample::Streamed { checkpoint, tensor, observer }
    };
    sample.measure()
}

/// A tensor as a weighted sample: each distinct pattern with its count, or the stream itself.
enum Sample<'a> {
    Counted(Vec<(f64, u64)>),
    Streamed { checkpoint: &'a Checkpoint, tensor: &'a Tensor, observer: &'a dyn Observer },
}

/// The last pass over a sample.
struct Tails {
    outliers: u64,
    histogram: Histogram,
}

impl Sample<'_> {
    fn measure(&self) -> Result<Statistics> {
        let extent = self.fold(Extent::default, Extent::add, Extent::merge)?;
        let mean = extent.mean();
        let central = self.fold(
            Central::default,
            |central, value, count| {
                if value.is_finite() {
                    central.add(value - mean, count);
                }
            },
            Central::merge,
        )?;
        let std = central.std(extent.finite);
        let Tails { outliers, histogram } = self.tails(&extent, std)?;
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
            outlier_fraction: share(outliers),
            zeros: share(extent.zeros),
            histogram,
        })
    }

    /// Outliers and histogram, once mean and standard deviation are known.
    fn tails(&self, extent: &Extent, std: f64) -> Result<Tails> {
        let mean = extent.mean();
        let (low, high) = if extent.finite == 0 {
            (-1.0, 1.0)
        } else {
            (
                extent.min.max(mean - HISTOGRAM_STDS * std),
                extent.max.min(mean + HISTOGRAM_STDS * std),
            )
        };
        let empty = || Tails { outliers: 0, histogram: Histogram::new(low, high, HISTOGRAM_BINS) };
        let add = |tails: &mut Tails, value: f64, count: u64| {
            if value.is_finite() {
                tails.histogram.add(value, count);
                let is_outlier = (value - mean).abs() > OUTLIER_STDS * std;
                tails.outliers += if is_outlier { count } else { 0 };
            }
        };
        let merge = |a: Tails, b: Tails| Tails {
            outliers: a.outliers + b.outliers,
            histogram: a.histogram.merge(&b.histogram),
        };
        self.fold(empty, add, merge)
    }

    /// Folds the values in a fixed order of chunks, so that sums do not depend on the threads.
    fn fold<T: Send>(
        &self,
        empty: impl Fn() -> T + Sync,
        add: impl Fn(&mut T, f64, u64) + Sync,
        merge: impl Fn(T, T) -> T,
    ) -> Result<T> {
        match self {
            Self::Counted(values) => {
                let mut all = empty();
                for &(value, count) in values {
                    add(&mut all, value, count);
                }
                Ok(all)
            }
            Self::Streamed { checkpoint, tensor, observer } => {
                let parts = chunks(tensor).into_par_iter().map(|(first, n)| {
                    observer.go_on()?;
                    let bytes = checkpoint.element_bytes(tensor, first, n)?;
                    let mut part = empty();
                    for_each_f64(tensor.dtype, bytes, |value| add(&mut part, value, 1));
                    Ok(part)
                });
                let parts: Vec<T> = parts.collect::<Result<_>>()?;
                Ok(parts.into_iter().fold(empty(), merge))
            }
        }
    }
}

/// First element and number of elements of each chunk.
fn chunks(tensor: &Tensor) -> Vec<(u64, u64)> {
    let n = tensor.parameters();
    let size = CHUNK_ELEMENTS as u64;
    (0..n.div_ceil(size)).map(|chunk| (chunk * size, size.min(n - chunk * size))).collect()
}

/// Counts every pattern of an 8- or 16-bit tensor and returns those that occur, as numbers, in a fixed order.
fn count_patterns(
    checkpoint: &Checkpoint,
    tensor: &Tensor,
    observer: &dyn Observer,
) -> Result<Vec<(f64, u64)>> {
    let wide = tensor.dtype.bits() == 16;
    let patterns = if wide { 1 << 16 } else { 1 << 8 };
    // Chunks are shared out in runs, so that few tables of counts are made.
    let chunks = chunks(tensor);
    let runs = chunks
        .chunks(chunks.len().div_ceil(4 * rayon::current_num_threads()).max(1))
        .collect::<Vec<_>>();
    let count_run = |run: &[(u64, u64)]| -> Result<Vec<u64>> {
        let mut counts = vec![0_u64; patterns];
        for &(first, n) in run {
            observer.go_on()?;
            let bytes = checkpoint.element_bytes(tensor, first, n)?;
            if wide {
                for pair in bytes.as_chunks::<2>().0 {
                    counts[usize::from(u16::from_le_bytes(*pair))] += 1;
                }
            } else {
                for &byte in bytes {
                    counts[usize::from(byte)] += 1;
                }
            }
        }
        Ok(counts)
    };
    let tables: Vec<Vec<u64>> = runs.into_par_iter().map(count_run).collect::<Result<_>>()?;
    let mut values = Vec::new();
    for pattern in 0..patterns {
        let count = tables.iter().map(|table| table[pattern]).sum();
        if count > 0 {
            let bytes = (pattern as u16).to_le_bytes();
            for_each_f64(tensor.dtype, if wide { &bytes } else { &bytes[..1] }, |value| {
                values.push((value, count));
            });
        }
    }
    Ok(values)
}
