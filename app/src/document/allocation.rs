//! Spending a budget: which candidates are scored how, what came out, where the slider stands, and what runs say of it.

use std::sync::Arc;

use lapidary_engine::Result;
use lapidary_engine::allocator::{Choice, Point};
use lapidary_engine::checkpoint::{Checkpoint, Role};
use lapidary_engine::evaluation::{Figure, Kept};
use lapidary_engine::method::Needs;
use lapidary_engine::numeric::regression::Line;
use lapidary_engine::plan::{Assignment, Plan, quantisers_of_bits};
use lapidary_engine::scores::{Bounds, Metric, RankAgreement, Solved, rank_agreement};
use lapidary_engine::target::{Aim, PRESETS, held_at_same_bits};

use crate::allocating;
use crate::document::evaluation::Work;
use crate::document::model::Model;
use crate::document::ranking::Asked;
use crate::running::plan_of;

/// Bits that can be candidates.
pub const BITS: [i64; 7] = [2, 3, 4, 5, 6, 7, 8];

/// Tokens whose keys and values count as memory, unless others are chosen.
const USUAL_CONTEXT: u64 = 4096;

/// What the person asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// The quantisers, by their ids.
    pub methods: Vec<String>,
    /// Bits a layer may have by each of them.
    pub bits: Vec<i64>,
    /// Any other candidates: with other parameters, sparsity, rank, corrections.
    pub others: Vec<Assignment>,
    /// By what damage is told.
    pub metric: Metric,
    /// Tokens to measure each candidate on.
    pub tokens: usize,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            methods: quantisers_of_bits().take(1).map(|first| first.id.to_owned()).collect(),
            bits: vec![2, 3, 4, 5, 6, 8],
            others: Vec::new(),
            metric: Metric::Weights,
            tokens: 2048,
        }
    }
}

impl Wish {
    /// The candidates.
    ///
    /// # Errors
    /// Those of [`allocating::palette`].
    pub fn palette(&self) -> Result<Vec<Assignment>> {
        allocating::palette(&self.methods, &self.bits, &self.others)
    }

    /// Stacks of every height as the only candidates, counted by inputs where a calibration is in use; `None` where the
    /// target holds none of them.
    pub fn of_stacks(&self, model: &Model) -> Option<Self> {
        let is_calibrated = model.calibrations.loaded.is_some();
        let others =
            allocating::stacks(if is_calibrated { Needs::Moments } else { Needs::Weights });
        let first = others.first()?;
        let mut tensors = model.checkpoint.tensors().iter();
        let matrix = tensors.find(|tensor| tensor.matrix.is_some())?;
        let is_held = held_at_same_bits(matrix, first, model.target).is_some();
        is_held.then(|| Self { methods: Vec::new(), bits: Vec::new(), others, ..self.clone() })
    }

    /// Whether an assignment is none of the candidates yet.
    pub fn is_new(&self, of: &Assignment) -> bool {
        !of.is_keep() && !self.palette().unwrap_or_default().contains(of)
    }
}

/// Scores solved for every budget, and for what they are.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The scores and the frontier.
    pub solved: Arc<Solved>,
    /// What was asked for.
    pub wish: Wish,
    /// The target, by its id.
    pub target: &'static str,
    /// The plan when it was scored: its locks hold.
    pub plan: Arc<Plan>,
    /// Where the scores were set right by measuring.
    pub refinement: Option<Refinement>,
}

/// Cheap scores set right at one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// Bytes of all tensors.
    pub budget: u64,
    /// Candidates measured, and how many there are.
    pub counts: [usize; 2],
}

impl Ready {
    /// Whether damages are divergences in nats.
    pub fn is_in_nats(&self) -> bool {
        self.wish.metric.is_measured() || self.refinement.is_some()
    }

    /// A plan with a choice carried into it; what is locked in it stays, whatever was when it was scored.
    pub fn carried(&self, choice: &Choice, plan: &Plan, checkpoint: &Checkpoint) -> Plan {
        let mut carried = self.solved.plan(checkpoint, choice, plan);
        carried.keep_locks_of(plan);
        carried
    }

    /// Starting points whose every assignment was scored, by name.
    pub fn presets(&self, checkpoint: &Checkpoint, aim: Aim) -> Vec<(&'static str, Point)> {
        let place =
            |choice: Choice| Point { bytes: self.solved.bytes_of(&choice), damage: choice.damage };
        let of = |preset: &lapidary_engine::target::Preset| {
            let (plan, _) = preset.plan(checkpoint, &self.plan, aim).ok()?;
            Some((preset.title, place(self.solved.choice_of(checkpoint, &plan)?)))
        };
        PRESETS.iter().filter_map(of).filter(|(_, point)| point.damage > 0.0).collect()
    }

    /// The roles of the layers that were scored, in the order of the model.
    pub fn roles(&self, checkpoint: &Checkpoint) -> Vec<Role> {
        let layers = self.solved.scores().iter().flat_map(|of| &of.unit.layers);
        let mut roles = Vec::new();
        for role in layers.map(|&layer| checkpoint.tensors()[layer].place.role) {
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        roles
    }
}

/// What the starting points assign for a target, each once, in their order.
pub fn starting_assignments(checkpoint: &Checkpoint, aim: Aim) -> Vec<Assignment> {
    let mut all: Vec<Assignment> = Vec::new();
    for preset in PRESETS {
        let Ok((plan, _)) = preset.plan(checkpoint, &Plan::default(), aim) else { continue };
        for tensor in checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some()) {
            let assignment = plan.assignment(&tensor.name);
            if !assignment.is_keep() && !all.contains(&assignment) {
                all.push(Assignment::clone(&assignment));
            }
        }
    }
    all
}

/// A run of a plan whose damage the scores foresaw.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    /// What was run.
    pub label: String,
    /// Bytes of all tensors, and the damage that the scores predict.
    pub predicted: Point,
    /// Mean KL divergence from the original on the text.
    pub kl: Figure,
}

/// Predictions held against runs of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Against {
    /// The text.
    pub text: String,
    /// Every run of it that the scores can foresee.
    pub runs: Vec<Foreseen>,
    /// The line through them, from predicted to measured.
    pub line: Option<Line>,
    /// Runs of plans with assignments that were not scored, or of other texts.
    pub left_out: usize,
}

impl Against {
    /// Holds runs against scores; of several texts the one that was run last counts.
    pub fn of(ready: &Ready, checkpoint: &Checkpoint, runs: &[Kept]) -> Self {
        let is_planned =
            |kept: &&Kept| kept.record.assignments.as_ref().is_some_and(|of| !of.is_empty());
        let planned = || runs.iter().filter(is_planned);
        let Some(last) = planned().next_back() else { return Self::default() };
        let foreseen = |kept: &Kept| {
            let is_same = kept.record.text == last.record.text;
            let kl = kept.record.evaluation.mean_kl().filter(|_| is_same)?;
            let plan = plan_of(kept.record.assignments.as_ref()?)?;
            let choice = ready.solved.choice_of(checkpoint, &plan)?;
            let bytes = ready.solved.bytes_of(&choice);
            let predicted = Point { bytes, damage: choice.damage };
            Some(Foreseen { label: kept.record.label.clone(), predicted, kl })
        };
        let found: Vec<Foreseen> = planned().filter_map(foreseen).collect();
        let points: Vec<[f64; 2]> =
            found.iter().map(|run| [run.predicted.damage, run.kl.value]).collect();
        let left_out = planned().count() - found.len();
        let text = last.record.text.name.clone();
        Self { text, line: Line::through(&points), runs: found, left_out }
    }
}

/// Another metric beside the present one.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Its scores.
    pub ready: Ready,
    /// How far it agrees with the present one, where there is enough to say so.
    pub agreement: Option<RankAgreement>,
}

/// Everything about spending a budget on the open model.
#[derive(Debug, Default)]
pub struct Allocating {
    /// What is asked for.
    pub wish: Wish,
    /// The fewest and the most bits of roles.
    pub bounds: Bounds,
    /// Whether the person has chosen how damage is told.
    pub has_chosen: bool,
    /// Where rankings end.
    pub asked: Asked,
    /// What runs.
    pub work: Option<Work>,
    /// Why the last scoring failed.
    pub failed: Option<String>,
    /// What the slider moves over.
    pub ready: Option<Ready>,
    /// What the other metrics said last.
    pub beside: Vec<Beside>,
    /// Starting points on the frontier's plot.
    pub presets: Vec<(&'static str, Point)>,
    /// Runs held against the scores.
    pub against: Against,
    /// Tokens whose keys and values count as memory, if they were chosen.
    pub context: Option<u64>,
    /// Where the slider stands: bytes of all tensors.
    pub budget: Option<u64>,
    /// The plan when the slider last stood still.
    pub stop: Option<Arc<Plan>>,
    /// Layers that changed since.
    pub changed: Vec<usize>,
}

impl Allocating {
    /// Tokens whose keys and values count as memory.
    pub fn context(&self) -> u64 {
        self.context.unwrap_or(USUAL_CONTEXT)
    }

    /// Puts new scores in the place of the present ones, which stay beside them if they are of another metric.
    pub fn replace(&mut self, ready: Ready) {
        if let Some(old) = self.ready.take().filter(|old| old.target == ready.target) {
            self.beside.push(Beside { ready: old, agreement: None });
        }
        let is_other = |beside: &Beside| {
            beside.ready.wish.metric != ready.wish.metric && beside.ready.target == ready.target
        };
        self.beside.retain(is_other);
        for beside in &mut self.beside {
            let (ours, theirs) = (ready.solved.scores(), beside.ready.solved.scores());
            beside.agreement = rank_agreement(ours, theirs);
        }
        self.beside.sort_by_key(|beside| beside.ready.wish.metric as u8);
        self.beside.dedup_by_key(|beside| beside.ready.wish.metric);
        self.ready = Some(ready);
    }
}
