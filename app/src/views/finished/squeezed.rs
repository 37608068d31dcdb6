//! The forms of unpacking and squeezing: what a folder holds, what it comes to, file by file.

use std::path::Path;

use egui::{ScrollArea, Ui};
use lapidary_engine::export::Squeezed;

use super::{Desk, weight_files};
use crate::commands::Command;
use crate::document::finished::Looked;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn unpack(desk: &Desk<'_>, ui: &mut Ui) {
    desk.looking(ui);
    match desk.bench.known() {
        Some(Looked::Squeezed(list)) => {
            files(ui, list);
            if let Some(base) = &list.base {
                ui.label(format!("It was squeezed against {base}, which is needed again."));
            }
        }
        Some(looked) => match looked.prospect("dense") {
            Some(Ok(prospect)) => {
                let (bytes, n) = (prospect.output_bytes, prospect.dense_layers());
                ui.label(format!(
                    "{n} layers are decoded, {} tensors copied as they are; {} bytes with what lies beside the weights: exact",
                    prospect.copied,
                    text::count(bytes)
                ));
            }
            Some(Err(sentence)) => {
                ui.colored_label(desk.context.tokens.error, sentence);
            }
            None => {
                let what = "A GGUF file is not unpacked; open it, and export it for another target from the checkpoint it was made from.";
                ui.colored_label(desk.context.tokens.warning, what);
            }
        },
        None => {}
    }
    ui.add_space(4.0);
}

pub(super) fn squeeze(desk: &Desk<'_>, ui: &mut Ui) {
    desk.looking(ui);
    if let Some(Looked::Squeezable(before, after)) = desk.bench.known() {
        let share = *after as f64 / (*before).max(1) as f64;
        ui.label(format!(
            "about {} of {}, {}",
            text::bytes(*after),
            text::bytes(*before),
            text::percent(share)
        ))
        .on_hover_text("An estimate from one chunk in 32 of every tensor. How many it is to the byte is known when it is done.");
    }
    ui.add_space(4.0);
}

/// Weight files before and squeezed.
pub(super) fn files(ui: &mut Ui, list: &Squeezed) {
    let sum = |of: fn(&lapidary_engine::export::SqueezedFile) -> u64| {
        list.files.iter().map(of).sum::<u64>()
    };
    let (before, after) = (sum(|file| file.bytes), sum(|file| file.squeezed_bytes));
    ui.label(format!(
        "{} of {}, squeezed {}: {}",
        weight_files(list.files.len()),
        text::bytes(before),
        text::bytes(after),
        text::percent(after as f64 / before.max(1) as f64)
    ));
    ScrollArea::vertical().id_salt("squeezed").max_height(80.0).show(ui, |ui| {
        for file in list.files.iter().take(200) {
            let (bytes, squeezed) = (text::bytes(file.bytes), text::bytes(file.squeezed_bytes));
            ui.weak(format!("{}: {bytes}, squeezed {squeezed}", file.name))
                .on_hover_text(format!("BLAKE3 {}", file.blake3));
        }
    });
}

/// What can be done with a squeezed folder, which is no model until it is unpacked.
pub(super) fn output(context: &ViewContext<'_>, ui: &mut Ui, path: &Path) {
    ui.horizontal(|ui| {
        let tip = "Show the output in the system's own window of files.";
        if ui.button("Show in folder").on_hover_text(tip).clicked() {
            context.send(Command::ShowInFolder(path.to_path_buf()));
        }
        if ui.button("Copy path").on_hover_text("Copy where it lies.").clicked() {
            context.send(Command::Copy(path.display().to_string()));
        }
    });
}
