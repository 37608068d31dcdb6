//! An observer that acts or cancels at a chosen moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lapidary_engine::{Observer, Progress};

/// Does something once, at the n-th report of a stage, and listens.
pub struct At<'a> {
    stage: &'static str,
    nth: usize,
    seen: AtomicUsize,
    is_cancelled: bool,
    act: &'a (dyn Fn() + Sync),
    said: Mutex<Vec<String>>,
    compressed: Mutex<Vec<String>>,
}

impl<'a> At<'a> {
    /// Does `act` at the `nth` report of `stage`.
    #[must_use]
    pub fn new(stage: &'static str, nth: usize, act: &'a (dyn Fn() + Sync)) -> Self {
        let seen = AtomicUsize::new(0);
        let (said, compressed) = Default::default();
        Self { stage, nth, seen, is_cancelled: false, act, said, compressed }
    }

    /// Only listens.
    #[must_use]
    pub fn listening() -> Self {
        Self::new("", 0, &|| {})
    }

    /// Cancels at that report, and any later one.
    #[must_use]
    pub fn cancelling(stage: &'static str, nth: usize) -> Self {
        Self { is_cancelled: true, ..Self::new(stage, nth, &|| {}) }
    }

    /// How many reports of the stage there were.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// What was warned of.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("it works").clone()
    }

    /// Layers that were compressed, by name.
    #[must_use]
    pub fn compressed(&self) -> Vec<String> {
        let mut names = self.compressed.lock().expect("it works").clone();
        names.sort();
        names.dedup();
        names
    }
}

impl Observer for At<'_> {
    fn progress(&self, progress: Progress) {
        if progress.stage == "Compressing" {
            self.compressed.lock().expect("it works").push(progress.item);
        }
        if progress.stage == self.stage && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.nth
        {
            (self.act)();
        }
    }

    fn warn(&self, text: String) {
        self.said.lock().expect("it works").push(text);
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled && self.seen.load(Ordering::SeqCst) >= self.nth
    }
}
