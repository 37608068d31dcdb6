//! How long an export of a 4 GB model in BF16 takes, packed 4-bit integers and `Q4_K`, against reading the source and
//! writing as many bytes as came out, with plain copies until the disk has them, in the same minute; with the source in memory, and, where there is a
//! `dd` that can put it out of there, from the disk.
//!
//! Arguments: how many blocks of 0.44 GB the model has; 8 if there is none.
#![expect(clippy::print_stdout, reason = "a measurement is printed")]

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lapidary_benches::stages::{Stages, copy};
use lapidary_benches::{Table, model, seconds};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{Destination, export};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::plan::{Assignment, Rule, Rules};
use lapidary_engine::target;

const USUAL_BLOCKS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let blocks = numbers.next().unwrap_or(USUAL_BLOCKS);
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("model");
    let bytes = model::complete_llama(&source, blocks)?;
    println!("{blocks} blocks, {:.2} GB", bytes as f64 / 1e9);
    let weights = source.join("model.safetensors");
    let mut table =
        Table::new(&["what", "time", "GB/s of source", "plain", "plain / ours", "stages"]);
    let integers = Step::new("round-to-nearest").with("bits", 4).with("group_size", 128);
    let blocks_of_256 = Step::new("gguf-blocks").with("type", "Q4_K");
    for (what, id, step) in
        [("4 bits, groups of 128", "compressed-tensors", integers), ("Q4_K", "gguf", blocks_of_256)]
    {
        for place in ["memory", "disk"] {
            let is_placed = || place == "memory" || put_out(&weights);
            if !is_placed() {
                continue;
            }
            let out = folder.path().join(id);
            let (time, written, stages) = exported(&source, (id, &step), &out)?;
            is_placed();
            let plain = copy(&weights, &folder.path().join("copy"), written)?;
            table.row(&[
                format!("{what}, from {place}"),
                seconds(time),
                format!("{:.2}", bytes as f64 / 1e9 / time.as_secs_f64()),
                seconds(plain),
                format!("{:.0} %", 100.0 * plain.as_secs_f64() / time.as_secs_f64()),
                stages,
            ]);
        }
    }
    table.print();
    Ok(())
}

/// Lets the system forget a file that the disk has; `false` where that cannot be asked for.
fn put_out(file: &Path) -> bool {
    let mut dd = Command::new("dd");
    dd.arg(format!("of={}", file.display()));
    dd.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]);
    dd.status().is_ok_and(|status| status.success())
}

/// Every projection compressed so; the time of all of it, the bytes that came out, and the times of its stages.
fn exported(
    source: &Path,
    (id, step): (&str, &Step),
    out: &Path,
) -> Result<(Duration, u64, String), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(source)?;
    let rule = Rule::new("*_proj.weight", Assignment::of(vec![step.clone()]))?;
    let plan = Rules(vec![rule]).resolve(&checkpoint)?;
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    let stages = Stages::default();
    let begun = Instant::now();
    let report = export(&checkpoint, &plan, target::find(id)?, destination, &stages)?;
    let time = begun.elapsed();
    std::fs::remove_dir_all(out)?;
    Ok((time, report.totals.total_bytes, stages.told()))
}
