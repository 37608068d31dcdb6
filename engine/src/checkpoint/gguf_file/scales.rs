//! Scales that lie beside the blocks of a matrix: `blk.0.attn_q.scale` multiplies what `blk.0.attn_q.weight` decodes to. Of
//! experts, which are one tensor, each has a number of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::gguf_file::config::Part;
use crate::error::Result;
use crate::format::gguf::{Header, TensorInfo};
use crate::format::gguf_values;

/// Ends of the names of tensors that belong to a matrix: what multiplies it, and what some runtimes multiply its inputs by
/// before they round them.
const SCALE: &str = ".scale";
const OF_INPUTS: &str = ".input_scale";

/// The scales of all parts.
#[derive(Default)]
pub(super) struct Scales {
    /// Bits of numbers, by the name of the matrix.
    by_matrix: BTreeMap<String, Arc<[u32]>>,
    /// Tensors that are no layers of their own, each with the name of its matrix.
    belong: BTreeMap<String, String>,
}

impl Scales {
    /// Reads those that lie beside a matrix in blocks, as many numbers as it has experts.
    ///
    /// # Errors
    /// [`crate::Error::Io`] for a file that has become shorter.
    pub(super) fn of(parts: &[Part]) -> Result<Self> {
        let all = || parts.iter().flat_map(|(_, header)| &header.tensors);
        let is_coded = |info: &&TensorInfo| gguf_values::plain(info.kind).is_none();
        let matrices: BTreeMap<&str, &TensorInfo> =
            all().filter(is_coded).map(|info| (info.name.as_str(), info)).collect();
        let mut scales = Self::default();
        for (source, header) in parts {
            for info in &header.tensors {
                let ends = [SCALE, OF_INPUTS].map(|end| info.name.strip_suffix(end));
                let Some(base) = ends.into_iter().flatten().next() else { continue };
                let weight = format!("{base}.weight");
                let Some(matrix) = matrices.get(weight.as_str()) else { continue };
                if info.kind != 0 || info.extents != [count(matrix)] {
                    continue;
                }
                scales.belong.insert(info.name.clone(), weight.clone());
                if ends[0].is_some() {
                    let words = source.bytes(place(header, info))?.chunks_exact(4);
                    let bits = words.map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
                    scales.by_matrix.insert(weight, bits.collect());
                }
            }
        }
        Ok(scales)
    }

    /// The numbers that a matrix of this name is multiplied by.
    pub(super) fn of_matrix(&self, name: &str) -> Arc<[u32]> {
        self.by_matrix.get(name).cloned().unwrap_or_default()
    }

    /// The matrix that a tensor belongs to, which is no layer of its own then.
    pub(super) fn belongs_to(&self, name: &str) -> Option<&String> {
        self.belong.get(name)
    }
}

/// How many numbers a matrix needs: one, or one for each expert.
fn count(matrix: &TensorInfo) -> u64 {
    matrix.extents.get(2).copied().unwrap_or(1)
}

/// Where the numbers lie in the file; the header's reader has seen that they end within it.
fn place(header: &Header, info: &TensorInfo) -> std::ops::Range<u64> {
    let begin = header.data.saturating_add(info.offset);
    begin..begin.saturating_add(4 * info.elements().unwrap_or(0))
}
