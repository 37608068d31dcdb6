//! `lapidary convert` and `lapidary unpack`: a compressed checkpoint written for another target, in fewer levels, or in full,
//! without compressing it again; a GGUF file with tensors of other types.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Destination, Report};
use lapidary_engine::job::Limits;
use lapidary_engine::target::{self, Aim, Target};

use crate::cli::compress::describe;
use crate::cli::output::{self, Terminal};
use crate::cli::retype::{self, Wish};
use crate::cli::size::bytes_of;
use crate::cli::squeeze;

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// A compressed checkpoint: an archive, one of compressed-tensors, GPTQ, AWQ, AQLM, `SpQR` or MLX, or a GGUF file.
    model: PathBuf,
    /// What to write it for, by its id (see `lapidary targets`). Layers that it has no form for are written in full.
    #[arg(long, value_name = "ID")]
    target: String,
    /// Cut stacks of levels to as many as fit so many bytes of weight files, as 20MB; for the target archive.
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Of a GGUF file: the type that its matrices get, as `Q4_K`, `IQ4_XS` or F16, or a starting point, as `Q4_K_M`.
    /// Where blocks do not fit the rows of a tensor, it gets the nearest that do; keys and all other tensors stay.
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "size")]
    kind: Option<String>,
    /// Errors count by the inputs of layers, as far as a calibration or an importance matrix knows them.
    #[arg(long, requires = "kind")]
    weighted: bool,
    /// A folder that `calibrate` wrote, for --weighted; the latest of the model if not given.
    #[arg(long, value_name = "FOLDER", requires = "weighted")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    to: To,
}

/// Arguments of `unpack`.
#[derive(Debug, Args)]
pub(super) struct Unpack {
    /// An archive, another compressed checkpoint that is read here, or a folder that `squeeze` made.
    archive: PathBuf,
    /// What the folder was squeezed against.
    #[arg(long, value_name = "CHECKPOINT")]
    base: Option<PathBuf>,
    #[command(flatten)]
    to: To,
}

/// Where the result goes.
#[derive(Debug, Args)]
struct To {
    /// The folder to write; by default the model's name and the target, in the current folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace an earlier output in that folder.
    #[arg(long)]
    force: bool,
    /// Write everything anew, also what an earlier attempt at the same folder wrote.
    #[arg(long)]
    fresh: bool,
    /// The most bytes of a weight file, as 5GB or 500MB; 0 for the files of the source.
    #[arg(long, default_value = "0", value_name = "SIZE")]
    shard_size: String,
    /// Working memory for a layer, in GiB.
    #[arg(long, default_value_t = 4.0, value_name = "GIB")]
    memory: f64,
}

impl Convert {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let size = self.size.as_deref().map(bytes_of).transpose()?;
        let wish =
            Wish { kind: self.kind, is_weighted: self.weighted, calibration: self.calibration };
        run(&self.model, (target::find(&self.target)?, size, wish), &self.to)
    }
}

impl Unpack {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if export::is_squeezed(&self.archive) {
            let to = (self.to.out.as_deref(), self.to.force);
            return squeeze::restore(&self.archive, self.base.as_deref(), to);
        }
        if self.base.is_some() {
            bail!(Error::plan(
                format!("{} was not squeezed, so it has no base", self.archive.display()),
                "leave --base out",
            ));
        }
        let wish = Wish { kind: None, is_weighted: false, calibration: None };
        run(&self.archive, (target::find("dense")?, None, wish), &self.to)
    }
}

fn run(
    model: &Path,
    (target, size, wish): (&'static dyn Target, Option<u64>, Wish),
    to: &To,
) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let default = || {
        let title = checkpoint.title();
        let stem = title.strip_suffix(".gguf").unwrap_or(&title);
        PathBuf::from(format!("{stem}-{}", target.about().id))
    };
    let out = to.out.clone().unwrap_or_else(default);
    let aim = Aim { shard_bytes: bytes_of(&to.shard_size)?, ..target.into() };
    let limits = Limits { memory_bytes: (to.memory * f64::from(1 << 30)) as u64 };
    let destination = Destination { folder: &out, replace: to.force, limits };
    if to.fresh && export::discard_finished(&out)? {
        output::tell(&["what an earlier attempt wrote was thrown away".to_owned()]);
    }
    let terminal = Terminal::new();
    let done: anyhow::Result<Report> = match size {
        Some(size) => {
            export::cut(&checkpoint, (size, aim), destination, &terminal).map_err(Into::into)
        }
        None if checkpoint.gguf().is_some() || wish.kind.is_some() => {
            retype::run(&checkpoint, wish, (aim, destination), &terminal)
        }
        None => export::convert(&checkpoint, aim, destination, &terminal).map_err(Into::into),
    };
    terminal.finish();
    let report = told(done, &out)?;
    output::print(&describe(&report, &out, "what was converted"))?;
    if report.totals.dense > 0 && !target.capabilities().is_dense() {
        output::tell(&[format!(
            "{} has no form for {} of the layers as they are compressed: they are written in full",
            target.about().title,
            report.totals.dense,
        )]);
    }
    Ok(())
}

/// What was done, or why not, and what is kept of it.
fn told(done: anyhow::Result<Report>, out: &Path) -> anyhow::Result<Report> {
    let is_stopped = |error: &anyhow::Error| {
        error.downcast_ref::<Error>().is_some_and(|error| !error.is_bad_input())
    };
    match (done, export::finished_for(out)) {
        (Err(error), Some(kept)) if is_stopped(&error) => Err(error.context(format!(
            "what was written is kept in {}: the same command goes on with it, --fresh begins anew",
            kept.display()
        ))),
        (done, _) => done,
    }
}
