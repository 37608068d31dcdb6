//! AQLM: a run of weights is the sum of a few entries of codebooks that are made for the matrix.

use ndarray::ArrayView2;

use crate::encoding::{Additive, AdditiveLayout, Encoding, Layout, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::additive::{self, MOST_BEAMS, Metric, Stored};
use crate::tensor::{DType, MatrixShape, round_f32};

/// Additive codes of a `[rows, cols]` matrix, ŵ = sₒ·Σ C\[c\]\[code\] for each run of inputs, with little
/// tr((W − Ŵ)·(H + d·I)·(W − Ŵ)ᵀ), H = Σ x·xᵀ/tokens (*outputs*) or Σ (w − ŵ)² (*weights*).
///
/// It begins with sₒ = √(Σ w²/cols) and residual k-means of W/s. A round moves codes, then entries, then scales, and takes
/// only what is better as it is stored. *Codes*: run by run, all codebooks together by beam search with the products of
/// entries, cᵀ·Hⱼⱼ·c', made once for all rows; while that is better, anew from the first run to the last, each about what the runs
/// before left over and counted by what of it those behind cannot make good (as LDLQ does), before all are moved once
/// more with the others in place. *Entries*: conjugate gradients on the least squares problem. *Scales*: in closed form.
/// It ends after `rounds`, or where one gains less than 0.2 %. The authors' tuning of blocks by gradients is a step
/// of its own, `refine`; their codebooks of 2¹⁶ entries, which are slow on a processor, are not done.
///
/// A fixed point of these rounds is one of PV-Tuning with the error of the layer as its objective (Malinovskii et al.
/// 2024): entries and scales solve its P step, and where no run has a better code no subset of runs moves in its V step,
/// whose step is at most 1/λ of the largest eigenvalue λ of H of the subset. Polish goes such rounds from codes that
/// are there, also those made without data.
/// Cost of a round: some 7·rows·cols² operations in f64, 10·rows·cols² in f32 and rows·cols·(entries·codebooks)·(1 + beams/run)
/// of the search in f32; memory 28·cols² + 24·rows·cols bytes.
pub(super) struct Aqlm;

/// The registry's entry.
pub(super) static ENTRY: Aqlm = Aqlm;

static ABOUT: About = About {
    id: "aqlm",
    title: "AQLM",
    summary: "Codes every few weights as a sum of entries of codebooks that are made for the matrix, for the least error of the layer's outputs.",
    citation: "Egiazarian, Panferov, Kuznedelev, Frantar, Babenko & Alistarh, Extreme compression of large language models via additive quantization, ICML 2024, section 3; Malinovskii et al., PV-Tuning: Beyond straight-through estimation for extreme LLM compression, NeurIPS 2024, for one layer",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[
        CODEBOOKS,
        CODE_BITS,
        RUN,
        NEAREST,
        Parameter { only_when: Some(("nearest", "outputs")), ..DAMPING },
        ROUNDS,
        BEAM,
    ],
};

const CODEBOOKS: Parameter = Parameter {
    name: "codebooks",
    title: "Codebooks",
    help: "Entries that are added. Two of 8 bits are usual for layers of some 4096 inputs; small layers are better served by four of 4 bits, whose entries take little room.",
    kind: Kind::Integer { min: 1, max: 4, default: 2, usual: &[1, 2, 4] },
    only_when: None,
};

/// Bits of a code into codebooks that are made for a matrix.
pub(super) const CODE_BITS: Parameter = Parameter {
    name: "code_bits",
    title: "Bits of a code",
    help: "A codebook has 2^bits entries, 16 bits for each value: 256 entries for 8 inputs are 4 KiB. Never more entries than there are vectors. 12 are for one codebook alone or large layers, and slow.",
    kind: Kind::Integer { min: 2, max: 12, default: 8, usual: &[4, 6, 8, 12] },
    only_when: None,
};

/// Inputs of a run at most, where codes are found by outputs: each run has a block of H of its own.
pub(super) const MOST_RUN: i64 = 64;

const RUN: Parameter = Parameter {
    name: "run",
    title: "Inputs of a code",
    help: "Weights that one sum stands for: bits a weight are codebooks times bits over this, and what codebooks and scales take.",
    kind: Kind::Integer { min: 1, max: MOST_RUN, default: 8, usual: &[4, 8, 16] },
    only_when: None,
};

const NEAREST: Parameter = Parameter {
    name: "nearest",
    title: "Nearest in",
    help: "What must come near to the original's.",
    kind: Kind::Choice(&[
        Option_ {
            id: "outputs",
            title: "Outputs",
            help: "Least error of the outputs on the calibration's text; needs Gram matrices.",
        },
        Option_ {
            id: "weights",
            title: "Weights",
            help: "Least squares of the weights; needs no data.",
        },
    ]),
    only_when: None,
};

const ROUNDS: Parameter = Parameter {
    name: "rounds",
    title: "Rounds",
    help: "How often codes, codebooks and scales move in turn, at most; it ends before where little is gained.",
    kind: Kind::Integer { min: 1, max: 100, default: 16, usual: &[4, 16, 40] },
    only_when: None,
};

const BEAM: Parameter = Parameter {
    name: "beam",
    title: "Beam",
    help: "Sums that are followed at once in the search of codes. More find better codes and take longer.",
    kind: Kind::Integer { min: 1, max: MOST_BEAMS as i64, default: 16, usual: &[4, 8, 16, 32] },
    only_when: None,
};

/// Entries of all codebooks, where there are several, at most: their products of each two are held.
const MOST_ENTRIES: usize = 4096;
/// A round that gains less than this share of the error is the last.
const GAIN: f64 = 0.002;

/// Codebooks for runs of so many inputs, never longer than a row, with never more entries than there are vectors.
pub(super) fn layout_of(
    (codebooks, by_run, is_scaled): (usize, bool, bool),
    parameters: &Resolved,
    (dtype, shape): (DType, MatrixShape),
) -> Result<AdditiveLayout> {
    let bits = parameters.integer("code_bits") as u32;
    if codebooks > 1 && codebooks << bits > MOST_ENTRIES {
        return Err(Error::plan(
            format!("{codebooks} codebooks of {bits} bits are too many to search together"),
            format!("take fewer bits, up to {MOST_ENTRIES} entries in all, or one codebook"),
        ));
    }
    let dim = (parameters.integer("run") as usize).min(shape.cols).max(1);
    let vectors = if by_run { shape.rows } else { shape.rows * shape.cols.div_ceil(dim) };
    let bits = bits.min(vectors.next_power_of_two().ilog2()).max(1);
    let scale_dtype = dtype.scale_dtype();
    // Over scales entries are near 1, which 16 bits hold well; weights as they are may be beyond the range of F16.
    let is_narrowed = is_scaled && scale_dtype == DType::F32;
    let value_dtype = if is_narrowed { DType::F16 } else { scale_dtype };
    let scale_dtype = is_scaled.then_some(scale_dtype);
    Ok(AdditiveLayout { codebooks, bits, dim, by_run, value_dtype, scale_dtype })
}

fn layout(parameters: &Resolved, dtype: DType, shape: MatrixShape) -> Result<AdditiveLayout> {
    let codebooks = parameters.integer("codebooks") as usize;
    layout_of((codebooks, false, true), parameters, (dtype, shape))
}

/// Rounds until one gains little, and codes once more for the entries of the last.
pub(super) fn improve(
    state: &mut additive::Additive<'_>,
    (beams, rounds): (usize, usize),
    (task, share): (&Task<'_>, &dyn Fn(f64) -> f64),
) -> Result<()> {
    let is_cancelled = || task.observer.is_cancelled();
    for round in 0..rounds {
        task.observer.within(share(round as f64 / rounds as f64));
        let before = state.error();
        state.round(beams, &mut |_, _| {}, &is_cancelled).ok_or(Error::Cancelled)?;
        if state.error() >= (1.0 - GAIN) * before {
            break;
        }
    }
    state.move_codes(beams, &is_cancelled).ok_or(Error::Cancelled)
}

/// What counts.
fn metric(parameters: &Resolved, task: &Task<'_>, dim: usize) -> Result<Metric> {
    if parameters.choice("nearest") == "weights" {
        return Ok(Metric::plain(task.weights.ncols()));
    }
    task.metric(&*task.gram()?, (parameters.fraction("damping"), dim))
}

/// Codes and codebooks for some weights.
fn solve(
    weights: ArrayView2<'_, f32>,
    layout: &AdditiveLayout,
    parameters: &Resolved,
    task: &Task<'_>,
) -> Result<(Vec<u32>, Vec<f32>, Vec<f32>)> {
    let metric = metric(parameters, task, layout.dim)?;
    let is_cancelled = || task.observer.is_cancelled();
    let of_scales = layout.scale_dtype.unwrap_or(DType::F32);
    let value = |value: f32| round_f32(layout.value_dtype, value);
    let scale = |scale: f32| round_f32(of_scales, scale);
    let stored = Stored { value: &value, scale: &scale };
    let shape = [layout.codebooks, layout.entries(), layout.dim];
    let state = additive::Additive::new(weights, &metric, (stored, shape), &is_cancelled);
    let mut state = state.ok_or(Error::Cancelled)?;
    let [beams, rounds] = ["beam", "rounds"].map(|name| parameters.integer(name) as usize);
    improve(&mut state, (beams, rounds), (task, &|share| share))?;
    let (codes, books, scales) = state.finish();
    Ok((codes.into_iter().map(u32::from).collect(), books.values, scales))
}

impl Method for Aqlm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("nearest") == "weights" { Needs::Weights } else { Needs::Gram }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let [codebooks, bits, run] =
            ["codebooks", "code_bits", "run"].map(|name| parameters.integer(name));
        let plain = if parameters.choice("nearest") == "weights" { " of weights" } else { "" };
        format!("{codebooks}×{bits}-bit additive g{run}{plain}")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let layout = layout(parameters, input.dtype, input.shape)?;
        Ok(SparseLayout::over(input.previous, Layout::Additive(layout)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let layout = layout(parameters, task.dtype, shape)?;
        let (values, mask) = masked(&task);
        let weights = ArrayView2::from_shape((shape.rows, shape.cols), &values);
        let additive = match weights {
            Ok(weights) if shape.elements() > 0 => {
                let (codes, books, scales) = solve(weights, &layout, parameters, &task)?;
                Additive::new(shape, layout, codes, (books, scales))
            }
            _ => Additive::empty(shape, layout),
        };
        Ok(Sparse::over(mask, Encoding::Additive(additive)))
    }
}
