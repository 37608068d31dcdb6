//! Σ x·xᵀ of the inputs of a layer against the product `X.T @ X` of numpy, for which its BLAS has `ssyrk`.
//!
//! Both on as many threads as rayon takes; numpy runs before and after ours, and the faster counts. Arguments: shapes
//! as `2048x4096`, tokens by channels; `--no-numpy`.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::time::Duration;

use lapidary_benches::{Table, fastest, python, ratio, seconds};
use lapidary_engine::numeric::channels::Channels;
use lapidary_engine::numeric::gram::Gram;
use lapidary_engine::numeric::seeds::Random;
use ndarray::Array2;

const SHAPES: [(usize, usize); 3] = [(2048, 2048), (4096, 4096), (2048, 11_008)];
/// Runs of which the fastest counts.
const RUNS: usize = 4;

/// Prints the shortest time of `X.T @ X` in f32.
const NUMPY: &str = "
import os
os.environ['OPENBLAS_NUM_THREADS'] = os.environ['OMP_NUM_THREADS'] = 'THREADS'
import time, numpy
x = numpy.random.default_rng(3).standard_normal((TOKENS, CHANNELS), numpy.float32)
best = 1e9
for _ in range(RUNS):
    begun = time.perf_counter()
    x.T @ x
    best = min(best, time.perf_counter() - begun)
print(best)
";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parse = |text: &String| {
        let (tokens, channels) = text.split_once('x')?;
        Some((tokens.parse().ok()?, channels.parse().ok()?))
    };
    let shapes: Vec<(usize, usize)> = arguments.iter().filter_map(parse).collect();
    let shapes = if shapes.is_empty() { SHAPES.to_vec() } else { shapes };
    let with_numpy = !arguments.iter().any(|argument| argument == "--no-numpy");
    let heading = ["tokens × channels", "what", "time", "Gop/s", "as long as ours"];
    let mut table = Table::new(&heading);
    for (tokens, channels) in shapes {
        measure(tokens, channels, with_numpy, &mut table);
    }
    table.print();
}

fn measure(tokens: usize, channels: usize, with_numpy: bool, table: &mut Table) {
    let before = with_numpy.then(|| numpy(tokens, channels)).flatten();
    let mut random = Random::new(3);
    let x = Array2::from_shape_simple_fn((tokens, channels), || random.normal() as f32);
    let mut gram = Gram::new(channels);
    let (ours, ()) = fastest(RUNS, || gram.add(x.view()));
    let mut sums = Channels::new(channels);
    let (by_channel, ()) = fastest(RUNS, || sums.add(x.view()));
    let after = with_numpy.then(|| numpy(tokens, channels)).flatten();
    let numpy = before.into_iter().chain(after).min();
    let shape = format!("{tokens} × {channels}");
    // Of a symmetric product only half is counted.
    let operations = tokens as f64 * (channels as f64).powi(2);
    let mut row = |what: &str, time: Duration, rate: String| {
        table.row(&[shape.clone(), what.to_owned(), seconds(time), rate, ratio(time, ours)]);
    };
    let rate = |time: Duration| format!("{:.0}", operations / time.as_secs_f64() / 1e9);
    row("ours: products in f32, sums in f64", ours, rate(ours));
    match numpy {
        Some(numpy) => row("numpy X.T @ X, f32", numpy, rate(numpy)),
        None if with_numpy => println!("numpy is left out: PYTHON, or python3, has none"),
        None => {}
    }
    row("ours: sums by channel", by_channel, String::new());
}

fn numpy(tokens: usize, channels: usize) -> Option<Duration> {
    let program = NUMPY
        .replace("THREADS", &rayon::current_num_threads().to_string())
        .replace("TOKENS", &tokens.to_string())
        .replace("CHANNELS", &channels.to_string())
        .replace("RUNS", &RUNS.to_string());
    python(&program, &[])?.trim().parse().ok().map(Duration::from_secs_f64)
}
