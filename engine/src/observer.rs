//! How a long computation reports: progress, warnings, and the question whether to go on.
//! The engine calls it; a window or a terminal implements it. Never knows who listens.

use crate::error::{Error, Result};

/// How far a job has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The stage, as the person reads it: "compressing", "writing", "proving".
    pub stage: &'static str,
    /// The tensor or file at hand.
    pub item: String,
    /// Work done so far.
    pub done: u64,
    /// Work in all.
    pub total: u64,
    /// What the work is counted in.
    pub unit: Unit,
}

/// What the work of a job is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of source weights.
    Bytes,
    /// Tokens that have passed through the whole network.
    Tokens,
    /// Questions answered.
    Questions,
    /// Candidates measured, of those there are at most.
    Candidates,
}

/// Listens to a job. Every method may be called from any thread.
pub trait Observer: Send + Sync {
    /// Some work was done.
    fn progress(&self, _progress: Progress) {}

    /// A share of the matrix at hand is done. Whoever has several passes it on as progress through all of them.
    fn within(&self, _share: f64) {}

    /// Something the person should know that does not stop the job.
    fn warn(&self, _text: String) {}

    /// Whether the job should stop; asked at least every 0.1 s of work.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// [`Error::Cancelled`] once the job should stop.
    fn go_on(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Listens to nothing and never cancels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
