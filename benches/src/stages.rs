//! How long the stages of a job take, and what plain copies of as many bytes take.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lapidary_engine::{Observer, Progress};

/// Reads all of a file and writes as many of its bytes beside it, until the disk has them.
///
/// # Errors
/// Those of reading and writing.
pub fn copy(from: &Path, to: &Path, bytes: u64) -> io::Result<Duration> {
    let begun = Instant::now();
    let (mut source, mut file) = (File::open(from)?, File::create_new(to)?);
    let mut buffer = vec![0; 8 << 20];
    let mut left = bytes;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let kept = left.min(n as u64);
        file.write_all(&buffer[..kept as usize])?;
        left -= kept;
    }
    file.sync_all()?;
    let time = begun.elapsed();
    std::fs::remove_file(to)?;
    Ok(time)
}

/// When each stage was heard of first, and last.
#[derive(Debug, Default)]
pub struct Stages(Mutex<BTreeMap<Instant, (&'static str, Instant)>>);

impl Stages {
    /// When a stage was heard of first.
    pub fn began(&self, stage: &str) -> Option<Instant> {
        let stages = self.0.lock().ok()?;
        stages.iter().find(|(_, (name, _))| *name == stage).map(|(begun, _)| *begun)
    }

    /// Each stage with its seconds, in order.
    pub fn told(&self) -> String {
        let stages = self.0.lock().map(|stages| stages.clone()).unwrap_or_default();
        let told = stages.iter().map(|(begun, (stage, last))| {
            format!("{stage} {:.1} s", last.duration_since(*begun).as_secs_f64())
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

impl Observer for Stages {
    fn progress(&self, progress: Progress) {
        let now = Instant::now();
        let Ok(mut stages) = self.0.lock() else { return };
        match stages.values_mut().find(|(stage, _)| *stage == progress.stage) {
            Some((_, last)) => *last = now,
            None => {
                stages.insert(now, (progress.stage, now));
            }
        }
    }
}
