//! MLX folders with affine quantisation and microscaling floats, as mlx-lm loads them.
//!
//! `weight` u32 `[out, in·b/32]`, `scales` and `biases` `[out, in/g]` in the model's type.

use serde_json::Value;

use crate::checkpoint::{Checkpoint, MatrixKind, Tensor};
use crate::encoding::{Encoding, Layout, Levels};
use crate::error::Result;
use crate::format::mlx::{Form, pack, quantization, with_offsets};
use crate::format::safetensors::Spec;
use crate::format::{Stored, layer};
use crate::target::capabilities::{Agreement, Capabilities, Integers, Which};
use crate::target::floats::Floats;
use crate::target::{About, Entry, Storage, Target, part, suffix, without_masks};

/// Affine groups.
pub(super) struct Mlx;

/// The registry's entry.
pub(super) static ENTRY: Mlx = Mlx;

static ABOUT: About = About {
    id: "mlx",
    title: "MLX",
    summary: "Linear layers and embeddings as 2-, 3-, 4-, 5-, 6- or 8-bit integers with a scale and a bias for each group of 32, 64 or 128, or as MXFP4 or MXFP8: what mlx-lm runs on Apple silicon.",
    source: "mlx 0.29 and mlx-lm 0.28, run on a processor; mlx 0.32 too, 2026-11",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[
        Integers {
            bits: &[2, 3, 4, 5, 6, 8],
            symmetric: true,
            groups: &[32, 64, 128],
            rows: false,
            inputs_multiple: 1,
        },
        Integers {
            bits: &[2, 3, 4, 5, 6, 8],
            symmetric: false,
            groups: &[32, 64, 128],
            rows: false,
            inputs_multiple: 1,
        },
    ],
    why_not_bits: "have no kernel in MLX; choose 2, 3, 4, 5, 6 or 8 bits",
    offsets: true,
    zero_points: false,
    floats: &[Floats::microscaling(Levels::E2m1), Floats::microscaling(Levels::E4m3)],
    kept: &[
        (
            Which::Router,
            "mlx-lm's own conversion keeps routers at 8 bits or more; they stay in full",
        ),
        (Which::Convolution, "MLX quantises no convolutions"),
        (
            Which::Conv1d,
            "mlx-lm transposes this layer when it loads, which packed groups do not survive",
        ),
        (Which::Unknown, "what kind of layer it is cannot be told from its name"),
        (Which::NoModule, "it is not the weight of a module"),
    ],
    experts: Agreement::Must,
    tied: "there is no head in the file: the quantised embedding serves both",
    ..Capabilities::NONE
};

impl Target for Mlx {
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
            let native = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native);
            native.and_then(Form::of)
        };
        let modules: Vec<(&str, Option<Form>)> = entries
            .iter()
            .map(|entry| (&checkpoint.tensors()[entry.tensor], of_entry(entry)))
            .filter(|(tensor, _)| has_form(tensor))
            .map(|(tensor, form)| (tensor.module(), form))
            .collect();
        let quantization = quantization(&modules)?;
        let mut config = checkpoint.config()?.value().clone();
        for key in ["quantization", "quantization_config"] {
            config.as_object_mut()?.insert(key.to_owned(), quantization.clone());
        }
        Some(config)
    }

    fn held(&self, _tensor: &Tensor, encoding: Encoding) -> Result<Encoding> {
        Ok(match without_masks(encoding) {
            Encoding::Affine(affine) => Encoding::Affine(with_offsets(&affine)),
            other => other,
        })
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
        let form = layer::Form::Mlx(Form::of(layout)?);
        form.reader(tensor.matrix?.shape, &|suffix| get(&format!("{}.{suffix}", tensor.module())))
    }
}

/// Whether MLX asks of a tensor how it is stored: the weight of a linear module or an embedding.
fn has_form(tensor: &Tensor) -> bool {
    let kind = tensor.matrix.map(|matrix| matrix.kind);
    matches!(kind, Some(MatrixKind::Linear | MatrixKind::Embedding))
        && tensor.name.ends_with(".weight")
}
