//! Codes of one run of inputs after the other: anew, or from where they are.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::numeric::additive::dropped::Kept;
use crate::numeric::additive::metric::Coupling;
use crate::numeric::additive::search::{Search, Tables};
use crate::numeric::additive::{Additive, Codebooks, MOST_CODEBOOKS};
use crate::numeric::product::multiply;
use crate::numeric::vector::vectorised;

/// Inputs whose runs are searched before the others are brought up to date, at least one run.
const BLOCK: usize = 128;
/// Bytes of the tables of a block, unless one run has more.
const TABLES: usize = 1 << 26;

/// What a pass along the runs is made with.
struct Pass<'a> {
    coupling: Coupling<'a>,
    books: &'a Codebooks,
    scales: &'a [f32],
    /// How much errors of each row count; none where all count alike.
    counts: &'a [f64],
    /// Of each weight whether it stays, where a mask drops some.
    keeps: Option<&'a [bool]>,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
    cols: usize,
    beams: usize,
    /// Whether there are no codes yet.
    is_new: bool,
}

/// Some rows.
struct Strip<'a> {
    first: usize,
    codes: &'a mut [u16],
    left: &'a mut [f64],
}

impl Pass<'_> {
    fn span(&self, run: usize) -> Range<usize> {
        run * self.books.dim..((run + 1) * self.books.dim).min(self.cols)
    }

    fn tables(&self, run: usize) -> Tables {
        let span = self.span(run);
        let rows = span.clone().map_while(|i| self.coupling.row(i, span.clone()));
        let block: Vec<f64> = rows.flatten().copied().collect();
        Tables::new(self.books, run, block, span.len())
    }

    /// Moves the codes of a block of runs in some rows; by how much the error falls less than it rises.
    fn fix(&self, strip: &mut Strip<'_>, runs: Range<usize>, tables: &[Tables]) -> f64 {
        let inputs = self.span(runs.start).start..self.span(runs.end - 1).end;
        let rows = strip.left.len() / self.cols;
        let mut slopes = vec![0.0; rows * inputs.len()];
        self.coupling.times(strip.left, inputs.clone(), &mut slopes);
        let mut changed = 0.0;
        for (run, tables) in runs.zip(tables) {
            changed += self.fix_run(strip, (run, tables), (&inputs, &mut slopes));
        }
        changed
    }

    /// One run, with (W − Ŵ)·C over the inputs of its block.
    fn fix_run(
        &self,
        strip: &mut Strip<'_>,
        (run, tables): (usize, &Tables),
        (inputs, slopes): (&Range<usize>, &mut [f64]),
    ) -> f64 {
        let (span, pitch) = (self.span(run), inputs.len());
        let (at, width) = (span.start - inputs.start, span.len());
        let rows = strip.left.len() / self.cols;
        let mut now = vec![0.0; rows * width];
        let mut wanted = vec![0.0_f32; rows * width];
        let mut along = vec![0.0; width];
        for row in 0..rows {
            let slope = &slopes[row * pitch + at..row * pitch + at + width];
            let own = row * width..(row + 1) * width;
            self.value(strip, (row, run), &mut now[own.clone()]);
            let of_row = (strip.first + row, run);
            carry(&now[own.clone()], &tables.block, &mut along);
            self.want(of_row, (slope, &along), &mut wanted[own]);
        }
        let all = tables.squares.len();
        let base = base(tables, &wanted);
        let mut costs = vec![0.0; self.books.entries];
        let mut changed = 0.0;
        for (row, base) in base.chunks_exact(all).enumerate() {
            if self.scales[strip.first + row] > 0.0 {
                let (own, costs) = (row * width..(row + 1) * width, costs.as_mut_slice());
                let codes = match self.kept((strip.first + row, run), tables) {
                    None => vectorised(Search { tables, base, beams: self.beams, costs }),
                    Some(kept) if kept.is_empty() || (self.is_cancelled)() => continue,
                    Some(kept) => {
                        let codes = self.codes(strip, row, run);
                        kept.codes(codes, (tables, &wanted[own.clone()]), costs)
                    }
                };
                let slopes = &mut slopes[row * pitch..(row + 1) * pitch];
                let count = self.counts.get(strip.first + row).copied().unwrap_or(1.0);
                let of_run = (run, &tables.block[..]);
                changed +=
                    count * self.take(strip, (row, of_run), (&codes, &now[own]), (at, slopes));
            }
        }
        changed
    }

    /// What the sums of a run would be if they could be anything, times D: ((W − Ŵ)·C + Ŵ·D)/s over its inputs.
    fn want(&self, (row, run): (usize, usize), (slope, along): (&[f64], &[f64]), out: &mut [f32]) {
        let scale = f64::from(self.scales[row]);
        for (out, (slope, along)) in out.iter_mut().zip(slope.iter().zip(along)) {
            *out = ((slope + along) / scale) as f32;
        }
        self.mask((row, run), out);
    }

    /// Zeros where a mask drops weights.
    fn mask<T: Default>(&self, (row, run): (usize, usize), values: &mut [T]) {
        if let Some(keeps) = self.keeps {
            let keeps = &keeps[row * self.cols..(row + 1) * self.cols][self.span(run)];
            for (value, _) in values.iter_mut().zip(keeps).filter(|(_, keep)| !**keep) {
                *value = T::default();
            }
        }
    }

    /// What stays of a run; `None` where all does.
    fn kept(&self, (row, run): (usize, usize), tables: &Tables) -> Option<Kept> {
        let keeps = &self.keeps?[row * self.cols..(row + 1) * self.cols][self.span(run)];
        (!keeps.iter().all(|&keep| keep)).then(|| Kept::new(keeps, tables))
    }

    /// Ŵ of a run as it is.
    fn value(&self, strip: &Strip<'_>, (row, run): (usize, usize), out: &mut [f64]) {
        out.fill(0.0);
        if !self.is_new {
            self.sum(self.codes(strip, row, run), (strip.first + row, run), out);
        }
    }

    fn codes<'c>(&self, strip: &'c Strip<'_>, row: usize, run: usize) -> &'c [u16] {
        let n = self.books.codebooks;
        let first = (row * self.cols.div_ceil(self.books.dim) + run) * n;
        &strip.codes[first..first + n]
    }

    fn sum(&self, codes: &[u16], (row, run): (usize, usize), out: &mut [f64]) {
        let scale = f64::from(self.scales[row]);
        for (i, out) in out.iter_mut().enumerate() {
            let of = |(book, &code): (usize, &u16)| f64::from(self.books.entry(run, book, code)[i]);
            *out = scale * codes.iter().enumerate().map(of).sum::<f64>();
        }
        self.mask((row, run), out);
    }

    /// Takes codes where they are better, or where there are none.
    fn take(
        &self,
        strip: &mut Strip<'_>,
        (row, (run, block)): (usize, (usize, &[f64])),
        (codes, now): (&[u16; MOST_CODEBOOKS], &[f64]),
        (at, slopes): (usize, &mut [f64]),
    ) -> f64 {
        let (span, n) = (self.span(run), self.books.codebooks);
        let mut moved = vec![0.0; span.len()];
        self.sum(&codes[..n], (strip.first + row, run), &mut moved);
        moved.iter_mut().zip(now).for_each(|(moved, now)| *moved -= now);
        let mut curve = vec![0.0; span.len()];
        carry(&moved, block, &mut curve);
        let terms = moved.iter().zip(curve).zip(&slopes[at..]);
        let change: f64 = terms.map(|((moved, curve), slope)| moved * (curve - 2.0 * slope)).sum();
        if !self.is_new && (change.is_nan() || change >= 0.0) {
            return 0.0;
        }
        let first = (row * self.cols.div_ceil(self.books.dim) + run) * n;
        strip.codes[first..first + n].copy_from_slice(&codes[..n]);
        let left = &mut strip.left[row * self.cols..(row + 1) * self.cols][span.clone()];
        left.iter_mut().zip(&moved).for_each(|(left, moved)| *left -= moved);
        let behind = at + span.len();
        let inputs = span.end..span.end + slopes.len() - behind;
        for (i, &moved) in span.zip(&moved) {
            if let Some(row) = self.coupling.row(i, inputs.clone()) {
                let behind = slopes[behind..].iter_mut();
                behind.zip(row).for_each(|(slope, along)| *slope -= moved * along);
            }
        }
        change
    }
}

/// cᵀ·D·c − 2·x·c of every entry c for each row, x what it wants.
fn base(tables: &Tables, wanted: &[f32]) -> Vec<f32> {
    let (all, width) = (tables.squares.len(), tables.across.len() / tables.squares.len());
    let rows = wanted.len() / width;
    let mut base = tables.squares.repeat(rows);
    let views = (
        ArrayView2::from_shape((rows, width), wanted),
        ArrayView2::from_shape((width, all), &tables.across),
        ArrayViewMut2::from_shape((rows, all), &mut base),
    );
    if let (Ok(wanted), Ok(across), Ok(base)) = views {
        multiply(-2.0, wanted, across, true, base);
    }
    base
}

/// x·D, D `[width, width]`; empty of the identity.
fn carry(x: &[f64], block: &[f64], out: &mut [f64]) {
    if block.is_empty() {
        out.copy_from_slice(x);
        return;
    }
    out.fill(0.0);
    for (x, along) in x.iter().zip(block.chunks_exact(out.len())) {
        out.iter_mut().zip(along).for_each(|(out, along)| *out += x * along);
    }
}

impl Additive<'_> {
    /// Codes anew: each run by what is left of it where the runs behind make good what they can. The error may rise.
    pub(super) fn walk(
        &mut self,
        beams: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        for (row, left) in self.left.chunks_exact_mut(self.cols.max(1)).enumerate() {
            for (left, &weight) in left.iter_mut().zip(self.weights.row(row)) {
                *left = f64::from(weight);
            }
        }
        self.sweep(self.metric.ahead(), (beams, true), is_cancelled)?;
        self.measure(is_cancelled)
    }

    /// Codes of each run in turn to the best that is found while all others stand. Never worse.
    pub(super) fn descend(
        &mut self,
        beams: usize,
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<()> {
        let changed = self.sweep(self.metric.all(), (beams, false), is_cancelled)?;
        self.error += changed;
        Some(())
    }

    fn sweep(
        &mut self,
        coupling: Coupling<'_>,
        (beams, is_new): (usize, bool),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Option<f64> {
        let (cols, runs) = (self.cols, self.runs());
        let books = &self.books;
        let (scales, counts) = (&self.scales, self.metric.rows());
        let keeps = self.keeps;
        let pass =
            Pass { coupling, books, scales, counts, keeps, is_cancelled, cols, beams, is_new };
        let all = books.codebooks * books.entries;
        let of_run = if books.codebooks > 1 { 4 * all * all } else { 4 * all };
        let per_block = (BLOCK / books.dim).min(TABLES / of_run).max(1);
        let per_row = runs * books.codebooks;
        let strip = self.strip();
        self.along.clear();
        let mut changed = 0.0;
        for start in (0..runs).step_by(per_block) {
            let block = start..(start + per_block).min(runs);
            let tables: Vec<Tables> =
                block.clone().into_par_iter().map(|run| pass.tables(run)).collect();
            let codes = self.codes.par_chunks_mut(strip * per_row);
            let strips = self.left.par_chunks_mut(strip * cols).zip(codes).enumerate();
            let of_strip = |(at, (left, codes))| {
                if is_cancelled() {
                    return 0.0;
                }
                let mut strip = Strip { first: at * strip, codes, left };
                pass.fix(&mut strip, block.clone(), &tables)
            };
            let sums: Vec<f64> = strips.map(of_strip).collect();
            changed += sums.iter().sum::<f64>();
            if is_cancelled() {
                return None;
            }
        }
        Some(changed)
    }
}
