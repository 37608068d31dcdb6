//! How fast matrices of 4096 × 4096 are encoded, against reading them, and against llama.cpp's own quantiser where the
//! environment variable `GGML` names a shared library of ggml and `PYTHON` a Python with numpy.
//!
//! Fast forms encode 1 GiB, sixteen matrices one after another, so that memory is read and no cache; what takes longer
//! than a tenth of a second for a matrix encodes one. Times are those of a matrix.
//!
//! Arguments: what is measured, by parts of the names in the table; everything if there is none.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::time::Duration;

use lapidary_benches::{Table, fastest, python, seconds};
use lapidary_engine::Silent;
use lapidary_engine::method::{Step, Task, run_chain};
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::tensor::DType;
use ndarray::Array2;
use rayon::prelude::{ParallelIterator as _, ParallelSlice as _};

const SIDE: usize = 4096;
/// Matrices of 64 MiB.
const SET: usize = 16;

/// Times `ggml_quantize_chunk` over the same number of weights on as many threads as there are cores; each prints its
/// name and the shortest of three times.
const REFERENCE: &str = r#"
import ctypes, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
library = ctypes.CDLL(os.environ["GGML"])
library.ggml_quantize_chunk.restype = ctypes.c_size_t
side, cores, many = 4096, os.cpu_count(), 16
one = np.random.default_rng(1).standard_normal((side, side)).astype(np.float32)
matrices = [one.copy() for _ in range(many)]
out = np.zeros(one.size * 2, np.uint8)
pointer = lambda a, t: a.ctypes.data_as(ctypes.POINTER(t))
for name, kind in [("Q4_0", 2), ("Q8_0", 8), ("Q4_K", 12), ("Q6_K", 14), ("IQ4_XS", 23), ("Q2_K", 10)]:
    def work(part, weights, kind=kind):
        rows = side // cores
        library.ggml_quantize_chunk(ctypes.c_int(kind), pointer(weights, ctypes.c_float), pointer(out, ctypes.c_uint8),
            ctypes.c_int64(part * rows * side), ctypes.c_int64(rows), ctypes.c_int64(side), None)
    best = 1e9
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(3):
            used = matrices if name in ("Q4_0", "Q8_0") else matrices[:1]
            begun = time.perf_counter()
            for weights in used:
                list(pool.map(lambda part: work(part, weights), range(cores)))
            best = min(best, (time.perf_counter() - begun) / len(used))
    print(name, best)
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let mut random = Random::new(5);
    let one = Array2::from_shape_simple_fn((SIDE, SIDE), || random.normal() as f32);
    let bytes = size_of_val(one.as_slice().unwrap_or_default()) as f64;
    let matrices = vec![one; SET];
    let slices: Vec<&[f32]> = matrices.iter().filter_map(|matrix| matrix.as_slice()).collect();
    let sum = |piece: &[f32]| piece.iter().fold(0_u32, |sum, v| sum.wrapping_add(v.to_bits()));
    let sum_of =
        |values: &&[f32]| values.par_chunks(1 << 16).map(sum).reduce(|| 0, u32::wrapping_add);
    let (read, total) = fastest(5, || slices.iter().map(sum_of).fold(0_u32, u32::wrapping_add));
    let read = read / SET as u32;
    println!("(sum of all words, so that it is computed: {total:x})");
    let theirs = reference();
    let mut table = Table::new(&["what", "time", "GB/s", "of reading", "llama.cpp", "ratio"]);
    let mut row = |what: &str, time: Duration| {
        let theirs = theirs.iter().find(|(name, _)| name == what).map(|(_, time)| *time);
        let speed = bytes / 1e9 / time.as_secs_f64();
        let share = 100.0 * read.as_secs_f64() / time.as_secs_f64();
        table.row(&[
            what.to_owned(),
            seconds(time),
            format!("{speed:.2}"),
            format!("{share:.0} %"),
            theirs.map_or_else(|| "–".to_owned(), |time| format!("{time:.3} s")),
            theirs.map_or_else(|| "–".to_owned(), |t| format!("{:.2}", time.as_secs_f64() / t)),
        ]);
    };
    row("reading", read);
    let bytes_of = |piece: &[f32]| piece.iter().map(|v| v.to_bits() as u8).collect::<Vec<u8>>();
    let copied =
        |values: &&[f32]| -> Vec<Vec<u8>> { values.par_chunks(1 << 16).map(bytes_of).collect() };
    let (written, _) = fastest(5, || slices.iter().map(copied).map(|new| new.len()).sum::<usize>());
    row("and a byte a weight written to new memory", written / SET as u32);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|of| !of.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|part| what.contains(part));
    for (what, step, runs) in steps().into_iter().filter(|(what, ..)| is_wanted(what)) {
        let encode = |weights: &Array2<f32>| {
            let task = Task {
                tensor: "matrix",
                weights: weights.view(),
                dtype: DType::BF16,
                previous: None,
                fused_peak: None,
                inputs: None,
                observer: &Silent,
            };
            run_chain(std::slice::from_ref(&step), &task).map(drop)
        };
        let used = if runs == 1 { &matrices[..1] } else { &matrices[..] };
        let (time, done) = fastest(runs, || used.iter().try_for_each(encode));
        done?;
        row(&what, time / used.len() as u32);
    }
    table.print();
    Ok(())
}

/// What is measured: name, step, runs over the whole set; one run is over one matrix.
fn steps() -> Vec<(String, Step, usize)> {
    let step = |what: &str, step: Step, runs: usize| (what.to_owned(), step, runs);
    let rtn = || Step::new("round-to-nearest");
    let mut steps = vec![
        step("4-bit g128", rtn(), 5),
        step("4-bit channel", rtn().with("granularity", "channel"), 5),
        step("4-bit tensor", rtn().with("granularity", "tensor"), 5),
        step("4-bit g128 mse", rtn().with("clipping", "mse"), 1),
    ];
    for (kind, runs) in
        [("Q4_0", 3), ("Q8_0", 3), ("Q4_K", 3), ("Q6_K", 3), ("IQ4_XS", 1), ("Q2_K", 3)]
    {
        steps.push(step(kind, Step::new("gguf-blocks").with("type", kind), runs));
    }
    for format in ["nvfp4", "mxfp4", "mxfp8"] {
        steps.push(step(format, Step::new("microscaling").with("format", format), 3));
    }
    steps.push(step("fp8 channel", Step::new("fp8"), 3));
    steps.push(step("nf4 g64", Step::new("nf4"), 3));
    steps.push(step("higgs 4-bit pairs", Step::new("higgs"), 1));
    let nearest = Step::new("quip-sharp").with("rounding", "nearest");
    steps.push(step("quip 2-bit nearest", nearest, 1));
    steps.push(step("3 bits entropy-coded", Step::new("entropy-coded"), 1));
    steps.push(step("4-bit palette", Step::new("optimal-palette"), 1));
    steps.push(step("4-bit g64 hqq", Step::new("hqq"), 1));
    steps
}

/// Names and seconds of llama.cpp's quantiser; nothing where it cannot be run.
fn reference() -> Vec<(String, f64)> {
    if std::env::var_os("GGML").is_none() {
        println!("(no llama.cpp: GGML names no library of ggml)");
        return Vec::new();
    }
    let lines = python(REFERENCE, &[]).unwrap_or_default();
    let pair = |line: &str| {
        let (name, time) = line.split_once(' ')?;
        Some((name.to_owned(), time.parse().ok()?))
    };
    lines.lines().filter_map(pair).collect()
}
