//! GPTQ's layout of quantised linear layers, as `AutoGPTQ` and `GPTQModel` write it, and its `quantization_config`.
//!
//! `qweight` i32 `[in·b/32, out]`: each column is a little-endian stream of codes along the inputs; `qzeros` i32
//! `[groups, out·b/32]`: each row a stream along the outputs; `scales` f16 `[groups, out]`; `g_idx` i32 `[in]`: the
//! group of each input, i div g unless inputs were taken in another order. w = s·(q − z), q of 2, 3, 4 or 8 bits.
//! `gptq` (v1) stores z − 1, `gptq_v2` z. Source: `pack` of `GPTQModel` and `gptq_marlin` of vLLM, 2026-08.
//!
//! `AutoRound` (`auto_round:auto_gptq`) stores the same without `g_idx`, and says it in other words.
//!
//! [`pack`] writes; [`Reader`] reads with other code, value by value, so that it can prove what was written.

mod auto_round;
mod config;

pub use auto_round::auto_round_config;
pub use config::{Config, Scheme, quantization_config};

use crate::encoding::{Affine, AffineLayout, Encoding};
use crate::format::Stored;
use crate::format::codes::Places;
use crate::format::words::{code, floats, for_each_run, word};
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::pack_dense_words;
use crate::tensor::{DType, MatrixShape, Shape, write_f32};

/// How zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// z − 1 (`gptq`).
    V1,
    /// z (`gptq_v2`).
    V2,
}

impl Version {
    /// The name in `checkpoint_format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
        }
    }
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    /// How zero points are stored.
    pub version: Version,
    /// Bits of a code.
    pub bits: u32,
    /// Groups of inputs, each with a scale for each output.
    pub groups: usize,
    /// Element type of the scales.
    pub scale_dtype: DType,
}

impl Form {
    /// The form that holds `layout`. A scale of the whole matrix is held as equal scales of all its rows.
    pub fn of(layout: &AffineLayout, shape: MatrixShape, version: Version) -> Self {
        let groups = match layout.grouping {
            Grouping::Group(size) => shape.cols.div_ceil(size),
            Grouping::Channel | Grouping::Tensor => 1,
        };
        Self { version, bits: layout.bits, groups, scale_dtype: DType::F16 }
    }

    /// The tensors that hold a layer, without their data.
    ///
    /// # Errors
    /// Rows or columns that fill no whole words, and inputs that are no whole groups, as half a sentence.
    pub fn stored(&self, shape: MatrixShape) -> Result<Vec<Stored>, String> {
        let MatrixShape { rows, cols } = shape;
        for (n, what) in [(cols, "inputs"), (rows, "outputs")] {
            if !n.is_multiple_of(32) {
                return Err(format!("its {n} {what} are no multiple of 32"));
            }
        }
        if self.groups == 0 || !cols.is_multiple_of(self.groups) {
            return Err(format!("its {cols} inputs are no {} equal groups", self.groups));
        }
        let words = |n: usize| n / 32 * self.bits as usize;
        Ok(vec![
            ("qweight", DType::I32, Shape(vec![words(cols), rows])),
            ("qzeros", DType::I32, Shape(vec![self.groups, words(rows)])),
            ("scales", self.scale_dtype, Shape(vec![self.groups, rows])),
            ("g_idx", DType::I32, Shape(vec![cols])),
        ])
    }
}

/// The bytes of the stored tensor called `suffix`; `None` for a suffix that [`Form::stored`] does not list, and for shapes
/// it refuses.
pub fn pack(form: Form, affine: &Affine, suffix: &str) -> Option<Vec<u8>> {
    form.stored(affine.shape()).ok()?;
    let MatrixShape { rows, cols } = affine.shape();
    Some(match suffix {
        "qweight" => pack_codes(affine),
        "qzeros" => {
            // z − 1 of a zero is all ones, as the loader's z + 1 within b bits is zero again.
            let less = u8::from(form.version == Version::V1);
            let zeros = by_group(affine, affine.zeros());
            let stored =
                zeros.iter().map(|zero| zero.wrapping_sub(less) & affine.layout().largest());
            let stored: Vec<u8> = stored.collect();
            stored.chunks(rows.max(1)).flat_map(|row| pack_dense_words(row, form.bits)).collect()
        }
        "scales" => {
            let mut bytes = Vec::new();
            write_f32(form.scale_dtype, &by_group(affine, affine.scales()), &mut bytes);
            bytes
        }
        "g_idx" => {
            let size = cols / form.groups;
            (0..cols).flat_map(|input| ((input / size) as i32).to_le_bytes()).collect()
        }
        _ => return None,
    })
}

/// Word `w` of row `r`'s stream of codes lies at `[w, r]`.
fn pack_codes(affine: &Affine) -> Vec<u8> {
    let MatrixShape { rows, cols } = affine.shape();
    let words = cols / 32 * affine.layout().bits as usize;
    let mut out = vec![0; 4 * words * rows];
    for (row, codes) in affine.codes().chunks(cols.max(1)).enumerate() {
        let packed = pack_dense_words(codes, affine.layout().bits);
        for (w, word) in packed.chunks(4).enumerate() {
            let at = 4 * (w * rows + row);
            out[at..at + 4].copy_from_slice(word);
        }
    }
    out
}

/// One value a group of inputs and output, `[groups, out]`, from one a row and group.
pub(super) fn by_group<T: Copy>(affine: &Affine, values: &[T]) -> Vec<T> {
    let rows = affine.shape().rows;
    if let (Grouping::Tensor, [value]) = (affine.layout().grouping, values) {
        return vec![*value; rows];
    }
    let groups = values.len().checked_div(rows).unwrap_or(0);
    let group = |group: usize| values.iter().skip(group).step_by(groups.max(1)).copied();
    (0..groups).flat_map(group).collect()
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    form: Form,
    shape: MatrixShape,
    codes: &'a [u8],
    zeros: &'a [u8],
    scales: Vec<f32>,
    /// The group of each input.
    order: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or of another length, or an input is of no group. Without
    /// `g_idx` inputs lie in order.
    pub fn new(
        form: Form,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        form.stored(shape).ok()?;
        let bits = form.bits as usize;
        let of_length = |name, words: usize| get(name).filter(|bytes| bytes.len() == 4 * words);
        let codes = of_length("qweight", shape.cols / 32 * bits * shape.rows)?;
        let zeros = of_length("qzeros", form.groups * (shape.rows / 32 * bits))?;
        let scales = floats(get("scales")?, form.scale_dtype, form.groups * shape.rows)?;
        let order: Vec<usize> = match get("g_idx") {
            Some(order) => (0..shape.cols)
                .map(|input| Some(word(order, input)? as usize).filter(|&at| at < form.groups))
                .collect::<Option<_>>()?,
            None => (0..shape.cols).map(|input| input / (shape.cols / form.groups)).collect(),
        };
        Some(Self { form, shape, codes, zeros, scales, order })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let (bits, MatrixShape { rows, cols }) = (self.form.bits as usize, self.shape);
        for_each_run(first, (cols, cols), out, |(row, _), col, values| {
            let mut zeros = vec![None; self.form.groups];
            for (i, value) in values.iter_mut().enumerate() {
                let group = *self.order.get(col + i)?;
                let zero = match zeros[group] {
                    Some(zero) => zero,
                    None => *zeros[group].insert(self.zero(row, group)?),
                };
                let code = code(col + i, bits, |at| word(self.codes, at * rows + row))?;
                let scale = self.scales.get(group * rows + row)?;
                *value = scale * f32::from(i16::from(code) - zero);
            }
            Some(())
        })
    }

    /// The codes, scales and zero points as they are; `None` where inputs were taken in another order, or a tensor is too
    /// short.
    pub fn encoding(&self) -> Option<Encoding> {
        let (bits, MatrixShape { rows, cols }) = (self.form.bits as usize, self.shape);
        let size = cols.checked_div(self.form.groups).filter(|&size| size > 0)?;
        if self.order.iter().enumerate().any(|(input, &group)| group != input / size) {
            return None;
        }
        let layout = AffineLayout {
            bits: self.form.bits,
            grouping: if size == cols { Grouping::Channel } else { Grouping::Group(size) },
            symmetric: false,
            scale_dtype: self.form.scale_dtype,
            has_offsets: false,
        };
        let places = Places {
            shape: self.shape,
            code: &|row, col| code(col, bits, |at| word(self.codes, at * rows + row)),
            scale: &|row, group| self.scales.get(group * rows + row).copied(),
            zero: &|row, group| u8::try_from(self.zero(row, group)?).ok(),
        };
        Some(Encoding::Affine(places.affine(layout)?))
    }

    fn zero(&self, row: usize, group: usize) -> Option<i16> {
        let bits = self.form.bits as usize;
        let words = self.shape.rows / 32 * bits;
        let stored = code(row, bits, |at| word(self.zeros, group * words + at))?;
        let whole = 1_i16 << self.form.bits;
        Some(match self.form.version {
            Version::V1 => (i16::from(stored) + 1) % whole,
            Version::V2 => i16::from(stored),
        })
    }
}
