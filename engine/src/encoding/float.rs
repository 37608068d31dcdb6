//! Small floats under scales: w ≈ level(code)·s, with 4- or 8-bit codes and a scale for each tile of the matrix.

use serde::{Deserialize, Serialize};

use crate::encoding::affine::floats;
use crate::encoding::{Mask, Part, gather, scatter};
use crate::numeric::grouping::Grouping;
use crate::numeric::minifloat::{E2M1, E4M3, E5M2, FP4, NF4, e8m0};
use crate::numeric::packing::{dense_bytes, pack_dense, unpack_dense};
use crate::tensor::{DType, MatrixShape, write_f32};

/// What a code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Levels {
    /// The 16 quantiles of `QLoRA`.
    Nf4,
    /// The 16 levels of bitsandbytes' FP4.
    Fp4,
    /// OCP E2M1, 4 bits.
    E2m1,
    /// OCP E4M3, 8 bits.
    E4m3,
    /// OCP E5M2, 8 bits.
    E5m2,
}

impl Levels {
    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Nf4 | Self::Fp4 | Self::E2m1 => 4,
            Self::E4m3 | Self::E5m2 => 8,
        }
    }

    /// The value of every code; codes that stand for no number are 0.
    pub fn table(self) -> Vec<f32> {
        let codes = 0..=u8::MAX;
        match self {
            Self::Nf4 => NF4.to_vec(),
            Self::Fp4 => FP4.to_vec(),
            Self::E2m1 => codes.take(16).map(|code| E2M1.decode(code)).collect(),
            Self::E4m3 => codes.map(|code| finite(code, 0x7e, E4M3.decode(code))).collect(),
            Self::E5m2 => codes.map(|code| finite(code, 0x7b, E5M2.decode(code))).collect(),
        }
    }

    /// The code of zero.
    pub fn zero(self) -> u8 {
        if self == Self::Nf4 { 7 } else { 0 }
    }
}

fn finite(code: u8, largest: u8, value: f32) -> f32 {
    if code & 0x7f > largest { 0.0 } else { value }
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tiling {
    /// Weights of a row, of all rows, or of runs of inputs.
    Rows(Grouping),
    /// Squares of so many rows and inputs; those at the edges may be smaller.
    Squares(usize),
}

impl Tiling {
    /// Columns that share a scale within one row.
    pub fn width(self, cols: usize) -> usize {
        match self {
            Self::Rows(grouping) => grouping.width(cols),
            Self::Squares(side) => side,
        }
    }

    /// Scales of the matrix.
    pub fn scales(self, shape: MatrixShape) -> usize {
        match self {
            Self::Rows(grouping) => grouping.scales(shape.rows, shape.cols),
            Self::Squares(side) => shape.rows.div_ceil(side) * shape.cols.div_ceil(side),
        }
    }

    /// Index of the first scale of `row`; those of its tiles follow one another.
    pub fn first_scale(self, row: usize, cols: usize) -> usize {
        match self {
            Self::Rows(grouping) => grouping.first_scale(row, cols),
            Self::Squares(side) => row / side * cols.div_ceil(side),
        }
    }
}

/// Small floats without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FloatLayout {
    /// What a code stands for.
    pub levels: Levels,
    /// Which weights share a scale.
    pub tiling: Tiling,
    /// Element type of the scales: F16, BF16, F32, `F8_E8M0` (powers of two), or `F8_E4M3`, which one F32 for the
    /// matrix then divides.
    pub scale_dtype: DType,
}

impl FloatLayout {
    /// Whether one number for the whole matrix divides the scales.
    pub fn has_global(&self) -> bool {
        self.scale_dtype == DType::F8E4M3
    }

    /// ⌈kept·b/8⌉ for codes, the scales, and 4 bytes where one number divides them.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        let scales = self.tiling.scales(shape) as u64 * self.scale_dtype.bits() / 8;
        let global = if self.has_global() { 4 } else { 0 };
        dense_bytes(kept, self.levels.bits()) as u64 + scales + global
    }
}

/// A matrix of small floats under scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Float {
    shape: MatrixShape,
    layout: FloatLayout,
    codes: Vec<u8>,
    scales: Vec<f32>,
    global: f32,
    table: Vec<f32>,
}

/// The data of a [`Float`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatData {
    /// One code a weight.
    pub codes: Vec<u8>,
    /// One scale a tile, each exactly representable in the layout's scale type.
    pub scales: Vec<f32>,
    /// What divides the scales: 1 where the layout has no such number.
    pub global: f32,
}

impl Float {
    /// Holds codes and scales.
    ///
    /// # Panics
    /// If the numbers of codes or scales do not fit shape and tiling.
    pub fn new(shape: MatrixShape, layout: FloatLayout, data: FloatData) -> Self {
        let FloatData { codes, scales, global } = data;
        assert_eq!(codes.len(), shape.elements(), "one code a weight");
        assert_eq!(scales.len(), layout.tiling.scales(shape), "one scale a tile");
        Self { shape, layout, codes, scales, global, table: layout.levels.table() }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Levels, tiling, scale type.
    pub fn layout(&self) -> &FloatLayout {
        &self.layout
    }

    /// One code a weight, row-major.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One scale a tile, before [`Float::global`] divides it.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// What divides the scales.
    pub fn global(&self) -> f32 {
        self.global
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let cols = self.shape.cols;
        let codes = &self.codes[row * cols..(row + 1) * cols];
        let width = self.layout.tiling.width(cols);
        let scales = &self.scales[self.layout.tiling.first_scale(row, cols)..];
        for ((values, codes), scale) in out.chunks_mut(width).zip(codes.chunks(width)).zip(scales) {
            let scale = scale / self.global;
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = self.table[usize::from(code)] * scale;
            }
        }
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let codes = pack_dense(&gather(&self.codes, mask), self.layout.levels.bits());
        let dtype = self.layout.scale_dtype;
        let mut parts = vec![
            Part::new("codes", DType::U8, codes),
            Part::new("scales", dtype, scale_bytes(dtype, &self.scales)),
        ];
        if self.layout.has_global() {
            let bytes = self.global.to_le_bytes().to_vec();
            parts.push(Part::new("global", DType::F32, bytes));
        }
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &FloatLayout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let n = layout.tiling.scales(shape);
        let scales = part("scales")?;
        let scales = match layout.scale_dtype {
            DType::F8E8M0 if scales.len() != n => return None,
            DType::F8E8M0 => scales.iter().map(|&byte| e8m0(byte)).collect(),
            dtype => floats(scales, dtype, n)?,
        };
        let global = if layout.has_global() {
            f32::from_le_bytes(part("global")?.try_into().ok()?)
        } else {
            1.0
        };
        let bits = layout.levels.bits();
        let kept = mask.map_or(shape.elements(), Mask::kept);
        let bytes = part("codes").filter(|bytes| bytes.len() == dense_bytes(kept, bits))?;
        let codes = unpack_dense(bytes, bits, kept);
        let codes = scatter(codes, shape.elements(), mask, |_| layout.levels.zero())?;
        Some(Self::new(shape, *layout, FloatData { codes, scales, global }))
    }
}

/// Scales as they are stored; powers of two as their exponents.
fn scale_bytes(dtype: DType, scales: &[f32]) -> Vec<u8> {
    if dtype == DType::F8E8M0 {
        // 2^−127 has no exponent of its own, and its byte is 0.
        return scales.iter().map(|scale| (scale.to_bits() >> 23) as u8).collect();
    }
    let mut bytes = Vec::new();
    write_f32(dtype, scales, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_at_the_edges_have_scales_of_their_own() {
        let shape = MatrixShape { rows: 3, cols: 3 };
        let tiling = Tiling::Squares(2);
        let layout = FloatLayout { levels: Levels::E4m3, tiling, scale_dtype: DType::F32 };
        let one = E4M3.encode(1.0);
        let scales = vec![1.0, 2.0, 3.0, 4.0];
        let data = FloatData { codes: vec![one; 9], scales, global: 1.0 };
        let float = Float::new(shape, layout, data);
        let mut row = [0.0; 3];
        float.decode_row(1, &mut row);
        assert_eq!(row, [1.0, 1.0, 2.0]);
        float.decode_row(2, &mut row);
        assert_eq!(row, [3.0, 3.0, 4.0]);
        assert_eq!(layout.bytes_of(shape, 9), 9 + 16);
    }

    #[test]
    fn one_number_divides_the_scales_of_nvfp4() {
        let shape = MatrixShape { rows: 1, cols: 17 };
        let tiling = Tiling::Rows(Grouping::Group(16));
        let layout = FloatLayout { levels: Levels::E2m1, tiling, scale_dtype: DType::F8E4M3 };
        let data = FloatData { codes: vec![7; 17], scales: vec![448.0, 16.0], global: 64.0 };
        let float = Float::new(shape, layout, data);
        let mut row = [0.0; 17];
        float.decode_row(0, &mut row);
        assert_eq!((row[0], row[16]), (6.0 * 7.0, 6.0 / 4.0));
        assert_eq!(layout.bytes_of(shape, 17), 9 + 2 + 4);
    }
}
