//! How far the output of each layer is from the original's, on a text: the inputs are the original's, so that each
//! layer answers for itself.

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::network::{Batch, Network, Site, Taps, Weights};
use crate::numeric::product::apply_rows;
use crate::observer::{Observer, Progress, Unit};

/// Tokens that pass through a block at once.
const BATCH_TOKENS: usize = 2048;
/// Weights of a layer that are compared at once.
const PANEL_ELEMENTS: usize = 8 << 20;
/// Values of outputs whose squares are summed in f32 before they are added in f64.
const TERMS: usize = 64;

/// ‖(W − Ŵ)·x‖² and ‖W·x‖², summed over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputError {
    /// Σ ‖(W − Ŵ)·x‖².
    pub error: f64,
    /// Σ ‖W·x‖².
    pub output: f64,
    /// Tokens seen.
    pub tokens: u64,
}

impl OutputError {
    /// √(error / output): 0 for a layer that is as it was.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.output).sqrt() }
    }
}

/// The output error of every layer that `changed` holds differently, by name.
///
/// # Errors
/// What running and reading say; [`crate::Error::Cancelled`].
pub fn output_errors(
    original: (&Network<'_>, &dyn Weights),
    changed: &dyn Weights,
    sequences: &[Vec<u32>],
    observer: &dyn Observer,
) -> Result<BTreeMap<String, OutputError>> {
    let (network, weights) = original;
    let mut seen = Seen { weights, changed, errors: BTreeMap::new(), observer };
    let mut batches: Vec<(Vec<usize>, Array2<f32>)> = Vec::new();
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut tokens = 0;
        let n = rest
            .iter()
            .take_while(|ids| {
                tokens += ids.len();
                tokens <= BATCH_TOKENS
            })
            .count()
            .max(1);
        let (batch, later) = rest.split_at(n);
        rest = later;
        let views: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
        let lengths = batch.iter().map(Vec::len).collect();
        batches.push((lengths, network.embed(&views, 0, observer)?));
    }
    let total: u64 = sequences.iter().map(|ids| ids.len() as u64).sum();
    let blocks = network.design().blocks.len();
    for index in 0..blocks {
        observer.progress(Progress {
            stage: "Comparing layers",
            item: format!("block {index}"),
            done: total * index as u64 / blocks as u64,
            total,
            unit: Unit::Tokens,
        });
        let block = network.load(index, observer)?;
        for (lengths, x) in &mut batches {
            network.run(&block, Batch::new(x, lengths), &mut seen, observer)?;
        }
    }
    Ok(seen.errors)
}

struct Seen<'a> {
    weights: &'a dyn Weights,
    changed: &'a dyn Weights,
    errors: BTreeMap<String, OutputError>,
    observer: &'a dyn Observer,
}

impl Taps for Seen<'_> {
    fn input(&mut self, site: &Site<'_>, x: ArrayView2<'_, f32>) -> Result<()> {
        for name in &site.layers {
            self.compare(name, x)?;
        }
        Ok(())
    }
}

impl Seen<'_> {
    fn compare(&mut self, name: &str, x: ArrayView2<'_, f32>) -> Result<()> {
        let Some([rows, cols]) =
            self.weights.extents(name).and_then(|e| <[usize; 2]>::try_from(e).ok())
        else {
            return Ok(());
        };
        // What was taken out, or has other rows, has no output to compare.
        if self.changed.extents(name).is_none_or(|extents| extents != [rows, cols]) {
            return Ok(());
        }
        let mut sums = self.errors.get(name).copied().unwrap_or_default();
        let at_once = (PANEL_ELEMENTS / cols.max(1)).max(1);
        for first in (0..rows).step_by(at_once) {
            let n = at_once.min(rows - first);
            let read = |from: &dyn Weights| {
                let mut panel = vec![0.0; n * cols];
                from.read(name, first * cols, &mut panel, self.observer)?;
                Ok(panel)
            };
            let was = read(self.weights)?;
            let mut difference = read(self.changed)?;
            difference.iter_mut().zip(&was).for_each(|(new, old)| *new -= old);
            let squares = |panel: Vec<f32>| -> Result<f64> {
                let panel = Array2::from_shape_vec((n, cols), panel).unwrap_or_default();
                let mut out = Array2::zeros((x.nrows(), n));
                apply_rows(x, panel.view(), out.view_mut(), &|| self.observer.is_cancelled());
                self.observer.go_on()?;
                Ok(sum_of_squares(out.as_slice().unwrap_or_default()))
            };
            sums.error +=
                if difference.iter().all(|d| *d == 0.0) { 0.0 } else { squares(difference)? };
            sums.output += squares(was)?;
        }
        sums.tokens += x.nrows() as u64;
        self.errors.insert((*name).to_owned(), sums);
        Ok(())
    }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    values.chunks(TERMS).map(|piece| f64::from(piece.iter().map(|x| x * x).sum::<f32>())).sum()
}
