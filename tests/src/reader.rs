//! An independent reader of exports: the `safetensors` crate for the container, config.json for the schemes, and
//! arithmetic on 32-bit words for the codes. Shares nothing with the engine.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::packed::Method;
use crate::{read, read_folder, read_json};

/// A tensor as it lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The file it lies in.
    pub file: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub shape: Vec<usize>,
    /// Little-endian bytes.
    pub bytes: Vec<u8>,
}

/// An exported folder.
#[derive(Debug)]
pub struct Output {
    /// Every tensor by name.
    pub tensors: BTreeMap<String, Stored>,
    /// `quantization_config` of config.json; null where there is none.
    pub quantization: Value,
}

impl Output {
    /// Reads every weight file of a folder.
    pub fn open(folder: &Path) -> Self {
        let mut tensors = BTreeMap::new();
        for (file, bytes) in read_folder(folder) {
            if !file.ends_with(".safetensors") {
                continue;
            }
            let read = SafeTensors::deserialize(&bytes).expect("a file the crate reads");
            for (name, view) in read.iter() {
                let stored = Stored {
                    file: file.clone(),
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                let before = tensors.insert(name.to_owned(), stored);
                assert!(before.is_none(), "{name} is there twice");
            }
        }
        let config = folder.join("config.json");
        let quantization = if config.is_file() {
            read_json(&config)["quantization_config"].take()
        } else {
            Value::Null
        };
        Self { tensors, quantization }
    }

    /// Modules that the configuration says are quantised.
    pub fn quantised_modules(&self) -> Vec<String> {
        if let Some(method) = Method::of(&self.quantization) {
            return method.modules(self);
        }
        let groups = self.quantization["config_groups"].as_object();
        groups.into_iter().flatten().flat_map(|(_, group)| strings(&group["targets"])).collect()
    }

    /// The values of weight `name` (a module and `.weight`), in the order and type a loader computes them.
    pub fn weights(&self, name: &str) -> Vec<f32> {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        if let Some(method) = Method::of(&self.quantization)
            && method.modules(self).iter().any(|quantised| quantised == module)
        {
            return method.decode(self, module);
        }
        let groups = self.quantization["config_groups"].as_object();
        let group = groups
            .into_iter()
            .flatten()
            .map(|(_, group)| group)
            .find(|group| strings(&group["targets"]).iter().any(|t| t == module));
        match group {
            None => floats(self.tensor(name)),
            Some(group) => self.quantised(module, group),
        }
    }

    fn tensor(&self, name: &str) -> &Stored {
        self.tensors.get(name).unwrap_or_else(|| panic!("{name} is not in the output"))
    }

    fn quantised(&self, module: &str, group: &Value) -> Vec<f32> {
        let part = |suffix: &str| self.tensor(&format!("{module}.{suffix}"));
        let args = &group["weights"];
        assert_eq!(args["type"], "int");
        let bits = args["num_bits"].as_u64().expect("num_bits") as u32;
        let is_symmetric = args["symmetric"].as_bool().expect("symmetric");
        let is_packed = match group["format"].as_str().expect("a format") {
            "pack-quantized" => true,
            "int-quantized" => false,
            other => panic!("{module} has the unknown format {other}"),
        };
        let (rows, cols, codes) = if is_packed {
            let shape = part("weight_shape");
            assert_eq!((shape.dtype, shape.shape.as_slice()), (Dtype::I64, &[2][..]));
            let extent = |i: usize| {
                let bytes = shape.bytes[8 * i..8 * i + 8].try_into();
                i64::from_le_bytes(bytes.expect("8 bytes")) as usize
            };
            let (rows, cols) = (extent(0), extent(1));
            (rows, cols, unpack_rows(part("weight_packed"), bits, cols))
        } else {
            let weight = part("weight");
            (weight.shape[0], weight.shape[1], signed_bytes(weight))
        };
        assert_eq!(codes.len(), rows * cols, "{module}");
        let scales = part("weight_scale");
        assert_eq!(scales.shape[0], rows, "{module}");
        let groups = scales.shape[1];
        let scales = floats(scales);
        let zeros = match (is_symmetric, is_packed) {
            (true, _) => vec![0; rows * groups],
            (false, false) => signed_bytes(part("weight_zero_point")),
            (false, true) => transposed(
                &unpack_rows(&word_columns(part("weight_zero_point")), bits, rows),
                groups,
            ),
        };
        let width = match args["strategy"].as_str() {
            Some("group") => args["group_size"].as_u64().expect("group_size") as usize,
            Some("channel") => cols,
            other => panic!("{module} has the unknown strategy {other:?}"),
        };
        assert_eq!(groups, cols.div_ceil(width), "{module}");
        let value = |i: usize| {
            let at = i / cols * groups + i % cols / width;
            scales[at] * (codes[i] - zeros[at]) as f32
        };
        (0..rows * cols).map(value).collect()
    }
}

fn strings(list: &Value) -> Vec<String> {
    let strings = list.as_array().expect("a list").iter();
    strings.map(|item| item.as_str().expect("a string").to_owned()).collect()
}

/// The numbers of a tensor of floats.
pub fn floats(stored: &Stored) -> Vec<f32> {
    let halves = || {
        let pairs = stored.bytes.as_chunks::<2>().0;
        pairs.iter().map(|pair| u16::from_le_bytes(*pair))
    };
    match stored.dtype {
        Dtype::F32 => {
            let words = stored.bytes.as_chunks::<4>().0;
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        Dtype::BF16 => halves().map(|b| f32::from_bits(u32::from(b) << 16)).collect(),
        Dtype::F16 => halves().map(f32_from_f16).collect(),
        other => panic!("{other:?} is no type of weights here"),
    }
}

fn f32_from_f16(bits: u16) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => mantissa * 2_f32.powi(-24),
        31 => f32::INFINITY,
        _ => (1024.0 + mantissa) * 2_f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The nearest BF16 to a finite number, ties to even, as f32.
pub fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let odd = bits >> 16 & 1;
    f32::from_bits((bits + 0x7fff + odd) & 0xffff_0000)
}

fn signed_bytes(stored: &Stored) -> Vec<i32> {
    assert_eq!(stored.dtype, Dtype::I8);
    stored.bytes.iter().map(|&byte| i32::from(byte as i8)).collect()
}

/// Signed codes of `n` values in each row of packed words.
fn unpack_rows(packed: &Stored, bits: u32, n: usize) -> Vec<i32> {
    assert_eq!(packed.dtype, Dtype::I32);
    let words: Vec<u32> =
        packed.bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let width = packed.shape[1];
    assert_eq!(width, (n * bits as usize).div_ceil(32));
    let code = |row: &[u32], i: usize| {
        let at = i * bits as usize;
        let low = u64::from(row[at / 32]);
        let high = u64::from(row.get(at / 32 + 1).copied().unwrap_or(0));
        let code = (low | high << 32) >> (at % 32) & ((1 << bits) - 1);
        code as i32 - (1 << (bits - 1))
    };
    words.chunks(width).flat_map(|row| (0..n).map(move |i| code(row, i))).collect()
}

/// A tensor of words with rows and columns exchanged.
fn word_columns(stored: &Stored) -> Stored {
    let (rows, cols) = (stored.shape[0], stored.shape[1]);
    let word = |row: usize, col: usize| {
        let at = 4 * (row * cols + col);
        stored.bytes[at..at + 4].to_vec()
    };
    let bytes = (0..cols).flat_map(|col| (0..rows).flat_map(move |row| word(row, col)));
    Stored { shape: vec![cols, rows], bytes: bytes.collect(), ..stored.clone() }
}

/// `[cols, rows]` values as `[rows, cols]`.
fn transposed(values: &[i32], cols: usize) -> Vec<i32> {
    let rows = values.len() / cols;
    (0..rows * cols).map(|i| values[i % cols * rows + i / cols]).collect()
}

/// The header of a safetensors file.
pub fn header(path: &Path) -> Value {
    let bytes = read(path);
    let (prefix, rest) = bytes.split_at(8);
    let n = u64::from_le_bytes(prefix.try_into().expect("8 bytes")) as usize;
    serde_json::from_slice(&rest[..n]).expect("a JSON header")
}
