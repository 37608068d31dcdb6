//! Rows of the list: tensors, and the heads of blocks in a tree.

use egui::{Align, Label, Layout, RichText, Ui};
use egui_extras::TableRow;

use crate::commands::Command;
use crate::document::columns::Column;
use crate::document::model::{Model, Pane};
use crate::document::selection::How;
use crate::theme::text;
use crate::views::ViewContext;
use crate::views::layer_list::pictures::picture;

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
        ui.weak(format!("{} · {} · {size}", tensor.shape, tensor.dtype));
    });
    if hovered.clicked() {
        let modifiers = response.ctx.input(|input| input.modifiers);
        let how = match (modifiers.shift, modifiers.command) {
            (true, _) => How::Range,
            (_, true) => How::Toggle,
            _ => How::Replace,
        };
        context.send(Command::Click(layer, how, Pane::List));
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
            ui.add(Label::new(RichText::new(cell).monospace()).truncate());
        });
        return;
    }
    let is_assignment = column == Column::Assignment;
    if is_assignment && model.plan().is_locked(&tensor.name) {
        cell = format!("🔒 {cell}");
    }
    let is_stored_in_full =
        is_assignment && model.why_dense(layer).is_some() && !model.target.about().is_dense;
    let text = if is_stored_in_full {
        RichText::new(format!("⚠ {cell}")).color(context.tokens.warning)
    } else if tensor.matrix.is_some() {
        RichText::new(cell)
    } else {
        RichText::new(cell).color(context.tokens.weak)
    };
    if column == Column::Layer && model.list.is_tree {
        ui.add_space(14.0);
    }
    ui.add(Label::new(text).truncate());
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
                ui.add(Label::new(RichText::new(format!("{sign} {name}")).strong()).truncate());
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
