//! What a job is given: a checkpoint, and who knows what its layers receive.

use std::sync::Arc;

use crate::calibration::{Calibration, Folder, Record};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::method::{LayerInputs, Needs};

/// Knows what layers receive. Whether the blocks before a layer were the original or the compressed ones is a matter of the
/// calibration, see [`crate::calibration::Prefix`].
pub trait Calibrated: Sync {
    /// What the layer of this name receives, with the Gram matrix where `needs` asks for it and it was kept; `None`
    /// where the layer was not measured.
    ///
    /// # Errors
    /// Whatever reading says.
    fn inputs(&self, layer: &str, needs: Needs) -> Result<Option<LayerInputs>>;
}

/// Knows nothing: methods that need data refuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncalibrated;

impl Calibrated for Uncalibrated {
    fn inputs(&self, _layer: &str, _needs: Needs) -> Result<Option<LayerInputs>> {
        Ok(None)
    }
}

impl Calibrated for Calibration {
    fn inputs(&self, layer: &str, _needs: Needs) -> Result<Option<LayerInputs>> {
        let inputs = |record: &Record| LayerInputs { gram: record.gram.clone(), ..moments(record) };
        Ok(self.record(layer).map(inputs))
    }
}

/// A calibration on disk, whose Gram matrices are read one at a time.
#[derive(Clone, Debug)]
pub struct Measured {
    folder: Folder,
    calibration: Calibration,
}

impl Measured {
    /// Everything that was measured so far; Gram matrices stay on disk.
    pub fn of(folder: Folder) -> Self {
        let calibration = folder.load();
        Self { folder, calibration }
    }

    /// The records.
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }
}

impl Calibrated for Measured {
    fn inputs(&self, layer: &str, needs: Needs) -> Result<Option<LayerInputs>> {
        let Some(record) = self.calibration.record(layer) else { return Ok(None) };
        let gram = if needs == Needs::Gram { self.folder.gram(record) } else { None };
        Ok(Some(LayerInputs { gram, ..moments(record) }))
    }
}

fn moments(record: &Record) -> LayerInputs {
    LayerInputs {
        tokens: record.inputs.tokens,
        mean: record.inputs.mean.clone(),
        mean_square: record.inputs.mean_square.clone(),
        gram: None,
    }
}

/// A checkpoint with what is known of its layers' inputs. Made from a checkpoint alone, nothing is.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Who knows what its layers receive.
    pub calibrated: &'a dyn Calibrated,
}

impl<'a> From<&'a Checkpoint> for Subject<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, calibrated: &Uncalibrated }
    }
}

impl<'a> From<&'a Arc<Checkpoint>> for Subject<'a> {
    fn from(checkpoint: &'a Arc<Checkpoint>) -> Self {
        Self { checkpoint, calibrated: &Uncalibrated }
    }
}
