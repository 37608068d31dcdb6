//! From token ids through the blocks to logits.

use ndarray::{Array2, ArrayView2, ArrayViewMut1, s};

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::error::{Error, Result};
use crate::network::Network;
use crate::network::attention::Past;
use crate::network::design::{Design, Head, Linear, Norms};
use crate::network::held::Held;
use crate::numeric::activation::soft_cap;
use crate::numeric::vector::are_finite;
use crate::observer::Observer;

/// Values that one task adds, or looks at.
const PIECE: usize = 1 << 14;

/// Where in the network the input of some linear layers is seen.
#[derive(Debug)]
pub struct Site<'a> {
    /// Index of the block; `None` for the head.
    pub block: Option<usize>,
    /// Index of the expert, whose tokens are only those routed to it.
    pub expert: Option<usize>,
    /// Names in the checkpoint of the weights that share the input.
    pub layers: Vec<&'a str>,
}

/// Looks at the inputs of linear layers. Called from one thread, in an order that does not depend on the machine.
pub trait Taps {
    /// Sees `x` `[tokens, in]` as it enters the layers of `site`.
    fn input(&mut self, site: &Site<'_>, x: ArrayView2<'_, f32>) -> Result<()>;

    /// Sees what an expert of a block answers `[tokens, hidden]` to the tokens it was sent, and the share that each answer
    /// has in the output.
    fn answer(
        &mut self,
        _place: [usize; 2],
        _shares: &[f32],
        _answers: ArrayView2<'_, f32>,
    ) -> Result<()> {
        Ok(())
    }
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTaps;

impl Taps for NoTaps {
    fn input(&mut self, _site: &Site<'_>, _x: ArrayView2<'_, f32>) -> Result<()> {
        Ok(())
    }
}

/// What accompanies some tokens through a block.
pub(super) struct Running<'a, 'p> {
    /// Tokens of each sequence.
    pub(super) lengths: &'a [usize],
    pub(super) block: usize,
    pub(super) past: Option<&'p mut Past>,
    pub(super) taps: &'a mut dyn Taps,
    pub(super) observer: &'a dyn Observer,
}

impl Running<'_, '_> {
    pub(super) fn tap(
        &mut self,
        network: &Network<'_>,
        linears: &[&Linear],
        expert: Option<usize>,
        x: ArrayView2<'_, f32>,
    ) -> Result<()> {
        let layers = linears.iter().map(|linear| network.name_of(&linear.weight)).collect();
        self.taps.input(&Site { block: Some(self.block), expert, layers }, x)
    }
}

/// Sequences on their way through the blocks.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The residual stream `[tokens, hidden]`, sequence after sequence.
    x: &'a mut Array2<f32>,
    /// Tokens of each sequence.
    lengths: &'a [usize],
    /// Of a single sequence: what the block saw of it before; it takes up the tokens of `x`.
    past: Option<&'a mut Past>,
}

impl<'a> Batch<'a> {
    /// Whole sequences of `lengths` tokens.
    pub fn new(x: &'a mut Array2<f32>, lengths: &'a [usize]) -> Self {
        Self { x, lengths, past: None }
    }

    /// The tokens of one sequence that come after those of `past`.
    pub fn after(past: &'a mut Past, x: &'a mut Array2<f32>, lengths: &'a [usize]) -> Self {
        Self { x, lengths, past: Some(past) }
    }
}

/// A block with its weights at hand.
#[derive(Debug)]
pub struct LoadedBlock {
    pub(super) index: usize,
    pub(super) held: Held,
}

/// The head with its small tensors at hand.
#[derive(Debug)]
pub struct LoadedHead {
    held: Held,
}

impl Network<'_> {
    /// Token ids to the residual stream `[tokens, hidden]`; `first` is the position of the first token of every
    /// sequence.
    ///
    /// # Errors
    /// [`Error::Plan`] for an id beyond the vocabulary, or a sequence beyond the table of positions; what reading
    /// says.
    pub fn embed(
        &self,
        sequences: &[&[u32]],
        first: usize,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let design = self.design();
        let embedding = &design.embedding;
        check_ids(design, sequences)?;
        let tokens = sequences.iter().map(|ids| ids.len()).sum();
        let mut x = Array2::zeros((tokens, embedding.width));
        let ids = sequences.iter().copied().flatten();
        for (&id, mut row) in ids.zip(x.rows_mut()) {
            self.add_row(&embedding.tokens, id as usize, (embedding.scale, &mut row), observer)?;
        }
        let linears: Vec<&Linear> = embedding.projection.iter().collect();
        let held = self.hold(&linears, embedding.norm.iter(), observer)?;
        if let Some(projection) = &embedding.projection {
            x = self.apply(projection, &held, x.view(), observer)?;
        }
        self.add_places(sequences, first, &mut x, observer)?;
        if let Some(norm) = &embedding.norm {
            held.normalise(norm, &mut x.view_mut());
        }
        Ok(x)
    }

    /// Adds what the network learned of positions and token types.
    fn add_places(
        &self,
        sequences: &[&[u32]],
        first: usize,
        x: &mut Array2<f32>,
        observer: &dyn Observer,
    ) -> Result<()> {
        let design = self.design();
        let mut rows = x.rows_mut().into_iter();
        for ids in sequences {
            let positions = design.embedding.positions.as_ref();
            if positions.is_some_and(|p| p.offset + first + ids.len() > p.rows) {
                return Err(too_long(design, first + ids.len()));
            }
            for (position, mut row) in (first..first + ids.len()).zip(&mut rows) {
                if let Some(positions) = &design.embedding.positions {
                    let at = positions.offset + position;
                    self.add_row(&positions.table, at, (1.0, &mut row), observer)?;
                }
                if let Some((types, _)) = &design.embedding.types {
                    self.add_row(types, 0, (1.0, &mut row), observer)?;
                }
            }
        }
        Ok(())
    }

    /// out ← out + factor · row of a table.
    fn add_row(
        &self,
        table: &str,
        row: usize,
        (factor, out): (f32, &mut ArrayViewMut1<'_, f32>),
        observer: &dyn Observer,
    ) -> Result<()> {
        let mut values = vec![0.0; out.len()];
        self.weights.read(self.name_of(table), row * out.len(), &mut values, observer)?;
        out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
        Ok(())
    }

    /// Decodes the weights of a block, as far as memory allows.
    pub fn load(&self, index: usize, observer: &dyn Observer) -> Result<LoadedBlock> {
        let block = &self.design().blocks[index];
        Ok(LoadedBlock { index, held: self.hold(&block.linears(), block.norms(), observer)? })
    }

    /// Decodes the weights of a block, all at once however large it is: 4 bytes a weight. What [`Network::run_back`] needs.
    pub fn load_whole(&self, index: usize, observer: &dyn Observer) -> Result<LoadedBlock> {
        let mut block = self.load(index, observer)?;
        let linears = self.design().blocks[index].linears();
        self.hold_matrices(&linears, &mut block.held, observer)?;
        Ok(block)
    }

    /// Puts other weights `[out, in]` in the place of those of a layer of a loaded block, by its name in the checkpoint.
    ///
    /// # Errors
    /// [`Error::Shape`] where the block has no layer of that name and shape.
    pub fn replace(&self, block: &mut LoadedBlock, layer: &str, by: Array2<f32>) -> Result<()> {
        let linears = self.design().blocks[block.index].linears();
        let fits = |linear: &&Linear| {
            self.name_of(&linear.weight) == layer
                && by.dim() == (linear.shape.rows, linear.shape.cols)
        };
        let Some(linear) = linears.into_iter().find(fits) else {
            let expected = format!("a layer of block {} of this shape", block.index);
            let found = by.shape().to_vec();
            return Err(Error::Shape { tensor: layer.to_owned(), expected, found });
        };
        block.held.replace(linear, by);
        Ok(())
    }

    /// Passes the residual stream of a batch through a block, in place.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the block where values are NaN or infinite; what `taps` and reading say;
    /// [`Error::Cancelled`].
    pub fn run(
        &self,
        block: &LoadedBlock,
        batch: Batch<'_>,
        taps: &mut dyn Taps,
        observer: &dyn Observer,
    ) -> Result<()> {
        let design = &self.design().blocks[block.index];
        let held = &block.held;
        let Batch { x, lengths, past } = batch;
        let mut running = Running { lengths, block: block.index, past, taps, observer };
        let input = held.enter(&self.spare, design.attention_norms.before.as_ref(), x);
        let attended = self.attend(&design.attention, held, input.view(), &mut running)?;
        self.spare.give(input);
        if design.parallel {
            let input = held.enter(&self.spare, design.feed_norms.before.as_ref(), x);
            let fed = self.feed(&design.feed, held, input.view(), &mut running)?;
            self.spare.give(input);
            self.add(held, &Norms::default(), attended, x);
            self.add(held, &Norms::default(), fed, x);
        } else {
            self.add(held, &design.attention_norms, attended, x);
            let input = held.enter(&self.spare, design.feed_norms.before.as_ref(), x);
            let fed = self.feed(&design.feed, held, input.view(), &mut running)?;
            self.spare.give(input);
            self.add(held, &design.feed_norms, fed, x);
        }
        observer.go_on()?;
        refuse_non_finite(block.index, x)
    }

    /// x ← after(x + closing(part)).
    pub(super) fn add(
        &self,
        held: &Held,
        norms: &Norms,
        mut part: Array2<f32>,
        x: &mut Array2<f32>,
    ) {
        if let Some(norm) = &norms.closing {
            held.normalise(norm, &mut part.view_mut());
        }
        if let (Some(x), Some(part)) = (x.as_slice_mut(), part.as_slice()) {
            let pieces = x.par_chunks_mut(PIECE).zip(part.par_chunks(PIECE));
            pieces.for_each(|(x, part)| x.iter_mut().zip(part).for_each(|(x, part)| *x += part));
        }
        self.spare.give(part);
        if let Some(norm) = &norms.after {
            held.normalise(norm, &mut x.view_mut());
        }
    }

    /// Loads what stands between the last block and the logits.
    ///
    /// # Errors
    /// [`Error::Plan`] for a network without a head.
    pub fn load_head(&self, observer: &dyn Observer) -> Result<LoadedHead> {
        let head = self.head()?;
        let mut linears: Vec<&Linear> = head.projection.iter().collect();
        let mut norms: Vec<_> = self.design().last_norm.iter().collect();
        if let Some((layer, _, norm)) = &head.transform {
            linears.push(layer);
            norms.push(norm);
        }
        linears.push(&head.scores);
        Ok(LoadedHead { held: self.hold(&linears, norms.into_iter(), observer)? })
    }

    fn head(&self) -> Result<&Head> {
        self.design().head.as_ref().ok_or_else(|| {
            Error::plan(
                "the network has no head that scores tokens",
                "open the model with its head",
            )
        })
    }

    /// Logits `[tokens, vocabulary]` of the residual stream `x` `[tokens, hidden]` behind the last block.
    ///
    /// Memory: 4 bytes a logit; give few tokens at once.
    pub fn logits(
        &self,
        head: &LoadedHead,
        x: ArrayView2<'_, f32>,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let design = self.head()?;
        let x = self.before_scores(head, x, observer)?;
        let mut logits = self.apply(&design.scores, &head.held, x.view(), observer)?;
        self.spare.give(x);
        if let Some(cap) = design.soft_cap {
            soft_cap(logits.as_slice_mut().unwrap_or_default(), cap);
        }
        Ok(logits)
    }

    /// Shows `taps` what enters the layer of the scores.
    ///
    /// # Errors
    /// Those of [`Network::logits`].
    pub fn tap_head(
        &self,
        head: &LoadedHead,
        x: ArrayView2<'_, f32>,
        taps: &mut dyn Taps,
        observer: &dyn Observer,
    ) -> Result<()> {
        let x = self.before_scores(head, x, observer)?;
        let layers = vec![self.name_of(&self.head()?.scores.weight)];
        taps.input(&Site { block: None, expert: None, layers }, x.view())
    }

    /// What enters the layer of the scores.
    fn before_scores(
        &self,
        head: &LoadedHead,
        x: ArrayView2<'_, f32>,
        observer: &dyn Observer,
    ) -> Result<Array2<f32>> {
        let (design, held) = (self.head()?, &head.held);
        let mut x = self.spare.copy(x);
        if let Some(norm) = &self.design().last_norm {
            held.normalise(norm, &mut x.view_mut());
        }
        if let Some(projection) = &design.projection {
            x = self.apply(projection, held, x.view(), observer)?;
        }
        if let Some((layer, activation, norm)) = &design.transform {
            x = self.apply(layer, held, x.view(), observer)?;
            activation.apply(x.as_slice_mut().unwrap_or_default());
            held.normalise(norm, &mut x.view_mut());
        }
        Ok(x)
    }

    /// Logits of whole sequences, with everything in memory: for short ones.
    pub fn logits_of(
        &self,
        sequences: &[&[u32]],
        observer: &dyn Observer,
    ) -> Result<Vec<Array2<f32>>> {
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let mut x = self.embed(sequences, 0, observer)?;
        for index in 0..self.design().blocks.len() {
            let block = self.load(index, observer)?;
            self.run(&block, Batch::new(&mut x, &lengths), &mut NoTaps, observer)?;
        }
        let head = self.load_head(observer)?;
        let all = self.logits(&head, x.view(), observer)?;
        let mut start = 0;
        let part = |length: &usize| {
            start += length;
            all.slice(s![start - length..start, ..]).to_owned()
        };
        Ok(lengths.iter().map(part).collect())
    }
}

fn check_ids(design: &Design, sequences: &[&[u32]]) -> Result<()> {
    let largest = sequences.iter().copied().flatten().max();
    match largest.filter(|&&id| id as usize >= design.vocabulary) {
        None => Ok(()),
        Some(id) => Err(Error::plan(
            format!("the text has token {id}, but the network knows only {}", design.vocabulary),
            "use the tokenizer of this model",
        )),
    }
}

fn too_long(design: &Design, tokens: usize) -> Error {
    Error::plan(
        format!("{tokens} tokens are more than the {} positions of the network", design.context),
        "choose a shorter sequence length",
    )
}

pub(super) fn refuse_non_finite(block: usize, x: &Array2<f32>) -> Result<()> {
    if x.as_slice().unwrap_or_default().par_chunks(PIECE).all(are_finite) {
        return Ok(());
    }
    Err(Error::plan(
        format!("from block {block} on the values of the network are NaN or infinite"),
        "look at the weights of that block, or keep it as it is",
    ))
}
