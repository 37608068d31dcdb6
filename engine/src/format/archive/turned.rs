//! Reading codes for several weights at once, weights of a turned basis, and weights of another shape.

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{FoldedLayout, RotatedLayout, VectorsLayout};
use crate::format::archive::leaf::is_set;
use crate::format::archive::reader::Get;
use crate::format::words::{floats, for_each_run};
use crate::numeric::codebook::Codebook;
use crate::numeric::grouping::Grouping;
use crate::numeric::rotation::{Rotation, undo_both};
use crate::tensor::MatrixShape;

/// Codes for several weights.
#[derive(Debug)]
pub(super) struct Points<'a> {
    codebook: Codebook,
    grouping: Grouping,
    codes: &'a [u8],
    scales: Vec<f32>,
}

impl<'a> Points<'a> {
    pub(super) fn new(
        layout: &VectorsLayout,
        shape: MatrixShape,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        let VectorsLayout { codebook, grouping, scale_dtype } = *layout;
        let scales = grouping.scales(shape.rows, shape.cols);
        let scales = floats(get("scales")?, scale_dtype, scales)?;
        Some(Self { codebook, grouping, codes: get("codes")?, scales })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let (dim, bits) = (self.codebook.dim(), self.codebook.bits());
        let in_row = row * shape.cols.div_ceil(dim);
        let first = self.grouping.first_scale(row, shape.cols);
        let width = self.grouping.width(shape.cols);
        let mut point = [0.0; 8];
        for_each_run(col, (shape.cols, dim), out, |(_, at), col, values| {
            let code =
                code(self.codes, in_row + at, bits).filter(|&code| self.codebook.has(code))?;
            self.codebook.point(code, &mut point[..dim]);
            for (i, (value, point)) in values.iter_mut().zip(&point[col % dim..]).enumerate() {
                // Of digits, a code may reach over the end of a group.
                *value = *self.scales.get(first + (col + i) / width)? * point;
            }
            Some(())
        })
    }
}

/// Code `i` of codes of so many bits, up to 32, one behind the other.
pub(super) fn code(bytes: &[u8], i: usize, bits: u32) -> Option<u32> {
    let at = i * bits as usize;
    let of = |k: usize| bytes.get(at / 8 + k).map_or(0, |&byte| u64::from(byte) << (8 * k));
    bytes.get((at + bits as usize - 1) / 8)?;
    let window: u64 = (0..5).map(of).sum();
    Some((window >> (at % 8) & ((1 << bits) - 1)) as u32)
}

/// The turned basis of inputs and, where they are turned too, of outputs.
pub(super) struct Basis {
    pub(super) cols: Rotation,
    pub(super) rows: Option<Rotation>,
}

impl Basis {
    pub(super) fn new(
        layout: &RotatedLayout,
        shape: MatrixShape,
        get: &Get<'_, '_>,
    ) -> Option<Self> {
        let rotation = |name: &str, n: usize, run: usize| {
            let bytes = get(name).filter(|bytes| bytes.len() == n.div_ceil(8))?;
            Some(Rotation::new((0..n).map(|i| is_set(bytes, i)).collect(), run))
        };
        let cols = rotation("signs", shape.cols, layout.cols)?;
        let rows = match layout.rows {
            Some(run) => Some(rotation("row_signs", shape.rows, run)?),
            None => None,
        };
        Some(Self { cols, rows })
    }

    /// All weights, of which `row` gives a row of the turned ones; rows in parallel.
    pub(super) fn weights(
        &self,
        shape: MatrixShape,
        row: impl Fn(usize, &mut [f32]) -> Option<()> + Sync,
    ) -> Option<Vec<f32>> {
        let mut weights = vec![0.0; shape.elements()];
        let rows = weights.par_chunks_mut(shape.cols.max(1)).enumerate();
        rows.try_for_each(|(index, values)| row(index, values))?;
        undo_both(&self.cols, self.rows.as_ref(), &mut weights);
        Some(weights)
    }
}

/// Weights that lie in a matrix of another shape.
#[derive(Debug)]
pub(super) struct Digits {
    rows: usize,
    cols: usize,
}

impl Digits {
    pub(super) fn new(layout: &FoldedLayout) -> Self {
        Self { rows: layout.rows.max(1), cols: layout.cols.max(1) }
    }

    /// The shape of the matrix of digits.
    pub(super) fn shape(&self, shape: MatrixShape) -> MatrixShape {
        let (rest, beside) = (shape.rows / self.rows, shape.cols / self.cols);
        MatrixShape { rows: self.rows * self.cols, cols: rest * beside }
    }

    /// A run of weights, of which `run` gives those of the matrix of digits.
    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
        run: impl Fn((usize, usize), &mut [f32]) -> Option<()>,
    ) -> Option<()> {
        let (rest, beside) = (shape.rows / self.rows, shape.cols / self.cols);
        let (i, k) = (row.checked_div(rest)?, row.checked_rem(rest)?);
        for_each_run(col, (shape.cols, beside.max(1)), out, |(_, j), col, values| {
            run((i * self.cols + j, k * beside + col % beside.max(1)), values)
        })
    }
}
