//! A GGUF file as a checkpoint. Of llama, qwen2 and qwen3 its tensors have the names and the order of the source, its keys
//! become a config.json and its vocabulary a tokenizer.json, so that it runs; of any other architecture they have their own
//! names, and what keeps it from running is said when it is asked to. One that was split is opened by any part.
//!
//! Numbers that multiply a matrix and lie in a tensor beside it belong to that ([`scales`]).
//!
//! Values of blocks are decoded as they are read ([`Checkpoint::element_bytes`]), and rows of q and k put back. What a file
//! holds beside its values is kept byte for byte, so that it can be written again with tensors of other types.

mod config;
mod rows;
mod scales;
mod tokenizer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::gguf_file::rows::Rows;
use crate::checkpoint::gguf_file::scales::Scales;
use crate::checkpoint::open::matrix_of;
use crate::checkpoint::{
    Checkpoint, Coded, Config, File, Matrix, MatrixKind, Place, Role, RowOrder, SideFile, Tensor,
    from_gguf, roles,
};
use crate::disk::Source;
use crate::error::{Error, Result};
use crate::format::gguf::{Header, TensorInfo};
use crate::format::gguf_writer::Pairs;
use crate::format::{gguf_split, gguf_values};
use crate::tensor::{DType, MatrixShape, Shape};

/// The most bytes of keys and values that are kept to be written again.
const MAX_PAIRS_BYTES: u64 = 256 << 20;

/// What the headers of all parts say.
pub(super) struct Opened {
    pub(super) files: Vec<File>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) config: Option<Config>,
    pub(super) layers: GgufTensors,
}

/// A GGUF file: its tensors by their names here, its parts as they lie on disk, and what it needs to run.
#[derive(Debug)]
pub struct GgufTensors {
    layers: BTreeMap<String, Rows>,
    parts: Vec<GgufPart>,
    tokenizer: Result<Vec<u8>>,
    /// What keeps it from running.
    refusal: Option<Error>,
}

/// A part of a file that was split, or the whole file.
#[derive(Clone, Debug)]
pub struct GgufPart {
    /// Keys and values as they stand there.
    pub pairs: Pairs,
    /// Its tensors in their order.
    pub tensors: Vec<GgufTensor>,
    /// What its tensors begin at multiples of.
    pub alignment: u64,
}

/// A tensor as it lies in its file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Its own name.
    pub name: String,
    /// Its name in the checkpoint, if it is listed there.
    pub listed: Option<String>,
    /// Its own name of the matrix that it belongs to, if it holds that one's scales.
    pub belongs_to: Option<String>,
    /// Extents, inputs first.
    pub extents: Vec<u64>,
    /// Number of its type.
    pub kind: u32,
    /// Where its bytes lie in the file.
    pub range: Range<u64>,
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
/// Those of [`gguf_split::open`]; [`Error::Plan`] for a file that names no architecture, [`Error::Malformed`] for a tensor
/// whose bytes cannot be counted, or whose rows are no whole heads.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let parts = gguf_split::open(path)?;
    let nothing = || config::refused(path, "it is no file");
    let (source, first) = parts.first().ok_or_else(nothing)?;
    let architecture = first.text("general.architecture").unwrap_or_default().to_owned();
    if architecture.is_empty() {
        return Err(Error::plan(
            format!("{} is no model: it names no architecture", source.path().display()),
            "open the GGUF file of a model",
        ));
    }
    let file = SideFile { path: source.path().to_path_buf(), bytes: source.len_bytes() };
    let config = config::of(&parts);
    let tokenizer = tokenizer::of(source, first);
    let has_config = config.is_ok();
    let scales = Scales::of(&parts)?;
    let of = Model { architecture: &architecture, header: first, has_config, scales };
    let (mut found, mut files) = (Found::default(), Vec::new());
    for (at, (source, header)) in parts.iter().enumerate() {
        let part = found.part(&of, (at, source, header))?;
        found.parts.push(part);
    }
    let refusal = found
        .unknown
        .take()
        .map(|name| config::refused(source.path(), format!("its tensor {name} is not known")));
    let (config, refusal) = match (config, refusal) {
        (Ok(config), None) => (Some(Config::said_by(config, file)), None),
        (Ok(_), Some(refusal)) | (Err(refusal), _) => (None, Some(refusal)),
    };
    for (source, _) in parts {
        let name = source.path().file_name();
        let name = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        files.push(File { name, metadata: BTreeMap::new(), source: source.into() });
    }
    let Found { tensors, layers, parts, .. } = found;
    Ok(Opened { files, tensors, config, layers: GgufTensors { layers, parts, tokenizer, refusal } })
}

/// What all tensors of a file have in common.
struct Model<'a> {
    architecture: &'a str,
    /// Of the first part.
    header: &'a Header,
    has_config: bool,
    scales: Scales,
}

/// What was found in the parts so far.
#[derive(Default)]
struct Found {
    tensors: Vec<Tensor>,
    layers: BTreeMap<String, Rows>,
    parts: Vec<GgufPart>,
    /// The first tensor of an architecture that is run whose name is not known.
    unknown: Option<String>,
    pairs_bytes: u64,
}

impl Found {
    fn part(
        &mut self,
        of: &Model<'_>,
        (file, source, header): (usize, &Source, &Header),
    ) -> Result<GgufPart> {
        let bad = |what: String| Error::malformed("GGUF", source.path(), what);
        let mut pairs = Pairs::default();
        for (key, place) in &header.pairs {
            self.pairs_bytes = self.pairs_bytes.saturating_add(place.end - place.start);
            if self.pairs_bytes > MAX_PAIRS_BYTES {
                return Err(bad(format!("its keys take more than {MAX_PAIRS_BYTES} bytes")));
            }
            pairs.push_bytes(key, source.bytes(place.clone())?);
        }
        let mut tensors = Vec::with_capacity(header.tensors.len());
        for info in &header.tensors {
            let begin = header.data.checked_add(info.offset);
            let range = begin
                .zip(info.bytes())
                .and_then(|(begin, bytes)| Some(begin..begin.checked_add(bytes)?));
            let range = range.ok_or_else(|| {
                bad(format!("tensor {} is of the unknown type {}", info.name, info.kind))
            })?;
            let is_config = of.has_config && info.name == config::DIVISORS;
            let belongs_to = of.scales.belongs_to(&info.name).cloned();
            let listed = if is_config || belongs_to.is_some() {
                None
            } else {
                let (name, rows) = of.rows(info, (file, range.clone())).map_err(bad)?;
                self.list(of, info, (&name, rows));
                Some(name)
            };
            let TensorInfo { name, extents, kind, .. } = info.clone();
            tensors.push(GgufTensor { name, listed, belongs_to, extents, kind, range });
        }
        Ok(GgufPart { pairs, tensors, alignment: header.alignment })
    }

    fn list(&mut self, of: &Model<'_>, info: &TensorInfo, (name, rows): (&str, Rows)) {
        if config::is_known(of.architecture) && *name == info.name && self.unknown.is_none() {
            self.unknown = Some(info.name.clone());
        }
        self.tensors.push(listed(of.architecture, info, (name, &rows)));
        self.layers.insert(name.to_owned(), rows);
    }
}

impl Model<'_> {
    /// The name in the checkpoint, and where the tensor lies; half a sentence for one that makes no sense.
    fn rows(
        &self,
        info: &TensorInfo,
        (file, range): (usize, Range<u64>),
    ) -> Result<(String, Rows), String> {
        let too_long = || format!("tensor {} is too large", info.name);
        let extents = info.extents.iter().rev().map(|extent| usize::try_from(*extent).ok());
        let extents: Vec<usize> = extents.collect::<Option<_>>().ok_or_else(too_long)?;
        let name = self.name_of(&info.name, extents.len());
        let order = self.order(&info.name, name.is_some());
        if let (RowOrder::Woven { heads }, Some(rows)) = (order, extents.first())
            && !rows.is_multiple_of((2 * heads).max(1))
        {
            return Err(format!("tensor {} of {rows} rows is no {heads} heads", info.name));
        }
        let name = name.unwrap_or_else(|| info.name.clone());
        let scales = self.scales.of_matrix(&info.name);
        Ok((name, Rows { file, extents, range, kind: info.kind, order, scales }))
    }

    /// The name in the source, where that is known.
    fn name_of(&self, own: &str, extents: usize) -> Option<String> {
        if !config::is_known(self.architecture) || extents > 2 {
            return None;
        }
        let (base, suffix) = own.rsplit_once('.')?;
        let module = match from_gguf(base, self.architecture) {
            Some(module) if !module.contains('*') => module,
            Some(_) => return None,
            None if base == "output_norm" => "model.norm".to_owned(),
            None => {
                let (block, tail) = base.strip_prefix("blk.")?.split_once('.')?;
                let (_, inside) = INSIDE.iter().find(|(theirs, _)| *theirs == tail)?;
                format!("model.layers.{block}.{inside}")
            }
        };
        Some(format!("{module}.{suffix}"))
    }

    /// How the rows lie of a tensor of this name of its own.
    fn order(&self, own: &str, is_named: bool) -> RowOrder {
        let heads = |key: &str| {
            let heads = self.header.unsigned(&format!("llama.attention.{key}"))?;
            usize::try_from(heads).ok().filter(|heads| (1..1 << 20).contains(heads))
        };
        let queries = heads("head_count");
        let tail = own.rsplit('.').nth(1).unwrap_or_default();
        let heads = match (self.architecture, tail) {
            ("llama", "attn_q") => queries,
            ("llama", "attn_k") => heads("head_count_kv").or(queries),
            _ => None,
        };
        heads.filter(|_| is_named).map_or(RowOrder::Kept, |heads| RowOrder::Woven { heads })
    }
}

/// The tensor as the checkpoint lists it.
fn listed(architecture: &str, info: &TensorInfo, (name, rows): (&str, &Rows)) -> Tensor {
    let dtype = gguf_values::plain(rows.kind);
    let coded = dtype.is_none().then(|| Coded {
        name: info.block_type().map_or("", |block| block.name).to_uppercase(),
        bits: gguf_values::code_bits(rows.kind),
        is_readable: gguf_values::is_read(rows.kind),
        scales: rows.scales.clone(),
    });
    let mut tensor = Tensor {
        name: name.to_owned(),
        dtype: dtype.unwrap_or(DType::F32),
        shape: Shape(rows.extents.clone()),
        place: place(architecture, name),
        matrix: None,
        file: rows.file,
        coded,
        rows: rows.order,
        range: rows.range.clone(),
        source: None,
        pieces: None,
    };
    tensor.matrix = matrix(&tensor);
    tensor
}

/// Its place, known by the name in the source, also where rows may lie otherwise there. All experts of a block are one tensor.
fn place(architecture: &str, name: &str) -> Place {
    let mapped = name.rsplit_once('.').and_then(|(base, suffix)| {
        let module = from_gguf(base, architecture)?;
        Some(format!("{}.{suffix}", module.replace('*', "0")))
    });
    let name = mapped.as_deref().unwrap_or(name);
    Place { expert: None, ..roles::place_of(name) }
}

/// The matrix it is: of experts, which lie one after another, all rows of all.
fn matrix(tensor: &Tensor) -> Option<Matrix> {
    if !tensor.is_readable() {
        return None;
    }
    let [experts, rows, cols] = tensor.shape.0[..] else { return matrix_of(tensor, false) };
    if !tensor.name.ends_with("_exps.weight") || !tensor.dtype.is_compressible() {
        return None;
    }
    let rows = experts.checked_mul(rows).filter(|rows| *rows > 0 && cols > 0)?;
    let kind =
        if tensor.place.role == Role::Other { MatrixKind::Unknown } else { MatrixKind::Linear };
    Some(Matrix { shape: MatrixShape { rows, cols }, kind })
}

impl GgufTensors {
    /// Extents of a tensor, by its name in the checkpoint.
    pub fn extents(&self, name: &str) -> Option<&[usize]> {
        self.layers.get(name).map(|layer| layer.extents.as_slice())
    }

    /// The parts it lies in, as many as the checkpoint has files.
    pub fn parts(&self) -> &[GgufPart] {
        &self.parts
    }

    /// The vocabulary as a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Plan`] for a tokenizer that is not known here.
    pub fn tokenizer(&self) -> Result<&[u8]> {
        self.tokenizer.as_deref().map_err(again)
    }

    /// What keeps it from running.
    ///
    /// # Errors
    /// [`Error::Plan`] for an architecture, a key or a tensor that is not known here.
    pub fn check_runs(&self) -> Result<()> {
        self.refusal.as_ref().map_or(Ok(()), |refusal| Err(again(refusal)))
    }
}

/// The same error once more.
fn again(error: &Error) -> Error {
    Error::plan(error.to_string(), error.hint().unwrap_or_default())
}

impl Checkpoint {
    /// Bytes of elements of a tensor of a GGUF file, where they do not lie there as they are.
    pub(super) fn gguf_bytes(
        &self,
        tensor: &Tensor,
        first: u64,
        n: u64,
    ) -> Option<Result<Vec<u8>>> {
        let is_turned = tensor.coded.is_some() || tensor.rows != RowOrder::Kept;
        let gguf = self.gguf.as_ref().filter(|_| is_turned)?;
        let read = || {
            let unread = || unread(&tensor.name);
            let layer = gguf.layers.get(tensor.source_name()).ok_or_else(unread)?;
            let source = &self.files.get(layer.file).ok_or_else(unread)?.source;
            let (first, n) = (usize::try_from(first).ok(), usize::try_from(n).ok());
            let wanted = first.zip(n).and_then(|(first, n)| Some(first..first.checked_add(n)?));
            layer.bytes(source, wanted.ok_or_else(unread)?)?.ok_or_else(unread)
        };
        Some(read())
    }

    /// Values of a tensor of a GGUF file in the row-major order of the source: elements `first ..`, as many as `out` holds.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that is not read here, or another file; [`Error::Io`].
    pub fn read_gguf(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let index = self.find(name).filter(|_| self.gguf.is_some()).ok_or_else(|| unread(name))?;
        let tensor = &self.tensors[index];
        let bytes = self.element_bytes(tensor, first as u64, out.len() as u64)?;
        let decoder = crate::tensor::Decoder::new(tensor.dtype).ok_or_else(|| unread(name))?;
        decoder.f32s(&bytes, out);
        Ok(())
    }
}

fn unread(name: &str) -> Error {
    Error::Unsupported { what: format!("reading the tensor {name} of this GGUF file") }
}
