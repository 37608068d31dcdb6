//! Assignments that mend lints. Locked layers are never changed: where they stand in the way there is no mend.

use std::collections::BTreeSet;

use crate::checkpoint::{Checkpoint, Role, Tensor};
use crate::encoding::{AffineLayout, Layout};
use crate::method::{Stage, Step, with_kept_scales, without_shift};
use crate::numeric::grouping::Grouping;
use crate::plan::{Assignment, Plan};
use crate::target::lint::{Case, Fix, Lint, Severity, lints};
use crate::target::nearest::{groupings_near, held_by_same_method, held_instead, is_held_by};
use crate::target::scheme::Scheme;
use crate::target::{Agreement, Aim, Kernel, entry};

/// Assignments by tensor.
type Changes = Vec<(usize, Assignment)>;

/// Names of layers in a sentence: one by name, several by their number.
pub(super) fn layers_text(case: &Case<'_>, tensors: &[usize]) -> String {
    match tensors {
        [one] => case.tensor(*one).module().to_owned(),
        several => format!("{} layers", several.len()),
    }
}

/// The changes that `change` makes, locked layers apart; `None` if there are none.
fn changes(
    case: &Case<'_>,
    tensors: &[usize],
    change: impl Fn(&Tensor, &Assignment) -> Assignment,
) -> Option<Changes> {
    let change = |&index: &usize| {
        let tensor = case.tensor(index);
        let now = case.plan.assignment(&tensor.name);
        if now.locked {
            return None;
        }
        let then = change(tensor, &now);
        (then != *now).then_some((index, then))
    };
    let changes: Changes = tensors.iter().filter_map(change).collect();
    (!changes.is_empty()).then_some(changes)
}

fn keep(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    changes(case, tensors, |_, _| Assignment::keep())
}

/// The nearest assignments the target holds: of the same method, if there is one.
fn held(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    let target = case.aim.target;
    let has_place = |tensor: &Tensor, now: &Assignment| {
        let layout = tensor.matrix.and_then(|matrix| now.layout(matrix.shape, tensor.dtype).ok());
        let why = layout.and_then(|layout| target.why_not_in(case.checkpoint, tensor, &layout));
        why.is_none()
    };
    changes(case, tensors, |tensor, now| {
        if !has_place(tensor, now) {
            return held_instead(tensor, now, target);
        }
        held_by_same_method(tensor, now, target)
            .unwrap_or_else(|| held_instead(tensor, now, target))
    })
}

fn unpruned(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    changes(case, tensors, |_, now| now.with_step_at(Stage::Prune, None))
}

fn with_steps(
    case: &Case<'_>,
    tensors: &[usize],
    steps: fn(&[Step]) -> Vec<Step>,
) -> Option<Changes> {
    changes(case, tensors, |_, now| Assignment { steps: steps(&now.steps), ..now.clone() })
}

fn symmetric(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    changes(case, tensors, |_, now| now.with_grid("symmetric"))
}

/// `tensors` as the layer `first` is; kept, where that is not held, or comes to another scheme in layers of their extents.
fn as_first(case: &Case<'_>, first: usize, tensors: &[usize]) -> Option<Changes> {
    let steps = case.plan.assignment(&case.tensor(first).name).steps.clone();
    let scheme = |index: usize| {
        let (tensor, wanted) = (case.tensor(index), Assignment::of(steps.clone()));
        let layout = wanted.layout(tensor.matrix?.shape, tensor.dtype).ok()?;
        Scheme::of(&layout)
    };
    let is_alike = |index: usize| is_held(case, index, &steps) && scheme(index) == scheme(first);
    let all_alike = tensors.iter().all(|&index| is_alike(index));
    let steps = if all_alike { steps.clone() } else { Assignment::keep().steps };
    changes(case, tensors, |_, _| Assignment::of(steps.clone()))
}

/// All of `tensors` like that one of them that keeps most, or like a locked one.
fn alike(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    let is_locked = |index: &usize| case.plan.is_locked(&case.tensor(*index).name);
    let bits = |index: &usize| {
        let entry = &case.entries[*index];
        let n = case.tensor(*index).parameters().max(1);
        // Bits a weight, in millionths: shapes differ within a group.
        entry.bytes.saturating_mul(8_000_000) / n
    };
    let locked: Vec<usize> = tensors.iter().copied().filter(is_locked).collect();
    let of = |index: usize| case.plan.assignment(&case.tensor(index).name);
    let model = match locked.as_slice() {
        [] => *tensors.iter().max_by_key(|index| bits(index))?,
        [first, rest @ ..] if rest.iter().all(|&other| of(other).steps == of(*first).steps) => {
            *first
        }
        _ => return None,
    };
    let steps = of(model).steps.clone();
    let is_keep = Assignment::of(steps.clone()).is_keep();
    let fits = is_keep || tensors.iter().all(|&index| is_held(case, index, &steps));
    if !fits && !locked.is_empty() {
        return None;
    }
    let steps = if fits { steps } else { Assignment::keep().steps };
    changes(case, tensors, |_, _| Assignment::of(steps.clone()))
}

fn is_held(case: &Case<'_>, index: usize, steps: &[Step]) -> bool {
    is_held_by(case.tensor(index), &Assignment::of(steps.to_vec()), case.aim.target)
}

/// Inputs and outputs of the part of a layer on one device; `None` where they cannot be split evenly.
pub(super) fn part(case: &Case<'_>, index: usize) -> (Option<usize>, Option<usize>) {
    let tensor = case.tensor(index);
    let devices = case.aim.tensor_parallel.max(1) as usize;
    let split = |n: usize| n.is_multiple_of(devices).then_some(n / devices);
    let Some(matrix) = tensor.matrix else {
        return (None, None);
    };
    let (inputs, outputs) = (matrix.shape.cols, matrix.shape.rows);
    match tensor.place.role {
        Role::O | Role::Down => (split(inputs), Some(outputs)),
        Role::Other | Role::Router => (Some(inputs), Some(outputs)),
        _ => (Some(inputs), split(outputs)),
    }
}

impl Kernel {
    /// Why it cannot run a part of this many inputs and outputs, for a message.
    pub(super) fn why_not(
        &self,
        held: &AffineLayout,
        (inputs, outputs): (Option<usize>, Option<usize>),
    ) -> Option<String> {
        if !self.bits.contains(&held.bits) {
            return Some(format!("it has no {} bits", held.bits));
        }
        if !(held.symmetric || self.zero_points) {
            return Some("it has no zero points".to_owned());
        }
        if let Grouping::Group(size) = held.grouping
            && !self.groups.contains(&size)
        {
            return Some(format!("it has no groups of {size}"));
        }
        for (n, multiple, what) in
            [(inputs, self.inputs_multiple, "inputs"), (outputs, self.outputs_multiple, "outputs")]
        {
            match n {
                None => return Some(format!("its {what} cannot be split evenly")),
                Some(n) if !n.is_multiple_of(multiple) => {
                    return Some(format!("{n} {what} of a part are no multiple of {multiple}"));
                }
                Some(_) => {}
            }
        }
        None
    }
}

/// What a correction is added to, or all of it.
fn base_of(layout: &Layout) -> &Layout {
    layout.corrected().map_or(layout, |(base, _)| base)
}

fn grouping_of(tensor: &Tensor, now: &Assignment) -> Grouping {
    let layout = tensor.matrix.and_then(|matrix| now.layout(matrix.shape, tensor.dtype).ok());
    let affine = layout.as_ref().and_then(|layout| base_of(layout).affine());
    affine.map_or(Grouping::Channel, |affine| affine.grouping)
}

/// The first of some assignments that the target holds and that `suits`, else keep.
fn first_that(
    case: &Case<'_>,
    tensor: &Tensor,
    candidates: &[Assignment],
    suits: impl Fn(&AffineLayout) -> bool,
) -> Assignment {
    let suits = |candidate: &&Assignment| {
        let layout = tensor.matrix.and_then(|m| candidate.layout(m.shape, tensor.dtype).ok());
        is_held_by(tensor, candidate, case.aim.target)
            && layout.as_ref().and_then(|layout| base_of(layout).affine()).is_some_and(&suits)
    };
    candidates.iter().find(suits).cloned().unwrap_or_else(Assignment::keep)
}

/// Groups small enough not to be cut.
fn uncut(case: &Case<'_>, tensors: &[usize]) -> Option<Changes> {
    let found = changes(case, tensors, |tensor, now| {
        let inputs = case.checkpoint.find(&tensor.name).and_then(|index| part(case, index).0);
        let near = groupings_near(grouping_of(tensor, now));
        let candidates: Vec<Assignment> =
            near.iter().map(|grouping| now.with_grouping(*grouping)).collect();
        first_that(case, tensor, &candidates, |layout| match layout.grouping {
            Grouping::Group(size) => inputs.is_some_and(|n| n.is_multiple_of(size)),
            Grouping::Channel | Grouping::Tensor => inputs.is_some(),
        })
    });
    with_scheme(case, with_partners(case, found))
}

/// Other bits or groups that the kernel runs.
fn for_kernel(case: &Case<'_>, kernel: &Kernel, tensors: &[usize]) -> Option<Changes> {
    let found = changes(case, tensors, |tensor, now| {
        let place = case.checkpoint.find(&tensor.name).map(|index| part(case, index));
        let bits = kernel.bits.iter().map(|&bits| i64::from(bits));
        let near = groupings_near(grouping_of(tensor, now));
        let grids = [now.clone(), now.with_grid("symmetric")];
        let candidates: Vec<Assignment> = grids
            .iter()
            .flat_map(|now| {
                let bits = bits.clone().map(|bits| now.with_bits(bits));
                std::iter::once(now.clone()).chain(bits)
            })
            .flat_map(|now| near.iter().map(move |grouping| now.with_grouping(*grouping)))
            .collect();
        let enough = |layout: &AffineLayout| {
            let least = case.checkpoint.find(&tensor.name).and_then(|index| case.held(index));
            least.is_none_or(|least| layout.bits >= least.bits)
        };
        first_that(case, tensor, &candidates, |layout| {
            enough(layout) && place.is_some_and(|place| kernel.why_not(layout, place).is_none())
        })
    });
    with_scheme(case, with_partners(case, found))
}

/// Where the format has one scheme, a finer one for some layers is one for all that are compressed: else making them
/// alike again would undo it. Layers that must be kept stay kept.
fn with_scheme(case: &Case<'_>, found: Option<Changes>) -> Option<Changes> {
    let mut found = found?;
    if case.aim.target.capabilities().schemes != Agreement::Must {
        return Some(found);
    }
    let size = |(index, assignment): &(usize, Assignment)| match grouping_of(
        case.tensor(*index),
        assignment,
    ) {
        Grouping::Group(size) => size,
        Grouping::Channel | Grouping::Tensor => usize::MAX,
    };
    let finer = found.iter().filter(|(_, assignment)| !assignment.is_keep());
    let Some((_, scheme)) = finer.min_by_key(|change| size(change)).cloned() else {
        return Some(found);
    };
    for index in (0..case.entries.len()).filter(|&index| case.scheme(index).is_some()) {
        let is_kept = |(other, of): &(usize, Assignment)| *other == index && of.is_keep();
        if found.iter().any(is_kept) || case.plan.is_locked(&case.tensor(index).name) {
            continue;
        }
        let holds = is_held(case, index, &scheme.steps);
        found.retain(|(other, _)| *other != index);
        found.push((index, if holds { scheme.clone() } else { Assignment::keep() }));
    }
    Some(found)
}

/// What is done to one layer of a fused group is done to all of it; kept, where one of them must be.
fn with_partners(case: &Case<'_>, found: Option<Changes>) -> Option<Changes> {
    let mut found = found?;
    let mut done: BTreeSet<usize> = BTreeSet::new();
    for (index, assignment) in found.clone() {
        let Some(group) = case.checkpoint.fused_group_of(index) else { continue };
        if !done.insert(group.members[0]) {
            continue;
        }
        let of_group = |(index, _): &&(usize, Assignment)| group.members.contains(index);
        let one_is_kept = found.iter().filter(of_group).any(|(_, a)| a.is_keep());
        let then = if one_is_kept { Assignment::keep() } else { assignment };
        found.retain(|(index, _)| !group.members.contains(index));
        let is_free = |index: &&usize| !case.plan.is_locked(&case.tensor(**index).name);
        found.extend(group.members.iter().filter(is_free).map(|&index| (index, then.clone())));
    }
    Some(found)
}

/// Rounds of mending after which what is left is left: mends may not undo one another for ever.
const MAX_ROUNDS: usize = 64;

/// Mends every error and warning that a click could, one kind after the other; gives what was mended. Targets stay.
pub fn mend_all(checkpoint: &Checkpoint, plan: &mut Plan, aim: Aim) -> Vec<Lint> {
    let mut mended: Vec<Lint> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let entries: Result<Vec<_>, _> = (0..checkpoint.tensors().len())
            .map(|index| entry(checkpoint, plan, aim.target, index))
            .collect();
        let Ok(entries) = entries else { break };
        let before = plan.clone();
        let case = Case { checkpoint, plan: &before, aim, entries: &entries };
        let mut due: Option<&'static str> = None;
        // What cannot be held becomes what can before others are made alike to it.
        let mut found = lints(&case);
        found.sort_by_key(|lint| (lint.id != "dead-rule", lint.id != "in-full"));
        for lint in found {
            // All lints of one kind speak of different layers, so they can be mended together.
            let is_due = due.is_none_or(|kind| kind == lint.id && kind != "dead-rule");
            let is_ours = !matches!(lint.fix, None | Some(Fix::Target(_)));
            if !is_due || !is_ours || lint.severity == Severity::Note || mended.contains(&lint) {
                continue;
            }
            if lint.mend_in(&case, plan) {
                due = Some(lint.id);
                mended.push(lint);
            }
        }
        if due.is_none() {
            break;
        }
    }
    mended
}

impl Lint {
    /// The assignments that mend it; `None` where there are none, or locked layers stand in the way.
    pub fn changes(&self, case: &Case<'_>) -> Option<Vec<(usize, Assignment)>> {
        let tensors = &self.tensors;
        match self.fix.as_ref()? {
            Fix::Keep => keep(case, tensors),
            Fix::Held => held(case, tensors),
            Fix::Unpruned => unpruned(case, tensors),
            Fix::KeptScales => with_steps(case, tensors, with_kept_scales),
            Fix::Uncentred => with_steps(case, tensors, without_shift),
            Fix::Uncorrected => {
                changes(case, tensors, |_, now| now.with_step_at(Stage::Compensate, None))
            }
            Fix::Symmetric => symmetric(case, tensors),
            Fix::As(first) => as_first(case, *first, tensors),
            Fix::Alike => alike(case, tensors),
            Fix::Uncut => uncut(case, tensors),
            Fix::ForKernel => {
                let kernel = case.aim.target.capabilities().kernel.as_ref()?;
                for_kernel(case, kernel, tensors)
            }
            Fix::Target(_) | Fix::RemoveRule(_) => None,
        }
    }

    /// Mends it in a plan; whether that changed anything. Another target is not the plan's.
    pub fn mend_in(&self, case: &Case<'_>, plan: &mut Plan) -> bool {
        if let Some(Fix::RemoveRule(place)) = self.fix {
            let rules = plan.rules().iter().enumerate().filter(|(at, _)| *at != place);
            let rest = rules.map(|(_, rule)| rule.clone()).collect();
            plan.set_rules(case.checkpoint, rest);
            return true;
        }
        let changes = self.changes(case);
        for (index, assignment) in changes.iter().flatten() {
            plan.set(&case.tensor(*index).name, assignment.clone());
        }
        changes.is_some()
    }
}
