//! The steps of the plan, one below the other; a click goes back or forward to one.

use egui::{RichText, ScrollArea, Ui};

use crate::commands::Command;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    let (steps, done) = model.history.steps();
    if steps.is_empty() {
        ui.weak("No step yet. Whatever changes the plan or its target is listed here, and can be taken back.");
        return;
    }
    ui.weak("Click goes to a step; those below it can be repeated.");
    ScrollArea::vertical().id_salt("history").auto_shrink(false).stick_to_bottom(true).show(
        ui,
        |ui| {
            let all = std::iter::once("As opened").chain(steps.iter().copied());
            for (at, label) in all.enumerate() {
                let mut text = RichText::new(format!("{at:>3}  {label}"));
                if at > done {
                    text = text.weak();
                }
                if ui.selectable_label(at == done, text).clicked() {
                    context.send(Command::GoTo(at));
                }
            }
        },
    );
}
