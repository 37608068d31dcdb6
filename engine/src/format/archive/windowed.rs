//! Reading codes that share bits, weight by weight: each is cut out of its word or of what its byte is mapped to.

use crate::encoding::{WindowForm, WindowsLayout};
use crate::format::archive::reader::Get;
use crate::format::words::floats;
use crate::tensor::{DType, MatrixShape};

/// Windows and scales.
#[derive(Debug)]
pub(super) struct Windowed<'a> {
    codes: &'a [u8],
    /// Two for a byte, of bytes alone.
    local: Option<&'a [u8]>,
    maps: [Vec<f32>; 2],
    scales: Vec<f32>,
    /// Whether words hold nothing but weights.
    is_bare: bool,
}

impl<'a> Windowed<'a> {
    pub(super) fn new(
        layout: WindowsLayout,
        shape: MatrixShape,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        let scales = floats(get("super_scales")?, layout.dtype, shape.rows)?;
        let (codes, local, maps) = match layout.form {
            WindowForm::Words | WindowForm::Bare => (get("words")?, None, [Vec::new(), Vec::new()]),
            WindowForm::Bytes => {
                let map = |name| floats(get(name)?, DType::F32, shape.rows);
                let maps = [map("code_scales")?, map("code_zeros")?];
                (get("codes")?, Some(get("local_scales")?), maps)
            }
        };
        Some(Self { codes, local, maps, scales, is_bare: layout.form == WindowForm::Bare })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        for (i, value) in out.iter_mut().enumerate() {
            *value = match self.local {
                None => self.of_word(shape, row, col + i)?,
                Some(local) => self.of_byte(local, shape, (row, col + i))?,
            };
        }
        Some(())
    }

    fn of_word(&self, shape: MatrixShape, row: usize, col: usize) -> Option<f32> {
        let word = |at: usize| {
            let bytes = self.codes.get(2 * at..2 * at + 2)?;
            Some(u32::from(bytes[0]) | u32::from(bytes[1]) << 8)
        };
        let shifts = [13, 11, 9, 6, 4, 2, 0];
        if self.is_bare {
            let code = word(row * shape.cols.div_ceil(7) + col / 7)? >> shifts[col % 7] & 7;
            return Some((code as f32 - 4.0) * self.scales.get(row)?);
        }
        let block = (row * shape.cols.div_ceil(64) + col / 64) * 10;
        let scale = (word(block + 9)? & 0x1fff) as f32 * self.scales.get(row)?;
        let (at, window) = (col % 64 / 7, col % 64 % 7);
        // The 64th weight has the place of a first window in the last word.
        let code = word(block + at)? >> shifts[window] & 7;
        Some((code as f32 - 4.0) * scale)
    }

    fn of_byte(&self, local: &[u8], shape: MatrixShape, (row, col): (usize, usize)) -> Option<f32> {
        let (blocks, block) = (shape.cols.div_ceil(64), col / 64);
        let pair = *local.get(row * blocks.div_ceil(2) + block / 2)?;
        let own = if block.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
        let scale = f32::from(own) * self.scales.get(row)?;
        let byte = *self.codes.get(row * shape.cols.div_ceil(4) + col / 4)?;
        let mapped = f32::from(byte) * self.maps[0].get(row)? + self.maps[1].get(row)? + 0.5;
        let code = mapped.floor() as i32 >> (9 - 3 * (col % 4)) & 63;
        Some((code as f32 - 32.0) * scale)
    }
}
