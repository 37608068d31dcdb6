//! `lapidary check`: what is wrong with a project for its target, and what mends it. `lapidary targets`: what each
//! target can hold.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use lapidary_engine::Error;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Fix, Lint, Manifest, Severity, TARGETS, WITHOUT_TARGET};
use serde_json::{Value, json};

use crate::cli::output;
use crate::cli::removal::Removing;
use crate::document::project::{Project, relative_checkpoint};
use crate::theme::text;

/// Say what is wrong with a project's plan for its target.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The project (.ron).
    project: PathBuf,
    /// Mend what can be mended, and write the project here.
    #[arg(long, value_name = "PROJECT.ron")]
    mend: Option<PathBuf>,
    #[command(flatten)]
    removing: Removing,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut project = Project::read(&self.project)?;
        let checkpoint = Checkpoint::open(&project.checkpoint_path(&self.project))?;
        let mut draft = project.draft(&checkpoint)?;
        self.removing.add_to(draft.plan_mut(), &checkpoint)?;
        let aim = draft.aim();
        if let Some(out) = &self.mend {
            let before = draft.plan().clone();
            let mended = target::mend_all(&checkpoint, draft.plan_mut(), aim);
            let mut sentences: Vec<String> =
                mended.iter().map(|lint| format!("Mended: {}.", lint.what)).collect();
            let told = draft.plan().told_since(&before, &checkpoint);
            sentences.extend(told.map(|told| format!("In all {told}.")));
            output::tell(&sentences);
            let named = relative_checkpoint(checkpoint.path(), out);
            project = Project::of(named, &draft, project.view);
            project.write(out)?;
        }
        draft.plan().check(&checkpoint)?;
        let found = target::lints_of_whole(&checkpoint, draft.plan(), aim);
        let bytes = file_bytes(&checkpoint, draft.plan(), aim);
        if self.json {
            output::print(&(as_json(&checkpoint, &found, bytes) + "\n"))?;
        } else {
            output::print(&described(&found, bytes))?;
        }
        let errors = found.iter().filter(|lint| lint.severity == Severity::Error).count();
        if errors > 0 {
            bail!(Error::plan(
                match errors {
                    1 => format!("1 error keeps {} from export", self.project.display()),
                    n => format!("{n} errors keep {} from export", self.project.display()),
                },
                "mend with --mend, or by hand",
            ));
        }
        Ok(())
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// Whether `--mend` does it: notes are left, and another target is not chosen unasked.
fn can_mend(lint: &Lint) -> bool {
    lint.severity < Severity::Note && !matches!(lint.fix, None | Some(Fix::Target(_)))
}

/// A problem in a line.
pub(super) fn line(lint: &Lint) -> String {
    format!("{}: {}; {}", word(lint.severity), lint.what, lint.mend)
}

/// A problem in a document.
pub(super) fn problem(checkpoint: &Checkpoint, lint: &Lint) -> Value {
    let names = lint.tensors.iter().map(|&index| &checkpoint.tensors()[index].name);
    json!({
        "id": lint.id,
        "severity": word(lint.severity),
        "what": lint.what,
        "mend": lint.mend,
        "can_mend": can_mend(lint),
        "tensors": names.collect::<Vec<_>>(),
    })
}

/// Bytes of the weight files of an export; `None` where there can be none, which a problem says.
fn file_bytes(checkpoint: &Checkpoint, plan: &Plan, aim: Aim) -> Option<u64> {
    let reduced = plan.reduced(checkpoint).ok()?;
    let (checkpoint, plan) = match &reduced {
        Some(reduced) => (&reduced.checkpoint, &reduced.plan),
        None => (checkpoint, plan),
    };
    let manifest = Manifest::new(checkpoint, plan, aim.target).ok()?;
    Some(manifest.in_shards(checkpoint, aim).ok()?.weight_file_bytes())
}

fn described(found: &[Lint], bytes: Option<u64>) -> String {
    let line = |lint: &Lint| {
        let by = if can_mend(lint) { " (--mend does it)" } else { "" };
        format!("{}{by}\n", line(lint))
    };
    let lines: String = found.iter().map(line).collect();
    let nothing = if found.is_empty() { "nothing stands in the way\n" } else { "" };
    let taken = |bytes| format!("weight files take {} bytes\n", text::count(bytes));
    format!("{lines}{nothing}{}", bytes.map(taken).unwrap_or_default())
}

fn as_json(checkpoint: &Checkpoint, found: &[Lint], bytes: Option<u64>) -> String {
    let document = json!({
        "problems": found.iter().map(|lint| problem(checkpoint, lint)).collect::<Vec<_>>(),
        "weight_file_bytes": bytes,
    });
    format!("{document:#}")
}

/// List what each runtime and format can hold.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Print one JSON document with every rule.
    #[arg(long)]
    json: bool,
}

impl Targets {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.json {
            let target = |target: &&'static dyn target::Target| {
                let about = target.about();
                json!({
                    "id": about.id,
                    "title": about.title,
                    "summary": about.summary,
                    "source": about.source,
                    "writes": about.writes,
                    "capabilities": target.capabilities(),
                })
            };
            let all: Vec<_> = TARGETS.iter().map(target).collect();
            return output::print(&format!("{:#}\n", json!(all)));
        }
        let mut table = output::Table::new(&["<id", "<written", "<what it holds", "<read from"]);
        for target in TARGETS {
            let about = target.about();
            let written = if about.writes { "yes" } else { "not yet" };
            let mut holds = about.summary.to_owned();
            if target.capabilities().has_adapter() {
                holds.push_str(" Corrections of low rank lie beside it, in an adapter for PEFT.");
            }
            table.row(vec![
                about.id.to_owned(),
                written.to_owned(),
                holds,
                about.source.to_owned(),
            ]);
        }
        let line = |(method, why): &(&str, &str)| format!("{method} has no target: {why}.\n");
        let without: Vec<String> = WITHOUT_TARGET.iter().map(line).collect();
        output::print(&format!("{}\n{}", table.render(), without.concat()))
    }
}
