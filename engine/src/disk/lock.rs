//! Locks between processes, which end with the process however it ends.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};

/// A lock on a file of its own, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for as long as it lives")] File);

impl Lock {
    /// Takes the lock; `None` where another process holds it.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(path);
        let file = file.map_err(Error::io("create", path))?;
        Ok(file.try_lock().is_ok().then_some(Self(file)))
    }
}
