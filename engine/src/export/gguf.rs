//! Writing a GGUF file, tensor by tensor: rows in llama.cpp's order, vectors in F32, layers as blocks; of a file that is
//! written again the bytes of all other tensors as they are.

use std::collections::HashMap;
use std::ops::Range;

use ndarray::Array2;
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::checkpoint::{MatrixKind, RowOrder, Tensor};
use crate::disk::NewFile;
use crate::encoding::Encoding;
use crate::error::Result;
use crate::export::{Work, slots};
use crate::format::gguf_writer::NewTensor;
use crate::target::{Content, Entry, GgufFile, Storage, multiplier, write_row};
use crate::tensor::{CHUNK_ELEMENTS, DType, write_f32};

/// Bytes that are carried over at once.
const PIECE_BYTES: usize = 4 << 20;

type Write<'w> = dyn FnMut(&[u8]) -> Result<()> + 'w;

/// Writes the file but for what is there already; `begin(name, bytes)` is told each tensor before it is written.
pub(super) fn write(
    work: &Work<'_>,
    file: &GgufFile,
    new: NewFile,
    begin: &dyn Fn(&str, u64) -> Result<()>,
) -> Result<()> {
    let tensors = file.plan.tensors().iter().zip(&file.contents);
    let contents: HashMap<&str, (u64, &Content)> = tensors
        .map(|((tensor, bytes), content)| (tensor.name.as_str(), (*bytes, content)))
        .collect();
    let is_there = |tensor: &NewTensor, at: u64| {
        let Some(&(bytes, content)) = contents.get(tensor.name.as_str()) else { return Ok(false) };
        begin(&tensor.name, bytes)?;
        Ok(slots::are_there(work, content, at, bytes))
    };
    file.plan.write_around(new, is_there, |tensor, write| {
        let Some((_, content)) = contents.get(tensor.name.as_str()) else { return Ok(()) };
        match content {
            Content::Matrices { tensors, rows } => {
                tensors.iter().try_for_each(|&tensor| write_matrix(work, tensor, *rows, write))
            }
            Content::Vector { tensor, rows, plus } => {
                let values = vector(work, *tensor, *rows, *plus)?;
                write_f32s(&values, write)
            }
            Content::Multipliers(tensors) => write_f32s(&multipliers(work, tensors)?, write),
            Content::Values(values) => write_f32s(values, write),
            Content::Carried { file, range } => carry(work, *file, range, write),
        }
    })
}

/// What multiplies each of some matrices.
fn multipliers(work: &Work<'_>, tensors: &[usize]) -> Result<Vec<f32>> {
    let one = |&index: &usize| {
        work.observer.go_on()?;
        let name = &work.checkpoint.tensors()[index].name;
        Ok(multiplier(&work.encoding(index)?, name)?.unwrap_or(1.0))
    };
    tensors.iter().map(one).collect()
}

/// Bytes of a file of the source, piece by piece.
fn carry(work: &Work<'_>, file: usize, range: &Range<u64>, write: &mut Write<'_>) -> Result<()> {
    work.checkpoint.check_unchanged(file)?;
    pieces(range).try_for_each(|piece| {
        work.observer.go_on()?;
        write(work.checkpoint.file_bytes(file, piece)?)
    })
}

/// Runs of some MiB.
pub(super) fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    range.clone().step_by(PIECE_BYTES).map(move |at| at..end.min(at + PIECE_BYTES as u64))
}

fn write_f32s(values: &[f32], write: &mut Write<'_>) -> Result<()> {
    let mut bytes = Vec::with_capacity(4 * values.len());
    write_f32(DType::F32, values, &mut bytes);
    write(&bytes)
}

/// The values of a vector, changed or of the source, in the file's order, with `plus` added.
pub(super) fn vector(work: &Work<'_>, index: usize, rows: RowOrder, plus: f32) -> Result<Vec<f32>> {
    let values = work.vector(index)?;
    let value = |row| values[rows.source(row, values.len())] + plus;
    Ok((0..values.len()).map(value).collect())
}

fn write_matrix(
    work: &Work<'_>,
    index: usize,
    rows: RowOrder,
    write: &mut Write<'_>,
) -> Result<()> {
    let tensor = &work.checkpoint.tensors()[index];
    let entry: &Entry = &work.manifest.entries[index];
    let dtype = entry.specs.first().map_or(tensor.dtype, |spec| spec.dtype);
    match &entry.storage {
        Storage::Native => write_blocks(work, (tensor, &work.encoding(index)?), rows, write),
        Storage::Dense { .. } | Storage::Changed { .. } => {
            write_dense(work, &work.encoding(index)?.decode(), (dtype, rows), write)
        }
        Storage::Copied if dtype == tensor.dtype && !is_transposed(tensor) => {
            copy(work, tensor, rows, write)
        }
        Storage::Copied => {
            let weights = work.checkpoint.weights(index, work.observer)?;
            write_dense(work, &weights, (dtype, rows), write)
        }
    }
}

fn is_transposed(tensor: &Tensor) -> bool {
    tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Conv1d)
}

/// The bytes of the source, row by row where their order changes.
fn copy(work: &Work<'_>, tensor: &Tensor, rows: RowOrder, write: &mut Write<'_>) -> Result<()> {
    let (RowOrder::Woven { .. }, Some(matrix)) = (rows, tensor.matrix) else {
        return work.checkpoint.for_each_chunk(tensor, |bytes| {
            work.observer.go_on()?;
            write(bytes)
        });
    };
    let cols = matrix.shape.cols as u64;
    for row in 0..matrix.shape.rows {
        if row % 256 == 0 {
            work.observer.go_on()?;
        }
        let source = rows.source(row, matrix.shape.rows) as u64;
        write(&work.checkpoint.element_bytes(tensor, source * cols, cols)?)?;
    }
    Ok(())
}

/// Rows that are written at once: some MiB.
fn rows_at_once(cols: usize) -> usize {
    (4 * CHUNK_ELEMENTS / cols.max(1)).max(1)
}

/// Writes `rows` rows that `row(i)` makes, many at once.
fn write_rows(
    work: &Work<'_>,
    (rows, cols): (usize, usize),
    row: impl Fn(usize) -> Result<Vec<u8>> + Sync,
    write: &mut Write<'_>,
) -> Result<()> {
    let step = rows_at_once(cols);
    for first in (0..rows).step_by(step) {
        work.observer.go_on()?;
        let made: Vec<Vec<u8>> =
            (first..rows.min(first + step)).into_par_iter().map(&row).collect::<Result<_>>()?;
        made.iter().try_for_each(|bytes| write(bytes))?;
    }
    Ok(())
}

fn write_dense(
    work: &Work<'_>,
    weights: &Array2<f32>,
    (dtype, order): (DType, RowOrder),
    write: &mut Write<'_>,
) -> Result<()> {
    let (rows, cols) = weights.dim();
    let row = |row: usize| {
        let values = weights.row(order.source(row, rows));
        let mut bytes = Vec::new();
        match values.as_slice() {
            Some(values) => write_f32(dtype, values, &mut bytes),
            None => write_f32(dtype, &values.to_vec(), &mut bytes),
        }
        Ok(bytes)
    };
    write_rows(work, (rows, cols), row, write)
}

fn write_blocks(
    work: &Work<'_>,
    (tensor, encoding): (&Tensor, &Encoding),
    order: RowOrder,
    write: &mut Write<'_>,
) -> Result<()> {
    let shape = encoding.shape();
    let row = |row: usize| {
        let mut bytes = Vec::new();
        write_row(encoding, order.source(row, shape.rows), &tensor.name, &mut bytes)?;
        Ok(bytes)
    };
    write_rows(work, (shape.rows, shape.cols), row, write)
}
