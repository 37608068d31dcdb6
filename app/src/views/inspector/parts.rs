//! What the tabs have in common: tables of numbers, waiting and failing.

use std::sync::Arc;

use egui::{Align, Grid, Layout, RichText, Ui, vec2};

use crate::commands::Command;
use crate::document::FigureToSave;
use crate::document::metrics::metric;
use crate::document::model::Model;
use crate::figure::{Drawing, Figure, Ink, Series};
use crate::views::ViewContext;
use crate::widgets::busy::busy;
use crate::widgets::plot::{self, Answer, Options};

/// Names and values in two columns, values aligned right.
pub(super) fn numbers(context: &ViewContext<'_>, ui: &mut Ui, entries: &[(&str, String, &str)]) {
    let id = entries.first().map_or("", |(name, ..)| name);
    let grid = Grid::new(("numbers", id)).num_columns(4).min_col_width(72.0);
    grid.spacing([12.0, 2.0]).show(ui, |ui| {
        for pair in entries.chunks(2) {
            for (name, value, help) in pair {
                ui.label(RichText::new(*name).color(context.tokens.weak)).on_hover_text(*help);
                let layout = Layout::right_to_left(Align::Center);
                ui.allocate_ui_with_layout(vec2(92.0, 16.0), layout, |ui| {
                    ui.add_space(16.0);
                    ui.monospace(value).on_hover_text(*help);
                });
            }
            ui.end_row();
        }
    });
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
    answer(context, plot::plot(ui, context.tokens, id, figure, options));
}

/// The same for layers that [`legend`] lists on the same tab.
pub(super) fn plot_of_layers(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    id: &str,
    figure: &Figure,
    height: f32,
) {
    let options = Options { height, is_listed_below: true, ..Options::default() };
    answer(context, plot::plot(ui, context.tokens, id, figure, options));
}

/// Passes on what the person asked of a figure.
pub(super) fn answer(context: &ViewContext<'_>, answer: Answer) {
    if let Some((figure, format)) = answer.save {
        let drawing = Drawing::Plot(figure);
        context.send(Command::SaveFigure(Arc::new(FigureToSave { drawing, format })));
    }
    if let Some(text) = answer.copy {
        context.send(Command::Copy(text));
    }
}

/// The colours of series with their names, for those that no table has.
pub(super) fn swatches<'a>(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    series: impl Iterator<Item = &'a Series>,
) {
    ui.horizontal_wrapped(|ui| {
        for series in series {
            let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), egui::Sense::hover());
            ui.painter().rect_filled(rect, 2.0, context.tokens.ink(series.ink));
            note(context, ui, &series.name);
        }
    });
}

/// The layers laid over one another, each with its colour and main numbers.
pub(super) fn legend(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    const SHOWN: [&str; 4] = ["std", "kurtosis", "group-peak", "rank"];
    let others = model.selection.len().saturating_sub(layers.len());
    Grid::new("overlaid").num_columns(6).striped(true).spacing([10.0, 1.0]).show(ui, |ui| {
        ui.label("");
        note(context, ui, "layer");
        for id in SHOWN {
            note(context, ui, metric(id).short).on_hover_text(metric(id).help);
        }
        ui.end_row();
        for (i, &layer) in layers.iter().enumerate() {
            let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), egui::Sense::hover());
            ui.painter().rect_filled(rect, 2.0, context.tokens.ink(Ink::Data(i)));
            ui.label(model.short_name(layer));
            for metric in SHOWN.map(metric) {
                let value = (metric.value)(model, layer);
                ui.monospace(value.map_or_else(|| "–".to_owned(), metric.format));
            }
            ui.end_row();
        }
    });
    if others > 0 {
        note(context, ui, format!("{others} more are selected; eight are drawn"));
    }
}
