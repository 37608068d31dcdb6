//! The records of one block as a safetensors file, and their Gram matrices as another.
//!
//! `<layer>` is the first tensor of a record. Of the statistics: `<layer>.mean`, `.mean_square`, `.absmax`,
//! `.kurtosis` (F32, `[channels]`), `.not_finite` (U64, `[channels]`), `.convergence` (F64, `[points, 2]`: tokens,
//! change) and `.whole` (F64: values, NaN, infinite, mean, rms, absmax, kurtosis, median magnitude, massive,
//! outliers). Of the Gram matrices: `<layer>.gram` (F32, `[channels·(channels + 1)/2]`: the lower triangle of
//! Σ x·xᵀ, row by row). The header's metadata hold the key, the records as JSON, and checksums; what does not agree
//! with them reads as absent.

use std::collections::BTreeMap;
use std::path::Path;

use blake3::Hasher;
use serde::{Deserialize, Serialize};

use crate::calibration::Record;
use crate::disk::{NewFile, Source};
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Header, Spec, read_header};
use crate::numeric::channels::{Convergence, Inputs, Whole};
use crate::numeric::gram::Gram;
use crate::tensor::{DType, Decoder, Shape};

/// Bytes hashed or decoded at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Numbers in `.whole`.
const WHOLE: usize = 10;

/// A record but for its numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Outline {
    layers: Vec<String>,
    tokens: u64,
    routed_of: Option<u64>,
}

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, (Spec, Vec<u8>)>;

/// Writes the statistics of `records`, whole or not at all.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unsupported`] for a record without a layer, or two of one layer.
pub(super) fn write_statistics(path: &Path, key: &str, records: &[Record]) -> Result<()> {
    let mut tensors = Tensors::new();
    for record in records {
        let layer = first_layer(record)?;
        let before = tensors.len();
        let fields = fields(&record.inputs);
        let count = fields.len();
        for (field, dtype, shape, bytes) in fields {
            let name = format!("{layer}.{field}");
            let spec = Spec { name: name.clone(), dtype, shape: Shape(shape) };
            tensors.insert(name, (spec, bytes));
        }
        if tensors.len() != before + count {
            return Err(Error::Unsupported {
                what: format!("two calibrations of {layer} at once"),
            });
        }
    }
    let outline = |record: &Record| Outline {
        layers: record.layers.clone(),
        tokens: record.inputs.tokens,
        routed_of: record.routed_of,
    };
    let outlines: Vec<Outline> = records.iter().map(outline).collect();
    let outlines = serde_json::to_string(&outlines)
        .map_err(|error| Error::Unsupported { what: format!("keeping a calibration ({error})") })?;
    write(path, key, &outlines, &tensors)
}

/// The first layer of a record.
fn first_layer(record: &Record) -> Result<&str> {
    let none = || Error::Unsupported { what: "a calibration of no layer".to_owned() };
    record.layers.first().map(String::as_str).ok_or_else(none)
}

/// Field, type, shape and bytes.
type Field = (&'static str, DType, Vec<usize>, Vec<u8>);

fn fields(inputs: &Inputs) -> Vec<Field> {
    let f32s = |name, values: &[f32]| {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name, DType::F32, vec![values.len()], bytes)
    };
    let counts = inputs.not_finite.iter().flat_map(|count| count.to_le_bytes()).collect();
    let points = inputs.convergence.iter();
    let points: Vec<f64> = points.flat_map(|point| [point.tokens as f64, point.change]).collect();
    let f64s = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    vec![
        f32s("mean", &inputs.mean),
        f32s("mean_square", &inputs.mean_square),
        f32s("absmax", &inputs.absmax),
        f32s("kurtosis", &inputs.kurtosis),
        ("not_finite", DType::U64, vec![inputs.not_finite.len()], counts),
        ("convergence", DType::F64, vec![points.len() / 2, 2], f64s(&points)),
        ("whole", DType::F64, vec![WHOLE], f64s(&numbers(&inputs.whole))),
    ]
}

fn numbers(whole: &Whole) -> [f64; WHOLE] {
    [
        whole.values as f64,
        whole.nan as f64,
        whole.infinite as f64,
        whole.mean,
        whole.rms,
        f64::from(whole.absmax),
        whole.kurtosis,
        whole.median_magnitude,
        whole.massive as f64,
        whole.outliers as f64,
    ]
}

fn whole_of(numbers: [f64; WHOLE]) -> Whole {
    let [values, nan, infinite, mean, rms, absmax, kurtosis, median_magnitude, massive, outliers] =
        numbers;
    Whole {
        values: values as u64,
        nan: nan as u64,
        infinite: infinite as u64,
        mean,
        rms,
        absmax: absmax as f32,
        kurtosis,
        median_magnitude,
        massive: massive as u64,
        outliers: outliers as u64,
    }
}

/// Writes tensors with a text and a checksum of all.
pub(super) fn write(path: &Path, key: &str, text: &str, tensors: &Tensors) -> Result<()> {
    let specs = tensors.values().map(|(spec, _)| spec.clone()).collect();
    let order = FilePlan::new(specs, &BTreeMap::new())?.specs;
    let mut checksum = begin(key, text);
    // Tensors of no bytes begin where another does, so that a reader cannot tell their order: they stay out.
    for spec in &order {
        if let Some((_, bytes)) = tensors.get(&spec.name).filter(|(_, bytes)| !bytes.is_empty()) {
            add_name(&mut checksum, &spec.name);
            checksum.update(bytes);
        }
    }
    let metadata = metadata(key, text, &checksum);
    FilePlan::new(order, &metadata)?.write(NewFile::replacing(path)?, |spec, write| {
        tensors.get(&spec.name).map_or(Ok(()), |(_, bytes)| write(bytes))
    })
}

/// The header's metadata.
pub(super) fn metadata(key: &str, text: &str, checksum: &Hasher) -> BTreeMap<String, String> {
    let pairs = [
        ("lapidary.calibration", "1"),
        ("key", key),
        ("text", text),
        ("checksum", checksum.finalize().to_hex().as_str()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    pairs.into()
}

/// A checksum of everything but the tensors.
pub(super) fn begin(key: &str, text: &str) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(b"lapidary calibration 1\0");
    add_name(&mut hasher, key);
    add_name(&mut hasher, text);
    hasher
}

/// Adds a text with its length, so that no two sequences read alike.
pub(super) fn add_name(hasher: &mut Hasher, name: &str) {
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
}

/// An opened file of ours.
pub(super) struct Opened {
    source: Source,
    header: Header,
}

impl Opened {
    /// Opens a file and holds its checksum against it; `None` for whatever is not whole, or another's.
    pub(super) fn checked(path: &Path, key: &str) -> Option<Self> {
        let opened = Self::open(path, key)?;
        let mut checksum = begin(key, opened.text()?);
        for entry in opened.header.entries.iter().filter(|entry| !entry.range.is_empty()) {
            add_name(&mut checksum, &entry.name);
            let mut at = entry.range.start;
            while at < entry.range.end {
                let end = (at + PIECE_BYTES).min(entry.range.end);
                checksum.update(opened.source.bytes(at..end).ok()?);
                at = end;
            }
        }
        let written = opened.header.metadata.get("checksum")?;
        (checksum.finalize().to_hex().as_str() == written).then_some(opened)
    }

    /// The same without looking at the tensors.
    pub(super) fn open(path: &Path, key: &str) -> Option<Self> {
        let source = Source::open(path).ok()?;
        let header = read_header(&source).ok()?;
        (header.metadata.get("key")? == key).then_some(Self { source, header })
    }

    /// The text of the header.
    pub(super) fn text(&self) -> Option<&str> {
        self.header.metadata.get("text").map(String::as_str)
    }

    /// Number of tensors.
    pub(super) fn tensors(&self) -> usize {
        self.header.entries.len()
    }

    /// Shape and bytes of a tensor.
    pub(super) fn tensor(&self, name: &str, dtype: DType) -> Option<(&[usize], &[u8])> {
        let entry = self.header.entries.iter().find(|entry| entry.name == name)?;
        let bytes = self.source.bytes(entry.range.clone()).ok()?;
        (entry.dtype == dtype).then_some((&entry.shape.0, bytes))
    }

    /// A tensor of f32.
    pub(super) fn f32s(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        let (shape, bytes) = self.tensor(name, DType::F32)?;
        let mut values = vec![0.0; bytes.len() / 4];
        Decoder::new(DType::F32)?.f32s(bytes, &mut values);
        Some((shape, values))
    }

    fn words<T>(&self, name: &str, dtype: DType, of: impl Fn([u8; 8]) -> T) -> Option<Vec<T>> {
        let (words, _) = self.tensor(name, dtype)?.1.as_chunks::<8>();
        Some(words.iter().map(|word| of(*word)).collect())
    }

    fn inputs(&self, layer: &str, tokens: u64) -> Option<Inputs> {
        let list = |field: &str| Some(self.f32s(&format!("{layer}.{field}"))?.1);
        let f64s =
            |field: &str| self.words(&format!("{layer}.{field}"), DType::F64, f64::from_le_bytes);
        let points = f64s("convergence")?;
        let (points, _) = points.as_chunks::<2>();
        let point = |&[tokens, change]: &[f64; 2]| Convergence { tokens: tokens as u64, change };
        let inputs = Inputs {
            tokens,
            mean: list("mean")?,
            mean_square: list("mean_square")?,
            absmax: list("absmax")?,
            kurtosis: list("kurtosis")?,
            not_finite: self.words(
                &format!("{layer}.not_finite"),
                DType::U64,
                u64::from_le_bytes,
            )?,
            whole: whole_of(f64s("whole")?.try_into().ok()?),
            convergence: points.iter().map(point).collect(),
        };
        let n = inputs.channels();
        let fits = |length: usize| length == n || length == 0;
        let lengths = [inputs.mean.len(), inputs.absmax.len(), inputs.kurtosis.len()];
        let all = lengths.into_iter().chain([inputs.not_finite.len()]);
        all.into_iter().all(fits).then_some(inputs)
    }
}

/// The records of a file, without Gram matrices; `None` for whatever is not whole, or another's.
pub(super) fn read_statistics(path: &Path, key: &str) -> Option<Vec<Record>> {
    let opened = Opened::checked(path, key)?;
    let outlines: Vec<Outline> = serde_json::from_str(opened.text()?).ok()?;
    let record = |outline: Outline| {
        let inputs = opened.inputs(outline.layers.first()?, outline.tokens)?;
        let Outline { layers, routed_of, .. } = outline;
        Some(Record { layers, routed_of, inputs, gram: None })
    };
    outlines.into_iter().map(record).collect()
}

/// Writes the Gram matrices of `records`, whole or not at all.
pub(super) fn write_grams(path: &Path, key: &str, records: &[Record]) -> Result<()> {
    let mut grams: BTreeMap<String, &Gram> = BTreeMap::new();
    for record in records {
        if let Some(gram) = &record.gram {
            grams.insert(format!("{}.gram", first_layer(record)?), gram);
        }
    }
    let spec = |(name, gram): (&String, &&Gram)| {
        let n = gram.channels();
        Spec { name: name.clone(), dtype: DType::F32, shape: Shape(vec![n * (n + 1) / 2]) }
    };
    let mut sums: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    for (name, gram) in &grams {
        let mut checksum = begin_gram(key, name, gram.tokens());
        for_each_row(gram, |bytes| {
            checksum.update(bytes);
            Ok(())
        })?;
        sums.insert(name, (gram.tokens(), checksum.finalize().to_hex().to_string()));
    }
    let text = serde_json::to_string(&sums)
        .map_err(|error| Error::Unsupported { what: format!("keeping a calibration ({error})") })?;
    let metadata = metadata(key, &text, &begin(key, &text));
    let plan = FilePlan::new(grams.iter().map(spec).collect(), &metadata)?;
    plan.write(NewFile::replacing(path)?, |spec, write| {
        grams.get(&spec.name).map_or(Ok(()), |gram| for_each_row(gram, &mut *write))
    })
}

fn begin_gram(key: &str, name: &str, tokens: u64) -> Hasher {
    let mut checksum = begin(key, name);
    checksum.update(&tokens.to_le_bytes());
    checksum
}

/// Passes the bytes of the lower triangle on, row by row.
fn for_each_row(gram: &Gram, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (mut row, mut bytes) = (Vec::new(), Vec::new());
    for i in 0..gram.channels() {
        row.clear();
        bytes.clear();
        gram.write_lower_row(i, &mut row);
        bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        visit(&bytes)?;
    }
    Ok(())
}

/// The Gram matrix of the record whose first layer this is; `None` for whatever is not whole, or another's.
pub(super) fn read_gram(path: &Path, key: &str, layer: &str, channels: usize) -> Option<Gram> {
    let opened = Opened::open(path, key)?;
    let sums: BTreeMap<String, (u64, String)> = serde_json::from_str(opened.text()?).ok()?;
    let name = format!("{layer}.gram");
    let (tokens, checksum) = sums.get(&name)?;
    let (_, bytes) = opened.tensor(&name, DType::F32)?;
    let mut found = begin_gram(key, &name, *tokens);
    found.update(bytes);
    if found.finalize().to_hex().as_str() != checksum {
        return None;
    }
    Gram::from_lower(channels, *tokens, &opened.f32s(&name)?.1)
}
