//! Whether a GGUF file says what data weighted its blocks.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::format::gguf_importance::{self, Importance};
use crate::method::{self, Needs};
use crate::plan::Plan;
use crate::target::{Manifest, Storage, WeightFile};

impl Manifest {
    /// The same output with what is said of the data, where a method asked for it and the output is a GGUF file.
    ///
    /// # Errors
    /// Those of laying out a header.
    pub fn weighted(
        mut self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        importance: Option<&Importance>,
    ) -> Result<Self> {
        let asks = |entry: &crate::target::Entry| {
            let name = &checkpoint.tensors()[entry.tensor].name;
            let asks = |steps: &[method::Step]| method::chain_needs(steps) >= Needs::Moments;
            entry.storage == Storage::Native && plan.get(name).is_some_and(|of| asks(&of.steps))
        };
        let Some(importance) = importance.filter(|_| self.entries.iter().any(asks)) else {
            return Ok(self);
        };
        if let Some(WeightFile::Gguf(file)) = self.files.first_mut().map(|file| &mut file.plan) {
            file.plan = file.plan.with(&importance.pairs(), gguf_importance::KEYS)?;
        }
        Ok(self)
    }
}
