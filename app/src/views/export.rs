//! The export form: what will be written, where, what stands in the way, how it went.

use egui::{Align2, Key, RichText, ScrollArea, TextEdit, Ui, Window};
use lapidary_engine::target::{Entry, Manifest, Severity, Storage};

use crate::commands::Command;
use crate::document::model::Model;
use crate::document::{Foretold, Sheet, Slot};
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::{SHARDS_TIP, ViewContext, shard_choice, written};

/// Errors that are written out.
const MOST_ERRORS: usize = 4;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let (Some(Sheet::Export), Some(model)) = (context.document.sheet, &context.document.model)
    else {
        return;
    };
    let mut open = true;
    let centre = ui.ctx().content_rect().center();
    let window = Window::new("Export").open(&mut open).collapsible(false).resizable(true);
    window.pivot(Align2::CENTER_CENTER).default_pos(centre).default_width(560.0).show(
        ui.ctx(),
        |ui| {
            let about = model.target.about();
            ui.strong(about.title).on_hover_text(about.source);
            ui.label(about.summary);
            ui.add_space(6.0);
            match model.manifest() {
                Ok(manifest) => form(context, ui, model, manifest),
                Err(sentence) => {
                    ui.colored_label(context.tokens.error, sentence);
                }
            }
        },
    );
    let escaped =
        context.document.question.is_none() && ui.input(|input| input.key_pressed(Key::Escape));
    if !open || escaped {
        context.send(Command::ToggleSheet(Sheet::Export));
    }
}

fn form(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, manifest: &Manifest) {
    coverage(context, ui, model, manifest);
    let errors = model.outcome.count(Severity::Error);
    for lint in model.outcome.lints().take(errors.min(MOST_ERRORS)) {
        ui.colored_label(context.tokens.error, format!("⚠ {}; {}", lint.what, lint.mend));
    }
    if errors > MOST_ERRORS {
        ui.colored_label(context.tokens.error, format!("and {} more", errors - MOST_ERRORS));
    }
    let writes = model.target.about().writes;
    if !writes {
        ui.colored_label(context.tokens.warning, "Plans can be made for this target, but its files cannot be written yet. Sizes are forecasts from its layouts.");
    }
    ui.add_space(6.0);
    let mut is_entered = false;
    ui.horizontal(|ui| {
        let label = ui.label("Folder");
        let mut folder = context.document.export_folder.clone();
        let field =
            ui.add(TextEdit::singleline(&mut folder).desired_width(360.0)).labelled_by(label.id);
        if field.changed() {
            context.send(Command::SetExportFolder(folder));
        }
        is_entered = field.lost_focus();
        if ui.button("Browse…").clicked() {
            context.send(Command::Pick(Purpose::ExportFolder));
        }
    });
    shards(context, ui, model, manifest);
    takes(context, ui);
    let running = context.document.export.is_running();
    ui.horizontal_wrapped(|ui| {
        let enabled = errors == 0 && writes && !running;
        // Return in the field of the folder, or anywhere while nothing has the focus.
        let is_free = ui.memory(|memory| memory.focused().is_none()) || is_entered;
        let returned = enabled
            && context.document.question.is_none()
            && is_free
            && ui.input(|input| input.key_pressed(Key::Enter));
        let button = egui::Button::new(
            RichText::new(format!("Export {}", text::bytes(manifest.total_bytes()))).strong(),
        );
        if ui
            .add_enabled(enabled, button)
            .on_disabled_hover_text(
                "An export is running, or what stands above must be mended first.",
            )
            .clicked()
            || returned
        {
            context.send(Command::Export(false));
        }
        ui.weak("written under a temporary name, read back and compared before it appears");
    });
    match &context.document.export {
        Slot::Idle => {}
        Slot::Running { what, progress } => {
            ui.separator();
            ui.label(what);
            if let Some(progress) = progress {
                let share = progress.done as f32 / progress.total.max(1) as f32;
                ui.add(
                    egui::ProgressBar::new(share)
                        .text(format!("{} {}", progress.stage, progress.item)),
                );
            }
            let cancel = ui.button("Cancel");
            let cancel = cancel.on_hover_text("Layers that are finished are kept in a hidden folder beside the output; the next export to the same folder goes on with those that are still wanted, to the same bytes. It vanishes with a finished export.");
            if cancel.clicked() {
                context.send(Command::CancelExport);
            }
        }
        Slot::Failed(sentence) => {
            ui.separator();
            ui.colored_label(context.tokens.error, sentence);
        }
        Slot::Ready(exported) => {
            ui.separator();
            written(context, ui, &exported.report, &exported.folder);
        }
    }
}

/// How large a weight file may be.
fn shards(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, manifest: &Manifest) {
    ui.horizontal_wrapped(|ui| {
        ui.label("Files").on_hover_text(SHARDS_TIP);
        let chosen = model.history.current().shard_bytes;
        if let Some(bytes) = shard_choice(ui, chosen) {
            context.send(Command::SetShardBytes(bytes));
        }
        ui.weak(match manifest.files.len() {
            1 => "one file".to_owned(),
            n if has_index(manifest) => format!("{n} files with an index"),
            n => format!("{n} files"),
        });
    });
}

/// Time, disk and memory.
fn takes(context: &ViewContext<'_>, ui: &mut Ui) {
    let again = |ui: &mut Ui, label: &str| {
        let tip = "Every way to compress that the plan has is tried on some rows of one layer of each width.";
        if ui.small_button(label).on_hover_text(tip).clicked() {
            context.send(Command::Foretell);
        }
    };
    if context.document.export.is_running() {
        return;
    }
    let asked = &context.document.foretelling;
    let is_now = asked.as_ref().is_some_and(|asked| asked.is_now(context.document));
    ui.horizontal_wrapped(|ui| match &context.document.foretold {
        Slot::Ready(_) | Slot::Failed(_) if !is_now => {
            ui.weak("time, disk and memory were estimated for another plan, folder or calibration");
            again(ui, "Estimate again");
        }
        Slot::Idle => again(ui, "Estimate time, disk and memory"),
        Slot::Running { what, .. } => {
            ui.spinner();
            ui.weak(what);
        }
        Slot::Failed(sentence) => {
            ui.colored_label(context.tokens.warning, sentence);
            again(ui, "Try again");
        }
        Slot::Ready(Foretold { forecast, estimate }) => {
            ui.vertical(|ui| {
                ui.label(format!("Time: {}", text::estimated(estimate)));
                let free = text::bytes(forecast.free_bytes);
                if forecast.layers == 0 {
                    let output = text::bytes(forecast.output_bytes);
                    ui.label(format!("Disk: {output}, the output; {free} are free"));
                    ui.label("Memory: hardly any, as tensors are copied piece by piece");
                    return;
                }
                ui.label(format!(
                    "Disk: {}, the output and at most {} of finished layers while it works; {free} are free",
                    text::bytes(forecast.output_bytes + forecast.store_bytes),
                    text::bytes(forecast.store_bytes),
                ));
                let memory = text::bytes(forecast.memory_bytes);
                ui.label(format!("Memory: at most {memory} for layers that are compressed at once"));
            });
        }
    });
}

/// Whether a file says which of the others holds what.
fn has_index(manifest: &Manifest) -> bool {
    manifest.texts.iter().any(|text| text.name.ends_with(".index.json"))
}

fn coverage(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, manifest: &Manifest) {
    let count = |kind: fn(&Storage) -> bool| {
        manifest.entries.iter().filter(|entry| kind(&entry.storage)).count()
    };
    let native = count(|storage| *storage == Storage::Native);
    let copied = count(|storage| *storage == Storage::Copied);
    if manifest.entries.iter().any(Entry::is_compressed) {
        ui.label(format!("{native} layers compressed, {copied} tensors copied as they are"));
    } else {
        let tip = "Select layers and press 2 to 8, choose a starting point in Edit, or spend a budget in Allocate.";
        ui.label(format!("There is nothing to compress: the plan keeps every layer, and {copied} tensors are copied as they are.")).on_hover_text(tip);
    }
    let changed = count(|storage| matches!(storage, Storage::Changed { .. }));
    if changed > 0 {
        ui.label(format!("{changed} tensors changed with the layers beside them"));
    }
    // These are by the tensors of the open model, of which the manifest may lack some.
    let entries = &model.outcome.entries;
    let dense: Vec<_> =
        entries.iter().filter(|entry| matches!(entry.storage, Storage::Dense { .. })).collect();
    if dense.is_empty() {
        return;
    }
    ui.colored_label(
        context.tokens.warning,
        format!("{} layers compressed but stored in full:", dense.len()),
    );
    ScrollArea::vertical().max_height(110.0).show(ui, |ui| {
        for entry in dense.iter().take(200) {
            if let Storage::Dense { because } = &entry.storage {
                ui.weak(format!("{}: {because}", model.short_name(entry.tensor)));
            }
        }
    });
}
