//! SHA-256 of files, as Hugging Face shows it and `sha256sum` prints it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rayon::ThreadPoolBuilder;
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::disk::{NewFolder, Source};
use crate::error::{Error, Result};
use crate::export::report::{self, FileReport, Report};
use crate::observer::{Observer, Progress, Unit};
use crate::target::Manifest;

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// Files to be hashed, with where they lie.
type Files = [(FileReport, PathBuf)];

/// The hashes of an export: of the files it read, and of those it wrote.
pub(super) struct Hashes {
    sources: Vec<String>,
    files: Vec<String>,
}

impl Hashes {
    /// Puts each into the report, which names the same files in the same order.
    pub(super) fn fill(self, report: &mut Report) {
        let hashes = self.sources.into_iter().chain(self.files);
        for (file, hash) in report.sources.iter_mut().chain(&mut report.files).zip(hashes) {
            file.sha256 = hash;
        }
    }
}

/// The files of an output that is being made.
pub(super) fn written(manifest: &Manifest, folder: &NewFolder) -> Vec<(FileReport, PathBuf)> {
    let path = |file: FileReport| {
        let path = folder.path().join(&file.name);
        (file, path)
    };
    report::files(manifest).into_iter().map(path).collect()
}

/// Does `main`, which makes an output of a source, and hashes the source meanwhile. `main` gives the hashes of the files.
pub(super) fn beside<T>(
    (checkpoint, manifest, folder): (&Checkpoint, &Manifest, &NewFolder),
    main: impl FnOnce(&Hashing<'_>) -> Result<(T, Vec<String>)>,
    observer: &dyn Observer,
) -> Result<(T, Hashes)> {
    let sources = report::sources(checkpoint).zip(checkpoint.files());
    let sources: Vec<_> =
        sources.map(|(report, file)| (report, file.path().to_path_buf())).collect();
    let ((made, files), sources) =
        beside_files((&sources, &written(manifest, folder)), main, observer)?;
    Ok((made, Hashes { sources, files }))
}

/// Does `main`, and hashes the source meanwhile: a file goes through one core alone, while other work waits for the disk.
/// `main` is given what hashes the `files` it writes. Hashing is heard of only when nothing else is left to do, and stops where
/// `main` fails. Cost: reading all once.
fn beside_files<T>(
    (sources, files): (&Files, &Files),
    main: impl FnOnce(&Hashing<'_>) -> Result<T>,
    observer: &dyn Observer,
) -> Result<(T, Vec<String>)> {
    let hashing = Hashing::new(sources.iter().chain(files), BESIDE, observer);
    let threads = rayon::current_num_threads().min(sources.len()).max(1);
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| {
        Error::io("start threads to hash", Path::new("the source"))(std::io::Error::other(error))
    })?;
    std::thread::scope(|scope| {
        let hashed = scope.spawn(|| pool.install(|| hashing.of(sources)));
        let made = main(&hashing);
        hashing.set(if made.is_ok() { ALONE } else { FAILED });
        let hashed = hashed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((made?, hashed?))
    })
}

/// Other work goes on; that is done; it failed.
const BESIDE: u8 = 0;
const ALONE: u8 = 1;
const FAILED: u8 = 2;

/// A sentence for each of these files of a folder whose hash is not the one reported; those without one are left out.
/// Cost: reading them once.
pub(super) fn different(
    folder: &Path,
    files: &[&FileReport],
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let files = files.iter().filter(|file| !file.sha256.is_empty());
    let files: Vec<_> = files.map(|&file| (file.clone(), folder.join(&file.name))).collect();
    let hashing = Hashing::new(&files, ALONE, observer);
    let pairs = files.iter().zip(hashing.of(&files)?);
    let differs = pairs.filter(|((file, _), hash)| file.sha256 != *hash);
    Ok(differs
        .map(|((file, _), hash)| {
            let FileReport { name, sha256, .. } = file;
            format!(
                "the file {name} was changed: its SHA-256 is {hash}, and the report says {sha256}"
            )
        })
        .collect())
}

/// Files being hashed, beside other work or alone.
pub(super) struct Hashing<'a> {
    observer: &'a dyn Observer,
    /// What has become of the other work, which is what the person hears of until it is done.
    state: AtomicU8,
    /// Bytes that are done, and of all.
    done: AtomicU64,
    total: u64,
}

impl<'a> Hashing<'a> {
    fn new<'f>(
        files: impl IntoIterator<Item = &'f (FileReport, PathBuf)>,
        state: u8,
        observer: &'a dyn Observer,
    ) -> Self {
        let total = files.into_iter().map(|(file, _)| file.bytes).sum();
        Self { observer, state: AtomicU8::new(state), done: AtomicU64::new(0), total }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    /// Does the last of the other work, and hashes `files` meanwhile.
    pub(super) fn beside_last<T: Send>(
        &self,
        files: &Files,
        last: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(T, Vec<String>)> {
        let last = || last().inspect(|_| self.set(ALONE)).inspect_err(|_error| self.set(FAILED));
        let (done, hashes) = rayon::join(last, || self.of(files));
        Ok((done?, hashes?))
    }

    fn go_on(&self) -> Result<()> {
        match self.state.load(Ordering::Relaxed) {
            FAILED => Err(Error::Cancelled),
            _ => self.observer.go_on(),
        }
    }

    /// The hashes of files, several at once.
    fn of(&self, files: &Files) -> Result<Vec<String>> {
        let hash = |(file, path): &(FileReport, PathBuf)| {
            let each = |bytes: u64| {
                self.go_on()?;
                let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if self.state.load(Ordering::Relaxed) == ALONE {
                    let (item, total) = (file.name.clone(), self.total);
                    let (stage, unit) = ("Hashing", Unit::Bytes);
                    self.observer.progress(Progress { stage, item, done, total, unit });
                }
                Ok(())
            };
            sha256(path, &each)
        };
        files.par_iter().map(hash).collect()
    }
}

/// The hash of a file in hexadecimal; `each` is told the bytes of every piece.
fn sha256(path: &Path, each: &dyn Fn(u64) -> Result<()>) -> Result<String> {
    let source = Source::open(path)?;
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < source.len_bytes() {
        let end = source.len_bytes().min(at + PIECE_BYTES);
        hasher.update(source.bytes(at..end)?);
        each(end - at)?;
        at = end;
    }
    Ok(hexadecimal(&hasher.finalize()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::write_file;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let hash = |bytes: &[u8]| {
            write_file(&path, bytes).unwrap();
            sha256(&path, &|_| Ok(())).unwrap()
        };
        // FIPS 180-2, appendix B.1 and B.3, and the empty message.
        let (none, abc, million) = (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        );
        assert_eq!([hash(b""), hash(b"abc"), hash(&vec![b'a'; 1_000_000])], [none, abc, million]);
        // More than one piece.
        let whole = hash(&vec![b'a'; 9_000_000]);
        assert_eq!(whole, hexadecimal(&Sha256::digest(vec![b'a'; 9_000_000])));
    }

    fn file(folder: &Path, name: &str, bytes: &[u8]) -> (FileReport, PathBuf) {
        let path = folder.join(name);
        write_file(&path, bytes).expect("a file");
        let bytes = bytes.len() as u64;
        (FileReport { name: name.to_owned(), bytes, sha256: String::new() }, path)
    }

    /// Counts what is heard of.
    #[derive(Default)]
    struct Heard(AtomicU64);

    impl Observer for Heard {
        fn progress(&self, _progress: Progress) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn files_are_hashed_beside_what_writes_and_proves_them() {
        let folder = tempfile::tempdir().unwrap();
        let source = [file(folder.path(), "source", b"abc")];
        let out = [file(folder.path(), "out", b"")];
        let main = |hashing: &Hashing<'_>| {
            write_file(&out[0].1, b"abc")?;
            hashing.beside_last(&out, || Ok(7))
        };
        let ((made, files), sources) =
            beside_files((&source, &out), main, &Heard::default()).unwrap();
        let abc = hexadecimal(&Sha256::digest(b"abc"));
        assert_eq!((made, sources, files), (7, vec![abc.clone()], vec![abc]));
    }

    #[test]
    fn hashing_stops_where_the_work_beside_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let source = [file(folder.path(), "source", &vec![1; 20 * PIECE_BYTES as usize])];
        let heard = Heard::default();
        let failing = || Err::<(), _>(Error::Unsupported { what: "this".to_owned() });
        let failed = beside_files((&source, &[]), |_| failing(), &heard).err().unwrap();
        assert!(matches!(failed, Error::Unsupported { .. }), "{failed}");
        let last = |hashing: &Hashing<'_>| hashing.beside_last(&source, failing);
        let failed = beside_files((&source, &[]), last, &heard).err().unwrap();
        assert!(matches!(failed, Error::Unsupported { .. }), "{failed}");
        assert_eq!(heard.0.into_inner(), 0);
    }
}
