//! Changes of what is shown: selection, map, list, inspector. None of them touches the plan.

use std::sync::Arc;

use lapidary_engine::plan::Assignment;

use crate::commands::{Command, Direction, Grow};
use crate::document::brush::Brush;
use crate::document::list::ListView;
use crate::document::metrics::metric;
use crate::document::model::{MapMode, Model, Pane};
use crate::document::selection::{How, Selection, neighbour};

/// Carries out a change of what is shown; gives what the status bar should say.
pub(super) fn view(model: &mut Model, command: Command) -> Option<String> {
    match command {
        Command::Click(layer, how, pane) => click(model, layer, how, pane),
        Command::Select(layers) => model.selection = Selection::of(layers),
        Command::SelectAll => model.selection = Selection::of(model.rows().to_vec()),
        Command::Walk(direction, extend) => walk(model, direction, extend),
        Command::SetMetric(id) => {
            model.metric = metric(id);
            model.changed();
        }
        Command::SetScaling(scaling) => {
            model.scaling = scaling;
            model.changed();
        }
        Command::Invert => {
            let is_free = |layer: &&usize| !model.selection.has(**layer);
            let others: Vec<usize> = model.rows().iter().filter(is_free).copied().collect();
            model.selection = Selection::of(others);
        }
        Command::Grow(to) => grow(model, to),
        Command::ClickGroup(group, how) => click_group(model, group, how),
        Command::SetBrush(brush) => model.brush = brush,
        Command::ToggleBrush => {
            let cursor = model.selection.cursor().filter(|&layer| model.is_matrix(layer));
            let taken = cursor.map(|layer| {
                let its =
                    Assignment { locked: false, ..Assignment::clone(&model.assignment(layer)) };
                Brush::Assignment(Arc::new(its))
            });
            model.brush = if model.brush.is_some() { None } else { taken };
        }
        Command::SetSide(side) => model.side = side,
        Command::ToggleAfter => model.look.after = !model.look.after,
        Command::SetMapMode(mode) => model.map_mode = mode,
        Command::ToggleMapMode => {
            model.map_mode = match model.map_mode {
                MapMode::Blocks => MapMode::Bytes,
                MapMode::Bytes => MapMode::Blocks,
            };
        }
        Command::Visible(pane, tensors) => model.visible[pane as usize] = tensors,
        Command::SetTab(tab) => model.tab = tab,
        Command::Hold(choice) => model.look.capacity.choice = choice,
        Command::Highlight(method) => model.look.capacity.highlighted = method,
        Command::SetQuantity(quantity) => model.look.quantity = quantity,
        Command::LookNear(rows, cols) => model.look.wanted = Some((rows, cols)),
        Command::SetRank(rank) => model.look.rank = Some(rank),
        Command::ToggleErrorSpectrum => {
            model.look.wants_error_spectrum = !model.look.wants_error_spectrum;
        }
        other => list(model, other),
    }
    None
}

/// The stop of keys at which a layer is found: its own, or that of its fused group.
fn stop_of(model: &Model, layer: usize) -> usize {
    let stops = model.list.stops();
    let group = model.checkpoint.fused_group_of(layer).filter(|_| !stops.contains(&layer));
    let of_group =
        group.and_then(|group| group.members.iter().find(|member| stops.contains(member)));
    of_group.copied().unwrap_or(layer)
}

/// Changes of the list, which are followed by filtering and sorting it.
fn list(model: &mut Model, command: Command) {
    let list = &mut model.list;
    match command {
        Command::SetFilter(filter) => list.set_filter(&filter),
        Command::SortBy(column) => list.sort = list.sort.clicked(column),
        Command::ToggleColumn(column) => list.toggle(column),
        Command::MoveColumn(column, step) => list.move_column(column, step),
        Command::ResetColumns => list.columns = ListView::new(&[], "").columns,
        Command::ToggleTree => list.is_tree = !list.is_tree,
        Command::Unfold(group) => {
            if !list.unfolded.remove(&group) {
                list.unfolded.insert(group);
            }
        }
        Command::Split(group) => {
            if model.split.remove(&group) {
                list.unfolded.remove(&group);
            } else {
                model.split.insert(group);
                list.unfolded.insert(group);
            }
        }
        Command::Fold(block) => {
            if !list.folded.remove(&block) {
                list.folded.insert(block);
            }
        }
        _ => return,
    }
    model.refresh_rows();
}

fn click(model: &mut Model, layer: usize, how: How, pane: Pane) {
    let order = match pane {
        Pane::List => model.list.rows(),
        Pane::Map => model.map.order(),
    };
    model.selection.click(layer, how, order);
    model.pane = pane;
}

/// A click on the row of a fused group is one on all its layers.
fn click_group(model: &mut Model, group: usize, how: How) {
    let members = model.checkpoint.fused_groups()[group].members.clone();
    model.pane = Pane::List;
    match how {
        How::Replace => model.selection = Selection::of(members),
        How::Toggle => {
            let all = members.iter().all(|&member| model.selection.has(member));
            let due = members.into_iter().filter(|&member| model.selection.has(member) == all);
            for member in due.collect::<Vec<_>>() {
                model.selection.click(member, How::Toggle, &[]);
            }
        }
        How::Range => {
            let cursor = model.selection.cursor();
            let place = |layer: &usize| model.rows().iter().position(|row| row == layer);
            let from = cursor.as_ref().and_then(place);
            // The end of the group that is further away, so that all of it is inside.
            let far = members
                .iter()
                .max_by_key(|member| from.zip(place(member)).map(|(a, b)| a.abs_diff(b)));
            if let Some(&far) = far {
                model.selection.click(far, How::Range, model.list.rows());
            }
        }
    }
}

fn grow(model: &mut Model, to: Grow) {
    let tensors = model.checkpoint.tensors();
    let selected: Vec<usize> = model.selection.layers().collect();
    let is_like = |layer: usize| {
        let place = tensors[layer].place;
        selected.iter().any(|&other| {
            let other = tensors[other].place;
            match to {
                Grow::Role => place.role == other.role,
                Grow::Block => place.block == other.block,
                Grow::Fused => false,
            }
        })
    };
    let like =
        (0..tensors.len()).filter(|&layer| tensors[layer].matrix.is_some() && is_like(layer));
    let groups = selected.iter().filter_map(|&layer| model.checkpoint.fused_group_of(layer));
    let fused = groups.flat_map(|group| group.members.iter().copied());
    let grown: Vec<usize> = model
        .selection
        .cursor()
        .into_iter()
        .chain(selected.iter().copied())
        .chain(like)
        .chain(fused)
        .collect();
    model.selection = Selection::of(grown);
}

fn walk(model: &mut Model, direction: Direction, extend: bool) {
    let (right, down) = match direction {
        Direction::Left => (-1, 0),
        Direction::Right => (1, 0),
        Direction::Up => (0, -1),
        Direction::Down => (0, 1),
    };
    let cursor = model.selection.cursor();
    let next = match (model.pane, cursor) {
        (Pane::Map, Some(cursor)) => model.map.step(cursor, (right, down)),
        _ if down != 0 => neighbour(cursor.map(|at| stop_of(model, at)), down, model.list.stops()),
        _ => None,
    };
    let Some(next) = next else { return };
    model.selection.go(next, extend);
    // In the list a fused group is one stop.
    let group = model.checkpoint.fused_index_of(next).filter(|_| model.pane == Pane::List);
    if let Some(group) =
        group.filter(|&group| model.is_one(group) && !model.list.unfolded.contains(&group))
    {
        for &member in &model.checkpoint.clone().fused_groups()[group].members {
            model.selection.go(member, true);
        }
        model.selection.go(next, true);
    }
}
