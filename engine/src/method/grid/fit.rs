//! How one grid of integers is fitted to a group of weights, and what the weights become under it.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelExtend as _,
    ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Affine, AffineData, AffineLayout};
use crate::error::Result;
use crate::method::grid::codes::{Codes, Rounded, code_of};
use crate::method::{Needs, Resolved, Task, refuse_non_finite};
use crate::numeric::grouping::Grouping;
use crate::numeric::vector::{Loops, are_finite, byte, extremes, largest_magnitude, vectorised};
use crate::tensor::{DType, MatrixShape, round_f32};

/// Ratio between successive ranges of the clipping search.
const SHRINK: f64 = 0.97;
/// The narrowest range tried is `SHRINK^MAX_SHRINKS` = 1 % of the widest.
const MAX_SHRINKS: i32 = 151;
/// Weights that one thread takes at a time, at least; those of a grid for the whole matrix in just these pieces.
const PIECE: usize = 1 << 16;
/// Partial sums and extremes, for the lanes of the processor.
const LANES: usize = 8;
/// Weights of whole groups that are rounded together, and how many times as many before it is asked whether to go on.
pub(super) const AT_ONCE: usize = 256;
const SLAB: usize = 1 << 14;

/// Scale and zero point of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::method) struct Step {
    /// Distance of two levels, exact in its storage type.
    pub(in crate::method) scale: f32,
    /// The code of zero.
    pub(in crate::method) zero: u8,
}

/// How groups get their grids; formulas at [`crate::method::round_to_nearest`].
pub(in crate::method) struct Grid {
    /// What comes out.
    pub(in crate::method) layout: AffineLayout,
    /// Whether the search counts errors by the mean squares of inputs.
    pub(in crate::method) is_weighted: bool,
    is_restricted: bool,
    search: bool,
}

impl Grid {
    /// The grid of these parameters for weights of `dtype`.
    pub(in crate::method) fn new(parameters: &Resolved, dtype: DType) -> Self {
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
            is_weighted: super::needs(parameters) == Needs::Moments,
            search: parameters.choice("clipping") != "min-max",
        }
    }

    /// Grids of this layout with clipping by its id.
    pub(in crate::method) fn clipped(layout: AffineLayout, clipping: &str) -> Self {
        let (is_weighted, search) = (clipping == "weighted", clipping != "min-max");
        Self { layout, is_weighted, is_restricted: false, search }
    }

    /// Grids of this layout, searched for the least squared error.
    pub(in crate::method) fn of(layout: AffineLayout) -> Self {
        Self::clipped(layout, "mse")
    }

    /// The grid of a group; the search counts each squared error with its entry of `importance`, or with 1.
    pub(in crate::method) fn fit(&self, values: &[f32], importance: Option<&[f32]>) -> Step {
        let mut step = [Step { scale: 1.0, zero: 0 }];
        let width = values.len().max(1);
        vectorised(Fits { grid: self, width, values, importance, steps: &mut step });
        step[0]
    }

    /// The grid of every group of row-major `values`, as many as [`Grouping::scales`] says; `importance` has an entry
    /// for each column.
    pub(in crate::method) fn fit_all(
        &self,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        task: &Task<'_>,
    ) -> Result<Vec<Step>> {
        let (mut steps, per_row) = self.places(values, cols);
        if self.layout.grouping == Grouping::Tensor {
            steps.fill(self.fit_whole(values, importance));
            return Ok(steps);
        }
        let width = self.layout.grouping.width(cols);
        let rows = values.par_chunks(cols.max(1)).zip(steps.par_chunks_mut(per_row));
        rows.with_min_len(rows_at_once(cols)).try_for_each(|(values, steps)| {
            task.observer.go_on()?;
            vectorised(Fits { grid: self, width, values, importance, steps });
            Ok(())
        })?;
        Ok(steps)
    }

    /// The nearest code of every weight under its group's grid.
    pub(in crate::method) fn encode(
        &self,
        shape: MatrixShape,
        values: &[f32],
        steps: &[Step],
    ) -> Affine {
        let (cols, grouping) = (shape.cols.max(1), self.layout.grouping);
        let width = grouping.width(shape.cols);
        let mut codes = vec![0; values.len()];
        let rows = codes.par_chunks_mut(cols).zip(values.par_chunks(cols)).enumerate();
        rows.with_min_len(rows_at_once(cols)).for_each(|(row, (codes, values))| {
            let steps = &steps[grouping.first_scale(row, shape.cols)..];
            vectorised(Codes { grid: self, width, values, steps, out: codes });
        });
        self.affine(shape, codes, steps)
    }

    /// [`Self::fit_all`] and [`Self::encode`], each row read once; refuses weights that are not finite.
    pub(in crate::method) fn round(
        &self,
        shape: MatrixShape,
        values: &[f32],
        importance: Option<&[f32]>,
        task: &Task<'_>,
    ) -> Result<Affine> {
        if self.layout.grouping == Grouping::Tensor {
            refuse_non_finite(task)?;
            let steps = self.fit_all(values, shape.cols, importance, task)?;
            return Ok(self.encode(shape, values, &steps));
        }
        let width = self.layout.grouping.width(shape.cols);
        if width > 0 && AT_ONCE.is_multiple_of(width) && shape.cols.is_multiple_of(AT_ONCE) {
            return self.round_pieces(shape, values, importance, task);
        }
        let (mut steps, per_row) = self.places(values, shape.cols);
        let cols = shape.cols.max(1);
        let mut codes = vec![0; values.len()];
        let rows = codes.par_chunks_mut(cols).zip(values.par_chunks(cols));
        let rows = rows.zip(steps.par_chunks_mut(per_row)).with_min_len(rows_at_once(cols));
        rows.try_for_each(|((codes, values), steps)| {
            task.observer.go_on()?;
            if !are_finite(values) {
                refuse_non_finite(task)?;
            }
            vectorised(Fits { grid: self, width, values, importance, steps });
            vectorised(Codes { grid: self, width, values, steps, out: codes });
            Ok(())
        })?;
        Ok(self.affine(shape, codes, &steps))
    }

    /// [`Self::round`] of rows that are pieces of whole groups. Arrays are collected, as memory to be written to would be
    /// filled with zeros first, by one thread.
    fn round_pieces(
        &self,
        shape: MatrixShape,
        values: &[f32],
        importance: Option<&[f32]>,
        task: &Task<'_>,
    ) -> Result<Affine> {
        let width = self.layout.grouping.width(shape.cols);
        let (mut steps, _) = self.places(values, shape.cols);
        let pieces = values.as_chunks::<AT_ONCE>().0;
        let mut codes: Vec<[u8; AT_ONCE]> = Vec::with_capacity(pieces.len());
        let is_finite = AtomicBool::new(true);
        let slabs = pieces.chunks(SLAB).zip(steps.chunks_mut(SLAB * AT_ONCE / width)).enumerate();
        for (slab, (pieces, steps)) in slabs {
            task.observer.go_on()?;
            let pieces = pieces.par_iter().zip(steps.par_chunks_mut(AT_ONCE / width)).enumerate();
            codes.par_extend(pieces.with_min_len(PIECE / AT_ONCE).map(|(i, (values, steps))| {
                let first = (slab * SLAB + i) * AT_ONCE % shape.cols;
                let importance = importance.map(|all| &all[first..]);
                let mut out = [0; AT_ONCE];
                let piece = Rounded { grid: self, width, values, importance, steps, out: &mut out };
                if !vectorised(piece) {
                    is_finite.store(false, Ordering::Relaxed);
                }
                out
            }));
            if !is_finite.load(Ordering::Relaxed) {
                refuse_non_finite(task)?;
            }
        }
        Ok(self.affine(shape, codes.into_flattened(), &steps))
    }

    /// Puts the nearest level of each value in its place: under scale and zero point of the same index.
    pub(in crate::method) fn to_levels(&self, values: &mut [f32], scales: &[f32], zeros: &[f32]) {
        vectorised(Levels { ends: self.ends(), values, scales, zeros });
    }

    /// The code of the nearest level.
    pub(in crate::method) fn code(&self, value: f32, step: Step) -> u8 {
        byte(code_of(value, (step.scale, f32::from(step.zero)), self.ends()))
    }

    /// The nearest level.
    pub(in crate::method) fn level(&self, value: f32, step: Step) -> f32 {
        let grid = (step.scale, f32::from(step.zero));
        step.scale * (code_of(value, grid, self.ends()) - grid.1)
    }

    /// Steps to be found, and how many a row has.
    fn places(&self, values: &[f32], cols: usize) -> (Vec<Step>, usize) {
        let grouping = self.layout.grouping;
        let scales = grouping.scales(values.len() / cols.max(1), cols);
        (vec![Step { scale: 1.0, zero: 0 }; scales], grouping.groups_per_row(cols).max(1))
    }

    fn affine(&self, shape: MatrixShape, codes: Vec<u8>, steps: &[Step]) -> Affine {
        let scales = steps.iter().map(|step| step.scale).collect();
        let zeros = steps.iter().map(|step| step.zero).collect();
        Affine::new(shape, self.layout.clone(), AffineData { codes, scales, zeros })
    }

    /// The grid of a whole matrix, of which `importance` has a row; sums over pieces of fixed length, so that they do
    /// not depend on the threads.
    fn fit_whole(&self, values: &[f32], importance: Option<&[f32]>) -> Step {
        let importance: Option<Vec<f32>> =
            importance.map(|row| row.iter().copied().cycle().take(values.len()).collect());
        let pieces = values.par_chunks(PIECE);
        let ends = pieces.map(|values| vectorised(Extremes(values)));
        let join = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
        let ends = ends.reduce(|| (0.0, 0.0), join);
        self.searched(ends, &Whole { grid: self, values, importance: importance.as_deref() })
    }

    /// What a grid of these values must span: both sides alike where it is symmetric.
    #[inline(always)]
    fn range(&self, values: &[f32]) -> (f32, f32) {
        if self.layout.symmetric {
            let peak = largest_magnitude(values);
            return (-peak, peak);
        }
        extremes(values, (0.0, 0.0))
    }

    /// The grid over these extremes; where a range is searched, the first of least error of ever narrower ones.
    #[inline(always)]
    fn searched(&self, (min, max): (f32, f32), errors: &impl Errors) -> Step {
        let mut best = self.step(f64::from(min), f64::from(max));
        if !self.search {
            return best;
        }
        let mut least = errors.of(best);
        for k in 1..MAX_SHRINKS {
            let shrink = SHRINK.powi(k);
            let step = self.step(f64::from(min) * shrink, f64::from(max) * shrink);
            let error = errors.of(step);
            if error < least {
                (best, least) = (step, error);
            } else if error > 2.0 * least {
                break;
            }
        }
        best
    }

    /// Scale, rounded as it is stored, and zero point of the grid that spans `[min, max]`.
    #[inline(always)]
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

    /// Lowest and highest code.
    #[inline(always)]
    pub(super) fn ends(&self) -> (f32, f32) {
        let lowest = if self.is_restricted { 1.0 } else { 0.0 };
        (lowest, f32::from(self.layout.largest()))
    }

    /// Σ(w − ŵ)²·importance in eight lanes, added in order, and the rest after them.
    #[inline(always)]
    fn error(&self, values: &[f32], importance: Option<&[f32]>, step: Step) -> f64 {
        let grid = (step.scale, f32::from(step.zero));
        let ends = self.ends();
        let (eights, rest) = values.as_chunks::<LANES>();
        let mut lanes = [0.0; LANES];
        let Some(importance) = importance else {
            for eight in eights {
                for (lane, &value) in lanes.iter_mut().zip(eight) {
                    *lane += square(value, grid, ends);
                }
            }
            let rest = rest.iter().map(|&value| square(value, grid, ends));
            return lanes.iter().sum::<f64>() + rest.sum::<f64>();
        };
        let (counts, counts_of_rest) = importance[..values.len()].as_chunks::<LANES>();
        for (eight, counts) in eights.iter().zip(counts) {
            for i in 0..LANES {
                lanes[i] += square(eight[i], grid, ends) * f64::from(counts[i]);
            }
        }
        let rest = rest.iter().zip(counts_of_rest);
        let rest = rest.map(|(&value, &count)| square(value, grid, ends) * f64::from(count));
        lanes.iter().sum::<f64>() + rest.sum::<f64>()
    }
}

/// (w − ŵ)².
#[inline(always)]
fn square(value: f32, grid: (f32, f32), ends: (f32, f32)) -> f64 {
    let level = grid.0 * (code_of(value, grid, ends) - grid.1);
    let error = f64::from(value - level);
    error * error
}

/// Rows that one thread takes at a time, at least.
fn rows_at_once(cols: usize) -> usize {
    (PIECE / cols.max(1)).max(1)
}

/// `scale` rounded to its storage type; a scale that vanishes there becomes the type's epsilon.
#[inline(always)]
pub(in crate::method) fn stored_scale(scale: f32, dtype: DType) -> f32 {
    let stored = round_f32(dtype, scale);
    let epsilon = match dtype {
        DType::BF16 => half::bf16::EPSILON.to_f32(),
        DType::F16 => half::f16::EPSILON.to_f32(),
        _ => f32::EPSILON,
    };
    if stored == 0.0 { epsilon } else { stored }
}

/// The smallest and the largest of some values and zero.
struct Extremes<'a>(&'a [f32]);

impl Loops for Extremes<'_> {
    type Found = (f32, f32);

    #[inline(always)]
    fn run(self) -> (f32, f32) {
        extremes(self.0, (0.0, 0.0))
    }
}

/// The grids of a row.
pub(super) struct Fits<'a> {
    pub(super) grid: &'a Grid,
    pub(super) width: usize,
    pub(super) values: &'a [f32],
    pub(super) importance: Option<&'a [f32]>,
    pub(super) steps: &'a mut [Step],
}

impl Loops for Fits<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let groups = self.values.chunks(self.width).zip(self.steps).enumerate();
        for (group, (values, step)) in groups {
            let own = self.importance.map(|all| &all[group * self.width..]);
            let errors = Group { grid: self.grid, values, importance: own };
            *step = self.grid.searched(self.grid.range(values), &errors);
        }
    }
}

/// The errors that grids leave. No closure: that would be a function of its own, compiled for the least processor.
trait Errors {
    /// Σ(w − ŵ)²·importance.
    fn of(&self, step: Step) -> f64;
}

/// Of a group, inside [`Loops::run`].
struct Group<'a> {
    grid: &'a Grid,
    values: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Errors for Group<'_> {
    #[inline(always)]
    fn of(&self, step: Step) -> f64 {
        self.grid.error(self.values, self.importance, step)
    }
}

/// Of a whole matrix, piece by piece.
struct Whole<'a> {
    grid: &'a Grid,
    values: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Errors for Whole<'_> {
    fn of(&self, step: Step) -> f64 {
        let piece = |(i, values): (usize, &[f32])| {
            let importance = self.importance.map(|all| &all[i * PIECE..]);
            vectorised(Piece { group: Group { grid: self.grid, values, importance }, step })
        };
        let errors: Vec<f64> = self.values.par_chunks(PIECE).enumerate().map(piece).collect();
        errors.iter().sum()
    }
}

/// The error of a piece of a group.
struct Piece<'a> {
    group: Group<'a>,
    step: Step,
}

impl Loops for Piece<'_> {
    type Found = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        self.group.of(self.step)
    }
}

/// Values to levels, each under a grid of its own.
struct Levels<'a> {
    ends: (f32, f32),
    values: &'a mut [f32],
    scales: &'a [f32],
    zeros: &'a [f32],
}

impl Loops for Levels<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let grids = self.scales.iter().zip(self.zeros);
        for (value, (&scale, &zero)) in self.values.iter_mut().zip(grids) {
            *value = scale * (code_of(*value, (scale, zero), self.ends) - zero);
        }
    }
}
