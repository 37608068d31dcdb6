//! Reading codes and values that lie one after another, all of them or those that a mask keeps.

use std::sync::Arc;

use crate::encoding::{AffineLayout, BilevelLayout, FloatLayout, Layout, Levels, PaletteLayout};
use crate::format::archive::reader::Get;
use crate::format::words::floats;
use crate::numeric::grouping::Grouping;
use crate::numeric::minifloat::{FP4, NF4};
use crate::tensor::{DType, Decoder, MatrixShape};

/// Codes or values one after another, and what each means.
#[derive(Debug)]
pub(super) struct Leaf<'a> {
    bytes: &'a [u8],
    /// Where each weight lies, if not all are stored.
    marks: Option<Marks<'a>>,
    values: Values,
}

/// What stored numbers mean.
#[derive(Debug)]
enum Values {
    Dense(DType),
    Affine { layout: AffineLayout, scales: Vec<f32>, zeros: Vec<f32>, offsets: Vec<f32> },
    Palette { bits: u32, run: usize, tables: Vec<f32> },
    Float { layout: FloatLayout, scales: Vec<f32>, levels: Vec<f32> },
}

/// Weights in a block of marks whose bits are counted at once.
const BLOCK: usize = 512;

/// Which weights are stored, and how many before each block of them.
#[derive(Clone, Debug)]
pub(super) struct Marks<'a> {
    bits: &'a [u8],
    before: Arc<[usize]>,
}

impl<'a> Marks<'a> {
    /// `None` unless there is a bit for each of `n` weights and `kept` of them are set.
    pub(super) fn new(bits: &'a [u8], n: usize, kept: usize) -> Option<Self> {
        if bits.len() != n.div_ceil(8) {
            return None;
        }
        let mut before = Vec::with_capacity(n.div_ceil(BLOCK));
        let mut count = 0;
        for block in bits.chunks(BLOCK / 8) {
            before.push(count);
            count += block.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
        }
        // The last byte may have bits that no weight has.
        let beyond = (n..8 * bits.len()).filter(|&i| is_set(bits, i)).count();
        (count - beyond == kept).then(|| Self { bits, before: before.into() })
    }

    /// Whether weight `i` is stored.
    pub(super) fn keeps(&self, i: usize) -> bool {
        is_set(self.bits, i)
    }

    /// Puts zero where the weights from `first` on are not stored.
    pub(super) fn drop(&self, first: usize, out: &mut [f32]) {
        for (i, value) in out.iter_mut().enumerate() {
            if !self.keeps(first + i) {
                *value = 0.0;
            }
        }
    }

    /// Stored weights before weight `i`.
    pub(super) fn before(&self, i: usize) -> Option<usize> {
        let first = i / BLOCK * BLOCK;
        let within = (first..i).filter(|&i| is_set(self.bits, i)).count();
        Some(self.before.get(i / BLOCK)? + within)
    }
}

pub(super) fn is_set(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}

/// Code `i` of a little-endian stream of codes of `bits` bits.
fn code(bytes: &[u8], i: usize, bits: u32) -> Option<usize> {
    let at = i * bits as usize;
    let low = u32::from(*bytes.get(at / 8)?);
    let high = u32::from(bytes.get(at / 8 + 1).copied().unwrap_or(0));
    Some(((low | high << 8) >> (at % 8) & ((1 << bits) - 1)) as usize)
}

impl<'a> Leaf<'a> {
    pub(super) fn new(
        layout: &Layout,
        shape: MatrixShape,
        marks: Option<&Marks<'a>>,
        get: &Get<'_, 'a>,
    ) -> Option<Self> {
        let (name, values) = match layout {
            Layout::Dense(dtype) => ("values", Values::Dense(*dtype)),
            Layout::Affine(layout) => ("codes", Values::affine(layout, shape, get)?),
            Layout::Bilevel(layout) => ("codes", Values::bilevel(layout, shape, get)?),
            Layout::Palette(layout) => ("codes", Values::palette(layout, shape, get)?),
            Layout::Float(layout) => ("codes", Values::float(layout, shape, get)?),
            _ => return None,
        };
        Some(Self { bytes: get(name)?, marks: marks.cloned(), values })
    }

    pub(super) fn run(
        &self,
        shape: MatrixShape,
        (row, col): (usize, usize),
        out: &mut [f32],
    ) -> Option<()> {
        let first = row * shape.cols + col;
        let Some(marks) = &self.marks else {
            for (i, value) in out.iter_mut().enumerate() {
                *value = self.values.value(self.bytes, first + i, (row, col + i), shape)?;
            }
            return Some(());
        };
        let mut at = marks.before(first)?;
        for (i, value) in out.iter_mut().enumerate() {
            *value = 0.0;
            if is_set(marks.bits, first + i) {
                *value = self.values.value(self.bytes, at, (row, col + i), shape)?;
                at += 1;
            }
        }
        Some(())
    }
}

impl Values {
    fn affine(layout: &AffineLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let groups = layout.grouping.scales(shape.rows, shape.cols);
        let floats = |name| floats(get(name)?, layout.scale_dtype, groups);
        let (mut zeros, mut offsets) = (Vec::new(), Vec::new());
        if layout.has_offsets {
            offsets = floats("offsets")?;
        } else if layout.symmetric {
            zeros = vec![(1_u32 << (layout.bits - 1)) as f32; groups];
        } else {
            let stored = get("zeros")?;
            let zero = |group| Some(code(stored, group, layout.bits)? as f32);
            zeros = (0..groups).map(zero).collect::<Option<_>>()?;
        }
        Some(Self::Affine { layout: layout.clone(), scales: floats("scales")?, zeros, offsets })
    }

    /// Integers of groups whose scales and zero points are worked out beforehand.
    fn bilevel(layout: &BilevelLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let per_row = shape.cols.div_ceil(layout.group);
        let tiles = shape.rows.div_ceil(layout.rows) * per_row;
        let numbers = floats(get("statistics")?, layout.dtype, 4 * tiles)?;
        let of = |name: &str, first: usize| -> Option<Vec<f32>> {
            let codes = get(name)?;
            let value = |group: usize| {
                let tile = group / per_row / layout.rows * per_row + group % per_row;
                let (step, least) =
                    (numbers.get(4 * tile + first)?, numbers.get(4 * tile + first + 1)?);
                Some(step * code(codes, group, layout.statistic_bits)? as f32 + least)
            };
            (0..shape.rows * per_row).map(value).collect()
        };
        let (scales, zeros) = (of("scale_codes", 0)?, of("zero_codes", 2)?);
        let layout = AffineLayout {
            bits: layout.bits,
            grouping: Grouping::Group(layout.group),
            symmetric: false,
            scale_dtype: layout.dtype,
            has_offsets: false,
        };
        Some(Self::Affine { layout, scales, zeros, offsets: Vec::new() })
    }

    fn palette(layout: &PaletteLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let run = layout.rows.unwrap_or(shape.rows).max(1);
        let n = if shape.elements() == 0 { 0 } else { shape.rows.div_ceil(run) << layout.bits };
        let tables = floats(get("palette")?, layout.value_dtype, n)?;
        Some(Self::Palette { bits: layout.bits, run, tables })
    }

    fn float(layout: &FloatLayout, shape: MatrixShape, get: &Get<'_, '_>) -> Option<Self> {
        let (stored, n) = (get("scales")?, layout.tiling.scales(shape));
        let mut scales = match layout.scale_dtype {
            DType::F8E8M0 => stored.iter().map(|&exponent| power_of_two(exponent)).collect(),
            dtype => floats(stored, dtype, n)?,
        };
        if layout.scale_dtype == DType::F8E4M3 {
            let global = f32::from_le_bytes(get("global")?.try_into().ok()?);
            for scale in &mut scales {
                *scale /= global;
            }
        }
        (scales.len() == n).then(|| Self::Float {
            layout: *layout,
            scales,
            levels: levels(layout.levels),
        })
    }

    /// The weight whose number is the `at`-th stored, and whose place is `(row, col)`.
    fn value(
        &self,
        bytes: &[u8],
        at: usize,
        (row, col): (usize, usize),
        shape: MatrixShape,
    ) -> Option<f32> {
        match self {
            Self::Dense(dtype) => {
                let size = (dtype.bits() / 8) as usize;
                let mut value = [0.0];
                let stored = bytes.get(at * size..(at + 1) * size)?;
                Decoder::new(*dtype)?.f32s(stored, &mut value);
                Some(value[0])
            }
            Self::Affine { layout, scales, zeros, offsets } => {
                let group = layout.grouping.first_scale(row, shape.cols)
                    + col / layout.grouping.width(shape.cols);
                let (code, scale) = (code(bytes, at, layout.bits)? as f32, *scales.get(group)?);
                match offsets.get(group) {
                    Some(offset) => Some(scale * code + offset),
                    None => Some(scale * (code - zeros.get(group)?)),
                }
            }
            Self::Palette { bits, run, tables } => {
                tables.get(((row / run) << bits) + code(bytes, at, *bits)?).copied()
            }
            Self::Float { layout, scales, levels } => {
                let tile = layout.tiling.first_scale(row, shape.cols)
                    + col / layout.tiling.width(shape.cols);
                let level = levels.get(code(bytes, at, layout.levels.bits())?)?;
                Some(level * scales.get(tile)?)
            }
        }
    }
}

/// 2^(e − 127); the highest exponent is no number.
fn power_of_two(exponent: u8) -> f32 {
    if exponent == u8::MAX { f32::INFINITY } else { 2_f32.powi(i32::from(exponent) - 127) }
}

/// The value of every code; 0 for those of no number.
fn levels(levels: Levels) -> Vec<f32> {
    let of_bytes = |dtype: DType, largest: u8| {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let mut values = vec![0.0; codes.len()];
        if let Some(decoder) = Decoder::new(dtype) {
            decoder.f32s(&codes, &mut values);
        }
        let value = |(code, value)| if code & 0x7f > largest { 0.0 } else { value };
        codes.into_iter().zip(values).map(value).collect()
    };
    match levels {
        Levels::Nf4 => NF4.to_vec(),
        Levels::Fp4 => FP4.to_vec(),
        Levels::E2m1 => {
            let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            [magnitudes, magnitudes.map(|level: f32| -level)].concat()
        }
        Levels::E4m3 => of_bytes(DType::F8E4M3, 0x7e),
        Levels::E5m2 => of_bytes(DType::F8E5M2, 0x7b),
    }
}
