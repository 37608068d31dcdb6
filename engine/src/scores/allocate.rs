//! Scores as a problem for the solvers, and their choices as plans.

use std::collections::BTreeMap;

use crate::allocator::{Choice, Group, Level, Problem};
use crate::checkpoint::{Checkpoint, Role};
use crate::error::{Error, Result};
use crate::job::Subject;
use crate::network::architectures;
use crate::plan::{Assignment, Plan};
use crate::scores::{Scored, UnitScores, cache_bytes};
use crate::target::{Manifest, Target};

/// Times a budget is corrected by what the headers of files turned out to take.
const CORRECTIONS: usize = 16;

/// The fewest and the most nominal bits of roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// At least so many bits.
    pub floors: BTreeMap<Role, f64>,
    /// At most so many bits.
    pub ceilings: BTreeMap<Role, f64>,
}

/// What there is to spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Effective bits for each weight of the units, everything that is stored of them counted.
    Bits(f64),
    /// Bytes of all weight files.
    FileBytes(u64),
    /// Bytes while the model runs: all weights as they are exported, with keys and values of one sequence; see
    /// [`cache_bytes`]. What a runtime needs for itself and for activations is not counted.
    Memory {
        /// In all.
        bytes: u64,
        /// Tokens of the sequence.
        context: u64,
    },
}

/// The groups of a problem, in the order of the scores.
pub fn groups(checkpoint: &Checkpoint, scores: &[UnitScores], bounds: &Bounds) -> Vec<Group> {
    let group = |of: &UnitScores| {
        let layers = &of.unit.layers;
        let first = &checkpoint.tensors()[layers[0]];
        let weights = layers.iter().map(|&layer| checkpoint.tensors()[layer].parameters()).sum();
        let options = of.options.iter().map(|option| Level {
            label: option.candidate.map_or(0, |candidate| candidate + 1),
            bits: nominal_bits(checkpoint, layers[0], &option.assignments[0]),
            bytes: option.bytes,
            damage: option.damage,
        });
        let mut group = Group::new(first.name.clone(), weights, options.collect());
        group.locked = of.unit.is_locked.then_some(0);
        let roles = || layers.iter().map(|&layer| checkpoint.tensors()[layer].place.role);
        // Fused layers have one assignment: the strictest of their bounds holds for all.
        group.floor_bits =
            roles().filter_map(|role| bounds.floors.get(&role).copied()).reduce(f64::max);
        group.ceiling_bits =
            roles().filter_map(|role| bounds.ceilings.get(&role).copied()).reduce(f64::min);
        group
    };
    scores.iter().map(group).collect()
}

/// Bits of a code; those of the stored type where the layer is kept.
fn nominal_bits(checkpoint: &Checkpoint, layer: usize, assignment: &Assignment) -> f64 {
    let tensor = &checkpoint.tensors()[layer];
    let layout = tensor.matrix.and_then(|of| assignment.layout(of.shape, tensor.dtype).ok());
    match layout.filter(|_| !assignment.is_keep()) {
        Some(layout) => f64::from(layout.nominal_bits()),
        None => {
            tensor.coded.as_ref().map_or(tensor.dtype.bits() as f64, |coded| f64::from(coded.bits))
        }
    }
}

/// The plan with a choice carried into it: what a hand has locked stays.
pub fn plan_of(
    checkpoint: &Checkpoint,
    scores: &[UnitScores],
    choice: &Choice,
    plan: &Plan,
) -> Plan {
    let mut plan = plan.clone();
    for (of, &option) in scores.iter().zip(&choice.options) {
        if of.unit.is_locked {
            continue;
        }
        for (&layer, assignment) in of.unit.layers.iter().zip(&of.options[option].assignments) {
            plan.set(&checkpoint.tensors()[layer].name, Assignment::clone(assignment));
        }
    }
    plan
}

/// Every unit with one candidate of the palette; kept, or as the hand has it, where it cannot have that. `None` where
/// no unit can.
pub fn uniform(scores: &[UnitScores], candidate: usize) -> Option<Choice> {
    let find = |of: &UnitScores| {
        let is_it = |option: &Scored| option.candidate == Some(candidate);
        of.options.iter().position(is_it)
    };
    if !scores.iter().any(|of| find(of).is_some()) {
        return None;
    }
    let options: Vec<usize> = scores.iter().map(|of| find(of).unwrap_or(0)).collect();
    let chosen = || scores.iter().zip(&options).map(|(of, &option)| &of.options[option]);
    let bytes = chosen().map(|option| option.bytes).sum();
    let damage = chosen().map(|option| option.damage).sum();
    Some(Choice { options, bytes, damage })
}

/// Solves with a budget. The bytes of files are those the export will have: headers are counted by laying the plan
/// out, and the budget of the units is corrected until the files fit.
///
/// # Errors
/// What `solve` says; [`Error::Plan`] where no layer is left to decide, for a budget that is no number, or too small for any
/// choice, with one of the same kind that will do, and for memory of a model whose cache is not known.
pub fn solve_within<'a>(
    (subject, target): (impl Into<Subject<'a>>, &dyn Target),
    (scores, plan, bounds): (&[UnitScores], &Plan, &Bounds),
    budget: Budget,
    solve: &dyn Fn(&Problem) -> Result<Choice>,
) -> Result<(Choice, Plan)> {
    let subject = subject.into();
    let checkpoint = subject.checkpoint;
    refuse_undecided(scores, target)?;
    let groups = groups(checkpoint, scores, bounds);
    let carried = |choice: Choice| {
        let plan = plan_of(checkpoint, scores, &choice, plan);
        (choice, plan)
    };
    let within = |units: u64| solve(&Problem::new(groups.clone(), units)?).map(carried);
    let least = carried(Problem::new(groups.clone(), u64::MAX)?.smallest());
    let least_bytes = least.0.bytes;
    let empty = laid_out(subject, &least.1, target)?;
    let files = match budget {
        Budget::Bits(bits) => {
            let weights = groups.iter().map(|group| group.weights).sum();
            return within(units_of_bits(bits, weights, least_bytes)?);
        }
        Budget::Memory { bytes, context } => {
            let fixed = empty.tensor_bytes().saturating_sub(least_bytes);
            return within(units_in_memory(checkpoint, (bytes, context), (fixed, least_bytes))?);
        }
        Budget::FileBytes(bytes) => bytes,
    };
    let all = empty.weight_file_bytes();
    let beside = all.saturating_sub(least_bytes);
    refuse_files(files, (all, beside))?;
    let mut units = files.saturating_sub(beside);
    for _ in 0..CORRECTIONS {
        let (choice, found) = within(units)?;
        let bytes = laid_out(subject, &found, target)?.weight_file_bytes();
        if bytes <= files {
            return Ok((choice, found));
        }
        units = units.saturating_sub(bytes - files);
        if units < least_bytes {
            // Only headers differ by then.
            return Ok(least);
        }
    }
    Err(Error::plan(
        format!("no plan of at most {files} bytes was found; the smallest has {all}"),
        "allow more bytes, or fewer bits to some layers",
    ))
}

/// A budget over nothing would seem to be kept.
fn refuse_undecided(scores: &[UnitScores], target: &dyn Target) -> Result<()> {
    if scores.iter().any(|of| !of.unit.is_locked) {
        return Ok(());
    }
    let why = if scores.is_empty() {
        format!("none can have a candidate for {}", target.about().title)
    } else {
        "all that can have a candidate are locked".to_owned()
    };
    Err(Error::plan(
        format!("the budget decides nothing, as no layer is left for it: {why}"),
        "unlock a layer, offer other candidates, or choose another target",
    ))
}

/// What makes a budget smaller that is too small for any choice.
const SMALLER: &str = "lower a floor, unlock a layer, or offer smaller candidates";

/// The bytes of units for effective bits of their weights, where the fewest bytes there can be fit.
pub(super) fn units_of_bits(bits: f64, weights: u64, least: u64) -> Result<u64> {
    if !bits.is_finite() || bits <= 0.0 {
        return Err(Error::plan(format!("{bits} bits are no budget"), "give a number above 0"));
    }
    let units = |bits: f64| (bits * weights as f64 / 8.0).floor() as u64;
    if units(bits) >= least {
        return Ok(units(bits));
    }
    let thousandths = (least as f64 * 8000.0 / weights.max(1) as f64).ceil();
    // The next one where the division was rounded down.
    let needed = [thousandths, thousandths + 1.0].map(|thousandths| thousandths / 1000.0);
    let needed = needed.into_iter().find(|&bits| units(bits) >= least).unwrap_or(needed[1]);
    Err(Error::plan(
        format!(
            "{bits} bits a weight are too few: {needed:.3} is the least that layers can have by these candidates"
        ),
        format!("allow at least {needed:.3} bits, {SMALLER}"),
    ))
}

/// Refuses bytes of files below the fewest there can be, `beside` of which are not of layers that are decided.
pub(super) fn refuse_files(files: u64, (all, beside): (u64, u64)) -> Result<()> {
    if files >= all {
        return Ok(());
    }
    Err(Error::plan(
        format!(
            "weight files of {files} bytes are too small: {all} is the least, {beside} of them for headers and tensors that are kept"
        ),
        format!("allow at least {all} bytes, {SMALLER}"),
    ))
}

/// The export of a plan, with what its files say of the data.
pub(super) fn laid_out(subject: Subject<'_>, plan: &Plan, target: &dyn Target) -> Result<Manifest> {
    let manifest = Manifest::new(subject.checkpoint, plan, target)?;
    manifest.weighted(subject.checkpoint, plan, subject.importance().as_ref())
}

/// Bytes that memory leaves for the units, beside the cache and everything else that is stored.
pub(super) fn units_in_memory(
    checkpoint: &Checkpoint,
    (bytes, context): (u64, u64),
    (fixed, least): (u64, u64),
) -> Result<u64> {
    let config = checkpoint.config().ok_or_else(|| {
        Error::plan(
            format!("{} has no config.json, so its cache is not known", checkpoint.title()),
            "open the whole Hugging Face folder, or give bits or bytes of files as the budget",
        )
    })?;
    let cache = cache_bytes(&architectures::design(config)?, context);
    let needed = cache.saturating_add(fixed).saturating_add(least);
    if needed <= bytes {
        return Ok(bytes - cache - fixed);
    }
    Err(Error::plan(
        format!(
            "{bytes} bytes of memory are too few: keys and values of {context} tokens take {cache}, and the smallest weights {}",
            fixed + least
        ),
        format!(
            "allow more memory, {needed} bytes at least, a shorter context, or fewer bits to some layers"
        ),
    ))
}

/// The fewest bytes of each unit.
pub(super) fn least(scores: &[UnitScores]) -> Choice {
    let pick = |of: &UnitScores| {
        let all = of.options.iter().enumerate();
        all.min_by_key(|(_, option)| option.bytes).map_or(0, |(at, _)| at)
    };
    let options: Vec<usize> = scores.iter().map(pick).collect();
    let bytes = scores.iter().zip(&options).map(|(of, &at)| of.options[at].bytes).sum();
    let damage = scores.iter().zip(&options).map(|(of, &at)| of.options[at].damage).sum();
    Choice { options, bytes, damage }
}
