//! A plane of signs times a product of two thin matrices, and what such levels share: the parameters and how one is found.

use ndarray::ArrayView2;

use crate::encoding::{Encoding, Layout, LowRankLayout, Signed, SignedLayout};
use crate::error::{Error, Result};
use crate::method::factors::{balanced, directions};
use crate::method::{Kind, LayoutInput, Needs, Option_, Parameter, Resolved, Task};
use crate::tensor::{DType, MatrixShape, round_f32};

/// Element type of factors, as published, whatever that of the weights.
const FACTOR: DType = DType::F16;

/// The parameter `counted` of methods that weigh errors by mean squares of inputs, or not.
pub(super) const COUNTED: Parameter = Parameter {
    name: "counted",
    title: "Errors count",
    help: "How much an error of a weight counts: alike, or by the mean square of its input, which a calibration measures. It costs no bytes.",
    kind: Kind::Choice(&[
        Option_ {
            id: "alike",
            title: "Alike",
            help: "Least squares of the weights; needs no data.",
        },
        Option_ {
            id: "by-inputs",
            title: "By inputs",
            help: "Least squares of the outputs, as if inputs were unrelated.",
        },
    ]),
    only_when: None,
};

/// What [`COUNTED`] takes.
pub(super) fn needs(parameters: &Resolved) -> Needs {
    if parameters.choice(COUNTED.name) == "by-inputs" { Needs::Moments } else { Needs::Weights }
}

/// What is said of [`COUNTED`] in a label.
pub(super) fn label(parameters: &Resolved) -> &'static str {
    if needs(parameters) == Needs::Moments { " by inputs" } else { "" }
}

/// E\[x²\] of each input where [`COUNTED`] asks for it.
pub(super) fn counts<'a>(
    parameters: &Resolved,
    task: &Task<'a>,
) -> Result<Option<std::borrow::Cow<'a, [f32]>>> {
    (needs(parameters) == Needs::Moments).then(|| task.mean_squares()).transpose()
}

/// The nearest number of an element type; what is beyond the largest becomes that.
pub(super) fn saturated(dtype: DType, value: f32) -> f32 {
    let most = match dtype {
        DType::F16 => half::f16::MAX.to_f32(),
        DType::BF16 => half::bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    round_f32(dtype, value.clamp(-most, most))
}

/// The refusal of a mask, which signs have no place for.
pub(super) fn refuse_mask(input: &LayoutInput<'_>) -> Result<()> {
    if input.previous.is_none() {
        return Ok(());
    }
    Err(Error::plan(
        "a plane of signs has no zeros, so it cannot keep those of a mask",
        "remove the sparsity or choose another method",
    ))
}

/// Signs over a product of this rank, cut to rows and columns.
pub(super) fn layout(shape: MatrixShape, rank: usize) -> Layout {
    let factor = || Box::new(Layout::Dense(FACTOR));
    let rank = rank.min(shape.rows).min(shape.cols);
    let product = Layout::LowRank(LowRankLayout { rank, left: factor(), right: factor() });
    Layout::Signed(SignedLayout { inner: Box::new(product) })
}

/// S∘(L·R) with S the signs of `left` (0 has plus) and L·R the product of this rank nearest to its sizes: as S² = 1, what
/// is left is Σ_{i>rank} σᵢ² of them, before the factors are rounded.
///
/// Where errors count by E\[x²\] = h, the directions are those of |D|·diag(√h): that is scaling the inputs by √h before, as
/// the authors do, and dividing after; but here the right factor takes the division, and no norm has to.
pub(super) fn level(
    left: ArrayView2<'_, f32>,
    counts: Option<&[f32]>,
    rank: usize,
    task: &Task<'_>,
) -> Result<Encoding> {
    let minus: Vec<bool> = left.iter().map(|&value| value < 0.0).collect();
    let sizes = left.mapv(f32::abs);
    let rank = rank.min(left.nrows()).min(left.ncols());
    let directions = match counts {
        None => directions(sizes.view(), None, rank, task)?,
        Some(counts) => {
            let most = counts.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
            let mut scaled = sizes.clone();
            for (mut column, &count) in scaled.columns_mut().into_iter().zip(counts) {
                column *= (count / most).sqrt();
            }
            directions(scaled.view(), None, rank, task)?
        }
    };
    let right = directions.t().dot(&sizes.mapv(f64::from));
    let product = Encoding::LowRank(balanced(directions, right, FACTOR));
    Ok(Encoding::Signed(Signed::new(&minus, product)))
}
