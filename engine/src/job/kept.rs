//! A job that goes on where another one of the same plan stopped: each finished layer lies in a folder under a name that
//! says whose it is and all that decides its bytes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use blake3::Hasher;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::disk;
use crate::error::Result;
use crate::fold::{self, Producer, Settled};
use crate::job::slots::{self, Slots};
use crate::job::store::Held;
use crate::job::{
    Limits, Store, Subject, compress_into, folded, layers_to_compress, layers_to_store, refined,
};
use crate::method;
use crate::observer::Observer;
use crate::plan::Plan;

/// The same as [`crate::job::run`], into a folder that outlives the job and may hold layers of an earlier one. Layers that
/// are there whole are taken over; what is damaged or of another plan, source or calibration is not. Says how many there
/// were. What is of none of its layers is removed: it would lie there for nothing until the job is finished. Parts that have a
/// slot in a file of the output are written there, into a file of the same folder that the output can become.
///
/// The source counts as the same where its files have the same places, lengths, times and numbers in the file system;
/// where the system does not tell these, nothing is taken over.
///
/// # Errors
/// Those of [`crate::job::run`].
pub fn resume<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    limits: Limits,
    (folder, slots): (&Path, &Slots),
    observer: &dyn Observer,
) -> Result<Store> {
    let subject = subject.into();
    let checkpoint = subject.checkpoint;
    plan.refuse_removal()?;
    plan.check(checkpoint)?;
    let settled = fold::settle(checkpoint, plan);
    settled.plan.check(checkpoint)?;
    subject.check_plan(&settled.plan)?;
    let Some(identity) = identity(subject) else {
        return crate::job::run(subject, plan, limits, Some(folder), observer);
    };
    let layers = layers_to_store(checkpoint, &settled);
    let names = names(&identity, checkpoint, &settled, &layers);
    remove_others(folder, &names)?;
    let store = Store::kept(folder, names, slots.clone());
    let mut left = Vec::new();
    for &layer in &layers {
        observer.go_on()?;
        if !take_over(&store, checkpoint, &settled, layer)? {
            left.push(layer);
        }
    }
    take_whole_blocks(checkpoint, &settled.plan, (&layers, &mut left));
    let there = layers.len() - left.len();
    if there > 0 {
        observer.warn(format!("going on: {there} of {} layers were finished before", layers.len()));
    }
    compress_into(&store, (subject, &settled), &left, limits, observer).inspect_err(|_error| {
        // What failed says more than that nothing could be removed either.
        slots::remove_unused(folder).ok();
    })?;
    Ok(store)
}

/// Of a block whose layers are refined together, all are left or none.
fn take_whole_blocks(
    checkpoint: &Checkpoint,
    plan: &Plan,
    (layers, left): (&[usize], &mut Vec<usize>),
) {
    for of_block in refined::blocks(checkpoint, plan, layers).into_values() {
        if of_block.iter().any(|layer| left.contains(layer)) {
            left.extend(of_block);
        }
    }
    left.sort_unstable();
    left.dedup();
}

/// Removes what other plans, sources and calibrations left in the folder, which this one will not take over.
fn remove_others(folder: &Path, names: &HashMap<Held, String>) -> Result<()> {
    let wanted: HashSet<&str> = names.values().map(String::as_str).collect();
    for (name, _) in disk::list_files(folder).unwrap_or_default() {
        if !wanted.contains(name.as_str()) && !slots::is_name(&name) {
            disk::remove_file(&folder.join(name))?;
        }
    }
    slots::remove_unused(folder)
}

/// Takes over what the folder holds of a layer, with what takes its scales and what it takes, if all of it is whole.
fn take_over(
    store: &Store,
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    layer: usize,
) -> Result<bool> {
    let tensor = &checkpoint.tensors()[layer];
    let Some(matrix) = tensor.matrix else { return Ok(false) };
    let layout = settled.plan.assignment(&tensor.name).layout(matrix.shape, tensor.dtype)?;
    let mut producers = settled.of(layer).into_iter().chain(settled.by_rows_of(layer));
    let has_scales = producers.all(|producer| folded::take_over(store, producer, checkpoint));
    Ok(has_scales && store.take_over(layer, layout, matrix.shape))
}

/// Layers of a plan that lie in a folder where [`resume`] looks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// How many; whether they are whole is seen when they are read.
    pub layers: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Looks which layers of a plan lie in a folder, without reading them.
pub fn finished(subject: Subject<'_>, plan: &Plan, folder: &Path) -> Finished {
    let Some(identity) = identity(subject) else { return Finished::default() };
    let there: HashMap<String, u64> =
        disk::list_files(folder).unwrap_or_default().into_iter().collect();
    let (checkpoint, settled) = (subject.checkpoint, fold::settle(subject.checkpoint, plan));
    let mut found = Finished::default();
    let compressed: HashSet<usize> = layers_to_compress(checkpoint, plan).into_iter().collect();
    for layer in layers_to_store(checkpoint, &settled) {
        if let Some(bytes) = there.get(&name(&identity, checkpoint, &settled, layer)) {
            found.layers += usize::from(compressed.contains(&layer));
            found.bytes += bytes;
        }
    }
    found
}

/// The names of the files of layers, and of what takes their scales.
fn names(
    identity: &str,
    checkpoint: &Checkpoint,
    settled: &Settled<'_>,
    layers: &[usize],
) -> HashMap<Held, String> {
    let of_layer =
        |&layer: &usize| (Held::Tensor(layer), name(identity, checkpoint, settled, layer));
    let mut names: HashMap<Held, String> = layers.iter().map(of_layer).collect();
    for producer in &settled.folds {
        let Some(&first) = producer.layers.first() else { continue };
        let of_first = name(identity, checkpoint, settled, first);
        for index in producer.vectors() {
            names.insert(Held::Tensor(index), format!("{index}-{of_first}"));
        }
        let divisors = Held::Divisors(producer.tensor());
        names.insert(divisors, format!("{}-divisors-{of_first}", producer.tensor()));
    }
    names
}

/// A hash of all that decides the bytes of every layer: this version of the methods, the source, the calibration. `None`
/// where a file of the source was changed, or the system does not say.
fn identity(subject: Subject<'_>) -> Option<String> {
    let checkpoint = subject.checkpoint;
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    text(&format!("lapidary layer {} of {}", method::VERSION, env!("CARGO_PKG_VERSION")));
    text(&subject.calibrated.key());
    for file in checkpoint.files() {
        text(&disk::absolute(file.path()).to_string_lossy());
        text(&format!("{:?}", file.identity()?));
    }
    for tensor in checkpoint.tensors() {
        let Tensor { name, dtype, shape, matrix, file, .. } = tensor;
        text(name);
        text(&format!("{dtype} {shape} {matrix:?} {file} {:?}", tensor.byte_ranges()));
    }
    Some(hasher.finalize().to_hex().to_string())
}

/// The name of a layer's file: a hash of the identity, the layer, what is done to it, and to those it shares a scale or
/// the scales of its inputs with, whose scales its rows take, or that its block is refined with.
fn name(identity: &str, checkpoint: &Checkpoint, settled: &Settled<'_>, layer: usize) -> String {
    let (tensors, plan) = (checkpoint.tensors(), &settled.plan);
    let own = &tensors[layer].name;
    let group = checkpoint.fused_group_of(layer);
    let group = group.filter(|_| method::chain_shares_peak(&plan.assignment(own).steps));
    let fused = group.iter().flat_map(|group| &group.members);
    let producers: Vec<&Producer> =
        settled.of(layer).into_iter().chain(settled.by_rows_of(layer)).collect();
    let behind = producers.iter().flat_map(|producer| &producer.layers);
    let block = tensors[layer].place.block;
    let is_refined =
        block.is_some() && method::chain_refinement(&plan.assignment(own).steps).is_some();
    let of_block: Vec<usize> = (0..tensors.len())
        .filter(|&at| {
            is_refined && tensors[at].matrix.is_some() && tensors[at].place.block == block
        })
        .collect();
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    text(identity);
    for producer in &producers {
        text(&format!("{:?}", producer.divides));
        // A layer whose rows must not lose a bit takes other scales.
        let matrix = producer.matrix().map(|matrix| &tensors[matrix].name);
        let is_kept = matrix.is_some_and(|matrix| plan.assignment(matrix).is_keep());
        text(&format!("{is_kept}"));
    }
    for &member in std::iter::once(&layer).chain(fused).chain(behind).chain(&of_block) {
        let name = &tensors[member].name;
        text(name);
        text(&serde_json::to_string(&plan.assignment(name).steps).unwrap_or_default());
    }
    format!("{}.safetensors", hasher.finalize().to_hex())
}
