//! How a proof went: the verdict, tensors by how they were found, every fault, and how far each tensor is from its source.

use egui::{Color32, Grid, Label, RichText, ScrollArea, Ui};
use lapidary_engine::export::{Verified, VerifiedTensor};

use crate::commands::Command;
use crate::converting::verdict;
use crate::document::finished::{proof_text, tally, worst};
use crate::theme::text;
use crate::views::ViewContext;

/// Heights of the lists.
const FAULTS_HEIGHT: f32 = 150.0;
const TENSORS_HEIGHT: f32 = 150.0;
const ROW_HEIGHT: f32 = 16.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, found: &Verified) {
    let is_proved = found.faults.is_empty();
    let (mark, colour) =
        if is_proved { ("✔", context.tokens.good) } else { ("⚠", context.tokens.error) };
    let said = verdict(found);
    let mut letters = said.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    ui.colored_label(colour, format!("{mark} {first}{}.", letters.as_str()));
    counts(ui, found);
    if !is_proved {
        faults(ui, found, colour);
    }
    tensors(ui, found);
    ui.horizontal(|ui| {
        let tip = "Copy the verdict, every fault, and every tensor in columns apart by tabs.";
        if ui.button("Copy").on_hover_text(tip).clicked() {
            context.send(Command::Copy(proof_text(found)));
        }
        let tip = "Copy the same as one JSON document, as `lapidary verify --json` prints it.";
        if ui.button("Copy as JSON").on_hover_text(tip).clicked() {
            match serde_json::to_string_pretty(found) {
                Ok(json) => context.send(Command::Copy(json + "\n")),
                Err(error) => context.send(Command::Complain(error.to_string())),
            }
        }
    });
}

/// Tensors by how they were found.
fn counts(ui: &mut Ui, found: &Verified) {
    const TIPS: [&str; 4] = [
        "The same bits as in the source.",
        "Stored number by number, with other values than in the source.",
        "Stored in codes, and compared as they decode.",
        "Not in the output: a fault, but for a tied head, which loaders take from the embedding.",
    ];
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 16.0;
        for ((stored, n), tip) in tally(found).into_iter().zip(TIPS) {
            ui.monospace(format!("{n} {stored}")).on_hover_text(tip);
        }
        if let Some((tensor, error)) = worst(found) {
            ui.label(format!("largest relative error: {}", text::percent(error)))
                .on_hover_text(format!("‖W − Ŵ‖/‖W‖, measured, of {}.", tensor.name));
        }
    });
}

/// Everything that is not as it must be.
fn faults(ui: &mut Ui, found: &Verified, colour: Color32) {
    let n = found.faults.len();
    ui.strong(if n == 1 { "1 fault".to_owned() } else { format!("{n} faults") });
    ScrollArea::vertical()
        .id_salt("faults")
        .max_height(FAULTS_HEIGHT)
        .auto_shrink([false, true])
        .show(ui, |ui| {
            for fault in &found.faults {
                ui.label(RichText::new(format!("• {fault}")).color(colour));
            }
        });
    ui.label("Check that the source is the one it was made from, or write the output again.");
}

/// Tensors that are not those of the source, with their errors.
fn tensors(ui: &mut Ui, found: &Verified) {
    let shown: Vec<&VerifiedTensor> =
        found.tensors.iter().filter(|tensor| tensor.stored != "identical").collect();
    if shown.is_empty() {
        return;
    }
    ui.add_space(4.0);
    ui.weak("Tensors that are not bit for bit those of the source: error ‖W − Ŵ‖/‖W‖ measured now, and as the report says.");
    let area = ScrollArea::vertical().id_salt("proved").max_height(TENSORS_HEIGHT);
    area.auto_shrink([false, true]).show_rows(ui, ROW_HEIGHT, shown.len(), |ui, rows| {
        Grid::new("proof").num_columns(4).striped(true).show(ui, |ui| {
            for tensor in &shown[rows] {
                row(ui, tensor);
            }
        });
    });
}

fn row(ui: &mut Ui, tensor: &VerifiedTensor) {
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), text::percent);
    ui.add(Label::new(text::shortened(&tensor.name, 52))).on_hover_text(&tensor.name);
    ui.label(tensor.stored);
    ui.monospace(or_dash(tensor.relative_error));
    ui.monospace(or_dash(tensor.reported));
    ui.end_row();
}
