//! Heads of columns: sorting by click, hiding and moving by the menu, choosing among all.

use egui::{Align, Label, Layout, RichText, ScrollArea, Ui};

use crate::commands::Command;
use crate::document::columns::Column;
use crate::document::model::Model;
use crate::views::ViewContext;

pub(super) fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, column: Column) {
    let sort = model.list.sort;
    let arrow = match (sort.column == column, sort.descending) {
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
            .on_hover_cursor(egui::CursorIcon::PointingHand)
            .on_hover_ui(|ui| {
                ui.label(column.help());
                ui.weak("Click sorts, right-click moves or hides the column.");
            });
        if response.clicked() && !column.is_picture() {
            context.send(Command::SortBy(column));
        }
        response.context_menu(|ui| place(context, ui, column));
    });
}

fn place(context: &ViewContext<'_>, ui: &mut Ui, column: Column) {
    let commands = [
        ("Move left", Command::MoveColumn(column, -1)),
        ("Move right", Command::MoveColumn(column, 1)),
        ("Hide", Command::ToggleColumn(column)),
    ];
    let is_fixed = column == Column::Layer;
    for (title, command) in commands {
        if ui.add_enabled(!is_fixed, egui::Button::new(title)).clicked() {
            context.send(command);
        }
    }
    if ui.button("Usual columns").clicked() {
        context.send(Command::ResetColumns);
    }
}

/// The menu of all columns: which are shown, and in which order.
pub(super) fn menu(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let shown = &model.list.columns;
    let menu = ui.menu_button("Columns", |ui| {
        ui.set_min_width(210.0);
        let hidden = Column::all().filter(|column| !shown.contains(column));
        let all: Vec<Column> = shown.iter().copied().chain(hidden).collect();
        ScrollArea::vertical().max_height(420.0).show(ui, |ui| {
            for column in all {
                line(context, ui, column, shown.contains(&column));
            }
        });
        ui.separator();
        if ui.button("Usual columns").clicked() {
            context.send(Command::ResetColumns);
        }
        if ui.button("Copy rows as CSV").clicked() {
            context.send(Command::CopyRows);
            ui.close();
        }
    });
    menu.response.on_hover_text("Choose and order the columns.");
}

fn line(context: &ViewContext<'_>, ui: &mut Ui, column: Column, is_shown: bool) {
    ui.horizontal(|ui| {
        let mut shown = is_shown;
        let is_fixed = column == Column::Layer;
        let tick = egui::Checkbox::new(&mut shown, column.title());
        if ui.add_enabled(!is_fixed, tick).on_hover_text(column.help()).changed() {
            context.send(Command::ToggleColumn(column));
        }
        if is_shown && !is_fixed {
            let layout = Layout::right_to_left(Align::Center);
            ui.with_layout(layout, |ui| movers(context, ui, column));
        }
    });
}

fn movers(context: &ViewContext<'_>, ui: &mut Ui, column: Column) {
    for (sign, step, tip) in [("▶", 1, "Move to the right."), ("◀", -1, "Move to the left.")] {
        if ui.small_button(sign).on_hover_text(tip).clicked() {
            context.send(Command::MoveColumn(column, step));
        }
    }
}
