//! AQLM folders: additive codes as the authors' package stores them and transformers loads them.
//!
//! `codes` i8 or i16 `[out, in/g, codebooks]`, `codebooks` `[codebooks, 2ᵇ, 1, g]`, `scales` `[out, 1, 1, 1]`. config.json has one
//! number of codebooks, bits and inputs of a code for the whole model, and lists the layers that are not stored so.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::format::aqlm::{Form, pack, quantization_config};
use crate::format::safetensors::Spec;
use crate::format::{Stored, layer};
use crate::target::capabilities::{Agreement, Capabilities, Codes, NOT_LINEAR, Which};
use crate::target::names::KeptNames;
use crate::target::{About, Entry, Storage, Target, kept_modules, part, suffix};

/// Additive codes.
pub(super) struct Aqlm;

/// The registry's entry.
pub(super) static ENTRY: Aqlm = Aqlm;

static ABOUT: About = About {
    id: "aqlm",
    title: "transformers (AQLM)",
    summary: "Linear layers as sums of entries of codebooks that AQLM made for them: one number of codebooks, bits and inputs for the whole model, other layers in full.",
    source: "aqlm 1.1.7 and transformers 5.23, 2026-11",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    codes: &[Codes::Additive],
    why_not_bits: "have no form in AQLM, which holds sums of entries of codebooks alone",
    kept: &[
        NOT_LINEAR[0],
        NOT_LINEAR[1],
        NOT_LINEAR[2],
        NOT_LINEAR[3],
        NOT_LINEAR[4],
        (Which::Head, "AQLM keeps the head in full precision"),
        (Which::Conv1d, "the format does not cover Conv1D layers"),
        EXPERTS,
    ],
    schemes: Agreement::Must,
    kept_names: KeptNames::Ends,
    ..Capabilities::NONE
};

/// Layers that transformers does not take one by one.
pub(super) const EXPERTS: (Which, &str) = (
    Which::Expert,
    "transformers joins the experts of a block in one tensor, which it reads in full alone",
);

impl Target for Aqlm {
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
        let native = |entry: &Entry| {
            let layout = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native);
            layout.and_then(form)
        };
        let form = entries.iter().find_map(native)?;
        let quantization = quantization_config(form, &kept_modules(checkpoint, entries));
        let mut config = checkpoint.config()?.value().clone();
        config.as_object_mut()?.insert("quantization_config".to_owned(), quantization);
        Some(config)
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        let Encoding::Additive(additive) = encoding else { return None };
        pack(additive, suffix(tensor, name)?)
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = layer::Form::Aqlm(form(layout)?);
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}

fn form(layout: &Layout) -> Option<Form> {
    match layout {
        Layout::Additive(additive) => Form::of(additive),
        _ => None,
    }
}
