//! A rectangle of a weight matrix, without reading the rest of it.

use std::ops::Range;

use ndarray::Array2;

use crate::checkpoint::{Checkpoint, MatrixKind};
use crate::error::{Error, Result};
use crate::tensor::Decoder;

impl Checkpoint {
    /// The weights `[rows, cols]` of a rectangle of a layer's matrix `[out, in]`, in f32 and in row-major order.
    /// Cost: that of reading the rectangle, one run of bytes for each of its rows as stored.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that is no matrix of weights, [`Error::Io`] if the file has become shorter.
    ///
    /// # Panics
    /// If the rectangle is not inside the matrix.
    pub fn weight_block(
        &self,
        index: usize,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<Array2<f32>> {
        let tensor = &self.tensors()[index];
        let not_weights = || Error::Unsupported {
            what: format!("reading tensor {} as weights ({})", tensor.name, tensor.why_no_matrix()),
        };
        let matrix = tensor.matrix.ok_or_else(not_weights)?;
        let decoder = Decoder::new(tensor.dtype).ok_or_else(not_weights)?;
        let shape = matrix.shape;
        assert!(rows.end <= shape.rows && cols.end <= shape.cols, "the rectangle is inside");
        let is_transposed = matrix.kind == MatrixKind::Conv1d;
        let (down, across, width) =
            if is_transposed { (cols, rows, shape.rows) } else { (rows, cols, shape.cols) };
        let mut values = vec![0.0; down.len() * across.len()];
        // Whole rows follow one another in the file and are read at once.
        let run = if across.len() == width { values.len() } else { across.len() };
        let first_rows = down.clone().step_by(run.checked_div(across.len()).unwrap_or(1).max(1));
        for (row, out) in first_rows.zip(values.chunks_mut(run.max(1))) {
            let first = (row * width + across.start) as u64;
            decoder.f32s(self.element_bytes(tensor, first, out.len() as u64)?, out);
        }
        let shape = (down.len(), across.len());
        let stored =
            Array2::from_shape_vec(shape, values).map_err(|_cannot_happen| not_weights())?;
        Ok(if is_transposed { stored.t().as_standard_layout().into_owned() } else { stored })
    }
}
