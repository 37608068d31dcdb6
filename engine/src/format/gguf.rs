//! GGUF: metadata and tensor list of the file format of llama.cpp, versions 2 and 3, little-endian.
//!
//! Only the header is read: a magic word, counts, key-value pairs, then name, extents, type and offset of each
//! tensor. Every count is held against the bytes that are left before anything is allocated for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use crate::disk::Source;
use crate::error::{Error, Result};

const FORMAT: &str = "GGUF";
const MAGIC: &[u8] = b"GGUF";
/// Bytes of the file that are looked at in one piece.
const WINDOW: u64 = 1 << 20;
/// The most tensors and key-value pairs that are read.
const MAX_ENTRIES: u64 = 1 << 20;
/// The longest name of a tensor or key.
const MAX_NAME_BYTES: u64 = 1 << 16;
/// The longest string that is a value.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// The most bytes kept of all values.
const MAX_KEPT_BYTES: u64 = 256 << 20;
/// Arrays of more elements are passed over, as a tokenizer's are.
const MAX_KEPT_ELEMENTS: u64 = 4096;
/// Extents of a tensor.
const MAX_EXTENTS: u32 = 4;
/// Where tensors begin at multiples of, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;
/// The largest alignment that is believed.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// How a tensor's elements are stored: in blocks of so many elements and bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct BlockType {
    /// Its number in a file.
    pub id: u32,
    /// Its name, as llama.cpp writes it.
    pub name: &'static str,
    /// Elements of a block.
    pub elements: u64,
    /// Bytes of a block.
    pub bytes: u64,
}

const fn block(id: u32, name: &'static str, elements: u64, bytes: u64) -> BlockType {
    BlockType { id, name, elements, bytes }
}

/// Every type that files have, by number; those for intermediate results are left out.
pub static BLOCK_TYPES: &[BlockType] = &[
    block(0, "f32", 1, 4),
    block(1, "f16", 1, 2),
    block(2, "q4_0", 32, 18),
    block(3, "q4_1", 32, 20),
    block(6, "q5_0", 32, 22),
    block(7, "q5_1", 32, 24),
    block(8, "q8_0", 32, 34),
    block(10, "q2_K", 256, 84),
    block(11, "q3_K", 256, 110),
    block(12, "q4_K", 256, 144),
    block(13, "q5_K", 256, 176),
    block(14, "q6_K", 256, 210),
    block(16, "iq2_xxs", 256, 66),
    block(17, "iq2_xs", 256, 74),
    block(18, "iq3_xxs", 256, 98),
    block(19, "iq1_s", 256, 50),
    block(20, "iq4_nl", 32, 18),
    block(21, "iq3_s", 256, 110),
    block(22, "iq2_s", 256, 82),
    block(23, "iq4_xs", 256, 136),
    block(24, "i8", 1, 1),
    block(25, "i16", 1, 2),
    block(26, "i32", 1, 4),
    block(27, "i64", 1, 8),
    block(28, "f64", 1, 8),
    block(29, "iq1_m", 256, 56),
    block(30, "bf16", 1, 2),
    block(34, "tq1_0", 256, 54),
    block(35, "tq2_0", 256, 66),
    block(39, "mxfp4", 32, 17),
    block(40, "nvfp4", 64, 36),
    block(41, "q1_0", 128, 18),
    block(42, "q2_0", 64, 18),
];

impl BlockType {
    /// The type of this number.
    pub fn of(id: u32) -> Option<&'static Self> {
        BLOCK_TYPES.iter().find(|block| block.id == id)
    }

    /// The type of this name, in capitals or not.
    pub fn named(name: &str) -> Option<&'static Self> {
        BLOCK_TYPES.iter().find(|block| block.name.eq_ignore_ascii_case(name))
    }
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number without sign, of 8 to 64 bits.
    Unsigned(u64),
    /// A number with sign, of 8 to 64 bits.
    Signed(i64),
    /// A number with a fraction, of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text; bytes that are not UTF-8 are replaced.
    Text(String),
    /// A list.
    Array(Array),
}

impl Value {
    /// The number without sign this is.
    pub fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The text this is.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A list of the metadata; a long one is only located.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Number of the elements' type in the file.
    pub kind: u32,
    /// Number of elements.
    pub count: u64,
    /// The elements, unless there are many.
    pub elements: Option<Vec<Value>>,
    /// Where the elements lie in the file.
    pub range: Range<u64>,
}

/// A tensor of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its extents, inputs first: the reverse of the usual order.
    pub extents: Vec<u64>,
    /// Number of its type, see [`BlockType::of`].
    pub kind: u32,
    /// Where its data begin, counted from [`Header::data`].
    pub offset: u64,
}

impl TensorInfo {
    /// How its elements are stored, if that is known here.
    pub fn block_type(&self) -> Option<&'static BlockType> {
        BlockType::of(self.kind)
    }

    /// Number of elements; `None` where they cannot be counted.
    pub fn elements(&self) -> Option<u64> {
        self.extents.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent))
    }

    /// Bytes of its data; `None` for an unknown type, or rows that are no whole number of blocks.
    pub fn bytes(&self) -> Option<u64> {
        let block = self.block_type()?;
        let whole = self.extents.first()? % block.elements == 0;
        whole.then(|| (self.elements()? / block.elements).checked_mul(block.bytes))?
    }
}

/// What comes before the data of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: BTreeMap<String, Value>,
    /// Where each pair lies in the file, key, type and value, in the order of the file.
    pub pairs: Vec<(String, Range<u64>)>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// What tensors begin at multiples of.
    pub alignment: u64,
    /// Where the data begin in the file.
    pub data: u64,
}

impl Header {
    /// The number without sign under `key`.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        self.metadata.get(key)?.unsigned()
    }

    /// The text under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.text()
    }
}

/// Reads the header of a file.
///
/// # Errors
/// [`Error::Malformed`] for any defect, also for data that end beyond the file; [`Error::Unsupported`] for other
/// versions and big-endian files.
pub fn read_header(source: &Source) -> Result<Header> {
    let mut cursor = Cursor::new(source);
    if cursor.take(4, "the magic word")? != MAGIC {
        return Err(cursor.malformed("it does not begin with GGUF"));
    }
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        let path = source.path().display();
        let what = match version.swap_bytes() {
            2 | 3 => format!("the big-endian GGUF file {path}"),
            _ => format!("version {version} of GGUF, in which {path} is written,"),
        };
        return Err(Error::Unsupported { what });
    }
    let tensors = cursor.count("the number of tensors", 24)?;
    let pairs = cursor.count("the number of key-value pairs", 13)?;
    let (metadata, pairs) = read_metadata(&mut cursor, pairs)?;
    let mut infos = Vec::new();
    for at in 0..tensors {
        infos.push(read_info(&mut cursor, at)?);
    }
    let alignment = alignment(&cursor, &metadata)?;
    let data = cursor.at.next_multiple_of(alignment);
    check_tensors(&cursor, &infos, data, alignment)?;
    Ok(Header { version, metadata, pairs, tensors: infos, alignment, data })
}

/// Values by key, and where each pair lies.
type Metadata = (BTreeMap<String, Value>, Vec<(String, Range<u64>)>);

fn read_metadata(cursor: &mut Cursor<'_>, pairs: u64) -> Result<Metadata> {
    let (mut metadata, mut places) = (BTreeMap::new(), Vec::new());
    for at in 0..pairs {
        let begin = cursor.at;
        let key = cursor.text(&format!("key {at}"), MAX_NAME_BYTES)?;
        let kind = cursor.u32(&key)?;
        let value = if kind == ARRAY { cursor.array(&key)? } else { cursor.scalar(kind, &key)? };
        if metadata.contains_key(&key) {
            return Err(cursor.malformed(format!("the key {key} appears twice")));
        }
        places.push((key.clone(), begin..cursor.at));
        metadata.insert(key, value);
    }
    Ok((metadata, places))
}

fn read_info(cursor: &mut Cursor<'_>, at: u64) -> Result<TensorInfo> {
    let name = cursor.text(&format!("the name of tensor {at}"), MAX_NAME_BYTES)?;
    let extents = cursor.u32(&name)?;
    if !(1..=MAX_EXTENTS).contains(&extents) {
        return Err(cursor.malformed(format!("tensor {name} has {extents} extents, not 1 to 4")));
    }
    let extents = (0..extents).map(|_| cursor.u64(&name)).collect::<Result<Vec<_>>>()?;
    let info = TensorInfo { kind: cursor.u32(&name)?, offset: cursor.u64(&name)?, name, extents };
    if info.elements().is_none() {
        let TensorInfo { name, extents, .. } = &info;
        return Err(cursor.malformed(format!("tensor {name} of {extents:?} is too large to count")));
    }
    Ok(info)
}

fn alignment(cursor: &Cursor<'_>, metadata: &BTreeMap<String, Value>) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(ALIGNMENT);
    };
    let alignment = value.unsigned();
    alignment.filter(|&size| size.is_power_of_two() && size <= MAX_ALIGNMENT).ok_or_else(|| {
        cursor.malformed(format!(
            "its general.alignment is {value:?}, not a power of two up to {MAX_ALIGNMENT}"
        ))
    })
}

/// Names are unique; data are aligned, within the file and apart from each other.
fn check_tensors(
    cursor: &Cursor<'_>,
    tensors: &[TensorInfo],
    data: u64,
    alignment: u64,
) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut ranges = Vec::new();
    for tensor in tensors {
        let name = &tensor.name;
        if !names.insert(name) {
            return Err(cursor.malformed(format!("tensor {name} appears twice")));
        }
        if tensor.offset % alignment != 0 {
            return Err(cursor.malformed(format!("the data of tensor {name} are not aligned")));
        }
        let bytes = match tensor.block_type() {
            None => 0,
            Some(block) => tensor.bytes().ok_or_else(|| {
                let TensorInfo { extents, .. } = tensor;
                let kind = block.name;
                cursor.malformed(format!("tensor {name} of {extents:?} is no {kind} blocks"))
            })?,
        };
        let begin = data.checked_add(tensor.offset);
        let end = begin.and_then(|begin| begin.checked_add(bytes));
        let (Some(begin), Some(end)) = (begin, end.filter(|&end| end <= cursor.len)) else {
            return Err(cursor.malformed(format!("tensor {name} ends beyond the file")));
        };
        ranges.push((begin, end, name));
    }
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => {
            let (first, second) = (pair[0].2, pair[1].2);
            Err(cursor.malformed(format!("tensors {first} and {second} overlap")))
        }
        None => Ok(()),
    }
}

/// Type numbers of values.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Bytes of a value of this type, if that is always the same.
fn fixed_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A place in the file, with the bytes around it.
struct Cursor<'a> {
    source: &'a Source,
    len: u64,
    at: u64,
    window: &'a [u8],
    window_at: u64,
    kept: u64,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a Source) -> Self {
        Self { source, len: source.len_bytes(), at: 0, window: &[], window_at: 0, kept: 0 }
    }

    fn path(&self) -> &'a Path {
        self.source.path()
    }

    /// An error; names of the file may hold anything, and a message is one line.
    fn malformed(&self, what: impl Into<String>) -> Error {
        let what = what.into().replace(char::is_control, "?");
        Error::malformed(FORMAT, self.path(), what)
    }

    fn left(&self) -> u64 {
        self.len.saturating_sub(self.at)
    }

    /// The next `count` bytes, at most a window of them.
    fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        if count > self.left() {
            return Err(self.malformed(format!("it ends within {what}")));
        }
        let within = |cursor: &Self| {
            let from = usize::try_from(cursor.at - cursor.window_at).ok()?;
            cursor.window.get(from..from.checked_add(usize::try_from(count).ok()?)?)
        };
        if within(self).is_none() {
            let end = self.len.min(self.at + count.max(WINDOW));
            self.window = self.source.bytes(self.at..end)?;
            self.window_at = self.at;
        }
        let bytes = within(self).ok_or_else(|| self.malformed(format!("it ends within {what}")))?;
        self.at += count;
        Ok(bytes)
    }

    fn skip(&mut self, count: u64, what: &str) -> Result<()> {
        if count > self.left() {
            return Err(self.malformed(format!("it ends within {what}")));
        }
        self.at += count;
        Ok(())
    }

    /// Up to 8 little-endian bytes.
    fn number(&mut self, bytes: u64, what: &str) -> Result<u64> {
        let bytes = self.take(bytes, what)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(self.number(4, what)? as u32)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(8, what)
    }

    /// A number of entries, each of at least `least` bytes.
    fn count(&mut self, what: &str, least: u64) -> Result<u64> {
        let count = self.u64(what)?;
        if count > MAX_ENTRIES || count.saturating_mul(least) > self.len {
            return Err(self.malformed(format!("{what}, {count}, cannot be true")));
        }
        Ok(count)
    }

    fn text(&mut self, what: &str, longest: u64) -> Result<String> {
        let bytes = self.u64(what)?;
        if bytes > longest {
            return Err(self.malformed(format!("{what} is {bytes} bytes long")));
        }
        self.kept += bytes;
        if self.kept > MAX_KEPT_BYTES {
            return Err(self.malformed("its names and texts together are too long"));
        }
        Ok(String::from_utf8_lossy(self.take(bytes, what)?).into_owned())
    }

    fn scalar(&mut self, kind: u32, key: &str) -> Result<Value> {
        if kind == TEXT {
            return Ok(Value::Text(self.text(key, MAX_STRING_BYTES)?));
        }
        let Some(bytes) = fixed_bytes(kind) else {
            return Err(self.malformed(format!("{key} has the unknown type {kind}")));
        };
        let number = self.number(bytes, key)?;
        Ok(match kind {
            1 => Value::Signed(i64::from(number as u8 as i8)),
            3 => Value::Signed(i64::from(number as u16 as i16)),
            5 => Value::Signed(i64::from(number as u32 as i32)),
            6 => Value::Float(f64::from(f32::from_bits(number as u32))),
            7 => Value::Bool(number != 0),
            11 => Value::Signed(number as i64),
            12 => Value::Float(f64::from_bits(number)),
            _ => Value::Unsigned(number),
        })
    }

    fn array(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        if kind != TEXT && fixed_bytes(kind).is_none() {
            return Err(self.malformed(format!("{key} is a list of the unknown type {kind}")));
        }
        let least = fixed_bytes(kind).unwrap_or(8);
        if count.checked_mul(least).is_none_or(|bytes| bytes > self.left()) {
            return Err(self.malformed(format!("the list {key} ends beyond the file")));
        }
        let begin = self.at;
        let elements = if count <= MAX_KEPT_ELEMENTS {
            Some((0..count).map(|_| self.scalar(kind, key)).collect::<Result<_>>()?)
        } else {
            match fixed_bytes(kind) {
                Some(bytes) => self.skip(count * bytes, key)?,
                None => self.skip_texts(count, key)?,
            }
            None
        };
        Ok(Value::Array(Array { kind, count, elements, range: begin..self.at }))
    }

    fn skip_texts(&mut self, count: u64, key: &str) -> Result<()> {
        for _ in 0..count {
            let bytes = self.u64(key)?;
            self.skip(bytes, key)?;
        }
        Ok(())
    }
}
