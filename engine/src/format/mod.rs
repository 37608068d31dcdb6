//! One file per file format, reading and writing together. In: mapped bytes or encodings. Out: headers,
//! tensors as they lie in files. Never knows methods or plans.

pub mod adapter;
pub mod aqlm;
pub mod archive;
pub mod awq;
mod codes;
pub mod compressed_tensors;
mod foreign;
pub mod gguf;
mod gguf_codes;
pub mod gguf_importance;
pub mod gguf_split;
pub mod gguf_values;
pub mod gguf_writer;
pub mod gptq;
pub mod layer;
pub mod mlx;
pub mod safetensors;
pub mod spqr;
pub mod squeezed;
mod words;

use crate::tensor::{DType, Shape};

/// A tensor that holds a part of a layer: suffix on the module's name, element type, extents.
pub type Stored = (&'static str, DType, Shape);
