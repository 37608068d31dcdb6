//! `lapidary convert` of a GGUF file: its tensors in other types, all else as it was.

use std::path::PathBuf;

use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Destination, Report};
use lapidary_engine::method::Needs;
use lapidary_engine::target::{self, Aim, Lint};

use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::output::{self, Terminal};
use crate::document::calibrations;

/// Which types, and by what errors count.
pub(super) struct Wish {
    /// A type of llama.cpp, or a starting point.
    pub(super) kind: Option<String>,
    /// Whether errors count by inputs or outputs, as far as these are known.
    pub(super) is_weighted: bool,
    /// A calibration's folder; the latest of the model if `None`.
    pub(super) calibration: Option<PathBuf>,
}

/// Writes the file again.
pub(super) fn run(
    checkpoint: &Checkpoint,
    wish: Wish,
    (aim, destination): (Aim, Destination<'_>),
    terminal: &Terminal,
) -> anyhow::Result<Report> {
    let Some(kind) = wish.kind.filter(|_| aim.target.rewrites()) else {
        return Err(Error::plan(
            format!(
                "{} is a GGUF file, whose tensors are only given other types",
                checkpoint.path().display()
            ),
            format!("give --target gguf and --type with one of {}", target::types().join(", ")),
        )
        .into());
    };
    let choice = Choice { home: builtin::home(), named: wish.calibration };
    let loaded = if wish.is_weighted {
        let found = choice.latest(checkpoint, (Needs::Moments, None), terminal)?;
        Some(found.ok_or_else(|| {
            Error::plan(
                format!("no finished calibration of {} is known", checkpoint.title()),
                format!(
                    "run: lapidary calibrate {0} --text FILE, or --imatrix FILE",
                    checkpoint.path().display()
                ),
            )
        })?)
    } else {
        None
    };
    let subject = calibrations::subject(checkpoint, loaded.as_ref());
    let known = |name: &str| subject.calibrated.known(name);
    let (plan, fitted) = target::retype(checkpoint, &kind, &known, aim)?;
    let line = |lint: &Lint| format!("{}; {} instead", lint.what, lint.mend);
    output::tell(&fitted.iter().map(line).collect::<Vec<_>>());
    Ok(export::export(subject, &plan, aim, destination, terminal)?)
}
