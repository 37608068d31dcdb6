//! A block run forward and back again: derivatives of a function of its outputs by what its linear layers give and by their
//! weights (reverse accumulation, Linnainmaa 1970), written out for what [`crate::network::design`] describes.
//!
//! Norms, biases and, of a mixture, everything stay constant: only linear layers are asked for. With one sequence after
//! another, no cache, as in the forward pass.

mod attention;
mod feed;

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::error::{Error, Result};
use crate::network::Network;
use crate::network::design::{Block, Linear, Norm, Norms};
use crate::network::held::Held;
use crate::network::pass::{LoadedBlock, NoTaps, Running, refuse_non_finite};
use crate::numeric::product::{add_outer, apply_rows};
use crate::observer::Observer;

/// Values that one task adds.
const PIECE: usize = 1 << 14;

/// Sees, on the way back through a block, what each linear layer received and the derivative by what it gave. Called from
/// one thread, in an order that does not depend on the machine.
pub trait Backs {
    /// Sees `x` `[tokens, in]` and `slope` `[tokens, out]` of the layer of this name in the checkpoint.
    ///
    /// # Errors
    /// Whatever keeps the walk from going on.
    fn layer(
        &mut self,
        layer: &str,
        x: ArrayView2<'_, f32>,
        slope: ArrayView2<'_, f32>,
    ) -> Result<()>;
}

/// Derivatives by the weights of some layers, Σ over tokens of slope·xᵀ, summed over what passes.
pub struct Gradient<'o> {
    sums: BTreeMap<String, Array2<f32>>,
    observer: &'o dyn Observer,
}

impl std::fmt::Debug for Gradient<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gradient").field("layers", &self.sums.len()).finish_non_exhaustive()
    }
}

impl<'o> Gradient<'o> {
    /// Zeros for layers by name in the checkpoint and shape `[out, in]`: 4 bytes a weight.
    pub fn new(
        layers: impl IntoIterator<Item = (String, (usize, usize))>,
        observer: &'o dyn Observer,
    ) -> Self {
        let zeros = |(name, shape)| (name, Array2::zeros(shape));
        Self { sums: layers.into_iter().map(zeros).collect(), observer }
    }

    /// The derivative by the weights `[out, in]` of a layer.
    pub fn of(&self, layer: &str) -> Option<&Array2<f32>> {
        self.sums.get(layer)
    }
}

impl Backs for Gradient<'_> {
    fn layer(
        &mut self,
        layer: &str,
        x: ArrayView2<'_, f32>,
        slope: ArrayView2<'_, f32>,
    ) -> Result<()> {
        if let Some(sum) = self.sums.get_mut(layer) {
            add_outer(slope, x, sum.view_mut(), &|| self.observer.is_cancelled());
        }
        self.observer.go_on()
    }
}

/// Makes of what a block gave the derivative of something by it.
pub type Slopes<'a> = &'a mut dyn FnMut(&Array2<f32>) -> Result<Array2<f32>>;

/// A part of a block as it was added to the residual stream.
struct Added {
    /// What the part gave.
    part: Array2<f32>,
    /// The stream with it, where a norm follows.
    sum: Option<Array2<f32>>,
}

/// What the way back needs of the way there.
struct Tape {
    attention: attention::Tape,
    feed: feed::Tape,
    attended: Added,
    fed: Added,
    /// The stream between the two parts.
    middle: Array2<f32>,
}

/// A block on its way there and back.
struct Walk<'a> {
    network: &'a Network<'a>,
    held: &'a Held,
    index: usize,
    lengths: &'a [usize],
    observer: &'a dyn Observer,
}

impl Network<'_> {
    /// Runs a block on the residual stream `x` `[tokens, hidden]` of sequences of `lengths`, asks `slopes` for the derivative
    /// of something by what it gives (the same bits as [`Network::run`]), and shows `backs` what that is by the outputs
    /// of each linear layer, the last first.
    ///
    /// Cost: some three times the forward pass without the derivatives by weights. Memory: beside the block some 4 bytes for
    /// each token and output of each of its layers, twice.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a mixture of experts, and for layers that are not held in memory, as
    /// [`Network::load_whole`] holds them; [`Error::Plan`] naming the block where values are NaN or infinite;
    /// what `slopes` and `backs` say; [`Error::Cancelled`].
    pub fn run_back(
        &self,
        block: &LoadedBlock,
        (x, lengths): (&Array2<f32>, &[usize]),
        (slopes, backs): (Slopes<'_>, &mut dyn Backs),
        observer: &dyn Observer,
    ) -> Result<()> {
        let (index, held) = (block.index, &block.held);
        let design = &self.design().blocks[index];
        let walk = Walk { network: self, held, index, lengths, observer };
        let (tape, out) = walk.there(design, x)?;
        refuse_non_finite(index, &out)?;
        walk.back(design, tape, (slopes(&out)?, backs))
    }
}

impl Walk<'_> {
    fn there(&self, design: &Block, x: &Array2<f32>) -> Result<(Tape, Array2<f32>)> {
        let spare = &self.network.spare;
        let (own, none) = ([&design.attention_norms, &design.feed_norms], &Norms::default());
        let [around_attention, around_feed] = if design.parallel { [none; 2] } else { own };
        let input = self.held.enter(spare, own[0].before.as_ref(), x);
        let (attention, part) = self.attend(&design.attention, input)?;
        let mut stream = x.clone();
        let attended = self.join(around_attention, part, &mut stream);
        let middle = if design.parallel { x.clone() } else { stream.clone() };
        let input = self.held.enter(spare, own[1].before.as_ref(), &middle);
        let (feed, part) = self.feed(&design.feed, input)?;
        let fed = self.join(around_feed, part, &mut stream);
        Ok((Tape { attention, feed, attended, fed, middle }, stream))
    }

    fn back(
        &self,
        design: &Block,
        tape: Tape,
        (mut slope, backs): (Array2<f32>, &mut dyn Backs),
    ) -> Result<()> {
        let none = &Norms::default();
        let around = if design.parallel { none } else { &design.feed_norms };
        let of_feed = self.part(around, &tape.fed, &mut slope);
        let mut of_input = self.feed_back(&design.feed, tape.feed, of_feed, backs)?;
        if design.parallel {
            return self.attend_back(&design.attention, tape.attention, slope, backs);
        }
        if let Some(norm) = &design.feed_norms.before {
            self.held.normalise_back(norm, &tape.middle, &mut of_input);
        }
        add(&mut slope, &of_input);
        let of_attention = self.part(&design.attention_norms, &tape.attended, &mut slope);
        self.attend_back(&design.attention, tape.attention, of_attention, backs)
    }

    /// x ← after(x + closing(part)), and what of it the way back needs.
    fn join(&self, norms: &Norms, part: Array2<f32>, x: &mut Array2<f32>) -> Added {
        let adding = Norms { closing: norms.closing.clone(), ..Norms::default() };
        self.network.add(self.held, &adding, part.clone(), x);
        let sum = norms.after.as_ref().map(|norm| {
            let sum = x.clone();
            self.held.normalise(norm, &mut x.view_mut());
            sum
        });
        Added { part, sum }
    }

    /// The derivative by a part, from that by the stream behind it, which becomes that by the stream with it.
    fn part(&self, norms: &Norms, added: &Added, slope: &mut Array2<f32>) -> Array2<f32> {
        if let (Some(norm), Some(sum)) = (&norms.after, &added.sum) {
            self.held.normalise_back(norm, sum, slope);
        }
        let mut of_part = slope.clone();
        if let Some(norm) = &norms.closing {
            self.held.normalise_back(norm, &added.part, &mut of_part);
        }
        of_part
    }

    /// Shows what a layer received and the derivative by what it gave.
    fn show(
        &self,
        linear: &Linear,
        (x, slope): (&Array2<f32>, &Array2<f32>),
        backs: &mut dyn Backs,
    ) -> Result<()> {
        backs.layer(self.network.name_of(&linear.weight), x.view(), slope.view())
    }

    /// From the derivative by what a layer gave to that by what it received: slope·W.
    fn through(&self, linear: &Linear, slope: &Array2<f32>) -> Result<Array2<f32>> {
        let matrix = self.held.matrix(linear).ok_or_else(|| Error::Unsupported {
            what: format!("going back through {}, which is not held in memory,", linear.weight),
        })?;
        let mut out = Array2::zeros((slope.nrows(), linear.shape.cols));
        let cancelled = || self.observer.is_cancelled();
        apply_rows(slope.view(), matrix.t(), out.view_mut(), &cancelled);
        self.observer.go_on()?;
        Ok(out)
    }

    fn apply(&self, linear: &Linear, x: &Array2<f32>) -> Result<Array2<f32>> {
        self.network.apply(linear, self.held, x.view(), self.observer)
    }

    fn normalise_back(
        &self,
        norm: Option<&Norm>,
        x: Option<&Array2<f32>>,
        slope: &mut Array2<f32>,
    ) {
        if let (Some(norm), Some(x)) = (norm, x) {
            self.held.normalise_back(norm, x, slope);
        }
    }

    /// Does something with what accompanies tokens through the forward pass, looking at nothing.
    fn running<T>(&self, work: impl FnOnce(&mut Running<'_, '_>) -> Result<T>) -> Result<T> {
        let Self { index: block, lengths, observer, .. } = *self;
        work(&mut Running { lengths, block, past: None, taps: &mut NoTaps, observer })
    }
}

/// a ← a + b.
fn add(a: &mut Array2<f32>, b: &Array2<f32>) {
    if let (Some(a), Some(b)) = (a.as_slice_mut(), b.as_slice()) {
        let pieces = a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE));
        pieces.for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
    }
}
