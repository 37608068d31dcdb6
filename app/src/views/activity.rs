//! The status bar: what was said, what is at work, how much is left, and a way to stop it.

use egui::{Align, Layout, ProgressBar, RichText, Ui};

use crate::commands::Command;
use crate::commands::finished::Finished;
use crate::document::calibrations::Ask;
use crate::document::{Document, Slot};
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::busy::busy;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.horizontal(|ui| {
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            measuring(context, ui);
            exporting(context, ui);
            finishing(context, ui);
            calibrating(context, ui);
            if let Slot::Running { what, .. } = &context.document.opening {
                ui.label(what);
                busy(ui);
            }
            ui.with_layout(Layout::left_to_right(Align::Center), |ui| {
                notice(context, ui);
            });
        });
    });
}

fn notice(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(notice) = &context.document.notice else {
        ui.weak(hint(context.document));
        return;
    };
    if ui.small_button("×").on_hover_text("Clear this line.").clicked() {
        context.send(Command::Dismiss);
    }
    let mut line = RichText::new(&notice.text);
    if notice.is_error {
        line = line.color(context.tokens.error);
    }
    ui.add(egui::Label::new(line).truncate()).on_hover_text(&notice.text);
}

fn hint(document: &Document) -> &'static str {
    if document.model.is_some() {
        "Select layers and press 2 to 8 for bits, 0 to keep, L to lock. F1 shows all keys."
    } else {
        "Open a model to begin. F1 shows all keys."
    }
}

fn measuring(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let (done, all) = model.progress();
    if done == all {
        return;
    }
    let stopped = context.document.measuring_stopped;
    let (symbol, tip) = if stopped {
        ("▶", "Go on measuring.")
    } else {
        ("×", "Stop measuring; what is known stays.")
    };
    if ui.small_button(symbol).on_hover_text(tip).clicked() {
        context.send(Command::ToggleMeasuring);
    }
    ui.add(ProgressBar::new(done as f32 / all as f32).desired_width(90.0));
    let verb = if stopped { "measured" } else { "measuring" };
    ui.label(format!("{verb} {done}/{all}")).on_hover_text("Statistics of every tensor, then how the weights of every matrix are arranged, then singular values; what is selected and on screen first.");
}

fn calibrating(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(calibrations) = context.document.model.as_ref().map(|model| &model.calibrations)
    else {
        return;
    };
    let Slot::Running { what, progress } = &calibrations.run else {
        return;
    };
    let cancel = ui.small_button("× Cancel calibration");
    if cancel.on_hover_text("Finished blocks are kept; Calibrate goes on there.").clicked() {
        context.send(Command::Calibration(Ask::Cancel));
    }
    let Some(progress) = progress else {
        ui.label(what);
        busy(ui);
        return;
    };
    ui.add(ProgressBar::new(share(progress)).desired_width(90.0));
    let done = text::amount(progress.done, progress.unit);
    let left = calibrations.seconds_left();
    let left = left.map_or_else(String::new, |left| format!(", {} left", text::secs(left)));
    ui.label(format!("{} {done}{left}", progress.stage)).on_hover_text(&progress.item);
}

fn share(progress: &lapidary_engine::Progress) -> f32 {
    progress.done as f32 / progress.total.max(1) as f32
}

fn exporting(context: &ViewContext<'_>, ui: &mut Ui) {
    if let Slot::Running { progress, .. } = &context.document.export {
        if ui.small_button("× Cancel export").clicked() {
            context.send(Command::CancelExport);
        }
        writing(ui, progress.as_ref());
    }
}

/// A conversion, or whatever else is done with a finished checkpoint.
fn finishing(context: &ViewContext<'_>, ui: &mut Ui) {
    let finished = &context.document.finished;
    let Some(task) = finished.at_work() else { return };
    let Slot::Running { progress, .. } = &finished.bench(task).run else { return };
    if ui.small_button("× Cancel").on_hover_text(format!("{} is at work.", task.noun())).clicked()
    {
        context.send(Command::Finished(Finished::Cancel));
    }
    writing(ui, progress.as_ref());
}

fn writing(ui: &mut Ui, progress: Option<&lapidary_engine::Progress>) {
    let Some(progress) = progress else {
        busy(ui);
        return;
    };
    ui.add(ProgressBar::new(share(progress)).desired_width(90.0));
    let left = progress.total.saturating_sub(progress.done);
    ui.label(format!("{}, {} left", progress.stage, text::amount(left, progress.unit)))
        .on_hover_text(&progress.item);
}
