//! Finished tensors on disk: one small safetensors file each, in a temporary folder that vanishes with the store.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::disk::{self, NewFile, Source};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Spec, read_header};
use crate::tensor::{MatrixShape, Shape};

/// What is remembered of a stored tensor.
#[derive(Clone, Debug)]
struct Stored {
    layout: Layout,
    shape: MatrixShape,
}

/// Finished encodings by tensor index.
#[derive(Debug)]
pub struct Store {
    folder: TempDir,
    stored: Mutex<HashMap<usize, Stored>>,
}

impl Store {
    pub(super) fn create(scratch: Option<&Path>) -> Result<Self> {
        Ok(Self { folder: disk::temporary_folder(scratch)?, stored: Mutex::default() })
    }

    fn path(&self, tensor: usize) -> PathBuf {
        self.folder.path().join(format!("{tensor}.safetensors"))
    }

    /// Writes the encoding of a tensor.
    pub(super) fn put(&self, tensor: usize, encoding: &Encoding) -> Result<()> {
        let parts = encoding.parts();
        let spec = |part: &crate::encoding::Part| Spec {
            name: part.name.to_owned(),
            dtype: part.dtype,
            shape: Shape(vec![part.bytes.len() * 8 / part.dtype.bits() as usize]),
        };
        let plan = FilePlan::new(parts.iter().map(spec).collect(), &BTreeMap::new())?;
        let path = self.path(tensor);
        plan.write(NewFile::create(&path)?, |spec, write| {
            match parts.iter().find(|part| part.name == spec.name) {
                Some(part) => write(&part.bytes),
                None => Ok(()),
            }
        })?;
        let stored = Stored { layout: encoding.layout(), shape: encoding.shape() };
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(tensor, stored);
        Ok(())
    }

    /// Whether a tensor is stored; the others are kept as they are.
    pub fn has(&self, tensor: usize) -> bool {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&tensor)
    }

    /// Reads the encoding of a tensor back.
    pub fn get(&self, tensor: usize) -> Result<Encoding> {
        let path = self.path(tensor);
        let stored =
            self.stored.lock().unwrap_or_else(PoisonError::into_inner).get(&tensor).cloned();
        let stored =
            stored.ok_or_else(|| Error::io("find", &path)(std::io::ErrorKind::NotFound.into()))?;
        let source = Source::open(&path)?;
        let header = read_header(&source)?;
        let part = |name: &str| {
            let entry = header.entries.iter().find(|entry| entry.name == name)?;
            source.bytes(entry.range.clone()).ok()
        };
        Encoding::from_parts(&stored.layout, stored.shape, &part)
            .ok_or_else(|| Error::malformed("store", &path, "its parts do not fit its layout"))
    }
}
