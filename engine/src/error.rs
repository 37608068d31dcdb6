//! The one error type of the engine: variants by whose fault it is, advice apart from the message.
//! Messages name file, tensor and cause; [`Error::sentence`] adds the mend. Never printed here.

use std::path::{Path, PathBuf};

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The world: a file could not be read, written, mapped or renamed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file: its bytes are not what its format says.
    #[error("{} is not a valid {format} file: {what}", path.display())]
    Malformed {
        /// The format's name.
        format: &'static str,
        /// The file.
        path: PathBuf,
        /// The defect, naming the tensor or field.
        what: String,
        /// What to do, where that is not to get the file anew.
        mend: Option<&'static str>,
    },
    /// Us: valid, but beyond what this program does.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for, naming the tensor or file.
        what: String,
    },
    /// The file does not fit together: a shape is not what its place demands.
    #[error("tensor {tensor} has shape {found:?} where {expected} is needed")]
    Shape {
        /// The tensor.
        tensor: String,
        /// What was needed, in words.
        expected: String,
        /// What is there.
        found: Vec<usize>,
    },
    /// The machine: more memory or disk would be needed than is allowed or there.
    #[error("{what} needs {needed_bytes} bytes, {allowed_bytes} are available")]
    Limit {
        /// What needs it.
        what: String,
        /// How much.
        needed_bytes: u64,
        /// How much may be used.
        allowed_bytes: u64,
    },
    /// The values: arithmetic on them makes no sense.
    #[error("tensor {tensor}: {why}")]
    Numeric {
        /// The tensor.
        tensor: String,
        /// Why, with the count.
        why: String,
    },
    /// The user's wish cannot be carried out as written.
    #[error("{what}")]
    Plan {
        /// What is wrong, naming the layer and the parameter.
        what: String,
        /// What to do instead.
        mend: String,
    },
    /// An output is already there.
    #[error("{} already exists", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The proof failed: what was written does not decode to what was computed.
    #[error("the proof of {} failed: {what}", path.display())]
    Proof {
        /// The output file or folder.
        path: PathBuf,
        /// The first difference.
        what: String,
    },
    /// An output is not what it should be.
    #[error("{} is not proved: {what}", path.display())]
    Unproved {
        /// The output file or folder.
        path: PathBuf,
        /// The first fault, and how many there are.
        what: String,
    },
    /// The user changed their mind.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] builder for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Malformed`].
    pub fn malformed(format: &'static str, path: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { format, path: path.to_path_buf(), what: what.into(), mend: None }
    }

    /// The same error with another mend, where it is [`Error::Malformed`].
    #[must_use]
    pub fn mended_by(mut self, better: &'static str) -> Self {
        if let Self::Malformed { mend, .. } = &mut self {
            *mend = Some(better);
        }
        self
    }

    /// An [`Error::Plan`].
    pub fn plan(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Plan { what: what.into(), mend: mend.into() }
    }

    /// What the user can do about it, if anything can be said.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => "check the path",
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a folder you may write to, or change its permissions"
                }
                std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge => {
                    "free some space or choose another disk; nothing half-written was left"
                }
                std::io::ErrorKind::UnexpectedEof => {
                    "the file became shorter while it was open: restore it and open it again"
                }
                _ => return None,
            },
            Self::Malformed { mend: Some(mend), .. } => mend,
            Self::Malformed { .. } => {
                "download or save the file again, or check it against its source"
            }
            Self::Unsupported { .. } => {
                "convert it to a safetensors file of F32, F16 or BF16 first"
            }
            Self::Shape { .. } => "check that config.json belongs to these weights",
            Self::Limit { .. } => "raise the limit or free some, then try again",
            Self::Numeric { .. } => "keep this tensor as it is, or repair the checkpoint",
            Self::Plan { mend, .. } => return Some(mend.clone()),
            Self::Exists { .. } => "choose another place, or allow replacing it (--force)",
            Self::Proof { .. } => "nothing was kept; please report this with the project file",
            Self::Unproved { .. } => {
                "check that the source is the one it was made from, or write it again"
            }
            Self::Cancelled => return None,
        };
        Some(hint.to_owned())
    }

    /// Message and mend as one sentence, for a person.
    pub fn sentence(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}; {hint}"),
            None => self.to_string(),
        }
    }

    /// Whether the input or the wish was at fault, rather than the machine or this program.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Malformed { .. }
            | Self::Unsupported { .. }
            | Self::Shape { .. }
            | Self::Numeric { .. }
            | Self::Plan { .. }
            | Self::Exists { .. } => true,
            Self::Limit { .. } | Self::Proof { .. } | Self::Unproved { .. } | Self::Cancelled => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each variant: the match below fails to compile when one is added and not listed.
    fn every_variant() -> Vec<Error> {
        let path = PathBuf::from("m/model.safetensors");
        vec![
            Error::Io {
                action: "read",
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            },
            Error::malformed("safetensors", &path, "tensor a ends beyond the file"),
            Error::malformed("config.json", &path, "it is no object").mended_by("repair it"),
            Error::Unsupported { what: "dtype F4 of tensor a".to_owned() },
            Error::Shape {
                tensor: "a".to_owned(),
                expected: "[2, 3]".to_owned(),
                found: vec![3, 2],
            },
            Error::Limit { what: "tensor a".to_owned(), needed_bytes: 2, allowed_bytes: 1 },
            Error::Numeric { tensor: "a".to_owned(), why: "3 values are NaN".to_owned() },
            Error::plan("the plan names layer b, which the checkpoint does not have", "remove it"),
            Error::Exists { path: path.clone() },
            Error::Proof { path: path.clone(), what: "tensor a differs".to_owned() },
            Error::Unproved { path, what: "tensor a is missing".to_owned() },
            Error::Cancelled,
        ]
    }

    #[test]
    fn every_message_is_one_line_without_a_full_stop() {
        for error in every_variant() {
            let sentence = error.sentence();
            assert!(!sentence.contains('\n'), "{sentence}");
            assert!(!sentence.ends_with('.'), "{sentence}");
            assert!(
                matches!(error, Error::Cancelled) || error.hint().is_some(),
                "no mend: {sentence}"
            );
        }
    }
}
