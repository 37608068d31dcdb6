//! A GGUF file as a checkpoint: its tensors under the names of the source, its keys as a config.json, its vocabulary as
//! a tokenizer.json. Of llama, qwen2 and qwen3; others are refused by name. One that was split is opened by any part.
//!
//! Tensors of blocks are listed as bytes, and none can be compressed again: the rows of q and k are not in the order of
//! the source. A network reads values by [`GgufTensors::read`], which puts them back.

mod config;
mod tokenizer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::{Config, File, RowOrder, SideFile, Tensor, from_gguf, roles};
use crate::error::{Error, Result};
use crate::format::gguf::{Header, TensorInfo};
use crate::format::{gguf_split, gguf_values};
use crate::tensor::{DType, Shape};

/// What the headers of all parts say.
pub(super) struct Opened {
    pub(super) files: Vec<File>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) config: Config,
    pub(super) layers: GgufTensors,
}

/// The tensors of a GGUF file by their names in the source.
#[derive(Debug)]
pub struct GgufTensors {
    layers: BTreeMap<String, Layer>,
    tokenizer: Vec<u8>,
}

/// Where a tensor lies, and how.
#[derive(Debug)]
struct Layer {
    /// The part it lies in.
    file: usize,
    /// Rows and columns, or values.
    extents: Vec<usize>,
    range: Range<u64>,
    kind: u32,
    rows: RowOrder,
}

/// Norms and other tensors that [`from_gguf`] does not name, as `(GGUF, Hugging Face)`.
const INSIDE: [(&str, &str); 4] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
];

/// Opens a file, all parts where there are several. Reads headers and the vocabulary.
///
/// # Errors
/// Those of [`gguf_split::open`]; [`Error::Plan`] for an architecture or a tensor that is not known here.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let parts = gguf_split::open(path)?;
    let nothing = || config::refused(path, "it is no file");
    let (source, first) = parts.first().ok_or_else(nothing)?;
    let file = SideFile { path: source.path().to_path_buf(), bytes: source.len_bytes() };
    let config = Config::said_by(config::of(&parts)?, file);
    let tokenizer = tokenizer::of(source, first)?;
    let architecture = first.text("general.architecture").unwrap_or_default().to_owned();
    let mut layers = BTreeMap::new();
    let mut tensors = Vec::new();
    let mut files = Vec::new();
    for (part, (source, header)) in parts.into_iter().enumerate() {
        let known = header.tensors.iter().filter(|info| info.name != config::DIVISORS);
        for info in known {
            let of = (architecture.as_str(), config.value());
            let (name, layer) = layer((part, &header), info, of).ok_or_else(|| {
                config::refused(source.path(), format!("its tensor {} is not known", info.name))
            })?;
            tensors.push(listed(&name, &layer));
            layers.insert(name, layer);
        }
        let name = source.path().file_name();
        let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        files.push(File { name, metadata: BTreeMap::new(), source: source.into() });
    }
    Ok(Opened { files, tensors, config, layers: GgufTensors { layers, tokenizer } })
}

/// The name in the source, and where the tensor lies.
fn layer(
    (file, header): (usize, &Header),
    info: &TensorInfo,
    (architecture, config): (&str, &serde_json::Value),
) -> Option<(String, Layer)> {
    let (base, suffix) = info.name.rsplit_once('.')?;
    let module = match from_gguf(base, architecture) {
        Some(module) if !module.contains('*') => module,
        Some(_) => return None,
        None if base == "output_norm" => "model.norm".to_owned(),
        None => {
            let (block, tail) = base.strip_prefix("blk.")?.split_once('.')?;
            let (_, inside) = INSIDE.iter().find(|(theirs, _)| *theirs == tail)?;
            format!("model.layers.{block}.{inside}")
        }
    };
    let heads = |key: &str| config[key].as_u64().and_then(|heads| usize::try_from(heads).ok());
    let rows = match (architecture, base.rsplit('.').next()?) {
        ("llama", "attn_q") => RowOrder::Woven { heads: heads("num_attention_heads")? },
        ("llama", "attn_k") => RowOrder::Woven { heads: heads("num_key_value_heads")? },
        _ => RowOrder::Kept,
    };
    let extents = info.extents.iter().rev().map(|extent| usize::try_from(*extent).ok());
    let extents = extents.collect::<Option<Vec<usize>>>()?;
    let is_whole = match rows {
        RowOrder::Woven { heads } => extents[0].is_multiple_of((2 * heads).max(1)),
        RowOrder::Kept => true,
    };
    if extents.len() > 2 || !is_whole {
        return None;
    }
    gguf_values::row_bytes(info.kind, *extents.last()?)?;
    let begin = header.data.checked_add(info.offset)?;
    let range = begin..begin.checked_add(info.bytes()?)?;
    Some((format!("{module}.{suffix}"), Layer { file, extents, range, kind: info.kind, rows }))
}

/// The tensor as the checkpoint lists it.
fn listed(name: &str, layer: &Layer) -> Tensor {
    let dtype = gguf_values::plain(layer.kind);
    let mut shape = layer.extents.clone();
    if let (None, Some(last)) = (dtype, shape.last_mut()) {
        *last = gguf_values::row_bytes(layer.kind, *last).unwrap_or(0);
    }
    Tensor {
        name: name.to_owned(),
        dtype: dtype.unwrap_or(DType::U8),
        shape: Shape(shape),
        place: roles::place_of(name),
        matrix: None,
        file: layer.file,
        range: layer.range.clone(),
        source: None,
        pieces: None,
    }
}

impl GgufTensors {
    /// Extents of a tensor, by its name in the source.
    pub fn extents(&self, name: &str) -> Option<&[usize]> {
        self.layers.get(name).map(|layer| layer.extents.as_slice())
    }

    /// The vocabulary as a tokenizer.json.
    pub fn tokenizer(&self) -> &[u8] {
        &self.tokenizer
    }

    /// Elements `first ..` of a tensor in the row-major order of the source, as many as `out` holds: whole rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that is not read here, or parts of rows; [`Error::Io`].
    pub(super) fn read(
        &self,
        files: &[File],
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let unread =
            || Error::Unsupported { what: format!("reading the tensor {name} of this GGUF file") };
        let layer = self.layers.get(name).ok_or_else(unread)?;
        let file = files.get(layer.file).ok_or_else(unread)?;
        let (rows, cols) = match layer.extents[..] {
            [rows, cols] => (rows, cols),
            // Each value of a vector is a row, as their order may change.
            [values] if gguf_values::plain(layer.kind).is_some() => (values, 1),
            _ => return Err(unread()),
        };
        if cols == 0 || !first.is_multiple_of(cols) || !out.len().is_multiple_of(cols) {
            return Err(unread());
        }
        let bytes = gguf_values::row_bytes(layer.kind, cols).ok_or_else(unread)? as u64;
        for (at, values) in out.chunks_exact_mut(cols).enumerate() {
            let row = first / cols + at;
            let place =
                if row < rows { layer.rows.place(row, rows) as u64 } else { return Err(unread()) };
            let begin = layer.range.start + place * bytes;
            let data = file.source.bytes(begin..begin + bytes)?;
            gguf_values::decode_row(layer.kind, data, values).ok_or_else(unread)?;
        }
        Ok(())
    }
}

impl crate::checkpoint::Checkpoint {
    /// [`GgufTensors::extents`] and values of a tensor of a GGUF file: elements `first ..`, whole rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that is not read here, or another file; [`Error::Io`].
    pub fn read_gguf(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let Some(gguf) = &self.gguf else {
            return Err(Error::Unsupported { what: format!("reading {name} as a tensor of GGUF") });
        };
        gguf.read(&self.files, name, first, out)
    }
}
