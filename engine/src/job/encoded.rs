//! An encoding as a small safetensors file, part by part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use blake3::Hasher;

use crate::disk::{NewFile, Source};
use crate::encoding::{Encoding, Layout, Part};
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Header, Spec, read_header};
use crate::job::slots::Slot;
use crate::tensor::{MatrixShape, Shape};

/// The entry of the header that holds the hash of the parts, where there is one.
const CHECKSUM: &str = "checksum";

/// The entry of the header that holds where parts lie that are in no file of their own, by name.
const SLOTS: &str = "slots";

/// Bytes of a part that are given at once.
const PIECE_BYTES: usize = 4 << 20;

/// Knows what became of tensors.
pub trait Encodings: Sync {
    /// Whether a tensor is encoded; the others are kept as they are.
    fn has(&self, tensor: usize) -> bool;

    /// The encoding of a tensor.
    ///
    /// # Errors
    /// [`Error::Io`] for a tensor that is not encoded; what reading says.
    fn encoding(&self, tensor: usize) -> Result<Arc<Encoding>>;

    /// Gives the bytes of a part of a tensor's encoding in pieces, from where they lie, without a look whether they are those
    /// that were written; `false`, and nothing is given, where they do not lie anywhere.
    ///
    /// # Errors
    /// What reading and `each` say.
    fn stored_part(
        &self,
        _tensor: usize,
        _part: &str,
        _each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// Where a part of a tensor's encoding lies in a file of the output already.
    fn slot(&self, _tensor: usize, _part: &str) -> Option<Slot> {
        None
    }

    /// By what the outputs of a tensor were divided, those of a norm or each row of a matrix, where they were.
    ///
    /// # Errors
    /// What reading says.
    fn divided(&self, _tensor: usize) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

/// Writes the parts of an encoding, with a hash of them where they are to be kept.
pub(super) fn write(file: NewFile, encoding: &Encoding, is_kept: bool) -> Result<()> {
    let parts = encoding.parts();
    let kept = if is_kept { kept(&parts, &BTreeMap::new())? } else { BTreeMap::new() };
    write_parts(file, parts.iter().collect(), &kept)
}

/// Writes the parts of an encoding that is kept, each into its slot, and the others with what the slots are. A part whose slot
/// cannot be written, as on a disk whose files may not be that long, lies with the others.
pub(super) fn write_into<'s>(
    path: &Path,
    encoding: &Encoding,
    slot: &dyn Fn(&str) -> Option<&'s Slot>,
) -> Result<()> {
    let parts = encoding.parts();
    let folder = path.parent().unwrap_or(path);
    let mut filled = BTreeMap::new();
    for part in &parts {
        let slot = slot(&part.name).filter(|slot| slot.bytes == part.bytes.len() as u64);
        if let Some(slot) = slot.filter(|slot| slot.fill(folder, &part.bytes).is_ok()) {
            filled.insert(part.name.as_str(), slot);
        }
    }
    let kept = kept(&parts, &filled)?;
    let others = parts.iter().filter(|part| !filled.contains_key(part.name.as_str())).collect();
    write_parts(NewFile::replacing(path)?.passing(), others, &kept)
}

/// What the header says beside the parts of an encoding that is kept.
fn kept(parts: &[Part<'_>], slots: &BTreeMap<&str, &Slot>) -> Result<BTreeMap<String, String>> {
    let parts = parts.iter().map(|part| (part.name.as_str(), &*part.bytes)).collect();
    let mut said = BTreeMap::from([(CHECKSUM.to_owned(), checksum(&parts))]);
    if !slots.is_empty() {
        let text = serde_json::to_string(slots)
            .map_err(|error| Error::Unsupported { what: format!("writing a layer ({error})") })?;
        said.insert(SLOTS.to_owned(), text);
    }
    Ok(said)
}

fn write_parts(
    file: NewFile,
    parts: Vec<&Part<'_>>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let spec = |part: &&Part<'_>| Spec {
        name: part.name.clone(),
        dtype: part.dtype,
        shape: Shape(vec![part.bytes.len() * 8 / part.dtype.bits() as usize]),
    };
    let specs: Vec<Spec> = parts.iter().map(spec).collect();
    let find = |name: &str| parts.iter().find(|part| part.name == name);
    let bytes_of = |spec: &Spec| find(&spec.name).map_or(&[][..], |part| &*part.bytes);
    FilePlan::new(specs, metadata)?.write(file, |spec, write| write(bytes_of(spec)))
}

/// A file of parts, with those that it says lie in slots.
struct Opened {
    source: Source,
    header: Header,
    placed: Vec<(String, Slot, Source)>,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let header = read_header(&source)?;
        let folder = path.parent().unwrap_or(path);
        let place = |(name, slot): (String, Slot)| {
            let source = slot.open(folder)?;
            Ok((name, slot, source))
        };
        let slots = slots_in(&header).ok_or_else(|| malformed(path, "its slots cannot be read"))?;
        let placed = slots.into_iter().map(place).collect::<Result<_>>()?;
        Ok(Self { source, header, placed })
    }

    /// The bytes of all parts, by name.
    fn parts(&self) -> Result<BTreeMap<&str, &[u8]>> {
        let mut parts = BTreeMap::new();
        for entry in &self.header.entries {
            parts.insert(entry.name.as_str(), self.source.bytes(entry.range.clone())?);
        }
        for (name, slot, source) in &self.placed {
            parts.insert(name.as_str(), slot.read(source)?);
        }
        Ok(parts)
    }
}

fn malformed(path: &Path, what: &str) -> Error {
    Error::malformed("store", path, what)
}

/// `None` where what the header says of slots is no such thing.
fn slots_in(header: &Header) -> Option<BTreeMap<String, Slot>> {
    header
        .metadata
        .get(SLOTS)
        .map_or_else(|| Some(BTreeMap::new()), |text| serde_json::from_str(text).ok())
}

/// Where parts lie that are not in the file itself; of a file that cannot be read, none.
pub(super) fn slots(path: &Path) -> Vec<Slot> {
    let header = Source::open(path).and_then(|source| read_header(&source)).ok();
    let slots = header.and_then(|header| slots_in(&header)).unwrap_or_default();
    slots.into_values().collect()
}

/// Where a part lies that is not in the file itself.
pub(super) fn slot(path: &Path, part: &str) -> Option<Slot> {
    let header = Source::open(path).and_then(|source| read_header(&source)).ok()?;
    slots_in(&header)?.remove(part)
}

/// Reads an encoding of this layout back.
///
/// # Errors
/// What opening says; [`Error::Malformed`] where the parts do not fit the layout, or are not those that were written.
pub(super) fn read(path: &Path, layout: &Layout, shape: MatrixShape) -> Result<Encoding> {
    let opened = Opened::new(path)?;
    let parts = opened.parts()?;
    let written = opened.header.metadata.get(CHECKSUM);
    if written.is_some_and(|written| checksum(&parts) != *written) {
        return Err(malformed(path, "its parts are not those written"));
    }
    Encoding::from_parts(layout, shape, &|name| parts.get(name).copied())
        .ok_or_else(|| malformed(path, "its parts do not fit its layout"))
}

/// Gives the bytes of a part in pieces; `false` where the file has none of that name.
pub(super) fn read_part(
    path: &Path,
    part: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let opened = Opened::new(path)?;
    let parts = opened.parts()?;
    let Some(bytes) = parts.get(part) else { return Ok(false) };
    bytes.chunks(PIECE_BYTES).try_for_each(each)?;
    Ok(true)
}

/// Of names and bytes of parts, in the order of names.
fn checksum(parts: &BTreeMap<&str, &[u8]>) -> String {
    let mut hasher = Hasher::new();
    for (name, bytes) in parts {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}
