//! Layers whose rows take the scales of the layer that reads them: `up` those of `down`, `v` those of `o`. What is stored as it
//! was is divided by powers of two, so that not a bit is lost; what is compressed from the divided rows, by anything near.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::fold::{Divides, Producer};
use crate::method::Takes;
use crate::network::design::{Carry, Design, RowMap};
use crate::network::tensor_of;
use crate::tensor::DType;

/// A row whose largest weight would be 2^15 or more is not scaled up further: scales of half precision end there.
const LARGEST: i32 = 14;
/// Nor is one scaled down whose largest weight would be below 2^−8: scales of half precision begin to lose digits.
const SMALLEST: i32 = -8;

/// Rows of a layer, each read by one input or by several of another.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Index of its matrix `[rows, cols]`.
    pub weight: usize,
    /// Index of its bias b `[rows]`, which is divided too.
    pub bias: Option<usize>,
    /// Its rows in all.
    pub rows: usize,
    /// Inputs of the reader.
    pub inputs: usize,
    /// Of which row each of them comes.
    pub map: RowMap,
}

/// The rows that a layer reads; `None` where a tensor is missing.
pub(super) fn producer(
    checkpoint: &Checkpoint,
    design: &Design,
    carry: &Carry<'_>,
) -> Option<Producer> {
    let index = |name: &str| tensor_of(design, checkpoint, name);
    let rows = Rows {
        weight: index(&carry.from.weight)?,
        bias: match &carry.from.bias {
            Some(bias) => Some(index(bias)?),
            None => None,
        },
        rows: carry.from.shape.rows,
        inputs: carry.to.shape.cols,
        map: carry.rows,
    };
    let reader = index(&carry.to.weight)?;
    let why_not = match carry.why_not {
        Some(because) => Some(because.to_owned()),
        None => why_not(checkpoint, &rows, reader),
    };
    Some(Producer { divides: Divides::Rows(rows), layers: vec![reader], why_not })
}

/// Why rows take no scales.
fn why_not(checkpoint: &Checkpoint, rows: &Rows, reader: usize) -> Option<String> {
    let tensor = |index: usize| &checkpoint.tensors()[index];
    let is_float = |tensor: &Tensor| matches!(tensor.dtype, DType::F16 | DType::BF16 | DType::F32);
    let (from, to) = (tensor(rows.weight), tensor(reader));
    let has_rows = from.matrix.is_some_and(|matrix| matrix.shape.rows == rows.rows);
    let has_inputs = to.matrix.is_some_and(|matrix| matrix.shape.cols == rows.inputs);
    let is_within = (0..rows.inputs).all(|input| rows.map.row(input) < rows.rows);
    let is_plain = |bias: usize| {
        let bias = tensor(bias);
        is_float(bias) && bias.parameters() == rows.rows as u64
    };
    let is_whole = is_float(from)
        && has_rows
        && has_inputs
        && is_within
        && rows.bias.is_none_or(is_plain)
        && rows.weight != reader;
    (!is_whole).then(|| "the layer before them is no matrix of 16 or 32 bits".to_owned())
}

impl Rows {
    /// By what the inputs of the reader are divided, where the rows are divided `by` so much.
    pub fn of_inputs(&self, by: &[f32]) -> Vec<f32> {
        let of = |input| by.get(self.map.row(input)).copied().unwrap_or(1.0);
        (0..self.inputs).map(of).collect()
    }

    /// By what the rows are divided, where inputs are divided by `scales`, alike where they come of one row.
    pub fn of_rows(&self, scales: &[f32]) -> Vec<f32> {
        let mut by = vec![1.0; self.rows];
        for (input, &scale) in scales.iter().enumerate() {
            if let Some(by) = by.get_mut(self.map.row(input)) {
                *by = scale;
            }
        }
        by
    }
}

/// Exponents k for which a row may be divided by 2^k: `least` ≤ 0 ≤ `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The smallest.
    pub least: i32,
    /// The largest.
    pub most: i32,
}

impl Bounds {
    /// As wide as the scales of inputs are searched.
    pub const WIDE: Self = Self { least: -14, most: 14 };
    const NONE: Self = Self { least: 0, most: 0 };

    /// Of a row that is compressed: so that it stays within what scales of half precision can say. None for a row of zeros,
    /// and for one that is not finite.
    pub fn of_row(row: &[f32]) -> Self {
        match Span::of(row) {
            Some(Span { high, .. }) => {
                Self { least: (high - LARGEST).min(0), most: (high - SMALLEST).max(0) }
            }
            None => Self::NONE,
        }
    }

    /// Of values that are stored in this type and must keep every bit; `NONE` where one is not finite, any for zeros.
    pub fn exact(dtype: DType, values: &[f32]) -> Self {
        let (largest, smallest) = match dtype {
            DType::F16 => (15, -24),
            DType::BF16 => (127, -133),
            _ => (127, -149),
        };
        match Span::of(values) {
            Some(Span { high, low }) => {
                Self { least: (high - largest).min(0), most: (low - smallest).max(0) }
            }
            None if values.iter().all(|&value| value == 0.0) => Self::WIDE,
            None => Self::NONE,
        }
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { least: self.least.max(other.least), most: self.most.min(other.most) }
    }
}

/// From the highest bit of some values to their lowest, as exponents of two.
struct Span {
    high: i32,
    low: i32,
}

impl Span {
    /// `None` where all are zeros, or one is not finite.
    fn of(values: &[f32]) -> Option<Self> {
        let mut span: Option<Self> = None;
        for &value in values.iter().filter(|&&value| value != 0.0) {
            if !value.is_finite() {
                return None;
            }
            let bits = value.to_bits() & 0x7fff_ffff;
            let (exponent, fraction) = ((bits >> 23) as i32, bits & 0x007f_ffff);
            // Subnormal values have no hidden bit.
            let (digits, unit) = if exponent == 0 {
                (fraction, -149)
            } else {
                (fraction | (1 << 23), exponent - 150)
            };
            let high = unit + 31 - digits.leading_zeros() as i32;
            let low = unit + digits.trailing_zeros() as i32;
            let before = span.unwrap_or(Self { high, low });
            span = Some(Self { high: before.high.max(high), low: before.low.min(low) });
        }
        span
    }
}

/// Rows that take scales, each within its bounds; without bounds, any.
#[derive(Clone, Copy, Debug)]
pub struct ByRows<'a> {
    /// The rows.
    pub rows: &'a Rows,
    /// One for each row.
    pub bounds: &'a [Bounds],
    /// Whether only powers of two will do; otherwise eighths between them.
    pub is_by_twos: bool,
}

impl Takes for ByRows<'_> {
    /// Inputs that come of one row are as large as their mean square over all of them.
    fn merged(&self, squares: &[f32]) -> Vec<f32> {
        let mut sums = vec![(0.0_f64, 0_u32); self.rows.rows];
        for (input, &square) in squares.iter().enumerate() {
            let sum = &mut sums[self.rows.map.row(input)];
            *sum = (sum.0 + f64::from(square), sum.1 + 1);
        }
        let mean = |input| {
            let (sum, n) = sums[self.rows.map.row(input)];
            (sum / f64::from(n.max(1))) as f32
        };
        (0..squares.len()).map(mean).collect()
    }

    /// What is nearest to what is wanted, and allowed.
    fn stored(&self, wanted: &[f32]) -> Vec<f32> {
        let scale = |(input, &wanted): (usize, &f32)| {
            let bounds = self.bounds.get(self.rows.map.row(input)).unwrap_or(&Bounds::WIDE);
            let [least, most] = [bounds.least, bounds.most].map(|power| 2_f32.powi(power));
            let exponent = wanted.log2();
            let near = if self.is_by_twos {
                2_f32.powi(exponent.round() as i32)
            } else {
                let below = 2_f32.powi(exponent.floor() as i32);
                (wanted / below * 8.0).round() / 8.0 * below
            };
            near.clamp(least, most)
        };
        wanted.iter().enumerate().map(scale).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::is_exact_in;

    /// Two heads of values that three heads of queries read each, behind a query and a key part.
    fn rows() -> Rows {
        let map = RowMap { first: 10, run: 2, shared: 3, stride: 2 };
        Rows { weight: 0, bias: None, rows: 14, inputs: 12, map }
    }

    #[test]
    fn heads_that_share_values_have_one_scale_for_each() {
        let rows = rows();
        let read: Vec<usize> = (0..12).map(|input| rows.map.row(input)).collect();
        assert_eq!(read, [10, 11, 10, 11, 10, 11, 12, 13, 12, 13, 12, 13]);
        let takes = ByRows { rows: &rows, bounds: &[], is_by_twos: true };
        let squares: Vec<f32> = (0..12).map(|input| input as f32).collect();
        let merged = takes.merged(&squares);
        assert_eq!(merged, [2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 8.0, 9.0, 8.0, 9.0, 8.0, 9.0]);
        let scales = takes.stored(&merged);
        assert_eq!(scales[..2], [2.0, 4.0], "log2 of 3 is 1.58");
        let by = rows.of_rows(&scales);
        assert!(by[..10].iter().all(|&by| by == 1.0), "queries and keys stay");
        assert_eq!(rows.of_inputs(&by), scales);
    }

    #[test]
    fn bounds_are_those_at_which_a_weight_would_lose_a_bit() {
        // 1.5·2^−14 has its lowest bit at 2^−15; the largest f16 below 2^16 has its highest at 2^15.
        for (dtype, values, least, most) in [
            (DType::F16, [1.5 * 2_f32.powi(-14), 1.0], -15, 9),
            (DType::F16, [65504.0, -2_f32.powi(-24)], 0, 0),
            (DType::BF16, [1.0, 1.0 + 2_f32.powi(-7)], -127, 126),
            (DType::F32, [f32::from_bits(1), 0.0], -276, 0),
        ] {
            let bounds = Bounds::exact(dtype, &values);
            assert_eq!((bounds.least, bounds.most), (least, most), "{dtype}: {values:?}");
            let is_exact = |k: i32| {
                let divided = values.iter().map(|&v| f64::from(v) / 2_f64.powi(k));
                divided.clone().all(|v| is_exact_in(dtype, v) && (v as f32).is_finite())
            };
            assert!(
                is_exact(least) && is_exact(most) && !is_exact(most + 1),
                "{dtype}: {values:?}"
            );
            assert!(!is_exact(least - 1), "{dtype}: {values:?}");
        }
        assert_eq!(Bounds::exact(DType::F16, &[0.0, -0.0]), Bounds::WIDE);
        assert_eq!(Bounds::exact(DType::F16, &[1.0, f32::NAN]), Bounds::NONE);
        assert_eq!(Bounds::of_row(&[0.3, -0.7, 0.0]), Bounds { least: -15, most: 7 });
        assert_eq!(Bounds::of_row(&[0.0; 3]), Bounds::NONE);
        assert_eq!(Bounds::of_row(&[2_f32.powi(20)]).most, 28);
        let both = Bounds { least: -3, most: 2 }.and(Bounds { least: -1, most: 9 });
        assert_eq!(both, Bounds { least: -1, most: 2 });
    }

    #[test]
    fn no_row_goes_beyond_its_bounds() {
        let rows = rows();
        let bounds = vec![Bounds { least: -1, most: 2 }; 14];
        let takes = ByRows { rows: &rows, bounds: &bounds, is_by_twos: true };
        let wanted = [1e-4, 1e4, 0.3, 0.8, 1.4, 1.5, 3.0, 5.0, 1.0, 1.0, 1.0, 1.0];
        let found = takes.stored(&wanted);
        assert_eq!(found[..8], [0.5, 4.0, 0.5, 1.0, 1.0, 2.0, 4.0, 4.0]);
        let found = ByRows { is_by_twos: false, ..takes }.stored(&wanted);
        assert_eq!(found[..8], [0.5, 4.0, 0.5, 0.8125, 1.375, 1.5, 3.0, 4.0]);
    }
}
