//! GGUF files for llama.cpp: one file of keys, tokenizer and tensors, laid out to the byte before anything is computed.
//!
//! Held are its own blocks; the blocks of 32 that grouped integers fill exactly: `Q4_0`, `Q5_0`, `Q8_0` (symmetric),
//! `Q4_1`, `Q5_1` (with an offset); MXFP4; and NVFP4, whose scale of the matrix is a tensor of its own, which llama.cpp
//! multiplies by in some layers alone ([`scales`]). Super-blocks of 256 (K-quants) need rows that 256 divides; for others
//! llama-quantize falls back to blocks of 32. A source that is a GGUF file itself is written again with the types of some
//! tensors changed ([`retyped`]).

mod architectures;
mod blocks;
mod file;
mod importance;
mod retype;
mod retyped;
mod rope;
mod scales;
mod settings;
mod split;

pub use blocks::{multiplier, write_row};
pub use file::{Content, GgufFile};
pub use retype::{retype, types};
pub(super) use retyped::{is_already, joined};
pub(super) use split::split;

use crate::checkpoint::{Checkpoint, Role, Tensor};
use crate::encoding::{AffineLayout, BlockType, Layout, Levels};
use crate::error::Result;
use crate::format::safetensors::Spec;
use crate::target::capabilities::{Agreement, Capabilities, Integers, Which};
use crate::target::floats::Floats;
use crate::target::{About, Entry, OutputFile, Storage, Target, WeightFile};
use crate::tensor::{DType, Shape};

/// Weights of a block.
const BLOCK: usize = 32;

/// Blocks of 32.
pub(super) struct Gguf;

/// The registry's entry.
pub(super) static ENTRY: Gguf = Gguf;

static ABOUT: About = About {
    id: "gguf",
    title: "llama.cpp (GGUF)",
    summary: "Every matrix, embeddings and head too, as blocks of 32 or 256 inputs from 2 to 8 bits. Each tensor has its own type.",
    source: "llama.cpp llama-quant.cpp and gguf-py, 2026-08",
    writes: true,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[
        Integers {
            bits: &[4, 5, 8],
            symmetric: true,
            groups: &[32],
            rows: false,
            inputs_multiple: 1,
        },
        Integers {
            bits: &[4, 5],
            symmetric: false,
            groups: &[32],
            rows: false,
            inputs_multiple: 1,
        },
    ],
    why_not_bits: "have no block of 32 in GGUF (2, 3 and 6 bits are K-quants: the method GGUF blocks makes them); choose 4, 5 or 8 bits",
    offsets: true,
    zero_points: false,
    scale_dtypes: &[DType::F16, DType::BF16],
    blocks: &BlockType::ALL,
    floats: &[
        Floats::microscaling(Levels::E2m1),
        Floats::nvfp4(
            64,
            &[(
                Which::Embedding,
                "llama.cpp looks tokens up without the scale that NVFP4 has for the matrix",
            )],
        ),
    ],
    kept: &[
        (Which::Router, "llama.cpp keeps routers of experts in F32"),
        (Which::Convolution, "llama.cpp keeps convolutions in full precision"),
        (Which::Unknown, "what kind of layer it is cannot be told from its name"),
        (Which::NoModule, "it is not the weight of a module"),
    ],
    inputs_multiple: 32,
    experts: Agreement::Must,
    tied: "there is no output tensor in the file: the embedding's type serves both",
    ..Capabilities::NONE
};

/// Bytes of a block of grouped integers: a scale of two bytes, an offset of two more, then the codes.
fn block_bytes(affine: &AffineLayout) -> usize {
    let head = if affine.symmetric { 2 } else { 4 };
    head + BLOCK * affine.bits as usize / 8
}

/// Tensors that older files carry and no loader reads: frequencies and masks that are computed anew.
fn is_left_out(tensor: &Tensor) -> bool {
    const ENDS: [&str; 3] = ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"];
    ENDS.iter().any(|end| tensor.name.ends_with(end))
}

impl Target for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn storage(&self, tensor: &Tensor, layout: &Layout) -> Storage {
        let capabilities = self.capabilities();
        let held = match layout {
            // Types without blocks are for the same tensors as blocks.
            Layout::Dense(DType::F32 | DType::F16 | DType::BF16) => capabilities.kept_for(tensor),
            _ => capabilities.why_not(tensor, layout),
        };
        held.map_or(Storage::Native, |because| Storage::Dense { because })
    }

    fn why_not_in(
        &self,
        checkpoint: &Checkpoint,
        tensor: &Tensor,
        layout: &Layout,
    ) -> Option<String> {
        let has_scale = matches!(layout.under_masks(), Layout::Float(float) if float.has_global());
        has_scale.then(|| scales::why_not(checkpoint, tensor))?
    }

    fn rewrites(&self) -> bool {
        true
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let Some(matrix) = tensor.matrix else {
            return Vec::new();
        };
        if let Layout::Dense(dtype) = layout {
            let Tensor { name, shape, .. } = tensor;
            return vec![Spec { name: name.clone(), dtype: *dtype, shape: shape.clone() }];
        }
        let row_bytes = match layout.under_masks() {
            Layout::Affine(affine) => matrix.shape.cols / BLOCK * block_bytes(affine),
            Layout::Blocks(kind) => kind.row_bytes(matrix.shape.cols),
            // A byte of scale for 16 inputs and 8 of codes, four times.
            Layout::Float(float) if float.has_global() => matrix.shape.cols / 64 * 36,
            // A byte of scale and 16 of codes.
            Layout::Float(_) => matrix.shape.cols / BLOCK * (1 + BLOCK / 2),
            _ => return Vec::new(),
        };
        let shape = Shape(vec![matrix.shape.rows, row_bytes]);
        let blocks = Spec { name: tensor.name.clone(), dtype: DType::U8, shape };
        let has_scale = matches!(layout.under_masks(), Layout::Float(float) if float.has_global());
        let scale = || super::part(tensor, "scale", DType::F32, &[1]);
        std::iter::once(blocks).chain(has_scale.then(scale)).collect()
    }

    fn kept(&self, tensor: &Tensor) -> Spec {
        let Tensor { name, dtype, shape, .. } = tensor;
        if is_left_out(tensor) {
            return Spec { name: name.clone(), dtype: *dtype, shape: Shape(vec![0]) };
        }
        // Norms, biases, routers and tables of positions are F32 in every GGUF.
        let is_small =
            tensor.matrix.is_none() || matches!(tensor.place.role, Role::Router | Role::Position);
        let dtype = if is_small && dtype.is_compressible() { DType::F32 } else { *dtype };
        Spec { name: name.clone(), dtype, shape: shape.clone() }
    }

    fn files(&self, checkpoint: &Checkpoint, entries: &[Entry]) -> Option<Result<Vec<OutputFile>>> {
        if let Some(gguf) = checkpoint.gguf() {
            return Some(retyped::files(checkpoint, gguf, entries));
        }
        if checkpoint.decoder().is_some() {
            // Only looked at: the lint `finished-layers` says so, and what is kept is in parts that no GGUF file holds.
            return None;
        }
        let file = file::layout(checkpoint, entries).map(|file| {
            let name = format!("{}.gguf", file::stem(checkpoint));
            vec![OutputFile { name, plan: WeightFile::Gguf(Box::new(file)) }]
        });
        Some(file)
    }
}
