//! Two checkpoints of one model, tensor by tensor: which belong together, and how far they are apart. In: a
//! checkpoint and its compressed, fine-tuned or converted twin. Out: pairs and plain numbers. Never knows plans.

mod corrected;
mod held;
mod pairs;
mod stored;
mod vectors;

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

pub use held::held;
pub use pairs::{Counterpart, layers, pairs};
pub use stored::{CompressedLayer, Parts, PartsReader};

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::error::{Error, Result};
use crate::numeric::distance::{Distance, PIECE, different_bits};
use crate::observer::Observer;
use crate::tensor::{DType, Factors, MatrixShape, Shape, for_each_f64};

/// How far tensor B is from tensor A.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// ‖A − B‖_F / ‖A‖_F: 0 where both are equal, ∞ where only A is zero.
    pub relative_error: f64,
    /// ⟨A, B⟩ / (‖A‖ ‖B‖): 1 where both are equal, NaN where only one is zero.
    pub cosine: f64,
    /// max |a − b|.
    pub max_abs_difference: f64,
    /// Share of values that differ; −0 equals 0.
    pub changed: f64,
    /// Mean number of bits in which a value differs, where both are stored plainly in one element type.
    pub bit_distance: Option<f64>,
    /// Whether every value has the same bits; across element types, after decoding.
    pub identical: bool,
    /// ‖A − B‖_F, to add up over tensors.
    pub distance: f64,
    /// ‖A‖_F, to add up over tensors.
    pub norm: f64,
}

impl Comparison {
    fn new(sums: &Distance, n: u64, bits: Option<u64>) -> Self {
        let per_value = |count: u64| if n == 0 { 0.0 } else { count as f64 / n as f64 };
        Self {
            relative_error: sums.relative_error(),
            cosine: sums.cosine(),
            max_abs_difference: sums.max_abs,
            changed: per_value(sums.changed),
            bit_distance: bits.map(per_value),
            // Equal bytes are equal even where f64 does not hold every value, as of 64-bit integers.
            identical: bits.map_or(sums.changed_bits == 0, |bits| bits == 0),
            distance: sums.error.sqrt(),
            norm: sums.norm_a.sqrt(),
        }
    }
}

/// Compares tensor `index` of `a` with its counterpart in `b`: one pass over both in pieces of 2¹⁸ values, which
/// take 4 MiB a thread; of a compressed layer the stored bytes are held too. The same bits on any number of
/// threads.
///
/// # Errors
/// [`Error::Shape`] where the shapes differ; [`Error::Numeric`] where a value is NaN or infinite, unless both
/// are identical (then the finite ones are summed); [`Error::Unsupported`] for a counterpart that cannot be read,
/// and for different tensors whose elements are no numbers; [`Error::Io`] if a file has become shorter;
/// [`Error::Cancelled`] within a piece.
pub fn compare(
    a: &Checkpoint,
    index: usize,
    b: &Checkpoint,
    counterpart: &Counterpart,
    observer: &dyn Observer,
) -> Result<Comparison> {
    compare_scaled((a, index, None), b, counterpart, observer)
}

/// The same with matrix `index` of `a` times `factors`, for layers whose scales went elsewhere, or that took those of others.
/// What is identical then says nothing.
///
/// # Errors
/// Those of [`compare`].
pub fn compare_scaled(
    (a, index, factors): (&Checkpoint, usize, Option<&Factors>),
    b: &Checkpoint,
    counterpart: &Counterpart,
    observer: &dyn Observer,
) -> Result<Comparison> {
    let tensor = &a.tensors()[index];
    let fits = |factors: &&Factors| tensor.matrix.is_some_and(|of| factors.fits(of.shape));
    let pair = Pair { a, tensor, factors: factors.filter(fits), b, observer };
    match counterpart {
        Counterpart::Plain { tensor: other } => pair.compare_plain(&b.tensors()[*other]),
        Counterpart::Compressed { layer, .. } => pair.compare_compressed(layer),
        Counterpart::Unreadable { because, .. } => Err(Error::Unsupported {
            what: format!("comparing tensor {} with {}, where {because},", tensor.name, b.title()),
        }),
    }
}

struct Pair<'a> {
    a: &'a Checkpoint,
    tensor: &'a Tensor,
    factors: Option<&'a Factors>,
    b: &'a Checkpoint,
    observer: &'a dyn Observer,
}

/// One piece compared.
struct Piece {
    sums: Distance,
    /// Bits that differ, where that makes sense.
    bits: u64,
}

impl Pair<'_> {
    fn compare_plain(&self, other: &Tensor) -> Result<Comparison> {
        self.check_shape(&other.shape)?;
        let is_plain = self.tensor.coded.is_none() && other.coded.is_none();
        let same_type = is_plain && self.tensor.dtype == other.dtype;
        if same_type && !other.dtype.is_readable() {
            return self.compare_bytes(other);
        }
        for tensor in [self.tensor, other] {
            if !tensor.is_readable() {
                return Err(self.unreadable(tensor));
            }
        }
        let pieces = self.for_each_piece(|first, n| {
            let bytes_a = self.a.element_bytes(self.tensor, first, n)?;
            let bytes_b = self.b.element_bytes(other, first, n)?;
            let bits = if same_type { different_bits(&bytes_a, &bytes_b) } else { 0 };
            let sums =
                Distance::of_piece(&self.numbers(first, &bytes_a), &numbers(other.dtype, &bytes_b));
            Ok(Piece { sums, bits })
        })?;
        self.finish(&pieces, same_type)
    }

    /// Elements that are no numbers: they are identical, or nothing can be said.
    fn compare_bytes(&self, other: &Tensor) -> Result<Comparison> {
        let pieces = self.for_each_piece(|first, n| {
            let bytes_a = self.a.element_bytes(self.tensor, first, n)?;
            let bits = different_bits(&bytes_a, &self.b.element_bytes(other, first, n)?);
            Ok(Piece { sums: Distance::default(), bits })
        })?;
        if pieces.iter().any(|piece| piece.bits > 0) {
            return Err(self.unreadable(other));
        }
        self.finish(&pieces, true)
    }

    fn compare_compressed(&self, layer: &CompressedLayer) -> Result<Comparison> {
        self.check_shape(&layer.tensor_shape())?;
        let is_conv1d = |matrix: crate::checkpoint::Matrix| matrix.kind == MatrixKind::Conv1d;
        if self.tensor.matrix.is_some_and(is_conv1d) != layer.is_transposed() {
            return Err(Error::Unsupported {
                what: format!("comparing the Conv1D layer {} with integers", self.tensor.name),
            });
        }
        if !self.tensor.is_readable() {
            return Err(self.unreadable(self.tensor));
        }
        let parts = layer.read_parts(self.b, 0..layer.shape.elements(), self.observer)?;
        let damaged = || Error::Unsupported {
            what: format!(
                "reading the parts of {} in {}, which do not fit together,",
                layer.module,
                self.b.title()
            ),
        };
        let reader = parts.reader().ok_or_else(damaged)?;
        let turned = if layer.is_transposed() {
            Some(turned(layer.shape, &reader).ok_or_else(damaged)?)
        } else {
            None
        };
        let pieces = self.for_each_piece(|first, n| {
            let mut decoded = vec![0.0; n as usize];
            match &turned {
                Some(all) => decoded.copy_from_slice(&all[first as usize..(first + n) as usize]),
                None => reader.read(first as usize, &mut decoded).ok_or_else(damaged)?,
            }
            let decoded: Vec<f64> = decoded.into_iter().map(f64::from).collect();
            let bytes = self.a.element_bytes(self.tensor, first, n)?;
            let sums = Distance::of_piece(&self.numbers(first, &bytes), &decoded);
            Ok(Piece { sums, bits: 0 })
        })?;
        self.finish(&pieces, false)
    }

    /// The values of A that are stored in `bytes`, of which the first is at `first`, times their factors.
    fn numbers(&self, first: u64, bytes: &[u8]) -> Vec<f64> {
        let mut values = numbers(self.tensor.dtype, bytes);
        if let (Some(factors), Some(matrix)) = (self.factors, self.tensor.matrix) {
            let MatrixShape { rows, cols } = matrix.shape;
            let is_transposed = matrix.kind == MatrixKind::Conv1d;
            for (at, value) in (first as usize..).zip(&mut values) {
                let (row, col) =
                    if is_transposed { (at % rows, at / rows) } else { (at / cols, at % cols) };
                *value = f64::from(factors.times(*value as f32, row, col));
            }
        }
        values
    }

    /// Pieces in order, compared in parallel.
    fn for_each_piece(
        &self,
        compare: impl Fn(u64, u64) -> Result<Piece> + Sync,
    ) -> Result<Vec<Piece>> {
        let (n, size) = (self.tensor.parameters(), PIECE as u64);
        let pieces = (0..n.div_ceil(size)).into_par_iter().map(|piece| {
            self.observer.go_on()?;
            let first = piece * size;
            compare(first, size.min(n - first))
        });
        pieces.collect()
    }

    fn finish(&self, pieces: &[Piece], same_type: bool) -> Result<Comparison> {
        let sums = pieces.iter().fold(Distance::default(), |all, piece| all.merge(&piece.sums));
        let bits = same_type.then(|| pieces.iter().map(|piece| piece.bits).sum());
        let comparison = Comparison::new(&sums, self.tensor.parameters(), bits);
        let bad = [(sums.non_finite_a, self.a), (sums.non_finite_b, self.b)];
        match bad.into_iter().find(|(count, _)| *count > 0) {
            Some((count, side)) if !comparison.identical => Err(Error::Numeric {
                tensor: self.tensor.name.clone(),
                why: format!(
                    "{count} of its values in {} are NaN or infinite",
                    side.path().display()
                ),
            }),
            _ => Ok(comparison),
        }
    }

    fn check_shape(&self, found: &Shape) -> Result<()> {
        if self.tensor.shape == *found {
            return Ok(());
        }
        Err(Error::Shape {
            tensor: self.tensor.name.clone(),
            expected: format!("{:?}, as in {},", self.tensor.shape.0, self.a.title()),
            found: found.0.clone(),
        })
    }

    fn unreadable(&self, tensor: &Tensor) -> Error {
        let (kind, name) = (tensor.type_name(), &self.tensor.name);
        Error::Unsupported { what: format!("comparing the {kind} values of tensor {name}") }
    }
}

/// All weights in the order `[in, out]` of the GPT-2 family; `None` where they are not there.
fn turned(shape: MatrixShape, reader: &PartsReader<'_>) -> Option<Vec<f32>> {
    let MatrixShape { rows, cols } = shape;
    let mut out = vec![0.0; shape.elements()];
    let mut row = vec![0.0; cols];
    for at in 0..rows {
        reader.read(at * cols, &mut row)?;
        out.iter_mut()
            .skip(at)
            .step_by(rows)
            .zip(&row)
            .for_each(|(value, weight)| *value = *weight);
    }
    Some(out)
}

/// The numbers stored in `bytes`.
fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let mut out = Vec::with_capacity(bytes.len() * 8 / dtype.bits() as usize);
    for_each_f64(dtype, bytes, |value| out.push(value));
    out
}
