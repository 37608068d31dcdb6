//! Which layers llama.cpp multiplies by a number that lies beside them, as NVFP4 needs it.
//!
//! Source: src/llama-model.cpp (tensors `….scale`), src/llama-graph.cpp and src/models/*.cpp of llama.cpp, 2026-08.

use crate::checkpoint::{Checkpoint, Tensor, to_gguf};
use crate::target::gguf::architectures;
use crate::target::gguf::settings::Settings;

/// Layers whose scale every architecture reads.
const EVERYWHERE: [&str; 6] = ["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "output"];

/// Why a layer of this model has no place for it, in a sentence without a full stop; `None` where it has.
pub(super) fn why_not(checkpoint: &Checkpoint, tensor: &Tensor) -> Option<String> {
    let settings = Settings::of(checkpoint).ok();
    let architecture = settings.as_ref().and_then(|settings| architectures::of(settings).ok());
    let name = to_gguf(tensor.module());
    let (Some(architecture), Some(name)) = (architecture, name) else {
        let why = "whether llama.cpp multiplies this layer by the scale of NVFP4 is not known here";
        return Some(why.to_owned());
    };
    let tail = name.tensor.rsplit('.').next().unwrap_or_default();
    if EVERYWHERE.contains(&tail) {
        return None;
    }
    if !architecture.scales_behind || !tail.starts_with("ffn_") {
        return Some(format!(
            "llama.cpp leaves out the scale that NVFP4 has for a matrix in {tail} of {}",
            architecture.name
        ));
    }
    let has_bias = checkpoint.find(&format!("{}.bias", tensor.module())).is_some();
    has_bias.then(|| {
        format!("llama.cpp takes no scale of NVFP4 beside the bias of {tail}, and would stop")
    })
}
