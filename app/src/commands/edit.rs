//! Edits of the plan: each one a named step that undo takes back. Locked layers, tensors that are no matrices, and
//! layers that the target could not hold so are left alone, and the status bar says so.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use lapidary_engine::method::{self, Step};
use lapidary_engine::plan::{Assignment, Rule};
use lapidary_engine::target::{self, Agreement, Case, Fix, Lint, PRESETS, Severity};

use crate::commands::{Command, removal};
use crate::document::model::Model;
use crate::theme::text;

/// Carries out an edit; gives what the status bar should say.
pub(super) fn edit(model: &mut Model, command: Command) -> Option<String> {
    let selected: Vec<usize> = model.selection.layers().collect();
    match command {
        Command::Assign(assignment) => {
            let label = format!("Set {}", assignment.label());
            assign(model, &label, &selected, |old| Assignment {
                locked: old.locked,
                ..assignment.clone()
            })
        }
        Command::SetMethod(id) => set_method(model, id, &selected),
        Command::SetBits(bits) => {
            assign(model, &format!("Set {bits} bits"), &selected, |old| old.with_bits(bits))
        }
        Command::Keep => assign(model, "Keep", &selected, |old| Assignment {
            locked: old.locked,
            ..Assignment::keep()
        }),
        Command::ToggleRemoval(parts) => Some(removal::toggle(model, parts)),
        Command::Paint(layers) => paint(model, &layers),
        Command::Forget => forget(model, &selected),
        Command::ToggleLock => Some(toggle_lock(model)),
        Command::Preset(id) => preset(model, id),
        Command::SetRules(label, rules) => set_rules(model, label, rules),
        Command::SumUp => {
            let summed = model.plan().summed_up(&model.checkpoint);
            model.history.edit("Sum up as rules", |draft| *draft.plan_mut() = summed);
            model.plan_changed();
            let (rules, names) = (model.plan().rules().len(), model.plan().by_hand().count());
            Some(format!("The same plan in {rules} rules and {names} names"))
        }
        Command::Mend(lint) => Some(mend(model, &lint)),
        Command::MendAll => Some(mend_all(model)),
        Command::SetTarget(id) => set_target(model, id),
        Command::TakePlanOf(id) => {
            let label = format!("Take the plan of {id}");
            model.history.edit(&label, |draft| draft.take_plan_of(id));
            model.plan_changed();
            None
        }
        Command::SetTensorParallel(devices) => {
            let label = format!("Split over {devices}");
            model.history.edit(&label, |draft| draft.tensor_parallel = devices);
            model.plan_changed();
            None
        }
        Command::SetShardBytes(bytes) => {
            let label = match bytes {
                0 => "Files as the source".to_owned(),
                bytes => format!("Files of at most {}", text::bytes(bytes)),
            };
            model.history.edit(&label, |draft| draft.shard_bytes = bytes);
            model.plan_changed();
            None
        }
        travel => travel_in_time(model, &travel),
    }
}

/// Gives the selected layers a method, in the nearest form that the target holds, as the inspector would.
fn set_method(model: &mut Model, id: &str, selected: &[usize]) -> Option<String> {
    let about = method::find(id).ok()?.about();
    let Some(layer) = model.selection.cursor().filter(|&layer| model.is_matrix(layer)) else {
        return Some(format!("Select weight matrices first, then {} is set on them", about.title));
    };
    let wanted = model.assignment(layer).with_step_at(about.stage, Some(Step::new(about.id)));
    let tensor = &model.checkpoint.tensors()[layer];
    let nearest = target::held_by_same_method(tensor, &wanted, model.target).unwrap_or(wanted);
    let name = model.target.about().title;
    let why_not = target::refusal(tensor, &nearest, model.target);
    let why_not = why_not.map(|why_not| format!("Not for {name}: {why_not}"));
    if let Some(why_not) = why_not.or_else(|| model.why_uncalibrated(layer, &nearest.steps)) {
        return Some(why_not);
    }
    let label = format!("Set {}", nearest.label());
    assign(model, &label, selected, |old| Assignment { locked: old.locked, ..nearest.clone() })
}

/// Steps along the history.
fn travel_in_time(model: &mut Model, command: &Command) -> Option<String> {
    let said = match command {
        Command::Undo => model
            .history
            .undo()
            .map_or_else(|| "Nothing to undo".to_owned(), |label| format!("Undid: {label}")),
        Command::Redo => model
            .history
            .redo()
            .map_or_else(|| "Nothing to redo".to_owned(), |label| format!("Redid: {label}")),
        Command::GoTo(step) => {
            model.history.go_to(*step);
            let label = model.history.undo_label().unwrap_or("as opened");
            format!("Back at: {label}")
        }
        _ => return None,
    };
    model.plan_changed();
    Some(said)
}

/// Gives layers, and those fused with them, what `change` makes of their assignments.
fn assign(
    model: &mut Model,
    label: &str,
    wanted: &[usize],
    change: impl Fn(&Assignment) -> Assignment,
) -> Option<String> {
    let layers = with_fused(model, wanted);
    let sorted = Sorted::new(model, &layers, &change);
    let label = format!("{label} on {}", layers_text(sorted.free.len()));
    let hidden = model.list.hidden(sorted.free.iter().map(|(layer, _)| *layer));
    let (mut said, n_free) = (sorted.said(model), sorted.free.len());
    carry_out(model, &label, sorted.free);
    let added = layers.len() - wanted.len();
    if hidden > 0 {
        said.push(format!("{} hidden by the filter changed too", layers_text(hidden)));
    }
    if added > 0 && n_free > 0 {
        said.push(format!(
            "{} of the same fused group changed too, as the target stores them as one",
            layers_text(added)
        ));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

fn paint(model: &mut Model, wanted: &[usize]) -> Option<String> {
    let brush = model.brush.clone()?;
    let layers = with_fused(model, wanted);
    let sorted = Sorted::new(model, &layers, |now: &Assignment| brush.on(now));
    let said = if brush.passes_locks() { Vec::new() } else { sorted.said(model) };
    let changes = if brush.passes_locks() {
        let matrices = layers.iter().filter(|&&layer| model.is_matrix(layer));
        matrices.map(|&layer| (layer, brush.on(&model.assignment(layer)))).collect()
    } else {
        sorted.free
    };
    carry_out(model, &brush.label(), changes);
    (!said.is_empty()).then(|| said.join("; "))
}

fn carry_out(model: &mut Model, label: &str, changes: Vec<(usize, Assignment)>) {
    let checkpoint = model.checkpoint.clone();
    model.history.edit(label, |draft| {
        let plan = draft.plan_mut();
        for (layer, assignment) in changes {
            plan.set(&checkpoint.tensors()[layer].name, assignment);
        }
    });
    model.plan_changed();
}

/// Layers by what keeps them from an edit.
struct Sorted {
    /// Those that take it, with what they take.
    free: Vec<(usize, Assignment)>,
    /// Those of them whose grouping or grid was fitted to the target.
    fitted: usize,
    locked: usize,
    /// Reasons why layers cannot take it: the first of them, and how many.
    refused: BTreeMap<String, (usize, usize)>,
}

impl Sorted {
    fn new(model: &Model, layers: &[usize], change: impl Fn(&Assignment) -> Assignment) -> Self {
        let mut sorted = Self { free: Vec::new(), fitted: 0, locked: 0, refused: BTreeMap::new() };
        let must_agree = model.target.capabilities().fused == Agreement::Must;
        let mut stopped: BTreeSet<usize> = BTreeSet::new();
        for &layer in layers {
            let tensor = &model.checkpoint.tensors()[layer];
            let now = model.assignment(layer);
            if now.locked {
                sorted.locked += 1;
                continue;
            }
            let then = change(&now);
            let held = target::held_at_same_bits(tensor, &then, model.target);
            if let Some(held) = held {
                sorted.fitted += usize::from(held.steps != then.steps);
                sorted.free.push((layer, held));
                continue;
            }
            let why = target::refusal(tensor, &then, model.target).unwrap_or_default();
            let group = model.checkpoint.fused_group_of(layer);
            stopped.extend(group.filter(|_| must_agree).iter().flat_map(|g| &g.members));
            sorted.refused.entry(why).or_insert((layer, 0)).1 += 1;
        }
        // What one layer of a fused group cannot take, none of it does.
        sorted.free.retain(|(layer, _)| !stopped.contains(layer));
        sorted
    }

    fn said(&self, model: &Model) -> Vec<String> {
        let mut said = Vec::new();
        if self.locked > 0 {
            said.push(format!("{} locked and left alone", layers_text(self.locked)));
        }
        // Nobody means norms when all layers are selected: they are spoken of only by themselves.
        let is_matrix = |(_, (layer, _)): &(&String, &(usize, usize))| model.is_matrix(*layer);
        let has_matrix = self.refused.iter().any(|of| is_matrix(&of)) || !self.free.is_empty();
        let counted = || self.refused.iter().filter(|of| !has_matrix || is_matrix(of));
        // The reason of most layers; of equals, that of the first layer.
        let most = counted().max_by_key(|(_, (layer, n))| (*n, Reverse(*layer)));
        if let Some((why, (layer, n))) = most {
            let name = model.short_name(*layer);
            let others = match n - 1 {
                0 => String::new(),
                n => format!(" and {} more", layers_text(n)),
            };
            said.push(format!("{name}{others} left alone: {why}"));
            let rest: usize = counted().map(|(_, (_, n))| n).sum::<usize>() - n;
            if rest > 0 {
                said.push(format!("{} left alone for other reasons", layers_text(rest)));
            }
        }
        if let (1.., Some((_, held))) = (self.fitted, self.free.first()) {
            said.push(format!(
                "{} fitted to what {} holds: {}",
                layers_text(self.fitted),
                model.target.about().title,
                held.label()
            ));
        }
        said
    }
}

/// The wanted layers and, where the target stores fused layers as one or the group is not split, the rest of their
/// groups.
fn with_fused(model: &Model, wanted: &[usize]) -> Vec<usize> {
    let mut layers: BTreeSet<usize> = wanted.iter().copied().collect();
    for &layer in wanted {
        if model.moves_as_one(layer)
            && let Some(group) = model.checkpoint.fused_group_of(layer)
        {
            layers.extend(&group.members);
        }
    }
    layers.into_iter().collect()
}

fn forget(model: &mut Model, selected: &[usize]) -> Option<String> {
    let layers = with_fused(model, selected);
    let checkpoint = model.checkpoint.clone();
    let label = format!("Leave {} to the rules", layers_text(layers.len()));
    model.history.edit(&label, |draft| {
        let plan = draft.plan_mut();
        for layer in layers {
            let name = &checkpoint.tensors()[layer].name;
            if !plan.is_locked(name) {
                plan.forget(name);
            }
        }
    });
    model.plan_changed();
    None
}

fn toggle_lock(model: &mut Model) -> String {
    let tensors = model.checkpoint.tensors();
    let layers = model.selection.layers().filter(|&layer| tensors[layer].matrix.is_some());
    let names: Vec<String> = layers.map(|layer| tensors[layer].name.clone()).collect();
    if names.is_empty() {
        return "Only weight matrices can be locked".to_owned();
    }
    let lock = !names.iter().all(|name| model.plan().is_locked(name));
    let verb = if lock { "Lock" } else { "Unlock" };
    model.history.edit(&format!("{verb} {}", layers_text(names.len())), |draft| {
        let plan = draft.plan_mut();
        for name in &names {
            let assignment =
                Assignment { locked: lock, ..Assignment::clone(&plan.assignment(name)) };
            plan.set(name, assignment);
        }
    });
    model.plan_changed();
    format!("{verb}ed {}", layers_text(names.len()))
}

fn preset(model: &mut Model, id: &str) -> Option<String> {
    let preset = PRESETS.iter().find(|preset| preset.id == id)?;
    let aim = model.history.current().aim();
    let (plan, fitted) = match preset.plan(&model.checkpoint, model.plan(), aim) {
        Ok(made) => made,
        Err(error) => return Some(error.sentence()),
    };
    let kept = plan.iter().filter(|(_, assignment)| assignment.locked).count();
    model.history.edit(&format!("Start from {}", preset.title), |draft| *draft.plan_mut() = plan);
    model.plan_changed();
    Some(describe_preset(model, preset.title, kept, &fitted))
}

/// What a starting point did, in a sentence.
fn describe_preset(model: &Model, title: &str, locked: usize, fitted: &[Lint]) -> String {
    let mut by_label: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for (_, assignment) in model.plan().iter().filter(|(_, assignment)| !assignment.is_keep()) {
        *by_label.entry(assignment.label()).or_default() += 1;
    }
    let matrices = model.checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some());
    let kept = matrices.count() - model.plan().len();
    let parts = by_label.iter().map(|(label, n)| format!("{} at {label}", layers_text(*n)));
    let done = parts.map(|part| part + ", ").collect::<String>();
    let mut said = vec![format!("{title}: {done}{} kept", layers_text(kept))];
    if locked > 0 {
        said.push(format!("{} locked and left alone", layers_text(locked)));
    }
    let changed: BTreeSet<usize> = fitted.iter().flat_map(|lint| lint.tensors.clone()).collect();
    if !changed.is_empty() {
        said.push(format!("{} fitted to what the target holds", layers_text(changed.len())));
    }
    said.join("; ")
}

fn set_rules(model: &mut Model, label: &str, rules: Vec<Rule>) -> Option<String> {
    let checkpoint = model.checkpoint.clone();
    let mut plan = lapidary_engine::plan::Plan::clone(model.plan());
    plan.set_rules(&checkpoint, rules);
    if let Err(error) = plan.check(&checkpoint) {
        return Some(error.sentence());
    }
    model.history.edit(label, |draft| *draft.plan_mut() = plan);
    model.plan_changed();
    None
}

fn mend(model: &mut Model, lint: &Lint) -> String {
    let label = format!("Mend: {}", lint.mend);
    if let Some(Fix::Target(id)) = lint.fix {
        return set_target(model, id).unwrap_or(label);
    }
    let (checkpoint, before) = (model.checkpoint.clone(), model.history.current().clone());
    let entries = &model.outcome.entries;
    let case = Case { checkpoint: &checkpoint, plan: before.plan(), aim: before.aim(), entries };
    let mut is_done = false;
    model.history.edit(&label, |draft| is_done = lint.mend_in(&case, draft.plan_mut()));
    model.plan_changed();
    let told = model.plan().told_since(before.plan(), &checkpoint);
    if is_done {
        told.map_or_else(|| label.clone(), |told| format!("{label}: {told}"))
    } else {
        format!("This needs a hand, as locked layers stand in the way: {}", lint.mend)
    }
}

fn mend_all(model: &mut Model) -> String {
    let (checkpoint, aim) = (model.checkpoint.clone(), model.history.current().aim());
    let (mut mended, before) = (0, model.plan().clone());
    let (measured, entries) = (model.outcome.measured.clone(), &model.outcome.entries);
    let case = Case { checkpoint: &checkpoint, plan: &before, aim, entries };
    model.history.edit("Mend everything", |draft| {
        let plan = draft.plan_mut();
        // What must be kept first: others are made alike to it.
        let first = measured.iter().filter(|lint| lint.mend_in(&case, plan)).count();
        mended = first + target::mend_all(&checkpoint, plan, aim).len();
    });
    model.plan_changed();
    let left = model.outcome.count(Severity::Error) + model.outcome.count(Severity::Warning);
    let told = model.plan().told_since(&before, &checkpoint);
    let told = told.map(|told| format!(": {told}")).unwrap_or_default();
    match (mended, left) {
        (0, 0) => "Nothing to mend".to_owned(),
        (_, 0) => format!("Mended {mended} of {mended}{told}"),
        _ => format!("Mended {mended}; {left} need a hand{told}"),
    }
}

/// Goes to another target and says what that changes.
fn set_target(model: &mut Model, id: &str) -> Option<String> {
    let target = match target::find(id) {
        Ok(target) => target,
        Err(error) => return Some(error.sentence()),
    };
    if id == model.target.about().id {
        return None;
    }
    let (before, from) = (model.plan().clone(), model.target.about().title);
    let label = format!("Target: {}", target.about().title);
    model.history.edit(&label, |draft| draft.choose(target));
    model.plan_changed();
    let changed = model.plan().changed_from(&before, &model.checkpoint).len();
    let mut said = vec![target.about().title.to_owned()];
    if changed > 0 {
        said.push(format!(
            "its own plan is back, {} differ from that of {from}",
            layers_text(changed)
        ));
    }
    let is_dense = target.capabilities().is_dense();
    let in_full = model.outcome.entries.iter().filter(|entry| {
        matches!(entry.storage, lapidary_engine::target::Storage::Dense { .. }) && !is_dense
    });
    match in_full.count() {
        0 => {}
        n => said.push(format!("{} cannot be held and would be stored in full", layers_text(n))),
    }
    let errors = model.outcome.count(Severity::Error);
    if errors > 0 {
        let keep =
            if errors == 1 { "1 error keeps".to_owned() } else { format!("{errors} errors keep") };
        said.push(format!("{keep} it from export; see Problems"));
    }
    Some(said.join("; "))
}

pub(super) fn layers_text(n: usize) -> String {
    if n == 1 { "1 layer".to_owned() } else { format!("{n} layers") }
}
