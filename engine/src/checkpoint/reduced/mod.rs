//! A checkpoint without some of its blocks and experts: the others under their new numbers, tensors that hold a row for each
//! expert cut, config.json mended. In: which. Out: a checkpoint like any other, whose bytes are those of the same files.

mod config;
mod experts;
mod kinds;
mod pattern;
mod removal;
mod tower;

use std::sync::Arc;

use serde_json::Value;

pub use removal::{Removal, told_numbers};

use crate::checkpoint::open::{assemble, has_conv1d, holder, matrix_of, order};
use crate::checkpoint::{Checkpoint, Config, File, Tensor, roles};
use crate::error::{Error, Result};
use experts::{Mixtures, expert_of};
use kinds::Structures;
use tower::Tower;

/// What a model was before parts were taken out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Blocks.
    pub blocks: u32,
    /// Experts of all blocks.
    pub experts: u32,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Their bytes.
    pub tensor_bytes: u64,
}

/// Keys of config.json by which a checkpoint says that it is compressed already.
const COMPRESSED: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

impl Checkpoint {
    /// What was taken out of what the files hold.
    pub fn removal(&self) -> &Removal {
        &self.removal
    }

    /// This model without some of its blocks and experts. Cost: some hashing of names; no file is opened.
    ///
    /// # Errors
    /// [`Error::Plan`] for what cannot be taken out, with what to do instead: blocks and experts that are not there or would
    /// not be enough, and whatever config.json has no way to say afterwards.
    pub fn without(&self, removal: &Removal) -> Result<Self> {
        let removal = removal.clone().plain();
        let reduction = Reduction::new(self, &removal)?;
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            tensors.extend(reduction.tensor(tensor)?);
        }
        let conv1d = has_conv1d(&self.tensors);
        for tensor in tensors.iter_mut().filter(|tensor| tensor.is_cut()) {
            tensor.matrix = matrix_of(tensor, conv1d);
        }
        tensors.sort_by_cached_key(order);
        let files = held(&self.files, &mut tensors);
        let config =
            self.config.as_ref().map(|config| reduction.config(self, config)).transpose()?;
        let beside = (config, self.side_files.clone(), self.has_index);
        let mut reduced = assemble(&self.path, files, tensors, beside)?;
        reduced.before = Some(Before {
            blocks: reduction.tower.blocks,
            experts: reduction.mixtures.count(),
            parameters: self.parameters,
            tensor_bytes: self.tensor_bytes,
        });
        reduced.removal = removal;
        Ok(reduced)
    }

    /// What the model was before parts were taken out; `None` where none were.
    pub fn before(&self) -> Option<Before> {
        self.before
    }

    /// Bytes of all tensors of the files, also of what was taken out.
    pub fn source_tensor_bytes(&self) -> u64 {
        self.before.map_or(self.tensor_bytes, |before| before.tensor_bytes)
    }

    /// Where each tensor stands in the checkpoint whose parts were taken out; `None` where that is another.
    pub fn places_in(&self, whole: &Self) -> Vec<Option<usize>> {
        self.tensors.iter().map(|tensor| whole.find(tensor.source_name())).collect()
    }

    /// Refuses what cannot be taken out.
    ///
    /// # Errors
    /// Those of [`Checkpoint::without`].
    pub fn check_removal(&self, removal: &Removal) -> Result<()> {
        if removal.is_empty() {
            return Ok(());
        }
        self.without(removal).map(|_| ())
    }

    /// The number of blocks that can be taken out of this model: those of its text decoder. `None` where it has no blocks, or
    /// several towers of them.
    pub fn removable_blocks(&self) -> Option<u32> {
        Tower::of(self).ok().map(|tower| tower.blocks)
    }

    /// Of each of these tensors the block that it goes with, where that can be taken out, and its expert in there. Blocks of
    /// other towers have the same numbers and stay.
    pub fn parts_of(
        &self,
        tensors: impl IntoIterator<Item = usize>,
    ) -> Vec<Option<(u32, Option<u32>)>> {
        let tower = Tower::of(self).ok();
        let part = |index: usize| {
            let tensor = &self.tensors[index];
            let (block, _) = tower.as_ref()?.block(&tensor.name)?;
            Some((block, tensor.place.expert))
        };
        tensors.into_iter().map(part).collect()
    }

    /// The tensors that go with blocks and experts, without those that are only cut.
    pub fn tensors_of(&self, removal: &Removal) -> Vec<usize> {
        let Some(tower) = Tower::of(self).ok().filter(|_| !removal.is_empty()) else {
            return Vec::new();
        };
        let is_gone = |tensor: &Tensor| {
            let Some((block, _)) = tower.block(&tensor.name) else { return false };
            let expert = tensor.place.expert;
            removal.has_block(block)
                || expert.is_some_and(|expert| removal.has_expert(block, expert))
        };
        let all = self.tensors.iter().enumerate();
        all.filter(|(_, tensor)| is_gone(tensor)).map(|(index, _)| index).collect()
    }
}

/// The files that still hold tensors; those of `tensors` are numbered anew.
fn held(files: &[File], tensors: &mut [Tensor]) -> Vec<File> {
    let mut new = vec![None; files.len()];
    let mut kept = Vec::new();
    for (at, file) in files.iter().enumerate() {
        if tensors.iter().any(|tensor| tensor.file == at) {
            new[at] = Some(kept.len());
            kept.push(file.clone());
        }
    }
    for tensor in tensors {
        tensor.file = new[tensor.file].unwrap_or_default();
    }
    kept
}

/// What becomes of each tensor.
struct Reduction<'a> {
    removal: &'a Removal,
    tower: Tower,
    mixtures: Mixtures,
}

impl<'a> Reduction<'a> {
    fn new(checkpoint: &Checkpoint, removal: &'a Removal) -> Result<Self> {
        refuse_compressed(checkpoint)?;
        let tower = Tower::of(checkpoint)?;
        tower.check(removal)?;
        let mixtures = Mixtures::of(checkpoint, &tower);
        mixtures.check(removal)?;
        Ok(Self { removal, tower, mixtures })
    }

    /// The tensor under its new name, cut where it holds rows of experts that go; `None` where it goes itself.
    fn tensor(&self, tensor: &Tensor) -> Result<Option<Tensor>> {
        let Some((block, inside)) = self.tower.block(&tensor.name) else {
            return Ok(Some(tensor.clone()));
        };
        let Some(new_block) = self.removal.new_block(block) else { return Ok(None) };
        let mut inside = inside.to_owned();
        let mut new = tensor.clone();
        if let (Some(mixture), Some(removed)) =
            (self.mixtures.get(block), self.removal.experts_of(block))
        {
            match expert_of(&inside) {
                Some((expert, before, behind)) => {
                    let Some(expert) = self.removal.new_expert(block, expert) else {
                        return Ok(None);
                    };
                    inside = format!("{before}{expert}{behind}");
                }
                None => mixture.cut(&mut new, &inside, removed)?,
            }
        }
        let name = format!("{}{new_block}.{inside}", self.tower.stem);
        if name != tensor.name {
            new.source = Some(Arc::from(tensor.source_name()));
            new.place = roles::place_of(holder(&name));
            new.name = name;
        }
        Ok(Some(new))
    }

    fn config(&self, checkpoint: &Checkpoint, config: &Config) -> Result<Config> {
        let cut = config::Cut {
            removal: self.removal,
            blocks: self.tower.blocks,
            experts: self.mixtures.left(self.removal),
            structures: Structures::of(checkpoint, &self.tower),
        };
        cut.repaired(config.value()).map(|value| config.changed_to(value))
    }
}

/// Blocks are taken out of a model in full; what is compressed names its layers in ways of its own.
fn refuse_compressed(checkpoint: &Checkpoint) -> Result<()> {
    let is_said = |value: &Value| {
        COMPRESSED.into_iter().any(|key| value.get(key).is_some_and(|of| !of.is_null()))
    };
    let config = checkpoint.config.as_ref().map(Config::value);
    let nested = config::NESTED.into_iter().filter_map(|key| config?.get(key));
    // What is seen as what it decodes to says nothing of it in config.json.
    let is_coded = || checkpoint.decoder().is_some();
    let what = match config.into_iter().chain(nested).any(is_said) || is_coded() {
        _ if checkpoint.gguf.is_some() => "a finished GGUF file",
        _ if checkpoint.is_archive() => "a finished archive",
        true => "compressed already",
        false => return Ok(()),
    };
    Err(Error::plan(
        format!("{} is {what}, and no parts are taken out of such", checkpoint.path().display()),
        "take them out of the safetensors checkpoint it was made from",
    ))
}
