//! The table of docs/allocation.md, measured anew and written between its marks: five budgets spent on the built-in
//! sample in every way.
//!
//! `cargo run --release -p lapidary-benches --bin allocation-table -- TEXT`, where TEXT is a file to calibrate and measure
//! with, another than the sample's held-out text.
#![expect(clippy::print_stderr, reason = "what was measured is said as it comes")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lapidary_benches::allocations::Bench;
use lapidary_benches::replaced;
use lapidary_engine::{Error, Result, disk};

/// The file that holds the table.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/allocation.md")
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.sentence());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let text = std::env::args().nth(1);
    let text = text.ok_or_else(|| Error::plan("there is no text to measure on", "name a file"))?;
    let bench = Bench::new(Path::new(&text))?;
    let [table, about] = bench.tables(&mut |row| eprintln!("{}", row.join("  ")))?;
    let page = page();
    let content = disk::read_text(&page, 1 << 20)?;
    let content = replaced(&replaced(&content, "budgets", &table), "about", &about);
    disk::write_file(&page, content.as_bytes())
}
