//! One file per file format, reading and writing together. In: mapped bytes or encodings. Out: headers,
//! tensors as they lie in files. Never knows methods or plans.

pub mod compressed_tensors;
mod foreign;
pub mod gguf;
pub mod gguf_values;
pub mod gguf_writer;
pub mod safetensors;
