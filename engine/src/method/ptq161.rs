//! PTQ1.61: inputs that carry most are held in four bits, all other weights are one of two values of their row.

use rayon::prelude::{
    IndexedParallelIterator as _, ParallelIterator as _, ParallelSlice as _, ParallelSliceMut as _,
};

use crate::encoding::{
    AffineLayout, Encoding, Layout, Palette, PaletteLayout, Scaled, ScaledLayout, Split,
    SplitLayout,
};
use crate::error::Result;
use crate::method::grid::{Grid, stored_scale};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Task, signs,
};
use crate::numeric::grouping::Grouping;
use crate::numeric::planes::{Weighed, two_values};
use crate::tensor::{DType, MatrixShape};

/// A mask of inputs: those of the largest E\[x²\] as integers of 4 bits with a zero point for each row; of the others
/// w ≈ (μᵢ ± αᵢ)·rⱼ, one bit a weight, with two values a row and a scale an input.
///
/// The authors learn the vectors by the outputs of whole blocks. Here they come of least squares, each error counted by
/// E\[xⱼ²\]: both values of a row and who takes which, exactly ([`two_values`]), then rⱼ = Σᵢ w·v/Σᵢ v², in turn for
/// *rounds*. Without rounds r is 1 and not stored; of normal weights 1 − 2/π = 0.3634 is left.
/// 0.2·4 + 0.8 = 1.6 bits a weight, a bit an input for the mask, 16 for each number of a row or input, 4 for a zero point.
/// Cost: a sort of every row a round.
pub(super) struct Ptq161;

/// The registry's entry.
pub(super) static ENTRY: Ptq161 = Ptq161;

static ABOUT: About = About {
    id: "ptq161",
    title: "PTQ1.61",
    summary: "A fifth of the inputs, those that carry most, in four bits; every other weight is one of two values of its row, times a scale of its input.",
    citation: "Zhao et al., PTQ1.61: Push the real limit of extremely low-bit post-training quantization methods for large language models, ACL 2025, section 3",
    stage: Stage::Quantise,
    needs: Needs::Moments,
    parameters: &[SHARE, ROUNDS],
};

const SHARE: Parameter = Parameter {
    name: "share",
    title: "Inputs apart",
    help: "Which share of the inputs is held in four bits: each hundredth costs 0.03 bits a weight.",
    kind: Kind::Fraction { min: 0.0, max: 1.0, default: 0.2 },
    only_when: None,
};

const ROUNDS: Parameter = Parameter {
    name: "rounds",
    title: "Rounds",
    help: "How often scales of inputs and values of rows are fitted in turn; with 0 inputs have no scales.",
    kind: Kind::Integer { min: 0, max: 20, default: 5, usual: &[0, 2, 5, 10] },
    only_when: None,
};

/// Bits of the inputs apart.
const BITS: u32 = 4;

/// Inputs that are held apart.
fn apart(parameters: &Resolved, cols: usize) -> usize {
    (parameters.fraction(SHARE.name) * cols as f64).round() as usize
}

fn integers(dtype: DType) -> AffineLayout {
    AffineLayout {
        bits: BITS,
        grouping: Grouping::Channel,
        symmetric: false,
        scale_dtype: dtype.scale_dtype(),
        has_offsets: false,
    }
}

fn pairs(dtype: DType) -> PaletteLayout {
    PaletteLayout { bits: 1, rows: Some(1), value_dtype: dtype.scale_dtype() }
}

/// The inputs of the largest E\[x²\], of equal ones the first.
fn largest(squares: &[f32], count: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]).then(a.cmp(&b)));
    let mut marked = vec![false; squares.len()];
    order[..count].iter().for_each(|&at| marked[at] = true);
    marked
}

/// The smallest scale of an input, and one over the largest.
const LEAST: f64 = 1e-3;

/// Weights of the inputs that are not apart.
struct Rest<'a, 't> {
    shape: MatrixShape,
    values: Vec<f32>,
    counts: Vec<f32>,
    dtype: DType,
    task: &'a Task<'t>,
}

/// Two values a row, ascending, and which of them each weight takes.
type Rows = (Vec<f32>, Vec<u8>);

impl Rest<'_, '_> {
    /// The best of all values for rows, for weights divided by the scales of their inputs; rounded to their storage type.
    fn rows(&self, scales: &[f32]) -> Result<Rows> {
        let cols = self.shape.cols.max(1);
        let mut codes = vec![0; self.values.len()];
        let mut tables = vec![0.0; 2 * self.values.len() / cols];
        let counted = self.counts.iter().zip(scales);
        let counts: Vec<f32> = counted.map(|(count, scale)| count * scale * scale).collect();
        let counts = counts.iter().any(|&count| count > 0.0).then_some(counts.as_slice());
        let lines = tables.par_chunks_mut(2).zip(codes.par_chunks_mut(cols));
        lines.zip(self.values.par_chunks(cols)).try_for_each(|((table, codes), values)| {
            self.task.observer.go_on()?;
            let pairs = values.iter().zip(scales);
            let divided: Vec<f32> = pairs.map(|(value, scale)| value / scale).collect();
            let found = two_values(Weighed { values: &divided, counts });
            let found = found.map(|value| signs::saturated(self.dtype, value));
            let end = f32::midpoint(found[0], found[1]);
            for (code, &value) in codes.iter_mut().zip(&divided) {
                *code = u8::from(value > end);
            }
            table.copy_from_slice(&found);
            Ok(())
        })?;
        Ok((tables, codes))
    }

    /// Scales of inputs of least error for what rows take; as before where nothing decides them.
    fn scales(&self, before: &[f32], (tables, codes): &Rows) -> Vec<f32> {
        let cols = self.shape.cols.max(1);
        let (mut along, mut size) = (vec![0.0_f64; cols], vec![0.0_f64; cols]);
        let rows = self.values.chunks(cols).zip(codes.chunks(cols)).zip(tables.chunks(2));
        for ((values, codes), table) in rows {
            for (at, (&value, &code)) in values.iter().zip(codes).enumerate() {
                let taken = f64::from(table[usize::from(code)]);
                along[at] += f64::from(value) * taken;
                size[at] += taken * taken;
            }
        }
        let scale = |(at, &before): (usize, &f32)| {
            let scale = along[at] / size[at];
            if (LEAST..=1.0 / LEAST).contains(&scale) { scale as f32 } else { before }
        };
        before.iter().enumerate().map(scale).collect()
    }

    /// Values of rows, under scales of inputs where there are rounds.
    fn encode(&self, rounds: usize) -> Result<Encoding> {
        let palette = |(tables, codes): Rows| {
            Encoding::Palette(Palette::new(self.shape, pairs(self.dtype), codes, tables))
        };
        let mut scales = vec![1.0; self.shape.cols];
        if rounds == 0 {
            return Ok(palette(self.rows(&scales)?));
        }
        for _ in 0..rounds {
            let rows = self.rows(&scales)?;
            scales = self.scales(&scales, &rows);
        }
        // What is stored divides.
        let stored = |scale: &f32| stored_scale(scale.recip(), self.dtype);
        let stored: Vec<f32> = scales.iter().map(stored).collect();
        let scales: Vec<f32> = stored.iter().map(|stored| stored.recip()).collect();
        let rows = palette(self.rows(&scales)?);
        Ok(Encoding::Scaled(Scaled::new(self.dtype, stored, rows)))
    }
}

/// Row-major weights of the inputs for which `marked` is as asked.
fn columns(task: &Task<'_>, marked: &[bool], is_marked: bool) -> Vec<f32> {
    let mut values = Vec::new();
    for row in task.weights.rows() {
        let pairs = row.into_iter().zip(marked);
        values.extend(pairs.filter(|(_, marked)| **marked == is_marked).map(|(&value, _)| value));
    }
    values
}

impl Method for Ptq161 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let share = (1e4 * parameters.fraction(SHARE.name)).round() / 100.0;
        format!("1-bit rows, {share} % of inputs in 4 bits")
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        signs::refuse_mask(&input)?;
        let dtype = input.dtype.scale_dtype();
        let mut rest = Layout::Palette(pairs(dtype));
        if parameters.integer(ROUNDS.name) > 0 {
            rest = Layout::Scaled(ScaledLayout { scale_dtype: dtype, inner: Box::new(rest) });
        }
        Ok(Layout::Split(SplitLayout {
            kept: apart(parameters, input.shape.cols),
            apart: Box::new(Layout::Affine(integers(dtype))),
            rest: Box::new(rest),
        }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let squares = task.mean_squares()?;
        let (shape, dtype) = (task.shape(), task.dtype.scale_dtype());
        let count = apart(parameters, shape.cols);
        let marked = largest(&squares, count);
        let counts = |is_marked: bool| -> Vec<f32> {
            let pairs = squares.iter().zip(&marked);
            pairs.filter(|(_, marked)| **marked == is_marked).map(|(&square, _)| square).collect()
        };
        let of_apart = MatrixShape { rows: shape.rows, cols: count };
        let values = columns(&task, &marked, true);
        let grid = Grid::of(integers(dtype));
        let integers = grid.round(of_apart, &values, Some(&counts(true)), &task)?;
        let rest = Rest {
            shape: MatrixShape { rows: shape.rows, cols: shape.cols - count },
            values: columns(&task, &marked, false),
            counts: counts(false),
            dtype,
            task: &task,
        };
        let rest = rest.encode(parameters.integer(ROUNDS.name) as usize)?;
        Ok(Encoding::Split(Split::new(marked, Encoding::Affine(integers), rest)))
    }
}
