//! `MixLLM`: the outputs of a layer that few bits would hurt most have 8, all others 4.

use ndarray::Axis;

use crate::encoding::{AffineLayout, Encoding, Layout, Mixed, MixedLayout};
use crate::error::Result;
use crate::method::gptq::{self, DAMPING};
use crate::method::grid::{self, Grid};
use crate::method::pattern::{drop_least, refuse_mask};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Step, Task, find,
};
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape};

/// Rows of a matrix at two numbers of bits, each row in the walk of GPTQ.
///
/// With δ = Q(w) − w of a row w rounded to the nearest of the fewer bits, its salience is δ·H·δᵀ, H = Σ x·xᵀ/tokens: what
/// that does to the output, squared. The paper has |½(g·δ)² + g·δ| with the gradient g of the loss, summed over samples;
/// this is its second term with H in the place of Σ gᵀ·g, which takes no gradient and says nothing of how the loss
/// depends on this layer. round(share·rows) rows of the largest salience, of equal ones the first, are symmetric codes of
/// the more bits, the others have zero points. Stored is a bit a row beside both. The share may come from a ranking of the
/// outputs of all layers. Cost: 1/3·cols³ + 2·rows·cols² operations; memory 12·cols² + 8·rows·cols bytes.
pub(super) struct MixLlm;

/// The registry's entry.
pub(super) static ENTRY: MixLlm = MixLlm;

static ABOUT: About = About {
    id: "mixllm",
    title: "MixLLM",
    summary: "Outputs of a layer that suffer most from 4 bits have 8, the others stay at 4, all of them by GPTQ; which share of a layer that is can come from one ranking of the outputs of all layers.",
    citation: "Zheng, Song, Chen, Jin & Wang, MixLLM: LLM quantization with global mixed-precision between output-features and highly-efficient system design, 2024, with the error of outputs in place of the loss",
    stage: Stage::Quantise,
    needs: Needs::Gram,
    parameters: &[BITS, HIGH_BITS, SHARE, GROUP_SIZE, grid::CLIPPING, DAMPING],
};

const BITS: Parameter = Parameter {
    name: "bits",
    title: "Bits",
    help: "Bits of a code in most rows.",
    kind: Kind::Integer { min: 2, max: 7, default: 4, usual: &[2, 3, 4] },
    only_when: None,
};

const HIGH_BITS: Parameter = Parameter {
    name: "high_bits",
    title: "Bits of the others",
    help: "Bits of a code in the rows that suffer most.",
    kind: Kind::Integer { min: 3, max: 8, default: 8, usual: &[4, 6, 8] },
    only_when: None,
};

const SHARE: Parameter = Parameter {
    name: "share",
    title: "Share of rows",
    help: "Share of the rows that have more bits. 0.1 of 8 bits beside 4 is 4.4 bits on average, as the authors have it.",
    kind: Kind::Fraction { min: 0.0, max: 1.0, default: 0.1 },
    only_when: None,
};

const GROUP_SIZE: Parameter = Parameter {
    name: "group_size",
    title: "Group size",
    help: "Inputs that share a scale, in all rows. The last group of a row may be shorter.",
    kind: Kind::Integer { min: 16, max: 256, default: 128, usual: &[32, 64, 128, 256] },
    only_when: None,
};

/// Both grids and how many rows have the first.
struct Both {
    high: AffineLayout,
    low: AffineLayout,
    rows: usize,
}

impl Both {
    fn new(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> Self {
        let layout = |bits: &str, symmetric| AffineLayout {
            bits: parameters.integer(bits) as u32,
            grouping: Grouping::Group(parameters.integer("group_size") as usize),
            symmetric,
            scale_dtype: dtype.scale_dtype(),
            has_offsets: false,
        };
        let rows = (parameters.fraction("share") * shape.rows as f64).round() as usize;
        Self { high: layout("high_bits", true), low: layout("bits", false), rows }
    }
}

/// δ·H·δᵀ of each row.
fn saliences(low: AffineLayout, clipping: &str, task: &Task<'_>, gram: &Gram) -> Result<Vec<f64>> {
    let grid = Grid::clipped(low, clipping);
    let importance = if grid.is_weighted { Some(task.mean_squares()?) } else { None };
    let values: Vec<f32> = task.weights.iter().copied().collect();
    let rounded = grid.round(task.shape(), &values, importance.as_deref(), task)?;
    let left = &Encoding::Affine(rounded).decode() - &task.weights;
    task.observer.go_on()?;
    let tokens = gram.tokens().max(1) as f64;
    Ok(gram.quadratic_forms(left.view()).into_iter().map(|square| square / tokens).collect())
}

/// What a step of this method takes each row's salience for, and Σ w·H·wᵀ of all rows.
///
/// # Errors
/// Those of the method: parameters, and inputs that were not measured.
pub fn row_saliences(step: &Step, task: &Task<'_>) -> Result<(Vec<f64>, f64)> {
    let parameters = find(ABOUT.id)?.about().resolve(&step.parameters)?;
    let (gram, both) = (task.gram()?, Both::new(&parameters, task.shape(), task.dtype));
    let found = saliences(both.low, parameters.choice("clipping"), task, &gram)?;
    let squares = gram.quadratic_forms(task.weights);
    Ok((found, squares.iter().sum::<f64>() / gram.tokens().max(1) as f64))
}

/// The method with its defaults.
pub fn promoting() -> Step {
    Step::new(ABOUT.id)
}

/// A step of this method that gives so many of a layer's rows more bits; `None` of another method.
pub fn with_share(step: &Step, (promoted, rows): (usize, usize)) -> Option<Step> {
    let share = promoted as f64 / rows.max(1) as f64;
    (step.method == ABOUT.id).then(|| step.clone().with(SHARE.name, share))
}

impl Method for MixLlm {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let (low, high) = (parameters.integer("bits"), parameters.integer("high_bits"));
        let share = (parameters.fraction("share") * 1000.0).round() / 10.0;
        format!("{low}-bit g{} mixllm, {share} % {high}", parameters.integer("group_size"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        refuse_mask(ABOUT.id, input.previous)?;
        let Both { high, low, rows } = Both::new(parameters, input.shape, input.dtype);
        let [high, low] = [high, low].map(|layout| Box::new(Layout::Affine(layout)));
        Ok(Layout::Mixed(MixedLayout { rows, high, low }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        refuse_mask(ABOUT.id, task.previous.as_ref().map(Encoding::layout).as_ref())?;
        let (gram, clipping) = (task.gram()?, parameters.choice("clipping"));
        let both = Both::new(parameters, task.shape(), task.dtype);
        let scores = saliences(both.low.clone(), clipping, &task, &gram)?;
        let n = scores.len();
        let mut is_high = vec![true; n];
        drop_least(n, n - both.rows, |row| scores[row], &mut is_high);
        let damping = (parameters.fraction("damping"), 1);
        let factor = task.feedback(&gram, gptq::by_activation(&gram), damping)?;
        let walked = |layout: AffineLayout, wanted: bool| {
            let rows: Vec<usize> = (0..n).filter(|&row| is_high[row] == wanted).collect();
            let weights = task.weights.select(Axis(0), &rows);
            let task = Task { weights: weights.view(), previous: None, ..task };
            let values: Vec<f32> = weights.iter().copied().collect();
            let grid = Grid::clipped(layout, clipping);
            gptq::on_fitted(&grid, &task, (&values, None), &factor).map(Encoding::Affine)
        };
        let (high, low) = (walked(both.high, true)?, walked(both.low, false)?);
        Ok(Encoding::Mixed(Mixed::new(is_high, high, low)))
    }
}
