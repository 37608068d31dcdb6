//! Vector quantisation: runs of weights, or whole rows, to the nearest entries of codebooks that are made for them.

use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{ArrayView2, s};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::encoding::{Additive, AdditiveLayout, Encoding, Layout, Sparse, SparseLayout};
use crate::error::{Error, Result};
use crate::method::aqlm::{CODE_BITS, improve, layout_of};
use crate::method::factored::Runs;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::additive::{self, Codebooks, Metric, Stored};
use crate::tensor::{DType, MatrixShape, round_f32};

/// k-means of the runs of `run` inputs of a `[rows, cols]` matrix, ŵ = sₒ·Σ C\[c\]\[code\] with little Σ (w − ŵ)².
///
/// *Shared* codebooks serve all runs; of their *own*, each run of inputs has codebooks for what all rows have there, which
/// is product quantisation. Of several stages each begins with what those before leave (residual quantisation); then codes
/// of all stages are searched together, and entries and scales solve their least squares, in turn, until little is gained.
/// *Factored* ones have points of d dimensions, ŵ = B·C\[code\] with an orthonormal basis B that all runs share: the error is what
/// the runs have outside of B, Σ_{i>d} σᵢ², and that of the points (LR²VQ, which trains both); runs are then of the
/// largest divisor of the inputs up to `run`. At as many entries it leaves no less than without, at as many bytes
/// it may.
/// *By tokens* the squares of row t count (nₜ + 1)/(N + rows), nₜ of N tokens being t: entries go where tokens are that occur, codes
/// stay the nearest.
/// A run as long as a row gives each row one code: rows with the same code become the same row, so that of a head
/// the tokens of a code have one logit.
/// Cost of a round: rows·cols·entries·stages operations.
pub(super) struct Vector;

/// The registry's entry.
pub(super) static ENTRY: Vector = Vector;

static ABOUT: About = About {
    id: "vector-quantisation",
    title: "Vector quantisation",
    summary: "Runs of weights, or whole rows, go to entries of codebooks that k-means makes for them, in one stage or several.",
    citation: "Jégou, Douze & Schmid, Product quantization for nearest neighbor search, IEEE Trans. PAMI 33(1), 2011; Chen, Guan & Wang, Approximate nearest neighbor search by residual vector quantization, Sensors 10(12), 2010; Babenko & Lempitsky, Additive quantization for extreme vector compression, CVPR 2014; factored: Learning low-rank representations for model compression (LR²VQ), 2022, without its training",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[STAGES, CODE_BITS, RUN, BOOKS, DIMS, SCALES, COUNTED],
};

const STAGES: Parameter = Parameter {
    name: "stages",
    title: "Stages",
    help: "Codebooks whose entries are added, each for what those before leave.",
    kind: Kind::Integer { min: 1, max: 4, default: 1, usual: &[1, 2, 3] },
    only_when: None,
};

const RUN: Parameter = Parameter {
    name: "run",
    title: "Inputs of a code",
    help: "Weights that one code stands for; with as many as a row has, each row is one entry.",
    kind: Kind::Integer { min: 1, max: 16384, default: 4, usual: &[2, 4, 8] },
    only_when: None,
};

const BOOKS: Parameter = Parameter {
    name: "books",
    title: "Codebooks",
    help: "Whether all runs of inputs share codebooks. Of their own they fit better and take room for each run, which is little where there are very many rows, as in an embedding or a head.",
    kind: Kind::Choice(&[
        Option_ { id: "shared", title: "Shared", help: "One set for the matrix." },
        Option_ {
            id: "own",
            title: "Of each run",
            help: "Product quantisation: a set for each run of inputs.",
        },
        Option_ {
            id: "factored",
            title: "Factored",
            help: "One set of points of fewer dimensions, in a basis that all runs share: pays where entries take more room than codes.",
        },
    ]),
    only_when: None,
};

const DIMS: Parameter = Parameter {
    name: "dims",
    title: "Dimensions of entries",
    help: "Of the runs, those directions that carry most; what lies outside of them is lost. With as many as a run has inputs nothing is.",
    kind: Kind::Integer { min: 1, max: 1024, default: 4, usual: &[2, 4, 8] },
    only_when: Some(("books", "factored")),
};

const SCALES: Parameter = Parameter {
    name: "scales",
    title: "Scales",
    help: "A scale for each output makes rows of different size alike, for 16 bits a row.",
    kind: Kind::Choice(&[
        Option_ { id: "outputs", title: "Of outputs", help: "One scale for each output." },
        Option_ { id: "none", title: "None", help: "Entries are weights as they are." },
    ]),
    only_when: Some(("books", "shared")),
};

const COUNTED: Parameter = Parameter {
    name: "counted",
    title: "Rows",
    help: "Whether the errors of all rows count alike. In an embedding or a head a row is a token: counted by how often it occurs in the calibration's text, codebooks fit the tokens that are read.",
    kind: Kind::Choice(&[
        Option_ { id: "alike", title: "Alike", help: "No data." },
        Option_ {
            id: "by-tokens",
            title: "By tokens",
            help: "Once more than the token occurs; needs a calibration.",
        },
    ]),
    only_when: None,
};

/// Sums of stages that are followed at once.
const BEAMS: usize = 16;
/// Rounds behind k-means, at most.
const ROUNDS: usize = 30;

fn is_counted(parameters: &Resolved) -> bool {
    parameters.choice(COUNTED.name) == "by-tokens"
}

fn is_own(parameters: &Resolved) -> bool {
    parameters.choice("books") == "own"
}

/// Runs as points of fewer dimensions, where they are that.
fn factored(parameters: &Resolved, shape: MatrixShape) -> Option<Runs> {
    let of = |name| parameters.integer(name) as usize;
    parameters.uses(&DIMS).then(|| Runs::new(shape, of("run"), of("dims")))
}

fn layout(parameters: &Resolved, dtype: DType, shape: MatrixShape) -> Result<AdditiveLayout> {
    let shape = factored(parameters, shape).map_or(shape, Runs::points);
    let is_scaled = parameters.uses(&SCALES) && parameters.choice("scales") == "outputs";
    let stages = parameters.integer("stages") as usize;
    layout_of((stages, is_own(parameters), is_scaled), parameters, (dtype, shape))
}

/// Codes, codebooks and scales for some inputs.
fn solve(
    weights: ArrayView2<'_, f32>,
    layout: &AdditiveLayout,
    rows: Option<&[f64]>,
    (task, share): (&Task<'_>, &dyn Fn(f64) -> f64),
) -> Result<(Vec<u16>, Codebooks, Vec<f32>)> {
    let metric = match rows {
        Some(rows) => Metric::counting(weights.ncols(), rows.to_vec()),
        None => Metric::plain(weights.ncols()),
    };
    let is_cancelled = || task.observer.is_cancelled();
    let value = |value: f32| round_f32(layout.value_dtype, value);
    let scale = |scale: f32| layout.scale_dtype.map_or(1.0, |dtype| round_f32(dtype, scale));
    let stored = Stored { value: &value, scale: &scale };
    let shape = [layout.codebooks, layout.entries(), layout.dim.min(weights.ncols())];
    let state = additive::Additive::new(weights, &metric, (stored, shape), &is_cancelled);
    let mut state = state.ok_or(Error::Cancelled)?;
    improve(&mut state, (BEAMS, ROUNDS), (task, share))?;
    Ok(state.finish())
}

/// Each run of inputs by itself.
fn solve_runs(
    weights: ArrayView2<'_, f32>,
    layout: &AdditiveLayout,
    counts: Option<&[f64]>,
    task: &Task<'_>,
) -> Result<(Vec<u32>, Vec<f32>)> {
    let (rows, cols) = weights.dim();
    let (runs, n, dim) = (layout.runs(cols), layout.codebooks, layout.dim);
    let done = AtomicUsize::new(0);
    let solve_run = |run: usize| {
        let part = weights.slice(s![.., run * dim..((run + 1) * dim).min(cols)]);
        let so_far = done.load(Ordering::Relaxed) as f64 / runs as f64;
        let found = solve(part, layout, counts, (task, &|_| so_far))?;
        done.fetch_add(1, Ordering::Relaxed);
        Ok(found)
    };
    let found: Vec<_> = (0..runs).into_par_iter().map(solve_run).collect::<Result<_>>()?;
    let mut codes = vec![0; rows * runs * n];
    let mut values = vec![0.0; runs * n * layout.entries() * dim];
    let per_run = n * layout.entries() * dim;
    for (run, (own, books, _)) in found.iter().enumerate() {
        for (row, own) in own.chunks_exact(n).enumerate() {
            let at = (row * runs + run) * n;
            codes[at..at + n].iter_mut().zip(own).for_each(|(to, &code)| *to = u32::from(code));
        }
        let entries = values[run * per_run..(run + 1) * per_run].chunks_exact_mut(dim);
        for (entry, own) in entries.zip(books.values.chunks_exact(books.dim)) {
            entry[..books.dim].copy_from_slice(own);
        }
    }
    Ok((codes, values))
}

/// Points in a basis that all runs share.
fn in_basis(
    weights: ArrayView2<'_, f32>,
    (runs, layout): (Runs, AdditiveLayout),
    counts: Option<&[f64]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    let counts = counts.map(|counts| runs.counts(counts));
    let (basis, points) = runs.basis(weights, counts.as_deref(), task)?;
    let (codes, books, _) =
        solve(points.view(), &layout, counts.as_deref(), (task, &|share| share))?;
    let codes = codes.into_iter().map(u32::from).collect();
    let codes = Additive::new(runs.points(), layout, codes, (books.values, Vec::new()));
    Ok(runs.whole(task.shape(), codes, basis))
}

impl Method for Vector {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if is_counted(parameters) { Needs::Tokens } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let [stages, bits, run] =
            ["stages", "code_bits", "run"].map(|name| parameters.integer(name));
        let books = match parameters.choice("books") {
            "own" => ", own codebooks".to_owned(),
            "factored" => format!(" in {} dimensions", parameters.integer("dims")),
            _ => String::new(),
        };
        let counted = if is_counted(parameters) { ", by tokens" } else { "" };
        format!("{stages}×{bits}-bit vectors g{run}{books}{counted}")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let layout = layout(parameters, input.dtype, input.shape)?;
        let whole = match factored(parameters, input.shape) {
            Some(runs) => runs.layout(layout, input.dtype),
            None => Layout::Additive(layout),
        };
        Ok(SparseLayout::over(input.previous, whole))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let shape = task.shape();
        let layout = layout(parameters, task.dtype, shape)?;
        let (values, mask) = masked(&task);
        let weights = ArrayView2::from_shape((shape.rows, shape.cols), &values);
        let counts = if is_counted(parameters) { Some(task.token_shares()?) } else { None };
        let counts = counts.as_deref();
        if let Some(runs) = factored(parameters, shape) {
            let whole = match weights {
                Ok(weights) if shape.elements() > 0 => {
                    in_basis(weights, (runs, layout), counts, &task)?
                }
                _ => runs.empty(shape, layout, task.dtype),
            };
            return Ok(Sparse::over(mask, whole));
        }
        let additive = match weights {
            Ok(weights) if shape.elements() > 0 && layout.by_run => {
                let (codes, values) = solve_runs(weights, &layout, counts, &task)?;
                Additive::new(shape, layout, codes, (values, Vec::new()))
            }
            Ok(weights) if shape.elements() > 0 => {
                let (codes, books, scales) =
                    solve(weights, &layout, counts, (&task, &|share| share))?;
                let scales = if layout.scale_dtype.is_some() { scales } else { Vec::new() };
                let codes = codes.into_iter().map(u32::from).collect();
                Additive::new(shape, layout, codes, (books.values, scales))
            }
            _ => Additive::empty(shape, layout),
        };
        Ok(Sparse::over(mask, Encoding::Additive(additive)))
    }
}
