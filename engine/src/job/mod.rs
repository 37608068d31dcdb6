//! A plan applied to a checkpoint: tensor by tensor under a memory limit, into a store. In: checkpoint, plan.
//! Out: a [`Store`] of finished encodings, and the weights of a network made of it. Never knows what file they will be
//! written to.

mod calibrated;
mod capacity;
mod cuts;
mod damage;
mod encoded;
mod folded;
mod importance;
mod in_turn;
mod kept;
mod levels;
mod outputs;
mod pace;
mod preview;
mod refined;
mod slots;
mod spares;
mod store;
mod weights;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};

pub use calibrated::{Calibrated, Measured, Renamed, Subject, Uncalibrated};
pub use capacity::{Held, Source, by_bits, capacity, entropy_coded, forms, hold, holders};
pub use cuts::cuts;
pub use damage::{Curve, Damage, Moments, Sample, Weighting, curves};
pub use encoded::Encodings;
pub use folded::{carried_weights, folded_factors, freed_weights};
pub use in_turn::Sequential;
pub use kept::{Finished, finished, resume};
pub use levels::{Level, Levels};
pub use pace::{Pace, pace};
pub use preview::{Grid, Preview, preview};
pub use refined::{refined_blocks, refining_bytes};
pub use slots::{Slot, Slots};
pub use store::Store;
pub use weights::StoreWeights;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::fold::{self, Settled};
use crate::job::folded::{Alone, Divisors};
use crate::job::refined::Refined;
use crate::job::spares::Spares;
use crate::method::{self, Needs, Step, Task};
use crate::observer::{Observer, Progress, Unit};
use crate::plan::Plan;

/// Bytes of working memory a weight takes while its layer is compressed: the matrix and one copy in f32, the
/// decoded values under a mask, an order of 32-bit indices, codes and packed codes.
const WORKING_BYTES_PER_WEIGHT: u64 = 20;

/// Bytes of working memory that an entry of a layer's Gram matrix takes: half of it in f64, and where it is turned three
/// whole copies in f64; factors and inverses take less.
const GRAM_BYTES_PER_ENTRY: u64 = 4 + 3 * 8;

/// How a job may use the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Working memory for the tensors in flight, in bytes.
    pub memory_bytes: u64,
}

impl Default for Limits {
    /// 4 GiB: a layer of 200 million weights.
    fn default() -> Self {
        Self { memory_bytes: 4 << 30 }
    }
}

/// Compresses every layer the plan does not keep, and stores the results in a temporary folder in `scratch`, with what
/// changes beside them: norms, biases, and layers whose rows take scales.
///
/// Layers are taken in the checkpoint's order, as many at once as fit the memory limit; what is stored does not
/// depend on how many.
///
/// # Errors
/// [`Error::Limit`] for a layer that does not fit the memory limit, [`Error::Plan`] for one of whose inputs too little
/// is known, before anything is computed;
/// [`Error::Numeric`] for weights that are not finite; [`Error::Cancelled`]; whatever reading and writing say.
pub fn run<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    limits: Limits,
    scratch: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Store> {
    let subject = subject.into();
    let checkpoint = subject.checkpoint;
    plan.refuse_removal()?;
    plan.check(checkpoint)?;
    let settled = fold::settle(checkpoint, plan);
    settled.plan.check(checkpoint)?;
    subject.check_plan(&settled.plan)?;
    let store = Store::create(scratch)?;
    let layers = layers_to_store(checkpoint, &settled);
    compress_into(&store, (subject, &settled), &layers, limits, observer)?;
    Ok(store)
}

/// Compresses some layers into a store, as many at once as fit the memory limit, behind what takes their scales.
fn compress_into(
    store: &Store,
    (subject, settled): (Subject<'_>, &Settled<'_>),
    layers: &[usize],
    limits: Limits,
    observer: &dyn Observer,
) -> Result<()> {
    let (checkpoint, plan) = (subject.checkpoint, settled.plan.as_ref());
    let refined = refined::blocks(checkpoint, plan, layers);
    let together: HashSet<usize> = refined.values().flatten().copied().collect();
    let apart: Vec<usize> = layers.iter().copied().filter(|l| !together.contains(l)).collect();
    let divisors = folded::divide(store, (subject, settled), layers, observer)?;
    let total_bytes = layers.iter().map(|&layer| checkpoint.tensors()[layer].bytes()).sum();
    let job = Compressing {
        subject,
        settled,
        divisors: &divisors,
        limits,
        done_bytes: AtomicU64::new(0),
        total_bytes,
        spares: Spares::default(),
    };
    job.layers(&apart, &|layer, encoding| store.put(layer, &encoding), observer)?;
    for (block, layers) in refined {
        let made: Mutex<BTreeMap<usize, Encoding>> = Mutex::default();
        let hold = |layer: usize, encoding: Encoding| {
            made.lock().unwrap_or_else(PoisonError::into_inner).insert(layer, encoding);
            Ok(())
        };
        job.layers(&layers, &hold, observer)?;
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let refining = Refined { subject, settled, store, limits };
        for (layer, encoding) in refining.run(block, made.into_iter().collect(), observer)? {
            store.put(layer, &encoding)?;
        }
    }
    Ok(())
}

/// Layers being compressed, each by itself.
struct Compressing<'a> {
    subject: Subject<'a>,
    settled: &'a Settled<'a>,
    divisors: &'a Divisors,
    limits: Limits,
    /// Bytes of the layers that are done, and of all.
    done_bytes: AtomicU64,
    total_bytes: u64,
    spares: Spares,
}

impl Compressing<'_> {
    /// Compresses some layers, and gives each to `put` when it is finished, in any order.
    fn layers(
        &self,
        layers: &[usize],
        put: &(dyn Fn(usize, Encoding) -> Result<()> + Sync),
        observer: &dyn Observer,
    ) -> Result<()> {
        let (subject, plan) = (self.subject, self.settled.plan.as_ref());
        let checkpoint = subject.checkpoint;
        let Self { divisors, ref done_bytes, total_bytes, ref spares, .. } = *self;
        let parameters = |&layer: &usize| checkpoint.tensors()[layer].parameters() as usize;
        for batch in batches(checkpoint, plan, layers, self.limits)? {
            spares.keep_for(batch.iter().map(parameters));
            batch.par_iter().try_for_each(|&layer| {
                observer.go_on()?;
                let tensor = &checkpoint.tensors()[layer];
                checkpoint.check_unchanged(tensor.file)?;
                let progress = Layer { observer, tensor, done_bytes, total_bytes };
                progress.report(0);
                let observer: &dyn Observer = &progress;
                let run = |steps: &[Step], task: &Task<'_>| match divisors.inputs.get(&layer) {
                    Some(by) => method::run_chain_divided(steps, task, by),
                    None => method::run_chain(steps, task),
                };
                let rows = divisors.rows.get(&layer).map(|by| by.as_slice());
                let by = Chain { run: &run, rows, spares };
                let encoding = compress_by(subject, plan, layer, (&by, observer))?;
                observer.go_on()?;
                put(layer, encoding)?;
                done_bytes.fetch_add(tensor.bytes(), Ordering::Relaxed);
                progress.report(0);
                Ok::<(), Error>(())
            })?;
        }
        Ok(())
    }
}

/// Says of one layer how far all are.
struct Layer<'a> {
    observer: &'a dyn Observer,
    tensor: &'a Tensor,
    /// Bytes of the layers that are done, and of all.
    done_bytes: &'a AtomicU64,
    total_bytes: u64,
}

impl Layer<'_> {
    fn report(&self, own_bytes: u64) {
        self.observer.progress(Progress {
            stage: "Compressing",
            item: self.tensor.name.clone(),
            done: self.done_bytes.load(Ordering::Relaxed) + own_bytes,
            total: self.total_bytes,
            unit: Unit::Bytes,
        });
    }
}

impl Observer for Layer<'_> {
    fn progress(&self, progress: Progress) {
        self.observer.progress(progress);
    }

    fn within(&self, share: f64) {
        self.report((share.clamp(0.0, 1.0) * self.tensor.bytes() as f64) as u64);
    }

    fn warn(&self, text: String) {
        self.observer.warn(text);
    }

    fn is_cancelled(&self) -> bool {
        self.observer.is_cancelled()
    }
}

/// Compresses one layer as the plan says, whatever becomes of others: scales that the plan folds are those of the layer
/// alone, and kept with it.
///
/// # Errors
/// Those of [`method::run_chain`]; what reading says.
pub fn compress_layer<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    layer: usize,
    observer: &dyn Observer,
) -> Result<Encoding> {
    let subject = subject.into();
    let name = &subject.checkpoint.tensors()[layer].name;
    let is_folded = method::chain_folds(&plan.assignment(name).steps);
    let alone = if is_folded { Alone::of(subject.checkpoint, layer) } else { Alone::default() };
    let run = |steps: &[Step], task: &Task<'_>| method::run_alone(steps, task, &alone);
    let by = Chain { run: &run, rows: None, spares: &Spares::default() };
    compress_by(subject, plan, layer, (&by, observer))
}

/// How a layer is compressed.
struct Chain<'r> {
    run: &'r dyn Fn(&[Step], &Task<'_>) -> Result<Encoding>,
    /// By what its rows are divided first.
    rows: Option<&'r [f32]>,
    spares: &'r Spares,
}

/// Compresses one layer. What is shared by fused layers is not: a chain that shares
/// leaves no row to itself, so its rows take no scales.
fn compress_by(
    Subject { checkpoint, calibrated }: Subject<'_>,
    plan: &Plan,
    layer: usize,
    (by, observer): (&Chain<'_>, &dyn Observer),
) -> Result<Encoding> {
    let tensor = &checkpoint.tensors()[layer];
    let spare = by.spares.take(tensor.parameters() as usize);
    let mut weights = checkpoint.weights_in(spare, layer, observer)?;
    if let Some(rows) = by.rows {
        folded::divide_rows(&mut weights, rows);
    }
    let assignment = plan.assignment(&tensor.name);
    let fused_peak = fused_peak(checkpoint, plan, layer, observer)?;
    let inputs = match method::chain_needs(&assignment.steps) {
        Needs::Weights => None,
        needs => calibrated.inputs(&tensor.name, needs)?,
    };
    let task = Task {
        tensor: &tensor.name,
        weights: weights.view(),
        dtype: tensor.dtype,
        previous: None,
        fused_peak,
        inputs: inputs.as_ref(),
        observer,
    };
    let encoding = (by.run)(&assignment.steps, &task);
    by.spares.give(weights);
    encoding
}

/// The largest |w| over the layers that a layer is fused with and that are to be compressed as it is, where its chain
/// asks for it. Weights that are not finite do not count: their own layer refuses them.
fn fused_peak(
    checkpoint: &Checkpoint,
    plan: &Plan,
    layer: usize,
    observer: &dyn Observer,
) -> Result<Option<f32>> {
    let own = plan.assignment(&checkpoint.tensors()[layer].name);
    let Some(group) = checkpoint.fused_group_of(layer) else {
        return Ok(None);
    };
    if !method::chain_shares_peak(&own.steps) {
        return Ok(None);
    }
    let mut peak = 0.0_f32;
    for &member in &group.members {
        if plan.assignment(&checkpoint.tensors()[member].name).steps != own.steps {
            continue;
        }
        let weights = checkpoint.weights(member, observer)?;
        let finite = weights.iter().filter(|weight| weight.is_finite());
        peak = finite.fold(peak, |peak, weight| peak.max(weight.abs()));
    }
    Ok(Some(peak))
}

fn layers_to_compress(checkpoint: &Checkpoint, plan: &Plan) -> Vec<usize> {
    let is_changed =
        |index: &usize| plan.get(&checkpoint.tensors()[*index].name).is_some_and(|a| !a.is_keep());
    (0..checkpoint.tensors().len()).filter(is_changed).collect()
}

/// The same, and the layers that are kept but for their rows, which are divided; in the checkpoint's order.
fn layers_to_store(checkpoint: &Checkpoint, settled: &Settled<'_>) -> Vec<usize> {
    let mut layers = layers_to_compress(checkpoint, &settled.plan);
    layers.extend(settled.kept_matrices(checkpoint));
    layers.sort_unstable();
    layers
}

/// Working memory for one layer, at most. With a Gram matrix: half of it as it was measured, its inverse's factor while
/// it is made in f64 and kept in f32, and the weights as they are walked along, twice in f64 or less.
fn needed_bytes(tensor: &Tensor, plan: &Plan) -> u64 {
    let bytes = tensor.parameters().saturating_mul(WORKING_BYTES_PER_WEIGHT);
    let (Some(matrix), Some(assignment)) = (tensor.matrix, plan.get(&tensor.name)) else {
        return bytes;
    };
    if method::chain_needs(&assignment.steps) < Needs::Gram {
        return bytes;
    }
    let cols = matrix.shape.cols as u64;
    let gram = cols.saturating_mul(cols).saturating_mul(GRAM_BYTES_PER_ENTRY);
    bytes.saturating_add(tensor.parameters().saturating_mul(16)).saturating_add(gram)
}

/// The most working memory that a job takes for layers it compresses at once.
///
/// # Errors
/// [`Error::Limit`] for a layer that does not fit the limit.
pub fn memory_bytes(checkpoint: &Checkpoint, plan: &Plan, limits: Limits) -> Result<u64> {
    let layers = layers_to_store(checkpoint, &fold::settle(checkpoint, plan));
    let of_layer = |layer: &usize| needed_bytes(&checkpoint.tensors()[*layer], plan);
    let batches = batches(checkpoint, plan, &layers, limits)?;
    Ok(batches.iter().map(|batch| batch.iter().map(of_layer).sum()).max().unwrap_or(0))
}

/// Runs of layers whose working memory together stays under the limit.
fn batches(
    checkpoint: &Checkpoint,
    plan: &Plan,
    layers: &[usize],
    limits: Limits,
) -> Result<Vec<Vec<usize>>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut held_bytes = u64::MAX;
    for &layer in layers {
        let tensor = &checkpoint.tensors()[layer];
        let needed_bytes = needed_bytes(tensor, plan);
        if needed_bytes > limits.memory_bytes {
            let what = format!("compressing tensor {}", tensor.name);
            return Err(Error::Limit { what, needed_bytes, allowed_bytes: limits.memory_bytes });
        }
        match batches.last_mut() {
            Some(batch) if held_bytes.saturating_add(needed_bytes) <= limits.memory_bytes => {
                batch.push(layer);
                held_bytes += needed_bytes;
            }
            _ => {
                batches.push(vec![layer]);
                held_bytes = needed_bytes;
            }
        }
    }
    Ok(batches)
}
