//! What makes the inputs of layers and can be divided by their scales: norms, and rows of other layers.

use crate::checkpoint::Checkpoint;
use crate::fold::norms::{self, Norm};
use crate::fold::rows::{self, Rows};
use crate::network::architectures;
use crate::network::design::Linear;

/// What makes the inputs of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Producer {
    /// What is divided.
    pub divides: Divides,
    /// Indices of the matrices that read it, all of them.
    pub layers: Vec<usize>,
    /// Why it takes no scales, half a sentence.
    pub why_not: Option<String>,
}

/// What is divided when inputs are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum Divides {
    /// The outputs of a norm.
    Norm(Norm),
    /// Rows of a layer.
    Rows(Rows),
}

impl Producer {
    /// Index of the weight of the norm, or of the matrix.
    pub fn tensor(&self) -> usize {
        match &self.divides {
            Divides::Norm(norm) => norm.weight,
            Divides::Rows(rows) => rows.weight,
        }
    }

    /// Index of the matrix whose rows are divided, if it is no norm.
    pub fn matrix(&self) -> Option<usize> {
        match &self.divides {
            Divides::Norm(_) => None,
            Divides::Rows(rows) => Some(rows.weight),
        }
    }

    /// The vectors that change: weight and bias of a norm, the bias of a layer.
    pub fn vectors(&self) -> Vec<usize> {
        match &self.divides {
            Divides::Norm(norm) => std::iter::once(norm.weight).chain(norm.bias).collect(),
            Divides::Rows(rows) => rows.bias.into_iter().collect(),
        }
    }

    /// By what the inputs of its readers are divided, where its outputs are divided `by` so much.
    pub fn of_inputs(&self, by: &[f32]) -> Vec<f32> {
        match &self.divides {
            Divides::Norm(_) => by.to_vec(),
            Divides::Rows(rows) => rows.of_inputs(by),
        }
    }

    /// What a layer that reads it is told by: the name of the norm, or of the matrix.
    pub fn name<'c>(&self, checkpoint: &'c Checkpoint) -> &'c str {
        &checkpoint.tensors()[self.tensor()].name
    }
}

/// Every norm that linear layers read, and every layer whose rows another reads.
///
/// # Errors
/// Why nothing is known of the network, half a sentence.
pub fn producers(checkpoint: &Checkpoint) -> Result<Vec<Producer>, String> {
    found(checkpoint, &|_| true)
}

/// What makes the inputs of one layer, where that is known and takes scales. Cost: config.json is read.
pub fn producer_of(checkpoint: &Checkpoint, layer: usize) -> Option<Producer> {
    let name = &checkpoint.tensors()[layer].name;
    // Files put prefixes before the names of a design.
    let all = found(checkpoint, &|linear| name.ends_with(&linear.weight)).ok()?;
    let takes = |found: &Producer| found.why_not.is_none() && found.layers.contains(&layer);
    all.into_iter().find(takes)
}

/// Those with a reader that is meant.
fn found(
    checkpoint: &Checkpoint,
    is_meant: &dyn Fn(&Linear) -> bool,
) -> Result<Vec<Producer>, String> {
    if checkpoint.gguf().is_some() {
        return Err("norms and rows of a GGUF file stay as they are".to_owned());
    }
    let config = checkpoint.config().ok_or("there is no config.json that says what they read")?;
    let design = architectures::design(config)
        .map_err(|_unknown| "what they read is not known of this architecture".to_owned())?;
    let mut all = Vec::new();
    for read in design.reads().iter().filter(|read| read.layers.iter().any(|l| is_meant(l))) {
        all.extend(norms::producer(checkpoint, &design, read));
    }
    for carry in design.carries().iter().filter(|carry| is_meant(carry.to)) {
        all.extend(rows::producer(checkpoint, &design, carry));
    }
    Ok(all)
}
