//! The feed-forward part of a block there and back.

use ndarray::{Array2, Axis, concatenate, s};
use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::error::{Error, Result};
use crate::network::design::{Feed, Gated, Linear};
use crate::network::feed::{PIECE, activate, gate_with};
use crate::network::reverse::{Backs, Walk, add};
use crate::numeric::activation::Activation;

/// What the way back needs.
pub(super) struct Tape {
    input: Array2<f32>,
    /// What the activation received.
    before: Array2<f32>,
    /// What it was multiplied by.
    up: Option<Array2<f32>>,
    /// What the last layer received.
    inner: Array2<f32>,
}

impl Walk<'_> {
    pub(super) fn feed(&self, feed: &Feed, input: Array2<f32>) -> Result<(Tape, Array2<f32>)> {
        let (down, tape) = match feed {
            Feed::Plain { up, down, activation } => {
                let before = self.apply(up, &input)?;
                let mut inner = before.clone();
                activate(*activation, &mut inner);
                (down, Tape { input, before, up: None, inner })
            }
            Feed::Gated(gated) => (&gated.down, self.gated(gated, input)?),
            Feed::Experts(_) => {
                let what = format!(
                    "going back through block {}, which is a mixture of experts,",
                    self.index
                );
                return Err(Error::Unsupported { what });
            }
        };
        let out = self.apply(down, &tape.inner)?;
        Ok((tape, out))
    }

    fn gated(&self, gated: &Gated, input: Array2<f32>) -> Result<Tape> {
        let (before, up) = match &gated.inputs[..] {
            [gate, up] => (self.apply(gate, &input)?, self.apply(up, &input)?),
            inputs => {
                let all = inputs.first().map(|both| self.apply(both, &input)).transpose()?;
                let all = all.unwrap_or_default();
                let ffn = all.ncols() / 2;
                (all.slice(s![.., ..ffn]).to_owned(), all.slice(s![.., ffn..]).to_owned())
            }
        };
        let mut inner = before.clone();
        gate_with(gated.activation, &mut inner, &up);
        Ok(Tape { input, before, up: Some(up), inner })
    }

    /// From the derivative by what the part gave to that by what it received.
    pub(super) fn feed_back(
        &self,
        feed: &Feed,
        tape: Tape,
        slope: Array2<f32>,
        backs: &mut dyn Backs,
    ) -> Result<Array2<f32>> {
        let (down, activation) = match feed {
            Feed::Plain { down, activation, .. } => (down, *activation),
            Feed::Gated(gated) => (&gated.down, gated.activation),
            Feed::Experts(_) => return Ok(slope),
        };
        self.show(down, (&tape.inner, &slope), backs)?;
        let mut of_inner = self.through(down, &slope)?;
        let Tape { input, mut before, up, .. } = tape;
        let of_up = up.map(|up| {
            let mut of_up = before.clone();
            activate(activation, &mut of_up);
            multiply_by(&mut of_up, &of_inner);
            multiply_by(&mut of_inner, &up);
            of_up
        });
        bend(activation, &mut before);
        multiply_by(&mut of_inner, &before);
        match (feed, of_up) {
            (Feed::Plain { up, .. }, _) => self.layer_back(up, (&input, &of_inner), backs),
            (Feed::Gated(gated), Some(of_up)) => {
                self.gated_back(&gated.inputs, (&input, [of_inner, of_up]), backs)
            }
            _ => Ok(of_inner),
        }
    }

    fn gated_back(
        &self,
        inputs: &[Linear],
        (input, [of_gate, of_up]): (&Array2<f32>, [Array2<f32>; 2]),
        backs: &mut dyn Backs,
    ) -> Result<Array2<f32>> {
        match inputs {
            [gate, up] => {
                let mut of_input = self.layer_back(gate, (input, &of_gate), backs)?;
                add(&mut of_input, &self.layer_back(up, (input, &of_up), backs)?);
                Ok(of_input)
            }
            [both] => {
                let joined = concatenate(Axis(1), &[of_gate.view(), of_up.view()]);
                let joined = joined.unwrap_or(of_gate).as_standard_layout().into_owned();
                self.layer_back(both, (input, &joined), backs)
            }
            _ => Ok(of_gate),
        }
    }

    /// Shows a layer, and goes on to what it received.
    fn layer_back(
        &self,
        linear: &Linear,
        (x, slope): (&Array2<f32>, &Array2<f32>),
        backs: &mut dyn Backs,
    ) -> Result<Array2<f32>> {
        self.show(linear, (x, slope), backs)?;
        self.through(linear, slope)
    }
}

/// x ← act'(x).
fn bend(activation: Activation, x: &mut Array2<f32>) {
    if let Some(values) = x.as_slice_mut() {
        values.par_chunks_mut(PIECE).for_each(|piece| activation.slope(piece));
    }
}

/// a ← a ⊙ b.
fn multiply_by(a: &mut Array2<f32>, b: &Array2<f32>) {
    if let (Some(a), Some(b)) = (a.as_slice_mut(), b.as_slice()) {
        let pieces = a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE));
        pieces.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a *= b));
    }
}
