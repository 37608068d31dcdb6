//! The output before it is written: every tensor, file and byte of it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::checkpoint::{Checkpoint, SideFile};
use crate::encoding::Layout;
use crate::error::{Error, Result};
use crate::fold;
use crate::format::safetensors::{FilePlan, Spec};
use crate::method;
use crate::plan::{Assignment, Plan};
use crate::target::{Aim, GgufFile, Storage, Target, adapter, biases, gguf, place_biases, shards};

/// Says which file holds which tensor.
const INDEX: &str = "model.safetensors.index.json";

/// What becomes of one tensor of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Index of the tensor.
    pub tensor: usize,
    /// The layout its assignment gives it; `None` where it is kept.
    pub layout: Option<Layout>,
    /// How the target stores it.
    pub storage: Storage,
    /// The tensors that hold it in the output.
    pub specs: Vec<Spec>,
    /// Their bytes.
    pub bytes: u64,
}

impl Entry {
    /// Whether it is a layer that the plan compresses, and not a tensor that changes beside one.
    pub fn is_compressed(&self) -> bool {
        self.layout.is_some() && !matches!(self.storage, Storage::Changed { .. })
    }
}

/// A weight file of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputFile {
    /// Its name.
    pub name: String,
    /// Its tensors and header.
    pub plan: WeightFile,
}

/// What a weight file holds, by its format.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightFile {
    /// Tensors of the source under a header of JSON.
    Safetensors(FilePlan),
    /// Keys, tokenizer and tensors for llama.cpp.
    Gguf(Box<GgufFile>),
}

impl WeightFile {
    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        match self {
            Self::Safetensors(plan) => plan.file_bytes(),
            Self::Gguf(file) => file.plan.file_bytes(),
        }
    }

    /// Bytes of the tensors, without what lies between them.
    pub fn data_bytes(&self) -> u64 {
        match self {
            Self::Safetensors(plan) => plan.data_bytes(),
            Self::Gguf(file) => file.plan.tensors().iter().map(|(_, bytes)| bytes).sum(),
        }
    }

    /// All other bytes of the file.
    pub fn header_bytes(&self) -> u64 {
        self.file_bytes() - self.data_bytes()
    }
}

/// A text of the output that is not copied: config.json, the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The output to the byte, before it is written. The report, which says what happened, is not counted.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// One entry for each tensor of the source, in its order.
    pub entries: Vec<Entry>,
    /// Weight files.
    pub files: Vec<OutputFile>,
    /// Texts that are written.
    pub texts: Vec<Text>,
    /// Files that are copied, with their bytes.
    pub copies: Vec<SideFile>,
}

impl Manifest {
    /// Lays out the export of `plan` for `target`. Opens no weights. Of a plan that takes parts out, what is laid out is
    /// that of [`Plan::reduced`].
    pub fn new(checkpoint: &Checkpoint, plan: &Plan, target: &dyn Target) -> Result<Self> {
        plan.refuse_removal()?;
        plan.check(checkpoint)?;
        Self::of(checkpoint, target, entries(checkpoint, plan, target)?)
    }

    /// Lays out the export of entries that are known already.
    pub fn of(checkpoint: &Checkpoint, target: &dyn Target, entries: Vec<Entry>) -> Result<Self> {
        if let Some(Ok(files)) = target.files(checkpoint, &entries) {
            // The file holds tokenizer and settings itself; what must go along are the terms of the model.
            let copies = checkpoint.side_files().iter().filter(|file| are_terms(file));
            let copies = copies.cloned().collect();
            return Ok(Self { entries, files, texts: Vec::new(), copies });
        }
        let mut files = files(checkpoint, target, &entries)?;
        let mut texts = Vec::new();
        let mut copies = Vec::new();
        let config = target.config(checkpoint, &entries);
        match biases::with_flags(checkpoint, &entries, config) {
            Some(config) => texts.push(text("config.json", &config)?),
            None => match checkpoint.config() {
                Some(config) if !config.is_as_file() => {
                    texts.push(text("config.json", config.value())?);
                }
                config => copies.extend(config.map(|config| config.file().clone())),
            },
        }
        for (name, value) in target.texts(checkpoint, &entries) {
            texts.push(text(name, &value)?);
        }
        if checkpoint.has_index() {
            texts.push(index(&files)?);
        }
        files.extend(adapter::file(checkpoint, &entries)?);
        if let Some((name, value)) = adapter::text(checkpoint, &entries) {
            texts.push(text(&name, &value)?);
        }
        let is_written = |side: &&SideFile| {
            texts.iter().any(|text| side.path.file_name() == Some(text.name.as_ref()))
        };
        copies.extend(checkpoint.side_files().iter().filter(|side| !is_written(side)).cloned());
        Ok(Self { entries, files, texts, copies })
    }

    /// The same output in files of the size that is wished for. Opens no weights.
    ///
    /// # Errors
    /// [`Error::Plan`] where the files of an output are not a matter of choice.
    pub fn in_shards(mut self, checkpoint: &Checkpoint, aim: Aim) -> Result<Self> {
        if aim.shard_bytes == 0 {
            return Ok(self);
        }
        shards::check(checkpoint)?;
        if self.files.iter().any(|file| matches!(file.plan, WeightFile::Gguf(_))) {
            let parts = gguf::joined(self.files)?
                .into_iter()
                .map(|file| gguf::split(file, aim.shard_bytes));
            self.files = parts.collect::<Result<Vec<_>>>()?.concat();
            return Ok(self);
        }
        self.files = shards::files(checkpoint, aim.target, &self.entries, aim.shard_bytes)?;
        self.texts.retain(|text| text.name != INDEX);
        if self.files.len() > 1 {
            self.texts.push(index(&self.files)?);
        }
        self.files.extend(adapter::file(checkpoint, &self.entries)?);
        Ok(self)
    }

    /// Bytes of all tensors of the output.
    pub fn tensor_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Bytes of the weight files: tensors and headers.
    pub fn weight_file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.plan.file_bytes()).sum()
    }

    /// Bytes of the folder, the report apart.
    pub fn total_bytes(&self) -> u64 {
        let texts: u64 = self.texts.iter().map(|text| text.bytes.len() as u64).sum();
        let copies: u64 = self.copies.iter().map(|file| file.bytes).sum();
        self.weight_file_bytes() + texts + copies
    }

    /// Effective bits per weight: all tensor bytes over the parameters of the source.
    pub fn bits_per_weight(&self, checkpoint: &Checkpoint) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / checkpoint.parameters() as f64
    }
}

/// What becomes of every tensor of a plan.
///
/// # Errors
/// Those of [`Assignment::layout`].
pub fn entries(checkpoint: &Checkpoint, plan: &Plan, target: &dyn Target) -> Result<Vec<Entry>> {
    let settled = fold::settle(checkpoint, plan);
    let tensors = 0..checkpoint.tensors().len();
    let all = tensors.map(|tensor| entry(checkpoint, &settled.plan, target, tensor));
    let mut all: Vec<Entry> = all.collect::<Result<_>>()?;
    for producer in &settled.folds {
        let readers = match producer.layers[..] {
            [layer] => checkpoint.tensors()[layer].module().to_owned(),
            _ => format!("the {} layers that read it", producer.layers.len()),
        };
        let because = format!("it takes the scales of {readers}");
        let kept = producer.matrix().filter(|&matrix| all[matrix].layout.is_none());
        for tensor in producer.vectors().into_iter().chain(kept) {
            all[tensor].storage = Storage::Changed { because: because.clone() };
            all[tensor].layout = Some(Layout::Dense(checkpoint.tensors()[tensor].dtype));
        }
    }
    place_biases(checkpoint, &mut all)?;
    Ok(all)
}

/// Whether what becomes of a tensor of a plan depends on what becomes of others, so that [`entry`] does not tell all of it.
/// Cost: one look at each assignment.
pub fn is_joint(plan: &Plan) -> bool {
    fold::is_asked(plan)
        || plan.iter().any(|(_, assignment)| method::chain_shifts(&assignment.steps))
}

/// What becomes of one tensor of a plan whatever becomes of the others: scales that go elsewhere and biases are not
/// looked at, see [`entries`].
///
/// # Errors
/// Those of [`Assignment::layout`].
pub fn entry(
    checkpoint: &Checkpoint,
    plan: &Plan,
    target: &dyn Target,
    index: usize,
) -> Result<Entry> {
    let assignment = plan.get(&checkpoint.tensors()[index].name);
    entry_of(checkpoint, index, assignment.map(AsRef::as_ref), target)
}

/// What an assignment makes of one tensor; `None` keeps it.
///
/// # Errors
/// Those of [`Assignment::layout`].
pub fn entry_of(
    checkpoint: &Checkpoint,
    index: usize,
    assignment: Option<&Assignment>,
    target: &dyn Target,
) -> Result<Entry> {
    let tensor = &checkpoint.tensors()[index];
    let assignment = assignment.filter(|assignment| !assignment.is_keep());
    let is_rewritten = target.rewrites() && checkpoint.gguf().is_some();
    let (layout, storage) = match (assignment, tensor.matrix) {
        (Some(assignment), Some(matrix)) => {
            let layout = assignment.layout(matrix.shape, tensor.dtype)?;
            if is_rewritten && gguf::is_already(tensor, &layout) {
                (None, Storage::Copied)
            } else {
                let storage = target.storage_in(checkpoint, tensor, &layout);
                (Some(layout), storage)
            }
        }
        _ => (None, Storage::Copied),
    };
    let specs = match (&layout, &storage) {
        (Some(layout), Storage::Native) => adapter::specs(target, tensor, layout),
        // What is kept of a finished file stays as it is stored.
        (_, Storage::Copied) if is_rewritten || tensor.coded.is_some() => {
            checkpoint.stored_as(tensor)
        }
        _ => vec![target.kept(tensor)],
    };
    let bytes = specs.iter().map(Spec::bytes).sum::<Result<u64>>()?;
    Ok(Entry { tensor: index, layout, storage, specs, bytes })
}

/// Whether a file beside the weights says on what terms they may be used.
fn are_terms(file: &SideFile) -> bool {
    const BEGINNINGS: [&str; 5] = ["LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"];
    let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)))
}

/// The files of the source with the tensors that replace theirs.
fn files(
    checkpoint: &Checkpoint,
    target: &dyn Target,
    entries: &[Entry],
) -> Result<Vec<OutputFile>> {
    let mut held: Vec<Vec<&Entry>> = vec![Vec::new(); checkpoint.files().len()];
    for entry in entries {
        held[checkpoint.tensors()[entry.tensor].file].push(entry);
    }
    let file = |(at, entries): (usize, Vec<&Entry>)| {
        let file = &checkpoint.files()[at];
        let mut metadata = file.metadata.clone();
        metadata.extend(target.metadata(checkpoint, at, &entries));
        // transformers refuses files that do not name a framework.
        metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
        let specs = entries.iter().flat_map(|entry| adapter::own_specs(checkpoint, entry));
        let specs = specs.cloned().collect();
        let plan = WeightFile::Safetensors(FilePlan::new(specs, &metadata)?);
        Ok(OutputFile { name: file.name.clone(), plan })
    };
    held.into_iter().enumerate().map(file).collect()
}

fn index(files: &[OutputFile]) -> Result<Text> {
    let total: u64 = files.iter().map(|file| file.plan.data_bytes()).sum();
    let mut weight_map: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        if let WeightFile::Safetensors(plan) = &file.plan {
            let names = plan.specs.iter().map(|spec| (spec.name.clone(), file.name.clone()));
            weight_map.extend(names);
        }
    }
    text(INDEX, &json!({ "metadata": { "total_size": total }, "weight_map": weight_map }))
}

fn text(name: &str, value: &serde_json::Value) -> Result<Text> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Unsupported { what: format!("writing {name} ({error})") })?;
    bytes.push(b'\n');
    Ok(Text { name: name.to_owned(), bytes })
}
