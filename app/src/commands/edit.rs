//! Edits of the plan: each one a named step that undo takes back. Locked layers and tensors that are no matrices
//! are left alone, and the status bar says so.

use std::collections::BTreeSet;

use lapidary_engine::plan::Assignment;

use crate::commands::Command;
use crate::document::model::Model;

/// Carries out an edit; gives what the status bar should say.
pub(super) fn edit(model: &mut Model, command: Command) -> Option<String> {
    match command {
        Command::Assign(assignment) => {
            let label = assignment.label();
            assign(model, &format!("Set {label}"), |old| Assignment {
                locked: old.locked,
                ..assignment.clone()
            })
        }
        Command::SetBits(bits) => {
            assign(model, &format!("Set {bits} bits"), |old| old.with_bits(bits))
        }
        Command::Keep => {
            assign(model, "Keep", |old| Assignment { locked: old.locked, ..Assignment::keep() })
        }
        Command::ToggleLock => Some(toggle_lock(model)),
        Command::Undo => {
            let label = model.history.undo();
            model.plan_changed();
            Some(
                label.map_or_else(
                    || "Nothing to undo".to_owned(),
                    |label| format!("Undid: {label}"),
                ),
            )
        }
        Command::Redo => {
            let label = model.history.redo();
            model.plan_changed();
            Some(
                label.map_or_else(
                    || "Nothing to redo".to_owned(),
                    |label| format!("Redid: {label}"),
                ),
            )
        }
        _ => None,
    }
}

fn assign(
    model: &mut Model,
    label: &str,
    change: impl Fn(&Assignment) -> Assignment,
) -> Option<String> {
    let selected: Vec<usize> = model.selection.layers().collect();
    let layers = with_fused(model, &selected);
    let tensors = model.checkpoint.tensors();
    let (matrices, others): (Vec<usize>, Vec<usize>) =
        layers.iter().partition(|&&layer| tensors[layer].matrix.is_some());
    let (locked, free): (Vec<usize>, Vec<usize>) =
        matrices.iter().partition(|&&layer| model.plan().is_locked(&tensors[layer].name));
    let names: Vec<&str> = free.iter().map(|&layer| tensors[layer].name.as_str()).collect();
    model.history.edit(&format!("{label} on {}", layers_text(free.len())), |plan| {
        for name in names {
            let assignment = change(&plan.assignment(name));
            plan.set(name, assignment);
        }
    });
    let added = layers.len() - selected.len();
    model.plan_changed();
    let mut said = Vec::new();
    if added > 0 {
        said.push(format!(
            "{} of the same fused group changed too, as the target stores them as one",
            layers_text(added)
        ));
    }
    if !locked.is_empty() {
        said.push(format!("{} locked and left alone", layers_text(locked.len())));
    }
    if free.is_empty() && locked.is_empty() && !others.is_empty() {
        said.push(format!(
            "Not a weight matrix: {}",
            model.checkpoint.tensors()[others[0]].why_no_matrix()
        ));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

/// The selected layers and, where the target stores fused layers as one, the rest of their groups.
fn with_fused(model: &Model, selected: &[usize]) -> Vec<usize> {
    let mut layers: BTreeSet<usize> = selected.iter().copied().collect();
    if model.target.fuses() {
        let groups = selected.iter().filter_map(|&layer| model.checkpoint.fused_group_of(layer));
        layers.extend(groups.flat_map(|group| group.members.iter().copied()));
    }
    layers.into_iter().collect()
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
    model.history.edit(&format!("{verb} {}", layers_text(names.len())), |plan| {
        for name in &names {
            let assignment =
                Assignment { locked: lock, ..Assignment::clone(&plan.assignment(name)) };
            plan.set(name, assignment);
        }
    });
    model.plan_changed();
    format!("{verb}ed {}", layers_text(names.len()))
}

fn layers_text(n: usize) -> String {
    if n == 1 { "1 layer".to_owned() } else { format!("{n} layers") }
}
