//! Finished tensors on disk: one small safetensors file each, in a temporary folder that vanishes with the store,
//! or in one that outlives it; there, parts may lie in files of the output instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use crate::disk::{self, NewFile};
use crate::encoding::{Dense, Encoding, Layout};
use crate::error::{Error, Result};
use crate::job::Encodings;
use crate::job::encoded;
use crate::job::slots::{Slot, Slots};
use crate::tensor::{DType, MatrixShape};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Held {
    /// The encoding of a tensor.
    Tensor(usize),
    /// By what its outputs are divided.
    Divisors(usize),
}

/// Where the files lie.
#[derive(Debug)]
enum Place {
    Temporary(TempDir),
    /// A folder with the name of each file, and where parts belong instead.
    Kept(PathBuf, HashMap<Held, String>, Slots),
}

/// What is remembered of a stored tensor.
#[derive(Clone, Debug)]
struct Stored {
    layout: Layout,
    shape: MatrixShape,
}

/// Finished encodings by tensor index, and divisors that were searched for them.
#[derive(Debug)]
pub struct Store {
    place: Place,
    stored: Mutex<HashMap<Held, Stored>>,
}

impl Store {
    pub(super) fn create(scratch: Option<&Path>) -> Result<Self> {
        let place = Place::Temporary(disk::temporary_folder(scratch)?);
        Ok(Self { place, stored: Mutex::default() })
    }

    /// A store in a folder that is not removed with it, the name of each file there, and where parts belong instead.
    pub(super) fn kept(folder: &Path, names: HashMap<Held, String>, slots: Slots) -> Self {
        let place = Place::Kept(folder.to_path_buf(), names, slots);
        Self { place, stored: Mutex::default() }
    }

    /// Takes over what the folder holds of a tensor, if it is whole.
    pub(super) fn take_over(&self, tensor: usize, layout: Layout, shape: MatrixShape) -> bool {
        self.take_over_held(Held::Tensor(tensor), layout, shape)
    }

    /// Takes over by what the `n` outputs of a tensor were divided, if that is whole.
    pub(super) fn take_over_divided(&self, tensor: usize, n: usize) -> bool {
        let shape = MatrixShape { rows: 1, cols: n };
        self.take_over_held(Held::Divisors(tensor), Layout::Dense(DType::F32), shape)
    }

    fn take_over_held(&self, held: Held, layout: Layout, shape: MatrixShape) -> bool {
        let is_whole = encoded::read(&self.path(held), &layout, shape).is_ok();
        if is_whole {
            self.remember(held, Stored { layout, shape });
        }
        is_whole
    }

    fn remember(&self, held: Held, stored: Stored) {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).insert(held, stored);
    }

    fn find(&self, held: Held) -> Option<Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).get(&held).cloned()
    }

    fn path(&self, held: Held) -> PathBuf {
        match (&self.place, held) {
            (Place::Temporary(folder), Held::Tensor(tensor)) => {
                folder.path().join(format!("{tensor}.safetensors"))
            }
            (Place::Temporary(folder), Held::Divisors(tensor)) => {
                folder.path().join(format!("{tensor}-divisors.safetensors"))
            }
            (Place::Kept(folder, names, _), held) => {
                folder.join(names.get(&held).map_or("", |name| name))
            }
        }
    }

    /// Writes the encoding of a tensor.
    pub(super) fn put(&self, tensor: usize, encoding: &Encoding) -> Result<()> {
        self.put_held(Held::Tensor(tensor), encoding)
    }

    /// Writes by what the outputs of a tensor are divided.
    pub(super) fn put_divided(&self, tensor: usize, by: &[f32]) -> Result<()> {
        let shape = MatrixShape { rows: 1, cols: by.len() };
        self.put_held(Held::Divisors(tensor), &Encoding::Dense(Dense::new(shape, DType::F32, by)))
    }

    fn put_held(&self, held: Held, encoding: &Encoding) -> Result<()> {
        let path = self.path(held);
        match &self.place {
            Place::Temporary(_) => {
                encoded::write(NewFile::create(&path)?.passing(), encoding, false)?;
            }
            // Taken over only where its hash says that it is whole.
            Place::Kept(_, _, slots) => {
                let slot = |part: &str| match held {
                    Held::Tensor(tensor) => slots.get(tensor, part),
                    Held::Divisors(_) => None,
                };
                encoded::write_into(&path, encoding, &slot)?;
            }
        }
        self.remember(held, Stored { layout: encoding.layout(), shape: encoding.shape() });
        Ok(())
    }

    /// Whether a tensor is stored; the others are kept as they are.
    pub fn has(&self, tensor: usize) -> bool {
        self.find(Held::Tensor(tensor)).is_some()
    }

    /// Reads the encoding of a tensor back.
    ///
    /// # Errors
    /// [`Error::Io`] for a tensor that is not stored; what reading says.
    pub fn get(&self, tensor: usize) -> Result<Encoding> {
        self.get_held(Held::Tensor(tensor))
    }

    fn get_held(&self, held: Held) -> Result<Encoding> {
        let path = self.path(held);
        let stored = self.find(held);
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

    fn stored_part(
        &self,
        tensor: usize,
        part: &str,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        let held = Held::Tensor(tensor);
        Ok(self.find(held).is_some() && encoded::read_part(&self.path(held), part, each)?)
    }

    fn slot(&self, tensor: usize, part: &str) -> Option<Slot> {
        encoded::slot(&self.path(Held::Tensor(tensor)), part)
    }

    fn divided(&self, tensor: usize) -> Result<Option<Vec<f32>>> {
        let held = Held::Divisors(tensor);
        if self.find(held).is_none() {
            return Ok(None);
        }
        Ok(Some(self.get_held(held)?.decode().into_raw_vec_and_offset().0))
    }
}
