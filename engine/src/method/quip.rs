//! `QuIP#`: weights of a randomly turned basis, eight at a time, to the nearest points of a lattice.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use ndarray::{Array2, ArrayView2};
use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::encoding::{
    Encoding, Layout, Rotated, RotatedLayout, Sparse, SparseLayout, Vectors, VectorsLayout,
};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::codebook::Codebook;
use crate::numeric::feedback::{Levels, walk};
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::numeric::product::apply_rows;
use crate::numeric::rotation::{Rotation, apply_both};
use crate::tensor::{DType, MatrixShape, round_f32};

/// Lattice codes of S·W·Rᵀ, with R and S random [`Rotation`]s of inputs and outputs, under one scale for the matrix; with
/// outputs *kept* of W·Rᵀ, each output under a scale of its own.
///
/// Turned weights look like independent normal values, for which the codebooks are made: E8P with 2 bits a weight, and
/// what it leaves with 1 bit more (E81B) or 2 (E8P again). With *feedback*, runs of eight inputs are rounded in order
/// along H̃ + d·I = V·D·Vᵀ, H̃ = R·H·Rᵀ, D in blocks of 8: ŵ = nearest point to w + Σ (wₐ − ŵₐ)·Vₐ (LDLQ, section 4.2);
/// else each by itself, without data. A scale is the root mean square of its weights, in the end that of least
/// tr(Δ·H·Δᵀ) for these codes (without data Σ Δ²). The authors' rescaling of inputs, their tuning of the layers and of
/// the signs by gradients are not done.
/// Cost: 1/3·cols³ + 2·rows·cols² operations and some 700 a weight for the points; memory 24·cols² + 12·rows·cols bytes.
pub(super) struct Quip;

/// The registry's entry.
pub(super) static ENTRY: Quip = Quip;

static ABOUT: About = About {
    id: "quip-sharp",
    title: "QuIP#",
    summary: "Turns inputs and outputs at random, so that no weight stands out, and rounds eight weights at a time to a point of the densest lattice.",
    citation: "Tseng, Chee, Sun, Kuleshov & De Sa, QuIP#: Even better LLM quantization with Hadamard incoherence and lattice codebooks, ICML 2024, sections 3 and 4",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[
        BITS,
        OUTPUTS,
        ROUNDING,
        Parameter { only_when: Some(("rounding", "feedback")), ..DAMPING },
        SEED,
    ],
};

const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits a weight. 2 is what the lattice is best at; 3 and 4 code again what 2 leave.",
    kind: Kind::Integer { min: 2, max: 4, default: 2, usual: &[2, 3, 4] },
    only_when: None,
};

const OUTPUTS: Parameter = Parameter {
    name: "outputs",
    title: "Outputs",
    help: "Turned, what rounding does to one output is spread over all. A head or an embedding has outputs of very different size, of which the small ones then lose most: keep them there.",
    kind: Kind::Choice(&[
        Option_ {
            id: "turned",
            title: "Turned",
            help: "As published: inputs and outputs, one scale for the matrix.",
        },
        Option_ {
            id: "kept",
            title: "Kept",
            help: "The inputs alone are turned; each output has a scale of its own, 16 bits.",
        },
    ]),
    only_when: None,
};

const ROUNDING: Parameter = Parameter {
    name: "rounding",
    title: "Rounding",
    help: "With feedback, the inputs to come make good what rounding did to the outputs, and a calibration is needed; without, every eight weights go to their nearest point.",
    kind: Kind::Choice(&[
        Option_ {
            id: "feedback",
            title: "With feedback",
            help: "LDLQ: errors are fed to the inputs behind, by the Gram matrix.",
        },
        Option_ { id: "nearest", title: "Nearest", help: "By themselves, without data." },
    ]),
    only_when: None,
};

/// The parameter `seed` of methods that turn the basis at random.
pub(super) const SEED: Parameter = Parameter {
    name: "seed",
    title: "Seed",
    help: "Which random signs. Another seed gives another result of the same kind.",
    kind: Kind::Integer { min: 0, max: 65_535, default: 0, usual: &[0, 1, 2] },
    only_when: None,
};

/// Whether outputs are turned too.
fn is_turned(parameters: &Resolved) -> bool {
    parameters.choice("outputs") == "turned"
}

/// The layout within the rotation.
fn layout(parameters: &Resolved, dtype: DType) -> VectorsLayout {
    let codebook = match parameters.integer("bits") {
        2 => Codebook::E8p,
        3 => Codebook::E8pE81b,
        _ => Codebook::E8pE8p,
    };
    let grouping = if is_turned(parameters) { Grouping::Tensor } else { Grouping::Channel };
    VectorsLayout { codebook, grouping, scale_dtype: dtype.scale_dtype() }
}

/// Points under scales, and the codes that were chosen.
struct Rounding<'a> {
    layout: &'a VectorsLayout,
    cols: usize,
    scales: &'a [f32],
    codes: Vec<AtomicU32>,
}

impl<'a> Rounding<'a> {
    fn new(layout: &'a VectorsLayout, shape: MatrixShape, scales: &'a [f32]) -> Self {
        let codes = shape.rows * layout.codes_per_row(shape.cols);
        let codes = (0..codes).map(|_| AtomicU32::new(0)).collect();
        Self { layout, cols: shape.cols, scales, codes }
    }

    /// Every eight weights by themselves.
    fn nearest(&self, weights: &mut [f32], task: &Task<'_>) -> Result<()> {
        let (cols, dim) = (self.cols, self.layout.codebook.dim());
        let rows = weights.par_chunks_mut(cols.max(1)).enumerate();
        rows.try_for_each(|(row, weights)| {
            task.observer.go_on()?;
            for at in (0..cols).step_by(dim) {
                let end = (at + dim).min(cols);
                self.choose(row..row + 1, at..end, &mut weights[at..end]);
            }
            Ok(())
        })
    }

    fn codes(self) -> Vec<u32> {
        self.codes.into_iter().map(AtomicU32::into_inner).collect()
    }
}

impl Levels for Rounding<'_> {
    fn choose(&self, rows: Range<usize>, at: Range<usize>, values: &mut [f32]) {
        let (width, codebook) = (rows.len(), self.layout.codebook);
        let per_row = self.layout.codes_per_row(self.cols);
        for (i, row) in rows.enumerate() {
            let scale = self.scales[self.layout.grouping.first_scale(row, self.cols)];
            let mut point = [0.0; 8];
            if scale > 0.0 {
                // Behind the last input lie zeros.
                for axis in 0..at.len() {
                    point[axis] = values[axis * width + i] / scale;
                }
                let code = codebook.nearest(&point);
                let place = row * per_row + at.start / codebook.dim();
                self.codes[place].store(code, Ordering::Relaxed);
                codebook.point(code, &mut point);
            }
            for (axis, point) in point.iter().enumerate().take(at.len()) {
                values[axis * width + i] = scale * point;
            }
        }
    }
}

/// The turned weights, and the turned inputs where errors are weighed by them.
struct Turned {
    shape: MatrixShape,
    weights: Vec<f32>,
    gram: Option<Gram>,
}

impl Turned {
    /// Codes and their scales.
    fn rounded(&self, layout: &VectorsLayout, damping: f64, task: &Task<'_>) -> Result<Vectors> {
        let stored = |scale: f64| round_f32(layout.scale_dtype, scale as f32);
        let root = |weights: &[f32]| {
            let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            stored((squares / weights.len().max(1) as f64).sqrt())
        };
        let mut scales: Vec<f32> =
            self.each_scale(layout).map(|span| root(&self.weights[span])).collect();
        let rounding = Rounding::new(layout, self.shape, &scales);
        let mut walked = self.weights.clone();
        if let Some(gram) = &self.gram {
            let order = (0..self.shape.cols).collect();
            let factor = task.feedback(gram, order, (damping, layout.codebook.dim()))?;
            let is_cancelled = || task.observer.is_cancelled();
            walk(&mut walked, &factor, &rounding, &is_cancelled).ok_or(Error::Cancelled)?;
        } else {
            rounding.nearest(&mut walked, task)?;
        }
        let codes = rounding.codes();
        let carried = self.carried(&walked, task)?;
        for (scale, span) in scales.iter_mut().zip(self.each_scale(layout)) {
            let of = |values: &[f32]| along(&values[span.clone()], &carried[span.clone()]);
            let factor = of(&self.weights) / of(&walked);
            if factor.is_finite() && factor > 0.0 {
                *scale = stored(f64::from(*scale) * factor);
            }
        }
        Ok(Vectors::new(self.shape, layout.clone(), codes, scales))
    }

    /// The weights of every scale, row-major.
    fn each_scale(&self, layout: &VectorsLayout) -> impl Iterator<Item = Range<usize>> + use<> {
        let MatrixShape { rows, cols } = self.shape;
        let n = layout.grouping.scales(rows, cols);
        let each = rows * cols / n.max(1);
        (0..n).map(move |i| i * each..(i + 1) * each)
    }

    /// Q·H, Q without data: with it the factor f of least tr((W − f·Q)·H·(W − f·Q)ᵀ) is tr(W·(Q·H)ᵀ)/tr(Q·(Q·H)ᵀ).
    fn carried(&self, points: &[f32], task: &Task<'_>) -> Result<Vec<f32>> {
        let Some(gram) = &self.gram else { return Ok(points.to_vec()) };
        let shape = (self.shape.rows, self.shape.cols);
        let mut out = Array2::zeros(shape);
        let is_cancelled = || task.observer.is_cancelled();
        if let Ok(points) = ArrayView2::from_shape(shape, points) {
            apply_rows(points, gram.to_dense_f32().view(), out.view_mut(), &is_cancelled);
        }
        task.observer.go_on()?;
        Ok(out.into_raw_vec_and_offset().0)
    }
}

fn along(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

impl Method for Quip {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("rounding") == "nearest" { Needs::Weights } else { Needs::Gram }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let nearest = if parameters.choice("rounding") == "nearest" { " nearest" } else { "" };
        let kept = if is_turned(parameters) { "" } else { ", outputs kept" };
        format!("{}-bit E8 rotated{nearest}{kept}", parameters.integer("bits"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let inner = Box::new(Layout::Vectors(layout(parameters, input.dtype)));
        let MatrixShape { rows, cols } = input.shape;
        let rows = is_turned(parameters).then(|| Rotation::widest(rows));
        let cols = Rotation::widest(cols);
        let rotated = Layout::Rotated(RotatedLayout { cols, rows, inner });
        Ok(SparseLayout::over(input.previous, rotated))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, layout) = (task.shape(), layout(parameters, task.dtype));
        let seed = 2 * parameters.integer("seed") as u64;
        let cols = Rotation::random(shape.cols, seed);
        let rows = is_turned(parameters).then(|| Rotation::random(shape.rows, seed + 1));
        let (values, mask) = masked(&task);
        let mut weights = values.into_owned();
        apply_both(&cols, rows.as_ref(), &mut weights);
        let is_fed = self.needs(parameters) == Needs::Gram;
        let gram = if is_fed { Some(task.gram()?.turned(&cols)) } else { None };
        let turned = Turned { shape, weights, gram };
        let vectors = turned.rounded(&layout, parameters.fraction("damping"), &task)?;
        let rotated = Rotated::new(cols, rows, Encoding::Vectors(vectors));
        Ok(Sparse::over(mask, Encoding::Rotated(rotated)))
    }
}
