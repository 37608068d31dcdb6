//! The file of an export for llama.cpp, before it is written: its keys, its tensors, and what each is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::checkpoint::{Checkpoint, Role, RowOrder, Tensor, to_gguf};
use crate::encoding::{Layout, Levels};
use crate::error::{Error, Result};
use crate::format::gguf::BlockType;
use crate::format::gguf_split::PartName;
use crate::format::gguf_writer::{GgufPlan, NewTensor, NewValue, Pairs};
use crate::target::gguf::architectures::{self, Architecture, NORMS};
use crate::target::gguf::settings::{Keys, Settings, refused};
use crate::target::{Entry, Storage};
use crate::tensor::DType;

/// Version of the block types, as llama.cpp counts them.
pub(super) const QUANTIZATION_VERSION: u32 = 2;

/// A GGUF file about to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufFile {
    /// Its header and the order of its tensors.
    pub plan: GgufPlan,
    /// What each tensor of the plan is made of, in the same order.
    pub contents: Vec<Content>,
}

/// What a tensor of a GGUF file is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Rows of matrices `[out, in]`, one matrix after another: several are the experts of a block.
    Matrices {
        /// Indices of the tensors.
        tensors: Vec<usize>,
        /// How rows are ordered.
        rows: RowOrder,
    },
    /// A vector in F32.
    Vector {
        /// Index of the tensor.
        tensor: usize,
        /// How its values are ordered.
        rows: RowOrder,
        /// What is added to each value.
        plus: f32,
    },
    /// What multiplies each of some matrices, in F32.
    Multipliers(Vec<usize>),
    /// Numbers of its own.
    Values(Vec<f32>),
    /// Bytes of the source, a GGUF file itself, as they are.
    Carried {
        /// Index of the file.
        file: usize,
        /// Where they lie in it.
        range: Range<u64>,
    },
}

/// A tensor's place in the file: its name, and of experts which.
struct Placed {
    name: String,
    tail: String,
    expert: Option<u32>,
}

/// Lays out the file.
///
/// # Errors
/// [`Error::Plan`] naming what llama.cpp would not run as the source is meant: the architecture, a setting, a tensor,
/// the tokenizer.
pub(super) fn layout(checkpoint: &Checkpoint, entries: &[Entry]) -> Result<GgufFile> {
    let settings = Settings::of(checkpoint)?;
    let architecture = architectures::of(&settings)?;
    let mut keys = Keys::new(architecture.name);
    let extras = (architecture.keys)(&settings, &mut keys)?;
    let mut builder = Builder {
        checkpoint,
        entries,
        architecture,
        heads: heads(&settings)?,
        names: BTreeMap::new(),
        tensors: Vec::new(),
        contents: Vec::new(),
    };
    for (index, entry) in entries.iter().enumerate() {
        builder.add(index, entry)?;
    }
    for (name, values) in extras {
        builder.tensors.push(NewTensor::f32(name, &[values.len() as u64]));
        builder.contents.push(Content::Values(values));
    }
    builder.check(&settings)?;
    let mut pairs = general(checkpoint, entries, architecture);
    pairs.append(&keys.pairs);
    pairs.append(checkpoint.gguf_vocabulary()?);
    let Builder { tensors, contents, .. } = builder;
    Ok(GgufFile { plan: GgufPlan::of(&pairs, tensors)?, contents })
}

/// Heads of queries and of keys.
fn heads(settings: &Settings<'_>) -> Result<[usize; 2]> {
    let Some(queries) = settings.maybe("num_attention_heads")? else { return Ok([1, 1]) };
    let keys = settings.maybe("num_key_value_heads")?.unwrap_or(queries);
    Ok([queries as usize, keys as usize])
}

fn general(checkpoint: &Checkpoint, entries: &[Entry], architecture: &Architecture) -> Pairs {
    let mut pairs = Pairs::default();
    let text = |text: &str| NewValue::Text(text.to_owned());
    pairs.push("general.architecture", &text(architecture.name));
    pairs.push("general.type", &text("model"));
    pairs.push("general.name", &text(&stem(checkpoint)));
    pairs.push("general.quantization_version", &NewValue::U32(QUANTIZATION_VERSION));
    pairs.push("general.file_type", &NewValue::U32(file_type(checkpoint, entries)));
    pairs
}

/// The name of the checkpoint without the ending of a file.
pub(super) fn stem(checkpoint: &Checkpoint) -> String {
    let title = checkpoint.title();
    if let Some(part) = PartName::of(&title) {
        return part.stem.to_owned();
    }
    let ended = [".safetensors", ".gguf"].iter().find_map(|ending| title.strip_suffix(ending));
    ended.unwrap_or(&title).to_owned()
}

/// llama.cpp's number for the type that most weights of layers have: a label, which loaders do not rely on.
fn file_type(checkpoint: &Checkpoint, entries: &[Entry]) -> u32 {
    let mut weights: BTreeMap<u32, u64> = BTreeMap::new();
    for entry in entries {
        let tensor = &checkpoint.tensors()[entry.tensor];
        if let (Some(_), Some(_), Some(kind)) = (tensor.matrix, tensor.place.block, kind_of(entry))
        {
            *weights.entry(kind).or_default() += tensor.parameters();
        }
    }
    label(&weights).unwrap_or(0)
}

/// The label of the type that most weights have, where llama.cpp has one for it.
pub(super) fn label(weights: &BTreeMap<u32, u64>) -> Option<u32> {
    const LABELS: [(u32, u32); 28] = [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 3),
        (8, 7),
        (6, 8),
        (7, 9),
        (10, 10),
        (11, 12),
        (12, 15),
        (13, 17),
        (14, 18),
        (16, 19),
        (17, 20),
        (18, 23),
        (19, 24),
        (20, 25),
        (21, 26),
        (22, 28),
        (23, 30),
        (29, 31),
        (30, 32),
        (34, 36),
        (35, 37),
        (39, 38),
        (40, 39),
        (41, 40),
        (42, 41),
    ];
    let (most, _) = weights.iter().max_by_key(|(_, weights)| **weights)?;
    LABELS.iter().find(|(kind, _)| kind == most).map(|(_, label)| *label)
}

/// Number of the type an entry is stored in.
pub(super) fn kind_of(entry: &Entry) -> Option<u32> {
    if let (Storage::Native, Some(layout)) = (&entry.storage, &entry.layout) {
        return native_kind(layout);
    }
    match entry.specs.first()?.dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(30),
        _ => None,
    }
}

/// Number of the type that holds a layout in the format's own form.
pub(super) fn native_kind(layout: &Layout) -> Option<u32> {
    let named = |name: &str| BlockType::named(name).map(|block| block.id);
    match layout.under_masks() {
        Layout::Blocks(kind) => named(kind.name()),
        Layout::Dense(dtype) => named(dtype.name()),
        Layout::Affine(affine) => named(match (affine.bits, affine.has_offsets) {
            (4, false) => "q4_0",
            (4, true) => "q4_1",
            (5, false) => "q5_0",
            (5, true) => "q5_1",
            (8, false) => "q8_0",
            _ => return None,
        }),
        Layout::Float(float) if float.levels == Levels::E2m1 => {
            named(if float.has_global() { "nvfp4" } else { "mxfp4" })
        }
        _ => None,
    }
}

/// Number of the type whose blocks need a number beside them.
pub(super) const NVFP4: u32 = 40;

/// The tensor of what multiplies the matrix of this name.
pub(super) fn scale_of(weight: &str) -> String {
    format!("{}.scale", weight.strip_suffix(".weight").unwrap_or(weight))
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    entries: &'a [Entry],
    architecture: &'static Architecture,
    heads: [usize; 2],
    /// Places in `tensors`, by name.
    names: BTreeMap<String, usize>,
    tensors: Vec<NewTensor>,
    contents: Vec<Content>,
}

impl Builder<'_> {
    fn add(&mut self, index: usize, entry: &Entry) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[index];
        if entry.bytes == 0 && super::is_left_out(tensor) {
            return Ok(());
        }
        let no_place = || refused(format!("there is no place for the tensor {}", tensor.name));
        let placed = self.place(tensor).ok_or_else(no_place)?;
        let kind = kind_of(entry).ok_or_else(|| {
            let Tensor { name, dtype, .. } = tensor;
            refused(format!("the tensor {name} is {dtype}, for which llama.cpp has no type"))
        })?;
        let rows = self.order(&placed.tail);
        let Some(matrix) = tensor.matrix else {
            return self.add_vector(index, placed, rows);
        };
        let extents = vec![matrix.shape.cols as u64, matrix.shape.rows as u64];
        let scale = (kind == NVFP4).then(|| scale_of(&placed.name));
        if let Some(expert) = placed.expert {
            self.add_expert(index, (placed.name, expert), (extents, kind))?;
        } else {
            let tensors = vec![index];
            let new = NewTensor { name: placed.name, extents, kind };
            self.push(new, Content::Matrices { tensors, rows })?;
        }
        scale.map_or(Ok(()), |scale| self.add_multiplier(index, scale))
    }

    /// What a matrix is multiplied by: a number for each expert, where it is one of several.
    fn add_multiplier(&mut self, index: usize, name: String) -> Result<()> {
        let Some(&at) = self.names.get(&name) else {
            return self.push(NewTensor::f32(name, &[1]), Content::Multipliers(vec![index]));
        };
        if let Content::Multipliers(tensors) = &mut self.contents[at] {
            self.tensors[at].extents[0] += 1;
            tensors.push(index);
        }
        Ok(())
    }

    fn add_vector(&mut self, index: usize, placed: Placed, rows: RowOrder) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[index];
        let [extent] = tensor.shape.0[..] else {
            return Err(refused(format!("the tensor {} is {}", tensor.name, tensor.shape)));
        };
        let is_norm = placed.tail.ends_with("norm") && tensor.name.ends_with(".weight");
        let plus = if is_norm && self.architecture.norms_from_one { 1.0 } else { 0.0 };
        let new = NewTensor::f32(placed.name, &[extent as u64]);
        self.push(new, Content::Vector { tensor: index, rows, plus })
    }

    /// Experts come in order; the first makes the tensor, the others make it longer.
    fn add_expert(
        &mut self,
        index: usize,
        (name, expert): (String, u32),
        (mut extents, kind): (Vec<u64>, u32),
    ) -> Result<()> {
        let source = &self.checkpoint.tensors()[index].name;
        let Some(&at) = self.names.get(&name) else {
            if expert != 0 {
                return Err(refused(format!("the experts before {source} are missing")));
            }
            extents.push(1);
            let content = Content::Matrices { tensors: vec![index], rows: RowOrder::Kept };
            return self.push(NewTensor { name, extents, kind }, content);
        };
        let (new, content) = (&mut self.tensors[at], &mut self.contents[at]);
        if new.kind != kind || new.extents[..2] != extents {
            return Err(refused(format!("{source} is stored unlike the experts before it")));
        }
        if let (Content::Matrices { tensors, .. }, true) =
            (content, new.extents[2] == u64::from(expert))
        {
            new.extents[2] += 1;
            tensors.push(index);
            return Ok(());
        }
        Err(refused(format!("the experts before {source} are missing")))
    }

    fn push(&mut self, new: NewTensor, content: Content) -> Result<()> {
        if self.names.insert(new.name.clone(), self.tensors.len()).is_some() {
            return Err(refused(format!("two tensors would be {}", new.name)));
        }
        self.tensors.push(new);
        self.contents.push(content);
        Ok(())
    }

    /// How the rows of a layer are ordered.
    fn order(&self, tail: &str) -> RowOrder {
        match (self.architecture.weaves, tail) {
            (true, "attn_q") => RowOrder::Woven { heads: self.heads[0] },
            (true, "attn_k") => RowOrder::Woven { heads: self.heads[1] },
            _ => RowOrder::Kept,
        }
    }

    /// Where a tensor of the source goes; `None` where this architecture has no place for it.
    fn place(&self, tensor: &Tensor) -> Option<Placed> {
        let (module, suffix) = tensor.name.rsplit_once('.')?;
        if !["weight", "bias"].contains(&suffix) {
            return None;
        }
        let (base, expert) = match to_gguf(module) {
            Some(name) => (name.tensor, name.expert),
            None => (self.norm(module, tensor)?, None),
        };
        let tail = base.rsplit_once('.').map_or(base.as_str(), |(_, tail)| tail).to_owned();
        let is_known = match (tensor.place.block, suffix) {
            (Some(_), "weight") => self.architecture.block.contains(&tail.as_str()),
            (Some(_), _) => self.architecture.biases.contains(&tail.as_str()),
            (None, "weight") => true,
            (None, _) => tail == "output_norm" && self.architecture.positions.is_some(),
        };
        is_known.then(|| Placed { name: format!("{base}.{suffix}"), tail, expert })
    }

    /// The names of norms and of the table of positions.
    fn norm(&self, module: &str, tensor: &Tensor) -> Option<String> {
        let Some(block) = tensor.place.block else {
            let last = module.rsplit_once('.').map_or(module, |(_, last)| last);
            return match last {
                "norm" | "ln_f" => Some("output_norm".to_owned()),
                table => {
                    (self.architecture.positions == Some(table)).then(|| "position_embd".to_owned())
                }
            };
        };
        let (_, inside) = module
            .split_once(&format!(".{block}."))
            .or_else(|| module.split_once(&format!("{block}.")))?;
        let mut known = self.architecture.norms.iter().chain(NORMS);
        let tail = known.find(|(ours, _)| *ours == inside).map(|(_, tail)| *tail)?;
        Some(format!("blk.{block}.{tail}"))
    }

    /// Every tensor llama.cpp asks for is there, and heads are whole.
    fn check(&self, settings: &Settings<'_>) -> Result<()> {
        let blocks = settings.maybe("num_hidden_layers")?.or(settings.maybe("n_layer")?);
        let blocks = blocks.unwrap_or(0);
        if blocks != self.checkpoint.blocks() {
            let found = self.checkpoint.blocks();
            return Err(refused(format!("it has {found} blocks, and config.json says {blocks}")));
        }
        let mut needed = vec!["token_embd.weight".to_owned(), "output_norm.weight".to_owned()];
        let is_tied = settings.is_tied(self.architecture.tied);
        match (is_tied, self.names.contains_key("output.weight")) {
            (false, _) => needed.push("output.weight".to_owned()),
            (true, false) => {}
            (true, true) => {
                return Err(refused("its head is tied to the embedding and in the file as well"));
            }
        }
        if self.architecture.positions.is_some() {
            needed.push("position_embd.weight".to_owned());
        }
        for block in 0..blocks {
            let tails = self.architecture.block.iter();
            needed.extend(tails.map(|tail| format!("blk.{block}.{tail}.weight")));
        }
        if let Some(missing) = needed.iter().find(|name| !self.names.contains_key(*name)) {
            return Err(refused(format!("nothing in it becomes {missing}")));
        }
        self.check_experts(settings)?;
        self.check_rows()
    }

    fn check_experts(&self, settings: &Settings<'_>) -> Result<()> {
        let counts: BTreeSet<u64> =
            self.tensors.iter().filter_map(|tensor| tensor.extents.get(2).copied()).collect();
        let said = settings.maybe("num_local_experts")?.or(settings.maybe("num_experts")?);
        match (counts.iter().next(), counts.len()) {
            (None, _) => Ok(()),
            (Some(found), 1) if said.map(u64::from) == Some(*found) => Ok(()),
            _ => Err(refused("not every block has all the experts config.json speaks of")),
        }
    }

    /// Heads have an even number of rows, and every entry is as long as was promised.
    fn check_rows(&self) -> Result<()> {
        for content in &self.contents {
            let (tensor, rows) = match content {
                Content::Matrices { tensors, rows } => (tensors[0], *rows),
                Content::Vector { tensor, rows, .. } => (*tensor, *rows),
                Content::Multipliers(_) | Content::Values(_) | Content::Carried { .. } => continue,
            };
            let source = &self.checkpoint.tensors()[tensor];
            if let RowOrder::Woven { heads } = rows
                && !source.shape.0.first().is_some_and(|rows| rows.is_multiple_of(2 * heads))
            {
                return Err(refused(format!("{} has no even number of rows a head", source.name)));
            }
            let width = source.matrix.map(|matrix| matrix.shape.cols);
            let is_embedding = source.place.role == Role::Embedding;
            if is_embedding && width == Some(0) {
                return Err(refused(format!("{} is empty", source.name)));
            }
        }
        let promised: u64 = self.entries.iter().map(|entry| entry.bytes).sum();
        let plan = GgufPlan::of(&Pairs::default(), self.tensors.clone())?;
        let own = |content: &Content| matches!(content, Content::Values(_));
        let tensors = plan.tensors().iter().zip(&self.contents);
        let found: u64 = tensors.filter(|(_, c)| !own(c)).map(|((_, bytes), _)| bytes).sum();
        if found == promised {
            return Ok(());
        }
        Err(Error::Unsupported { what: format!("a layout of {found} bytes for {promised}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_block_has_a_number() {
        for kind in crate::encoding::BlockType::ALL {
            assert!(native_kind(&Layout::Blocks(kind)).is_some(), "{kind}");
        }
    }
}
