//! What `plan` and `search` share: a model with its candidates, a budget, and how a plan is told.

mod told;

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lapidary_engine::allocator::{self, Choice as Chosen, Problem};
use lapidary_engine::checkpoint::{Checkpoint, Role, SharedCheckpoint};
use lapidary_engine::job::Subject;
use lapidary_engine::method::{self, Needs};
use lapidary_engine::plan::{Assignment, Plan as Layers};
use lapidary_engine::scores::{
    Bounds, Budget, LeftOut, Metric, Question, UnitScores, groups, solve_within,
};
use lapidary_engine::target::{self, Lint, Manifest, Severity, Target};
use lapidary_engine::text::Source;
use lapidary_engine::{Error, Result};
use serde_json::Value;

use crate::allocating;
use crate::builtin;
use crate::calibrated::Choice;
use crate::cli::check;
use crate::cli::output::{self, Terminal};
use crate::cli::removal::Removing;
use crate::document::calibrations::{self, Loaded};
use crate::document::draft::Draft;
use crate::document::project::{Project, View, relative_checkpoint};
use crate::running::checkpoint_path;
use crate::size::bytes_of;

/// Arguments of whatever spends a budget.
#[derive(Debug, Args)]
pub(super) struct Allocation {
    /// A Hugging Face folder, or a project, whose target and locks hold.
    model: PathBuf,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    removing: Removing,
    /// Tokens of the sequence whose keys and values count as memory.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: u64,
    /// The quantisers whose bits are allocated.
    #[arg(long, value_delimiter = ',', default_value = "round-to-nearest")]
    method: Vec<String>,
    /// Bits a layer may have, besides being kept, by each of them.
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,5,6,8")]
    candidates: Vec<i64>,
    /// One more candidate, as "magnitude pattern=n-of-m; gptq bits=3; eora rank=8"; may be given several times.
    #[arg(long, value_name = "CHAIN")]
    candidate: Vec<String>,
    #[command(flatten)]
    whole: Whole,
    /// Keep no layer as it is.
    #[arg(long)]
    compress_all: bool,
    /// By what damage is told: weights, outputs (needs a calibration), linearity (needs --text; three passes a layer) or
    /// measured (needs --text; a pass a candidate).
    #[arg(long)]
    score: Option<String>,
    /// Measure, on --text, the candidates on which the choice at the budget hangs, and set the other scores right in
    /// proportion: most of the good of --score measured for a part of its cost.
    #[arg(long)]
    refine: bool,
    /// The text on which candidates are measured.
    #[arg(long)]
    pub(super) text: Option<PathBuf>,
    /// Tokens to measure each candidate on.
    #[arg(long, default_value_t = 2048)]
    tokens: usize,
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
    pub(super) out: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// Ways of sharing a budget out that choose the candidates themselves.
#[derive(Debug, Args)]
struct Whole {
    /// One stack for any size: stacks of 1 to 8 levels as the candidates, and no others but those of --candidate.
    #[arg(long, conflicts_with_all = ["method", "candidates"])]
    stack: bool,
    /// One ranking of the singular values of all layers: each gets the rank that the budget leaves it, whitened where Gram matrices are
    /// known, in factors of 8 and 16 bits; --candidate may say how else. For plan.
    #[arg(long, conflicts_with_all = ["method", "candidates", "stack", "promote", "score", "refine", "compress_all", "floor", "ceiling"])]
    rank: bool,
}

/// The budget, one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Wanted {
    /// Effective bits for each weight of the layers that can be compressed: codes, scales, zero points, all.
    #[arg(long)]
    bits: Option<f64>,
    /// Bytes of all weight files, as 3.2MB, 3.2MiB or 3200000.
    #[arg(long)]
    size: Option<String>,
    /// Bytes while the model runs, as 4GB: all weights, and the keys and values of --context tokens in half floats.
    #[arg(long)]
    memory: Option<String>,
    /// Share of the outputs of all layers that have more bits, by one ranking (`MixLLM`); --candidate may say how many bits both have.
    #[arg(long, value_name = "SHARE")]
    promote: Option<f64>,
}

/// What is opened.
pub(super) struct Opened {
    /// The model, without what the plan takes out.
    pub(super) checkpoint: SharedCheckpoint,
    /// The whole model and its plan, where that takes anything out.
    whole: Option<(SharedCheckpoint, Layers)>,
    pub(super) plan: Layers,
    pub(super) target: &'static dyn Target,
    pub(super) loaded: Option<Loaded>,
    pub(super) metric: Metric,
    pub(super) palette: Vec<Assignment>,
    /// Candidates that no layer can have.
    left_out: Vec<LeftOut>,
}

/// A choice, and the plan it makes.
pub(super) struct Solved {
    pub(super) scores: Vec<UnitScores>,
    pub(super) choice: Chosen,
    pub(super) plan: Layers,
}

impl Opened {
    /// A plan of the model by the names of the whole one.
    pub(super) fn by_names_of_whole(&self, plan: &Layers) -> Layers {
        let Some((_, before)) = &self.whole else { return plan.clone() };
        let mut all = before.clone();
        for tensor in self.checkpoint.tensors() {
            all.set(tensor.source_name(), Assignment::clone(&plan.assignment(&tensor.name)));
        }
        all
    }

    /// The plan of a project of the same model, by the names of what is left of it.
    pub(super) fn plan_of(&self, project: &Project) -> Result<Layers> {
        let Some((whole, before)) = &self.whole else { return project.resolve(&self.checkpoint) };
        let mut plan = project.resolve(whole)?;
        plan.set_removal(before.removal().clone());
        let reduced = plan.reduced(whole)?.map(|reduced| reduced.plan);
        Ok(reduced.unwrap_or(plan))
    }

    /// The checkpoint with what the calibration knows of it.
    pub(super) fn subject(&self) -> Subject<'_> {
        calibrations::subject(&self.checkpoint, self.loaded.as_ref())
    }

    /// The files of a plan, to the byte.
    pub(super) fn laid_out(&self, plan: &Layers) -> Result<Manifest> {
        let manifest = Manifest::new(&self.checkpoint, plan, self.target)?;
        manifest.weighted(&self.checkpoint, plan, self.subject().importance().as_ref())
    }

    /// What is wrong with a plan, errors first; notes are left to `check`.
    fn problems(&self, plan: &Layers) -> Vec<Lint> {
        let found = target::lints_of_whole(&self.checkpoint, plan, self.target.into());
        found.into_iter().filter(|lint| lint.severity < Severity::Note).collect()
    }

    /// The same as `check` writes it into a document.
    pub(super) fn problems_json(&self, plan: &Layers) -> Value {
        let problem = |lint: &Lint| check::problem(&self.checkpoint, lint);
        self.problems(plan).iter().map(problem).collect()
    }

    /// The question that scoring answers.
    pub(super) fn question(&self) -> Question<'_> {
        Question {
            subject: self.subject(),
            plan: &self.plan,
            palette: &self.palette,
            target: self.target,
        }
    }
}

impl Allocation {
    /// Opens the model, and what is known of its layers.
    pub(super) fn open(&self, terminal: &Terminal) -> Result<Opened> {
        let path = checkpoint_path(&self.model)?;
        let checkpoint = Arc::new(Checkpoint::open(&path)?);
        let is_project = path != self.model;
        let (plan, of_project) = if is_project {
            let project = Project::read(&self.model)?;
            (project.resolve(&checkpoint)?, Some(project.target))
        } else {
            (Layers::default(), None)
        };
        let mut plan = plan;
        self.removing.add_to(&mut plan, &checkpoint)?;
        let (whole, checkpoint, plan) = match plan.reduced(&checkpoint)? {
            Some(reduced) => (Some((checkpoint, plan)), Arc::new(reduced.checkpoint), reduced.plan),
            None => (None, checkpoint, plan),
        };
        let target = match self.target.as_ref().or(of_project.as_ref()) {
            Some(id) => target::find(id)?,
            None => target::default_for(&checkpoint),
        };
        let palette = self.palette(&checkpoint, terminal)?;
        let needs = palette.iter().map(|of| method::chain_needs(&of.steps)).max();
        let loaded = self.calibration(&checkpoint, needs.unwrap_or(Needs::Weights), terminal)?;
        let metric = self.metric(loaded.is_some())?;
        let left_out = Vec::new();
        let mut opened =
            Opened { checkpoint, whole, plan, target, loaded, metric, palette, left_out };
        // One ranking says itself what it cannot do.
        if !self.is_ranked() && self.promoted().is_none() {
            opened.left_out = opened.question().left_out()?;
        }
        Ok(opened)
    }

    /// The share of all outputs that one ranking gives more bits, where that is asked for.
    pub(super) fn promoted(&self) -> Option<f64> {
        self.wanted.promote
    }

    /// Whether singular values are ranked.
    pub(super) fn is_ranked(&self) -> bool {
        self.whole.rank
    }

    fn palette(&self, checkpoint: &Checkpoint, terminal: &Terminal) -> Result<Vec<Assignment>> {
        let others = self.candidate.iter().map(|chain| chain.parse());
        let mut others = others.collect::<Result<Vec<Assignment>>>()?;
        if self.wanted.promote.is_some() {
            others.push(Assignment::of(vec![method::promoting()]));
            return Ok(others);
        }
        if !self.whole.stack && !self.whole.rank {
            return allocating::palette(&self.method, &self.candidates, &others);
        }
        let choice = Choice { home: builtin::home(), named: self.calibration.clone() };
        let wanted = if self.whole.rank { Needs::Gram } else { Needs::Moments };
        let is_known = choice.latest(checkpoint, (wanted, None), terminal)?.is_some();
        let known = if is_known { wanted } else { Needs::Weights };
        if self.whole.rank {
            others.push(Assignment::of(vec![method::ranking(known)]));
            return Ok(others);
        }
        others.extend(allocating::stacks(known));
        allocating::palette(&[], &[], &others)
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
        let found = choice.latest(checkpoint, (needs, None), terminal)?;
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
            (None, _) if self.text.is_some() && !self.refine => Ok(Metric::Measured),
            (Some("measured"), _) if self.text.is_some() => Ok(Metric::Measured),
            (None, true) | (Some("outputs"), _) => Ok(Metric::Outputs),
            (None, false) | (Some("weights"), _) => Ok(Metric::Weights),
            (Some("linearity"), _) if self.text.is_some() => Ok(Metric::Linearity),
            (Some("measured" | "linearity"), _) => Err(no_text()),
            (Some(other), _) => Err(Error::plan(
                format!("there is no score {other:?}"),
                "choose weights, outputs, linearity or measured",
            )),
        }
    }

    /// What there is to spend.
    pub(super) fn budget(&self) -> Result<Budget> {
        let context = self.context;
        match &self.wanted {
            Wanted { bits: Some(bits), .. } => Ok(Budget::Bits(*bits)),
            Wanted { size: Some(size), .. } => Ok(Budget::FileBytes(bytes_of(size)?)),
            Wanted { memory: Some(memory), .. } => {
                Ok(Budget::Memory { bytes: bytes_of(memory)?, context })
            }
            Wanted { promote: Some(_), .. } => Err(Error::plan(
                "a ranking of outputs is no budget",
                "use it with plan, or give --bits, --size or --memory",
            )),
            _ => Err(Error::plan("there is no budget", "give --bits, --size or --memory")),
        }
    }

    /// Every candidate, scored.
    pub(super) fn score(&self, opened: &Opened, terminal: &Terminal) -> Result<Vec<UnitScores>> {
        let text = self.source();
        let text = text.as_ref().map(|text| (text, self.tokens));
        let mut scores = allocating::score(&opened.question(), opened.metric, text, terminal)?;
        self.narrow(&mut scores);
        Ok(scores)
    }

    /// The scores, set right where the budget hangs on them if that was asked for, and how many candidates were
    /// measured of how many.
    pub(super) fn refined(
        &self,
        opened: &Opened,
        scores: Vec<UnitScores>,
        terminal: &Terminal,
    ) -> Result<(Vec<UnitScores>, Option<[usize; 2]>)> {
        if !self.refine {
            return Ok((scores, None));
        }
        let source = self.source().ok_or_else(no_text)?;
        let budget = Cell::new(0);
        let solve = |problem: &Problem| {
            budget.set(problem.budget());
            Ok(allocator::find("knapsack")?.solve(problem, terminal)?.choice)
        };
        let scores = self.solve(opened, scores, &solve)?.scores;
        let groups = groups(&opened.checkpoint, &scores, &self.bounds()?);
        let problem = Problem::new(groups, budget.get())?;
        let given = (scores.as_slice(), &problem);
        let on = (&source, self.tokens);
        let (scores, refined) = allocating::refine(&opened.question(), given, on, terminal)?;
        Ok((scores, Some(refined.counts())))
    }

    /// The text.
    pub(super) fn source(&self) -> Option<Source> {
        self.text.clone().map(Source::path)
    }

    /// Takes away what the arguments do not allow.
    pub(super) fn narrow(&self, scores: &mut [UnitScores]) {
        if !self.compress_all {
            return;
        }
        for of in scores.iter_mut().filter(|of| !of.unit.is_locked && of.options.len() > 1) {
            of.options.retain(|option| option.candidate.is_some());
        }
    }

    /// Solves with the budget.
    pub(super) fn solve(
        &self,
        opened: &Opened,
        scores: Vec<UnitScores>,
        solve: &dyn Fn(&Problem) -> Result<Chosen>,
    ) -> Result<Solved> {
        let place = (opened.subject(), opened.target);
        let bounds = self.bounds()?;
        let given = (scores.as_slice(), &opened.plan, &bounds);
        let (choice, plan) = solve_within(place, given, self.budget()?, solve)?;
        Ok(Solved { scores, choice, plan })
    }

    /// Floors and ceilings.
    pub(super) fn bounds(&self) -> Result<Bounds> {
        let read = |all: &[String]| all.iter().map(|text| role_bits(text)).collect::<Result<_>>();
        Ok(Bounds { floors: read(&self.floor)?, ceilings: read(&self.ceiling)? })
    }

    /// Writes the project, where one was asked for, and says which candidates it could not have and what is wrong with it,
    /// where no document does.
    pub(super) fn write(&self, opened: &Opened, plan: &Layers) -> anyhow::Result<()> {
        if !self.json {
            let left_out = opened.left_out.iter().map(|of| of.told(opened.target));
            let problems = opened.problems(plan);
            output::tell(&left_out.chain(problems.iter().map(check::line)).collect::<Vec<_>>());
        }
        if let Some(out) = &self.out {
            let named = relative_checkpoint(opened.checkpoint.path(), out);
            let draft = Draft::new(opened.by_names_of_whole(plan), opened.target);
            Project::of(named, &draft, View::default()).write(out)?;
        }
        Ok(())
    }
}

fn no_text() -> Error {
    Error::plan("candidates are measured on a text", "give one with --text")
}

impl Solved {
    /// Effective bits of a weight of the units where they have so many bytes.
    pub(super) fn bits(&self, checkpoint: &Checkpoint, bytes: u64) -> f64 {
        let layers = self.scores.iter().flat_map(|of| &of.unit.layers);
        let weights: u64 = layers.map(|&layer| checkpoint.tensors()[layer].parameters()).sum();
        8.0 * bytes as f64 / weights.max(1) as f64
    }
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
