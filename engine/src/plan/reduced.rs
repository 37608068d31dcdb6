//! A plan that takes parts out, as the model without them and a plan for that: what everything behind works on.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Removal};
use crate::error::{Error, Result};
use crate::plan::Plan;

/// A model without what a plan takes out, and the plan for the rest.
#[derive(Debug)]
pub struct Reduced {
    /// The model without those parts.
    pub checkpoint: Checkpoint,
    /// The same assignments under the names that layers have there; it takes nothing out.
    pub plan: Plan,
}

impl Plan {
    /// Blocks and experts that are taken out.
    pub fn removal(&self) -> &Removal {
        &self.removal
    }

    /// Takes these blocks and experts out, and no others.
    pub fn set_removal(&mut self, removal: Removal) {
        let removal = removal.plain();
        if *self.removal != removal {
            self.removal = Arc::new(removal);
        }
    }

    /// The tensors that go with what is taken out, each once.
    pub fn removed_tensors(&self, checkpoint: &Checkpoint) -> Vec<usize> {
        checkpoint.tensors_of(&self.removal)
    }

    /// The model without what is taken out, with the plan for it; `None` where nothing is taken out. Cost: names of all
    /// tensors; no file is opened.
    ///
    /// # Errors
    /// Those of [`Checkpoint::without`].
    pub fn reduced(&self, checkpoint: &Checkpoint) -> Result<Option<Reduced>> {
        if self.removal.is_empty() {
            return Ok(None);
        }
        let checkpoint = checkpoint.without(&self.removal)?;
        let mut plan = Self::default();
        for tensor in checkpoint.tensors() {
            if let Some(assignment) = self.get(tensor.source_name()) {
                plan.by_hand.insert(tensor.name.as_str().into(), assignment.clone());
            }
        }
        Ok(Some(Reduced { checkpoint, plan }))
    }

    /// Refuses a plan that takes parts out, where those must be gone already.
    ///
    /// # Errors
    /// [`Error::Plan`].
    pub fn refuse_removal(&self) -> Result<()> {
        if self.removal.is_empty() {
            return Ok(());
        }
        Err(Error::plan(
            format!("the plan takes out {}, and this works on whole models", self.removal.told()),
            "put them back, or export the model without them and open that",
        ))
    }
}
