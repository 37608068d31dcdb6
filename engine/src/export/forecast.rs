//! What an export takes, before it begins: bytes to the byte, working memory from the limits of the job. Time is
//! estimated apart, as it depends on layers that were not compressed yet.

use crate::checkpoint::Checkpoint;
use crate::disk;
use crate::error::{Error, Result};
use crate::export::coverage::coverage;
use crate::export::{Destination, REPORT, refuse_own_source, slots};
use crate::format::archive;
use crate::job::{self, Finished, Slots, Subject};
use crate::plan::Plan;
use crate::target::{
    Aim, Case, Entry, Manifest, Storage, is_joint, refuse_dead_rules, refuse_errors,
};

/// Bytes that a header of the store takes at most beside the parts.
const STORED_HEADER_BYTES: u64 = 2048;

/// What an export takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Layers that the plan compresses.
    pub layers: usize,
    /// Those of them that an earlier attempt at the same folder finished; whether they are whole is seen when they are read.
    pub finished: usize,
    /// What part of the model is compressed, in a sentence.
    pub coverage: String,
    /// Layers compressed but stored in full.
    pub dense: usize,
    /// Files of the output, the reports apart.
    pub files: usize,
    /// Those of them that hold weights.
    pub weight_files: usize,
    /// Their bytes, exactly.
    pub output_bytes: u64,
    /// Effective bits per weight, exactly.
    pub bits_per_weight: f64,
    /// Bytes of finished layers that lie beside the output until it is proved, at most; those that are written into it at once
    /// are not among them.
    pub store_bytes: u64,
    /// Bytes that are free where the output goes.
    pub free_bytes: u64,
    /// The most working memory of layers that are compressed at once, or of a block that is refined.
    pub memory_bytes: u64,
}

/// Says what [`crate::export::export`] will take, without beginning it. Opens no weights and writes nothing.
///
/// # Errors
/// What the export says before it computes anything: for a plan that the target cannot load, for a place that is taken, for
/// a disk or a memory limit that is too small.
pub fn forecast<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    aim: impl Into<Aim>,
    destination: Destination<'_>,
) -> Result<Forecast> {
    let (subject, aim) = (subject.into(), aim.into());
    refuse_dead_rules(subject.checkpoint, plan)?;
    subject.reduced(plan, |subject, plan| forecast_whole(subject, plan, aim, destination))
}

/// The same of a plan that takes nothing out of this model any more.
fn forecast_whole(
    subject: Subject<'_>,
    plan: &Plan,
    aim: Aim,
    destination: Destination<'_>,
) -> Result<Forecast> {
    let checkpoint = subject.checkpoint;
    let manifest = laid_out(subject, plan, aim)?;
    refuse_own_source(checkpoint, destination.folder)?;
    disk::may_become(destination.folder, destination.replace, REPORT)?;
    let slots = slots::of(checkpoint, aim.target, &manifest)?;
    let folder = disk::finished_for(destination.folder);
    let there = folder.as_deref();
    let there = there.map_or_else(Finished::default, |of| job::finished(subject, plan, of));
    let written_bytes = folder.map_or(0, |folder| slots.there_bytes(&folder));
    let store_bytes = store_bytes((checkpoint, plan), &manifest, &slots);
    let there_bytes = there.bytes.saturating_add(written_bytes);
    let free_bytes = room(destination, manifest.total_bytes(), store_bytes, there_bytes)?;
    let is_dense = |storage: &Storage| matches!(storage, Storage::Dense { .. });
    Ok(Forecast {
        layers: manifest.entries.iter().filter(|entry| entry.is_compressed()).count(),
        finished: there.layers,
        coverage: coverage(checkpoint, &manifest),
        dense: manifest.entries.iter().filter(|entry| is_dense(&entry.storage)).count(),
        files: manifest.files.len() + manifest.texts.len() + manifest.copies.len(),
        weight_files: manifest.files.len(),
        output_bytes: manifest.total_bytes(),
        bits_per_weight: manifest.bits_per_weight(checkpoint),
        store_bytes,
        free_bytes,
        memory_bytes: job::memory_bytes(checkpoint, plan, destination.limits)?
            .max(job::refining_bytes(subject, plan)),
    })
}

/// The output of a plan, unless something keeps it from being carried out or from loading.
pub(super) fn laid_out(subject: Subject<'_>, plan: &Plan, aim: Aim) -> Result<Manifest> {
    let checkpoint = subject.checkpoint;
    if checkpoint.has_adapter() {
        return Err(Error::plan(
            format!("{} is a finished output with an adapter", checkpoint.path().display()),
            "convert it, or export from the checkpoint it was made from",
        ));
    }
    let manifest = Manifest::new(checkpoint, plan, aim.target)?;
    let manifest = manifest.weighted(checkpoint, plan, subject.importance().as_ref())?;
    let manifest = manifest.in_shards(checkpoint, aim)?;
    refuse_errors(&Case { checkpoint, plan, aim, entries: &manifest.entries })?;
    subject.check_plan(plan)?;
    Ok(manifest)
}

/// Bytes of the finished layers that lie beside the output while it is written, at most: all but what has a slot in it.
pub(super) fn store_bytes(
    (checkpoint, plan): (&Checkpoint, &Plan),
    manifest: &Manifest,
    slots: &Slots,
) -> u64 {
    // By what outputs were divided is stored too, where anything was.
    let is_changed = |entry: &&Entry| matches!(entry.storage, Storage::Changed { .. });
    let has_divisors = is_joint(plan);
    let divisors = |outputs: u64| {
        if has_divisors { outputs.saturating_mul(4) + STORED_HEADER_BYTES } else { 0 }
    };
    let of_layer = |entry: &Entry| {
        if is_changed(&entry) {
            let outputs = checkpoint.tensors()[entry.tensor].shape.0.iter().max();
            let divisors = divisors(outputs.map_or(0, |&outputs| outputs as u64));
            return Some((entry.bytes + STORED_HEADER_BYTES).saturating_add(divisors));
        }
        let (layout, matrix) = (entry.layout.as_ref()?, checkpoint.tensors()[entry.tensor].matrix?);
        let parts = archive::specs("", layout, matrix.shape);
        let bytes = parts.iter().map(|part| part.bytes().unwrap_or(u64::MAX));
        let first = STORED_HEADER_BYTES.saturating_add(divisors(matrix.shape.rows as u64));
        Some(bytes.fold(first, u64::saturating_add))
    };
    let all = manifest.entries.iter().filter_map(of_layer).fold(0, u64::saturating_add);
    all.saturating_sub(slots.bytes())
}

/// Refuses a disk without room for the output and for the finished layers, as far as both are not there yet; gives what is
/// free.
pub(super) fn room(
    destination: Destination<'_>,
    output_bytes: u64,
    store_bytes: u64,
    there_bytes: u64,
) -> Result<u64> {
    let needed_bytes = output_bytes.saturating_add(store_bytes).saturating_sub(there_bytes);
    let allowed_bytes = disk::free_bytes(destination.folder)?;
    if needed_bytes > allowed_bytes {
        let what = format!("writing {}", destination.folder.display());
        return Err(Error::Limit { what, needed_bytes, allowed_bytes });
    }
    Ok(allowed_bytes)
}
