//! Bytes and values of tensors, in pieces.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::tensor::{CHUNK_ELEMENTS, Decoder, write_f32};

impl Checkpoint {
    /// The bytes of elements `first .. first + n` of a tensor in its element type, which must begin and end on a byte: as
    /// they lie there, or decoded where the tensor is stored in codes or its rows in another order.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`] for codes that are not read here.
    pub fn element_bytes(&self, tensor: &Tensor, first: u64, n: u64) -> Result<Cow<'_, [u8]>> {
        if let Some(decoder) = self.decoder_of(tensor) {
            let mut values = vec![0.0_f32; n as usize];
            decoder.read(tensor.source_name(), first as usize, &mut values)?;
            let mut bytes = Vec::with_capacity(4 * values.len());
            write_f32(tensor.dtype, &values, &mut bytes);
            return Ok(Cow::Owned(bytes));
        }
        if let Some(bytes) = self.gguf_bytes(tensor, first, n) {
            return bytes.map(Cow::Owned);
        }
        let at = |element: u64| element * tensor.dtype.bits() / 8;
        self.bytes_of(tensor, at(first)..at(first + n))
    }

    /// Some of the bytes of a tensor, counted from its first.
    fn bytes_of(&self, tensor: &Tensor, wanted: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let source = &self.files[tensor.file].source;
        let Some(pieces) = &tensor.pieces else {
            let first = tensor.range.start;
            return source.bytes(first + wanted.start..first + wanted.end).map(Cow::Borrowed);
        };
        let (mut found, mut begin) = (Cow::Borrowed(&[][..]), 0);
        for piece in pieces.iter() {
            let end = begin + (piece.end - piece.start);
            let within = wanted.start.max(begin)..wanted.end.min(end);
            if within.start < within.end {
                let first = piece.start + (within.start - begin);
                let bytes = source.bytes(first..first + (within.end - within.start))?;
                if found.is_empty() {
                    found = Cow::Borrowed(bytes);
                } else {
                    found.to_mut().extend_from_slice(bytes);
                }
            }
            begin = end;
        }
        Ok(found)
    }

    /// Bytes of a weight file as they lie there.
    ///
    /// # Errors
    /// [`Error::Io`] if the file has become shorter.
    pub fn file_bytes(&self, file: usize, range: Range<u64>) -> Result<&[u8]> {
        self.files[file].source.bytes(range)
    }

    /// Passes the bytes of a tensor to `visit` as they lie in its file, in pieces of at most `CHUNK_ELEMENTS` bytes.
    pub fn for_each_chunk(
        &self,
        tensor: &Tensor,
        mut visit: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if let Some(decoder) = self.decoder_of(tensor) {
            return decoder.stored(tensor.source_name(), &mut visit);
        }
        let (piece, total) = (CHUNK_ELEMENTS as u64, tensor.bytes());
        let mut at = 0;
        while at < total {
            let end = (at + piece).min(total);
            visit(&self.bytes_of(tensor, at..end)?)?;
            at = end;
        }
        Ok(())
    }

    /// The values of a tensor in f32, in the order they are stored: for vectors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that holds no floating point numbers; [`Error::Io`] if the file has become
    /// shorter.
    pub fn values(&self, index: usize) -> Result<Vec<f32>> {
        let tensor = &self.tensors[index];
        let decoder = Decoder::new(tensor.dtype).ok_or_else(|| Error::Unsupported {
            what: format!("reading the tensor {} as numbers", tensor.name),
        })?;
        let n = tensor.parameters();
        let mut values = vec![0.0; n as usize];
        decoder.f32s(&self.element_bytes(tensor, 0, n)?, &mut values);
        Ok(values)
    }

    /// Whether the weights of a tensor lie row by row, number by number, so that a few of them cost no more than they are.
    pub fn is_by_row(&self, index: usize) -> bool {
        let tensor = &self.tensors[index];
        let is_turned = tensor.matrix.is_none_or(|matrix| matrix.kind == MatrixKind::Conv1d);
        tensor.coded.is_none() && !is_turned && tensor.dtype.is_readable()
    }

    /// The values `first .. first + out.len()` of a tensor in f32, in the order they are stored. Cost: those values, where the
    /// tensor [`Checkpoint::is_by_row`].
    ///
    /// # Errors
    /// Those of [`Checkpoint::values`].
    pub fn read_values(&self, index: usize, first: usize, out: &mut [f32]) -> Result<()> {
        let tensor = &self.tensors[index];
        let decoder = Decoder::new(tensor.dtype).ok_or_else(|| Error::Unsupported {
            what: format!("reading the tensor {} as numbers", tensor.name),
        })?;
        decoder.f32s(&self.element_bytes(tensor, first as u64, out.len() as u64)?, out);
        Ok(())
    }

    /// The weights of a tensor as a matrix `[out, in]` in f32, decoded in parallel.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a tensor that is no matrix of weights, [`Error::Io`] if the file has become
    /// shorter, [`Error::Cancelled`].
    pub fn weights(&self, index: usize, observer: &dyn Observer) -> Result<Array2<f32>> {
        self.weights_in(Vec::new(), index, observer)
    }

    /// The same in memory that is given: pages that were touched before cost nothing, new ones more than decoding does.
    ///
    /// # Errors
    /// Those of [`Checkpoint::weights`].
    pub fn weights_in(
        &self,
        mut values: Vec<f32>,
        index: usize,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let tensor = &self.tensors[index];
        let not_weights = || Error::Unsupported {
            what: format!("compressing tensor {} ({})", tensor.name, tensor.why_no_matrix()),
        };
        let matrix = tensor.matrix.ok_or_else(not_weights)?;
        let decoder = Decoder::new(tensor.dtype).ok_or_else(not_weights)?;
        let elements = matrix.shape.elements();
        if values.capacity() < elements {
            values = vec![0.0; elements];
        }
        values.resize(elements, 0.0);
        values.par_chunks_mut(CHUNK_ELEMENTS).enumerate().try_for_each(|(chunk, out)| {
            observer.go_on()?;
            let bytes =
                self.element_bytes(tensor, (chunk * CHUNK_ELEMENTS) as u64, out.len() as u64)?;
            decoder.f32s(&bytes, out);
            Ok(())
        })?;
        let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
        let shaped = |rows, cols, values| {
            Array2::from_shape_vec((rows, cols), values).map_err(|_cannot_happen| Error::Shape {
                tensor: tensor.name.clone(),
                expected: matrix.shape.to_string(),
                found: tensor.shape.0.clone(),
            })
        };
        if matrix.kind == MatrixKind::Conv1d {
            let stored = shaped(cols, rows, values)?;
            return Ok(stored.t().as_standard_layout().into_owned());
        }
        shaped(rows, cols, values)
    }
}
