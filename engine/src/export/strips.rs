//! A matrix of the output against what it was made of, strip by strip: what the file holds, what was promised and the
//! weights of the source meet in buffers that stay near the processor, and no matrix is made in full.

use std::ops::Range;
use std::path::Path;

use ndarray::Array2;
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
    ParallelSliceMut as _,
};

use crate::checkpoint::Checkpoint;
use crate::encoding::Encoding;
use crate::error::Result;
use crate::export::Work;
use crate::export::proof::{Proved, failed};
use crate::numeric::distance::{PIECE, Squares, relative_error_of};
use crate::observer::Observer;
use crate::tensor::{DType, Decoder, MatrixShape, write_f32};

/// Weights that are decoded at once, or one row if that is longer: 64 KiB in f32, of which a few fit the cache of a core.
const RUN: usize = 1 << 14;

/// Decodes rows: from this one on, as many as fill the values.
pub(super) type Rows<'r> = dyn Fn(usize, &mut [f32]) -> Result<()> + Sync + 'r;

/// The weights that a layer is measured against.
pub(super) enum Weights {
    /// Those of the source, read where they lie.
    Source,
    /// What an encoding decodes to.
    Encoded(Encoding),
    /// Those of the source, changed or turned.
    Whole(Array2<f32>),
}

impl Weights {
    /// The rows from `first` on of the weights of a tensor.
    pub(super) fn read(
        &self,
        (checkpoint, tensor): (&Checkpoint, usize),
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        match self {
            Self::Source => {
                let cols =
                    checkpoint.tensors()[tensor].matrix.map_or(0, |matrix| matrix.shape.cols);
                checkpoint.read_values(tensor, first * cols, out)
            }
            Self::Encoded(encoding) => {
                decode_rows(encoding, first, out);
                Ok(())
            }
            Self::Whole(weights) => {
                copy_rows(weights, first, out);
                Ok(())
            }
        }
    }
}

/// Rows of an encoding.
pub(super) fn decode_rows(encoding: &Encoding, first: usize, out: &mut [f32]) {
    let rows = out.chunks_mut(encoding.shape().cols.max(1)).enumerate();
    rows.for_each(|(i, row)| encoding.decode_row(first + i, row));
}

/// Rows of a matrix, whichever way it lies.
pub(super) fn copy_rows(matrix: &Array2<f32>, first: usize, out: &mut [f32]) {
    let rows = out.chunks_mut(matrix.ncols().max(1)).enumerate();
    rows.for_each(|(i, row)| row.iter_mut().zip(matrix.row(first + i)).for_each(|(a, &b)| *a = b));
}

/// Rounds weights to what an element type holds.
pub(super) fn round(dtype: DType, weights: &mut [f32]) {
    if let Some(decoder) = Decoder::new(dtype).filter(|_| dtype != DType::F32) {
        let mut bytes = Vec::new();
        write_f32(dtype, weights, &mut bytes);
        decoder.f32s(&bytes, weights);
    }
}

/// A layer of the output, to be proved.
pub(super) struct Layer<'r> {
    /// Index of its tensor.
    pub(super) tensor: usize,
    pub(super) shape: MatrixShape,
    /// What the file holds, by a reader that shares nothing with what wrote it.
    pub(super) found: &'r Rows<'r>,
    /// What it should hold.
    pub(super) wanted: &'r Rows<'r>,
    /// Whether two weights that differ in bits count as the same.
    pub(super) is_same: fn(f32, f32) -> bool,
    /// The output, for what is said of it.
    pub(super) path: &'r Path,
}

impl Layer<'_> {
    /// Compares every weight, then says how far they are from those of the source; `shift` is what is added to the
    /// outputs. Cost: each weight is decoded once, on all threads; where the error of the outputs was asked for, twice,
    /// and the layer is held in full.
    pub(super) fn prove(&self, work: &Work<'_>, shift: Option<&[f32]>) -> Result<Proved> {
        let weights = (work.weights)(self.tensor)?;
        let read = |first: usize, out: &mut [f32]| {
            weights.read((work.checkpoint, self.tensor), first, out)
        };
        let (different, relative_error) = self.compare(&read, work.observer)?;
        if different > 0 {
            let name = &work.checkpoint.tensors()[self.tensor].name;
            let what = format!("{different} weights of tensor {name} differ");
            return Err(failed(self.path, what));
        }
        if !(work.asks_outputs)(self.tensor) {
            return Ok(Proved::of_weights(relative_error));
        }
        let (weights, made) = (self.whole(&read)?, self.whole(self.found)?);
        let output_error = (work.outputs)(self.tensor, weights.view(), (made.view(), shift))?;
        Ok(Proved { relative_error, output_error })
    }

    /// How many weights differ, and the relative error against `weights`, which is that of the whole matrices to the bit.
    fn compare(&self, weights: &Rows<'_>, observer: &dyn Observer) -> Result<(usize, f64)> {
        let units = self.units().into_par_iter().map(|unit| {
            observer.go_on()?;
            self.compare_unit(unit, weights)
        });
        let units = units.collect::<Result<Vec<_>>>()?;
        let different = units.iter().map(|(different, _)| different).sum();
        Ok((different, relative_error_of(units.into_iter().flat_map(|(_, sums)| sums))))
    }

    /// Runs of whole pieces, each at least a row long, so that no row is decoded for more than two of them.
    fn units(&self) -> Vec<Range<usize>> {
        let elements = self.shape.elements();
        // Extents of a matrix of nothing may be anything.
        let unit = if elements == 0 { PIECE } else { self.shape.cols.next_multiple_of(PIECE) };
        (0..elements).step_by(unit).map(|first| first..elements.min(first + unit)).collect()
    }

    /// How many weights of a unit differ, and its sums.
    fn compare_unit(
        &self,
        unit: Range<usize>,
        weights: &Rows<'_>,
    ) -> Result<(usize, Vec<(f64, f64)>)> {
        let cols = self.shape.cols;
        let step = (RUN / cols).max(1);
        let (mut found, mut other) = (vec![0.0; step * cols], vec![0.0; step * cols]);
        let (mut different, mut sums) = (0, Squares::default());
        let rows = unit.start / cols..unit.end.div_ceil(cols);
        for row in rows.clone().step_by(step) {
            let first = row * cols;
            let n = (rows.end - row).min(step) * cols;
            let (found, other) = (&mut found[..n], &mut other[..n]);
            // Of rows that reach beyond the unit, what lies in it.
            let own = unit.start.max(first) - first..unit.end.min(first + n) - first;
            (self.found)(row, found)?;
            (self.wanted)(row, other)?;
            different += count_different(&found[own.clone()], &other[own.clone()], self.is_same);
            weights(row, other)?;
            sums.add(&other[own.clone()], &found[own]);
        }
        Ok((different, sums.finish()))
    }

    fn whole(&self, rows: &Rows<'_>) -> Result<Array2<f32>> {
        let (shape, step) = (self.shape, (RUN / self.shape.cols.max(1)).max(1));
        let mut whole = Array2::zeros((shape.rows, shape.cols));
        if let Some(values) = whole.as_slice_mut().filter(|values| !values.is_empty()) {
            let runs = values.par_chunks_mut(step * shape.cols).enumerate();
            runs.try_for_each(|(run, values)| rows(run * step, values))?;
        }
        Ok(whole)
    }
}

fn count_different(found: &[f32], wanted: &[f32], is_same: fn(f32, f32) -> bool) -> usize {
    // Nearly always all are the same, and a loop without a branch becomes vectors.
    let bits = found.iter().zip(wanted).fold(0, |bits, (a, b)| bits | (a.to_bits() ^ b.to_bits()));
    if bits == 0 {
        return 0;
    }
    let pairs = found.iter().zip(wanted);
    pairs.filter(|&(&a, &b)| a.to_bits() != b.to_bits() && !is_same(a, b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::numeric::distance::relative_error;
    use crate::observer::{Progress, Silent};

    fn matrix((rows, cols): (usize, usize), seed: u32) -> Array2<f32> {
        Array2::from_shape_fn((rows, cols), |(i, j)| {
            let mixed = ((i * cols + j) as u32 ^ seed).wrapping_mul(2_654_435_761);
            f32::from_bits(0x3f80_0000 | mixed >> 9) - 1.5
        })
    }

    fn compare(
        (found, wanted): (&Array2<f32>, &Array2<f32>),
        weights: &Array2<f32>,
        observer: &dyn Observer,
    ) -> Result<(usize, f64)> {
        let layer = Layer {
            tensor: 0,
            shape: MatrixShape { rows: found.nrows(), cols: found.ncols() },
            found: &|row, out| {
                copy_rows(found, row, out);
                Ok(())
            },
            wanted: &|row, out| {
                copy_rows(wanted, row, out);
                Ok(())
            },
            is_same: |a, b| a == 0.0 && b == 0.0,
            path: Path::new(""),
        };
        let read = |row: usize, out: &mut [f32]| {
            copy_rows(weights, row, out);
            Ok(())
        };
        assert_eq!(layer.whole(&read)?, *weights);
        layer.compare(&read, observer)
    }

    /// Narrow, ragged, of one piece to the weight, wider than a run, wider than a piece.
    const SHAPES: [(usize, usize); 7] = [
        (3, 1),
        (700, 1009),
        (64, 4096),
        (41, 14_337),
        (1, 3 * PIECE),
        (5, PIECE + 3),
        (600_001, 1),
    ];

    #[test]
    fn errors_are_those_of_whole_matrices_on_any_number_of_threads() {
        for shape in SHAPES {
            let (weights, found) = (matrix(shape, 3), matrix(shape, 77));
            let whole = relative_error(weights.view(), found.view());
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let strips = pool.install(|| compare((&found, &found), &weights, &Silent)).unwrap();
                assert_eq!((strips.0, strips.1.to_bits()), (0, whole.to_bits()), "{shape:?}");
            }
        }
    }

    #[test]
    fn every_weight_that_differs_is_counted_once() {
        for shape in SHAPES {
            let wanted = matrix(shape, 77);
            let n = wanted.len();
            for place in [0, n / 2, PIECE - 1, PIECE, n - 1] {
                let mut found = wanted.clone();
                let Some(value) = found.as_slice_mut().and_then(|all| all.get_mut(place)) else {
                    continue;
                };
                *value = f32::from_bits(value.to_bits() ^ 1);
                let (different, _) = compare((&found, &wanted), &wanted, &Silent).unwrap();
                assert_eq!(different, 1, "{shape:?}, weight {place}");
            }
            let others = matrix(shape, 78);
            let all = wanted.iter().zip(&others).filter(|(a, b)| a != b).count();
            assert_eq!(compare((&others, &wanted), &wanted, &Silent).unwrap().0, all, "{shape:?}");
        }
        // Where that is said, the two zeros are one.
        let (plus, minus) = (Array2::zeros((2, 3)), Array2::from_elem((2, 3), -0.0));
        assert_eq!(compare((&plus, &minus), &plus, &Silent).unwrap(), (0, 0.0));
    }

    #[test]
    fn matrices_of_nothing_are_equal() {
        for shape in [(0, 4), (4, 0)] {
            let none = matrix(shape, 1);
            assert_eq!(compare((&none, &none), &none, &Silent).unwrap(), (0, 0.0));
        }
    }

    #[test]
    fn it_stops_within_a_matrix() {
        struct Stopped;
        impl Observer for Stopped {
            fn progress(&self, _: Progress) {}
            fn warn(&self, _: String) {}
            fn is_cancelled(&self) -> bool {
                true
            }
        }
        let some = matrix((10, 10), 1);
        assert!(matches!(compare((&some, &some), &some, &Stopped), Err(Error::Cancelled)));
    }
}
