//! GPTQ: one input after the other is rounded, and the inputs to come make good what that did to the outputs.

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Affine, Encoding, Layout, Mask};
use crate::error::{Error, Result};
use crate::method::grid::{self, Grid, Step};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::numeric::inverse::InverseFactor;
use crate::numeric::sweep::{BLOCK, Choice, sweep};

/// Error-feedback rounding of a `[rows, cols]` matrix for tr((W − Ŵ)·H·(W − Ŵ)ᵀ), H = Σ x·xᵀ/tokens.
///
/// With H + d·I (d = damping · mean of the diagonal of inputs that are not always zero) and (H + d·I)⁻¹ = Uᵀ·U: for
/// each input i in order, ŵᵢ = nearest level, e = (wᵢ − ŵᵢ)/Uᵢᵢ, wⱼ ← wⱼ − e·Uᵢⱼ for all later j (Frantar et al.,
/// algorithm 1), 128 inputs at a time. *Activation* order takes inputs of large E\[x²\] first, on grids that are fitted
/// to the original weights, so that groups stay runs of inputs; *column* order fits the grid of a group when it
/// comes to it. Weights that a mask drops become zero as they are passed, and the others make that good too.
///
/// An input that was always zero is rounded to nearest by itself (the authors' code sets its weights to zero, which
/// the calibration cannot tell apart). With a diagonal H the result is round to nearest.
/// Cost: 2/3·cols³ + rows·cols² operations, of the factor in f64, of the walk in f32; memory 12·cols² + 4·rows·cols bytes.
pub(super) struct Gptq;

/// The registry's entry.
pub(super) static ENTRY: Gptq = Gptq;

static ABOUT: About = About {
    id: "gptq",
    title: "GPTQ",
    summary: "Rounds one input after the other and lets the inputs to come make good the error that this leaves in the layer's outputs.",
    citation: "Frantar, Ashkboos, Hoefler & Alistarh, GPTQ: Accurate post-training quantization for generative pre-trained transformers, ICLR 2023, algorithm 1",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[
        grid::BITS,
        grid::GRANULARITY,
        grid::GROUP_SIZE,
        grid::SYMMETRY,
        grid::CLIPPING,
        ORDER,
        DAMPING,
    ],
};

const ORDER: Parameter = Parameter {
    name: "order",
    title: "Order",
    help: "Which inputs are rounded first. Those rounded late have fewer others left to make good their error.",
    kind: Kind::Choice(&[
        Option_ {
            id: "activation",
            title: "By activation",
            help: "Inputs of large mean square first, on grids fitted beforehand; usually the smaller error.",
        },
        Option_ {
            id: "columns",
            title: "As they lie",
            help: "From the first to the last; each group's grid is fitted to the weights as they have become.",
        },
    ]),
    only_when: None,
};

/// What is added to the diagonal.
pub(super) const DAMPING: Parameter = Parameter {
    name: "damping",
    title: "Damping",
    help: "Added to the mean square of every input, as a share of their mean: steadies directions of which the calibration saw little. 0.01 is usual; more where there was little text.",
    kind: Kind::Fraction { min: 0.0001, max: 1.0, default: 0.01 },
    only_when: None,
};

/// What is remembered of a row: where it lies, and the grids of its groups.
struct Row {
    index: usize,
    steps: Vec<Step>,
}

struct Rounding<'a> {
    grid: &'a Grid,
    order: &'a [usize],
    /// Whether the grid of a group is fitted when the walk comes to it.
    is_fitted_late: bool,
    importance: Option<&'a [f32]>,
    mask: Option<&'a Mask>,
}

impl Choice for Rounding<'_> {
    type Row = Row;

    fn choose(&self, row: &mut Row, at: usize, values: &[f32]) -> f32 {
        let cols = self.order.len();
        let channel = self.order[at];
        let width = self.grid.layout.grouping.width(cols);
        let group = channel / width;
        if self.is_fitted_late && channel.is_multiple_of(width) {
            let span = at..(at + width).min(cols);
            let now: Vec<f32> = span.clone().map(|i| self.kept(row.index, i, values[i])).collect();
            row.steps[group] = self.grid.fit(&now, self.importance.map(|all| &all[span]));
        }
        let value = self.kept(row.index, channel, values[at]);
        self.grid.level(value, row.steps[group])
    }
}

impl Rounding<'_> {
    /// The value, or zero where the mask drops it.
    fn kept(&self, row: usize, channel: usize, value: f32) -> f32 {
        match self.mask {
            Some(mask) if !mask.keeps(row * self.order.len() + channel) => 0.0,
            _ => value,
        }
    }
}

/// Inputs by mean square, the largest first; of equal ones the first.
fn by_activation(gram: &Gram) -> Vec<usize> {
    let diagonal = gram.diagonal();
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    order
}

/// Columns fixed before those behind are brought up to date: whole groups, so that a group is up to date when its
/// grid is fitted.
fn block(grouping: Grouping) -> usize {
    match grouping {
        Grouping::Group(size) => size * BLOCK.div_ceil(size),
        Grouping::Channel | Grouping::Tensor => BLOCK,
    }
}

/// The walk; row-major `values`, to which grids are fitted, come back rounded.
fn round(
    grid: &Grid,
    task: &Task<'_>,
    factor: &InverseFactor,
    is_ordered: bool,
    values: &mut [f32],
) -> Result<Affine> {
    let (shape, order) = (task.shape(), factor.order());
    let importance = if grid.is_weighted { Some(task.mean_squares()?) } else { None };
    let steps = grid.fit_all(values, shape.cols, importance.as_deref(), task)?;
    let mut rows: Vec<Row> =
        steps.into_iter().enumerate().map(|(index, steps)| Row { index, steps }).collect();
    let mask = match &task.previous {
        Some(Encoding::Sparse(sparse)) => Some(sparse.mask()),
        _ => None,
    };
    let is_fitted_late = !is_ordered && matches!(grid.layout.grouping, Grouping::Group(_));
    let importance = importance.as_deref();
    let rounding = Rounding { grid, order, is_fitted_late, importance, mask };
    let cols = shape.cols.max(1);
    let mut walked = vec![0.0; values.len()];
    // From the weights as they were: what the mask drops is made good from the start.
    walked.par_chunks_mut(cols).enumerate().for_each(|(row, walked)| {
        for (value, &channel) in walked.iter_mut().zip(order) {
            *value = task.weights[[row, channel]];
        }
    });
    let is_cancelled = || task.observer.is_cancelled();
    let choice = (&rounding, rows.as_mut_slice());
    sweep(&mut walked, factor, choice, block(grid.layout.grouping), &is_cancelled)
        .ok_or(Error::Cancelled)?;
    values.par_chunks_mut(cols).zip(walked.par_chunks(cols)).for_each(|(values, walked)| {
        for (&value, &channel) in walked.iter().zip(order) {
            values[channel] = value;
        }
    });
    let steps: Vec<Vec<Step>> = rows.into_iter().map(|row| row.steps).collect();
    Ok(grid.encode(shape, values, &steps))
}

impl Method for Gptq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let order = if parameters.choice("order") == "columns" { " in order" } else { "" };
        format!("{} gptq{order}", grid::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        Ok(grid::layout_behind(Grid::new(parameters, input.dtype).layout, input.previous))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let grid = Grid::new(parameters, task.dtype);
        let is_ordered = parameters.choice("order") == "activation";
        let gram = task.gram()?;
        let order = if is_ordered { by_activation(&gram) } else { (0..gram.channels()).collect() };
        let factor = task.inverse_factor(&gram, order, parameters.fraction("damping"))?;
        let mut values = grid::values_before(&task);
        let affine = round(&grid, &task, &factor, is_ordered, &mut values)?;
        Ok(grid::encoding_behind(affine, task.previous.as_ref()))
    }
}
