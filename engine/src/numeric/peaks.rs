//! Group peak: how far the largest weight of a group stands out, max|w|/rms.
//!
//! A group of equal magnitudes has 1; 128 normal numbers some 2.8. Large peaks waste the levels of a shared scale.

/// Group widths measured together: each is twice the one before.
pub const WIDTHS: [usize; 5] = [16, 32, 64, 128, 256];

/// Sums over groups of max|w|/rms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peaks {
    /// Sum and number for each of [`WIDTHS`], then for whole rows.
    sums: [(f64, u64); WIDTHS.len() + 1],
    runs: Vec<Run>,
}

/// Largest magnitude, sum of squares and number of a run of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Run {
    largest: f32,
    squares: f64,
    n: u32,
}

impl Run {
    /// Sums in four lanes, which the compiler turns into vectors; only where something is not finite one by one.
    fn of(weights: &[f32]) -> Self {
        let (mut largest, mut squares) = ([0.0_f32; 4], [0.0_f64; 4]);
        let (fours, rest) = weights.as_chunks::<4>();
        let last = [0, 1, 2, 3].map(|lane| rest.get(lane).copied().unwrap_or(0.0));
        for four in fours.iter().chain([&last]) {
            for lane in 0..4 {
                largest[lane] = largest[lane].max(four[lane].abs());
                squares[lane] += f64::from(four[lane]) * f64::from(four[lane]);
            }
        }
        let squares = (squares[0] + squares[1]) + (squares[2] + squares[3]);
        if !squares.is_finite() {
            return Self::of_finite(weights);
        }
        let largest = largest.into_iter().fold(0.0, f32::max);
        Self { largest, squares, n: weights.len() as u32 }
    }

    fn of_finite(weights: &[f32]) -> Self {
        weights.iter().filter(|w| w.is_finite()).fold(Self::default(), |run, &w| Self {
            largest: run.largest.max(w.abs()),
            squares: run.squares + f64::from(w).powi(2),
            n: run.n + 1,
        })
    }

    fn join(runs: &[Self]) -> Self {
        runs.iter().fold(Self::default(), |all, run| Self {
            largest: all.largest.max(run.largest),
            squares: all.squares + run.squares,
            n: all.n + run.n,
        })
    }

    fn add_to(self, sum: &mut (f64, u64)) {
        if self.largest > 0.0 {
            sum.0 += f64::from(self.largest) / (self.squares / f64::from(self.n)).sqrt();
            sum.1 += 1;
        }
    }
}

impl Peaks {
    /// Adds the groups of one row; the last group of a row may be shorter. Values that are not finite and groups of
    /// zeros are left out.
    pub fn add_row(&mut self, weights: &[f32]) {
        self.runs.clear();
        self.runs.extend(weights.chunks(WIDTHS[0]).map(Run::of));
        for level in 0..WIDTHS.len() {
            if level > 0 {
                let halves = self.runs.len();
                for i in 0..halves.div_ceil(2) {
                    self.runs[i] = Run::join(&self.runs[2 * i..halves.min(2 * i + 2)]);
                }
                self.runs.truncate(halves.div_ceil(2));
            }
            for run in &self.runs {
                run.add_to(&mut self.sums[level]);
            }
        }
        Run::join(&self.runs).add_to(&mut self.sums[WIDTHS.len()]);
    }

    /// Adds the groups of other rows.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum = (sum.0 + more.0, sum.1 + more.1);
        }
    }

    /// Mean over groups for each of [`WIDTHS`], then for whole rows; NaN where there is no group.
    pub fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|(sum, n)| sum / *n as f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    #[test]
    fn peaks_of_every_width_equal_brute_force_on_ragged_rows() {
        let mut random = Random::new(4);
        let rows: Vec<Vec<f32>> =
            (0..5).map(|_| (0..300).map(|_| random.normal() as f32).collect()).collect();
        let mut peaks = Peaks::default();
        for row in &rows {
            peaks.add_row(row);
        }
        for (found, width) in peaks.means().into_iter().zip([16, 32, 64, 128, 256, 300]) {
            let groups: Vec<&[f32]> = rows.iter().flat_map(|row| row.chunks(width)).collect();
            let peak = |group: &&[f32]| {
                let squares: f64 = group.iter().map(|w| f64::from(*w).powi(2)).sum();
                let largest = group.iter().fold(0.0_f32, |a, w| a.max(w.abs()));
                f64::from(largest) / (squares / group.len() as f64).sqrt()
            };
            let wanted = groups.iter().map(peak).sum::<f64>() / groups.len() as f64;
            assert!((found - wanted).abs() < 1e-9, "{width}: {found} {wanted}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let mut peaks = Peaks::default();
        peaks.add_row(&[[0.5, f32::NAN], [-0.5, f32::INFINITY]].concat().repeat(32));
        assert!(peaks.means().iter().all(|mean| (mean - 1.0).abs() < 1e-12));
    }

    #[test]
    fn equal_magnitudes_have_one_and_zeros_are_left_out() {
        let mut peaks = Peaks::default();
        peaks.add_row(&[0.5, -0.5].repeat(64));
        peaks.add_row(&[0.0; 128]);
        assert!(peaks.means().iter().all(|mean| (mean - 1.0).abs() < 1e-12));
    }
}
