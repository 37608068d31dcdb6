//! The Cholesky factor of the inverse of a damped Gram matrix: what one-shot quantisers and pruners walk along.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSlice as _,
};

use crate::numeric::cholesky::{BLOCK, Lower, pitch, rows_of, rows_of_mut};
use crate::numeric::gram::Gram;

/// U, upper triangular with positive diagonal: (H + d·I)⁻¹ = Uᵀ·U, with rows and columns of H in some order.
#[derive(Clone, Debug)]
pub struct InverseFactor {
    order: Vec<usize>,
    /// Row by row; below the diagonal zeros. Computed in f64.
    values: Array2<f32>,
}

impl InverseFactor {
    /// The factor for H = `gram` / tokens with `order` as its rows and columns and d = `damping` · mean of the
    /// diagonal. A channel without any input has H\[j, j\] = 1, so that it stands alone.
    ///
    /// H + d·I = R·Rᵀ with R upper triangular, which is Cholesky from the last row up; U = R⁻¹. Cost: 2/3·n³
    /// operations, 12·n² bytes, of which 4·n² stay. The same bytes on any number of threads. `None` once
    /// `is_cancelled`, asked every some n·128² operations, or where H + d·I is not positive definite.
    ///
    /// # Panics
    /// If `order` is no order of the channels.
    pub fn new(
        gram: &Gram,
        order: Vec<usize>,
        damping: f64,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let n = gram.channels();
        let pitch = pitch(n);
        let mut square = Lower::new(gram, &order, damping, is_cancelled)?.square;
        invert(&mut square, n, is_cancelled)?;
        let mut values = Array2::zeros((n, n));
        let rows =
            values.axis_iter_mut(Axis(0)).into_par_iter().zip(square.par_chunks(pitch).rev());
        rows.for_each(|(mut row, found)| {
            for (value, found) in row.iter_mut().zip(found[..n].iter().rev()) {
                *value = *found as f32;
            }
        });
        Some(Self { order, values })
    }

    /// The channels in the order of the rows.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// U, `[n, n]`.
    pub fn upper(&self) -> ArrayView2<'_, f32> {
        self.values.view()
    }

    /// L, row by row, of (H + d·I)⁻¹ = L·Lᵀ on a block of the diagonal: ‖L⁻¹·w‖² is what it costs to set these inputs of a
    /// row w to zero where all others may change (Hassibi & Stork 1993). Cost: end·n² operations, n inputs of the block.
    pub fn block(&self, at: Range<usize>) -> Vec<f64> {
        let n = at.len();
        let mut l = vec![0.0; n * n];
        for k in 0..at.end {
            let row = self.values.row(k);
            for i in k.max(at.start)..at.end {
                let u = f64::from(row[i]);
                for j in k.max(at.start)..=i {
                    l[(i - at.start) * n + j - at.start] += u * f64::from(row[j]);
                }
            }
        }
        for i in 0..n {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                let left = l[i * n + j] - sum;
                l[i * n + j] = if i == j { left.sqrt() } else { left / l[j * n + j] };
            }
        }
        l
    }

    /// Row `i` of U from its diagonal on.
    pub fn row(&self, i: usize) -> &[f32] {
        let n = self.order.len();
        &self.values.as_slice().unwrap_or_default()[i * n + i..(i + 1) * n]
    }
}

/// L⁻¹ in place of L, whose diagonal blocks are inverse already: row block i becomes −Lᵢᵢ⁻¹·Lᵢ·L⁻¹ of those above.
fn invert(a: &mut [f64], n: usize, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
    let pitch = pitch(n);
    for i in (BLOCK..n).step_by(BLOCK) {
        if is_cancelled() {
            return None;
        }
        let (above, own) = a.split_at_mut(i * pitch);
        let rows = BLOCK.min(n - i);
        let own = &mut own[..rows * pitch];
        let done = rows_of(above, i, n);
        let strip = rows_of(own, rows, n);
        let diagonal = strip.subcols(i, rows);
        let starts: Vec<usize> = (0..i).step_by(BLOCK).collect();
        let tile = |start: usize| {
            let cols = BLOCK.min(i - start);
            let mut product = Mat::<f64>::zeros(rows, cols);
            let left = strip.subcols(start, i - start);
            let right = done.submatrix(start, start, i - start, cols);
            matmul(product.as_mut(), Accum::Replace, left, right, 1.0, Par::Seq);
            let mut tile = Mat::<f64>::zeros(rows, cols);
            matmul(tile.as_mut(), Accum::Replace, diagonal, product.as_ref(), -1.0, Par::Seq);
            tile
        };
        let tiles: Vec<Mat<f64>> = starts.clone().into_par_iter().map(tile).collect();
        let mut strip = rows_of_mut(own, rows, n);
        for (start, tile) in starts.into_iter().zip(&tiles) {
            strip.as_mut().subcols_mut(start, tile.ncols()).copy_from(tile);
        }
    }
    (!is_cancelled()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn gram(channels: usize, tokens: usize) -> Gram {
        let mut random = Random::new(5);
        let mut x = Array2::from_shape_simple_fn((tokens, channels), || random.normal() as f32);
        for j in 1..channels {
            let (left, mut right) = x.multi_slice_mut((ndarray::s![.., j - 1], ndarray::s![.., j]));
            right.scaled_add(0.6, &left);
        }
        let mut gram = Gram::new(channels);
        gram.add(x.view());
        gram
    }

    #[test]
    fn the_factor_times_itself_inverts_the_damped_matrix() {
        for n in [1, 5, 128, 129, 300] {
            let gram = gram(n, 400);
            let order: Vec<usize> = (0..n).map(|i| (i * 7 + 3) % n).collect();
            let mut seen = order.clone();
            seen.sort_unstable();
            seen.dedup();
            let order = if seen.len() == n { order } else { (0..n).rev().collect() };
            let factor = InverseFactor::new(&gram, order.clone(), 0.01, &|| false).unwrap();
            let diagonal = gram.diagonal();
            let mean = diagonal.iter().sum::<f64>() / 400.0 / n as f64;
            let h = Mat::from_fn(n, n, |i, j| {
                let damping = if i == j { 0.01 * mean } else { 0.0 };
                gram.get(order[i], order[j]) / 400.0 + damping
            });
            let u = Mat::from_fn(n, n, |i, j| f64::from(factor.upper()[[i, j]]));
            let product = u.transpose() * u.as_ref() * h.as_ref();
            for i in 0..n {
                for j in 0..n {
                    let expected = f64::from(u8::from(i == j));
                    // What U loses in f32 comes back times the condition of H.
                    assert!((product[(i, j)] - expected).abs() < 1e-4, "{n}: [{i}, {j}]");
                    assert!(j >= i || u[(i, j)] == 0.0, "not upper");
                }
            }
        }
    }

    /// Against the change of all other weights that leaves least, by normal equations.
    #[test]
    fn a_block_tells_what_it_costs_to_drop_its_inputs() {
        let (n, block) = (12, 4..7);
        let gram = gram(n, 200);
        let factor = InverseFactor::new(&gram, (0..n).collect(), 0.01, &|| false).unwrap();
        let l = factor.block(block.clone());
        let mean = gram.diagonal().iter().sum::<f64>() / 200.0 / n as f64;
        let h =
            |i: usize, j: usize| gram.get(i, j) / 200.0 + if i == j { 0.01 * mean } else { 0.0 };
        let others: Vec<usize> = (0..n).filter(|i| !block.contains(i)).collect();
        let dropped = [0.7, -1.1, 0.4];
        // min over x of (d, x)·H·(d, x)ᵀ = d·(H_dd − H_do·H_oo⁻¹·H_od)·dᵀ, by elimination of the others.
        let order: Vec<usize> = others.iter().copied().chain(block).collect();
        let mut a: Vec<Vec<f64>> =
            order.iter().map(|&i| order.iter().map(|&j| h(i, j)).collect()).collect();
        for k in 0..others.len() {
            for i in k + 1..n {
                let (factor, top) = (a[i][k] / a[k][k], a[k].clone());
                a[i].iter_mut().zip(top).for_each(|(value, top)| *value -= factor * top);
            }
        }
        let m = others.len();
        let mut expected = 0.0;
        for i in 0..3 {
            for j in 0..3 {
                expected += dropped[i] * a[m + i][m + j] * dropped[j];
            }
        }
        let mut solved = [0.0; 3];
        for i in 0..3 {
            let sum: f64 = (0..i).map(|k| l[i * 3 + k] * solved[k]).sum();
            solved[i] = (dropped[i] - sum) / l[i * 3 + i];
        }
        let found: f64 = solved.iter().map(|x| x * x).sum();
        assert!((found / expected - 1.0).abs() < 1e-4, "{found} for {expected}");
    }

    #[test]
    fn the_threads_change_no_bit_and_dead_channels_stand_alone() {
        let mut random = Random::new(8);
        let mut x = Array2::from_shape_simple_fn((50, 300), || random.normal() as f32);
        x.column_mut(7).fill(0.0);
        let mut gram = Gram::new(300);
        gram.add(x.view());
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let make = || InverseFactor::new(&gram, (0..300).collect(), 0.01, &|| false);
            pool.install(make).unwrap().values
        };
        let one = on(1);
        assert_eq!(one, on(3));
        assert_eq!(one[[7, 7]], 1.0);
        assert!((8..300).all(|j| one[[7, j]] == 0.0));
    }
}
