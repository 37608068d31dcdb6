//! Values as they lie on disk: element types, shapes, borrowed bytes, decoding to and from f32.
//! In: little-endian bytes. Out: numbers. Never knows names or files.

mod decode;
mod dtype;
mod factors;
mod shape;

pub use decode::{
    CHUNK_ELEMENTS, Decoder, for_each_f64, is_exact_in, put_f32, round_f32, write_f32,
};
pub use dtype::DType;
pub use factors::Factors;
pub use shape::{MatrixShape, Shape};
