//! Magnitude pruning: the smallest |w| become zero.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{Dense, Encoding, Layout, Mask, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::pattern::{self, Pattern, drop_least, kept_of_run};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};

/// Drops the weights of least magnitude.
///
/// *Fraction* f of a `[rows, cols]` matrix: the round(f·rows·cols) weights of least |w| in the whole matrix
/// are dropped; of equal ones the later in row-major order first. *N:M*: of every run of m inputs in a row the n
/// largest |w| stay; a shorter last run of k keeps ⌈n·k/m⌉. Cost: a partial sort of the matrix, or of each run.
pub(super) struct Magnitude;

/// The registry's entry.
pub(super) static ENTRY: Magnitude = Magnitude;

static ABOUT: About = About {
    id: "magnitude",
    title: "Magnitude sparsity",
    summary: "The weights closest to zero become zero; the others keep their value or go on to a quantiser.",
    citation: "Han, Pool, Tran & Dally, Learning both weights and connections for efficient neural networks, NeurIPS 2015",
    stage: Stage::Prune,
    needs: Needs::Weights,
    parameters: &[pattern::PATTERN, pattern::FRACTION, pattern::KEEP, pattern::OF],
};

impl Method for Magnitude {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("{} sparse", pattern::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let kept = Pattern::new(ABOUT.id, parameters, input.shape)?.kept(input.shape);
        Ok(Layout::Sparse(SparseLayout { kept, inner: Box::new(Layout::Dense(input.dtype)) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let mut values: Vec<f32> = task.weights.iter().copied().collect();
        let mut keep = vec![true; values.len()];
        match Pattern::new(ABOUT.id, parameters, shape)? {
            Pattern::Dropped(dropped) => {
                drop_least(values.len(), dropped, magnitude(&values), &mut keep);
            }
            Pattern::OfEvery { n, m } => {
                let cols = shape.cols.max(1);
                keep.par_chunks_mut(cols).enumerate().for_each(|(row, keep)| {
                    for (run, keep) in keep.chunks_mut(m).enumerate() {
                        let first = row * cols + run * m;
                        let values = &values[first..first + keep.len()];
                        let dropped = keep.len() - kept_of_run(n, m, keep.len());
                        drop_least(values.len(), dropped, magnitude(values), keep);
                    }
                });
            }
        }
        task.observer.go_on()?;
        for (value, keep) in values.iter_mut().zip(&keep) {
            if !keep {
                *value = 0.0;
            }
        }
        let inner = Encoding::Dense(Dense::new(shape, task.dtype, &values));
        Ok(Encoding::Sparse(Sparse::new(Mask::new(&keep), inner)))
    }
}

/// The magnitude of each value.
fn magnitude(values: &[f32]) -> impl Fn(usize) -> f64 {
    |i| f64::from(values[i].abs())
}
