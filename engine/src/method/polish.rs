//! Polish: integers and scales that a quantiser chose, each in turn at its best while the others stand.

use crate::encoding::{Affine, AffineData, Encoding, Layout};
use crate::error::{Error, Result};
use crate::method::grid::{encoding_behind, stored_scale};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::numeric::descent::Descent;
use crate::numeric::grouping::Grouping;

/// Coordinate descent on tr((W − Ŵ)·H·(W − Ŵ)ᵀ) over codes and scales of grouped integers; zero points stay.
///
/// A round: every code in turn goes to the level nearest to wⱼ* = ŵⱼ + ((W − Ŵ)·H)ⱼ/Hⱼⱼ (COMQ), then the scale of each
/// group to s + c·((W − Ŵ)·H)/(c·H·c) with c its codes less their zero point, where that is better after rounding to
/// its storage type. That is decoupleQ's closed form one group at a time: their joint solution is where rounds
/// end. Never worse, round by round. Weights that a mask drops stay zero; a scale for the whole tensor stays.
/// Cost of a round: up to 2·rows·cols² operations in f64; memory 8·cols² + 16·rows·cols bytes.
pub(super) struct Polish;

/// The registry's entry.
pub(super) static ENTRY: Polish = Polish;

static ABOUT: About = About {
    id: "polish",
    title: "Polish",
    summary: "Moves every integer and every scale to where the layer's outputs are nearest to the original's, one after the other.",
    citation: "Zhang, Zhang, Wang, Qin & Xiong, COMQ: A backpropagation-free algorithm for post-training quantization, 2024; Guo et al., decoupleQ: Towards 2-bit post-training uniform quantization via decoupling parameters into integer and floating points, 2024",
    stage: Stage::Polish,
    needs: Needs::Gram,
    parameters: &[
        Parameter {
            name: "what",
            title: "Moves",
            help: "What may change. Scales alone are quick; integers gain most behind round to nearest.",
            kind: Kind::Choice(&[
                Option_ {
                    id: "both",
                    title: "Both",
                    help: "Integers, then scales, in each round.",
                },
                Option_ { id: "codes", title: "Integers", help: "The grids stay." },
                Option_ { id: "scales", title: "Scales", help: "The integers stay." },
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
    Error::plan("polish moves the grouped integers of a quantiser", "put one before it")
}

fn no_whole_zeros() -> Error {
    Error::plan(
        "polish moves integers about whole zero points",
        "choose whole zero points for the quantiser before it",
    )
}

/// Codes less their zero points, scales and the walk.
struct State<'a> {
    affine: &'a Affine,
    steps: Vec<f32>,
    scales: Vec<f32>,
    descent: Descent,
}

impl State<'_> {
    fn group(&self, row: usize, col: usize) -> usize {
        let (cols, grouping) = (self.affine.shape().cols, self.affine.layout().grouping);
        grouping.first_scale(row, cols) + col / grouping.width(cols)
    }

    fn move_codes(&mut self, task: &Task<'_>) -> Result<()> {
        let (cols, layout) = (self.affine.shape().cols, self.affine.layout());
        let mask = match &task.previous {
            Some(Encoding::Sparse(sparse)) => Some(sparse.mask()),
            _ => None,
        };
        let (grouping, scales, zeros) = (layout.grouping, &self.scales, self.affine.zeros());
        let largest = f64::from(layout.largest());
        let code = |row: usize, col: usize, value: f64| {
            let group = grouping.first_scale(row, cols) + col / grouping.width(cols);
            let zero = f64::from(zeros[group]);
            let code = (value / f64::from(scales[group])).round_ties_even() + zero;
            ((code.clamp(0.0, largest) - zero) as f32, scales[group])
        };
        let level = |row: usize, col: usize, best: f64| {
            if mask.is_some_and(|mask| !mask.keeps(row * cols + col)) {
                return 0.0;
            }
            let (code, scale) = code(row, col, best);
            f64::from(code * scale)
        };
        let is_cancelled = || task.observer.is_cancelled();
        self.descent.move_weights(&level, &is_cancelled).ok_or(Error::Cancelled)?;
        for (i, (step, &value)) in self.steps.iter_mut().zip(self.descent.values()).enumerate() {
            *step = code(i / cols, i % cols, value).0;
        }
        Ok(())
    }

    fn move_scales(&mut self, task: &Task<'_>) -> Result<()> {
        let layout = self.affine.layout();
        if layout.grouping == Grouping::Tensor {
            return Ok(());
        }
        let width = layout.grouping.width(self.affine.shape().cols);
        let stored = |scale: f64| stored_scale(scale as f32, layout.scale_dtype);
        let is_cancelled = || task.observer.is_cancelled();
        let of = (self.steps.as_slice(), self.scales.as_mut_slice());
        self.descent.move_scales(of, width, &stored, &is_cancelled).ok_or(Error::Cancelled)
    }

    fn finish(self) -> Affine {
        let cols = self.affine.shape().cols;
        let zeros = self.affine.zeros();
        let code = |(i, step): (usize, &f32)| {
            (*step + f32::from(zeros[self.group(i / cols, i % cols)])) as u8
        };
        let codes = self.steps.iter().enumerate().map(code).collect();
        let (shape, layout) = (self.affine.shape(), self.affine.layout().clone());
        let data = AffineData { codes, scales: self.scales, zeros: zeros.to_vec() };
        Affine::new(shape, layout, data)
    }
}

/// The integers of an encoding, under a mask or not.
fn affine_of(encoding: &Encoding) -> Option<&Affine> {
    match encoding {
        Encoding::Affine(affine) => Some(affine),
        Encoding::Sparse(sparse) => affine_of(sparse.inner()),
        _ => None,
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
        match previous.affine() {
            Some(affine) if affine.has_offsets => Err(no_whole_zeros()),
            Some(_) => Ok(previous.clone()),
            None => Err(nothing_to_polish()),
        }
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let previous = task.previous.as_ref().ok_or_else(nothing_to_polish)?;
        let affine = affine_of(previous).ok_or_else(nothing_to_polish)?;
        if affine.layout().has_offsets {
            return Err(no_whole_zeros());
        }
        let gram = task.gram()?;
        let values: Vec<f64> = previous.decode().iter().map(|&value| f64::from(value)).collect();
        let is_cancelled = || task.observer.is_cancelled();
        let descent = Descent::new(task.weights, values, &gram, &is_cancelled);
        let descent = descent.ok_or(Error::Cancelled)?;
        let scales = affine.scales().to_vec();
        let mut state = State { affine, steps: Vec::new(), scales, descent };
        let cols = affine.shape().cols;
        let step = |(i, &code): (usize, &u8)| {
            f32::from(code) - f32::from(affine.zeros()[state.group(i / cols, i % cols)])
        };
        state.steps = affine.codes().iter().enumerate().map(step).collect();
        for _ in 0..parameters.integer("rounds") {
            if parameters.choice("what") != "scales" {
                state.move_codes(&task)?;
            }
            if parameters.choice("what") != "codes" {
                state.move_scales(&task)?;
            }
        }
        Ok(encoding_behind(state.finish(), Some(previous)))
    }
}
