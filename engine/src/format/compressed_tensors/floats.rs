//! The float formats of compressed-tensors.
//!
//! *float-quantized*: `weight` `F8_E4M3` `[out, in]`, `weight_scale` `[out, 1]`, or `[⌈out/128⌉, ⌈in/128⌉]` for squares;
//! *mxfp8-quantized*: the same with `weight_scale` u8 `[out, in/32]`, exponents of powers of two. *nvfp4-pack-quantized*:
//! `weight_packed` u8 `[out, in/2]` of E2M1 codes, the even input low, `weight_scale` `F8_E4M3` `[out, in/16]`,
//! `weight_global_scale` f32 `[1]`, which divides them; *mxfp4-pack-quantized*: exponents u8 `[out, in/32]` instead of
//! both. Source: vllm-project/compressed-tensors 0.20.
//!
//! [`Floats::pack`] writes; [`Reader`] reads with other code, value by value, so that it can prove what was written.

use serde_json::{Value, json};

use crate::encoding::{Encoding, Float, FloatData, FloatLayout, Levels, Tiling};
use crate::format::Stored;
use crate::format::words::{floats, for_each_run};
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, Decoder, MatrixShape, Shape, write_f32};

/// Side of a square that shares a scale.
const SIDE: usize = 128;

/// How a layer of small floats is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floats {
    /// FP8 with a scale for each output row.
    Channels,
    /// FP8 with a scale for each square of 128 outputs and inputs.
    Squares,
    /// FP4 with FP8 scales for 16 inputs, which one number divides.
    Nvfp4,
    /// FP4 with powers of two for 32 inputs.
    Mxfp4,
    /// FP8 with powers of two for 32 inputs.
    Mxfp8,
}

impl Floats {
    /// The form that holds a layout; a scale of the whole tensor as equal scales of all its rows.
    pub fn of(layout: &FloatLayout) -> Option<Self> {
        let is_float = matches!(layout.scale_dtype, DType::F16 | DType::BF16 | DType::F32);
        match (layout.levels, layout.tiling, layout.scale_dtype) {
            (Levels::E4m3, Tiling::Rows(Grouping::Channel | Grouping::Tensor), _) if is_float => {
                Some(Self::Channels)
            }
            (Levels::E4m3, Tiling::Squares(SIDE), _) if is_float => Some(Self::Squares),
            (Levels::E2m1, Tiling::Rows(Grouping::Group(16)), DType::F8E4M3) => Some(Self::Nvfp4),
            (Levels::E2m1, Tiling::Rows(Grouping::Group(32)), DType::F8E8M0) => Some(Self::Mxfp4),
            (Levels::E4m3, Tiling::Rows(Grouping::Group(32)), DType::F8E8M0) => Some(Self::Mxfp8),
            _ => None,
        }
    }

    /// The layout it holds, whose scales are of `scale_dtype` where the format leaves that open.
    pub fn layout(self, scale_dtype: DType) -> FloatLayout {
        let group = |size| Tiling::Rows(Grouping::Group(size));
        let (levels, tiling, scale_dtype) = match self {
            Self::Channels => (Levels::E4m3, Tiling::Rows(Grouping::Channel), scale_dtype),
            Self::Squares => (Levels::E4m3, Tiling::Squares(SIDE), scale_dtype),
            Self::Nvfp4 => (Levels::E2m1, group(16), DType::F8E4M3),
            Self::Mxfp4 => (Levels::E2m1, group(32), DType::F8E8M0),
            Self::Mxfp8 => (Levels::E4m3, group(32), DType::F8E8M0),
        };
        FloatLayout { levels, tiling, scale_dtype }
    }

    /// The name in `format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Channels | Self::Squares => "float-quantized",
            Self::Nvfp4 => "nvfp4-pack-quantized",
            Self::Mxfp4 => "mxfp4-pack-quantized",
            Self::Mxfp8 => "mxfp8-quantized",
        }
    }

    fn is_packed(self) -> bool {
        matches!(self, Self::Nvfp4 | Self::Mxfp4)
    }

    /// The `config_groups` entry for the modules in `targets`, in the words that readers of 2025 know too.
    pub fn config(self, targets: &[String]) -> Value {
        let (strategy, group_size) = match self {
            Self::Channels => ("channel", None),
            Self::Squares => ("block", None),
            Self::Nvfp4 => ("tensor_group", Some(16)),
            Self::Mxfp4 | Self::Mxfp8 => ("group", Some(32)),
        };
        let mut weights = json!({
            "num_bits": if self.is_packed() { 4 } else { 8 },
            "type": "float",
            "symmetric": true,
            "strategy": strategy,
            "group_size": group_size,
            "dynamic": false,
            "observer": "minmax",
        });
        if self == Self::Squares {
            weights["block_structure"] = json!([SIDE, SIDE]);
        }
        json!({
            "targets": targets,
            "weights": weights,
            "input_activations": null,
            "output_activations": null,
            "format": self.name(),
        })
    }

    /// The tensors that hold a layer, without their data.
    pub fn stored(self, scale_dtype: DType, shape: MatrixShape) -> Vec<Stored> {
        let MatrixShape { rows, cols } = shape;
        let scales = |dtype, groups| ("weight_scale", dtype, Shape(vec![rows, groups]));
        let packed = ("weight_packed", DType::U8, Shape(vec![rows, cols.div_ceil(2)]));
        let whole = ("weight", DType::F8E4M3, Shape(vec![rows, cols]));
        match self {
            Self::Channels => vec![whole, scales(scale_dtype, usize::from(cols > 0))],
            Self::Squares => {
                let squares = Shape(vec![rows.div_ceil(SIDE), cols.div_ceil(SIDE)]);
                vec![whole, ("weight_scale", scale_dtype, squares)]
            }
            Self::Nvfp4 => vec![
                packed,
                scales(DType::F8E4M3, cols.div_ceil(16)),
                ("weight_global_scale", DType::F32, Shape(vec![1])),
            ],
            Self::Mxfp4 => vec![packed, scales(DType::U8, cols.div_ceil(32))],
            Self::Mxfp8 => vec![whole, scales(DType::U8, cols.div_ceil(32))],
        }
    }

    /// The bytes of the stored tensor called `suffix`; `None` for a suffix that [`Floats::stored`] does not list.
    pub fn pack(self, float: &Float, suffix: &str) -> Option<Vec<u8>> {
        let (MatrixShape { rows, cols }, layout) = (float.shape(), float.layout());
        Some(match (suffix, self) {
            ("weight", Self::Channels | Self::Squares | Self::Mxfp8) => float.codes().to_vec(),
            ("weight_packed", Self::Nvfp4 | Self::Mxfp4) => {
                let pair = |pair: &[u8]| pair[0] | pair.get(1).copied().unwrap_or(0) << 4;
                let rows = float.codes().chunks(cols.max(1));
                rows.flat_map(|row| row.chunks(2).map(pair)).collect()
            }
            ("weight_scale", Self::Mxfp4 | Self::Mxfp8) => {
                float.scales().iter().map(|scale| (scale.to_bits() >> 23) as u8).collect()
            }
            ("weight_scale", _) => {
                let scales = match (layout.tiling, float.scales()) {
                    (Tiling::Rows(Grouping::Tensor), &[scale]) => vec![scale; rows],
                    (_, scales) => scales.to_vec(),
                };
                let mut bytes = Vec::new();
                write_f32(layout.scale_dtype, &scales, &mut bytes);
                bytes
            }
            ("weight_global_scale", Self::Nvfp4) => float.global().to_le_bytes().to_vec(),
            _ => return None,
        })
    }
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    form: Floats,
    shape: MatrixShape,
    layout: FloatLayout,
    codes: &'a [u8],
    /// As they are stored.
    scales: Vec<f32>,
    global: f32,
    levels: Vec<f32>,
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or of another length.
    pub fn new(
        form: Floats,
        scale_dtype: DType,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        for (suffix, dtype, extents) in form.stored(scale_dtype, shape) {
            if get(suffix)?.len() as u64 != dtype.bytes(extents.elements()?)? {
                return None;
            }
        }
        let layout = form.layout(scale_dtype);
        let (stored, n) = (get("weight_scale")?, layout.tiling.scales(shape));
        let scales: Vec<f32> = match form {
            Floats::Mxfp4 | Floats::Mxfp8 => stored.iter().map(|&e| power_of_two(e)).collect(),
            _ => floats(stored, layout.scale_dtype, n)?,
        };
        let global = match get("weight_global_scale") {
            Some(bytes) if form == Floats::Nvfp4 => f32::from_le_bytes(bytes.try_into().ok()?),
            _ => 1.0,
        };
        let codes = get(if form.is_packed() { "weight_packed" } else { "weight" })?;
        let levels = levels(form)?;
        (scales.len() == n).then_some(Self { form, shape, layout, codes, scales, global, levels })
    }

    fn code(&self, row: usize, col: usize) -> Option<u8> {
        let cols = self.shape.cols;
        if !self.form.is_packed() {
            return self.codes.get(row * cols + col).copied();
        }
        let pair = *self.codes.get(row * cols.div_ceil(2) + col / 2)?;
        Some(if col.is_multiple_of(2) { pair & 15 } else { pair >> 4 })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let (cols, tiling) = (self.shape.cols, self.layout.tiling);
        for_each_run(first, (cols, tiling.width(cols)), out, |(row, group), col, values| {
            let scale = self.scales.get(tiling.first_scale(row, cols) + group)? / self.global;
            for (i, value) in values.iter_mut().enumerate() {
                *value = self.levels.get(usize::from(self.code(row, col + i)?))? * scale;
            }
            Some(())
        })
    }

    /// The codes and scales as they are; `None` if a tensor is too short.
    pub fn encoding(&self) -> Option<Encoding> {
        let MatrixShape { rows, cols } = self.shape;
        let each = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let codes: Option<Vec<u8>> = each.map(|(row, col)| self.code(row, col)).collect();
        let data = FloatData { codes: codes?, scales: self.scales.clone(), global: self.global };
        Some(Encoding::Float(Float::new(self.shape, self.layout, data)))
    }
}

/// 2^(e − 127); the highest exponent is no number.
fn power_of_two(exponent: u8) -> f32 {
    if exponent == u8::MAX { f32::NAN } else { 2_f32.powi(i32::from(exponent) - 127) }
}

/// The value of every code; those of no number are 0, as our own encodings have it.
fn levels(form: Floats) -> Option<Vec<f32>> {
    if form.is_packed() {
        let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        return Some([magnitudes, magnitudes.map(|level: f32| -level)].concat());
    }
    let codes: Vec<u8> = (0..=u8::MAX).collect();
    let mut levels = vec![0.0; codes.len()];
    Decoder::new(DType::F8E4M3)?.f32s(&codes, &mut levels);
    levels.iter_mut().filter(|level| level.is_nan()).for_each(|level| *level = 0.0);
    Some(levels)
}
