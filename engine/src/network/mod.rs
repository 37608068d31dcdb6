//! The network of a checkpoint, run forward. In: token ids, weights from wherever they are stored. Out: hidden states,
//! logits, and a look at the input of every linear layer. Never knows texts, plans or statistics.
//!
//! [`architectures`] turns config.json into a [`design::Design`]; [`Network::open`] checks that the weights are those
//! the design needs; blocks are run one by one over all sequences, so that a model larger than memory is read once.

pub mod architectures;
mod attention;
pub mod design;
mod feed;
mod held;
mod pass;
mod reverse;
mod rope;
mod settings;
mod spare;
mod weights;

use std::collections::HashMap;
use std::sync::Arc;

use ndarray::Array2;

pub use attention::Past;
pub use pass::{Batch, LoadedBlock, LoadedHead, NoTaps, Site, Taps};
pub use reverse::{Backs, Gradient, Slopes};
pub use weights::{CheckpointWeights, Freed, Renamed, Replaced, Weights};

use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::network::design::{Design, Linear, Norm, NormKind};
use crate::network::spare::Spare;

/// Names of missing tensors that an error lists.
const NAMES_LISTED: usize = 3;
/// What modules that wrap a whole model put before the names of its head.
const WRAPPERS: [&str; 2] = ["", "language_model."];

/// A network whose weights were found to be those its design needs.
pub struct Network<'a> {
    design: Design,
    weights: &'a dyn Weights,
    /// Names in the checkpoint, by names in the design.
    names: HashMap<String, String>,
    spare: Arc<Spare>,
}

impl std::fmt::Debug for Network<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("design", &self.design).finish_non_exhaustive()
    }
}

impl<'a> Network<'a> {
    /// The network that `config` describes, with `weights`. Reads no weights.
    ///
    /// # Errors
    /// Those of [`architectures::design`]; [`Error::Plan`] naming tensors that are missing; [`Error::Shape`] where a
    /// tensor has not the extents that config.json asks for.
    pub fn open(config: &Config, weights: &'a dyn Weights) -> Result<Self> {
        let design = architectures::design(config)?;
        let mut names = HashMap::new();
        let mut missing = Vec::new();
        for (name, extents) in needed(&design) {
            let Some((found, has)) = find(&design, weights, &name) else {
                missing.push(name);
                continue;
            };
            if has != extents {
                return Err(Error::Shape {
                    tensor: found,
                    expected: format!("{extents:?}, as config.json says,"),
                    found: has,
                });
            }
            names.insert(name, found);
        }
        refuse_missing(&design, &missing)?;
        Ok(Self { design, weights, names, spare: Arc::default() })
    }

    /// What it is made of.
    pub fn design(&self) -> &Design {
        &self.design
    }

    /// The name in the checkpoint of a tensor of the design.
    pub fn name_of<'s>(&'s self, name: &'s str) -> &'s str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// Takes back the memory of a matrix this network made, for those it makes next.
    pub fn take_back(&self, matrix: Array2<f32>) {
        self.spare.give(matrix);
    }

    /// Every input of linear layers in a block, in the order they run; of the layer of the scores without a block.
    pub fn inputs(&self, block: Option<usize>) -> Vec<Input> {
        let input = |(expert, linears): (Option<usize>, Vec<&Linear>)| Input {
            expert,
            channels: linears[0].shape.cols,
            layers: linears.iter().map(|linear| self.name_of(&linear.weight).to_owned()).collect(),
        };
        if let Some(block) = block {
            return self.design.blocks[block].sites().into_iter().map(input).collect();
        }
        let scores = self.design.head.iter().map(|head| (None, vec![&head.scores]));
        scores.map(input).collect()
    }
}

/// An input that one or more linear layers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Index of the expert it belongs to.
    pub expert: Option<usize>,
    /// Values of a token.
    pub channels: usize,
    /// Names in the checkpoint of the layers, at least one.
    pub layers: Vec<String>,
}

fn refuse_missing(design: &Design, missing: &[String]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let listed = missing[..missing.len().min(NAMES_LISTED)].join(", ");
    let more = match missing.len() - missing.len().min(NAMES_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Error::plan(
        format!(
            "the checkpoint has not all tensors of a {} network: {listed}{more}",
            design.architecture
        ),
        "download the checkpoint again, or correct the number of layers in config.json",
    ))
}

/// Every tensor of a design, with its extents.
fn needed(design: &Design) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    let linear = |linear: &Linear, all: &mut Vec<_>| {
        all.push((linear.weight.clone(), vec![linear.shape.rows, linear.shape.cols]));
        all.extend(linear.bias.clone().map(|bias| (bias, vec![linear.shape.rows])));
    };
    let norm = |norm: &Norm, all: &mut Vec<_>| {
        all.push((norm.weight.clone(), vec![norm.width]));
        if let NormKind::Layer { bias: Some(bias) } = &norm.kind {
            all.push((bias.clone(), vec![norm.width]));
        }
    };
    let embedding = &design.embedding;
    all.push((embedding.tokens.clone(), vec![design.vocabulary, embedding.width]));
    if let Some(positions) = &embedding.positions {
        all.push((positions.table.clone(), vec![positions.rows, design.hidden]));
    }
    if let Some((types, rows)) = &embedding.types {
        all.push((types.clone(), vec![*rows, design.hidden]));
    }
    embedding.norm.iter().chain(&design.last_norm).for_each(|n| norm(n, &mut all));
    embedding.projection.iter().for_each(|projection| linear(projection, &mut all));
    for block in &design.blocks {
        block.linears().into_iter().for_each(|layer| linear(layer, &mut all));
        block.norms().for_each(|n| norm(n, &mut all));
    }
    if let Some(head) = &design.head {
        head.projection.iter().for_each(|projection| linear(projection, &mut all));
        if let Some((layer, _, last)) = &head.transform {
            linear(layer, &mut all);
            norm(last, &mut all);
        }
        linear(&head.scores, &mut all);
    }
    all
}

/// The tensor a design calls `name`: behind one of the prefixes in use, or in an older spelling.
fn find(design: &Design, weights: &dyn Weights, name: &str) -> Option<(String, Vec<usize>)> {
    spellings(design, name).find_map(|candidate| {
        let extents = weights.extents(&candidate)?;
        Some((candidate, extents))
    })
}

/// Index of the tensor of a checkpoint that a design calls `name`.
pub fn tensor_of(design: &Design, checkpoint: &Checkpoint, name: &str) -> Option<usize> {
    spellings(design, name).find_map(|candidate| checkpoint.find(&candidate))
}

/// What a tensor that a design calls `name` may be called, the usual name first.
fn spellings(design: &Design, name: &str) -> impl Iterator<Item = String> {
    let older = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];
    let spelled =
        older.iter().find_map(|(new, old)| Some(format!("{}{old}", name.strip_suffix(new)?)));
    let prefixes = design.prefixes.iter().chain(&WRAPPERS);
    prefixes.flat_map(move |prefix| {
        let spellings = std::iter::once(name).chain(spelled.as_deref());
        let all: Vec<String> = spellings.map(|spelling| format!("{prefix}{spelling}")).collect();
        all
    })
}
