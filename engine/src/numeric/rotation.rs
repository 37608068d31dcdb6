//! Random orthogonal changes of basis, which spread what stands out over all coordinates: the randomised Hadamard
//! transform (Chee et al., `QuIP`, 2023; Tseng et al., `QuIP#`, 2024), for any number of coordinates.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use std::ops::{Add, AddAssign, Mul, Neg, Sub};

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::numeric::seeds::Random;
use crate::numeric::vector::{Loops, vectorised};

/// Numbers that can be rotated.
pub trait Real:
    Copy
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + AddAssign
{
    /// The nearest number.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
}

/// The largest odd factor that is not split: it costs as many operations a coordinate.
const MOST_ODD: usize = 128;
/// Coordinates that are mixed where the whole cannot be.
const RUN: usize = 1024;

/// x → T·(s∘x), T orthogonal and its own inverse, s random signs.
///
/// Of n = p·2ᵏ coordinates, p odd, T is the Kronecker product of the p × p Hartley matrix, (cos + sin)(2π·i·j/p)/√p, and
/// the Hadamard matrix of order 2ᵏ over √2ᵏ; no element is larger than √(2/n). Where p is over 128, runs of 1,024
/// coordinates are mixed, and what is left at the end by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    signs: Vec<bool>,
    run: usize,
}

impl Rotation {
    /// Coordinates mixed with one another, of `n`.
    pub fn widest(n: usize) -> usize {
        let odd = n >> n.trailing_zeros().min(usize::BITS - 1);
        if n == 0 || odd > MOST_ODD { RUN.min(n.max(1)) } else { n }
    }

    /// Random signs for `n` coordinates, of which [`Self::widest`] are mixed.
    pub fn random(n: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let signs = (0..n).map(|_| random.bits() >> 63 == 1).collect();
        Self::new(signs, Self::widest(n))
    }

    /// With these signs (true: minus), runs of `run` coordinates mixed, at least 1.
    pub fn new(signs: Vec<bool>, run: usize) -> Self {
        Self { signs, run: run.max(1) }
    }

    /// The signs; true is minus.
    pub fn signs(&self) -> &[bool] {
        &self.signs
    }

    /// Coordinates that are mixed with one another.
    pub fn run(&self) -> usize {
        self.run
    }

    /// Coordinates.
    pub fn len(&self) -> usize {
        self.signs.len()
    }

    /// Whether there is no coordinate.
    pub fn is_empty(&self) -> bool {
        self.signs.is_empty()
    }

    /// T·(s∘x) in the place of every row x of [`Self::len`] coordinates. Cost: n·(p + k) operations a row.
    pub fn apply<T: Real>(&self, rows: &mut [T]) {
        let mut spare = Vec::new();
        for row in rows.chunks_mut(self.len().max(1)) {
            self.flip(row);
            self.mix(row, &mut spare);
        }
    }

    /// The inverse of [`Self::apply`]: s∘(T·x).
    pub fn undo<T: Real>(&self, rows: &mut [T]) {
        let mut spare = Vec::new();
        for row in rows.chunks_mut(self.len().max(1)) {
            self.mix(row, &mut spare);
            self.flip(row);
        }
    }

    fn flip<T: Real>(&self, row: &mut [T]) {
        for (value, &minus) in row.iter_mut().zip(&self.signs) {
            *value = if minus { -*value } else { *value };
        }
    }

    fn mix<T: Real>(&self, row: &mut [T], spare: &mut Vec<T>) {
        for run in row.chunks_mut(self.run) {
            let two = 1 << run.len().trailing_zeros();
            vectorised(Hadamard { values: run, two });
            hartley(run, two, spare);
        }
    }
}

/// Turns the rows of a matrix by `cols`, in place, and its columns by `rows` if they are turned: S·W·Rᵀ. Row-major,
/// `[rows, cols]`, rows in parallel.
///
/// # Panics
/// If there are not as many values as rows times columns.
pub fn apply_both<T: Real>(cols: &Rotation, rows: Option<&Rotation>, values: &mut [T]) {
    each_row(cols.len(), values, |row| cols.apply(row));
    if let Some(rows) = rows {
        each_column((rows.len(), cols.len()), values, |column| rows.apply(column));
    }
}

/// The inverse of [`apply_both`].
pub fn undo_both<T: Real>(cols: &Rotation, rows: Option<&Rotation>, values: &mut [T]) {
    if let Some(rows) = rows {
        each_column((rows.len(), cols.len()), values, |column| rows.undo(column));
    }
    each_row(cols.len(), values, |row| cols.undo(row));
}

fn each_row<T: Real>(cols: usize, values: &mut [T], turn: impl Fn(&mut [T]) + Send + Sync) {
    values.par_chunks_mut(cols.max(1)).for_each(turn);
}

fn each_column<T: Real>(
    (rows, cols): (usize, usize),
    values: &mut [T],
    turn: impl Fn(&mut [T]) + Send + Sync,
) {
    assert_eq!(values.len(), rows * cols, "whole rows");
    if values.is_empty() {
        return;
    }
    let mut turned = transposed(values, cols);
    each_row(rows, &mut turned, turn);
    values.copy_from_slice(&transposed(&turned, rows));
}

/// Row-major `[n, cols]` values as `[cols, n]`, in square tiles, which the cache holds.
fn transposed<T: Real>(values: &[T], cols: usize) -> Vec<T> {
    const SIDE: usize = 32;
    let rows = values.len() / cols;
    let mut out = vec![T::from_f64(0.0); values.len()];
    out.par_chunks_mut(SIDE * rows).enumerate().for_each(|(strip, out)| {
        for first in (0..rows).step_by(SIDE) {
            for (i, out) in out.chunks_mut(rows).enumerate() {
                let column = strip * SIDE + i;
                for row in first..(first + SIDE).min(rows) {
                    out[row] = values[row * cols + column];
                }
            }
        }
    });
    out
}

/// The Hadamard transform over √2ᵏ of every run of 2ᵏ values.
struct Hadamard<'a, T> {
    values: &'a mut [T],
    two: usize,
}

impl<T: Real> Loops for Hadamard<'_, T> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let scale = T::from_f64((self.two as f64).sqrt().recip());
        for run in self.values.chunks_mut(self.two) {
            let mut half = 1;
            while half < self.two {
                for pair in run.chunks_mut(2 * half) {
                    let (left, right) = pair.split_at_mut(half);
                    butterfly(left, right);
                }
                half *= 2;
            }
            for value in run {
                *value = *value * scale;
            }
        }
    }
}

/// Sums in the place of the left values, differences in that of the right.
#[inline(always)]
fn butterfly<T: Real>(left: &mut [T], right: &mut [T]) {
    for (left, right) in left.iter_mut().zip(right) {
        (*left, *right) = (*left + *right, *left - *right);
    }
}

/// The Hartley transform over √p along the values that lie `two` apart.
fn hartley<T: Real>(values: &mut [T], two: usize, spare: &mut Vec<T>) {
    let odd = values.len() / two;
    if odd < 2 {
        return;
    }
    let turn = std::f64::consts::TAU / odd as f64;
    let wave =
        |k: usize| (libm::cos(turn * k as f64) + libm::sin(turn * k as f64)) / (odd as f64).sqrt();
    let waves: Vec<T> = (0..odd).map(|k| T::from_f64(wave(k))).collect();
    spare.clear();
    spare.resize(values.len(), T::from_f64(0.0));
    for (i, out) in spare.chunks_mut(two).enumerate() {
        for (j, from) in values.chunks(two).enumerate() {
            vectorised(AddScaled { factor: waves[i * j % odd], from, to: out });
        }
    }
    values.copy_from_slice(spare);
}

/// to + factor · from.
struct AddScaled<'a, T> {
    factor: T,
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Real> Loops for AddScaled<'_, T> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        for (to, &from) in self.to.iter_mut().zip(self.from) {
            *to += self.factor * from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 11] = [1, 2, 3, 64, 172, 288, 768, 1024, 1031, 2062, 4100];

    #[test]
    fn lengths_and_products_stay_and_undo_undoes() {
        for n in LENGTHS {
            let rotation = Rotation::random(n, 3);
            let mut random = Random::new(9);
            let rows: Vec<f64> = (0..2 * n).map(|_| random.normal()).collect();
            let mut turned = rows.clone();
            rotation.apply(&mut turned);
            let product = |rows: &[f64], i: usize, j: usize| -> f64 {
                let row = |i: usize| rows[i * n..(i + 1) * n].iter();
                row(i).zip(row(j)).map(|(a, b)| a * b).sum()
            };
            for (i, j) in [(0, 0), (0, 1), (1, 1)] {
                let (before, after) = (product(&rows, i, j), product(&turned, i, j));
                assert!((before - after).abs() < 1e-9 * n as f64, "{n}: {before} {after}");
            }
            rotation.undo(&mut turned);
            let most = rows.iter().zip(&turned).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(most < 1e-12 * n as f64, "{n}: {most}");
        }
    }

    #[test]
    fn both_sides_are_turned_and_back() {
        let (rows, cols) = (Rotation::random(70, 1), Rotation::random(48, 2));
        let mut random = Random::new(9);
        let weights: Vec<f64> = (0..70 * 48).map(|_| random.normal()).collect();
        let mut turned = weights.clone();
        apply_both(&cols, Some(&rows), &mut turned);
        // Column 5 of S·W·Rᵀ is S·W·(row 5 of R), and row 5 of R is R undone on the fifth axis.
        let mut axis = vec![0.0; 48];
        axis[5] = 1.0;
        cols.undo(&mut axis);
        let mut column: Vec<f64> =
            weights.chunks(48).map(|row| row.iter().zip(&axis).map(|(a, b)| a * b).sum()).collect();
        rows.apply(&mut column);
        for (found, expected) in turned.chunks(48).map(|row| row[5]).zip(column) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
        undo_both(&cols, Some(&rows), &mut turned);
        let most = weights.iter().zip(&turned).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(most < 1e-12, "{most}");
    }

    #[test]
    fn a_spike_is_spread_over_all_that_are_mixed() {
        for n in LENGTHS {
            let rotation = Rotation::random(n, 5);
            let mut row = vec![0.0_f32; n];
            row[n / 3] = 1.0;
            rotation.apply(&mut row);
            let most = row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            // What is left behind whole runs is mixed by itself.
            let run = Rotation::widest(n);
            let own = if n / 3 / run == n / run { n % run } else { run };
            assert!(most <= (2.0 / own as f32).sqrt() + 1e-6, "{n}: {most}");
        }
    }

    #[test]
    fn powers_of_two_are_hadamard_alone() {
        let rotation = Rotation::new(vec![false; 4], 4);
        let mut row = [1.0_f32, 2.0, 3.0, 4.0];
        rotation.apply(&mut row);
        assert_eq!(row, [5.0, -1.0, -2.0, 0.0]);
        let flipped = Rotation::new(vec![true, false, false, false], 4);
        let mut row = [-1.0_f32, 2.0, 3.0, 4.0];
        flipped.apply(&mut row);
        assert_eq!(row, [5.0, -1.0, -2.0, 0.0]);
    }
}
