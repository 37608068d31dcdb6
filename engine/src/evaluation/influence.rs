//! How much blocks and experts do to a text: which of them a model would miss least.
//!
//! Block influence is 1 − the mean cosine between the residual stream before and behind a block: Men et al., `ShortGPT`: layers in
//! large language models are more redundant than you expect, 2024, arXiv:2403.03853. An expert's saliency is the mean of share
//! · ‖answer‖ over the tokens that were sent to it: Lasby et al., REAP the experts, 2025, arXiv:2510.13999.

use ndarray::{Array2, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::design::Feed;
use crate::network::{Batch, Network, Site, Taps};
use crate::observer::{Observer, Progress, Unit};

/// What blocks and experts do to a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Influences {
    /// 1 − mean cosine of each block, in order; the least is missed least.
    pub blocks: Vec<f64>,
    /// Of each expert of the blocks that have any, by block and number.
    pub experts: Vec<ExpertInfluence>,
}

/// What an expert does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpertInfluence {
    /// Its block.
    pub block: u32,
    /// Its number there.
    pub expert: u32,
    /// Tokens that were sent to it.
    pub tokens: u64,
    /// Mean of share · ‖answer‖ over them; 0 where there were none.
    pub saliency: f64,
}

impl Influences {
    /// The blocks that do least among those that are not out, as many as are asked for, by number.
    pub fn least_blocks(&self, count: usize, is_out: &dyn Fn(u32) -> bool) -> Vec<u32> {
        let all = self.blocks.iter().copied().zip(0..);
        let mut order: Vec<(f64, u32)> = all.filter(|(_, block)| !is_out(*block)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().take(count).map(|(_, block)| block).collect()
    }

    /// The experts of each block that do least among those that are not out, as many of each as are asked for:
    /// `(block, expert)`.
    pub fn least_experts(
        &self,
        count: usize,
        is_out: &dyn Fn(u32, u32) -> bool,
    ) -> Vec<(u32, u32)> {
        let all = self.experts.iter();
        let mut order: Vec<&ExpertInfluence> =
            all.filter(|of| !is_out(of.block, of.expert)).collect();
        order.sort_by(|a, b| {
            let rank = a.saliency.total_cmp(&b.saliency).then(a.tokens.cmp(&b.tokens));
            a.block.cmp(&b.block).then(rank).then(a.expert.cmp(&b.expert))
        });
        let of_block = order.chunk_by(|a, b| a.block == b.block);
        of_block.flat_map(|of| of.iter().take(count)).map(|of| (of.block, of.expert)).collect()
    }
}

/// Measures every block and expert on `sequences`. Memory: the residual stream of all of them, and twice that of the longest.
///
/// # Errors
/// What running says; [`crate::Error::Cancelled`].
pub fn influences(
    network: &Network<'_>,
    sequences: &[Vec<u32>],
    observer: &dyn Observer,
) -> Result<Influences> {
    let embed = |ids: &Vec<u32>| network.embed(&[ids], 0, observer);
    let mut states: Vec<Array2<f32>> = sequences.iter().map(embed).collect::<Result<_>>()?;
    let total: u64 = sequences.iter().map(|ids| ids.len() as u64).sum();
    let blocks = network.design().blocks.len();
    let mut found = Influences::default();
    for (index, block) in network.design().blocks.iter().enumerate() {
        observer.progress(Progress {
            stage: "Measuring blocks",
            item: format!("block {index}"),
            done: total * index as u64 / blocks as u64,
            total,
            unit: Unit::Tokens,
        });
        let experts = match &block.feed {
            Feed::Experts(mixture) => mixture.experts.len(),
            _ => 0,
        };
        let mut answers = Answers { sums: vec![(0.0, 0); experts] };
        let loaded = network.load(index, observer)?;
        let mut cosines = 0.0;
        for x in &mut states {
            let was = x.clone();
            let lengths = [x.nrows()];
            network.run(&loaded, Batch::new(x, &lengths), &mut answers, observer)?;
            cosines += sum_of_cosines(was.view(), x.view());
        }
        found.blocks.push(1.0 - cosines / total.max(1) as f64);
        found.experts.extend(answers.sums.into_iter().zip(0..).map(|((sum, tokens), expert)| {
            let saliency = sum / tokens.max(1) as f64;
            ExpertInfluence { block: index as u32, expert, tokens, saliency }
        }));
    }
    Ok(found)
}

/// Σ of share · ‖answer‖, and how many answers there were, by expert.
struct Answers {
    sums: Vec<(f64, u64)>,
}

impl Taps for Answers {
    fn input(&mut self, _site: &Site<'_>, _x: ArrayView2<'_, f32>) -> Result<()> {
        Ok(())
    }

    fn answer(
        &mut self,
        [_, expert]: [usize; 2],
        shares: &[f32],
        answers: ArrayView2<'_, f32>,
    ) -> Result<()> {
        if let Some((sum, tokens)) = self.sums.get_mut(expert) {
            for (share, answer) in shares.iter().zip(answers.rows()) {
                let squares: f64 = answer.iter().map(|value| f64::from(*value).powi(2)).sum();
                *sum += f64::from(*share) * squares.sqrt();
                *tokens += 1;
            }
        }
        Ok(())
    }
}

/// Σ over rows of the cosine between two vectors; 1 where both are zero, 0 where one is.
fn sum_of_cosines(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> f64 {
    let mut all = 0.0;
    for (a, b) in a.rows().into_iter().zip(b.rows()) {
        let (mut ab, mut aa, mut bb) = (0.0_f64, 0.0_f64, 0.0_f64);
        Zip::from(a).and(b).for_each(|&x, &y| {
            let (x, y) = (f64::from(x), f64::from(y));
            ab += x * y;
            aa += x * x;
            bb += y * y;
        });
        all += match (aa == 0.0, bb == 0.0) {
            (true, true) => 1.0,
            (true, false) | (false, true) => 0.0,
            (false, false) => ab / (aa.sqrt() * bb.sqrt()),
        };
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn cosines_are_those_of_the_closed_form() {
        let a = array![[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]];
        let b = array![[0.0, 2.0], [3.0, 3.0], [0.0, 0.0], [1.0, 0.0]];
        let sum = sum_of_cosines(a.view(), b.view());
        assert!((sum - 2.0).abs() < 1e-15, "{sum}");
    }

    #[test]
    fn the_least_come_first_and_ties_by_number() {
        let of = |block, expert, saliency| ExpertInfluence { block, expert, tokens: 1, saliency };
        let found = Influences {
            blocks: vec![0.5, 0.1, 0.3, 0.1],
            experts: vec![
                of(0, 0, 2.0),
                of(0, 1, 1.0),
                of(2, 0, 3.0),
                of(2, 1, 3.0),
                of(2, 2, 0.5),
            ],
        };
        assert_eq!(found.least_blocks(3, &|_| false), [1, 3, 2]);
        let all = [(0, 1), (0, 0), (2, 2), (2, 0)];
        assert_eq!(found.least_experts(2, &|_, _| false), all);
        // What is out already is not counted once more.
        assert_eq!(found.least_blocks(2, &|block| block < 2), [3, 2]);
        let is_out = |block, expert| (block, expert) == (0, 1) || block == 2;
        assert_eq!(found.least_experts(1, &is_out), [(0, 0)]);
        let mut answers = Answers { sums: vec![(0.0, 0); 2] };
        let said = array![[3.0, 4.0], [0.0, 2.0]];
        answers.answer([0, 1], &[0.5, 0.25], said.view()).unwrap();
        assert_eq!(answers.sums, [(0.0, 0), (3.0, 2)]);
    }
}
