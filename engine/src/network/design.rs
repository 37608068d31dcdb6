//! What a network is, as data: which tensors it has, with which extents, and how they follow one another. Made from
//! config.json by [`crate::network::architectures`], interpreted by the forward pass. Never touches a weight.
//!
//! Names are those of the architecture's own files; [`crate::network::Network::open`] finds the prefix a file uses.

use crate::network::rope::Rope;
use crate::numeric::activation::Activation;
use crate::tensor::MatrixShape;

/// A linear layer: y = x·Wᵀ + b.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Name of W `[out, in]`.
    pub weight: String,
    /// Name of b `[out]`.
    pub bias: Option<String>,
    /// `[out, in]`.
    pub shape: MatrixShape,
}

/// A normalisation of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// Name of the weight.
    pub weight: String,
    /// Which one it is.
    pub kind: NormKind,
    /// Number of values that are normalised together.
    pub width: usize,
    /// ε under the root.
    pub epsilon: f64,
}

/// The kinds of normalisation.
#[derive(Clone, Debug, PartialEq)]
pub enum NormKind {
    /// By the root of the mean square; `shift` is added to the weight: 1 in the Gemma family, else 0.
    Rms {
        /// What is added to the weight.
        shift: f32,
    },
    /// By mean and variance.
    Layer {
        /// Name of what is added at the end.
        bias: Option<String>,
    },
}

/// How query, key and value come about.
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    /// Three layers: query, key, value.
    Apart(Box<[Linear; 3]>),
    /// One layer whose outputs are all queries, then all keys, then all values.
    Joined(Linear),
    /// One layer whose outputs are, for each head, its query, key and value.
    PerHead(Linear),
}

/// Self-attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query, key and value.
    pub projection: Projection,
    /// The layer behind the heads.
    pub output: Linear,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of queries.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// What q·k is multiplied by.
    pub scale: f32,
    /// Rotation by position.
    pub rope: Option<Rope>,
    /// Normalisation of each query and key head, before the rotation.
    pub norms: Option<[Norm; 2]>,
    /// A token sees itself and the `window − 1` before it; all without one.
    pub window: Option<usize>,
    /// cap·tanh(score / cap).
    pub soft_cap: Option<f32>,
    /// Whether a token sees none of those after it.
    pub causal: bool,
}

/// The feed-forward part of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// down(act(up(x))).
    Plain {
        /// First layer.
        up: Linear,
        /// Last layer.
        down: Linear,
        /// Between them.
        activation: Activation,
    },
    /// down(act(gate(x)) ⊙ up(x)).
    Gated(Gated),
    /// A weighted sum of the best few of many.
    Experts(Experts),
}

/// A gated feed-forward layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// Gate and up: one layer each, or one of both outputs, gate first.
    pub inputs: Vec<Linear>,
    /// Last layer.
    pub down: Linear,
    /// Of the gate.
    pub activation: Activation,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Scores every expert.
    pub router: Linear,
    /// The experts.
    pub experts: Vec<Gated>,
    /// How many of them see a token.
    pub chosen: usize,
    /// Whether the shares of those chosen are made to sum to 1.
    pub normalised: bool,
}

/// One block: attention and feed-forward, each on the residual stream.
///
/// x ← after(x + closing(attention(before(x)))), then the same with the feed-forward part; `parallel`: x ← x +
/// attention(before(x)) + feed(before(x)).
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// First part.
    pub attention: Attention,
    /// Second part.
    pub feed: Feed,
    /// Norms around the attention.
    pub attention_norms: Norms,
    /// Norms around the feed-forward part.
    pub feed_norms: Norms,
    /// Whether both parts read the same residual stream.
    pub parallel: bool,
}

/// The norms around one part of a block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Norms {
    /// Of the part's input.
    pub before: Option<Norm>,
    /// Of the part's output, before it is added.
    pub closing: Option<Norm>,
    /// Of the residual stream, after it was added.
    pub after: Option<Norm>,
}

/// From token ids to the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// Name of the table `[vocabulary, width]`.
    pub tokens: String,
    /// Values of a token.
    pub width: usize,
    /// Learned positions, added behind the projection.
    pub positions: Option<Positions>,
    /// Name of the table of token types, whose first row is added, and its rows.
    pub types: Option<(String, usize)>,
    /// Normalisation of the sum of all.
    pub norm: Option<Norm>,
    /// What the token's values are multiplied by.
    pub scale: f32,
    /// From `width` to the width of the stream, before positions are added.
    pub projection: Option<Linear>,
}

/// Learned positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    /// Name of the table `[rows, hidden]`.
    pub table: String,
    /// Row of position 0.
    pub offset: usize,
    /// Its rows.
    pub rows: usize,
}

/// From the residual stream to a score for every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// From the width of the stream to that of the embedding.
    pub projection: Option<Linear>,
    /// Layer, activation and norm before the scores, in encoders.
    pub transform: Option<(Linear, Activation, Norm)>,
    /// The scores: `[vocabulary, width]`, the embedding itself where they are tied.
    pub scores: Linear,
    /// cap·tanh(score / cap).
    pub soft_cap: Option<f32>,
}

/// A whole network.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// `model_type` in config.json.
    pub architecture: String,
    /// Values of the residual stream.
    pub hidden: usize,
    /// Tokens it knows.
    pub vocabulary: usize,
    /// Tokens it may be given at once.
    pub context: usize,
    /// First.
    pub embedding: Embedding,
    /// Then.
    pub blocks: Vec<Block>,
    /// Norm behind the last block.
    pub last_norm: Option<Norm>,
    /// Last; an encoder without one gives hidden states only.
    pub head: Option<Head>,
    /// Whether each token sees only those before it, so that the network predicts the next.
    pub causal: bool,
    /// What files put before the names, the usual one first.
    pub prefixes: &'static [&'static str],
}

/// A norm and the linear layers that read what it gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Read<'a> {
    /// The norm.
    pub norm: &'a Norm,
    /// All layers that read it.
    pub layers: Vec<&'a Linear>,
    /// Whether one of them is a router, which chooses experts.
    pub has_router: bool,
}

/// A linear layer whose inputs come of rows of another, one row each. Where dividing that row divides the input, and
/// nothing else reads it, scales may go from the one to the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Carry<'a> {
    /// The layer whose rows they are.
    pub from: &'a Linear,
    /// The layer whose inputs they are.
    pub to: &'a Linear,
    /// Of which row each input comes.
    pub rows: RowMap,
    /// Why an input is not divided with its row, half a sentence.
    pub why_not: Option<&'static str>,
}

/// Of which row of one layer an input of another comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMap {
    /// The row of the first input.
    pub first: usize,
    /// Inputs one after another that come of rows one after another: the values of a head.
    pub run: usize,
    /// Runs one after another that come of the same rows: heads of queries that share one of values.
    pub shared: usize,
    /// From the first row of a run to that of the next that has others.
    pub stride: usize,
}

impl RowMap {
    /// Input j comes of row `first` + j, of so many.
    fn straight(first: usize, inputs: usize) -> Self {
        Self { first, run: inputs.max(1), shared: 1, stride: 0 }
    }

    /// The row of an input.
    pub fn row(&self, input: usize) -> usize {
        self.first + input / self.run / self.shared * self.stride + input % self.run
    }
}

impl Design {
    /// Every layer whose inputs come of rows of another: the output projection, of values; the last feed-forward layer, of
    /// the first.
    pub fn carries(&self) -> Vec<Carry<'_>> {
        let mut all = Vec::new();
        for Block { attention, feed, .. } in &self.blocks {
            all.push(attention.carry());
            all.extend(feed.carries());
        }
        all
    }

    /// Every norm before linear layers, in the order they run; one that several parts of a block read comes once.
    pub fn reads(&self) -> Vec<Read<'_>> {
        let mut found: Vec<(Option<&Norm>, Vec<&Linear>, bool)> = Vec::new();
        for block in &self.blocks {
            let norms = [&block.attention_norms.before, &block.feed_norms.before];
            let has_router = matches!(block.feed, Feed::Experts(_));
            found.push((norms[0].as_ref(), block.attention.readers(), false));
            found.push((norms[1].as_ref(), block.feed.readers(), has_router));
        }
        let head = self.head.as_ref();
        if let Some(head) = head.filter(|h| h.projection.is_none() && h.transform.is_none()) {
            found.push((self.last_norm.as_ref(), vec![&head.scores], false));
        }
        let mut reads: Vec<Read<'_>> = Vec::new();
        for (norm, layers, has_router) in found {
            let Some(norm) = norm else { continue };
            match reads.iter_mut().find(|read| read.norm.weight == norm.weight) {
                Some(read) => {
                    read.layers.extend(layers);
                    read.has_router |= has_router;
                }
                None => reads.push(Read { norm, layers, has_router }),
            }
        }
        reads
    }
}

impl Attention {
    /// The layers that read its input.
    fn readers(&self) -> Vec<&Linear> {
        match &self.projection {
            Projection::Apart(three) => three.iter().collect(),
            Projection::Joined(one) | Projection::PerHead(one) => vec![one],
        }
    }

    /// What the heads give is a mean of values, weighted by what does not depend on them.
    fn carry(&self) -> Carry<'_> {
        let (run, shared) = (self.head_dim.max(1), (self.heads / self.kv_heads.max(1)).max(1));
        let (from, first, stride) = match &self.projection {
            Projection::Apart(three) => (&three[2], 0, run),
            Projection::Joined(one) => (one, (self.heads + self.kv_heads) * run, run),
            Projection::PerHead(one) => (one, 2 * run, 3 * run),
        };
        Carry { from, to: &self.output, rows: RowMap { first, run, shared, stride }, why_not: None }
    }
}

impl Feed {
    /// The layers that read its input.
    fn readers(&self) -> Vec<&Linear> {
        match self {
            Self::Plain { up, .. } => vec![up],
            Self::Gated(gated) => gated.inputs.iter().collect(),
            Self::Experts(mixture) => {
                let experts = mixture.experts.iter().flat_map(|expert| &expert.inputs);
                std::iter::once(&mixture.router).chain(experts).collect()
            }
        }
    }

    /// The last layer behind the first. Between them an activation is passed by a positive factor only where it is max(x, 0).
    fn carries(&self) -> Vec<Carry<'_>> {
        match self {
            Self::Plain { up, down, activation } => vec![Carry {
                from: up,
                to: down,
                rows: RowMap::straight(0, down.shape.cols),
                why_not: (*activation != Activation::Relu).then_some(
                    "an activation without a gate lies between them and the layer before",
                ),
            }],
            Self::Gated(gated) => gated.carry().into_iter().collect(),
            Self::Experts(mixture) => mixture.experts.iter().filter_map(Gated::carry).collect(),
        }
    }
}

impl Linear {
    /// A layer of `[out, in]`, whose weight and bias are called `module.weight` and `module.bias`.
    pub fn new(module: &str, [rows, cols]: [usize; 2], bias: bool) -> Self {
        Self {
            weight: format!("{module}.weight"),
            bias: bias.then(|| format!("{module}.bias")),
            shape: MatrixShape { rows, cols },
        }
    }
}

impl Norm {
    /// By the root of the mean square.
    pub fn rms(module: &str, width: usize, epsilon: f64) -> Self {
        let kind = NormKind::Rms { shift: 0.0 };
        Self { weight: format!("{module}.weight"), kind, width, epsilon }
    }

    /// The Gemma family's: 1 is added to the weight.
    pub fn rms_from_one(module: &str, width: usize, epsilon: f64) -> Self {
        Self { kind: NormKind::Rms { shift: 1.0 }, ..Self::rms(module, width, epsilon) }
    }

    /// By mean and variance, with a bias.
    pub fn layer(module: &str, width: usize, epsilon: f64) -> Self {
        let kind = NormKind::Layer { bias: Some(format!("{module}.bias")) };
        Self { weight: format!("{module}.weight"), kind, width, epsilon }
    }
}

impl Block {
    /// Every linear layer, those that share an input together, in the order they run; with the index of the expert.
    pub fn sites(&self) -> Vec<(Option<usize>, Vec<&Linear>)> {
        let mut sites = vec![self.attention.readers(), vec![&self.attention.output]];
        let mut of_experts = Vec::new();
        match &self.feed {
            Feed::Plain { up, down, .. } => sites.extend([vec![up], vec![down]]),
            Feed::Gated(gated) => sites.extend(gated.sites()),
            Feed::Experts(mixture) => {
                sites.push(vec![&mixture.router]);
                let experts = mixture.experts.iter().enumerate();
                of_experts.extend(
                    experts.flat_map(|(i, expert)| expert.sites().map(|site| (Some(i), site))),
                );
            }
        }
        sites.into_iter().map(|site| (None, site)).chain(of_experts).collect()
    }

    /// Every linear layer.
    pub fn linears(&self) -> Vec<&Linear> {
        self.sites().into_iter().flat_map(|(_, site)| site).collect()
    }

    /// Every norm.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let heads = self.attention.norms.iter().flatten();
        [&self.attention_norms, &self.feed_norms].into_iter().flat_map(Norms::all).chain(heads)
    }
}

impl Norms {
    fn all(&self) -> impl Iterator<Item = &Norm> {
        [&self.before, &self.closing, &self.after].into_iter().flatten()
    }
}

impl Gated {
    /// act(gate(x)) ⊙ up(x) is linear in up.
    fn carry(&self) -> Option<Carry<'_>> {
        let (from, first) = match &self.inputs[..] {
            [_, up] => (up, 0),
            [both] => (both, both.shape.rows / 2),
            _ => return None,
        };
        let rows = RowMap::straight(first, self.down.shape.cols);
        Some(Carry { from, to: &self.down, rows, why_not: None })
    }

    fn sites(&self) -> [Vec<&Linear>; 2] {
        [self.inputs.iter().collect(), vec![&self.down]]
    }
}
