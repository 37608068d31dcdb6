//! GGUF files written: version 3, little-endian, metadata and tensors in the order given, data aligned to 32 bytes or to
//! what a file that is written anew was aligned to.

use std::ops::Range;

use crate::disk::NewFile;
use crate::error::{Error, Result};
use crate::format::gguf::BlockType;

const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
/// What tensors begin at multiples of, as nothing else is said.
pub const ALIGNMENT: u64 = 32;
/// The longest name of a tensor that ggml keeps, without the zero behind it.
pub const MAX_NAME_BYTES: usize = 63;

/// A value of the metadata to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum NewValue {
    /// 16 bits without sign.
    U16(u16),
    /// 32 bits without sign.
    U32(u32),
    /// 32 bits with sign.
    I32(i32),
    /// 64 bits without sign.
    U64(u64),
    /// 32 bits with a fraction.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of numbers of 32 bits with sign.
    I32s(Vec<i32>),
    /// A list of numbers of 32 bits with a fraction.
    F32s(Vec<f32>),
}

/// Key-value pairs as they stand in a file, in the order they were added.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Keys, and where each pair lies in the bytes.
    places: Vec<(String, Range<usize>)>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pairs").field("count", &self.places.len()).finish_non_exhaustive()
    }
}

impl Pairs {
    /// Adds a key with its value.
    pub fn push(&mut self, key: &str, value: &NewValue) {
        let begin = self.bytes.len();
        write_text(key, &mut self.bytes);
        write_value(value, &mut self.bytes);
        self.places.push((key.to_owned(), begin..self.bytes.len()));
    }

    /// Adds a pair as it stands in another file: key, type and value.
    pub fn push_bytes(&mut self, key: &str, pair: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(pair);
        self.places.push((key.to_owned(), begin..self.bytes.len()));
    }

    /// Adds all pairs of another.
    pub fn append(&mut self, other: &Self) {
        other.iter().for_each(|(key, pair)| self.push_bytes(key, pair));
    }

    /// Each pair as it stands in the file, by its key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.places.iter().map(|(key, place)| (key.as_str(), &self.bytes[place.clone()]))
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.places.iter().any(|(known, _)| known == key)
    }

    /// The same pairs with another value of a key, in its place, or behind them where there is none.
    #[must_use]
    pub fn with(&self, key: &str, value: &NewValue) -> Self {
        let mut all = Self::default();
        for (known, pair) in self.iter() {
            if known == key {
                all.push(key, value);
            } else {
                all.push_bytes(known, pair);
            }
        }
        if !all.has(key) {
            all.push(key, value);
        }
        all
    }

    /// The pairs whose keys are wanted.
    #[must_use]
    pub fn only(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut some = Self::default();
        let wanted = self.iter().filter(|(key, _)| is_wanted(key));
        wanted.for_each(|(key, pair)| some.push_bytes(key, pair));
        some
    }
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its extents, inputs first.
    pub extents: Vec<u64>,
    /// Number of its type, see [`BlockType::of`].
    pub kind: u32,
}

/// A file about to be written: its tensors, and its header to the byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufPlan {
    metadata: Pairs,
    tensors: Vec<(NewTensor, u64)>,
    header: Vec<u8>,
    data_bytes: u64,
    alignment: u64,
}

impl GgufPlan {
    /// Lays out the header.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tensors without 1 to 4 extents, of a type that is not known, of rows that are no
    /// whole blocks, of a name that is longer than 63 bytes or appears twice.
    pub fn new(metadata: &[(&str, NewValue)], tensors: Vec<NewTensor>) -> Result<Self> {
        let mut pairs = Pairs::default();
        for (key, value) in metadata {
            pairs.push(key, value);
        }
        Self::of(&pairs, tensors)
    }

    /// Lays out the header with pairs that are written already.
    ///
    /// # Errors
    /// Those of [`GgufPlan::new`].
    pub fn of(metadata: &Pairs, tensors: Vec<NewTensor>) -> Result<Self> {
        Self::aligned_to(ALIGNMENT, metadata, tensors)
    }

    /// The same with tensors at multiples of `alignment`, which the pairs must say unless it is 32.
    ///
    /// # Errors
    /// Those of [`GgufPlan::new`].
    pub fn aligned_to(alignment: u64, metadata: &Pairs, tensors: Vec<NewTensor>) -> Result<Self> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.places.len() as u64).to_le_bytes());
        header.extend_from_slice(&metadata.bytes);
        let mut names = std::collections::BTreeSet::new();
        let (mut laid_out, mut at) = (Vec::new(), 0_u64);
        for tensor in tensors {
            let bytes = tensor.bytes().ok_or_else(|| unsupported(&tensor, "its shape or type"))?;
            if tensor.name.len() > MAX_NAME_BYTES || !names.insert(tensor.name.clone()) {
                return Err(unsupported(&tensor, "its name, which is too long or appears twice,"));
            }
            write_text(&tensor.name, &mut header);
            header.extend((tensor.extents.len() as u32).to_le_bytes());
            tensor.extents.iter().for_each(|extent| header.extend(extent.to_le_bytes()));
            header.extend(tensor.kind.to_le_bytes());
            header.extend(at.to_le_bytes());
            at += bytes.next_multiple_of(alignment);
            laid_out.push((tensor, bytes));
        }
        let aligned = header.len().next_multiple_of(alignment as usize);
        header.resize(aligned, 0);
        let metadata = metadata.clone();
        Ok(Self { metadata, tensors: laid_out, header, data_bytes: at, alignment })
    }

    /// The same file with more pairs, in place of those whose keys begin with `instead_of`.
    ///
    /// # Errors
    /// Those of [`GgufPlan::new`].
    pub fn with(&self, more: &Pairs, instead_of: &str) -> Result<Self> {
        let mut metadata = self.metadata.only(|key| !key.starts_with(instead_of));
        metadata.append(more);
        let tensors = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        Self::aligned_to(self.alignment, &metadata, tensors)
    }

    /// What its tensors begin at multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Its key-value pairs.
    pub fn metadata(&self) -> &Pairs {
        &self.metadata
    }

    /// Bytes of a header of these pairs and no tensor, before it is filled up.
    pub fn header_bytes(metadata: &Pairs) -> u64 {
        // The magic word, the version, two counts.
        4 + 4 + 8 + 8 + Self::pairs_bytes(metadata)
    }

    /// Bytes of pairs within a header.
    pub fn pairs_bytes(metadata: &Pairs) -> u64 {
        metadata.bytes.len() as u64
    }

    /// Bytes filled up to where something may begin, where nothing else is said.
    pub fn aligned(bytes: u64) -> u64 {
        bytes.next_multiple_of(ALIGNMENT)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// Its tensors with the bytes of each, padding apart, in the order they follow one another.
    pub fn tensors(&self) -> &[(NewTensor, u64)] {
        &self.tensors
    }

    /// Magic word to the last padding before the tensors.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where each tensor begins in the file, in the order they follow one another.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        let first = self.header.len() as u64;
        self.tensors.iter().scan(first, |at, (_, bytes)| {
            let own = *at;
            *at += bytes.next_multiple_of(self.alignment);
            Some(own)
        })
    }

    /// Writes header and tensors; `data(tensor, write)` passes the bytes of each in turn to `write`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Shape`] where the bytes of a tensor are not as many as it needs, those of `data`.
    pub fn write(
        &self,
        file: NewFile,
        data: impl FnMut(&NewTensor, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        self.write_around(file, |_, _| Ok(false), data)
    }

    /// The same over a file in which some tensors lie already: those of which `is_there(tensor, at)` says so, where `at` is
    /// where they begin.
    ///
    /// # Errors
    /// Those of [`GgufPlan::write`] and of `is_there`.
    pub fn write_around(
        &self,
        mut file: NewFile,
        mut is_there: impl FnMut(&NewTensor, u64) -> Result<bool>,
        mut data: impl FnMut(&NewTensor, &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        file.write(&self.header)?;
        for (tensor, bytes) in &self.tensors {
            let before = file.written_bytes();
            if is_there(tensor, before)? {
                file.skip(*bytes)?;
            } else {
                data(tensor, &mut |bytes| file.write(bytes))?;
            }
            let written = file.written_bytes() - before;
            if written != *bytes {
                return Err(Error::Shape {
                    tensor: tensor.name.clone(),
                    expected: format!("{bytes} bytes for {:?}", tensor.extents),
                    found: vec![written as usize],
                });
            }
            let padding = bytes.next_multiple_of(self.alignment) - bytes;
            file.write(&vec![0; padding as usize])?;
        }
        file.finish()
    }
}

impl NewTensor {
    /// A tensor of f32.
    pub fn f32(name: impl Into<String>, extents: &[u64]) -> Self {
        Self { name: name.into(), extents: extents.to_vec(), kind: 0 }
    }

    /// Bytes that a header says of it.
    pub fn info_bytes(&self) -> u64 {
        // Name and its length, the number of extents, each, the type, the place.
        8 + self.name.len() as u64 + 4 + 8 * self.extents.len() as u64 + 4 + 8
    }

    /// Bytes of its data; `None` where they cannot be counted.
    fn bytes(&self) -> Option<u64> {
        let block = BlockType::of(self.kind)?;
        if !(1..=4).contains(&self.extents.len()) || !self.extents[0].is_multiple_of(block.elements)
        {
            return None;
        }
        let elements =
            self.extents.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
        (elements? / block.elements).checked_mul(block.bytes).filter(|&bytes| bytes < 1 << 62)
    }
}

fn unsupported(tensor: &NewTensor, what: &str) -> Error {
    let NewTensor { name, extents, kind } = tensor;
    Error::Unsupported {
        what: format!("tensor {name} of {extents:?}, type {kind}, in GGUF: {what}"),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// What comes before the elements of a list.
fn begin_list(kind: u32, count: usize, out: &mut Vec<u8>) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

fn write_value(value: &NewValue, out: &mut Vec<u8>) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        NewValue::U16(value) => {
            kind(2);
            out.extend(value.to_le_bytes());
        }
        NewValue::I32(value) => {
            kind(5);
            out.extend(value.to_le_bytes());
        }
        NewValue::U32(value) => {
            kind(4);
            out.extend(value.to_le_bytes());
        }
        NewValue::F32(value) => {
            kind(6);
            out.extend(value.to_le_bytes());
        }
        NewValue::Bool(value) => {
            kind(7);
            out.push(u8::from(*value));
        }
        NewValue::Text(value) => {
            kind(8);
            write_text(value, out);
        }
        NewValue::Texts(values) => {
            begin_list(8, values.len(), out);
            for value in values {
                write_text(value, out);
            }
        }
        NewValue::I32s(values) => {
            begin_list(5, values.len(), out);
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::F32s(values) => {
            begin_list(6, values.len(), out);
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        NewValue::U64(value) => {
            kind(10);
            out.extend(value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Source;
    use crate::format::gguf::{Value, read_header};

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let tensors = vec![NewTensor::f32("one", &[3]), NewTensor::f32("two", &[2, 5])];
        let metadata = [
            ("general.type", NewValue::Text("imatrix".to_owned())),
            ("a.u32", NewValue::U32(7)),
            ("a.u64", NewValue::U64(u64::MAX)),
            ("a.u16", NewValue::U16(60_000)),
            ("a.i32", NewValue::I32(-3)),
            ("a.f32", NewValue::F32(0.5)),
            ("a.bool", NewValue::Bool(true)),
            ("a.texts", NewValue::Texts(vec!["x".to_owned(), String::new()])),
        ];
        let plan = GgufPlan::new(&metadata, tensors).unwrap();
        let write = |tensor: &NewTensor, write: &mut dyn FnMut(&[u8]) -> Result<()>| {
            write(&vec![tensor.name.len() as u8; tensor.bytes().unwrap() as usize])
        };
        plan.write(NewFile::replacing(&path).unwrap(), write).unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.len_bytes(), plan.file_bytes());
        let header = read_header(&source).unwrap();
        assert_eq!(header.text("general.type"), Some("imatrix"));
        assert_eq!(header.unsigned("a.u64"), Some(u64::MAX));
        assert_eq!(header.unsigned("a.u16"), Some(60_000));
        assert_eq!(header.metadata["a.i32"], Value::Signed(-3));
        let bytes: u64 = plan.tensors().iter().map(|(tensor, _)| tensor.info_bytes()).sum();
        let header_bytes = GgufPlan::header_bytes(plan.metadata()) + bytes;
        assert_eq!(header.data, GgufPlan::aligned(header_bytes));
        assert_eq!(header.metadata["a.f32"], Value::Float(0.5));
        assert_eq!(header.metadata["a.bool"], Value::Bool(true));
        assert!(matches!(&header.metadata["a.texts"], Value::Array(list) if list.count == 2));
        assert_eq!(header.tensors[1].extents, [2, 5]);
        assert_eq!(header.tensors[1].offset, 32);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let refused = |tensors: Vec<NewTensor>| GgufPlan::new(&[], tensors).unwrap_err().sentence();
        assert!(refused(vec![NewTensor::f32("a", &[])]).contains("tensor a"));
        assert!(refused(vec![NewTensor::f32("a", &[1]); 2]).contains("twice"));
        assert!(refused(vec![NewTensor::f32("a".repeat(64), &[1])]).contains("too long"));
        refused(vec![NewTensor { name: "a".to_owned(), extents: vec![5], kind: 2 }]);
        refused(vec![NewTensor::f32("a", &[u64::MAX, 3])]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let plan = GgufPlan::new(&[], vec![NewTensor::f32("a", &[2])]).unwrap();
        let failed = plan.write(NewFile::replacing(&path).unwrap(), |_, write| write(&[0; 4]));
        assert!(matches!(failed, Err(Error::Shape { .. })) && !path.exists());
    }
}
