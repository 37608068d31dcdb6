//! `SpQR`'s layout of linear layers, as the authors' package `spqr_quant` and transformers read it, and its
//! `quantization_config`.
//!
//! `dense_weights` i64, a word for each group of 16 inputs of an output: tiles of 16 outputs row by row, in a tile output by
//! output. Of a word bits 0–2 are the code of the scale, 3–5 of the zero point, 6–53 the 16 weights', 54–61 one of the
//! eight bytes of four F16 numbers of the tile: byte k of the outputs 2k and 2k + 1. These are the unit of scales, the unit of zero points and the
//! zero points of both: s = u·(q − v), z = u'·(q' − v'), w = s·(code − z). `row_offsets` i32 `[out + 1]` and `col_vals` i32,
//! column in the lower half and F16 in the upper, are single weights that are added, output by output; `in_perm` i32 is empty
//! where inputs lie in order.
//! Source: `tensor_compress_interleaved` and `dequantize_compressed` of `spqr_quant` 0.2.0, `SpQRConfig` of transformers
//! 5.23, 2026-11. The kernels compute all this in half precision; here, as with every format, the numbers count.
//!
//! [`pack`] writes; [`Reader`] reads with other code, value by value, so that it can prove what was written.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::encoding::{Bilevel, BilevelData, BilevelLayout, Encoding, Layout, Outliers, Sum};
use crate::format::Stored;
use crate::format::words::{floats, for_each_run, word};
use crate::tensor::{DType, MatrixShape, Shape, round_f32, write_f32};

/// Inputs of a group, and outputs of a tile.
pub const SIDE: usize = 16;
/// Bits of every code.
const BITS: u32 = 3;
/// Inputs a column number of 15 bits tells apart.
pub const MOST_INPUTS: usize = 1 << 15;
/// Where in a word its byte of the tile's numbers lies.
const BYTE_AT: u32 = 54;

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Single weights that are added.
    pub kept: usize,
}

/// What this format holds of small groups: their layout under numbers of a tile in `dtype`.
const fn groups(dtype: DType) -> BilevelLayout {
    BilevelLayout { bits: BITS, group: SIDE, statistic_bits: BITS, rows: SIDE, dtype }
}

impl Form {
    /// The form of a layer of small groups, with or without single weights; `None` for what has none here.
    pub fn of(layout: &Layout) -> Option<Self> {
        let is_held = |base: &BilevelLayout| *base == groups(base.dtype);
        match layout {
            Layout::Bilevel(base) if is_held(base) => Some(Self { kept: 0 }),
            Layout::Sum(sum) => match (&*sum.base, &*sum.correction) {
                (Layout::Bilevel(base), Layout::Outliers(few)) if is_held(base) => {
                    Some(Self { kept: few.kept })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The tensors that hold a layer, without their data.
    ///
    /// # Errors
    /// Inputs and outputs that are no whole tiles, and more inputs than columns are told apart, as half a sentence.
    pub fn stored(&self, shape: MatrixShape) -> Result<Vec<Stored>, String> {
        let MatrixShape { rows, cols } = shape;
        for (n, what) in [(cols, "inputs"), (rows, "outputs")] {
            if n == 0 || !n.is_multiple_of(SIDE) {
                return Err(format!("its {n} {what} are no multiple of {SIDE}"));
            }
        }
        if cols > MOST_INPUTS || i32::try_from(self.kept).is_err() {
            let kept = self.kept;
            return Err(format!("{kept} single weights of {cols} inputs are too many"));
        }
        Ok(vec![
            ("dense_weights", DType::I64, Shape(vec![rows * (cols / SIDE)])),
            ("row_offsets", DType::I32, Shape(vec![rows + 1])),
            ("col_vals", DType::I32, Shape(vec![self.kept])),
            ("in_perm", DType::I32, Shape(vec![0])),
        ])
    }
}

/// The four numbers of a tile as they are stored: unit of scales, unit of zero points, zero point of scales, zero point of
/// zero points.
type Tile = [f32; 4];

/// A unit and a zero point in F16 for values a·q + b, and whether all codes are to be zero: a grid too narrow for F16 to
/// say where it begins becomes its beginning.
fn unit_and_zero(step: f32, least: f32) -> (f32, f32, bool) {
    let half = |value: f32| round_f32(DType::F16, value);
    let unit = half(step);
    let zero = half(-least / unit);
    // At 2¹¹ and beyond, F16 tells no two codes apart.
    if unit != 0.0 && zero.abs() < 2048.0 {
        return (unit, zero, false);
    }
    // Never a zero with a sign.
    (half(least) + 0.0, -1.0, true)
}

/// What the format holds of small groups and single weights: the numbers of tiles and the single weights in F16.
///
/// # Errors
/// A number beyond the range of F16.
pub fn held(encoding: &Encoding) -> Option<Result<Encoding, f32>> {
    let (base, few) = match encoding {
        Encoding::Bilevel(base) => (base, None),
        Encoding::Sum(sum) => match (sum.base(), sum.correction()) {
            (Encoding::Bilevel(base), Encoding::Outliers(few)) => (base, Some(few)),
            _ => return None,
        },
        _ => return None,
    };
    Form::of(&encoding.layout())?;
    let shape = base.shape();
    let mut data = base.data().clone();
    let across = shape.cols.div_ceil(SIDE);
    let mut beyond = None;
    for (tile, numbers) in data.statistics.iter_mut().enumerate() {
        let [step, least, zero_step, zero_least] = *numbers;
        let (unit, zero, is_flat) = unit_and_zero(step, least);
        let (zero_unit, zero_zero, is_zero_flat) = unit_and_zero(zero_step, zero_least);
        // Products of two numbers in F16 are exact in f32.
        *numbers = [unit, -(unit * zero), zero_unit, -(zero_unit * zero_zero)];
        let is_beyond = |&at: &usize| !numbers[at].is_finite();
        beyond =
            beyond.or((0..4).find(is_beyond).map(|at| [step, least, zero_step, zero_least][at]));
        let first = tile / across * SIDE;
        for row in first..(first + SIDE).min(shape.rows) {
            let at = row * across + tile % across;
            data.scales[at] *= u8::from(!is_flat);
            data.zeros[at] *= u8::from(!is_zero_flat);
        }
    }
    let values: Vec<(usize, f32)> = few.map_or_else(Vec::new, Outliers::placed);
    let (places, values): (Vec<usize>, Vec<f32>) = values.into_iter().unzip();
    let halves = values.iter().find(|value| !round_f32(DType::F16, **value).is_finite());
    if let Some(number) = beyond.or(halves.copied()) {
        return Some(Err(number));
    }
    let base = Encoding::Bilevel(Bilevel::new(shape, groups(DType::F32), data));
    let few = few.map(|_| Outliers::new(shape, DType::F16, &places, &values));
    Some(Ok(match few {
        Some(few) => Encoding::Sum(Sum::new(base, Encoding::Outliers(few))),
        None => base,
    }))
}

/// The bytes of the stored tensor called `suffix` of a layer that [`held`] gave; `None` for a suffix that
/// [`Form::stored`] does not list, and for layers that have no form.
pub fn pack(encoding: &Encoding, suffix: &str) -> Option<Vec<u8>> {
    let (base, few) = match encoding {
        Encoding::Bilevel(base) => (base, Vec::new()),
        Encoding::Sum(sum) => match (sum.base(), sum.correction()) {
            (Encoding::Bilevel(base), Encoding::Outliers(few)) => (base, few.placed()),
            _ => return None,
        },
        _ => return None,
    };
    let shape = base.shape();
    Form::of(&encoding.layout())?.stored(shape).ok()?;
    Some(match suffix {
        "dense_weights" => {
            let tiles = (0..shape.rows / SIDE)
                .flat_map(|down| (0..shape.cols / SIDE).map(move |across| (down, across)));
            tiles.flat_map(|place| pack_tile(base, place)).flat_map(u64::to_le_bytes).collect()
        }
        "row_offsets" => (0..=shape.rows)
            .flat_map(|row| {
                let before = few.partition_point(|(place, _)| *place < row * shape.cols);
                (before as i32).to_le_bytes()
            })
            .collect(),
        "col_vals" => {
            let mut bytes = Vec::new();
            for (place, value) in few {
                bytes.extend(((place % shape.cols) as u16).to_le_bytes());
                write_f32(DType::F16, &[value], &mut bytes);
            }
            bytes
        }
        "in_perm" => Vec::new(),
        _ => return None,
    })
}

/// The words of a tile of 16 outputs.
fn pack_tile(base: &Bilevel, (down, across): (usize, usize)) -> [u64; SIDE] {
    let (cols, data) = (base.shape().cols, base.data());
    let groups = cols / SIDE;
    let [unit, least, zero_unit, zero_least] = data.statistics[down * groups + across];
    // `held` made what begins a grid a product of its unit.
    let zero = |unit: f32, least: f32| if unit == 0.0 { 0.0 } else { -least / unit };
    let tile: Tile = [unit, zero_unit, zero(unit, least), zero(zero_unit, zero_least)];
    let mut numbers = Vec::new();
    write_f32(DType::F16, &tile, &mut numbers);
    std::array::from_fn(|output| {
        let row = down * SIDE + output;
        let group = row * groups + across;
        let codes = &data.codes[row * cols + across * SIDE..][..SIDE];
        let first = [data.scales[group], data.zeros[group]];
        let codes = first.iter().chain(codes).rev();
        let word = codes.fold(0, |word, &code| word << BITS | u64::from(code));
        word | u64::from(numbers[output / 2]) << BYTE_AT
    })
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    shape: MatrixShape,
    words: &'a [u8],
    offsets: &'a [u8],
    few: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or of another length, and where single weights are not in
    /// order.
    pub fn new(
        form: Form,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        form.stored(shape).ok()?;
        let of_length = |name, n: Option<usize>| get(name).filter(|b| Some(b.len()) == n);
        let n = shape.rows.checked_mul(shape.cols / SIDE)?;
        let words = of_length("dense_weights", n.checked_mul(8))?;
        let offsets = of_length("row_offsets", (shape.rows + 1).checked_mul(4))?;
        let few = of_length("col_vals", form.kept.checked_mul(4))?;
        of_length("in_perm", Some(0))?;
        let reader = Self { shape, words, offsets, few };
        reader.is_ordered(form.kept)?.then_some(reader)
    }

    /// Whether rows follow one another without a gap, and columns of a row ascend.
    fn is_ordered(&self, kept: usize) -> Option<bool> {
        let (first, last) = (self.offset(0)?, self.offset(self.shape.rows)?);
        let mut is_ordered = (first, last) == (0, kept);
        for row in 0..self.shape.rows {
            let (from, to) = (self.offset(row)?, self.offset(row + 1)?);
            if from > to || to > kept {
                return Some(false);
            }
            let columns: Vec<usize> =
                (from..to).map(|at| self.single(at).map(|(col, _)| col)).collect::<Option<_>>()?;
            let is_within = columns.last().is_none_or(|&last| last < self.shape.cols);
            is_ordered &= is_within && columns.is_sorted_by(|a, b| a < b);
        }
        Some(is_ordered)
    }

    /// Single weights of the rows before `row`.
    fn offset(&self, row: usize) -> Option<usize> {
        usize::try_from(word(self.offsets, row)?).ok()
    }

    /// Column and value of a single weight.
    fn single(&self, at: usize) -> Option<(usize, f32)> {
        let word = word(self.few, at)?;
        let value = floats(&((word >> 16) as u16).to_le_bytes(), DType::F16, 1)?;
        Some(((word & 0xffff) as usize, value[0]))
    }

    /// Low and high half of the word of a group of a row.
    fn halves(&self, row: usize, group: usize) -> Option<(u32, u32)> {
        let tile = row / SIDE * (self.shape.cols / SIDE) + group;
        let at = (tile * SIDE + row % SIDE).checked_mul(2)?;
        Some((word(self.words, at)?, word(self.words, at + 1)?))
    }

    /// Code `i` of the 18 of a group.
    fn code(&self, row: usize, group: usize, i: u32) -> Option<u8> {
        let (low, high) = self.halves(row, group)?;
        let bit = |at: u32| if at < 32 { low >> at & 1 } else { high >> (at - 32) & 1 };
        Some((0..BITS).map(|k| bit(BITS * i + k) << k).sum::<u32>() as u8)
    }

    /// The numbers of the tile of a group: unit and beginning of scales, unit and beginning of zero points.
    fn tile(&self, row: usize, group: usize) -> Option<Tile> {
        let first = row / SIDE * SIDE;
        let byte = |k: usize| {
            let (_, high) = self.halves(first + 2 * k, group)?;
            Some((high >> (BYTE_AT - 32) & 0xff) as u8)
        };
        let bytes: Vec<u8> = (0..8).map(byte).collect::<Option<_>>()?;
        let numbers = floats(&bytes, DType::F16, 4)?;
        let [unit, zero_unit, zero, zero_zero] = *numbers.first_chunk()?;
        Some([unit, -(unit * zero), zero_unit, -(zero_unit * zero_zero)])
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        for_each_run(first, (self.shape.cols, SIDE), out, |(row, group), col, values| {
            let [unit, least, zero_unit, zero_least] = self.tile(row, group)?;
            let scale = unit * f32::from(self.code(row, group, 0)?) + least;
            let zero = zero_unit * f32::from(self.code(row, group, 1)?) + zero_least;
            for (i, value) in values.iter_mut().enumerate() {
                let code = self.code(row, group, (col % SIDE + i) as u32 + 2)?;
                *value = scale * (f32::from(code) - zero);
            }
            for at in self.offset(row)?..self.offset(row + 1)? {
                let (column, added) = self.single(at)?;
                if let Some(value) = column.checked_sub(col).and_then(|i| values.get_mut(i)) {
                    *value += added;
                }
            }
            Some(())
        })
    }

    /// Codes, numbers of tiles and single weights as they are.
    pub fn encoding(&self) -> Option<Encoding> {
        let MatrixShape { rows, cols } = self.shape;
        let groups_of =
            || (0..rows).flat_map(|row| (0..cols / SIDE).map(move |group| (row, group)));
        let of_group = |i: u32| -> Option<Vec<u8>> {
            groups_of().map(|(row, group)| self.code(row, group, i)).collect()
        };
        let code = |at: usize| self.code(at / cols, at % cols / SIDE, (at % SIDE) as u32 + 2);
        let tiles = groups_of().filter(|(row, _)| row.is_multiple_of(SIDE));
        let data = BilevelData {
            codes: (0..rows * cols).map(code).collect::<Option<_>>()?,
            scales: of_group(0)?,
            zeros: of_group(1)?,
            statistics: tiles.map(|(row, group)| self.tile(row, group)).collect::<Option<_>>()?,
        };
        let base = Encoding::Bilevel(Bilevel::new(self.shape, groups(DType::F32), data));
        let mut singles = (Vec::new(), Vec::new());
        for row in 0..rows {
            for at in self.offset(row)?..self.offset(row + 1)? {
                let (col, value) = self.single(at)?;
                singles.0.push(row * cols + col);
                singles.1.push(value);
            }
        }
        if singles.0.is_empty() {
            return Some(base);
        }
        let few = Outliers::new(self.shape, DType::F16, &singles.0, &singles.1);
        Some(Encoding::Sum(Sum::new(base, Encoding::Outliers(few))))
    }
}

/// The `quantization_config` of a checkpoint with these layers, whose modules `kept` stay as they are. transformers asks for
/// the elements of every tensor beforehand.
pub fn quantization_config(layers: &[(&str, Form, MatrixShape)], kept: &[String]) -> Value {
    let mut shapes = Map::new();
    for (module, form, shape) in layers {
        for (suffix, _, extents) in form.stored(*shape).unwrap_or_default() {
            shapes.insert(format!("{module}.{suffix}.shape"), json!(extents.elements()));
        }
    }
    json!({
        "quant_method": "spqr",
        "bits": BITS,
        "beta1": SIDE,
        "beta2": SIDE,
        "shapes": shapes,
        "modules_to_not_convert": kept,
    })
}

#[derive(Deserialize)]
struct Raw {
    bits: Option<u32>,
    beta1: Option<usize>,
    beta2: Option<usize>,
}

/// Reads the `quantization_config` of a config.json.
///
/// # Errors
/// What is not understood, as half a sentence.
pub fn check_config(value: &Value) -> Result<(), String> {
    let raw = Raw::deserialize(value)
        .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
    let [down, across] = [raw.beta1, raw.beta2].map(|side| side.unwrap_or(SIDE));
    let bits = raw.bits.unwrap_or(BITS);
    if (bits, down, across) == (BITS, SIDE, SIDE) {
        return Ok(());
    }
    Err(format!("its SpQR layers have {bits} bits in tiles of {down} by {across}"))
}

#[cfg(test)]
mod tests;
