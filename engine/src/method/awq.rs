//! AWQ: inputs that matter are scaled up before rounding, so that their weights fall on finer steps. The scales are kept
//! with the layer, or go into what makes its inputs: searched for all layers that read it at once, and as it can take them.

use ndarray::Array2;

use crate::encoding::{Affine, Encoding, Layout, Scaled, ScaledLayout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::grid::{self, Grid, stored_scale};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Step, Task,
    masked,
};
use crate::numeric::gram::Gram;
use crate::tensor::{DType, MatrixShape};

/// Round to nearest of W·diag(s), s stored with the layer: ŵᵢⱼ = level(wᵢⱼ·sⱼ)/sⱼ.
///
/// sⱼ = √E\[xⱼ²\]^α over the geometric middle of its extremes, rounded to its storage type; 1 where an input was always
/// zero. α is the one of 0, 1/20, …, 19/20 of least tr(Δ·H·Δᵀ), measured on 256 rows spread evenly: on those never worse
/// than α = 0, which is round to nearest. The authors take E|x| and fold 1/s into what is before the layer; so does
/// `scales=folded`, by [`shared_scales`], where other tensors change with the layer. Kept, s is part of the encoding and counted, 16
/// bits an input. Weighted clipping counts E\[x²\]/s².
/// Cost: 20 roundings of the sample, 2·256·cols² operations each, and one of the whole.
pub(super) struct Awq;

/// The registry's entry.
pub(super) static ENTRY: Awq = Awq;

static ABOUT: About = About {
    id: "awq",
    title: "AWQ",
    summary: "Scales each input before rounding by how large it usually is, with the strength that leaves the least error in the outputs.",
    citation: "Lin et al., AWQ: Activation-aware weight quantization for on-device LLM compression and acceleration, MLSys 2024, eqs. 4 and 5",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[
        grid::BITS,
        grid::GRANULARITY,
        grid::GROUP_SIZE,
        grid::SYMMETRY,
        grid::CLIPPING,
        SCALES,
    ],
};

/// Where the scales of inputs go.
const SCALES: Parameter = Parameter {
    name: "scales",
    title: "Scales of inputs",
    help: "Kept, they are part of the layer, 16 bits an input, which few formats hold. Folded, what makes the inputs is divided by them, the norm before, rows of up for down, rows of v for o, and the layer is plain integers. Where that is not exact, or another layer that reads the norm does not fold, they are kept.",
    kind: Kind::Choice(&[
        Option_ { id: "kept", title: "Kept", help: "Stored with the layer, each layer its own." },
        Option_ {
            id: "folded",
            title: "Folded",
            help: "Into what makes the inputs: one set for all layers that read a norm, searched for the least error of all their outputs; one for each row of up or v that is read.",
        },
    ]),
    only_when: None,
};

fn is_folded(parameters: &Resolved) -> bool {
    parameters.choice(SCALES.name) == "folded"
}

/// Whether a chain folds scales of inputs into what makes them; no, where a step is not valid.
pub fn folds(steps: &[Step]) -> bool {
    let awq = steps.iter().find(|step| step.method == ABOUT.id);
    awq.and_then(|step| ABOUT.resolve(&step.parameters).ok()).is_some_and(|found| is_folded(&found))
}

/// The same chain with scales that are kept.
pub fn with_kept_scales(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for step in steps.iter_mut().filter(|step| step.method == ABOUT.id) {
        step.parameters.0.remove(SCALES.name);
    }
    steps
}

/// The same chain with scales that go into what makes the inputs, where they can.
pub fn with_folded_scales(steps: &[Step]) -> Vec<Step> {
    let folded = |step: &Step| {
        let step = step.clone();
        if step.method == ABOUT.id { step.with(SCALES.name, "folded") } else { step }
    };
    steps.iter().map(folded).collect()
}

/// Strengths tried.
const STRENGTHS: u32 = 20;
/// Rows on which they are tried.
const SAMPLE_ROWS: usize = 256;
/// The smallest scale, and one over the largest.
const LEAST: f64 = 1e-4;

/// One scale an input, for a strength.
fn scales(mean_square: &[f32], strength: f64, dtype: DType) -> Vec<f32> {
    let raw = |square: f32| f64::from(square).sqrt().powf(strength);
    let alive = || mean_square.iter().filter(|&&square| square > 0.0).map(|&square| raw(square));
    let middle = (alive().fold(f64::INFINITY, f64::min) * alive().fold(0.0, f64::max)).sqrt();
    let scale = |&square: &f32| {
        if square > 0.0 && strength > 0.0 {
            stored_scale((raw(square) / middle).clamp(LEAST, 1.0 / LEAST) as f32, dtype)
        } else {
            1.0
        }
    };
    mean_square.iter().map(scale).collect()
}

/// What is rounded, and by what.
struct Work<'a, 't> {
    grid: &'a Grid,
    squares: &'a [f32],
    task: &'a Task<'t>,
}

impl Work<'_, '_> {
    /// Row-major `values` rounded under `scales`.
    fn round(&self, shape: MatrixShape, values: &[f32], scales: &[f32]) -> Result<Affine> {
        let pairs = values.iter().zip(scales.iter().cycle());
        let scaled: Vec<f32> = pairs.map(|(value, scale)| value * scale).collect();
        let weighted = self.grid.is_weighted.then(|| {
            let pairs = self.squares.iter().zip(scales);
            pairs.map(|(square, scale)| square / scale / scale).collect::<Vec<f32>>()
        });
        self.grid.round(shape, &scaled, weighted.as_deref(), self.task)
    }

    /// tr(Δ·H·Δᵀ) of a sample of rows, rounded under `scales` and decoded by them.
    fn error(&self, sample: &Array2<f32>, scales: &[f32], gram: &Gram) -> Result<f64> {
        let (rows, cols) = sample.dim();
        let raw: Vec<f32> = sample.iter().copied().collect();
        let affine = Encoding::Affine(self.round(MatrixShape { rows, cols }, &raw, scales)?);
        // Scales are as they will be, whatever type they are stored in.
        let decoded = Encoding::Scaled(Scaled::new(DType::F32, scales.to_vec(), affine)).decode();
        Ok(gram.quadratic_forms((sample - &decoded).view()).iter().sum())
    }

    /// The scales of the strength of least error on a sample of the rows of `values`.
    fn search(&self, values: &[f32], gram: &Gram) -> Result<Vec<f32>> {
        let (dtype, MatrixShape { rows, cols }) = (self.grid.layout.scale_dtype, self.task.shape());
        let sampled: Vec<usize> = sampled_rows(rows).collect();
        let sample =
            Array2::from_shape_fn((sampled.len(), cols), |(i, j)| values[sampled[i] * cols + j]);
        let scales_of = |strength| scales(self.squares, strength, dtype);
        least(scales_of, self.task, |tried| self.error(&sample, tried, gram))
    }
}

/// Up to 256 of so many rows, spread evenly.
fn sampled_rows(rows: usize) -> impl Iterator<Item = usize> {
    let taken = rows.min(SAMPLE_ROWS);
    (0..taken).map(move |i| i * rows / taken)
}

/// The scales of the strength of least error; the weakest of equals.
fn least(
    scales_of: impl Fn(f64) -> Vec<f32>,
    task: &Task<'_>,
    error: impl Fn(&[f32]) -> Result<f64>,
) -> Result<Vec<f32>> {
    let mut best = (f64::INFINITY, scales_of(0.0));
    let mut last = Vec::new();
    for strength in 0..STRENGTHS {
        task.observer.go_on()?;
        let tried = scales_of(f64::from(strength) / f64::from(STRENGTHS));
        // What can be stored may be the same for several strengths.
        if std::mem::replace(&mut last, tried.clone()) == tried {
            continue;
        }
        let error = error(&tried)?;
        if error < best.0 {
            best = (error, tried);
        }
    }
    Ok(best.1)
}

/// What takes the scales of inputs.
pub trait Takes {
    /// E\[x²\] of inputs, alike where they must have one scale.
    fn merged(&self, squares: &[f32]) -> Vec<f32> {
        squares.to_vec()
    }

    /// The scales that come of those wanted, as what takes them is stored.
    fn stored(&self, wanted: &[f32]) -> Vec<f32>;
}

/// Takes any scales.
#[derive(Clone, Copy, Debug)]
pub struct AsWanted;

impl Takes for AsWanted {
    fn stored(&self, wanted: &[f32]) -> Vec<f32> {
        wanted.to_vec()
    }
}

/// One of the layers whose inputs are scaled together.
pub struct Shared<'a> {
    /// Its chain.
    pub steps: &'a [Step],
    /// Rows of its weights, spread evenly, and what it receives.
    pub sample: Task<'a>,
    /// Rows of its weights in all.
    pub rows: usize,
}

/// The rows of which [`shared_scales`] wants a sample: 256, spread evenly.
pub fn rows_for_scales(rows: usize) -> Vec<usize> {
    sampled_rows(rows).collect()
}

/// The scales of inputs that several layers have together, searched as AWQ does for one: of the strengths that with the
/// least Σ tr(Δ·H·Δᵀ) over the layers, each sample counted for all its rows. What is tried and given are the scales that
/// come of it in what takes them, so that on the samples they are never worse than none. Masks are not looked at.
/// Cost: 20 roundings of every sample.
///
/// # Errors
/// [`crate::Error::Plan`] where the inputs were not measured; [`crate::Error::Cancelled`].
pub fn shared_scales(layers: &[Shared<'_>], takes: &dyn Takes) -> Result<Vec<f32>> {
    let Some(first) = layers.first() else { return Ok(Vec::new()) };
    let (gram, squares) = (first.sample.gram()?, first.sample.mean_squares()?);
    let mut grids = Vec::new();
    for layer in layers {
        let awq = layer.steps.iter().find(|step| step.method == ABOUT.id);
        let parameters = awq.map(|step| ABOUT.resolve(&step.parameters)).transpose()?;
        grids.extend(parameters.map(|found| (Grid::new(&found, layer.sample.dtype), layer)));
    }
    let error = |tried: &[f32]| -> Result<f64> {
        let of = |(grid, layer): &(Grid, &Shared<'_>)| {
            let work = Work { grid, squares: &squares, task: &layer.sample };
            let sample = layer.sample.weights.to_owned();
            let share = layer.rows as f64 / sample.nrows().max(1) as f64;
            Ok(share * work.error(&sample, tried, &gram)?)
        };
        grids.iter().map(of).sum()
    };
    let merged = takes.merged(&squares);
    let scales_of = |strength| takes.stored(&scales(&merged, strength, DType::F32));
    least(scales_of, &first.sample, error)
}

impl Method for Awq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let folded = if is_folded(parameters) { " folded" } else { "" };
        format!("{} awq{folded}", grid::label(parameters))
    }

    fn searched_rows(&self) -> usize {
        SAMPLE_ROWS
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let affine = Grid::new(parameters, input.dtype).layout;
        let scale_dtype = affine.scale_dtype;
        let affine = Layout::Affine(affine);
        if is_folded(parameters) {
            return Ok(SparseLayout::over(input.previous, affine));
        }
        let scaled = ScaledLayout { scale_dtype, inner: Box::new(affine) };
        Ok(SparseLayout::over(input.previous, Layout::Scaled(scaled)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let grid = Grid::new(parameters, task.dtype);
        let (gram, squares) = (task.gram()?, task.mean_squares()?);
        let work = Work { grid: &grid, squares: &squares, task: &task };
        let (values, mask) = masked(&task);
        if is_folded(parameters) {
            let ones = vec![1.0; task.weights.ncols()];
            let affine = work.round(task.shape(), &values, &ones)?;
            return Ok(Sparse::over(mask, Encoding::Affine(affine)));
        }
        let scales = work.search(&values, &gram)?;
        let affine = Encoding::Affine(work.round(task.shape(), &values, &scales)?);
        let scaled = Scaled::new(grid.layout.scale_dtype, scales, affine);
        Ok(Sparse::over(mask, Encoding::Scaled(scaled)))
    }
}
