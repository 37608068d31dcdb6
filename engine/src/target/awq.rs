//! AWQ folders in the GEMM layout. Laid out to the byte; the writer comes with the other exporters.
//!
//! `qweight` i32 `[in, out/8]`, `qzeros` i32 `[groups, out/8]`, `scales` f16 `[groups, out]`; 4 bits with a true zero
//! point. There are no bits by module: a layer is quantised like all others, or listed as kept.

use crate::checkpoint::Tensor;
use crate::encoding::Layout;
use crate::format::safetensors::Spec;
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{Agreement, Capabilities, Integers, NOT_LINEAR, Which};
use crate::target::{About, MARLIN, Target, part};
use crate::tensor::DType;

/// 4 bits with zero points.
pub(super) struct Awq;

/// The registry's entry.
pub(super) static ENTRY: Awq = Awq;

static ABOUT: About = About {
    id: "awq",
    title: "vLLM, transformers (AWQ)",
    summary: "Linear layers as 4-bit integers with zero points in AWQ's GEMM layout: one scheme for the whole model, other layers in full.",
    source: "AutoAWQ 0.2 and vLLM awq_marlin, 2026-08",
    writes: false,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[Integers { bits: &[4], symmetric: false, groups: &[32, 64, 128], rows: false }],
    why_not_bits: "have no form in AWQ; choose 4 bits, or keep the layer",
    kept: &[
        NOT_LINEAR[0],
        NOT_LINEAR[1],
        NOT_LINEAR[2],
        NOT_LINEAR[3],
        NOT_LINEAR[4],
        (Which::Head, "AWQ keeps the head in full precision"),
        (Which::Conv1d, "the format does not cover Conv1D layers"),
    ],
    inputs_multiple: 32,
    outputs_multiple: 8,
    fused: Agreement::Must,
    experts: Agreement::Must,
    schemes: Agreement::Must,
    kernel: Some(MARLIN),
    ..Capabilities::NONE
};

impl Target for Awq {
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
        let Grouping::Group(size) = affine.grouping else {
            return Vec::new();
        };
        let (inputs, outputs) = (matrix.shape.cols, matrix.shape.rows);
        vec![
            part(tensor, "qweight", DType::I32, &[inputs, outputs / 8]),
            part(tensor, "qzeros", DType::I32, &[inputs / size, outputs / 8]),
            part(tensor, "scales", DType::F16, &[inputs / size, outputs]),
        ]
    }
}
