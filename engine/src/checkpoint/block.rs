//! A block of a weight matrix, for whoever works through matrices that memory would not hold.

use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::error::{Error, Result};
use crate::tensor::{CHUNK_ELEMENTS, Decoder};

impl Checkpoint {
    /// The block `[rows, cols]` of the weight matrix `[out, in]` of a tensor, in f32: exactly those entries of
    /// [`weights`](Self::weights), in row-major order, decoded in parallel.
    ///
    /// Reads and holds the block alone: 4 bytes per weight, twice that for a Conv1d, which is stored transposed.
    /// A run of entries that lie side by side on disk is decoded at once, so blocks of whole stored rows are the
    /// fastest (rows of the matrix; columns for a Conv1d). Empty ranges give an empty block.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that is no matrix of weights, [`Error::Io`] if the file has become
    /// shorter.
    ///
    /// # Panics
    /// If a range begins after it ends, or ends beyond the matrix.
    pub fn weight_block(
        &self,
        index: usize,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<Array2<f32>> {
        let tensor = &self.tensors[index];
        let not_weights = || Error::Unsupported {
            what: format!("compressing tensor {} ({})", tensor.name, tensor.why_no_matrix()),
        };
        let matrix = tensor.matrix.ok_or_else(not_weights)?;
        let decoder = Decoder::new(tensor.dtype).ok_or_else(not_weights)?;
        let fits = |range: &Range<usize>, end| range.start <= range.end && range.end <= end;
        assert!(
            fits(&rows, matrix.shape.rows) && fits(&cols, matrix.shape.cols),
            "block [{rows:?}, {cols:?}] of a matrix of {}",
            matrix.shape
        );
        if matrix.kind == MatrixKind::Conv1d {
            let stored = self.stored_block(tensor, decoder, matrix.shape.rows, [cols, rows])?;
            return Ok(stored.t().as_standard_layout().into_owned());
        }
        self.stored_block(tensor, decoder, matrix.shape.cols, [rows, cols])
    }

    /// Rows and columns of a tensor as it is stored, `stride` elements from row to row.
    fn stored_block(
        &self,
        tensor: &Tensor,
        decoder: Decoder,
        stride: usize,
        [rows, cols]: [Range<usize>; 2],
    ) -> Result<Array2<f32>> {
        let mut block = Array2::zeros((rows.len(), cols.len()));
        if block.is_empty() {
            return Ok(block);
        }
        let values = block.as_slice_mut().unwrap_or_default();
        let decode = |first: usize, out: &mut [f32]| {
            let bytes = self.element_bytes(tensor, first as u64, out.len() as u64)?;
            decoder.f32s(&bytes, out);
            Ok(())
        };
        if cols.len() == stride {
            // Whole rows follow one another on disk.
            let first = rows.start * stride;
            let pieces = values.par_chunks_mut(CHUNK_ELEMENTS).enumerate();
            pieces.try_for_each(|(i, out)| decode(first + i * CHUNK_ELEMENTS, out))?;
        } else if self.decoder_of(tensor).is_some() {
            // Whoever decodes parts begins anew with every call: whole rows, many of them at once.
            self.element_bytes(tensor, 0, 1)?;
            let at_once = (CHUNK_ELEMENTS / stride).max(1);
            let pieces = values.par_chunks_mut(at_once * cols.len()).enumerate();
            pieces.try_for_each(|(piece, out)| {
                let mut whole = vec![0.0; out.len() / cols.len() * stride];
                decode((rows.start + piece * at_once) * stride, &mut whole)?;
                for (out, row) in out.chunks_mut(cols.len()).zip(whole.chunks(stride)) {
                    out.copy_from_slice(&row[cols.clone()]);
                }
                Ok(())
            })?;
        } else {
            values.par_chunks_mut(cols.len()).enumerate().try_for_each(|(row, out)| {
                let first = (rows.start + row) * stride + cols.start;
                let mut pieces = out.chunks_mut(CHUNK_ELEMENTS).enumerate();
                pieces.try_for_each(|(i, out)| decode(first + i * CHUNK_ELEMENTS, out))
            })?;
        }
        Ok(block)
    }
}
