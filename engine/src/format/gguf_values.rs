//! What lies behind the header of a GGUF file: lists of its metadata in full, and rows of tensors as f32.

use std::ops::Range;

use crate::disk::Source;
use crate::encoding::BlockType;
use crate::error::{Error, Result};
use crate::format::gguf::{self, Array};
use crate::format::gguf_codes;
use crate::tensor::{DType, Decoder};

/// The longest list that is read, in bytes of the file.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// Numbers of the types of lists' elements.
const I32: u32 = 5;
const F32: u32 = 6;
const TEXT: u32 = 8;

fn bytes<'a>(source: &'a Source, list: &Array, kind: u32) -> Result<&'a [u8]> {
    let Range { start, end } = list.range;
    if list.kind != kind || end - start > MAX_LIST_BYTES {
        let what =
            format!("a list of {} elements of type {} has no use here", list.count, list.kind);
        return Err(Error::malformed("GGUF", source.path(), what));
    }
    source.bytes(start..end)
}

/// A list of texts.
///
/// # Errors
/// [`Error::Malformed`] for another list, or texts that are not UTF-8; [`Error::Io`].
pub fn texts(source: &Source, list: &Array) -> Result<Vec<String>> {
    let mut rest = bytes(source, list, TEXT)?;
    let bad = || Error::malformed("GGUF", source.path(), "a text of its lists is not UTF-8");
    let mut next = || {
        let (length, behind) = rest.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (text, behind) = behind.split_at_checked(length)?;
        rest = behind;
        String::from_utf8(text.to_vec()).ok()
    };
    (0..list.count).map(|_| next().ok_or_else(bad)).collect()
}

/// A list of numbers of 32 bits with sign.
///
/// # Errors
/// [`Error::Malformed`] for another list; [`Error::Io`].
pub fn i32s(source: &Source, list: &Array) -> Result<Vec<i32>> {
    let (words, _) = bytes(source, list, I32)?.as_chunks::<4>();
    Ok(words.iter().map(|word| i32::from_le_bytes(*word)).collect())
}

/// A list of numbers of 32 bits with a fraction.
///
/// # Errors
/// [`Error::Malformed`] for another list; [`Error::Io`].
pub fn f32s(source: &Source, list: &Array) -> Result<Vec<f32>> {
    let (words, _) = bytes(source, list, F32)?.as_chunks::<4>();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

/// The element type of a type without blocks.
pub fn plain(kind: u32) -> Option<DType> {
    match kind {
        0 => Some(DType::F32),
        1 => Some(DType::F16),
        24 => Some(DType::I8),
        25 => Some(DType::I16),
        26 => Some(DType::I32),
        27 => Some(DType::I64),
        28 => Some(DType::F64),
        30 => Some(DType::BF16),
        _ => None,
    }
}

/// Bytes of a row of so many values; `None` where they are no whole blocks.
pub fn row_bytes(kind: u32, cols: usize) -> Option<usize> {
    let block = gguf::BlockType::of(kind)?;
    let elements = usize::try_from(block.elements).ok()?;
    let bytes = usize::try_from(block.bytes).ok()?;
    cols.is_multiple_of(elements).then_some(())?;
    (cols / elements).checked_mul(bytes)
}

/// Bits of a code of this type, as far as they are known: without scales and minimums.
pub fn code_bits(kind: u32) -> u32 {
    let Some(block) = gguf::BlockType::of(kind) else { return 0 };
    let whole = || (block.bytes * 8 / block.elements.max(1)) as u32;
    BlockType::named(block.name).map_or_else(whole, BlockType::bits)
}

/// Whether values of this type are read here.
pub fn is_read(kind: u32) -> bool {
    let named = |of: &gguf::BlockType| BlockType::named(of.name).is_some();
    plain(kind).is_some()
        || gguf_codes::decoder(kind).is_some()
        || gguf::BlockType::of(kind).is_some_and(named)
}

/// Decodes a row bit for bit as llama.cpp reads it; `None` for a type that is not read here.
pub fn decode_row(kind: u32, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    if let Some(dtype) = plain(kind) {
        Decoder::new(dtype)?.f32s(bytes, out);
        return Some(());
    }
    let block = gguf::BlockType::of(kind)?;
    if let Some(decode) = gguf_codes::decoder(kind) {
        let blocks = bytes.chunks_exact(block.bytes as usize);
        let values = out.chunks_exact_mut(block.elements as usize);
        blocks.zip(values).for_each(|(block, values)| decode(block, values));
        return Some(());
    }
    let kind = BlockType::named(block.name)?;
    let blocks = bytes.chunks_exact(kind.bytes()).zip(out.chunks_exact_mut(kind.weights()));
    blocks.for_each(|(block, out)| kind.decode(block, out));
    Some(())
}
