//! Thin factors of which the shorter one, and as much of the longer one, is in 8 bits and the rest in 16 (Dobi-SVD).

use ndarray::{Array2, Axis};

use crate::encoding::{
    AffineLayout, Dense, Encoding, Layout, LowRankLayout, Mixed, MixedLayout, Split, SplitLayout,
};
use crate::error::Result;
use crate::method::Task;
use crate::method::factors::rounded;
use crate::method::pattern::drop_least;
use crate::method::signs::saturated;
use crate::numeric::grouping::Grouping;
use crate::tensor::{DType, MatrixShape};

/// Both factors of this rank: with n the shorter side, n rows or columns of each in 8 bits under a scale for each row, and what
/// the longer one has beyond in 16. So every rank takes rank·max(rows, cols) numbers of 16 bits beside scales and a bit for
/// each row or column of the longer side, and each rank below n saves something.
pub(super) fn layout(rank: usize, shape: MatrixShape, dtype: DType) -> LowRankLayout {
    let MatrixShape { rows, cols } = shape;
    let eight = || {
        Box::new(Layout::Affine(AffineLayout {
            bits: 8,
            grouping: Grouping::Channel,
            symmetric: true,
            scale_dtype: dtype.scale_dtype(),
            has_offsets: false,
        }))
    };
    let sixteen = || Box::new(Layout::Dense(sixteen_bits(dtype)));
    let (mut left, mut right) = (eight(), eight());
    if rows > cols {
        let (high, low) = (sixteen(), left);
        left = Box::new(Layout::Mixed(MixedLayout { rows: rows - cols, high, low }));
    }
    if cols > rows {
        let (apart, rest) = (sixteen(), right);
        right = Box::new(Layout::Split(SplitLayout { kept: cols - rows, apart, rest }));
    }
    LowRankLayout { rank: rank.min(rows).min(cols), left, right }
}

/// The type of 16 bits nearest to that of the weights.
fn sixteen_bits(dtype: DType) -> DType {
    if dtype == DType::F16 { DType::F16 } else { DType::BF16 }
}

/// A factor as its layout says, the search of integers counting each squared error with the entry of its column: of a left one
/// those rows are in 16 bits that 8 would hurt most, of a right one those columns that are largest.
pub(super) fn held(
    layout: &Layout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    match layout {
        Layout::Mixed(of) => rows(of, values, importance, task),
        Layout::Split(of) => columns(of, values, importance, task),
        other => leaf(other, values, importance, task),
    }
}

/// Integers, or numbers of a type that may be narrower than that of the weights.
fn leaf(
    layout: &Layout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    if let Layout::Affine(affine) = layout {
        return rounded(affine, values, importance, task);
    }
    let dtype = if let Layout::Dense(dtype) = layout { *dtype } else { task.dtype };
    let shape = MatrixShape { rows: values.nrows(), cols: values.ncols() };
    let values: Vec<f32> = values.iter().map(|&value| saturated(dtype, value as f32)).collect();
    Ok(Encoding::Dense(Dense::new(shape, dtype, &values)))
}

/// Rows by what rounding does to each.
fn rows(
    layout: &MixedLayout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    let off = values - &leaf(&layout.low, values, importance, task)?.decode().mapv(f64::from);
    let counted = |k: usize| importance.map_or(1.0, |counts| f64::from(counts[k]));
    let of_row = |row: usize| {
        off.row(row).iter().enumerate().map(|(k, off)| off * off * counted(k)).sum::<f64>()
    };
    let scores: Vec<f64> = (0..values.nrows()).map(of_row).collect();
    let [high, low] = parted(&scores, layout.rows);
    let of = |layout, rows: &[usize], importance| {
        leaf(layout, &values.select(Axis(0), rows), importance, task)
    };
    let is_high = marked(&high, values.nrows());
    let (high, low) = (of(&layout.high, &high, None)?, of(&layout.low, &low, importance)?);
    Ok(Encoding::Mixed(Mixed::new(is_high, high, low)))
}

/// Columns by their length: what is left has smaller scales.
fn columns(
    layout: &SplitLayout,
    values: &Array2<f64>,
    importance: Option<&[f32]>,
    task: &Task<'_>,
) -> Result<Encoding> {
    let scores: Vec<f64> = values.columns().into_iter().map(|column| column.dot(&column)).collect();
    let [apart, rest] = parted(&scores, layout.kept);
    let counts: Option<Vec<f32>> =
        importance.map(|counts| rest.iter().map(|&column| counts[column]).collect());
    let of = |layout, columns: &[usize], importance| {
        leaf(layout, &values.select(Axis(1), columns), importance, task)
    };
    let is_apart = marked(&apart, values.ncols());
    let (apart, rest) =
        (of(&layout.apart, &apart, None)?, of(&layout.rest, &rest, counts.as_deref())?);
    Ok(Encoding::Split(Split::new(is_apart, apart, rest)))
}

/// The places of the `most` largest scores, of equal ones the first, and those of all others, each in order.
fn parted(scores: &[f64], most: usize) -> [Vec<usize>; 2] {
    let n = scores.len();
    let mut is_large = vec![true; n];
    drop_least(n, n.saturating_sub(most), |at| scores[at], &mut is_large);
    [true, false].map(|wanted| (0..n).filter(|&at| is_large[at] == wanted).collect())
}

fn marked(places: &[usize], n: usize) -> Vec<bool> {
    let mut marks = vec![false; n];
    for &place in places {
        marks[place] = true;
    }
    marks
}
