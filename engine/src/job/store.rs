//! Finished tensors on disk: one small safetensors file each, in a temporary folder that vanishes with the store,
//! or in one that outlives it.

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

/// Where the files lie.
#[derive(Debug)]
enum Place {
    Temporary(TempDir),
    /// A folder with the name of the file of each tensor.
    Kept(PathBuf, HashMap<usize, String>),
}

/// What is remembered of a stored tensor.
#[derive(Clone, Debug)]
struct Stored {
    layout: Layout,
    shape: MatrixShape,
}

/// Finished encodings by tensor index.
#[derive(Debug)]
pub struct Store {
    place: Place,
    stored: Mutex<HashMap<usize, Stored>>,
}

impl Store {
    pub(super) fn create(scratch: Option<&Path>) -> Result<Self> {
        let place = Place::Temporary(disk::temporary_folder(scratch)?);
        Ok(Self { place, stored: Mutex::default() })
    }

    /// A store in a folder that is not removed with it, and the name of each tensor's file there.
    pub(super) fn kept(folder: &Path, names: HashMap<usize, String>) -> Self {
        let place = Place::Kept(folder.to_path_buf(), names);
        Self { place, stored: Mutex::default() }
    }

    /// Takes over what the folder holds of a tensor, if it is whole.
    pub(super) fn take_over(&self, tensor: usize, layout: Layout, shape: MatrixShape) -> bool {
        let is_whole = encoded::read(&self.path(tensor), &layout, shape).is_ok();
        if is_whole {
            let stored = Stored { layout, shape };
            self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(tensor, stored);
        }
        is_whole
    }

    fn path(&self, tensor: usize) -> PathBuf {
        match &self.place {
            Place::Temporary(folder) => folder.path().join(format!("{tensor}.safetensors")),
            Place::Kept(folder, names) => folder.join(names.get(&tensor).map_or("", |name| name)),
        }
    }

    /// Writes the encoding of a tensor.
    pub(super) fn put(&self, tensor: usize, encoding: &Encoding) -> Result<()> {
        let path = self.path(tensor);
        match &self.place {
            Place::Temporary(_) => encoded::write(NewFile::create(&path)?, encoding, false)?,
            Place::Kept(..) => encoded::write(NewFile::replacing(&path)?, encoding, true)?,
        }
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
