//! Where nothing is open yet: ways to open something, and what went wrong.

use egui::{Align, Layout, RichText, TextEdit, Ui};

use crate::commands::Command;
use crate::document::Slot;
use crate::jobs::Purpose;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.add_space(ui.available_height() * 0.12);
    ui.with_layout(Layout::top_down(Align::Center), |ui| {
        ui.label(RichText::new("Lapidary").size(34.0).strong());
        ui.label("See what a model is made of, decide how to compress each layer, export what runtimes load.");
        ui.add_space(20.0);
        state(context, ui);
        ui.set_max_width(520.0);
        ui.horizontal(|ui| {
            if ui.button("Open folder…").on_hover_text("A Hugging Face folder: config.json and safetensors files.").clicked() {
                context.send(Command::Pick(Purpose::OpenFolder));
            }
            if ui.button("Open file…").on_hover_text("A lone .safetensors file, or a project (.ron).").clicked() {
                context.send(Command::Pick(Purpose::OpenFile));
            }
            if ui.button("Open the sample").on_hover_text("A small language model that comes with the program.").clicked() {
                context.send(Command::OpenSample);
            }
        });
        path_field(context, ui);
        ui.weak("or drop a folder or file on this window");
        ui.add_space(20.0);
        recent(context, ui);
    });
}

fn state(context: &ViewContext<'_>, ui: &mut Ui) {
    match &context.document.opening {
        Slot::Running { what, .. } => {
            ui.spinner();
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
        let mut path = context.document.open_path.clone();
        let field = ui.add(
            TextEdit::singleline(&mut path)
                .hint_text("or type a path")
                .desired_width(440.0),
        );
        if field.changed() {
            context.send(Command::SetOpenPath(path.clone()));
        }
        let entered = field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
        let is_given = !path.trim().is_empty();
        if ui
            .add_enabled(is_given, egui::Button::new("Open"))
            .clicked()
            || (entered && is_given)
        {
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
