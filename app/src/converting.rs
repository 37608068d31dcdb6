//! Finished checkpoints written anew: what the window and the command line share.

use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{
    self, Contents, Destination, Prospect, Report, Squeezed, Verified, prospect_of_plan,
};
use lapidary_engine::method::Needs;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Lint, Target};
use lapidary_engine::{Error, Observer, Result};

use crate::calibrated::Choice;
use crate::document::calibrations::{self, Loaded};

/// Which types the tensors of a GGUF file get, and by what errors count.
#[derive(Clone, Debug, Default)]
pub struct Types {
    /// A type of llama.cpp, or a starting point.
    pub kind: Option<String>,
    /// The calibration by which errors count, by the outputs of a layer or by its inputs as far as these are known; none
    /// where all count alike.
    pub weighted: Option<Choice>,
}

/// What a conversion is to make.
#[derive(Clone)]
pub struct Wish {
    /// The target, and how large its files may be.
    pub aim: Aim,
    /// The most bytes of weight files, to which stacks of levels are cut.
    pub size: Option<u64>,
    /// Of a GGUF file.
    pub types: Types,
}

impl Wish {
    /// All as it is, for a target.
    pub fn of(target: &'static dyn Target, shard_bytes: u64) -> Self {
        let aim = Aim { shard_bytes, ..target.into() };
        Self { aim, size: None, types: Types::default() }
    }
}

/// A GGUF file whose tensors are to have other types.
struct Retyped {
    loaded: Option<Loaded>,
    plan: Plan,
    /// What did not fit, and got another type.
    fitted: Vec<String>,
}

impl Retyped {
    fn new(checkpoint: &Checkpoint, wish: &Wish, observer: &dyn Observer) -> Result<Self> {
        let Some(kind) = wish.types.kind.as_ref().filter(|_| wish.aim.target.rewrites()) else {
            return Err(Error::plan(
                format!(
                    "{} is a GGUF file, whose tensors are only given other types",
                    checkpoint.path().display()
                ),
                format!("give --target gguf and --type with one of {}", target::types().join(", ")),
            ));
        };
        let loaded = match &wish.types.weighted {
            Some(choice) => {
                let found = choice.latest(checkpoint, (Needs::Moments, None), observer)?;
                Some(found.ok_or_else(|| uncalibrated(checkpoint))?)
            }
            None => None,
        };
        let subject = calibrations::subject(checkpoint, loaded.as_ref());
        let known = |name: &str| subject.calibrated.known(name);
        let (plan, fitted) = target::retype(checkpoint, kind, &known, wish.aim)?;
        let line = |lint: &Lint| format!("{}; {} instead", lint.what, lint.mend);
        Ok(Self { fitted: fitted.iter().map(line).collect(), loaded, plan })
    }
}

fn uncalibrated(checkpoint: &Checkpoint) -> Error {
    Error::plan(
        format!("no finished calibration of {} is known", checkpoint.title()),
        format!(
            "run: lapidary calibrate {0} --text FILE, or --imatrix FILE",
            checkpoint.path().display()
        ),
    )
}

/// Whether a wish is for other types of a GGUF file.
fn is_retyping(checkpoint: &Checkpoint, wish: &Wish) -> bool {
    checkpoint.gguf().is_some() || wish.types.kind.is_some()
}

/// Writes a finished checkpoint anew. `tell` is given what did not fit, a sentence each, before anything is written.
///
/// # Errors
/// Those of [`export::cut`], [`export::convert()`] and [`export::export`].
pub fn convert(
    checkpoint: &Checkpoint,
    wish: &Wish,
    destination: Destination<'_>,
    tell: &dyn Fn(&[String]),
    observer: &dyn Observer,
) -> Result<Report> {
    if let Some(size) = wish.size {
        return export::cut(checkpoint, (size, wish.aim), destination, observer);
    }
    if !is_retyping(checkpoint, wish) {
        return export::convert(checkpoint, wish.aim, destination, observer);
    }
    let Retyped { loaded, plan, fitted } = Retyped::new(checkpoint, wish, observer)?;
    tell(&fitted);
    let subject = calibrations::subject(checkpoint, loaded.as_ref());
    export::export(subject, &plan, wish.aim, destination, observer)
}

/// What [`convert`] will write, whatever the size; with what does not fit. `contents` are those of the checkpoint, where
/// it is no GGUF file.
///
/// # Errors
/// What it says before it writes anything.
pub fn prospect(
    checkpoint: &Checkpoint,
    contents: Option<&Contents>,
    wish: &Wish,
    observer: &dyn Observer,
) -> Result<(Prospect, Vec<String>)> {
    if let Some(contents) = contents.filter(|_| !is_retyping(checkpoint, wish)) {
        return Ok((export::prospect(checkpoint, contents, wish.aim)?, Vec::new()));
    }
    let Retyped { loaded, plan, fitted } = Retyped::new(checkpoint, wish, observer)?;
    let subject = calibrations::subject(checkpoint, loaded.as_ref());
    Ok((prospect_of_plan(subject, &plan, wish.aim)?, fitted))
}

/// The usual name of what is made of a checkpoint for a target.
pub fn name(checkpoint: &Checkpoint, target: &dyn Target) -> String {
    let title = checkpoint.title();
    let stem = title.strip_suffix(".gguf").unwrap_or(&title);
    format!("{stem}-{}", target.about().id)
}

/// What was unpacked.
#[derive(Clone, Debug)]
pub enum Unpacked {
    /// The weight files of a squeezed folder, to the bit.
    Restored(Squeezed),
    /// A dense checkpoint.
    Dense(Box<Report>),
}

/// Makes a dense checkpoint of a compressed one, in files of at most `shard_bytes`; or a squeezed folder as it was, with what
/// it was squeezed against.
///
/// # Errors
/// Those of [`export::unsqueeze`] and [`export::convert()`]; [`Error::Plan`] for a base where nothing was squeezed.
pub fn unpack(
    (path, base): (&Path, Option<&Path>),
    shard_bytes: u64,
    destination: Destination<'_>,
    observer: &dyn Observer,
) -> Result<Unpacked> {
    if export::is_squeezed(path) {
        return export::unsqueeze(path, base, destination, observer).map(Unpacked::Restored);
    }
    if base.is_some() {
        return Err(no_base(path));
    }
    let (checkpoint, dense) = (Checkpoint::open(path)?, target::find("dense")?);
    let wish = Wish::of(dense, shard_bytes);
    let report = convert(&checkpoint, &wish, destination, &|_| {}, observer)?;
    Ok(Unpacked::Dense(Box::new(report)))
}

/// What is said where a base is named for what was not squeezed.
pub fn no_base(path: &Path) -> Error {
    let what = format!("{} was not squeezed, so it has no base", path.display());
    Error::plan(what, "leave the base out")
}

/// The usual name of what is made of a folder or file, beside its own.
pub fn named(path: &Path, what: &str) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    PathBuf::from(format!("{name}-{what}"))
}

/// How a proof went, in a sentence without a full stop.
pub fn verdict(found: &Verified) -> String {
    let identical = found.tensors.iter().filter(|tensor| tensor.stored == "identical").count();
    let others = found.tensors.len() - identical;
    let report = if found.is_reported {
        "held against the report beside it"
    } else {
        "no report of an export from this source lies beside it"
    };
    let verdict = if found.faults.is_empty() { "proved" } else { "not proved" };
    format!(
        "{verdict}: {identical} tensors are those of the source, {others} were read back and compared; {report}"
    )
}
