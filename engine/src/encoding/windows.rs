//! Codes that share bits: words or bytes of which every weight is a window, under scales for 64 inputs and for a row. The
//! layouts WINT2.5 and WINT2 of `FastDeploy`, row by row.

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::encoding::affine::floats;
use crate::numeric::windows::{IN_BYTE, IN_WORD, byte_levels, level_of_three, word_levels};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Inputs that share a scale.
pub const BLOCK: usize = 64;
/// Words of a block.
const WORDS: usize = 10;

/// What weights are windows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WindowForm {
    /// 9 words of 16 bits for 63 weights, and one for the last weight and a scale of 13 bits.
    #[serde(rename = "wint2.5")]
    Words,
    /// A byte for 4 weights, and 4 bits for the scale of 64.
    #[serde(rename = "wint2")]
    Bytes,
    /// A word of 16 bits for 7 weights of a row, and no scales but those of rows.
    #[serde(rename = "wint2.286")]
    Bare,
}

/// Windows without their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowsLayout {
    /// What weights are windows of.
    pub form: WindowForm,
    /// Element type of the scales of rows: F16, BF16 or F32.
    pub dtype: DType,
}

impl WindowsLayout {
    /// Blocks of a row; the last may be partly beyond it.
    pub(super) fn blocks(cols: usize) -> usize {
        cols.div_ceil(BLOCK)
    }

    /// Parts with their element types and numbers of elements.
    pub(super) fn parts(self, shape: MatrixShape) -> Vec<(&'static str, DType, usize)> {
        let (rows, blocks) = (shape.rows, Self::blocks(shape.cols));
        let scales = ("super_scales", self.dtype, rows);
        match self.form {
            WindowForm::Words => vec![("words", DType::U16, rows * blocks * WORDS), scales],
            WindowForm::Bare => {
                vec![("words", DType::U16, rows * shape.cols.div_ceil(IN_WORD)), scales]
            }
            WindowForm::Bytes => vec![
                ("codes", DType::U8, rows * shape.cols.div_ceil(IN_BYTE)),
                ("local_scales", DType::U8, rows * blocks.div_ceil(2)),
                ("code_scales", DType::F32, rows),
                ("code_zeros", DType::F32, rows),
                scales,
            ],
        }
    }

    /// 10 words for 64 weights, or one for 7, and a scale a row; or a byte for 4, half a byte for 64, and three numbers a row.
    pub(super) fn bytes(self, shape: MatrixShape) -> u64 {
        let of = |(_, dtype, n): (_, DType, usize)| n as u64 * dtype.bits() / 8;
        self.parts(shape).into_iter().map(of).sum()
    }

    pub(super) fn bits(self) -> u32 {
        match self.form {
            WindowForm::Words | WindowForm::Bare => 3,
            WindowForm::Bytes => 2,
        }
    }
}

/// The data of [`Windows`], row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowsData {
    /// Of [`WindowForm::Words`] ten words a block, the last of which holds the scale; otherwise the bytes, or the words.
    pub codes: Vec<u16>,
    /// Of [`WindowForm::Bytes`] the scale of each block, 0 to 15.
    pub local: Vec<u8>,
    /// Of [`WindowForm::Bytes`] the map of the bytes of each row.
    pub maps: Vec<[f32; 2]>,
    /// The scale of each row, as it is stored.
    pub supers: Vec<f32>,
}

/// w = (window − middle)·(scale of the block · scale of the row).
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    shape: MatrixShape,
    layout: WindowsLayout,
    data: WindowsData,
}

impl Windows {
    /// Holds codes and scales.
    ///
    /// # Panics
    /// If the numbers of any of them do not fit the shape.
    pub fn new(shape: MatrixShape, layout: WindowsLayout, data: WindowsData) -> Self {
        let is_bytes = layout.form == WindowForm::Bytes;
        let blocks = shape.rows * WindowsLayout::blocks(shape.cols);
        let per_row = if is_bytes { shape.rows } else { 0 };
        assert_eq!(data.codes.len(), layout.parts(shape)[0].2, "all codes");
        assert_eq!(data.local.len(), if is_bytes { blocks } else { 0 }, "a scale a block");
        assert_eq!((data.maps.len(), data.supers.len()), (per_row, shape.rows), "one a row");
        Self { shape, layout, data }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Form and type of scales.
    pub fn layout(&self) -> &WindowsLayout {
        &self.layout
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let (data, blocks) = (&self.data, WindowsLayout::blocks(self.shape.cols));
        let of_row = data.supers[row];
        if self.layout.form == WindowForm::Bare {
            let per_row = self.shape.cols.div_ceil(IN_WORD);
            let words = &data.codes[row * per_row..(row + 1) * per_row];
            for (out, &word) in out.chunks_mut(IN_WORD).zip(words) {
                let levels = word_levels(word);
                out.iter_mut().zip(levels).for_each(|(value, level)| *value = level * of_row);
            }
            return;
        }
        if self.layout.form == WindowForm::Words {
            let words = data.codes[row * blocks * WORDS..].chunks(WORDS);
            for (out, words) in out.chunks_mut(BLOCK).zip(words) {
                let last = words[WORDS - 1];
                let scale = f32::from(last & 0x1fff) * of_row;
                for (out, &word) in out.chunks_mut(IN_WORD).zip(words) {
                    let levels = word_levels(word);
                    out.iter_mut().zip(levels).for_each(|(value, level)| *value = level * scale);
                }
                if let Some(value) = out.get_mut(BLOCK - 1) {
                    *value = level_of_three(last >> 13) * scale;
                }
            }
            return;
        }
        let per_row = self.shape.cols.div_ceil(IN_BYTE);
        let codes = &data.codes[row * per_row..(row + 1) * per_row];
        let blocks = out.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / IN_BYTE)).enumerate();
        for (block, (out, codes)) in blocks {
            let at = row * WindowsLayout::blocks(self.shape.cols) + block;
            let scale = f32::from(data.local[at]) * of_row;
            for (out, &code) in out.chunks_mut(IN_BYTE).zip(codes) {
                let levels = byte_levels(code as u8, data.maps[row]);
                out.iter_mut().zip(levels).for_each(|(value, level)| *value = level * scale);
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let data = &self.data;
        let floats = |dtype, values: &[f32]| {
            let mut bytes = Vec::new();
            write_f32(dtype, values, &mut bytes);
            bytes
        };
        let supers = floats(self.layout.dtype, &data.supers);
        let bytes = match self.layout.form {
            WindowForm::Words | WindowForm::Bare => {
                vec![data.codes.iter().flat_map(|word| word.to_le_bytes()).collect(), supers]
            }
            WindowForm::Bytes => {
                let blocks = WindowsLayout::blocks(self.shape.cols).max(1);
                let pair = |pair: &[u8]| pair[0] << 4 | pair.get(1).copied().unwrap_or(0);
                let row = |row| <[u8]>::chunks(row, 2).map(pair).collect::<Vec<u8>>();
                let map = |i: usize| data.maps.iter().map(|map| map[i]).collect::<Vec<f32>>();
                vec![
                    data.codes.iter().map(|&code| code as u8).collect(),
                    data.local.chunks(blocks).flat_map(row).collect(),
                    floats(DType::F32, &map(0)),
                    floats(DType::F32, &map(1)),
                    supers,
                ]
            }
        };
        let specs = self.layout.parts(self.shape).into_iter().zip(bytes);
        specs.map(|((name, dtype, _), bytes)| Part::new(name, dtype, bytes)).collect()
    }

    pub(super) fn from_parts<'a>(
        layout: WindowsLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        for (name, dtype, n) in layout.parts(shape) {
            if part(name)?.len() as u64 != n as u64 * dtype.bits() / 8 {
                return None;
            }
        }
        let supers = floats(part("super_scales")?, layout.dtype, shape.rows)?;
        let data = if layout.form == WindowForm::Bytes {
            let of = |name| floats(part(name)?, DType::F32, shape.rows);
            let maps = of("code_scales")?.into_iter().zip(of("code_zeros")?);
            let blocks = WindowsLayout::blocks(shape.cols);
            let bytes = part("local_scales")?.chunks(blocks.div_ceil(2).max(1));
            let row = |row: &[u8]| {
                let of = |block: usize| row[block / 2] >> (4 * (1 - block % 2)) & 15;
                (0..blocks).map(of).collect::<Vec<u8>>()
            };
            WindowsData {
                codes: part("codes")?.iter().map(|&code| u16::from(code)).collect(),
                local: bytes.flat_map(row).collect(),
                maps: maps.map(|(scale, zero)| [scale, zero]).collect(),
                supers,
            }
        } else {
            let words = part("words")?.as_chunks::<2>().0.iter();
            let codes = words.map(|bytes| u16::from_le_bytes(*bytes)).collect();
            WindowsData { codes, local: Vec::new(), maps: Vec::new(), supers }
        };
        Some(Self { shape, layout, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: MatrixShape = MatrixShape { rows: 1, cols: 64 };

    fn check(layout: WindowsLayout, parts: &[(&str, Vec<u8>)], expected: &[i8], scale: f32) {
        let get = |name: &str| {
            parts.iter().find(|(part, _)| *part == name).map(|(_, bytes)| bytes.as_slice())
        };
        let windows = Windows::from_parts(layout, SHAPE, &get).unwrap();
        let mut row = [0.0; 64];
        windows.decode_row(0, &mut row);
        let expected: Vec<f32> = expected.iter().map(|&level| f32::from(level) * scale).collect();
        assert_eq!(row.as_slice(), expected);
        let bytes: Vec<Vec<u8>> =
            windows.parts().into_iter().map(|part| part.bytes.into_owned()).collect();
        assert_eq!(bytes, parts.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
        let stored: usize = bytes.iter().map(Vec::len).sum();
        assert_eq!(layout.bytes(SHAPE), stored as u64);
    }

    /// Random words, decoded by numpy as `FastDeploy`'s test of its kernel describes them.
    #[test]
    fn words_are_those_of_wint25() {
        let words: [u16; 10] =
            [32820, 13516, 61533, 46084, 44940, 45122, 57198, 45145, 32413, 43413];
        let expected = [
            0, -4, -4, -4, -1, 1, 0, -3, 2, -2, -1, 0, -1, 0, 3, 2, -4, -3, 1, 3, 1, 1, 2, -2, -4,
            -4, -3, 0, 1, 1, 3, 2, -4, -1, 0, 1, 2, -4, -3, 0, -4, -2, 2, -1, 3, 1, 2, -1, 2, 1, 2,
            -4, -3, 1, 2, -3, -1, 3, 3, -2, -3, 3, 1, 1,
        ];
        let layout = WindowsLayout { form: WindowForm::Words, dtype: DType::F16 };
        let words = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // 43413 = 5·2¹³ + 2453; the scale of the row is 2⁻¹⁰, in half floats 5·2¹⁰.
        let parts = [("words", words), ("super_scales", vec![0, 0x14])];
        check(layout, &parts, &expected, 2453.0 / 1024.0);
    }

    /// The same for bytes under a map of 121 and 68; the first block has the high half of the byte of scales.
    #[test]
    fn bytes_are_those_of_wint2() {
        let codes = vec![148, 31, 191, 44, 180, 80, 105, 52, 242, 15, 183, 93, 69, 173, 80, 156];
        let expected = [
            3, -8, -25, 24, -25, 27, -3, 11, 13, 10, -15, -21, -22, -12, 2, -16, 10, -11, 11, -8,
            -13, -8, -30, -12, -8, -25, 28, 5, -20, 3, -5, -8, 25, -22, -12, 6, -29, -3, 11, -5,
            11, -5, -8, -29, -10, 16, -25, 25, -16, -29, -4, 1, 9, -24, -31, -23, -13, -8, -30,
            -12, 5, 8, -32, -32,
        ];
        let layout = WindowsLayout { form: WindowForm::Bytes, dtype: DType::F32 };
        let parts = [
            ("codes", codes),
            ("local_scales", vec![0xb0]),
            ("code_scales", 121_f32.to_le_bytes().to_vec()),
            ("code_zeros", 68_f32.to_le_bytes().to_vec()),
            ("super_scales", 0.25_f32.to_le_bytes().to_vec()),
        ];
        check(layout, &parts, &expected, 11.0 * 0.25);
    }
}
