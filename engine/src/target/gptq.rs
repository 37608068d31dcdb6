//! GPTQ folders (`AutoGPTQ` and `GPTQModel` layout), as vLLM and transformers load them. Laid out to the byte; the writer
//! comes with the other exporters.
//!
//! `qweight` i32 `[in·b/32, out]`, `qzeros` i32 `[groups, out·b/32]`, `scales` f16 `[groups, out]`, `g_idx` i32 `[in]`.

use crate::checkpoint::Tensor;
use crate::encoding::Layout;
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{Agreement, Capabilities, Integers, Which};
use crate::target::{About, MARLIN, Target};
use crate::tensor::{DType, Shape};

/// Symmetric GPTQ of 4 and 8 bits.
pub(super) struct Gptq;

/// The registry's entry.
pub(super) static ENTRY: Gptq = Gptq;

static ABOUT: About = About {
    id: "gptq",
    title: "vLLM, transformers (GPTQ)",
    summary: "Linear layers as 4- or 8-bit symmetric integers in the layout of AutoGPTQ: what vLLM runs with Marlin and transformers loads with GPTQModel.",
    source: "GPTQModel and vLLM gptq_marlin, 2026-08",
    writes: false,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[Integers { bits: &[4, 8], symmetric: true, groups: &[32, 64, 128], rows: true }],
    why_not_bits: "are not run by vLLM's gptq_marlin; choose 4 or 8 bits",
    kept: &[
        (Which::Router, "routers of experts stay in full precision"),
        (Which::NoModule, "it is not the weight of a module"),
        (Which::Head, "vLLM and transformers disagree about a quantised head of this format"),
        (Which::Conv1d, "vLLM does not take this layer's Conv1D form from GPTQ"),
        (Which::Convolution, "the format does not cover convolutions"),
        (Which::Embedding, "the format does not cover embeddings"),
        (Which::Unknown, "what kind of layer it is cannot be told from its name"),
    ],
    inputs_multiple: 32,
    outputs_multiple: 32,
    fused: Agreement::Must,
    experts: Agreement::Must,
    schemes: Agreement::Must,
    tied: "a tied model has no head of its own in the file: loaders take the embedding for it",
    may_quantise_tied_head: false,
    sparsity: "zeros are stored like any weight, and save 0 bytes",
    kernel: Some(MARLIN),
};

impl Target for Gptq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn needs_config(&self) -> bool {
        true
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let (Some(affine), Some(matrix)) = (layout.affine(), tensor.matrix) else {
            return Vec::new();
        };
        let (inputs, outputs) = (matrix.shape.cols, matrix.shape.rows);
        let words = |n: usize| n * affine.bits as usize / 32;
        let groups = match affine.grouping {
            Grouping::Group(size) => inputs / size,
            Grouping::Channel | Grouping::Tensor => 1,
        };
        let spec = |suffix: &str, dtype, shape: &[usize]| Spec {
            name: format!("{}.{suffix}", tensor.module()),
            dtype,
            shape: Shape(shape.to_vec()),
        };
        vec![
            spec("qweight", DType::I32, &[words(inputs), outputs]),
            spec("qzeros", DType::I32, &[groups, words(outputs)]),
            spec("scales", DType::F16, &[groups, outputs]),
            spec("g_idx", DType::I32, &[inputs]),
        ]
    }
}
