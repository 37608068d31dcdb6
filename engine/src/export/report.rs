//! What was done, tensor by tensor and byte by byte: `lapidary-report.json`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::calibration::Settings;
use crate::checkpoint::{Checkpoint, Removal};
use crate::encoding::Layout;
use crate::error::Result;
use crate::export::coverage::coverage;
use crate::export::in_numbers;
use crate::export::proof::Proved;
use crate::fold::{Producer, Settled};
use crate::job::Encodings;
use crate::plan::Rules;
use crate::target::{Entry, Manifest, Storage, Target, added_bias};

/// How a tensor is stored that was not touched.
const COPIED: &str = "copied";
/// How a tensor is stored that was not compressed and has other values than in the source.
const CHANGED: &str = "changed";

/// What a row may have been divided by.
const BELIEVED: RangeInclusive<f32> = 1e-30..=1e30;

/// The report of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this program.
    pub lapidary: String,
    /// The source checkpoint's name.
    pub source: String,
    /// The target's id.
    pub target: String,
    /// What part of the model is compressed, in a sentence.
    #[serde(default)]
    pub coverage: String,
    /// The calibration that methods asked for, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Settings>,
    /// Sums over everything.
    pub totals: Totals,
    /// Weight files of the source.
    #[serde(default)]
    pub sources: Vec<FileReport>,
    /// Files of the output, the reports apart.
    pub files: Vec<FileReport>,
    /// One entry for each tensor of the source that was not taken out.
    pub tensors: Vec<TensorReport>,
    /// Blocks and experts that were taken out, by their numbers in the source. Everything else here names layers by the
    /// numbers they have in the output.
    #[serde(default, skip_serializing_if = "Removal::is_empty")]
    pub removed: Removal,
    /// The plan that was carried out.
    pub plan: Rules,
}

/// Sums of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Weights of the model that was written.
    pub parameters: u64,
    /// Tensor bytes of the source, with what was taken out.
    pub source_bytes: u64,
    /// Tensor bytes of the output.
    pub tensor_bytes: u64,
    /// Bytes of the headers of the weight files.
    pub header_bytes: u64,
    /// Bytes of the weight files: tensors and headers, with what lies between them; 0 in reports of versions that did not
    /// count it.
    #[serde(default)]
    pub weight_file_bytes: u64,
    /// Bytes of the folder: tensors, headers, texts, copies; the reports apart.
    pub total_bytes: u64,
    /// Effective bits per weight of all tensors.
    pub bits_per_weight: f64,
    /// Layers stored compressed.
    pub compressed: usize,
    /// Layers compressed but stored in full.
    pub dense: usize,
    /// Tensors copied as they are.
    pub copied: usize,
    /// Tensors that were not compressed and have other values than in the source.
    #[serde(default)]
    pub changed: usize,
}

/// A file of the source or of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal; empty in reports of versions that did not count it.
    #[serde(default)]
    pub sha256: String,
}

impl FileReport {
    /// A file that is hashed later.
    fn new(name: String, bytes: u64) -> Self {
        Self { name, bytes, sha256: String::new() }
    }
}

/// What became of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorReport {
    /// Its name in the source, with the numbers of block and expert that it has in the output.
    pub name: String,
    /// Its name in the source, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Index of its block.
    pub block: Option<u32>,
    /// Its role.
    pub role: String,
    /// Extents in the source.
    pub shape: Vec<usize>,
    /// What was done, as `4-bit g128`.
    pub method: String,
    /// `copied`, `native`, `dense` or `changed`.
    pub stored: String,
    /// Why it is stored in full although it was compressed, or why it is changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The norm, or the matrix by its rows, whose division its weights make up for: they stand for those of the source
    /// times what that was divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled_with: Option<String>,
    /// By what each of its rows was divided, with a blank between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_divided: Option<String>,
    /// The bias that the layer is given and does not have in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<String>,
    /// Bytes of it in the adapter beside the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_bytes: Option<u64>,
    /// Bits of a stored code.
    pub nominal_bits: u32,
    /// Bits per weight in the output, everything counted.
    pub effective_bits: f64,
    /// Bytes in the output.
    pub bytes: u64,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// ‖W − Ŵ‖/‖W‖ of the output read back, against the source; 1 where only the source is all zeros.
    pub relative_error: f64,
    /// √(tr(Δ·H·Δᵀ)/tr(W·H·Wᵀ)), what its outputs lose on the text of the calibration, where its steps asked what it receives;
    /// not told of a layer whose inputs or rows were divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
}

impl TensorReport {
    /// Its name, with that in the source where it is another.
    pub fn told_name(&self) -> String {
        match &self.from {
            Some(from) => format!("{} (from {from})", self.name),
            None => self.name.clone(),
        }
    }

    /// How it is stored, with the reason where there is one: `native`, `in full: …`, `changed: …`.
    pub fn told(&self) -> String {
        match &self.because {
            None if self.adapter_bytes.is_some() => format!("{}, with an adapter", self.stored),
            None => self.stored.clone(),
            Some(because) if self.stored == CHANGED => format!("{CHANGED}: {because}"),
            Some(because) => format!("in full: {because}"),
        }
    }

    /// Whether it is a layer that the plan compresses, be it stored so or in full.
    pub fn is_compressed(&self) -> bool {
        self.stored != COPIED && self.stored != CHANGED
    }
}

impl Report {
    /// All but the hashes of the files and the calibration.
    pub(super) fn new(
        (checkpoint, target): (&Checkpoint, &dyn Target),
        settled: &Settled<'_>,
        manifest: &Manifest,
        proofs: &[Proved],
    ) -> Self {
        let tensors = manifest.entries.iter().zip(proofs);
        Self {
            lapidary: env!("CARGO_PKG_VERSION").to_owned(),
            source: checkpoint.title(),
            target: target.about().id.to_owned(),
            coverage: coverage(checkpoint, manifest),
            calibration: None,
            totals: Totals::new(checkpoint, manifest),
            sources: sources(checkpoint).collect(),
            files: files(manifest),
            tensors: tensors
                .map(|(entry, proved)| tensor(checkpoint, settled, entry, proved))
                .collect(),
            removed: checkpoint.removal().clone(),
            plan: Rules::of(&settled.plan),
        }
    }
}

impl Report {
    /// Adds by what rows were divided.
    pub(super) fn add_rows(
        &mut self,
        settled: &Settled<'_>,
        encodings: &dyn Encodings,
    ) -> Result<()> {
        for matrix in settled.folds.iter().filter_map(Producer::matrix) {
            if let Some(by) = encodings.divided(matrix)? {
                let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                self.tensors[matrix].rows_divided = Some(by.join(" "));
                self.tensors[matrix].output_error = None;
            }
        }
        Ok(())
    }
}

impl TensorReport {
    /// By what its rows were divided; `None` where that is not said, or not understood.
    pub(super) fn row_divisors(&self) -> Option<Vec<f32>> {
        let all = self.rows_divided.as_ref()?.split_ascii_whitespace();
        let one = |text: &str| text.parse().ok().filter(|by: &f32| BELIEVED.contains(by));
        all.map(one).collect()
    }
}

impl Totals {
    fn new(checkpoint: &Checkpoint, manifest: &Manifest) -> Self {
        let count = |kind: fn(&Storage) -> bool| {
            manifest.entries.iter().filter(|entry| kind(&entry.storage)).count()
        };
        Self {
            parameters: checkpoint.parameters(),
            source_bytes: checkpoint.source_tensor_bytes(),
            tensor_bytes: manifest.tensor_bytes(),
            header_bytes: manifest.files.iter().map(|file| file.plan.header_bytes()).sum(),
            weight_file_bytes: manifest.weight_file_bytes(),
            total_bytes: manifest.total_bytes(),
            bits_per_weight: manifest.bits_per_weight(checkpoint),
            compressed: count(|storage| *storage == Storage::Native),
            dense: count(|storage| matches!(storage, Storage::Dense { .. })),
            copied: count(|storage| *storage == Storage::Copied),
            changed: count(|storage| matches!(storage, Storage::Changed { .. })),
        }
    }
}

/// Every weight file of the source with its bytes.
pub(super) fn sources(checkpoint: &Checkpoint) -> impl Iterator<Item = FileReport> {
    checkpoint.files().iter().map(|file| FileReport::new(file.name.clone(), file.bytes()))
}

/// Every file of the output with its bytes, by name.
pub(super) fn files(manifest: &Manifest) -> Vec<FileReport> {
    let mut files: BTreeMap<String, u64> = BTreeMap::new();
    for file in &manifest.files {
        files.insert(file.name.clone(), file.plan.file_bytes());
    }
    for text in &manifest.texts {
        files.insert(text.name.clone(), text.bytes.len() as u64);
    }
    for side in &manifest.copies {
        let name = side.path.file_name().unwrap_or_default();
        files.insert(name.to_string_lossy().into_owned(), side.bytes);
    }
    files.into_iter().map(|(name, bytes)| FileReport::new(name, bytes)).collect()
}

fn tensor(
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    entry: &Entry,
    proved: &Proved,
) -> TensorReport {
    let (tensor, plan) = (&checkpoint.tensors()[entry.tensor], &settled.plan);
    let (stored, because) = match &entry.storage {
        Storage::Copied => (COPIED, None),
        Storage::Native => ("native", None),
        Storage::Dense { because } => ("dense", Some(because.clone())),
        Storage::Changed { because } => (CHANGED, Some(because.clone())),
    };
    let parameters = tensor.parameters();
    TensorReport {
        name: tensor.name.clone(),
        from: (tensor.source_name() != tensor.name).then(|| tensor.source_name().to_owned()),
        block: tensor.place.block,
        role: tensor.place.role.name().to_owned(),
        shape: tensor.shape.0.clone(),
        method: match (plan.get(&tensor.name), &entry.layout) {
            _ if stored == CHANGED => stored.to_owned(),
            (None, Some(layout)) => described(layout),
            _ => plan.assignment(&tensor.name).label(),
        },
        stored: stored.to_owned(),
        because,
        added: added_bias(tensor, entry).map(|spec| spec.name.clone()),
        scaled_with: settled.of(entry.tensor).map(|found| found.name(checkpoint).to_owned()),
        rows_divided: None,
        adapter_bytes: entry.adapter_bytes(checkpoint),
        nominal_bits: entry
            .layout
            .as_ref()
            .map_or(tensor.dtype.bits() as u32, crate::encoding::Layout::nominal_bits),
        effective_bits: if parameters == 0 {
            0.0
        } else {
            entry.bytes as f64 * 8.0 / parameters as f64
        },
        bytes: entry.bytes,
        source_bytes: tensor.bytes(),
        relative_error: in_numbers(proved.relative_error),
        output_error: proved.output_error.filter(|_| settled.of(entry.tensor).is_none()),
    }
}

/// What a layer is that no plan made: `4-bit integers`.
fn described(layout: &Layout) -> String {
    match layout {
        Layout::Dense(dtype) => dtype.name().to_owned(),
        Layout::Affine(affine) => format!("{}-bit integers", affine.bits),
        Layout::Bilevel(small) => {
            format!("{}-bit integers, scales in {}", small.bits, small.statistic_bits)
        }
        Layout::Palette(palette) => format!("{}-bit palette", palette.bits),
        Layout::Float(float) => format!("{}-bit floats", float.levels.bits()),
        Layout::Blocks(kind) => kind.name().to_owned(),
        Layout::LowRank(product) => format!("rank {}", product.rank),
        Layout::Outliers(few) => format!("{} outliers", few.kept),
        Layout::Sum(sum) => {
            format!("{} + {}", described(&sum.base), described(&sum.correction))
        }
        Layout::Scaled(scaled) => format!("{}, inputs scaled", described(&scaled.inner)),
        Layout::Sparse(sparse) => format!("{}, masked", described(&sparse.inner)),
        Layout::Shifted(shifted) => format!("{} and a bias", described(&shifted.inner)),
        Layout::Vectors(_) => format!("{}-bit vectors", layout.nominal_bits()),
        Layout::Mixed(mixed) => {
            let (high, low) = (described(&mixed.high), described(&mixed.low));
            format!("{} rows of {high}, others {low}", mixed.rows)
        }
        Layout::Runs(runs) => format!("{}, runs of {} left out", described(&runs.inner), runs.run),
        Layout::Windows(_) => "codes that share bits".to_owned(),
        Layout::Additive(additive) => {
            format!("{} × {} bits for {} inputs", additive.codebooks, additive.bits, additive.dim)
        }
        Layout::Rotated(rotated) => format!("{}, rotated", described(&rotated.inner)),
        Layout::Folded(folded) => format!("cores, {}", described(&folded.inner)),
        Layout::Seeded(_) => format!("{}-bit seeds", layout.nominal_bits()),
        Layout::Coded(_) => "range-coded grid".to_owned(),
        Layout::Signed(signed) => format!("signs of {}", described(&signed.inner)),
        Layout::Split(split) => {
            let (rest, apart) = (described(&split.rest), described(&split.apart));
            format!("{rest}, {} inputs in {apart}", split.kept)
        }
        Layout::Stack(stack) => {
            let levels = stack.levels.len();
            stack
                .levels
                .first()
                .map_or_else(String::new, |level| format!("{levels} × {}", described(level)))
        }
    }
}
