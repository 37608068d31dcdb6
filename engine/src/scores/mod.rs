//! What every candidate assignment of every unit of allocation takes and costs: exact bytes, and a damage that is meant
//! to add up over the units. In: a checkpoint, a calibration, a target, candidates. Out: plain numbers. Never solves.

mod agreement;
mod allocate;
mod left_out;
mod linearity;
mod memory;
mod promote;
mod rank;
mod refined;
mod remembered;
mod solved;

use std::collections::HashMap;
use std::sync::Arc;

pub use agreement::{Disagreement, RankAgreement, rank_agreement};
pub use allocate::{Bounds, Budget, groups, plan_of, solve_within, uniform};
pub use left_out::LeftOut;
pub use linearity::Sensitivity;
pub use memory::{active_bytes, cache_bytes};
pub use promote::Promoted;
pub use rank::Ranked;
pub use remembered::Remembered;
pub use solved::Solved;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::encoding::Encoding;
use crate::error::Result;
use crate::evaluation::{Baseline, From};
use crate::fold::{self, Producer};
use crate::job::{Level, Moments, Subject};
use crate::method::{self, Needs};
use crate::network::{Network, Replaced, Weights};
use crate::numeric::distance::relative_error;
use crate::observer::{Observer, Progress, Unit as Counted};
use crate::plan::{Assignment, Plan};
use crate::target::{self, Agreement, Target};

/// By what damage is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Σ Pₗ/P·‖W − Ŵ‖²/‖W‖² over the layers of a unit, Pₗ its share of the P weights of the model: as if every weight
    /// mattered alike. Without that factor a large layer would be starved, as it weighs no more than a small one.
    Weights,
    /// Σ Pₗ/P·tr(Δ·H·Δᵀ)/tr(W·H·Wᵀ): the squared relative error of outputs, in the same proportion. Where only mean
    /// squares are known their diagonal stands for H, and where nothing is, the identity.
    Outputs,
    /// αₗ·tₗ² in nats, tₗ² the squared relative error of the weights and αₗ the slope of KL(original ‖ changed) on a text
    /// with noise on this unit alone: three passes for a unit, whatever the number of its candidates.
    Linearity,
    /// Mean token KL(original ‖ changed) in nats on a text, with this unit alone changed.
    Measured,
}

impl Metric {
    /// Whether the network is run for it.
    pub fn is_measured(self) -> bool {
        matches!(self, Self::Linearity | Self::Measured)
    }

    /// The name of what scores add up to: a mean of squared relative errors over the weights of the model, or a divergence.
    pub fn quantity(self) -> &'static str {
        match self {
            Self::Weights => "mean weight damage",
            Self::Outputs => "mean output damage",
            Self::Linearity | Self::Measured => "KL",
        }
    }
}

/// Layers that are assigned as one: a fused group where the target asks for it, or a single matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Indices of the tensors.
    pub layers: Vec<usize>,
    /// Whether a hand has locked any of them.
    pub is_locked: bool,
    /// Whether a norm or another layer takes the scales of its inputs whatever that becomes, which takes that everything that
    /// reads it is in the unit.
    pub folds: bool,
}

/// A candidate, in the form of each layer that the target holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Place in the palette; `None` is to keep the unit, or, where it is locked, what the hand gave it.
    pub candidate: Option<usize>,
    /// What each layer is assigned.
    pub assignments: Vec<Arc<Assignment>>,
    /// Bytes of everything the export stores of the unit.
    pub bytes: u64,
    /// Damage, 0 where the unit is kept.
    pub damage: f64,
}

/// The candidates of a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitScores {
    /// The unit.
    pub unit: Unit,
    /// What it may be, at least one.
    pub options: Vec<Scored>,
}

/// What is scored.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The checkpoint, and what is known of the inputs of its layers.
    pub subject: Subject<'a>,
    /// The plan whose locks hold.
    pub plan: &'a Plan,
    /// What every unit may become, besides being kept.
    pub palette: &'a [Assignment],
    /// What the export is for.
    pub target: &'a dyn Target,
}

impl std::fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("palette", &self.palette).finish_non_exhaustive()
    }
}

/// A network to measure on, and its weights.
#[derive(Clone, Copy)]
pub struct Measuring<'a> {
    /// The original on a text.
    pub baseline: &'a Baseline<'a>,
    /// The weights of the original.
    pub weights: &'a dyn Weights,
    /// Tokens to measure on.
    pub tokens: usize,
}

impl std::fmt::Debug for Measuring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measuring").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// Matrices by name, and what the outputs of some of them are shifted by.
type Changed = (HashMap<String, Arc<Array2<f32>>>, HashMap<String, Vec<f32>>);

impl Question<'_> {
    /// The units whose candidates the target holds, in the order of the checkpoint; locked ones too.
    pub fn units(&self) -> Vec<Unit> {
        let is_had = |unit: &Unit| self.palette.iter().any(|of| self.held(unit, of).is_some());
        let all = self.all_units().into_iter();
        all.filter(|unit| unit.is_locked || is_had(unit)).collect()
    }

    /// The units of all matrices.
    fn all_units(&self) -> Vec<Unit> {
        let checkpoint = self.subject.checkpoint;
        let is_asked = self.palette.iter().any(|of| method::chain_folds(&of.steps));
        let producers =
            if is_asked { fold::producers(checkpoint).unwrap_or_default() } else { Vec::new() };
        let must_agree = self.target.capabilities().fused == Agreement::Must;
        let mut units = Vec::new();
        for (index, tensor) in checkpoint.tensors().iter().enumerate() {
            let group = checkpoint.fused_group_of(index).filter(|_| must_agree);
            let layers = group.map_or_else(|| vec![index], |group| group.members.clone());
            if tensor.matrix.is_none() || layers[0] != index {
                continue;
            }
            let is_locked = layers.iter().any(|&layer| self.assigned(layer).locked);
            let takes = |found: &Producer| found.layers == layers && self.takes_scales(found);
            let folds = producers.iter().any(takes);
            units.push(Unit { layers, is_locked, folds });
        }
        units
    }

    /// Whether scales can go into a producer, whichever candidate it becomes.
    fn takes_scales(&self, producer: &Producer) -> bool {
        let checkpoint = self.subject.checkpoint;
        let Some(matrix) = producer.matrix().filter(|_| producer.why_not.is_none()) else {
            return producer.why_not.is_none();
        };
        let is_by_row = |assignment: &Assignment| fold::is_by_row(checkpoint, matrix, assignment);
        let assigned = self.assigned(matrix);
        if assigned.locked {
            return is_by_row(&assigned);
        }
        let tensor = &checkpoint.tensors()[matrix];
        let held = |of| target::held_at_same_bits(tensor, of, self.target);
        self.palette.iter().filter_map(held).all(|held| is_by_row(&held))
    }

    fn assigned(&self, layer: usize) -> Arc<Assignment> {
        self.plan.assignment(&self.subject.checkpoint.tensors()[layer].name)
    }

    /// The candidate as each layer would hold it; `None` where the target cannot, or a method lacks what it needs.
    fn held(&self, unit: &Unit, candidate: &Assignment) -> Option<Vec<Arc<Assignment>>> {
        let Subject { checkpoint, calibrated } = self.subject;
        let kept = (!unit.folds && method::chain_folds(&candidate.steps)).then(|| {
            let steps = method::with_kept_scales(&candidate.steps);
            Assignment { steps, ..candidate.clone() }
        });
        let candidate = kept.as_ref().unwrap_or(candidate);
        let one = |&layer: &usize| {
            let tensor = &checkpoint.tensors()[layer];
            let held = target::held_at_same_bits(tensor, candidate, self.target)?;
            let is_known = method::chain_needs(&held.steps) <= calibrated.known(&tensor.name);
            is_known.then(|| Arc::new(held))
        };
        unit.layers.iter().map(one).collect()
    }

    /// Every way a unit may be, with its exact bytes; damages are still to be told. Candidates that come to the same
    /// for the target are named once.
    ///
    /// # Errors
    /// Those of [`Assignment::layout`].
    pub fn options(&self, unit: &Unit) -> Result<Vec<Scored>> {
        let kept = Arc::new(Assignment::keep());
        let keep = || unit.layers.iter().map(|_| kept.clone()).collect::<Vec<_>>();
        let mut found: Vec<(Option<usize>, Vec<Arc<Assignment>>)> = Vec::new();
        if unit.is_locked {
            found.push((None, unit.layers.iter().map(|&layer| self.assigned(layer)).collect()));
        } else {
            found.push((None, keep()));
            for (place, candidate) in self.palette.iter().enumerate() {
                let held = self.held(unit, candidate);
                found.extend(held.map(|held| (Some(place), held)));
            }
        }
        let mut options: Vec<Scored> = Vec::new();
        for (candidate, assignments) in found {
            let bytes = self.bytes(&unit.layers, &assignments)?;
            if !options.iter().any(|other| other.assignments == assignments) {
                options.push(Scored { candidate, assignments, bytes, damage: 0.0 });
            }
        }
        Ok(options)
    }

    fn bytes(&self, layers: &[usize], assignments: &[Arc<Assignment>]) -> Result<u64> {
        let of = |(&layer, assignment): (&usize, &Arc<Assignment>)| {
            let checkpoint = self.subject.checkpoint;
            let entry = target::entry_of(checkpoint, layer, Some(assignment), self.target)?;
            Ok(entry.bytes)
        };
        layers.iter().zip(assignments).map(of).sum()
    }

    /// Every unit with every way it may be, all of no damage: for who asks the model itself.
    ///
    /// # Errors
    /// Those of [`Question::options`].
    pub fn unscored(&self) -> Result<Vec<UnitScores>> {
        let of = |unit: Unit| Ok(UnitScores { options: self.options(&unit)?, unit });
        self.units().into_iter().map(of).collect()
    }

    /// Compresses every candidate of every unit and tells its damage. With [`Metric::Measured`] the network is run for
    /// each, from the first block the unit is in.
    ///
    /// # Errors
    /// What compressing, reading and running say; [`crate::Error::Plan`] for a metric that is measured, without
    /// something to measure on; [`crate::Error::Cancelled`].
    pub fn score(
        &self,
        metric: Metric,
        measuring: Option<Measuring<'_>>,
        observer: &dyn Observer,
    ) -> Result<Vec<UnitScores>> {
        self.score_remembering((metric, measuring), None, observer)
    }

    /// The same; what was told before is taken from where it is remembered, and all else is kept there as it comes.
    ///
    /// # Errors
    /// Those of [`Question::score`].
    pub fn score_remembering(
        &self,
        (metric, measuring): (Metric, Option<Measuring<'_>>),
        remembered: Option<&Remembered<'_>>,
        observer: &dyn Observer,
    ) -> Result<Vec<UnitScores>> {
        let checkpoint = self.subject.checkpoint;
        let units = self.units();
        let bytes = |unit: &Unit| -> u64 {
            unit.layers.iter().map(|&layer| checkpoint.tensors()[layer].bytes()).sum()
        };
        let total: u64 = units.iter().map(bytes).sum();
        let mut done = 0;
        let mut scores = Vec::with_capacity(units.len());
        for unit in units {
            observer.progress(Progress {
                stage: "Scoring candidates",
                item: checkpoint.tensors()[unit.layers[0]].name.clone(),
                done,
                total,
                unit: Counted::Bytes,
            });
            done += bytes(&unit);
            let mut options = self.options(&unit)?;
            let by = (metric, measuring);
            let damages = self.damages((&unit, &options), by, remembered, observer)?;
            options.iter_mut().zip(damages).for_each(|(option, damage)| option.damage = damage);
            scores.push(UnitScores { unit, options });
        }
        Ok(scores)
    }

    /// A layer after an assignment, decoded and as it is held; `None` where it is kept.
    fn decoded(
        &self,
        unit: &Unit,
        option: &Scored,
        at: usize,
        observer: &dyn Observer,
    ) -> Result<Option<(Array2<f32>, Encoding)>> {
        let level = Level { unit: (&unit.layers, &option.assignments), at };
        if level.is_keep() {
            return Ok(None);
        }
        let encoding = level.compress(self.subject, observer)?;
        Ok(Some((encoding.decode(), encoding)))
    }

    fn damage(
        &self,
        unit: &Unit,
        option: &Scored,
        metric: Metric,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let Subject { checkpoint, calibrated } = self.subject;
        let mut sum = 0.0;
        for (at, &layer) in unit.layers.iter().enumerate() {
            let Some((decoded, held)) = self.decoded(unit, option, at, observer)? else {
                continue;
            };
            let weights = checkpoint.weights(layer, observer)?;
            let share = weights.len() as f64 / checkpoint.parameters().max(1) as f64;
            let plain = || relative_error(weights.view(), decoded.view()).powi(2);
            let name = &checkpoint.tensors()[layer].name;
            let known = calibrated.known(name);
            if metric == Metric::Weights || known < Needs::Moments {
                sum += share * plain();
                continue;
            }
            let inputs = calibrated.inputs(name, known)?;
            let made = (decoded.view(), held.shift());
            let inputs = inputs.as_ref();
            let error = Moments::relative_error_of(inputs, weights.view(), made, observer)?;
            sum += share * error.map_or_else(plain, |error| error * error);
        }
        Ok(sum)
    }

    /// The damage of a candidate by [`Metric::Measured`].
    ///
    /// # Errors
    /// Those of [`Question::score`].
    pub fn measure(
        &self,
        unit: &Unit,
        option: &Scored,
        measuring: Measuring<'_>,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let checkpoint = self.subject.checkpoint;
        let (mut by, mut shifts) = (HashMap::new(), HashMap::new());
        for (at, &layer) in unit.layers.iter().enumerate() {
            if let Some((decoded, held)) = self.decoded(unit, option, at, observer)? {
                let name = &checkpoint.tensors()[layer].name;
                shifts.extend(held.shift().map(|shift| (name.clone(), shift.to_vec())));
                by.insert(name.clone(), Arc::new(decoded));
            }
        }
        self.divergence(unit, (by, shifts), measuring, observer)
    }

    /// KL(original ‖ changed) with layers of a unit replaced.
    fn divergence(
        &self,
        unit: &Unit,
        (by, shifts): Changed,
        measuring: Measuring<'_>,
        observer: &dyn Observer,
    ) -> Result<f64> {
        let checkpoint = self.subject.checkpoint;
        let Some(config) = checkpoint.config().filter(|_| !by.is_empty()) else {
            return Ok(0.0);
        };
        let weights = Replaced { base: measuring.weights, by, shifts };
        let changed = Network::open(config, &weights)?;
        let from = first_changed(checkpoint, &unit.layers);
        measuring.baseline.kl(&changed, from, measuring.tokens, observer)
    }
}

/// Where a network with these layers changed begins to differ.
pub fn first_changed(checkpoint: &Checkpoint, layers: &[usize]) -> From {
    let tied = checkpoint.tied().map(|tied| tied.embedding);
    let of = |&layer: &usize| {
        let place = &checkpoint.tensors()[layer].place;
        match place.block {
            Some(block) => From::Block(block as usize),
            None if Some(layer) != tied && place.role == crate::checkpoint::Role::Head => {
                From::Head
            }
            None => From::Embedding,
        }
    };
    layers.iter().map(of).min().unwrap_or(From::Head)
}
