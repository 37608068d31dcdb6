//! A uniform grid under a range coder: codes chosen by what they leave and what they cost, in as many bytes as are given.

use rayon::prelude::{IntoParallelRefIterator as _, ParallelIterator as _};

use crate::encoding::{Coded, CodedLayout, Encoding, Layout, Scaled, ScaledLayout};
use crate::error::Result;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::grid_codes::{APART, Chosen, LARGEST, LEVELS, Levels, Sums, choose, encode};
use crate::observer::Observer;
use crate::tensor::{DType, MatrixShape, round_f32};

/// Codes q of |w|/Δ, one step Δ for the matrix, range-coded with probabilities that are learnt as they go ([`crate::numeric::grid_codes`]).
///
/// A code is that of least (|w|/Δ − r)² + 0.11·bits(q), r its magnitude: of 0 and the levels below and above. The magnitudes r₁ … r₈ are
/// the means of what went to them, those beyond lie Δ apart. Δ is sought (secants of bits over log₂ Δ) until the bytes of
/// the codes are those of the layout, up to 1 of 1000 that are left over. What is left of N(0, 1) is that of the entropy-coded scalar
/// quantiser: 0.3483, 0.1777, 0.0889, 0.0445, 0.0222, 0.00556 with 1, 1.5, 2, 2.5, 3, 4 bits, and up to 1.5 % more for bits
/// spent on learning. Whatever is small or large together is coded by its own size: rows, columns, single weights. *Outputs*:
/// W·diag(s), s = √(E\[x²\] + a little of their mean) beside a scale for each input, so that the same is left of every input's part of the
/// outputs. Weights that a mask drops are zeros, which cost next to nothing. Cost: some 130 ns a weight, three to ten times; of large layers
/// all but the last on eight runs.
pub(super) struct CodedMethod;

/// The registry's entry.
pub(super) static ENTRY: CodedMethod = CodedMethod;

static ABOUT: About = About {
    id: "entropy-coded",
    title: "Entropy-coded grid",
    summary: "One fine grid for the layer, its codes chosen by error and length and written by a range coder, to any number of bits a weight; for archives, as no runtime computes with codes of varying length.",
    citation: "Wiedemann et al., DeepCABAC: a universal compression algorithm for deep neural networks, IEEE JSTSP 2020; Shi, Lu, Deng & others, Lossy and lossless (L²) post-training model size compression, ICCV 2023; Chou, Lookabaugh & Gray, Entropy-constrained vector quantization, 1989",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[RATE, NEAREST],
};

const RATE: Parameter = Parameter {
    name: "rate",
    title: "Bits a weight",
    help: "Bits for each weight, everything counted; any number, as 2.5. Layers of a few hundred weights take more.",
    kind: Kind::Fraction { min: 0.25, max: 8.0, default: 3.0 },
    only_when: None,
};

const NEAREST: Parameter = Parameter {
    name: "nearest",
    title: "Nearest in",
    help: "What must come near to the original's. For outputs each input counts by its mean square, and has a scale.",
    kind: Kind::Choice(&[
        Option_ {
            id: "weights",
            title: "Weights",
            help: "Least squares of the weights; needs no data.",
        },
        Option_ {
            id: "outputs",
            title: "Outputs",
            help: "Least squares weighted by E[x²] of the inputs; needs a calibration.",
        },
    ]),
    only_when: None,
};

/// What a bit may cost, in Δ²: of the finest grids −dD/dR = 2·ln 2·Δ²/12 = 0.1155·Δ². With more than 0.13 choices make their
/// own codes likelier until some are lost.
const PRICE: f32 = 0.11;
/// How many steps are tried, at most.
const TRIES: usize = 16;
/// Those behind which levels are fitted anew.
const FITS: usize = 5;
/// Share of the bytes that may be left over.
const LEFT_OVER: f64 = 0.001;
/// Runs on which a step is sought before all are coded.
const SAMPLE: usize = 8;
/// What every input counts for, as a share of the mean of all.
const FLOOR: f64 = 1e-4;

fn is_weighted(parameters: &Resolved) -> bool {
    parameters.choice("nearest") == "outputs"
}

/// The layout of the codes.
fn layout(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> CodedLayout {
    let scales = if is_weighted(parameters) { shape.cols as u64 * dtype.bits() / 8 } else { 0 };
    CodedLayout::of_rate(shape, parameters.fraction("rate"), scales)
}

impl Method for CodedMethod {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if is_weighted(parameters) { Needs::Moments } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let weighted = if is_weighted(parameters) { ", by inputs" } else { "" };
        format!("{} bits range-coded{weighted}", parameters.fraction("rate"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let scale_dtype = input.dtype.scale_dtype();
        let inner = Layout::Coded(layout(parameters, input.shape, scale_dtype));
        if !is_weighted(parameters) {
            return Ok(inner);
        }
        Ok(Layout::Scaled(ScaledLayout { scale_dtype, inner: Box::new(inner) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, dtype) = (task.shape(), task.dtype.scale_dtype());
        let (mut weights, _) = masked(&task);
        let layout = layout(parameters, shape, dtype);
        if !is_weighted(parameters) {
            return Ok(Encoding::Coded(fit(&weights, layout, &task)?));
        }
        let squares = task.mean_squares()?;
        let mean = squares.iter().map(|&x| f64::from(x)).sum::<f64>() / shape.cols.max(1) as f64;
        let scale = |&square: &f32| match mean {
            0.0 => 1.0,
            _ => round_f32(dtype, (f64::from(square) / mean + FLOOR).sqrt() as f32),
        };
        let scales: Vec<f32> = squares.iter().map(scale).collect();
        for row in weights.to_mut().chunks_mut(shape.cols.max(1)) {
            row.iter_mut().zip(&scales).for_each(|(weight, scale)| *weight *= scale);
        }
        let coded = fit(&weights, layout, &task)?;
        Ok(Encoding::Scaled(Scaled::new(dtype, scales, Encoding::Coded(coded))))
    }
}

/// Weights in runs, and the codes they are to have.
struct Search<'a> {
    weights: &'a [f32],
    /// Weights of a run and of a row.
    run: usize,
    cols: usize,
    /// The finest step of which no code is beyond the largest.
    least: f64,
    bytes: f64,
    observer: &'a dyn Observer,
}

/// One choice of codes.
struct Try {
    runs: Vec<Chosen>,
    step: f64,
    bytes: usize,
}

impl Search<'_> {
    fn stored(&self, step: f64) -> f64 {
        f64::from(step.max(self.least) as f32)
    }

    /// Codes of every `stride`-th run.
    fn choose(&self, stride: usize, step: f64, levels: &Levels) -> Result<Try> {
        let runs: Vec<&[f32]> = self.weights.chunks(self.run).step_by(stride).collect();
        let chosen = |weights: &&[f32]| {
            self.observer.go_on()?;
            Ok(choose(weights, self.cols, step as f32, (levels, PRICE)))
        };
        let runs: Vec<Chosen> = runs.par_iter().map(chosen).collect::<Result<_>>()?;
        let bytes = runs.iter().map(|run| run.bytes.len()).sum();
        Ok(Try { runs, step, bytes })
    }

    /// From a step and levels to those whose codes have the bytes that every `stride`-th run may have; `None` where none was found.
    fn seek(&self, stride: usize, (mut step, mut levels): (f64, Levels)) -> Result<Option<Try>> {
        let n: usize = self.weights.chunks(self.run).step_by(stride).map(<[f32]>::len).sum();
        let most = self.bytes * n as f64 / self.weights.len() as f64;
        let goal = most * (1.0 - LEFT_OVER / 2.0);
        let (mut best, mut bracket) = (None::<Try>, Bracket::default());
        for at in 0..TRIES {
            let tried = self.choose(stride, step, &levels)?;
            if at < FITS {
                levels = tried.levels(APART);
                // Other levels, other bytes.
                bracket = Bracket::default();
            }
            let left = most - tried.bytes as f64;
            bracket.add(step.log2(), (tried.bytes as f64 - goal) * 8.0 / n as f64);
            if left >= 0.0 && best.as_ref().is_none_or(|best| tried.bytes >= best.bytes) {
                best = Some(tried);
            }
            let is_full = left <= (LEFT_OVER * most).max(1.0);
            if left >= 0.0 && (is_full || step <= self.least) {
                break;
            }
            step = self.stored(bracket.next().exp2());
        }
        Ok(best)
    }
}

impl Try {
    /// What leaves least of these codes, in steps.
    fn levels(&self, apart: f64) -> Levels {
        let sums = self.runs.iter().fold(Sums::default(), |all, run| all.with(&run.sums));
        sums.levels(apart)
    }
}

/// The codes of the finest step whose bytes the layout has. Says so where all of them are zeros and the weights are not.
fn fit(weights: &[f32], layout: CodedLayout, task: &Task<'_>) -> Result<Coded> {
    let (shape, observer) = (task.shape(), task.observer);
    let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
    let peak = weights.iter().fold(0.0_f32, |peak, w| peak.max(w.abs()));
    if peak == 0.0 {
        return Ok(zeros(shape, layout));
    }
    let (n, bytes) = (weights.len() as f64, layout.bytes as f64);
    let least = (f64::from(peak) / f64::from(LARGEST - 1)).max(f64::from(f32::from_bits(1)));
    let run = layout.rows * shape.cols;
    let search = Search { weights, run, cols: shape.cols, least, bytes, observer };
    // Of N(0, σ²) a step of 4.13·σ/2ᴿ takes R bits.
    let step = search.stored(4.13 * (squares / n).sqrt() * (-8.0 * bytes / n).exp2());
    let levels = Levels { first: std::array::from_fn(|at| at as f32 + 1.0), step: 1.0 };
    let mut from = (step, levels);
    let stride = weights.len().div_ceil(run).div_ceil(SAMPLE);
    if stride > 1
        && let Some(tried) = search.seek(stride, from)?
    {
        from = (tried.step, tried.levels(APART));
    }
    let best = search.seek(1, from)?;
    if best.as_ref().is_none_or(|best| best.runs.iter().all(Chosen::is_zero)) {
        observer.warn(format!(
            "every weight of {} becomes zero in so few bits; give it more, or fewer of its weights with a mask",
            task.tensor
        ));
    }
    Ok(best.and_then(|best| coded(best, shape, layout)).unwrap_or_else(|| zeros(shape, layout)))
}

/// Where bits a weight beyond the goal cross nothing, falling with log₂ of the step.
#[derive(Default)]
struct Bracket {
    /// The last that took too much and too little: log₂ of the step, bits beyond the goal.
    over: Option<(f64, f64)>,
    under: Option<(f64, f64)>,
}

impl Bracket {
    fn add(&mut self, step: f64, beyond: f64) {
        let end = if beyond > 0.0 { &mut self.over } else { &mut self.under };
        *end = Some((step, beyond));
    }

    /// Along the secant between both, kept off its ends; along a slope of −1.4, between that of fine steps and of coarse
    /// ones, where there is one only.
    fn next(&self) -> f64 {
        match (self.over, self.under) {
            (Some((a, above)), Some((b, below))) => {
                let share = (above / (above - below)).clamp(0.05, 0.95);
                a + share * (b - a)
            }
            (Some((at, beyond)), None) => at + (beyond / 1.4).max(1e-3),
            (None, Some((at, beyond))) => at + (beyond / 1.4).min(-1e-3),
            (None, None) => 0.0,
        }
    }
}

fn coded(tried: Try, shape: MatrixShape, layout: CodedLayout) -> Option<Coded> {
    let means = tried.levels(0.0);
    let scaled = |level: f32| (f64::from(level) * tried.step).min(f64::from(f32::MAX)) as f32;
    let levels = Levels { first: means.first.map(scaled), step: scaled(means.step) };
    let (codes, bytes): (Vec<_>, Vec<_>) =
        tried.runs.into_iter().map(|run| (run.codes, run.bytes)).unzip();
    Coded::new(shape, layout, levels, (codes.concat(), &bytes))
}

/// Zeros, for which every layout has room.
fn zeros(shape: MatrixShape, layout: CodedLayout) -> Coded {
    let codes = vec![0; shape.elements()];
    let run = (layout.rows * shape.cols).max(1);
    let bytes: Vec<Vec<u8>> = codes.chunks(run).map(|run| encode(run, shape.cols)).collect();
    let levels = Levels { first: [0.0; LEVELS], step: 0.0 };
    Coded::new(shape, layout, levels, (codes, &bytes)).expect("room for zeros")
}
