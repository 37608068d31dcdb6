//! AWQ folders in the GEMM layout, as vLLM and transformers load them.
//!
//! `qweight` i32 `[in, out/8]`, `qzeros` i32 `[groups, out/8]`, `scales` f16 `[groups, out]`; 4 bits with a true zero
//! point. There are no bits by module: a layer is quantised like all others, or listed as kept.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::error::Result;
use crate::format::awq::{Form, pack, quantization_config};
use crate::format::safetensors::Spec;
use crate::format::{Stored, layer};
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{
    Agreement, Capabilities, Corrections, Integers, NOT_LINEAR, Which,
};
use crate::target::names::KeptNames;
use crate::target::{About, Entry, MARLIN, Target, in_f16, is_linear_module, part, suffix};
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
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[Integers {
        bits: &[4],
        symmetric: false,
        groups: &[32, 64, 128],
        rows: false,
        inputs_multiple: 1,
    }],
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
    kept_names: KeptNames::Part,
    kernel: Some(MARLIN),
    corrections: Corrections::InAdapter,
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
        let stored = || form(layout)?.stored(tensor.matrix?.shape).ok();
        let spec = |(suffix, dtype, shape): Stored| part(tensor, suffix, dtype, &shape.0);
        stored().into_iter().flatten().map(spec).collect()
    }

    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value> {
        let mut size = None;
        let mut kept = Vec::new();
        for entry in entries {
            let tensor = &checkpoint.tensors()[entry.tensor];
            match entry.own_form() {
                Some(layout) => size = size.or(form(layout).map(|form| form.group_size)),
                None if is_linear_module(tensor) => kept.push(tensor.module().to_owned()),
                None => {}
            }
        }
        // A tied head has no tensor, but loaders still ask for it.
        if checkpoint.tied().is_some_and(|tied| tied.head.is_none()) {
            kept.push("lm_head".to_owned());
        }
        let mut config = checkpoint.config()?.value().clone();
        let quantization = quantization_config(size?, &kept);
        config.as_object_mut()?.insert("quantization_config".to_owned(), quantization);
        Some(config)
    }

    fn held(&self, tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
        in_f16(&tensor.name, encoding)
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        let Encoding::Affine(affine) = encoding else { return None };
        pack(form(&encoding.layout())?, affine, suffix(tensor, name)?)
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = layer::Form::Awq(form(layout)?);
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}

fn form(layout: &Layout) -> Option<Form> {
    match layout.affine()?.grouping {
        Grouping::Group(group_size) => Some(Form { group_size, scale_dtype: DType::F16 }),
        Grouping::Channel | Grouping::Tensor => None,
    }
}
