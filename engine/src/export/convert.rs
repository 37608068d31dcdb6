//! A compressed checkpoint written for another target, without compressing it again: codes and scales are taken over where
//! the target has a form for them, and decoded where it has none, with the reason. In: a checkpoint that is read here, a
//! target. Out: a folder with its proof and report, as of an export.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Restored};
use crate::compare::{CompressedLayer, Counterpart, layers};
use crate::encoding::{Dense, Encoding, Layout};
use crate::error::{Error, Result};
use crate::export::kept::Kept;
use crate::export::strips::Weights;
use crate::export::{self, Destination, Report, Work};
use crate::format::safetensors::Spec;
use crate::job::{Encodings, Slots};
use crate::observer::{Observer, Progress, Unit};
use crate::plan::Plan;
use crate::target::{Aim, Case, Entry, Manifest, Storage, adapter, place_biases, refuse_errors};

/// Why a layer is decoded although the target might have held it.
const NO_ENCODING: &str = "its inputs were taken in another order, which no other format says";

/// A compressed checkpoint, and the model that it stands for.
pub(super) struct Opened<'a> {
    source: &'a Checkpoint,
    /// By index of the tensor they are restored to.
    by_index: HashMap<usize, CompressedLayer>,
    restored: Checkpoint,
    observer: &'a dyn Observer,
}

/// Layouts of compressed layers by index; `None` for one that is only known as it decodes.
pub(super) type Layouts = HashMap<usize, Option<Layout>>;

/// Its layers, read when they are asked for.
struct Layers<'a> {
    opened: &'a Opened<'a>,
    /// How many levels are left of stacks that are cut.
    levels: HashMap<usize, usize>,
}

impl Encodings for Layers<'_> {
    fn has(&self, tensor: usize) -> bool {
        self.opened.by_index.contains_key(&tensor)
    }

    fn encoding(&self, tensor: usize) -> Result<Arc<Encoding>> {
        let whole = self.opened.whole(tensor)?;
        let cut = self.levels.get(&tensor).and_then(|&levels| whole.first_levels(levels));
        Ok(Arc::new(cut.unwrap_or(whole)))
    }
}

impl<'a> Opened<'a> {
    /// What `source` stands for.
    ///
    /// # Errors
    /// Those of [`convert`] that need no weight.
    pub(super) fn new(
        source: &'a Checkpoint,
        memory_bytes: u64,
        observer: &'a dyn Observer,
    ) -> Result<Self> {
        let compressed = compressed(source, memory_bytes)?;
        let restored: Vec<Restored> = compressed
            .iter()
            .map(|(name, (layer, parts))| restored(source, name, layer, parts))
            .collect();
        let restored = source.restored(&restored)?;
        let by_index = compressed
            .into_iter()
            .filter_map(|(name, (layer, _))| Some((restored.find(&name)?, layer)));
        Ok(Self { source, by_index: by_index.collect(), restored, observer })
    }

    /// The model that it stands for.
    pub(super) fn restored(&self) -> &Checkpoint {
        &self.restored
    }

    /// The encoding of a layer; what has none here is given as it decodes.
    fn whole(&self, tensor: usize) -> Result<Encoding> {
        let absent = || Error::Unsupported { what: format!("tensor {tensor}, which is whole,") };
        let layer = self.by_index.get(&tensor).ok_or_else(absent)?;
        if let Some(encoding) = layer.encoding(self.source, self.observer)? {
            return Ok(encoding);
        }
        let values = self.decoded(layer)?;
        let dtype = self.restored.tensors()[tensor].dtype;
        Ok(Encoding::Dense(Dense::new(layer.shape, dtype, &values)))
    }

    fn decoded(&self, layer: &CompressedLayer) -> Result<Vec<f32>> {
        let damaged = || Error::Unsupported {
            what: format!("reading the parts of {}, which do not fit together,", layer.module),
        };
        let mut values = vec![0.0; layer.shape.elements()];
        let parts = layer.read_parts(self.source, 0..values.len(), self.observer)?;
        let reader = parts.reader().ok_or_else(damaged)?;
        reader.read(0, &mut values).ok_or_else(damaged)?;
        Ok(values)
    }

    /// The layouts of all compressed layers, each shown to `see` as it is read.
    pub(super) fn layouts(
        &self,
        see: &mut dyn FnMut(usize, &Encoding) -> Result<()>,
    ) -> Result<Layouts> {
        let tensors = self.restored.tensors();
        let total = self.restored.tensor_bytes();
        let mut done = 0;
        let mut layouts = Layouts::new();
        for (index, tensor) in tensors.iter().enumerate() {
            self.observer.go_on()?;
            let item = tensor.name.clone();
            let stage = "Reading";
            self.observer.progress(Progress { stage, item, done, total, unit: Unit::Bytes });
            done += tensor.bytes();
            let Some(layer) = self.by_index.get(&index) else { continue };
            let encoding = layer.encoding(self.source, self.observer)?;
            if let Some(encoding) = &encoding {
                see(index, encoding)?;
            }
            layouts.insert(index, encoding.map(|encoding| encoding.layout()));
        }
        Ok(layouts)
    }

    /// What becomes of a tensor of the restored model.
    fn entry(&self, index: usize, layouts: &Layouts, aim: Aim) -> Result<Entry> {
        let tensor = &self.restored.tensors()[index];
        let Some(layout) = layouts.get(&index) else {
            return entry(index, None, Storage::Copied, vec![aim.target.kept(tensor)]);
        };
        let Some(layout) = layout.clone() else {
            let because = NO_ENCODING.to_owned();
            let layout = Layout::Dense(tensor.dtype);
            let specs = vec![aim.target.kept(tensor)];
            return entry(index, Some(layout), Storage::Dense { because }, specs);
        };
        let storage = aim.target.storage_in(&self.restored, tensor, &layout);
        let specs = match storage {
            Storage::Native => adapter::specs(aim.target, tensor, &layout),
            _ => vec![aim.target.kept(tensor)],
        };
        entry(index, Some(layout), storage, specs)
    }

    /// The files of the layers in these layouts.
    pub(super) fn manifest(&self, layouts: &Layouts, aim: Aim) -> Result<Manifest> {
        let indices = 0..self.restored.tensors().len();
        let entries = indices.map(|index| self.entry(index, layouts, aim));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        let checkpoint = &self.restored;
        place_biases(checkpoint, &mut entries)?;
        refuse_errors(&Case { checkpoint, plan: &Plan::default(), aim, entries: &entries })?;
        Manifest::of(checkpoint, aim.target, entries)?.in_shards(checkpoint, aim)
    }

    /// Writes those files, of stacks the first `levels` by index, and proves and reports them.
    pub(super) fn write(
        &self,
        levels: HashMap<usize, usize>,
        (manifest, aim): (&Manifest, Aim),
        destination: Destination<'_>,
    ) -> Result<Report> {
        let layers = Layers { opened: self, levels };
        export::refuse_own_source(self.source, destination.folder)?;
        self.source.check_all_unchanged()?;
        let heights: BTreeMap<usize, usize> = levels_of(&layers);
        let said = format!("{} {heights:?}", aim.target.about().id);
        let kept_in = |folder: &Path| Kept::new(folder.to_path_buf(), self.source, &said);
        let there = |folder: &Path| kept_in(folder).map_or(0, |kept| kept.there_bytes(manifest));
        // What is written is the store: the output takes its files over.
        let folder = export::begin(destination, (0, manifest.total_bytes()), &there)?;
        let kept = kept_in(&folder.finished_parts());
        if let Some(kept) = &kept {
            kept.remove_others(manifest)?;
        }
        let work = Work {
            checkpoint: &self.restored,
            encodings: &layers,
            manifest,
            slots: &Slots::default(),
            target: aim.target,
            observer: self.observer,
            weights: &|index| {
                if layers.has(index) {
                    return self.whole(index).map(Weights::Encoded);
                }
                if self.restored.is_by_row(index) {
                    return Ok(Weights::Source);
                }
                self.restored.weights(index, self.observer).map(Weights::Whole)
            },
            asks_outputs: &|_| false,
            outputs: &|_, _, _| Ok(None),
        };
        export::finish(&work, folder, &Plan::default(), kept.as_ref())
    }
}

/// How many levels are left of each stack, in order.
fn levels_of(layers: &Layers<'_>) -> BTreeMap<usize, usize> {
    layers.levels.iter().map(|(&layer, &levels)| (layer, levels)).collect()
}

fn entry(
    tensor: usize,
    layout: Option<Layout>,
    storage: Storage,
    specs: Vec<Spec>,
) -> Result<Entry> {
    let bytes = specs.iter().map(Spec::bytes).sum::<Result<u64>>()?;
    Ok(Entry { tensor, layout, storage, specs, bytes })
}

/// Writes `source`, which holds layers compressed, for another target; reads it back, proves it against the layers as they
/// are in the source, and adds the report, whose errors are those against the source as it decodes.
///
/// Where it stops, the tensors that were written lie beside the output as those of [`crate::export::export`] do, and the same
/// conversion goes on behind them, to the same bytes; GGUF files begin anew.
/// Cost: reading the source twice, writing once, reading the result once; memory of the largest layer.
///
/// # Errors
/// [`Error::Plan`] for a checkpoint without a compressed layer, for what the target cannot load, and for a layer in a form
/// that is not read here; [`Error::Limit`] for a layer that does not fit the memory limit; those of writing and proving.
pub fn convert(
    source: &Checkpoint,
    aim: impl Into<Aim>,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Report> {
    let aim = aim.into();
    let opened = Opened::new(source, destination.limits.memory_bytes, observer)?;
    let layouts = opened.layouts(&mut |_, _| Ok(()))?;
    let manifest = opened.manifest(&layouts, aim)?;
    opened.write(HashMap::new(), (&manifest, aim), destination)
}

/// The compressed layers by name, with the tensors that hold them.
fn compressed(
    source: &Checkpoint,
    memory_bytes: u64,
) -> Result<BTreeMap<String, (CompressedLayer, Vec<usize>)>> {
    if source.gguf().is_some() {
        return Err(Error::plan(
            format!("{} is a GGUF file, which is not converted", source.path().display()),
            "export from the safetensors checkpoint it was made from",
        ));
    }
    let mut compressed = BTreeMap::new();
    for (name, stored) in layers(source) {
        match stored {
            Counterpart::Plain { .. } => {}
            Counterpart::Unreadable { because, .. } => {
                return Err(Error::plan(
                    format!("layer {name} of {} is not read, as {because}", source.title()),
                    "convert the model with the tool that made it",
                ));
            }
            Counterpart::Compressed { layer, tensors } => {
                // Codes, what they decode to, and a copy of either.
                let needed_bytes = (layer.shape.elements() as u64).saturating_mul(12);
                if needed_bytes > memory_bytes {
                    let what = format!("decoding layer {name}");
                    return Err(Error::Limit { what, needed_bytes, allowed_bytes: memory_bytes });
                }
                compressed.insert(name, (layer, tensors));
            }
        }
    }
    if compressed.is_empty() {
        return Err(Error::plan(
            format!("{} holds no compressed layer", source.path().display()),
            "give a compressed checkpoint, or compress this one with a project",
        ));
    }
    Ok(compressed)
}

fn restored(source: &Checkpoint, name: &str, layer: &CompressedLayer, parts: &[usize]) -> Restored {
    Restored {
        name: name.to_owned(),
        dtype: layer.tensor_dtype(source),
        shape: layer.tensor_shape(),
        parts: parts.to_vec(),
    }
}
