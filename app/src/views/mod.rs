//! What is on screen. A view reads the document and sends commands; it changes nothing, and it names no other view.

mod activity;
mod allocate;
mod calibrate;
mod evaluate;
mod experts;
mod export;
mod finished;
mod history;
mod inspector;
mod layer_list;
mod layer_menu;
mod menu_bar;
mod model_map;
mod palette;
mod problems;
mod rules;
mod sheets;
mod side_tabs;
mod size_meter;
mod welcome;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use egui::{CentralPanel, Panel, ProgressBar, Ui};
use lapidary_engine::export::{PAGE, REPORT, Report};

use crate::commands::Command;
use crate::document::evaluation::Work;
use crate::document::model::Side;
use crate::document::selection::How;
use crate::document::{Document, FigureToSave};
use crate::figure::Drawing;
use crate::theme::{Tokens, text};
use crate::widgets::busy::busy;
use crate::widgets::plot::Answer;

/// Bits that number keys, menus and brushes offer.
const BITS: std::ops::RangeInclusive<i64> = 2..=8;

/// How a click with the present modifiers changes the selection.
fn how(response: &egui::Response) -> How {
    let modifiers = response.ctx.input(|input| input.modifiers);
    match (modifiers.shift, modifiers.command) {
        (true, _) => How::Range,
        (_, true) => How::Toggle,
        _ => How::Replace,
    }
}

/// What a view may see and do.
pub struct ViewContext<'a> {
    /// Everything there is to show.
    pub document: &'a Document,
    /// Where commands are sent.
    pub commands: &'a RefCell<Vec<Command>>,
    /// The colours.
    pub tokens: &'a Tokens,
}

impl ViewContext<'_> {
    /// Asks for something to be done.
    pub fn send(&self, command: Command) {
        self.commands.borrow_mut().push(command);
    }

    /// Passes on what the person asked of a figure's files.
    fn answer(&self, answer: Answer) {
        if let Some((figure, format)) = answer.save {
            let drawing = Drawing::Plot(figure);
            self.send(Command::SaveFigure(Arc::new(FigureToSave { drawing, format })));
        }
        if let Some(text) = answer.copy {
            self.send(Command::Copy(text));
        }
    }
}

/// How far something at work is, and what is left.
fn working(ui: &mut Ui, work: &Work) {
    let Some(progress) = &work.progress else {
        busy(ui);
        ui.label("beginning…");
        return;
    };
    let share = progress.done as f32 / progress.total.max(1) as f32;
    ui.add(ProgressBar::new(share).desired_width(170.0));
    let left = progress.total.saturating_sub(progress.done);
    let mut line = format!("{}, {} left", progress.stage, text::amount(left, progress.unit));
    if let Some(seconds) = work.seconds_left() {
        line.extend([", ".to_owned(), text::secs(seconds)]);
    }
    ui.monospace(line).on_hover_text(&progress.item);
}

/// Sizes of files to choose from.
const SHARD_BYTES: [u64; 5] = [0, 500_000_000, 2_000_000_000, 5_000_000_000, 10_000_000_000];
/// What they are.
const SHARDS_TIP: &str = "The most bytes of a weight file, header included. Tensors of one layer stay in one file, but for parts of a GGUF file; a layer that is larger has a file of its own. Several files have an index, as those of transformers; parts of a GGUF file are numbered as llama-gguf-split numbers them.";

/// How large a weight file may be, to choose.
fn shard_choice(ui: &mut Ui, chosen: u64) -> Option<u64> {
    let mut clicked = None;
    for bytes in SHARD_BYTES {
        let label = if bytes == 0 { "as the source".to_owned() } else { text::bytes(bytes) };
        if ui.selectable_label(chosen == bytes, label).clicked() {
            clicked = Some(bytes);
        }
    }
    if chosen > 0 && !SHARD_BYTES.contains(&chosen) {
        ui.weak(format!("at most {}", text::bytes(chosen)));
    }
    clicked
}

/// What was written and proved, and what can be done with it.
fn written(context: &ViewContext<'_>, ui: &mut Ui, report: &Report, folder: &Path) {
    let totals = &report.totals;
    let proved = "✔ Written, read back and proved: every tensor decodes to what was computed.";
    ui.colored_label(context.tokens.good, proved);
    ui.label(format!(
        "{} bytes in {} files, {} bits per weight",
        text::count(totals.total_bytes),
        report.files.len(),
        text::bits(totals.bits_per_weight)
    ));
    let worst = report.tensors.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error));
    if let Some(worst) = worst.filter(|worst| worst.relative_error > 0.0) {
        ui.label(format!(
            "largest relative error (measured): {} at {}",
            text::percent(worst.relative_error),
            worst.name
        ));
    }
    ui.label(&report.coverage);
    ui.weak(format!("report to read in {}, as data in {REPORT}", folder.join(PAGE).display()));
    output_buttons(context, ui, folder);
}

/// What can be done with an output.
fn output_buttons(context: &ViewContext<'_>, ui: &mut Ui, path: &Path) {
    ui.horizontal(|ui| {
        let tip = "Open the output as a model, in place of the one that is open.";
        if ui.button("Open it").on_hover_text(tip).clicked() {
            context.send(Command::OpenOutput(path.to_path_buf()));
        }
        let tip = "Show the output in the system's own window of files.";
        if ui.button("Show in folder").on_hover_text(tip).clicked() {
            context.send(Command::ShowInFolder(path.to_path_buf()));
        }
        if ui.button("Copy path").on_hover_text("Copy where it lies.").clicked() {
            context.send(Command::Copy(path.display().to_string()));
        }
    });
}

/// A part of the window.
pub struct View {
    /// Its name in tests.
    pub id: &'static str,
    /// Draws it.
    pub ui: fn(&ViewContext<'_>, &mut Ui),
}

/// Every view, in reading order. Tests walk this list.
pub static VIEWS: &[View] = &[
    View { id: "menu bar", ui: menu_bar::ui },
    View { id: "side tabs", ui: side_tabs::ui },
    View { id: "layer list", ui: layer_list::ui },
    View { id: "rules", ui: rules::ui },
    View { id: "problems", ui: problems::ui },
    View { id: "history", ui: history::ui },
    View { id: "model map", ui: model_map::ui },
    View { id: "size meter", ui: size_meter::ui },
    View { id: "inspector", ui: inspector::ui },
    View { id: "activity", ui: activity::ui },
    View { id: "welcome", ui: welcome::ui },
    View { id: "export", ui: export::ui },
    View { id: "finished", ui: finished::ui },
    View { id: "calibrate", ui: calibrate::ui },
    View { id: "experts", ui: experts::ui },
    View { id: "evaluate", ui: evaluate::ui },
    View { id: "allocate", ui: allocate::ui },
    View { id: "sheets", ui: sheets::ui },
    View { id: "palette", ui: palette::ui },
];

/// Draws in the room there is, whatever the content would like: a number that arrives must not push the map from
/// under the pointer.
fn steady(ui: &mut Ui, content: impl FnOnce(&mut Ui)) {
    let room = ui.available_rect_before_wrap();
    content(&mut ui.new_child(egui::UiBuilder::new().max_rect(room)));
    ui.advance_cursor_after_rect(room);
}

/// Places the views in the window: list, map and inspector side by side, or the welcome without a model.
pub fn layout(context: &ViewContext<'_>, ui: &mut Ui) {
    Panel::top("menu bar").show(ui, |ui| menu_bar::ui(context, ui));
    Panel::bottom("activity").show(ui, |ui| activity::ui(context, ui));
    if let Some(model) = &context.document.model {
        // Side by side from 1280 pixels up: the map gets what list and inspector leave.
        let width = ui.available_width();
        let list = (0.38 * width).clamp(380.0, 620.0);
        let inspector = (0.3 * width).clamp(360.0, 480.0);
        Panel::left("layers").default_size(list).size_range(240.0..=900.0).show(ui, |ui| {
            steady(ui, |ui| {
                side_tabs::ui(context, ui);
                match model.side {
                    Side::Layers => layer_list::ui(context, ui),
                    Side::Rules => rules::ui(context, ui),
                    Side::Problems => problems::ui(context, ui),
                    Side::History => history::ui(context, ui),
                }
            });
        });
        Panel::right("inspector")
            .default_size(inspector)
            .size_range(320.0..=900.0)
            .show(ui, |ui| steady(ui, |ui| inspector::ui(context, ui)));
        Panel::bottom("size meter").show(ui, |ui| size_meter::ui(context, ui));
        CentralPanel::default().show(ui, |ui| model_map::ui(context, ui));
    } else {
        CentralPanel::default().show(ui, |ui| welcome::ui(context, ui));
    }
    export::ui(context, ui);
    finished::ui(context, ui);
    calibrate::ui(context, ui);
    experts::ui(context, ui);
    evaluate::ui(context, ui);
    allocate::ui(context, ui);
    sheets::ui(context, ui);
    palette::ui(context, ui);
}
