//! Dense safetensors: the compressed weights decoded into the source's element type. Loads wherever the source does.

use ndarray::Array2;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::format::safetensors::Spec;
use crate::target::{About, Entry, Problem, Storage, Target};

/// Decoded weights under the source's names, types and shards.
pub(super) struct Dense;

/// The registry's entry.
pub(super) static ENTRY: Dense = Dense;

static ABOUT: About = About {
    id: "dense",
    title: "Dense (safetensors)",
    summary: "Every layer is stored in full, with the values compression gave it: loads wherever the source loads, to measure damage; saves nothing.",
    source: "safetensors 0.8, 2026-05",
    is_dense: true,
};

impl Target for Dense {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn storage(&self, _tensor: &Tensor, _layout: &Layout) -> Storage {
        Storage::Dense { because: "this target stores every layer in full".to_owned() }
    }

    fn specs(&self, _tensor: &Tensor, _layout: &Layout) -> Vec<Spec> {
        Vec::new()
    }

    fn problems(&self, _checkpoint: &Checkpoint, _entries: &[Entry]) -> Vec<Problem> {
        Vec::new()
    }

    fn config(&self, _checkpoint: &Checkpoint, _entries: &[Entry]) -> Option<Value> {
        None
    }

    fn pack(&self, _tensor: &Tensor, _encoding: &Encoding, _name: &str) -> Option<Vec<u8>> {
        None
    }

    fn unpack<'a>(
        &self,
        _tensor: &Tensor,
        _layout: &Layout,
        _get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Array2<f32>> {
        None
    }
}
