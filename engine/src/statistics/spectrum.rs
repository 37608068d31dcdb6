//! Singular values of a weight matrix and the ranks read off them.

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::numeric::spectrum::{effective_rank, rank_for_energy, singular_values, stable_rank};
use crate::observer::Observer;

/// The most memory one spectrum may take.
pub const SPECTRUM_MEMORY_BYTES: u64 = 8 << 30;
/// Bytes a weight takes: one copy of the matrix in f32, two in f64.
const BYTES_PER_WEIGHT: u64 = 4 + 2 * 8;

/// The spectrum of a weight matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// All singular values, largest first: `min(rows, cols)` of them.
    pub singular_values: Vec<f64>,
    /// ‖W‖_F²/σ₁².
    pub stable_rank: f64,
    /// exp(entropy of σ/Σσ) (Roy & Vetterli 2007).
    pub effective_rank: f64,
}

impl Spectrum {
    /// Reads the ranks off `singular_values`.
    pub fn new(singular_values: Vec<f64>) -> Self {
        let (stable_rank, effective_rank) =
            (stable_rank(&singular_values), effective_rank(&singular_values));
        Self { singular_values, stable_rank, effective_rank }
    }

    /// Relative error √(Σ_{i>rank} σ²/Σσ²) of the best approximation of that rank (Eckart & Young 1936); 0 for a
    /// zero matrix.
    pub fn error_at_rank(&self, rank: usize) -> f64 {
        let squares = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
        let total = squares(&self.singular_values);
        let tail = squares(self.singular_values.get(rank..).unwrap_or_default());
        if total == 0.0 { 0.0 } else { (tail / total).sqrt() }
    }

    /// Smallest rank whose singular values hold at least `share` of Σσ².
    pub fn rank_for_energy(&self, share: f64) -> usize {
        rank_for_energy(&self.singular_values, share)
    }
}

/// All singular values of a layer, computed in f64: one copy of the matrix in f32 and two in f64.
///
/// # Errors
/// [`Error::Limit`] beyond [`SPECTRUM_MEMORY_BYTES`], some 430 million weights; [`Error::Numeric`] for weights
/// that are not finite; [`Error::Unsupported`] for a tensor that is no matrix.
/// A decomposition that has begun runs to its end; cancelling takes effect before it.
pub fn measure_spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    observer: &dyn Observer,
) -> Result<Spectrum> {
    let tensor = &checkpoint.tensors()[index];
    let needed_bytes = tensor.parameters().saturating_mul(BYTES_PER_WEIGHT);
    if needed_bytes > SPECTRUM_MEMORY_BYTES {
        let what = format!("the spectrum of tensor {}", tensor.name);
        return Err(Error::Limit { what, needed_bytes, allowed_bytes: SPECTRUM_MEMORY_BYTES });
    }
    let weights = checkpoint.weights(index, observer)?;
    observer.go_on()?;
    let values = singular_values(weights.view()).ok_or_else(|| Error::Numeric {
        tensor: tensor.name.clone(),
        why: "its singular values cannot be computed, as some weights are NaN or infinite"
            .to_owned(),
    })?;
    observer.go_on()?;
    Ok(Spectrum::new(values))
}
/// Temporary.
pub fn noise_edge(shape: crate::tensor::MatrixShape, std: f64) -> f64 {
    std * ((shape.rows as f64).sqrt() + (shape.cols as f64).sqrt())
}

/// Temporary.
pub fn measure_error_spectrum(
    checkpoint: &Checkpoint,
    index: usize,
    _decode: &(dyn Fn(usize, &mut [f32]) + Sync),
    observer: &dyn Observer,
) -> Result<Spectrum> {
    measure_spectrum(checkpoint, index, observer)
}
