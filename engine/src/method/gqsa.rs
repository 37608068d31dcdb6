//! GQSA: whole groups of inputs of a row go, those that stay are quantised, and the inputs to come make both good.

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::encoding::{AffineLayout, Encoding, Layout, Runs, RunsLayout};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::grid::{self, Grid, Step};
use crate::method::pattern::{drop_least, refuse_mask};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::inverse::InverseFactor;
use crate::numeric::sweep::{BLOCK, Choice, sweep};
use crate::tensor::{DType, MatrixShape};

/// Groups of inputs of each row, the least salient dropped, in the walk of GPTQ as the inputs lie.
///
/// A group v of a row goes for v·B⁻¹·vᵀ with B its block of (H + d·I)⁻¹, what it adds to the error of the outputs where all other
/// weights of the row make up for it; *by weight*, for the mean of wᵢ²/(H + d·I)⁻¹ᵢᵢ over it, as in the paper. Of the
/// whole matrix round(f·groups) go, of equal ones the later. Then, with (H + d·I)⁻¹ = Uᵀ·U, inputs are walked along: a
/// dropped weight leaves e = w/Uᵢᵢ, a kept one (w − ŵ)/Uᵢᵢ, and wⱼ ← wⱼ − e·Uᵢⱼ for all later j; the grid of a kept group
/// is fitted when the walk comes to it. Stored are a bit for each group, and codes, scale and zero point of those kept:
/// with b bits and 16-bit scales (1 − f)·(b + (16 + b)/g) + 1/g bits a weight. The paper's training afterwards is not
/// done. With nothing dropped it is GPTQ in order.
/// Cost: 2/3·cols³ + rows·cols² operations and 2·rows·cols·g; memory 12·cols² + 5·rows·cols bytes.
pub(super) struct Gqsa;

/// The registry's entry.
pub(super) static ENTRY: Gqsa = Gqsa;

static ABOUT: About = About {
    id: "gqsa",
    title: "GQSA",
    summary: "Leaves out whole groups of inputs of a row and stores nothing of them but a bit; quantises the others, and lets the inputs to come make good what both do to the outputs.",
    citation: "Zeng, Liu, Lin, Liang, Chen, Wang, Wang & Zhang, GQSA: Group quantization and sparsity for accelerating large language model inference, 2024, its first stage without training",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[grid::BITS, GROUP_SIZE, DROPPED, SALIENCY, SYMMETRY, CLIPPING, DAMPING],
};

const GROUP_SIZE: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs of a row that stay or go together, and share a scale. The authors use 16. The last group of a row may be shorter.",
    kind: Kind::Integer { min: 4, max: 256, default: 16, usual: &[8, 16, 32, 64] },
    only_when: None,
};

const DROPPED: Parameter = Parameter {
    name: "dropped",
    title: "Share dropped",
    help: "Share of the groups of the matrix that go. The authors drop half of 4-bit weights.",
    kind: Kind::Fraction { min: 0.0, max: 0.99, default: 0.5 },
    only_when: None,
};

const SALIENCY: Parameter = Parameter {
    name: "saliency",
    title: "Groups go by",
    help: "What a group is worth.",
    kind: Kind::Choice(&[
        Option_ {
            id: "group",
            title: "Their error together",
            help: "What leaving out the group adds to the error of the outputs where all others make up for it.",
        },
        Option_ {
            id: "weights",
            title: "The mean of their weights",
            help: "What leaving out one of its weights adds, on average: the authors' measure.",
        },
    ]),
    only_when: None,
};

const SYMMETRY: Parameter = Parameter {
    name: "symmetry",
    title: "Grid",
    help: "Whether kept groups have a zero point of their own.",
    kind: Kind::Choice(&[
        Option_ {
            id: "asymmetric",
            title: "Asymmetric",
            help: "From the lowest to the highest weight, with a stored zero point.",
        },
        Option_ { id: "symmetric", title: "Symmetric", help: "Around zero, with none." },
    ]),
    only_when: None,
};

/// How the range of a group's grid is found.
pub(super) const CLIPPING: Parameter = Parameter {
    name: "clipping",
    title: "Clipping",
    help: "Min-max covers every weight; least squares searches a narrower range, clipping a few so that all others get finer steps.",
    kind: Kind::Choice(&[
        Option_ {
            id: "min-max",
            title: "Min-max",
            help: "The grid spans all weights of the group.",
        },
        Option_ {
            id: "mse",
            title: "Least squares",
            help: "The grid of least squared error on the group.",
        },
    ]),
    only_when: None,
};

/// Groups of a matrix: their size, and how many stay.
struct Groups {
    size: usize,
    per_row: usize,
    dropped: usize,
}

impl Groups {
    fn new(parameters: &Resolved, shape: MatrixShape) -> Self {
        let size = (parameters.integer("group_size") as usize).min(shape.cols).max(1);
        let per_row = shape.cols.div_ceil(size);
        let dropped = parameters.fraction("dropped") * (shape.rows * per_row) as f64;
        Self { size, per_row, dropped: dropped.round() as usize }
    }

    fn layout(&self, inner: AffineLayout, shape: MatrixShape) -> RunsLayout {
        let kept = shape.rows * self.per_row - self.dropped;
        RunsLayout { run: self.size, kept, inner: Box::new(Layout::Affine(inner)) }
    }

    /// Which groups stay, row by row.
    fn kept(&self, by_group: bool, factor: &InverseFactor, task: &Task<'_>) -> Result<Vec<bool>> {
        let (rows, cols) = task.weights.dim();
        let columns: Result<Vec<Vec<f64>>> = (0..self.per_row)
            .into_par_iter()
            .map(|group| {
                task.observer.go_on()?;
                let span = group * self.size..((group + 1) * self.size).min(cols);
                let l = factor.block(span.clone());
                let own = task.weights.slice(ndarray::s![.., span]);
                let of = |row: ndarray::ArrayView1<'_, f32>| {
                    if by_group { together(&l, row) } else { mean(&l, row) }
                };
                Ok(own.rows().into_iter().map(of).collect())
            })
            .collect();
        let columns = columns?;
        let mut keep = vec![true; rows * self.per_row];
        let score = |i: usize| columns[i % self.per_row][i / self.per_row];
        drop_least(keep.len(), self.dropped, score, &mut keep);
        Ok(keep)
    }
}

/// ‖L⁻¹·w‖².
fn together(l: &[f64], row: ndarray::ArrayView1<'_, f32>) -> f64 {
    let n = row.len();
    let mut solved: Vec<f64> = Vec::with_capacity(n);
    for (i, &w) in row.iter().enumerate() {
        let sum: f64 = l[i * n..].iter().zip(&solved).map(|(l, x)| l * x).sum();
        solved.push((f64::from(w) - sum) / l[i * n + i]);
    }
    solved.iter().map(|x| x * x).sum()
}

/// The mean of wᵢ²/(L·Lᵀ)ᵢᵢ.
fn mean(l: &[f64], row: ndarray::ArrayView1<'_, f32>) -> f64 {
    let n = row.len();
    let of = |(i, &w): (usize, &f32)| {
        let diagonal: f64 = l[i * n..=i * n + i].iter().map(|x| x * x).sum();
        f64::from(w).powi(2) / diagonal
    };
    row.iter().enumerate().map(of).sum::<f64>() / n.max(1) as f64
}

/// Drops the groups that go and rounds those that stay.
struct Grouped<'a> {
    grid: &'a Grid,
    groups: &'a Groups,
    keep: &'a [bool],
}

/// A row and the grids of its kept groups.
struct Row {
    index: usize,
    steps: Vec<Step>,
}

impl Choice for Grouped<'_> {
    type Row = Row;

    fn choose(&self, row: &mut Row, at: usize, values: &[f32]) -> f32 {
        let (size, group) = (self.groups.size, at / self.groups.size);
        if !self.keep[row.index * self.groups.per_row + group] {
            return 0.0;
        }
        if at.is_multiple_of(size) {
            row.steps.push(self.grid.fit(&values[at..(at + size).min(values.len())], None));
        }
        row.steps.last().map_or(0.0, |&step| self.grid.level(values[at], step))
    }
}

fn inner(parameters: &Resolved, dtype: DType) -> AffineLayout {
    AffineLayout {
        bits: parameters.integer("bits") as u32,
        grouping: Grouping::Channel,
        symmetric: parameters.choice("symmetry") == "symmetric",
        scale_dtype: dtype.scale_dtype(),
        has_offsets: false,
    }
}

impl Method for Gqsa {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let (bits, group) = (parameters.integer("bits"), parameters.integer("group_size"));
        let dropped = (parameters.fraction("dropped") * 1000.0).round() / 10.0;
        format!("{bits}-bit g{group} gqsa {dropped} %")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        refuse_mask(ABOUT.id, input.previous)?;
        let groups = Groups::new(parameters, input.shape);
        Ok(Layout::Runs(groups.layout(inner(parameters, input.dtype), input.shape)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        refuse_mask(ABOUT.id, task.previous.as_ref().map(Encoding::layout).as_ref())?;
        let (shape, gram) = (task.shape(), task.gram()?);
        let groups = Groups::new(parameters, shape);
        let grid = Grid::clipped(inner(parameters, task.dtype), parameters.choice("clipping"));
        let order = (0..shape.cols).collect();
        let factor = task.inverse_factor(&gram, order, parameters.fraction("damping"))?;
        let keep = groups.kept(parameters.choice("saliency") == "group", &factor, &task)?;
        let grouped = Grouped { grid: &grid, groups: &groups, keep: &keep };
        let mut rows: Vec<Row> =
            (0..shape.rows).map(|index| Row { index, steps: Vec::new() }).collect();
        let mut walked: Vec<f32> = task.weights.iter().copied().collect();
        let block = groups.size * BLOCK.div_ceil(groups.size);
        let is_cancelled = || task.observer.is_cancelled();
        sweep(&mut walked, &factor, (&grouped, rows.as_mut_slice()), block, &is_cancelled)
            .ok_or(Error::Cancelled)?;
        let steps: Vec<Step> = rows.into_iter().flat_map(|row| row.steps).collect();
        let mut values = Vec::with_capacity(steps.len() * groups.size);
        let runs = walked.chunks(shape.cols.max(1)).flat_map(|row| row.chunks(groups.size));
        for (run, _) in runs.zip(&keep).filter(|(_, keep)| **keep) {
            values.extend_from_slice(run);
            values.resize(values.len() + groups.size - run.len(), 0.0);
        }
        let inner = MatrixShape { rows: steps.len(), cols: groups.size };
        let inner = Encoding::Affine(grid.encode(inner, &values, &steps));
        Ok(Encoding::Runs(Runs::new(shape, groups.size, keep, inner)))
    }
}
