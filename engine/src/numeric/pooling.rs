//! Pooling of a matrix into coarser pictures of it: the value that stands out most, and the mean magnitude.

use ndarray::{Array2, ArrayView2};

/// A matrix seen from afar: each cell stands for a block of `step × step` weights, less at the far edges.
#[derive(Clone, Debug, PartialEq)]
pub struct Pooled {
    /// Rows and columns of weights a cell stands for.
    pub step: usize,
    /// Of each block the weight of largest magnitude, with its sign; the first of equal ones.
    pub extreme: Array2<f32>,
    /// Of each block the mean of |w|.
    pub mean_abs: Array2<f32>,
}

/// Pools a `[rows, cols]` matrix in blocks of `step × step`. Values that are not finite count as the largest.
pub fn pool(matrix: ArrayView2<'_, f32>, step: usize) -> Pooled {
    let (rows, cols) = matrix.dim();
    let shape = (rows.div_ceil(step), cols.div_ceil(step));
    let mut pooled = Pooled { step, extreme: Array2::zeros(shape), mean_abs: Array2::zeros(shape) };
    let mut sums = vec![0.0_f64; shape.1];
    for (down, mut extremes) in pooled.extreme.outer_iter_mut().enumerate() {
        sums.fill(0.0);
        let band = down * step..rows.min((down + 1) * step);
        for row in band.clone() {
            for (col, &w) in matrix.row(row).iter().enumerate() {
                let across = col / step;
                sums[across] += f64::from(w.abs());
                if stands_out(w, extremes[across]) {
                    extremes[across] = w;
                }
            }
        }
        for (across, sum) in sums.iter().enumerate() {
            let width = cols.min((across + 1) * step) - across * step;
            pooled.mean_abs[[down, across]] = (sum / (band.len() * width) as f64) as f32;
        }
    }
    pooled
}

/// NaN stands out most of all, and stays.
fn stands_out(w: f32, extreme: f32) -> bool {
    !extreme.is_nan() && (w.is_nan() || w.abs() > extreme.abs())
}

impl Pooled {
    /// The next coarser picture of the same `[rows, cols]` matrix: blocks twice as wide and high.
    pub fn coarser(&self, (rows, cols): (usize, usize)) -> Self {
        let step = 2 * self.step;
        let shape = (rows.div_ceil(step), cols.div_ceil(step));
        let (below_rows, below_cols) = self.extreme.dim();
        let two = |i: usize, end: usize| 2 * i..end.min(2 * i + 2);
        let length = |i: usize, end: usize| end.min((i + 1) * self.step) - i * self.step;
        let blocks = |(down, across): (usize, usize)| {
            let (down, across) = (two(down, below_rows), two(across, below_cols));
            down.flat_map(move |r| across.clone().map(move |c| (r, c)))
        };
        let extreme = Array2::from_shape_fn(shape, |at| {
            blocks(at).fold(0.0, |extreme, (r, c)| {
                let w = self.extreme[[r, c]];
                if stands_out(w, extreme) { w } else { extreme }
            })
        });
        let mean_abs = Array2::from_shape_fn(shape, |at| {
            let (sum, n) = blocks(at).fold((0.0, 0.0), |(sum, n), (r, c)| {
                let count = (length(r, rows) * length(c, cols)) as f64;
                (sum + f64::from(self.mean_abs[[r, c]]) * count, n + count)
            });
            (sum / n) as f32
        });
        Self { step, extreme, mean_abs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn brute_force(matrix: ArrayView2<'_, f32>, step: usize) -> Pooled {
        let (rows, cols) = matrix.dim();
        let shape = (rows.div_ceil(step), cols.div_ceil(step));
        let block = |(down, across): (usize, usize)| -> Vec<f32> {
            let (top, left) = (down * step, across * step);
            let (bottom, right) = (rows.min(top + step), cols.min(left + step));
            let block = matrix.slice(ndarray::s![top..bottom, left..right]);
            block.iter().copied().collect()
        };
        let extreme = Array2::from_shape_fn(shape, |at| {
            let largest = block(at).into_iter().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            largest.unwrap_or(0.0)
        });
        let mean_abs = Array2::from_shape_fn(shape, |at| {
            let block = block(at);
            let sum: f64 = block.iter().map(|w| f64::from(w.abs())).sum();
            (sum / block.len() as f64) as f32
        });
        Pooled { step, extreme, mean_abs }
    }

    #[test]
    fn every_level_of_a_pyramid_equals_brute_force() {
        let mut random = Random::new(9);
        for shape in [(1, 1), (5, 3), (16, 16), (37, 53), (64, 129)] {
            let matrix = Array2::from_shape_simple_fn(shape, || random.normal() as f32);
            let mut level = pool(matrix.view(), 1);
            assert_eq!(level.extreme, matrix);
            for _ in 0..6 {
                level = level.coarser(shape);
                let wanted = brute_force(matrix.view(), level.step);
                assert_eq!(level.extreme, wanted.extreme, "{shape:?} step {}", level.step);
                assert_eq!(pool(matrix.view(), level.step).extreme, wanted.extreme);
                for (found, wanted) in level.mean_abs.iter().zip(&wanted.mean_abs) {
                    assert!((found - wanted).abs() <= 1e-6 * wanted, "{found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn a_single_spike_or_nan_is_seen_from_any_distance() {
        for spike in [-70.0_f32, f32::NAN] {
            let mut matrix = Array2::from_elem((100, 90), 0.5_f32);
            matrix[[61, 33]] = spike;
            let far = pool(matrix.view(), 64).coarser((100, 90));
            assert_eq!(far.extreme.dim(), (1, 1));
            assert_eq!(far.extreme[[0, 0]].to_bits(), spike.to_bits());
        }
    }
}
