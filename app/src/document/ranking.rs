//! Plans by one ranking of what all layers have: outputs that get more bits, singular values that are kept.

use lapidary_engine::method::{self, Needs};
use lapidary_engine::plan::Assignment;
use lapidary_engine::target::held_at_same_bits;

use crate::document::calibrations;
use crate::document::model::Model;

/// What is ranked, and where the ranking ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ranking {
    /// The outputs of all layers, of which such a share gets more bits.
    Outputs(f64),
    /// The singular values of all layers, of which weight files of so many bytes hold as many as fit.
    Values(u64),
}

impl Ranking {
    /// What every layer becomes, its share or rank apart; or why the model has no such plan now.
    ///
    /// # Errors
    /// The reason, as a sentence.
    pub fn candidate(self, model: &Model) -> Result<Assignment, &'static str> {
        let loaded = model.calibrations.loaded.as_deref();
        let subject = calibrations::subject(&model.checkpoint, loaded);
        let matrices = || model.checkpoint.tensors().iter().filter(|of| of.matrix.is_some());
        let known = matrices().map(|tensor| subject.calibrated.known(&tensor.name)).max();
        let known = known.unwrap_or(Needs::Weights);
        let step = match self {
            Self::Outputs(_) if known < Needs::Gram => {
                return Err("Calibrate with Gram matrices first (Ctrl+T).");
            }
            Self::Outputs(_) => method::promoting(),
            Self::Values(_) => method::ranking(known),
        };
        let candidate = Assignment::of(vec![step]);
        let is_held = |tensor| held_at_same_bits(tensor, &candidate, model.target).is_some();
        if matrices().any(is_held) {
            return Ok(candidate);
        }
        Err(match self {
            Self::Outputs(_) => "The target holds no rows of different bits: choose Archive.",
            Self::Values(_) => "The target holds no products of thin matrices: choose Archive.",
        })
    }
}

/// Where rankings end, as the window shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Share of the outputs that get more bits.
    pub share: f64,
    /// Bytes of weight files, if they were chosen.
    pub bytes: Option<u64>,
}

impl Default for Asked {
    fn default() -> Self {
        Self { share: 0.1, bytes: None }
    }
}

impl Asked {
    /// Bytes of weight files: those that were chosen, or half of those of the checkpoint.
    pub fn bytes(&self, model: &Model) -> u64 {
        self.bytes.unwrap_or_else(|| model.checkpoint.tensor_bytes() / 2)
    }
}
