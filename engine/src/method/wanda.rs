//! Wanda: the weights that move their output least become zero.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{Dense, Encoding, Layout, Mask, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::pattern::{self, Pattern, drop_least, kept_of_run};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};
use crate::tensor::MatrixShape;

/// Drops the weights of least |wᵢⱼ|·√E\[xⱼ²\] within each output row.
///
/// *Anywhere*, fraction f of `[rows, cols]`: round(f·cols) of each row. *N:M*: of every run of m inputs n stay; a shorter
/// last run of k keeps ⌈n·k/m⌉. Of equal scores the later weight goes first. Weights that stay are not changed.
/// Cost: one pass and a partial sort of each row.
pub(super) struct Wanda;

/// The registry's entry.
pub(super) static ENTRY: Wanda = Wanda;

static ABOUT: About = About {
    id: "wanda",
    title: "Wanda",
    summary: "In each output the weights become zero whose size times that of their input is least; the others keep their value.",
    citation: "Sun, Liu, Bair & Kolter, A simple and effective pruning approach for large language models, ICLR 2024",
    stage: Stage::Prune,
    needs: Needs::Moments,
    parameters: &[pattern::PATTERN, pattern::FRACTION, pattern::KEEP, pattern::OF],
};

/// Lengths of the runs in a row, and how many weights of a run of some length go.
fn runs(parameters: &Resolved, shape: MatrixShape) -> Result<(usize, impl Fn(usize) -> usize)> {
    let fraction = parameters.fraction("fraction");
    let of_every = match Pattern::new(ABOUT.id, parameters, shape)? {
        Pattern::Dropped(_) => None,
        Pattern::OfEvery { n, m } => Some((n, m)),
    };
    let width = of_every.map_or(shape.cols, |(_, m)| m).max(1);
    let dropped = move |run: usize| match of_every {
        None => (fraction * run as f64).round() as usize,
        Some((n, m)) => run - kept_of_run(n, m, run),
    };
    Ok((width, dropped))
}

impl Method for Wanda {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("{} wanda", pattern::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let MatrixShape { rows, cols } = input.shape;
        let (width, dropped) = runs(parameters, input.shape)?;
        let of_rest = if cols.is_multiple_of(width) { 0 } else { dropped(cols % width) };
        let of_row = cols / width * dropped(width) + of_rest;
        let kept = rows * (cols - of_row);
        Ok(Layout::Sparse(SparseLayout { kept, inner: Box::new(Layout::Dense(input.dtype)) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let squares = task.mean_squares()?;
        let norms: Vec<f64> = squares.iter().map(|&square| f64::from(square).sqrt()).collect();
        let (width, dropped) = runs(parameters, shape)?;
        let mut values: Vec<f32> = task.weights.iter().copied().collect();
        let mut keep = vec![true; values.len()];
        let cols = shape.cols.max(1);
        keep.par_chunks_mut(cols).zip(values.par_chunks_mut(cols)).for_each(|(keep, values)| {
            for (run, keep) in keep.chunks_mut(width).enumerate() {
                let first = run * width;
                let score = |i: usize| f64::from(values[first + i].abs()) * norms[first + i];
                drop_least(keep.len(), dropped(keep.len()), score, keep);
            }
            for (value, keep) in values.iter_mut().zip(keep) {
                if !*keep {
                    *value = 0.0;
                }
            }
        });
        task.observer.go_on()?;
        let inner = Encoding::Dense(Dense::new(shape, task.dtype, &values));
        Ok(Encoding::Sparse(Sparse::new(Mask::new(&keep), inner)))
    }
}
