//! Blocks polished: codes and the scales of runs, each in turn at its best while the others stand.

use crate::encoding::{BlockRun, BlockType, Blocks, Mask};
use crate::error::{Error, Result};
use crate::method::gguf::feedback::{levels_of, nearest, put, runs};
use crate::numeric::descent::{Curves, Descent, Grids};
use crate::observer::Observer;

/// What is looked at as codes and scales of blocks move. Numbers that scales are multiples of stay.
pub(in crate::method) struct Moving<'a> {
    blocks: &'a Blocks,
    mask: Option<&'a Mask>,
    levels: Vec<f32>,
    runs: Vec<BlockRun>,
    descent: Descent,
}

/// How a run moves.
struct Moves<'a> {
    kind: BlockType,
    mask: Option<&'a Mask>,
}

impl Grids for Moves<'_> {
    type Grid = BlockRun;

    fn choose(&self, run: &BlockRun, curves: &Curves) -> Option<(BlockRun, [f64; 2])> {
        let own = [f64::from(run.scale()), f64::from(run.origin())];
        let alone = |square: f64, slope: f64| if square > 0.0 { slope / square } else { 0.0 };
        let by = if self.kind.has_origins() {
            curves.joint().map_or(0.0, |[scale, _]| scale)
        } else {
            alone(curves.squares[0], curves.slopes[0])
        };
        let tried = [(own[0] + by, 0), (own[0] + by, -1), (own[0] + by, 1), (own[0], 0)];
        let beside = tried.into_iter().filter_map(|(scale, steps)| {
            let next = self.kind.near(*run, [scale, own[1]], steps)?;
            let moved = f64::from(next.scale()) - own[0];
            // The origin at its best for the scale as it is stored.
            let scale = f64::from(next.scale());
            let next = if self.kind.has_origins() {
                self.kind.near(*run, [scale, own[1] + curves.origin_beside(moved)], 0)?
            } else {
                next
            };
            Some((next, [moved, f64::from(next.origin()) - own[1]]))
        });
        let change = |(_, moved): &(BlockRun, [f64; 2])| curves.change(*moved);
        let best = beside.min_by(|a, b| change(a).total_cmp(&change(b)))?;
        (change(&best) < 0.0).then_some(best)
    }

    fn value(&self, run: &BlockRun, level: f32) -> f32 {
        run.scale() * level + run.origin()
    }

    fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    fn is_kept(&self, at: usize) -> bool {
        self.mask.is_none_or(|mask| mask.keeps(at))
    }
}

impl<'a> Moving<'a> {
    /// Begins at `blocks`, which `descent` holds decoded.
    pub(in crate::method) fn new(
        blocks: &'a Blocks,
        mask: Option<&'a Mask>,
        descent: Descent,
    ) -> Self {
        let runs = runs(blocks);
        let values: Vec<f32> = descent.values().iter().map(|&value| value as f32).collect();
        Self { blocks, mask, levels: levels_of(blocks, &runs, &values), runs, descent }
    }

    fn per_row(&self) -> usize {
        let (kind, cols) = (self.blocks.kind(), self.blocks.shape().cols);
        cols.div_ceil(kind.weights()) * kind.weights() / kind.run()
    }

    /// Every code to the level nearest to where the outputs want it.
    pub(in crate::method) fn move_codes(&mut self, observer: &dyn Observer) -> Result<()> {
        let (kind, cols, per_row) = (self.blocks.kind(), self.blocks.shape().cols, self.per_row());
        let (runs, mask) = (&self.runs, self.mask);
        let level = |row: usize, col: usize, best: f64| {
            if mask.is_some_and(|mask| !mask.keeps(row * cols + col)) {
                return 0.0;
            }
            let run = runs[row * per_row + col / kind.run()];
            let level = nearest(kind.levels(), run, best as f32);
            f64::from(run.scale() * level + run.origin())
        };
        let is_cancelled = || observer.is_cancelled();
        self.descent.move_weights(&level, &is_cancelled).ok_or(Error::Cancelled)?;
        let values: Vec<f32> = self.descent.values().iter().map(|&value| value as f32).collect();
        self.levels = levels_of(self.blocks, &self.runs, &values);
        Ok(())
    }

    /// Every scale, and its origin, to the multiple with which the outputs are nearest.
    pub(in crate::method) fn move_scales(&mut self, observer: &dyn Observer) -> Result<()> {
        let (kind, cols) = (self.blocks.kind(), self.blocks.shape().cols);
        let moves = Moves { kind, mask: self.mask };
        let is_cancelled = || observer.is_cancelled();
        // Runs that fill up the last block have no weights.
        let (per_row, used) = (self.per_row(), cols.div_ceil(kind.run()));
        let mut own: Vec<BlockRun> =
            self.runs.chunks(per_row.max(1)).flat_map(|runs| &runs[..used]).copied().collect();
        self.descent
            .move_grids(&moves, (&self.levels, &mut own), kind.run(), &is_cancelled)
            .ok_or(Error::Cancelled)?;
        let rows = self.runs.chunks_mut(per_row.max(1)).zip(own.chunks(used.max(1)));
        rows.for_each(|(all, own)| all[..used].copy_from_slice(own));
        Ok(())
    }

    /// The blocks as they have become.
    pub(in crate::method) fn finish(self) -> Blocks {
        put(self.blocks, &self.runs, &self.levels)
    }
}
