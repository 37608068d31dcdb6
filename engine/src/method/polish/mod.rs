//! Polish: codes that a quantiser chose, with their grids or codebooks, each in turn at its best while the others stand.

mod integers;
mod sums;

use crate::encoding::{Affine, Blocks, Encoding, Layout, Sparse};
use crate::error::{Error, Result};
use crate::method::gguf::Moving;
use crate::method::polish::integers::State;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::numeric::additive;
use crate::numeric::descent::Descent;

/// Coordinate descent on tr((W − Ŵ)·H·(W − Ŵ)ᵀ) over codes and what they stand for.
///
/// A round over grouped integers: every code in turn goes to the level nearest to wⱼ* = ŵⱼ + ((W − Ŵ)·H)ⱼ/Hⱼⱼ (COMQ), then
/// the grid of each group to its best for these codes q, in closed form (step b of decoupleQ, one group at a time: where
/// rounds end, so does the joint solution of all). With g = (W − Ŵ)·H over the group, an offset and its scale solve
/// `[qHq, qH1; qH1, 1H1]`·(δs, δo) = (q·g, 1·g), the offset again for the scale as it is stored; a whole zero point is
/// the best of all 2^bits, each with its best scale; where the grid is symmetric the scale moves alone. Only what is better
/// as it is stored is taken: never worse, round by round. Weights that a mask drops stay zero; the grid of the whole
/// tensor stays. Blocks of llama.cpp move in the same way, their scales and minimums to other multiples of the numbers
/// of a super-block, which stay. Cost of a round: up to 2·rows·cols² operations in f64; memory 8·cols² + 16·rows·cols bytes.
///
/// Sums of codebook entries (AQLM, vector quantisation) move as PV-Tuning has it, with the error of this layer alone as the
/// objective, of H + d·I for H, d a hundredth of the mean of its diagonal. *V*: the codes of each run of inputs go where a beam
/// search finds better ones beside all others; before, as long as that is better, all in a walk anew, as AQLM's. *P*: entries
/// by conjugate gradients on their least squares, scales in closed form. What a mask drops is zero in Ŵ; then the codes of a
/// run move one after the other, none anew. Codes that stand for more than 64 inputs stay, as each run has a block of H
/// of its own. The gradients of blocks and whole models, which the authors follow, are not. It ends where a round
/// changes nothing. Cost of a round and memory: those of AQLM; under a mask entries·codebooks·inputs of a run operations for
/// each weight instead of the search.
pub(super) struct Polish;

/// The registry's entry.
pub(super) static ENTRY: Polish = Polish;

static ABOUT: About = About {
    id: "polish",
    title: "Polish",
    summary: "Moves every code, and every scale, zero point and codebook entry, to where the layer's outputs are nearest to the original's, one after the other.",
    citation: "Zhang, Zhang, Wang, Qin & Xiong, COMQ: A backpropagation-free algorithm for post-training quantization, 2024; Guo et al., decoupleQ: Towards 2-bit post-training uniform quantization via decoupling parameters into integer and floating points, 2024; Malinovskii et al., PV-Tuning: Beyond straight-through estimation for extreme LLM compression, NeurIPS 2024, for one layer",
    stage: Stage::Polish,
    needs: Needs::Gram,
    parameters: &[
        Parameter {
            name: "what",
            title: "Moves",
            help: "What may change. Scales alone are quick; codes gain most behind round to nearest and where codebooks were made without data.",
            kind: Kind::Choice(&[
                Option_ {
                    id: "both",
                    title: "Both",
                    help: "Codes, then scales and what belongs to them, in each round.",
                },
                Option_ {
                    id: "codes",
                    title: "Codes",
                    help: "Integers, or codes into codebooks; scales, zero points and codebooks stay.",
                },
                Option_ {
                    id: "scales",
                    title: "Scales",
                    help: "The codes stay; scales move, and with them zero points, offsets or the entries of codebooks where there are any.",
                },
            ]),
            only_when: None,
        },
        Parameter {
            name: "rounds",
            title: "Rounds",
            help: "How often all are moved in turn. Three are near the end.",
            kind: Kind::Integer { min: 1, max: 20, default: 3, usual: &[1, 3, 5] },
            only_when: None,
        },
    ],
};

fn nothing_to_polish() -> Error {
    let what = "polish moves the grouped integers, the GGUF blocks or the codes into codebooks of a quantiser";
    Error::plan(what, "put one before it")
}

/// Rounds over what a step before has chosen.
struct Rounds<'a, 't> {
    parameters: &'a Resolved,
    task: &'a Task<'t>,
}

impl Rounds<'_, '_> {
    fn codes_move(&self) -> bool {
        self.parameters.choice("what") != "scales"
    }

    fn grids_move(&self) -> bool {
        self.parameters.choice("what") != "codes"
    }

    /// Begins at the weights of `previous`.
    fn descent(&self, previous: &Encoding) -> Result<Descent> {
        let gram = self.task.gram()?;
        let values = previous.decode().iter().map(|&value| f64::from(value)).collect();
        let is_cancelled = || self.task.observer.is_cancelled();
        let descent = Descent::new(self.task.weights, values, &gram, &is_cancelled);
        descent.ok_or(Error::Cancelled)
    }

    /// Over integers.
    fn affine(&self, mut state: State<'_>) -> Result<Affine> {
        for _ in 0..self.parameters.integer("rounds") {
            if self.codes_move() {
                state.move_codes(self.task)?;
            }
            if self.grids_move() {
                state.move_grids(self.task)?;
            }
        }
        Ok(state.finish())
    }

    /// Over sums of entries, until a round changes nothing; the codes only where they can be searched.
    fn sums(&self, state: &mut additive::Additive<'_>, is_searched: bool) -> Result<()> {
        let is_cancelled = || self.task.observer.is_cancelled();
        let rounds = self.parameters.integer("rounds");
        for round in 0..rounds {
            self.task.observer.within(round as f64 / rounds as f64);
            let before = state.error();
            if self.codes_move() && is_searched {
                state.move_codes(sums::BEAMS, &is_cancelled).ok_or(Error::Cancelled)?;
            }
            if self.grids_move() {
                state.move_entries(&is_cancelled).ok_or(Error::Cancelled)?;
                state.move_scales(&is_cancelled).ok_or(Error::Cancelled)?;
            }
            if state.error() >= before {
                break;
            }
        }
        Ok(())
    }

    /// Over blocks.
    fn blocks(&self, mut moving: Moving<'_>) -> Result<Blocks> {
        for _ in 0..self.parameters.integer("rounds") {
            if self.codes_move() {
                moving.move_codes(self.task.observer)?;
            }
            if self.grids_move() {
                moving.move_scales(self.task.observer)?;
            }
        }
        Ok(moving.finish())
    }
}

impl Method for Polish {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        match parameters.choice("what") {
            "both" => format!("polished ×{}", parameters.integer("rounds")),
            what => format!("{what} polished ×{}", parameters.integer("rounds")),
        }
    }

    fn layout(&self, _parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let previous = input.previous.ok_or_else(nothing_to_polish)?;
        let is_polished = matches!(
            previous.under_masks(),
            Layout::Affine(_) | Layout::Blocks(_) | Layout::Additive(_)
        );
        is_polished.then(|| previous.clone()).ok_or_else(nothing_to_polish)
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let previous = task.previous.as_ref().ok_or_else(nothing_to_polish)?;
        let (under, mask) = match previous {
            Encoding::Sparse(sparse) => (sparse.inner(), Some(sparse.mask())),
            other => (other, None),
        };
        let rounds = Rounds { parameters, task: &task };
        let polished = match under {
            Encoding::Blocks(blocks) => {
                let moving = Moving::new(blocks, mask, rounds.descent(previous)?);
                Encoding::Blocks(rounds.blocks(moving)?)
            }
            Encoding::Affine(affine) => {
                let state = State::new(affine, mask, rounds.descent(previous)?);
                Encoding::Affine(rounds.affine(state)?)
            }
            Encoding::Additive(additive) => {
                Encoding::Additive(sums::polished(additive, mask, &rounds)?)
            }
            _ => return Err(nothing_to_polish()),
        };
        Ok(Sparse::over(mask, polished))
    }
}
