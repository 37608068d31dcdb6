//! Singular values of a weight matrix, or of the error of its approximation, and the ranks read off them.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, Zip, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::numeric::spectrum::{
    Stopped, above_edge, cumulative_energy, direct_bytes, direct_floor, effective_rank,
    estimate_leading, gram_bytes, gram_floor, is_direct, marchenko_pastur_edge, rank_for_energy,
    singular_values_by_gram, singular_values_f64, stable_rank, tail_error,
};
use crate::observer::Observer;
use crate::statistics::Cached;
use crate::tensor::MatrixShape;

/// The most memory one spectrum may take: matrices whose smaller side is beyond some 45,000 need more.
pub const SPECTRUM_MEMORY_BYTES: u64 = 8 << 30;
/// Singular values that [`estimate_spectrum`] estimates.
pub const ESTIMATED_SINGULAR_VALUES: usize = 64;

/// How singular values were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpectrumMethod {
    /// By decomposing the matrix itself: every value to about n·ε·σ₁.
    Direct,
    /// As roots of the eigenvalues of W·Wᵀ or Wᵀ·W: values near σ₁ as exact, small ones less so.
    Gram,
}

/// The spectrum of a weight matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// All singular values, largest first: `min(rows, cols)` of them.
    pub singular_values: Vec<f64>,
    /// ‖W‖_F²/σ₁².
    pub stable_rank: f64,
    /// exp(entropy of σ/Σσ) (Roy & Vetterli 2007).
    pub effective_rank: f64,
    /// How the singular values were computed.
    pub method: SpectrumMethod,
    /// Singular values below this are noise of the computation: n·ε·σ₁ of the direct method, √(n·ε)·σ₁ (some
    /// 1e-6·σ₁) of the Gram matrix.
    pub noise_floor: f64,
}

impl Spectrum {
    /// Reads the ranks off `singular_values` that were computed directly, largest first.
    pub fn new(singular_values: Vec<f64>) -> Self {
        Self::computed_by(SpectrumMethod::Direct, singular_values)
    }

    /// Reads the ranks off `singular_values`, largest first.
    pub fn computed_by(method: SpectrumMethod, singular_values: Vec<f64>) -> Self {
        let noise_floor = match method {
            SpectrumMethod::Direct => direct_floor(&singular_values),
            SpectrumMethod::Gram => gram_floor(&singular_values),
        };
        let (stable_rank, effective_rank) =
            (stable_rank(&singular_values), effective_rank(&singular_values));
        Self { singular_values, stable_rank, effective_rank, method, noise_floor }
    }

    /// Relative error √(Σ_{i>rank} σ²/Σσ²) of the best approximation of that rank (Eckart & Young 1936); 0 for a
    /// zero matrix.
    pub fn error_at_rank(&self, rank: usize) -> f64 {
        tail_error(&self.singular_values, rank)
    }

    /// Share of Σσ² in the first 1, 2, … directions.
    pub fn cumulative_energy(&self) -> Vec<f64> {
        cumulative_energy(&self.singular_values)
    }

    /// Singular values above `edge`.
    pub fn above(&self, edge: f64) -> usize {
        above_edge(&self.singular_values, edge)
    }

    /// Smallest rank whose singular values hold at least `share` of Σσ².
    pub fn rank_for_energy(&self, share: f64) -> usize {
        rank_for_energy(&self.singular_values, share)
    }
}

impl Cached for Spectrum {
    const KIND: &'static str = "spectrum";
    /// One more whenever a field or the way it is computed changes.
    const VERSION: u32 = 1;
}

/// What random projections say of the spectrum of a weight matrix, in a fraction of the time of all of it.
/// Leading values are never too large; in a flat spectrum they are too small by some percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpectrumEstimate {
    /// Estimates of the leading singular values, largest first: [`ESTIMATED_SINGULAR_VALUES`] or
    /// `min(rows, cols)` of them.
    pub estimated_singular_values: Vec<f64>,
    /// ‖W‖_F: no estimate, but exact to rounding.
    pub frobenius_norm: f64,
    /// ‖W‖_F²/σ₁² with the estimate of σ₁: never too small.
    pub estimated_stable_rank: f64,
}

/// All singular values of a layer. Up to order 670 or so directly, beyond that through the Gram matrix of its
/// smaller side, which reads the matrix in blocks and never holds it whole: n² operations per row of the longer
/// side and 4/3·n³; 4·n² bytes and some 32 MiB. Same values on any number of threads.
///
/// # Errors
/// [`Error::Limit`] beyond [`SPECTRUM_MEMORY_BYTES`]; [`Error::Numeric`] for weights that are not finite;
/// [`Error::Unsupported`] for a tensor that is no matrix; [`Error::Cancelled`], within 0.2 s of the wish.
pub fn measure_spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
) -> Result<Spectrum> {
    let read = |rows, cols| Ok(widened(checkpoint.weight_block(index, rows, cols)?.view()));
    spectrum_of(&checkpoint.tensors()[index], &read, observer)
}

/// All singular values of W − Ŵ, the error of an approximation of a layer: as [`measure_spectrum`].
///
/// `decode_row` writes row i of Ŵ, `[cols]`. A wide matrix is read in blocks of columns, for each of which every
/// row is decoded again: rows·cols/2²¹ times, 22 for 4096 × 11008.
///
/// # Errors
/// Those of [`measure_spectrum`].
pub fn measure_error_spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    decode_row: &(dyn Fn(usize, &mut [f32]) + Sync),
    observer: &dyn Observer,
) -> Result<Spectrum> {
    let tensor = &checkpoint.tensors()[index];
    let width = matrix_shape(tensor)?[1];
    let read = |rows: Range<usize>, cols: Range<usize>| {
        let mut error = widened(checkpoint.weight_block(index, rows.clone(), cols.clone())?.view());
        let pairs = error.axis_iter_mut(Axis(0)).into_par_iter().zip(rows);
        let decoded = || vec![0.0; width];
        pairs.try_for_each_init(decoded, |decoded, (mut row, i)| {
            observer.go_on()?;
            decode_row(i, decoded);
            let decoded = ArrayView2::from_shape((1, width), decoded.as_slice());
            if let Ok(decoded) = decoded {
                let part = decoded.slice(s![0, cols.clone()]);
                row.zip_mut_with(&part, |w, &approximate| *w -= f64::from(approximate));
            }
            Ok::<(), Error>(())
        })?;
        Ok(error)
    };
    spectrum_of(tensor, &read, observer)
}

/// An estimate of the leading singular values and the stable rank of a layer (Halko, Martinsson & Tropp 2011): one
/// power iteration, a fixed seed, four readings in blocks of rows. The same on any number of threads.
///
/// # Errors
/// Those of [`measure_spectrum`], without a limit.
pub fn estimate_spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
) -> Result<SpectrumEstimate> {
    let tensor = &checkpoint.tensors()[index];
    let read = |rows, cols| Ok(widened(checkpoint.weight_block(index, rows, cols)?.view()));
    let is_cancelled = || observer.is_cancelled();
    let shape = matrix_shape(tensor)?;
    let leading = estimate_leading(shape, ESTIMATED_SINGULAR_VALUES, &read, &is_cancelled)
        .map_err(|stopped| why(tensor, stopped))?;
    let largest = leading.singular_values.first().copied().unwrap_or(0.0);
    let ratio = if largest == 0.0 { 0.0 } else { leading.frobenius_norm / largest };
    Ok(SpectrumEstimate {
        estimated_singular_values: leading.singular_values,
        frobenius_norm: leading.frobenius_norm,
        estimated_stable_rank: ratio * ratio,
    })
}

/// Reads a block `[rows, cols]` of a matrix.
type Read<'a> = &'a (dyn Fn(Range<usize>, Range<usize>) -> Result<Array2<f64>> + Sync);

fn spectrum_of(tensor: &Tensor, read: Read<'_>, observer: &dyn Observer) -> Result<Spectrum> {
    let [rows, cols] = matrix_shape(tensor)?;
    observer.go_on()?;
    if is_direct(rows, cols) {
        check_memory(tensor, direct_bytes(rows, cols))?;
        let matrix = read(0..rows, 0..cols)?;
        observer.go_on()?;
        let values =
            singular_values_f64(matrix.view()).ok_or_else(|| why(tensor, Stopped::NotFinite))?;
        observer.go_on()?;
        return Ok(Spectrum::new(values));
    }
    check_memory(tensor, gram_bytes(rows, cols))?;
    let values = singular_values_by_gram([rows, cols], read, &|| observer.is_cancelled())
        .map_err(|stopped| why(tensor, stopped))?;
    Ok(Spectrum::computed_by(SpectrumMethod::Gram, values))
}

fn matrix_shape(tensor: &Tensor) -> Result<[usize; 2]> {
    let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
        what: format!("the spectrum of tensor {} ({})", tensor.name, tensor.why_no_matrix()),
    })?;
    Ok([matrix.shape.rows, matrix.shape.cols])
}

fn check_memory(tensor: &Tensor, needed_bytes: u64) -> Result<()> {
    if needed_bytes <= SPECTRUM_MEMORY_BYTES {
        return Ok(());
    }
    let what = format!("the spectrum of tensor {}", tensor.name);
    Err(Error::Limit { what, needed_bytes, allowed_bytes: SPECTRUM_MEMORY_BYTES })
}

fn why(tensor: &Tensor, stopped: Stopped<Error>) -> Error {
    let why = match stopped {
        Stopped::Cancelled => return Error::Cancelled,
        Stopped::Block(error) => return error,
        Stopped::NotFinite => {
            "its singular values cannot be computed, as some weights are NaN or infinite"
        }
        Stopped::NoConvergence => "the iteration for its singular values did not converge",
    };
    Error::Numeric { tensor: tensor.name.clone(), why: why.to_owned() }
}

/// The same numbers in f64.
fn widened(block: ArrayView2<'_, f32>) -> Array2<f64> {
    Zip::from(block).par_map_collect(|&weight| f64::from(weight))
}
/// The largest singular value that independent weights of this standard deviation would give a matrix of this shape:
/// the upper edge std·(√rows + √cols) of Marchenko & Pastur (1967).
pub fn noise_edge(shape: MatrixShape, std: f64) -> f64 {
    marchenko_pastur_edge(shape.rows, shape.cols, std)
}
