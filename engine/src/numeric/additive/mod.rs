//! Additive codes of a matrix (AQLM, Egiazarian et al. 2024): ŵ = sₒ·Σ over codebooks c of C\[c\]\[code\] for each run of
//! inputs of each output, with little tr((W − Ŵ)·H·(W − Ŵ)ᵀ).
//!
//! Codes, codebooks and scales move in turn, each to its best or near it while the others stand; only what is better as it
//! is stored is taken. Everything is the same on any number of threads.

mod dropped;
mod fit;
mod metric;
mod search;
mod sums;
mod sweep;

use ndarray::ArrayView2;
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _,
    ParallelSlice as _, ParallelSliceMut as _,
};

pub use metric::Metric;
pub use search::MOST_BEAMS;
pub use sums::{Near, Sums};

use crate::numeric::clusters::{Points, assign, clusters};

/// The most codebooks whose entries are added.
pub const MOST_CODEBOOKS: usize = 4;
/// Rows that one thread takes at a time, at least.
const ROWS: usize = 32;
/// At most: what is read for all of them, tables and columns of H, is read once, and they stay near the processor.
const MOST_ROWS: usize = 4 * ROWS;
/// Strips of a matrix, where it has rows for them: something for every thread.
const STRIPS: usize = 8;
/// Rounds of k-means for each codebook at the start.
const STARTS: usize = 12;

/// Entries of a few codebooks, `[codebooks, entries, dim]`, or as many for each run of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebooks {
    /// Their number, 1 to [`MOST_CODEBOOKS`].
    pub codebooks: usize,
    /// Entries of each, up to 2¹⁶.
    pub entries: usize,
    /// Inputs of a run.
    pub dim: usize,
    /// Whether each run of inputs has codebooks of its own; else all runs have the same.
    pub by_run: bool,
    /// The entries.
    pub values: Vec<f32>,
}

impl Codebooks {
    /// Values of the codebooks of a run.
    fn of_set(&self) -> usize {
        self.codebooks * self.entries * self.dim
    }

    /// Where an entry begins.
    fn at(&self, run: usize, codebook: usize, code: u16) -> usize {
        let set = if self.by_run { run * self.of_set() } else { 0 };
        set + (codebook * self.entries + code as usize) * self.dim
    }

    /// The codebooks of a run.
    fn set(&self, run: usize) -> &[f32] {
        let first = self.at(run, 0, 0);
        &self.values[first..first + self.of_set()]
    }

    fn entry(&self, run: usize, codebook: usize, code: u16) -> &[f32] {
        let first = self.at(run, codebook, code);
        &self.values[first..first + self.dim]
    }
}

/// Codes, codebooks and scales that are there.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// `[rows, runs, codebooks]`.
    pub codes: Vec<u16>,
    /// The codebooks.
    pub books: Codebooks,
    /// One for each row.
    pub scales: Vec<f32>,
    /// Of each weight whether it stays, row-major, where a mask drops some: ŵ of those that it drops is zero.
    pub keeps: Option<&'a [bool]>,
}

/// How numbers are stored: to their types and back.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Of entries.
    pub value: &'a (dyn Fn(f32) -> f32 + Sync),
    /// Of scales.
    pub scale: &'a (dyn Fn(f32) -> f32 + Sync),
}

impl std::fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

/// What moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Codes.
    Codes,
    /// Entries of codebooks.
    Entries,
    /// Scales.
    Scales,
}

/// Codes, codebooks and scales on their way.
#[derive(Debug)]
pub struct Additive<'a> {
    rows: usize,
    cols: usize,
    weights: ArrayView2<'a, f32>,
    metric: &'a Metric,
    stored: Stored<'a>,
    books: Codebooks,
    /// `[rows, runs, codebooks]`.
    codes: Vec<u16>,
    scales: Vec<f32>,
    keeps: Option<&'a [bool]>,
    /// W − Ŵ, `[rows, cols]`.
    left: Vec<f64>,
    /// tr((W − Ŵ)·H·(W − Ŵ)ᵀ), rows counted.
    error: f64,
    /// W·H·Wᵀ of each row.
    whole: Vec<f64>,
    /// Of each row, with e = w − ŵ, e·H·e and w·H·e; none once they may be others.
    along: Vec<[f64; 2]>,
    /// Whether beginning the codes anew has been of no use.
    is_settled: bool,
}

impl<'a> Additive<'a> {
    /// Begins with scales √(Σ w²/cols) and residual k-means: each codebook of what those before leave of W over its
    /// scales, runs counted by the square of their scale. Memory 8·rows·cols bytes beside those of the weights. `None`
    /// once `is_cancelled`.
    ///
    /// # Panics
    /// If the metric has other inputs than the weights, or there are too many codebooks or entries.
    pub fn new(
        weights: ArrayView2<'a, f32>,
        metric: &'a Metric,
        (stored, shape): (Stored<'a>, [usize; 3]),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let (cols, [codebooks, entries, dim]) = (weights.ncols(), shape);
        let mean = |row: ndarray::ArrayView1<'_, f32>| {
            let squares: f64 = row.iter().map(|&w| f64::from(w).powi(2)).sum();
            (stored.scale)((squares / cols.max(1) as f64).sqrt() as f32)
        };
        let scales: Vec<f32> = weights.rows().into_iter().map(mean).collect();
        let books = Codebooks { codebooks, entries, dim, by_run: false, values: Vec::new() };
        let start = Start { codes: Vec::new(), books, scales, keeps: None };
        let mut new = Self::bare(weights, metric, (stored, start), is_cancelled)?;
        new.begin(is_cancelled)?;
        new.renew(is_cancelled)?;
        Some(new)
    }

    /// Goes on from codes, codebooks and scales that are there. Memory as of [`Self::new`]. `None` once `is_cancelled`.
    ///
    /// # Panics
    /// If the metric has other inputs than the weights, there are too many codebooks or entries, or numbers of anything do
    /// not fit.
    pub fn resume(
        weights: ArrayView2<'a, f32>,
        metric: &'a Metric,
        (stored, start): (Stored<'a>, Start<'a>),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let ((rows, cols), books) = (weights.dim(), &start.books);
        let runs = cols.div_ceil(books.dim);
        let sets = if books.by_run { runs } else { 1 };
        assert_eq!(books.values.len(), sets * books.of_set(), "whole codebooks");
        assert_eq!(start.codes.len(), rows * runs * books.codebooks, "a code for each run");
        assert_eq!(start.scales.len(), rows, "a scale for each row");
        assert!(start.keeps.is_none_or(|keeps| keeps.len() == rows * cols), "a mask of them all");
        let mut state = Self::bare(weights, metric, (stored, start), is_cancelled)?;
        state.renew(is_cancelled)?;
        Some(state)
    }

    /// What W alone says.
    fn bare(
        weights: ArrayView2<'a, f32>,
        metric: &'a Metric,
        (stored, start): (Stored<'a>, Start<'a>),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let ((rows, cols), Start { codes, books, scales, keeps }) = (weights.dim(), start);
        assert_eq!(cols, metric.cols(), "one input a column");
        let is_few = (1..=MOST_CODEBOOKS).contains(&books.codebooks) && books.entries <= 1 << 16;
        assert!(is_few, "few enough");
        let mut bare = Self {
            rows,
            cols,
            weights,
            metric,
            stored,
            books,
            codes,
            scales,
            keeps,
            left: weights.iter().map(|&weight| f64::from(weight)).collect(),
            error: f64::INFINITY,
            whole: Vec::new(),
            along: Vec::new(),
            // A walk counts on the inputs behind, of which a mask drops some.
            is_settled: keeps.is_some() || metric.is_plain(),
        };
        bare.measure(is_cancelled)?;
        bare.whole = bare.along.iter().map(|[whole, _]| *whole).collect();
        Some(bare)
    }

    fn runs(&self) -> usize {
        self.cols.div_ceil(self.books.dim)
    }

    /// Residual k-means.
    fn begin(&mut self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        let Codebooks { codebooks, entries, dim, .. } = self.books;
        let runs = self.runs();
        let mut rest = vec![0.0_f32; self.rows * runs * dim];
        let mut counted = vec![0.0_f32; self.rows * runs];
        let trace = |run: usize| -> f64 {
            (run * dim..((run + 1) * dim).min(self.cols)).map(|i| self.metric.all().get(i, i)).sum()
        };
        let traces: Vec<f64> = (0..runs).map(trace).collect();
        let heaviest = (0..self.rows).map(|row| self.metric.of_row(row)).fold(0.0, f64::max);
        let largest = f64::from(self.scales.iter().copied().fold(0.0, f32::max));
        let of_rows =
            rest.par_chunks_mut((runs * dim).max(1)).zip(counted.par_chunks_mut(runs.max(1)));
        of_rows.zip(&self.scales).enumerate().for_each(|(row, ((rest, counted), &scale))| {
            if scale > 0.0 {
                for (rest, &weight) in rest.iter_mut().zip(self.weights.row(row)) {
                    *rest = (f64::from(weight) / f64::from(scale)) as f32;
                }
                let row_count = self.metric.of_row(row) / heaviest;
                for (counted, trace) in counted.iter_mut().zip(&traces) {
                    *counted = (row_count * (f64::from(scale) / largest).powi(2) * trace) as f32;
                }
            }
        });
        // In f32, whatever the size of the weights.
        let most = counted.iter().copied().fold(0.0, f32::max);
        if most > 0.0 {
            counted.par_iter_mut().for_each(|counted| *counted /= most);
        }
        self.codes = vec![0; self.rows * runs * codebooks];
        for codebook in 0..codebooks {
            let points = Points { values: &rest, weights: &counted, dim };
            let mut found = clusters(points, entries, (codebook as u64, STARTS), is_cancelled)?;
            for value in &mut found {
                *value = (self.stored.value)(*value);
            }
            let codes = assign(points, &found, is_cancelled)?;
            rest.par_chunks_mut(dim).zip(&codes).for_each(|(rest, &code)| {
                let entry = &found[code as usize * dim..(code as usize + 1) * dim];
                rest.iter_mut().zip(entry).for_each(|(rest, entry)| *rest -= entry);
            });
            let own = self.codes.iter_mut().skip(codebook).step_by(codebooks);
            own.zip(codes).for_each(|(own, code)| *own = code as u16);
            self.books.values.extend(found);
        }
        Some(())
    }

    /// Codes, each one of its codebook, `[rows, runs, codebooks]`; codebooks; scales.
    pub fn finish(self) -> (Vec<u16>, Codebooks, Vec<f32>) {
        (self.codes, self.books, self.scales)
    }

    /// tr((W − Ŵ)·H·(W − Ŵ)ᵀ) as it is stored, in f64.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Ŵ/s of some rows, of these entries.
    fn sums(&self, first: usize, entries: &[f64], out: &mut [f64]) {
        let Codebooks { codebooks, dim, .. } = self.books;
        let per_row = self.runs() * codebooks;
        for (row, out) in out.chunks_exact_mut(self.cols).enumerate() {
            let codes = &self.codes[(first + row) * per_row..(first + row + 1) * per_row];
            let runs = out.chunks_mut(dim).zip(codes.chunks_exact(codebooks)).enumerate();
            for (run, (out, codes)) in runs {
                out.fill(0.0);
                for (codebook, &code) in codes.iter().enumerate() {
                    let at = self.books.at(run, codebook, code);
                    let entry = &entries[at..at + out.len()];
                    out.iter_mut().zip(entry).for_each(|(value, entry)| *value += entry);
                }
            }
            self.mask(first + row, out);
        }
    }

    /// Zeros of a row where a mask drops weights.
    fn mask(&self, row: usize, values: &mut [f64]) {
        if let Some(keeps) = self.keeps {
            let keeps = &keeps[row * self.cols..(row + 1) * self.cols];
            for (value, _) in values.iter_mut().zip(keeps).filter(|(_, keep)| !**keep) {
                *value = 0.0;
            }
        }
    }

    fn entries_f64(&self) -> Vec<f64> {
        self.books.values.iter().map(|&value| f64::from(value)).collect()
    }

    /// Rows of a strip.
    fn strip(&self) -> usize {
        (self.rows / STRIPS).next_multiple_of(ROWS).clamp(ROWS, MOST_ROWS)
    }

    /// W − Ŵ and the error anew. Cost: rows·cols² operations.
    fn renew(&mut self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        let entries = self.entries_f64();
        let mut left = std::mem::take(&mut self.left);
        left.resize(self.rows * self.cols, 0.0);
        let rows = left.par_chunks_mut(self.cols.max(1)).enumerate();
        rows.for_each(|(row, left)| self.leave(row, &entries, left));
        self.left = left;
        self.measure(is_cancelled)
    }

    /// W − Ŵ of a row.
    fn leave(&self, row: usize, entries: &[f64], left: &mut [f64]) {
        self.sums(row, entries, left);
        let scale = f64::from(self.scales[row]);
        for (left, &weight) in left.iter_mut().zip(self.weights.row(row)) {
            *left = f64::from(weight) - scale * *left;
        }
    }

    /// The error of what is left as it is.
    fn measure(&mut self, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        let (cols, strip) = (self.cols.max(1), self.strip());
        let of_strip = |(at, left): (usize, &[f64])| {
            if is_cancelled() {
                return Vec::new();
            }
            let mut carried = vec![0.0; left.len()];
            self.metric.all().times(left, 0..self.cols, &mut carried);
            let rows = left.chunks_exact(cols).zip(carried.chunks_exact(cols)).enumerate();
            rows.map(|(row, (left, carried))| {
                let weights = self.weights.row(at * strip + row);
                let whole = weights.iter().zip(carried).map(|(&w, c)| f64::from(w) * c).sum();
                [fit::dot(left, carried), whole]
            })
            .collect()
        };
        let strips = self.left.par_chunks(strip * cols).enumerate();
        let along: Vec<Vec<[f64; 2]>> = strips.map(of_strip).collect();
        self.along = along.concat();
        let counted = self.along.iter().enumerate();
        self.error = counted.map(|(row, [own, _])| self.metric.of_row(row) * own).sum();
        (!is_cancelled()).then_some(())
    }

    /// Codes, then entries, then scales, once each; `seen` is told after each. Codes begin anew in a walk from the first run
    /// to the last while that is better than to go on from where they are. Never worse. Cost: for the codes 2.5
    /// times rows·cols² products in f64 and the search, for the others rows·cols² in f64 and five times that in f32. `None`
    /// once `is_cancelled`.
    pub fn round(
        &mut self,
        beams: usize,
        seen: &mut dyn FnMut(Moved, f64),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        self.move_codes(beams, is_cancelled)?;
        seen(Moved::Codes, self.error);
        self.move_entries(is_cancelled)?;
        seen(Moved::Entries, self.error);
        self.move_scales(is_cancelled)?;
        seen(Moved::Scales, self.error);
        Some(())
    }

    /// The codes alone: as of [`Self::round`].
    pub fn move_codes(
        &mut self,
        beams: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        if !self.is_settled {
            let before = (self.codes.clone(), self.error);
            self.walk(beams, is_cancelled)?;
            self.descend(beams, is_cancelled)?;
            if self.error < before.1 {
                return Some(());
            }
            self.is_settled = true;
            self.codes = before.0;
            self.renew(is_cancelled)?;
        }
        self.descend(beams, is_cancelled)
    }
}

#[cfg(test)]
mod tests;
