//! Opening: from a path to files, headers, places and groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::checkpoint::adapted::{self, Adapted};
use crate::checkpoint::archived::Archived;
use crate::checkpoint::roles::{self, Role};
use crate::checkpoint::{
    Checkpoint, Config, File, Matrix, MatrixKind, Removal, RowOrder, SideFile, Tensor, gguf_file,
    groups,
};
use crate::disk::{self, Source};
use crate::error::{Error, Result};
use crate::format::adapter;
use crate::format::gguf_split::PartName;
use crate::format::safetensors;
use crate::format::squeezed;
use crate::tensor::{MatrixShape, Shape};

const INDEX: &str = "model.safetensors.index.json";
/// The largest index that is read.
const MAX_INDEX_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a lone `.safetensors` file, an index, or a GGUF file (any part of one that was split
    /// opens all of them), by itself or as the one in a folder without safetensors. Reads headers only.
    ///
    /// Tensors of a GGUF file have the names of the source where its architecture is one that is run here, else their own.
    ///
    /// # Errors
    /// [`Error::Malformed`] for any defect of a header or index, [`Error::Io`] for a file that cannot be
    /// mapped, [`Error::Plan`] for a folder with neither, and for what is squeezed.
    pub fn open(path: &Path) -> Result<Self> {
        let is_index = path.file_name().is_some_and(|name| name == INDEX);
        let path = if is_index { path.parent().unwrap_or(path) } else { path };
        refuse_squeezed(path)?;
        if path.is_dir() { open_folder(path) } else { open_file(path) }
    }
}

/// Refuses what was squeezed: a file, or a folder of such.
fn refuse_squeezed(path: &Path) -> Result<()> {
    let is_file = path.to_string_lossy().ends_with(squeezed::SUFFIX);
    if !is_file && !path.join(squeezed::LIST).is_file() {
        return Ok(());
    }
    let what = format!("{} is squeezed, and must be unpacked to be opened", path.display());
    let folder = if is_file { path.parent().unwrap_or(path) } else { path };
    Err(Error::plan(what, format!("run: lapidary unpack {} --out FOLDER", folder.display())))
}

fn open_file(path: &Path) -> Result<Checkpoint> {
    let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if is_gguf {
        let opened = gguf_file::open(path)?;
        let mut tensors = opened.tensors;
        tensors.sort_by_cached_key(order);
        let beside = (opened.config, Vec::new(), false);
        let mut checkpoint = assemble(path, opened.files, tensors, beside)?;
        checkpoint.gguf = Some(opened.layers);
        return Ok(checkpoint);
    }
    let source = Source::open(path)?;
    let folder = path.parent().filter(|folder| folder.join("config.json").is_file());
    build(path, vec![source], folder, false)
}

fn open_folder(folder: &Path) -> Result<Checkpoint> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let weight_map = read_index(&index)?.weight_map;
        let shards: BTreeSet<&String> = weight_map.values().collect();
        let mut sources = shards
            .into_iter()
            .map(|shard| open_shard(folder, &index, shard))
            .collect::<Result<Vec<_>>>()?;
        sources.extend(adapted::find(folder)?);
        let checkpoint = build(folder, sources, Some(folder), true)?;
        check_index(&checkpoint, &index, &weight_map)?;
        return Ok(checkpoint);
    }
    let names: Vec<String> = disk::list_files(folder)?.into_iter().map(|(name, _)| name).collect();
    let mut weights: Vec<&String> = names.iter().filter(|name| is_safetensors(name)).collect();
    // Some folders carry a second copy of the weights under another name; loaders read this one.
    if let Some(&model) = weights.iter().find(|name| name.as_str() == "model.safetensors") {
        weights = vec![model];
    }
    if weights.is_empty() {
        return match gguf_of(&names) {
            Some(first) => open_file(&folder.join(first)),
            None => Err(no_weights(folder, &names)),
        };
    }
    let sources = weights.into_iter().map(|name| Source::open(&folder.join(name)));
    let mut sources = sources.collect::<Result<Vec<_>>>()?;
    sources.extend(adapted::find(folder)?);
    build(folder, sources, Some(folder), false)
}

/// The one GGUF file among the files of a folder, or the first of its parts.
fn gguf_of(names: &[String]) -> Option<&str> {
    let all: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| ends(name, "gguf")).collect();
    let first = *all.iter().min()?;
    let is_whole = match PartName::of(first) {
        Some(part) => part.count == all.len() as u64,
        None => all.len() == 1,
    };
    is_whole.then_some(first)
}

fn no_weights(folder: &Path, names: &[String]) -> Error {
    let what = format!("{} holds no .safetensors file", folder.display());
    if names.iter().any(|name| ends(name, "gguf")) {
        return Error::plan(what, "name one of its .gguf files");
    }
    Error::plan(
        what,
        "open a Hugging Face folder or a .safetensors file; convert .bin and .pt files first, as they can run code",
    )
}

fn is_safetensors(name: &str) -> bool {
    ends(name, "safetensors")
}

fn ends(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn read_index(path: &Path) -> Result<Index> {
    let text = disk::read_text(path, MAX_INDEX_BYTES)?;
    serde_json::from_str(&text)
        .map_err(|error| Error::malformed("safetensors index", path, error.to_string()))
}

/// A shard named by an index: its name must be a plain file name, so that no index leads out of the folder.
fn open_shard(folder: &Path, index: &Path, shard: &str) -> Result<Source> {
    let mut components = Path::new(shard).components();
    let is_plain =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !is_plain || shard.contains('\\') {
        return Err(Error::malformed(
            "safetensors index",
            index,
            format!("the shard {shard:?} is not a file name in its folder"),
        ));
    }
    let path = folder.join(shard);
    if !path.is_file() {
        return Err(Error::malformed(
            "safetensors index",
            index,
            format!("the shard {shard} it names is not in the folder"),
        ));
    }
    Source::open(&path)
}

fn check_index(
    checkpoint: &Checkpoint,
    index: &Path,
    weight_map: &BTreeMap<String, String>,
) -> Result<()> {
    for (name, shard) in weight_map {
        let found =
            checkpoint.find(name).map(|i| &checkpoint.files[checkpoint.tensors[i].file].name);
        if found != Some(shard) {
            let what = match found {
                None => format!("tensor {name} is not in the shard {shard} it names"),
                Some(other) => format!("tensor {name} is in {other}, not in {shard}"),
            };
            return Err(Error::malformed("safetensors index", index, what));
        }
    }
    Ok(())
}

fn build(
    path: &Path,
    sources: Vec<Source>,
    folder: Option<&Path>,
    has_index: bool,
) -> Result<Checkpoint> {
    let config_path = folder.map(|folder| folder.join("config.json")).filter(|path| path.is_file());
    let config = config_path.as_deref().map(Config::read).transpose()?;
    let (files, mut tensors) = read_headers(path, sources)?;
    number_residual_blocks(&mut tensors);
    let conv1d = has_conv1d(&tensors);
    for tensor in tensors.iter_mut().filter(|tensor| !files[tensor.file].is_adapter()) {
        tensor.matrix = matrix_of(tensor, conv1d);
    }
    tensors.sort_by_cached_key(order);
    let side_files = folder.map(side_files).transpose()?.unwrap_or_default();
    assemble(path, files, tensors, (config, side_files, has_index))
}

/// A checkpoint of tensors in order.
pub(super) fn assemble(
    path: &Path,
    files: Vec<File>,
    tensors: Vec<Tensor>,
    (config, side_files, has_index): (Option<Config>, Vec<SideFile>, bool),
) -> Result<Checkpoint> {
    let by_name = by_name(&files, &tensors)?;
    let archived = Archived::read(&files, &tensors, &by_name)?;
    let adapted = Adapted::read(&files, &tensors, &by_name)?;
    let fused = groups::fused_groups(&tensors);
    let fused_of = fused
        .iter()
        .enumerate()
        .flat_map(|(g, group)| group.members.iter().map(move |&i| (i, g)))
        .collect();
    let tied = groups::tied(&tensors, config.as_ref());
    Ok(Checkpoint {
        path: path.to_path_buf(),
        parameters: tensors.iter().map(Tensor::parameters).sum(),
        tensor_bytes: tensors.iter().map(Tensor::bytes).sum(),
        files,
        tensors,
        by_name,
        config,
        fused,
        fused_of,
        tied,
        side_files,
        has_index,
        vocabulary: std::sync::OnceLock::new(),
        gguf: None,
        archived,
        adapted,
        removal: Removal::default(),
        before: None,
        decoder: None,
    })
}

/// The files and all their tensors, whose matrices are not yet known. Files have names within the folder that is opened.
fn read_headers(path: &Path, sources: Vec<Source>) -> Result<(Vec<File>, Vec<Tensor>)> {
    let mut files = Vec::new();
    let mut tensors = Vec::new();
    for source in sources {
        let header = safetensors::read_header(&source)?;
        let file = File {
            name: name_within(path, &source),
            metadata: header.metadata,
            source: source.into(),
        };
        for entry in header.entries {
            let corrected = adapter::module_of(&entry.name).filter(|_| file.is_adapter());
            let place = match corrected {
                Some((module, _)) => roles::place_of(&format!("{module}.weight")),
                None => roles::place_of(holder(&entry.name)),
            };
            tensors.push(Tensor {
                place,
                matrix: None,
                coded: None,
                rows: RowOrder::Kept,
                file: files.len(),
                name: entry.name,
                dtype: entry.dtype,
                shape: entry.shape,
                range: entry.range,
                source: None,
                pieces: None,
            });
        }
        files.push(file);
    }
    Ok((files, tensors))
}

/// The name of a file within the folder `path`, as `adapter/adapter_model.safetensors`; of a lone file its own.
fn name_within(path: &Path, source: &Source) -> String {
    let within = source.path().strip_prefix(path).unwrap_or(Path::new(""));
    let parts: Vec<_> = within.iter().map(|part| part.to_string_lossy()).collect();
    if parts.is_empty() {
        let name = source.path().file_name();
        return name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    }
    parts.join("/")
}

/// The weight of which a tensor is a part by its name, as `m.weight` of `m.weight.codes`; otherwise the tensor itself.
pub(super) fn holder(name: &str) -> &str {
    name.find(".weight.").map_or(name, |at| &name[..at + ".weight".len()])
}

/// Index of each tensor; a name that two files have is a defect.
fn by_name(files: &[File], tensors: &[Tensor]) -> Result<HashMap<String, usize>> {
    let mut by_name = HashMap::with_capacity(tensors.len());
    for (index, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.clone(), index).is_some() {
            let path = files[tensor.file].path();
            let is_gguf =
                path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
            let (kind, other) =
                if is_gguf { ("GGUF", "part") } else { ("safetensors", "file of the folder") };
            let what = format!("tensor {} is also in another {other}", tensor.name);
            return Err(Error::malformed(kind, path, what));
        }
    }
    Ok(by_name)
}

/// Numbers residual blocks (stage, index) across stages, in order.
fn number_residual_blocks(tensors: &mut [Tensor]) {
    let blocks: BTreeSet<(u32, u32)> =
        tensors.iter().filter_map(|t| roles::residual_block(&t.name)).collect();
    let numbers: BTreeMap<(u32, u32), u32> = blocks.into_iter().zip(0..).collect();
    for tensor in tensors {
        if let Some(block) =
            roles::residual_block(&tensor.name).and_then(|block| numbers.get(&block))
        {
            tensor.place.block = Some(*block);
        }
    }
}

/// Whether linear layers are stored `[in, out]` as in GPT-2: then `c_attn` is three times wider than high.
/// (GPT-BigCode has the same names, but stores `[out, in]`.)
pub(super) fn has_conv1d(tensors: &[Tensor]) -> bool {
    tensors.iter().any(|tensor| {
        tensor.name.ends_with("attn.c_attn.weight")
            && matches!(tensor.shape.0[..], [rows, cols] if rows.checked_mul(3) == Some(cols))
    })
}

pub(super) fn matrix_of(tensor: &Tensor, conv1d: bool) -> Option<Matrix> {
    if !tensor.dtype.is_compressible()
        || tensor.place.role == Role::Norm
        || tensor.place.role == Role::Bias
    {
        return None;
    }
    let Shape(extents) = &tensor.shape;
    // Nothing to compress, and the product of the other extents may overflow.
    if extents.contains(&0) {
        return None;
    }
    if extents.len() >= 4 {
        let cols = extents[1..].iter().product();
        return Some(Matrix {
            shape: MatrixShape { rows: extents[0], cols },
            kind: MatrixKind::Convolution,
        });
    }
    let &[rows, cols] = extents.as_slice() else {
        return None;
    };
    let names = ["c_attn.weight", "c_proj.weight", "c_fc.weight", "q_attn.weight"];
    if conv1d && names.iter().any(|name| tensor.name.ends_with(name)) {
        return Some(Matrix {
            shape: MatrixShape { rows: cols, cols: rows },
            kind: MatrixKind::Conv1d,
        });
    }
    let kind = match tensor.place.role {
        Role::Embedding | Role::Position => MatrixKind::Embedding,
        Role::Other => MatrixKind::Unknown,
        _ => MatrixKind::Linear,
    };
    Some(Matrix { shape: MatrixShape { rows, cols }, kind })
}

/// Embeddings, blocks by index, the rest; inside a block by expert and role; then by name.
pub(super) fn order(tensor: &Tensor) -> (u8, u32, Option<u32>, Role, String) {
    let place = tensor.place;
    let section = match (place.block, place.role) {
        (Some(_), _) => 1,
        (None, Role::Embedding | Role::Position | Role::Conv1) => 0,
        (None, _) => 2,
    };
    (section, place.block.unwrap_or(0), place.expert, place.role, tensor.name.clone())
}

fn side_files(folder: &Path) -> Result<Vec<SideFile>> {
    let files = disk::list_files(folder)?.into_iter().filter(|(name, _)| is_side_file(name));
    Ok(files.map(|(name, bytes)| SideFile { path: folder.join(name), bytes }).collect())
}

/// Tokenizer, configuration other than config.json, chat template, code of the model, licence, model card.
fn is_side_file(name: &str) -> bool {
    const EXTENSIONS: [&str; 7] = ["json", "jinja", "model", "py", "md", "tiktoken", "spm"];
    const BEGINNINGS: [&str; 8] =
        ["vocab", "merges", "LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY", "tokenizer"];
    let never = name == "config.json"
        || name.ends_with(".index.json")
        || name.starts_with("lapidary-")
        || name.starts_with('.');
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !never
        && (extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
            || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)))
}
