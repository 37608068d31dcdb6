//! Rounding with feedback: what rounding one input does to the outputs is made good by the inputs to come, for levels
//! that do not depend on the weights as they have become (Frantar et al. 2023; Chee et al. 2023, where it is LDLQ).

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::cholesky::{BLOCK, Lower};
use crate::numeric::gram::Gram;
use crate::numeric::product::multiply;
use crate::numeric::vector::{Loops, vectorised};

/// Rows of one strip, at most: each packs its operands anew.
const MOST_ROWS: usize = 512;
/// Rows of one strip, at least.
const LEAST_ROWS: usize = 32;
/// Strips for the threads, while they have enough rows.
const STRIPS: usize = 8;
/// Blocks to which what is left before them is fed in one product, so that it is packed once for all.
const BLOCKS: usize = 4;
/// Rows and inputs that are turned at a time: a line of the cache each.
const TURNED: usize = 16;

/// V, upper triangular with ones on the diagonal: H + d·I = V·D·Vᵀ with rows and columns of H in some order, D diagonal
/// in blocks of the inputs that are rounded together.
#[derive(Clone, Debug)]
pub struct Feedback {
    order: Vec<usize>,
    /// Inputs that are rounded together; the last may be fewer.
    run: usize,
    /// Row by row; below the diagonal zeros. Computed in f64.
    values: Array2<f32>,
}

impl Feedback {
    /// The factor for H = `gram` / tokens with `order` as its rows and columns and d = `damping` · mean of the
    /// diagonal, `run` inputs rounded together. A channel without any input has H\[j, j\] = 1, so that it stands alone.
    /// Cost: 1/3·n³ operations, 12·n² bytes, of which 4·n² stay. The same bytes on any number of threads. `None` once
    /// `is_cancelled`, asked every some n·128² operations, or where H + d·I is not positive definite.
    ///
    /// # Panics
    /// If `order` is no order of the channels, or `run` is 0 or more than 128.
    pub fn new(
        gram: &Gram,
        order: Vec<usize>,
        (damping, run): (f64, usize),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        assert!((1..=BLOCK).contains(&run), "a run in a block");
        let n = gram.channels();
        let lower = Lower::new(gram, &order, damping, is_cancelled)?;
        // Backwards, as the factor was made.
        let upper = |i: usize, j: usize| lower.get(n - 1 - i, n - 1 - j);
        let inverses: Vec<Vec<f64>> =
            (0..n).step_by(run).map(|at| inverse(at..(at + run).min(n), upper)).collect();
        let mut values = Array2::zeros((n, n));
        let rows = values.axis_iter_mut(Axis(0)).into_par_iter().enumerate();
        rows.for_each_init(
            || vec![0.0; n],
            |line, (i, mut row)| {
                row[i] = 1.0;
                lower.copy_row(n - 1 - i, line);
                for (at, inverse) in inverses.iter().enumerate().skip(i / run + 1) {
                    let width = run.min(n - at * run);
                    for j in 0..width {
                        let of = |k: usize| line[n - 1 - at * run - k] * inverse[k * width + j];
                        row[at * run + j] = (0..=j).map(of).sum::<f64>() as f32;
                    }
                }
            },
        );
        Some(Self { order, run, values })
    }

    /// The channels in the order of the rows.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    fn row(&self, i: usize) -> &[f32] {
        let n = self.order.len();
        &self.values.as_slice().unwrap_or_default()[i * n..(i + 1) * n]
    }
}

/// The inverse, row by row, of a small block on the diagonal of an upper triangle.
fn inverse(at: Range<usize>, upper: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let n = at.len();
    let of = |i: usize, j: usize| upper(at.start + i, at.start + j);
    let mut inverse = vec![0.0; n * n];
    for j in 0..n {
        inverse[j * n + j] = of(j, j).recip();
        for i in (0..j).rev() {
            let sum: f64 = (i + 1..=j).map(|k| of(i, k) * inverse[k * n + j]).sum();
            inverse[i * n + j] = -sum / of(i, i);
        }
    }
    inverse
}

/// What weights become.
pub trait Levels: Sync {
    /// Puts what weights of inputs `at` of the order become in the place of `values`, which are those of the first
    /// input, one of each of `rows`, then those of the next.
    fn choose(&self, rows: Range<usize>, at: Range<usize>, values: &mut [f32]);
}

/// Puts levels in the place of `weights`, row-major `[rows, n]`, run by run in the order of the factor.
///
/// For each run of inputs i and row: ŵᵢ = level of wᵢ + Σ (wₐ − ŵₐ)·Vₐᵢ over the inputs a of the runs before. With
/// H⁻¹ = Uᵀ·U and single inputs this is the same as wⱼ ← wⱼ − (wᵢ − ŵᵢ)/Uᵢᵢ·Uᵢⱼ after each input, as V is the inverse of
/// U with its rows divided by their diagonal: a factorisation less, but no weight ahead is known before its turn. f32
/// throughout, as the rounding that follows is coarser by orders of magnitude. Cost: rows·n² operations; memory 8·n
/// bytes a row of the strips at work. Same bytes on any number of threads. `None` once `is_cancelled`, which is asked
/// for every strip and up to 128 inputs.
///
/// # Panics
/// If the number of weights is not a multiple of the order of the factor.
pub fn walk<L: Levels>(
    weights: &mut [f32],
    factor: &Feedback,
    levels: &L,
    is_cancelled: &(dyn Fn() -> bool + Sync),
) -> Option<()> {
    let n = factor.order.len().max(1);
    assert!(weights.len().is_multiple_of(n), "one weight a row and input");
    let rows = weights.len().div_ceil(n * STRIPS).clamp(LEAST_ROWS, MOST_ROWS);
    weights.par_chunks_mut(rows * n).enumerate().for_each(|(i, weights)| {
        let first = i * rows;
        let mut strip = Strip::new(weights, factor, first..first + weights.len() / n);
        // Whole runs.
        let block = BLOCK / factor.run * factor.run;
        for first in (0..n).step_by(block * BLOCKS) {
            let span = first..(first + block * BLOCKS).min(n);
            let mut ahead = vec![0.0; span.len() * strip.rows.len()];
            strip.spread(0..first, span.clone(), &mut ahead);
            let aheads = ahead.chunks_mut(block * strip.rows.len());
            for (start, ahead) in span.clone().step_by(block).zip(aheads) {
                if is_cancelled() {
                    return;
                }
                let block = start..(start + block).min(n);
                strip.spread(first..start, block.clone(), ahead);
                strip.fix(block, ahead, levels);
            }
        }
        strip.give_back(weights);
    });
    (!is_cancelled()).then_some(())
}

/// Some rows of the weights, turned: input by input in the order of the factor, one value a row each.
struct Strip<'a> {
    factor: &'a Feedback,
    rows: Range<usize>,
    /// The weights, and levels where they are fixed.
    values: Vec<f32>,
    /// Weight less level, where it is fixed.
    left: Vec<f32>,
}

/// Where each channel lies in an order.
fn places(order: &[usize]) -> Vec<usize> {
    let mut places = vec![0; order.len()];
    for (place, &channel) in order.iter().enumerate() {
        places[channel] = place;
    }
    places
}

/// Inputs by rows.
type Tile = [[f32; TURNED]; TURNED];

/// The tile of row-major weights from an input on: turned apart from them, as the lines of rows lie a power of two apart and
/// would push each other out of the cache.
fn turned(weights: &[f32], n: usize, first: usize) -> Tile {
    let mut tile = Tile::default();
    for (r, row) in weights.chunks(n).enumerate() {
        for (tile, value) in tile.iter_mut().zip(&row[first..]) {
            tile[r] = *value;
        }
    }
    tile
}

/// The way back.
fn turn_back(tile: &Tile, weights: &mut [f32], (n, first): (usize, usize)) {
    for (r, row) in weights.chunks_mut(n).enumerate() {
        for (tile, value) in tile.iter().zip(&mut row[first..]) {
            *value = tile[r];
        }
    }
}

impl<'a> Strip<'a> {
    fn new(weights: &[f32], factor: &'a Feedback, rows: Range<usize>) -> Self {
        let (n, width) = (factor.order.len(), rows.len());
        let mut values = vec![0.0; n * width];
        let places = places(&factor.order);
        for (band, weights) in weights.chunks(TURNED * n).enumerate() {
            for (at, places) in places.chunks(TURNED).enumerate() {
                let tile = turned(weights, n, at * TURNED);
                for (tile, place) in tile.iter().zip(places) {
                    let rows = &mut values[place * width..][..width][band * TURNED..];
                    let rows = rows.iter_mut().zip(tile);
                    rows.for_each(|(value, found)| *value = *found);
                }
            }
        }
        let left = vec![0.0; values.len()];
        Self { factor, rows, values, left }
    }

    fn give_back(&self, weights: &mut [f32]) {
        let (n, width) = (self.factor.order.len(), self.rows.len());
        let places = places(&self.factor.order);
        for (band, weights) in weights.chunks_mut(TURNED * n).enumerate() {
            for (at, places) in places.chunks(TURNED).enumerate() {
                let mut tile = Tile::default();
                for (tile, place) in tile.iter_mut().zip(places) {
                    let rows = &self.values[place * width..][..width][band * TURNED..];
                    tile.iter_mut().zip(rows).for_each(|(value, found)| *value = *found);
                }
                turn_back(&tile, weights, (n, at * TURNED));
            }
        }
    }

    /// Adds to `ahead`, of inputs `to`, what fixing inputs `from` feeds to them.
    fn spread(&self, from: Range<usize>, to: Range<usize>, ahead: &mut [f32]) {
        if from.is_empty() {
            return;
        }
        let width = self.rows.len();
        let factor = self.factor.values.slice(s![from.clone(), to.clone()]);
        let left = &self.left[from.start * width..from.end * width];
        let views = (
            ArrayView2::from_shape((from.len(), width), left),
            ArrayViewMut2::from_shape((to.len(), width), ahead),
        );
        if let (Ok(left), Ok(ahead)) = views {
            multiply(1.0, factor.t(), left, true, ahead);
        }
    }

    /// Fixes a block of inputs, to which all before it have fed `ahead`.
    fn fix(&mut self, block: Range<usize>, ahead: &mut [f32], levels: &impl Levels) {
        let (width, run) = (self.rows.len(), self.factor.run);
        let left = &mut self.left[block.start * width..];
        for start in block.clone().step_by(run) {
            let at = start..(start + run).min(block.end);
            let own = (at.start - block.start) * width..(at.end - block.start) * width;
            let (now, behind) = ahead.split_at_mut(own.end);
            let values = &mut self.values[at.start * width..at.end * width];
            let left = &mut left[own.clone()];
            left.copy_from_slice(values);
            for (value, now) in values.iter_mut().zip(&now[own]) {
                *value += now;
            }
            levels.choose(self.rows.clone(), at.clone(), values);
            for (left, value) in left.iter_mut().zip(values) {
                *left -= *value;
            }
            for (i, left) in at.clone().zip(left.chunks(width)) {
                let factor = &self.factor.row(i)[at.end..block.end];
                vectorised(Spread { left, factor, behind });
            }
        }
    }
}

/// behind + factor · left, row by row.
struct Spread<'a> {
    left: &'a [f32],
    factor: &'a [f32],
    behind: &'a mut [f32],
}

impl Loops for Spread<'_> {
    type Found = ();

    #[expect(clippy::inline_always, reason = "the loop becomes vectors only where it is inlined")]
    #[inline(always)]
    fn run(self) {
        let width = self.left.len();
        for (row, &factor) in self.behind.chunks_exact_mut(width).zip(self.factor) {
            for (value, left) in row.iter_mut().zip(self.left) {
                *value += factor * left;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::inverse::InverseFactor;
    use crate::numeric::seeds::Random;
    use crate::numeric::sweep::{Choice, sweep};

    struct Nearest(f32);

    impl Levels for Nearest {
        fn choose(&self, _: Range<usize>, _: Range<usize>, values: &mut [f32]) {
            for value in values {
                *value = (*value / self.0).round() * self.0;
            }
        }
    }

    impl Choice for Nearest {
        type Row = ();

        fn choose(&self, (): &mut (), at: usize, values: &[f32]) -> f32 {
            (values[at] / self.0).round() * self.0
        }
    }

    fn gram(channels: usize) -> Gram {
        let mut random = Random::new(12);
        let mut x =
            Array2::from_shape_simple_fn((2 * channels, channels), || random.normal() as f32);
        for j in 1..channels {
            let (left, mut right) = x.multi_slice_mut((s![.., j - 1], s![.., j]));
            right.scaled_add(0.7, &left);
        }
        let mut gram = Gram::new(channels);
        gram.add(x.view());
        gram
    }

    /// A level may be the other one of two where a weight lies in the middle between them but for rounding in f32.
    #[test]
    fn the_walk_along_the_inverse_finds_the_same_levels() {
        for (rows, n) in [(1, 1), (3, 5), (40, 128), (70, 129), (300, 310)] {
            let gram = gram(n);
            let order: Vec<usize> = (0..n).rev().collect();
            let mut random = Random::new(2);
            let weights: Vec<f32> = (0..rows * n).map(|_| random.normal() as f32).collect();
            let factor = Feedback::new(&gram, order.clone(), (0.01, 1), &|| false).unwrap();
            let mut found = weights.clone();
            walk(&mut found, &factor, &Nearest(0.4), &|| false).unwrap();
            let inverse = InverseFactor::new(&gram, order, 0.01, &|| false).unwrap();
            let mut expected: Vec<f32> =
                weights.chunks(n).flat_map(|row| row.iter().rev().copied()).collect();
            let mut states = vec![(); rows];
            sweep(&mut expected, &inverse, (&Nearest(0.4), &mut states), 64, &|| false).unwrap();
            let rows_apart = found
                .chunks(n)
                .zip(expected.chunks(n))
                .filter(|(found, expected)| !found.iter().rev().eq(expected.iter()))
                .count();
            assert!(rows_apart <= rows / 50, "{rows} × {n}: {rows_apart} rows differ");
        }
    }

    /// What is left of the inputs of one run is not fed to its own inputs: D has blocks.
    #[test]
    fn the_factor_is_that_of_the_gram_matrix_in_blocks() {
        for (n, run) in [(1, 8), (20, 8), (64, 8), (150, 4), (131, 8)] {
            let gram = gram(n);
            let order: Vec<usize> = (0..n).map(|i| (7 * i + 3) % n).collect();
            let factor = Feedback::new(&gram, order.clone(), (0.01, run), &|| false).unwrap();
            let v = factor.values.mapv(f64::from);
            let mean = gram.diagonal().iter().sum::<f64>() / gram.tokens() as f64 / n as f64;
            let h = Array2::from_shape_fn((n, n), |(i, j)| {
                let added = if i == j { 0.01 * mean } else { 0.0 };
                gram.get(order[i], order[j]) / gram.tokens() as f64 + added
            });
            // D = V⁻¹·H·V⁻ᵀ must be zero outside its blocks: V⁻¹ by substitution from the last row up.
            let mut d = h.clone();
            for _ in 0..2 {
                let pairs = (0..n).rev().flat_map(|i| (i + 1..n).map(move |k| (i, k)));
                for (i, k) in pairs {
                    let (mut row, behind) = d.multi_slice_mut((s![i, ..], s![k, ..]));
                    row.scaled_add(-v[[i, k]], &behind);
                }
                d.swap_axes(0, 1);
            }
            for ((i, j), &found) in d.indexed_iter() {
                assert!(i / run == j / run || found.abs() < 1e-4 * mean, "{n}: [{i}, {j}] {found}");
                assert!(i / run != j / run || i == j || v[[i, j]] == 0.0, "{n}: within a run");
            }
        }
    }

    #[test]
    fn the_threads_change_no_bit_and_a_cancelled_walk_is_nothing() {
        let factor = Feedback::new(&gram(200), (0..200).collect(), (0.01, 8), &|| false).unwrap();
        let mut random = Random::new(4);
        let weights: Vec<f32> = (0..300 * 200).map(|_| random.normal() as f32).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut weights = weights.clone();
            pool.install(|| walk(&mut weights, &factor, &Nearest(0.3), &|| false)).unwrap();
            weights
        };
        assert_eq!(on(1), on(3));
        assert!(walk(&mut weights.clone(), &factor, &Nearest(0.3), &|| true).is_none());
    }
}
