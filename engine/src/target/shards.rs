//! The weights of an output dealt out to files of a wished size, in the names and with the index that transformers
//! writes.

use std::collections::BTreeMap;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::format::safetensors::{FilePlan, Spec};
use crate::target::adapter::own_specs;
use crate::target::{Entry, OutputFile, Target, WeightFile};

/// Bytes that the header's length, its brackets and its padding take at most, with the framework's name.
const HEADER_BYTES: u64 = 64;

/// Bytes that a header's entry takes at most beside name and extents: type, two offsets of 20 digits, punctuation.
const ENTRY_BYTES: u64 = 96;

/// Refuses a size of files where an output has none to choose.
///
/// # Errors
/// [`Error::Plan`] for archives that are copied, whose layers are told in the header of the file that holds them.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<()> {
    if checkpoint.is_archive() {
        return Err(Error::plan(
            format!("{} is an archive, whose files stay as they are", checkpoint.path().display()),
            "keep the files of the source, or unpack it first",
        ));
    }
    Ok(())
}

/// Files of at most `limit_bytes`, header included, in the order of the tensors.
///
/// Tensors of one module stay in one file; a module larger than that has a file of its own, as with transformers. One
/// file is called `model.safetensors`, several are numbered.
///
/// # Errors
/// Those of [`FilePlan::new`].
pub(super) fn files(
    checkpoint: &Checkpoint,
    target: &dyn Target,
    entries: &[Entry],
    limit_bytes: u64,
) -> Result<Vec<OutputFile>> {
    let mut shards: Vec<Vec<&Entry>> = Vec::new();
    let mut held_bytes = u64::MAX;
    let module = |entry: &&Entry| module_of(&checkpoint.tensors()[entry.tensor].name);
    let entries: Vec<&Entry> = entries.iter().collect();
    for unit in entries.chunk_by(|a, b| module(a) == module(b)) {
        let bytes = most_bytes(checkpoint, target, unit);
        match shards.last_mut() {
            Some(shard) if held_bytes.saturating_add(bytes) <= limit_bytes => {
                shard.extend(unit);
                held_bytes += bytes;
            }
            _ => {
                shards.push(unit.to_vec());
                held_bytes = bytes.saturating_add(HEADER_BYTES);
            }
        }
    }
    let count = shards.len();
    let file = |(at, shard): (usize, Vec<&Entry>)| {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        let specs = shard.iter().flat_map(|entry| own_specs(checkpoint, entry));
        let specs = specs.cloned().collect();
        let plan = FilePlan::new(specs, &metadata(checkpoint, target, &shard))?;
        Ok(OutputFile { name, plan: WeightFile::Safetensors(plan) })
    };
    shards.into_iter().enumerate().map(file).collect()
}

/// What a tensor's name says of the module it belongs to: all but the last word.
fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// Entries of the header's free-form metadata: those of the files the tensors come from, and the target's.
fn metadata(
    checkpoint: &Checkpoint,
    target: &dyn Target,
    entries: &[&Entry],
) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::new();
    let mut files: Vec<usize> =
        entries.iter().map(|entry| checkpoint.tensors()[entry.tensor].file).collect();
    files.dedup();
    for &file in files.iter().rev() {
        metadata.extend(checkpoint.files()[file].metadata.clone());
    }
    metadata.extend(target.metadata(checkpoint, files.first().copied().unwrap_or(0), entries));
    // transformers refuses files that do not name a framework.
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
    metadata
}

/// The most bytes that entries add to a file: their tensors, and what the header says of them.
fn most_bytes(checkpoint: &Checkpoint, target: &dyn Target, entries: &[&Entry]) -> u64 {
    // Texts within the header are texts in quotes.
    let quoted = |text: &str| 8 + serde_json::to_string(text).map_or(0, |text| text.len()) as u64;
    let of_spec = |spec: &Spec| ENTRY_BYTES + quoted(&spec.name) + 21 * spec.shape.0.len() as u64;
    let said: u64 = metadata(checkpoint, target, entries)
        .iter()
        .map(|(key, text)| quoted(key) + quoted(text))
        .sum();
    let specs: Vec<&Spec> = entries.iter().flat_map(|entry| own_specs(checkpoint, entry)).collect();
    let told: u64 = specs.iter().map(|spec| of_spec(spec)).sum();
    let bytes = specs.iter().map(|spec| spec.bytes().unwrap_or(u64::MAX));
    bytes.fold(told + said, u64::saturating_add)
}
