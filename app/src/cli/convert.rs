//! `lapidary convert` and `lapidary unpack`: a compressed checkpoint written for another target, in fewer levels, or in full,
//! without compressing it again; a GGUF file with tensors of other types.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use lapidary_engine::Result;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Contents, Destination, Prospect, Report};
use lapidary_engine::job::Limits;
use lapidary_engine::target;

use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::compress::describe;
use crate::cli::output::{self, Terminal};
use crate::cli::squeeze;
use crate::converting::{self, Types, Wish};
use crate::size::bytes_of;
use crate::theme::text;

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
    /// Errors count by the outputs of layers where a calibration has Gram matrices, by their inputs where it or an importance matrix has mean squares.
    #[arg(long, requires = "kind")]
    weighted: bool,
    /// A folder that `calibrate` wrote, for --weighted; the latest of the model if not given.
    #[arg(long, value_name = "FOLDER", requires = "weighted")]
    calibration: Option<PathBuf>,
    /// Only say what it comes to, to the byte, and write nothing.
    #[arg(long)]
    dry_run: bool,
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
        let choice = Choice { home: builtin::home(), named: self.calibration };
        let types = Types { kind: self.kind, weighted: self.weighted.then_some(choice) };
        let wish = Wish { size, types, ..self.to.wish(&self.target)? };
        if self.dry_run {
            return foretell(&self.model, &wish, self.to.limits());
        }
        run(&self.model, &wish, &self.to)
    }
}

impl Unpack {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if export::is_squeezed(&self.archive) {
            let to = (self.to.out.as_deref(), self.to.force);
            return squeeze::restore(&self.archive, self.base.as_deref(), to);
        }
        if self.base.is_some() {
            bail!(converting::no_base(&self.archive));
        }
        run(&self.archive, &self.to.wish("dense")?, &self.to)
    }
}

impl To {
    /// All as it is, for a target.
    fn wish(&self, target: &str) -> Result<Wish> {
        Ok(Wish::of(target::find(target)?, bytes_of(&self.shard_size)?))
    }

    fn limits(&self) -> Limits {
        Limits { memory_bytes: (self.memory * f64::from(1 << 30)) as u64 }
    }
}

/// Says what will be written.
fn foretell(model: &Path, wish: &Wish, limits: Limits) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(model)?;
    let terminal = Terminal::new();
    let contents = match checkpoint.gguf() {
        Some(_) => Ok(None),
        None => Contents::read(&checkpoint, limits, &terminal).map(Some),
    };
    let found = contents
        .and_then(|contents| converting::prospect(&checkpoint, contents.as_ref(), wish, &terminal));
    terminal.finish();
    let (prospect, fitted) = found?;
    output::tell(&fitted);
    output::print(&foretold(&prospect))
}

fn foretold(prospect: &Prospect) -> String {
    let reasons = prospect.dense.iter();
    let reasons = reasons.map(|(because, layers)| format!("{layers} in full: {because}\n"));
    let levels = prospect.least_bytes.map(|least| {
        let (least, most) = (text::count(least), text::count(prospect.weight_bytes));
        format!(
            "stacks of levels are cut to any size from {least} to {most} bytes of weight files\n"
        )
    });
    format!(
        "{} layers compressed, {} decoded and stored in full, {} tensors copied\n{}{}{} bytes in {} weight files, {} bytes with what lies beside them: exact\n",
        prospect.compressed,
        prospect.dense_layers(),
        prospect.copied,
        reasons.collect::<String>(),
        levels.unwrap_or_default(),
        text::count(prospect.weight_bytes),
        prospect.weight_files,
        text::count(prospect.output_bytes),
    )
}

fn run(model: &Path, wish: &Wish, to: &To) -> anyhow::Result<()> {
    let (checkpoint, target) = (Checkpoint::open(model)?, wish.aim.target);
    let out = to.out.clone();
    let out = out.unwrap_or_else(|| PathBuf::from(converting::name(&checkpoint, target)));
    let destination = Destination { folder: &out, replace: to.force, limits: to.limits() };
    if to.fresh && export::discard_finished(&out)? {
        output::tell(&["what an earlier attempt wrote was thrown away".to_owned()]);
    }
    let terminal = Terminal::new();
    let done = converting::convert(&checkpoint, wish, destination, &output::tell, &terminal);
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
fn told(done: Result<Report>, out: &Path) -> anyhow::Result<Report> {
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
