//! `OneBit`: the sign of every weight, and sizes that are the product of a number for its output and one for its input.

use crate::encoding::{Encoding, Layout};
use crate::error::Result;
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task, signs};

/// W ≈ sign(W)∘(a·bᵀ), the sign-value decomposition: a·bᵀ is the matrix of rank one nearest to |W|.
///
/// By Perron's theorem no entry of a and b is negative, so that it is also the nearest of all factors that have none. 1 +
/// 16·(rows + cols)/(rows·cols) bits a weight; of independent normal weights 1 − 2/π = 0.3634 of the power is left. The
/// authors begin with it and train; this is the beginning.
/// Cost: see [`crate::numeric::leading::leading_directions`].
pub(super) struct OneBit;

/// The registry's entry.
pub(super) static ENTRY: OneBit = OneBit;

static ABOUT: About = About {
    id: "onebit",
    title: "OneBit",
    summary: "One bit for the sign of every weight; sizes are a number for its output times one for its input.",
    citation: "Xu, Han, Yang, Wang, Zhu, Liu, Liu & Che, OneBit: Towards extremely low-bit large language models, NeurIPS 2024, section 3.2",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[signs::COUNTED],
};

impl Method for OneBit {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        signs::needs(parameters)
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("signs of rank 1{}", signs::label(parameters))
    }

    fn layout(&self, _parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        signs::refuse_mask(&input)?;
        Ok(signs::layout(input.shape, 1))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let counts = signs::counts(parameters, &task)?;
        signs::level(task.weights, counts.as_deref(), 1, &task)
    }
}
