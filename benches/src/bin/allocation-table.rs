//! The table of docs/allocation.md, measured anew and written between its marks: five budgets spent on the built-in
//! sample in every way.
//!
//! `cargo run --release -p lapidary-benches --bin allocation-table -- TEXT`, where TEXT is a file to calibrate and measure
//! with, another than the sample's held-out text. `--peers` measures the other table instead: plans at the bytes of
//! llama.cpp's files.
#![expect(clippy::print_stderr, reason = "what was measured is said as it comes")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lapidary_benches::allocations::Bench;
use lapidary_benches::{ended, peer_plans, replaced, trials};
use lapidary_engine::{Error, Result, disk};

/// The file that holds the table.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/allocation.md")
}

fn main() -> ExitCode {
    ended(run())
}

fn run() -> Result<()> {
    let text = std::env::args().nth(1);
    let text = text.ok_or_else(|| Error::plan("there is no text to measure on", "name a file"))?;
    let say = &mut |row: &[String]| eprintln!("{}", row.join("  "));
    let page = page();
    if std::env::args().any(|flag| flag == "--peers") {
        let begun = Instant::now();
        let bench = trials::Bench::new(Path::new(&text), false)?;
        let table = peer_plans::table(&bench, say)?;
        let content = disk::read_text(&page, 1 << 20)?;
        let content = replaced(&content, "peers", &table);
        let content = replaced(&content, "about peers", &bench.about(begun.elapsed()));
        return disk::write_file(&page, content.as_bytes());
    }
    let bench = Bench::new(Path::new(&text))?;
    let [table, about] = bench.tables(say)?;
    let content = disk::read_text(&page, 1 << 20)?;
    let content = replaced(&replaced(&content, "budgets", &table), "about", &about);
    disk::write_file(&page, content.as_bytes())
}
