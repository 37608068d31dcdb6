//! AQLM's layout of linear layers in additive codes, as the authors' package `aqlm` and transformers read it, and its
//! `quantization_config`.
//!
//! `codes` i8, from 9 bits on i16, `[out, in/g, codebooks]`; `codebooks` `[codebooks, 2ᵇ, 1, g]`; `scales` `[out, 1, 1, 1]`:
//! w = s·Σ C\[c\]\[code\] for each run of g inputs. A code is a signed number of b bits: one from 2ᵇ⁻¹ on is stored less 2ᵇ.
//! Source: `QuantizedLinear` and `pack_int_data` of `aqlm` 1.1.7, `AqlmConfig` of transformers 5.23, 2026-11.
//!
//! [`pack`] writes; [`Reader`] reads with other code, run by run, so that it can prove what was written.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::encoding::{Additive, AdditiveLayout, Encoding};
use crate::format::Stored;
use crate::format::words::{floats, for_each_run};
use crate::tensor::{DType, MatrixShape, Shape, write_f32};

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Codebooks whose entries are added.
    pub codebooks: usize,
    /// Bits of a code, 1 to 16.
    pub bits: u32,
    /// Inputs that a code stands for.
    pub run: usize,
    /// Element type of the entries.
    pub value_dtype: DType,
    /// Element type of the scales.
    pub scale_dtype: DType,
}

impl Form {
    /// The form of a layer in additive codes; `None` where it has no scales, or codebooks for each run of inputs.
    pub fn of(layout: &AdditiveLayout) -> Option<Self> {
        let &AdditiveLayout { codebooks, bits, dim: run, value_dtype, .. } = layout;
        let scale_dtype = layout.scale_dtype.filter(|_| !layout.by_run)?;
        Some(Self { codebooks, bits, run, value_dtype, scale_dtype })
    }

    /// Element type of the codes.
    pub fn code_dtype(&self) -> DType {
        if self.bits <= 8 { DType::I8 } else { DType::I16 }
    }

    /// The tensors that hold a layer, without their data.
    ///
    /// # Errors
    /// Inputs that are no whole runs, as half a sentence.
    pub fn stored(&self, shape: MatrixShape) -> Result<Vec<Stored>, String> {
        let (MatrixShape { rows, cols }, run) = (shape, self.run);
        if run == 0 || !cols.is_multiple_of(run) {
            return Err(format!("runs of {run} do not divide its {cols} inputs"));
        }
        let entries = 1 << self.bits;
        Ok(vec![
            ("codes", self.code_dtype(), Shape(vec![rows, cols / run, self.codebooks])),
            ("codebooks", self.value_dtype, Shape(vec![self.codebooks, entries, 1, run])),
            ("scales", self.scale_dtype, Shape(vec![rows, 1, 1, 1])),
        ])
    }
}

/// The bytes of the stored tensor called `suffix`; `None` for a suffix that [`Form::stored`] does not list, and for layouts
/// that have no form.
pub fn pack(additive: &Additive, suffix: &str) -> Option<Vec<u8>> {
    let form = Form::of(additive.layout())?;
    form.stored(additive.shape()).ok()?;
    let floats = |dtype, values| {
        let mut bytes = Vec::new();
        write_f32(dtype, values, &mut bytes);
        bytes
    };
    let half = 1_i64 << (form.bits - 1);
    let signed = |code: &u32| match i64::from(*code) {
        code if code >= half => code - 2 * half,
        code => code,
    };
    Some(match suffix {
        "codes" if form.bits <= 8 => {
            additive.codes().iter().flat_map(|code| (signed(code) as i8).to_le_bytes()).collect()
        }
        "codes" => {
            additive.codes().iter().flat_map(|code| (signed(code) as i16).to_le_bytes()).collect()
        }
        "codebooks" => floats(form.value_dtype, additive.values()),
        "scales" => floats(form.scale_dtype, additive.scales()),
        _ => return None,
    })
}

/// The stored tensors of a layer, from which any run of weights is decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    form: Form,
    shape: MatrixShape,
    codes: &'a [u8],
    values: Vec<f32>,
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
        let width = if form.bits <= 8 { 1 } else { 2 };
        let wanted = shape.rows.checked_mul(shape.cols / form.run)?.checked_mul(form.codebooks)?;
        let codes = get("codes").filter(|codes| Some(codes.len()) == wanted.checked_mul(width))?;
        let values = (form.codebooks << form.bits).checked_mul(form.run)?;
        let values = floats(get("codebooks")?, form.value_dtype, values)?;
        let scales = floats(get("scales")?, form.scale_dtype, shape.rows)?;
        Some(Self { form, shape, codes, values, scales })
    }

    /// Code `at` of the layer: the low bits of what is stored, whatever its sign.
    fn code(&self, at: usize) -> Option<usize> {
        let word = if self.form.code_dtype() == DType::I8 {
            usize::from(*self.codes.get(at)?)
        } else {
            let pair = self.codes.get(at.checked_mul(2)?..)?.first_chunk()?;
            usize::from(u16::from_le_bytes(*pair))
        };
        Some(word & ((1 << self.form.bits) - 1))
    }

    /// Decodes the weights `first .. first + out.len()` of the row-major matrix; `None` if a tensor is too short.
    pub fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        let (cols, Form { codebooks, bits, run: width, .. }) = (self.shape.cols, self.form);
        for_each_run(first, (cols, width), out, |(row, run), col, values| {
            let place = (row * (cols / width) + run) * codebooks;
            values.fill(0.0);
            for codebook in 0..codebooks {
                let entry = (codebook << bits) + self.code(place + codebook)?;
                let entry = self.values.get(entry * width + col % width..)?;
                values.iter_mut().zip(entry).for_each(|(value, entry)| *value += entry);
            }
            let scale = *self.scales.get(row)?;
            for value in values {
                *value *= scale;
            }
            Some(())
        })
    }

    /// Codes, codebooks and scales as they are.
    pub fn encoding(&self) -> Option<Encoding> {
        let Form { codebooks, bits, run: dim, value_dtype, scale_dtype } = self.form;
        let scale_dtype = Some(scale_dtype);
        let layout =
            AdditiveLayout { codebooks, bits, dim, by_run: false, value_dtype, scale_dtype };
        let n = layout.codes(self.shape);
        let codes: Option<Vec<u32>> =
            (0..n).map(|at| self.code(at).map(|code| code as u32)).collect();
        // No weights need no codebooks here.
        let values = self.values[..layout.values(self.shape)].to_vec();
        let data = (values, self.scales.clone());
        Some(Encoding::Additive(Additive::new(self.shape, layout, codes?, data)))
    }
}

/// The `quantization_config` of a checkpoint in one form, whose modules `kept` stay as they are. transformers matched
/// names of weights before version 5 and matches names of modules since, so both are listed.
pub fn quantization_config(form: Form, kept: &[String]) -> Value {
    let names = kept.iter().flat_map(|module| [module.clone(), format!("{module}.weight")]);
    json!({
        "quant_method": "aqlm",
        "nbits_per_codebook": form.bits,
        "num_codebooks": form.codebooks,
        "out_group_size": 1,
        "in_group_size": form.run,
        "linear_weights_not_to_quantize": names.collect::<Vec<String>>(),
    })
}

/// A `quantization_config` as far as it tells how weights are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    codebooks: usize,
    bits: u32,
    run: usize,
}

#[derive(Deserialize)]
struct Raw {
    nbits_per_codebook: Option<u32>,
    num_codebooks: Option<usize>,
    in_group_size: Option<usize>,
    out_group_size: Option<usize>,
}

impl Config {
    /// Reads the `quantization_config` of a config.json.
    ///
    /// # Errors
    /// What is not understood, as half a sentence.
    pub fn read(value: &Value) -> Result<Self, String> {
        let raw = Raw::deserialize(value)
            .map_err(|error| format!("its quantization_config is not understood ({error})"))?;
        let (bits, codebooks) =
            (raw.nbits_per_codebook.unwrap_or(16), raw.num_codebooks.unwrap_or(1));
        let (run, outputs) = (raw.in_group_size.unwrap_or(8), raw.out_group_size.unwrap_or(1));
        if outputs != 1 {
            return Err(format!("a code of its AQLM layers stands for {outputs} outputs"));
        }
        let is_known = (1..=16).contains(&bits) && (1..=16).contains(&codebooks);
        if !is_known || !(1..=1 << 16).contains(&run) {
            return Err(format!("it has {codebooks} codebooks of {bits} bits for {run} inputs"));
        }
        Ok(Self { codebooks, bits, run })
    }

    /// The form of a layer whose entries and scales have these types.
    pub fn form(&self, value_dtype: DType, scale_dtype: DType) -> Form {
        let &Self { codebooks, bits, run } = self;
        Form { codebooks, bits, run, value_dtype, scale_dtype }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read_and_other_kinds_are_named() {
        let layout = AdditiveLayout {
            codebooks: 2,
            bits: 8,
            dim: 8,
            by_run: false,
            value_dtype: DType::F16,
            scale_dtype: Some(DType::F32),
        };
        let form = Form::of(&layout).unwrap();
        let value = quantization_config(form, &["lm_head".to_owned()]);
        assert_eq!(value["linear_weights_not_to_quantize"], json!(["lm_head", "lm_head.weight"]));
        assert_eq!(Config::read(&value).unwrap().form(DType::F16, DType::F32), form);
        assert_eq!(Form::of(&AdditiveLayout { by_run: true, ..layout.clone() }), None);
        assert_eq!(Form::of(&AdditiveLayout { scale_dtype: None, ..layout }), None);
        let read = |value: Value| Config::read(&value);
        // The authors' own defaults.
        assert_eq!(read(json!({})), Ok(Config { codebooks: 1, bits: 16, run: 8 }));
        assert!(read(json!({"out_group_size": 4})).unwrap_err().contains("4 outputs"));
        assert!(read(json!({"nbits_per_codebook": 17})).unwrap_err().contains("17 bits"));
        assert!(read(json!({"in_group_size": 0})).unwrap_err().contains("0 inputs"));
        assert!(read(json!({"num_codebooks": -1})).is_err());
    }

    #[test]
    fn codes_are_signed_numbers_of_their_bits() {
        let shape = MatrixShape { rows: 1, cols: 4 };
        for (bits, stored) in [(4, vec![0_i16, 7, -8, -1]), (12, vec![0, 7, 8, -2048])] {
            let layout = AdditiveLayout {
                codebooks: 1,
                bits,
                dim: 1,
                by_run: false,
                value_dtype: DType::F32,
                scale_dtype: Some(DType::F32),
            };
            let codes = if bits == 4 { vec![0, 7, 8, 15] } else { vec![0, 7, 8, 2048] };
            let values: Vec<f32> = (0..1 << bits).map(|value| value as f32).collect();
            let additive = Additive::new(shape, layout, codes.clone(), (values, vec![0.5]));
            let bytes = pack(&additive, "codes").unwrap();
            let found: Vec<i16> = match bits {
                4 => bytes.iter().map(|byte| i16::from(byte.cast_signed())).collect(),
                _ => bytes.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect(),
            };
            assert_eq!(found, stored);
            let parts: Vec<(&str, Vec<u8>)> = ["codes", "codebooks", "scales"]
                .map(|suffix| (suffix, pack(&additive, suffix).unwrap()))
                .to_vec();
            let get = |name: &str| {
                let (_, bytes) = parts.iter().find(|(suffix, _)| *suffix == name)?;
                Some(bytes.as_slice())
            };
            let reader = Reader::new(Form::of(additive.layout()).unwrap(), shape, &get).unwrap();
            let mut out = [0.0; 3];
            reader.read(1, &mut out).unwrap();
            assert_eq!(out, [codes[1], codes[2], codes[3]].map(|code| code as f32 * 0.5));
            assert_eq!(reader.encoding(), Some(Encoding::Additive(additive)));
        }
    }
}
