//! Importance matrices of llama.cpp: Σ x² of each channel, and of how many tokens, by tensor of a GGUF model.
//!
//! The GGUF form, as `llama-imatrix` writes it: `general.type` = "imatrix", the keys `imatrix.datasets`,
//! `imatrix.chunk_count`, `imatrix.chunk_size`; for each tensor `<name>.in_sum2`, extents `[channels, matrices]`, and
//! `<name>.counts`, `[1, matrices]`, both f32; a tensor of experts has one matrix an expert. Other tensors are passed
//! over. The old form (`.dat`) has neither counts by expert nor the size of a chunk.

mod convert;
mod legacy;

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::{NewFile, Source};
use crate::error::{Error, Result};
use crate::format::gguf::{self, Header, TensorInfo, Value};
use crate::format::gguf_writer::{GgufPlan, NewTensor, NewValue};
use crate::tensor::{DType, Decoder};

pub use legacy::LEGACY_CHUNK_TOKENS;

const FORMAT: &str = "importance matrix";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const F32: u32 = 0;

/// An importance matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The texts, as paths.
    pub datasets: Vec<String>,
    /// Chunks of text.
    pub chunk_count: u32,
    /// Tokens of a chunk.
    pub chunk_size: u32,
    /// By tensor, as `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
}

/// The sums of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Σ x², one matrix after the other.
    pub sums: Vec<f32>,
    /// Tokens of each matrix, or one count for all.
    pub counts: Vec<f32>,
}

impl Entry {
    /// Matrices, as their sums are cut where each has so many channels; `None` where they cannot be.
    pub fn matrices(&self, channels: usize) -> Option<usize> {
        let is_whole = channels > 0 && self.sums.len().is_multiple_of(channels);
        is_whole.then(|| self.sums.len() / channels)
    }

    /// Tokens and means of the squares of matrix `at`; `None` where there is none of so many channels.
    pub fn mean_square(&self, at: usize, channels: usize) -> Option<(f64, Vec<f32>)> {
        let matrices = self.matrices(channels)?;
        let sums = self.sums.chunks(channels).nth(at)?;
        let count =
            if self.counts.len() == matrices { self.counts[at] } else { *self.counts.first()? };
        let count = f64::from(count);
        let mean = |&sum: &f32| if count > 0.0 { (f64::from(sum) / count) as f32 } else { 0.0 };
        Some((count, sums.iter().map(mean).collect()))
    }
}

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// [`Error::Malformed`] for any defect, [`Error::Io`].
    pub fn read(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let first = source.bytes(0..source.len_bytes().min(4))?;
        if first == b"GGUF" { Self::read_gguf(&source) } else { legacy::read(&source) }
    }

    fn read_gguf(source: &Source) -> Result<Self> {
        let header = gguf::read_header(source)?;
        let kind = header.text("general.type").unwrap_or("model");
        if kind != "imatrix" {
            let what = format!("its general.type is {kind:?}, not \"imatrix\"");
            return Err(bad(source.path(), what).mended_by("choose a file of llama-imatrix"));
        }
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for tensor in &header.tensors {
            if let Some(name) = tensor.name.strip_suffix(SUMS) {
                entries.entry(name.to_owned()).or_default().sums = values(source, &header, tensor)?;
            } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
                entries.entry(name.to_owned()).or_default().counts =
                    values(source, &header, tensor)?;
            }
        }
        for (name, entry) in &entries {
            let (sums, counts) = (entry.sums.len(), entry.counts.len());
            if counts == 0 || sums == 0 || sums % counts != 0 {
                let what = format!("{name} has {sums} sums and {counts} counts");
                return Err(bad(source.path(), what));
            }
        }
        if entries.is_empty() {
            return Err(bad(source.path(), "it holds no sums"));
        }
        let number = |key| header.unsigned(key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Ok(Self {
            datasets: texts(&header, "imatrix.datasets"),
            chunk_count: number("imatrix.chunk_count"),
            chunk_size: number("imatrix.chunk_size"),
            entries,
        })
    }

    /// Writes the GGUF form, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`] for an entry whose sums are no multiple of its counts, or whose name is
    /// too long.
    pub fn write(&self, path: &Path) -> Result<()> {
        let metadata = [
            ("general.type", NewValue::Text("imatrix".to_owned())),
            ("imatrix.datasets", NewValue::Texts(self.datasets.clone())),
            ("imatrix.chunk_count", NewValue::U32(self.chunk_count)),
            ("imatrix.chunk_size", NewValue::U32(self.chunk_size)),
        ];
        let mut tensors = Vec::new();
        for (name, Entry { sums, counts }) in &self.entries {
            let matrices = counts.len();
            if matrices == 0 || !sums.len().is_multiple_of(matrices) {
                let what = format!(
                    "an importance matrix of {} sums and {matrices} counts for {name}",
                    sums.len()
                );
                return Err(Error::Unsupported { what });
            }
            let (channels, matrices) = ((sums.len() / matrices) as u64, matrices as u64);
            tensors.push(NewTensor::f32(format!("{name}{SUMS}"), &[channels, matrices]));
            tensors.push(NewTensor::f32(format!("{name}{COUNTS}"), &[1, matrices]));
        }
        let data: BTreeMap<String, &[f32]> = self
            .entries
            .iter()
            .flat_map(|(name, entry)| {
                [
                    (format!("{name}{SUMS}"), &entry.sums[..]),
                    (format!("{name}{COUNTS}"), &entry.counts[..]),
                ]
            })
            .collect();
        GgufPlan::new(&metadata, tensors)?.write(NewFile::replacing(path)?, |tensor, write| {
            let values = data.get(&tensor.name).copied().unwrap_or_default();
            write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        })
    }
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    let what = what.into().replace(char::is_control, "?");
    Error::malformed(FORMAT, path, what)
}

/// The values of a tensor of f32.
fn values(source: &Source, header: &Header, tensor: &TensorInfo) -> Result<Vec<f32>> {
    let no_f32 = || bad(source.path(), format!("tensor {} is not of f32", tensor.name));
    let bytes = tensor.bytes().filter(|_| tensor.kind == F32).ok_or_else(no_f32)?;
    let begin = header.data + tensor.offset;
    let bytes = source.bytes(begin..begin + bytes)?;
    let mut values = vec![0.0; bytes.len() / 4];
    Decoder::new(DType::F32).ok_or_else(no_f32)?.f32s(bytes, &mut values);
    Ok(values)
}

fn texts(header: &Header, key: &str) -> Vec<String> {
    let Some(Value::Array(list)) = header.metadata.get(key) else { return Vec::new() };
    let elements = list.elements.iter().flatten();
    elements.filter_map(|value| Some(value.text()?.to_owned())).collect()
}
