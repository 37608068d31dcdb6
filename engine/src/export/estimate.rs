//! How long an export takes, estimated on this machine before the start.

use std::time::Instant;

use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::export::Forecast;
use crate::job::{self, Pace, Subject};
use crate::observer::Observer;
use crate::plan::Plan;

/// Bytes of the source that are read and hashed for the rate.
const PIECE_BYTES: u64 = 4 << 20;

/// An estimate, and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The layers that are not finished yet.
    pub layers: Pace,
    /// Seconds for reading and hashing the source and the output once, as if nothing ran beside it: where the layers leave
    /// cores idle, the source takes less.
    pub hashing_seconds: f64,
}

impl Estimate {
    /// Seconds in all, but for the disk's own time while the output is written.
    pub fn seconds(&self) -> f64 {
        self.layers.seconds + self.hashing_seconds
    }
}

/// Estimates how long the export takes of which `forecast` says all else: see [`job::pace`]; layers that an earlier attempt
/// finished are taken off as so many of all.
///
/// # Errors
/// Those of [`job::pace`]; [`crate::Error::Io`].
pub fn estimate<'a>(
    subject: impl Into<Subject<'a>>,
    plan: &Plan,
    forecast: &Forecast,
    observer: &dyn Observer,
) -> Result<Estimate> {
    let subject = subject.into();
    subject.reduced(plan, |subject, plan| estimate_whole(subject, plan, forecast, observer))
}

/// The same of a plan that takes nothing out of this model any more.
fn estimate_whole(
    subject: Subject<'_>,
    plan: &Plan,
    forecast: &Forecast,
    observer: &dyn Observer,
) -> Result<Estimate> {
    let mut layers = job::pace(subject, plan, observer)?;
    let left = forecast.layers.saturating_sub(forecast.finished) as f64;
    layers.seconds *= left / forecast.layers.max(1) as f64;
    let files = subject.checkpoint.files();
    let source_bytes: u64 = files.iter().map(crate::checkpoint::File::bytes).sum();
    // Several files are hashed at once.
    let at_once = rayon::current_num_threads().min(files.len() + forecast.weight_files).max(1);
    let bytes = (source_bytes + forecast.output_bytes) as f64 / at_once as f64;
    let hashing_seconds = bytes * seconds_a_byte(subject.checkpoint, observer)?;
    Ok(Estimate { layers, hashing_seconds })
}

/// Of a piece of the largest tensor; 0 where there is none.
fn seconds_a_byte(checkpoint: &Checkpoint, observer: &dyn Observer) -> Result<f64> {
    let largest = checkpoint.tensors().iter().max_by_key(|tensor| tensor.bytes());
    let Some(tensor) = largest.filter(|tensor| tensor.bytes() > 0) else { return Ok(0.0) };
    observer.go_on()?;
    let wanted = PIECE_BYTES * 8 / tensor.dtype.bits();
    // Elements of less than a byte come in pairs.
    let n = wanted.min(tensor.parameters()) & !1;
    let begun = Instant::now();
    let bytes = checkpoint.element_bytes(tensor, 0, n)?;
    std::hint::black_box(Sha256::digest(&bytes));
    Ok(begun.elapsed().as_secs_f64() / bytes.len().max(1) as f64)
}
