//! The layer list: filtered, sorted, selected by click, shift-click and ctrl-click; drawn only where visible.

use egui::{Align, Label, Layout, RichText, TextEdit, Ui};
use egui_extras::{Column as Width, TableBuilder, TableRow};

use crate::commands::Command;
use crate::document::columns::Column;
use crate::document::model::Model;
use crate::document::selection::How;
use crate::theme::{ROW_HEIGHT, text};
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    filter(context, ui, model);
    ui.add_space(2.0);
    if model.rows().is_empty() {
        ui.weak("No layer matches the filter. Every word must appear in the tensor's name.");
        return;
    }
    let cursor_row = model
        .selection
        .cursor()
        .and_then(|cursor| model.rows().iter().position(|&layer| layer == cursor));
    let is_moved = cursor_moved(ui, model);
    let mut table = TableBuilder::new(ui)
        .id_salt("layers")
        .striped(true)
        .resizable(true)
        .sense(egui::Sense::click())
        .cell_layout(Layout::left_to_right(Align::Center))
        .column(Width::initial(96.0).at_least(60.0).clip(true))
        .column(Width::initial(96.0).at_least(40.0).clip(true))
        .column(Width::initial(46.0).at_least(36.0).clip(true))
        .column(Width::initial(68.0).at_least(36.0).clip(true))
        .column(Width::initial(66.0).at_least(36.0).clip(true))
        .column(Width::initial(58.0).at_least(44.0).clip(true))
        .column(Width::remainder())
        .auto_shrink(false);
    if let (Some(row), true) = (cursor_row, is_moved) {
        table = table.scroll_to_row(row, None);
    }
    table
        .header(ROW_HEIGHT, |mut header| {
            for column in Column::ALL {
                header.col(|ui| head(context, ui, model, column));
            }
            // Room for the scroll bar.
            header.col(|_ui| {});
        })
        .body(|body| {
            body.rows(ROW_HEIGHT, model.rows().len(), |mut row| {
                let layer = model.rows()[row.index()];
                list_row(context, model, layer, &mut row);
            });
        });
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
            let selected = model.selection.len();
            let count = if selected > 1 {
                format!("{selected} of {} selected", model.rows().len())
            } else {
                format!("{} tensors", text::count(model.rows().len() as u64))
            };
            ui.weak(count);
            let mut filter = model.filter.clone();
            let edit = TextEdit::singleline(&mut filter)
                .hint_text("Filter, as down or layers.3")
                .desired_width(f32::INFINITY);
            let response =
                ui.add(edit).on_hover_text("Shows tensors whose name contains every word.");
            if response.changed() {
                context.send(Command::SetFilter(filter));
            }
        });
    });
}

fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, column: Column) {
    let arrow = match (model.sort.column == column, model.sort.descending) {
        (false, _) => "",
        (true, true) => " ▼",
        (true, false) => " ▲",
    };
    let layout = if column.is_number() {
        Layout::right_to_left(Align::Center)
    } else {
        Layout::left_to_right(Align::Center)
    };
    ui.with_layout(layout, |ui| {
        let title = RichText::new(format!("{}{arrow}", column.title())).strong().small();
        let response = ui
            .add(Label::new(title).truncate().sense(egui::Sense::click()))
            .on_hover_text(column.help());
        if response.on_hover_cursor(egui::CursorIcon::PointingHand).clicked() {
            context.send(Command::SortBy(column));
        }
    });
}

fn list_row(context: &ViewContext<'_>, model: &Model, layer: usize, row: &mut TableRow<'_, '_>) {
    let tensor = &model.checkpoint.tensors()[layer];
    let is_matrix = tensor.matrix.is_some();
    row.set_selected(model.selection.has(layer));
    for column in Column::ALL {
        row.col(|ui| {
            let mut cell = column.cell(model, layer);
            if column == Column::Assignment && !is_matrix {
                "–".clone_into(&mut cell);
            }
            if column == Column::Assignment && model.plan().is_locked(&tensor.name) {
                cell = format!("🔒 {cell}");
            }
            if column.is_number() {
                ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                    ui.add(Label::new(RichText::new(cell).monospace()).truncate());
                });
            } else if column == Column::Assignment
                && model.why_dense(layer).is_some()
                && !model.target.about().is_dense
            {
                ui.add(
                    Label::new(RichText::new(format!("⚠ {cell}")).color(context.tokens.warning))
                        .truncate(),
                );
            } else if is_matrix {
                ui.add(Label::new(cell).truncate());
            } else {
                ui.add(Label::new(RichText::new(cell).color(context.tokens.weak)).truncate());
            }
        });
    }
    row.col(|_ui| {});
    let response = row.response();
    let hover = || {
        format!(
            "{}\n{} · {} · {}",
            tensor.name,
            tensor.shape,
            tensor.dtype,
            text::bytes(tensor.bytes())
        )
    };
    if response
        .clone()
        .on_hover_ui(|ui| {
            ui.label(hover());
        })
        .clicked()
    {
        let modifiers = response.ctx.input(|input| input.modifiers);
        let how = if modifiers.shift {
            How::Range
        } else if modifiers.command {
            How::Toggle
        } else {
            How::Replace
        };
        context.send(Command::Click(layer, how, model.rows().to_vec()));
    }
}
