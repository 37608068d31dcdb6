//! CCQ: codes that share bits with their neighbours, decoded by a shift and a mask.

use std::ops::Range;

use rayon::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};

use crate::encoding::{
    BLOCK, Encoding, Layout, Sparse, SparseLayout, WindowForm, Windows, WindowsData, WindowsLayout,
};
use crate::error::{Error, Result};
use crate::method::gptq::DAMPING;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task, masked,
};
use crate::numeric::feedback::{Levels, walk};
use crate::numeric::windows::{
    BYTE_MAP, ByteTable, IN_BYTE, IN_WORD, byte_levels, level_of_three, nearest_of_three,
    nearest_word, word_levels,
};
use crate::tensor::{DType, round_f32};

/// Windows of words or bytes, `[rows, cols]`, under a scale for 64 inputs and one for a row.
///
/// *WINT2.5*: 7 weights are windows of 3 bits of a 16-bit word, at shifts 13, 11, 9, 6, 4, 2 and 0; 64 weights take 9
/// words and one for the last weight with a scale of 13 bits. *Words alone*: 16/7 = 2.286 bits, and a scale a row, which is the code
/// without what outliers need. *WINT2*: 4 weights are windows of 6 bits of 15, at shifts 9,
/// 6, 3 and 0, to which a byte is mapped by ⌊121·byte + 68 + ½⌋; 64 weights have a scale of 4 bits. Words and bytes are
/// the nearest there are. The step of a block is the best of some times the root mean square of its weights, each moved
/// to Σ w·l/Σ l² of the levels l it leads to. On N(0, 1) the codes leave 0.100 and 0.112, and with the steps of blocks
/// 0.094 and 0.11. *With feedback*, blocks (of
/// WINT2 every 4 weights, of words alone every 7) make good what those before them did to the outputs; see [`walk`].
/// Under a mask codes are the nearest to the weights that stay, whatever that makes of the others.
/// Cost: some 800 (WINT2 2000) operations a weight; with feedback 1/3·cols³ + rows·cols² more.
pub(super) struct Ccq;

/// The registry's entry.
pub(super) static ENTRY: Ccq = Ccq;

static ABOUT: About = About {
    id: "ccq",
    title: "CCQ",
    summary: "Codes of 2, 2.3 or 2.5 bits that share bits with their neighbours, in the layouts WINT2 and WINT2.5: no table is looked up to decode them.",
    citation: "Zhou, Ma, Wang et al., CCQ: Convolutional code for extreme low-bit quantization in LLMs, 2025; PaddlePaddle FastDeploy, weight_only_int2 and weight_only_int2.5",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[FORM, ROUNDING, DAMPING_FED],
};

const FORM: Parameter = Parameter {
    name: "form",
    title: "Layout",
    help: "What weights are windows of.",
    kind: Kind::Choice(&[
        Option_ {
            id: "wint2.5",
            title: "WINT2.5",
            help: "16-bit words of 7 weights, 2.5 bits a weight with the scales of 64.",
        },
        Option_ {
            id: "wint2",
            title: "WINT2",
            help: "Bytes of 4 weights, 2.06 bits a weight with the scales of 64.",
        },
        Option_ {
            id: "wint2.286",
            title: "Words alone",
            help: "16-bit words of 7 weights, 2.286 bits a weight under one scale a row.",
        },
    ]),
    only_when: None,
};

const ROUNDING: Parameter = Parameter {
    name: "rounding",
    title: "Rounding",
    help: "What the codes are nearest to.",
    kind: Kind::Choice(&[
        Option_ { id: "nearest", title: "Nearest", help: "To the weights; no data." },
        Option_ {
            id: "feedback",
            title: "With feedback",
            help: "Codes to come make good what those before them did to the outputs; needs a calibration with Gram matrices.",
        },
    ]),
    only_when: None,
};

const DAMPING_FED: Parameter = Parameter { only_when: Some(("rounding", "feedback")), ..DAMPING };

/// Steps that are tried, over the root mean square of a block.
const WORD_STEPS: [f32; 5] = [0.40, 0.46, 0.52, 0.60, 0.70];
const BYTE_STEPS: [f32; 4] = [0.052, 0.062, 0.072, 0.085];
/// What the largest step of a row is in units of its scale: with room above, as the scale of the row is rounded.
const LARGEST_WORD: f32 = 4096.0;
const LARGEST_BYTE: f32 = 15.0;

/// The smallest positive F16: 2⁻²⁴.
const LEAST_HALF: f32 = 1.0 / 16_777_216.0;

/// How blocks are coded.
struct Coder {
    form: WindowForm,
    table: ByteTable,
}

impl Coder {
    fn new(form: WindowForm) -> Self {
        Self { form, table: ByteTable::new(BYTE_MAP) }
    }

    /// The codes of a block whose values are in steps, NaN where any will do: nine words and the window of the last, or bytes.
    fn codes(&self, values: &[f32]) -> Vec<u16> {
        match self.form {
            WindowForm::Bytes => {
                return values
                    .chunks(IN_BYTE)
                    .map(|at| u16::from(self.table.nearest(at)))
                    .collect();
            }
            WindowForm::Bare => return values.chunks(IN_WORD).map(nearest_word).collect(),
            WindowForm::Words => {}
        }
        let (words, last) = values.split_at(values.len().min(BLOCK - 1));
        let mut codes: Vec<u16> = words.chunks(IN_WORD).map(nearest_word).collect();
        codes.resize(BLOCK / IN_WORD, 0);
        codes.push(last.first().map_or(0, |&value| nearest_of_three(value)));
        codes
    }

    /// What codes of a block of `n` weights stand for, in steps.
    fn levels(&self, codes: &[u16], n: usize) -> Vec<f32> {
        let mut levels: Vec<f32> = match self.form {
            WindowForm::Bytes => {
                codes.iter().flat_map(|&code| byte_levels(code as u8, BYTE_MAP)).collect()
            }
            WindowForm::Bare => codes.iter().flat_map(|&word| word_levels(word)).collect(),
            WindowForm::Words => {
                let (last, words) = codes.split_last().unwrap_or((&0, &[]));
                let words = words.iter().flat_map(|&word| word_levels(word));
                words.chain([level_of_three(*last)]).collect()
            }
        };
        levels.truncate(n);
        levels
    }

    /// Inputs of a row of so many that share a step.
    fn block(&self, cols: usize) -> usize {
        if self.form == WindowForm::Bare { cols.max(1) } else { BLOCK }
    }

    fn at_step(&self, values: &[f32], step: f32) -> (Vec<u16>, Vec<f32>) {
        let scaled: Vec<f32> = values.iter().map(|value| value / step).collect();
        let codes = self.codes(&scaled);
        let levels = self.levels(&codes, values.len());
        (codes, levels)
    }

    /// The step of a block that leaves least of those tried; 0 of zeros.
    fn step(&self, values: &[f32]) -> f32 {
        let kept = || values.iter().filter(|w| !w.is_nan());
        let squares: f64 = kept().map(|&w| f64::from(w).powi(2)).sum();
        let size = (squares / kept().count().max(1) as f64).sqrt() as f32;
        let tried: &[f32] = if self.form == WindowForm::Bytes { &BYTE_STEPS } else { &WORD_STEPS };
        let mut best = (0.0, squares);
        for step in tried.iter().map(|step| step * size) {
            if step < f32::MIN_POSITIVE {
                continue;
            }
            let (_, levels) = self.at_step(values, step);
            let both = || values.iter().zip(&levels).filter(|(w, _)| !w.is_nan());
            let pairs = || both().map(|(&w, &l)| (f64::from(w), f64::from(l)));
            let norm: f64 = pairs().map(|(_, l)| l * l).sum();
            let product: f64 = pairs().map(|(w, l)| w * l).sum();
            // ‖w − s·l‖² is least at s = w·l/‖l‖².
            let left = squares - product * product / norm;
            if left < best.1 {
                best = ((product / norm) as f32, left);
            }
        }
        best.0.max(0.0)
    }

    /// The scale of a row as it is stored, and those of its blocks.
    fn scales(&self, row: &[f32], dtype: DType) -> (f32, Vec<u16>) {
        let blocks = row.chunks(self.block(row.len()));
        let steps: Vec<f32> = blocks.map(|block| self.step(block)).collect();
        let (largest, most) = match self.form {
            WindowForm::Words => (LARGEST_WORD, f32::from(0x1fff_u16)),
            WindowForm::Bytes => (LARGEST_BYTE, LARGEST_BYTE),
            WindowForm::Bare => (1.0, 1.0),
        };
        let wanted = steps.iter().copied().fold(0.0, f32::max) / largest;
        let mut of_row = round_f32(dtype, wanted);
        if of_row == 0.0 && wanted > 0.0 && dtype == DType::F16 {
            // It would take the row with it; scales of blocks make up for a larger one.
            of_row = LEAST_HALF;
        }
        let local = |&step: &f32| {
            let is_zero = step == 0.0 || of_row == 0.0;
            if is_zero { 0 } else { (step / of_row).round_ties_even().clamp(1.0, most) as u16 }
        };
        (of_row, steps.iter().map(local).collect())
    }

    /// The codes of a row, block by block, with the scale in the last word where words hold it.
    fn row(&self, row: &[f32], (of_row, local): (f32, &[u16])) -> Vec<u16> {
        let mut codes = Vec::new();
        for (block, &local) in row.chunks(self.block(row.len())).zip(local) {
            let step = f32::from(local) * of_row;
            let (mut own, _) = self.at_step(block, if step > 0.0 { step } else { f32::MAX });
            if self.form == WindowForm::Words
                && let Some(last) = own.last_mut()
            {
                *last = *last << 13 | local;
            }
            codes.extend(own);
        }
        codes
    }
}

/// Runs of weights to their nearest codes, under steps that are fixed.
struct Fed<'a> {
    coder: &'a Coder,
    /// Of each row its blocks.
    steps: &'a [Vec<f32>],
    block: usize,
}

impl Levels for Fed<'_> {
    fn choose(&self, rows: Range<usize>, at: Range<usize>, values: &mut [f32]) {
        let width = rows.len();
        for (i, row) in rows.enumerate() {
            let step = self.steps[row][at.start / self.block];
            let own: Vec<f32> = (0..at.len()).map(|k| values[k * width + i]).collect();
            let (_, levels) = self.coder.at_step(&own, if step > 0.0 { step } else { f32::MAX });
            for (k, level) in levels.into_iter().enumerate() {
                values[k * width + i] = level * step;
            }
        }
    }
}

fn layout(parameters: &Resolved, dtype: DType) -> WindowsLayout {
    let form = match parameters.choice("form") {
        "wint2" => WindowForm::Bytes,
        "wint2.286" => WindowForm::Bare,
        _ => WindowForm::Words,
    };
    WindowsLayout { form, dtype: dtype.scale_dtype() }
}

/// The weights after a walk in which blocks make good what those before them did.
fn fed(
    coder: &Coder,
    parameters: &Resolved,
    task: &Task<'_>,
    scales: &[(f32, Vec<u16>)],
) -> Result<Vec<f32>> {
    let run = match coder.form {
        WindowForm::Bytes => IN_BYTE,
        WindowForm::Words => BLOCK,
        WindowForm::Bare => IN_WORD,
    };
    let damping = (parameters.fraction("damping"), run);
    let factor = task.feedback(&*task.gram()?, (0..task.weights.ncols()).collect(), damping)?;
    let of_row = |(of_row, local): &(f32, Vec<u16>)| {
        local.iter().map(|&local| f32::from(local) * of_row).collect()
    };
    let steps: Vec<Vec<f32>> = scales.iter().map(of_row).collect();
    let mut walked: Vec<f32> = task.weights.iter().copied().collect();
    let is_cancelled = || task.observer.is_cancelled();
    let fed = Fed { coder, steps: &steps, block: coder.block(task.weights.ncols()) };
    walk(&mut walked, &factor, &fed, &is_cancelled).ok_or(Error::Cancelled)?;
    Ok(walked)
}

impl Ccq {
    /// Codes of weights that a mask drops may be anything; but what those would make good is for others to do.
    fn refuse_fed(&self, parameters: &Resolved, previous: Option<&Layout>) -> Result<()> {
        if self.needs(parameters) == Needs::Weights {
            return Ok(());
        }
        if matches!(previous, Some(Layout::Sparse(_))) {
            return Err(Error::plan(
                "ccq with feedback keeps no mask of single weights",
                "round to the nearest under the mask, or remove the sparsity before it",
            ));
        }
        Ok(())
    }
}

impl Method for Ccq {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("rounding") == "feedback" { Needs::Gram } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let fed = if parameters.choice("rounding") == "feedback" { " fed" } else { "" };
        format!("{} ccq{fed}", parameters.choice("form"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        self.refuse_fed(parameters, input.previous)?;
        let windows = Layout::Windows(layout(parameters, input.dtype));
        Ok(SparseLayout::over(input.previous, windows))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        self.refuse_fed(parameters, task.previous.as_ref().map(Encoding::layout).as_ref())?;
        let (mut weights, mask) = masked(&task);
        if let Some(mask) = mask {
            let dropped = weights.to_mut().iter_mut().enumerate().filter(|(i, _)| !mask.keeps(*i));
            dropped.for_each(|(_, weight)| *weight = f32::NAN);
        }
        let of_row =
            |row: usize| &weights[row * task.weights.ncols()..(row + 1) * task.weights.ncols()];
        let (layout, shape) = (layout(parameters, task.dtype), task.shape());
        let coder = Coder::new(layout.form);
        let rows = || (0..shape.rows).into_par_iter();
        let scales: Vec<(f32, Vec<u16>)> = rows()
            .map(|row| {
                task.observer.go_on()?;
                Ok(coder.scales(of_row(row), layout.dtype))
            })
            .collect::<Result<_>>()?;
        let values = match self.needs(parameters) {
            Needs::Weights => weights.to_vec(),
            _ => fed(&coder, parameters, &task, &scales)?,
        };
        let cols = shape.cols;
        let codes: Vec<Vec<u16>> = rows()
            .zip(&scales)
            .map(|(row, (of_row, local))| {
                coder.row(&values[row * cols..(row + 1) * cols], (*of_row, local))
            })
            .collect();
        let is_bytes = layout.form == WindowForm::Bytes;
        let local = scales.iter().flat_map(|(_, local)| local.iter().map(|&local| local as u8));
        let data = WindowsData {
            codes: codes.concat(),
            local: if is_bytes { local.collect() } else { Vec::new() },
            maps: if is_bytes { vec![BYTE_MAP; shape.rows] } else { Vec::new() },
            supers: scales.iter().map(|(of_row, _)| *of_row).collect(),
        };
        Ok(Sparse::over(mask, Encoding::Windows(Windows::new(shape, layout, data))))
    }
}
