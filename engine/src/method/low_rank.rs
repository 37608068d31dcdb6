//! Low rank: a matrix as the product of two thin ones, nearest in its weights or in its outputs.

use crate::encoding::{Encoding, Layout, LowRankLayout, Shifted, ShiftedLayout};
use crate::error::{Error, Result};
use crate::method::factors::{
    self, AS_INTEGERS, AS_THE_WEIGHTS, FACTOR_BITS, FACTOR_GROUP, FACTORS, RANK, nearest,
};
use crate::method::remapped;
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Step, Task,
};
use crate::numeric::gram::Gram;
use crate::tensor::{DType, MatrixShape};

/// W ≈ L·R with L `[rows, rank]`, R `[rank, cols]`, both in the element type of the weights or as grouped integers.
///
/// Q is the leading eigenvectors of W·H·Wᵀ, H = Σ x·xᵀ (*outputs*) or the identity (*weights*), and Ŵ = Q·Qᵀ·W:
/// the least error of that rank, Σ_{i>rank} σᵢ² of W·H^½ (Eckart & Young 1936). No matrix is inverted, so H may have any
/// rank. *In a bias* (Yu & Wu 2023): H is that of inputs less their mean μ, and outputs are shifted by (W − Ŵ)·μ, so that
/// ŷ = Ŵ·(x − μ) + W·μ is right at the mean; the error is then Σ_{i>rank} σᵢ² of the centred, never more than without.
/// How the factors are held: see [`nearest`], and [`remapped::layout`] for the storage of Dobi-SVD (Wang et al. 2025). A rank beyond rows or cols is cut to them.
/// Cost: see [`crate::numeric::leading::leading_directions`].
pub(super) struct LowRankMethod;

/// The registry's entry.
pub(super) static ENTRY: LowRankMethod = LowRankMethod;

static ABOUT: About = About {
    id: "low-rank",
    title: "Low rank",
    summary: "Replaces the matrix by the product of two thin ones, chosen for the least error of the weights or of the layer's outputs.",
    citation: "Eckart & Young 1936; Wang, Zheng, Wan & Zhang, SVD-LLM: Truncation-aware singular value decomposition for large language model compression, ICLR 2025; factors in 8 and 16 bits: Wang, Ke, Tomizuka, Keutzer & Xu, Dobi-SVD: Differentiable SVD for LLM compression, ICLR 2025; with a bias: Yu & Wu, Compressing transformers: features are low-rank, but weights are not!, AAAI 2023",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[RANK, NEAREST, CENTRE, OWN_FACTORS, FACTOR_BITS, FACTOR_GROUP],
};

/// Of a matrix that is a product and nothing else, the factors can also share their bits.
const OWN_FACTORS: Parameter = Parameter {
    kind: Kind::Choice(&[
        AS_THE_WEIGHTS,
        AS_INTEGERS,
        Option_ {
            id: "remapped",
            title: "8 and 16 bits",
            help: "Both in 8 bits, and what the longer one has beyond the shorter in 16 (Dobi-SVD): rank · the longer side numbers of 16 bits, so that every rank saves bytes.",
        },
    ]),
    ..FACTORS
};

/// What becomes of the mean of the inputs.
const CENTRE: Parameter = Parameter {
    name: "centre",
    title: "Mean of the inputs",
    help: "Whether the product must carry what the layer makes of the mean of its inputs, or a bias does, which costs one number an output and leaves the rank to what varies. Models without biases take one only where their config.json can say so.",
    kind: Kind::Choice(&[
        Option_ { id: "none", title: "In the product", help: "No bias is added." },
        Option_ {
            id: "bias",
            title: "In a bias",
            help: "The product is fitted to inputs less their mean, and a bias makes up for the rest.",
        },
    ]),
    only_when: Some(("nearest", "outputs")),
};

fn layout_of(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> LowRankLayout {
    match parameters.choice(FACTORS.name) {
        "remapped" => remapped::layout(parameters.integer(RANK.name) as usize, shape, dtype),
        _ => factors::layout_of(parameters, shape, dtype),
    }
}

fn is_centred(parameters: &Resolved) -> bool {
    parameters.uses(&CENTRE) && parameters.choice(CENTRE.name) == "bias"
}

/// What is compared with the original.
pub(super) const NEAREST: Parameter = Parameter {
    name: "nearest",
    title: "Nearest in",
    help: "What must come near to the original's. Outputs count every direction by how much of it the layer receives, which is what SVD-LLM does by whitening.",
    kind: Kind::Choice(&[
        Option_ {
            id: "weights",
            title: "Weights",
            help: "Least squares of the weights; needs no data.",
        },
        Option_ {
            id: "outputs",
            title: "Outputs",
            help: "Least error of the outputs on the calibration's text; needs Gram matrices.",
        },
    ]),
    only_when: None,
};

/// A step of this method of another rank; `None` of another method.
pub fn with_rank(step: &Step, rank: usize) -> Option<Step> {
    (step.method == ABOUT.id).then(|| step.clone().with(RANK.name, rank as i64))
}

/// The candidate of a ranking of singular values, whatever its rank: nearest in outputs where so much is `known` of them, in
/// factors of which every rank saves bytes.
pub fn ranking(known: Needs) -> Step {
    let nearest = if known >= Needs::Gram { "outputs" } else { "weights" };
    Step::new(ABOUT.id).with(NEAREST.name, nearest).with(FACTORS.name, "remapped")
}

/// Whether a chain shifts the outputs of its layer; no, where a step is not valid.
pub fn shifts(steps: &[Step]) -> bool {
    let step = steps.iter().find(|step| step.method == ABOUT.id);
    let found = step.and_then(|step| ABOUT.resolve(&step.parameters).ok());
    found.is_some_and(|found| is_centred(&found))
}

/// The same chain with the mean of the inputs in the product.
pub fn without_shift(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for step in steps.iter_mut().filter(|step| step.method == ABOUT.id) {
        step.parameters.0.remove(CENTRE.name);
    }
    steps
}

impl Method for LowRankMethod {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("nearest") == "outputs" { Needs::Gram } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let whitened = if parameters.choice("nearest") == "outputs" { " whitened" } else { "" };
        let centred = if is_centred(parameters) { " centred" } else { "" };
        format!("{}{whitened}{centred}", factors::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        if input.previous.is_some() {
            return Err(Error::plan(
                "a product of two thin matrices cannot keep the zeros of a mask",
                "remove the sparsity or choose another method",
            ));
        }
        let product = Layout::LowRank(layout_of(parameters, input.shape, input.dtype));
        if !is_centred(parameters) {
            return Ok(product);
        }
        let dtype = input.dtype.scale_dtype();
        Ok(Layout::Shifted(ShiftedLayout { dtype, inner: Box::new(product) }))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let gram = match self.needs(parameters) {
            Needs::Gram => Some(task.gram()?),
            _ => None,
        };
        let layout = layout_of(parameters, task.shape(), task.dtype);
        if let (true, Some(gram)) = (is_centred(parameters), &gram) {
            return centred(gram, &layout, &task);
        }
        Ok(Encoding::LowRank(nearest(task.weights, gram.as_deref(), &layout, &task)?))
    }
}

/// The product nearest on inputs less their mean μ, with outputs shifted by (W − Ŵ)·μ.
fn centred(gram: &Gram, layout: &LowRankLayout, task: &Task<'_>) -> Result<Encoding> {
    let mean = task.means()?;
    let sums: Vec<f64> = mean.iter().map(|&mean| f64::from(mean) * gram.tokens() as f64).collect();
    let product = nearest(task.weights, Some(&gram.centred(&sums)), layout, task)?;
    let product = Encoding::LowRank(product);
    let left = &task.weights - &product.decode();
    let shift: Vec<f32> = left
        .rows()
        .into_iter()
        .map(|row| {
            let pairs = row.iter().zip(mean.iter());
            pairs.map(|(&w, &mean)| f64::from(w) * f64::from(mean)).sum::<f64>() as f32
        })
        .collect();
    Ok(Encoding::Shifted(Shifted::new(task.dtype.scale_dtype(), &shift, product)))
}
