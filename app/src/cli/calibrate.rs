//! `lapidary calibrate`: run text through a model and measure what every layer receives.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::calibration::{
    Calibration, Folder, Imatrix, Problem, Record, USUAL_TOKENS, Wishes, import_imatrix,
};
use lapidary_engine::checkpoint::{Checkpoint, SharedCheckpoint};
use lapidary_engine::job::Limits;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::target;
use lapidary_engine::text::Source;
use serde::Serialize;

use crate::builtin;
use crate::calibrated::{CALIBRATIONS, Choice};
use crate::cli::output::{self, Table, Terminal};
use crate::document::calibrations::{DEMANDS, Loaded};
use crate::document::project::Project;
use crate::running::{self, Subject};
use crate::theme::text;

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
pub(super) struct Calibrate {
    /// A Hugging Face folder with config.json and tokenizer.json; or a project, of which the model is taken.
    model: PathBuf,
    /// A text file, a file of JSON lines, or a folder of both; may be given several times.
    #[arg(long, required_unless_present = "imatrix", conflicts_with = "imatrix")]
    text: Vec<PathBuf>,
    /// The field of JSON lines that holds the text.
    #[arg(long, default_value = "text")]
    field: String,
    /// Tokens of a sequence; the lesser of 2,048 and the model's context if not given.
    #[arg(long)]
    sequence_length: Option<usize>,
    /// Tokens in all, at least.
    #[arg(long, default_value_t = USUAL_TOKENS)]
    tokens: usize,
    /// By which sequences are drawn from the text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Keep no Gram matrices.
    #[arg(long)]
    no_gram: bool,
    /// Run the text through the blocks as the project compresses them, so that a block sees the errors of those before.
    #[arg(long, conflicts_with = "imatrix")]
    behind_plan: bool,
    /// Compress each block as the project says when it has been measured, and run the text on through what became of
    /// it: what GPTQ does. `compress` with this calibration then makes the same blocks.
    #[arg(long, conflicts_with_all = ["imatrix", "behind_plan"])]
    sequential: bool,
    /// Working memory with `--sequential` for the layers in flight, in GiB; blocks that are refined take more than others.
    #[arg(long, default_value_t = 4.0, value_name = "GIB", requires = "sequential")]
    memory: f64,
    /// Take an importance matrix of llama.cpp for the calibration, rather than running text.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Write the mean squares as an importance matrix, too.
    #[arg(long, value_name = "FILE")]
    imatrix_out: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One input, as `--json` prints it; null where an imported matrix does not say.
#[derive(Serialize)]
struct Site<'a> {
    layers: &'a [String],
    channels: usize,
    tokens: u64,
    routed_share: Option<f64>,
    rms: Option<f64>,
    absmax: Option<f64>,
    kurtosis: Option<f64>,
    outlier_share: Option<f64>,
    massive_share: Option<f64>,
    /// Relative change of the mean squares from half of the tokens to all.
    change: Option<f64>,
    converged: Option<bool>,
}

/// Everything, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    folder: String,
    model: &'a str,
    tokens: u64,
    sequence_tokens: u64,
    sites: Vec<Site<'a>>,
    problems: Vec<String>,
}

impl<'a> Site<'a> {
    fn new(record: &'a Record) -> Self {
        let (inputs, whole) = (&record.inputs, &record.inputs.whole);
        let finite = |value: f64| value.is_finite().then_some(value);
        // An imported matrix counts no outliers.
        let share = |share: f64| (!inputs.absmax.is_empty()).then_some(share);
        let change = inputs.change_after(0.5);
        Self {
            layers: &record.layers,
            channels: inputs.channels(),
            tokens: inputs.tokens,
            routed_share: record.routed_share(),
            rms: finite(whole.rms),
            absmax: finite(f64::from(whole.absmax)),
            kurtosis: finite(whole.kurtosis),
            outlier_share: share(whole.outlier_share()),
            massive_share: share(whole.massive_share()),
            change,
            converged: change.map(|change| change <= DEMANDS.most_change),
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |value: Option<f64>, format: fn(f64) -> String| {
            value.map_or_else(|| "–".to_owned(), format)
        };
        let others = self.layers.len().saturating_sub(1);
        let first = self.layers.first().map_or("", String::as_str);
        let converged = match self.converged {
            Some(true) => "yes",
            Some(false) => "no",
            None => "–",
        };
        vec![
            if others > 0 { format!("{first} and {others} more") } else { first.to_owned() },
            text::count(self.channels as u64),
            text::count(self.tokens),
            or_dash(self.rms, text::value),
            or_dash(self.absmax, text::value),
            or_dash(self.kurtosis, text::value),
            or_dash(self.outlier_share, text::percent),
            or_dash(self.massive_share, text::percent),
            converged.to_owned(),
        ]
    }
}

/// A model and a plan without what the plan takes out.
fn left((checkpoint, plan): (Checkpoint, Plan)) -> Result<(Checkpoint, Plan), Error> {
    Ok(match plan.reduced(&checkpoint)? {
        Some(reduced) => (reduced.checkpoint, reduced.plan),
        None => (checkpoint, plan),
    })
}

impl Calibrate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let home = builtin::home();
        let (root, measured) = (home.join(CALIBRATIONS), home.join("measured"));
        let cache = Cache::new(&measured, CACHE_LIMIT_BYTES);
        let place = (root.as_path(), Some(&cache));
        let result = self.measure(place, &terminal);
        terminal.finish();
        let (folder, calibration, mut unsaid) = match result {
            Err(Error::Cancelled) => {
                output::tell(&[
                    "finished blocks are kept; the same command goes on there".to_owned()
                ]);
                return Err(Error::Cancelled.into());
            }
            result => result?,
        };
        if let Some(path) = &self.imatrix_out {
            let (imatrix, more) = Imatrix::from_calibration(&calibration);
            imatrix.write(path)?;
            unsaid.extend(more);
        }
        output::tell(&unsaid);
        self.print(folder, calibration)
    }

    /// Runs the text, or imports a matrix; with sentences about what could not be taken.
    fn measure(
        &self,
        place: (&Path, Option<&Cache>),
        terminal: &Terminal,
    ) -> Result<(Folder, Calibration, Vec<String>), Error> {
        let wishes = self.wishes();
        let (folder, calibration) = if self.sequential {
            let project = Project::read(&self.model)?;
            let checkpoint = Checkpoint::open(&project.checkpoint_path(&self.model))?;
            let plan = project.resolve(&checkpoint)?;
            let (checkpoint, plan) = left((checkpoint, plan))?;
            let memory_bytes = (self.memory * f64::from(1 << 30)) as u64;
            let planned = (&plan, target::find(&project.target)?, Limits { memory_bytes });
            running::calibrate_in_turn(&checkpoint, &wishes, planned, place, terminal)?
        } else {
            let (checkpoint, planned) = self.open(terminal)?;
            if let Some(path) = &self.imatrix {
                return import_imatrix(&checkpoint, path, place, terminal);
            }
            running::calibrate(&checkpoint, &wishes, planned.as_ref(), place, terminal)?
        };
        Ok((folder, calibration, Vec::new()))
    }

    /// The model, without what its plan takes out, and what its plan makes of it where that is asked for.
    fn open(&self, terminal: &Terminal) -> Result<(SharedCheckpoint, Option<Subject>), Error> {
        let path = running::checkpoint_path(&self.model)?;
        let checkpoint = Checkpoint::open(&path)?;
        if path == self.model {
            if self.behind_plan {
                let what = format!("{} is not a project, so it has no plan", self.model.display());
                return Err(Error::plan(what, "give a project (.ron) with --behind-plan"));
            }
            return Ok((Arc::new(checkpoint), None));
        }
        let project = Project::read(&self.model)?;
        let plan = project.resolve(&checkpoint)?;
        let (checkpoint, plan) = left((checkpoint, plan))?;
        let checkpoint = Arc::new(checkpoint);
        if !self.behind_plan {
            return Ok((checkpoint, None));
        }
        let choice = Choice { home: builtin::home(), named: None };
        let target = target::find(&project.target)?;
        let planned = Subject::prepared((checkpoint.clone(), plan), &choice, target, terminal)?;
        Ok((checkpoint, Some(planned)))
    }

    fn wishes(&self) -> Wishes {
        let source =
            |path: &PathBuf| Source::Path { path: path.clone(), field: Some(self.field.clone()) };
        Wishes {
            sources: self.text.iter().map(source).collect(),
            sequence_tokens: self.sequence_length,
            tokens: self.tokens,
            seed: self.seed,
            has_grams: !self.no_gram,
        }
    }

    fn print(&self, folder: Folder, calibration: Calibration) -> anyhow::Result<()> {
        let loaded = Loaded::new(folder, calibration);
        let settings = &loaded.calibration.settings;
        let sites: Vec<Site<'_>> = loaded.calibration.records().iter().map(Site::new).collect();
        let problems: Vec<String> = loaded.problems.iter().map(Problem::sentence).collect();
        let folder = loaded.folder.path().display().to_string();
        if self.json {
            let (tokens, sequence_tokens) = (settings.tokens, settings.sequence_tokens);
            let model = &settings.model;
            let report = Report { folder, model, tokens, sequence_tokens, sites, problems };
            return output::print(&(serde_json::to_string_pretty(&report)? + "\n"));
        }
        let mut table = Table::new(&[
            "layers",
            "channels",
            "tokens",
            "rms",
            "absmax",
            "kurtosis",
            "outliers",
            "massive",
            "converged",
        ]);
        for site in &sites {
            table.row(site.cells());
        }
        output::print(&table.render())?;
        for problem in &problems {
            output::print(&format!("{problem}\n"))?;
        }
        let title = Loaded::title(&loaded.folder);
        output::print(&format!("{title}; kept in {folder}\n"))
    }
}
