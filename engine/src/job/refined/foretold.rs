//! What refining takes, told before it begins: memory as it is asked for, time by running a block.

use std::time::Instant;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::job::Subject;
use crate::job::refined::walk::PASSES;
use crate::job::refined::{blocks, most_rounds, needed_bytes, stream_bytes};
use crate::network::{Batch, CheckpointWeights, Network, NoTaps};
use crate::observer::{Observer, Progress, Unit};
use crate::plan::Plan;

/// A pass there and back takes some three times a pass there: beside each product on the way there are two on the way back.
const THERE_AND_BACK: f64 = 3.0;

/// The most working memory that refining a block of the plan takes, in bytes, with what enters it; 0 where none is refined.
pub fn refining_bytes(subject: Subject<'_>, plan: &Plan) -> u64 {
    let tokens = subject.calibrated.settings().map_or(0, |settings| settings.tokens);
    let checkpoint = subject.checkpoint;
    let refined = blocks(checkpoint, plan, &all(checkpoint)).into_iter();
    let own = refined.map(|(block, layers)| needed_bytes(checkpoint, (block, &layers))).max();
    own.map_or(0, |own| own.saturating_add(stream_bytes(tokens, hidden(checkpoint))))
}

/// Seconds that refining the blocks of a plan takes at most, by running the first of them on some of what enters it; 0 where
/// none is refined, or nobody knows what enters.
///
/// An estimate: a way back is counted as twice the way there, and a round may end before its last pass. Cost: reading what
/// enters the first block, and a pass of that block for some 2048 tokens.
///
/// # Errors
/// What the network says; [`crate::Error::Cancelled`].
pub(in crate::job) fn seconds(
    subject: Subject<'_>,
    plan: &Plan,
    observer: &dyn Observer,
) -> Result<f64> {
    let checkpoint = subject.checkpoint;
    let refined = blocks(checkpoint, plan, &all(checkpoint));
    let Some((&first, _)) = refined.first_key_value() else { return Ok(0.0) };
    let known = subject.calibrated.stream(first).zip(checkpoint.config());
    let Some((stream, config)) = known else { return Ok(0.0) };
    let Some((mut x, lengths)) = stream.get(0).zip(stream.lengths().first()) else {
        return Ok(0.0);
    };
    let (done, total) = (0, refined.len() as u64);
    let (item, unit) = (format!("refining block {first}"), Unit::Candidates);
    observer.progress(Progress { stage: "Estimating", item, done, total, unit });
    let weights = CheckpointWeights::new(checkpoint);
    let network = Network::open(config, &weights)?;
    let block = network.load_whole(first as usize, observer)?;
    let begun = Instant::now();
    network.run(&block, Batch::new(&mut x, lengths), &mut NoTaps, observer)?;
    let a_token = begun.elapsed().as_secs_f64() / x.nrows().max(1) as f64;
    let tokens: usize = stream.lengths().iter().flatten().sum();
    let rounds: usize = refined.values().map(|layers| most_rounds(checkpoint, plan, layers)).sum();
    Ok(a_token * (tokens * rounds * PASSES) as f64 * THERE_AND_BACK)
}

fn all(checkpoint: &Checkpoint) -> Vec<usize> {
    (0..checkpoint.tensors().len()).collect()
}

/// Values of the residual stream; 0 where no config.json says them.
fn hidden(checkpoint: &Checkpoint) -> u64 {
    let weights = CheckpointWeights::new(checkpoint);
    let network = checkpoint.config().and_then(|config| Network::open(config, &weights).ok());
    network.map_or(0, |network| network.design().hidden as u64)
}
