//! The memory a piece of work takes, sampled while it runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time and the largest number of anonymous resident bytes while `work` runs.
pub fn watch(work: &mut dyn FnMut()) -> (Duration, u64) {
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
    });
    (begun.elapsed(), peak.into_inner())
}

/// Resident memory that belongs to no file; 0 where the system does not say.
pub fn anonymous_bytes() -> u64 {
    let status = procfs_status().unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

fn procfs_status() -> Option<String> {
    let path = std::path::Path::new("/proc/self/status");
    lapidary_engine::disk::read_text(path, 1 << 16).ok()
}
