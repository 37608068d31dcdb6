//! Rows of a tensor of a GGUF file in the order of the source, decoded block by block.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::RowOrder;
use crate::disk::Source;
use crate::error::Result;
use crate::format::gguf::BlockType;
use crate::format::gguf_values;

/// Where a tensor lies, and how.
#[derive(Debug)]
pub(super) struct Rows {
    /// The part it lies in.
    pub(super) file: usize,
    /// Extents, inputs last.
    pub(super) extents: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(super) range: Range<u64>,
    /// Number of its type.
    pub(super) kind: u32,
    /// How rows follow one another there.
    pub(super) order: RowOrder,
    /// Bits of numbers that its values are multiplied by, each for as many rows as the others.
    pub(super) scales: Arc<[u32]>,
}

impl Rows {
    /// Number of rows, and of values in each. Each value of a vector in another order is a row.
    fn shape(&self) -> Option<(usize, usize)> {
        match (self.extents.as_slice(), self.order) {
            ([values], RowOrder::Woven { .. }) => Some((*values, 1)),
            ([others @ .., cols], _) => {
                let rows = others.iter().try_fold(1_usize, |rows, n| rows.checked_mul(*n))?;
                Some((rows, *cols))
            }
            ([], _) => None,
        }
    }

    /// The bytes of values in `wanted`: as they are where the type has no blocks, else decoded to F32. `None` for a type
    /// that is not read here, and for values that are not there.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the file has become shorter.
    pub(super) fn bytes(&self, source: &Source, wanted: Range<usize>) -> Result<Option<Vec<u8>>> {
        let (Some((rows, cols)), Some(block)) = (self.shape(), BlockType::of(self.kind)) else {
            return Ok(None);
        };
        let Some(row_bytes) = gguf_values::row_bytes(self.kind, cols) else { return Ok(None) };
        if cols == 0 || wanted.start.div_ceil(cols) > rows || wanted.end.div_ceil(cols) > rows {
            return Ok(None);
        }
        let mut out = Vec::new();
        let mut at = wanted.start;
        while at < wanted.end {
            let (row, first) = (at / cols, at % cols);
            let end = cols.min(first + (wanted.end - at));
            let begin = self.range.start + (self.order.place(row, rows) * row_bytes) as u64;
            let scale = self.scale(row, rows);
            if self.piece(source, (begin, block, scale), first..end, &mut out)?.is_none() {
                return Ok(None);
            }
            at += end - first;
        }
        Ok(Some(out))
    }

    /// What a row is multiplied by, if it is.
    fn scale(&self, row: usize, rows: usize) -> Option<f32> {
        let of_each = rows.checked_div(self.scales.len())?.max(1);
        self.scales.get(row / of_each).map(|bits| f32::from_bits(*bits))
    }

    /// Appends the values `wanted` of a row that begins at `begin`, times `scale`.
    fn piece(
        &self,
        source: &Source,
        (begin, block, scale): (u64, &BlockType, Option<f32>),
        wanted: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<Option<()>> {
        let (size, bytes) = (block.elements as usize, block.bytes);
        let blocks = wanted.start / size..wanted.end.div_ceil(size);
        let place = begin + blocks.start as u64 * bytes..begin + blocks.end as u64 * bytes;
        let stored = source.bytes(place)?;
        if gguf_values::plain(self.kind).is_some() {
            out.extend_from_slice(stored);
            return Ok(Some(()));
        }
        let mut values = vec![0.0_f32; blocks.len() * size];
        if gguf_values::decode_row(self.kind, stored, &mut values).is_none() {
            return Ok(None);
        }
        if let Some(scale) = scale {
            for value in &mut values {
                *value *= scale;
            }
        }
        let first = blocks.start * size;
        let wanted = &values[wanted.start - first..wanted.end - first];
        out.extend(wanted.iter().flat_map(|value| value.to_le_bytes()));
        Ok(Some(()))
    }
}
