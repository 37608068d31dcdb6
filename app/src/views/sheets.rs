//! Small windows over the workbench: keys, about, and questions before something is lost.

use egui::text::CCursorRange;
use egui::text_edit::TextEditState;
use egui::{Grid, Id, Key, LayerId, Order, TextEdit, Ui, Window};

use crate::commands::Command;
use crate::commands::actions::ACTIONS;
use crate::document::Sheet;
use crate::jobs::Purpose;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    match context.document.sheet {
        Some(Sheet::Keys) => sheet(context, ui, Sheet::Keys, "Keys", keys),
        Some(Sheet::About) => sheet(context, ui, Sheet::About, "About Lapidary", about),
        Some(Sheet::Told) => told(context, ui),
        Some(Sheet::Path(purpose)) => path(context, ui, purpose),
        Some(
            Sheet::Export
            | Sheet::Calibrate
            | Sheet::Experts
            | Sheet::Evaluate
            | Sheet::Allocate
            | Sheet::Finished(_)
            | Sheet::Palette,
        )
        | None => {}
    }
    question(context, ui);
}

fn sheet(context: &ViewContext<'_>, ui: &Ui, sheet: Sheet, title: &str, contents: fn(&mut Ui)) {
    let mut open = true;
    let centre = ui.ctx().content_rect().center();
    let window = Window::new(title).open(&mut open).collapsible(false).resizable(false);
    window.pivot(egui::Align2::CENTER_CENTER).default_pos(centre).show(ui.ctx(), contents);
    if !open || ui.input(|input| input.key_pressed(Key::Escape)) {
        context.send(Command::ToggleSheet(sheet));
    }
}

/// What a recipe could not say, or what of it could not be taken over.
fn told(context: &ViewContext<'_>, ui: &Ui) {
    let Some(told) = &context.document.told else {
        return;
    };
    let centre = ui.ctx().content_rect().center();
    let mut open = true;
    let window = Window::new("What could not be said").open(&mut open).collapsible(false);
    window.pivot(egui::Align2::CENTER_CENTER).default_pos(centre).default_width(520.0).show(
        ui.ctx(),
        |ui| {
            ui.label(&told.done);
            ui.add_space(4.0);
            egui::ScrollArea::vertical().max_height(360.0).show(ui, |ui| {
                for sentence in told.unsaid.iter() {
                    ui.label(format!("• {sentence}"));
                }
            });
            if ui.button("Copy").on_hover_text("Copy the list as text.").clicked() {
                context.send(Command::Copy(told.unsaid.join("\n") + "\n"));
            }
        },
    );
    if !open || ui.input(|input| input.key_pressed(Key::Escape)) {
        context.send(Command::ToggleSheet(Sheet::Told));
    }
}

fn keys(ui: &mut Ui) {
    // Room for the title and the frame, whatever the height of the window.
    let height = (ui.ctx().content_rect().height() - 96.0).max(120.0);
    egui::ScrollArea::vertical().max_height(height).show(ui, key_rows);
}

fn key_rows(ui: &mut Ui) {
    Grid::new("keys").num_columns(3).striped(true).show(ui, |ui| {
        for (action, keys) in
            ACTIONS.iter().filter_map(|action| Some((action, action.keys.as_ref()?)))
        {
            ui.monospace(ui.ctx().format_shortcut(keys));
            ui.label(action.title);
            ui.weak(action.tooltip);
            ui.end_row();
        }
        for (keys, title, help) in [
            ("Click", "Select", "In list and map; the inspector shows the layer clicked last."),
            ("Shift+Click", "Select a range", "From the last layer clicked."),
            (
                "Ctrl+Click",
                "Add or take out",
                "One layer to or from the selection; Command on macOS.",
            ),
        ] {
            ui.monospace(keys);
            ui.label(title);
            ui.weak(help);
            ui.end_row();
        }
    });
}

fn about(ui: &mut Ui) {
    ui.label(format!("Lapidary {}", env!("CARGO_PKG_VERSION")));
    ui.label("A workbench for compressing neural networks.");
    ui.weak("MIT or Apache-2.0. Nothing leaves this machine.");
}

/// Stands in for a file dialog where the system shows none.
fn path(context: &ViewContext<'_>, ui: &Ui, purpose: Purpose) {
    let centre = ui.ctx().content_rect().center();
    let id = Id::unique(("path", purpose.title()));
    // A path that is suggested is selected as the sheet opens, as soon as the field has the focus: typing replaces it.
    let to_select = id.with("to select");
    let layer = LayerId::new(Order::Middle, id);
    if !ui.memory(|memory| memory.areas().visible_last_frame(&layer)) {
        ui.data_mut(|data| data.insert_temp(to_select, true));
    }
    let window = Window::new(purpose.title()).id(id).collapsible(false).resizable(false);
    window.pivot(egui::Align2::CENTER_CENTER).default_pos(centre).show(ui.ctx(), |ui| {
        ui.weak("The system shows no file dialog here; type the path.");
        let mut path = context.document.typed_path.clone();
        let label = ui.label("Path");
        let field =
            ui.add(TextEdit::singleline(&mut path).desired_width(440.0)).labelled_by(label.id);
        // Asked before the focus is given back, which would make the field forget that it lost it.
        let entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
        let is_opening = ui.data(|data| data.get_temp::<bool>(to_select)).unwrap_or(false);
        if is_opening || ui.memory(|memory| memory.focused().is_none()) {
            field.request_focus();
        }
        if is_opening && field.has_focus() {
            let mut state = TextEditState::load(ui.ctx(), field.id).unwrap_or_default();
            state.cursor.set_char_range(Some(CCursorRange::select_all_str(&path)));
            state.store(ui.ctx(), field.id);
            ui.data_mut(|data| data.remove::<bool>(to_select));
        }
        if field.changed() {
            context.send(Command::TypePath(path.clone()));
        }
        ui.horizontal(|ui| {
            if ui.button("Cancel").clicked() {
                context.send(Command::ToggleSheet(Sheet::Path(purpose)));
            }
            let is_given = !path.trim().is_empty();
            if ui.add_enabled(is_given, egui::Button::new("OK")).clicked() || (entered && is_given)
            {
                context.send(Command::ToggleSheet(Sheet::Path(purpose)));
                context.send(Command::TakePath(purpose, path.trim().into()));
            }
        });
    });
    if ui.input(|input| input.key_pressed(Key::Escape)) {
        context.send(Command::ToggleSheet(Sheet::Path(purpose)));
    }
}

fn question(context: &ViewContext<'_>, ui: &Ui) {
    let Some(question) = &context.document.question else {
        return;
    };
    let title = if question.no.is_some() { "Work that was not saved" } else { "Are you sure?" };
    Window::new(title)
        .collapsible(false)
        .resizable(false)
        .anchor(egui::Align2::CENTER_CENTER, [0.0, 0.0])
        .show(ui.ctx(), |ui| {
            ui.set_max_width(420.0);
            ui.label(&question.text);
            ui.add_space(8.0);
            ui.horizontal(|ui| {
                let no = question.no.as_ref().map_or("Cancel", |(title, _)| title);
                if ui.button(no).clicked() {
                    context.send(Command::Answer(false));
                }
                if ui.button(question.yes).clicked() {
                    context.send(Command::Answer(true));
                }
            });
        });
    // Escape is no answer where both are deeds.
    if question.no.is_none() && ui.input(|input| input.key_pressed(Key::Escape)) {
        context.send(Command::Answer(false));
    }
}
