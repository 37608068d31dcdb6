//! How linear each block is, and how much of the space its outputs fill: candidates to be left out or replaced.

use std::convert::Infallible;

use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::{Batch, Network, NoTaps};
use crate::numeric::gram::Gram;
use crate::numeric::linearity::{Linearity, LinearityScores};
use crate::numeric::spectrum::Stopped;
use crate::numeric::weighted::coding_rate;
use crate::observer::{Observer, Progress, Unit};

/// ε² of the coding rate, as a share of the mean ‖z‖²: the rate is that of a code which leaves 1 % of the energy.
const ENERGY_LEFT: f64 = 0.01;

/// What a block does to the residual stream of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockScore {
    /// How much of its output a linear map of its input explains.
    pub linearity: LinearityScores,
    /// Coding rate of a token of its input, in nats: ½·ln det(I + (d/ε²)·Σ z·zᵀ/n), ε² = 0.01·mean ‖z‖².
    pub rate_before: f64,
    /// The same of its output.
    pub rate_after: f64,
}

/// Scores every block on `sequences`. Held out of the linear fit is every fourth sequence.
///
/// Memory: 24·hidden² bytes, and the residual stream of all sequences. Cost: running the text, and 3·hidden²
/// operations a token and some 12·hidden³ a block.
///
/// # Errors
/// What running says; [`Error::Cancelled`].
pub fn block_scores(
    network: &Network<'_>,
    sequences: &[Vec<u32>],
    observer: &dyn Observer,
) -> Result<Vec<BlockScore>> {
    let embed = |ids: &Vec<u32>| network.embed(&[ids], 0, observer);
    let mut states: Vec<Array2<f32>> = sequences.iter().map(embed).collect::<Result<_>>()?;
    let total: u64 = sequences.iter().map(|ids| ids.len() as u64).sum();
    let blocks = network.design().blocks.len();
    let mut before = None;
    let mut scores = Vec::with_capacity(blocks);
    for index in 0..blocks {
        observer.progress(Progress {
            stage: "Measuring blocks",
            item: format!("block {index}"),
            done: total * index as u64 / blocks as u64,
            total,
            unit: Unit::Tokens,
        });
        let block = network.load(index, observer)?;
        let mut linearity = Linearity::new(network.design().hidden);
        let mut after = Gram::new(network.design().hidden);
        for x in &mut states {
            let was = x.clone();
            let lengths = [x.nrows()];
            network.run(&block, Batch::new(x, &lengths), &mut NoTaps, observer)?;
            linearity.add(was.view(), x.slice(s![.., ..]));
            after.add(x.view());
        }
        let is_cancelled = || observer.is_cancelled();
        let rate_before = match before {
            Some(rate) => rate,
            None => rate(&linearity.input_gram(), &is_cancelled)?,
        };
        let rate_after = rate(&after, &is_cancelled)?;
        before = Some(rate_after);
        let linearity = linearity.scores(&is_cancelled).ok_or(Error::Cancelled)?;
        scores.push(BlockScore { linearity, rate_before, rate_after });
    }
    Ok(scores)
}

/// The coding rate of the tokens behind a Gram matrix.
fn rate(gram: &Gram, is_cancelled: &(dyn Fn() -> bool + Sync)) -> Result<f64> {
    let eigenvalues = gram.eigenvalues(is_cancelled).map_err(why)?;
    let energy = eigenvalues.iter().sum::<f64>() / gram.tokens().max(1) as f64;
    if energy <= 0.0 {
        return Ok(0.0);
    }
    Ok(coding_rate(&eigenvalues, gram.tokens(), (ENERGY_LEFT * energy).sqrt()))
}

fn why(stopped: Stopped<Infallible>) -> Error {
    match stopped {
        Stopped::Cancelled => Error::Cancelled,
        Stopped::NotFinite | Stopped::NoConvergence | Stopped::Block(_) => Error::Numeric {
            tensor: "of hidden states".to_owned(),
            why: "the eigenvalues of their products cannot be computed".to_owned(),
        },
    }
}
