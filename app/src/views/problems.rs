//! What is wrong with the plan for its target: each in a sentence, with what mends it.

use std::sync::Arc;

use egui::{RichText, ScrollArea, Ui};
use lapidary_engine::target::{Lint, Severity};

use crate::commands::Command;
use crate::document::model::Model;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    if let Some(defect) = &model.outcome.defect {
        ui.colored_label(context.tokens.error, defect);
        return;
    }
    let about = model.target.about();
    ui.weak(format!("For {}.", about.title)).on_hover_text(about.source);
    let lints: Vec<&Lint> = model.outcome.lints().collect();
    let can_mend = |lint: &&Lint| lint.fix.is_some() && lint.severity < Severity::Note;
    let mendable = lints.iter().copied().filter(can_mend).count();
    if mendable > 1
        && ui
            .button(format!("Mend all {mendable}"))
            .on_hover_text("Mend every error and warning that a click can, as one step.")
            .clicked()
    {
        context.send(Command::MendAll);
    }
    if lints.is_empty() {
        ui.add_space(8.0);
        let all = model.checkpoint.tensors().iter().zip(&model.measured.statistics);
        let unmeasured = all.filter(|(tensor, of)| tensor.is_readable() && of.is_none()).count();
        if unmeasured > 0 {
            ui.label(format!(
                "Nothing stands in the way so far; {unmeasured} tensors are still to be measured."
            ));
        } else {
            ui.colored_label(context.tokens.good, "✔ Nothing stands in the way.");
        }
    }
    ScrollArea::vertical().id_salt("problems").auto_shrink(false).show(ui, |ui| {
        for lint in lints {
            ui.separator();
            problem(context, ui, model, lint);
        }
        if model.outcome.is_late {
            ui.weak("looking again…");
        }
    });
}

fn problem(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, lint: &Lint) {
    let (word, colour) = match lint.severity {
        Severity::Error => ("Error", context.tokens.error),
        Severity::Warning => ("Warning", context.tokens.warning),
        Severity::Note => ("Note", context.tokens.weak),
    };
    let tip = match lint.severity {
        Severity::Error => "The plan cannot be exported like this: its files would not load.",
        Severity::Warning => "It loads, but is hardly what is meant.",
        Severity::Note => "Worth knowing.",
    };
    ui.label(RichText::new(word).strong().color(colour)).on_hover_text(tip);
    ui.label(capitalised(&lint.what) + ".");
    ui.horizontal_wrapped(|ui| {
        ui.weak(capitalised(&lint.mend) + ".");
        if lint.fix.is_some()
            && ui.button("Mend").on_hover_text("Do that, as a step that undo takes back.").clicked()
        {
            context.send(Command::Mend(Arc::new(lint.clone())));
        }
        if !lint.tensors.is_empty() {
            let tip = names(model, &lint.tensors);
            if ui.button("Show").on_hover_text(format!("Select {tip}.")).clicked() {
                context.send(Command::Select(lint.tensors.clone()));
            }
        }
    });
}

fn capitalised(text: &str) -> String {
    // A name stays as it is on disk.
    if text.split(' ').next().is_some_and(|word| word.contains('.')) {
        return text.to_owned();
    }
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The first few layers by name.
fn names(model: &Model, layers: &[usize]) -> String {
    const NAMED: usize = 6;
    let first: Vec<String> =
        layers.iter().take(NAMED).map(|&layer| model.short_name(layer)).collect();
    let more = layers.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    first.join(", ") + &more
}
