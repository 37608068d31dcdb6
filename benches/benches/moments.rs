//! All moments, histograms and bit planes of a BF16 model of 4 GB, against a plain parallel sum over the same bytes.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::time::Duration;

use lapidary_benches::{Table, fastest, model, seconds};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::statistics::{measure, measure_structure};
use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

/// Elements a task sums at a time.
const PIECE: u64 = 1 << 22;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let bytes = model::write(&path, &model::llama(8, 4096, 14_336, 32_000))?;
    let checkpoint = Checkpoint::open(&path)?;
    let layers = 0..checkpoint.tensors().len();
    println!("{} tensors, {:.2} GB of BF16", layers.len(), bytes as f64 / 1e9);
    // The first run brings the file into memory.
    let (plain, sum) = fastest(4, || plain_sum(&checkpoint));
    println!("(sum of all words, so that it is computed: {sum:x})");
    let (moments, outliers) = fastest(2, || {
        let all = layers.clone().map(|layer| measure(&checkpoint, layer, &Silent));
        all.map(|found| found.map_or(f64::NAN, |found| found.outlier_fraction)).sum::<f64>()
    });
    let (structure, peaks) = fastest(1, || {
        let all =
            layers.clone().map(|layer| measure_structure(&checkpoint, layer, (0.0, 0.02), &Silent));
        all.map(|found| found.map_or(f64::NAN, |found| found.group_peaks[3])).sum::<f64>()
    });
    println!("(outliers {outliers:e}, group peaks {peaks:.1})");
    let speed = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
    let mut table = Table::new(&["what", "time", "GB/s", "of the plain sum"]);
    for (what, time) in [
        ("plain parallel sum", plain),
        ("moments, histogram, bit planes", moments),
        ("group peaks, outliers, largest weights", structure),
    ] {
        let share = 100.0 * speed(time) / speed(plain);
        let cells = [seconds(time), format!("{:.2}", speed(time)), format!("{share:.0} %")];
        table.row(&[&[what.to_owned()], &cells[..]].concat());
    }
    table.print();
    Ok(())
}

/// The sum of all bytes of the weights as 64-bit words, in parallel: as fast as memory can be read.
fn plain_sum(checkpoint: &Checkpoint) -> u64 {
    let pieces: Vec<(usize, u64, u64)> = checkpoint
        .tensors()
        .iter()
        .enumerate()
        .flat_map(|(layer, tensor)| {
            let n = tensor.parameters();
            (0..n.div_ceil(PIECE)).map(move |i| (layer, i * PIECE, PIECE.min(n - i * PIECE)))
        })
        .collect();
    let sum = |(layer, first, n): (usize, u64, u64)| {
        let bytes = checkpoint.element_bytes(&checkpoint.tensors()[layer], first, n);
        let bytes = bytes.unwrap_or_default();
        let words = bytes.as_chunks::<8>().0;
        words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    };
    pieces.into_par_iter().map(sum).reduce(|| 0, u64::wrapping_add)
}
