//! The original on a text, kept before every block, to hold networks against it that differ from some block on.

use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::error::Result;
use crate::network::{Batch, LoadedHead, Network, NoTaps};
use crate::numeric::likelihood::{diverge, log_sum_exp};
use crate::observer::Observer;

/// Tokens that pass through a block at once.
const BATCH_TOKENS: usize = 2048;
/// Bytes of the logits of one network that are held at once.
const LOGIT_BYTES: usize = 64 << 20;

/// Where a changed network begins to differ from the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// In what turns tokens into vectors.
    Embedding,
    /// In this block.
    Block(usize),
    /// In the head alone.
    Head,
}

/// Sequences that pass through blocks together.
struct Part {
    ids: Vec<Vec<u32>>,
    lengths: Vec<usize>,
    /// The residual stream `[tokens, hidden]` before each block, and behind the last; or that alone.
    states: Vec<Array2<f32>>,
}

/// The original on some sequences.
pub struct Baseline<'a> {
    network: &'a Network<'a>,
    head: LoadedHead,
    parts: Vec<Part>,
}

impl std::fmt::Debug for Baseline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Baseline").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

impl<'a> Baseline<'a> {
    /// Runs the original and keeps its residual stream. Memory: 4·tokens·hidden·(blocks + 1) bytes.
    ///
    /// # Errors
    /// What running says; [`crate::Error::Plan`] for a network without a head; [`crate::Error::Cancelled`].
    pub fn new(
        network: &'a Network<'a>,
        sequences: &[Vec<u32>],
        observer: &dyn Observer,
    ) -> Result<Self> {
        Self::kept(network, by_tokens(sequences, BATCH_TOKENS), true, observer)
    }

    /// The same, keeping what leaves the last block alone: for networks that differ from the first block on. At most
    /// `batch` tokens, and a sequence, count together, so that a limit is kept as closely. Memory: 4·tokens·hidden
    /// bytes.
    ///
    /// # Errors
    /// Those of [`Baseline::new`].
    pub fn ends(
        network: &'a Network<'a>,
        (sequences, batch): (&[Vec<u32>], usize),
        observer: &dyn Observer,
    ) -> Result<Self> {
        Self::kept(network, by_tokens(sequences, batch.min(BATCH_TOKENS)), false, observer)
    }

    fn kept(
        network: &'a Network<'a>,
        mut parts: Vec<Part>,
        keeps_all: bool,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let head = network.load_head(observer)?;
        for part in &mut parts {
            part.states.push(part.embed(network, observer)?);
        }
        for index in 0..network.design().blocks.len() {
            let block = network.load(index, observer)?;
            for part in &mut parts {
                let last = part.states.len() - 1;
                if keeps_all {
                    part.states.push(part.states[last].clone());
                }
                let x = &mut part.states[last + usize::from(keeps_all)];
                network.run(&block, Batch::new(x, &part.lengths), &mut NoTaps, observer)?;
            }
        }
        Ok(Self { network, head, parts })
    }

    /// Tokens whose prediction is compared.
    pub fn tokens(&self) -> usize {
        self.parts.iter().flat_map(|part| &part.lengths).sum()
    }

    /// Mean over tokens of KL(original ‖ changed), in nats, of the first `limit` tokens or so: whole sequences. What
    /// stands before `from` is taken from the original.
    ///
    /// # Errors
    /// What running says; [`crate::Error::Cancelled`].
    pub fn kl(
        &self,
        changed: &Network<'_>,
        from: From,
        limit: usize,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let blocks = self.network.design().blocks.len();
        let is_kept = self.parts.iter().all(|part| part.states.len() > blocks);
        let from = if is_kept { from } else { From::Embedding };
        let first = match from {
            From::Embedding => 0,
            From::Block(block) => block.min(blocks),
            From::Head => blocks,
        };
        let mut taken = 0;
        let parts = self.parts.iter().take_while(|part| {
            let is_taken = taken < limit;
            taken += part.lengths.iter().sum::<usize>();
            is_taken
        });
        let parts: Vec<&Part> = parts.collect();
        let begin = |part: &&Part| match from {
            From::Embedding => part.embed(changed, observer),
            From::Block(_) | From::Head => Ok(part.states[first].clone()),
        };
        let mut states: Vec<Array2<f32>> = parts.iter().map(begin).collect::<Result<_>>()?;
        for index in first..blocks {
            let block = changed.load(index, observer)?;
            for (part, x) in parts.iter().zip(&mut states) {
                changed.run(&block, Batch::new(x, &part.lengths), &mut NoTaps, observer)?;
            }
        }
        let head = changed.load_head(observer)?;
        let (mut sum, mut tokens) = (0.0, 0);
        for (part, x) in parts.iter().zip(&states) {
            sum += self.divergence(part, (changed, &head), x, observer)?;
            tokens += x.nrows();
        }
        Ok(sum / tokens.max(1) as f64)
    }

    /// Σ KL over the tokens of a part, `x` being what leaves the last block of the changed network.
    fn divergence(
        &self,
        part: &Part,
        (changed, head): (&Network<'_>, &LoadedHead),
        x: &Array2<f32>,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let original = &part.states[part.states.len() - 1];
        let at_once = (LOGIT_BYTES / 4 / self.network.design().vocabulary).max(1);
        let mut sum = 0.0;
        for first in (0..x.nrows()).step_by(at_once) {
            let rows = s![first..(first + at_once).min(x.nrows()), ..];
            let p = self.network.logits(&self.head, original.slice(rows), observer)?;
            let q = changed.logits(head, x.slice(rows), observer)?;
            sum += kl_of(p.view(), q.view());
            self.network.take_back(p);
            changed.take_back(q);
        }
        Ok(sum)
    }
}

impl Part {
    fn embed(&self, network: &Network<'_>, observer: &dyn Observer) -> Result<Array2<f32>> {
        let ids: Vec<&[u32]> = self.ids.iter().map(Vec::as_slice).collect();
        network.embed(&ids, 0, observer)
    }
}

/// Runs of sequences of at most `batch` tokens, or of a single one.
fn by_tokens(sequences: &[Vec<u32>], batch: usize) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for ids in sequences.iter().filter(|ids| !ids.is_empty()) {
        let fits = |part: &Part| part.lengths.iter().sum::<usize>() + ids.len() <= batch;
        if !parts.last().is_some_and(fits) {
            parts.push(Part { ids: Vec::new(), lengths: Vec::new(), states: Vec::new() });
        }
        if let Some(part) = parts.last_mut() {
            part.lengths.push(ids.len());
            part.ids.push(ids.clone());
        }
    }
    parts
}

/// Σ KL(p ‖ q) over rows of logits, summed in their order.
fn kl_of(p: ArrayView2<'_, f32>, q: ArrayView2<'_, f32>) -> f64 {
    let one = |i: usize| {
        let (p, q) = (p.row(i), q.row(i));
        let (Some(p), Some(q)) = (p.as_slice(), q.as_slice()) else { return f64::NAN };
        diverge((p, log_sum_exp(p)), (q, log_sum_exp(q))).kl
    };
    let all: Vec<f64> = (0..p.nrows()).into_par_iter().map(one).collect();
    all.into_iter().sum()
}
