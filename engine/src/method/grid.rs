//! Grids of grouped integers: their parameters, and how one is fitted to a group, weighted by its inputs or not.

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Affine, AffineData, AffineLayout, Encoding, Layout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::{Kind, Needs, Option_, Parameter, Resolved, Task};
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape, round_f32};

/// The parameter `bits` of every quantiser to grouped integers.
pub(super) const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits of a code. 8 is nearly lossless, 4 is the usual choice with groups of 128 or fewer, 3 and 2 want better methods.",
    kind: Kind::Integer { min: 2, max: 8, default: 4, usual: &[2, 3, 4, 5, 6, 7, 8] },
    only_when: None,
};

/// The parameter `granularity` of every quantiser to grouped integers.
pub(super) const GRANULARITY: Parameter = Parameter {
    name: "granularity",
    title: "Scale for each",
    help: "Which weights share a scale: the finer, the smaller the error and the more bytes go to scales.",
    kind: Kind::Choice(&[
        Option_ { id: "group", title: "Group", help: "A run of inputs in a row." },
        Option_ { id: "channel", title: "Channel", help: "A whole output row." },
        Option_ { id: "tensor", title: "Tensor", help: "The whole matrix." },
    ]),
    only_when: None,
};

/// The parameter `group_size` of every quantiser to grouped integers.
pub(super) const GROUP_SIZE: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs that share a scale. 128 costs 0.125 bits a weight for 16-bit scales, 32 costs 0.5. The last group of a row may be shorter; some targets want sizes that divide the row.",
    kind: Kind::Integer { min: 16, max: 256, default: 128, usual: &[16, 32, 64, 128, 256] },
    only_when: Some(("granularity", "group")),
};

/// The parameter `symmetry` of every quantiser to grouped integers.
pub(super) const SYMMETRY: Parameter = Parameter {
    name: "symmetry",
    title: "Grid",
    help: "Symmetric grids store no zero point and run fastest; asymmetric ones fit groups whose values lean to one side.",
    kind: Kind::Choice(&[
        Option_ {
            id: "symmetric",
            title: "Symmetric",
            help: "2^bits levels around zero; the highest positive value is clipped by half a step.",
        },
        Option_ {
            id: "symmetric-restricted",
            title: "Restricted",
            help: "2^bits − 1 levels; both extremes are exact.",
        },
        Option_ {
            id: "asymmetric",
            title: "Asymmetric",
            help: "2^bits levels from the lowest to the highest weight, with a stored zero point.",
        },
    ]),
    only_when: None,
};

/// The parameter `clipping` of every quantiser to grouped integers.
pub(super) const CLIPPING: Parameter = Parameter {
    name: "clipping",
    title: "Clipping",
    help: "Min-max covers every weight; least squares searches a narrower range, clipping a few large weights so that all others get finer steps; weighted counts what matters to the layer's outputs.",
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
        Option_ {
            id: "weighted",
            title: "Weighted",
            help: "The grid of least squared error with every weight counted by the mean square of its input; needs a calibration.",
        },
    ]),
    only_when: None,
};

/// Ratio between successive ranges of the clipping search.
const SHRINK: f64 = 0.97;
/// The narrowest range tried is `SHRINK^MAX_SHRINKS` = 1 % of the widest.
const MAX_SHRINKS: i32 = 151;

/// What a quantiser with these parameters must be given for its clipping.
pub(super) fn needs(parameters: &Resolved) -> Needs {
    if parameters.choice("clipping") == "weighted" { Needs::Moments } else { Needs::Weights }
}

/// Bits, groups, grid and clipping in a few characters.
pub(super) fn label(parameters: &Resolved) -> String {
    let grouping = match parameters.choice("granularity") {
        "group" => format!("g{}", parameters.integer("group_size")),
        other => other.to_owned(),
    };
    let symmetry = match parameters.choice("symmetry") {
        "asymmetric" => " asym",
        "symmetric-restricted" => " restr",
        _ => "",
    };
    let clipping = match parameters.choice("clipping") {
        "mse" => " mse",
        "weighted" => " weighted",
        _ => "",
    };
    format!("{}-bit {grouping}{symmetry}{clipping}", parameters.integer("bits"))
}

/// The layout of grouped integers behind what the step before made: under its mask, if it is one.
pub(super) fn layout_behind(affine: AffineLayout, previous: Option<&Layout>) -> Layout {
    match previous {
        Some(Layout::Sparse(sparse)) => Layout::Sparse(SparseLayout {
            kept: sparse.kept,
            inner: Box::new(Layout::Affine(affine)),
        }),
        _ => Layout::Affine(affine),
    }
}

/// What a quantiser has before it, row-major: the weights, or under a mask those it keeps among zeros.
pub(super) fn values_before(task: &Task<'_>) -> Vec<f32> {
    match &task.previous {
        Some(Encoding::Sparse(sparse)) => sparse.inner().decode().iter().copied().collect(),
        _ => task.weights.iter().copied().collect(),
    }
}

/// Grouped integers behind what the step before made: under its mask, if it is one.
pub(super) fn encoding_behind(affine: Affine, previous: Option<&Encoding>) -> Encoding {
    match previous {
        Some(Encoding::Sparse(sparse)) => {
            Encoding::Sparse(Sparse::new(sparse.mask().clone(), Encoding::Affine(affine)))
        }
        _ => Encoding::Affine(affine),
    }
}

/// Scale and zero point of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Distance of two levels, exact in its storage type.
    pub(super) scale: f32,
    /// The code of zero.
    pub(super) zero: u8,
}

/// How groups get their grids; formulas at [`crate::method::round_to_nearest`].
pub(super) struct Grid {
    /// What comes out.
    pub(super) layout: AffineLayout,
    /// Whether the search counts errors by the mean squares of inputs.
    pub(super) is_weighted: bool,
    is_restricted: bool,
    search: bool,
}

impl Grid {
    /// The grid of these parameters for weights of `dtype`.
    pub(super) fn new(parameters: &Resolved, dtype: DType) -> Self {
        let grouping = match parameters.choice("granularity") {
            "tensor" => Grouping::Tensor,
            "channel" => Grouping::Channel,
            _ => Grouping::Group(parameters.integer("group_size") as usize),
        };
        let layout = AffineLayout {
            bits: parameters.integer("bits") as u32,
            grouping,
            symmetric: parameters.choice("symmetry") != "asymmetric",
            scale_dtype: dtype.scale_dtype(),
            has_offsets: false,
        };
        Self {
            layout,
            is_restricted: parameters.choice("symmetry") == "symmetric-restricted",
            is_weighted: needs(parameters) == Needs::Moments,
            search: parameters.choice("clipping") != "min-max",
        }
    }

    /// Grids of this layout, searched for the least squared error.
    pub(super) fn of(layout: AffineLayout) -> Self {
        Self { layout, is_weighted: false, is_restricted: false, search: true }
    }

    /// The grid of a group; the search counts each squared error with its entry of `importance`, or with 1.
    pub(super) fn fit(&self, values: &[f32], importance: Option<&[f32]>) -> Step {
        let (mut min, mut max) = (0.0_f32, 0.0_f32);
        for &value in values {
            min = min.min(value);
            max = max.max(value);
        }
        let mut best = self.step(f64::from(min), f64::from(max));
        if !self.search {
            return best;
        }
        let mut least = self.error(values, importance, best);
        for k in 1..MAX_SHRINKS {
            let shrink = SHRINK.powi(k);
            let step = self.step(f64::from(min) * shrink, f64::from(max) * shrink);
            let error = self.error(values, importance, step);
            if error < least {
                (best, least) = (step, error);
            } else if error > 2.0 * least {
                break;
            }
        }
        best
    }

    fn step(&self, min: f64, max: f64) -> Step {
        let levels = f64::from(self.layout.largest());
        let absmax = max.max(-min);
        let exact = if !self.layout.symmetric {
            (max - min) / levels
        } else if self.is_restricted {
            absmax / f64::from(self.layout.middle() - 1)
        } else {
            absmax / (levels / 2.0)
        };
        let scale = stored_scale(exact as f32, self.layout.scale_dtype);
        let zero = if self.layout.symmetric {
            self.layout.middle()
        } else {
            (-min / f64::from(scale)).round_ties_even().clamp(0.0, levels) as u8
        };
        Step { scale, zero }
    }

    /// The code of the nearest level.
    pub(super) fn code(&self, value: f32, step: Step) -> u8 {
        let lowest = if self.is_restricted { 1.0 } else { 0.0 };
        let code = (value / step.scale).round_ties_even() + f32::from(step.zero);
        code.clamp(lowest, f32::from(self.layout.largest())) as u8
    }

    /// The nearest level.
    pub(super) fn level(&self, value: f32, step: Step) -> f32 {
        step.scale * (f32::from(self.code(value, step)) - f32::from(step.zero))
    }

    fn error(&self, values: &[f32], importance: Option<&[f32]>, step: Step) -> f64 {
        let square = |value: f32| {
            let error = f64::from(value - self.level(value, step));
            error * error
        };
        match importance {
            None => values.iter().map(|&value| square(value)).sum(),
            Some(importance) => {
                let pairs = values.iter().zip(importance);
                pairs.map(|(&value, &weight)| square(value) * f64::from(weight)).sum()
            }
        }
    }

    /// The grid of every group of row-major `values`, [`Grouping::groups_per_row`] to a row; for [`Grouping::Tensor`]
    /// the same for each row. `importance` has an entry for each column.
    pub(super) fn fit_all(
        &self,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        task: &Task<'_>,
    ) -> Result<Vec<Vec<Step>>> {
        let grouping = self.layout.grouping;
        let rows = values.len() / cols.max(1);
        if grouping == Grouping::Tensor {
            let importance: Option<Vec<f32>> =
                importance.map(|row| row.iter().copied().cycle().take(values.len()).collect());
            let step = self.fit(values, importance.as_deref());
            return Ok(vec![vec![step]; rows]);
        }
        let width = grouping.width(cols);
        let fit = |row: &[f32]| {
            task.observer.go_on()?;
            let groups = row.chunks(width).enumerate();
            let of_group = |(group, values): (usize, &[f32])| {
                let own = importance.map(|all| &all[group * width..group * width + values.len()]);
                self.fit(values, own)
            };
            Ok(groups.map(of_group).collect())
        };
        values.par_chunks(cols.max(1)).map(fit).collect()
    }

    /// The nearest code of every weight under its group's grid.
    pub(super) fn encode(&self, shape: MatrixShape, values: &[f32], steps: &[Vec<Step>]) -> Affine {
        let cols = shape.cols.max(1);
        let width = self.layout.grouping.width(shape.cols);
        let mut codes = vec![0; values.len()];
        let rows =
            codes.par_chunks_mut(cols).zip(values.par_chunks(cols)).zip(steps.into_par_iter());
        rows.for_each(|((codes, values), steps)| {
            for (col, (code, &value)) in codes.iter_mut().zip(values).enumerate() {
                *code = self.code(value, steps[col / width]);
            }
        });
        let groups = self.layout.grouping.scales(shape.rows, shape.cols);
        let stored = || steps.iter().flatten().take(groups);
        let data = AffineData {
            codes,
            scales: stored().map(|step| step.scale).collect(),
            zeros: stored().map(|step| step.zero).collect(),
        };
        Affine::new(shape, self.layout.clone(), data)
    }
}

/// `scale` rounded to its storage type; a scale that vanishes there becomes the type's epsilon.
pub(super) fn stored_scale(scale: f32, dtype: DType) -> f32 {
    let stored = round_f32(dtype, scale);
    let epsilon = match dtype {
        DType::BF16 => half::bf16::EPSILON.to_f32(),
        DType::F16 => half::f16::EPSILON.to_f32(),
        _ => f32::EPSILON,
    };
    if stored == 0.0 { epsilon } else { stored }
}

/// Round to nearest on grids that are searched for Σ(w − ŵ)²·E\[x²\]. Cost: as the search without weights.
pub(super) fn round_weighted(parameters: &Resolved, task: &Task<'_>) -> Result<Encoding> {
    let grid = Grid::new(parameters, task.dtype);
    let importance = task.mean_squares()?;
    let (shape, values) = (task.shape(), values_before(task));
    let steps = grid.fit_all(&values, shape.cols, Some(&importance), task)?;
    Ok(encoding_behind(grid.encode(shape, &values, &steps), task.previous.as_ref()))
}
