//! Models that lie in several GGUF files, `NAME-00001-of-00003.gguf`, as llama-gguf-split cuts them: names, and the headers
//! of all parts. In: the path of any part. Out: every part, in order. Never reads a tensor.

use std::path::{Path, PathBuf};

use crate::disk::Source;
use crate::error::{Error, Result};
use crate::format::gguf::{self, Header};

/// Number of a part, from 0 on: 16 bits without sign.
pub const NUMBER: &str = "split.no";
/// Parts in all: 16 bits without sign.
pub const COUNT: &str = "split.count";
/// Tensors in all parts: 32 bits with sign.
pub const TENSORS: &str = "split.tensors.count";

/// The most parts that are believed, and written.
pub const MAX_PARTS: u64 = 10_000;

/// What the name of a part says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName<'n> {
    /// The name of the whole.
    pub stem: &'n str,
    /// Which part, from 1 on.
    pub number: u64,
    /// Of how many.
    pub count: u64,
}

impl<'n> PartName<'n> {
    /// Reads a name; `None` for that of a whole file.
    pub fn of(name: &'n str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let both = digits(number) && digits(count);
        both.then(|| Some(Self { stem, number: number.parse().ok()?, count: count.parse().ok()? }))?
    }
}

/// The name of part `number`, from 1 on.
pub fn part_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// Every part of the file at `path`, whichever of them it is; the file alone where its name is that of a whole.
///
/// # Errors
/// [`Error::Plan`] where one is missing.
pub fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let Some(PartName { stem, count: count @ 2..=MAX_PARTS, .. }) = PartName::of(name) else {
        return Ok(vec![path.to_path_buf()]);
    };
    let folder = path.parent().unwrap_or(path);
    let file = |number| folder.join(part_name(stem, number, count as usize));
    let parts: Vec<PathBuf> = (1..=count as usize).map(file).collect();
    match parts.iter().find(|part| !part.is_file()) {
        Some(missing) => Err(Error::plan(
            format!(
                "{} is one of {count} parts, and {} is missing",
                path.display(),
                missing.display()
            ),
            "put all parts into one folder",
        )),
        None => Ok(parts),
    }
}

/// The headers of all parts of the file at `path`, with the mapped files.
///
/// # Errors
/// Those of [`parts`] and [`gguf::read_header`]; [`Error::Malformed`] for parts that do not belong together by what they
/// say themselves.
pub fn open(path: &Path) -> Result<Vec<(Source, Header)>> {
    let paths = parts(path)?;
    let mut opened = Vec::with_capacity(paths.len());
    for (at, part) in paths.iter().enumerate() {
        let source = Source::open_among(part, paths.len())?;
        let header = gguf::read_header(&source)?;
        check(part, &header, (at, paths.len()))?;
        opened.push((source, header));
    }
    let found: u64 = opened.iter().map(|(_, header)| header.tensors.len() as u64).sum();
    match opened.first().and_then(|(_, header)| header.unsigned(TENSORS)) {
        Some(said) if said != found => {
            let what = format!("{TENSORS} is {said}, and its parts hold {found} tensors");
            Err(Error::malformed("GGUF", path, what))
        }
        _ => Ok(opened),
    }
}

fn check(path: &Path, header: &Header, (at, count): (usize, usize)) -> Result<()> {
    let said = (header.unsigned(NUMBER), header.unsigned(COUNT));
    let is_one = said.1.is_none_or(|said| said == count as u64 || (said == 0 && count == 1));
    if is_one && said.0.is_none_or(|said| said == at as u64) {
        return Ok(());
    }
    let (number, of) = (said.0.unwrap_or(0), said.1.unwrap_or(1));
    let what = format!("it says it is part {number} of {of}, and its name part {at} of {count}");
    let mend = "give it back the name it was written under, beside the other parts";
    Err(Error::malformed("GGUF", path, what).mended_by(mend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_read_as_they_are_written() {
        let name = part_name("a-b", 2, 13);
        assert_eq!(name, "a-b-00002-of-00013.gguf");
        assert_eq!(PartName::of(&name), Some(PartName { stem: "a-b", number: 2, count: 13 }));
        for whole in ["a.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "a-0000x-of-00002.gguf"] {
            assert_eq!(PartName::of(whole), None, "{whole}");
        }
    }
}
