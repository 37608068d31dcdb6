//! Reading codes that a range coder wrote: a run of rows at a time, once somebody asks for a weight of it.

use std::sync::OnceLock;

use crate::encoding::CodedLayout;
use crate::format::archive::reader::{Get, whole_numbers};
use crate::format::words::floats;
use crate::numeric::grid_codes::decode;
use crate::tensor::{DType, MatrixShape};

/// Runs of rows and what their codes stand for.
#[derive(Debug)]
pub(super) struct Runs<'a> {
    bytes: &'a [u8],
    ends: Vec<usize>,
    rows: usize,
    /// The magnitudes of codes 1 to 8, and how far those beyond lie apart.
    levels: Vec<f32>,
    codes: Vec<OnceLock<Option<Vec<i16>>>>,
}

impl<'a> Runs<'a> {
    pub(super) fn new(layout: &CodedLayout, shape: MatrixShape, get: &Get<'_, 'a>) -> Option<Self> {
        let n = if shape.elements() == 0 { 0 } else { shape.rows.div_ceil(layout.rows) };
        let (bytes, ends) = (get("codes")?, whole_numbers(get("ends")?, n)?);
        let levels = floats(get("levels")?, DType::F32, 9)?;
        let codes = (0..n).map(|_| OnceLock::new()).collect();
        Some(Self { bytes, ends, rows: layout.rows, levels, codes })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let run = row / self.rows;
        let codes = self.codes.get(run)?.get_or_init(|| {
            let first = run.checked_sub(1).map_or(0, |before| self.ends[before]);
            let rows = self.rows.min(shape.rows - run * self.rows);
            decode(self.bytes.get(first..self.ends[run])?, rows * shape.cols, shape.cols)
        });
        let at = row % self.rows * shape.cols + col;
        let codes = codes.as_ref()?.get(at..at + out.len())?;
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = self.value(code);
        }
        Some(())
    }

    fn value(&self, code: i16) -> f32 {
        let beyond = (code.unsigned_abs()).saturating_sub(8);
        let size = match code.unsigned_abs() - beyond {
            0 => 0.0,
            near => (self.levels[usize::from(near) - 1] + self.levels[8] * f32::from(beyond))
                .min(f32::MAX),
        };
        if code < 0 { -size } else { size }
    }
}
