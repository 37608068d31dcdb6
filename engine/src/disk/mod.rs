//! The only module that touches the file system. In: paths. Out: mapped sources, bounded texts, and files
//! or folders that appear whole or not at all (temporary name, fsync, rename). Never knows what a file means.

mod lock;
mod new_file;
mod new_folder;
mod syncing;
mod tree;

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::{Builder, NamedTempFile, TempDir};

pub use lock::Lock;
pub use new_file::NewFile;
pub use new_folder::{NewFolder, discard_finished, finished_for, may_become};
pub use syncing::Syncing;
pub use tree::{Found, keep_latest, list_tree, list_visible};

use crate::error::{Error, Result};

/// The most files of one checkpoint that are kept open.
const MOST_HELD: usize = 16;

/// A file mapped for reading. Opening touches no page.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    /// `None` for one of many: the map stays without it, and the file is asked about by its name.
    file: Option<File>,
    identity: Option<Identity>,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Its bytes.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Its number in the file system, where there is one.
    pub inode: Option<u64>,
}

impl Identity {
    /// `None` where the system does not say when a file was written.
    fn of(info: &std::fs::Metadata) -> Option<Self> {
        let modified = info.modified().ok()?;
        let modified_ns = match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        Some(Self { bytes: info.len(), modified_ns, inode: inode(info) })
    }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have none")]
fn inode(info: &std::fs::Metadata) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(info.ino())
}

#[cfg(not(unix))]
fn inode(_info: &std::fs::Metadata) -> Option<u64> {
    None
}

impl Source {
    /// Maps `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let info = file.metadata().map_err(Error::io("open", path))?;
        if info.is_dir() {
            return Err(Error::io("open", path)(ErrorKind::IsADirectory.into()));
        }
        let map =
            if info.len() == 0 { None } else { Some(map(&file).map_err(Error::io("map", path))?) };
        let identity = Identity::of(&info);
        Ok(Self { path: path.to_path_buf(), file: Some(file), identity, map })
    }

    /// Maps one of `count` files that are wanted together. Of many none is kept open, as a process may hold only so many.
    pub fn open_among(path: &Path, count: usize) -> Result<Self> {
        let mut source = Self::open(path)?;
        if count > MOST_HELD {
            source.file = None;
        }
        Ok(source)
    }

    /// The state of the file that was mapped.
    fn now(&self) -> std::io::Result<std::fs::Metadata> {
        if let Some(file) = &self.file {
            return file.metadata();
        }
        let info = self.path.metadata()?;
        if self.identity.is_some_and(|identity| identity.inode != inode(&info)) {
            return Err(std::io::Error::new(ErrorKind::UnexpectedEof, "another took its name"));
        }
        Ok(info)
    }

    /// The file that was mapped, if it is still as it was then; asked of the open file, so that another one
    /// which took its name does not count. `None` where it was written since, or where the system cannot say.
    pub fn identity(&self) -> Option<Identity> {
        let now = Identity::of(&self.now().ok()?);
        self.identity.filter(|_| self.identity == now)
    }

    /// Whether the file is as it was when it was opened, and its name still leads to it; also where the system cannot
    /// say.
    pub fn is_unchanged(&self) -> bool {
        let Some(opened) = self.identity else { return true };
        let held = self.now().ok().and_then(|info| Identity::of(&info));
        let named = self.path.metadata().ok().and_then(|info| Identity::of(&info));
        held == Some(opened) && named == Some(opened)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file when it was opened.
    pub fn len_bytes(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }

    /// The bytes in `range`.
    ///
    /// Touching a mapped page beyond the end of a file that has become shorter kills the process, so the
    /// length is asked first (some 0.3 µs): callers take pieces of a few MiB, and a file truncated under
    /// us is an error. What is left is a truncation within the microseconds between question and use.
    pub fn bytes(&self, range: Range<u64>) -> Result<&[u8]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        let now_bytes = self.now().map_err(Error::io("read", &self.path))?.len();
        let whole: &[u8] = self.map.as_ref().map_or(&[], |map| map);
        let end = range.end.min(whole.len() as u64);
        if now_bytes < range.end || end < range.end {
            return Err(Error::io("read", &self.path)(ErrorKind::UnexpectedEof.into()));
        }
        Ok(&whole[range.start as usize..end as usize])
    }
}

#[expect(
    unsafe_code,
    reason = "mapping a file is unsafe in every operating system; the one place that does it"
)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: The map is read-only and never handed out mutably. Another process may still change or
    // truncate the file: bytes are only ever decoded as numbers, for which every pattern is valid, and
    // `Source::bytes` asks the length before each access.
    unsafe { memmap2::Mmap::map(file) }
}

/// The text of a small file, refusing more than `limit_bytes`.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    let no_text = std::io::Error::new(ErrorKind::InvalidData, "it is no text in UTF-8");
    let bytes = read_bytes(path, limit_bytes)?;
    String::from_utf8(bytes).map_err(|_not_utf8| Error::io("read", path)(no_text))
}

/// The bytes of a small file, refusing more than `limit_bytes`.
pub fn read_bytes(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    let read =
        file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if read as u64 > limit_bytes {
        let what = format!("reading {}", path.display());
        return Err(Error::Limit { what, needed_bytes: read as u64, allowed_bytes: limit_bytes });
    }
    Ok(bytes)
}

/// The one path of a file that has several (relative, through links); `path` itself where that cannot be told.
pub fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_path_buf())
}

/// Removes a file; one that is not there any more is no failure.
pub fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder that holds nothing; one that is not there any more, or holds something, is no failure.
pub fn remove_empty_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error)
            if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) =>
        {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Marks a file as written at `time`.
pub fn touch(path: &Path, time: SystemTime) -> Result<()> {
    let file = File::options().write(true).open(path).map_err(Error::io("open", path))?;
    file.set_modified(time).map_err(Error::io("touch", path))
}

/// The plain files directly in `folder` with their sizes, sorted by name; links are followed.
pub fn list_files(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        let Ok(info) = path.metadata() else { continue };
        if let (true, Some(name)) =
            (info.is_file(), path.file_name().and_then(|name| name.to_str()))
        {
            files.push((name.to_owned(), info.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes of a file.
pub fn file_bytes(path: &Path) -> Result<u64> {
    Ok(path.metadata().map_err(Error::io("read", path))?.len())
}

/// Bytes that the disk has given to a file, which are fewer than it has where it was written in part only; its bytes where the
/// system does not say.
pub fn allocated_bytes(path: &Path) -> Result<u64> {
    let info = path.metadata().map_err(Error::io("read", path))?;
    Ok(allocated(&info).min(info.len()))
}

#[cfg(unix)]
fn allocated(info: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // A unit of its own, whatever the blocks of the disk are.
    info.blocks().saturating_mul(512)
}

#[cfg(not(unix))]
fn allocated(info: &std::fs::Metadata) -> u64 {
    info.len()
}

/// Free bytes on the disk that holds `folder` (or its nearest existing parent).
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let existing = folder.ancestors().find(|path| path.is_dir()).unwrap_or_else(|| Path::new("."));
    fs4::available_space(existing).map_err(Error::io("ask the free space of", existing))
}

/// Writes a whole file atomically: a reader sees the old one or the new one, never a part.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, bytes, true)
}

/// The same for a file whose place a person named: a folder that is not there is more likely mistyped than wanted, so
/// none is made.
///
/// # Errors
/// [`Error::Plan`] for a folder that is not there; [`Error::Io`].
pub fn write_named_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    if !folder.is_dir() {
        return Err(Error::plan(
            format!("{} cannot be saved: there is no folder {}", path.display(), folder.display()),
            "create the folder first, or save elsewhere",
        ));
    }
    write_file(path, bytes)
}

/// The same without waiting for the disk: after a power cut the file may hold anything. For what can be computed
/// again and carries a checksum.
pub fn write_expendable_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, bytes, false)
}

/// Writes a part of a file of `file_bytes` bytes that is not whole yet, at its place; makes the file with its folder where it is
/// not there. What is not written of it takes no room where the file system can do that.
pub fn write_within(path: &Path, file_bytes: u64, at: u64, bytes: &[u8]) -> Result<()> {
    let folder = parent(path);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let write = || {
        let mut file = File::options().create(true).truncate(false).write(true).open(path)?;
        if file.metadata()?.len() != file_bytes {
            file.set_len(file_bytes)?;
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    };
    write().map_err(Error::io("write", path))
}

fn replace_file(path: &Path, bytes: &[u8], sync: bool) -> Result<()> {
    let folder = parent(path);
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut temporary = NamedTempFile::new_in(folder).map_err(Error::io("write in", folder))?;
    temporary.write_all(bytes).map_err(Error::io("write", path))?;
    if sync {
        temporary.as_file().sync_all().map_err(Error::io("write", path))?;
    }
    // Temporary files are private to the user; the result has the ordinary permissions.
    open_to_others(temporary.path(), 0o644)?;
    temporary.persist(path).map_err(|error| Error::io("write", path)(error.error))?;
    Ok(())
}

#[cfg(unix)]
fn open_to_others(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(Error::io("write", path))
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path, _mode: u32) -> Result<()> {
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary folder in `parent` (the system's own place if `None`), removed when dropped.
pub fn temporary_folder(parent: Option<&Path>) -> Result<TempDir> {
    let builder = || {
        let mut builder = Builder::new();
        builder.prefix(".lapidary-store-");
        builder
    };
    match parent {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            builder().tempdir_in(folder).map_err(Error::io("write in", folder))
        }
        None => {
            builder().tempdir().map_err(Error::io("write in", Path::new("the temporary folder")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_truncated_while_open_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        write_file(&path, &vec![7; 100_000]).unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.bytes(99_000..100_000).unwrap().len(), 1000);
        File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        let error = source.bytes(0..100_000).unwrap_err();
        assert!(error.sentence().contains("shorter"), "{}", error.sentence());
    }

    #[test]
    fn a_folder_mistyped_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typo").join("plot.svg");
        let sentence = write_named_file(&path, b"<svg/>").unwrap_err().sentence();
        assert!(sentence.contains("typo") && sentence.contains("create the folder"), "{sentence}");
        assert!(!folder.path().join("typo").exists());
        write_named_file(&folder.path().join("plot.svg"), b"<svg/>").unwrap();
    }

    #[test]
    fn texts_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        write_file(&path, &[b' '; 100]).unwrap();
        assert!(matches!(read_text(&path, 99), Err(Error::Limit { .. })));
        assert_eq!(read_text(&path, 100).unwrap().len(), 100);
    }
}
