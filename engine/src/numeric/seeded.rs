//! Blocks of numbers as few coefficients of columns at random, which a shift register makes from a seed (`SeedLM`).
//!
//! A register of b bits steps from state s to ⌊s/2⌋, with the parity of s at its taps as the new highest bit. The states
//! behind a seed, row by row, are V `[block, coefficients]`, and U = (V − 2^(b−1))/(2^(b−1) − 1).

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::numeric::vector::{Loops, vectorised};

/// Bits of the smallest and of the largest register.
pub const REGISTERS: [u32; 2] = [6, 16];
/// Taps of registers of 3 to 16 bits, the lowest bit first, by which all states but 0 come before one comes again: the least
/// there are, and of 16 bits those of the authors.
const TAPS: [u16; 14] =
    [0x3, 0x3, 0x5, 0x3, 0x3, 0x1d, 0x11, 0x9, 0x5, 0x53, 0x1b, 0x2b, 0x3, 0x100b];
/// The most coefficients of a block.
pub const MOST_COEFFICIENTS: usize = 4;
/// The exponent of the largest step.
pub const LARGEST_EXPONENT: u8 = 15;
/// Blocks searched at once.
const LANES: usize = 32;
/// Seeds whose bases are made by one thread at a time.
const PIECE: usize = 1 << 10;

/// The state behind `state` of a register of `bits` bits, 3 to 16.
fn behind(state: u16, bits: u32) -> u16 {
    let parity = (state & TAPS[bits as usize - 3]).count_ones() as u16 & 1;
    state >> 1 | parity << (bits - 1)
}

/// A state as a number: −1 to 1.
fn number(state: u16, bits: u32) -> f32 {
    let middle = f32::from(1_u16 << (bits - 1));
    (f32::from(state) - middle) / (middle - 1.0)
}

/// The numbers of a seed, row by row.
pub fn basis(seed: u16, bits: u32, out: &mut [f32]) {
    let mut state = seed;
    for value in out {
        state = behind(state, bits);
        *value = number(state, bits);
    }
}

/// One row of U times coefficients in steps of `step`, in f32 from the first on, within what f32 holds.
pub fn weight(row: &[f32], mantissas: &[i8], step: f32) -> f32 {
    let products = row.iter().zip(mantissas).map(|(u, &m)| u * (f32::from(m) * step));
    products.fold(0.0, |sum: f32, product| sum + product).clamp(-f32::MAX, f32::MAX)
}

/// The step of an exponent, where that of the largest is `scale`.
pub fn step(scale: f32, exponent: u8) -> f32 {
    scale * 2_f32.powi(i32::from(exponent) - i32::from(LARGEST_EXPONENT))
}

/// A seed, and coefficients in 4 bits under one exponent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The seed.
    pub seed: u16,
    /// 0 to 15.
    pub exponent: u8,
    /// −8 to 7, as many as coefficients.
    pub mantissas: [i8; MOST_COEFFICIENTS],
    /// Squares that it leaves.
    pub left: f32,
}

/// The bases of all seeds for blocks of one length: orthonormal ones for the search, and the way back.
struct Bank {
    width: usize,
    coefficients: usize,
    /// All states in their order, from 1 on, and behind them the first ones again.
    states: Vec<u16>,
    numbers: Vec<f32>,
    /// Of each place in that order Q, column by column, then R⁻¹, row by row; U = Q·R.
    bases: Vec<f32>,
}

impl Bank {
    fn new(
        (width, coefficients): (usize, usize),
        bits: u32,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let n = width * coefficients;
        let mut states = vec![1_u16];
        while states.len() < (1 << bits) + n {
            states.push(behind(states[states.len() - 1], bits));
        }
        let numbers: Vec<f32> = states.iter().map(|&state| number(state, bits)).collect();
        let size = n + coefficients * coefficients;
        let mut bases = vec![0.0; ((1 << bits) - 1) * size];
        bases.par_chunks_mut(PIECE * size).enumerate().for_each(|(piece, bases)| {
            if is_cancelled() {
                return;
            }
            for (i, base) in bases.chunks_mut(size).enumerate() {
                let first = piece * PIECE + i + 1;
                orthonormal(&numbers[first..first + n], (width, coefficients), base);
            }
        });
        (!is_cancelled()).then_some(Self { width, coefficients, states, numbers, bases })
    }

    fn size(&self) -> usize {
        (self.width + self.coefficients) * self.coefficients
    }

    /// What the seed at a place makes of a block: the nearest coefficients, rounded.
    fn at(&self, place: usize, block: &[f32]) -> Fit {
        let (n, p) = (self.width * self.coefficients, self.coefficients);
        let base = &self.bases[place * self.size()..(place + 1) * self.size()];
        let (columns, back) = base.split_at(n);
        let mut along = [0.0_f32; MOST_COEFFICIENTS];
        for (along, column) in along.iter_mut().zip(columns.chunks(self.width)) {
            *along = column.iter().zip(block).map(|(q, w)| q * w).sum();
        }
        let mut wanted = [0.0_f32; MOST_COEFFICIENTS];
        for (wanted, row) in wanted.iter_mut().zip(back.chunks(p)) {
            *wanted = row.iter().zip(&along).map(|(r, a)| r * a).sum();
        }
        let (exponent, mantissas) = rounded(&wanted);
        let rows = self.numbers[place + 1..place + 1 + n].chunks(p);
        let step = step(1.0, exponent);
        let left = rows.zip(block).map(|(row, w)| (w - weight(row, &mantissas[..p], step)).powi(2));
        Fit { seed: self.states[place], exponent, mantissas, left: left.sum() }
    }

    /// The best of all seeds for up to [`LANES`] blocks; of equal ones the first in the order of states.
    fn search(&self, blocks: &[f32]) -> Vec<Fit> {
        let mut lanes = vec![[0.0; LANES]; self.width];
        for (lane, block) in blocks.chunks(self.width).enumerate() {
            block.iter().zip(&mut lanes).for_each(|(&w, lanes)| lanes[lane] = w);
        }
        let none = |block: &[f32]| {
            let left = block.iter().map(|w| w * w).sum();
            Fit { seed: 1, exponent: 0, mantissas: [0; MOST_COEFFICIENTS], left }
        };
        let mut best: Vec<Fit> = blocks.chunks(self.width).map(none).collect();
        let squares: Vec<f32> = best.iter().map(|fit| fit.left).collect();
        // What a seed must carry to be nearer than the best so far, rounding of sums apart.
        let need = |square: f32, left: f32| square - left - 1e-5 * square;
        let mut needed = [f32::INFINITY; LANES];
        let mut place = 0;
        loop {
            for (lane, fit) in best.iter().enumerate() {
                needed[lane] =
                    if fit.left > 0.0 { need(squares[lane], fit.left) } else { f32::INFINITY };
            }
            let ahead = vectorised(Next { bank: self, lanes: &lanes, needed: &needed, place });
            let Some((found, carried)) = ahead else { break };
            for (lane, fit) in
                best.iter_mut().enumerate().filter(|(lane, _)| carried[*lane] > needed[*lane])
            {
                let other = self.at(found, &blocks[lane * self.width..(lane + 1) * self.width]);
                if other.left < fit.left {
                    *fit = other;
                }
            }
            place = found + 1;
        }
        best
    }
}

/// Q column by column and R⁻¹ row by row for U row by row, by Gram and Schmidt, twice; a column that the others before
/// make is left out.
fn orthonormal(u: &[f32], (width, p): (usize, usize), out: &mut [f32]) {
    let mut q = [[0.0_f64; 64]; MOST_COEFFICIENTS];
    let mut r = [[0.0_f64; MOST_COEFFICIENTS]; MOST_COEFFICIENTS];
    for k in 0..p {
        let mut column = [0.0_f64; 64];
        (0..width).for_each(|c| column[c] = f64::from(u[c * p + k]));
        let norm = |column: &[f64; 64]| column[..width].iter().map(|x| x * x).sum::<f64>().sqrt();
        let before = norm(&column);
        for _ in 0..2 {
            for (j, q) in q[..k].iter().enumerate() {
                let along: f64 = (0..width).map(|c| q[c] * column[c]).sum();
                r[j][k] += along;
                (0..width).for_each(|c| column[c] -= along * q[c]);
            }
        }
        let left = norm(&column);
        if left > 1e-6 * before {
            r[k][k] = left;
            (0..width).for_each(|c| q[k][c] = column[c] / left);
        }
    }
    for (k, column) in q[..p].iter().enumerate() {
        (0..width).for_each(|c| out[k * width + c] = column[c] as f32);
    }
    // Column j of R⁻¹ from below.
    for j in 0..p {
        let mut column = [0.0_f64; MOST_COEFFICIENTS];
        for i in (0..=j).rev().filter(|&i| r[i][i] > 0.0) {
            let sum: f64 = (i + 1..=j).map(|k| r[i][k] * column[k]).sum();
            column[i] = (f64::from(u8::from(i == j)) - sum) / r[i][i];
        }
        (0..p).for_each(|i| out[p * width + i * p + j] = column[i] as f32);
    }
}

/// Mantissas under the least exponent at which none is beyond 7½.
fn rounded(wanted: &[f32; MOST_COEFFICIENTS]) -> (u8, [i8; MOST_COEFFICIENTS]) {
    let largest = wanted.iter().fold(0.0_f32, |most, t| most.max(t.abs()));
    let fits = |exponent: &u8| largest <= 7.5 * step(1.0, *exponent);
    let exponent = (0..LARGEST_EXPONENT).find(fits).unwrap_or(LARGEST_EXPONENT);
    let step = step(1.0, exponent);
    (exponent, wanted.map(|t| (t / step).round_ties_even().clamp(-8.0, 7.0) as i8))
}

/// The first place from `place` on at which a block has more in the basis than is needed, and what each has there.
struct Next<'a> {
    bank: &'a Bank,
    lanes: &'a [[f32; LANES]],
    needed: &'a [f32; LANES],
    place: usize,
}

impl Loops for Next<'_> {
    type Found = Option<(usize, [f32; LANES])>;

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> Self::Found {
        let (size, width) = (self.bank.size(), self.bank.width);
        let n = width * self.bank.coefficients;
        let bases = self.bank.bases[self.place * size..].chunks_exact(size);
        for (ahead, base) in bases.enumerate() {
            let mut carried = [0.0_f32; LANES];
            for column in base[..n].chunks_exact(width) {
                let along = along(column, self.lanes);
                for i in 0..LANES {
                    carried[i] += along[i] * along[i];
                }
            }
            let more: u32 =
                carried.iter().zip(self.needed).map(|(own, needed)| u32::from(own > needed)).sum();
            if more > 0 {
                return Some((self.place + ahead, carried));
            }
        }
        None
    }
}

/// Products of a column with the blocks of all lanes.
#[expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]
#[inline(always)]
fn along(column: &[f32], lanes: &[[f32; LANES]]) -> [f32; LANES] {
    let mut along = [0.0_f32; LANES];
    for (q, lanes) in column.iter().zip(lanes) {
        for i in 0..LANES {
            along[i] += q * lanes[i];
        }
    }
    along
}

/// The seed and coefficients nearest to each block of `width` numbers, which are of no more than 7½ in length, among all seeds
/// of registers of `bits` bits.
///
/// Nothing is left out: what a basis leaves of a block before coefficients are rounded bounds what it leaves, and seeds
/// whose bound is no less than the best so far are not looked into. Cost of a block: 2ᵇ·2·width·coefficients operations
/// in f32; memory 4·2ᵇ·(width + coefficients)·coefficients bytes. `done` is told of blocks that are done. `None` once
/// `is_cancelled`. The same on any number of threads.
///
/// # Panics
/// If `width` is 0 or above 64, or there are no whole blocks.
pub fn fits(
    blocks: &[f32],
    (width, coefficients): (usize, usize),
    bits: u32,
    (done, is_cancelled): (&(dyn Fn(usize) + Sync), &(dyn Fn() -> bool + Sync)),
) -> Option<Vec<Fit>> {
    assert!((1..=64).contains(&width) && blocks.len().is_multiple_of(width), "whole blocks");
    if blocks.is_empty() {
        return Some(Vec::new());
    }
    let bank = Bank::new((width, coefficients), bits, is_cancelled)?;
    let of_panel = |panel: &[f32]| {
        if is_cancelled() {
            return None;
        }
        let found = bank.search(panel);
        done(found.len());
        Some(found)
    };
    let found: Option<Vec<Vec<Fit>>> = blocks.par_chunks(LANES * width).map(of_panel).collect();
    Some(found?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    #[test]
    fn registers_pass_all_states_but_zero() {
        for bits in 3..=16 {
            let (mut state, mut steps) = (1, 0);
            loop {
                state = behind(state, bits);
                steps += 1;
                if state == 1 {
                    break;
                }
            }
            assert_eq!(steps, (1 << bits) - 1, "{bits} bits");
        }
    }

    /// V of seed 4 in 3 bits, `[4, 2]`, as the authors have it.
    #[test]
    fn a_small_register_makes_the_known_matrix() {
        let mut state = 4;
        let mut states = Vec::new();
        for _ in 0..8 {
            state = behind(state, 3);
            states.push(state);
        }
        assert_eq!(states, [2, 5, 6, 7, 3, 1, 4, 2]);
        let mut numbers = [0.0; 3];
        basis(4, 3, &mut numbers);
        assert_eq!(numbers, [-2.0 / 3.0, 1.0 / 3.0, 2.0 / 3.0]);
    }

    fn block(random: &mut Random, width: usize) -> Vec<f32> {
        (0..width).map(|_| random.normal() as f32).collect()
    }

    /// Every seed with its nearest coefficients by the normal equations in f64, without any bound.
    fn tried(block: &[f32], p: usize, bits: u32) -> f64 {
        let of_seed = |seed: u16| {
            let mut u = vec![0.0; block.len() * p];
            basis(seed, bits, &mut u);
            let at = |c: usize, k: usize| f64::from(u[c * p + k]);
            let sum = |i: usize, of: &dyn Fn(usize) -> f64| -> f64 {
                (0..block.len()).map(|c| at(c, i) * of(c)).sum()
            };
            let row = |i: usize| {
                let products = (0..p).map(|j| sum(i, &|c| at(c, j)));
                products.chain([sum(i, &|c| f64::from(block[c]))]).collect::<Vec<f64>>()
            };
            let mut a: Vec<Vec<f64>> = (0..p).map(row).collect();
            for k in 0..p {
                let pivot = a[k].clone();
                for (i, row) in a.iter_mut().enumerate().filter(|(i, _)| *i != k) {
                    assert!(i != k && pivot[k] != 0.0);
                    let factor = row[k] / pivot[k];
                    row.iter_mut().zip(&pivot).for_each(|(x, y)| *x -= factor * y);
                }
            }
            let wanted: Vec<f64> = (0..p).map(|k| a[k][p] / a[k][k]).collect();
            let largest = wanted.iter().fold(0.0_f64, |most, t| most.max(t.abs()));
            let exponent = (largest / 7.5).log2().ceil().min(0.0);
            let step = exponent.exp2();
            let rounded = |t: &f64| (t / step).round_ties_even().clamp(-8.0, 7.0) * step;
            let stored: Vec<f64> = wanted.iter().map(rounded).collect();
            let off =
                |c: usize| (0..p).map(|k| at(c, k) * stored[k]).sum::<f64>() - f64::from(block[c]);
            (0..block.len()).map(|c| off(c).powi(2)).sum::<f64>()
        };
        (1..=u16::MAX >> (16 - bits)).map(of_seed).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn what_is_found_is_the_best_of_all_seeds() {
        let mut random = Random::new(1);
        for (width, p) in [(8, 3), (12, 4), (5, 2)] {
            for _ in 0..6 {
                let block = block(&mut random, width);
                let found = fits(&block, (width, p), 9, (&|_| {}, &|| false)).unwrap();
                let best = tried(&block, p, 9);
                assert!((f64::from(found[0].left) / best - 1.0).abs() < 1e-3, "{found:?} {best}");
            }
        }
    }

    /// One basis of P columns leaves (C − P)/C of the squares of normal numbers.
    #[test]
    fn one_basis_leaves_what_is_outside_of_it() {
        let bank = Bank::new((8, 3), 16, &|| false).unwrap();
        let mut random = Random::new(2);
        let (mut left, mut all) = (0.0, 0.0);
        for _ in 0..4000 {
            let block = block(&mut random, 8);
            let fit = bank.at(12_345, &block);
            left += f64::from(fit.left);
            all += block.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        }
        assert!((left / all / 0.625 - 1.0).abs() < 0.05, "{}", left / all);
    }

    /// Blocks shorter than coefficients have bases of fewer columns.
    #[test]
    fn short_blocks_are_met_as_well() {
        let found = fits(&[0.3, -0.7, 0.0], (1, 4), 8, (&|_| {}, &|| false)).unwrap();
        for (fit, wanted) in found.iter().zip([0.3_f32, -0.7, 0.0]) {
            assert!(fit.left < 1e-4 * wanted * wanted + 1e-12, "{fit:?}");
        }
        assert!(fits(&[1.0; 8], (8, 3), 16, (&|_| {}, &|| true)).is_none());
    }
}
