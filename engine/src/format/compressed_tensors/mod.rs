//! The compressed-tensors layout of quantised linear layers, and its `quantization_config`.
//!
//! *pack-quantized*: `weight_packed` i32 `[out, ⌈in·b/32⌉]`, each row its own little-endian stream of codes
//! q + 2^(b−1); `weight_scale` `[out, groups]`; `weight_shape` i64 `[2]`; where asymmetric `weight_zero_point`
//! i32 `[⌈out·b/32⌉, groups]`, packed along the outputs. *int-quantized*: `weight` i8 `[out, in]`, the same
//! scales, `weight_zero_point` i8 `[out, groups]`. In both w = s·(q − z). Source: vllm-project/compressed-tensors,
//! as of 2026-06.
//!
//! [`pack`] writes; [`unpack`] reads with other code, value by value, so that it can prove what was written.
//! [`Config`] reads what anybody's `quantization_config` says of a module.

mod config;
mod floats;

pub use config::{Config, Stated};
pub use floats::{Floats, Reader as FloatReader};

use ndarray::Array2;
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};
use serde_json::{Value, json};

use crate::encoding::{Affine, AffineLayout, Encoding};
use crate::format::Stored;
use crate::format::codes::Places;
use crate::format::words::{self, word};
use crate::numeric::grouping::Grouping;
use crate::numeric::packing::{pack_dense_words, pack_rows};
use crate::tensor::{DType, Decoder, MatrixShape, Shape, write_f32};

/// Which of the two integer layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Codes packed into 32-bit words.
    Packed,
    /// One byte a code.
    Int,
}

impl Packing {
    /// The name in `format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packed => "pack-quantized",
            Self::Int => "int-quantized",
        }
    }
}

/// How a layer is quantised, as a `config_groups` entry says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scheme {
    /// Bits of a code.
    pub bits: u32,
    /// Whether zero points are left out.
    pub symmetric: bool,
    /// Inputs that share a scale; `None` for one scale an output row.
    pub group_size: Option<usize>,
}

impl Scheme {
    /// The scheme that holds `layout`. A scale of the whole tensor is held as equal scales of all its rows,
    /// which every loader takes.
    pub fn of(layout: &AffineLayout) -> Self {
        let group_size = match layout.grouping {
            Grouping::Group(size) => Some(size),
            Grouping::Channel | Grouping::Tensor => None,
        };
        Self { bits: layout.bits, symmetric: layout.symmetric, group_size }
    }

    fn groups(&self, cols: usize) -> usize {
        // A row without inputs has no scale either.
        let per_row = usize::from(cols > 0);
        self.group_size.map_or(per_row, |size| cols.div_ceil(size))
    }

    /// The `config_groups` entry for the modules in `targets`.
    pub fn config(&self, packing: Packing, targets: &[String]) -> Value {
        json!({
            "targets": targets,
            "weights": {
                "num_bits": self.bits,
                "type": "int",
                "symmetric": self.symmetric,
                "strategy": if self.group_size.is_some() { "group" } else { "channel" },
                "group_size": self.group_size,
                "dynamic": false,
                "observer": "minmax",
            },
            "input_activations": null,
            "output_activations": null,
            "format": packing.name(),
        })
    }
}

/// The `quantization_config` of a checkpoint whose groups are `groups` and whose linear layers `ignore` stay. Its format is
/// that of all groups, or `mixed-precision`.
pub fn quantization_config(groups: Vec<Value>, ignore: &[String]) -> Value {
    let mut formats = groups.iter().map(|group| &group["format"]);
    let first = formats.next().cloned().unwrap_or_default();
    let format =
        if formats.all(|format| *format == first) { first } else { "mixed-precision".into() };
    let groups: serde_json::Map<String, Value> =
        groups.into_iter().enumerate().map(|(i, group)| (format!("group_{i}"), group)).collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "config_groups": groups,
        "ignore": ignore,
    })
}

/// The tensors that hold a layer, without their data.
pub fn stored(packing: Packing, layout: &AffineLayout, shape: MatrixShape) -> Vec<Stored> {
    let MatrixShape { rows, cols } = shape;
    let scheme = Scheme::of(layout);
    let groups = scheme.groups(cols);
    let words = |n: usize| (n * layout.bits as usize).div_ceil(32);
    let mut tensors = match packing {
        Packing::Packed => vec![
            ("weight_packed", DType::I32, Shape(vec![rows, words(cols)])),
            ("weight_scale", layout.scale_dtype, Shape(vec![rows, groups])),
            ("weight_shape", DType::I64, Shape(vec![2])),
        ],
        Packing::Int => vec![
            ("weight", DType::I8, Shape(vec![rows, cols])),
            ("weight_scale", layout.scale_dtype, Shape(vec![rows, groups])),
        ],
    };
    if !layout.symmetric {
        tensors.push(match packing {
            Packing::Packed => ("weight_zero_point", DType::I32, Shape(vec![words(rows), groups])),
            Packing::Int => ("weight_zero_point", DType::I8, Shape(vec![rows, groups])),
        });
    }
    tensors
}

/// The bytes of the stored tensor called `suffix`; `None` for a suffix that [`stored`] does not list.
pub fn pack(packing: Packing, affine: &Affine, suffix: &str) -> Option<Vec<u8>> {
    let MatrixShape { rows, cols } = affine.shape();
    let layout = affine.layout();
    let signed = |code: u8| code.wrapping_sub(layout.middle());
    Some(match (suffix, packing) {
        ("weight_packed", Packing::Packed) => pack_rows(affine.codes(), cols, layout.bits),
        ("weight", Packing::Int) => affine.codes().iter().map(|&code| signed(code)).collect(),
        ("weight_scale", _) => {
            let mut bytes = Vec::new();
            write_f32(layout.scale_dtype, &by_row(affine, affine.scales()), &mut bytes);
            bytes
        }
        ("weight_shape", Packing::Packed) => shape_bytes(affine.shape()),
        ("weight_zero_point", Packing::Int) => {
            by_row(affine, affine.zeros()).into_iter().map(signed).collect()
        }
        ("weight_zero_point", Packing::Packed) => {
            pack_zeros(&by_row(affine, affine.zeros()), rows, layout.bits)
        }
        _ => return None,
    })
}

/// The bytes of `weight_shape`.
pub fn shape_bytes(MatrixShape { rows, cols }: MatrixShape) -> Vec<u8> {
    [rows as i64, cols as i64].iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// One value a row and group: what a scale of the whole tensor is repeated to.
fn by_row<T: Copy>(affine: &Affine, values: &[T]) -> Vec<T> {
    match (affine.layout().grouping, values) {
        (Grouping::Tensor, [value]) => vec![*value; affine.shape().rows],
        _ => values.to_vec(),
    }
}

/// Packs `[rows, groups]` zero points along the rows: word `w` of group `g` lies at `[w, g]`.
fn pack_zeros(zeros: &[u8], rows: usize, bits: u32) -> Vec<u8> {
    let groups = zeros.len().checked_div(rows).unwrap_or(0);
    let columns: Vec<Vec<u8>> = (0..groups)
        .map(|group| {
            let column: Vec<u8> = zeros.iter().skip(group).step_by(groups).copied().collect();
            pack_dense_words(&column, bits)
        })
        .collect();
    let words = columns.first().map_or(0, |column| column.len() / 4);
    let word = |w: usize, column: &Vec<u8>| column[4 * w..4 * w + 4].to_vec();
    (0..words).flat_map(|w| columns.iter().flat_map(move |column| word(w, column))).collect()
}

/// Decodes a stored layer from `get(suffix)`, value by value, rows in parallel; `None` if a tensor is missing or
/// too short.
pub fn unpack<'a>(
    packing: Packing,
    layout: &AffineLayout,
    shape: MatrixShape,
    get: &dyn Fn(&str) -> Option<&'a [u8]>,
) -> Option<Array2<f32>> {
    let reader = Reader::new(packing, layout, shape, get)?;
    let mut out = Array2::zeros((shape.rows, shape.cols));
    if shape.cols > 0 {
        let rows = out.as_slice_mut()?.par_chunks_mut(shape.cols).enumerate();
        rows.try_for_each(|(row, values)| reader.read(row * shape.cols, values))?;
    }
    Some(out)
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    packing: Packing,
    bits: usize,
    cols: usize,
    groups: usize,
    width: usize,
    /// Words in a row of packed codes.
    words: usize,
    codes: &'a [u8],
    zeros: Option<&'a [u8]>,
    scales: Vec<f32>,
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or the scales are of another length.
    pub fn new(
        packing: Packing,
        layout: &AffineLayout,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let scheme = Scheme::of(layout);
        let (bits, groups) = (layout.bits as usize, scheme.groups(shape.cols));
        let mut scales = vec![0.0; shape.rows * groups];
        let scale_bits = scales.len() as u64 * layout.scale_dtype.bits();
        let stored = get("weight_scale").filter(|bytes| bytes.len() as u64 * 8 == scale_bits)?;
        Decoder::new(layout.scale_dtype)?.f32s(stored, &mut scales);
        Some(Self {
            packing,
            bits,
            cols: shape.cols,
            groups,
            width: scheme.group_size.unwrap_or(shape.cols).max(1),
            words: (shape.cols * bits).div_ceil(32),
            codes: get(if packing == Packing::Packed { "weight_packed" } else { "weight" })?,
            zeros: if layout.symmetric { None } else { Some(get("weight_zero_point")?) },
            scales,
        })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let mut done = 0;
        while done < out.len() {
            let (row, col) = ((first + done) / self.cols, (first + done) % self.cols);
            // To the end of the group, of the row, or of what is asked for.
            let group = col / self.width;
            let end = ((group + 1) * self.width).min(self.cols);
            let run = (end - col).min(out.len() - done);
            let scale = *self.scales.get(row * self.groups + group)?;
            let zero = self.zero(row, group)?;
            let values = &mut out[done..done + run];
            match self.nibbles(row, col, run) {
                Some(bytes) => from_nibbles(bytes, (scale, zero), values),
                None => {
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = scale * (self.code(row, col + i)? - zero) as f32;
                    }
                }
            }
            done += run;
        }
        Some(())
    }

    /// The codes, scales and zero points as they are; `None` if a tensor is too short.
    pub fn encoding(&self, layout: &AffineLayout) -> Option<Encoding> {
        let grouping = match layout.grouping {
            // Its one scale was repeated for every row.
            Grouping::Tensor => Grouping::Channel,
            other => other,
        };
        let layout = AffineLayout { grouping, ..layout.clone() };
        let rows = self.scales.len().checked_div(self.groups)?;
        let unsigned = |code: i32| u8::try_from(code + i32::from(layout.middle())).ok();
        let places = Places {
            shape: MatrixShape { rows, cols: self.cols },
            code: &|row, col| unsigned(self.code(row, col)?),
            scale: &|row, group| self.scales.get(row * self.groups + group).copied(),
            zero: &|row, group| unsigned(self.zero(row, group)?),
        };
        Some(Encoding::Affine(places.affine(layout.clone())?))
    }

    fn zero(&self, row: usize, group: usize) -> Option<i32> {
        let Some(zeros) = self.zeros else {
            return Some(0);
        };
        match self.packing {
            Packing::Int => signed_byte(zeros, row * self.groups + group),
            // Element `row` of the stream whose words lie `groups` apart.
            Packing::Packed => {
                self.signed(words::code(row, self.bits, |at| word(zeros, at * self.groups + group)))
            }
        }
    }

    /// The bytes of `n` packed codes of 4 bits, where they begin and end with a byte.
    fn nibbles(&self, row: usize, col: usize, n: usize) -> Option<&'a [u8]> {
        let first = row * self.words * 4 + col / 2;
        let is_whole = self.packing == Packing::Packed && self.bits == 4 && col % 2 + n % 2 == 0;
        self.codes.get(first..first + n / 2).filter(|_| is_whole)
    }

    fn code(&self, row: usize, col: usize) -> Option<i32> {
        match self.packing {
            Packing::Int => signed_byte(self.codes, row * self.cols + col),
            Packing::Packed => self
                .signed(words::code(col, self.bits, |at| word(self.codes, row * self.words + at))),
        }
    }

    /// What a packed code stands for.
    fn signed(&self, code: Option<u8>) -> Option<i32> {
        Some(i32::from(code?) - (1 << (self.bits - 1)))
    }
}

/// s·(q − z) of the two codes in each byte, the low four bits first.
fn from_nibbles(bytes: &[u8], (scale, zero): (f32, i32), out: &mut [f32]) {
    for (&byte, pair) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
        *pair = [byte & 15, byte >> 4].map(|code| scale * (i32::from(code) - 8 - zero) as f32);
    }
}

fn signed_byte(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at).map(|&byte| i32::from(byte as i8))
}
