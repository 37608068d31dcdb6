//! GPTQ folders (`AutoGPTQ` and `GPTQModel` layout), as vLLM and transformers load them. Laid out to the byte; the writer
//! comes with the other exporters.
//!
//! `qweight` i32 `[in·b/32, out]`, `qzeros` i32 `[groups, out·b/32]`, `scales` f16 `[groups, out]`, `g_idx` i32 `[in]`.

use crate::checkpoint::Tensor;
use crate::encoding::Layout;
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{Agreement, Capabilities, Integers, NOT_LINEAR, Which};
use crate::target::{About, MARLIN, Target, part};
use crate::tensor::DType;

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
        NOT_LINEAR[0],
        NOT_LINEAR[1],
        NOT_LINEAR[2],
        NOT_LINEAR[3],
        NOT_LINEAR[4],
        (Which::Head, "vLLM and transformers disagree about a quantised head of this format"),
        (Which::Conv1d, "vLLM does not take this layer's Conv1D form from GPTQ"),
    ],
    inputs_multiple: 32,
    outputs_multiple: 32,
    fused: Agreement::Must,
    experts: Agreement::Must,
    schemes: Agreement::Must,
    kernel: Some(MARLIN),
    ..Capabilities::NONE
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
        vec![
            part(tensor, "qweight", DType::I32, &[words(inputs), outputs]),
            part(tensor, "qzeros", DType::I32, &[groups, words(outputs)]),
            part(tensor, "scales", DType::F16, &[groups, outputs]),
            part(tensor, "g_idx", DType::I32, &[inputs]),
        ]
    }
}
