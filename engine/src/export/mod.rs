//! From store to files: written streamed and whole or not at all, read back by an independent path, reported.
//! In: checkpoint, store, manifest. Out: a folder that loads, and a [`Report`]. Never knows methods.

mod convert;
mod coverage;
mod cut;
mod estimate;
mod forecast;
mod gguf;
mod gguf_kept;
mod gguf_proof;
mod gguf_reader;
mod hashes;
mod kept;
mod page;
mod proof;
mod prospect;
mod recover;
mod report;
mod restore;
mod slots;
mod small_floats;
mod squeeze;
mod strips;
mod undone;
mod verify;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::ArrayView2;

pub use convert::convert;
pub use cut::cut;
pub use estimate::{Estimate, estimate};
pub use forecast::{Forecast, forecast};
pub use prospect::{Contents, Prospect, prospect, prospect_of_plan};
pub use recover::{Recovered, recover};
pub use report::{FileReport, Report, TensorReport, Totals};
pub use restore::{is_squeezed, squeezed_list, unsqueeze};
pub use squeeze::{Squeezed, SqueezedFile, estimate_squeezed, squeeze};
pub use undone::{as_exported, folded_scales};
pub use verify::{Verified, VerifiedTensor, verify};

pub use crate::format::squeezed::LIST;

use crate::checkpoint::Checkpoint;
use crate::disk::{self, NewFolder, Syncing};
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::export::hashes::{Hashes, Hashing};
use crate::export::kept::Kept;
use crate::export::proof::Proved;
use crate::export::strips::Weights;
use crate::fold;
use crate::format::safetensors::Spec;
use crate::job::{self, Encodings, Limits, Slots, Subject};
use crate::observer::Observer;
use crate::plan::Plan;
use crate::target::{Aim, Case, Manifest, Storage, Target, WeightFile, lints, refuse_dead_rules};
use crate::tensor::{round_f32, write_f32};

/// Name of the report beside the result; it also marks a folder as ours to replace.
pub const REPORT: &str = "lapidary-report.json";

/// Name of the same report as a page to read.
pub const PAGE: &str = "lapidary-report.html";

/// Where an export goes and what it may do.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The folder to make.
    pub folder: &'a Path,
    /// Whether an earlier output of this program there is replaced.
    pub replace: bool,
    /// Memory for the tensors in flight.
    pub limits: Limits,
}

/// What writing and proving work on.
struct Work<'a> {
    checkpoint: &'a Checkpoint,
    encodings: &'a dyn Encodings,
    manifest: &'a Manifest,
    /// Where layers were written already.
    slots: &'a Slots,
    target: &'a dyn Target,
    observer: &'a dyn Observer,
    /// The weights that a layer is measured against: those of the source, times what its inputs are divided by, over what
    /// its rows are.
    weights: &'a (dyn Fn(usize) -> Result<Weights> + Sync),
    /// Whether it was asked what the outputs of a layer lose.
    asks_outputs: &'a (dyn Fn(usize) -> bool + Sync),
    /// What they lose, of its weights and what became of them; `None` where that is not known.
    outputs: &'a OutputErrors<'a>,
}

/// The relative error of the outputs of a layer: of its weights, what became of them, and what is added to its outputs.
type OutputErrors<'a> = dyn Fn(usize, ArrayView2<'_, f32>, (ArrayView2<'_, f32>, Option<&[f32]>)) -> Result<Option<f64>>
    + Sync
    + 'a;

impl Work<'_> {
    /// The encoding of a tensor, to be taken apart.
    fn encoding(&self, tensor: usize) -> Result<Encoding> {
        self.encodings.encoding(tensor).map(Arc::unwrap_or_clone)
    }

    /// The values of a vector as they are written: those of the store, or of the source, a bias with what its layer's
    /// outputs are shifted by.
    fn vector(&self, index: usize) -> Result<Vec<f32>> {
        let tensor = &self.checkpoint.tensors()[index];
        let mut values = if self.encodings.has(index) {
            self.encoding(index)?.decode().into_raw_vec_and_offset().0
        } else {
            self.checkpoint.values(index)?
        };
        let entry = &self.manifest.entries[index];
        let weight = tensor.name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        let layer = weight.and_then(|weight| self.checkpoint.find(&weight));
        let layer = layer.filter(|&layer| self.encodings.has(layer));
        if let (Storage::Changed { .. }, Some(layer)) = (&entry.storage, layer) {
            let encoding = self.encoding(layer)?;
            for (value, shift) in values.iter_mut().zip(encoding.shift().unwrap_or_default()) {
                *value = round_f32(tensor.dtype, *value + shift);
            }
        }
        Ok(values)
    }

    /// The bytes of a bias that a layer is given: what its outputs are shifted by, or zeros.
    fn added_bias(&self, index: usize, spec: &Spec) -> Result<Vec<u8>> {
        let n = self.checkpoint.tensors()[index].matrix.map_or(0, |matrix| matrix.shape.rows);
        let mut values = vec![0.0; n];
        if self.encodings.has(index)
            && let Some(shift) = self.encoding(index)?.shift()
        {
            values.copy_from_slice(shift);
        }
        let mut bytes = Vec::new();
        write_f32(spec.dtype, &values, &mut bytes);
        Ok(bytes)
    }
}

/// Runs the plan, writes the target's files, reads them back and proves them, and adds the report.
///
/// Of a plan that takes parts out, what is left is exported as a model of its own. The folder appears only when all of that has
/// succeeded. Layers that were compressed lie beside it until then, in a hidden
/// folder, and the same export goes on with them where it was cancelled or the process ended, to the same bytes. Cost: reading the source twice, writing once,
/// reading the result once; memory of the job's limit.
///
/// # Errors
/// Whatever keeps the plan from being carried out or the output from loading is said before anything is
/// computed, and so is another export to the same folder; [`Error::Plan`] for a source that was changed since it was opened;
/// [`Error::Proof`] if what was written does not decode to what was computed.
pub fn export<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    aim: impl Into<Aim>,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Report> {
    let (subject, aim) = (subject.into(), aim.into());
    refuse_dead_rules(subject.checkpoint, plan)?;
    subject.reduced(plan, |subject, plan| export_whole(subject, plan, aim, destination, observer))
}

/// The same of a plan that takes nothing out of this model any more.
fn export_whole(
    subject: Subject<'_>,
    plan: &Plan,
    aim: Aim,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Report> {
    let checkpoint = subject.checkpoint;
    let manifest = forecast::laid_out(subject, plan, aim)?;
    refuse_own_source(checkpoint, destination.folder)?;
    checkpoint.check_all_unchanged()?;
    warn_of_codes(Case { checkpoint, plan, aim, entries: &manifest.entries }, observer);
    let slots = slots::of(checkpoint, aim.target, &manifest)?;
    let store_bytes = forecast::store_bytes((checkpoint, plan), &manifest, &slots);
    let there_bytes = |folder: &Path| {
        job::finished(subject, plan, folder).bytes.saturating_add(slots.there_bytes(folder))
    };
    let folder = begin(destination, (manifest.total_bytes(), store_bytes), &there_bytes)?;
    let output = Output { target: aim.target, manifest: &manifest, slots: &slots, folder: &folder };
    let make = |hashing: &Hashing<'_>| {
        carry_out((subject, plan), &output, (destination.limits, hashing), observer)
    };
    let made = hashes::beside((checkpoint, &manifest, &folder), make, observer)?;
    add_report((checkpoint, observer), made, folder)
}

/// What is made of a model: laid out, begun.
struct Output<'a> {
    target: &'a dyn Target,
    manifest: &'a Manifest,
    slots: &'a Slots,
    folder: &'a NewFolder,
}

/// Compresses, writes and proves.
fn carry_out(
    (subject, plan): (Subject<'_>, &Plan),
    &Output { target, manifest, slots, folder }: &Output<'_>,
    (limits, hashing): (Limits, &Hashing<'_>),
    observer: &dyn Observer,
) -> Result<(Report, Vec<String>)> {
    let checkpoint = subject.checkpoint;
    let store = job::resume(subject, plan, limits, (&folder.finished_parts(), slots), observer)?;
    let settled = fold::settle(checkpoint, plan);
    let weights = |index| {
        if checkpoint.is_by_row(index) && !settled.is_scaled(index) {
            return Ok(Weights::Source);
        }
        job::carried_weights(checkpoint, &settled, &store, index, observer).map(Weights::Whole)
    };
    let asks_outputs = |layer| subject.asks_outputs(&settled.plan, layer);
    let outputs = |layer: usize,
                   weights: ArrayView2<'_, f32>,
                   made: (ArrayView2<'_, f32>, Option<&[f32]>)| {
        subject.output_error((&settled.plan, layer), weights, made, observer)
    };
    let work = Work {
        checkpoint,
        encodings: &store,
        manifest,
        slots,
        target,
        observer,
        weights: &weights,
        asks_outputs: &asks_outputs,
        outputs: &outputs,
    };
    let (proofs, files) = make(&work, folder, None, hashing)?;
    let calibration = subject.calibration_for(&settled.plan).cloned();
    let report = Report::new((checkpoint, target), &settled, manifest, &proofs);
    let mut report = Report { calibration, ..report };
    report.add_rows(&settled, &store)?;
    Ok((report, files))
}

/// Says that layers which are in codes already are encoded again.
fn warn_of_codes(case: Case<'_>, observer: &dyn Observer) {
    let found = lints(&case).into_iter().filter(|lint| lint.id == "encoded-again");
    found.for_each(|lint| observer.warn(format!("{}; {}", lint.what, lint.mend)));
}

/// A relative error as reports hold it: 1, all of what is there, where the source is all zeros and ‖W‖ cannot be divided by.
/// JSON has no infinity.
fn in_numbers(relative_error: f64) -> f64 {
    if relative_error == f64::INFINITY { 1.0 } else { relative_error }
}

/// Begins the output, whose disk must have room for its bytes, and for those of a store but for what is there already.
fn begin(
    destination: Destination<'_>,
    (output_bytes, store_bytes): (u64, u64),
    there_bytes: &dyn Fn(&Path) -> u64,
) -> Result<NewFolder> {
    let folder = NewFolder::create(destination.folder, destination.replace, REPORT)?;
    let there_bytes = there_bytes(&folder.finished_parts());
    forecast::room(destination, output_bytes, store_bytes, there_bytes)?;
    Ok(folder)
}

/// Writes, proves and reports what is in no store of its own; where it stops, `kept` has what was written.
fn finish(work: &Work<'_>, folder: NewFolder, plan: &Plan, kept: Option<&Kept>) -> Result<Report> {
    let (checkpoint, observer) = (work.checkpoint, work.observer);
    let make = |hashing: &Hashing<'_>| {
        let (proofs, files) = make(work, &folder, kept, hashing)?;
        let settled = fold::settle(checkpoint, plan);
        Ok((Report::new((checkpoint, work.target), &settled, work.manifest, &proofs), files))
    };
    let made = hashes::beside((checkpoint, work.manifest, &folder), make, observer)?;
    add_report((checkpoint, observer), made, folder)
}

/// Writes and proves all files, brings them to the disk meanwhile, and hashes them.
fn make(
    work: &Work<'_>,
    folder: &NewFolder,
    kept: Option<&Kept>,
    hashing: &Hashing<'_>,
) -> Result<(Vec<Proved>, Vec<String>)> {
    write::write(work, folder, kept)?;
    let files = hashes::written(work.manifest, folder);
    let prove = || {
        let written = files.iter().map(|(_, path)| path.clone()).collect();
        let syncing = Syncing::begin(written)?;
        let proved = prove(work, folder)?;
        syncing.wait(&|| work.observer.go_on())?;
        Ok(proved)
    };
    hashing.beside_last(&files, prove)
}

fn prove(work: &Work<'_>, folder: &NewFolder) -> Result<Vec<Proved>> {
    match work.manifest.files.first().map(|file| &file.plan) {
        Some(WeightFile::Gguf(_)) => gguf_proof::prove(work, folder.path()),
        _ => proof::prove(work, folder.path()),
    }
}

/// Where layers lie that an export to `folder` finished before it was stopped, or what a conversion wrote, if there are any;
/// exporting or converting the same again goes on with them.
pub fn finished_for(folder: &Path) -> Option<PathBuf> {
    disk::finished_for(folder)
}

/// Throws them away; gives whether there were any.
///
/// # Errors
/// [`Error::Plan`] while an export to that folder is running, [`Error::Io`] where they cannot be removed.
pub fn discard_finished(folder: &Path) -> Result<bool> {
    disk::discard_finished(folder, REPORT)
}

/// Adds the report with its page and gives the folder its name, if the source is still the one that was read.
fn add_report(
    (checkpoint, observer): (&Checkpoint, &dyn Observer),
    (mut report, hashes): (Report, Hashes),
    folder: NewFolder,
) -> Result<Report> {
    hashes.fill(&mut report);
    let mut json = serde_json::to_vec_pretty(&report)
        .map_err(|error| Error::Unsupported { what: format!("writing the report ({error})") })?;
    json.push(b'\n');
    for (name, text) in [(REPORT, json), (PAGE, page::page(&report).into_bytes())] {
        let mut file = folder.file(name)?;
        file.write(&text)?;
        file.finish()?;
    }
    observer.go_on()?;
    checkpoint.check_all_unchanged()?;
    folder.finish()?;
    Ok(report)
}

/// An export over its own source would destroy it while it is mapped.
fn refuse_own_source(checkpoint: &Checkpoint, destination: &Path) -> Result<()> {
    let absolute = |path: &Path| path.canonicalize().ok();
    let source = absolute(checkpoint.path());
    if source.is_some()
        && checkpoint
            .path()
            .ancestors()
            .any(|path| absolute(path).is_some_and(|p| Some(p) == absolute(destination)))
    {
        return Err(Error::plan(
            format!("{} holds the source checkpoint itself", destination.display()),
            "choose another output folder",
        ));
    }
    Ok(())
}
