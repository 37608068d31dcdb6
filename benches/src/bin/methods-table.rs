//! The tables of docs/methods.md, measured anew and written between their marks: every method on the built-in sample, and
//! beside what llama.cpp makes of it.
//!
//! `cargo run --release -p lapidary-benches --bin methods-table -- TEXT`, where TEXT is a file to calibrate with, another
//! than the sample's held-out text. `--try CHAIN` measures one chain instead, as
//! `gptq bits=3 group_size=64; polish`; with `--embedding CHAIN` every matrix is compressed, without it the blocks' alone, `--head CHAIN` is that of
//! the head where it is another;
//! with `--sequential` each block with what it receives behind the compressed ones before it. `--only MARK` measures
//! that table alone, by its mark in the page: `4 bits`, `3 bits`, `2.5 bits`, `2 bits`, `below 2 bits`, `others`, `whole` (with that of llama.cpp).
#![expect(clippy::print_stderr, reason = "what was measured is said as it comes")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use lapidary_benches::trials::{Bench, Measured, Trial};
use lapidary_benches::{Table, ended, lists, peers, replaced, trials};
use lapidary_engine::{Result, disk};

/// The file that holds the tables.
fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/methods.md")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ended(run(&arguments))
}

/// The values after each `flag`.
fn after<'a>(arguments: &'a [String], flag: &str) -> Vec<&'a str> {
    let pairs = arguments.windows(2).filter(|pair| pair[0] == flag);
    pairs.map(|pair| pair[1].as_str()).collect()
}

fn run(arguments: &[String]) -> Result<()> {
    let text = arguments.first().ok_or_else(|| {
        lapidary_engine::Error::plan("there is no text to calibrate with", "name a file")
    })?;
    let bench = Bench::new(Path::new(text), arguments.iter().any(|flag| flag == "--hurry"))?;
    let embedding = after(arguments, "--embedding").first().copied();
    let head = after(arguments, "--head").first().copied();
    let is_sequential = arguments.iter().any(|flag| flag == "--sequential");
    let tried = after(arguments, "--try");
    for chain in &tried {
        let found =
            bench.measure(&Trial { title: chain, chain, embedding, head, is_sequential })?;
        let mut table = Table::new(&[&trials::HEADING[..], &["chain"]].concat());
        table.row(&cells(&found));
        table.print();
    }
    if !tried.is_empty() {
        return Ok(());
    }
    write(&bench, &after(arguments, "--only"))
}

/// Measures every row, or those of the tables named, and writes the page.
fn write(bench: &Bench, only: &[&str]) -> Result<()> {
    let begun = Instant::now();
    let of = |trials: &'static [Trial<'static>]| -> Result<Vec<Measured<'static>>> {
        let measure = |trial| {
            let found = bench.measure(trial)?;
            eprintln!("{}", cells(&found).join("  "));
            Ok(found)
        };
        trials.iter().map(measure).collect()
    };
    let is_wanted = |mark: &str| only.is_empty() || only.contains(&mark);
    let mut tables = Vec::new();
    if is_wanted("whole") {
        let whole = of(lists::WHOLE)?;
        tables.push(("peers", peers::table(bench, &whole)));
        tables.push(("whole", trials::table(&whole)));
    }
    for (mark, rows) in [
        ("4 bits", lists::FOUR),
        ("3 bits", lists::THREE),
        ("2.5 bits", lists::TWO_AND_A_HALF),
        ("2 bits", lists::TWO),
        ("below 2 bits", lists::ONE),
        ("others", lists::OTHERS),
    ] {
        if is_wanted(mark) {
            tables.push((mark, trials::table(&of(rows)?)));
        }
    }
    if only.is_empty() {
        tables.push(("about", bench.about(begun.elapsed())));
    }
    let page = page();
    let mut content = disk::read_text(&page, 1 << 20)?;
    for (mark, table) in tables {
        content = replaced(&content, mark, &table);
    }
    disk::write_file(&page, content.as_bytes())
}

fn cells(found: &Measured<'_>) -> Vec<String> {
    [trials::figures(found), vec![found.trial.chain.to_owned()]].concat()
}
