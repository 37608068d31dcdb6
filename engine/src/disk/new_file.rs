//! Files written piece by piece.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::disk::{open_to_others, parent};
use crate::error::{Error, Result};

/// A file being written in a [`NewFolder`](crate::disk::NewFolder), in a store, or in place of another.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    writer: BufWriter<File>,
    written_bytes: u64,
    /// Where it lies until it is finished, if not in its place.
    temporary: Option<TempPath>,
    /// Whether the disk must have it before it gets its name.
    is_lasting: bool,
}

impl NewFile {
    /// Begins a file; an existing one is an error.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).map_err(Error::io("write", path))?;
        Ok(Self::new(path, file, None))
    }

    /// Begins a file that stays as it is where it is not finished; an existing one is an error. Makes the folder.
    pub fn within(path: &Path) -> Result<Self> {
        let folder = parent(path);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Self::create(path)
    }

    /// Goes on with such a file behind its first `bytes` bytes; what follows them is cut off.
    pub fn behind(path: &Path, bytes: u64) -> Result<Self> {
        let mut file = File::options().write(true).open(path).map_err(Error::io("write", path))?;
        file.set_len(bytes).map_err(Error::io("write", path))?;
        file.seek(SeekFrom::Start(bytes)).map_err(Error::io("write", path))?;
        Ok(Self { written_bytes: bytes, ..Self::new(path, file, None) })
    }

    /// Begins a file over one that is there: what is skipped of it stays.
    pub fn over(path: &Path) -> Result<Self> {
        let file = File::options().write(true).open(path).map_err(Error::io("write", path))?;
        Ok(Self::new(path, file, None))
    }

    /// Begins a file under a temporary name that takes its place, and that of a file which is there, only when it
    /// is finished; dropped before, it vanishes. Makes the folder.
    pub fn replacing(path: &Path) -> Result<Self> {
        let folder = parent(path);
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let temporary = NamedTempFile::new_in(folder).map_err(Error::io("write in", folder))?;
        let (file, temporary) = temporary.into_parts();
        Ok(Self::new(path, file, Some(temporary)))
    }

    fn new(path: &Path, file: File, temporary: Option<TempPath>) -> Self {
        let writer = BufWriter::with_capacity(1 << 20, file);
        Self { path: path.to_path_buf(), writer, written_bytes: 0, temporary, is_lasting: true }
    }

    /// The same for a file that may be lost with the power: whoever reads it later looks whether it is whole.
    pub fn passing(self) -> Self {
        Self { is_lasting: false, ..self }
    }

    pub(super) fn writer(&mut self) -> &mut impl std::io::Write {
        &mut self.writer
    }

    /// Appends `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Leaves `bytes` bytes as they are there.
    pub fn skip(&mut self, bytes: u64) -> Result<()> {
        let behind = SeekFrom::Start(self.written_bytes.saturating_add(bytes));
        self.written_bytes = self.writer.seek(behind).map_err(Error::io("write", &self.path))?;
        Ok(())
    }

    /// Bytes written so far, and skipped.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Flushes everything to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.writer.flush().map_err(Error::io("write", &self.path))?;
        self.writer.get_ref().sync_all().map_err(Error::io("write", &self.path))
    }

    /// Flushes everything to the disk, of a passing file to the system, and gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        if self.is_lasting {
            self.sync()?;
        } else {
            self.writer.flush().map_err(Error::io("write", &self.path))?;
        }
        if let Some(temporary) = self.temporary {
            // Temporary files are private to the user; the result has the ordinary permissions.
            open_to_others(&temporary, 0o644)?;
            temporary
                .persist(&self.path)
                .map_err(|error| Error::io("write", &self.path)(error.error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_bytes;

    #[test]
    fn a_file_takes_the_place_of_another_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("file");
        let write = |text: &[u8], finish: bool| {
            let mut file = NewFile::replacing(&path).unwrap();
            file.write(text).unwrap();
            assert_eq!(file.written_bytes(), text.len() as u64);
            if finish {
                file.finish().unwrap();
            }
        };
        write(b"one", true);
        write(b"two", false);
        assert_eq!(read_bytes(&path, 100).unwrap(), b"one");
        write(b"three", true);
        assert_eq!(read_bytes(&path, 100).unwrap(), b"three");
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }
}
