//! Memory beyond the map while a model of 16 GB is measured: everything of every tensor, and the spectra of the
//! largest layers.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;

use lapidary_benches::memory::{anonymous_bytes, watch};
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
