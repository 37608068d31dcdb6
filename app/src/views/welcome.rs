//! Where nothing is open yet: ways to open something, and what went wrong.

use egui::{RichText, TextEdit, Ui};

use crate::commands::Command;
use crate::document::Slot;
use crate::jobs::Purpose;
use crate::views::ViewContext;
use crate::widgets::busy::busy;

/// Width of the column in the middle of the window.
const WIDTH: f32 = 540.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.add_space(ui.available_height() * 0.16);
    ui.horizontal_top(|ui| {
        ui.add_space(((ui.available_width() - WIDTH) / 2.0).max(0.0));
        ui.vertical(|ui| {
            ui.set_max_width(WIDTH);
            ui.label(RichText::new("Lapidary").size(34.0).strong());
            ui.label("See what a model is made of, decide how to compress each layer, export what runtimes load.");
            ui.add_space(16.0);
            state(context, ui);
            buttons(context, ui);
            path_field(context, ui);
            ui.weak("or drop a folder or file on this window");
            ui.add_space(16.0);
            recent(context, ui);
        });
    });
}

fn buttons(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.horizontal(|ui| {
        for (title, help, command) in [
            (
                "Open folder…",
                "A Hugging Face folder: config.json and safetensors files.",
                Command::Pick(Purpose::OpenFolder),
            ),
            (
                "Open file…",
                "A lone .safetensors file, or a project (.ron).",
                Command::Pick(Purpose::OpenFile),
            ),
            (
                "Open the sample",
                "A small language model that comes with the program.",
                Command::OpenSample,
            ),
        ] {
            if ui.button(title).on_hover_text(help).clicked() {
                context.send(command);
            }
        }
    });
}

fn state(context: &ViewContext<'_>, ui: &mut Ui) {
    match &context.document.opening {
        Slot::Running { what, .. } => {
            busy(ui);
            ui.label(what);
        }
        Slot::Failed(sentence) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Slot::Idle | Slot::Ready(()) => {}
    }
    ui.add_space(8.0);
}

fn path_field(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.horizontal(|ui| {
        let mut path = context.document.typed_path.clone();
        let field = ui
            .add(TextEdit::singleline(&mut path).hint_text("or type a path").desired_width(440.0));
        if field.changed() {
            context.send(Command::TypePath(path.clone()));
        }
        let entered = field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
        let is_given = !path.trim().is_empty();
        if ui.add_enabled(is_given, egui::Button::new("Open")).clicked() || (entered && is_given) {
            context.send(Command::Open(path.trim().into()));
        }
    });
}

fn recent(context: &ViewContext<'_>, ui: &mut Ui) {
    let recent = &context.document.settings.recent;
    if recent.is_empty() {
        return;
    }
    ui.strong("Recent");
    for path in recent.iter().take(8) {
        if ui.link(path.display().to_string()).clicked() {
            context.send(Command::Open(path.clone()));
        }
    }
}
