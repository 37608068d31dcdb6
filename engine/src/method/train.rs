//! Tensor trains: a matrix as a chain of small cores over the digits of its rows and columns.

use std::convert::Infallible;

use ndarray::{Array2, s};

use crate::encoding::{Encoding, Folded, FoldedLayout, Layout, LowRank, LowRankLayout, folded};
use crate::error::{Error, Result};
use crate::method::factors::{
    FACTOR_BITS, FACTOR_GROUP, FACTORS, RANK, directions, factor_of, fitted, held, nearest, times,
};
use crate::method::{
    About, Kind, LayoutInput, Method, Needs, Option_, Parameter, Resolved, Stage, Step, Task,
    refuse_non_finite,
};
use crate::numeric::spectrum::{Stopped, is_direct, singular_values_by_gram, singular_values_f64};
use crate::tensor::MatrixShape;

/// W of m₁·m₂(·m₃) × n₁·n₂(·n₃) as cores \[m₁·n₁, χ₁\], (\[χ₁·m₂·n₂, χ₂\],) \[χ, m·n\] of the last digits.
///
/// *Two*: of the matrix of first digits by second ones, \[m₁·n₁, m₂·n₂\], the nearest of rank χ: a sum of χ Kronecker products, with
/// the error Σ_{i>χ} σᵢ². *Three*: Q, the leading χ₁ directions of the first cut, then of what Qᵀ leaves, as
/// \[χ₁·m₂·n₂, m₃·n₃\], the nearest of rank χ₂; as Q is orthonormal, the error is the sum of both tails (Oseledets
/// 2011). Each digit is the divisor nearest below the root. χ is cut to what a cut has. Cores in the element type or integers, see
/// [`nearest`]. Nothing of the inputs counts: a Gram matrix does not keep to the digits. Without the training that the authors add.
/// Cost: two singular decompositions as of low rank.
pub(super) struct Train;

/// The registry's entry.
pub(super) static ENTRY: Train = Train;

static ABOUT: About = About {
    id: "tensor-train",
    title: "Tensor train",
    summary: "Cuts rows and columns into digits and holds the matrix as a chain of two or three small cores: a sum of Kronecker products. Saves where weights correlate so, which matrices at random do not.",
    citation: "Tomut, Jahromi & others, CompactifAI: extreme compression of large language models using quantum-inspired tensor networks, 2024; Oseledets, Tensor-train decomposition, SIAM 2011; Van Loan & Pitsianis, Approximation with Kronecker products, 1993",
    stage: Stage::Quantise,
    needs: Needs::Weights,
    parameters: &[CORES, RANK, FACTORS, FACTOR_BITS, FACTOR_GROUP],
};

const CORES: Parameter = Parameter {
    name: "cores",
    title: "Cores",
    help: "How many digits rows and columns have. Rank is that of every cut between cores.",
    kind: Kind::Choice(&[
        Option_ {
            id: "two",
            title: "Two",
            help: "A sum of Kronecker products; least error for its rank.",
        },
        Option_ { id: "three", title: "Three", help: "Smaller cores, cut one after the other." },
    ]),
    only_when: None,
};

/// The largest divisor of `n` that is no more than its root of order `parts`; 1 of 0.
fn digit(n: usize, parts: u32) -> usize {
    let fits = |d: &usize| d.checked_pow(parts).is_some_and(|power| power <= n);
    (1..=n).take_while(fits).filter(|&d| n.is_multiple_of(d)).last().unwrap_or(1)
}

/// The digits of an extent, behind the first the second of three.
fn digits(n: usize, is_three: bool) -> [usize; 2] {
    if !is_three {
        return [digit(n, 2), 1];
    }
    let first = digit(n, 3);
    [first, digit(n / first, 2)]
}

fn is_three(parameters: &Resolved) -> bool {
    parameters.choice("cores") == "three"
}

/// A product of rank up to χ of a matrix of this shape.
fn product(
    parameters: &Resolved,
    shape: MatrixShape,
    (left, right): (Layout, Layout),
) -> LowRankLayout {
    let rank = (parameters.integer("rank") as usize).min(shape.rows).min(shape.cols);
    LowRankLayout { rank, left: Box::new(left), right: Box::new(right) }
}

/// A layout as another's matrix of digits.
fn fold(rows: usize, cols: usize, inner: Layout) -> Layout {
    Layout::Folded(FoldedLayout { rows, cols, inner: Box::new(inner) })
}

impl Method for Train {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn label(&self, parameters: &Resolved) -> String {
        let cores = if is_three(parameters) { 3 } else { 2 };
        format!("{cores} cores of {}", crate::method::factors::label(parameters))
    }

    fn layout(&self, parameters: &Resolved, input: LayoutInput<'_>) -> Result<Layout> {
        if input.previous.is_some() {
            return Err(Error::plan(
                "a tensor train cannot keep the zeros of a mask",
                "remove the sparsity or choose another method",
            ));
        }
        let MatrixShape { rows, cols } = input.shape;
        let factor = factor_of(parameters, input.dtype);
        let ([m, m2], [n, n2]) =
            (digits(rows, is_three(parameters)), digits(cols, is_three(parameters)));
        let (below, beside) = (rows / m, cols / n);
        let cut = MatrixShape { rows: m * n, cols: below * beside };
        let mut of = product(parameters, cut, (factor.clone(), factor.clone()));
        if is_three(parameters) {
            let second = MatrixShape { rows: of.rank * m2 * n2, cols: below / m2 * (beside / n2) };
            let within = Layout::LowRank(product(parameters, second, (factor.clone(), factor)));
            // Without rows there is no rank, and digits are 1.
            let rank = of.rank.max(1);
            of.right = Box::new(fold(rank, below.max(1), fold(rank * m2, n2, within)));
        }
        Ok(fold(m, n, Layout::LowRank(of)))
    }

    fn compress(&self, parameters: &Resolved, task: Task<'_>) -> Result<Encoding> {
        let (shape, dtype) = (task.shape(), task.dtype);
        let layout = self.layout(parameters, LayoutInput { shape, dtype, previous: None })?;
        let weights = task.weights.mapv(f64::from);
        train(&layout, &weights, &task)
    }
}

/// Weights as this layout, which is one of [`Train::layout`] or of its right core.
fn train(layout: &Layout, weights: &Array2<f64>, task: &Task<'_>) -> Result<Encoding> {
    let shape = MatrixShape { rows: weights.nrows(), cols: weights.ncols() };
    match layout {
        Layout::Folded(of) => {
            let digits = (of.rows, of.cols);
            let inner = train(&of.inner, &folded(weights, digits), task)?;
            Ok(Encoding::Folded(Folded::new(shape, digits, inner)))
        }
        Layout::LowRank(of) if matches!(*of.right, Layout::Folded(_)) => {
            let (left, right) = first_core(of, weights, task)?;
            Ok(Encoding::LowRank(LowRank::new(left, train(&of.right, &right, task)?)))
        }
        Layout::LowRank(of) => {
            let weights = weights.mapv(|value| value as f32);
            Ok(Encoding::LowRank(nearest(weights.view(), None, of, task)?))
        }
        other => Err(Error::Unsupported { what: format!("a core held as {other:?}") }),
    }
}

/// The matrix between two cores, cut in two: what truncation of its rank loses is the tail of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// All singular values, largest first.
    pub singular_values: Vec<f64>,
    /// How many of them are kept.
    pub rank: usize,
}

/// Whether a chain makes a tensor train.
pub fn has_cuts(steps: &[Step]) -> bool {
    steps.iter().any(|step| step.method == ABOUT.id)
}

/// The cuts of the tensor train of a chain, from the first core on; none where it has none.
///
/// A later cut is that of what the directions kept at those before leave, so the squared error of the train is the sum of the
/// squares beyond each rank, rounding of cores apart. Cost: that of all singular values of `[m₁·n₁, m₂·n₂]`.
///
/// # Errors
/// Those of the method.
pub fn cuts(steps: &[Step], task: &Task<'_>) -> Result<Vec<Cut>> {
    let Some(step) = steps.iter().find(|step| step.method == ABOUT.id) else {
        return Ok(Vec::new());
    };
    let parameters = ABOUT.resolve(&step.parameters)?;
    let input = LayoutInput { shape: task.shape(), dtype: task.dtype, previous: None };
    let layout = ENTRY.layout(&parameters, input)?;
    refuse_non_finite(task)?;
    cuts_of(&layout, &task.weights.mapv(f64::from), task)
}

/// Those of weights as this layout, which is one of [`Train::layout`] or of its right core.
fn cuts_of(layout: &Layout, weights: &Array2<f64>, task: &Task<'_>) -> Result<Vec<Cut>> {
    match layout {
        Layout::Folded(of) => cuts_of(&of.inner, &folded(weights, (of.rows, of.cols)), task),
        Layout::LowRank(of) => {
            let mut cuts = vec![Cut { singular_values: values(weights, task)?, rank: of.rank }];
            if matches!(*of.right, Layout::Folded(_)) {
                let left = first_directions(of.rank, weights, task)?;
                cuts.extend(cuts_of(&of.right, &times(left.t(), weights.view(), task)?, task)?);
            }
            Ok(cuts)
        }
        other => Err(Error::Unsupported { what: format!("a core held as {other:?}") }),
    }
}

/// All singular values.
fn values(weights: &Array2<f64>, task: &Task<'_>) -> Result<Vec<f64>> {
    let (rows, cols) = weights.dim();
    let lost = || Error::Numeric {
        tensor: task.tensor.to_owned(),
        why: "its singular values were not found".to_owned(),
    };
    if weights.is_empty() {
        return Ok(Vec::new());
    }
    if is_direct(rows, cols) {
        task.observer.go_on()?;
        return singular_values_f64(weights.view()).ok_or_else(lost);
    }
    let block = |rows, cols| Ok::<_, Infallible>(weights.slice(s![rows, cols]).to_owned());
    let is_cancelled = || task.observer.is_cancelled();
    singular_values_by_gram([rows, cols], &block, &is_cancelled).map_err(|why| match why {
        Stopped::Cancelled => Error::Cancelled,
        _ => lost(),
    })
}

/// The leading directions of the first cut, \[m₁·n₁, χ₁\].
fn first_directions(rank: usize, weights: &Array2<f64>, task: &Task<'_>) -> Result<Array2<f64>> {
    directions(weights.mapv(|value| value as f32).view(), None, rank, task)
}

/// The first core as it is held, and what it leaves to those behind it.
fn first_core(
    layout: &LowRankLayout,
    weights: &Array2<f64>,
    task: &Task<'_>,
) -> Result<(Encoding, Array2<f64>)> {
    let left = first_directions(layout.rank, weights, task)?;
    let right = times(left.t(), weights.view(), task)?;
    let carried: Vec<f32> = right.rows().into_iter().map(|row| row.dot(&row) as f32).collect();
    let held = held(&layout.left, &left, Some(&carried), task)?;
    let right = fitted(&held.decode().mapv(f64::from), weights, right, task)?;
    Ok((held, right))
}
