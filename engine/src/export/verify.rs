//! The proof of an output that is there already, whoever wrote it: every tensor of the source is looked for, read back by
//! its format's reader and compared; and where the report of an export lies beside it, what that says is held against it.
//! In: an output, its source. Out: how far each tensor is from its source, and every fault as a sentence.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Serialize;

use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::compare::{Counterpart, compare_scaled, pairs};
use crate::disk;
use crate::error::{Error, Result};
use crate::export::{FileReport, Report, TensorReport, hashes, in_numbers, undone};
use crate::format::adapter;
use crate::numeric::distance::{Distance, PIECE};
use crate::observer::{Observer, Progress, Unit};
use crate::tensor::Factors;

/// How far an error may be from the one reported, of the error itself: sums are taken in another order.
const TOLERANCE: f64 = 1e-6;

/// What a proof found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// Tensors of the source, in its order, but for those that the report beside the output says were taken out.
    pub tensors: Vec<VerifiedTensor>,
    /// Whether the report of an export from this source lay beside the output, and its errors were held against it.
    pub is_reported: bool,
    /// Everything that is not as it must be, a sentence each; none where the output is proved.
    pub faults: Vec<String>,
}

/// A tensor of the source in the output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifiedTensor {
    /// Its name in the source; where blocks or experts were taken out, with the numbers it has in the output.
    pub name: String,
    /// `identical`, `changed` (stored plainly with other values), `compressed`, or `missing`.
    pub stored: &'static str,
    /// ‖W − Ŵ‖/‖W‖ of the output against the source; `None` where it could not be read.
    pub relative_error: Option<f64>,
    /// The same as the report says.
    pub reported: Option<f64>,
}

/// Proves an output against the checkpoint it was made from: a folder or file in any format that is read here.
///
/// A fault is a tensor that is missing, too many, of other extents, not finite or not readable; and against a report: a
/// file of another size or SHA-256, a tensor that was copied and is not the same, an error that is not the one measured then.
/// Cost: reading both once, and the output again for its hashes where there is a report.
///
/// # Errors
/// What opening says; [`Error::Malformed`] for a report that is not understood; [`Error::Io`]; [`Error::Cancelled`].
pub fn verify(output: &Path, source: &Checkpoint, observer: &dyn Observer) -> Result<Verified> {
    let opened = Checkpoint::open(output)?;
    let reduced = undone::as_exported(source, &opened)?;
    let source = reduced.as_ref().unwrap_or(source);
    let path = opened.path();
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let report = undone::read_report(folder)?;
    let (mut faults, mut changed) = (Vec::new(), Vec::new());
    if let Some(report) = &report {
        let whole = check_files(folder, report, &mut faults)?;
        changed = hashes::different(folder, &whole, observer)?;
    }
    // A converted output is reported against what it was converted from.
    let report = report.filter(|report| report.source == source.title());
    let by_name = report.iter().flat_map(|report| &report.tensors);
    let reported = by_name.map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let (factors, unsaid) = undone::undone(source, &opened, &reported)?;
    faults.extend(unsaid);
    let mut verifier = Verifier { source, output: &opened, reported, factors, observer, faults };
    let tensors = verifier.tensors()?;
    let mut faults = verifier.faults;
    // Behind what they hold, which says more.
    faults.extend(changed);
    Ok(Verified { tensors, is_reported: report.is_some(), faults })
}

/// The files of a report that are there with as many bytes; what is said of the others is added.
pub(super) fn check_files<'r>(
    folder: &Path,
    report: &'r Report,
    faults: &mut Vec<String>,
) -> Result<Vec<&'r FileReport>> {
    let mut found: BTreeMap<String, u64> = disk::list_files(folder)?.into_iter().collect();
    let beside = folder.join(adapter::FOLDER);
    if beside.is_dir() {
        let files = disk::list_files(&beside)?.into_iter();
        found.extend(files.map(|(name, bytes)| (format!("{}/{name}", adapter::FOLDER), bytes)));
    }
    let mut whole = Vec::new();
    for file in &report.files {
        match found.get(&file.name) {
            Some(bytes) if *bytes == file.bytes => whole.push(file),
            Some(bytes) => faults.push(format!(
                "the file {} has {bytes} bytes, and the report says {}",
                file.name, file.bytes
            )),
            None => faults.push(format!("the file {} of the report is not there", file.name)),
        }
    }
    Ok(whole)
}

struct Verifier<'a> {
    source: &'a Checkpoint,
    output: &'a Checkpoint,
    reported: BTreeMap<&'a str, &'a TensorReport>,
    /// Of the tensors whose scales went elsewhere, or that took those of others.
    factors: BTreeMap<usize, Factors>,
    observer: &'a dyn Observer,
    faults: Vec<String>,
}

/// How a tensor was found.
struct Found {
    stored: &'static str,
    relative_error: Option<f64>,
}

impl Verifier<'_> {
    fn tensors(&mut self) -> Result<Vec<VerifiedTensor>> {
        let counterparts = pairs(self.source, self.output);
        let (mut done, total) = (0, self.source.tensor_bytes());
        let mut tensors = Vec::with_capacity(counterparts.len());
        for (index, counterpart) in counterparts.iter().enumerate() {
            self.observer.go_on()?;
            let tensor = &self.source.tensors()[index];
            let (stage, item, unit) = ("Proving", tensor.name.clone(), Unit::Bytes);
            self.observer.progress(Progress { stage, item, done, total, unit });
            done += tensor.bytes();
            let found = self.tensor(index, counterpart.as_ref())?;
            self.hold_against_report(&tensor.name, &found);
            tensors.push(VerifiedTensor {
                name: tensor.name.clone(),
                stored: found.stored,
                relative_error: found.relative_error,
                reported: self.reported.get(tensor.name.as_str()).map(|t| t.relative_error),
            });
        }
        let used: HashSet<usize> =
            counterparts.iter().flatten().flat_map(Counterpart::tensors).copied().collect();
        let added: HashSet<String> =
            self.reported.values().filter_map(|of| of.added.clone()).collect();
        for (index, tensor) in self.output.tensors().iter().enumerate() {
            if used.contains(&index) {
                continue;
            }
            if !added.contains(&tensor.name) {
                self.faults.push(format!("the source has no tensor {}", tensor.name));
            } else if !self.output.values(index)?.iter().all(|value| value.is_finite()) {
                self.faults.push(format!("the bias {} is not finite", tensor.name));
            }
        }
        Ok(tensors)
    }

    fn tensor(&mut self, index: usize, counterpart: Option<&Counterpart>) -> Result<Found> {
        let name = &self.source.tensors()[index].name;
        let Some(counterpart) = counterpart else {
            // Loaders take the embedding for a tied head, so formats leave it out.
            let is_tied = self.source.tied().is_some_and(|tied| tied.head == Some(index));
            if !is_tied {
                self.faults.push(format!("tensor {name} is missing"));
            }
            return Ok(Found { stored: "missing", relative_error: None });
        };
        let factors = self.factors.get(&index);
        let codes = match counterpart {
            Counterpart::Plain { tensor } => self.same_codes(index, *tensor)?,
            _ => None,
        };
        let compared = if let Some(is_same) = codes {
            Ok((if is_same { 0.0 } else { f64::INFINITY }, is_same))
        } else if self.output.gguf().is_some() {
            self.compare_gguf(index, factors)
        } else {
            let of = (self.source, index, factors);
            let found = compare_scaled(of, self.output, counterpart, self.observer);
            found.map(|found| (found.relative_error, found.identical))
        };
        let (relative_error, is_identical) = match compared {
            Ok((error, is_identical)) => (Some(in_numbers(error)), is_identical),
            Err(
                error @ (Error::Shape { .. } | Error::Numeric { .. } | Error::Unsupported { .. }),
            ) => {
                self.faults.push(error.to_string());
                (None, false)
            }
            Err(error) => return Err(error),
        };
        let stored = match counterpart {
            Counterpart::Plain { .. } if is_identical => "identical",
            Counterpart::Plain { tensor } if self.is_plain(*tensor) => "changed",
            _ => "compressed",
        };
        Ok(Found { stored, relative_error })
    }

    /// Whether a tensor of the output is stored number by number.
    fn is_plain(&self, tensor: usize) -> bool {
        self.output.tensors()[tensor].coded.is_none()
    }

    /// Whether codes that nothing here decodes are the same bytes; `None` for all other tensors.
    fn same_codes(&self, index: usize, other: usize) -> Result<Option<bool>> {
        let (before, after) = (&self.source.tensors()[index], &self.output.tensors()[other]);
        if before.is_readable() || before.coded.is_none() {
            return Ok(None);
        }
        let mut pieces = Vec::new();
        self.source.for_each_chunk(before, |piece| {
            pieces.push(Sha256::digest(piece));
            Ok(())
        })?;
        let mut left = pieces.into_iter();
        let mut is_same = before.coded == after.coded && before.shape == after.shape;
        self.output.for_each_chunk(after, |piece| {
            is_same &= left.next() == Some(Sha256::digest(piece));
            self.observer.go_on()
        })?;
        Ok(Some(is_same && left.next().is_none()))
    }

    /// The relative error of a tensor of a GGUF file, whose rows are put back, and whether all values are the same.
    fn compare_gguf(&self, index: usize, factors: Option<&Factors>) -> Result<(f64, bool)> {
        let tensor = &self.source.tensors()[index];
        let gguf = self.output.gguf().and_then(|gguf| gguf.extents(&tensor.name));
        let extents = gguf.unwrap_or_default();
        if extents != tensor.shape.0.as_slice() {
            return Err(Error::Shape {
                tensor: tensor.name.clone(),
                expected: format!("{:?}", tensor.shape.0),
                found: extents.to_vec(),
            });
        }
        let cols = match extents {
            [_, cols] => (*cols).max(1),
            _ => 1,
        };
        let (n, rows) = (tensor.parameters() as usize, (PIECE / cols).max(1));
        let mut sums = Distance::default();
        for first in (0..n).step_by(rows * cols) {
            self.observer.go_on()?;
            let mut values = vec![0.0_f32; (rows * cols).min(n - first)];
            self.output.read_gguf(&tensor.name, first, &mut values)?;
            let stored = self.source.element_bytes(tensor, first as u64, values.len() as u64)?;
            let mut wanted = Vec::with_capacity(values.len());
            crate::tensor::for_each_f64(tensor.dtype, &stored, |value| wanted.push(value));
            if let Some(factors) = factors {
                for (at, value) in (first..).zip(&mut wanted) {
                    *value = f64::from(factors.times(*value as f32, at / cols, at % cols));
                }
            }
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            sums = sums.merge(&Distance::of_piece(&wanted, &values));
        }
        if sums.non_finite_b > 0 {
            let why =
                format!("{} of its values in the output are NaN or infinite", sums.non_finite_b);
            return Err(Error::Numeric { tensor: tensor.name.clone(), why });
        }
        Ok((sums.relative_error(), sums.changed_bits == 0))
    }

    fn hold_against_report(&mut self, name: &str, found: &Found) {
        let Some(reported) = self.reported.get(name) else {
            if !self.reported.is_empty() {
                self.faults.push(format!("the report has no tensor {name}"));
            }
            return;
        };
        if reported.stored == "copied" && found.stored == "changed" {
            self.faults.push(format!("tensor {name} was copied, and is not the same any more"));
        }
        let Some(error) = found.relative_error else { return };
        let off = (error - reported.relative_error).abs();
        if off > TOLERANCE * reported.relative_error.abs().max(TOLERANCE) {
            self.faults.push(format!(
                "tensor {name} is {error:e} off its source, and the report says {:e}",
                reported.relative_error
            ));
        }
    }
}
