//! AWQ's layout of quantised linear layers in its GEMM version, as `AutoAWQ` writes it, and its `quantization_config`.
//!
//! `qweight` i32 `[in, out/8]`, `qzeros` i32 `[in/g, out/8]`, `scales` f16 `[in/g, out]`: 4 bits, w = s·(q − z). Nibble i of
//! a word holds output `8c + [0, 2, 4, 6, 1, 3, 5, 7][i]`. Source: `WQLinear_GEMM` of `AutoAWQ` 0.2, `awq_marlin` of vLLM, 2026-08.
//!
//! [`pack`] writes; [`Reader`] reads with other code, value by value, so that it can prove what was written.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::encoding::{Affine, AffineLayout, Encoding};
use crate::format::Stored;
use crate::format::codes::Places;
use crate::format::gptq::by_group;
use crate::format::words::{floats, for_each_run, word};
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape, Shape, write_f32};

/// Outputs in a word.
const OUTPUTS: usize = 8;
/// Which output of a word's eight each nibble holds.
const ORDER: [usize; OUTPUTS] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Where in a word the first bit of each of its eight outputs lies.
const SHIFTS: [u32; OUTPUTS] = [0, 16, 4, 20, 8, 24, 12, 28];

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    /// Inputs that share a scale.
    pub group_size: usize,
    /// Element type of the scales.
    pub scale_dtype: DType,
}

impl Form {
    /// The tensors that hold a layer, without their data.
    ///
    /// # Errors
    /// Outputs that fill no whole words, and inputs that are no whole groups, as half a sentence.
    pub fn stored(&self, shape: MatrixShape) -> Result<Vec<Stored>, String> {
        let MatrixShape { rows, cols } = shape;
        let size = self.group_size;
        if !rows.is_multiple_of(OUTPUTS) {
            return Err(format!("its {rows} outputs are no multiple of {OUTPUTS}"));
        }
        if size == 0 || !cols.is_multiple_of(size) {
            return Err(format!("groups of {size} do not divide its {cols} inputs"));
        }
        Ok(vec![
            ("qweight", DType::I32, Shape(vec![cols, rows / OUTPUTS])),
            ("qzeros", DType::I32, Shape(vec![cols / size, rows / OUTPUTS])),
            ("scales", self.scale_dtype, Shape(vec![cols / size, rows])),
        ])
    }
}

/// The bytes of the stored tensor called `suffix`, of 4-bit codes in groups; `None` for a suffix that [`Form::stored`] does
/// not list, and for shapes it refuses.
pub fn pack(form: Form, affine: &Affine, suffix: &str) -> Option<Vec<u8>> {
    form.stored(affine.shape()).ok()?;
    let MatrixShape { rows, cols } = affine.shape();
    Some(match suffix {
        "qweight" => {
            let mut outputs = vec![0; rows];
            let input = |input: usize| {
                for (output, codes) in outputs.iter_mut().zip(affine.codes().chunks(cols.max(1))) {
                    *output = codes[input];
                }
                pack_outputs(&outputs)
            };
            (0..cols).flat_map(input).collect()
        }
        "qzeros" => {
            by_group(affine, affine.zeros()).chunks(rows.max(1)).flat_map(pack_outputs).collect()
        }
        "scales" => {
            let mut bytes = Vec::new();
            write_f32(form.scale_dtype, &by_group(affine, affine.scales()), &mut bytes);
            bytes
        }
        _ => return None,
    })
}

/// Codes of all outputs, a multiple of eight, as words in AWQ's order.
fn pack_outputs(codes: &[u8]) -> Vec<u8> {
    let word = |eight: &[u8]| {
        let nibbles = ORDER.iter().rev().map(|&output| u32::from(eight[output]));
        nibbles.fold(0, |word, nibble| word << 4 | nibble).to_le_bytes()
    };
    codes.chunks_exact(OUTPUTS).flat_map(word).collect()
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    form: Form,
    shape: MatrixShape,
    codes: &'a [u8],
    zeros: &'a [u8],
    scales: Vec<f32>,
}

impl<'a> Reader<'a> {
    /// Reads from `get(suffix)`; `None` if a tensor is missing or of another length.
    pub fn new(
        form: Form,
        shape: MatrixShape,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        form.stored(shape).ok()?;
        let (words, groups) = (shape.rows / OUTPUTS, shape.cols / form.group_size);
        let of_length = |name, n: usize| get(name).filter(|bytes| bytes.len() == 4 * n);
        Some(Self {
            form,
            shape,
            codes: of_length("qweight", shape.cols * words)?,
            zeros: of_length("qzeros", groups * words)?,
            scales: floats(get("scales")?, form.scale_dtype, groups * shape.rows)?,
        })
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let MatrixShape { rows, cols } = self.shape;
        let nibble = |bytes, at: usize, row: usize| {
            let word = word(bytes, at * (rows / OUTPUTS) + row / OUTPUTS)?;
            Some((word >> SHIFTS[row % OUTPUTS] & 15) as i16)
        };
        for_each_run(first, (cols, self.form.group_size), out, |(row, group), col, values| {
            let zero = nibble(self.zeros, group, row)?;
            let scale = *self.scales.get(group * rows + row)?;
            for (i, value) in values.iter_mut().enumerate() {
                *value = scale * f32::from(nibble(self.codes, col + i, row)? - zero);
            }
            Some(())
        })
    }

    /// The codes, scales and zero points as they are; `None` if a tensor is too short.
    pub fn encoding(&self) -> Option<Encoding> {
        let MatrixShape { rows, cols } = self.shape;
        let size = self.form.group_size;
        let nibble = |bytes, at: usize, row: usize| {
            let word = word(bytes, at * (rows / OUTPUTS) + row / OUTPUTS)?;
            Some((word >> SHIFTS[row % OUTPUTS] & 15) as u8)
        };
        let layout = AffineLayout {
            bits: 4,
            grouping: if size == cols { Grouping::Channel } else { Grouping::Group(size) },
            symmetric: false,
            scale_dtype: self.form.scale_dtype,
            has_offsets: false,
        };
        let places = Places {
            shape: self.shape,
            code: &|row, col| nibble(self.codes, col, row),
            scale: &|row, group| self.scales.get(group * rows + row).copied(),
            zero: &|row, group| nibble(self.zeros, group, row),
        };
        Some(Encoding::Affine(places.affine(layout)?))
    }
}

/// The `quantization_config` of a checkpoint in groups of `group_size`, whose modules `kept` stay as they are. Loaders leave
/// out every module whose name contains one of those.
pub fn quantization_config(group_size: usize, kept: &[String]) -> Value {
    json!({
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": true,
        "version": "gemm",
        "modules_to_not_convert": kept,
    })
}

/// A `quantization_config` as far as it tells how weights are stored.
#[derive(Clone, Debug)]
pub struct Config {
    group_size: i64,
}

#[derive(Deserialize)]
struct Raw {
    bits: Option<u32>,
    w_bit: Option<u32>,
    #[serde(alias = "q_group_size")]
    group_size: i64,
    zero_point: Option<bool>,
    version: Option<String>,
}

impl Config {
    /// Reads the `quantization_config` of a config.json.
    ///
    /// # Errors
    /// What is not understood, as half a sentence.
    pub fn read(value: &Value) -> Result<Self, String> {
        let raw = Raw::deserialize(value)
            .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
        let bits = raw.bits.or(raw.w_bit).unwrap_or(4);
        let version = raw.version.unwrap_or_else(|| "gemm".to_owned());
        if bits != 4 || !version.eq_ignore_ascii_case("gemm") {
            return Err(format!("it is stored with {bits} bits as AWQ's {version}"));
        }
        if raw.zero_point == Some(false) {
            return Err("its AWQ layers have no zero points".to_owned());
        }
        Ok(Self { group_size: raw.group_size })
    }

    /// Inputs that share a scale, of a layer of `inputs`.
    ///
    /// # Errors
    /// A group size that is none, as half a sentence.
    pub fn group_size(&self, inputs: usize) -> Result<usize, String> {
        match (self.group_size, usize::try_from(self.group_size)) {
            (-1, _) => Ok(inputs),
            (_, Ok(size @ 1..)) => Ok(size),
            _ => Err(format!("its group_size is {}", self.group_size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_orders_undo_one_another() {
        for (nibble, output) in ORDER.iter().enumerate() {
            assert_eq!(SHIFTS[*output], 4 * nibble as u32);
        }
    }

    #[test]
    fn what_is_written_is_what_is_read_and_other_kinds_are_named() {
        let value = quantization_config(64, &["lm_head".to_owned()]);
        assert_eq!(Config::read(&value).unwrap().group_size(128), Ok(64));
        let read = |value: Value| Config::read(&value).map(|config| config.group_size(96));
        assert_eq!(read(json!({"w_bit": 4, "q_group_size": -1})), Ok(Ok(96)));
        assert_eq!(read(json!({"group_size": 0})), Ok(Err("its group_size is 0".to_owned())));
        assert!(read(json!({"group_size": 64, "version": "gemv"})).unwrap_err().contains("gemv"));
        assert!(read(json!({"group_size": 64, "bits": 8})).unwrap_err().contains("8 bits"));
        assert!(read(json!({"group_size": 64, "zero_point": false})).is_err());
        assert!(read(json!({"bits": 4})).unwrap_err().contains("group_size"));
    }
}
