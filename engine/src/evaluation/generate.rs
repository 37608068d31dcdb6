//! A prompt continued token by token.

use crate::error::{Error, Result};
use crate::network::{Batch, LoadedBlock, LoadedHead, Network, NoTaps, Past};
use crate::numeric::activation::softmax;
use crate::numeric::likelihood::top;
use crate::numeric::seeds::Random;
use crate::observer::Observer;

/// Weights are kept decoded if they take no more than this in f32.
const KEPT_BYTES: u64 = 2 << 30;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most likely.
    Greedy,
    /// At random, by softmax(logits / temperature).
    Random {
        /// Above 0; below 1 sharper than the network says.
        temperature: f32,
        /// Same seed, same text.
        seed: u64,
    },
}

/// A network that continues a prompt.
#[derive(Debug)]
pub struct Continuation<'a> {
    network: &'a Network<'a>,
    /// All blocks, if they fit.
    blocks: Option<Vec<LoadedBlock>>,
    head: LoadedHead,
    past: Vec<Past>,
    /// Given and not yet run.
    pending: Vec<u32>,
    sampling: Sampling,
    random: Random,
}

impl<'a> Continuation<'a> {
    /// Nothing runs before the first token is asked for.
    ///
    /// # Errors
    /// [`Error::Plan`] for an empty prompt, a temperature that is not above 0, and a network that does not predict
    /// the next token.
    pub fn new(
        network: &'a Network<'a>,
        prompt: &[u32],
        sampling: Sampling,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let design = network.design();
        if !design.causal {
            return Err(Error::plan(
                format!("a {} network does not generate text", design.architecture),
                "open a model that does",
            ));
        }
        if prompt.is_empty() {
            return Err(Error::plan("the prompt has no tokens", "write a word or two"));
        }
        let seed = match sampling {
            Sampling::Random { temperature, .. }
                if !(temperature > 0.0 && temperature.is_finite()) =>
            {
                return Err(Error::plan(
                    format!("a temperature of {temperature} cannot be sampled with"),
                    "choose one above 0, or greedy",
                ));
            }
            Sampling::Random { seed, .. } => seed,
            Sampling::Greedy => 0,
        };
        let weights: u64 = design
            .blocks
            .iter()
            .flat_map(|block| block.linears())
            .map(|linear| linear.shape.elements() as u64)
            .sum();
        let load = |index| network.load(index, observer);
        let blocks = if 4 * weights <= KEPT_BYTES {
            Some((0..design.blocks.len()).map(load).collect::<Result<_>>()?)
        } else {
            None
        };
        Ok(Self {
            network,
            blocks,
            head: network.load_head(observer)?,
            past: vec![Past::default(); design.blocks.len()],
            pending: prompt.to_vec(),
            sampling,
            random: Random::new(seed),
        })
    }

    /// The next token; `None` once the context is full.
    ///
    /// # Errors
    /// What running says; [`Error::Cancelled`].
    pub fn next_token(&mut self, observer: &dyn Observer) -> Result<Option<u32>> {
        let network = self.network;
        let first = self.past.first().map_or(0, Past::tokens);
        let lengths = [self.pending.len()];
        if first + self.pending.len() > network.design().context {
            return Ok(None);
        }
        let mut x = network.embed(&[&self.pending], first, observer)?;
        for (index, past) in self.past.iter_mut().enumerate() {
            let loaded;
            let block = if let Some(blocks) = &self.blocks {
                &blocks[index]
            } else {
                loaded = network.load(index, observer)?;
                &loaded
            };
            network.run(block, Batch::after(past, &mut x, &lengths), &mut NoTaps, observer)?;
        }
        let last = x.slice(ndarray::s![x.nrows() - 1.., ..]);
        let logits = network.logits(&self.head, last, observer)?;
        let id = self.choose(logits.into_raw_vec_and_offset().0);
        self.pending = vec![id];
        Ok(Some(id))
    }

    fn choose(&mut self, mut logits: Vec<f32>) -> u32 {
        let Sampling::Random { temperature, .. } = self.sampling else {
            return top(&logits).first().map_or(0, |&id| id as u32);
        };
        for logit in &mut logits {
            *logit /= temperature;
        }
        softmax(&mut logits);
        let mut left = self.random.uniform();
        let chosen = logits.iter().position(|&share| {
            left -= f64::from(share);
            left < 0.0
        });
        // Shares may sum to a little less than 1.
        chosen.or_else(|| top(&logits).first().copied()).map_or(0, |id| id as u32)
    }
}
