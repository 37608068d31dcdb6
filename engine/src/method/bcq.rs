//! Binary codes: every weight is a sum of a few scales of its group, each with a sign of its own.

use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::method::grid::{GRANULARITY, GROUP_SIZE};
use crate::method::groups::{self, ROUNDS};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Task, signs,
};
use crate::numeric::planes::{Digit, Planes, alternate, greedy};

/// w ≈ Σ αₚ·bₚ with signs bₚ and one α a plane and group.
///
/// Greedy first, plane by plane: αₚ = mean |r|, bₚ = sign(r), r what is left. Then *rounds* of α = (BᵀB)⁻¹·Bᵀ·w and the
/// nearest of the 2^bits sums, for as long as the error falls. It ends on the levels of Lloyd and Max for 2 bits, 0.1175 of
/// the power of normal weights; greedy alone leaves 0.3634, 0.1305, 0.0584, 0.0329. Scales are rounded to their storage type
/// before weights go to the nearest sum. The planes are levels of a stack, so one of fewer bits can be cut from it.
/// Cost: rounds × some 2^bits operations a weight.
pub(super) struct Bcq;

/// The registry's entry.
pub(super) static ENTRY: Bcq = Bcq;

static ABOUT: About = About {
    id: "bcq",
    title: "Binary codes",
    summary: "Every weight is a sum of a few scales of its group, each with a sign of its own, fitted in turn by least squares.",
    citation: "Kwon et al., AlphaTuning: Quantization-aware parameter-efficient adaptation of large-scale pre-trained language models, EMNLP Findings 2022; Xu et al., Alternating multi-bit quantization for recurrent neural networks, ICLR 2018",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[BITS, GRANULARITY, GROUP_SIZE, ROUNDS, signs::COUNTED],
};

const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Planes of signs; each has a scale of 16 bits in every group.",
    kind: Kind::Integer { min: 1, max: 4, default: 3, usual: &[1, 2, 3, 4] },
    only_when: None,
};

impl Method for Bcq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        signs::needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        let (bits, by_inputs) = (parameters.integer("bits"), signs::label(parameters));
        format!("{bits}-bit binary codes {}{by_inputs}", groups::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let planes = parameters.integer("bits") as usize;
        Ok(groups::layout(Digit::Sign, planes, parameters, input))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (planes, rounds) =
            (parameters.integer("bits") as usize, parameters.integer(ROUNDS.name) as usize);
        let goes_on = || task.observer.go_on().is_ok();
        groups::stack((Digit::Sign, planes), parameters, &task, |of| {
            let start = greedy(planes, of);
            if rounds == 0 {
                return Ok(start);
            }
            let found = alternate(Digit::Sign, &start.scales, of, (rounds, &goes_on));
            let scales = found.ok_or(Error::Cancelled)?.scales;
            Ok(Planes { scales, codes: Vec::new() })
        })
    }
}
