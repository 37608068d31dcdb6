//! One file per way to compress one matrix. In: weights, parameters, what an earlier step made. Out: an encoding.
//! Never knows checkpoints, formats, or other methods.
//!
//! An assignment is a chain of [`Step`]s in the order of their [`Stage`]: a sparsity mask first, a quantiser under
//! it. Each step receives the encoding of the step before.

mod alone;
mod aqlm;
mod awq;
mod bcq;
mod bitstack;
mod ccq;
mod coded;
mod db_llm;
mod dictionary;
mod eora;
mod factored;
mod factors;
mod floats;
mod fp8;
mod gguf;
mod gptq;
mod gqsa;
mod grid;
mod groups;
mod higgs;
mod hqq;
mod inputs;
mod keep;
mod low_rank;
mod magnitude;
mod microscaling;
mod mixllm;
mod nf4;
mod onebit;
mod outliers;
mod palette;
mod parameters;
mod pattern;
mod polish;
mod ptq161;
mod quip;
mod refine;
mod remapped;
mod round_to_nearest;
mod seedlm;
mod signs;
mod sparsegpt;
mod spqr;
mod ternary;
mod train;
mod vector;
mod wanda;

use std::borrow::Cow;

use ndarray::ArrayView2;
use rayon::prelude::{ParallelIterator as _, ParallelSlice as _};
use serde::{Deserialize, Serialize};

pub use alone::{alone_layout, run_alone, run_chain_divided};
pub use awq::{
    AsWanted, Shared, Takes, folds as chain_folds, rows_for_scales, shared_scales,
    with_folded_scales, with_kept_scales,
};
pub use bitstack::stacks;
pub use inputs::{LayerInputs, uncalibrated};
pub use low_rank::{ranking, shifts as chain_shifts, with_rank, without_shift};
pub use mixllm::{promoting, row_saliences, with_share};
pub use parameters::{Kind, Option_, Parameter, Parameters, Resolved, Value};

pub use train::{Cut, cuts, has_cuts};

use crate::encoding::{Encoding, Layout, Mask};
use crate::error::{Error, Result};
use crate::numeric::vector::{Loops, vectorised};
use crate::observer::Observer;
use crate::tensor::{DType, MatrixShape};

/// One more with every change of what a method makes of the same weights: results that were kept are then made anew.
pub const VERSION: u32 = 5;

/// Every method, in the order menus show them.
pub static METHODS: &[&dyn Method] = &[
    &keep::ENTRY,
    &round_to_nearest::ENTRY,
    &hqq::ENTRY,
    &gptq::ENTRY,
    &spqr::ENTRY,
    &gqsa::ENTRY,
    &mixllm::ENTRY,
    &awq::ENTRY,
    &higgs::ENTRY,
    &quip::ENTRY,
    &ccq::ENTRY,
    &coded::ENTRY,
    &aqlm::ENTRY,
    &vector::ENTRY,
    &seedlm::ENTRY,
    &palette::ENTRY,
    &nf4::ENTRY,
    &fp8::ENTRY,
    &microscaling::ENTRY,
    &gguf::ENTRY,
    &bitstack::ENTRY,
    &onebit::ENTRY,
    &bcq::ENTRY,
    &db_llm::ENTRY,
    &ternary::ENTRY,
    &ptq161::ENTRY,
    &low_rank::ENTRY,
    &dictionary::ENTRY,
    &train::ENTRY,
    &magnitude::ENTRY,
    &wanda::ENTRY,
    &sparsegpt::ENTRY,
    &polish::ENTRY,
    &eora::ENTRY,
    &outliers::ENTRY,
    &refine::ENTRY,
];

/// Where in a chain a method stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Stands alone and changes nothing.
    Keep,
    /// Chooses the weights that stay.
    Prune,
    /// Chooses the precision of those that stay.
    Quantise,
    /// Betters the codes, scales and codebooks that were chosen.
    Polish,
    /// Adds a correction to whatever came out.
    Compensate,
    /// Adds back single weights that are still far off.
    Outliers,
    /// Moves what was chosen together with that of the other layers of the block.
    Refine,
}

/// What a method must be given beside the weights; each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing.
    Weights,
    /// How often each token occurs, of a matrix with a row for each.
    Tokens,
    /// E\[x²\] of each input.
    Moments,
    /// Σ x·xᵀ of the inputs.
    Gram,
}

/// What menus, forms, help and validation know of a method.
#[derive(Debug)]
pub struct About {
    /// Name in project files, as `round-to-nearest`.
    pub id: &'static str,
    /// Name on screen.
    pub title: &'static str,
    /// The idea in one sentence.
    pub summary: &'static str,
    /// Where it comes from.
    pub citation: &'static str,
    /// Where in a chain it stands.
    pub stage: Stage,
    /// What it must be given, whatever its parameters.
    pub needs: Needs,
    /// Its parameters, in the order forms show them.
    pub parameters: &'static [Parameter],
}

impl About {
    /// Checks `parameters` against the schema and fills in defaults.
    pub fn resolve(&self, parameters: &Parameters) -> Result<Resolved> {
        parameters::resolve(self.id, self.parameters, parameters)
    }
}

/// What layers of a block ask for together, once each of them is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// Rounds over entries, scales and codes, at most.
    pub rounds: usize,
}

/// What a layout depends on.
#[derive(Clone, Copy, Debug)]
pub struct LayoutInput<'a> {
    /// `[rows, cols]` of the weights.
    pub shape: MatrixShape,
    /// Element type on disk.
    pub dtype: DType,
    /// Layout of the step before.
    pub previous: Option<&'a Layout>,
}

/// One matrix to compress.
pub struct Task<'a> {
    /// Name of the tensor, for messages.
    pub tensor: &'a str,
    /// The weights `[rows, cols]`, finite.
    pub weights: ArrayView2<'a, f32>,
    /// Element type on disk.
    pub dtype: DType,
    /// What the step before made.
    pub previous: Option<Encoding>,
    /// The largest |w| of the layers that this one is fused with, itself among them; `None` for one alone.
    pub fused_peak: Option<f32>,
    /// What the layer receives, where it was measured.
    pub inputs: Option<&'a LayerInputs>,
    /// Asked whether to go on.
    pub observer: &'a dyn Observer,
}

impl Task<'_> {
    /// `[rows, cols]`.
    pub fn shape(&self) -> MatrixShape {
        MatrixShape { rows: self.weights.nrows(), cols: self.weights.ncols() }
    }
}

/// A way to compress one matrix.
pub trait Method: Sync {
    /// Title, schema, citation.
    fn about(&self) -> &'static About;

    /// What it must be given with these parameters.
    fn needs(&self, _parameters: &Resolved) -> Needs {
        self.about().needs
    }

    /// What the parameters amount to, in a few characters, as `4-bit g128`.
    fn label(&self, parameters: &Resolved) -> String;

    /// The exact layout [`Method::compress`] will produce, without computing it.
    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout>;

    /// Whether layers that an engine fuses share a number that depends on the largest weight of all of them.
    fn shares_peak(&self, _parameters: &Resolved) -> bool {
        false
    }

    /// What is to be done with all layers of the block that ask for it, after this one was compressed.
    fn refinement(&self, _parameters: &Resolved) -> Option<Refinement> {
        None
    }

    /// Rows on which it searches what holds for all, at most: a layer of more takes no longer for that. 0 without a search.
    fn searched_rows(&self) -> usize {
        0
    }

    /// Whether it refuses weights that are not finite as it reads them, so that they are not read once more before.
    fn refuses_non_finite(&self) -> bool {
        false
    }

    /// Compresses one matrix.
    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding>;
}

/// The method called `id`.
pub fn find(id: &str) -> Result<&'static dyn Method> {
    METHODS.iter().copied().find(|method| method.about().id == id).ok_or_else(|| {
        let known: Vec<&str> = METHODS.iter().map(|method| method.about().id).collect();
        Error::plan(
            format!("there is no method {id:?}"),
            format!("choose one of {}", known.join(", ")),
        )
    })
}

/// A method with its parameters; those left out have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// A method's id.
    pub method: String,
    /// Its parameters.
    #[serde(default)]
    pub parameters: Parameters,
}

impl Step {
    /// A step of `method` with default parameters.
    pub fn new(method: &str) -> Self {
        Self { method: method.to_owned(), parameters: Parameters::default() }
    }

    /// The same step with one more parameter set.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.0.insert(name.to_owned(), value.into());
        self
    }
}

/// What a chain amounts to, in a few characters, as `2:4 sparse, 4-bit g128`; steps that are not valid by name.
pub fn chain_label(steps: &[Step]) -> String {
    let label = |step: &Step| {
        let method = find(&step.method).ok()?;
        Some(method.label(&method.about().resolve(&step.parameters).ok()?))
    };
    let labels: Vec<String> =
        steps.iter().map(|step| label(step).unwrap_or_else(|| step.method.clone())).collect();
    labels.join(", ")
}

/// What a chain must be given: the most that one of its steps needs; steps that are not valid need nothing.
pub fn chain_needs(steps: &[Step]) -> Needs {
    let needs = |step: &Step| {
        let method = find(&step.method).ok()?;
        Some(method.needs(&method.about().resolve(&step.parameters).ok()?))
    };
    steps.iter().filter_map(needs).max().unwrap_or(Needs::Weights)
}

/// Whether a step of a chain counts rows by how often their token occurs; no, where a step is not valid.
pub fn chain_counts_tokens(steps: &[Step]) -> bool {
    let counts = |step: &Step| {
        let method = find(&step.method).ok()?;
        Some(method.needs(&method.about().resolve(&step.parameters).ok()?) == Needs::Tokens)
    };
    steps.iter().any(|step| counts(step).unwrap_or(false))
}

/// Checks that `steps` name known methods with valid parameters, each stage at most once and in order.
pub fn check_chain(steps: &[Step]) -> Result<()> {
    let mut last: Option<&About> = None;
    for step in steps {
        let about = find(&step.method)?.about();
        about.resolve(&step.parameters)?;
        if let Some(last) = last
            && (about.stage <= last.stage || last.stage == Stage::Keep)
        {
            return Err(Error::plan(
                format!("{} cannot follow {}", about.id, last.id),
                "put sparsity before the quantiser, polish, compensation, outliers and refinement behind it, each at most once, and keep alone",
            ));
        }
        last = Some(about);
    }
    if last.is_none() {
        return Err(Error::plan(
            "an assignment without steps says nothing",
            "write keep to leave a layer as it is",
        ));
    }
    Ok(())
}

/// The layout a chain of steps produces.
pub fn chain_layout(steps: &[Step], shape: MatrixShape, dtype: DType) -> Result<Layout> {
    check_chain(steps)?;
    let mut layout = Layout::Dense(dtype);
    let mut previous = None;
    for step in steps {
        let method = find(&step.method)?;
        let parameters = method.about().resolve(&step.parameters)?;
        refuse_behind_shift(step, previous.as_ref().is_some_and(Layout::has_shift))?;
        layout = method
            .layout(&parameters, LayoutInput { shape, dtype, previous: previous.as_ref() })?;
        previous = Some(layout.clone());
    }
    Ok(layout)
}

/// What comes behind a bias would change what that makes up for.
fn refuse_behind_shift(step: &Step, has_shift: bool) -> Result<()> {
    if !has_shift {
        return Ok(());
    }
    Err(Error::plan(
        format!("{} cannot follow a product with a bias, which must be last", step.method),
        "leave the mean in the product, or remove the step",
    ))
}

/// Whether a step of a chain needs [`Task::fused_peak`]; no, where a step is not valid.
pub fn chain_shares_peak(steps: &[Step]) -> bool {
    let shares = |step: &Step| {
        let method = find(&step.method).ok()?;
        Some(method.shares_peak(&method.about().resolve(&step.parameters).ok()?))
    };
    steps.iter().any(|step| shares(step).unwrap_or(false))
}

/// What a chain asks for of the whole block; nothing, where a step is not valid.
pub fn chain_refinement(steps: &[Step]) -> Option<Refinement> {
    let of = |step: &Step| {
        let method = find(&step.method).ok()?;
        method.refinement(&method.about().resolve(&step.parameters).ok()?)
    };
    steps.iter().find_map(of)
}

/// The most rows on which a step of a chain searches what holds for all of them.
pub fn chain_searched_rows(steps: &[Step]) -> usize {
    let of = |step: &Step| find(&step.method).map_or(0, Method::searched_rows);
    steps.iter().map(of).max().unwrap_or(0)
}

/// Runs a chain of steps; refuses weights that are not finite, naming the tensor.
pub fn run_chain(steps: &[Step], task: &Task<'_>) -> Result<Encoding> {
    check_chain(steps)?;
    let first = steps.first().map(|step| find(&step.method)).transpose()?;
    if !first.is_some_and(Method::refuses_non_finite) {
        refuse_non_finite(task)?;
    }
    let mut encoding = None;
    for step in steps {
        let method = find(&step.method)?;
        let parameters = method.about().resolve(&step.parameters)?;
        let has_shift = encoding.as_ref().is_some_and(|before: &Encoding| before.shift().is_some());
        refuse_behind_shift(step, has_shift)?;
        let task = Task { previous: encoding.take(), ..*task };
        encoding = Some(method.compress(&parameters, task)?);
    }
    encoding.ok_or_else(|| {
        Error::plan(
            "an assignment without steps says nothing",
            "write keep to leave a layer as it is",
        )
    })
}

/// What a quantiser has before it, row-major: the weights, or under a mask those it keeps among zeros.
fn masked<'a>(task: &'a Task<'_>) -> (Cow<'a, [f32]>, Option<&'a Mask>) {
    match &task.previous {
        Some(Encoding::Sparse(sparse)) => {
            let (values, _) = sparse.inner().decode().into_raw_vec_and_offset();
            (Cow::Owned(values), Some(sparse.mask()))
        }
        _ => match task.weights.as_slice() {
            Some(values) => (Cow::Borrowed(values), None),
            None => (Cow::Owned(task.weights.iter().copied().collect()), None),
        },
    }
}

/// Weights examined by one thread at a time.
const PIECE: usize = 1 << 16;

/// How many of some weights are NaN or infinite.
struct NonFinite<'a>(&'a [f32]);

impl Loops for NonFinite<'_> {
    type Found = usize;

    #[expect(
        clippy::inline_always,
        reason = "loops become vectors only inside the function compiled for them"
    )]
    #[inline(always)]
    fn run(self) -> usize {
        let mut bad = 0_u32;
        for weight in self.0 {
            bad += u32::from(!weight.is_finite());
        }
        bad as usize
    }
}

fn refuse_non_finite(task: &Task<'_>) -> Result<()> {
    let count = |weights: &[f32]| vectorised(NonFinite(weights));
    let bad: usize = match task.weights.as_slice() {
        Some(weights) => weights.par_chunks(PIECE).map(count).sum(),
        None => task.weights.iter().filter(|weight| !weight.is_finite()).count(),
    };
    if bad == 0 {
        return Ok(());
    }
    let why = format!(
        "{bad} of its {} weights are NaN or infinite in f32, so it cannot be compressed",
        task.weights.len()
    );
    Err(Error::Numeric { tensor: task.tensor.to_owned(), why })
}

#[cfg(test)]
mod tests;
