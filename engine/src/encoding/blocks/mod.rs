//! Blocks of llama.cpp: runs of 32 or 256 inputs with their scales, in one byte string, laid out as in a GGUF file.

mod decode;
pub(crate) mod pack;
mod runs;

use serde::{Deserialize, Serialize};

use crate::encoding::Part;
use crate::tensor::{DType, MatrixShape};

pub use decode::IQ4_LEVELS;
pub use runs::{BlockLevels, BlockRun};

/// A type of blocks.
#[expect(missing_docs, reason = "the names are the format's own and say all there is to say")]
#[expect(non_camel_case_types, reason = "the names are the format's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 12] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// The name, as `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
        }
    }

    /// The type of that name, in capitals or not.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|block| block.name().eq_ignore_ascii_case(name))
    }

    /// Weights of a block.
    pub fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Q2_K => 2,
            Self::Q3_K => 3,
            Self::Q4_0 | Self::Q4_1 | Self::Q4_K | Self::IQ4_NL | Self::IQ4_XS => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5_K => 5,
            Self::Q6_K => 6,
            Self::Q8_0 => 8,
        }
    }

    /// What llama-quantize takes instead in rows that 256 does not divide; blocks of 32 themselves.
    pub fn of_32(self) -> Self {
        match self {
            Self::Q2_K | Self::Q3_K => Self::Q4_0,
            Self::Q4_K => Self::Q5_0,
            Self::Q5_K => Self::Q5_1,
            Self::Q6_K => Self::Q8_0,
            Self::IQ4_XS => Self::IQ4_NL,
            other => other,
        }
    }

    /// Bytes of a row of so many inputs; its last block may be partly empty.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols.div_ceil(self.weights()) * self.bytes()
    }

    /// Decodes a block of [`BlockType::bytes`] bytes into `out` of [`BlockType::weights`] values, bit for bit as
    /// llama.cpp reads it.
    ///
    /// # Panics
    /// If the lengths are others.
    pub fn decode(self, block: &[u8], out: &mut [f32]) {
        assert_eq!((block.len(), out.len()), (self.bytes(), self.weights()), "one block");
        decode::decode(self, block, out);
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A matrix of blocks. Rows whose inputs are no whole number of blocks end in a block whose rest is unused.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    shape: MatrixShape,
    kind: BlockType,
    bytes: Vec<u8>,
}

impl Blocks {
    /// Holds the blocks of all rows, one row after another.
    ///
    /// # Panics
    /// If the number of bytes does not fit the shape.
    pub fn new(shape: MatrixShape, kind: BlockType, bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len() as u64, bytes_of(kind, shape), "whole blocks");
        Self { shape, kind, bytes }
    }

    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The type of the blocks.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// The blocks of all rows, one row after another.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        let (n, size) = (self.kind.weights(), self.kind.bytes());
        let row_bytes = self.kind.row_bytes(self.shape.cols);
        let row = &self.bytes[row * row_bytes..(row + 1) * row_bytes];
        let mut last = [0.0; 256];
        for (block, values) in row.chunks_exact(size).zip(out.chunks_mut(n)) {
            if values.len() == n {
                self.kind.decode(block, values);
            } else {
                self.kind.decode(block, &mut last[..n]);
                values.copy_from_slice(&last[..values.len()]);
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        vec![Part::new("blocks", DType::U8, &self.bytes)]
    }

    pub(super) fn from_parts<'a>(
        kind: BlockType,
        shape: MatrixShape,
        part: &dyn Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Self> {
        let bytes = part("blocks").filter(|b| b.len() as u64 == bytes_of(kind, shape))?;
        Some(Self { shape, kind, bytes: bytes.to_vec() })
    }
}

/// Bytes of a matrix. Blocks hold every weight, so a mask above them saves nothing.
pub(super) fn bytes_of(kind: BlockType, shape: MatrixShape) -> u64 {
    (shape.rows * kind.row_bytes(shape.cols)) as u64
}
