//! MLX's layout of quantised layers, and its `quantization`.
//!
//! *affine*: `weight` u32 `[out, in·b/32]`, each row a little-endian stream of codes q of 2, 3, 4, 5, 6 or 8 bits;
//! `scales` and `biases` `[out, in/g]` of one type; w = s·q + o, groups of 32, 64 or 128. *mxfp4*, *mxfp8*: `weight`
//! u32 of E2M1 or E4M3 codes, `scales` u8 `[out, in/32]`, each the exponent of a power of two (E8M0); no biases.
//! Source: `quantize` and `dequantize` of ml-explore/mlx, 0.29.
//!
//! [`pack`] writes; [`Reader`] reads with other code, value by value, so that it can prove what was written.

mod config;

pub use config::{Config, module_name, quantization};

use crate::encoding::{
    Affine, AffineData, AffineLayout, Encoding, Float, FloatData, FloatLayout, Layout, Levels,
    Tiling,
};
use crate::format::Stored;
use crate::format::codes::with_whole_zeros;
use crate::format::words::{code, floats, for_each_run, word};
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::pack_rows;
use crate::tensor::{DType, Decoder, MatrixShape, Shape, write_f32};

/// Inputs that share a scale where codes are small floats.
const FLOAT_GROUP: usize = 32;

/// What codes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// s·q + o.
    Affine,
    /// E2M1 under a power of two.
    Mxfp4,
    /// E4M3 under a power of two.
    Mxfp8,
}

impl Mode {
    /// Its name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
        }
    }
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    /// What codes stand for.
    pub mode: Mode,
    /// Bits of a code.
    pub bits: u32,
    /// Inputs that share a scale.
    pub group_size: usize,
    /// Element type of scales and offsets; U8 where they are exponents.
    pub scale_dtype: DType,
}

impl Form {
    /// The form that holds `layout`, masked or not; `None` where there is none.
    pub fn of(layout: &Layout) -> Option<Self> {
        match layout.under_masks() {
            Layout::Affine(affine) => {
                let Grouping::Group(group_size) = affine.grouping else { return None };
                let (bits, scale_dtype) = (affine.bits, affine.scale_dtype);
                Some(Self { mode: Mode::Affine, bits, group_size, scale_dtype })
            }
            Layout::Float(float) => Self::of_float(float),
            _ => None,
        }
    }

    fn of_float(layout: &FloatLayout) -> Option<Self> {
        let mode = match layout.levels {
            Levels::E2m1 => Mode::Mxfp4,
            Levels::E4m3 => Mode::Mxfp8,
            _ => return None,
        };
        let is_mx = layout.tiling == Tiling::Rows(Grouping::Group(FLOAT_GROUP))
            && layout.scale_dtype == DType::F8E8M0;
        let bits = layout.levels.bits();
        let form = Self { mode, bits, group_size: FLOAT_GROUP, scale_dtype: DType::U8 };
        is_mx.then_some(form)
    }

    /// The tensors that hold a layer, without their data.
    ///
    /// # Errors
    /// Rows that are no whole groups, and groups that are no whole words, as half a sentence.
    pub fn stored(&self, shape: MatrixShape) -> Result<Vec<Stored>, String> {
        let MatrixShape { rows, cols } = shape;
        let (size, bits) = (self.group_size, self.bits as usize);
        if size == 0 || !cols.is_multiple_of(size) {
            return Err(format!("groups of {size} do not divide its {cols} inputs"));
        }
        if !(size * bits).is_multiple_of(32) {
            return Err(format!("groups of {size} codes of {bits} bits fill no whole words"));
        }
        let groups = Shape(vec![rows, cols / size]);
        let words = Shape(vec![rows, cols / size * (size * bits / 32)]);
        let mut tensors =
            vec![("weight", DType::U32, words), ("scales", self.scale_dtype, groups.clone())];
        if self.mode == Mode::Affine {
            tensors.push(("biases", self.scale_dtype, groups));
        }
        Ok(tensors)
    }
}

/// Grouped integers as MLX holds them: with the offset o = −s·z, rounded to the type of the scales, in place of a zero
/// point. Of symmetric codes it is s·2^(b−1), which every type holds.
pub fn with_offsets(affine: &Affine) -> Affine {
    let mut layout = affine.layout().clone();
    if layout.has_offsets {
        return affine.clone();
    }
    (layout.has_offsets, layout.symmetric) = (true, false);
    let zeros = affine.zeros().iter().map(|&zero| f32::from(zero));
    let exact = affine.scales().iter().zip(zeros).map(|(&scale, zero)| -(scale * zero));
    let offsets = exact.map(|offset| crate::tensor::round_f32(layout.scale_dtype, offset));
    let offsets = offsets.collect();
    let data = crate::encoding::AffineData {
        codes: affine.codes().to_vec(),
        scales: affine.scales().to_vec(),
        zeros: Vec::new(),
    };
    Affine::with_offsets(affine.shape(), layout, data, offsets)
}

/// The bytes of the stored tensor called `suffix`, of integers with offsets or of small floats; `None` for a suffix that
/// [`Form::stored`] does not list, and for other encodings.
pub fn pack(encoding: &Encoding, suffix: &str) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Affine(affine) if affine.layout().has_offsets => pack_affine(affine, suffix),
        Encoding::Float(float) => pack_float(float, suffix),
        _ => None,
    }
}

fn pack_affine(affine: &Affine, suffix: &str) -> Option<Vec<u8>> {
    let layout = affine.layout();
    let mut bytes = Vec::new();
    match suffix {
        "weight" => return Some(pack_rows(affine.codes(), affine.shape().cols, layout.bits)),
        "scales" => write_f32(layout.scale_dtype, affine.scales(), &mut bytes),
        "biases" => write_f32(layout.scale_dtype, affine.offsets(), &mut bytes),
        _ => return None,
    }
    Some(bytes)
}

fn pack_float(float: &Float, suffix: &str) -> Option<Vec<u8>> {
    match suffix {
        "weight" => {
            Some(pack_rows(float.codes(), float.shape().cols, float.layout().levels.bits()))
        }
        // A power of two has its exponent where f32 has it; below the least normal one there is only 2⁻¹²⁷.
        "scales" => {
            Some(float.scales().iter().map(|scale| (scale.to_bits() >> 23) as u8).collect())
        }
        _ => None,
    }
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    form: Form,
    cols: usize,
    codes: &'a [u8],
    scales: Vec<f32>,
    /// One a group; none where codes are small floats.
    biases: Vec<f32>,
    /// The value of every code of small floats.
    levels: Vec<f32>,
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or of another length.
    pub fn new(
        form: Form,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let words = form.stored(shape).ok()?.first()?.2.elements()?;
        let codes = get("weight").filter(|bytes| bytes.len() as u64 == 4 * words)?;
        let groups = shape.rows * (shape.cols / form.group_size);
        let (scales, biases) = if form.mode == Mode::Affine {
            let floats = |name| floats(get(name)?, form.scale_dtype, groups);
            (floats("scales")?, floats("biases")?)
        } else {
            let exponents = get("scales").filter(|bytes| bytes.len() == groups)?;
            (exponents.iter().map(|&exponent| power_of_two(exponent)).collect(), Vec::new())
        };
        Some(Self { form, cols: shape.cols, codes, scales, biases, levels: levels(form.mode)? })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let (bits, width) = (self.form.bits as usize, self.form.group_size);
        let words = self.cols / width * (width * bits / 32);
        for_each_run(first, (self.cols, width), out, |(row, group), col, values| {
            let at = row * (self.cols / width) + group;
            let scale = *self.scales.get(at)?;
            for (i, value) in values.iter_mut().enumerate() {
                let code = code(col + i, bits, |at| word(self.codes, row * words + at))?;
                *value = match self.biases.get(at) {
                    Some(bias) => scale * f32::from(code) + bias,
                    None => scale * self.levels.get(usize::from(code))?,
                };
            }
            Some(())
        })
    }

    /// The codes, scales and offsets as they are, with whole zero points where those are the same; `None` if a tensor is
    /// too short.
    pub fn encoding(&self) -> Option<Encoding> {
        let (bits, width) = (self.form.bits as usize, self.form.group_size);
        let groups = self.cols.checked_div(width).filter(|&groups| groups > 0)?;
        let rows = self.scales.len() / groups;
        let words = groups * (width * bits / 32);
        let code = |i: usize| {
            let (row, col) = (i / self.cols, i % self.cols);
            code(col, bits, |at| word(self.codes, row * words + at))
        };
        let codes: Vec<u8> = (0..rows * self.cols).map(code).collect::<Option<_>>()?;
        let shape = MatrixShape { rows, cols: self.cols };
        let (grouping, scales) = (Grouping::Group(width), self.scales.clone());
        let levels = match self.form.mode {
            Mode::Affine => {
                let layout = AffineLayout {
                    bits: self.form.bits,
                    grouping,
                    symmetric: false,
                    scale_dtype: self.form.scale_dtype,
                    has_offsets: true,
                };
                let data = AffineData { codes, scales, zeros: Vec::new() };
                let affine = Affine::with_offsets(shape, layout, data, self.biases.clone());
                return Some(with_whole_zeros(affine));
            }
            Mode::Mxfp4 => Levels::E2m1,
            Mode::Mxfp8 => Levels::E4m3,
        };
        let tiling = Tiling::Rows(grouping);
        let layout = FloatLayout { levels, tiling, scale_dtype: DType::F8E8M0 };
        Some(Encoding::Float(Float::new(shape, layout, FloatData { codes, scales, global: 1.0 })))
    }
}

/// 2^(e − 127); the highest exponent is NaN.
fn power_of_two(exponent: u8) -> f32 {
    match exponent {
        0 => 2_f32.powi(-127),
        u8::MAX => f32::NAN,
        _ => 2_f32.powi(i32::from(exponent) - 127),
    }
}

fn levels(mode: Mode) -> Option<Vec<f32>> {
    match mode {
        Mode::Affine => Some(Vec::new()),
        Mode::Mxfp4 => {
            let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            Some([magnitudes, magnitudes.map(|level: f32| -level)].concat())
        }
        Mode::Mxfp8 => {
            let codes: Vec<u8> = (0..=u8::MAX).collect();
            let mut levels = vec![0.0; codes.len()];
            Decoder::new(DType::F8E4M3)?.f32s(&codes, &mut levels);
            Some(levels)
        }
    }
}
