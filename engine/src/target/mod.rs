//! What each runtime and format can hold. In: a checkpoint's meta-data and a plan. Out: for every tensor how it
//! is stored or why not, what keeps a file from loading and how to mend it, and exact sizes. Never knows methods' internals.

pub mod adapter;
mod aqlm;
mod archive;
mod awq;
mod biases;
mod capabilities;
mod compressed_tensors;
mod dense;
mod finished;
mod floats;
mod gguf;
mod gptq;
mod halves;
mod lint;
mod manifest;
mod mend;
mod mlx;
mod names;
mod nearest;
mod non_finite;
mod preset;
mod removal;
mod scheme;
mod shards;
mod spqr;
mod vectors;
mod versions;

use std::collections::BTreeMap;

use serde_json::Value;

pub use biases::{added_bias, place_biases};
pub use capabilities::{
    Agreement, Capabilities, Codes, Corrections, Holds, Integers, Kernel, Which,
};
pub use gguf::{Content, GgufFile, multiplier, retype, types, write_row};
pub use lint::{Case, Fix, LINTS, Lint, Severity, dead_rules, lints, refuse_errors};
pub use manifest::{
    Entry, Manifest, OutputFile, Text, WeightFile, entries, entry, entry_of, is_joint,
};
pub use mend::mend_all;
pub use nearest::{
    Next, held_at_same_bits, held_by_same_method, held_in_other_grid, held_instead, refusal,
    step_from,
};
pub use non_finite::{NonFinite, non_finite};
pub use preset::{PRESETS, Preset};
pub use removal::{entries_of_whole, lints_of_whole, refuse_dead_rules};

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::format::layer;
use crate::format::safetensors::Spec;
use crate::target::halves::in_f16;
use crate::tensor::{DType, Shape};

/// Every target, in the order menus show them.
pub static TARGETS: &[&dyn Target] = &[
    &dense::ENTRY,
    &compressed_tensors::PACKED,
    &compressed_tensors::DENSE,
    &compressed_tensors::INT,
    &gptq::V1,
    &gptq::V2,
    &gptq::AUTO_ROUND,
    &awq::ENTRY,
    &aqlm::ENTRY,
    &spqr::ENTRY,
    &gguf::ENTRY,
    &mlx::ENTRY,
    &archive::ENTRY,
];

/// Methods that a runtime names and that have no target, with the reason, in a sentence without a full stop.
pub static WITHOUT_TARGET: &[(&str, &str)] = &[
    (
        "HIGGS",
        "transformers stores its weights packed for the kernel that was fastest on one graphics card, so that no layout is the same on all",
    ),
    ("HQQ", "transformers sets its layers up, but takes no stored codes back in"),
];

/// vLLM's kernel for integer weights.
const MARLIN: Kernel = Kernel {
    name: "Marlin",
    bits: &[4, 8],
    groups: &[32, 64, 128],
    inputs_multiple: 128,
    outputs_multiple: 64,
    zero_points: true,
};

/// What menus and validation know of a target.
#[derive(Debug)]
pub struct About {
    /// Name in project files.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// What it is for, in a sentence.
    pub summary: &'static str,
    /// Where its rules were read, and when.
    pub source: &'static str,
    /// Whether this program writes its files; otherwise it can be planned for, and its sizes are forecasts.
    pub writes: bool,
}

/// What an export is for: a target, and how it will be run.
#[derive(Clone, Copy)]
pub struct Aim {
    /// The runtime and format.
    pub target: &'static dyn Target,
    /// Devices that each layer is split over.
    pub tensor_parallel: u32,
    /// The most bytes of a weight file, unless one layer alone takes more; 0 keeps the files of the source.
    pub shard_bytes: u64,
}

impl From<&'static dyn Target> for Aim {
    fn from(target: &'static dyn Target) -> Self {
        Self { target, tensor_parallel: 1, shard_bytes: 0 }
    }
}

/// How a target stores a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As it is in the source, byte for byte.
    Copied,
    /// In the target's own compressed form.
    Native,
    /// A tensor of the source's type and extents with other values: a norm that took the scales of the layers behind it, a
    /// layer that is kept and whose rows took those of another, a bias that makes up for a mean.
    Changed {
        /// Why, in a sentence without a full stop.
        because: String,
    },
    /// Decoded, in the source's element type: the plan's savings are not in the file.
    Dense {
        /// Why, in a sentence without a full stop.
        because: String,
    },
}

/// The bytes of a tensor of the output that no number of its layer need be read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// These.
    Bytes(Vec<u8>),
    /// Those of a part of the encoding, as [`Encoding::parts`] names it.
    Part(String),
}

/// A runtime and format to export for.
pub trait Target: Sync {
    /// Title and provenance.
    fn about(&self) -> &'static About;

    /// What it can hold.
    fn capabilities(&self) -> &'static Capabilities;

    /// Whether loaders read in config.json how the layers are stored.
    fn needs_config(&self) -> bool {
        false
    }

    /// Whether a GGUF file is written again with other types, and all else as it was; no other target takes one.
    fn rewrites(&self) -> bool {
        false
    }

    /// How a layer of this layout would be stored: [`Storage::Native`] or [`Storage::Dense`].
    fn storage(&self, tensor: &Tensor, layout: &Layout) -> Storage {
        match self.capabilities().why_not(tensor, layout) {
            Some(because) => Storage::Dense { because },
            None => Storage::Native,
        }
    }

    /// Why this model has no place for a layer that would be stored natively otherwise, in a sentence without a full stop;
    /// `None` where it has.
    fn why_not_in(
        &self,
        _checkpoint: &Checkpoint,
        _tensor: &Tensor,
        _layout: &Layout,
    ) -> Option<String> {
        None
    }

    /// How a layer of this model would be stored: [`Target::storage`], where the model has a place for that.
    fn storage_in(&self, checkpoint: &Checkpoint, tensor: &Tensor, layout: &Layout) -> Storage {
        match self.storage(tensor, layout) {
            Storage::Native => self
                .why_not_in(checkpoint, tensor, layout)
                .map_or(Storage::Native, |because| Storage::Dense { because }),
            other => other,
        }
    }

    /// The tensor that holds a layer in full.
    fn kept(&self, tensor: &Tensor) -> Spec {
        Spec { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() }
    }

    /// The tensors that hold a natively stored layer.
    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec>;

    /// The weight files of the output, where they are not those of the source with other tensors.
    ///
    /// # Errors
    /// What keeps this model from being written, whatever the plan.
    fn files(
        &self,
        _checkpoint: &Checkpoint,
        _entries: &[Entry],
    ) -> Option<Result<Vec<OutputFile>>> {
        None
    }

    /// config.json of the output, where it differs from the source's.
    fn config(&self, _checkpoint: &Checkpoint, _entries: &[Entry]) -> Option<Value> {
        None
    }

    /// Texts of the output beside config.json, by name.
    fn texts(&self, _checkpoint: &Checkpoint, _entries: &[Entry]) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// Entries of the header's free-form metadata that a file of the output has beside those of its source.
    fn metadata(
        &self,
        _checkpoint: &Checkpoint,
        _file: usize,
        _entries: &[&Entry],
    ) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What the files hold of a natively stored layer, where a format says more coarsely what an encoding says: masks
    /// are dropped, scales may be rounded. [`Target::pack`] is given this, and the proof compares with it.
    ///
    /// # Errors
    /// [`Error::Numeric`] for a number that the format's types do not hold.
    fn held(&self, _tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
        Ok(encoding)
    }

    /// The bytes of one of the [`Target::specs`] of a natively stored layer; `None` for any other name.
    fn pack(&self, _tensor: &Tensor, _encoding: &Encoding, _name: &str) -> Option<Vec<u8>> {
        None
    }

    /// What [`Target::pack`] gives for an encoding of this layout, where that is known without it; such a layer is held as it
    /// is encoded, see [`Target::held`].
    fn ready(&self, _tensor: &Tensor, _layout: &Layout, _name: &str) -> Option<Ready> {
        None
    }

    /// Decodes a natively stored layer from `get(name)`, any run of its weights, by other code than [`Target::pack`], for the
    /// proof.
    fn reader<'a>(
        &self,
        _tensor: &Tensor,
        _layout: &Layout,
        _get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        None
    }
}

/// A tensor that holds a part of a module.
fn part(tensor: &Tensor, suffix: &str, dtype: DType, shape: &[usize]) -> Spec {
    let name = format!("{}.{suffix}", tensor.module());
    Spec { name, dtype, shape: Shape(shape.to_vec()) }
}

/// Linear modules that a target does not store in its own form, and a tied head, which has no tensor and which loaders still
/// ask for.
fn kept_modules(checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<String> {
    let is_kept = |entry: &&Entry| {
        entry.storage != Storage::Native && is_linear_module(&checkpoint.tensors()[entry.tensor])
    };
    let module = |entry: &Entry| checkpoint.tensors()[entry.tensor].module().to_owned();
    let mut kept: Vec<String> = entries.iter().filter(is_kept).map(module).collect();
    if checkpoint.tied().is_some_and(|tied| tied.head.is_none()) {
        kept.push("lm_head".to_owned());
    }
    kept
}

/// The suffix of the name of a part of a module.
fn suffix<'n>(tensor: &Tensor, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(tensor.module())?.strip_prefix('.')
}

/// Whether loaders ask how a tensor is stored: the weight of a linear module.
fn is_linear_module(tensor: &Tensor) -> bool {
    tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Linear)
        && tensor.name.ends_with(".weight")
}

/// What lies under the masks of an encoding: dropped weights already have the code of zero there.
fn without_masks(encoding: Encoding) -> Encoding {
    match encoding {
        Encoding::Sparse(sparse) => without_masks(sparse.into_inner()),
        other => other,
    }
}

/// The target to begin with: llama.cpp's for its own files, packed integers where there is a config.json to say so in, otherwise in full.
pub fn default_for(checkpoint: &Checkpoint) -> &'static dyn Target {
    if checkpoint.gguf().is_some() {
        return &gguf::ENTRY;
    }
    if checkpoint.config().is_some() { &compressed_tensors::PACKED } else { &dense::ENTRY }
}

/// The target called `id`.
pub fn find(id: &str) -> Result<&'static dyn Target> {
    TARGETS.iter().copied().find(|target| target.about().id == id).ok_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.about().id).collect();
        Error::plan(
            format!("there is no target {id:?}"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

/// The targets whose files this program writes.
pub fn writable() -> impl Iterator<Item = &'static dyn Target> {
    TARGETS.iter().copied().filter(|target| target.about().writes)
}
