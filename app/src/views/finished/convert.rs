//! The form of a conversion: the target with why others cannot be, types of a GGUF file, the size of stacks, what it comes to.

use std::path::Path;

use egui::{Button, ComboBox, ScrollArea, TextEdit, Ui};
use lapidary_engine::export::Prospect;
use lapidary_engine::target::{self, PRESETS};

use super::{Desk, label, weight_files};
use crate::commands::Command;
use crate::commands::finished::Finished;
use crate::document::Sheet;
use crate::document::calibrations::Loaded;
use crate::document::finished::{Form, Looked, Task};
use crate::theme::text;
use crate::views::ViewContext;

/// Reasons that are written out.
const MOST_REASONS: usize = 4;
/// Room for every target, in points.
const TARGETS_HEIGHT: f32 = 420.0;

pub(super) fn ui(desk: &Desk<'_>, ui: &mut Ui, form: &mut Form) {
    desk.looking(ui);
    match desk.bench.known() {
        Some(looked @ Looked::Checkpoint { stored, fitted: lines, .. }) => {
            let is_gguf = stored.contents.is_none();
            if is_gguf {
                ui.horizontal(|ui| types(ui, form, looked));
                ui.horizontal(|ui| weights(ui, form, looked));
            } else {
                ui.horizontal(|ui| targets(ui, form, looked));
                ui.horizontal(|ui| size(desk, ui, form));
            }
            fitted(desk.context, ui, lines);
            match desk.bench.prospect() {
                Some(Ok(prospect)) => comes_to(desk.context, ui, prospect),
                Some(Err(sentence)) => {
                    ui.colored_label(desk.context.tokens.error, sentence);
                }
                None => {}
            }
        }
        Some(Looked::Squeezed(_)) => {
            ui.label("It is a squeezed folder.");
            let button = ui.button("Unpack it…");
            if button.on_hover_text("Make the folder as it was first.").clicked() {
                let other = &desk.context.document.finished.bench(Task::Unpack).form;
                let other = Form { input: form.input.clone(), ..other.clone() };
                desk.send(Finished::Set(Task::Unpack, Box::new(other)));
                desk.context.send(Command::ToggleSheet(Sheet::Finished(Task::Unpack)));
            }
        }
        _ => {}
    }
    ui.add_space(4.0);
}

/// What it is to become.
fn targets(ui: &mut Ui, form: &mut Form, looked: &Looked) {
    let label = label(
        ui,
        "Target",
        "The runtime and format of the output. Those that are grey cannot load what the source holds, and say why.",
    );
    let chosen = form.target.and_then(|id| target::find(id).ok());
    let title = chosen.map_or("choose one", |target| target.about().title);
    let choice = ComboBox::from_id_salt("target of a conversion").selected_text(title);
    let choice = choice.width(330.0).height(TARGETS_HEIGHT).show_ui(ui, |ui| {
        let Looked::Checkpoint { prospects, .. } = looked else { return };
        for (id, prospect) in prospects {
            let Ok(target) = target::find(id) else { continue };
            let about = target.about();
            let button = Button::selectable(form.target == Some(*id), about.title);
            let button = ui.add_enabled(prospect.is_ok(), button);
            let why_not = prospect.as_ref().err().map_or("", String::as_str);
            let button = button.on_disabled_hover_text(why_not).on_hover_ui(|ui| {
                ui.set_max_width(420.0);
                ui.label(about.summary);
                if let Ok(prospect) = prospect {
                    ui.monospace(in_short(prospect));
                }
            });
            if button.clicked() {
                form.target = Some(*id);
            }
        }
    });
    choice.response.labelled_by(label.id);
}

fn in_short(prospect: &Prospect) -> String {
    format!(
        "{}, {} layers compressed, {} in full",
        text::bytes(prospect.output_bytes),
        text::count(prospect.compressed as u64),
        text::count(prospect.dense_layers() as u64)
    )
}

/// The bytes that stacks of levels are cut to.
fn size(desk: &Desk<'_>, ui: &mut Ui, form: &mut Form) {
    let Some(Ok(prospect)) = desk.bench.prospect() else { return };
    let Some(least) = prospect.least_bytes else { return };
    let label = label(
        ui,
        "Size",
        "Stacks of levels are cut to as many as fit so many bytes of weight files, as 20MB or 1.5GiB; the levels that matter least go first, and nothing is compressed again. Empty for all levels.",
    );
    let edit = TextEdit::singleline(&mut form.size).desired_width(100.0);
    ui.add(edit.hint_text("all levels")).labelled_by(label.id);
    let most = prospect.weight_bytes;
    ui.weak(format!("from {} to {}", text::bytes(least), text::bytes(most)))
        .on_hover_text(format!("{} to {} bytes", text::count(least), text::count(most)));
}

/// The types that the tensors of a GGUF file get.
fn types(ui: &mut Ui, form: &mut Form, looked: &Looked) {
    let label = label(
        ui,
        "Types",
        "The type that the matrices of the file get, or a starting point, which gives each its own. Where blocks do not fit the rows of a tensor, it gets the nearest that do. Keys, tokenizer and all other tensors stay as they are, byte for byte.",
    );
    let preset = PRESETS.iter().find(|preset| preset.id == form.kind);
    let title = match (preset, form.kind.as_str()) {
        (Some(preset), _) => preset.title,
        (None, "") => "choose one",
        (None, kind) => kind,
    };
    let choice = ComboBox::from_id_salt("types of a GGUF file").selected_text(title);
    let choice = choice.width(330.0).height(TARGETS_HEIGHT).show_ui(ui, |ui| {
        let mut choose = |ui: &mut Ui, id: &str, title: &str, tip: &str| {
            let button = ui.selectable_label(form.kind == id, title);
            if button.on_hover_text(tip).clicked() {
                id.clone_into(&mut form.kind);
            }
        };
        for preset in PRESETS.iter().filter(|preset| preset.retypes) {
            choose(ui, preset.id, preset.title, preset.summary);
        }
        ui.separator();
        for kind in target::types() {
            choose(
                ui,
                kind,
                kind,
                "Every matrix gets this type, but routers and tables of positions.",
            );
        }
    });
    choice.response.labelled_by(label.id);
    if form.target.is_none() {
        form.target = looked.best();
    }
}

/// By what the errors of new types count.
fn weights(ui: &mut Ui, form: &mut Form, looked: &Looked) {
    let Looked::Checkpoint { calibrations, .. } = looked else { return };
    // A tick that is left from another file goes.
    let is_able = !calibrations.is_empty();
    form.is_weighted &= is_able;
    label(ui, "Errors", "By what the errors of the new types count.");
    let check = egui::Checkbox::new(&mut form.is_weighted, "count by what layers receive, of");
    let check = ui.add_enabled(is_able, check);
    check
        .on_hover_text("Errors count by the outputs of layers where the calibration has their Gram matrices, else by their inputs, as far as the calibration or importance matrix knows them.")
        .on_disabled_hover_text("No finished calibration of this file is known: open it and calibrate it, or import an importance matrix.");
    if !is_able {
        ui.weak("a calibration, of which there is none of this file");
        return;
    }
    let called = |path: &Path| {
        let found = calibrations.iter().find(|folder| folder.path() == path);
        found.map_or_else(|| path.display().to_string(), Loaded::title)
    };
    let latest = "the latest calibration".to_owned();
    let title = form.calibration.as_deref().map_or_else(|| latest.clone(), called);
    ui.add_enabled_ui(form.is_weighted, |ui| {
        let choice = ComboBox::from_id_salt("calibration of a GGUF file");
        choice.selected_text(text::shortened(&title, 40)).width(220.0).show_ui(ui, |ui| {
            ui.selectable_value(&mut form.calibration, None, latest);
            for folder in calibrations {
                let path = Some(folder.path().to_path_buf());
                ui.selectable_value(&mut form.calibration, path, Loaded::title(folder));
            }
        });
    });
}

/// What the output holds.
pub(super) fn comes_to(context: &ViewContext<'_>, ui: &mut Ui, prospect: &Prospect) {
    let layers = |n: usize| if n == 1 { "1 layer".to_owned() } else { format!("{n} layers") };
    ui.label(format!(
        "{} compressed, {} tensors copied as they are; {} bytes in {}: exact",
        layers(prospect.compressed),
        prospect.copied,
        text::count(prospect.weight_bytes),
        weight_files(prospect.weight_files)
    ));
    if prospect.dense.is_empty() {
        return;
    }
    let dense = format!("{} decoded and stored in full:", layers(prospect.dense_layers()));
    ui.colored_label(context.tokens.warning, dense);
    ScrollArea::vertical().id_salt("reasons").max_height(90.0).show(ui, |ui| {
        for (because, n) in prospect.dense.iter().take(MOST_REASONS) {
            ui.weak(format!("{}: {because}", layers(*n)));
        }
        let more = prospect.dense.len().saturating_sub(MOST_REASONS);
        if more > 0 {
            ui.weak(format!("and {more} more reasons"));
        }
    });
}

/// What does not fit as it was asked for.
pub(super) fn fitted(context: &ViewContext<'_>, ui: &mut Ui, lines: &[String]) {
    for line in lines.iter().take(MOST_REASONS) {
        ui.colored_label(context.tokens.warning, line);
    }
    if lines.len() > MOST_REASONS {
        ui.weak(format!("and {} more", lines.len() - MOST_REASONS));
    }
}
