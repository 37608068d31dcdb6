//! An encoding as a small safetensors file, part by part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use blake3::Hasher;

use crate::disk::{NewFile, Source};
use crate::encoding::{Encoding, Layout, Part};
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Spec, read_header};
use crate::tensor::{MatrixShape, Shape};

/// The entry of the header that holds the hash of the parts, where there is one.
const CHECKSUM: &str = "checksum";

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
    let spec = |part: &Part<'_>| Spec {
        name: part.name.clone(),
        dtype: part.dtype,
        shape: Shape(vec![part.bytes.len() * 8 / part.dtype.bits() as usize]),
    };
    let specs: Vec<Spec> = parts.iter().map(spec).collect();
    let find = |name: &str| parts.iter().find(|part| part.name == name);
    let bytes_of = |spec: &Spec| find(&spec.name).map_or(&[][..], |part| &*part.bytes);
    let mut metadata = BTreeMap::new();
    if is_kept {
        let laid_out = FilePlan::new(specs.clone(), &metadata)?;
        let parts = laid_out.specs.iter().map(|spec| (spec.name.as_str(), bytes_of(spec)));
        metadata.insert(CHECKSUM.to_owned(), checksum(parts));
    }
    FilePlan::new(specs, &metadata)?.write(file, |spec, write| write(bytes_of(spec)))
}

/// Reads an encoding of this layout back.
///
/// # Errors
/// What opening says; [`Error::Malformed`] where the parts do not fit the layout, or are not those that were written.
pub(super) fn read(path: &Path, layout: &Layout, shape: MatrixShape) -> Result<Encoding> {
    let source = Source::open(path)?;
    let header = read_header(&source)?;
    if let Some(written) = header.metadata.get(CHECKSUM) {
        let mut parts = Vec::with_capacity(header.entries.len());
        for entry in &header.entries {
            parts.push((entry, source.bytes(entry.range.clone())?));
        }
        parts.sort_by_key(|(entry, _)| entry.range.start);
        let found = checksum(parts.iter().map(|(entry, bytes)| (entry.name.as_str(), *bytes)));
        if found != *written {
            return Err(Error::malformed("store", path, "its parts are not those written"));
        }
    }
    let part = |name: &str| {
        let entry = header.entries.iter().find(|entry| entry.name == name)?;
        source.bytes(entry.range.clone()).ok()
    };
    Encoding::from_parts(layout, shape, &part)
        .ok_or_else(|| Error::malformed("store", path, "its parts do not fit its layout"))
}

/// Gives the bytes of a part in pieces; `false` where the file has none of that name.
pub(super) fn read_part(
    path: &Path,
    part: &str,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<bool> {
    let source = Source::open(path)?;
    let header = read_header(&source)?;
    let Some(entry) = header.entries.iter().find(|entry| entry.name == part) else {
        return Ok(false);
    };
    let end = entry.range.end;
    for at in entry.range.clone().step_by(PIECE_BYTES) {
        each(source.bytes(at..end.min(at + PIECE_BYTES as u64))?)?;
    }
    Ok(true)
}

/// Of names and bytes of parts, in the order of the file.
fn checksum<'a>(parts: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hasher = Hasher::new();
    for (name, bytes) in parts {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hasher.finalize().to_hex().to_string()
}
