//! GPTQ folders (`AutoGPTQ` and `GPTQModel` layout), as vLLM and transformers load them: v1 for symmetric integers,
//! and v2, which stores whole zero points as they are, for asymmetric ones too; and v1 in the words of `AutoRound`.
//!
//! `qweight` i32 `[in·b/32, out]`, `qzeros` i32 `[groups, out·b/32]`, `scales` f16 `[groups, out]`, `g_idx` i32 `[in]`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checkpoint::{Checkpoint, FusedGroup, FusedKind, Role, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::error::Result;
use crate::format::gptq::{Form, Scheme, Version, auto_round_config, pack, quantization_config};
use crate::format::safetensors::Spec;
use crate::format::{Stored, layer};
use crate::numeric::grouping::Grouping;
use crate::target::capabilities::{
    Agreement, Capabilities, Corrections, Integers, NOT_LINEAR, Which,
};
use crate::target::{About, Entry, Kernel, MARLIN, Target, in_f16, is_linear_module, part, suffix};

/// GPTQ of 2, 3, 4 and 8 bits.
pub(super) struct Gptq {
    about: &'static About,
    capabilities: &'static Capabilities,
    version: Version,
    wording: Wording,
}

/// In whose words config.json tells of the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wording {
    /// In those of GPTQ.
    Gptq,
    /// In those of `AutoRound`, whose loaders know no `g_idx`.
    AutoRound,
}

/// What loaders share.
const BITS: &[u32] = &[2, 3, 4, 8];
const SYMMETRIC: Integers = Integers {
    bits: BITS,
    symmetric: true,
    groups: &[32, 64, 128],
    rows: true,
    inputs_multiple: 1,
};

/// What both versions have in common.
const BOTH: Capabilities = Capabilities {
    integers: &[SYMMETRIC],
    why_not_bits: "have no form in GPTQ that loaders share; choose 2, 3, 4 or 8 bits",
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
    kernel: Some(Kernel { zero_points: false, ..MARLIN }),
    corrections: Corrections::InAdapter,
    ..Capabilities::NONE
};

/// The registry's entry for v1.
pub(super) static V1: Gptq = Gptq {
    about: &About {
        id: "gptq",
        title: "vLLM, transformers (GPTQ)",
        summary: "Linear layers as 2-, 3-, 4- or 8-bit symmetric integers in the layout of AutoGPTQ: what vLLM runs with Marlin (4 and 8 bits) and transformers loads with GPTQModel.",
        source: "GPTQModel and vLLM gptq_marlin, 2026-08",
        writes: true,
    },
    capabilities: &BOTH,
    version: Version::V1,
    wording: Wording::Gptq,
};

/// The registry's entry for v2.
pub(super) static V2: Gptq = Gptq {
    about: &About {
        id: "gptq-v2",
        title: "GPTQModel, vLLM (GPTQ v2)",
        summary: "Linear layers as 2-, 3-, 4- or 8-bit integers with or without zero points, in the second version of GPTQ's layout: GPTQModel loads it, vLLM runs asymmetric layers without Marlin.",
        source: "GPTQModel and vLLM gptq, 2026-08",
        writes: true,
    },
    capabilities: &Capabilities {
        integers: &[SYMMETRIC, Integers { symmetric: false, ..SYMMETRIC }],
        ..BOTH
    },
    version: Version::V2,
    wording: Wording::Gptq,
};

/// The registry's entry for `AutoRound`. Symmetric layers only: its loaders of `auto_round:auto_gptq` take no others.
pub(super) static AUTO_ROUND: Gptq = Gptq {
    about: &About {
        id: "auto-round",
        title: "transformers, vLLM (AutoRound)",
        summary: "Linear layers of the blocks as 2-, 3-, 4- or 8-bit symmetric integers in the layout of GPTQ, in the words of AutoRound: transformers loads it with auto-round, on CPUs too, each layer with settings of its own.",
        source: "auto-round 0.16.1 (convert_model, backend, qlinear_torch_zp) and transformers 5.23, 2026-11",
        writes: true,
    },
    capabilities: &Capabilities {
        why_not_bits: "have no form in AutoRound that loaders share; choose 2, 3, 4 or 8 bits",
        // PEFT has no adapters for the layers that AutoRound's loaders make.
        corrections: Corrections::InFull,
        ..BOTH
    },
    version: Version::V1,
    wording: Wording::AutoRound,
};

impl Gptq {
    fn form(&self, tensor: &Tensor, layout: &Layout) -> Option<Form> {
        Some(Form::of(layout.affine()?, tensor.matrix?.shape, self.version))
    }
}

impl Target for Gptq {
    fn about(&self) -> &'static About {
        self.about
    }

    fn capabilities(&self) -> &'static Capabilities {
        self.capabilities
    }

    fn needs_config(&self) -> bool {
        true
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let stored = || self.form(tensor, layout)?.stored(tensor.matrix?.shape).ok();
        let is_said = |stored: &Stored| self.wording == Wording::Gptq || stored.0 != "g_idx";
        let spec = |(suffix, dtype, shape): Stored| part(tensor, suffix, dtype, &shape.0);
        stored().into_iter().flatten().filter(is_said).map(spec).collect()
    }

    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value> {
        let mut config = checkpoint.config()?.value().clone();
        let quantization = match self.wording {
            Wording::Gptq => quantization_config(self.version, &modules(checkpoint, entries)),
            Wording::AutoRound => {
                auto_round_config(&linear(checkpoint, entries), &blocks(checkpoint))
            }
        }?;
        config.as_object_mut()?.insert("quantization_config".to_owned(), quantization);
        Some(config)
    }

    fn texts(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<(&'static str, Value)> {
        // Older loaders of GPTQ read the same in a file of its own.
        let value = match self.wording {
            Wording::Gptq => quantization_config(self.version, &modules(checkpoint, entries)),
            Wording::AutoRound => None,
        };
        value.map(|value| ("quantize_config.json", value)).into_iter().collect()
    }

    fn held(&self, tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
        in_f16(&tensor.name, encoding)
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        let Encoding::Affine(affine) = encoding else { return None };
        pack(self.form(tensor, &encoding.layout())?, affine, suffix(tensor, name)?)
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = layer::Form::Gptq(self.form(tensor, layout)?);
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}

fn scheme(entry: &Entry) -> Option<Scheme> {
    let layout = entry.own_form()?.affine()?;
    let group_size = match layout.grouping {
        Grouping::Group(size) => Some(size),
        Grouping::Channel | Grouping::Tensor => None,
    };
    Some(Scheme { bits: layout.bits, group_size, symmetric: layout.symmetric })
}

/// Every linear module but the head with its scheme.
fn linear(checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<(String, Option<Scheme>)> {
    let tensors = entries.iter().map(|entry| (&checkpoint.tensors()[entry.tensor], entry));
    tensors
        .filter(|(tensor, _)| is_linear_module(tensor) && tensor.place.role != Role::Head)
        .map(|(tensor, entry)| (tensor.module().to_owned(), scheme(entry)))
        .collect()
}

/// What the names of all blocks begin with, as `model.layers`: several for models of several parts.
fn blocks(checkpoint: &Checkpoint) -> Vec<String> {
    let mut blocks = BTreeSet::new();
    for tensor in checkpoint.tensors() {
        let number = tensor.place.block.map(|block| format!(".{block}."));
        let at = number.and_then(|number| tensor.name.find(&number));
        blocks.extend(at.map(|at| tensor.name[..at].to_owned()));
    }
    blocks.into_iter().collect()
}

/// [`linear`], where `lm_head` speaks of the head; and what vLLM makes of several layers, under the name it has there.
fn modules(checkpoint: &Checkpoint, entries: &[Entry]) -> Vec<(String, Option<Scheme>)> {
    let fused = checkpoint.fused_groups().iter().filter_map(|group| {
        let first = *group.members.first()?;
        Some((fused_name(checkpoint, group)?, scheme(entries.get(first)?)))
    });
    linear(checkpoint, entries).into_iter().chain(fused).collect()
}

/// The module that a fused group is in vLLM; experts are told there by the first of them.
fn fused_name(checkpoint: &Checkpoint, group: &FusedGroup) -> Option<String> {
    let tensor = &checkpoint.tensors()[*group.members.first()?];
    let (parent, _) = tensor.module().rsplit_once('.')?;
    let name = match group.kind {
        FusedKind::Qkv => "qkv_proj",
        FusedKind::GateUp => "gate_up_proj",
    };
    tensor.place.expert.is_none().then(|| format!("{parent}.{name}"))
}
