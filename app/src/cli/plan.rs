//! `lapidary plan`: candidates scored, and a budget spent on them.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lapidary_engine::allocator::{self, Choice as Chosen};
use lapidary_engine::checkpoint::{Checkpoint, Role, SharedCheckpoint};
use lapidary_engine::method::{self, Needs};
use lapidary_engine::plan::{Assignment, Plan as Layers};
use lapidary_engine::scores::{
    Bounds, Budget, Metric, Question, UnitScores, solve_within, uniform,
};
use lapidary_engine::target::{self, Manifest, Target};
use lapidary_engine::text::Source;
use lapidary_engine::{Error, Result};
use serde_json::json;

use crate::allocating;
use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::output::{self, Table, Terminal};
use crate::document::calibrations::{self, Loaded};
use crate::document::draft::Draft;
use crate::document::project::{Project, View, relative_checkpoint};
use crate::running::checkpoint_path;
use crate::theme::text;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// A Hugging Face folder, or a project, whose target and locks hold.
    model: PathBuf,
    /// Effective bits for each weight of the layers that can be compressed: codes, scales, zero points, all.
    #[arg(long, required_unless_present = "size", conflicts_with = "size")]
    bits: Option<f64>,
    /// Bytes of all weight files, as 3.2MB, 3.2MiB or 3200000.
    #[arg(long)]
    size: Option<String>,
    /// The quantiser whose bits are allocated.
    #[arg(long, default_value = "round-to-nearest")]
    method: String,
    /// Bits a layer may have, besides being kept.
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,5,6,8")]
    candidates: Vec<i64>,
    /// Keep no layer as it is.
    #[arg(long)]
    compress_all: bool,
    /// By what damage is told: weights, outputs (needs a calibration) or measured (needs --text).
    #[arg(long)]
    score: Option<String>,
    /// The text on which candidates are measured.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Tokens to measure each candidate on.
    #[arg(long, default_value_t = 2048)]
    tokens: usize,
    /// Who solves: see --help of `targets`; knapsack is exact.
    #[arg(long, default_value = "knapsack")]
    solver: String,
    /// The fewest bits of a role, as down=4; may be given several times.
    #[arg(long, value_name = "ROLE=BITS")]
    floor: Vec<String>,
    /// The most bits of a role.
    #[arg(long, value_name = "ROLE=BITS")]
    ceiling: Vec<String>,
    /// The target; that of a project, or the model's usual one, if left out.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// A folder that `calibrate` wrote; the latest of the model if not given.
    #[arg(long, value_name = "FOLDER")]
    calibration: Option<PathBuf>,
    /// The project to write (.ron).
    #[arg(long, value_name = "PROJECT.ron")]
    out: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is opened.
struct Opened {
    checkpoint: SharedCheckpoint,
    plan: Layers,
    target: &'static dyn Target,
    loaded: Option<Loaded>,
    metric: Metric,
    palette: Vec<Assignment>,
}

/// What came out.
struct Solved {
    scores: Vec<UnitScores>,
    choice: Chosen,
    plan: Layers,
    within_bytes: u64,
}

impl Plan {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let terminal = Terminal::new();
        let opened = self.open(&terminal);
        let solved = opened.and_then(|opened| {
            let solved = self.solve(&opened, &terminal)?;
            Ok((opened, solved))
        });
        terminal.finish();
        let (opened, solved) = solved?;
        if let Some(out) = &self.out {
            let named = relative_checkpoint(opened.checkpoint.path(), out);
            let draft = Draft::new(solved.plan.clone(), opened.target);
            Project::of(named, &draft, View::default()).write(out)?;
        }
        self.print(&opened, &solved)
    }

    fn open(&self, terminal: &Terminal) -> Result<Opened> {
        let path = checkpoint_path(&self.model)?;
        let checkpoint = Arc::new(Checkpoint::open(&path)?);
        let is_project = path != self.model;
        let (plan, of_project) = if is_project {
            let project = Project::read(&self.model)?;
            (project.plan.resolve(&checkpoint)?, Some(project.target))
        } else {
            (Layers::default(), None)
        };
        let target = match self.target.as_ref().or(of_project.as_ref()) {
            Some(id) => target::find(id)?,
            None => target::default_for(&checkpoint),
        };
        let palette = allocating::palette(&self.method, &self.candidates)?;
        let needs = palette.iter().map(|of| method::chain_needs(&of.steps)).max();
        let loaded = self.calibration(&checkpoint, needs.unwrap_or(Needs::Weights), terminal)?;
        let metric = self.metric(loaded.is_some())?;
        Ok(Opened { checkpoint, plan, target, loaded, metric, palette })
    }

    /// The calibration that is named, or the latest there is; one must be there where a method needs it.
    fn calibration(
        &self,
        checkpoint: &Checkpoint,
        needs: Needs,
        terminal: &Terminal,
    ) -> Result<Option<Loaded>> {
        let choice = Choice { home: builtin::home(), named: self.calibration.clone() };
        let wants = self.score.as_deref().is_none_or(|score| score == "outputs");
        if needs == Needs::Weights && !wants && self.calibration.is_none() {
            return Ok(None);
        }
        let found = choice.latest(checkpoint, needs, terminal)?;
        if found.is_none() && (needs > Needs::Weights || self.score.as_deref() == Some("outputs")) {
            return Err(Error::plan(
                format!("there is no calibration of {} that will do", checkpoint.title()),
                format!("run: lapidary calibrate {} --text FILE", checkpoint.path().display()),
            ));
        }
        Ok(found)
    }

    fn metric(&self, is_calibrated: bool) -> Result<Metric> {
        match (self.score.as_deref(), is_calibrated) {
            (None | Some("measured"), _) if self.text.is_some() => Ok(Metric::Measured),
            (None, true) | (Some("outputs"), _) => Ok(Metric::Outputs),
            (None, false) | (Some("weights"), _) => Ok(Metric::Weights),
            (Some("measured"), _) => {
                Err(Error::plan("candidates are measured on a text", "give one with --text"))
            }
            (Some(other), _) => Err(Error::plan(
                format!("there is no score {other:?}"),
                "choose weights, outputs or measured",
            )),
        }
    }

    fn budget(&self) -> Result<Budget> {
        match (self.bits, &self.size) {
            (Some(bits), _) => Ok(Budget::Bits(bits)),
            (None, Some(size)) => Ok(Budget::FileBytes(bytes_of(size)?)),
            (None, None) => Err(Error::plan("there is no budget", "give --bits or --size")),
        }
    }

    fn solve(&self, opened: &Opened, terminal: &Terminal) -> Result<Solved> {
        let solver = allocator::find(&self.solver)?;
        let (budget, bounds) = (self.budget()?, self.bounds()?);
        let mut scores = self.score(opened, terminal)?;
        if self.compress_all {
            for of in scores.iter_mut().filter(|of| !of.unit.is_locked && of.options.len() > 1) {
                of.options.retain(|option| option.candidate.is_some());
            }
        }
        let within = std::cell::Cell::new(0);
        let solve = |problem: &allocator::Problem| {
            let solution = solver.solve(problem, terminal)?;
            within.set(solution.within_bytes);
            Ok(solution.choice)
        };
        let place = (opened.checkpoint.as_ref(), opened.target);
        let given = (scores.as_slice(), &opened.plan, &bounds);
        let (choice, plan) = solve_within(place, given, budget, &solve)?;
        Ok(Solved { scores, choice, plan, within_bytes: within.get() })
    }

    fn score(&self, opened: &Opened, terminal: &Terminal) -> Result<Vec<UnitScores>> {
        let question = Question {
            subject: calibrations::subject(&opened.checkpoint, opened.loaded.as_ref()),
            plan: &opened.plan,
            palette: &opened.palette,
            target: opened.target,
        };
        let text = self.text.clone().map(Source::path);
        let text = text.as_ref().map(|text| (text, self.tokens));
        allocating::score(&question, opened.metric, text, terminal)
    }

    fn bounds(&self) -> Result<Bounds> {
        let read = |all: &[String]| all.iter().map(|text| role_bits(text)).collect::<Result<_>>();
        Ok(Bounds { floors: read(&self.floor)?, ceilings: read(&self.ceiling)? })
    }

    fn print(&self, opened: &Opened, solved: &Solved) -> anyhow::Result<()> {
        let checkpoint = &opened.checkpoint;
        let manifest = Manifest::new(checkpoint, &solved.plan, opened.target)?;
        let weights: u64 = solved
            .scores
            .iter()
            .flat_map(|of| &of.unit.layers)
            .map(|&layer| checkpoint.tensors()[layer].parameters())
            .sum();
        let bits = |bytes: u64| 8.0 * bytes as f64 / weights.max(1) as f64;
        if self.json {
            let units: Vec<_> = solved.scores.iter().zip(&solved.choice.options).collect();
            let object = json!({
                "target": opened.target.about().id,
                "score": opened.metric,
                "solver": self.solver,
                "bits_per_weight": bits(solved.choice.bytes),
                "unit_bytes": solved.choice.bytes,
                "weight_file_bytes": manifest.weight_file_bytes(),
                "predicted_damage": solved.choice.damage,
                "within_bytes": solved.within_bytes,
                "units": units.iter().map(|(of, option)| {
                    let option = &of.options[**option];
                    json!({
                        "layers": of.unit.layers.iter().map(|&l| &checkpoint.tensors()[l].name).collect::<Vec<_>>(),
                        "assignment": option.assignments[0].label(),
                        "bytes": option.bytes,
                        "damage": option.damage,
                        "locked": of.unit.is_locked,
                    })
                }).collect::<Vec<_>>(),
            });
            return output::print(&(serde_json::to_string_pretty(&object)? + "\n"));
        }
        let mut table = Table::new(&["<plan", "bytes of units", "bits", "predicted damage"]);
        let mut row = |name: String, choice: &Chosen| {
            let (bytes, damage) = (text::count(choice.bytes), text::value(choice.damage));
            table.row(vec![name, bytes, format!("{:.3}", bits(choice.bytes)), damage]);
        };
        row(format!("{} (this plan)", self.solver), &solved.choice);
        for (place, bits) in self.candidates.iter().enumerate() {
            row(format!("{bits} bits everywhere"), &uniform(&solved.scores, place));
        }
        output::print(&table.render())?;
        output::print(&spread(solved))?;
        let size = text::bytes(manifest.weight_file_bytes());
        let place = self.out.as_ref().map_or_else(
            || "--out keeps it".to_owned(),
            |out| format!("written to {}", out.display()),
        );
        output::print(&format!(
            "weight files of {size} for {}; {place}\n",
            opened.target.about().title
        ))
    }
}

/// How many units have each assignment.
fn spread(solved: &Solved) -> String {
    let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for (of, &option) in solved.scores.iter().zip(&solved.choice.options) {
        *counts.entry(of.options[option].assignments[0].label()).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(label, n)| format!("{n} × {label}")).collect();
    format!("{}\n", parts.join(", "))
}

/// A role with bits, as `down=4`.
fn role_bits(text: &str) -> Result<(Role, f64)> {
    let malformed = || {
        Error::plan(
            format!("{text:?} is no role with bits"),
            "write it as down=4; roles are q, k, v, o, gate, up, down, head and others",
        )
    };
    let (role, bits) = text.split_once('=').ok_or_else(malformed)?;
    let role = Role::from_name(role.trim()).ok_or_else(malformed)?;
    Ok((role, bits.trim().parse().map_err(|_not_a_number| malformed())?))
}

/// A number of bytes with or without a unit.
fn bytes_of(text: &str) -> Result<u64> {
    let malformed = || {
        Error::plan(
            format!("{text:?} is no size"),
            "write it as 3200000, 3.2MB, 3.2MiB, 1.5GB or 1.5GiB",
        )
    };
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().map_err(|_not_a_number| malformed())?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        _ => return Err(malformed()),
    };
    let bytes = number * factor;
    if bytes.is_finite() && bytes >= 0.0 { Ok(bytes as u64) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let read = |text: &str| bytes_of(text).ok();
        assert_eq!([read("3200000"), read("3.2MB"), read("3.2 MB")], [Some(3_200_000); 3]);
        assert_eq!([read("1KiB"), read("1.5GiB")], [Some(1024), Some(1_610_612_736)]);
        assert_eq!([read("-1"), read("MB"), read("3 parsecs"), read("inf")], [None; 4]);
    }
}
