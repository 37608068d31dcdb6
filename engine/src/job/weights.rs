//! A finished job as the weights of a network: what was compressed comes from a store, all else from the checkpoint.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::{IndexedParallelIterator as _, ParallelIterator as _, ParallelSliceMut as _};

use crate::checkpoint::Checkpoint;
use crate::encoding::Encoding;
use crate::error::{Error, Result};
use crate::job::Encodings;
use crate::network::{CheckpointWeights, Weights};
use crate::observer::Observer;

/// The weights of a checkpoint after a plan. The layer read last is kept, so that its panels are not read anew.
pub struct StoreWeights<'a> {
    checkpoint: &'a Checkpoint,
    store: &'a dyn Encodings,
    kept: CheckpointWeights<'a>,
    last: Mutex<Option<(usize, Arc<Encoding>)>>,
}

impl std::fmt::Debug for StoreWeights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreWeights").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl<'a> StoreWeights<'a> {
    /// Reads headers.
    pub fn new(checkpoint: &'a Checkpoint, store: &'a dyn Encodings) -> Self {
        Self { checkpoint, store, kept: CheckpointWeights::new(checkpoint), last: Mutex::default() }
    }

    fn encoding(&self, tensor: usize) -> Result<Arc<Encoding>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held, encoding)) = last.as_ref()
            && *held == tensor
        {
            return Ok(encoding.clone());
        }
        // The old one goes before the new one comes, so that only one is held.
        *last = None;
        let encoding = self.store.encoding(tensor)?;
        *last = Some((tensor, encoding.clone()));
        Ok(encoding)
    }
}

impl Weights for StoreWeights<'_> {
    fn extents(&self, name: &str) -> Option<Vec<usize>> {
        self.kept.extents(name)
    }

    fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        observer: &dyn Observer,
    ) -> Result<()> {
        let stored = self.checkpoint.find(name).filter(|&tensor| self.store.has(tensor));
        let Some(tensor) = stored else {
            return self.kept.read(name, first, out, observer);
        };
        let encoding = self.encoding(tensor)?;
        let (rows, cols) = (encoding.shape().rows, encoding.shape().cols);
        let is_whole_rows = cols > 0
            && first.is_multiple_of(cols)
            && out.len().is_multiple_of(cols)
            && (first + out.len()) / cols <= rows;
        if !is_whole_rows {
            return Err(Error::Shape {
                tensor: name.to_owned(),
                expected: format!("whole rows of {cols}"),
                found: vec![first, out.len()],
            });
        }
        out.par_chunks_mut(cols).enumerate().try_for_each(|(row, out)| {
            observer.go_on()?;
            encoding.decode_row(first / cols + row, out);
            Ok(())
        })
    }

    fn shift(&self, name: &str, observer: &dyn Observer) -> Result<Option<Vec<f32>>> {
        let stored = self.checkpoint.find(name).filter(|&tensor| self.store.has(tensor));
        match stored {
            Some(tensor) => Ok(self.encoding(tensor)?.shift().map(<[f32]>::to_vec)),
            None => self.kept.shift(name, observer),
        }
    }
}
