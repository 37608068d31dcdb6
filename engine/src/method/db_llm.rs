//! `DB-LLM`'s dual binarisation: two planes of bits, each under a scale of its group.

use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::method::grid::{GRANULARITY, GROUP_SIZE};
use crate::method::groups::{self, ROUNDS};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, signs,
};
use crate::numeric::planes::{Digit, Planes, alternate, tied};

/// w ≈ α₁·b₁ + α₂·b₂ with bits b of 0 and 1: levels 0, α₁, α₂, α₁ + α₂.
///
/// *Tied*: α = (2s, −s), the grid −s, 0, s, 2s of two bits, s by least squares: 0.1494 of the power of normal weights is
/// left. *Free*: both scales by least squares in turn with the nearest levels, from there: 0.1380. Zero is always a level, so
/// grids without it do better alone (0.1175, Lloyd and Max); planes of bits have more zeros than planes of signs. The authors
/// train the scales by distillation; this is what they are without.
/// Cost: some 40 operations a weight and round.
pub(super) struct DbLlm;

/// The registry's entry.
pub(super) static ENTRY: DbLlm = DbLlm;

static ABOUT: About = About {
    id: "db-llm",
    title: "Dual binary",
    summary: "Two planes of bits, each under a scale of its group: zero, either scale, or their sum.",
    citation: "Chen et al., DB-LLM: Accurate dual-binarization for efficient LLMs, ACL Findings 2024, eqs. 5 to 8",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[SCALES, GRANULARITY, GROUP_SIZE, FREE_ROUNDS, signs::COUNTED],
};

const SCALES: Parameter = Parameter {
    name: "scales",
    title: "Scales",
    help: "Free ones fit each group better for the same bytes; tied ones are the grid of two bits with which the authors begin.",
    kind: Kind::Choice(&[
        Option_ { id: "free", title: "Free", help: "Both by least squares." },
        Option_ { id: "tied", title: "Tied", help: "2s and −s: levels −s, 0, s and 2s." },
    ]),
    only_when: None,
};

/// Rounds of free scales.
const FREE_ROUNDS: Parameter = Parameter { only_when: Some(("scales", "free")), ..ROUNDS };

/// Planes of bits.
const PLANES: usize = 2;
/// Rounds in which tied scales are found, at most.
const TIED_ROUNDS: usize = 20;

impl Method for DbLlm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        signs::needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        let (scales, by_inputs) = (parameters.choice(SCALES.name), signs::label(parameters));
        format!("2 bit planes {} {scales}{by_inputs}", groups::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        Ok(groups::layout(Digit::Bit, PLANES, parameters, input))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let is_tied = parameters.choice(SCALES.name) == "tied";
        let rounds = parameters.integer(ROUNDS.name) as usize;
        let goes_on = || task.observer.go_on().is_ok();
        groups::stack((Digit::Bit, PLANES), parameters, &task, |of| {
            let tied = tied(of, (TIED_ROUNDS, &goes_on)).ok_or(Error::Cancelled)?;
            let mut scales = tied.to_vec();
            if !is_tied {
                let found = alternate(Digit::Bit, &tied, of, (rounds, &goes_on));
                scales = found.ok_or(Error::Cancelled)?.scales;
            }
            Ok(Planes { scales, codes: Vec::new() })
        })
    }
}
