//! A second checkpoint that the open one is compared with: the base of a fine-tune, or an export.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::compare::{Comparison, Counterpart};
use lapidary_engine::tensor::Factors;

use crate::document::measurements::{Measured, value};

/// A second checkpoint with what was found about each tensor of the first.
#[derive(Clone, Debug)]
pub struct Other {
    /// The checkpoint.
    pub checkpoint: SharedCheckpoint,
    /// For each tensor of the open checkpoint its counterpart.
    pub pairs: Arc<Vec<Option<Counterpart>>>,
    /// By what tensors of the open checkpoint are multiplied to be compared: scales that an export folded.
    pub scales: Arc<BTreeMap<usize, Factors>>,
    /// Tensors of the second that belong to none of the open one.
    pub only_there: Vec<usize>,
    /// How far they are apart.
    pub found: Vec<Measured<Comparison>>,
}

/// Tensors by what came out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// The same bits in both.
    pub identical: usize,
    /// Different.
    pub different: usize,
    /// Without a counterpart.
    pub alone: usize,
    /// Of the second, without one in the open checkpoint.
    pub only_there: usize,
    /// That cannot be compared.
    pub failed: usize,
    /// Still to be compared.
    pub waiting: usize,
    /// ‖A − B‖/‖A‖ over all that were compared.
    pub relative_error: f64,
}

impl Tally {
    /// Tensors of either checkpoint of which the relative error knows nothing, and will not.
    pub fn left_out(&self) -> usize {
        self.alone + self.only_there + self.failed
    }
}

impl Other {
    /// Nothing compared yet.
    pub fn new(checkpoint: SharedCheckpoint, pairs: Vec<Option<Counterpart>>) -> Self {
        let used: HashSet<usize> =
            pairs.iter().flatten().flat_map(Counterpart::tensors).copied().collect();
        let all = 0..checkpoint.tensors().len();
        let only_there = all.filter(|tensor| !used.contains(tensor)).collect();
        let (found, scales) = (vec![None; pairs.len()], Arc::default());
        Self { checkpoint, found, pairs: Arc::new(pairs), scales, only_there }
    }

    /// What was found about a tensor.
    pub fn comparison(&self, tensor: usize) -> Option<&Arc<Comparison>> {
        value(self.found.get(tensor)?)
    }

    /// How many tensors are the same, and how far the others are apart together.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { only_there: self.only_there.len(), ..Tally::default() };
        let (mut distance, mut norm) = (0.0, 0.0);
        for (pair, found) in self.pairs.iter().zip(&self.found) {
            match (pair, found) {
                (None, _) => tally.alone += 1,
                (Some(_), None) => tally.waiting += 1,
                (Some(_), Some(Err(_))) => tally.failed += 1,
                (Some(_), Some(Ok(found))) => {
                    distance += found.distance * found.distance;
                    norm += found.norm * found.norm;
                    *(if found.identical { &mut tally.identical } else { &mut tally.different }) +=
                        1;
                }
            }
        }
        tally.relative_error = if distance == 0.0 { 0.0 } else { (distance / norm).sqrt() };
        tally
    }
}
