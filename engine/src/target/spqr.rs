//! `SpQR` folders: groups of 16 inputs whose scales and zero points are codes, and single weights, as the authors' package
//! stores them and transformers loads them on graphics cards, in F16.
//!
//! `dense_weights` i64, `row_offsets` i32, `col_vals` i32, `in_perm` i32: see `format/spqr`. config.json says how many
//! elements each has, and lists the layers that are not stored so.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::format::safetensors::Spec;
use crate::format::spqr::{Form, held, pack, quantization_config};
use crate::format::{Stored, layer};
use crate::target::aqlm::EXPERTS;
use crate::target::capabilities::{Capabilities, Codes, NOT_LINEAR, Which};
use crate::target::names::KeptNames;
use crate::target::{About, Entry, Storage, Target, kept_modules, part, suffix};

/// 3 bits in tiles of 16 by 16.
pub(super) struct Spqr;

/// The registry's entry.
pub(super) static ENTRY: Spqr = Spqr;

static ABOUT: About = About {
    id: "spqr",
    title: "transformers (SpQR)",
    summary: "Linear layers as SpQR made them at 3 bits in groups of 16 with its outliers: what the authors' kernels compute with, on graphics cards and in F16.",
    source: "spqr_quant 0.2.0 and transformers 5.23, 2026-11",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    codes: &[Codes::Tiles],
    why_not_bits: "have no form in SpQR, whose scales and zero points are codes",
    kept: &[
        NOT_LINEAR[0],
        NOT_LINEAR[1],
        NOT_LINEAR[2],
        NOT_LINEAR[3],
        NOT_LINEAR[4],
        (Which::Head, "SpQR keeps the head in full precision"),
        (Which::Conv1d, "the format does not cover Conv1D layers"),
        EXPERTS,
    ],
    kept_names: KeptNames::Ends,
    ..Capabilities::NONE
};

impl Target for Spqr {
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
        let stored = || Form::of(layout)?.stored(tensor.matrix?.shape).ok();
        let spec = |(suffix, dtype, shape): Stored| part(tensor, suffix, dtype, &shape.0);
        stored().into_iter().flatten().map(spec).collect()
    }

    fn config(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Value> {
        let of_entry = |entry: &Entry| {
            let tensor = &checkpoint.tensors()[entry.tensor];
            let layout = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native)?;
            Some((tensor.module(), Form::of(layout)?, tensor.matrix?.shape))
        };
        let layers: Vec<_> = entries.iter().filter_map(of_entry).collect();
        if layers.is_empty() {
            return None;
        }
        let quantization = quantization_config(&layers, &kept_modules(checkpoint, entries));
        let mut config = checkpoint.config()?.value().clone();
        config.as_object_mut()?.insert("quantization_config".to_owned(), quantization);
        Some(config)
    }

    fn held(&self, tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
        match held(&encoding) {
            None => Ok(encoding),
            Some(Ok(held)) => Ok(held),
            Some(Err(number)) => Err(Error::Numeric {
                tensor: tensor.name.clone(),
                why: format!("its number {number} is too large for F16, which this format holds"),
            }),
        }
    }

    fn pack(&self, tensor: &Tensor, encoding: &Encoding, name: &str) -> Option<Vec<u8>> {
        pack(encoding, suffix(tensor, name)?)
    }

    fn reader<'a>(
        &self,
        tensor: &Tensor,
        layout: &Layout,
        get: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<layer::Reader<'a>> {
        let form = layer::Form::Spqr(Form::of(layout)?);
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}
