//! `lapidary convert` and `lapidary unpack`: a compressed checkpoint written for another target, in fewer levels, or in full,
//! without compressing it again.

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
use crate::cli::size::bytes_of;
use crate::cli::squeeze;

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// A compressed checkpoint: an archive, or one of compressed-tensors, GPTQ, AWQ or MLX.
    model: PathBuf,
    /// What to write it for, by its id (see `lapidary targets`). Layers that it has no form for are written in full.
    #[arg(long, value_name = "ID")]
    target: String,
    /// Cut stacks of levels to as many as fit so many bytes of weight files, as 20MB; for the target archive.
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
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
        run(&self.model, (target::find(&self.target)?, size), &self.to)
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
        run(&self.archive, (target::find("dense")?, None), &self.to)
    }
}

fn run(
    model: &Path,
    (target, size): (&'static dyn Target, Option<u64>),
    to: &To,
) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let default = || PathBuf::from(format!("{}-{}", checkpoint.title(), target.about().id));
    let out = to.out.clone().unwrap_or_else(default);
    let aim = Aim { shard_bytes: bytes_of(&to.shard_size)?, ..target.into() };
    let limits = Limits { memory_bytes: (to.memory * f64::from(1 << 30)) as u64 };
    let destination = Destination { folder: &out, replace: to.force, limits };
    if to.fresh && export::discard_finished(&out)? {
        output::tell(&["what an earlier attempt wrote was thrown away".to_owned()]);
    }
    let terminal = Terminal::new();
    let done = match size {
        Some(size) => export::cut(&checkpoint, (size, aim), destination, &terminal),
        None => export::convert(&checkpoint, aim, destination, &terminal),
    };
    terminal.finish();
    let report = told(done, &out)?;
    output::print(&describe(&report, &out, "what was converted"))
}

/// What was done, or why not, and what is kept of it.
fn told(done: lapidary_engine::Result<Report>, out: &Path) -> anyhow::Result<Report> {
    match (done, export::finished_for(out)) {
        (Err(error), Some(kept)) if !error.is_bad_input() => {
            Err(anyhow::Error::new(error).context(format!(
                "what was written is kept in {}: the same command goes on with it, --fresh begins anew",
                kept.display()
            )))
        }
        (done, _) => Ok(done?),
    }
}
