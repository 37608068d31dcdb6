//! A second reader of GGUF, for the proof: written from the format's description, it shares no code with the writer or
//! with the reader the rest of the program uses. It knows version 3, and 2 of a source that is written again.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A tensor as the file describes it.
#[derive(Debug)]
pub(super) struct Described<'a> {
    /// Extents, inputs first.
    pub(super) extents: Vec<u64>,
    /// Number of its type.
    pub(super) kind: u32,
    /// Its data.
    pub(super) data: &'a [u8],
}

/// What the proof asks of a file.
#[derive(Debug, Default)]
pub(super) struct Opened<'a> {
    pub(super) tensors: BTreeMap<&'a str, Described<'a>>,
    /// Values that are texts.
    pub(super) texts: BTreeMap<&'a str, &'a str>,
    /// Values that are whole numbers.
    pub(super) numbers: BTreeMap<&'a str, u64>,
    /// Lengths of values that are lists.
    pub(super) lists: BTreeMap<&'a str, u64>,
    /// Every key with its type and value as they stand there, in order.
    pub(super) pairs: Vec<(&'a str, &'a [u8])>,
}

/// Elements and bytes of a block of each type.
const SIZES: &[(u32, u64, u64)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (30, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (20, 32, 18),
    (23, 256, 136),
    (39, 32, 17),
    // Types that are only carried over.
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (21, 256, 110),
    (22, 256, 82),
    (24, 1, 1),
    (25, 1, 2),
    (26, 1, 4),
    (27, 1, 8),
    (28, 1, 8),
    (29, 256, 56),
    (34, 256, 54),
    (35, 256, 66),
    (40, 64, 36),
    (41, 128, 18),
    (42, 64, 18),
];

/// Elements and bytes of a block.
pub(super) fn size_of(kind: u32) -> Option<(u64, u64)> {
    SIZES
        .iter()
        .find(|(known, _, _)| *known == kind)
        .map(|(_, elements, bytes)| (*elements, *bytes))
}

/// What is left of the file, and where that is.
struct Rest<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(n).ok()?)?;
        let taken = self.all.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a str> {
        let n = self.u64()?;
        std::str::from_utf8(self.take(n)?).ok()
    }

    /// Passes over a value of fixed length.
    fn skip(&mut self, kind: u32, count: u64) -> Option<()> {
        let bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            _ => return None,
        };
        self.take(count.checked_mul(bytes)?).map(|_| ())
    }
}

/// Opens a file that was written here; says what is wrong where it cannot be opened.
pub(super) fn open(bytes: &[u8]) -> Result<Opened<'_>, &'static str> {
    let (opened, end) = read(bytes, 3..=3)?;
    let alignment = alignment(&opened);
    let mut behind = 0;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for tensor in opened.tensors.values() {
        let begin = tensor.data.as_ptr().addr() - bytes.as_ptr().addr();
        places.push((begin, begin + tensor.data.len()));
    }
    places.sort_unstable();
    let mut at = end;
    for (begin, end) in places {
        if begin != at {
            return Err("its tensors do not follow one another");
        }
        at = end.next_multiple_of(alignment);
        behind = at;
    }
    let is_whole = bytes.len() == behind.max(end);
    if is_whole { Ok(opened) } else { Err("there is something behind its last tensor") }
}

fn alignment(opened: &Opened<'_>) -> usize {
    let said = opened.numbers.get("general.alignment");
    said.and_then(|said| usize::try_from(*said).ok()).filter(|&said| said > 0).unwrap_or(32)
}

/// Reads a file of these versions; gives where its data begin too.
pub(super) fn read(
    bytes: &[u8],
    versions: RangeInclusive<u32>,
) -> Result<(Opened<'_>, usize), &'static str> {
    let mut rest = Rest { all: bytes, at: 0 };
    let is_gguf = rest.take(4) == Some(b"GGUF");
    if !is_gguf || !rest.u32().is_some_and(|version| versions.contains(&version)) {
        return Err("it does not begin as GGUF of a version that is read");
    }
    let cut = "its header is cut short or makes no sense";
    let (tensors, pairs) = (rest.u64().ok_or(cut)?, rest.u64().ok_or(cut)?);
    let mut opened = Opened::default();
    for _ in 0..pairs {
        pair(&mut rest, &mut opened).ok_or(cut)?;
    }
    let mut described = Vec::new();
    for _ in 0..tensors {
        described.push(describe(&mut rest).ok_or(cut)?);
    }
    let first = rest.at.next_multiple_of(alignment(&opened));
    for (name, extents, kind, offset) in described {
        let (elements, block) = size_of(kind).ok_or("it has a tensor of an unknown type")?;
        let count =
            extents.iter().try_fold(1_u64, |n, extent| n.checked_mul(*extent)).ok_or(cut)?;
        let size = (count / elements).checked_mul(block).ok_or(cut)?;
        let begin = usize::try_from(offset).ok().and_then(|offset| first.checked_add(offset));
        let end = begin.zip(usize::try_from(size).ok()).and_then(|(a, n)| a.checked_add(n));
        let (begin, end) = begin.zip(end).ok_or(cut)?;
        let data = bytes.get(begin..end).ok_or("it ends within a tensor")?;
        if opened.tensors.insert(name, Described { extents, kind, data }).is_some() {
            return Err("two of its tensors have one name");
        }
    }
    Ok((opened, first))
}

fn pair<'a>(rest: &mut Rest<'a>, opened: &mut Opened<'a>) -> Option<()> {
    let key = rest.text()?;
    let begin = rest.at;
    value(rest, key, opened)?;
    opened.pairs.push((key, rest.all.get(begin..rest.at)?));
    Some(())
}

fn value<'a>(rest: &mut Rest<'a>, key: &'a str, opened: &mut Opened<'a>) -> Option<()> {
    let kind = rest.u32()?;
    match kind {
        8 => {
            opened.texts.insert(key, rest.text()?);
        }
        9 => {
            let (kind, count) = (rest.u32()?, rest.u64()?);
            opened.lists.insert(key, count);
            if kind != 8 {
                return rest.skip(kind, count);
            }
            for _ in 0..count {
                rest.text()?;
            }
        }
        kind @ (2..=5 | 10 | 11) => {
            let bytes = rest.take(match kind {
                2 | 3 => 2,
                4 | 5 => 4,
                _ => 8,
            })?;
            let number = bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
            opened.numbers.insert(key, number);
        }
        other => return rest.skip(other, 1),
    }
    Some(())
}

fn describe<'a>(rest: &mut Rest<'a>) -> Option<(&'a str, Vec<u64>, u32, u64)> {
    let (name, n) = (rest.text()?, rest.u32()?);
    let extents = (0..n.min(4)).map(|_| rest.u64()).collect::<Option<Vec<_>>>()?;
    Some((name, extents, rest.u32()?, rest.u64()?))
}
