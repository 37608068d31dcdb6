//! Histograms of equal bins with under- and overflow.

use serde::{Deserialize, Serialize};

/// Counts in equal bins of `[low, high]`.
///
/// Bin `i` holds the values in `[low + i·width, low + (i+1)·width)`; the last bin holds `high` too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Lower edge of the first bin.
    pub low: f64,
    /// Upper edge of the last bin.
    pub high: f64,
    /// Values in each bin.
    pub counts: Vec<u64>,
    /// Values below `low`.
    pub underflow: u64,
    /// Values above `high`.
    pub overflow: u64,
}

impl Histogram {
    /// An empty histogram; a range without extent is widened around its value.
    pub fn new(low: f64, high: f64, n_bins: usize) -> Self {
        let (low, high) = if high > low {
            (low, high)
        } else {
            let half = if low == 0.0 { 0.5 } else { low.abs() * 0.5 };
            (low - half, low + half)
        };
        Self { low, high, counts: vec![0; n_bins], underflow: 0, overflow: 0 }
    }

    /// Adds a finite value, `count` times.
    #[inline]
    pub fn add(&mut self, value: f64, count: u64) {
        if value < self.low {
            self.underflow += count;
        } else if value > self.high {
            self.overflow += count;
        } else {
            let n_bins = self.counts.len();
            let bin = ((value - self.low) / (self.high - self.low) * n_bins as f64) as usize;
            self.counts[bin.min(n_bins - 1)] += count;
        }
    }

    /// Adds the counts of a histogram of the same bins.
    pub fn merge(mut self, other: &Self) -> Self {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.underflow += other.underflow;
        self.overflow += other.overflow;
        self
    }

    /// The same range in fewer bins where there are few values: each two beside one another become one, as long as there are
    /// more bins than √n for n values. Counts of a few in many bins are a comb, which shows chance and not shape.
    #[must_use]
    pub fn readable(&self) -> Self {
        let most = self.total().isqrt().max(1) as usize;
        let mut counts = self.counts.clone();
        while counts.len() > most && counts.len().is_multiple_of(2) {
            counts = counts.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
        Self { counts, ..self.clone() }
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        (self.high - self.low) / self.counts.len() as f64
    }

    /// Centre of bin `i`.
    pub fn centre(&self, i: usize) -> f64 {
        self.low + (i as f64 + 0.5) * self.width()
    }

    /// Values counted in all, inside and outside the bins.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.underflow + self.overflow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_outsiders_are_counted_once() {
        let mut histogram = Histogram::new(0.0, 1.0, 4);
        for value in [0.0, 0.25, 0.999, 1.0, -0.1, 1.1] {
            histogram.add(value, 1);
        }
        assert_eq!(histogram.counts, [1, 1, 0, 2]);
        assert_eq!((histogram.underflow, histogram.overflow, histogram.total()), (1, 1, 6));
    }

    #[test]
    fn few_values_have_few_bins_and_many_keep_theirs() {
        let of = |n: u64| {
            let mut histogram = Histogram::new(0.0, 1.0, 256);
            for i in 0..n {
                histogram.add(i as f64 / n as f64, 1);
            }
            histogram
        };
        // A norm of 256 weights: 16 bins of 16.
        assert_eq!(of(256).readable().counts, [16; 16]);
        assert_eq!(of(1).readable().counts, [1]);
        let many = of(65_536);
        assert_eq!(many.readable(), many);
        let few = of(1000).readable();
        assert_eq!((few.counts.len(), few.total(), few.low, few.high), (16, 1000, 0.0, 1.0));
        assert_eq!(Histogram::new(0.0, 1.0, 8).readable().counts, [0]);
    }

    #[test]
    fn a_constant_falls_in_the_middle_of_a_widened_range() {
        let mut histogram = Histogram::new(2.0, 2.0, 8);
        histogram.add(2.0, 9);
        assert_eq!(histogram.counts.iter().max(), Some(&9));
        assert_eq!((histogram.low, histogram.high), (1.0, 3.0));
    }
}
