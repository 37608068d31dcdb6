//! Round to nearest: every weight goes to the closest level of its group's grid.

#![expect(
    clippy::inline_always,
    reason = "loops become vectors only inside the function compiled for them"
)]

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{Affine, AffineData, AffineLayout, Encoding, Layout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task, grid};
use crate::numeric::grouping::Grouping;
use crate::numeric::vector::{Loops, vectorised};
use crate::tensor::{DType, round_f32};

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
/// *Weighted* is the same search for Σ(w − ŵ)²·E\[x²\], see [`grid`].
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

/// Ratio between successive ranges of the clipping search.
const SHRINK: f64 = 0.97;
/// The narrowest range tried is `SHRINK^MAX_SHRINKS` = 1 % of the widest.
const MAX_SHRINKS: i32 = 151;
/// Elements summed by one thread when a single group is as large as the matrix.
const SUM_CHUNK: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq)]
enum Grid {
    Symmetric,
    Restricted,
    Asymmetric,
}

/// The checked parameters.
struct Quantiser {
    layout: AffineLayout,
    grid: Grid,
    search: bool,
}

/// Scale and zero point of a group.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    zero: u8,
}

impl Quantiser {
    fn new(parameters: &Resolved, dtype: DType) -> Self {
        let grouping = match parameters.choice("granularity") {
            "tensor" => Grouping::Tensor,
            "channel" => Grouping::Channel,
            _ => Grouping::Group(parameters.integer("group_size") as usize),
        };
        let grid = match parameters.choice("symmetry") {
            "asymmetric" => Grid::Asymmetric,
            "symmetric-restricted" => Grid::Restricted,
            _ => Grid::Symmetric,
        };
        let layout = AffineLayout {
            bits: parameters.integer("bits") as u32,
            grouping,
            symmetric: grid != Grid::Asymmetric,
            scale_dtype: dtype.scale_dtype(),
            has_offsets: false,
        };
        Self { layout, grid, search: parameters.choice("clipping") == "mse" }
    }

    /// The grid of a group, searched if asked.
    #[inline(always)]
    fn fit(&self, values: &[f32]) -> Step {
        let (min, max) = extremes_and_zero(values);
        let step = self.step(f64::from(min), f64::from(max));
        if self.search { self.searched(values, (min, max), step) } else { step }
    }

    /// The grid of least error among ever narrower ones.
    fn searched(&self, values: &[f32], (min, max): (f32, f32), widest: Step) -> Step {
        let mut best = widest;
        let mut least = self.error(values, best);
        for k in 1..MAX_SHRINKS {
            let shrink = SHRINK.powi(k);
            let step = self.step(f64::from(min) * shrink, f64::from(max) * shrink);
            let error = self.error(values, step);
            if error < least {
                (best, least) = (step, error);
            } else if error > 2.0 * least {
                break;
            }
        }
        best
    }

    /// Scale, rounded as it is stored, and zero point of the grid that spans `[min, max]`.
    fn step(&self, min: f64, max: f64) -> Step {
        let levels = f64::from(self.layout.largest());
        let absmax = max.max(-min);
        let exact = match self.grid {
            Grid::Symmetric => absmax / (levels / 2.0),
            Grid::Restricted => absmax / f64::from(self.layout.middle() - 1),
            Grid::Asymmetric => (max - min) / levels,
        };
        let scale = stored_scale(exact as f32, self.layout.scale_dtype);
        let zero = match self.grid {
            Grid::Asymmetric => {
                (-min / f64::from(scale)).round_ties_even().clamp(0.0, levels) as u8
            }
            _ => self.layout.middle(),
        };
        Step { scale, zero }
    }

    /// Lowest and highest code.
    fn ends(&self) -> (f32, f32) {
        let lowest = if self.grid == Grid::Restricted { 1.0 } else { 0.0 };
        (lowest, f32::from(self.layout.largest()))
    }

    /// The codes of a group.
    #[inline(always)]
    fn codes(&self, values: &[f32], step: Step, codes: &mut [u8]) {
        let (zero, ends) = (f32::from(step.zero), self.ends());
        for (code, &value) in codes.iter_mut().zip(values) {
            // Through i32, which processors convert to in vectors.
            *code = code_of(value, (step.scale, zero), ends) as i32 as u8;
        }
    }

    /// Σ(w − ŵ)², summed in pieces of fixed length, so that it does not depend on the threads.
    fn error(&self, values: &[f32], step: Step) -> f64 {
        let sum = |values: &[f32]| vectorised(Error { quantiser: self, values, step });
        if values.len() <= SUM_CHUNK {
            return sum(values);
        }
        values.par_chunks(SUM_CHUNK).map(sum).collect::<Vec<f64>>().iter().sum()
    }

    /// Σ(w − ŵ)² in eight lanes, added in order, and the rest after them.
    #[inline(always)]
    fn error_of_piece(&self, values: &[f32], step: Step) -> f64 {
        let (zero, ends) = (f32::from(step.zero), self.ends());
        let square = |value: f32| {
            let code = code_of(value, (step.scale, zero), ends);
            let error = f64::from(value - step.scale * (code - zero));
            error * error
        };
        let (eights, rest) = values.as_chunks::<8>();
        let mut lanes = [0.0; 8];
        for eight in eights {
            for (lane, &value) in lanes.iter_mut().zip(eight) {
                *lane += square(value);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&value| square(value)).sum::<f64>()
    }

    /// Quantises row-major `values`; groups are independent of each other.
    fn quantise(&self, values: &[f32], cols: usize, task: &Task<'_>) -> Result<AffineData> {
        let grouping = self.layout.grouping;
        let per_row = grouping.groups_per_row(cols).max(1);
        let width = grouping.width(cols);
        let mut codes = vec![0; values.len()];
        let nothing = Step { scale: 1.0, zero: 0 };
        let mut steps = vec![nothing; grouping.scales(values.len() / cols.max(1), cols)];
        if grouping == Grouping::Tensor {
            let step = self.fit(values);
            steps.fill(step);
            codes.par_chunks_mut(SUM_CHUNK).zip(values.par_chunks(SUM_CHUNK)).for_each(
                |(codes, values)| vectorised(Piece { quantiser: self, values, step, codes }),
            );
        } else {
            let rows = codes.par_chunks_mut(cols.max(1)).zip(values.par_chunks(cols.max(1)));
            let rows = rows.zip(steps.par_chunks_mut(per_row));
            let rows = rows.with_min_len((SUM_CHUNK / cols.max(1)).max(1));
            rows.try_for_each(|((codes, values), steps)| {
                task.observer.go_on()?;
                vectorised(Row { quantiser: self, width, values, steps, codes });
                Ok(())
            })?;
        }
        let scales = steps.iter().map(|step| step.scale).collect();
        let zeros = steps.iter().map(|step| step.zero).collect();
        Ok(AffineData { codes, scales, zeros })
    }
}

/// The groups of a row.
struct Row<'a> {
    quantiser: &'a Quantiser,
    width: usize,
    values: &'a [f32],
    steps: &'a mut [Step],
    codes: &'a mut [u8],
}

impl Loops for Row<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let groups = self.codes.chunks_mut(self.width).zip(self.values.chunks(self.width));
        for ((codes, values), step) in groups.zip(self.steps) {
            *step = self.quantiser.fit(values);
            self.quantiser.codes(values, *step, codes);
        }
    }
}

/// The codes of a piece of a group.
struct Piece<'a> {
    quantiser: &'a Quantiser,
    values: &'a [f32],
    step: Step,
    codes: &'a mut [u8],
}

impl Loops for Piece<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        self.quantiser.codes(self.values, self.step, self.codes);
    }
}

/// The error of a piece of a group.
struct Error<'a> {
    quantiser: &'a Quantiser,
    values: &'a [f32],
    step: Step,
}

impl Loops for Error<'_> {
    type Found = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        self.quantiser.error_of_piece(self.values, self.step)
    }
}

/// clamp(round(w/s) + z), ties to even.
#[inline(always)]
fn code_of(value: f32, (scale, zero): (f32, f32), (lowest, highest): (f32, f32)) -> f32 {
    ((value / scale).round_ties_even() + zero).max(lowest).min(highest)
}

/// Smallest and largest of some values and zero, in eight lanes.
#[inline(always)]
fn extremes_and_zero(values: &[f32]) -> (f32, f32) {
    let (eights, rest) = values.as_chunks::<8>();
    let (mut low, mut high) = ([0.0_f32; 8], [0.0_f32; 8]);
    for eight in eights {
        for i in 0..8 {
            low[i] = if eight[i] < low[i] { eight[i] } else { low[i] };
            high[i] = if eight[i] > high[i] { eight[i] } else { high[i] };
        }
    }
    let lowest = low.iter().chain(rest).copied().fold(0.0, f32::min);
    (lowest, high.iter().chain(rest).copied().fold(0.0, f32::max))
}

/// `scale` rounded to its storage type; a scale that vanishes there becomes the type's epsilon.
fn stored_scale(scale: f32, dtype: DType) -> f32 {
    let stored = round_f32(dtype, scale);
    let epsilon = match dtype {
        DType::BF16 => half::bf16::EPSILON.to_f32(),
        DType::F16 => half::f16::EPSILON.to_f32(),
        _ => f32::EPSILON,
    };
    if stored == 0.0 { epsilon } else { stored }
}

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
        let affine = Layout::Affine(Quantiser::new(parameters, input.dtype).layout);
        Ok(match input.previous {
            Some(Layout::Sparse(sparse)) => {
                Layout::Sparse(SparseLayout { kept: sparse.kept, inner: Box::new(affine) })
            }
            _ => affine,
        })
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        if grid::needs(parameters) != Needs::Weights {
            return grid::round_weighted(parameters, &task);
        }
        let quantiser = Quantiser::new(parameters, task.dtype);
        let shape = task.shape();
        let under = |values: &[f32]| -> Result<Encoding> {
            let data = quantiser.quantise(values, shape.cols, &task)?;
            Ok(Encoding::Affine(Affine::new(shape, quantiser.layout.clone(), data)))
        };
        // Under a mask the dropped weights are zeros, and zero is a level of every grid: their code is the
        // zero point, they add nothing to the search, and min-max ranges include zero anyway.
        let encoding = match &task.previous {
            Some(Encoding::Sparse(sparse)) => {
                let masked = sparse.inner().decode();
                let values: Vec<f32> = masked.iter().copied().collect();
                Encoding::Sparse(Sparse::new(sparse.mask().clone(), under(&values)?))
            }
            _ => match task.weights.as_slice() {
                Some(values) => under(values)?,
                None => under(&task.weights.iter().copied().collect::<Vec<_>>())?,
            },
        };
        Ok(encoding)
    }
}
