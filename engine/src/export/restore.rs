//! Squeezed files as they were: read chunk by chunk, and believed only when the hash of all is the one they name.

use std::path::Path;

use blake3::Hasher;
use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::disk::{self, NewFolder, Source};
use crate::error::{Error, Result};
use crate::export::squeeze::{Base, Squeezed, pieces};
use crate::export::{Destination, forecast};
use crate::format::safetensors::{Entry, MAX_HEADER_BYTES, parse_header};
use crate::format::squeezed::{LIST, MAGIC, SUFFIX, is_against_base, restore};
use crate::observer::{Observer, Progress, Unit};

/// The largest list that is read.
const MAX_LIST_BYTES: u64 = 16 << 20;
/// Chunks that are restored side by side.
const BATCH: usize = 16;

/// Whether a folder holds squeezed files.
pub fn is_squeezed(path: &Path) -> bool {
    path.join(LIST).is_file()
}

/// A squeezed file, read from front to back.
struct Reader<'a> {
    source: &'a Source,
    at: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: u64) -> Result<&'a [u8]> {
        let end = self.at.checked_add(bytes).filter(|&end| end <= self.source.len_bytes());
        let end = end.ok_or_else(|| bad(self.source.path(), "it ends too early"))?;
        let taken = self.source.bytes(self.at..end)?;
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<u64> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::malformed("squeezed safetensors", path, what)
}

/// What takes the bytes of the original, and what is told of each chunk its tensor and bytes.
type Listeners<'l> = (&'l mut dyn FnMut(&[u8]) -> Result<()>, &'l dyn Fn(&str, u64) -> Result<()>);

/// Passes the original file to `write`, piece by piece; gives its hash, which is the one that the squeezed file names.
fn read(source: &Source, base: Option<&Base>, (write, each): Listeners<'_>) -> Result<String> {
    let path = source.path();
    let mut reader = Reader { source, at: 0 };
    if reader.take(MAGIC.len() as u64)? != MAGIC {
        return Err(bad(path, "it does not begin as one"));
    }
    let file_bytes = reader.number::<8>()?;
    let header_bytes = reader.number::<8>()?;
    if header_bytes > MAX_HEADER_BYTES || header_bytes + 8 > file_bytes {
        return Err(bad(
            path,
            format!("a header of {header_bytes} bytes in {file_bytes} cannot be"),
        ));
    }
    let text = reader.take(header_bytes)?;
    let header = parse_header(path, text, header_bytes + 8..file_bytes)?;
    let mut hasher = Hasher::new();
    let mut pass = |bytes: &[u8]| {
        hasher.update(bytes);
        write(bytes)
    };
    pass(&header_bytes.to_le_bytes())?;
    pass(text)?;
    for entry in &header.entries {
        tensor(&mut reader, entry, base, (&mut pass, each))?;
    }
    let named = reader.take(blake3::OUT_LEN as u64)?;
    if reader.at != source.len_bytes() {
        return Err(bad(path, "something follows its end"));
    }
    if hasher.finalize().as_bytes() != named {
        return Err(bad(path, "what it holds is not what was squeezed")
            .mended_by("copy it again, or name the base it was squeezed against with --base"));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn tensor(
    reader: &mut Reader<'_>,
    entry: &Entry,
    base: Option<&Base>,
    (pass, each): Listeners<'_>,
) -> Result<()> {
    let path = reader.source.path();
    // A header may speak of any number of bytes: pieces are told one after another, as chunks are found for them.
    let mut all = pieces(entry).peekable();
    while all.peek().is_some() {
        let mut chunks = Vec::with_capacity(BATCH);
        for piece in all.by_ref().take(BATCH) {
            let bytes = reader.number::<4>()?;
            chunks.push((piece, reader.take(bytes)?));
        }
        let one = |(piece, chunk): &(std::ops::Range<u64>, &[u8])| {
            let against = if is_against_base(chunk) {
                let found = base.map(|base| base.bytes(entry, piece.clone())).transpose()?;
                Some(found.flatten().ok_or_else(|| no_base(path, &entry.name))?)
            } else {
                None
            };
            let n = (piece.end - piece.start) as usize;
            restore(entry.dtype, chunk, n, against)
                .ok_or_else(|| bad(path, format!("a chunk of tensor {} is damaged", entry.name)))
        };
        for bytes in chunks.par_iter().map(one).collect::<Result<Vec<_>>>()? {
            pass(&bytes)?;
            each(&entry.name, bytes.len() as u64)?;
        }
    }
    Ok(())
}

fn no_base(path: &Path, tensor: &str) -> Error {
    Error::plan(
        format!("tensor {tensor} of {} was squeezed against that of a base", path.display()),
        "name the base with --base",
    )
}

/// Restores a file that was just written, to nowhere.
///
/// # Errors
/// [`Error::Proof`] where it does not come back as what has that hash.
pub(super) fn prove(
    path: &Path,
    base: Option<&Base>,
    blake3: &str,
    observer: &dyn Observer,
) -> Result<()> {
    let source = Source::open(path)?;
    let go_on = |_: &str, _: u64| observer.go_on();
    let found = match read(&source, base, (&mut |_: &[u8]| Ok(()), &go_on)) {
        Err(Error::Malformed { what, .. }) => Err(what),
        other => Ok(other?),
    };
    if found.as_deref() == Ok(blake3) {
        return Ok(());
    }
    let what = found.err().unwrap_or_else(|| "it holds something else".to_owned());
    Err(Error::Proof { path: path.to_path_buf(), what })
}

/// The list of a squeezed folder, each file of which is there.
///
/// # Errors
/// [`Error::Malformed`] for a list that is not understood, or names what is not there; [`Error::Io`].
pub fn squeezed_list(path: &Path) -> Result<Squeezed> {
    let list_path = path.join(LIST);
    let text = disk::read_text(&list_path, MAX_LIST_BYTES)?;
    let list: Squeezed = serde_json::from_str(&text)
        .map_err(|error| bad(&list_path, format!("the list is not understood ({error})")))?;
    // Names that lie in the folder lead nowhere else.
    let there = disk::list_files(path)?;
    for file in &list.files {
        let name = format!("{}{SUFFIX}", file.name);
        if !there.iter().any(|(there, _)| *there == name) {
            return Err(bad(&list_path, format!("the list names {name}, which is not there")));
        }
    }
    Ok(list)
}

/// The list of a squeezed folder, and the base that it needs.
fn opened(path: &Path, base: Option<&Path>) -> Result<(Squeezed, Option<Base>)> {
    let list = squeezed_list(path)?;
    match (&list.base, base) {
        (Some(base), None) => Err(Error::plan(
            format!("{} was squeezed against {base}", path.display()),
            "name that checkpoint with --base",
        )),
        _ => Ok((list, base.map(Base::open).transpose()?)),
    }
}

/// Makes the files of a squeezed folder again, to the bit, and copies the others. `base` is what they were squeezed against,
/// where they were.
///
/// # Errors
/// [`Error::Malformed`] for files that are damaged, cut, or another's; [`Error::Plan`] without the base; those of reading and writing.
pub fn unsqueeze(
    path: &Path,
    base: Option<&Path>,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Squeezed> {
    let (list, base) = opened(path, base)?;
    let folder = NewFolder::create(destination.folder, destination.replace, LIST)?;
    let total = list.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    forecast::room(destination, total, 0, 0)?;
    let done = std::cell::Cell::new(0_u64);
    let each = |name: &str, bytes: u64| {
        observer.go_on()?;
        done.set(done.get().saturating_add(bytes));
        let (item, done, unit) = (name.to_owned(), done.get(), Unit::Bytes);
        observer.progress(Progress { stage: "Restoring", item, done, total, unit });
        Ok(())
    };
    for file in &list.files {
        let source = Source::open(&path.join(format!("{}{SUFFIX}", file.name)))?;
        let mut new = folder.file(&file.name)?;
        let mut write = |bytes: &[u8]| new.write(bytes);
        if read(&source, base.as_ref(), (&mut write, &each))? != file.blake3 {
            return Err(bad(source.path(), "it is not the file that the list names"));
        }
        new.finish()?;
    }
    for (name, _) in disk::list_files(path)? {
        if name != LIST && !name.ends_with(SUFFIX) {
            folder.copy(&path.join(name))?;
        }
    }
    folder.finish()?;
    Ok(list)
}
