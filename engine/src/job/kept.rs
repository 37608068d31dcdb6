//! A job that goes on where another one of the same plan stopped: each finished layer lies in a folder under a name that
//! says whose it is and all that decides its bytes.

use std::collections::HashMap;
use std::path::Path;

use blake3::Hasher;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::Result;
use crate::job::{Limits, Store, Subject, compress_into, layers_to_compress};
use crate::method;
use crate::observer::Observer;
use crate::plan::Plan;

/// One more with every change of what a method makes of the same weights.
const VERSION: u32 = 1;

/// The same as [`crate::job::run`], into a folder that outlives the job and may hold layers of an earlier one. Layers that
/// are there whole are taken over; what is damaged or of another plan, source or calibration is not. Says how many there
/// were.
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
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Store> {
    let subject = subject.into();
    let checkpoint = subject.checkpoint;
    plan.check(checkpoint)?;
    subject.check_plan(plan)?;
    let Some(identity) = identity(subject) else {
        return crate::job::run(subject, plan, limits, Some(folder), observer);
    };
    let layers = layers_to_compress(checkpoint, plan);
    let names = layers.iter().map(|&layer| (layer, name(&identity, checkpoint, plan, layer)));
    let names: HashMap<usize, String> = names.collect();
    let store = Store::kept(folder, names);
    let mut left = Vec::new();
    for &layer in &layers {
        observer.go_on()?;
        let tensor = &checkpoint.tensors()[layer];
        let assignment = plan.assignment(&tensor.name);
        let is_there = match tensor.matrix {
            Some(matrix) => {
                let layout = assignment.layout(matrix.shape, tensor.dtype)?;
                store.take_over(layer, layout, matrix.shape)
            }
            None => false,
        };
        if !is_there {
            left.push(layer);
        }
    }
    let there = layers.len() - left.len();
    if there > 0 {
        observer.warn(format!("going on: {there} of {} layers were finished before", layers.len()));
    }
    compress_into(&store, (subject, plan), &left, limits, observer)?;
    Ok(store)
}

/// How many layers of a plan lie in a folder where [`resume`] looks for them. Does not read them.
pub fn finished(subject: Subject<'_>, plan: &Plan, folder: &Path) -> usize {
    let Some(identity) = identity(subject) else { return 0 };
    let there = crate::disk::list_files(folder).unwrap_or_default();
    let there: std::collections::HashSet<String> =
        there.into_iter().map(|(name, _)| name).collect();
    let layers = layers_to_compress(subject.checkpoint, plan);
    let names = layers.iter().map(|&layer| name(&identity, subject.checkpoint, plan, layer));
    names.filter(|name| there.contains(name)).count()
}

/// A hash of all that decides the bytes of every layer: this version of the methods, the source, the calibration. `None`
/// where a file of the source was changed, or the system does not say.
fn identity(subject: Subject<'_>) -> Option<String> {
    let checkpoint = subject.checkpoint;
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    text(&format!("lapidary layer {VERSION} of {}", env!("CARGO_PKG_VERSION")));
    text(&subject.calibrated.key());
    for file in checkpoint.files() {
        text(&crate::disk::absolute(file.path()).to_string_lossy());
        text(&format!("{:?}", file.identity()?));
    }
    for tensor in checkpoint.tensors() {
        let Tensor { name, dtype, shape, matrix, file, .. } = tensor;
        text(name);
        text(&format!("{dtype} {shape} {matrix:?} {file} {:?}", tensor.byte_range()));
    }
    Some(hasher.finalize().to_hex().to_string())
}

/// The name of a layer's file: a hash of the identity, the layer, what is done to it, and to those it shares a scale
/// with.
fn name(identity: &str, checkpoint: &Checkpoint, plan: &Plan, layer: usize) -> String {
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    let steps =
        |name: &str| serde_json::to_string(&plan.assignment(name).steps).unwrap_or_default();
    let tensors = checkpoint.tensors();
    let own = &tensors[layer].name;
    text(identity);
    text(own);
    text(&steps(own));
    let group = checkpoint.fused_group_of(layer);
    let group = group.filter(|_| method::chain_shares_peak(&plan.assignment(own).steps));
    for &member in group.iter().flat_map(|group| &group.members) {
        text(&tensors[member].name);
        text(&steps(&tensors[member].name));
    }
    format!("{}.safetensors", hasher.finalize().to_hex())
}
