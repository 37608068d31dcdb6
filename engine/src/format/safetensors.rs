//! The safetensors container: 8 bytes of header length, a JSON header, tensors end to end.
//!
//! The reader trusts nothing: lengths are bounded, offsets must tile the file exactly, names must be unique,
//! and every defect is a sentence that names the tensor. The writer orders tensors by decreasing alignment,
//! then name, and pads the header to 8 bytes, so that the same tensors always give the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::disk::{NewFile, Source};
use crate::error::{Error, Result};
use crate::format::foreign::{self, Foreign};
use crate::tensor::{DType, Shape};

/// The largest header the format allows.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const FORMAT: &str = "safetensors";

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the header.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
    /// Where its bytes lie in the file.
    pub range: Range<u64>,
}

/// A parsed header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tensors by position in the file.
    pub entries: Vec<Entry>,
    /// The free-form `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a file; touches no tensor.
pub fn read_header(source: &Source) -> Result<Header> {
    let data_start = data_start(source)?;
    let text = source.bytes(8..data_start)?;
    parse_header(source.path(), text, data_start..source.len_bytes())
}

/// Checks the header `text` of a file whose tensors fill `data`; `path` is for messages.
///
/// # Errors
/// [`Error::Malformed`].
pub fn parse_header(path: &Path, text: &[u8], data: Range<u64>) -> Result<Header> {
    if text.first() != Some(&b'{') {
        return Err(bad(path, "its header is not a JSON object"));
    }
    let raw: RawHeader = serde_json::from_slice(text)
        .map_err(|error| bad(path, format!("its header cannot be read: {error}")))?;
    let mut entries = Vec::with_capacity(raw.entries.len());
    for (name, entry) in raw.entries {
        entries.push(check_entry(path, name, &entry, data.clone())?);
    }
    entries.sort_by(|a, b| {
        (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
    });
    check_tiling(path, &entries, data)?;
    Ok(Header { entries, metadata: raw.metadata })
}

/// Where the header ends, as the first 8 bytes say.
fn data_start(source: &Source) -> Result<u64> {
    let file_bytes = source.len_bytes();
    let first = source.bytes(0..file_bytes.min(foreign::LOOKED_AT as u64))?;
    let what = match first.first_chunk::<8>().map(|prefix| u64::from_le_bytes(*prefix)) {
        None => format!("it has only {file_bytes} bytes"),
        Some(header_bytes) if header_bytes > MAX_HEADER_BYTES => format!(
            "its first 8 bytes announce a header of {header_bytes} bytes, more than the format's {MAX_HEADER_BYTES}"
        ),
        Some(header_bytes) if header_bytes + 8 > file_bytes => {
            format!("its header of {header_bytes} bytes is longer than the file of {file_bytes}")
        }
        Some(header_bytes) => return Ok(header_bytes + 8),
    };
    // Only a file that cannot be one is taken for something else.
    Err(match foreign::recognise(first) {
        Some(Foreign { what, mend }) => bad(source.path(), what).mended_by(mend),
        None => bad(source.path(), what),
    })
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::malformed(FORMAT, path, what)
}

fn check_entry(path: &Path, name: String, raw: &RawEntry, data: Range<u64>) -> Result<Entry> {
    let Some(dtype) = DType::from_name(&raw.dtype) else {
        return Err(bad(path, format!("tensor {name} has the unknown dtype {}", raw.dtype)));
    };
    let shape: Option<Vec<usize>> =
        raw.shape.iter().map(|&extent| usize::try_from(extent).ok()).collect();
    let shape =
        Shape(shape.ok_or_else(|| bad(path, format!("the shape of tensor {name} is too large")))?);
    let Some(bytes) = shape.elements().and_then(|n| dtype.bytes(n)) else {
        return Err(bad(
            path,
            format!("the shape {shape} of tensor {name} overflows or does not fill whole bytes"),
        ));
    };
    let (begin, end) = raw.data_offsets;
    let absolute = |offset: u64| offset.checked_add(data.start);
    let range = match (absolute(begin), absolute(end)) {
        (Some(begin), Some(end)) if begin <= end && end <= data.end => begin..end,
        _ => {
            return Err(bad(
                path,
                format!("the offsets {begin} to {end} of tensor {name} lie outside the file"),
            ));
        }
    };
    if range.end - range.start != bytes {
        let held = range.end - range.start;
        return Err(bad(
            path,
            format!(
                "tensor {name} of shape {shape} and dtype {dtype} needs {bytes} bytes, its offsets hold {held}"
            ),
        ));
    }
    Ok(Entry { name, dtype, shape, range })
}

fn check_tiling(path: &Path, entries: &[Entry], data: Range<u64>) -> Result<()> {
    let mut at = data.start;
    let mut before = "the header";
    for entry in entries {
        if entry.range.start < at {
            return Err(bad(path, format!("tensor {} overlaps {before}", entry.name)));
        }
        if entry.range.start > at {
            let hole = entry.range.start - at;
            return Err(bad(
                path,
                format!("{hole} bytes before tensor {} belong to nothing", entry.name),
            ));
        }
        at = entry.range.end;
        before = &entry.name;
    }
    if at != data.end {
        return Err(bad(path, format!("{} bytes at its end belong to no tensor", data.end - at)));
    }
    Ok(())
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header as written; a map would let a repeated name hide the first.
struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut seen = HashSet::new();
        let mut header = RawHeader { entries: Vec::new(), metadata: BTreeMap::new() };
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor {name} appears twice")));
            }
            let at = |error: A::Error| A::Error::custom(format!("tensor {name}: {error}"));
            if name == "__metadata__" {
                header.metadata = map.next_value().map_err(at)?;
            } else {
                let entry = map.next_value().map_err(at)?;
                header.entries.push((name, entry));
            }
        }
        Ok(header)
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
}

impl Spec {
    /// Bytes of its data.
    pub fn bytes(&self) -> Result<u64> {
        let bytes = self.shape.elements().and_then(|n| self.dtype.bytes(n));
        bytes.ok_or_else(|| Error::Unsupported {
            what: format!("the shape {} of tensor {}", self.shape, self.name),
        })
    }
}

/// A file about to be written: its tensors in their order, and its header to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlan {
    /// Tensors in the order their bytes follow one another.
    pub specs: Vec<Spec>,
    header: Vec<u8>,
    data_bytes: u64,
}

#[derive(Serialize)]
struct WrittenEntry<'a> {
    dtype: &'static str,
    shape: &'a Shape,
    data_offsets: (u64, u64),
}

impl FilePlan {
    /// Orders `specs` and lays out the header.
    pub fn new(mut specs: Vec<Spec>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        specs.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut json = serde_json::Map::new();
        let unwritable = |error: serde_json::Error| Error::Unsupported {
            what: format!("this header ({error})"),
        };
        if !metadata.is_empty() {
            json.insert(
                "__metadata__".to_owned(),
                serde_json::to_value(metadata).map_err(unwritable)?,
            );
        }
        let mut at = 0_u64;
        for spec in &specs {
            let end = at + spec.bytes()?;
            let entry = WrittenEntry {
                dtype: spec.dtype.name(),
                shape: &spec.shape,
                data_offsets: (at, end),
            };
            json.insert(spec.name.clone(), serde_json::to_value(entry).map_err(unwritable)?);
            at = end;
        }
        let mut text = serde_json::to_vec(&json).map_err(unwritable)?;
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        Ok(Self { specs, header, data_bytes: at })
    }

    /// Length prefix and header.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of length prefix and header.
    pub fn header_bytes(&self) -> u64 {
        self.header.len() as u64
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header_bytes() + self.data_bytes
    }

    /// Writes header and tensors; `data(spec, write)` passes the bytes of each tensor in turn to `write`.
    pub fn write(
        &self,
        file: NewFile,
        data: impl FnMut(&Spec, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        self.write_around(file, |_, _| Ok(false), data)
    }

    /// The same over a file in which some tensors lie already: those of which `is_there(spec, at)` says so, where `at` is where
    /// they begin.
    pub fn write_around(
        &self,
        mut file: NewFile,
        mut is_there: impl FnMut(&Spec, u64) -> Result<bool>,
        mut data: impl FnMut(&Spec, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        file.write(&self.header)?;
        for spec in &self.specs {
            let (before, promised) = (file.written_bytes(), spec.bytes()?);
            if is_there(spec, before)? {
                file.skip(promised)?;
                continue;
            }
            data(spec, &mut |bytes| file.write(bytes))?;
            let written = file.written_bytes() - before;
            if written != promised {
                return Err(Error::Shape {
                    tensor: spec.name.clone(),
                    expected: format!("{promised} bytes for {}", spec.shape),
                    found: vec![written as usize],
                });
            }
        }
        file.finish()
    }
}
