//! What an assignment does to one layer, before anything is exported.

use ndarray::ArrayView2;
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use crate::encoding::{Bilevel, Encoding, Float};
use crate::error::Result;
use crate::job::{self, Subject};
use crate::numeric::distance::relative_error;
use crate::numeric::histogram::Histogram;
use crate::observer::Observer;
use crate::plan::Plan;

/// The measured effect of an assignment on one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// ‖W − Ŵ‖/‖W‖, exact, of the decoded encoding against the source.
    pub relative_error: f64,
    /// The levels weights were rounded to, where there are such.
    pub grid: Option<Grid>,
    /// The weights after the assignment, in the bins that were asked for.
    pub after: Option<Histogram>,
}

/// The grid of a quantised layer. Every group has its own; drawn is that of the group whose scale is the median.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Number of groups.
    pub groups: usize,
    /// Smallest distance between two levels in any group.
    pub least_step: f32,
    /// Smallest distance between two levels in the group drawn; where the grid is uniform, any.
    pub step: f32,
    /// Largest such distance in any group.
    pub largest_step: f32,
    /// The levels of the group drawn, ascending.
    pub levels: Vec<f32>,
}

/// Compresses one layer as the plan says and measures the result, counting the weights after it in the bins of
/// `bins`. Cost: that of its methods and one decoding.
pub fn preview<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    layer: usize,
    bins: Option<&Histogram>,
    observer: &dyn Observer,
) -> Result<Preview> {
    let subject = subject.into();
    let weights = subject.checkpoint.weights(layer, observer)?;
    let encoding = job::compress_layer(subject, plan, layer, observer)?;
    observer.go_on()?;
    let decoded = encoding.decode();
    let relative_error = relative_error(weights.view(), decoded.view());
    let after = bins.map(|bins| count(decoded.view(), bins));
    Ok(Preview { relative_error, grid: grid_of(&encoding), after })
}

/// Values counted in the bins of a histogram. Counts do not depend on the threads.
fn count(values: ArrayView2<'_, f32>, bins: &Histogram) -> Histogram {
    let empty = || Histogram::new(bins.low, bins.high, bins.counts.len());
    let add = |mut histogram: Histogram, row: ndarray::ArrayView1<'_, f32>| {
        row.iter().for_each(|&value| histogram.add(f64::from(value), 1));
        histogram
    };
    let rows = values.outer_iter().into_par_iter();
    rows.fold(empty, add).reduce(empty, |a, b| a.merge(&b))
}

fn grid_of(encoding: &Encoding) -> Option<Grid> {
    match encoding {
        // Corrections, levels that are added, scales of inputs and other bases put the weights off the levels, rows have
        // levels of two kinds, and a point is no level.
        Encoding::Dense(_)
        | Encoding::Blocks(_)
        | Encoding::LowRank(_)
        | Encoding::Outliers(_)
        | Encoding::Sum(_)
        | Encoding::Mixed(_)
        | Encoding::Scaled(_)
        | Encoding::Shifted(_)
        | Encoding::Vectors(_)
        | Encoding::Additive(_)
        | Encoding::Windows(_)
        | Encoding::Coded(_)
        | Encoding::Folded(_)
        | Encoding::Seeded(_)
        | Encoding::Rotated(_)
        | Encoding::Signed(_)
        | Encoding::Split(_)
        | Encoding::Stack(_) => None,
        Encoding::Sparse(sparse) => grid_of(sparse.inner()),
        Encoding::Runs(runs) => grid_of(runs.inner()),
        Encoding::Affine(affine) => {
            let codes = 0..=affine.layout().largest();
            let levels = |group: usize| {
                let (step, zero) = (affine.scales()[group], f32::from(affine.zeros()[group]));
                let offset = affine.offsets().get(group).copied().unwrap_or(0.0);
                codes.clone().map(|code| step * (f32::from(code) - zero) + offset).collect()
            };
            grid(affine.scales().to_vec(), levels)
        }
        Encoding::Bilevel(bilevel) => grid_of_groups(bilevel),
        Encoding::Palette(palette) => {
            let tables: Vec<&[f32]> = palette.values().chunks(palette.layout().levels()).collect();
            let steps = tables.iter().map(|table| least_gap(table)).collect();
            grid(steps, |table| tables[table].to_vec())
        }
        Encoding::Float(float) => grid_of_floats(float),
    }
}

fn grid_of_floats(float: &Float) -> Option<Grid> {
    let mut units = float.layout().levels.table();
    units.sort_by(f32::total_cmp);
    let gap = least_gap(&units);
    let scale = |scale: &f32| scale / float.global();
    let steps = float.scales().iter().map(|s| scale(s) * gap).collect();
    grid(steps, |tile| {
        let scale = scale(&float.scales()[tile]);
        units.iter().map(|unit| unit * scale).collect()
    })
}

fn grid_of_groups(bilevel: &Bilevel) -> Option<Grid> {
    let (layout, shape) = (bilevel.layout(), bilevel.shape());
    let per_row = layout.groups_per_row(shape.cols);
    let place = |group: usize| bilevel.grid(group / per_row, group % per_row);
    let steps = (0..shape.rows * per_row).map(|group| place(group).0).collect();
    grid(steps, |group| {
        let (step, zero) = place(group);
        (0..1_u16 << layout.bits).map(|code| step * (f32::from(code) - zero)).collect()
    })
}

/// The grid of groups with these steps; the levels drawn are those of the group whose step is the median.
fn grid(steps: Vec<f32>, levels: impl Fn(usize) -> Vec<f32>) -> Option<Grid> {
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by(|&a, &b| steps[a].total_cmp(&steps[b]));
    let (&first, &last, &median) = (order.first()?, order.last()?, order.get(order.len() / 2)?);
    let mut levels = levels(median);
    levels.dedup();
    Some(Grid {
        groups: order.len(),
        least_step: steps[first],
        step: steps[median],
        largest_step: steps[last],
        levels,
    })
}

/// The smallest distance between two different of ascending levels; 0 where all are equal.
fn least_gap(levels: &[f32]) -> f32 {
    let gaps = levels.windows(2).map(|pair| pair[1] - pair[0]).filter(|&gap| gap > 0.0);
    gaps.reduce(f32::min).unwrap_or(0.0)
}
