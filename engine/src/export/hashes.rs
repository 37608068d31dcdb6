//! SHA-256 of files, as Hugging Face shows it and `sha256sum` prints it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};
use sha2::{Digest as _, Sha256};

use crate::disk::Source;
use crate::error::Result;
use crate::export::report::{FileReport, Report};
use crate::observer::{Observer, Progress, Unit};

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// Fills in the hashes of the source's files and of the output's, several files at once. Cost: reading both once.
pub(super) fn fill(
    report: &mut Report,
    (source, output): (&dyn Fn(&str) -> PathBuf, &Path),
    observer: &dyn Observer,
) -> Result<()> {
    let sources = report.sources.iter().map(|file| (file, source(&file.name)));
    let files = sources.chain(report.files.iter().map(|file| (file, output.join(&file.name))));
    let hashes = of(&files.collect::<Vec<_>>(), observer)?;
    for (file, hash) in report.sources.iter_mut().chain(&mut report.files).zip(hashes) {
        file.sha256 = hash;
    }
    Ok(())
}

/// A sentence for each of these files of a folder whose hash is not the one reported; those without one are left out.
/// Cost: reading them once.
pub(super) fn different(
    folder: &Path,
    files: &[&FileReport],
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let files = files.iter().filter(|file| !file.sha256.is_empty());
    let files: Vec<_> = files.map(|&file| (file, folder.join(&file.name))).collect();
    let pairs = files.iter().zip(of(&files, observer)?);
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

/// The hashes of files, several at once.
fn of(files: &[(&FileReport, PathBuf)], observer: &dyn Observer) -> Result<Vec<String>> {
    let total: u64 = files.iter().map(|(file, _)| file.bytes).sum();
    let done = AtomicU64::new(0);
    let hash = |(file, path): &(&FileReport, PathBuf)| {
        let each = |bytes: u64| {
            observer.go_on()?;
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let item = file.name.clone();
            observer.progress(Progress { stage: "Hashing", item, done, total, unit: Unit::Bytes });
            Ok(())
        };
        sha256(path, &each)
    };
    files.par_iter().map(hash).collect()
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
}
