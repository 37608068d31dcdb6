//! Rows of the list: tensors, and the heads of blocks in a tree.

use egui::{Align, Label, Layout, RichText, Ui};
use egui_extras::TableRow;
use lapidary_engine::target::Agreement;

use crate::commands::Command;
use crate::document::columns::Column;
use crate::document::model::{Model, Pane};
use crate::theme::text;
use crate::views::layer_list::pictures::picture;
use crate::views::{ViewContext, how};

pub(super) fn tensor(
    context: &ViewContext<'_>,
    model: &Model,
    layer: usize,
    row: &mut TableRow<'_, '_>,
) {
    row.set_selected(model.selection.has(layer));
    for &column in &model.list.columns {
        row.col(|ui| cell(context, ui, model, (layer, column)));
    }
    row.col(|_ui| {});
    let response = row.response();
    let hovered = response.clone().on_hover_ui(|ui| {
        let tensor = &model.checkpoint.tensors()[layer];
        let size = text::bytes(tensor.bytes());
        ui.label(&tensor.name);
        ui.weak(format!("{} · {} · {size}", tensor.shape, tensor.type_name()));
    });
    response.context_menu(|ui| context.layer_menu(ui, model, layer, Pane::List));
    if hovered.clicked() {
        context.send(Command::Click(layer, how(&response), Pane::List));
    }
}

fn cell(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, (layer, column): (usize, Column)) {
    if column.is_picture() {
        let colour = context.tokens.data;
        picture(ui, model, layer, (column, colour));
        return;
    }
    let tensor = &model.checkpoint.tensors()[layer];
    let mut cell = column.cell(model, layer);
    if column.is_number() {
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            number(ui, (column, &cell));
        });
        return;
    }
    let is_assignment = column == Column::Assignment;
    if is_assignment && model.plan().is_locked(&tensor.name) {
        cell = format!("🔒 {cell}");
    }
    let is_stored_in_full = is_assignment
        && model.why_dense(layer).is_some()
        && !model.target.capabilities().is_dense();
    let text = if is_stored_in_full {
        RichText::new(format!("⚠ {cell}")).color(context.tokens.warning)
    } else if tensor.matrix.is_some() {
        RichText::new(cell)
    } else {
        RichText::new(cell).color(context.tokens.weak)
    };
    let is_struck = model.is_removed(layer) && matches!(column, Column::Layer | Column::Assignment);
    let text = if is_struck { text.color(context.tokens.weak).strikethrough() } else { text };
    if column == Column::Layer {
        let is_fused = model.checkpoint.fused_index_of(layer).is_some();
        let depth = u8::from(model.list.is_tree) + u8::from(is_fused);
        ui.add_space(14.0 * f32::from(depth));
    }
    ui.add(Label::new(text).truncate());
}

/// The layers of a fused group as one row.
pub(super) fn fused(
    context: &ViewContext<'_>,
    model: &Model,
    group: usize,
    row: &mut TableRow<'_, '_>,
) {
    let members = &model.checkpoint.fused_groups()[group].members;
    row.set_selected(members.iter().all(|&member| model.selection.has(member)));
    let is_out = members.iter().all(|&member| model.is_removed(member));
    for &column in &model.list.columns {
        row.col(|ui| match column {
            Column::Layer => fused_name(context, ui, model, (group, is_out)),
            column if column.is_number() => {
                ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                    number(ui, (column, &column.group_cell(model, group)));
                });
            }
            Column::Assignment => {
                let is_locked = members.iter().any(|&m| model.assignment(m).locked);
                let lock = if is_locked { "🔒 " } else { "" };
                let label = format!("{lock}{}", column.group_cell(model, group));
                ui.add(Label::new(struck(context, is_out, label)).truncate());
            }
            column => {
                ui.add(Label::new(column.group_cell(model, group)).truncate());
            }
        });
    }
    row.col(|_ui| {});
    let response = row.response();
    response.context_menu(|ui| context.layer_menu(ui, model, members[0], Pane::List));
    let response = response.on_hover_ui(|ui| {
        ui.label(
            "Layers that runtimes store as one. Sizes are sums; of other numbers one is shown:",
        );
        let helps = model.list.columns.iter().filter_map(|of| of.group_help(model, group));
        for help in helps {
            ui.weak(help);
        }
    });
    if response.clicked() {
        context.send(Command::ClickGroup(group, how(&response)));
    }
}

/// The name of a fused group, a sign that unfolds it, and where the target allows it a way to split it.
fn fused_name(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (group, is_out): (usize, bool),
) {
    if model.list.is_tree {
        ui.add_space(14.0);
    }
    ui.spacing_mut().item_spacing.x = 3.0;
    let may_split = model.target.capabilities().fused == Agreement::May;
    let is_open = model.list.unfolded.contains(&group) || !model.is_one(group);
    let (sign, tip) = match (is_open, model.is_one(group)) {
        (false, _) => ("▶", "Show the layers one by one."),
        (true, true) => ("▼", "Show them as one row."),
        (true, false) => ("▼", "Their assignments are their own: this target allows it."),
    };
    let button = egui::Button::new(RichText::new(sign).small()).frame(false);
    if ui.add(button).on_hover_text(tip).clicked() {
        context.send(Command::Unfold(group));
    }
    if may_split && is_open {
        let is_split = !model.is_one(group);
        let tip =
            "Split: give these layers assignments of their own. The target stores them apart.";
        if ui.selectable_label(is_split, "split").on_hover_text(tip).clicked() {
            context.send(Command::Split(group));
        }
    }
    ui.add(Label::new(struck(context, is_out, model.group_name(group))).truncate());
}

/// Text that is struck through where it names what is taken out.
fn struck(context: &ViewContext<'_>, is_out: bool, text: String) -> RichText {
    let text = RichText::new(text);
    if is_out { text.color(context.tokens.weak).strikethrough() } else { text }
}

/// A number, never cut: one that is longer than its column foresees is written smaller.
fn number(ui: &mut Ui, (column, cell): (Column, &str)) {
    let foreseen = column.digits().unwrap_or_default();
    let text = RichText::new(cell).monospace();
    let text = if cell.chars().count() > foreseen { text.small() } else { text };
    ui.add(Label::new(text).extend());
}

/// The head of a block: its tensors together.
pub(super) fn block(
    context: &ViewContext<'_>,
    model: &Model,
    (block, count): (Option<u32>, usize),
    row: &mut TableRow<'_, '_>,
) {
    let is_folded = model.list.folded.contains(&block);
    for &column in &model.list.columns {
        row.col(|ui| match column {
            Column::Layer => {
                let name = block.map_or_else(|| "no block".to_owned(), |i| format!("block {i}"));
                let sign = if is_folded { "▶" } else { "▼" };
                let head = RichText::new(format!("{sign} {name}")).strong();
                let is_out = block.is_some_and(|block| model.plan().removal().has_block(block));
                let head = if is_out { head.strikethrough() } else { head };
                ui.add(Label::new(head).truncate());
            }
            Column::Assignment => {
                ui.weak(format!("{count} tensors"));
            }
            _ => {
                if let Some(total) = total(model, block, column) {
                    ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                        ui.add(Label::new(RichText::new(total).monospace().weak()).truncate());
                    });
                }
            }
        });
    }
    row.col(|_ui| {});
    let response = row.response().on_hover_text("Click hides or shows the block's tensors.");
    if response.clicked() {
        context.send(Command::Fold(block));
    }
}

/// What the tensors of a block have together; only sums and the bits they give mean something.
fn total(model: &Model, block: Option<u32>, column: Column) -> Option<String> {
    let family = model.map.families.iter().find(|family| family.block == block)?;
    let bytes = || family.tensors.iter().map(|&layer| model.bytes(layer)).sum::<u64>();
    let weights = || -> u64 {
        let tensors = model.checkpoint.tensors();
        family.tensors.iter().map(|&layer| tensors[layer].parameters()).sum()
    };
    match column {
        Column::Parameters => Some(text::count(weights())),
        Column::Metric(metric) if metric.id == "bytes" => Some(text::bytes(bytes())),
        Column::Metric(metric) if metric.id == "bits" && weights() > 0 => {
            Some(text::bits(bytes() as f64 * 8.0 / weights() as f64))
        }
        _ => None,
    }
}
