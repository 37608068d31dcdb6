//! An opened model: shards as one, names as places, fused groups, tied tensors, config.json, side files.
//! In: a folder or file. Out: immutable meta-data and borrowed bytes. Never does mathematics.
//!
//! Opening reads headers only; tensors stay on disk until their bytes are asked for.

mod adapted;
mod archived;
mod block;
mod coded;
mod config;
mod gguf_file;
mod gguf_names;
mod groups;
mod held;
mod open;
mod read;
mod reduced;
mod restored;
mod roles;
mod row_order;
mod vocabulary;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use coded::Coded;
pub use config::Config;
pub use gguf_file::{GgufPart, GgufTensor, GgufTensors};
pub use gguf_names::{GgufName, from_gguf, to_gguf};
pub use groups::{FusedGroup, FusedKind, Tied};
pub use held::Decodes;
pub use reduced::{Before, Removal, told_numbers};
pub use restored::Restored;
pub use roles::{Place, Role, place_of};
pub use row_order::RowOrder;

use crate::disk::{Identity, Source};
use crate::error::{Error, Result};
use crate::format::gguf_writer::Pairs;
use crate::tensor::{DType, MatrixShape, Shape};

/// A tensor of an open checkpoint.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name on disk.
    pub name: String,
    /// Element type: on disk, or of what it decodes to where it is stored in codes.
    pub dtype: DType,
    /// Extents, of values.
    pub shape: Shape,
    /// Block, role and expert, read off the name.
    pub place: Place,
    /// The weight matrix it is, if it can be compressed.
    pub matrix: Option<Matrix>,
    /// Index of its file in [`Checkpoint::files`].
    pub file: usize,
    /// What it is stored in, where its values do not follow one another in its element type.
    pub coded: Option<Coded>,
    /// How its rows follow one another there.
    pub rows: RowOrder,
    range: Range<u64>,
    /// Its name in the checkpoint from which parts were taken out, where that is another.
    source: Option<Arc<str>>,
    /// Where its bytes lie, one run after another, where parts of it were taken out.
    pieces: Option<Arc<[Range<u64>]>>,
}

impl Tensor {
    /// Number of elements.
    pub fn parameters(&self) -> u64 {
        self.shape.elements().unwrap_or(0)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        match &self.pieces {
            Some(pieces) => pieces.iter().map(|piece| piece.end - piece.start).sum(),
            None => self.range.end - self.range.start,
        }
    }

    /// Its name in the files: another than its own where blocks or experts before it were taken out.
    pub fn source_name(&self) -> &str {
        self.source.as_deref().unwrap_or(&self.name)
    }

    /// Whether rows of it were taken out.
    pub fn is_cut(&self) -> bool {
        self.pieces.is_some()
    }

    /// Why it cannot be compressed, for a message; only for tensors without a matrix.
    pub fn why_no_matrix(&self) -> String {
        if self.parameters() == 0 {
            format!("its shape {} holds no values", self.shape)
        } else if !self.is_readable() {
            format!("values stored as {} are not read here", self.type_name())
        } else if self.dtype.is_compressible() {
            format!(
                "its shape {} and role {} are not those of a weight matrix",
                self.shape, self.place.role
            )
        } else {
            format!("its values are {}, not weights", self.dtype)
        }
    }

    /// Where its bytes lie in its file, one run after another.
    pub fn byte_ranges(&self) -> Vec<Range<u64>> {
        match &self.pieces {
            Some(pieces) => pieces.to_vec(),
            None => vec![self.range.clone()],
        }
    }

    /// The module the tensor belongs to: its name without `.weight`.
    pub fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }
}

/// How a tensor is seen as a matrix `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// `[rows, cols]` = `[out, in]`.
    pub shape: MatrixShape,
    /// What the matrix belongs to, as far as runtimes tell apart.
    pub kind: MatrixKind,
}

/// The kind of module a matrix belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixKind {
    /// A linear layer, stored `[out, in]`.
    Linear,
    /// A linear layer of the GPT-2 family, stored `[in, out]` and analysed transposed.
    Conv1d,
    /// A convolution kernel `[out, in, kh, kw]`, analysed as `[out, in·kh·kw]`.
    Convolution,
    /// A table looked up by row.
    Embedding,
    /// A tensor of an unknown name: a matrix, but of what is not known.
    Unknown,
}

/// A file of the checkpoint.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name in the folder.
    pub name: String,
    /// The header's free-form metadata.
    pub metadata: BTreeMap<String, String>,
    source: Arc<Source>,
}

impl File {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Bytes of the file when it was opened.
    pub fn bytes(&self) -> u64 {
        self.source.len_bytes()
    }

    /// What tells this state of the file from another, if it has not been written since it was opened.
    pub fn identity(&self) -> Option<Identity> {
        self.source.identity()
    }
}

/// A file beside the weights, as it was when the checkpoint was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
}

/// An open model: immutable, mapped, perhaps larger than memory.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<File>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    config: Option<Config>,
    fused: Vec<FusedGroup>,
    fused_of: HashMap<usize, usize>,
    tied: Option<Tied>,
    side_files: Vec<SideFile>,
    has_index: bool,
    parameters: u64,
    tensor_bytes: u64,
    /// Its tokenizer in the words of GGUF, once it was asked for.
    vocabulary: OnceLock<std::result::Result<Pairs, vocabulary::Refusal>>,
    /// What a GGUF file holds, where it is one.
    gguf: Option<GgufTensors>,
    /// Layers that lie there part by part.
    archived: archived::Archived,
    /// Corrections in an adapter beside it.
    adapted: adapted::Adapted,
    /// What was taken out of what the files hold, and what it was before.
    removal: Removal,
    before: Option<Before>,
    /// Who decodes layers that are seen as what they hold.
    decoder: Option<Arc<dyn Decodes>>,
}

/// A shared open checkpoint, as jobs hold it.
pub type SharedCheckpoint = Arc<Checkpoint>;

impl Checkpoint {
    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name to show: that of the folder, or of a lone file.
    pub fn title(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Its weight files, in the order of their names.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Refuses a weight file that was written or replaced since it was opened. Cost: some µs.
    ///
    /// # Errors
    /// [`Error::Plan`] that names it.
    pub fn check_unchanged(&self, file: usize) -> Result<()> {
        let file = &self.files[file];
        if file.source.is_unchanged() {
            return Ok(());
        }
        Err(Error::plan(
            format!("{} was changed since it was opened", file.path().display()),
            "open the model again, or give the same command again, once it is whole",
        ))
    }

    /// The same for all of them.
    ///
    /// # Errors
    /// Those of [`Checkpoint::check_unchanged`].
    pub fn check_all_unchanged(&self) -> Result<()> {
        (0..self.files.len()).try_for_each(|file| self.check_unchanged(file))
    }

    /// Every tensor: embeddings, then blocks in order, then the rest.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Index of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// config.json, where there is one.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Sets of layers that runtimes store as one: q/k/v, gate/up.
    pub fn fused_groups(&self) -> &[FusedGroup] {
        &self.fused
    }

    /// The fused group a tensor belongs to.
    pub fn fused_group_of(&self, tensor: usize) -> Option<&FusedGroup> {
        self.fused_index_of(tensor).map(|group| &self.fused[group])
    }

    /// The place of that group in [`Checkpoint::fused_groups`].
    pub fn fused_index_of(&self, tensor: usize) -> Option<usize> {
        self.fused_of.get(&tensor).copied()
    }

    /// The embedding that is also the head, where the model ties them.
    pub fn tied(&self) -> Option<&Tied> {
        self.tied.as_ref()
    }

    /// Tokenizer, generation config, chat template, licence: files to go along with an export.
    pub fn side_files(&self) -> &[SideFile] {
        &self.side_files
    }

    /// Whether the folder has an index that maps tensors to shards.
    pub fn has_index(&self) -> bool {
        self.has_index
    }

    /// The tensors of a GGUF file as a network reads them, where that is what was opened.
    pub fn gguf(&self) -> Option<&GgufTensors> {
        self.gguf.as_ref()
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes
    }

    /// Number of blocks: one more than the highest block index.
    pub fn blocks(&self) -> u32 {
        self.tensors.iter().filter_map(|tensor| tensor.place.block).max().map_or(0, |last| last + 1)
    }
}
