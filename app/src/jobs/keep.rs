//! Keeping work that is not saved, without holding up the window: the latest state wins.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::document::recovery::{self, Unsaved};
use crate::jobs::{Event, Jobs, Kind};

/// Which state is the latest; writers take turns.
#[derive(Default)]
pub(super) struct Order {
    latest: AtomicU64,
    turn: Mutex<()>,
}

impl Jobs {
    /// Writes the state of the work, and then removes a file it was recovered from.
    pub fn keep(
        &self,
        unsaved: impl FnOnce() -> Unsaved + Send + 'static,
        path: PathBuf,
        old: Option<PathBuf>,
    ) {
        let order: Arc<Order> = self.keeping.clone();
        let mine = order.latest.fetch_add(1, Ordering::SeqCst) + 1;
        self.spawn("unsaved work", move || {
            let _turn = order.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if order.latest.load(Ordering::SeqCst) != mine {
                return;
            }
            match unsaved().write(&path) {
                Ok(()) => {
                    if let Some(old) = old {
                        recovery::discard(&old);
                    }
                }
                Err(error) => tracing::warn!("cannot keep unsaved work: {}", error.sentence()),
            }
        });
    }

    /// Drops states that wait to be written, and waits for one that is being written: what follows is forgetting.
    pub fn stop_keeping(&self) {
        self.keeping.latest.fetch_add(1, Ordering::SeqCst);
        drop(self.keeping.turn.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Opens work that was kept by a window that did not close.
    pub fn recover(&mut self, path: PathBuf) {
        let ticket = self.begin(Kind::Open);
        self.spawn("recover", move || {
            let result = crate::jobs::open::recover(&path).map_err(|error| error.sentence());
            ticket.send(Event::Opened { path, result: Box::new(result) });
        });
    }
}
