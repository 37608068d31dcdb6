//! Codes of a grid as a range coder writes them, within bytes that are given beforehand.

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _,
};
use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::encoding::affine::floats;
use crate::encoding::outliers::{index_type, indices, read_indices};
use crate::numeric::grid_codes::{LEVELS, Levels, decode};
use crate::tensor::{DType, MatrixShape, write_f32};

/// Weights that are coded together, at least: so many that what is learnt of them costs little.
const RUN: usize = 1 << 17;
/// Bytes that a run of zeros fits in, beside one for every [`ZEROS`] weights.
const LEAST_RUN: usize = 12;
/// Weights of zero that one byte holds, however unlikely the bit that says so may have become.
const ZEROS: usize = 256;
/// The part with the end of each run.
const ENDS: &str = "ends";
/// The part with the magnitudes.
const MAGNITUDES: &str = "levels";

/// Coded weights without their data. How many bytes codes take is known when they are coded, so the layout says how
/// many they have: the codes keep within, and what is left over is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CodedLayout {
    /// Bytes of the codes of the matrix, with what is left over.
    pub bytes: usize,
    /// Rows of a run, which is coded by itself; the last may have fewer.
    pub rows: usize,
    /// The bits a weight that were asked for, as a whole number.
    pub bits: u32,
}

impl CodedLayout {
    /// What takes `rate` bits a weight, everything counted, or the least that holds zeros, which is more for a few weights. `apart` bytes
    /// of the rate are for others.
    pub fn of_rate(shape: MatrixShape, rate: f64, apart: u64) -> Self {
        let rows = RUN.div_ceil(shape.cols.max(1)).clamp(1, shape.rows.max(1));
        let layout = Self { bytes: 0, rows, bits: (rate.round() as u32).max(1) };
        let all = (rate * shape.elements() as f64 / 8.0) as usize;
        let ends = layout.runs(shape) * (index_type(all).bits() / 8) as usize;
        let besides = ends + 4 * (LEVELS + 1) + apart as usize;
        Self { bytes: all.saturating_sub(besides).max(layout.least(shape)), ..layout }
    }

    /// Runs of a matrix.
    pub(super) fn runs(&self, shape: MatrixShape) -> usize {
        if shape.elements() == 0 { 0 } else { shape.rows.div_ceil(self.rows) }
    }

    fn least(&self, shape: MatrixShape) -> usize {
        self.runs(shape) * LEAST_RUN + shape.elements() / ZEROS
    }

    /// Whether zeros would fit, which also bounds what decoding takes by the bytes there are.
    pub(super) fn is_valid(&self, shape: MatrixShape) -> bool {
        let is_run = self.rows > 0 && (1..=16).contains(&self.bits);
        is_run
            && self.bytes >= self.least(shape)
            && self.bytes / 8 <= self.least(shape) + shape.elements()
    }

    /// Name, type and elements of each part.
    pub(super) fn parts(&self, shape: MatrixShape) -> [(&'static str, DType, usize); 3] {
        [
            ("codes", DType::U8, self.bytes),
            (ENDS, index_type(self.bytes), self.runs(shape)),
            (MAGNITUDES, DType::F32, LEVELS + 1),
        ]
    }

    /// Codes, ends of runs, levels. A mask above saves nothing: dropped weights are coded as zeros.
    pub(super) fn bytes(&self, shape: MatrixShape) -> u64 {
        let bits = |(_, dtype, n): (&str, DType, usize)| n as u64 * dtype.bits();
        self.parts(shape).into_iter().map(bits).sum::<u64>() / 8
    }
}

/// w = sign(q)·level of |q|: see [`Levels::value`]. Codes are held as numbers and as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Coded {
    shape: MatrixShape,
    layout: CodedLayout,
    levels: Levels,
    codes: Vec<i16>,
    bytes: Vec<u8>,
    /// Where the bytes of each run end.
    ends: Vec<usize>,
}

impl Coded {
    /// Holds codes, row by row, and the bytes of each run of them; `None` where those do not fit the layout.
    ///
    /// # Panics
    /// If the numbers of codes or runs do not fit the shape.
    pub fn new(
        shape: MatrixShape,
        layout: CodedLayout,
        levels: Levels,
        (codes, runs): (Vec<i16>, &[Vec<u8>]),
    ) -> Option<Self> {
        assert_eq!(codes.len(), shape.elements(), "a code for every weight");
        assert_eq!(runs.len(), layout.runs(shape), "all runs");
        let mut bytes = runs.concat();
        let mut end = 0;
        let ends = runs.iter().map(|run| {
            end += run.len();
            end
        });
        let ends = ends.collect();
        let fits = bytes.len() <= layout.bytes;
        bytes.resize(layout.bytes, 0);
        fits.then_some(Self { shape, layout, levels, codes, bytes, ends })
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bytes and runs.
    pub fn layout(&self) -> CodedLayout {
        self.layout
    }

    /// Bytes of the codes, without what is left over.
    pub fn used(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let codes = &self.codes[row * self.shape.cols..(row + 1) * self.shape.cols];
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = self.levels.value(code);
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        let mut levels = Vec::new();
        let values: Vec<f32> = self.levels.first.into_iter().chain([self.levels.step]).collect();
        write_f32(DType::F32, &values, &mut levels);
        vec![
            Part::new("codes", DType::U8, &self.bytes),
            indices(ENDS, &self.ends, self.layout.bytes),
            Part::new(MAGNITUDES, DType::F32, levels),
        ]
    }

    pub(super) fn from_parts<'a>(
        layout: &CodedLayout,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bytes = part("codes").filter(|bytes| bytes.len() == layout.bytes)?;
        let ends = read_indices(part(ENDS)?, layout.bytes, layout.runs(shape))?;
        let levels = floats(part(MAGNITUDES)?, DType::F32, LEVELS + 1)?;
        let (&step, first) = levels.split_last()?;
        let levels = Levels { first: first.try_into().ok()?, step };
        let rest = bytes.get(ends.last().copied().unwrap_or(0)..)?;
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        let run = |(at, &end): (usize, &usize)| {
            let first = if at == 0 { 0 } else { ends[at - 1] };
            let rows = layout.rows.min(shape.rows - at * layout.rows);
            decode(bytes.get(first..end)?, rows * shape.cols, shape.cols)
        };
        let codes: Option<Vec<Vec<i16>>> = ends.par_iter().enumerate().map(run).collect();
        let codes = codes?.concat();
        Some(Self { shape, layout: *layout, levels, codes, bytes: bytes.to_vec(), ends })
    }
}
