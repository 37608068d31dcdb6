//! Locks between processes, which end with the process however it ends.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::disk::Identity;
use crate::error::{Error, Result};

/// A lock on a file of its own, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for as long as it lives")] File);

impl Lock {
    /// Takes the lock; `None` where another process holds it. Where the file system knows no locks, everybody gets it.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be made or locked.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        loop {
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true).open(path);
            let file = file.map_err(Error::io("create", path))?;
            match file.try_lock() {
                Err(TryLockError::Error(error)) if !are_unknown(&error) => {
                    return Err(Error::io("lock", path)(error));
                }
                Err(TryLockError::WouldBlock) => return Ok(None),
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Whoever held it may have removed the file in between; then the next one locks another.
            if is_at(&file, path) {
                return Ok(Some(Self(file)));
            }
        }
    }
}

/// Whether an error says that there are no locks: a file system that has none, or one on a network without their server.
fn are_unknown(error: &std::io::Error) -> bool {
    const NO_LOCKS: i32 = if cfg!(target_os = "linux") { 37 } else { 77 };
    error.kind() == std::io::ErrorKind::Unsupported
        || cfg!(unix) && error.raw_os_error() == Some(NO_LOCKS)
}

/// Whether an open file is still the one of that name, as far as the system says.
fn is_at(file: &File, path: &Path) -> bool {
    let inode = |info: std::fs::Metadata| Identity::of(&info).and_then(|of| of.inode);
    match (file.metadata(), path.metadata()) {
        (Ok(held), Ok(named)) => inode(held) == inode(named),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path).unwrap();
        assert!(first.is_some());
        assert!(Lock::take(&path).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        let second = Lock::take(&path).unwrap();
        assert!(second.is_some(), "a file that was removed locks nobody out");
        drop(first);
        assert!(Lock::take(&path).unwrap().is_none());
        drop(second);
        assert!(Lock::take(&path).unwrap().is_some());
    }
}
