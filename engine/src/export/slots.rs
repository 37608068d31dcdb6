//! Which parts of encodings stand in the output's files as they are, and where: those are written there as soon as a layer is
//! compressed, see [`Slots`].

use std::collections::HashMap;

use crate::checkpoint::{Checkpoint, RowOrder};
use crate::disk::{self, NewFile, NewFolder};
use crate::encoding::Layout;
use crate::error::Result;
use crate::export::Work;
use crate::format::safetensors::{FilePlan, Spec};
use crate::job::{Slot, Slots};
use crate::target::{Content, Entry, GgufFile, Manifest, Ready, Storage, Target, WeightFile};

/// The part that blocks of llama.cpp have.
const BLOCKS: &str = "blocks";

/// The slots of the files of a manifest.
pub(super) fn of(
    checkpoint: &Checkpoint,
    target: &dyn Target,
    manifest: &Manifest,
) -> Result<Slots> {
    let mut slots = Slots::default();
    for file in &manifest.files {
        match &file.plan {
            WeightFile::Safetensors(plan) => {
                add_parts(&mut slots, (checkpoint, target, manifest), (&file.name, plan))?;
            }
            WeightFile::Gguf(plan) => add_blocks(&mut slots, manifest, (&file.name, plan)),
        }
    }
    Ok(slots)
}

/// The parts that are tensors of a safetensors file.
fn add_parts(
    slots: &mut Slots,
    (checkpoint, target, manifest): (&Checkpoint, &dyn Target, &Manifest),
    (name, plan): (&str, &FilePlan),
) -> Result<()> {
    let entries = entries_by_name(manifest);
    let file = Slots::file_name(name, plan.header());
    let mut at = plan.header_bytes();
    for spec in &plan.specs {
        let bytes = spec.bytes()?;
        if let Some(entry) = entries.get(spec.name.as_str())
            && let Some(part) = part(checkpoint, target, entry, spec)
        {
            let slot = Slot { file: file.clone(), file_bytes: plan.file_bytes(), at, bytes };
            slots.add(entry.tensor, &part, slot);
        }
        at += bytes;
    }
    Ok(())
}

/// Which entry a tensor of the output is of.
pub(super) fn entries_by_name(manifest: &Manifest) -> HashMap<&str, &Entry> {
    let entries = manifest.entries.iter();
    entries
        .flat_map(|entry| entry.specs.iter().map(move |spec| (spec.name.as_str(), entry)))
        .collect()
}

/// The part of a layer's encoding that a tensor of the output is.
fn part(
    checkpoint: &Checkpoint,
    target: &dyn Target,
    entry: &Entry,
    spec: &Spec,
) -> Option<String> {
    let layout = entry.layout.as_ref().filter(|_| entry.storage == Storage::Native)?;
    match target.ready(&checkpoint.tensors()[entry.tensor], layout, &spec.name)? {
        Ready::Part(part) => Some(part),
        Ready::Bytes(_) => None,
    }
}

/// The blocks of matrices whose rows keep their order.
fn add_blocks(slots: &mut Slots, manifest: &Manifest, (name, file): (&str, &GgufFile)) {
    let file_name = Slots::file_name(name, file.plan.header());
    let tensors = file.plan.tensors().iter().zip(file.plan.offsets()).zip(&file.contents);
    for (((_, bytes), first), content) in tensors {
        for (tensor, at, bytes) in matrices(manifest, content, first, *bytes) {
            let file_bytes = file.plan.file_bytes();
            slots.add(tensor, BLOCKS, Slot { file: file_name.clone(), file_bytes, at, bytes });
        }
    }
}

/// The matrices of a tensor at `first` that are blocks as they were computed, each with its place; none where one is not.
fn matrices(
    manifest: &Manifest,
    content: &Content,
    first: u64,
    bytes: u64,
) -> Vec<(usize, u64, u64)> {
    let Content::Matrices { tensors, rows: RowOrder::Kept } = content else { return Vec::new() };
    let is_ready = |&tensor: &usize| {
        let entry = &manifest.entries[tensor];
        entry.storage == Storage::Native && matches!(entry.layout, Some(Layout::Blocks(_)))
    };
    if !tensors.iter().all(is_ready) {
        return Vec::new();
    }
    let each = bytes / tensors.len().max(1) as u64;
    let places = (0..).map(|nth: u64| first + nth * each);
    tensors.iter().zip(places).map(|(&tensor, at)| (tensor, at, each)).collect()
}

/// Begins a weight file, over what layers were written into it when they were compressed.
pub(super) fn begin(folder: &NewFolder, name: &str, header: &[u8]) -> Result<NewFile> {
    let begun = folder.finished_parts().join(Slots::file_name(name, header));
    if disk::file_bytes(&begun).is_err() {
        return folder.file(name);
    }
    folder.adopt(&begun, name)?;
    NewFile::over(&folder.path().join(name))
}

/// Whether a tensor of a safetensors file that begins at `at` was written into it when its layer was compressed.
pub(super) fn is_there(work: &Work<'_>, (entry, spec): (&Entry, &Spec), at: u64) -> bool {
    let part = part(work.checkpoint, work.target, entry, spec);
    part.is_some_and(|part| is_filled(work, (entry.tensor, &part), at))
}

/// The same of a tensor of `bytes` bytes of a GGUF file.
pub(super) fn are_there(work: &Work<'_>, content: &Content, at: u64, bytes: u64) -> bool {
    let matrices = matrices(work.manifest, content, at, bytes);
    let is_there = |(tensor, at, _): &(usize, u64, u64)| is_filled(work, (*tensor, BLOCKS), *at);
    !matrices.is_empty() && matrices.iter().all(is_there)
}

fn is_filled(work: &Work<'_>, (tensor, part): (usize, &str), at: u64) -> bool {
    let slot = work.slots.get(tensor, part).filter(|slot| slot.at == at);
    slot.is_some_and(|slot| work.encodings.slot(tensor, part).as_ref() == Some(slot))
}
