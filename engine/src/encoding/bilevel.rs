//! Small groups of integers whose scales and zero points are themselves codes: w ≈ s·(q − z), s and z both on grids of
//! a few bits that a tile of groups shares.

use serde::{Deserialize, Serialize};

use crate::encoding::affine::floats;
use crate::encoding::{Mask, Part, gather, scatter};
use crate::numeric::packing::{dense_bytes, pack_dense, unpack_dense};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Small groups of integers without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BilevelLayout {
    /// Bits of a weight's code, 1 to 8.
    pub bits: u32,
    /// Inputs that share a scale and a zero point; the last group of a row may be shorter.
    pub group: usize,
    /// Bits of the code of a scale and of a zero point, 1 to 8.
    pub statistic_bits: u32,
    /// Rows whose groups of the same inputs are a tile; the last may be fewer.
    pub rows: usize,
    /// Element type of the four numbers of a tile: F16, BF16 or F32.
    pub dtype: DType,
}

impl BilevelLayout {
    /// Groups of a row.
    pub fn groups_per_row(&self, cols: usize) -> usize {
        cols.div_ceil(self.group)
    }

    /// Groups of the matrix.
    pub(super) fn groups(&self, shape: MatrixShape) -> usize {
        shape.rows * self.groups_per_row(shape.cols)
    }

    /// Tiles of the matrix.
    pub(super) fn tiles(&self, shape: MatrixShape) -> usize {
        shape.rows.div_ceil(self.rows) * self.groups_per_row(shape.cols)
    }

    /// The tile of a group of a row.
    fn tile(&self, cols: usize, row: usize, group: usize) -> usize {
        row / self.rows * self.groups_per_row(cols) + group
    }

    /// ⌈kept·b/8⌉ for codes, ⌈groups·m/8⌉ twice for those of scales and zero points, and four numbers a tile.
    pub(super) fn bytes_of(&self, shape: MatrixShape, kept: usize) -> u64 {
        let statistics = dense_bytes(self.groups(shape), self.statistic_bits) as u64;
        let tiles = self.tiles(shape) as u64 * 4 * self.dtype.bits() / 8;
        dense_bytes(kept, self.bits) as u64 + 2 * statistics + tiles
    }

    /// Whether there is such a layout, but for its type.
    pub(super) fn is_valid(&self) -> bool {
        let is_bits = |bits| (1..=8).contains(&bits);
        is_bits(self.bits) && is_bits(self.statistic_bits) && self.group > 0 && self.rows > 0
    }
}

/// The data of a [`Bilevel`], row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct BilevelData {
    /// One code a weight.
    pub codes: Vec<u8>,
    /// One code a group: its scale.
    pub scales: Vec<u8>,
    /// One code a group: its zero point.
    pub zeros: Vec<u8>,
    /// Of each tile: step and least of its scales, step and least of its zero points, as they are stored.
    pub statistics: Vec<[f32; 4]>,
}

/// Small groups of integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Bilevel {
    shape: MatrixShape,
    layout: BilevelLayout,
    data: BilevelData,
}

impl Bilevel {
    /// Holds codes of weights, scales and zero points.
    ///
    /// # Panics
    /// If the numbers of any of them do not fit the shape.
    pub fn new(shape: MatrixShape, layout: BilevelLayout, data: BilevelData) -> Self {
        let groups = layout.groups(shape);
        assert_eq!(data.codes.len(), shape.elements(), "one code a weight");
        assert_eq!((data.scales.len(), data.zeros.len()), (groups, groups), "one of each a group");
        assert_eq!(data.statistics.len(), layout.tiles(shape), "four numbers a tile");
        Self { shape, layout, data }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bits, groups, tiles.
    pub fn layout(&self) -> &BilevelLayout {
        &self.layout
    }

    /// One code a weight.
    pub fn codes(&self) -> &[u8] {
        &self.data.codes
    }

    /// Codes of weights, scales and zero points, and the numbers of tiles.
    pub fn data(&self) -> &BilevelData {
        &self.data
    }

    /// Scale and zero point of a group of a row.
    pub fn grid(&self, row: usize, group: usize) -> (f32, f32) {
        let at = row * self.layout.groups_per_row(self.shape.cols) + group;
        let tile = self.data.statistics[self.layout.tile(self.shape.cols, row, group)];
        (
            tile[0] * f32::from(self.data.scales[at]) + tile[1],
            tile[2] * f32::from(self.data.zeros[at]) + tile[3],
        )
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let codes = &self.data.codes[row * self.shape.cols..(row + 1) * self.shape.cols];
        let groups = out.chunks_mut(self.layout.group).zip(codes.chunks(self.layout.group));
        for (group, (values, codes)) in groups.enumerate() {
            let (scale, zero) = self.grid(row, group);
            for (value, &code) in values.iter_mut().zip(codes) {
                *value = scale * (f32::from(code) - zero);
            }
        }
    }

    pub(super) fn parts(&self, mask: Option<&Mask>) -> Vec<Part<'_>> {
        let bits = self.layout.statistic_bits;
        let mut statistics = Vec::new();
        write_f32(self.layout.dtype, self.data.statistics.as_flattened(), &mut statistics);
        let codes = pack_dense(&gather(&self.data.codes, mask), self.layout.bits);
        vec![
            Part::new("codes", DType::U8, codes),
            Part::new("scale_codes", DType::U8, pack_dense(&self.data.scales, bits)),
            Part::new("zero_codes", DType::U8, pack_dense(&self.data.zeros, bits)),
            Part::new("statistics", self.layout.dtype, statistics),
        ]
    }

    pub(super) fn from_parts<'a>(
        layout: &BilevelLayout,
        shape: MatrixShape,
        mask: Option<&Mask>,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let stream = |name: &str, bits: u32, n: usize| {
            let bytes = part(name).filter(|bytes| bytes.len() == dense_bytes(n, bits))?;
            Some(unpack_dense(bytes, bits, n))
        };
        let kept = mask.map_or(shape.elements(), Mask::kept);
        let codes = stream("codes", layout.bits, kept)?;
        let codes = scatter(codes, shape.elements(), mask, |_| 0)?;
        let groups = layout.groups(shape);
        let scales = stream("scale_codes", layout.statistic_bits, groups)?;
        let zeros = stream("zero_codes", layout.statistic_bits, groups)?;
        let tiles = layout.tiles(shape).checked_mul(4)?;
        let statistics = floats(part("statistics")?, layout.dtype, tiles)?;
        let statistics = statistics.as_chunks().0.to_vec();
        let data = BilevelData { codes, scales, zeros, statistics };
        Some(Self { shape, layout: *layout, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_zero_points_are_codes_on_grids_of_their_tile() {
        let shape = MatrixShape { rows: 3, cols: 5 };
        let layout =
            BilevelLayout { bits: 3, group: 4, statistic_bits: 2, rows: 2, dtype: DType::F16 };
        let data = BilevelData {
            codes: (0..15).map(|i| i % 8).collect(),
            scales: vec![0, 1, 2, 3, 0, 1],
            zeros: vec![3, 2, 1, 0, 3, 2],
            statistics: vec![
                [0.5, 1.0, 1.0, 0.25],
                [0.25, 2.0, 0.5, 0.0],
                [1.0, 1.0, 0.0, 4.0],
                [0.0, 0.5, 2.0, -1.0],
            ],
        };
        let bilevel = Bilevel::new(shape, layout, data);
        // The first rows share tiles: s = 0.5·0 + 1, z = 1·3 + 0.25; s = 0.25·1 + 2, z = 0.5·2.
        assert_eq!((bilevel.grid(0, 0), bilevel.grid(0, 1)), ((1.0, 3.25), (2.25, 1.0)));
        assert_eq!((bilevel.grid(1, 0), bilevel.grid(1, 1)), ((2.0, 1.25), (2.75, 0.0)));
        assert_eq!((bilevel.grid(2, 0), bilevel.grid(2, 1)), ((1.0, 4.0), (0.5, 3.0)));
        let mut row = [0.0; 5];
        bilevel.decode_row(1, &mut row);
        assert_eq!(row, [7.5, 9.5, 11.5, -2.5, 2.75]);
        // 15 codes of 3 bits; twice 6 of 2 bits; 4 tiles of four 16-bit numbers.
        assert_eq!(layout.bytes_of(shape, 15), 6 + 2 + 2 + 32);
        let bytes: usize = bilevel.parts(None).iter().map(|part| part.bytes.len()).sum();
        assert_eq!(bytes, 42);
    }
}
