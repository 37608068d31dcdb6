//! Layers of a block refined together (PV-Tuning, Malinovskii et al. 2024, with the error of a block as its objective).
//!
//! When all layers of a block are compressed, those whose chain ends in a step that asks for it move on together, for the
//! least φ = Σ over tokens of ‖block(x; Ŵ) − block(x; W)‖². What enters the block, x, is what a calibration kept of a run in
//! which the blocks before were compressed ([`crate::job::Sequential`]); what it should give is remade from that. So
//! whoever has plan and calibration makes the same bytes: the run itself, an export, and one that goes on.

mod foretold;
mod hold;
mod objective;
mod walk;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use crate::calibration::Stream;
use crate::checkpoint::Checkpoint;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::fold::Settled;
use crate::job::refined::objective::{Objective, Steps};
use crate::job::refined::walk::{Layer, PASSES, Walk};
use crate::job::{Limits, Store, StoreWeights, Subject};
use crate::method::chain_refinement;
use crate::network::{CheckpointWeights, Network};
use crate::observer::Observer;
use crate::plan::Plan;

pub use foretold::refining_bytes;
pub(super) use foretold::seconds as refining_seconds;

/// Tokens that pass through a block at once, with what the way back needs of them.
const BATCH_TOKENS: u64 = 2048;

/// The layers of `layers` that are refined, by block.
pub(super) fn blocks(
    checkpoint: &Checkpoint,
    plan: &Plan,
    layers: &[usize],
) -> BTreeMap<u32, Vec<usize>> {
    let mut blocks: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &layer in layers {
        let tensor = &checkpoint.tensors()[layer];
        let steps = &plan.assignment(&tensor.name).steps;
        if let (Some(block), Some(_)) = (tensor.place.block, chain_refinement(steps)) {
            blocks.entry(block).or_default().push(layer);
        }
    }
    blocks
}

/// The blocks of which a plan refines layers.
pub fn refined_blocks(checkpoint: &Checkpoint, plan: &Plan) -> Vec<u32> {
    let all: Vec<usize> = (0..checkpoint.tensors().len()).collect();
    blocks(checkpoint, plan, &all).into_keys().collect()
}

/// Working memory that refining layers of a block takes, in bytes, but for what enters it: its weights twice, derivatives and
/// products of inputs of the layers, what holds them, and of a batch of tokens some four times what its layers give.
fn needed_bytes(checkpoint: &Checkpoint, (block, layers): (u32, &[usize])) -> u64 {
    let matrix = |layer: &usize| checkpoint.tensors()[*layer].matrix.map(|matrix| matrix.shape);
    let of_block = |at: &usize| checkpoint.tensors()[*at].place.block == Some(block);
    let all: Vec<usize> = (0..checkpoint.tensors().len()).filter(of_block).collect();
    let weights: u64 = all.iter().filter_map(matrix).map(|shape| shape.elements() as u64).sum();
    let outputs: u64 = all.iter().filter_map(matrix).map(|shape| shape.rows as u64).sum();
    let own = layers.iter().filter_map(matrix);
    let own: u64 =
        own.map(|shape| 6 * shape.elements() as u64 + 2 * (shape.cols as u64).pow(2)).sum();
    4 * (2 * weights + own + 4 * outputs * BATCH_TOKENS)
}

/// What enters a block, and what it should make of that.
fn stream_bytes(tokens: u64, hidden: u64) -> u64 {
    tokens.saturating_mul(hidden).saturating_mul(8)
}

/// The most rounds that one of these layers asks for.
fn most_rounds(checkpoint: &Checkpoint, plan: &Plan, layers: &[usize]) -> usize {
    let of = |&layer: &usize| {
        let assignment = plan.assignment(&checkpoint.tensors()[layer].name);
        chain_refinement(&assignment.steps).map(|refinement| refinement.rounds)
    };
    layers.iter().filter_map(of).max().unwrap_or(0)
}

/// A block whose layers are refined.
pub(super) struct Refined<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) settled: &'a Settled<'a>,
    /// Everything else of the block as it was compressed.
    pub(super) store: &'a Store,
    pub(super) limits: Limits,
}

impl Refined<'_> {
    /// Refines layers of a block that were compressed one by one, each with its encoding.
    ///
    /// Never worse: codes, entries and scales only go where φ, of the numbers as they are stored, with what holds the layers near to
    /// where they began ([`hold`]) is less. A round takes at most
    /// 8 steps of entries and scales (*P*: L-BFGS in units of their curvatures), then 8 of codes (*V*: the runs of inputs that
    /// gain most by the quadratic model of φ move a code each; twentieth of all at first, more where that was right, less
    /// where it was not). Deterministic, on any number of threads.
    ///
    /// Cost: some 20 passes there and back of all tokens a round. Memory: 8 bytes for each token and value of the stream, and
    /// some 40 a weight of the block.
    pub(super) fn run(
        &self,
        block: u32,
        encodings: Vec<(usize, Encoding)>,
        observer: &dyn Observer,
    ) -> Result<Vec<(usize, Encoding)>> {
        let checkpoint = self.subject.checkpoint;
        let layers: Vec<usize> = encodings.iter().map(|(layer, _)| *layer).collect();
        let stream = self.stream(block, &layers)?;
        let config = checkpoint.config().ok_or_else(|| {
            Error::plan("a model without config.json has no blocks to run", "add its config.json")
        })?;
        let original = CheckpointWeights::new(checkpoint);
        let compressed = StoreWeights::new(checkpoint, self.store);
        let networks = [Network::open(config, &original)?, Network::open(config, &compressed)?];
        let rounds = most_rounds(checkpoint, &self.settled.plan, &layers);
        let tokens: usize = stream.lengths().iter().flatten().sum();
        let progress = Steps {
            item: format!("block {block}"),
            done: AtomicU64::default(),
            total: (tokens * rounds * PASSES) as u64,
        };
        let mut shapes = Vec::new();
        let mut own = Vec::new();
        for (layer, encoding) in &encodings {
            let name = &checkpoint.tensors()[*layer].name;
            let Encoding::Additive(additive) = encoding else {
                return Err(Error::Unsupported {
                    what: format!("refining {name}, no sum of entries,"),
                });
            };
            shapes.push((name.clone(), (additive.shape().rows, additive.shape().cols)));
            own.push(Layer::new(additive));
        }
        let [original, compressed] = &networks;
        let of = (block as usize, &stream);
        let objective = Objective::new([original, compressed], of, (shapes, progress), observer)?;
        let mut walk = Walk::new(objective, own, observer)?;
        walk.go(rounds)?;
        let refined = walk.finish().into_iter().map(|layer| Encoding::Additive(layer.finish()));
        Ok(layers.into_iter().zip(refined).collect())
    }

    /// What entered the block, where it was kept and there is memory for it.
    fn stream(&self, block: u32, layers: &[usize]) -> Result<Stream> {
        let stream = self.subject.calibrated.stream(block).ok_or_else(|| {
            let what = format!("what enters block {block} was not kept, or is damaged");
            Error::plan(what, "calibrate again with this plan, block by block")
        })?;
        let tokens: usize = stream.lengths().iter().flatten().sum();
        let hidden = stream.get(0).map_or(0, |x| x.ncols());
        let own = needed_bytes(self.subject.checkpoint, (block, layers));
        let needed_bytes = own.saturating_add(stream_bytes(tokens as u64, hidden as u64));
        if needed_bytes > self.limits.memory_bytes {
            let what = format!("refining block {block}");
            return Err(Error::Limit {
                what,
                needed_bytes,
                allowed_bytes: self.limits.memory_bytes,
            });
        }
        Ok(stream)
    }
}
