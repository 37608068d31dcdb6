//! Texts a person hands over: a file, a folder, JSON lines, or what was pasted. In: a path or a string.
//! Out: documents in UTF-8, as they are (line ends too). Never guesses an encoding.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Extent, Fingerprint};
use crate::disk;
use crate::error::{Error, Result};
use crate::observer::Observer;

/// The largest document: encoding takes some 50 times its bytes of memory.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;
/// The most text of all documents.
const MAX_TEXT_BYTES: u64 = 256 << 20;
/// Endings of the files that are read from a folder; JSON lines besides.
const TEXT_ENDINGS: [&str; 5] = ["txt", "text", "md", "markdown", "rst"];
const JSON_LINES_ENDINGS: [&str; 2] = ["jsonl", "ndjson"];
/// The field of JSON lines that is read unless told otherwise.
const DEFAULT_FIELD: &str = "text";

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A text file, a file of JSON lines, or a folder of both and of folders, hidden ones left out.
    Path {
        /// The file or folder.
        path: PathBuf,
        /// The field of JSON lines that holds the text; `text` if `None`.
        field: Option<String>,
    },
    /// Text typed or pasted.
    Pasted {
        /// What to call it.
        name: String,
        /// The text.
        text: String,
    },
}

/// One text, encoded as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its file, within the folder if it was one, with the line in JSON lines: `stories.jsonl:12`.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// At least one document, none of them blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    documents: Vec<Document>,
}

impl Texts {
    /// The documents: those of a folder by path, those of JSON lines by line.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Of the texts in their order; names play no part. Cost: hashing all bytes, some GB/s.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.documents.iter().map(|document| document.text.as_bytes()))
    }

    /// How much text there is.
    pub fn extent(&self) -> Extent {
        let extent = |document: &Document| Extent {
            bytes: document.text.len() as u64,
            characters: document.text.chars().count() as u64,
        };
        self.documents.iter().map(extent).sum()
    }
}

impl Source {
    /// A file or folder, JSON lines with the usual field.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path { path: path.into(), field: None }
    }

    /// Text typed or pasted.
    pub fn pasted(text: impl Into<String>) -> Self {
        Self::Pasted { name: "pasted text".to_owned(), text: text.into() }
    }

    /// Reads it all. Blank documents are left out.
    ///
    /// # Errors
    /// [`Error::Plan`] for no text, for more than 16 MiB a document or 256 MiB in all, for a field that is not there;
    /// [`Error::Malformed`] for what is not text in UTF-8 or not JSON; [`Error::Io`]; [`Error::Cancelled`].
    pub fn read(&self, observer: &dyn Observer) -> Result<Texts> {
        let mut reading = Reading { documents: Vec::new(), bytes: 0, observer };
        let from = match self {
            Self::Path { path, field } => {
                let field = field.as_deref().unwrap_or(DEFAULT_FIELD);
                if path.is_dir() {
                    reading.folder(path, field)
                } else {
                    reading.file(path, path, field)
                }?;
                path.display().to_string()
            }
            Self::Pasted { name, text } => {
                reading.add(name.clone(), text.clone())?;
                format!("the {name}")
            }
        };
        if reading.documents.is_empty() {
            return Err(Error::plan(
                format!("{from} holds no text"),
                "give a text file, JSON lines, or a folder of .txt, .md or .jsonl files",
            ));
        }
        Ok(Texts { documents: reading.documents })
    }
}

/// Documents read so far.
struct Reading<'a> {
    documents: Vec<Document>,
    bytes: u64,
    observer: &'a dyn Observer,
}

impl Reading<'_> {
    fn add(&mut self, name: String, text: String) -> Result<()> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let bytes = text.len() as u64;
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(too_large(&name, "one text", MAX_DOCUMENT_BYTES));
        }
        self.bytes += bytes;
        if self.bytes > MAX_TEXT_BYTES {
            return Err(too_large(
                &format!("the text up to {name}"),
                "all texts together",
                MAX_TEXT_BYTES,
            ));
        }
        self.documents.push(Document { name, text });
        Ok(())
    }

    fn folder(&mut self, folder: &Path, field: &str) -> Result<()> {
        let is_text =
            |path: &Path| ends_in(path, &TEXT_ENDINGS) || ends_in(path, &JSON_LINES_ENDINGS);
        for found in disk::list_visible(folder, &|| self.observer.go_on())? {
            if is_text(&found.path) {
                let name = found.path.strip_prefix(folder).unwrap_or(&found.path);
                self.file(&found.path, name, field)?;
            }
        }
        Ok(())
    }

    /// Reads a file that messages call by its path and documents by `name`.
    fn file(&mut self, path: &Path, name: &Path, field: &str) -> Result<()> {
        self.observer.go_on()?;
        let is_lines = ends_in(path, &JSON_LINES_ENDINGS);
        let limit = if is_lines { MAX_TEXT_BYTES } else { MAX_DOCUMENT_BYTES };
        let text = read_utf8(path, limit)?;
        let name =
            name.file_name().filter(|_| name == path).map_or(name, Path::new).display().to_string();
        if !is_lines {
            return self.add(name, text);
        }
        for_each_line(path, &text, self.observer, &mut |line, mut fields| {
            let Some(Value::String(text)) = fields.remove(field) else {
                return Err(no_field(path, line, field, &fields));
            };
            self.add(format!("{name}:{line}"), text)
        })
    }
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

fn too_large(what: &str, which: &str, limit_bytes: u64) -> Error {
    let mebibytes = limit_bytes >> 20;
    Error::plan(
        format!("{what} is larger than the {mebibytes} MiB that {which} may have"),
        "keep a part of it, or split it into several files",
    )
}

fn no_field(path: &Path, line: usize, field: &str, others: &Map<String, Value>) -> Error {
    let mut names: Vec<String> = others.keys().take(8).map(|name| format!("\"{name}\"")).collect();
    names.sort();
    let has = if names.is_empty() { "nothing else".to_owned() } else { names.join(", ") };
    Error::plan(
        format!(
            "line {line} of {} has no text in a field \"{field}\" (it has {has})",
            path.display()
        ),
        "name the field that holds the text",
    )
}

/// A whole file as text; a byte order mark of UTF-8 at its beginning is left out.
///
/// # Errors
/// [`Error::Plan`] beyond `limit_bytes`, [`Error::Malformed`] for what is not text in UTF-8, [`Error::Io`].
pub(super) fn read_utf8(path: &Path, limit_bytes: u64) -> Result<String> {
    if disk::file_bytes(path)? > limit_bytes {
        return Err(too_large(&path.display().to_string(), "one file", limit_bytes));
    }
    let bytes = disk::read_bytes(path, limit_bytes)?;
    let bad = |what: String| {
        Error::malformed("text", path, what)
            .mended_by("save it as plain text in UTF-8, or choose another file")
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(bad("it is in UTF-16".to_owned()));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(bad(format!("byte {at} is zero, as in no text: it looks like a binary file")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        bad(format!("byte {at}, in line {line}, is not UTF-8"))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(after) => after.to_owned(),
        None => text,
    })
}

/// Hands every line that is not blank to `each`, with its number from 1, as a JSON object.
///
/// # Errors
/// [`Error::Malformed`] naming the line that is no JSON object; what `each` says; [`Error::Cancelled`].
pub(super) fn for_each_line(
    path: &Path,
    text: &str,
    observer: &dyn Observer,
    each: &mut dyn FnMut(usize, Map<String, Value>) -> Result<()>,
) -> Result<()> {
    let bad = |line: usize, what: String| {
        Error::malformed("JSON lines", path, format!("line {line} {what}"))
            .mended_by("write one JSON object on each line")
    };
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        observer.go_on()?;
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => each(at + 1, fields)?,
            Ok(_) => return Err(bad(at + 1, "is not an object".to_owned())),
            Err(error) => return Err(bad(at + 1, format!("is not JSON: {error}"))),
        }
    }
    Ok(())
}
