//! The layer list: a tree or flat, filtered, sorted, selected by click, shift-click and ctrl-click; drawn only where
//! visible.

mod columns;
mod pictures;
mod row;

use egui::{Align, Layout, TextEdit, TextStyle, Ui};
use egui_extras::{Column as Width, TableBuilder};

use crate::commands::Command;
use crate::document::columns::Column;
use crate::document::list::Row;
use crate::document::model::{Model, Pane};
use crate::theme::{ROW_HEIGHT, text};
use crate::views::ViewContext;

/// Between two columns.
const GAP: f32 = 5.0;
/// Room for the scroll bar.
const BAR: f32 = 10.0;
/// The narrowest that a column without numbers can be made.
const LEAST: f32 = 36.0;
/// The most that a column gets beside its least width.
const MOST_STRETCH: f32 = 150.0;
/// Widths are shared out anew where the room changes by as much.
const ROOM_STEP: f32 = 40.0;

/// What the filter takes, for its tooltip.
const FILTER_HELP: &str = "Words that the name contains; patterns for the whole name, as *.down_proj.weight; conditions, as kurtosis > 10, eff. rank < 60 %, size > 1 MB, block = 3. Columns go by their titles; a bare number has the unit the column shows, so that 60 is 60 % in a column of percent. All must hold.";

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    filter(context, ui, model);
    if let Some(mistake) = &model.list.mistake {
        ui.colored_label(context.tokens.error, mistake);
    }
    ui.add_space(2.0);
    if model.rows().is_empty() && model.list.lines().is_empty() {
        ui.weak("No layer passes the filter.").on_hover_text(FILTER_HELP);
        return;
    }
    // Columns that the panel has no room for are a scroll away.
    egui::ScrollArea::horizontal()
        .id_salt("columns")
        .auto_shrink(false)
        .show(ui, |ui| table(context, ui, model));
}

fn table(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let lines = model.list.lines();
    let cursor_row = model
        .selection
        .cursor()
        .and_then(|cursor| lines.iter().position(|line| stands_for(model, *line, cursor)));
    let is_moved = cursor_moved(ui, model);
    // Each arrangement of columns remembers its own widths, for as much room as there is.
    let arrangement: Vec<&str> = model.list.columns.iter().map(|column| column.id()).collect();
    ui.spacing_mut().item_spacing.x = GAP;
    let room = ui.available_width().min(ui.clip_rect().width());
    let widths = widths(ui, &model.list.columns, room);
    let mut table = TableBuilder::new(ui)
        .id_salt(("layers", arrangement, (room / ROOM_STEP) as u32))
        .striped(true)
        .resizable(true)
        .sense(egui::Sense::click())
        .cell_layout(Layout::left_to_right(Align::Center))
        .auto_shrink(false);
    for (column, width) in model.list.columns.iter().zip(widths) {
        let least = if column.digits().is_some() { width } else { LEAST };
        table = table.column(Width::initial(width).at_least(least).clip(true));
    }
    table = table.column(Width::remainder());
    if let (Some(row), true) = (cursor_row, is_moved) {
        table = table.scroll_to_row(row, None);
    }
    let mut visible = Vec::new();
    table
        .header(ROW_HEIGHT, |mut header| {
            for &column in &model.list.columns {
                header.col(|ui| columns::head(context, ui, model, column));
            }
            // Room for the scroll bar.
            header.col(|_ui| {});
        })
        .body(|body| {
            body.rows(ROW_HEIGHT, lines.len(), |mut row| match lines[row.index()] {
                Row::Block(block, count) => row::block(context, model, (block, count), &mut row),
                Row::Fused(group, _) => {
                    visible.extend(&model.checkpoint.fused_groups()[group].members);
                    row::fused(context, model, group, &mut row);
                }
                Row::Tensor(layer) => {
                    visible.push(layer);
                    row::tensor(context, model, layer, &mut row);
                }
            });
        });
    if visible != model.visible[Pane::List as usize] {
        context.send(Command::Visible(Pane::List, visible));
    }
}

/// The widths of columns to begin with: numbers have what their widest takes, the others share the rest.
fn widths(ui: &Ui, columns: &[Column], room: f32) -> Vec<f32> {
    let font = TextStyle::Monospace.resolve(ui.style());
    let ten = ui.painter().layout_no_wrap("0".repeat(10), font, ui.visuals().text_color());
    let glyph = ten.size().x / 10.0;
    let least = |column: &Column| match column.digits() {
        Some(digits) => (digits as f32 * glyph).ceil() + 2.0,
        None => column.stretch().0,
    };
    let taken: f32 = columns.iter().map(|column| least(column) + GAP).sum();
    let parts: f32 = columns.iter().map(|column| column.stretch().1).sum();
    let left = (room - taken - BAR).max(0.0);
    let share = |column: &Column| (left * column.stretch().1 / parts.max(1.0)).min(MOST_STRETCH);
    columns.iter().map(|column| (least(column) + share(column)).floor()).collect()
}

/// Whether a line is that of a tensor, or of its fused group.
fn stands_for(model: &Model, line: Row, tensor: usize) -> bool {
    match line {
        Row::Block(..) => false,
        Row::Fused(group, _) => model.checkpoint.fused_index_of(tensor) == Some(group),
        Row::Tensor(other) => other == tensor,
    }
}

/// Whether the cursor moved since the last frame: then its row is scrolled into view.
fn cursor_moved(ui: &Ui, model: &Model) -> bool {
    let id = ui.scope_id().with("last cursor");
    let now = model.selection.cursor();
    let last = ui.data_mut(|data| data.get_temp::<Option<usize>>(id));
    ui.data_mut(|data| data.insert_temp(id, now));
    last != Some(now)
}

fn filter(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    ui.horizontal(|ui| {
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            columns::menu(context, ui, model);
            let tree = ui.selectable_label(model.list.is_tree, "Tree");
            if tree.on_hover_text("Show tensors under their blocks.").clicked() {
                context.send(Command::ToggleTree);
            }
            let selected = model.selection.len();
            let count = if selected > 1 {
                format!("{selected} selected, {} shown", model.rows().len())
            } else {
                let n = model.rows().len();
                format!("{} {}", text::count(n as u64), if n == 1 { "tensor" } else { "tensors" })
            };
            ui.weak(count).on_hover_text("Rows on show, and how many of them are selected.");
            let mut filter = model.list.filter.clone();
            let edit = TextEdit::singleline(&mut filter)
                .hint_text("Filter: down, *.3.*, kurtosis > 10")
                .desired_width(f32::INFINITY);
            let response = ui.add(edit).on_hover_text(FILTER_HELP);
            if response.changed() {
                context.send(Command::SetFilter(filter));
            }
        });
    });
}
