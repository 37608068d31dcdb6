//! Dense safetensors: the compressed weights decoded into the source's element type. Loads wherever the source does.

use crate::checkpoint::Tensor;
use crate::encoding::Layout;
use crate::format::safetensors::Spec;
use crate::target::capabilities::Capabilities;
use crate::target::{About, Target};

/// Decoded weights under the source's names, types and shards.
pub(super) struct Dense;

/// The registry's entry.
pub(super) static ENTRY: Dense = Dense;

static ABOUT: About = About {
    id: "dense",
    title: "Dense (safetensors)",
    summary: "Every layer is stored in full, with the values compression gave it: loads wherever the source loads, to measure damage; saves nothing.",
    source: "safetensors 0.8, 2026-05",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    tied: "the embedding and the head keep their values, compressed or not",
    may_quantise_tied_head: true,
    ..Capabilities::NONE
};

impl Target for Dense {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn specs(&self, _tensor: &Tensor, _layout: &Layout) -> Vec<Spec> {
        Vec::new()
    }
}
