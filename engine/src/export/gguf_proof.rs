//! The proof of a GGUF file: opened again by a reader of its own, every tensor put back into the order of the source,
//! decoded as llama.cpp reads it, and compared bit for bit with what was computed, or with the source. Of a GGUF file that
//! was written again, keys and carried tensors are held against the source as that reader finds them there.

use std::path::Path;

use ndarray::{Array1, Axis};

use crate::checkpoint::{Checkpoint, MatrixKind, RowOrder, Tensor};
use crate::disk::Source;
use crate::encoding::{BlockType, Encoding};
use crate::error::Result;
use crate::export::gguf_reader::{Opened, open, size_of};
use crate::export::proof::{Proved, failed};
use crate::export::strips::{Layer, Weights, decode_rows, round};
use crate::export::{Work, gguf, gguf_kept, small_floats};
use crate::format::gguf_split;
use crate::format::gguf_writer::NewTensor;
use crate::numeric::distance::relative_error;
use crate::observer::{Progress, Unit};
use crate::target::{Content, GgufFile, Storage, WeightFile};
use crate::tensor::{DType, Decoder, MatrixShape};

pub(super) fn prove(work: &Work<'_>, folder: &Path) -> Result<Vec<Proved>> {
    let mut proofs = vec![Proved::of_weights(0.0); work.manifest.entries.len()];
    let files = &work.manifest.files;
    let open_part = |name: &str| Source::open_among(&folder.join(name), files.len());
    let sources: Vec<Source> =
        files.iter().map(|file| open_part(&file.name)).collect::<Result<_>>()?;
    let mut parts = Vec::with_capacity(sources.len());
    for source in &sources {
        let bytes = source.bytes(0..source.len_bytes())?;
        parts.push((source.path(), open(bytes).map_err(|what| failed(source.path(), what))?));
    }
    match work.checkpoint.gguf() {
        Some(_) => gguf_kept::check(work, &parts)?,
        None => check_keys(&parts)?,
    }
    if work.checkpoint.gguf().is_none() || parts.len() > 1 {
        check_parts(&parts)?;
    }
    let mut done = 0;
    for (file, (path, opened)) in work.manifest.files.iter().zip(&parts) {
        if let WeightFile::Gguf(plan) = &file.plan {
            Prover { work, path, opened, parts: &parts }.prove(plan, &mut done, &mut proofs)?;
        }
    }
    Ok(proofs)
}

/// What every loader asks for first.
fn check_keys(parts: &[(&Path, Opened<'_>)]) -> Result<()> {
    let Some((path, first)) = parts.first() else { return Ok(()) };
    for key in ["general.architecture", "tokenizer.ggml.model"] {
        if !first.texts.contains_key(key) {
            return Err(failed(path, format!("it has no {key}")));
        }
    }
    let embedding = parts.iter().find_map(|(_, part)| part.tensors.get("token_embd.weight"));
    let rows = embedding.map(|tensor| tensor.extents[1]);
    let tokens = first.lists.get("tokenizer.ggml.tokens");
    if rows == tokens.copied() {
        return Ok(());
    }
    Err(failed(path, format!("its embedding has {rows:?} rows for {tokens:?} tokens")))
}

/// Several parts say which they are, of how many, and how many tensors all hold; one alone says nothing.
fn check_parts(parts: &[(&Path, Opened<'_>)]) -> Result<()> {
    let tensors: usize = parts.iter().map(|(_, part)| part.tensors.len()).sum();
    for (at, (path, part)) in parts.iter().enumerate() {
        let said = [gguf_split::NUMBER, gguf_split::COUNT, gguf_split::TENSORS];
        let said = said.map(|key| part.numbers.get(key).copied());
        let wanted = match parts.len() {
            1 => [None; 3],
            count => [at, count, tensors].map(|number| Some(number as u64)),
        };
        if said != wanted {
            return Err(failed(path, format!("it says {said:?} of its parts, not {wanted:?}")));
        }
    }
    Ok(())
}

struct Prover<'a> {
    work: &'a Work<'a>,
    path: &'a Path,
    opened: &'a Opened<'a>,
    /// All parts, of which another may hold what multiplies a matrix of this one.
    parts: &'a [(&'a Path, Opened<'a>)],
}

impl Prover<'_> {
    fn prove(&self, file: &GgufFile, done: &mut u64, proofs: &mut [Proved]) -> Result<()> {
        let (found, promised) = (self.opened.tensors.len(), file.contents.len());
        if found != promised {
            let what = format!("{found} tensors were written, {promised} were promised");
            return Err(failed(self.path, what));
        }
        let total = self.work.manifest.weight_file_bytes();
        for ((tensor, bytes), content) in file.plan.tensors().iter().zip(&file.contents) {
            self.work.observer.go_on()?;
            let item = tensor.name.clone();
            let (stage, unit) = ("Proving", Unit::Bytes);
            self.work.observer.progress(Progress { stage, item, done: *done, total, unit });
            *done += bytes;
            self.prove_tensor(tensor, content, proofs)?;
        }
        Ok(())
    }

    fn prove_tensor(
        &self,
        new: &NewTensor,
        content: &Content,
        proofs: &mut [Proved],
    ) -> Result<()> {
        let missing = || failed(self.path, format!("tensor {} is missing", new.name));
        let found = self.opened.tensors.get(new.name.as_str()).ok_or_else(missing)?;
        if found.extents != new.extents || found.kind != new.kind {
            return Err(failed(
                self.path,
                format!("tensor {} has another shape or type", new.name),
            ));
        }
        let differs = || failed(self.path, format!("tensor {} differs", new.name));
        match content {
            Content::Values(values) => same(found.data, values).then_some(()).ok_or_else(differs),
            Content::Multipliers(tensors) => self.prove_multipliers(found.data, tensors),
            // Held against the source as a whole.
            Content::Carried { .. } => Ok(()),
            Content::Vector { tensor, rows, plus } => {
                let source = gguf::vector(self.work, *tensor, RowOrder::Kept, 0.0)?;
                let at = |row: usize| source[rows.source(row, source.len())] + plus;
                let wanted: Vec<f32> = (0..source.len()).map(at).collect();
                proofs[*tensor] = self.distance(*tensor, source)?;
                same(found.data, &wanted).then_some(()).ok_or_else(differs)
            }
            Content::Matrices { tensors, rows } => {
                let part = found.data.len() / tensors.len();
                let parts = found.data.chunks_exact(part.max(1));
                for (at, (&index, data)) in tensors.iter().zip(parts).enumerate() {
                    let times = self.multiplier((&new.name, found.kind), at)?;
                    let matrix = Matrix { index, data, kind: found.kind, rows: *rows, times };
                    proofs[index] = self.prove_matrix(&matrix)?;
                }
                Ok(())
            }
        }
    }

    /// What multiplies the matrix `at` of a tensor, where its type needs that.
    fn multiplier(&self, (name, kind): (&str, u32), at: usize) -> Result<Option<f32>> {
        if kind != NVFP4 {
            return Ok(None);
        }
        let name = name.strip_suffix("weight").unwrap_or(name);
        let beside = format!("{name}scale");
        let found = self.parts.iter().find_map(|(_, part)| part.tensors.get(beside.as_str()));
        let word = found.filter(|found| found.kind == 0 && found.extents.len() == 1);
        let word = word.and_then(|found| found.data.chunks_exact(4).nth(at));
        let missing = || failed(self.path, format!("{beside} is missing"));
        let word: [u8; 4] = word.and_then(|word| word.try_into().ok()).ok_or_else(missing)?;
        Ok(Some(f32::from_le_bytes(word)))
    }

    /// Each is one over the number that divides the scales of its matrix.
    fn prove_multipliers(&self, data: &[u8], tensors: &[usize]) -> Result<()> {
        let mut wanted = Vec::with_capacity(tensors.len());
        for &index in tensors {
            let differs = || {
                let name = &self.work.checkpoint.tensors()[index].name;
                failed(self.path, format!("what multiplies {name} differs"))
            };
            let encoding = self.work.encoding(index)?;
            wanted.push(small_floats::divisor(&encoding).map(|by| 1.0 / by).ok_or_else(differs)?);
            if !data.starts_with(&bytes_of(&wanted)) {
                return Err(differs());
            }
        }
        same(data, &wanted).then_some(()).ok_or_else(|| failed(self.path, "scales are left over"))
    }

    /// How far a vector is from that of the source.
    fn distance(&self, index: usize, values: Vec<f32>) -> Result<Proved> {
        if !matches!(self.work.manifest.entries[index].storage, Storage::Changed { .. }) {
            return Ok(Proved::of_weights(0.0));
        }
        let before = Array1::from_vec(self.work.checkpoint.values(index)?).insert_axis(Axis(0));
        let after = Array1::from_vec(values).insert_axis(Axis(0));
        Ok(Proved::of_weights(relative_error(before.view(), after.view())))
    }

    fn prove_matrix(&self, found: &Matrix<'_>) -> Result<Proved> {
        let tensor = &self.work.checkpoint.tensors()[found.index];
        let storage = &self.work.manifest.entries[found.index].storage;
        if *storage == Storage::Copied && is_copy(tensor, found) {
            return self.prove_copy(tensor, found);
        }
        let undecoded = || failed(self.path, format!("{} cannot be decoded", tensor.name));
        let shape = tensor.matrix.ok_or_else(undecoded)?.shape;
        let decoded = Decoded::new(found, shape).ok_or_else(undecoded)?;
        let wanted = self.wanted(found, storage)?;
        if wanted.shape().is_some_and(|of| of != shape) {
            return Err(failed(self.path, format!("{} has another shape", tensor.name)));
        }
        // The small floats of llama.cpp have no negative zero.
        let has_one_zero = [MXFP4, NVFP4].contains(&found.kind);
        let layer = Layer {
            tensor: found.index,
            shape,
            found: &|row, out| decoded.read(row, out).ok_or_else(undecoded),
            wanted: &|row, out| wanted.read((self.work.checkpoint, found.index), row, out),
            is_same: if has_one_zero { |a, b| a == 0.0 && b == 0.0 } else { |_, _| false },
            path: self.path,
        };
        layer.prove(self.work, None)
    }

    /// What a matrix should be.
    fn wanted(&self, found: &Matrix<'_>, storage: &Storage) -> Result<Wanted> {
        let encoding = || self.work.encoding(found.index);
        Ok(match storage {
            Storage::Copied => Wanted::Weights((self.work.weights)(found.index)?),
            Storage::Native => {
                let (encoding, by) = small_floats::held(encoding()?);
                Wanted::Encoded { encoding, by, rounded: DType::F32 }
            }
            Storage::Dense { .. } | Storage::Changed { .. } => {
                let rounded = plain(found.kind).unwrap_or(DType::F32);
                Wanted::Encoded { encoding: encoding()?, by: None, rounded }
            }
        })
    }

    fn prove_copy(&self, tensor: &Tensor, found: &Matrix<'_>) -> Result<Proved> {
        let differs = || failed(self.path, format!("{} is not a faithful copy", tensor.name));
        let shape = tensor.matrix.ok_or_else(differs)?.shape;
        let bytes = found.data.len() / shape.rows.max(1);
        for (row, data) in found.data.chunks_exact(bytes.max(1)).enumerate() {
            if row % 256 == 0 {
                self.work.observer.go_on()?;
            }
            let first = (found.rows.source(row, shape.rows) * shape.cols) as u64;
            let source = self.work.checkpoint.element_bytes(tensor, first, shape.cols as u64)?;
            if *source != *data {
                return Err(differs());
            }
        }
        Ok(Proved::of_weights(0.0))
    }
}

/// Whether its bytes are those of the source, in whatever order.
fn is_copy(tensor: &Tensor, found: &Matrix<'_>) -> bool {
    let is_transposed = tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Conv1d);
    plain(found.kind) == Some(tensor.dtype) && !is_transposed
}

/// A matrix as the file has it.
struct Matrix<'a> {
    /// Index of its tensor in the source.
    index: usize,
    data: &'a [u8],
    /// Number of its type.
    kind: u32,
    rows: RowOrder,
    /// What multiplies it.
    times: Option<f32>,
}

const MXFP4: u32 = 39;
const NVFP4: u32 = 40;

/// The element type of a type without blocks.
fn plain(kind: u32) -> Option<DType> {
    match kind {
        0 => Some(DType::F32),
        1 => Some(DType::F16),
        30 => Some(DType::BF16),
        _ => None,
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn same(data: &[u8], wanted: &[f32]) -> bool {
    data.len() == 4 * wanted.len()
        && data.chunks_exact(4).zip(wanted).all(|(bytes, value)| bytes == value.to_le_bytes())
}

/// What a matrix should be, in the order of the source.
enum Wanted {
    /// The weights of the source, which are only given another type.
    Weights(Weights),
    Encoded {
        encoding: Encoding,
        /// What multiplies its weights.
        by: Option<f32>,
        /// The type that they are rounded to.
        rounded: DType,
    },
}

impl Wanted {
    fn shape(&self) -> Option<MatrixShape> {
        match self {
            Self::Weights(_) => None,
            Self::Encoded { encoding, .. } => Some(encoding.shape()),
        }
    }

    fn read(&self, source: (&Checkpoint, usize), row: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Self::Weights(weights) => weights.read(source, row, out)?,
            Self::Encoded { encoding, by, rounded } => {
                decode_rows(encoding, row, out);
                if let Some(by) = by {
                    scale(out, *by);
                }
                round(*rounded, out);
            }
        }
        Ok(())
    }
}

/// A matrix of the file, whose rows are decoded in the order of the source.
struct Decoded<'a> {
    found: &'a Matrix<'a>,
    cols: usize,
    row_bytes: usize,
    /// Where each row of the source lies.
    places: Vec<usize>,
}

impl<'a> Decoded<'a> {
    /// `None` for an unknown type.
    fn new(found: &'a Matrix<'a>, shape: MatrixShape) -> Option<Self> {
        let (elements, block) = size_of(found.kind)?;
        let row_bytes = (shape.cols as u64 / elements * block) as usize;
        let mut places = vec![0; shape.rows];
        for row in 0..shape.rows {
            *places.get_mut(found.rows.source(row, shape.rows))? = row;
        }
        Some(Self { found, cols: shape.cols, row_bytes, places })
    }

    /// Rows from `first` on; `None` where the data are too few.
    fn read(&self, first: usize, out: &mut [f32]) -> Option<()> {
        for (row, values) in (first..).zip(out.chunks_mut(self.cols.max(1))) {
            let at = self.places.get(row)? * self.row_bytes;
            decode_row(self.found.kind, self.found.data.get(at..at + self.row_bytes)?, values)?;
            if let Some(times) = self.found.times {
                scale(values, times);
            }
        }
        Some(())
    }
}

fn scale(values: &mut [f32], by: f32) {
    for value in values {
        *value *= by;
    }
}

fn decode_row(kind: u32, data: &[u8], out: &mut [f32]) -> Option<()> {
    if let Some(dtype) = plain(kind) {
        Decoder::new(dtype)?.f32s(data, out);
        return Some(());
    }
    match kind {
        MXFP4 => {
            let blocks = data.chunks_exact(17).zip(out.chunks_exact_mut(32));
            blocks.for_each(|(block, out)| small_floats::mxfp4(block, out));
            return Some(());
        }
        NVFP4 => {
            let blocks = data.chunks_exact(36).zip(out.chunks_exact_mut(64));
            blocks.for_each(|(block, out)| small_floats::nvfp4(block, out));
            return Some(());
        }
        _ => {}
    }
    let known = crate::format::gguf::BlockType::of(kind)?;
    let kind = BlockType::named(known.name)?;
    let blocks = data.chunks_exact(kind.bytes()).zip(out.chunks_exact_mut(kind.weights()));
    blocks.for_each(|(block, out)| kind.decode(block, out));
    Some(())
}
