//! Refinement of blocks: sums of codebook entries moved to where their block's outputs are nearest to the original's.

use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Parameter, Refinement, Resolved, Stage, Task,
};

/// PV-Tuning with the error of a transformer block as its objective, for all layers of the block that end in this step:
/// see [`crate::job::run`], which does it once every layer of the block is compressed. For a layer alone, as in a preview, it
/// changes nothing: what other layers did is nothing one of them knows.
///
/// Layouts stay, so whatever loads the layer before loads it after.
pub(super) struct Refine;

/// The registry's entry.
pub(super) static ENTRY: Refine = Refine;

static ABOUT: About = About {
    id: "refine",
    title: "Refine blocks",
    summary: "Moves codes, codebook entries and scales of all layers of a block together, to where the block's outputs are nearest to the original's.",
    citation: "Malinovskii et al., PV-Tuning: Beyond straight-through estimation for extreme LLM compression, NeurIPS 2024, for one block after the other; Egiazarian et al., Extreme compression of large language models via additive quantization, ICML 2024, section 3.4",
    stage: Stage::Refine,
    needs: Needs::Gram,
    parameters: &[Parameter {
        name: "rounds",
        title: "Rounds",
        help: "How often entries and scales, then codes move, at most; it ends before where little is gained. The most that a layer of the block asks for counts for all.",
        kind: Kind::Integer { min: 1, max: 100, default: 4, usual: &[1, 4, 10] },
        only_when: None,
    }],
};

fn nothing_to_refine() -> Error {
    Error::plan(
        "refine moves sums of codebook entries, and nothing over or under them",
        "put it behind AQLM or vector quantisation, without sparsity or corrections",
    )
}

impl Method for Refine {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("block refined ×{}", parameters.integer("rounds"))
    }

    fn layout(&self, _parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        match input.previous {
            Some(Layout::Additive(layout)) => Ok(Layout::Additive(layout.clone())),
            _ => Err(nothing_to_refine()),
        }
    }

    fn refinement(&self, parameters: &Resolved) -> Option<Refinement> {
        Some(Refinement { rounds: parameters.integer("rounds") as usize })
    }

    fn compress(&self, _parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        match task.previous {
            Some(Encoding::Additive(additive)) => Ok(Encoding::Additive(additive)),
            _ => Err(nothing_to_refine()),
        }
    }
}
