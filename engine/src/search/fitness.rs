//! The divergence of a whole choice from the original, on a minibatch that a generation shares.

use std::path::Path;
use std::sync::Arc;

use crate::allocator::{Settings, Trial};
use crate::checkpoint::Config;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::evaluation::{Baseline, From};
use crate::job::{Encodings, Level, Levels, StoreWeights};
use crate::network::Network;
use crate::numeric::seeds::Random;
use crate::observer::Observer;
use crate::scores::UnitScores;
use crate::search::{DISK_BYTES, HELD_BYTES, Task};

/// Sets the draws of minibatches apart from those of offspring, which have the same seed.
const STREAM: u64 = 0x6d69_6e69_6261_7463;

/// KL(original ‖ model with every unit at its level), in nats a token.
pub struct Fitness<'a> {
    task: &'a Task<'a>,
    config: &'a Config,
    levels: Levels,
    /// Unit and place in it of each tensor that belongs to one.
    places: Vec<Option<(usize, usize)>>,
    seed: u64,
    /// Tokens of the largest stage, and of the smallest.
    tokens: [usize; 2],
    /// The original on the minibatch of a generation.
    now: Option<(u64, Baseline<'a>)>,
}

impl std::fmt::Debug for Fitness<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fitness").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl<'a> Fitness<'a> {
    /// A fitness whose levels are kept in `folder`.
    ///
    /// # Errors
    /// [`Error::Plan`] for a checkpoint without config.json, or no sequences.
    pub fn new(task: &'a Task<'a>, settings: &Settings, folder: &Path) -> Result<Self> {
        let checkpoint = task.subject.checkpoint;
        let config = checkpoint.config().filter(|_| !task.sequences.is_empty());
        let config = config.ok_or_else(|| {
            Error::plan(
                format!("{} cannot be run on a text", checkpoint.path().display()),
                "open the whole Hugging Face folder, and give a text of a sequence at least",
            )
        })?;
        let mut places = vec![None; checkpoint.tensors().len()];
        for (unit, of) in task.scores.iter().enumerate() {
            for (at, &layer) in of.unit.layers.iter().enumerate() {
                places[layer] = Some((unit, at));
            }
        }
        let stages = || settings.stages.iter().map(|stage| stage.tokens as usize);
        let tokens = [stages().max().unwrap_or(0), stages().min().unwrap_or(0)];
        let levels = Levels::new(folder, task.identity, HELD_BYTES);
        levels.trim(DISK_BYTES)?;
        Ok(Self { task, config, levels, places, seed: settings.seed, tokens, now: None })
    }

    /// The fitness of a choice on the first tokens of its generation's minibatch, whole sequences; NaN where values of
    /// the network overflow.
    ///
    /// # Errors
    /// What compressing, reading and running say; [`Error::Cancelled`].
    pub fn of(&mut self, trial: &Trial<'_>, observer: &dyn Observer) -> Result<f64> {
        let task = self.task;
        for (of, &option) in task.scores.iter().zip(trial.options) {
            for at in 0..of.unit.layers.len() {
                let level = level_of(of, option, at);
                if !level.is_keep() {
                    observer.go_on()?;
                    self.levels.make(task.subject, level, observer)?;
                }
            }
        }
        if self.now.as_ref().is_none_or(|(generation, _)| *generation != trial.generation) {
            // The old minibatch goes before the new one comes.
            self.now = None;
            let drawn = drawn(task.sequences, self.tokens[0], self.seed, trial.generation);
            let baseline = Baseline::ends(task.network, (&drawn, self.tokens[1]), observer)?;
            self.now = Some((trial.generation, baseline));
        }
        let Some((_, baseline)) = &self.now else { return Ok(f64::NAN) };
        let chosen = Chosen { fitness: self, options: trial.options };
        let weights = StoreWeights::new(task.subject.checkpoint, &chosen);
        let changed = Network::open(self.config, &weights)?;
        match baseline.kl(&changed, From::Embedding, trial.tokens as usize, observer) {
            // The original ran on the same tokens, so only the levels can be at fault.
            Err(Error::Plan { .. }) => Ok(f64::NAN),
            result => result,
        }
    }
}

fn level_of(of: &UnitScores, option: usize, at: usize) -> Level<'_> {
    Level { unit: (&of.unit.layers, &of.options[option].assignments), at }
}

/// The levels of a choice.
struct Chosen<'a> {
    fitness: &'a Fitness<'a>,
    options: &'a [usize],
}

impl Chosen<'_> {
    fn level(&self, tensor: usize) -> Option<Level<'_>> {
        let (unit, at) = (*self.fitness.places.get(tensor)?)?;
        let level = level_of(&self.fitness.task.scores[unit], self.options[unit], at);
        Some(level).filter(|level| !level.is_keep())
    }
}

impl Encodings for Chosen<'_> {
    fn has(&self, tensor: usize) -> bool {
        self.level(tensor).is_some()
    }

    fn encoding(&self, tensor: usize) -> Result<Arc<Encoding>> {
        let level = self.level(tensor).ok_or_else(|| Error::Unsupported {
            what: format!("reading tensor {tensor}, which is kept, as an encoding"),
        })?;
        self.fitness.levels.get(self.fitness.task.subject, level)
    }
}

/// Sequences of at least so many tokens, or all there are, drawn for a generation without putting back.
fn drawn(all: &[Vec<u32>], tokens: usize, seed: u64, generation: u64) -> Vec<Vec<u32>> {
    let mixed = Random::new(seed ^ STREAM).bits();
    let mut random = Random::new(mixed ^ Random::new(generation).bits());
    let mut order: Vec<usize> = (0..all.len()).collect();
    let (mut taken, mut drawn) = (0, Vec::new());
    for at in 0..all.len() {
        if taken >= tokens && !drawn.is_empty() {
            break;
        }
        let other = at + (random.uniform() * (all.len() - at) as f64) as usize;
        order.swap(at, other.min(all.len() - 1));
        taken += all[order[at]].len();
        drawn.push(all[order[at]].clone());
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minibatches_follow_from_seed_and_generation_and_cover_the_text() {
        let all: Vec<Vec<u32>> = (0..40).map(|s| vec![s; 8]).collect();
        let ids = |tokens, seed, generation| -> Vec<u32> {
            drawn(&all, tokens, seed, generation).iter().map(|sequence| sequence[0]).collect()
        };
        assert_eq!(ids(60, 1, 3), ids(60, 1, 3));
        assert_eq!(ids(60, 1, 3).len(), 8, "whole sequences");
        assert_eq!(ids(60, 1, 3)[..2], ids(16, 1, 3), "stages are prefixes of one another");
        assert!(ids(60, 1, 3) != ids(60, 1, 4) && ids(60, 1, 3) != ids(60, 2, 3));
        let mut whole = ids(1000, 1, 3);
        whole.sort_unstable();
        assert_eq!(whole, (0..40).collect::<Vec<u32>>(), "none twice");
        let mut seen: Vec<u32> = (0..40).flat_map(|generation| ids(60, 1, generation)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 40, "generations go through the whole text");
    }
}
