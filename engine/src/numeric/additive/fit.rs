//! Entries of codebooks and scales for codes that stand: least squares.

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::additive::{Additive, Codebooks, ROWS};

/// Steps of conjugate gradients in a round.
const STEPS: usize = 4;
/// Pieces of the rows whose sums are taken apart. Fixed, as they decide the order of sums.
const PIECES: usize = 16;

impl Additive<'_> {
    /// Entries on their way to the least squares solution for these codes and scales, a few steps of conjugate gradients
    /// with the diagonal as preconditioner; not at all, where they would be worse as they are stored. `None` once
    /// `is_cancelled`.
    pub fn move_entries(&mut self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        if self.rows * self.cols == 0 {
            return Some(());
        }
        let before = (self.books.values.clone(), self.error);
        let mut values = self.entries_f64();
        let of_left = |first: usize, out: &mut [f64]| {
            out.copy_from_slice(&self.left[first * self.cols..first * self.cols + out.len()]);
        };
        let mut residual = self.gathered(&of_left, true, is_cancelled)?;
        let ones = |_: usize, out: &mut [f64]| out.fill(1.0);
        let diagonal = self.gathered(&ones, false, is_cancelled)?;
        let solved = |residual: &[f64]| -> Vec<f64> {
            let pairs = residual.iter().zip(&diagonal);
            pairs.map(|(&r, &d)| if d > 0.0 { r / d } else { 0.0 }).collect()
        };
        let mut step = solved(&residual);
        let mut gain = dot(&residual, &step);
        for _ in 0..STEPS {
            if gain.is_nan() || gain <= 0.0 {
                break;
            }
            let of_step = |first: usize, out: &mut [f64]| self.scaled_sums(first, &step, out);
            let carried = self.gathered(&of_step, true, is_cancelled)?;
            let length = gain / dot(&step, &carried);
            if !length.is_finite() {
                break;
            }
            add(&mut values, length, &step);
            add(&mut residual, -length, &carried);
            let next = solved(&residual);
            let next_gain = dot(&residual, &next);
            step.iter_mut()
                .zip(next)
                .for_each(|(step, next)| *step = next + next_gain / gain * *step);
            gain = next_gain;
        }
        let stored = self.stored.value;
        self.books.values = values.iter().map(|&value| stored(value as f32)).collect();
        self.renew(is_cancelled)?;
        if self.error.is_nan() || self.error >= before.1 {
            self.books.values = before.0;
            self.renew(is_cancelled)?;
        }
        Some(())
    }

    /// Ŵ of some rows for these entries.
    fn scaled_sums(&self, first: usize, entries: &[f64], out: &mut [f64]) {
        self.sums(first, entries, out);
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            let scale = f64::from(self.scales[first + row]);
            for value in out {
                *value *= scale;
            }
        }
    }

    /// For each value of each entry Σ sₒ·(X·H)ₒᵢ over its places, X as `rows` writes it from a row on; or, not `carried`,
    /// Σ sₒ²·Hᵢᵢ·xₒᵢ.
    fn gathered(
        &self,
        rows: &(dyn Fn(usize, &mut [f64]) + Sync),
        carried: bool,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Vec<f64>> {
        let (cols, n) = (self.cols, self.books.values.len());
        let per_piece = self.rows.div_ceil(self.pieces()).next_multiple_of(ROWS);
        let strip = self.strip();
        let of_piece = |start: usize| {
            let mut sums = vec![0.0; n];
            for first in (start..(start + per_piece).min(self.rows)).step_by(strip) {
                if is_cancelled() {
                    break;
                }
                let n = strip.min(self.rows - first).min(start + per_piece - first);
                let mut x = vec![0.0; n * cols];
                rows(first, &mut x);
                if carried {
                    self.direct(&mut x);
                } else {
                    self.times_diagonal(first, &mut x);
                }
                for (row, x) in x.chunks_exact_mut(cols).enumerate() {
                    self.mask(first + row, x);
                    self.gather_row(first + row, x, &mut sums);
                }
            }
            sums
        };
        let starts: Vec<usize> = (0..self.rows).step_by(per_piece.max(1)).collect();
        let pieces: Vec<Vec<f64>> = starts.into_par_iter().map(of_piece).collect();
        let mut all = vec![0.0; n];
        for piece in pieces {
            add(&mut all, 1.0, &piece);
        }
        (!is_cancelled()).then_some(all)
    }

    /// In how many pieces rows are gathered: where runs have codebooks of their own, in as many as take the room of the weights.
    fn pieces(&self) -> usize {
        if !self.books.by_run {
            return PIECES;
        }
        (self.rows * self.cols / self.books.values.len().max(1)).clamp(1, PIECES)
    }

    /// x ← x·H, to what f32 has of it.
    fn direct(&self, x: &mut [f64]) {
        let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let mut carried = vec![0.0; x.len()];
        let factor = self.metric.direct(&narrow, &mut carried);
        x.iter_mut().zip(carried).for_each(|(x, carried)| *x = f64::from(carried) / factor);
    }

    /// x ← sₒ·Hᵢᵢ·xᵢ.
    fn times_diagonal(&self, first: usize, x: &mut [f64]) {
        for (row, x) in x.chunks_exact_mut(self.cols).enumerate() {
            let scale = f64::from(self.scales[first + row]);
            let values = x.iter_mut().enumerate();
            values.for_each(|(i, value)| *value *= scale * self.metric.all().get(i, i));
        }
    }

    /// Adds sₒ·x of a row to the values of the entries in whose places it lies.
    fn gather_row(&self, row: usize, x: &[f64], sums: &mut [f64]) {
        let Codebooks { codebooks, dim, .. } = self.books;
        let scale = f64::from(self.scales[row]) * self.metric.of_row(row);
        let n = self.runs() * codebooks;
        let codes = self.codes[row * n..(row + 1) * n].chunks_exact(codebooks);
        for (run, (x, codes)) in x.chunks(dim).zip(codes).enumerate() {
            for (book, &code) in codes.iter().enumerate() {
                let first = self.books.at(run, book, code);
                add(&mut sums[first..first + x.len()], scale, x);
            }
        }
    }

    /// The scale of each row to its best for these codes and entries, in closed form: s = w·H·qᵀ/(q·H·qᵀ), q its sums of
    /// entries; only where that is better as it is stored. With e = w − s·q, q·H·e and q·H·q follow from e·H·e, w·H·e and w·H·w.
    /// `None` once `is_cancelled`.
    pub fn move_scales(&mut self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        if self.rows * self.cols == 0 {
            return Some(());
        }
        if self.along.is_empty() {
            self.measure(is_cancelled)?;
        }
        let of_row = |row: usize| {
            let ([own, with], whole, now) = (self.along[row], self.whole[row], self.scales[row]);
            let scale = f64::from(now);
            let slope = (with - own) / scale;
            let curve = (whole - 2.0 * with + own) / scale.powi(2);
            let next = (self.stored.scale)((scale + slope / curve) as f32);
            let by = f64::from(next) - scale;
            let change = by * (by * curve - 2.0 * slope);
            let is_better = next.is_finite() && next > 0.0 && change < 0.0;
            if is_better { (next, change * self.metric.of_row(row)) } else { (now, 0.0) }
        };
        let found: Vec<(f32, f64)> = (0..self.rows).map(of_row).collect();
        self.scales = found.iter().map(|(scale, _)| *scale).collect();
        self.error += found.iter().map(|(_, change)| change).sum::<f64>();
        let (entries, mut left) = (self.entries_f64(), std::mem::take(&mut self.left));
        let rows = left.par_chunks_mut(self.cols).enumerate();
        rows.for_each(|(row, left)| self.leave(row, &entries, left));
        self.left = left;
        self.along.clear();
        (!is_cancelled()).then_some(())
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += factor * value);
}
