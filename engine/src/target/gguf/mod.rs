//! GGUF files for llama.cpp. Sizes of tensors are exact; the writer comes with the other exporters.
//!
//! Held are its own blocks; the blocks of 32 that grouped integers fill exactly: `Q4_0`, `Q5_0`, `Q8_0` (symmetric),
//! `Q4_1`, `Q5_1` (with a minimum); MXFP4, and NVFP4 with one more scale in a tensor of its own. Super-blocks of 256
//! (K-quants) need rows that 256 divides; for others llama-quantize falls back to blocks of 32.

use crate::checkpoint::Tensor;
use crate::encoding::{AffineLayout, BlockType, FloatLayout, Layout, Levels};
use crate::format::safetensors::Spec;
use crate::target::capabilities::{Agreement, Capabilities, Floats, Integers, Which};
use crate::target::{About, Target, part};
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
    writes: false,
};

static CAPABILITIES: Capabilities = Capabilities {
    integers: &[
        Integers { bits: &[4, 5, 8], symmetric: true, groups: &[32], rows: false },
        Integers { bits: &[4, 5], symmetric: false, groups: &[32], rows: false },
    ],
    why_not_bits: "have no block of 32 in GGUF (2, 3 and 6 bits are K-quants: the method GGUF blocks makes them); choose 4, 5 or 8 bits",
    offsets: true,
    blocks: &BlockType::ALL,
    floats: &[
        Floats { levels: Levels::E2m1, group: 32, scale_dtype: DType::F8E8M0, inputs_multiple: 32 },
        Floats { levels: Levels::E2m1, group: 16, scale_dtype: DType::F8E4M3, inputs_multiple: 64 },
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

/// Bytes of a block of grouped integers: a scale of two bytes, a minimum of two more, then the codes.
fn block_bytes(affine: &AffineLayout) -> usize {
    let head = if affine.symmetric { 2 } else { 4 };
    head + BLOCK * affine.bits as usize / 8
}

/// Scales of a block of `size` small floats, a byte each.
fn scales(float: &FloatLayout, size: usize) -> usize {
    size / float.tiling.width(size)
}

impl Target for Gguf {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn specs(&self, tensor: &Tensor, layout: &Layout) -> Vec<Spec> {
        let Some(matrix) = tensor.matrix else {
            return Vec::new();
        };
        let row_bytes = match layout.under_masks() {
            Layout::Affine(affine) => matrix.shape.cols / BLOCK * block_bytes(affine),
            Layout::Blocks(kind) => kind.row_bytes(matrix.shape.cols),
            // MXFP4 is a byte of scale and 16 of codes; NVFP4 four of scales and 32 of codes.
            Layout::Float(float) => {
                let size = if float.has_global() { 64 } else { 32 };
                matrix.shape.cols / size * (size / 2 + scales(float, size))
            }
            _ => return Vec::new(),
        };
        let shape = Shape(vec![matrix.shape.rows, row_bytes]);
        let mut specs = vec![Spec { name: tensor.name.clone(), dtype: DType::U8, shape }];
        if matches!(layout.under_masks(), Layout::Float(float) if float.has_global()) {
            specs.push(part(tensor, "scale", DType::F32, &[1]));
        }
        specs
    }

    fn kept(&self, tensor: &Tensor) -> Spec {
        // Norms and biases are F32 in every GGUF.
        let is_small = tensor.matrix.is_none() && tensor.dtype.is_compressible();
        let dtype = if is_small { DType::F32 } else { tensor.dtype };
        Spec { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() }
    }
}
