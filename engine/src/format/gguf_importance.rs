//! What is said in a GGUF file of the data that weighted its blocks.

use crate::format::gguf_writer::{NewValue, Pairs};

/// What all keys about it begin with.
pub const KEYS: &str = "quantize.imatrix.";

/// Where the importance of inputs comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Importance {
    /// The file it was read from, or what tells the calibration from others.
    pub file: String,
    /// The texts, where they are known.
    pub dataset: Option<String>,
    /// Tensors that it has sums for.
    pub entries: u32,
    /// Pieces of text, where they are known.
    pub chunks: Option<u32>,
}

impl Importance {
    /// The keys that llama-quantize leaves where it was given an importance matrix.
    pub fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::default();
        pairs.push("quantize.imatrix.file", &NewValue::Text(self.file.clone()));
        if let Some(dataset) = &self.dataset {
            pairs.push("quantize.imatrix.dataset", &NewValue::Text(dataset.clone()));
        }
        pairs.push("quantize.imatrix.entries_count", &NewValue::U32(self.entries));
        if let Some(chunks) = self.chunks {
            pairs.push("quantize.imatrix.chunks_count", &NewValue::U32(chunks));
        }
        pairs
    }
}
