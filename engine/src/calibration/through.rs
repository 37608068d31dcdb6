//! A layer seen through what it receives: importances of channels, the spectrum of its inputs, and its own weighted
//! by them. In: weights, a record, its Gram matrix. Out: plain lists.

use ndarray::Array2;

use crate::calibration::{Folder, Record};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::numeric::gram::Gram;
use crate::numeric::spectrum::Stopped;
use crate::numeric::weighted::{channel_importance, whitened_singular_values};
use crate::observer::Observer;

/// Rows read at once.
const ROWS: usize = 256;

/// A layer with its record, ready to be seen through it.
pub struct Through<'a> {
    layer: &'a str,
    weights: Array2<f32>,
    record: &'a Record,
}

impl std::fmt::Debug for Through<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Through").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<'a> Through<'a> {
    /// Reads the weights of a layer, `[out, in]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that is no matrix; [`Error::Shape`] where it has not one input a channel of
    /// `record`; [`Error::Io`]; [`Error::Cancelled`].
    pub fn read(
        checkpoint: &'a Checkpoint,
        layer: usize,
        record: &'a Record,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let tensor = &checkpoint.tensors()[layer];
        let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
            what: format!("weighting tensor {} ({})", tensor.name, tensor.why_no_matrix()),
        })?;
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        if cols != record.inputs.channels() {
            return Err(Error::Shape {
                tensor: tensor.name.clone(),
                expected: format!(
                    "{} inputs, as many as were calibrated,",
                    record.inputs.channels()
                ),
                found: vec![rows, cols],
            });
        }
        let mut weights = Array2::zeros((rows, cols));
        for first in (0..rows).step_by(ROWS) {
            observer.go_on()?;
            let rows = first..rows.min(first + ROWS);
            let block = checkpoint.weight_block(layer, rows.clone(), 0..cols)?;
            weights.slice_mut(ndarray::s![rows, ..]).assign(&block);
        }
        Ok(Self { layer: &tensor.name, weights, record })
    }

    /// Σᵢ |wᵢⱼ|·√E\[xⱼ²\] of each channel j; see [`channel_importance`].
    pub fn importance(&self) -> Vec<f64> {
        channel_importance(self.weights.view(), &self.record.inputs.mean_square)
    }

    /// The Gram matrix of the inputs, where it is kept.
    pub fn gram(&self, folder: &Folder) -> Option<Gram> {
        folder.gram(self.record)
    }

    /// Singular values of W·H^½; see [`whitened_singular_values`].
    ///
    /// # Errors
    /// [`Error::Numeric`] for values that are not finite; [`Error::Cancelled`].
    pub fn whitened(&self, gram: &Gram, observer: &dyn Observer) -> Result<Vec<f64>> {
        let found =
            whitened_singular_values(self.weights.view(), gram, &|| observer.is_cancelled());
        found.map_err(|stopped| self.stopped(stopped))
    }

    /// Eigenvalues of H = Σ x·xᵀ / tokens, largest first; see [`Gram::eigenvalues`].
    ///
    /// # Errors
    /// As [`Through::whitened`].
    pub fn eigenvalues(&self, gram: &Gram, observer: &dyn Observer) -> Result<Vec<f64>> {
        let found = gram.eigenvalues(&|| observer.is_cancelled());
        let values = found.map_err(|stopped| self.stopped(stopped))?;
        let tokens = gram.tokens().max(1) as f64;
        Ok(values.into_iter().map(|value| value / tokens).collect())
    }

    fn stopped(&self, stopped: Stopped<std::convert::Infallible>) -> Error {
        match stopped {
            Stopped::Cancelled => Error::Cancelled,
            other => Error::Numeric {
                tensor: self.layer.to_owned(),
                why: format!("its inputs have no spectrum ({other:?})"),
            },
        }
    }
}
