//! Rows of a matrix in two encodings: a bit for each row says in which.

use serde::{Deserialize, Serialize};

use crate::encoding::described::{HIGH, LOW, ROW_MASK};
use crate::encoding::{Encoding, Layout, Part, parts_within};
use crate::tensor::{DType, MatrixShape};

/// Rows in two layouts without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MixedLayout {
    /// Rows in the layout `high`.
    pub rows: usize,
    /// Of the rows whose bit is set.
    pub high: Box<Layout>,
    /// Of all others.
    pub low: Box<Layout>,
}

impl MixedLayout {
    /// The shapes of both, `high` first.
    pub fn shapes(&self, shape: MatrixShape) -> [MatrixShape; 2] {
        let others = shape.rows.saturating_sub(self.rows);
        [self.rows, others].map(|rows| MatrixShape { rows, cols: shape.cols })
    }

    /// ⌈rows/8⌉ for the bits, and the bytes of both.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let [high, low] = self.shapes(shape);
        shape.rows.div_ceil(8) as u64 + self.high.bytes(high) + self.low.bytes(low)
    }
}

/// Rows in two encodings.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    is_high: Vec<bool>,
    /// Of each row, its place among those of its encoding.
    places: Vec<usize>,
    high: Box<Encoding>,
    low: Box<Encoding>,
}

impl Mixed {
    /// The rows that `is_high` marks from `high`, the others from `low`, each in order.
    ///
    /// # Panics
    /// If one of them has not as many rows as there are for it, or their columns differ.
    pub fn new(is_high: Vec<bool>, high: Encoding, low: Encoding) -> Self {
        let count = is_high.iter().filter(|&&is_high| is_high).count();
        assert_eq!(
            (high.shape().rows, low.shape().rows),
            (count, is_high.len() - count),
            "all rows"
        );
        assert_eq!(high.shape().cols, low.shape().cols, "as many columns");
        let places = places(&is_high);
        Self { is_high, places, high: Box::new(high), low: Box::new(low) }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        MatrixShape { rows: self.is_high.len(), cols: self.low.shape().cols }
    }

    /// Which rows are in the first encoding.
    pub fn is_high(&self) -> &[bool] {
        &self.is_high
    }

    pub(super) fn layout(&self) -> MixedLayout {
        MixedLayout {
            rows: self.high.shape().rows,
            high: Box::new(self.high.layout()),
            low: Box::new(self.low.layout()),
        }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let of = if self.is_high[row] { &self.high } else { &self.low };
        of.decode_row(self.places[row], out);
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let byte = |rows: &[bool]| {
            rows.iter().enumerate().fold(0, |byte, (i, &is_high)| byte | u8::from(is_high) << i)
        };
        let mask: Vec<u8> = self.is_high.chunks(8).map(byte).collect();
        let mut parts = vec![Part::new(ROW_MASK, DType::U8, mask)];
        parts.extend(parts_within(&self.high, HIGH));
        parts.extend(parts_within(&self.low, LOW));
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &MixedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bits = part(ROW_MASK).filter(|bits| bits.len() == shape.rows.div_ceil(8))?;
        let is_high: Vec<bool> = (0..shape.rows).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        if is_high.iter().filter(|&&is_high| is_high).count() != layout.rows {
            return None;
        }
        let of = |layout: &Layout, shape, prefix: &str| {
            Encoding::from_parts(layout, shape, &|name| part(&format!("{prefix}{name}")))
        };
        let [high, low] = layout.shapes(shape);
        let (high, low) = (of(&layout.high, high, HIGH)?, of(&layout.low, low, LOW)?);
        let places = places(&is_high);
        Some(Self { is_high, places, high: Box::new(high), low: Box::new(low) })
    }
}

fn places(is_high: &[bool]) -> Vec<usize> {
    let mut counts = [0; 2];
    let place = |&is_high: &bool| {
        let count = &mut counts[usize::from(is_high)];
        *count += 1;
        *count - 1
    };
    is_high.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Dense;

    #[test]
    fn rows_come_from_where_their_bit_says() {
        let dense = |rows: usize, dtype, first: u8| {
            let values: Vec<f32> = (first..first + 2 * rows as u8).map(f32::from).collect();
            Encoding::Dense(Dense::new(MatrixShape { rows, cols: 2 }, dtype, &values))
        };
        let is_high = vec![false, true, true, false, false];
        let mixed = Encoding::Mixed(Mixed::new(
            is_high,
            dense(2, DType::F32, 50),
            dense(3, DType::BF16, 1),
        ));
        let rows: Vec<f32> = mixed.decode().iter().copied().collect();
        assert_eq!(rows, [1.0, 2.0, 50.0, 51.0, 52.0, 53.0, 3.0, 4.0, 5.0, 6.0]);
        let shape = MatrixShape { rows: 5, cols: 2 };
        assert_eq!((mixed.bytes(), mixed.layout().bytes(shape)), (1 + 16 + 12, 29));
        let parts = mixed.parts();
        let get = |name: &str| parts.iter().find(|part| part.name == name).map(|part| &*part.bytes);
        assert_eq!(Encoding::from_parts(&mixed.layout(), shape, &get).as_ref(), Some(&mixed));
        let other = |name: &str| if name == ROW_MASK { Some(&[7_u8][..]) } else { get(name) };
        assert!(Encoding::from_parts(&mixed.layout(), shape, &other).is_none(), "three rows");
    }
}
