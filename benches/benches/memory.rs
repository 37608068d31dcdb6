//! Memory beyond the map while a model of 16 GB is measured: everything of every tensor, and the spectra of the
//! largest layers.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lapidary_benches::{Table, model, seconds};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::statistics::{measure, measure_profile, measure_spectrum, measure_structure};

/// What must suffice.
const LIMIT_MB: f64 = 600.0;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    // The shapes of an 8-billion-parameter llama.
    let bytes = model::write(&path, &model::llama(32, 4096, 14_336, 128_256))?;
    let checkpoint = Checkpoint::open(&path)?;
    let n = checkpoint.tensors().len();
    println!("{n} tensors, {:.1} GB; memory beyond the mapped file:", bytes as f64 / 1e9);
    let mut table = Table::new(&["what", "time", "peak", "of 600 MB"]);
    let before = anonymous_bytes();
    let mut watched = |what: &str, work: &mut dyn FnMut()| {
        let (time, peak) = watch(work);
        let peak_mb = peak.saturating_sub(before) as f64 / 1e6;
        table.row(&[
            what.to_owned(),
            seconds(time),
            format!("{peak_mb:.0} MB"),
            format!("{:.0} %", 100.0 * peak_mb / LIMIT_MB),
        ]);
    };
    watched("statistics of every tensor", &mut || {
        for layer in 0..n {
            measure(&checkpoint, layer, &Silent).ok();
        }
    });
    watched("structure of every layer", &mut || {
        for layer in 0..n {
            measure_structure(&checkpoint, layer, (0.0, 0.02), &Silent).ok();
        }
    });
    for name in ["model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"] {
        let layer = checkpoint.find(name).ok_or("a tensor of the model")?;
        watched(&format!("profile of {name}"), &mut || {
            measure_profile(&checkpoint, layer, 0.0, &Silent).ok();
        });
        watched(&format!("spectrum of {name}"), &mut || {
            measure_spectrum(&checkpoint, layer, &Silent).ok();
        });
    }
    table.print();
    Ok(())
}

/// Time and the largest number of anonymous resident bytes while `work` runs.
fn watch(work: &mut dyn FnMut()) -> (Duration, u64) {
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
fn anonymous_bytes() -> u64 {
    let status = procfs_status().unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

fn procfs_status() -> Option<String> {
    let path = std::path::Path::new("/proc/self/status");
    lapidary_engine::disk::read_text(path, 1 << 16).ok()
}
