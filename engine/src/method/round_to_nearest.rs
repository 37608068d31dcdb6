//! Round to nearest: every weight goes to the closest level of its group's grid.

use crate::encoding::{Encoding, Layout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::grid::{self, Grid};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task, masked};

/// Uniform quantisation of a `[rows, cols]` matrix, w ≈ s·(q − z), q ∈ [0, 2^b − 1].
///
/// Grids of a group with extremes min ≤ 0 ≤ max and a = max|w|:
/// *symmetric* s = 2a/(2^b − 1), z = 2^(b−1) (levels −2^(b−1) … 2^(b−1) − 1, as compressed-tensors);
/// *symmetric, restricted* s = a/(2^(b−1) − 1), the lowest level unused, so that ±a are both exact;
/// *asymmetric* s = (max − min)/(2^b − 1), z = round(−min/s).
/// q = clamp(round(w/s) + z), ties to even; s is rounded to its storage type first.
///
/// Clipping *mse* multiplies the range by 0.97^k, k = 0, 1, …, keeps the k of least Σ(w − ŵ)² and stops
/// when the error has grown to twice the best: never worse than min-max. Cost: one pass, times some 40 with the search.
/// *Weighted* is the same search for Σ(w − ŵ)²·E\[x²\].
pub(super) struct RoundToNearest;

/// The registry's entry.
pub(super) static ENTRY: RoundToNearest = RoundToNearest;

static ABOUT: About = About {
    id: "round-to-nearest",
    title: "Round to nearest",
    summary: "Every weight goes to the nearest of 2^bits equally spaced levels; each group of weights has its own spacing.",
    citation: "Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference, CVPR 2018, eqs. 1 and 12",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[grid::BITS, grid::GRANULARITY, grid::GROUP_SIZE, grid::SYMMETRY, grid::CLIPPING],
};

impl Method for RoundToNearest {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        grid::needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        grid::label(parameters)
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let affine = Layout::Affine(Grid::new(parameters, input.dtype).layout);
        Ok(SparseLayout::over(input.previous, affine))
    }

    fn refuses_non_finite(&self) -> bool {
        true
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let grid = Grid::new(parameters, task.dtype);
        let importance = if grid.is_weighted { Some(task.mean_squares()?) } else { None };
        // Under a mask the dropped weights are zeros, and zero is a level of every grid: their code is the
        // zero point, they add nothing to the search, and min-max ranges include zero anyway.
        let (values, mask) = masked(&task);
        let affine = grid.round(task.shape(), &values, importance.as_deref(), &task)?;
        Ok(Sparse::over(mask, Encoding::Affine(affine)))
    }
}
