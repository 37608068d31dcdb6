//! GPTQ: one input after the other is rounded, and the inputs to come make good what that did to the outputs.

use std::ops::Range;

use crate::encoding::{Affine, Encoding, Layout, Mask, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::grid::{self, Grid, Step};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::feedback::{Feedback, Levels, walk};
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::numeric::sweep::{BLOCK, Choice, sweep};

/// Error-feedback rounding of a `[rows, cols]` matrix for tr((W − Ŵ)·H·(W − Ŵ)ᵀ), H = Σ x·xᵀ/tokens.
///
/// With H + d·I (d = damping · mean of the diagonal of inputs that are not always zero) and (H + d·I)⁻¹ = Uᵀ·U: for
/// each input i in order, ŵᵢ = nearest level, e = (wᵢ − ŵᵢ)/Uᵢᵢ, wⱼ ← wⱼ − e·Uᵢⱼ for all later j (Frantar et al.,
/// algorithm 1), 128 inputs at a time. *Activation* order takes inputs of large E\[x²\] first, on grids that are fitted
/// to the original weights, so that groups stay runs of inputs; as no grid waits for a weight, it walks along V of
/// H + d·I = V·D·Vᵀ to the same codes without the inverse (see [`walk`]). *Column* order fits the grid of a group when
/// it comes to it. Weights that a mask drops become zero as they are passed, and the others make that good too.
///
/// An input that was always zero is rounded to nearest by itself (the authors' code sets its weights to zero, which
/// the calibration cannot tell apart). With a diagonal H the result is round to nearest.
/// Cost: 1/3·cols³ (as they lie 2/3·cols³) + rows·cols² operations, of the factor in f64, of the walk in f32; memory
/// 12·cols² + 4·rows·cols bytes.
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

/// Which inputs are rounded first.
pub(super) const ORDER: Parameter = Parameter {
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

/// As the inputs lie: the grid of a group is fitted when the walk comes to it.
struct Late<'a> {
    grid: &'a Grid,
    importance: Option<&'a [f32]>,
    mask: Option<&'a Mask>,
    cols: usize,
}

impl Choice for Late<'_> {
    type Row = Row;

    fn choose(&self, row: &mut Row, at: usize, values: &[f32]) -> f32 {
        let grouping = self.grid.layout.grouping;
        let width = grouping.width(self.cols);
        let group = at / width;
        if matches!(grouping, Grouping::Group(_)) && at.is_multiple_of(width) {
            let span = at..(at + width).min(self.cols);
            let now: Vec<f32> = span.clone().map(|i| self.kept(row.index, i, values[i])).collect();
            row.steps[group] = self.grid.fit(&now, self.importance.map(|all| &all[span]));
        }
        let value = self.kept(row.index, at, values[at]);
        self.grid.level(value, row.steps[group])
    }
}

impl Late<'_> {
    /// The value, or zero where the mask drops it.
    fn kept(&self, row: usize, channel: usize, value: f32) -> f32 {
        match self.mask {
            Some(mask) if !mask.keeps(row * self.cols + channel) => 0.0,
            _ => value,
        }
    }
}

/// On grids that are fitted beforehand.
struct Fixed<'a> {
    grid: &'a Grid,
    order: &'a [usize],
    mask: Option<&'a Mask>,
    rows: usize,
    /// Scale and zero point of each row, group after group.
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl<'a> Fixed<'a> {
    fn new(grid: &'a Grid, order: &'a [usize], (rows, steps): (usize, &[Step])) -> Self {
        let (cols, grouping) = (order.len(), grid.layout.grouping);
        let step = |i: usize| steps[grouping.first_scale(i % rows, cols) + i / rows];
        let all = || (0..rows * grouping.groups_per_row(cols)).map(step);
        let scales = all().map(|step| step.scale).collect();
        let zeros = all().map(|step| f32::from(step.zero)).collect();
        Self { grid, order, mask: None, rows, scales, zeros }
    }
}

impl Levels for Fixed<'_> {
    fn choose(&self, rows: Range<usize>, at: Range<usize>, values: &mut [f32]) {
        let (cols, channel) = (self.order.len(), self.order[at.start]);
        let first = channel / self.grid.layout.grouping.width(cols) * self.rows;
        let own = first + rows.start..first + rows.end;
        self.grid.to_levels(values, &self.scales[own.clone()], &self.zeros[own]);
        if let Some(mask) = self.mask {
            for (value, row) in values.iter_mut().zip(rows) {
                // Zero is a level of every grid.
                *value = if mask.keeps(row * cols + channel) { *value } else { 0.0 };
            }
        }
    }
}

/// Inputs by mean square, the largest first; of equal ones the first.
pub(super) fn by_activation(gram: &Gram) -> Vec<usize> {
    let diagonal = gram.diagonal();
    let mut order: Vec<usize> = (0..diagonal.len()).collect();
    order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]).then(a.cmp(&b)));
    order
}

/// The weights of a task along a factor, on grids fitted to `values`.
pub(super) fn on_fitted(
    grid: &Grid,
    task: &Task<'_>,
    (values, mask): (&[f32], Option<&Mask>),
    factor: &Feedback,
) -> Result<Affine> {
    let shape = task.shape();
    let importance = if grid.is_weighted { Some(task.mean_squares()?) } else { None };
    let steps = grid.fit_all(values, shape.cols, importance.as_deref(), task)?;
    let fixed = Fixed::new(grid, factor.order(), (shape.rows, &steps));
    let fixed = Fixed { mask, ..fixed };
    let mut walked: Vec<f32> = task.weights.iter().copied().collect();
    let is_cancelled = || task.observer.is_cancelled();
    walk(&mut walked, factor, &fixed, &is_cancelled).ok_or(Error::Cancelled)?;
    Ok(grid.encode(shape, &walked, &steps))
}

/// Columns fixed before those behind are brought up to date: whole groups, so that a group is up to date when its
/// grid is fitted.
fn block(grouping: Grouping) -> usize {
    match grouping {
        Grouping::Group(size) => size * BLOCK.div_ceil(size),
        Grouping::Channel | Grouping::Tensor => BLOCK,
    }
}

/// What is to be rounded.
struct Work<'a, 't> {
    grid: Grid,
    task: &'a Task<'t>,
    gram: &'a Gram,
    damping: f64,
}

impl Work<'_, '_> {
    /// Inputs of large E\[x²\] first.
    fn by_activation(&self, values: &[f32], mask: Option<&Mask>) -> Result<Affine> {
        let order = by_activation(self.gram);
        let factor = self.task.feedback(self.gram, order, (self.damping, 1))?;
        on_fitted(&self.grid, self.task, (values, mask), &factor)
    }

    /// As the inputs lie.
    fn in_order(&self, values: &[f32], mask: Option<&Mask>) -> Result<Affine> {
        let (task, shape, grouping) = (self.task, self.task.shape(), self.grid.layout.grouping);
        let importance = if self.grid.is_weighted { Some(task.mean_squares()?) } else { None };
        let importance = importance.as_deref();
        let steps = self.grid.fit_all(values, shape.cols, importance, task)?;
        let per_row = grouping.groups_per_row(shape.cols);
        let row = |index: usize| {
            let first = grouping.first_scale(index, shape.cols);
            Row { index, steps: steps[first..first + per_row].to_vec() }
        };
        let mut rows: Vec<Row> = (0..shape.rows).map(row).collect();
        let order = (0..shape.cols).collect();
        let factor = task.inverse_factor(self.gram, order, self.damping)?;
        let late = Late { grid: &self.grid, importance, mask, cols: shape.cols };
        // From the weights as they were: what the mask drops is made good from the start.
        let mut walked: Vec<f32> = task.weights.iter().copied().collect();
        let is_cancelled = || task.observer.is_cancelled();
        let choice = (&late, rows.as_mut_slice());
        sweep(&mut walked, &factor, choice, block(grouping), &is_cancelled)
            .ok_or(Error::Cancelled)?;
        let steps: Vec<Step> = rows.into_iter().flat_map(|row| row.steps).collect();
        let scales = grouping.scales(shape.rows, shape.cols);
        Ok(self.grid.encode(shape, &walked, &steps[..scales]))
    }
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
        let affine = Layout::Affine(Grid::new(parameters, input.dtype).layout);
        Ok(SparseLayout::over(input.previous, affine))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (grid, gram) = (Grid::new(parameters, task.dtype), task.gram()?);
        let damping = parameters.fraction("damping");
        let work = Work { grid, task: &task, gram: &gram, damping };
        let (values, mask) = masked(&task);
        let affine = match parameters.choice("order") {
            "activation" => work.by_activation(&values, mask)?,
            _ => work.in_order(&values, mask)?,
        };
        Ok(Sparse::over(mask, Encoding::Affine(affine)))
    }
}
