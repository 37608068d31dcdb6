//! Some inputs of a matrix in one encoding, the others in another.

use serde::{Deserialize, Serialize};

use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::numeric::packing::{pack_dense, unpack_dense};
use crate::tensor::{DType, MatrixShape};

/// A split layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SplitLayout {
    /// How many inputs are held apart.
    pub kept: usize,
    /// How the inputs apart are held, `[rows, kept]`.
    pub apart: Box<Layout>,
    /// How the others are held, `[rows, cols − kept]`.
    pub rest: Box<Layout>,
}

/// The part with a bit for each input.
pub(super) const COLUMNS: &str = "columns";
/// What the parts of the inputs apart, and of the others, begin with.
pub(super) const HALVES: [&str; 2] = ["apart.", "rest."];

impl SplitLayout {
    pub(super) fn shapes(&self, shape: MatrixShape) -> [MatrixShape; 2] {
        let of = |cols| MatrixShape { rows: shape.rows, cols };
        [of(self.kept), of(shape.cols.saturating_sub(self.kept))]
    }

    /// A bit for each input, and the bytes of both.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let [apart, rest] = self.shapes(shape);
        shape.cols.div_ceil(8) as u64 + self.apart.bytes(apart) + self.rest.bytes(rest)
    }
}

/// Columns of two matrices in one another.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Whether each input is held apart.
    columns: Vec<bool>,
    apart: Box<Encoding>,
    rest: Box<Encoding>,
}

impl Split {
    /// The inputs that `columns` marks from `apart`, the others from `rest`, each in order.
    ///
    /// # Panics
    /// If the columns are not as many as marked, or the rows differ.
    pub fn new(columns: Vec<bool>, apart: Encoding, rest: Encoding) -> Self {
        let kept = columns.iter().filter(|&&is_apart| is_apart).count();
        assert_eq!(apart.shape().cols, kept, "as many as marked");
        assert_eq!(rest.shape().cols, columns.len() - kept, "as many as not marked");
        assert_eq!(apart.shape().rows, rest.shape().rows, "the same outputs");
        Self { columns, apart: Box::new(apart), rest: Box::new(rest) }
    }

    pub(super) fn shape(&self) -> MatrixShape {
        MatrixShape { rows: self.apart.shape().rows, cols: self.columns.len() }
    }

    pub(super) fn layout(&self) -> SplitLayout {
        SplitLayout {
            kept: self.apart.shape().cols,
            apart: Box::new(self.apart.layout()),
            rest: Box::new(self.rest.layout()),
        }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let decoded = |inner: &Encoding| {
            let mut values = vec![0.0; inner.shape().cols];
            // A matrix without columns has no rows to decode.
            if !values.is_empty() {
                inner.decode_row(row, &mut values);
            }
            values.into_iter()
        };
        let (mut apart, mut rest) = (decoded(&self.apart), decoded(&self.rest));
        for (value, &is_apart) in out.iter_mut().zip(&self.columns) {
            let next = if is_apart { apart.next() } else { rest.next() };
            *value = next.unwrap_or(0.0);
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let bits: Vec<u8> = self.columns.iter().map(|&is_apart| u8::from(is_apart)).collect();
        let mut parts = vec![Part::new(COLUMNS, DType::U8, pack_dense(&bits, 1))];
        for (half, inner) in HALVES.into_iter().zip([&self.apart, &self.rest]) {
            parts.extend(parts_within(inner, half));
        }
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &SplitLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bits = part(COLUMNS).filter(|bits| bits.len() == shape.cols.div_ceil(8))?;
        let bits = unpack_dense(bits, 1, shape.cols);
        let columns: Vec<bool> = bits.into_iter().map(|bit| bit == 1).collect();
        if columns.iter().filter(|&&is_apart| is_apart).count() != layout.kept {
            return None;
        }
        let [apart, rest] = layout.shapes(shape);
        let of = |half: &'static str| move |name: &str| part(&format!("{half}{name}"));
        let apart = Encoding::from_parts(&layout.apart, apart, &of(HALVES[0]))?;
        let rest = Encoding::from_parts(&layout.rest, rest, &of(HALVES[1]))?;
        Some(Self { columns, apart: Box::new(apart), rest: Box::new(rest) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Dense;

    #[test]
    fn columns_lie_where_they_are_marked() {
        let dense = |cols: usize, values: &[f32]| {
            let shape = MatrixShape { rows: values.len() / cols, cols };
            Encoding::Dense(Dense::new(shape, DType::BF16, values))
        };
        let apart = dense(2, &[1.0, 2.0, 3.0, 4.0]);
        let rest = dense(1, &[-1.0, -2.0]);
        let split = Encoding::Split(Split::new(vec![true, false, true], apart, rest));
        let decoded: Vec<f32> = split.decode().iter().copied().collect();
        assert_eq!(decoded, [1.0, -1.0, 2.0, 3.0, -2.0, 4.0]);
        // Three bits, and six values of two bytes.
        assert_eq!(split.bytes(), 1 + 12);
        assert_eq!(split.layout().bytes(split.shape()), 13);
    }
}
