//! What the command line prints: tables and JSON on stdout, progress and one-line errors on stderr, cancelling by Ctrl-C.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use lapidary_engine::{Error, Observer, Progress, Unit};

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Prints the cause on one line of stderr and gives the exit code.
pub(super) fn fail(error: &anyhow::Error) -> ExitCode {
    let engine = error.downcast_ref::<Error>();
    // What was said in addition where it passed by.
    let note = engine.filter(|engine| error.to_string() != engine.to_string());
    let note = note.map(|_| format!("; {error}")).unwrap_or_default();
    if matches!(engine, Some(Error::Cancelled)) {
        complain(&format!("cancelled; nothing half-written was left{note}"));
        return ExitCode::from(130);
    }
    match engine {
        Some(engine) => complain(&(engine.sentence() + &note)),
        None => complain(&format!("{error:#}")),
    }
    ExitCode::from(if engine.is_some_and(Error::is_bad_input) { 2 } else { 1 })
}

fn complain(text: &str) {
    // Nobody is left to tell when stderr is closed.
    writeln!(std::io::stderr(), "lapidary: {text}").ok();
}

/// Prints sentences on stderr, a line each.
pub(super) fn tell(sentences: &[String]) {
    for sentence in sentences {
        writeln!(std::io::stderr(), "{sentence}").ok();
    }
}

/// Prints text on stdout; a reader that has gone away is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// Progress on a terminal, silence elsewhere; stops at Ctrl-C.
pub(super) struct Terminal {
    bar: ProgressBar,
    /// What the bar counts now.
    unit: Mutex<Option<Unit>>,
}

/// How the bar shows what it counts.
fn template(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => {
            "{prefix:11} {wide_bar} {decimal_bytes:>9} of {decimal_total_bytes:9} {eta:>4} left"
        }
        Unit::Tokens => {
            "{prefix:11} {wide_bar} {human_pos:>9} of {human_len:9} tokens {eta:>4} left {msg}"
        }
        Unit::Questions => {
            "{prefix:11} {wide_bar} {human_pos:>9} of {human_len:9} questions {eta:>4} left"
        }
        Unit::Candidates => {
            "{prefix:11} {wide_bar} {human_pos:>9} of at most {human_len:9} candidates"
        }
    }
}

impl Terminal {
    /// A bar on stderr if that is a terminal. The first Ctrl-C asks the job to stop, the second ends the process.
    pub(super) fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let handler = || {
            if CANCELLED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C ends the program at once: {error}");
        }
        Self { bar, unit: Mutex::default() }
    }

    /// Says something at the end of the bar, where tokens are counted.
    pub(super) fn note(&self, text: String) {
        self.bar.set_message(text);
    }

    /// Whether somebody looks at the bar.
    pub(super) fn is_seen(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Terminal {
    fn progress(&self, progress: Progress) {
        let mut unit = self.unit.lock().unwrap_or_else(PoisonError::into_inner);
        if unit.replace(progress.unit) != Some(progress.unit)
            && let Ok(style) = ProgressStyle::with_template(template(progress.unit))
        {
            self.bar.set_style(style);
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.bar.set_prefix(progress.stage);
    }

    fn warn(&self, text: String) {
        self.bar.suspend(|| complain(&text));
    }

    fn is_cancelled(&self) -> bool {
        CANCELLED.load(Ordering::Relaxed)
    }
}

/// A table of text: the first column aligned left, the others right unless their head begins with `<`.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads.
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines.
    pub(super) fn render(&self) -> String {
        let is_left = |column: usize| column == 0 || self.heads[column].starts_with('<');
        let heads: Vec<String> =
            self.heads.iter().map(|head| head.trim_start_matches('<').to_owned()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain([&heads[column]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cell = |(column, cell): (usize, &String)| {
                let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                if is_left(column) {
                    format!("{cell}{padding}")
                } else {
                    format!("{padding}{cell}")
                }
            };
            let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        };
        std::iter::once(&heads).chain(&self.rows).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_names_left_and_numbers_right() {
        let mut table = Table::new(&["layer", "bytes", "<why"]);
        table.row(vec!["a".to_owned(), "1".to_owned(), "so".to_owned()]);
        table.row(vec!["long name".to_owned(), "1,000".to_owned(), "because".to_owned()]);
        assert_eq!(
            table.render(),
            "layer      bytes  why\na              1  so\nlong name  1,000  because\n"
        );
    }
}
