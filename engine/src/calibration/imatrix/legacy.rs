//! The old form of importance matrices, `.dat`: all numbers little-endian of 32 bits.
//!
//! Entries, then each: length of the name, the name, calls, values, the values; then the last chunk, the length of
//! the dataset's path, the path (both may be missing). A value is the mean square times the number of calls.

use std::collections::BTreeMap;

use crate::calibration::imatrix::{Entry, Imatrix, bad};
use crate::disk::Source;
use crate::error::{Error, Result};

/// Tokens of a chunk, which the old form does not say: the usual context of `llama-imatrix`.
pub const LEGACY_CHUNK_TOKENS: u32 = 512;
/// The most entries that are read.
const MAX_ENTRIES: u64 = 1 << 20;
/// The longest name or path.
const MAX_NAME_BYTES: u64 = 1 << 16;

pub(super) fn read(source: &Source) -> Result<Imatrix> {
    let mut cursor = Cursor { source, at: 0 };
    let count = cursor.number("the number of entries")?;
    // Name, calls, values and a name of one letter.
    if count == 0 || count > MAX_ENTRIES || count * 13 > source.len_bytes() {
        return Err(bad(source.path(), format!("it cannot hold {count} entries")));
    }
    let mut entries = BTreeMap::new();
    for at in 0..count {
        let name = cursor.text(&format!("the name of entry {at}"))?;
        let calls = cursor.number(&name)?;
        let values = cursor.number(&name)?;
        let bytes = cursor.take(values.saturating_mul(4), &name)?;
        if calls == 0 || values == 0 {
            return Err(bad(source.path(), format!("{name} has {values} values of {calls} calls")));
        }
        let (words, _) = bytes.as_chunks::<4>();
        let tokens = LEGACY_CHUNK_TOKENS as f32;
        let sums = words.iter().map(|word| f32::from_le_bytes(*word) * tokens).collect();
        let counts = vec![(calls * u64::from(LEGACY_CHUNK_TOKENS)) as f32];
        if entries.insert(name.clone(), Entry { sums, counts }).is_some() {
            return Err(bad(source.path(), format!("{name} appears twice")));
        }
    }
    let mut matrix = Imatrix { chunk_size: LEGACY_CHUNK_TOKENS, entries, ..Imatrix::default() };
    if cursor.left() > 0 {
        matrix.chunk_count = cursor.number("the last chunk")? as u32;
    }
    if cursor.left() > 0 {
        matrix.datasets.push(cursor.text("the name of its text")?);
    }
    Ok(matrix)
}

struct Cursor<'a> {
    source: &'a Source,
    at: u64,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        self.source.len_bytes().saturating_sub(self.at)
    }

    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        if count > self.left() {
            return Err(self.ends(what));
        }
        let bytes = self.source.bytes(self.at..self.at + count)?;
        self.at += count;
        Ok(bytes)
    }

    fn ends(&self, what: &str) -> Error {
        bad(self.source.path(), format!("it ends within {what}"))
    }

    /// A number that is not negative.
    fn number(&mut self, what: &str) -> Result<u64> {
        let bytes = self.take(4, what)?.first_chunk::<4>().copied();
        let number = i32::from_le_bytes(bytes.ok_or_else(|| self.ends(what))?);
        u64::try_from(number)
            .map_err(|_negative| bad(self.source.path(), format!("{what} says {number}")))
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let bytes = self.number(what)?;
        if bytes > MAX_NAME_BYTES {
            return Err(bad(self.source.path(), format!("{what} is {bytes} bytes long")));
        }
        Ok(String::from_utf8_lossy(self.take(bytes, what)?).into_owned())
    }
}
