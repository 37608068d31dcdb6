//! From a person's text to sequences of token ids: texts, tokenizer, windows, and questions with options.
//! In: files, folders or pasted text, and a checkpoint's tokenizer.json. Out: ids, and how much text they cover.
//! Never runs a model.
//!
//! A text is encoded once as a whole, then cut; so what is scored does not depend on where a piece of text ends.

mod probe;
mod sequences;
mod source;
mod tokenizer;

pub use probe::{Question, read_questions};
pub use sequences::{Cut, Order, Rest, Sequence, Sequences, cut};
pub use source::{Document, Source, Texts};
pub use tokenizer::{Specials, Tokenizer};

/// A BLAKE3 hash of content, as part of the key of a result that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of parts in order; where one part ends and the next begins counts.
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Its 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Display for Fingerprint {
    /// 64 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An amount of text, for bits per character and per byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes in UTF-8.
    pub bytes: u64,
    /// Unicode scalar values.
    pub characters: u64,
}

impl std::ops::Add for Extent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, characters: self.characters + other.characters }
    }
}

impl std::iter::Sum for Extent {
    fn sum<I: Iterator<Item = Self>>(extents: I) -> Self {
        extents.fold(Self::default(), std::ops::Add::add)
    }
}

/// A token of a text, with what it covers of it: from the end of the token before to its own end. So every character
/// up to the last token is covered once; one that is several tokens is counted with the first of them that reports its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id: a row of the embedding.
    pub id: u32,
    /// The text it covers; nothing for a token that was added.
    pub covers: Extent,
}
