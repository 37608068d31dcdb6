//! Low rank: a matrix as the product of two thin ones, nearest in its weights or in its outputs.

use ndarray::{Array2, ArrayView2};

use crate::encoding::{Dense, Encoding, Layout, LowRank, LowRankLayout};
use crate::error::{Error, Result};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Task,
};
use crate::numeric::gram::Gram;
use crate::numeric::leading::leading_directions;
use crate::tensor::{DType, MatrixShape};

/// W ≈ L·R with L `[rows, rank]`, R `[rank, cols]`, both in the element type of the weights.
///
/// Q is the leading eigenvectors of W·H·Wᵀ, H = Σ x·xᵀ (*outputs*) or the identity (*weights*), and Ŵ = Q·Qᵀ·W:
/// the least error of that rank, Σ_{i>rank} σᵢ² of W·H^½ (Eckart & Young 1936). No matrix is inverted, so H may have any
/// rank. Each pair of a column of L and a row of R is scaled to equal norms. A rank beyond rows or cols is cut to them.
/// Below rank = rows·cols/(rows + cols) it saves bytes. Cost: see [`leading_directions`].
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
    parameters: &[RANK, NEAREST],
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

/// The inner dimension of a product.
pub(super) const RANK: Parameter = Parameter {
    name: "rank",
    title: "Rank",
    help: "Columns of the left factor and rows of the right one. Each costs rows + cols numbers; a product saves bytes only below rows·cols/(rows + cols).",
    kind: Kind::Integer { min: 1, max: 16384, default: 64, usual: &[8, 16, 32, 64, 128, 256] },
    only_when: None,
};

/// The layout of a product of this rank.
pub(super) fn layout_of(rank: i64, shape: MatrixShape, dtype: DType) -> LowRankLayout {
    let factor = Box::new(Layout::Dense(dtype));
    let rank = (rank as usize).min(shape.rows).min(shape.cols);
    LowRankLayout { rank, left: factor.clone(), right: factor }
}

/// tr(D·H·Dᵀ), or the sum of squares without H.
pub(super) fn energy(difference: &Array2<f32>, gram: Option<&Gram>) -> f64 {
    match gram {
        Some(gram) => gram.quadratic_forms(difference.view()).iter().sum(),
        None => difference.iter().map(|&value| f64::from(value) * f64::from(value)).sum(),
    }
}

/// The product of `rank` nearest to `d`, in outputs where there is `gram`.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Numeric`] where the decomposition does not converge.
pub(super) fn nearest(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    rank: usize,
    task: &Task<'_>,
) -> Result<LowRank> {
    let is_cancelled = || task.observer.is_cancelled();
    let directions = leading_directions(d, gram, rank, &is_cancelled);
    task.observer.go_on()?;
    let directions = directions.ok_or_else(|| Error::Numeric {
        tensor: task.tensor.to_owned(),
        why: "its singular vectors were not found".to_owned(),
    })?;
    let (rows, cols) = d.dim();
    let mut left = Array2::from_shape_fn((rows, rank), |at| directions[at]);
    let mut right = left.t().dot(&d.mapv(f64::from));
    for (mut left, mut right) in left.columns_mut().into_iter().zip(right.rows_mut()) {
        let root = right.dot(&right).sqrt().sqrt();
        if root > 0.0 {
            left *= root;
            right /= root;
        }
    }
    let factor = |values: Array2<f64>, rows, cols| {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        Encoding::Dense(Dense::new(MatrixShape { rows, cols }, task.dtype, &values))
    };
    Ok(LowRank::new(factor(left, rows, rank), factor(right, rank, cols)))
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
        format!("rank {}{whitened}", parameters.integer("rank"))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        if input.previous.is_some() {
            return Err(Error::plan(
                "a product of two thin matrices cannot keep the zeros of a mask",
                "remove the sparsity or choose another method",
            ));
        }
        let layout = layout_of(parameters.integer("rank"), input.shape, input.dtype);
        Ok(Layout::LowRank(layout))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let gram = match self.needs(parameters) {
            Needs::Gram => Some(task.gram()?),
            _ => None,
        };
        let rank = layout_of(parameters.integer("rank"), task.shape(), task.dtype).rank;
        Ok(Encoding::LowRank(nearest(task.weights, gram.as_deref(), rank, &task)?))
    }
}
