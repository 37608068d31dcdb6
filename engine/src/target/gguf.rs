//! GGUF files for llama.cpp. Sizes of tensors are exact; the writer comes with the other exporters.
//!
//! Held are the blocks of 32 that grouped integers fill exactly: `Q4_0`, `Q5_0`, `Q8_0` (symmetric), `Q4_1`, `Q5_1` (with a
//! minimum). Super-blocks of 256 (K-quants) need quantisers of their own; rows that 256 does not divide could not use
//! them anyway, and llama-quantize falls back to the types above.

use crate::checkpoint::Tensor;
use crate::encoding::Layout;
use crate::format::safetensors::Spec;
use crate::target::capabilities::{Agreement, Capabilities, Integers, Which};
use crate::target::{About, Target};
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
    summary: "Every matrix, embeddings and head too, as blocks of 32: 4, 5 or 8 bits with a scale, 4 or 5 bits with a minimum besides. Each tensor has its own type.",
    source: "llama.cpp llama-quant.cpp and gguf-py, 2026-08",
    writes: false,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[
        Integers { bits: &[4, 5, 8], symmetric: true, groups: &[32], rows: false },
        Integers { bits: &[4, 5], symmetric: false, groups: &[32], rows: false },
    ],
    why_not_bits: "have no block of 32 in GGUF (2, 3 and 6 bits are K-quants with quantisers of their own); choose 4, 5 or 8 bits",
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

impl Target for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let (Some(affine), Some(matrix)) = (layout.affine(), tensor.matrix) else {
            return Vec::new();
        };
        // A scale of two bytes, a minimum of two more, then the codes.
        let head = if affine.symmetric { 2 } else { 4 };
        let block_bytes = head + BLOCK * affine.bits as usize / 8;
        let row_bytes = matrix.shape.cols / BLOCK * block_bytes;
        let shape = Shape(vec![matrix.shape.rows, row_bytes]);
        vec![Spec { name: tensor.name.clone(), dtype: DType::U8, shape }]
    }

    fn kept(&self, tensor: &Tensor) -> Spec {
        // Norms and biases are F32 in every GGUF.
        let is_small = tensor.matrix.is_none() && tensor.dtype.is_compressible();
        let dtype = if is_small { DType::F32 } else { tensor.dtype };
        Spec { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() }
    }
}
