//! How long the layers of a plan take, estimated before they are compressed: every way to compress is tried on some rows of
//! one layer of each width. In: a plan. Out: seconds on this machine, now.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::job::refined::refining_seconds;
use crate::job::{Sample, Subject, layers_to_compress};
use crate::method::{self, Needs, Step};
use crate::numeric::distance::relative_error;
use crate::observer::{Observer, Progress, Unit};
use crate::plan::Plan;

/// Weights of the larger of the two samples: 64 rows of 4096.
const WEIGHTS: usize = 1 << 18;
/// Rows of the smaller one, at least.
const LEAST_ROWS: usize = 8;
/// How many times as many rows the larger sample has.
const LARGER: usize = 4;

/// An estimate of how long layers take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Seconds for all layers of the plan, one after another: compressed, decoded, compared with the source; and for refining
    /// blocks, at most.
    pub seconds: f64,
    /// Layers of which some rows were tried, one for each way to compress and number of inputs.
    pub tried: usize,
    /// Layers that the plan compresses.
    pub layers: usize,
}

/// Layers that are compressed alike and have as many inputs: steps as text, inputs.
type Alike = BTreeMap<(String, usize), Vec<usize>>;

/// Tries every way to compress that a plan has on one layer of each width, with `8` rows or more and with four times as
/// many, and takes the straight line through the two for layers of that width: what does not depend on the rows, as the
/// factor of a Gram matrix, is in its beginning. Where a method searches on some rows what holds for all, both trials have
/// as many at least. Scales that go into a norm are tried as if they were kept.
///
/// An estimate: rows differ, layers of one machine share it, and a sample fits caches that a layer does not. Cost: some
/// 2¹⁸ weights a trial, and what a method does to the Gram matrix of a layer.
///
/// # Errors
/// What compressing says of these rows; [`crate::Error::Cancelled`].
pub fn pace<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    observer: &dyn Observer,
) -> Result<Pace> {
    let subject = subject.into();
    let layers = layers_to_compress(subject.checkpoint, plan);
    let alike = alike(subject.checkpoint, plan, &layers);
    let mut pace = Pace { layers: layers.len(), tried: alike.len(), seconds: 0.0 };
    for (at, of) in alike.values().enumerate() {
        observer.go_on()?;
        let Some(&first) = of.first() else { continue };
        let tensor = &subject.checkpoint.tensors()[first];
        let (done, total) = (at as u64, alike.len() as u64);
        let (item, unit) = (tensor.name.clone(), Unit::Candidates);
        observer.progress(Progress { stage: "Estimating", item, done, total, unit });
        let line = line(subject, &plan.assignment(&tensor.name).steps, first, observer)?;
        let rows = |&layer: &usize| {
            subject.checkpoint.tensors()[layer].matrix.map_or(0, |matrix| matrix.shape.rows)
        };
        pace.seconds += of.iter().map(rows).map(|rows| line.seconds(rows)).sum::<f64>();
    }
    pace.seconds += refining_seconds(subject, plan, observer)?;
    Ok(pace)
}

fn alike(checkpoint: &Checkpoint, plan: &Plan, layers: &[usize]) -> Alike {
    let mut alike = Alike::new();
    for &layer in layers {
        let tensor = &checkpoint.tensors()[layer];
        let Some(matrix) = tensor.matrix else { continue };
        let steps = serde_json::to_string(&plan.assignment(&tensor.name).steps);
        alike.entry((steps.unwrap_or_default(), matrix.shape.cols)).or_default().push(layer);
    }
    alike
}

/// Seconds by rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    /// What a layer takes whatever its rows.
    start: f64,
    /// What a row adds.
    row: f64,
}

impl Line {
    /// Through two trials of so many rows and seconds; neither part is negative.
    fn through((few, short): (usize, f64), (many, long): (usize, f64)) -> Self {
        if many <= few {
            return Self { start: 0.0, row: short / few.max(1) as f64 };
        }
        let row = ((long - short) / (many - few) as f64).max(0.0);
        Self { start: (short - row * few as f64).max(0.0), row }
    }

    fn seconds(self, rows: usize) -> f64 {
        self.start + self.row * rows as f64
    }
}

/// Rows of the smaller and the larger trial on a layer of `(rows, cols)`.
fn trial_rows((rows, cols): (usize, usize), searched: usize) -> (usize, usize) {
    let many = (WEIGHTS / cols.max(1)).max(LARGER * LEAST_ROWS);
    let few = (many / LARGER).max(LEAST_ROWS);
    if searched > few {
        return (searched.min(rows), (2 * searched).min(rows));
    }
    (few.min(rows), many.min(rows))
}

fn line(
    subject: Subject<'_>,
    steps: &[Step],
    layer: usize,
    observer: &dyn Observer,
) -> Result<Line> {
    let tensor = &subject.checkpoint.tensors()[layer];
    let begun = Instant::now();
    let inputs = match method::chain_needs(steps) {
        Needs::Weights => None,
        needs => subject.calibrated.inputs(&tensor.name, needs)?,
    };
    let reading = begun.elapsed().as_secs_f64();
    let shape = tensor.matrix.map(|matrix| matrix.shape);
    let (rows, cols) = shape.map_or((0, 0), |shape| (shape.rows, shape.cols));
    let (few, many) = trial_rows((rows, cols), method::chain_searched_rows(steps));
    let is_quick = inputs.is_none();
    let mut inputs = inputs;
    let mut trial = |rows: usize| -> Result<(usize, f64)> {
        let sample = Sample::of_rows(subject.checkpoint, layer, rows, observer)?;
        let sample = sample.with_inputs(inputs.take());
        let begun = Instant::now();
        let decoded = sample.compress(steps, observer)?.decode();
        let error = relative_error(sample.weights(), decoded.view());
        // What is computed and not used might not be computed.
        std::hint::black_box(error);
        let seconds = begun.elapsed().as_secs_f64();
        inputs = sample.into_inputs();
        Ok((rows, seconds))
    };
    if is_quick {
        // Tables that are made once, threads that sleep.
        trial(few.min(LEAST_ROWS))?;
    }
    let line = Line::through(trial(few)?, trial(many)?);
    Ok(Line { start: line.start + reading, ..line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_lie_beyond_the_rows_of_a_search() {
        assert_eq!(trial_rows((4096, 4096), 0), (16, 64));
        assert_eq!(trial_rows((20, 4096), 0), (16, 20));
        assert_eq!(trial_rows((4096, 4096), 256), (256, 512));
        assert_eq!(trial_rows((300, 14_336), 256), (256, 300));
        // A search of 256 rows in 5 s, then a second for 256 rows: not 5 s for every 256.
        let (few, many) = trial_rows((4096, 4096), 256);
        let line = Line::through((few, 6.0), (many, 7.0));
        assert!((line.seconds(4096) - 21.0).abs() < 1e-9);
    }

    #[test]
    fn a_line_goes_through_both_trials_and_never_falls() {
        let line = Line::through((8, 1.5), (32, 3.9));
        assert!((line.row - 0.1).abs() < 1e-12 && (line.start - 0.7).abs() < 1e-12);
        assert!((line.seconds(1008) - 101.5).abs() < 1e-9);
        // Noise: more rows took less.
        let flat = Line::through((8, 2.0), (32, 1.0));
        assert_eq!((flat.start, flat.row), (2.0, 0.0));
        // All rows at once.
        assert_eq!(Line::through((4, 2.0), (4, 1.0)).seconds(4), 2.0);
        assert_eq!(Line::through((0, 0.0), (0, 0.0)).seconds(0), 0.0);
    }
}
