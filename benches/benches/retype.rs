//! How long a GGUF file of 1.4 GB in BF16 takes to be given another type, against `llama_model_quantize` of llama-cpp-python
//! with `pure` on as many threads, where `PYTHON` names a Python that has it, and against reading it and writing as many
//! bytes as came out. The disk has the bytes before a time ends. Ours is given up to the last file, and with its proof.
//!
//! Arguments: the types; the four below if there is none.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lapidary_benches::stages::{Stages, copy};
use lapidary_benches::{Table, model, python, seconds};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Needs;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Target};

const BLOCKS: usize = 2;
/// Types with what llama.h calls a file of them.
const TYPES: [(&str, u32); 5] =
    [("Q4_0", 2), ("Q8_0", 7), ("Q4_K", 14), ("Q6_K", 18), ("Q5_K", 16)];
const USUAL: usize = 4;

/// Reads source, target and number of the file's type, one to a line; prints the seconds.
const REFERENCE: &str = r"
import os, sys, time, llama_cpp
source, out, kind = sys.stdin.read().split('\n')[:3]
wish = llama_cpp.llama_model_quantize_default_params()
wish.nthread, wish.ftype, wish.pure = os.cpu_count(), int(kind), True
begun = time.perf_counter()
failed = llama_cpp.llama_model_quantize(source.encode(), out.encode(), wish)
with open(out, 'rb') as file:
    os.fsync(file.fileno())
assert not failed
print(time.perf_counter() - begun)
";

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|of| !of.starts_with('-')).collect();
    let folder = tempfile::tempdir()?;
    let source = source(folder.path())?;
    let bytes = source.metadata()?.len();
    println!("{:.2} GB", bytes as f64 / 1e9);
    let mut table = Table::new(&[
        "type",
        "ours",
        "proved",
        "llama.cpp",
        "/ ours",
        "/ proved",
        "plain",
        "stages",
    ]);
    for (place, (kind, number)) in TYPES.into_iter().enumerate() {
        let is_usual = wanted.is_empty() && place < USUAL;
        if !(is_usual || wanted.iter().any(|name| name == kind)) {
            continue;
        }
        let (written, proved, size, stages) = retyped(&source, kind, &folder.path().join(kind))?;
        let theirs = reference(&source, &folder.path().join("theirs.gguf"), number);
        let plain = copy(&source, &folder.path().join("copy"), size)?;
        let ratio = |ours: Duration| {
            theirs.map_or_else(|| "–".to_owned(), |t| format!("{:.2}", t / ours.as_secs_f64()))
        };
        table.row(&[
            kind.to_owned(),
            seconds(written),
            seconds(proved),
            theirs.map_or_else(|| "–".to_owned(), |theirs| format!("{theirs:.3} s")),
            ratio(written),
            ratio(proved),
            seconds(plain),
            stages,
        ]);
    }
    table.print();
    Ok(())
}

fn gguf() -> lapidary_engine::Result<&'static dyn Target> {
    target::find("gguf")
}

/// A file with everything in BF16.
fn source(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let (model, out) = (folder.join("model"), folder.join("source"));
    model::complete_llama(&model, BLOCKS)?;
    let checkpoint = Checkpoint::open(&model)?;
    let destination = Destination { folder: &out, replace: false, limits: Limits::default() };
    export(&checkpoint, &Plan::default(), gguf()?, destination, &Stages::default())?;
    std::fs::remove_dir_all(model)?;
    let is_gguf = |path: &PathBuf| path.extension().is_some_and(|end| end == "gguf");
    let mut files = std::fs::read_dir(out)?.filter_map(|file| Some(file.ok()?.path()));
    Ok(files.find(is_gguf).ok_or("no GGUF file was written")?)
}

/// The times until all is written and until it is proved, the bytes of the weights, and the times of all stages.
fn retyped(
    source: &Path,
    kind: &str,
    out: &Path,
) -> Result<(Duration, Duration, u64, String), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(source)?;
    let aim = Aim::from(gguf()?);
    let (plan, _) = target::retype(&checkpoint, kind, &|_| Needs::Weights, aim)?;
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    let stages = Stages::default();
    let begun = Instant::now();
    let report = export(&checkpoint, &plan, gguf()?, destination, &stages)?;
    let proved = begun.elapsed();
    std::fs::remove_dir_all(out)?;
    let written = stages.began("Proving").map_or(proved, |at| at.duration_since(begun));
    Ok((written, proved, report.totals.total_bytes, stages.told()))
}

/// Seconds of llama.cpp's own quantiser; nothing where it cannot be run.
fn reference(source: &Path, out: &Path, kind: u32) -> Option<f64> {
    let input = format!("{}\n{}\n{kind}\n", source.display(), out.display());
    let printed = python(REFERENCE, input.as_bytes())?;
    std::fs::remove_file(out).ok()?;
    printed.trim().parse().ok()
}
