//! Exact sums of a weighted sample, in two passes: extremes and mean first, central moments second.
//!
//! Passing a count with each value lets a tensor of 8- or 16-bit elements be summed by pattern.
//! Non-finite values are counted and named, never averaged in.

/// First pass: counts, extremes and the mean of the finite values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Finite values.
    pub finite: u64,
    /// NaN values.
    pub nan: u64,
    /// Values of +∞.
    pub positive_infinity: u64,
    /// Values of −∞.
    pub negative_infinity: u64,
    /// Values equal to zero.
    pub zeros: u64,
    /// Sum of the finite values.
    pub sum: f64,
    /// Smallest finite value (+∞ if there is none).
    pub min: f64,
    /// Largest finite value (−∞ if there is none).
    pub max: f64,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            finite: 0,
            nan: 0,
            positive_infinity: 0,
            negative_infinity: 0,
            zeros: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Extent {
    /// Adds `value`, `count` times.
    #[inline]
    pub fn add(&mut self, value: f64, count: u64) {
        if value.is_finite() {
            self.finite += count;
            self.zeros += if value == 0.0 { count } else { 0 };
            self.sum += value * count as f64;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        } else if value.is_nan() {
            self.nan += count;
        } else if value > 0.0 {
            self.positive_infinity += count;
        } else {
            self.negative_infinity += count;
        }
    }

    /// Both samples together.
    pub fn merge(self, other: Self) -> Self {
        Self {
            finite: self.finite + other.finite,
            nan: self.nan + other.nan,
            positive_infinity: self.positive_infinity + other.positive_infinity,
            negative_infinity: self.negative_infinity + other.negative_infinity,
            zeros: self.zeros + other.zeros,
            sum: self.sum + other.sum,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    /// Mean of the finite values; NaN if there is none.
    pub fn mean(&self) -> f64 {
        self.sum / self.finite as f64
    }
}

/// Second pass: sums of powers of the deviation from a known mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Central {
    /// Σ |w − mean|.
    pub absolutes: f64,
    /// Σ (w − mean)².
    pub squares: f64,
    /// Σ (w − mean)⁴.
    pub fourths: f64,
}

impl Central {
    /// Adds a deviation, `count` times.
    #[inline]
    pub fn add(&mut self, deviation: f64, count: u64) {
        let square = deviation * deviation;
        self.absolutes += deviation.abs() * count as f64;
        self.squares += square * count as f64;
        self.fourths += square * square * count as f64;
    }

    /// Both samples together.
    pub fn merge(self, other: Self) -> Self {
        Self {
            absolutes: self.absolutes + other.absolutes,
            squares: self.squares + other.squares,
            fourths: self.fourths + other.fourths,
        }
    }

    /// Standard deviation √(Σd²/n) of the population.
    pub fn std(&self, n: u64) -> f64 {
        (self.squares / n as f64).sqrt()
    }

    /// Excess kurtosis n·Σd⁴/(Σd²)² − 3: 0 for a normal, 3 for a Laplace distribution; NaN where all values are equal.
    pub fn kurtosis(&self, n: u64) -> f64 {
        n as f64 * self.fourths / (self.squares * self.squares) - 3.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stand_for_repetition_and_non_finite_values_stand_apart() {
        let mut all = Extent::default();
        for (value, count) in [(1.0, 3), (-2.0, 1), (f64::NAN, 2), (f64::INFINITY, 1), (0.0, 4)] {
            all.add(value, count);
        }
        assert_eq!(
            (all.finite, all.nan, all.positive_infinity, all.negative_infinity, all.zeros),
            (8, 2, 1, 0, 4)
        );
        assert_eq!((all.min, all.max, all.mean()), (-2.0, 1.0, 0.125));
    }

    #[test]
    fn two_points_have_kurtosis_minus_two() {
        let mut central = Central::default();
        central.add(-1.0, 5);
        central.add(1.0, 5);
        assert_eq!(central.std(10), 1.0);
        assert_eq!(central.kurtosis(10), -2.0);
    }
}
