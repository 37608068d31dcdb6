//! What each runtime and format can hold. In: a checkpoint's meta-data and a plan. Out: for every tensor how it
//! is stored or why not, the problems that keep a file from loading, and exact sizes. Never knows methods' internals.

mod compressed_tensors;
mod dense;
mod manifest;

use ndarray::Array2;
use serde_json::Value;

pub use manifest::{Entry, Manifest, OutputFile, Text};

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::format::safetensors::Spec;

/// Every target, in the order menus show them.
pub static TARGETS: &[&dyn Target] =
    &[&dense::ENTRY, &compressed_tensors::PACKED, &compressed_tensors::INT];

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
    /// Whether it stores every layer in full, whatever the plan says.
    pub is_dense: bool,
}

/// How a target stores a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As it is in the source, byte for byte.
    Copied,
    /// In the target's own compressed form.
    Native,
    /// Decoded, in the source's element type: the plan's savings are not in the file.
    Dense {
        /// Why, in a sentence without a full stop.
        because: String,
    },
}

/// Something that would keep the output from loading, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The tensors concerned.
    pub tensors: Vec<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub mend: String,
}

/// A runtime and format to export for.
pub trait Target: Sync {
    /// Title and provenance.
    fn about(&self) -> &'static About;

    /// Whether fused layers must be stored alike, so that they are best assigned together.
    fn fuses(&self) -> bool {
        false
    }

    /// How a layer of this layout would be stored: [`Storage::Native`] or [`Storage::Dense`].
    fn storage(&self, tensor: &Tensor, layout: &Layout) -> Storage;

    /// The tensors that hold a natively stored layer.
    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec>;

    /// What would keep this plan's output from loading.
    fn problems(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<Problem>;

    /// config.json of the output, where it differs from the source's.
    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value>;

    /// The bytes of one of the [`Target::specs`] of a natively stored layer; `None` for any other name.
    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>>;

    /// Decodes a natively stored layer from `get(name)` by other code than [`Target::pack`], for the proof.
    fn unpack<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Array2<f32>>;
}

/// The target to begin with: packed integers where there is a config.json to say so in, otherwise in full.
pub fn default_for(checkpoint: &Checkpoint) -> &'static dyn Target {
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
