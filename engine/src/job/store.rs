//! Finished tensors on disk: one small safetensors file each, in a temporary folder that vanishes with the store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::disk::{self, NewFile};
use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::job::Encodings;
use crate::job::encoded;
use crate::tensor::MatrixShape;

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
        encoded::write(NewFile::create(&self.path(tensor))?, encoding, false)?;
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
        encoded::read(&path, &stored.layout, stored.shape)
    }
}

impl Encodings for Store {
    fn has(&self, tensor: usize) -> bool {
        Self::has(self, tensor)
    }

    fn encoding(&self, tensor: usize) -> Result<Arc<Encoding>> {
        self.get(tensor).map(Arc::new)
    }
}
