//! The thin matrices of a product: which come nearest to a matrix, and in what they are held.

use ndarray::linalg::general_mat_mul;
use ndarray::parallel::prelude::{
    IndexedParallelIterator as _, IntoParallelIterator as _, ParallelIterator as _,
};
use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::encoding::{AffineLayout, Dense, Encoding, Layout, LowRank, LowRankLayout};
use crate::error::{Error, Result};
use crate::method::grid::Grid;
use crate::method::remapped;
use crate::method::signs::saturated;
use crate::method::{Kind, Option_, Parameter, Resolved, Task};
use crate::numeric::gram::Gram;
use crate::numeric::grouping::Grouping;
use crate::numeric::leading::leading_directions;
use crate::tensor::{DType, MatrixShape};

/// Steps by which the right factor is fitted to a left one that was rounded.
const FITS: usize = 8;

/// The inner dimension of a product.
pub(super) const RANK: Parameter = Parameter {
    name: "rank",
    title: "Rank",
    help: "Columns of the left factor and rows of the right one. Each costs rows + cols numbers; a product of 16-bit factors saves bytes only below rows·cols/(rows + cols).",
    kind: Kind::Integer { min: 1, max: 16384, default: 64, usual: &[8, 16, 32, 64, 128, 256] },
    only_when: None,
};

/// What the factors are held in.
pub(super) const FACTORS: Parameter = Parameter {
    name: "factors",
    title: "Factors",
    help: "How the numbers of both thin matrices are stored. As integers, twice to four times the rank fits in the same bytes.",
    kind: Kind::Choice(&[AS_THE_WEIGHTS, AS_INTEGERS]),
    only_when: None,
};

/// Factors in the type of the layer.
pub(super) const AS_THE_WEIGHTS: Option_ = Option_ {
    id: "element-type",
    title: "As the weights",
    help: "In the element type of the layer on disk.",
};

/// Factors as grouped integers.
pub(super) const AS_INTEGERS: Option_ = Option_ {
    id: "integers",
    title: "Integers",
    help: "Symmetric groups along their rows; the right factor is fitted again to the left one as rounded.",
};

/// Bits of integers.
pub(super) const FACTOR_BITS: Parameter = Parameter {
    name: "factor_bits",
    title: "Bits of factors",
    help: "8 loses next to nothing, 4 is the usual choice for more rank in the same bytes.",
    kind: Kind::Integer { min: 2, max: 8, default: 8, usual: &[3, 4, 6, 8] },
    only_when: Some(("factors", "integers")),
};

/// Numbers of a factor that share a scale.
pub(super) const FACTOR_GROUP: Parameter = Parameter {
    name: "factor_group",
    title: "Group of factors",
    help: "Numbers that share a scale: along the rank in the left factor, along the inputs in the right one. The last of a row may be shorter.",
    kind: Kind::Integer { min: 16, max: 256, default: 64, usual: &[16, 32, 64, 128] },
    only_when: Some(("factors", "integers")),
};

/// Rank and factors in a few characters.
pub(super) fn label(parameters: &Resolved) -> String {
    let rank = parameters.integer("rank");
    match parameters.choice("factors") {
        "remapped" => format!("rank {rank} remapped"),
        "integers" => {
            let (bits, group) =
                (parameters.integer("factor_bits"), parameters.integer("factor_group"));
            format!("rank {rank} of {bits}-bit g{group}")
        }
        _ => format!("rank {rank}"),
    }
}

/// The layout of a product with these parameters; its rank is cut to rows and cols.
pub(super) fn layout_of(parameters: &Resolved, shape: MatrixShape, dtype: DType) -> LowRankLayout {
    let factor = factor_of(parameters, dtype);
    let rank = (parameters.integer("rank") as usize).min(shape.rows).min(shape.cols);
    LowRankLayout { rank, left: Box::new(factor.clone()), right: Box::new(factor) }
}

/// How a factor is held.
pub(super) fn factor_of(parameters: &Resolved, dtype: DType) -> Layout {
    match parameters.choice("factors") {
        "integers" => Layout::Affine(AffineLayout {
            bits: parameters.integer("factor_bits") as u32,
            grouping: Grouping::Group(parameters.integer("factor_group") as usize),
            symmetric: true,
            scale_dtype: dtype.scale_dtype(),
            has_offsets: false,
        }),
        _ => Layout::Dense(dtype),
    }
}

/// tr(D·H·Dᵀ), or the sum of squares without H.
pub(super) fn energy(difference: &Array2<f32>, gram: Option<&Gram>) -> f64 {
    match gram {
        Some(gram) => gram.quadratic_forms(difference.view()).iter().sum(),
        None => difference.iter().map(|&value| f64::from(value) * f64::from(value)).sum(),
    }
}

/// The product L·R of this layout nearest to `d`, in outputs where there is `gram`.
///
/// Q, the leading directions, and Qᵀ·D are the factors; in an element type each pair of a column and a row is scaled to
/// equal norms. As integers Q is rounded on grids searched for the error counted by what each direction carries; then R
/// is fitted to L as rounded (in part: [`remapped::layout`]), (LᵀL)·R = Lᵀ·D by eight steps of conjugate gradients, which is the best in any H, and
/// rounded on grids searched for the error counted by the mean squares of the inputs.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Numeric`] where the decomposition does not converge.
pub(super) fn nearest(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    layout: &LowRankLayout,
    task: &Task<'_>,
) -> Result<LowRank> {
    let left = directions(d, gram, layout.rank, task)?;
    let wide = d.mapv(f64::from);
    let right = left.t().dot(&wide);
    if matches!(*layout.left, Layout::Dense(_)) {
        return Ok(balanced(left, right, task.dtype));
    }
    let carried = carried(&right, gram);
    let left = remapped::held(&layout.left, &left, Some(&carried), task)?;
    let right = fitted(&left.decode().mapv(f64::from), &wide, right, task)?;
    let squares: Option<Vec<f32>> =
        gram.map(|gram| gram.diagonal().iter().map(|&square| square as f32).collect());
    let right = remapped::held(&layout.right, &right, squares.as_deref(), task)?;
    Ok(LowRank::new(left, right))
}

/// Orthonormal columns `[rows, rank]`: the leading directions of `d`, in outputs where there is `gram`.
///
/// # Errors
/// As of [`nearest`].
pub(super) fn directions(
    d: ArrayView2<'_, f32>,
    gram: Option<&Gram>,
    rank: usize,
    task: &Task<'_>,
) -> Result<Array2<f64>> {
    let is_cancelled = || task.observer.is_cancelled();
    let found = leading_directions(d, gram, rank, &is_cancelled);
    task.observer.go_on()?;
    let found = found.ok_or_else(|| Error::Numeric {
        tensor: task.tensor.to_owned(),
        why: "its singular vectors were not found".to_owned(),
    })?;
    Ok(Array2::from_shape_fn((d.nrows(), rank), |at| found[at]))
}

/// The product of orthonormal columns and a right factor, held in an element type, each pair of a column and a row scaled to
/// equal norms; what is beyond the type becomes its largest.
pub(super) fn balanced(mut left: Array2<f64>, mut right: Array2<f64>, dtype: DType) -> LowRank {
    for (mut left, mut right) in left.columns_mut().into_iter().zip(right.rows_mut()) {
        let root = right.dot(&right).sqrt().sqrt();
        if root > 0.0 {
            left *= root;
            right /= root;
        }
    }
    let factor = |values: Array2<f64>| {
        let shape = MatrixShape { rows: values.nrows(), cols: values.ncols() };
        let values: Vec<f32> = values.iter().map(|&value| saturated(dtype, value as f32)).collect();
        Encoding::Dense(Dense::new(shape, dtype, &values))
    };
    LowRank::new(factor(left), factor(right))
}

/// r·H·rᵀ of each row of the right factor: what an error in that column of the left one counts.
fn carried(right: &Array2<f64>, gram: Option<&Gram>) -> Vec<f32> {
    match gram {
        Some(gram) => {
            let rows = right.mapv(|value| value as f32);
            gram.quadratic_forms(rows.view()).iter().map(|&form| form as f32).collect()
        }
        None => right.rows().into_iter().map(|row| row.dot(&row) as f32).collect(),
    }
}

/// A factor as its layout says; the search of integers counts each squared error with the entry of its column.
pub(super) fn held(
    layout: &Layout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    if let Layout::Affine(affine) = layout {
        return rounded(affine, values, importance, task);
    }
    let shape = MatrixShape { rows: values.nrows(), cols: values.ncols() };
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Ok(Encoding::Dense(Dense::new(shape, task.dtype, &values)))
}

/// A factor as grouped integers; the search counts each squared error with the entry of its column.
pub(super) fn rounded(
    layout: &AffineLayout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    let shape = MatrixShape { rows: values.nrows(), cols: values.ncols() };
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let grid = Grid::of(layout.clone());
    Ok(Encoding::Affine(grid.round(shape, &values, importance, task)?))
}

/// Operations of a piece of a product: some 20 ms.
const PIECE: usize = 1 << 26;

/// a·b in pieces of whole rows, each asked whether to go on.
///
/// # Errors
/// [`Error::Cancelled`].
pub(super) fn times(
    a: ArrayView2<'_, f64>,
    b: ArrayView2<'_, f64>,
    task: &Task<'_>,
) -> Result<Array2<f64>> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    let run = (PIECE / (a.ncols() * b.ncols()).max(1)).clamp(1, a.nrows().max(1));
    let pieces = out.axis_chunks_iter_mut(Axis(0), run).into_par_iter();
    pieces.zip(a.axis_chunks_iter(Axis(0), run).into_par_iter()).try_for_each(|(mut out, a)| {
        task.observer.go_on()?;
        general_mat_mul(1.0, &a, &b, 0.0, &mut out);
        Ok(())
    })?;
    Ok(out)
}

/// R nearest to the solution of (LᵀL)·R = Lᵀ·D, by conjugate gradients from `start`: ‖D − L·R‖ never grows.
pub(super) fn fitted(
    left: &Array2<f64>,
    d: &Array2<f64>,
    start: Array2<f64>,
    task: &Task<'_>,
) -> Result<Array2<f64>> {
    let square = times(left.t(), left.view(), task)?;
    let mut fit = start;
    let mut rest = times(left.t(), d.view(), task)? - times(square.view(), fit.view(), task)?;
    let mut along = rest.clone();
    let dot = |a: &Array2<f64>, b: &Array2<f64>| -> f64 {
        let rows = a.rows().into_iter().zip(b.rows());
        rows.map(|(a, b)| a.dot(&b)).collect::<Array1<f64>>().sum()
    };
    let mut size = dot(&rest, &rest);
    for _ in 0..FITS {
        task.observer.go_on()?;
        let image = times(square.view(), along.view(), task)?;
        let curve = dot(&along, &image);
        if curve <= 0.0 || size == 0.0 {
            break;
        }
        let step = size / curve;
        fit.scaled_add(step, &along);
        rest.scaled_add(-step, &image);
        let next = dot(&rest, &rest);
        along = &rest + &(along * (next / size));
        size = next;
    }
    Ok(fit)
}

/// A product of this layout that adds nothing.
pub(super) fn nothing(layout: &LowRankLayout, task: &Task<'_>) -> Result<Encoding> {
    let zeros = |layout: &Layout, rows, cols| {
        if let Layout::Affine(affine) = layout {
            return rounded(affine, &Array2::zeros((rows, cols)), None, task);
        }
        let shape = MatrixShape { rows, cols };
        Ok(Encoding::Dense(Dense::new(shape, task.dtype, &vec![0.0; shape.elements()])))
    };
    let shape = task.shape();
    let left = zeros(&layout.left, shape.rows, layout.rank)?;
    let right = zeros(&layout.right, layout.rank, shape.cols)?;
    Ok(Encoding::LowRank(LowRank::new(left, right)))
}
