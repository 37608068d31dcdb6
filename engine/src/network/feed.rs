//! The feed-forward part of a block: plain, gated, or a mixture of experts.

use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::error::Result;
use crate::network::Network;
use crate::network::design::{Experts, Feed, Gated, Linear};
use crate::network::held::Held;
use crate::network::pass::Running;
use crate::numeric::activation::{Activation, softmax};

/// Values that one task passes through an activation.
pub(super) const PIECE: usize = 1 << 14;

impl Network<'_> {
    /// The feed-forward part of a block: `[tokens, hidden]` to `[tokens, hidden]`.
    pub(super) fn feed(
        &self,
        feed: &Feed,
        held: &Held,
        x: ArrayView2<'_, f32>,
        running: &mut Running<'_, '_>,
    ) -> Result<Array2<f32>> {
        match feed {
            Feed::Plain { up, down, activation } => {
                running.tap(self, &[up], None, x)?;
                let mut inner = self.apply(up, held, x, running.observer)?;
                activate(*activation, &mut inner);
                running.tap(self, &[down], None, inner.view())?;
                let out = self.apply(down, held, inner.view(), running.observer);
                self.spare.give(inner);
                out
            }
            Feed::Gated(gated) => self.gated(gated, held, (None, x), running),
            Feed::Experts(experts) => self.experts(experts, held, x, running),
        }
    }

    fn gated(
        &self,
        gated: &Gated,
        held: &Held,
        (expert, x): (Option<usize>, ArrayView2<'_, f32>),
        running: &mut Running<'_, '_>,
    ) -> Result<Array2<f32>> {
        let inputs: Vec<&Linear> = gated.inputs.iter().collect();
        running.tap(self, &inputs, expert, x)?;
        let mut outputs = inputs.iter().map(|linear| self.apply(linear, held, x, running.observer));
        let first = outputs.next().transpose()?.unwrap_or_default();
        let (mut inner, up) = if let Some(up) = outputs.next().transpose()? {
            (first, up)
        } else {
            let ffn = first.ncols() / 2;
            let half = |part| self.spare.copy(part);
            (half(first.slice(s![.., ..ffn])), half(first.slice(s![.., ffn..])))
        };
        gate_with(gated.activation, &mut inner, &up);
        self.spare.give(up);
        running.tap(self, &[&gated.down], expert, inner.view())?;
        let out = self.apply(&gated.down, held, inner.view(), running.observer);
        self.spare.give(inner);
        out
    }

    /// Σ over the chosen experts of share · expert(x); experts in order, each on the tokens that chose it.
    fn experts(
        &self,
        mixture: &Experts,
        held: &Held,
        x: ArrayView2<'_, f32>,
        running: &mut Running<'_, '_>,
    ) -> Result<Array2<f32>> {
        running.tap(self, &[&mixture.router], None, x)?;
        let scores = self.apply(&mixture.router, held, x, running.observer)?;
        let routed = route(mixture, scores);
        let mut out = Array2::zeros(x.dim());
        for (index, (expert, routed)) in mixture.experts.iter().zip(routed).enumerate() {
            if routed.is_empty() {
                continue;
            }
            let tokens: Vec<usize> = routed.iter().map(|(token, _)| *token).collect();
            let mine = x.select(Axis(0), &tokens);
            let answer = self.gated(expert, held, (Some(index), mine.view()), running)?;
            let shares: Vec<f32> = routed.iter().map(|(_, share)| *share).collect();
            running.taps.answer([running.block, index], &shares, answer.view())?;
            for ((token, share), answer) in routed.into_iter().zip(answer.rows()) {
                out.row_mut(token).scaled_add(share, &answer);
            }
        }
        Ok(out)
    }
}

/// For each expert the tokens it sees, with its share of each. Of equal scores the lower index is chosen.
fn route(mixture: &Experts, mut scores: Array2<f32>) -> Vec<Vec<(usize, f32)>> {
    let mut routed = vec![Vec::new(); mixture.experts.len()];
    for (token, mut scores) in scores.rows_mut().into_iter().enumerate() {
        let Some(shares) = scores.as_slice_mut() else { continue };
        softmax(shares);
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by(|&a, &b| shares[b].total_cmp(&shares[a]).then(a.cmp(&b)));
        let chosen = &order[..mixture.chosen.min(order.len())];
        let sum: f32 = chosen.iter().map(|&expert| shares[expert]).sum();
        let divisor = if mixture.normalised { sum } else { 1.0 };
        for &expert in chosen {
            routed[expert].push((token, shares[expert] / divisor));
        }
    }
    routed
}

pub(super) fn activate(activation: Activation, values: &mut Array2<f32>) {
    if let Some(values) = values.as_slice_mut() {
        values.par_chunks_mut(PIECE).for_each(|piece| activation.apply(piece));
    }
}

/// gate ← act(gate) ⊙ up.
pub(super) fn gate_with(activation: Activation, gate: &mut Array2<f32>, up: &Array2<f32>) {
    let (Some(gate), Some(up)) = (gate.as_slice_mut(), up.as_slice()) else { return };
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE));
    pieces.for_each(|(gate, up)| activation.gate(gate, up));
}
