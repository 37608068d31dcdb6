//! Sequential compression: each block is compressed with what it receives behind the compressed blocks before it.

use std::path::Path;

use crate::calibration::{Calibration, Folder, InTurn, Part};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::fold::{self, Settled};
use crate::job::{Limits, Measured, Store, StoreWeights, Subject, compress_into, layers_to_store};
use crate::method::{Needs, chain_needs, chain_refinement};
use crate::observer::Observer;
use crate::plan::Plan;

/// A plan carried out block by block while a calibration runs, as GPTQ does (Frantar et al. 2023): the text goes on
/// through what became of a block, and the next is compressed with what it then receives. All layers of a block are
/// measured at once, in front of its original layers.
///
/// Given to a calibration as [`crate::calibration::Behind`]. What that keeps is what the layers received on the way, so
/// that [`crate::job::run`] with it makes the same encodings again. Memory: the Gram matrices of one block, and what
/// [`crate::job::run`] takes for its layers. Layers that lie outside the blocks are compressed before the first where
/// they need no data, as embeddings; the head stays as it is until the calibration is done.
#[derive(Debug)]
pub struct Sequential<'a> {
    checkpoint: &'a Checkpoint,
    settled: Settled<'a>,
    limits: Limits,
    store: Store,
}

impl<'a> Sequential<'a> {
    /// Compresses what lies before the blocks, and makes room in `scratch` for the rest.
    ///
    /// # Errors
    /// Those of [`crate::job::run`] for these layers; [`Error::Plan`] for a plan that does not fit the checkpoint.
    pub fn new(
        checkpoint: &'a Checkpoint,
        plan: &'a Plan,
        limits: Limits,
        scratch: Option<&Path>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        plan.refuse_removal()?;
        plan.check(checkpoint)?;
        let settled = fold::settle(checkpoint, plan);
        settled.plan.check(checkpoint)?;
        let made = Self { checkpoint, settled, limits, store: Store::create(scratch)? };
        let layers = made.layers(None).into_iter().filter(|&layer| {
            let assignment = plan.assignment(&checkpoint.tensors()[layer].name);
            chain_needs(&assignment.steps) == Needs::Weights
        });
        let layers: Vec<usize> = layers.collect();
        let subject = Subject::from(checkpoint);
        compress_into(&made.store, (subject, &made.settled), &layers, limits, observer)?;
        Ok(made)
    }

    /// The weights of the network as far as it is compressed.
    pub fn weights(&self) -> StoreWeights<'_> {
        StoreWeights::new(self.checkpoint, &self.store)
    }

    /// What was made so far.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The layers of a block, or those outside, that the plan does not leave as they are.
    fn layers(&self, block: Option<u32>) -> Vec<usize> {
        let mut layers = layers_to_store(self.checkpoint, &self.settled);
        layers.retain(|&layer| self.checkpoint.tensors()[layer].place.block == block);
        layers
    }
}

impl InTurn for Sequential<'_> {
    fn compress(&self, folder: &Folder, block: u32, observer: &dyn Observer) -> Result<()> {
        let records = folder.read_part(Part::Block(block)).ok_or_else(|| {
            let what = format!("what was measured of block {block} was changed while it was read");
            Error::plan(what, "start the calibration again; finished blocks are kept")
        })?;
        let calibration = Calibration::new(folder.settings().clone(), records, false);
        let measured = Measured { folder, calibration: &calibration };
        let subject = Subject { checkpoint: self.checkpoint, calibrated: &measured };
        let layers = self.layers(Some(block));
        for &layer in &layers {
            let name = &self.checkpoint.tensors()[layer].name;
            subject.check_inputs(layer, &self.settled.plan.assignment(name).steps)?;
        }
        compress_into(&self.store, (subject, &self.settled), &layers, self.limits, observer)
    }

    fn needs_stream(&self, block: u32) -> bool {
        let layers = self.layers(Some(block)).into_iter();
        let plan = &self.settled.plan;
        layers
            .map(|layer| plan.assignment(&self.checkpoint.tensors()[layer].name))
            .any(|assignment| chain_refinement(&assignment.steps).is_some())
    }
}
