//! Grouped integers: w ≈ s·(q − z), with one scale s and zero point z for each group, or w ≈ s·q + o with an offset.

use serde::{Deserialize, Serialize};

use crate::encoding::{Mask, Part, gather, scatter};
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::{dense_bytes, pack_dense, unpack_dense};
use crate::tensor::{DType, Decoder, MatrixShape, write_f32};

/// Grouped integers without their data.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AffineLayout {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Which weights share a scale.
    pub grouping: Grouping,
    /// Whether every zero point is 2^(bits−1), so that none is stored.
    pub symmetric: bool,
    /// Element type of the scales: F16, BF16 or F32.
    pub scale_dtype: DType,
    /// Whether w ≈ s·q + o, with an offset o in the type of the scales in place of a whole zero point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_offsets: bool,
}

impl AffineLayout {
    /// The zero point of symmetric codes: 2^(bits−1).
    pub fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The largest code: 2^bits − 1.
    pub fn largest(&self) -> u8 {
        ((1_u16 << self.bits) - 1) as u8
    }

    /// ⌈kept·b/8⌉ for codes, the scales, and as many offsets, or ⌈groups·b/8⌉ for zero points unless symmetric.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        let groups = self.grouping.scales(shape.rows, shape.cols);
        let scales = groups as u64 * self.scale_dtype.bits() / 8;
        let zeros = match (self.has_offsets, self.symmetric) {
            (true, _) => scales,
            (false, true) => 0,
            (false, false) => dense_bytes(groups, self.bits) as u64,
        };
        dense_bytes(kept, self.bits) as u64 + zeros + scales
    }
}

/// Grouped integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    shape: MatrixShape,
    layout: AffineLayout,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    offsets: Vec<f32>,
}

/// The data of an [`Affine`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineData {
    /// One code a weight, 0 to 2^bits − 1.
    pub codes: Vec<u8>,
    /// One scale a group, each exactly representable in the layout's scale type.
    pub scales: Vec<f32>,
    /// One zero point a group, also where the layout is symmetric.
    pub zeros: Vec<u8>,
}

impl Affine {
    /// Holds codes, scales and zero points.
    ///
    /// # Panics
    /// If the numbers of codes, scales or zero points do not fit shape and grouping, or the layout has offsets.
    pub fn new(shape: MatrixShape, layout: AffineLayout, data: AffineData) -> Self {
        let AffineData { codes, scales, zeros } = data;
        assert!(!layout.has_offsets, "offsets are given to with_offsets");
        let groups = layout.grouping.scales(shape.rows, shape.cols);
        assert_eq!(codes.len(), shape.elements(), "one code a weight");
        assert_eq!(
            (scales.len(), zeros.len()),
            (groups, groups),
            "one scale and zero point a group"
        );
        Self { shape, layout, codes, scales, zeros, offsets: Vec::new() }
    }

    /// Holds codes and scales with one offset a group, each exactly representable in the layout's scale type; the
    /// zero points of the data are not used.
    ///
    /// # Panics
    /// If the numbers of codes, scales or offsets do not fit shape and grouping, or the layout has no offsets.
    pub fn with_offsets(
        shape: MatrixShape,
        layout: AffineLayout,
        data: AffineData,
        offsets: Vec<f32>,
    ) -> Self {
        let groups = layout.grouping.scales(shape.rows, shape.cols);
        assert!(layout.has_offsets, "zero points are given to new");
        assert_eq!(data.codes.len(), shape.elements(), "one code a weight");
        assert_eq!((data.scales.len(), offsets.len()), (groups, groups), "one of each a group");
        let zeros = vec![0; groups];
        Self { shape, layout, codes: data.codes, scales: data.scales, zeros, offsets }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bits, grouping, symmetry, scale type.
    pub fn layout(&self) -> &AffineLayout {
        &self.layout
    }

    /// One code a weight, row-major, 0 to 2^bits − 1.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One scale a group.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// One zero point a group; 2^(bits−1) throughout where symmetric, 0 where there are offsets.
    pub fn zeros(&self) -> &[u8] {
        &self.zeros
    }

    /// One offset a group; none where there are zero points.
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let cols = self.shape.cols;
        let codes = &self.codes[row * cols..(row + 1) * cols];
        let width = self.layout.grouping.width(cols);
        let first = self.layout.grouping.first_scale(row, cols);
        for (group, (values, codes)) in out.chunks_mut(width).zip(codes.chunks(width)).enumerate() {
            let (scale, zero) = (self.scales[first + group], i16::from(self.zeros[first + group]));
            if let Some(&offset) = self.offsets.get(first + group) {
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = scale * f32::from(code) + offset;
                }
                continue;
            }
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = scale * f32::from(i16::from(code) - zero);
            }
        }
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let codes = pack_dense(&gather(&self.codes, mask), self.layout.bits);
        let mut scales = Vec::new();
        write_f32(self.layout.scale_dtype, &self.scales, &mut scales);
        let mut parts = vec![
            Part::new("codes", DType::U8, codes),
            Part::new("scales", self.layout.scale_dtype, scales),
        ];
        if self.layout.has_offsets {
            let mut bytes = Vec::new();
            write_f32(self.layout.scale_dtype, &self.offsets, &mut bytes);
            parts.push(Part::new("offsets", self.layout.scale_dtype, bytes));
        } else if !self.layout.symmetric {
            let bytes = pack_dense(&self.zeros, self.layout.bits);
            parts.push(Part::new("zeros", DType::U8, bytes));
        }
        parts
    }

    pub(super) fn from_parts<'a>(
        layout: &AffineLayout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let groups = layout.grouping.scales(shape.rows, shape.cols);
        let floats = |name| floats(part(name)?, layout.scale_dtype, groups);
        let scales = floats("scales")?;
        let offsets = if layout.has_offsets { floats("offsets")? } else { Vec::new() };
        let zeros = if layout.has_offsets {
            vec![0; groups]
        } else if layout.symmetric {
            vec![layout.middle(); groups]
        } else {
            let bytes =
                part("zeros").filter(|bytes| bytes.len() == dense_bytes(groups, layout.bits))?;
            unpack_dense(bytes, layout.bits, groups)
        };
        let kept = mask.map_or(shape.elements(), Mask::kept);
        let bytes = part("codes")?;
        if bytes.len() != dense_bytes(kept, layout.bits) {
            return None;
        }
        let codes = unpack_dense(bytes, layout.bits, kept);
        let codes =
            scatter(codes, shape.elements(), mask, |i| zero_code(layout, shape, &zeros, i))?;
        Some(Self { shape, layout: layout.clone(), codes, scales, zeros, offsets })
    }
}

/// `n` floats of `bytes`; `None` where they are more or fewer.
pub(super) fn floats(bytes: &[u8], dtype: DType, n: usize) -> Option<Vec<f32>> {
    if bytes.len() as u64 * 8 != n as u64 * dtype.bits() {
        return None;
    }
    let mut values = vec![0.0; n];
    Decoder::new(dtype)?.f32s(bytes, &mut values);
    Some(values)
}

fn zero_code(layout: &AffineLayout, shape: MatrixShape, zeros: &[u8], i: usize) -> u8 {
    let (row, col) = (i / shape.cols, i % shape.cols);
    zeros[layout.grouping.first_scale(row, shape.cols) + col / layout.grouping.width(shape.cols)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ragged_group_has_its_own_scale() {
        let shape = MatrixShape { rows: 2, cols: 5 };
        let layout = AffineLayout {
            bits: 4,
            grouping: Grouping::Group(4),
            symmetric: true,
            scale_dtype: DType::F16,
            has_offsets: false,
        };
        let data = AffineData {
            codes: vec![8, 9, 7, 8, 15, 0, 8, 8, 8, 9],
            scales: vec![1.0, 2.0, 0.5, 0.25],
            zeros: vec![8; 4],
        };
        let affine = Affine::new(shape, layout, data);
        let mut row = [0.0; 5];
        affine.decode_row(0, &mut row);
        assert_eq!(row, [0.0, 1.0, -1.0, 0.0, 14.0]);
        affine.decode_row(1, &mut row);
        assert_eq!(row, [-4.0, 0.0, 0.0, 0.0, 0.25]);
        // 10 codes of 4 bits, 4 scales of 2 bytes.
        assert_eq!(affine.layout().bytes_of(shape, 10), 5 + 8);
    }
}
