//! Timing, tables and reference programs of the measurements in `benches/`.
//! Each prints ratios against a named reference that ran in the same minute on the same cores.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement is printed, and why there is none"
)]

pub mod allocations;
pub mod lists;
pub mod memory;
pub mod model;
pub mod peer_plans;
pub mod peers;
pub mod stages;
pub mod trials;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The shortest of `n` runs of `work`, and what the last one returned.
///
/// # Panics
/// If `n` is 0.
pub fn fastest<T>(n: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut run = || {
        let begun = Instant::now();
        let result = work();
        (begun.elapsed(), result)
    };
    let (mut best, mut result) = run();
    for _ in 1..n {
        let (time, next) = run();
        (best, result) = (best.min(time), next);
    }
    (best, result)
}

/// Rows of text under a heading, aligned by column.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns.
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// One more row.
    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// Prints it.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// `1.234 s`.
pub fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// How a program ends: where something failed, with a sentence that says what.
pub fn ended(result: lapidary_engine::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.sentence());
            ExitCode::FAILURE
        }
    }
}

/// How many times as long `reference` took as `ours`.
pub fn ratio(reference: Duration, ours: Duration) -> String {
    format!("{:.1} ×", reference.as_secs_f64() / ours.as_secs_f64())
}

/// Runs a Python program (the one that the environment variable PYTHON names, or `python3`), hands it `input`
/// and returns what it printed; `None` where that fails, as without the packages it needs.
pub fn python(program: &str, input: &[u8]) -> Option<String> {
    let name = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(name)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let written = child.stdin.take()?.write_all(input);
    let output = child.wait_with_output().ok()?;
    (written.is_ok() && output.status.success())
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `content` with what stands between the marks of `name` replaced; the same without such marks.
pub fn replaced(content: &str, name: &str, new: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let parts = content.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    match parts {
        Some((before, after)) => format!("{before}{begin}{new}{end}{after}"),
        None => content.to_owned(),
    }
}
