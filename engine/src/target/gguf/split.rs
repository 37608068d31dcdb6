//! A file for llama.cpp dealt out to parts of a wished size, in the names and with the keys of llama-gguf-split.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::gguf_split::{self, MAX_PARTS, part_name};
use crate::format::gguf_writer::{ALIGNMENT, GgufPlan, NewTensor, NewValue, Pairs};
use crate::target::gguf::GgufFile;
use crate::target::{OutputFile, WeightFile};

/// Parts of at most `limit_bytes`, in the order of the tensors. Keys and tokenizer are in the first, which holds no tensor
/// where the next would make it too large; a tensor that is larger has a part of its own. One part is the file as it was.
///
/// # Errors
/// [`Error::Plan`] for more parts than names have numbers for; those of [`GgufPlan::of`].
pub(in crate::target) fn split(file: OutputFile, limit_bytes: u64) -> Result<Vec<OutputFile>> {
    let WeightFile::Gguf(whole) = &file.plan else { return Ok(vec![file]) };
    let tensors = whole.plan.tensors();
    let keys = |number, count| {
        let mut pairs = Pairs::default();
        pairs.push(gguf_split::NUMBER, &NewValue::U16(number));
        pairs.push(gguf_split::COUNT, &NewValue::U16(count));
        let all = i32::try_from(tensors.len()).unwrap_or(i32::MAX);
        pairs.push(gguf_split::TENSORS, &NewValue::I32(all));
        pairs
    };
    let header = |pairs: &Pairs| GgufPlan::header_bytes(pairs) + GgufPlan::pairs_bytes(&keys(0, 0));
    let headers = (header(whole.plan.metadata()), header(&Pairs::default()));
    let parts = deal(tensors, headers, (whole.plan.alignment(), limit_bytes));
    let count = parts.len();
    if count == 1 {
        return Ok(vec![file]);
    }
    if count as u64 > MAX_PARTS {
        return Err(Error::plan(
            format!("{} would be {count} files of {limit_bytes} bytes", file.name),
            "wish for larger files",
        ));
    }
    let stem = file.name.strip_suffix(".gguf").unwrap_or(&file.name);
    let part = |(at, range): (usize, Range<usize>)| {
        let mut pairs = if at == 0 { whole.plan.metadata().clone() } else { Pairs::default() };
        pairs.append(&keys(at as u16, count as u16));
        let own: Vec<NewTensor> =
            tensors[range.clone()].iter().map(|(new, _)| new.clone()).collect();
        let contents = whole.contents[range].to_vec();
        // Only the first part says what tensors are aligned to, where that is not as usual.
        let plan = match at {
            0 => GgufPlan::aligned_to(whole.plan.alignment(), &pairs, own)?,
            _ => GgufPlan::of(&pairs, own)?,
        };
        let plan = GgufFile { plan, contents };
        let name = part_name(stem, at + 1, count);
        Ok(OutputFile { name, plan: WeightFile::Gguf(Box::new(plan)) })
    };
    parts.into_iter().enumerate().map(part).collect()
}

/// Which tensors go into each part; `first` and `other` are the bytes of headers without tensors, `alignment` that of the
/// first part.
fn deal(
    tensors: &[(NewTensor, u64)],
    (first, other): (u64, u64),
    (alignment, limit_bytes): (u64, u64),
) -> Vec<Range<usize>> {
    let mut begins = vec![0];
    let (mut header, mut data, mut by) = (first, 0, alignment);
    for (at, (tensor, bytes)) in tensors.iter().enumerate() {
        let said = tensor.info_bytes();
        let needed = (header + said).next_multiple_of(by) + data + bytes.next_multiple_of(by);
        // Every part but the first begins with a tensor that was too large for the one before.
        if needed > limit_bytes {
            begins.push(at);
            (header, data, by) = (other, 0, ALIGNMENT);
        }
        header += said;
        data += bytes.next_multiple_of(by);
    }
    let ends = begins.iter().skip(1).copied().chain([tensors.len()]);
    begins.iter().zip(ends).map(|(&begin, end)| begin..end).collect()
}
