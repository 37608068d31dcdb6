//! Blocks whose codes make good what rounding does to the outputs: GPTQ on the scales that were searched.

use std::ops::Range;

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{BlockLevels, BlockRun, BlockType, Blocks, Mask};
use crate::error::{Error, Result};
use crate::method::Task;
use crate::method::gguf::search::{Grid as _, Iq4, inverse, round};
use crate::method::gptq::by_activation;
use crate::numeric::feedback::{Levels, walk};
use crate::numeric::vector::{Loops, vectorised};
use crate::tensor::MatrixShape;

/// The level nearest to w.
#[inline]
pub(super) fn nearest(levels: BlockLevels, run: BlockRun, weight: f32) -> f32 {
    let steps = (weight - run.origin()) * inverse(run.scale());
    match levels {
        BlockLevels::Whole(low, high) => within(steps, low, high),
        BlockLevels::Uneven => Iq4.nearest(steps),
    }
}

/// The whole number nearest to `steps` between two.
#[inline]
fn within(steps: f32, low: f32, high: f32) -> f32 {
    round(steps.max(low).min(high))
}

/// The runs of all rows: those of the first row along its inputs, then the next.
pub(super) fn runs(blocks: &Blocks) -> Vec<BlockRun> {
    let kind = blocks.kind();
    blocks.as_bytes().chunks_exact(kind.bytes()).flat_map(|block| kind.runs(block)).collect()
}

/// Blocks with the runs and levels given in the place of theirs; `levels` of the weights, row-major. What fills up
/// the last block of a row is as near to zero as it can be.
pub(super) fn put(blocks: &Blocks, runs: &[BlockRun], levels: &[f32]) -> Blocks {
    let (kind, shape) = (blocks.kind(), blocks.shape());
    let mut bytes = blocks.as_bytes().to_vec();
    if bytes.is_empty() {
        return blocks.clone();
    }
    let (row_bytes, each) = (kind.row_bytes(shape.cols), kind.weights() / kind.run());
    let per_row = shape.cols.div_ceil(kind.weights()) * each;
    let rows = bytes.par_chunks_mut(row_bytes).zip(runs.par_chunks(per_row));
    rows.zip(levels.par_chunks(shape.cols)).for_each(|((bytes, runs), levels)| {
        let blocks = bytes.chunks_exact_mut(kind.bytes()).zip(runs.chunks_exact(each));
        for ((block, runs), levels) in blocks.zip(levels.chunks(kind.weights())) {
            kind.put_runs(runs, block);
            let rest = (levels.len()..kind.weights())
                .map(|i| nearest(kind.levels(), runs[i / kind.run()], 0.0));
            kind.put_levels(&levels.iter().copied().chain(rest).collect::<Vec<_>>(), block);
        }
    });
    Blocks::new(shape, kind, bytes)
}

/// Levels of weights, row-major, that lie on them.
pub(super) fn levels_of(blocks: &Blocks, runs: &[BlockRun], values: &[f32]) -> Vec<f32> {
    let (kind, shape) = (blocks.kind(), blocks.shape());
    let per_row = shape.cols.div_ceil(kind.weights()) * kind.weights() / kind.run();
    let of = |(at, &value): (usize, &f32)| {
        let run = at / shape.cols * per_row + at % shape.cols / kind.run();
        nearest(kind.levels(), runs[run], value)
    };
    values.iter().enumerate().map(of).collect()
}

/// On the scales of blocks.
struct Fixed<'a> {
    kind: BlockType,
    order: &'a [usize],
    mask: Option<&'a Mask>,
    shape: MatrixShape,
    /// Scale and origin: of all rows the first run, then the next.
    scales: Vec<f32>,
    origins: Vec<f32>,
}

/// Weights of one input on the levels of their rows.
struct Column<'a> {
    levels: BlockLevels,
    values: &'a mut [f32],
    scales: &'a [f32],
    origins: &'a [f32],
}

impl Loops for Column<'_> {
    type Found = ();

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) {
        let all = self.values.iter_mut().zip(self.scales).zip(self.origins);
        match self.levels {
            BlockLevels::Whole(low, high) => {
                for ((value, &scale), &origin) in all {
                    let level = within((*value - origin) * inverse(scale), low, high);
                    *value = scale * level + origin;
                }
            }
            BlockLevels::Uneven => {
                for ((value, &scale), &origin) in all {
                    *value = scale * Iq4.nearest((*value - origin) * inverse(scale)) + origin;
                }
            }
        }
    }
}

impl Levels for Fixed<'_> {
    fn choose(&self, rows: Range<usize>, at: Range<usize>, values: &mut [f32]) {
        let channel = self.order[at.start];
        let first = channel / self.kind.run() * self.shape.rows;
        let own = first + rows.start..first + rows.end;
        let (scales, origins) = (&self.scales[own.clone()], &self.origins[own]);
        vectorised(Column { levels: self.kind.levels(), values, scales, origins });
        if let Some(mask) = self.mask {
            for (value, row) in values.iter_mut().zip(rows) {
                // The mask makes it zero, whatever its code says.
                let is_kept = mask.keeps(row * self.shape.cols + channel);
                *value = if is_kept { *value } else { 0.0 };
            }
        }
    }
}

/// The weights of a task on the scales of `blocks`, inputs of large E\[x²\] first, each one's error made good by those
/// to come.
pub(super) fn along_inputs(
    task: &Task<'_>,
    (blocks, mask): (&Blocks, Option<&Mask>),
    damping: f64,
) -> Result<Blocks> {
    let (kind, shape, gram) = (blocks.kind(), blocks.shape(), task.gram()?);
    let factor = task.feedback(&gram, by_activation(&gram), (damping, 1))?;
    let runs = runs(blocks);
    let per_row = shape.cols.div_ceil(kind.weights()) * kind.weights() / kind.run();
    let turned = || (0..runs.len()).map(|i| runs[i % shape.rows * per_row + i / shape.rows]);
    let fixed = Fixed {
        kind,
        order: factor.order(),
        mask,
        shape,
        scales: turned().map(|run| run.scale()).collect(),
        origins: turned().map(|run| run.origin()).collect(),
    };
    let mut walked: Vec<f32> = task.weights.iter().copied().collect();
    let is_cancelled = || task.observer.is_cancelled();
    walk(&mut walked, &factor, &fixed, &is_cancelled).ok_or(Error::Cancelled)?;
    let levels = levels_of(blocks, &runs, &walked);
    Ok(put(blocks, &runs, &levels))
}
