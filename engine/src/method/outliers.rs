//! Outliers: the few weights that a method left furthest off, each made good by a number of its own.

use ndarray::Array2;

use crate::encoding::{Encoding, Layout, LowRank, Outliers, OutliersLayout, Sum, SumLayout};
use crate::error::{Error, Result};
use crate::method::factors::{energy, nearest};
use crate::method::low_rank::NEAREST;
use crate::method::{About, Kind, LayoutInput, Method, Needs, Parameter, Resolved, Stage, Task};
use crate::numeric::gram::Gram;
use crate::numeric::pursuit::pursue;
use crate::tensor::{DType, MatrixShape, round_f32};

/// Ŵ ← Ŵ + S with ⌈share·weights⌉ entries of S not zero, in 16 bits, stored row by row with their columns.
///
/// Which and how large: [`pursue`] of Δ = W − Ŵ, in outputs with H = Σ x·xᵀ or in weights, where they are the largest
/// |Δ| themselves. Behind a correction L of low rank, each *refinement* fits L to W − Q − S and then S to W − Q − L, and
/// is kept where ‖Δ·H^½‖ fell, or else undone and the last: Q + L + S of GEAR, alternated as in robust principal
/// components. Where storage would make it worse than no outliers, all are zero. 16-bit weights keep the type, others
/// bfloat16: what stays of a residual is 2⁻⁹ of it. Cost: that of [`pursue`], and of the product again, by refinement.
pub(super) struct OutliersMethod;

/// The registry's entry.
pub(super) static ENTRY: OutliersMethod = OutliersMethod;

static ABOUT: About = About {
    id: "sparse-outliers",
    title: "Sparse outliers",
    summary: "Adds back the few weights that everything before left furthest off, each with its place and a 16-bit value.",
    citation: "Kim, Hooper, Gholami, Dong, Li, Shen, Mahoney & Keutzer, SqueezeLLM: Dense-and-sparse quantization, ICML 2024; Dettmers et al., SpQR, ICLR 2024; Kang et al., GEAR, 2024, for base, low rank and outliers together",
    stage: Stage::Outliers,
    needs: Needs::Weights,
    parameters: &[
        Parameter {
            name: "share",
            title: "Share",
            help: "Share of the weights that get a value of their own. Each costs 16 bits and its column, 8 to 16 bits more: 0.005 is some 0.15 bits a weight.",
            kind: Kind::Fraction { min: 0.0001, max: 0.5, default: 0.005 },
            only_when: None,
        },
        NEAREST,
        Parameter {
            name: "refinements",
            title: "Refinements",
            help: "Behind a correction of low rank: how often that is fitted again to what outliers leave, and outliers to what it leaves. Ends early where nothing is gained.",
            kind: Kind::Integer { min: 0, max: 20, default: 2, usual: &[0, 2, 5] },
            only_when: None,
        },
    ],
};

fn nothing_to_correct() -> Error {
    Error::plan(
        "outliers correct what another method left",
        "put a quantiser or sparsity before them",
    )
}

/// As many single weights as `share` of a matrix.
pub(super) fn layout_of(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> OutliersLayout {
    let kept = (parameters.fraction("share") * shape.elements() as f64).ceil() as usize;
    let dtype = if dtype == DType::F16 { DType::F16 } else { DType::BF16 };
    OutliersLayout { kept: kept.min(shape.elements()), dtype }
}

/// Base, product and outliers, of which all but one may be missing.
#[derive(Clone)]
struct Stack {
    base: Option<Encoding>,
    product: Option<LowRank>,
    few: Option<Outliers>,
}

impl Stack {
    /// What came before, its product apart.
    fn new(previous: Encoding) -> Self {
        let (base, product) = match previous {
            Encoding::LowRank(product) => (None, Some(product)),
            Encoding::Sum(sum) => match sum.correction() {
                Encoding::LowRank(product) => (Some(sum.base().clone()), Some(product.clone())),
                _ => (Some(Encoding::Sum(sum)), None),
            },
            other => (Some(other), None),
        };
        Self { base, product, few: None }
    }

    /// All in one, the outermost last.
    fn encoding(&self) -> Option<Encoding> {
        let corrections =
            [self.product.clone().map(Encoding::LowRank), self.few.clone().map(Encoding::Outliers)];
        corrections.into_iter().flatten().fold(self.base.clone(), |base, correction| {
            Some(match base {
                Some(base) => Encoding::Sum(Sum::new(base, correction)),
                None => correction,
            })
        })
    }
}

/// What stacks are fitted to.
struct Fit<'a, 't> {
    task: &'a Task<'t>,
    gram: Option<&'a Gram>,
    layout: OutliersLayout,
}

impl Fit<'_, '_> {
    /// W less what a stack decodes to.
    fn left_by(&self, stack: &Stack) -> Array2<f32> {
        match stack.encoding() {
            Some(encoding) => &self.task.weights - &encoding.decode(),
            None => self.task.weights.to_owned(),
        }
    }

    fn energy(&self, stack: &Stack) -> f64 {
        energy(&self.left_by(stack), self.gram)
    }

    fn with_outliers(&self, stack: &Stack) -> Result<Stack> {
        let rest = Stack { few: None, ..stack.clone() };
        let dtype = self.layout.dtype;
        let stored = |value: f64| round_f32(dtype, value as f32);
        let is_cancelled = || self.task.observer.is_cancelled();
        let left = self.left_by(&rest);
        let found = pursue(left.view(), self.gram, self.layout.kept, &stored, &is_cancelled);
        let (places, values) = found.ok_or(Error::Cancelled)?;
        let few = Outliers::new(self.task.shape(), dtype, &places, &values);
        Ok(Stack { few: Some(few), ..rest })
    }

    /// The product fitted to what base and outliers leave, then outliers to what base and product leave.
    fn refined(&self, stack: &Stack, product: &LowRank) -> Result<Stack> {
        let rest = self.left_by(&Stack { product: None, ..stack.clone() });
        let product = nearest(rest.view(), self.gram, &product.layout(), self.task)?;
        self.with_outliers(&Stack { product: Some(product), ..stack.clone() })
    }

    /// Outliers that add nothing.
    fn nothing(&self) -> Outliers {
        let places: Vec<usize> = (0..self.layout.kept).collect();
        let values = vec![0.0; places.len()];
        Outliers::new(self.task.shape(), self.layout.dtype, &places, &values)
    }

    fn stack(&self, before: Stack, refinements: i64) -> Result<Stack> {
        let mut best = self.with_outliers(&before)?;
        let mut least = self.energy(&best);
        if least > self.energy(&before) {
            return Ok(Stack { few: Some(self.nothing()), ..before });
        }
        for _ in 0..refinements {
            let Some(product) = &best.product else { break };
            let next = self.refined(&best, product)?;
            let energy = self.energy(&next);
            if energy >= least {
                break;
            }
            (best, least) = (next, energy);
        }
        Ok(best)
    }
}

impl Method for OutliersMethod {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("nearest") == "outputs" { Needs::Gram } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("+ {} % outliers", parameters.fraction("share") * 100.0)
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let base = Box::new(input.previous.ok_or_else(nothing_to_correct)?.clone());
        let few = layout_of(parameters, input.shape, input.dtype);
        Ok(Layout::Sum(SumLayout { base, correction: Box::new(Layout::Outliers(few)) }))
    }

    fn compress(&self, parameters: &Resolved, mut task: Task<'_>) -> Result<Encoding> {
        let before = Stack::new(task.previous.take().ok_or_else(nothing_to_correct)?);
        let gram = match self.needs(parameters) {
            Needs::Gram => Some(task.gram()?),
            _ => None,
        };
        let layout = layout_of(parameters, task.shape(), task.dtype);
        let fit = Fit { task: &task, gram: gram.as_deref(), layout };
        let stack = fit.stack(before, parameters.integer("refinements"))?;
        stack.encoding().ok_or_else(nothing_to_correct)
    }
}
