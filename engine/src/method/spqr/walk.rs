//! The walk along the inputs that finds codes, grids and outliers, and the threshold that finds no more than so many.

use std::ops::Range;

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Mask, OutliersLayout};
use crate::error::{Error, Result};
use crate::method::Task;
use crate::method::spqr::fit::{Fit, Small, Weighed, together};
use crate::numeric::inverse::InverseFactor;
use crate::numeric::sweep::{BLOCK, Choice, sweep};
use crate::tensor::{DType, round_f32};

/// Tiles on which a threshold is searched.
const TILES: usize = 8;
/// Rows of a tile where nothing is shared.
const ROWS: usize = 16;
/// Halvings of the range of thresholds.
const HALVINGS: usize = 12;
/// Walks along all rows, but where there are still too many outliers: thresholds are doubled then.
const WALKS: usize = 6;
/// The share of the room that is enough.
const FULL: f64 = 0.97;
/// What a threshold with too few outliers is multiplied by.
const LESS: f32 = 0.85;

/// A weight that keeps what its grid leaves.
pub(super) struct Found {
    /// Row · cols + col.
    pub(super) place: usize,
    /// w − ŵ as it is stored.
    pub(super) value: f32,
    /// (w − ŵ)²/Uᵢᵢ².
    score: f32,
}

/// What the walk makes of a row.
pub(super) struct Row {
    index: usize,
    pub(super) fits: Vec<Fit>,
    /// Codes of scales and zero points.
    pub(super) marks: Vec<[u8; 2]>,
    /// In the first row of a tile its four numbers for each group, else none.
    pub(super) statistics: Vec<[f32; 4]>,
    pub(super) codes: Vec<u8>,
    pub(super) found: Vec<Found>,
    /// The largest score.
    largest: f32,
}

/// What is walked along.
pub(super) struct Search<'a, 't> {
    task: &'a Task<'t>,
    /// The weights before the walk, zeros where the mask drops.
    values: &'a [f32],
    mask: Option<&'a Mask>,
    factor: &'a InverseFactor,
    small: &'a Small,
    /// Whether grids are fitted when the walk comes to them.
    is_late: bool,
    few: OutliersLayout,
    /// 1/Uᵢᵢ² of each channel.
    counts: Vec<f32>,
}

impl<'a, 't> Search<'a, 't> {
    pub(super) fn new(
        task: &'a Task<'t>,
        (values, mask): (&'a [f32], Option<&'a Mask>),
        factor: &'a InverseFactor,
        (small, is_late, few): (&'a Small, bool, OutliersLayout),
    ) -> Self {
        let mut counts = vec![0.0; factor.order().len()];
        for (at, &channel) in factor.order().iter().enumerate() {
            counts[channel] = factor.row(at)[0].powi(-2);
        }
        Self { task, values, mask, factor, small, is_late, few, counts }
    }

    /// All rows, with as many outliers as there is room for or fewer.
    pub(super) fn rows(&self, threshold: f64) -> Result<Vec<Row>> {
        let shape = self.task.shape();
        let all: Vec<usize> = (0..shape.rows).collect();
        if self.few.kept == 0 {
            return self.walked(&all, f32::INFINITY);
        }
        let least = (threshold * self.unit()) as f32;
        let mut threshold = self.threshold(least)?;
        // The threshold of too many, and that of the most there is room for.
        let (mut low, mut best): (Option<f32>, Option<(f32, Vec<Row>)>) = (None, None);
        let mut walks = 0;
        loop {
            walks += 1;
            let rows = self.walked(&all, threshold)?;
            let found = rows.iter().flat_map(|row| &row.found);
            let mut scores: Vec<f32> = found.map(|one| one.score).collect();
            if scores.len() > self.few.kept {
                low = Some(threshold);
                let next = scores.select_nth_unstable_by(self.few.kept, |a, b| b.total_cmp(a));
                threshold = if walks < WALKS { *next.1 } else { 2.0 * *next.1 };
            } else {
                let is_full = scores.len() as f64 >= FULL * self.few.kept as f64;
                if is_full || threshold <= least {
                    return Ok(rows);
                }
                best = Some((threshold, rows));
            }
            let Some((high, rows)) = best.take() else { continue };
            if walks >= WALKS {
                return Ok(rows);
            }
            threshold = low.map_or(high * LESS, |low| (low * high).sqrt()).max(least);
            best = Some((high, rows));
        }
    }

    /// The mean over inputs of var(W₊ᵢ)/Uᵢᵢ².
    fn unit(&self) -> f64 {
        let rows = self.task.weights.nrows().max(1) as f64;
        let columns = self.task.weights.columns().into_iter().zip(&self.counts);
        let of = |(column, &count): (ndarray::ArrayView1<'_, f32>, &f32)| {
            let mean = column.iter().map(|&w| f64::from(w)).sum::<f64>() / rows;
            let squares = column.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>();
            squares / rows * f64::from(count)
        };
        columns.map(of).sum::<f64>() / self.counts.len().max(1) as f64
    }

    /// The least threshold from `least` on, nearly, for which some tiles have no more outliers than their share.
    fn threshold(&self, least: f32) -> Result<f32> {
        let (shape, tile) = (self.task.shape(), self.tile_rows());
        let tiles = shape.rows.div_ceil(tile);
        let tried = tiles.min(TILES);
        let rows_of = |i: usize| {
            let first = i * tiles / tried * tile;
            first..(first + tile).min(shape.rows)
        };
        let rows: Vec<usize> = (0..tried).flat_map(rows_of).collect();
        let most = (self.few.kept as u128 * rows.len() as u128 / shape.rows as u128) as usize;
        let fits = |threshold: f32| -> Result<bool> {
            let rows = self.walked(&rows, threshold)?;
            Ok(rows.iter().map(|row| row.found.len()).sum::<usize>() <= most)
        };
        if fits(least)? {
            return Ok(least);
        }
        let walked = self.walked(&rows, f32::INFINITY)?;
        let largest = walked.iter().map(|row| row.largest).fold(0.0, f32::max);
        let (mut low, mut high) = (least.max(largest * 1e-9), largest);
        for _ in 0..HALVINGS {
            let middle = (low * high).sqrt();
            if fits(middle)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }

    /// Rows that share statistics.
    fn tile_rows(&self) -> usize {
        self.small.second.map_or(ROWS, |second| second.rows)
    }

    /// Walks along some rows, whole tiles of them.
    fn walked(&self, indices: &[usize], threshold: f32) -> Result<Vec<Row>> {
        let (cols, tile) = (self.counts.len(), self.tile_rows());
        let groups = cols.div_ceil(self.small.size());
        let row = |(i, &index): (usize, &usize)| Row {
            index,
            fits: vec![Fit::default(); groups],
            marks: vec![[0; 2]; groups],
            statistics: vec![[0.0; 4]; if i.is_multiple_of(tile) { groups } else { 0 }],
            codes: vec![0; cols],
            found: Vec::new(),
            largest: 0.0,
        };
        let mut rows: Vec<Row> = indices.iter().enumerate().map(row).collect();
        let walk = Walk { search: self, threshold };
        if !self.is_late {
            rows.par_chunks_mut(tile).try_for_each(|rows| {
                for first in (0..cols).step_by(self.small.size()) {
                    self.task.observer.go_on()?;
                    let span = first..(first + self.small.size()).min(cols);
                    let own: Vec<f32> = rows
                        .iter()
                        .flat_map(|row| &self.values[row.index * cols..][span.clone()])
                        .copied()
                        .collect();
                    walk.fit(rows, &own, span);
                }
                Ok(())
            })?;
        }
        let order = self.factor.order();
        let mut walked = Vec::with_capacity(indices.len() * cols);
        for &index in indices {
            let own = self.task.weights.row(index);
            walked.extend(order.iter().map(|&channel| own[channel]));
        }
        let size = self.small.size();
        let is_joint = self.is_late && self.small.second.is_some();
        let block = if is_joint { size } else { size * BLOCK.div_ceil(size) };
        let is_cancelled = || self.task.observer.is_cancelled();
        sweep(&mut walked, self.factor, (&walk, rows.as_mut_slice()), block, &is_cancelled)
            .ok_or(Error::Cancelled)?;
        Ok(rows)
    }
}

/// A walk under a threshold.
struct Walk<'a, 'b, 't> {
    search: &'a Search<'b, 't>,
    threshold: f32,
}

impl Walk<'_, '_, '_> {
    fn keeps(&self, row: usize, channel: usize) -> bool {
        let place = row * self.search.counts.len() + channel;
        self.search.mask.is_none_or(|mask| mask.keeps(place))
    }

    /// A group of a row without what stands outside of it.
    fn group(&self, row: usize, values: &[f32], span: Range<usize>) -> Weighed {
        let keeps = |i: &usize| self.keeps(row, *i);
        let of = |all: &[f32]| -> Vec<f32> {
            let pairs = span.clone().zip(all);
            pairs.map(|(i, &value)| if keeps(&i) { value } else { 0.0 }).collect()
        };
        let mut group =
            Weighed { values: of(values), counts: of(&self.search.counts[span.clone()]) };
        if self.threshold < f32::INFINITY {
            self.search.small.without_outliers(&mut group, self.threshold);
        }
        group
    }

    /// The grids of a group of the rows of a tile; `values` has those of the span alone, row by row.
    fn fit(&self, rows: &mut [Row], values: &[f32], span: Range<usize>) {
        let (small, at) = (self.search.small, span.start / self.search.small.size());
        let groups: Vec<Weighed> = rows
            .iter()
            .zip(values.chunks(span.len()))
            .map(|(row, values)| self.group(row.index, values, span.clone()))
            .collect();
        let Some(layout) = small.second else {
            for (row, group) in rows.iter_mut().zip(groups) {
                row.fits[at] = small.alone(&group.values);
            }
            return;
        };
        let tile = together(layout, &groups);
        for ((row, fit), codes) in rows.iter_mut().zip(tile.fits).zip(tile.codes) {
            (row.fits[at], row.marks[at]) = (fit, codes);
        }
        if let Some(statistics) = rows.first_mut().and_then(|row| row.statistics.get_mut(at)) {
            *statistics = tile.statistics;
        }
    }
}

impl Choice for Walk<'_, '_, '_> {
    type Row = Row;

    fn begin(&self, block: Range<usize>, weights: &[f32], rows: &mut [Row]) {
        let (search, cols) = (self.search, self.search.counts.len());
        if !search.is_late || search.small.second.is_none() {
            return;
        }
        let tile = search.tile_rows();
        let tiles = rows.par_chunks_mut(tile).zip(weights.par_chunks(tile * cols.max(1)));
        tiles.for_each(|(rows, weights)| {
            let own: Vec<f32> =
                weights.chunks(cols).flat_map(|row| &row[block.clone()]).copied().collect();
            self.fit(rows, &own, block.clone());
        });
    }

    fn choose(&self, row: &mut Row, at: usize, values: &[f32]) -> f32 {
        let (search, small, size) = (self.search, self.search.small, self.search.small.size());
        let channel = search.factor.order()[at];
        if search.is_late && small.second.is_none() && at.is_multiple_of(size) {
            let span = at..(at + size).min(values.len());
            let group = self.group(row.index, &values[span.clone()], span);
            row.fits[at / size] = small.alone(&group.values);
        }
        let fit = row.fits[channel / size];
        if !self.keeps(row.index, channel) {
            row.codes[channel] = if small.second.is_some() { 0 } else { fit.zero as u8 };
            return 0.0;
        }
        let code = small.code(values[at], fit);
        row.codes[channel] = code;
        let level = fit.scale * (f32::from(code) - fit.zero);
        let left = values[at] - level;
        let score = left * left * search.counts[channel];
        row.largest = row.largest.max(score);
        if score <= self.threshold {
            return level;
        }
        let value = stored(search.few.dtype, left);
        row.found.push(Found { place: row.index * values.len() + channel, value, score });
        level + value
    }
}

/// A number as it is stored, the largest there is in place of one beyond it.
fn stored(dtype: DType, value: f32) -> f32 {
    let value = round_f32(dtype, value);
    let largest = half::f16::MAX.to_f32();
    if value.is_finite() { value } else { largest.copysign(value) }
}
