//! What was measured of a checkpoint: for each tensor the value, or a sentence why there is none.

use std::sync::Arc;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::Assignment;
use lapidary_engine::statistics::{Spectrum, Statistics, Structure};

use crate::document::damages::{Damages, Found};

/// Something that is measured in the background: the value, or a sentence why there is none.
pub type Measured<T> = Option<Result<Arc<T>, String>>;

/// An assignment tried on a layer, and what it does.
pub type Damage = (Arc<Assignment>, Found);

/// What was measured, by tensor.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    /// Moments, histogram, bits.
    pub statistics: Vec<Measured<Statistics>>,
    /// How weights are arranged; matrices only.
    pub structures: Vec<Measured<Structure>>,
    /// Singular values; matrices only.
    pub spectra: Vec<Measured<Spectrum>>,
    /// What assignments were found to do.
    pub damages: Damages,
    /// Statistics, structures and spectra known, and how many there will be.
    done: usize,
    all: usize,
}

/// One result of measuring.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Moments, histogram, bits.
    Statistics(Result<Arc<Statistics>, String>),
    /// How weights are arranged.
    Structure(Result<Arc<Structure>, String>),
    /// Singular values.
    Spectrum(Result<Arc<Spectrum>, String>),
    /// What an assignment does.
    Damage(Damage),
}

impl Measurements {
    /// Nothing measured yet.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let n = checkpoint.tensors().len();
        let matrices = checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some()).count();
        Self {
            done: 0,
            all: n + 2 * matrices,
            statistics: vec![None; n],
            structures: vec![None; n],
            spectra: vec![None; n],
            damages: Damages::new(n),
        }
    }

    /// Takes in a finding about a tensor.
    pub fn take(&mut self, tensor: usize, finding: Finding) {
        let is_first = match finding {
            Finding::Statistics(result) => self.statistics[tensor].replace(result).is_none(),
            Finding::Structure(result) => self.structures[tensor].replace(result).is_none(),
            Finding::Spectrum(result) => self.spectra[tensor].replace(result).is_none(),
            Finding::Damage((assignment, found)) => {
                self.damages.put(tensor, assignment, found);
                false
            }
        };
        self.done += usize::from(is_first);
    }

    /// Statistics, structures and spectra known so far and in all.
    pub fn progress(&self) -> (usize, usize) {
        (self.done, self.all)
    }
}

/// The value, where it was measured and there is one.
pub fn value<T>(measured: &Measured<T>) -> Option<&Arc<T>> {
    measured.as_ref()?.as_ref().ok()
}
