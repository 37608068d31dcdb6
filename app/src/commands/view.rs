//! Changes of what is shown: selection, map, list, inspector. None of them touches the plan.

use crate::commands::{Command, Direction};
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
        Command::SetMapMode(mode) => model.map_mode = mode,
        Command::ToggleMapMode => {
            model.map_mode = match model.map_mode {
                MapMode::Blocks => MapMode::Bytes,
                MapMode::Bytes => MapMode::Blocks,
            };
        }
        Command::Visible(pane, tensors) => model.visible[pane as usize] = tensors,
        Command::SetTab(tab) => model.tab = tab,
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
        _ if down != 0 => neighbour(cursor, down, model.rows()),
        _ => None,
    };
    if let Some(next) = next {
        model.selection.go(next, extend);
    }
}
