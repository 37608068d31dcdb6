//! Low rank: a matrix as the product of two thin ones, nearest in its weights or in its outputs.

use crate::encoding::{Encoding, Layout};
use crate::error::{Error, Result};
use crate::method::factors::{self, FACTOR_BITS, FACTOR_GROUP, FACTORS, RANK, layout_of, nearest};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};

/// W ≈ L·R with L `[rows, rank]`, R `[rank, cols]`, both in the element type of the weights or as grouped integers.
///
/// Q is the leading eigenvectors of W·H·Wᵀ, H = Σ x·xᵀ (*outputs*) or the identity (*weights*), and Ŵ = Q·Qᵀ·W:
/// the least error of that rank, Σ_{i>rank} σᵢ² of W·H^½ (Eckart & Young 1936). No matrix is inverted, so H may have any
/// rank. How the factors are held: see [`nearest`]. A rank beyond rows or cols is cut to them.
/// Cost: see [`crate::numeric::leading::leading_directions`].
pub(super) struct LowRankMethod;

/// The registry's entry.
pub(super) static ENTRY: LowRankMethod = LowRankMethod;

static ABOUT: About = About {
    id: "low-rank",
    title: "Low rank",
    summary: "Replaces the matrix by the product of two thin ones, chosen for the least error of the weights or of the layer's outputs.",
    citation: "Eckart & Young 1936; Wang, Zheng, Wan & Zhang, SVD-LLM: Truncation-aware singular value decomposition for large language model compression, ICLR 2025",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[RANK, NEAREST, FACTORS, FACTOR_BITS, FACTOR_GROUP],
};

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

impl Method for LowRankMethod {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn needs(&self, parameters: &Resolved) -> Needs {
        if parameters.choice("nearest") == "outputs" { Needs::Gram } else { Needs::Weights }
    }

    fn label(&self, parameters: &Resolved) -> String {
        let whitened = if parameters.choice("nearest") == "outputs" { " whitened" } else { "" };
        format!("{}{whitened}", factors::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        if input.previous.is_some() {
            return Err(Error::plan(
                "a product of two thin matrices cannot keep the zeros of a mask",
                "remove the sparsity or choose another method",
            ));
        }
        Ok(Layout::LowRank(layout_of(parameters, input.shape, input.dtype)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let gram = match self.needs(parameters) {
            Needs::Gram => Some(task.gram()?),
            _ => None,
        };
        let layout = layout_of(parameters, task.shape(), task.dtype);
        Ok(Encoding::LowRank(nearest(task.weights, gram.as_deref(), &layout, &task)?))
    }
}
