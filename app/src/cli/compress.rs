//! `lapidary compress`: a project's plan carried out, exported and proved.

use std::path::{Path, PathBuf};

use clap::Args;
use lapidary_engine::calibration::Settings;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Destination, Estimate, Forecast, PAGE, REPORT, Report};
use lapidary_engine::job::Limits;
use lapidary_engine::target;

use crate::builtin;
use crate::calibrated::{Choice, Prepared};
use crate::cli::output::{self, Table, Terminal};
use crate::cli::removal::Removing;
use crate::document::calibrations;
use crate::document::project::Project;
use crate::size::bytes_of;
use crate::theme::text;

/// Arguments of `compress`.
#[derive(Debug, Args)]
pub(super) struct Compress {
    /// A project file.
    project: PathBuf,
    /// Another target than the project's, by its id (see `lapidary targets`), with the plan the project has for it, or
    /// else the project's own.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// The folder to write; by default the project's name and target, in the current folder.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace an earlier output in that folder.
    #[arg(long)]
    force: bool,
    /// Say what the export would take, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Compress every layer anew, also those that an earlier attempt at the same folder finished.
    #[arg(long, conflicts_with = "dry_run")]
    fresh: bool,
    /// Working memory for the layers in flight, in GiB.
    #[arg(long, default_value_t = 4.0, value_name = "GIB")]
    memory: f64,
    /// The most bytes of a weight file, as 5GB or 500MB; 0 for the files of the source. The project's wish if not given.
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<String>,
    /// A folder that `calibrate` wrote, for methods that need data; the latest of the model if not given.
    #[arg(long, value_name = "FOLDER")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    removing: Removing,
}

impl Compress {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let memory_bytes = (self.memory * f64::from(1 << 30)) as u64;
        let mut project = Project::read(&self.project)?;
        if let Some(id) = &self.target {
            project = for_target(project, id)?;
        }
        self.removing.add_to_project(&mut project, &self.project)?;
        if let Some(size) = &self.shard_size {
            project.shard_bytes = bytes_of(size)?;
        }
        let default = || default_folder(&self.project, &project.target);
        let out = self.out.clone().unwrap_or_else(default);
        if self.dry_run {
            let destination =
                Destination { folder: &out, replace: self.force, limits: Limits { memory_bytes } };
            let choice = Choice { home: builtin::home(), named: self.calibration };
            return output::print(&dry_run((&self.project, &project), &choice, destination)?);
        }
        if self.fresh {
            // What keeps the plan from being carried out is said before anything is thrown away.
            let choice = Choice { home: builtin::home(), named: self.calibration.clone() };
            let limits = Limits { memory_bytes };
            let destination = Destination { folder: &out, replace: self.force, limits };
            dry_run((&self.project, &project), &choice, destination)?;
            if export::discard_finished(&out)? {
                output::tell(&["what an earlier attempt finished was thrown away".to_owned()]);
            }
        }
        let destination =
            Destination { folder: &out, replace: self.force, limits: Limits { memory_bytes } };
        let choice = Choice { home: builtin::home(), named: self.calibration };
        let report = run((&self.project, &project), &choice, destination)?;
        output::print(&describe(&report, &out, "the source"))
    }
}

/// What the export of a project would take, in lines.
fn dry_run(
    (path, opened): (&Path, &Project),
    choice: &Choice,
    destination: Destination<'_>,
) -> anyhow::Result<String> {
    let checkpoint = Checkpoint::open(&opened.checkpoint_path(path))?;
    let plan = opened.resolve(&checkpoint)?;
    let terminal = Terminal::new();
    let prepared = choice.prepare((checkpoint, plan), &terminal);
    terminal.finish();
    let Prepared { checkpoint, plan, loaded } = prepared?;
    let subject = calibrations::subject(&checkpoint, loaded.as_ref());
    let forecast = export::forecast(subject, &plan, opened.aim()?, destination)?;
    let estimate = export::estimate(subject, &plan, &forecast, &terminal);
    terminal.finish();
    Ok(format!(
        "{}nothing was written to {}\n",
        described((&forecast, &estimate?), destination.limits),
        destination.folder.display()
    ))
}

/// What an export takes, a line each.
fn described((forecast, estimate): (&Forecast, &Estimate), limits: Limits) -> String {
    let finished = match forecast.finished {
        0 => String::new(),
        n => format!(", {n} of them finished before"),
    };
    format!(
        "plan      {}\n\
         layers    {} to compress{finished}; {} compressed but stored in full\n\
         output    {} bytes in {} files beside the reports, {:.3} bits per weight: exact\n\
         disk      {}: the output and at most {} of finished layers while it works; {} are free\n\
         memory    at most {} for layers that are compressed at once, of {} allowed; the program and mapped files apart\n\
         time      {}\n",
        forecast.coverage,
        forecast.layers,
        forecast.dense,
        text::count(forecast.output_bytes),
        forecast.files,
        forecast.bits_per_weight,
        text::bytes(forecast.output_bytes + forecast.store_bytes),
        text::bytes(forecast.store_bytes),
        text::bytes(forecast.free_bytes),
        text::bytes(forecast.memory_bytes),
        text::bytes(limits.memory_bytes),
        text::estimated(estimate),
    )
}

/// Exports a project that lies at a path.
pub(super) fn run(
    (path, opened): (&Path, &Project),
    choice: &Choice,
    destination: Destination<'_>,
) -> anyhow::Result<Report> {
    let checkpoint = Checkpoint::open(&opened.checkpoint_path(path))?;
    let plan = opened.resolve(&checkpoint)?;
    let aim = opened.aim()?;
    let terminal = Terminal::new();
    let done = choice.prepare((checkpoint, plan), &terminal).and_then(|prepared| {
        let Prepared { checkpoint, plan, loaded } = prepared;
        let subject = calibrations::subject(&checkpoint, loaded.as_ref());
        if terminal.is_seen() {
            let forecast = export::forecast(subject, &plan, aim, destination)?;
            let estimate = export::estimate(subject, &plan, &forecast, &terminal)?;
            output::tell(&[described((&forecast, &estimate), destination.limits)]);
        }
        export::export(subject, &plan, aim, destination, &terminal)
    });
    terminal.finish();
    let finished = export::finished_for(destination.folder);
    match (done, finished) {
        (Err(error), Some(finished)) if !error.is_bad_input() => {
            Err(anyhow::Error::new(error).context(format!(
                "finished layers are kept in {}: the same command goes on with them, --fresh begins anew",
                finished.display()
            )))
        }
        (done, _) => Ok(done?),
    }
}

/// The project for another target: with the plan it has for that one, or else its own.
fn for_target(mut project: Project, id: &str) -> anyhow::Result<Project> {
    target::find(id)?;
    if id != project.target
        && let Some(plan) = project.plans.remove(id)
    {
        project.plan = plan;
        project.removed = project.removed_for.remove(id).unwrap_or_default();
    }
    id.clone_into(&mut project.target);
    Ok(project)
}

fn default_folder(project: &Path, target: &str) -> PathBuf {
    let stem = project
        .file_stem()
        .map_or_else(|| "project".to_owned(), |stem| stem.to_string_lossy().into_owned());
    PathBuf::from(format!("{stem}-{target}"))
}

/// The per-layer table and the totals.
pub(super) fn describe(report: &Report, out: &Path, of: &str) -> String {
    let knows_outputs = report.tensors.iter().any(|tensor| tensor.output_error.is_some());
    let mut heads = vec!["layer", "<assignment", "bits", "bytes", "of", "error", "<stored"];
    if knows_outputs {
        heads.insert(6, "of outputs");
    }
    let mut table = Table::new(&heads);
    // Where the target stores everything in full, saying so in every row would say nothing.
    let is_dense =
        target::find(&report.target).is_ok_and(|target| target.capabilities().is_dense());
    for tensor in report.tensors.iter().filter(|tensor| tensor.is_compressed()) {
        let stored = if is_dense { tensor.stored.clone() } else { tensor.told() };
        let mut cells = vec![
            tensor.told_name(),
            tensor.method.clone(),
            format!("{:.3}", tensor.effective_bits),
            text::count(tensor.bytes),
            text::count(tensor.source_bytes),
            text::percent(tensor.relative_error),
            stored,
        ];
        if knows_outputs {
            cells.insert(6, tensor.output_error.map(text::percent).unwrap_or_default());
        }
        table.row(cells);
    }
    let totals = &report.totals;
    let source_bytes: u64 = report.sources.iter().map(|file| file.bytes).sum();
    let calibrated = |of: &Settings| format!("calibrated with {}\n", of.title());
    let outputs = if knows_outputs {
        "; that of outputs ‖(W−Ŵ)x‖/‖Wx‖ on the calibration's text"
    } else {
        ""
    };
    format!(
        "{}\n{}\n{}{} layers compressed, {} compressed but stored in full, {} tensors changed beside them, {} tensors copied\n\
         weight files {} → {} ({:.1} %), {:.3} bits per weight; folder {} bytes\n\
         proved: every tensor was read back and compared; error is ‖W−Ŵ‖/‖W‖ against {of}, measured{outputs}\n\
         written to {}\nreport in {}, as a page in {PAGE}\n",
        table.render(),
        report.coverage,
        report.calibration.as_ref().map(calibrated).unwrap_or_default(),
        totals.compressed,
        totals.dense,
        totals.changed,
        totals.copied,
        text::bytes(source_bytes),
        text::bytes(totals.weight_file_bytes),
        100.0 * totals.weight_file_bytes as f64 / source_bytes.max(1) as f64,
        totals.bits_per_weight,
        text::count(totals.total_bytes),
        out.display(),
        out.join(REPORT).display(),
    )
}
