//! `EoRA`: what is left of the outputs' error after any method, made good by a correction of low rank.

use crate::encoding::{Encoding, Layout, Sum, SumLayout};
use crate::error::{Error, Result};
use crate::method::factors::{
    self, FACTOR_BITS, FACTOR_GROUP, FACTORS, RANK, energy, layout_of, nearest, nothing,
};
use crate::method::{About, LayoutInput, Method, Needs, Resolved, Stage, Task};

/// Ŵ ← Ŵ + L·R with L·R the product of that rank nearest to Δ = W − Ŵ in the outputs, its factors in the element type or as
/// grouped integers (see [`nearest`]).
///
/// What remains of tr(Δ·H·Δᵀ) is Σ_{i>rank} σᵢ² of Δ·H^½ but for the rounding of the factors; where that would make
/// it worse than no correction, the factors are zero. Cost: see [`crate::numeric::leading::leading_directions`].
pub(super) struct Eora;

/// The registry's entry.
pub(super) static ENTRY: Eora = Eora;

static ABOUT: About = About {
    id: "eora",
    title: "EoRA",
    summary: "Adds two thin matrices that make good most of the error which compression left in the layer's outputs.",
    citation: "Liu, Yang, Chen, Wang & Molchanov, EoRA: Fine-tuning-free compensation for compressed LLM with eigenspace low-rank approximation, 2024",
    stage: Stage::Compensate,
    needs: Needs::Gram,
    parameters: &[RANK, FACTORS, FACTOR_BITS, FACTOR_GROUP],
};

fn nothing_to_correct() -> Error {
    Error::plan("eora corrects what another method left", "put a quantiser or sparsity before it")
}

impl Method for Eora {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        format!("+ {}", factors::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        let base = match input.previous {
            None => return Err(nothing_to_correct()),
            Some(Layout::LowRank(_)) => {
                return Err(Error::plan(
                    "a product of two thin matrices corrected by another is one of higher rank",
                    "raise its rank instead",
                ));
            }
            Some(base) => Box::new(base.clone()),
        };
        let correction = layout_of(parameters, input.shape, input.dtype);
        let correction = Box::new(Layout::LowRank(correction));
        Ok(Layout::Sum(SumLayout { base, correction }))
    }

    fn compress(&self, parameters: &Resolved, mut task: Task<'_>) -> Result<Encoding> {
        let base = task.previous.take().ok_or_else(nothing_to_correct)?;
        let gram = task.gram()?;
        let layout = layout_of(parameters, task.shape(), task.dtype);
        let decoded = base.decode();
        let difference = &task.weights - &decoded;
        let correction = nearest(difference.view(), Some(&gram), &layout, &task)?;
        let sum = Sum::new(base, Encoding::LowRank(correction));
        let corrected = Encoding::Sum(sum.clone());
        let after = &task.weights - &corrected.decode();
        if energy(&after, Some(&gram)) <= energy(&difference, Some(&gram)) {
            return Ok(corrected);
        }
        Ok(Encoding::Sum(Sum::new(sum.base().clone(), nothing(&layout, &task)?)))
    }
}
