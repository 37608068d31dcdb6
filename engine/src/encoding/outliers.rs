//! A few single weights, all others zero: what is added where one weight is far off.

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::tensor::{DType, Decoder, MatrixShape, round_f32, write_f32};

/// A few weights without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutliersLayout {
    /// How many there are.
    pub kept: usize,
    /// Element type of the values.
    pub dtype: DType,
}

impl OutliersLayout {
    /// rows·e + kept·(c + v): e, c and v the bytes of an end of a row, a column and a value.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let each = index_type(shape.cols.saturating_sub(1)).bits() + self.dtype.bits();
        let ends = shape.rows as u64 * index_type(self.kept).bits();
        (ends + self.kept as u64 * each) / 8
    }
}

/// The narrowest unsigned type that holds `largest`.
pub(super) fn index_type(largest: usize) -> DType {
    match largest {
        0..0x100 => DType::U8,
        0x100..0x1_0000 => DType::U16,
        0x1_0000..0x1_0000_0000 => DType::U32,
        _ => DType::U64,
    }
}

/// A matrix that is zero but for a few weights, row by row (CSR): where each row's end, their columns, their values.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    shape: MatrixShape,
    dtype: DType,
    /// How many there are in each row and those before it.
    ends: Vec<usize>,
    columns: Vec<usize>,
    values: Vec<f32>,
}

impl Outliers {
    /// The weights at `places` (row·cols + col), strictly ascending, with their `values` rounded to `dtype`.
    ///
    /// # Panics
    /// If there are not as many values as places, places are out of order or outside, or `dtype` is no float of 16 or
    /// 32 bits.
    pub fn new(shape: MatrixShape, dtype: DType, places: &[usize], values: &[f32]) -> Self {
        assert_eq!(places.len(), values.len(), "one value a place");
        assert!(places.is_sorted_by(|a, b| a < b), "ascending places");
        assert!(places.last().is_none_or(|&last| last < shape.elements()), "places inside");
        let ends = (1..=shape.rows).map(|row| places.partition_point(|&at| at < row * shape.cols));
        Self {
            shape,
            dtype,
            ends: ends.collect(),
            columns: places.iter().map(|at| at % shape.cols).collect(),
            values: values.iter().map(|&value| round_f32(dtype, value)).collect(),
        }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Every place (row·cols + col) with its value, ascending.
    pub fn placed(&self) -> Vec<(usize, f32)> {
        let rows = std::iter::once(&0).chain(&self.ends).zip(&self.ends).enumerate();
        let cols = self.shape.cols;
        let of_row = |(row, (&first, &end)): (usize, (&usize, &usize))| {
            (first..end).map(move |at| (row * cols + self.columns[at], self.values[at]))
        };
        rows.flat_map(of_row).collect()
    }

    pub(super) fn layout(&self) -> OutliersLayout {
        OutliersLayout { kept: self.values.len(), dtype: self.dtype }
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.fill(0.0);
        let first = if row == 0 { 0 } else { self.ends[row - 1] };
        for at in first..self.ends[row] {
            out[self.columns[at]] = self.values[at];
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut values = Vec::new();
        write_f32(self.dtype, &self.values, &mut values);
        vec![
            indices("outliers.ends", &self.ends, self.values.len()),
            indices("outliers.columns", &self.columns, self.shape.cols.saturating_sub(1)),
            Part { name: "outliers.values".to_owned(), dtype: self.dtype, bytes: values.into() },
        ]
    }

    pub(super) fn from_parts<'a>(
        layout: &OutliersLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let ends = read_indices(part("outliers.ends")?, layout.kept, shape.rows)?;
        let largest = shape.cols.saturating_sub(1);
        let columns = read_indices(part("outliers.columns")?, largest, layout.kept)?;
        let bytes = part("outliers.values")?;
        if layout.dtype.bytes(layout.kept as u64) != Some(bytes.len() as u64) {
            return None;
        }
        let mut values = vec![0.0; layout.kept];
        Decoder::new(layout.dtype)?.f32s(bytes, &mut values);
        let is_whole = ends.last().copied().unwrap_or(0) == layout.kept && ends.is_sorted();
        let mut first = 0;
        let is_ascending = is_whole
            && ends.iter().all(|&end| {
                let row = &columns[first..end];
                first = end;
                row.is_sorted_by(|a, b| a < b) && row.last().is_none_or(|&c| c < shape.cols)
            });
        is_ascending.then_some(Self { shape, dtype: layout.dtype, ends, columns, values })
    }
}

/// Numbers up to `largest` in the narrowest type.
pub(super) fn indices(name: &str, numbers: &[usize], largest: usize) -> Part<'static> {
    let dtype = index_type(largest);
    let width = (dtype.bits() / 8) as usize;
    let bytes = numbers.iter().flat_map(|&number| {
        let bytes = (number as u64).to_le_bytes();
        bytes.into_iter().take(width)
    });
    Part { name: name.to_owned(), dtype, bytes: bytes.collect() }
}

/// `count` numbers of the type that holds `largest`.
pub(super) fn read_indices(bytes: &[u8], largest: usize, count: usize) -> Option<Vec<usize>> {
    let width = (index_type(largest).bits() / 8) as usize;
    if count.checked_mul(width)? != bytes.len() {
        return None;
    }
    let number = |bytes: &[u8]| {
        let number = bytes.iter().rev().fold(0_u64, |number, &b| number << 8 | u64::from(b));
        usize::try_from(number).ok()
    };
    bytes.chunks_exact(width).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{Dense, Encoding, Layout, Sum};

    fn three() -> Outliers {
        let shape = MatrixShape { rows: 3, cols: 300 };
        Outliers::new(shape, DType::BF16, &[1, 299, 601], &[2.0, -3.0, 0.5])
    }

    #[test]
    fn few_weights_cost_ends_columns_and_values() {
        let encoding = Encoding::Outliers(three());
        let shape = encoding.shape();
        // Three ends of a byte, three columns of two and three values of two.
        assert_eq!(encoding.bytes(), 3 + 3 * (2 + 2));
        assert_eq!(encoding.layout().bytes(shape), encoding.bytes());
        for (kept, cols, bytes) in [(255, 256, 2 + 255 * 3), (256, 257, 4 + 256 * 4)] {
            let layout = Layout::Outliers(OutliersLayout { kept, dtype: DType::F16 });
            assert_eq!(layout.bytes(MatrixShape { rows: 2, cols }), bytes);
        }
        let wide = Layout::Outliers(OutliersLayout { kept: 70_000, dtype: DType::F16 });
        let shape = MatrixShape { rows: 2, cols: 65_537 };
        assert_eq!(wide.bytes(shape), 8 + 70_000 * (4 + 2));
    }

    #[test]
    fn a_sum_adds_them_to_what_lies_beneath() {
        let few = three();
        let ones = Dense::new(few.shape(), DType::F32, &[1.0; 900]);
        let sum = Encoding::Sum(Sum::new(Encoding::Dense(ones), Encoding::Outliers(few)));
        let decoded = sum.decode();
        assert_eq!([decoded[[0, 1]], decoded[[0, 299]], decoded[[2, 1]]], [3.0, -2.0, 1.5]);
        assert_eq!(decoded.iter().filter(|&&value| value == 1.0).count(), 897);
        assert_eq!(sum.bytes(), 3600 + 15);
    }

    #[test]
    fn places_that_make_no_sense_are_not_read_back() {
        let few = three();
        let (layout, shape) = (few.layout(), few.shape());
        let restore = |parts: &[Part<'_>]| {
            let find =
                |name: &str| parts.iter().find(|part| part.name == name).map(|part| &*part.bytes);
            Outliers::from_parts(&layout, shape, &find)
        };
        assert_eq!(restore(&few.parts()).as_ref(), Some(&few));
        // A row that ends before it begins, a matrix that ends too early, a column outside, columns out of order.
        let wrong: [(usize, usize, &[u8]); 4] =
            [(0, 1, &[1]), (0, 2, &[2]), (1, 3, &[2]), (1, 0, &299_u16.to_le_bytes())];
        for (part, at, bytes) in wrong {
            let mut parts = few.parts();
            parts[part].bytes.to_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(restore(&parts).is_none(), "{part} {at}");
        }
    }
}
