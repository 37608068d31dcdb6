//! How the weights of a matrix are arranged: peaks of groups, where the outliers sit, the largest weights, and grids
//! they were rounded to before.

use std::ops::Range;

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::numeric::grouping::Grouping;
use crate::numeric::levels::{LevelSearch, Levels};
use crate::numeric::peaks::{Peaks, WIDTHS};
use crate::observer::Observer;
use crate::statistics::Cached;
use crate::statistics::profile::{pieces, visit_rows};
use crate::tensor::MatrixShape;

/// Group sizes whose peaks are measured; the last entry of [`Structure::group_peaks`] is for whole rows.
pub const GROUP_WIDTHS: [usize; 5] = WIDTHS;
/// A weight further than this many standard deviations from the mean counts for where outliers sit. Nearer than the 6
/// of the outlier share, so that layers with light tails have enough of them to tell.
pub const TAIL_STDS: f64 = 4.0;
/// E[x²; |x| > 4] of a normal distribution: 2(4φ(4) + Q(4)).
const NORMAL_TAIL_MASS: f64 = 1.134e-3;
/// Mass, in variances, that the verdict grants to chance in small layers: that of four weights at the limit.
const GRANTED_MASS: f64 = 64.0;
/// Weights looked at together.
const RUN: usize = 64;
/// Weights listed by magnitude.
pub const LARGEST: usize = 32;

/// A weight with its place in the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Output row.
    pub row: usize,
    /// Input column.
    pub col: usize,
    /// The weight.
    pub value: f32,
}

/// Where the mass of the tails, Σ(w − mean)² over |w − mean| > 4 std, sits. The shares add up to 1.
///
/// A column (or row) is hot when it holds more of these outliers than chance explains: more than λ + 6√λ + 3,
/// where λ is their number over that of columns, the mean of a Poisson distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Concentration {
    /// Number of weights beyond 4 std.
    pub outliers: u64,
    /// Their mass over that of as many normal weights, Σz²[|z| > 4]/(n·0.001134) with z = (w − mean)/std: 1 where the
    /// tails are those of a normal distribution.
    pub against_normal: f64,
    /// The mass that many normal weights have there, in variances: n·0.001134. The verdict grants small layers more.
    pub normal_mass: f64,
    /// The hot columns, ascending.
    pub hot_columns: Vec<usize>,
    /// The hot rows, ascending.
    pub hot_rows: Vec<usize>,
    /// Share of the mass in hot columns.
    pub in_columns: f64,
    /// Share of the mass in hot rows but in no hot column.
    pub in_rows: f64,
    /// Share of the mass in neither.
    pub scattered: f64,
}

/// Where most of the outlier mass sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The tails are no heavier than those of a normal distribution, and no column or row is hot.
    NoOutliers,
    /// At least half in hot columns: a few inputs carry it.
    Columns,
    /// At least half in hot rows: a few outputs carry it.
    Rows,
    /// At least half in neither.
    Scattered,
    /// No half anywhere.
    Mixed,
}

impl Concentration {
    /// Where most of it sits, once what a normal distribution scatters is taken away: in a large matrix that alone
    /// can outweigh a column that stands out by any measure. In a small layer, where a few weights make the ratio large
    /// by chance, the mass of four weights at the limit is granted too.
    pub fn verdict(&self) -> Verdict {
        let granted = self.normal_mass + GRANTED_MASS;
        let against_chance = self.against_normal * self.normal_mass / granted;
        let by_chance = 1.0 / against_chance;
        let scattered = (self.scattered - by_chance).max(0.0);
        let half = 0.5 * (self.in_columns + self.in_rows + scattered);
        let no_line_is_hot = self.hot_columns.is_empty() && self.hot_rows.is_empty();
        match () {
            () if self.outliers == 0 => Verdict::NoOutliers,
            () if no_line_is_hot && against_chance < 2.0 => Verdict::NoOutliers,
            () if self.in_columns >= half => Verdict::Columns,
            () if self.in_rows >= half => Verdict::Rows,
            () if scattered >= half => Verdict::Scattered,
            () => Verdict::Mixed,
        }
    }
}

/// Levels that show a matrix was rounded before: each group examined has few distinct values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HiddenGrid {
    /// Which weights share a set of levels.
    pub grouping: Grouping,
    /// The most distinct values in any group examined.
    pub levels: usize,
    /// Whether the levels of every group examined are multiples of one step apart: an integer grid.
    pub is_even: bool,
    /// Groups examined, from rows spread evenly over the matrix.
    pub examined: usize,
}

impl HiddenGrid {
    /// Inputs that share a set of levels; `None` for a whole row.
    pub fn group_width(&self) -> Option<usize> {
        match self.grouping {
            Grouping::Group(width) => Some(width),
            Grouping::Channel | Grouping::Tensor => None,
        }
    }
}

/// How the weights of a matrix are arranged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Structure {
    /// Mean over groups of max|w|/rms for groups of [`GROUP_WIDTHS`] inputs, then for whole rows; groups of zeros
    /// are left out. NaN where there is no group.
    pub group_peaks: Vec<f64>,
    /// Where the outliers sit.
    pub concentration: Concentration,
    /// The weights of largest magnitude, at most [`LARGEST`] of them, the largest first.
    pub largest: Vec<Place>,
    /// A grid that the weights were rounded to before, where one shows.
    pub hidden_grid: Option<HiddenGrid>,
}

impl Cached for Structure {
    const KIND: &'static str = "structure";
    /// One more whenever a field or the way it is computed changes.
    const VERSION: u32 = 2;
}

impl Structure {
    /// The group peak for a grouping, if it was measured: groups of 16 to 256 by powers of two, and rows.
    pub fn group_peak(&self, grouping: Grouping) -> Option<f64> {
        let at = match grouping {
            Grouping::Group(size) => GROUP_WIDTHS.iter().position(|&width| width == size)?,
            Grouping::Channel => GROUP_WIDTHS.len(),
            Grouping::Tensor => return None,
        };
        self.group_peaks.get(at).copied()
    }
}

/// What one piece of the matrix adds.
struct Part {
    peaks: Peaks,
    columns: Vec<(u32, f64)>,
    rows: Vec<(u32, f64)>,
    largest: Vec<Place>,
    levels: LevelSearch,
}

/// What is the same for every piece.
struct Task<'a> {
    checkpoint: &'a Checkpoint,
    index: usize,
    shape: MatrixShape,
    mean: f64,
    limit: f64,
    observer: &'a dyn Observer,
}

/// Measures how the weights of a layer are arranged, given its mean and standard deviation. NaN and infinite values
/// are left out. Cost: one pass, and a second where both columns and rows are hot.
///
/// # Errors
/// [`Error::Unsupported`] for a tensor that is no matrix, [`Error::Cancelled`], [`Error::Io`].
pub fn measure_structure(
    checkpoint: &Checkpoint,
    index: usize,
    (mean, std): (f64, f64),
    observer: &dyn Observer,
) -> Result<Structure> {
    let tensor = &checkpoint.tensors()[index];
    let matrix = tensor.matrix.ok_or_else(|| Error::Unsupported {
        what: format!("the structure of tensor {} ({})", tensor.name, tensor.why_no_matrix()),
    })?;
    let limit = TAIL_STDS * std;
    let task = Task { checkpoint, index, shape: matrix.shape, mean, limit, observer };
    let parts: Vec<Part> = pieces(matrix.shape.rows)
        .into_par_iter()
        .map(|piece| task.part(piece))
        .collect::<Result<_>>()?;
    let mut all = Part::new(matrix.shape.cols);
    for part in parts {
        all.merge(part);
    }
    let is_wide = tensor.dtype.bits() > 8;
    Ok(Structure {
        group_peaks: all.peaks.means(),
        concentration: task.concentration(&all)?,
        largest: all.largest,
        hidden_grid: all.levels.found().filter(|_| is_wide).map(hidden_grid),
    })
}

fn hidden_grid(levels: Levels) -> HiddenGrid {
    let Levels { width, levels, is_even, examined } = levels;
    let grouping = width.map_or(Grouping::Channel, Grouping::Group);
    HiddenGrid { grouping, levels, is_even, examined }
}

impl Task<'_> {
    fn part(&self, piece: Range<usize>) -> Result<Part> {
        let cols = self.shape.cols;
        let mut part = Part::new(cols);
        visit_rows(self.checkpoint, self.index, (piece, cols), self.observer, |row, weights| {
            let weights = weights.to_slice().unwrap_or_default();
            part.peaks.add_row(weights);
            if row % LevelSearch::stride(self.shape.rows) == 0 {
                part.levels.add_row(weights);
            }
            let mut here = (0, 0.0);
            for (run, first) in weights.chunks(RUN).zip((0..).step_by(RUN)) {
                // Most runs hold nothing that stands out, which their largest weight tells.
                let largest = run.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
                if largest > part.least() || f64::from(largest) + self.mean.abs() > self.limit {
                    self.look_at(&mut part, &mut here, (row, first, run));
                }
            }
            part.rows.push(here);
        })?;
        part.sort_largest();
        Ok(part)
    }

    fn look_at(
        &self,
        part: &mut Part,
        here: &mut (u32, f64),
        (row, first, run): (usize, usize, &[f32]),
    ) {
        for (col, &w) in (first..).zip(run) {
            if let Some(mass) = self.outlier_mass(w) {
                *here = (here.0 + 1, here.1 + mass);
                part.columns[col].0 += 1;
                part.columns[col].1 += mass;
            }
            part.offer(Place { row, col, value: w });
        }
    }

    fn outlier_mass(&self, w: f32) -> Option<f64> {
        let deviation = f64::from(w) - self.mean;
        (deviation.abs() > self.limit && w.is_finite()).then_some(deviation * deviation)
    }

    fn concentration(&self, all: &Part) -> Result<Concentration> {
        let outliers = all.rows.iter().map(|(count, _)| u64::from(*count)).sum();
        let total: f64 = all.rows.iter().map(|(_, mass)| mass).sum();
        if outliers == 0 {
            return Ok(Concentration::default());
        }
        let hot_columns = hot(&all.columns, outliers);
        let hot_rows = hot(&all.rows, outliers);
        let variance = (self.limit / TAIL_STDS).powi(2);
        let normal_mass = NORMAL_TAIL_MASS * self.shape.elements() as f64;
        let against_normal = total / (variance * normal_mass);
        // A sum of nothing is −0.
        let mass = |lines: &[(u32, f64)], hot: &[usize]| -> f64 {
            hot.iter().map(|&line| lines[line].1).sum::<f64>() + 0.0
        };
        let in_columns = mass(&all.columns, &hot_columns) / total;
        let in_both = self.mass_in_both(&hot_rows, &hot_columns)? / total;
        let in_rows = (mass(&all.rows, &hot_rows) / total - in_both).max(0.0);
        let scattered = (1.0 - in_columns - in_rows).max(0.0);
        Ok(Concentration {
            outliers,
            against_normal,
            normal_mass,
            hot_columns,
            hot_rows,
            in_columns,
            in_rows,
            scattered,
        })
    }

    /// The outlier mass where hot rows and hot columns cross.
    fn mass_in_both(&self, rows: &[usize], columns: &[usize]) -> Result<f64> {
        let mut mass = 0.0;
        for &row in rows {
            if columns.is_empty() {
                break;
            }
            self.observer.go_on()?;
            let block =
                self.checkpoint.weight_block(self.index, row..row + 1, 0..self.shape.cols)?;
            let crossing = columns.iter().filter_map(|&col| self.outlier_mass(block[[0, col]]));
            mass += crossing.sum::<f64>();
        }
        Ok(mass)
    }
}

/// The lines that hold more outliers than chance explains.
fn hot(lines: &[(u32, f64)], outliers: u64) -> Vec<usize> {
    let mean = outliers as f64 / lines.len() as f64;
    let limit = mean + 6.0 * mean.sqrt() + 3.0;
    let is_hot = |(_, (count, _)): &(usize, &(u32, f64))| f64::from(*count) > limit;
    lines.iter().enumerate().filter(is_hot).map(|(line, _)| line).collect()
}

impl Part {
    fn new(cols: usize) -> Self {
        Self {
            peaks: Peaks::default(),
            columns: vec![(0, 0.0); cols],
            rows: Vec::new(),
            largest: Vec::new(),
            levels: LevelSearch::default(),
        }
    }

    /// Keeps a weight if it may be among the largest. The list is allowed to grow to twice its length before it is
    /// sorted and cut, so that a weight costs one comparison.
    fn offer(&mut self, place: Place) {
        if place.value.is_finite() && place.value.abs() > self.least() {
            self.largest.push(place);
            if self.largest.len() >= 2 * LARGEST {
                self.sort_largest();
            }
        }
    }

    /// What a weight must exceed to be kept.
    fn least(&self) -> f32 {
        self.largest.get(LARGEST - 1).map_or(-1.0, |least| least.value.abs())
    }

    fn sort_largest(&mut self) {
        let order = |place: &Place| (place.row, place.col);
        self.largest.sort_by(|a, b| {
            let by_size = b.value.abs().total_cmp(&a.value.abs());
            by_size.then_with(|| order(a).cmp(&order(b)))
        });
        self.largest.truncate(LARGEST);
    }

    fn merge(&mut self, other: Self) {
        self.peaks.merge(&other.peaks);
        for (column, more) in self.columns.iter_mut().zip(other.columns) {
            *column = (column.0 + more.0, column.1 + more.1);
        }
        self.rows.extend(other.rows);
        self.largest.extend(other.largest);
        self.sort_largest();
        self.levels.merge(other.levels);
    }
}
