//! A text through one or two networks, round by round: each block is loaded once a round.

use ndarray::{Array2, s};
use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};

use crate::error::{Error, Result};
use crate::evaluation::score::{Against, Evaluation, Window};
use crate::network::{Batch, LoadedHead, Network, NoTaps};
use crate::numeric::likelihood::{Divergence, diverge, log_sum_exp};
use crate::observer::{Observer, Progress, Unit};
use crate::text::{Sequence, Sequences};

/// Tokens that pass through a block at once.
const BATCH_TOKENS: usize = 2048;
/// Tokens of a round: a partial result is at most this old.
const ROUND_TOKENS: usize = 16 * 1024;
/// Bytes of logits held at once, for each network.
const LOGIT_BYTES: usize = 64 << 20;

/// Scores every token of `sequences` but the first of each by `network`, and compares it with `reference`.
///
/// Cancelling keeps the rounds that are complete. Cost: 2 operations a weight and token, and attention.
///
/// # Errors
/// [`Error::Plan`] for a network that does not predict the next token, and for networks of different vocabularies;
/// [`Error::Cancelled`] before the first round was complete; what running says.
pub fn evaluate(
    network: &Network<'_>,
    reference: Option<&Network<'_>>,
    sequences: &Sequences,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    evaluate_in_rounds((network, reference), sequences, &mut |_| {}, observer)
}

/// The same; `partial` sees what was found so far after each round of some 16,000 tokens.
///
/// # Errors
/// Those of [`evaluate`].
pub fn evaluate_in_rounds(
    (network, reference): (&Network<'_>, Option<&Network<'_>>),
    sequences: &Sequences,
    partial: &mut dyn FnMut(&Evaluation),
    observer: &dyn Observer,
) -> Result<Evaluation> {
    check(network, reference)?;
    let total = sequences.tokens() as u64;
    let mut evaluation =
        Evaluation { planned_tokens: sequences.scored_tokens() as u64, ..Evaluation::default() };
    let mut kls: Vec<f32> = Vec::new();
    let mut done = 0;
    for round in rounds(&sequences.list) {
        let tokens: usize = round.iter().map(|sequence| sequence.ids.len()).sum();
        let work = Round { network, reference, sequences: round, done, total, observer };
        match work.score(&mut kls) {
            Ok(windows) => evaluation.windows.extend(windows),
            Err(Error::Cancelled) if !evaluation.windows.is_empty() => break,
            Err(error) => return Err(error),
        }
        done += tokens as u64;
        partial(&evaluation);
    }
    evaluation.kl_p99 = percentile(&mut kls, 0.99);
    Ok(evaluation)
}

fn check(network: &Network<'_>, reference: Option<&Network<'_>>) -> Result<()> {
    let design = network.design();
    if !design.causal {
        return Err(Error::plan(
            format!(
                "a {} network does not predict the next token, so it has no perplexity",
                design.architecture
            ),
            "calibrate it, or evaluate a model that generates text",
        ));
    }
    match reference.map(|reference| reference.design().vocabulary) {
        Some(other) if other != design.vocabulary => Err(Error::plan(
            format!("the two networks know {} and {other} tokens", design.vocabulary),
            "compare models of one vocabulary",
        )),
        _ => Ok(()),
    }
}

/// Runs of sequences of about [`ROUND_TOKENS`].
fn rounds(all: &[Sequence]) -> Vec<&[Sequence]> {
    by_tokens(all, ROUND_TOKENS)
}

fn by_tokens(all: &[Sequence], limit: usize) -> Vec<&[Sequence]> {
    let mut parts = Vec::new();
    let mut rest = all;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |sequence: &&Sequence| {
            tokens += sequence.ids.len();
            tokens <= limit
        };
        let n = rest.iter().take_while(fits).count().max(1);
        let (part, later) = rest.split_at(n);
        parts.push(part);
        rest = later;
    }
    parts
}

/// The value below which `share` of all lie.
fn percentile(values: &mut [f32], share: f64) -> Option<f64> {
    values.sort_by(f32::total_cmp);
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1)).map(|value| f64::from(*value))
}

struct Round<'a> {
    network: &'a Network<'a>,
    reference: Option<&'a Network<'a>>,
    sequences: &'a [Sequence],
    /// Tokens of the rounds before.
    done: u64,
    total: u64,
    observer: &'a dyn Observer,
}

impl Round<'_> {
    fn score(&self, kls: &mut Vec<f32>) -> Result<Vec<Window>> {
        let networks = 1 + usize::from(self.reference.is_some());
        let of_original = self.reference.map(|reference| self.states(reference, [0, networks]));
        let of_original = of_original.transpose()?;
        let states = self.states(self.network, [networks - 1, networks])?;
        let head = self.network.load_head(self.observer)?;
        let original_head =
            self.reference.map(|reference| reference.load_head(self.observer)).transpose()?;
        let mut windows = Vec::new();
        for (batch, sequences) in by_tokens(self.sequences, BATCH_TOKENS).into_iter().enumerate() {
            let mut start = 0;
            for sequence in sequences {
                let rows = s![start..start + sequence.ids.len(), ..];
                let mine = (self.network, &head, states[batch].slice(rows));
                let original = match (self.reference, &original_head, &of_original) {
                    (Some(network), Some(head), Some(states)) => {
                        Some((network, head, states[batch].slice(rows)))
                    }
                    _ => None,
                };
                windows.push(self.window(sequence, mine, original, kls)?);
                start += sequence.ids.len();
            }
        }
        Ok(windows)
    }

    /// The residual stream behind the last block, batch by batch. `place`: which of how many networks.
    fn states(&self, network: &Network<'_>, [place, of]: [usize; 2]) -> Result<Vec<Array2<f32>>> {
        let batches = by_tokens(self.sequences, BATCH_TOKENS);
        let ids = |batch: &[Sequence]| -> Vec<Vec<u32>> {
            batch.iter().map(|sequence| sequence.ids.clone()).collect()
        };
        let embed = |batch: &&[Sequence]| {
            let ids = ids(batch);
            network.embed(&ids.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0, self.observer)
        };
        let mut states: Vec<Array2<f32>> = batches.iter().map(embed).collect::<Result<_>>()?;
        let blocks = network.design().blocks.len();
        let tokens: usize = self.sequences.iter().map(|sequence| sequence.ids.len()).sum();
        for index in 0..blocks {
            let block = network.load(index, self.observer)?;
            let share = (place * blocks + index) as f64 / (of * blocks) as f64;
            self.observer.progress(Progress {
                stage: "Scoring",
                item: format!("block {index}"),
                done: self.done + (share * tokens as f64) as u64,
                total: self.total,
                unit: Unit::Tokens,
            });
            for (batch, x) in batches.iter().zip(&mut states) {
                let lengths: Vec<usize> = batch.iter().map(|sequence| sequence.ids.len()).collect();
                network.run(&block, Batch::new(x, &lengths), &mut NoTaps, self.observer)?;
            }
        }
        Ok(states)
    }

    fn window(
        &self,
        sequence: &Sequence,
        mine: Scorer<'_>,
        original: Option<Scorer<'_>>,
        kls: &mut Vec<f32>,
    ) -> Result<Window> {
        let scored = sequence.ids.len() - 1;
        let vocabulary = self.network.design().vocabulary;
        let at_once = (LOGIT_BYTES / 4 / vocabulary).max(1);
        let mut window = Window {
            tokens: scored as u64,
            characters: sequence.scored.characters,
            against: original.is_some().then(Against::default),
            ..Window::default()
        };
        for first in (0..scored).step_by(at_once) {
            let n = at_once.min(scored - first);
            let targets = &sequence.ids[first + 1..first + 1 + n];
            let q = self.logits(&mine, first, n)?;
            let p = original.as_ref().map(|scorer| self.logits(scorer, first, n)).transpose()?;
            for token in compare(&q, p.as_ref(), targets) {
                window.nats += token.nats;
                if let (Some(sums), Some((nats, divergence))) = (&mut window.against, token.against)
                {
                    kls.push(divergence.kl as f32);
                    sums.add(nats, &divergence);
                }
            }
            self.network.take_back(q);
            if let (Some((network, ..)), Some(p)) = (&original, p) {
                network.take_back(p);
            }
        }
        Ok(window)
    }

    fn logits(
        &self,
        (network, head, states): &Scorer<'_>,
        first: usize,
        n: usize,
    ) -> Result<Array2<f32>> {
        network.logits(head, states.slice(s![first..first + n, ..]), self.observer)
    }
}

/// A network, its head, and the residual stream of a sequence behind its last block.
type Scorer<'a> = (&'a Network<'a>, &'a LoadedHead, ndarray::ArrayView2<'a, f32>);

/// A scored token.
struct Scored {
    nats: f64,
    against: Option<(f64, Divergence)>,
}

/// A row of logits, which lie in order as [`Network::logits`] makes them.
fn row(logits: &Array2<f32>, i: usize) -> &[f32] {
    let width = logits.ncols();
    logits.as_slice().map_or(&[], |all| &all[i * width..(i + 1) * width])
}

fn compare(q: &Array2<f32>, p: Option<&Array2<f32>>, targets: &[u32]) -> Vec<Scored> {
    let score = |(i, &target): (usize, &u32)| {
        let q = row(q, i);
        let of_q = log_sum_exp(q);
        let nats = |logits: &[f32], of: f64| of - f64::from(logits[target as usize]);
        let against = p.map(|p| {
            let p = row(p, i);
            let of_p = log_sum_exp(p);
            (nats(p, of_p), diverge((p, of_p), (q, of_q)))
        });
        Scored { nats: nats(q, of_q), against }
    };
    targets.into_par_iter().enumerate().map(score).collect()
}

impl Against {
    fn add(&mut self, nats: f64, divergence: &Divergence) {
        self.nats += nats;
        self.kl += divergence.kl;
        self.flips += u64::from(divergence.flipped);
        self.top_overlap += divergence.top_overlap;
        self.overlap += divergence.overlap;
    }
}
