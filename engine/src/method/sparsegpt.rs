//! `SparseGPT`: weights are dropped input by input, and those to come make good what that did to the outputs.

use std::ops::Range;

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::encoding::{Dense, Encoding, Layout, Mask, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::pattern::{self, Pattern, drop_least, kept_of_run};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};
use crate::numeric::inverse::InverseFactor;
use crate::numeric::sweep::{BLOCK, Choice, sweep};
use crate::tensor::round_f32;

/// Error-feedback pruning of a `[rows, cols]` matrix for tr((W − Ŵ)·H·(W − Ŵ)ᵀ), H = Σ x·xᵀ/tokens.
///
/// With (H + d·I)⁻¹ = Uᵀ·U as in GPTQ, along the inputs as they lie: a dropped weight leaves e = w/Uᵢᵢ, and
/// wⱼ ← wⱼ − e·Uᵢⱼ for all later j. Weights of least w²/Uᵢᵢ² go. *Anywhere*: chosen among all rows of 128 inputs when
/// the walk comes to them, so many that round(f·rows·cols) have gone by the end. *N:M*: within each run of m inputs
/// when the walk comes to it; a shorter last run of k keeps ⌈n·k/m⌉. Of equal scores the later goes first.
/// Weights that stay are changed, and rounded to the element type at the end.
/// Cost: 2/3·cols³ + rows·cols² operations, of the factor in f64, of the walk in f32; memory 12·cols² + 4·rows·cols bytes.
pub(super) struct SparseGpt;

/// The registry's entry.
pub(super) static ENTRY: SparseGpt = SparseGpt;

static ABOUT: About = About {
    id: "sparsegpt",
    title: "SparseGPT",
    summary: "Weights become zero input by input, and those of the inputs to come change to make good the error in the outputs.",
    citation: "Frantar & Alistarh, SparseGPT: Massive language models can be accurately pruned in one-shot, ICML 2023, algorithm 1",
    stage: Stage::Prune,
    needs: Needs::Gram,
    parameters: &[pattern::PATTERN, pattern::FRACTION, pattern::KEEP, pattern::OF, DAMPING],
};

struct Pruning<'a> {
    pattern: Pattern,
    factor: &'a InverseFactor,
}

impl Pruning<'_> {
    /// 1/Uᵢᵢ².
    fn weight(&self, at: usize) -> f64 {
        f64::from(self.factor.row(at)[0]).powi(-2)
    }
}

impl Choice for Pruning<'_> {
    /// Which of its weights a row keeps.
    type Row = Vec<bool>;

    fn begin(&self, block: Range<usize>, weights: &[f32], rows: &mut [Vec<bool>]) {
        let Pattern::Dropped(dropped) = self.pattern else { return };
        let (cols, width) = (self.factor.order().len(), block.len());
        let by = |end: usize| (dropped as u128 * end as u128 / cols as u128) as usize;
        let inverse: Vec<f64> = block.clone().map(|at| self.weight(at)).collect();
        let score = |i: usize| {
            let (row, at) = (i / width, i % width);
            f64::from(weights[row * cols + block.start + at]).powi(2) * inverse[at]
        };
        let scores: Vec<f64> = (0..rows.len() * width).into_par_iter().map(score).collect();
        let mut keep = vec![true; scores.len()];
        drop_least(keep.len(), by(block.end) - by(block.start), |i| scores[i], &mut keep);
        for (row, keep) in rows.iter_mut().zip(keep.chunks(width)) {
            row[block.clone()].copy_from_slice(keep);
        }
    }

    fn choose(&self, row: &mut Vec<bool>, at: usize, values: &[f32]) -> f32 {
        if let Pattern::OfEvery { n, m } = self.pattern
            && at.is_multiple_of(m)
        {
            let run = (values.len() - at).min(m);
            let score = |i: usize| f64::from(values[at + i]).powi(2) * self.weight(at + i);
            drop_least(run, run - kept_of_run(n, m, run), score, &mut row[at..at + run]);
        }
        if row[at] { values[at] } else { 0.0 }
    }
}

impl Method for SparseGpt {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("{} sparsegpt", pattern::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let kept = Pattern::new(ABOUT.id, parameters, input.shape)?.kept(input.shape);
        Ok(Layout::Sparse(SparseLayout { kept, inner: Box::new(Layout::Dense(input.dtype)) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let pattern = Pattern::new(ABOUT.id, parameters, shape)?;
        let block = match pattern {
            Pattern::Dropped(_) => BLOCK,
            Pattern::OfEvery { m, .. } => m * BLOCK.div_ceil(m),
        };
        let gram = task.gram()?;
        let order = (0..shape.cols).collect();
        let factor = task.inverse_factor(&gram, order, parameters.fraction("damping"))?;
        let pruning = Pruning { pattern, factor: &factor };
        let mut walked: Vec<f32> = task.weights.iter().copied().collect();
        let mut rows = vec![vec![true; shape.cols]; shape.rows];
        let is_cancelled = || task.observer.is_cancelled();
        sweep(&mut walked, &factor, (&pruning, rows.as_mut_slice()), block, &is_cancelled)
            .ok_or(Error::Cancelled)?;
        let values: Vec<f32> = walked.iter().map(|&w| round_f32(task.dtype, w)).collect();
        let inner = Encoding::Dense(Dense::new(shape, task.dtype, &values));
        Ok(Encoding::Sparse(Sparse::new(Mask::new(&rows.concat()), inner)))
    }
}
