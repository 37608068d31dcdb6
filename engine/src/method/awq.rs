//! AWQ: inputs that matter are scaled up before rounding, so that their weights fall on finer steps.

use ndarray::{Array2, s};

use crate::encoding::{Affine, Encoding, Layout, Mask, Scaled, ScaledLayout, Sparse, SparseLayout};
use crate::error::Result;
use crate::method::grid::{self, Grid, stored_scale};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};
use crate::numeric::gram::Gram;
use crate::tensor::{DType, MatrixShape};

/// Round to nearest of W·diag(s), s stored with the layer: ŵᵢⱼ = level(wᵢⱼ·sⱼ)/sⱼ.
///
/// sⱼ = √E\[xⱼ²\]^α over the geometric middle of its extremes, rounded to its storage type; 1 where an input was always
/// zero. α is the one of 0, 1/20, …, 19/20 of least tr(Δ·H·Δᵀ), measured on 256 rows spread evenly: on those never worse
/// than α = 0, which is round to nearest. The authors take E|x| and fold 1/s into the layer before, which changes other
/// tensors; here s is part of the encoding and counted, 16 bits an input. Weighted clipping counts E\[x²\]/s².
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
    parameters: &[grid::BITS, grid::GRANULARITY, grid::GROUP_SIZE, grid::SYMMETRY, grid::CLIPPING],
};

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
        let steps = self.grid.fit_all(&scaled, shape.cols, weighted.as_deref(), self.task)?;
        Ok(self.grid.encode(shape, &scaled, &steps))
    }

    /// The scales of the strength of least error on a sample of the rows of `values`.
    fn search(&self, values: &Array2<f32>, gram: &Gram) -> Result<Vec<f32>> {
        let dtype = self.grid.layout.scale_dtype;
        let (rows, cols) = values.dim();
        let taken = rows.min(SAMPLE_ROWS);
        let mut sample = Array2::zeros((taken, cols));
        for i in 0..taken {
            sample.slice_mut(s![i, ..]).assign(&values.row(i * rows / taken));
        }
        let shape = MatrixShape { rows: taken, cols };
        let raw: Vec<f32> = sample.iter().copied().collect();
        let mut best = (f64::INFINITY, scales(self.squares, 0.0, dtype));
        for strength in 0..STRENGTHS {
            self.task.observer.go_on()?;
            let tried = scales(self.squares, f64::from(strength) / f64::from(STRENGTHS), dtype);
            let affine = Encoding::Affine(self.round(shape, &raw, &tried)?);
            let decoded = Encoding::Scaled(Scaled::new(dtype, tried.clone(), affine)).decode();
            let error = gram.quadratic_forms((&sample - &decoded).view()).iter().sum();
            if error < best.0 {
                best = (error, tried);
            }
        }
        Ok(best.1)
    }
}

impl Method for Awq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("{} awq", grid::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let layout = Grid::new(parameters, input.dtype).layout;
        let scale_dtype = layout.scale_dtype;
        let inner = Box::new(Layout::Affine(layout));
        let scaled = Layout::Scaled(ScaledLayout { scale_dtype, inner });
        Ok(match input.previous {
            Some(Layout::Sparse(sparse)) => {
                Layout::Sparse(SparseLayout { kept: sparse.kept, inner: Box::new(scaled) })
            }
            _ => scaled,
        })
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let grid = Grid::new(parameters, task.dtype);
        let (gram, squares) = (task.gram()?, task.mean_squares()?);
        let mask: Option<Mask> = match &task.previous {
            Some(Encoding::Sparse(sparse)) => Some(sparse.mask().clone()),
            _ => None,
        };
        let mut values = task.weights.to_owned();
        for (value, before) in values.iter_mut().zip(grid::values_before(&task)) {
            *value = before;
        }
        let work = Work { grid: &grid, squares: &squares, task: &task };
        let scales = work.search(&values, &gram)?;
        let raw: Vec<f32> = values.iter().copied().collect();
        let affine = Encoding::Affine(work.round(task.shape(), &raw, &scales)?);
        let scaled = Encoding::Scaled(Scaled::new(grid.layout.scale_dtype, scales, affine));
        Ok(match mask {
            Some(mask) => Encoding::Sparse(Sparse::new(mask, scaled)),
            None => scaled,
        })
    }
}
