//! What the tabs have in common: tables of numbers, waiting and failing.

use std::sync::Arc;

use egui::{Align, Color32, Grid, Layout, RichText, TextStyle, Ui, vec2};

use crate::commands::Command;
use crate::document::metrics::metric;
use crate::document::model::Model;
use crate::figure::{Figure, Ink, Series};
use crate::views::ViewContext;
use crate::widgets::busy::busy;
use crate::widgets::plot::{self, Options};

/// Side of a square that stands for a colour.
const SWATCH: f32 = 10.0;
/// Room between names and values.
const GAP: f32 = 12.0;
/// What a value takes at most.
const VALUE_WIDTH: f32 = 108.0;

/// Names and values in two columns, values aligned right. They take no more than the width there is, so that numbers
/// that arrive push nothing aside.
pub(super) fn numbers(context: &ViewContext<'_>, ui: &mut Ui, entries: &[(&str, String, &str)]) {
    let id = entries.first().map_or("", |(name, ..)| name);
    let names: f32 = (0..2).map(|column| widest(ui, entries, column)).sum();
    let left = ui.available_width() - names - 3.0 * GAP;
    let value_width = (left / 2.0).floor().min(VALUE_WIDTH);
    let grid = Grid::new(("numbers", id)).num_columns(4).min_col_width(0.0);
    grid.spacing([GAP, 2.0]).show(ui, |ui| {
        for pair in entries.chunks(2) {
            for (name, value, help) in pair {
                ui.label(RichText::new(*name).color(context.tokens.weak)).on_hover_text(*help);
                aligned_right(ui, value_width, |ui| ui.monospace(value)).on_hover_text(*help);
            }
            ui.end_row();
        }
    });
}

/// One cell of a column that is aligned right.
fn aligned_right(
    ui: &mut Ui,
    width: f32,
    content: impl FnOnce(&mut Ui) -> egui::Response,
) -> egui::Response {
    let layout = Layout::right_to_left(Align::Center);
    let cell = |ui: &mut Ui| {
        ui.set_min_width(width);
        content(ui)
    };
    ui.allocate_ui_with_layout(vec2(width, 16.0), layout, cell).inner
}

/// Width of the longest name in one of the two columns.
fn widest(ui: &Ui, entries: &[(&str, String, &str)], column: usize) -> f32 {
    let font = TextStyle::Body.resolve(ui.style());
    let width = |name: &str| {
        let galley = ui.painter().layout_no_wrap(name.to_owned(), font.clone(), Color32::WHITE);
        galley.size().x.ceil()
    };
    let names = entries.iter().skip(column).step_by(2).map(|(name, ..)| width(name));
    names.fold(0.0, f32::max)
}

/// The value of something measured; else says that it is being computed, or why it cannot be.
pub(super) fn known<'a, T>(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    measured: Option<&'a Result<Arc<T>, String>>,
    doing: &str,
) -> Option<&'a Arc<T>> {
    match measured {
        Some(Ok(value)) => return Some(value),
        Some(Err(sentence)) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        None => waiting(context, ui, doing),
    }
    None
}

/// Says what is at work, or that it was stopped.
pub(super) fn waiting(context: &ViewContext<'_>, ui: &mut Ui, doing: &str) {
    ui.horizontal(|ui| {
        if context.document.measuring_stopped {
            ui.weak("Measuring is stopped; start it again in the status bar.");
        } else {
            busy(ui);
            ui.label(doing);
        }
    });
}

/// A switch between the layer as it is and what its assignment makes of it; the space bar does the same.
pub(super) fn before_after(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let Some(layer) = model.selection.cursor() else {
        return;
    };
    if model.assignment(layer).is_keep() {
        return;
    }
    ui.spacing_mut().item_spacing.x = 2.0;
    for (after, title) in [(false, "before"), (true, "after")] {
        let choice = ui.selectable_label(model.look.after == after, title);
        if choice
            .on_hover_text("The weights as they are, or after the assignment. Space switches.")
            .clicked()
            && model.look.after != after
        {
            context.send(Command::ToggleAfter);
        }
    }
}

/// A line of small secondary text.
pub(super) fn note(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    text: impl Into<String>,
) -> egui::Response {
    ui.label(RichText::new(text).color(context.tokens.weak).small())
}

/// Draws a figure and passes on what the person asks of it.
pub(super) fn plot(context: &ViewContext<'_>, ui: &mut Ui, id: &str, figure: &Figure, height: f32) {
    let options = Options { height, ..Options::default() };
    context.answer(plot::plot(ui, context.tokens, id, figure, options));
}

/// The same for series that [`legend`] or [`swatches`] lists on the same tab.
pub(super) fn plot_of_layers(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    id: &str,
    figure: &Figure,
    height: f32,
) {
    let options = Options { height, is_listed_below: true, ..Options::default() };
    context.answer(plot::plot(ui, context.tokens, id, figure, options));
}

/// The colours of series with their names, for those that no table has.
pub(super) fn swatches<'a>(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    series: impl Iterator<Item = &'a Series>,
) {
    ui.horizontal_wrapped(|ui| {
        for series in series {
            // One widget for both, so that lines break between them and not within.
            let text = RichText::new(&series.name).color(context.tokens.weak).small();
            let name = egui::WidgetText::from(text).into_galley(
                ui,
                Some(egui::TextWrapMode::Extend),
                f32::INFINITY,
                TextStyle::Small,
            );
            let size = vec2(SWATCH + 4.0 + name.size().x, name.size().y.max(SWATCH));
            let (rect, response) = ui.allocate_exact_size(size, egui::Sense::hover());
            let dot = egui::Rect::from_min_size(
                egui::pos2(rect.min.x, rect.center().y - SWATCH / 2.0),
                vec2(SWATCH, SWATCH),
            );
            ui.painter().rect_filled(dot, 2.0, context.tokens.ink(series.ink));
            let at = egui::pos2(dot.max.x + 4.0, rect.center().y - name.size().y / 2.0);
            ui.painter().galley(at, name, context.tokens.weak);
            response
                .widget_info(|| egui::WidgetInfo::labeled(egui::Role::Label, true, &series.name));
        }
    });
}

/// The layers laid over one another, each with its colour and main numbers.
pub(super) fn legend(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    const SHOWN: [&str; 4] = ["std", "kurtosis", "group-peak", "rank"];
    const SPACE: f32 = 8.0;
    const DOT: f32 = 10.0;
    const VALUE: f32 = 64.0;
    let others = model.selection.len().saturating_sub(layers.len());
    let name_width = ui.available_width() - DOT - 4.0 * VALUE - 5.0 * SPACE;
    let grid = Grid::new("overlaid").num_columns(6).striped(true).min_col_width(0.0);
    grid.spacing([SPACE, 1.0]).show(ui, |ui| {
        ui.label("");
        note(context, ui, "layer");
        for metric in SHOWN.map(metric) {
            aligned_right(ui, VALUE, |ui| note(context, ui, metric.short))
                .on_hover_text(metric.help);
        }
        ui.end_row();
        for (i, &layer) in layers.iter().enumerate() {
            let (rect, _) = ui.allocate_exact_size(vec2(DOT, DOT), egui::Sense::hover());
            ui.painter().rect_filled(rect, 2.0, context.tokens.ink(Ink::Data(i)));
            ui.scope(|ui| {
                ui.set_max_width(name_width);
                ui.add(egui::Label::new(model.short_name(layer)).truncate());
            });
            for metric in SHOWN.map(metric) {
                let value = (metric.value)(model, layer);
                let value = value.map_or_else(|| "–".to_owned(), metric.format);
                aligned_right(ui, VALUE, |ui| ui.monospace(value));
            }
            ui.end_row();
        }
    });
    if others > 0 {
        note(context, ui, format!("{others} more are selected; eight are drawn"));
    }
}
