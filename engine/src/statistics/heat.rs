//! Pictures of a matrix from afar and from near: a pyramid of pooled levels, and windows of single weights.

use std::ops::Range;

use ndarray::{Array2, Axis, concatenate};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::numeric::pooling::{Pooled, pool};
use crate::observer::Observer;
use crate::tensor::{CHUNK_ELEMENTS, MatrixShape};

/// Most cells of the finest level a pyramid keeps, and of a window.
const MAX_CELLS: usize = 1 << 21;
/// Most cells of a level along one side: what every graphics card takes as one texture.
const MAX_SIDE: usize = 2048;

/// What is pictured of a layer.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// The weights W.
    Weights,
    /// What an encoding makes of them, Ŵ; the function gives a row of it.
    Decoded(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
    /// The error W − Ŵ; the function gives a row of Ŵ.
    Error(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

impl Field<'_> {
    /// A rectangle of the field.
    fn block(
        self,
        checkpoint: &Checkpoint,
        index: usize,
        rows: Range<usize>,
        cols: Range<usize>,
    ) -> Result<Array2<f32>> {
        let mut block = checkpoint.weight_block(index, rows.clone(), cols.clone())?;
        let (decode_row, kept) = match self {
            Self::Weights => return Ok(block),
            Self::Decoded(decode_row) => (decode_row, 0.0),
            Self::Error(decode_row) => (decode_row, 1.0),
        };
        let sign = if kept == 0.0 { 1.0 } else { -1.0 };
        let mut decoded = vec![0.0; shape_of(checkpoint, index)?.cols];
        for (row, mut weights) in rows.zip(block.outer_iter_mut()) {
            decode_row(row, &mut decoded);
            for (w, d) in weights.iter_mut().zip(&decoded[cols.clone()]) {
                *w = kept * *w + sign * d;
            }
        }
        Ok(block)
    }
}

fn shape_of(checkpoint: &Checkpoint, index: usize) -> Result<MatrixShape> {
    let tensor = &checkpoint.tensors()[index];
    let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
        what: format!("a picture of tensor {} ({})", tensor.name, tensor.why_no_matrix()),
    })?;
    Ok(matrix.shape)
}

/// A matrix at several distances; each level halves the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// `[rows, cols]` of the matrix.
    pub shape: MatrixShape,
    /// The levels, the finest first: blocks of 1 × 1 for matrices of up to 2048 × 1024 weights or so.
    pub levels: Vec<Pooled>,
}

/// The step of the finest level that is kept: the least power of two for which the level fits.
fn finest_step(shape: MatrixShape) -> usize {
    let fits = |step: &usize| {
        let (rows, cols) = (shape.rows.div_ceil(*step), shape.cols.div_ceil(*step));
        rows.max(cols) <= MAX_SIDE && rows.saturating_mul(cols) <= MAX_CELLS
    };
    (0..usize::BITS).map(|power| 1 << power).find(fits).unwrap_or(1)
}

/// Pictures a whole layer. Cost: one pass; memory: 2²¹ cells and some bands of rows.
///
/// # Errors
/// [`Error::Unsupported`] for a tensor that is no matrix, [`Error::Cancelled`], [`Error::Io`].
pub fn measure_heat(
    checkpoint: &Checkpoint,
    index: usize,
    field: Field<'_>,
    observer: &dyn Observer,
) -> Result<HeatMap> {
    let shape = shape_of(checkpoint, index)?;
    let (rows, cols) = (shape.rows, shape.cols);
    let mut level =
        window(checkpoint, index, field, (finest_step(shape), 0..rows, 0..cols), observer)?;
    let mut levels = Vec::new();
    while level.extreme.len() > 1 {
        let coarser = level.coarser((rows, cols));
        levels.push(std::mem::replace(&mut level, coarser));
    }
    levels.push(level);
    Ok(HeatMap { shape, levels })
}

/// Pictures a rectangle of a layer in blocks of `step × step`, counted from its first row and column.
///
/// # Errors
/// As [`measure_heat`].
pub fn window(
    checkpoint: &Checkpoint,
    index: usize,
    field: Field<'_>,
    (step, rows, cols): (usize, Range<usize>, Range<usize>),
    observer: &dyn Observer,
) -> Result<Pooled> {
    let blocks = (CHUNK_ELEMENTS / (cols.len() * step).max(1)).max(1);
    let bands: Vec<Range<usize>> = rows
        .clone()
        .step_by(blocks * step)
        .map(|first| first..rows.end.min(first + blocks * step))
        .collect();
    let pooled: Vec<Pooled> = bands
        .into_par_iter()
        .map(|band| {
            observer.go_on()?;
            Ok(pool(field.block(checkpoint, index, band, cols.clone())?.view(), step))
        })
        .collect::<Result<_>>()?;
    let stack = |of: fn(&Pooled) -> &Array2<f32>| {
        let views: Vec<_> = pooled.iter().map(|part| of(part).view()).collect();
        concatenate(Axis(0), &views).unwrap_or_default()
    };
    Ok(Pooled {
        step,
        extreme: stack(|part| &part.extreme),
        mean_abs: stack(|part| &part.mean_abs),
    })
}
