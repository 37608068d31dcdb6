//! The card that appears under the pointer: what a layer is and what is known of it.

use egui::{Grid, Response, RichText, Ui};

use crate::document::metrics::{METRICS, Needs};
use crate::document::model::Model;
use crate::theme::text;
use crate::views::ViewContext;

/// Metrics on the card besides the one that colours the map.
const ON_THE_CARD: [&str; 6] = ["bits", "bytes", "kurtosis", "outliers", "group-peak", "rank"];

/// Shows `contents` at the pointer, unless a sheet opened over the map while the pointer rested on it.
pub(super) fn over(
    context: &ViewContext<'_>,
    response: Response,
    contents: impl FnOnce(&mut Ui),
) -> Response {
    if context.document.sheet.is_some() {
        response
    } else {
        response.on_hover_ui_at_pointer(contents)
    }
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    ui.set_max_width(320.0);
    ui.strong(model.short_name(layer));
    ui.label(RichText::new(&tensor.name).color(context.tokens.weak).small());
    let size = text::bytes(tensor.bytes());
    ui.label(format!("{} · {} · {size}", tensor.shape, tensor.type_name()));
    if model.is_removed(layer) {
        ui.colored_label(context.tokens.warning, "taken out: the export is written without it");
    } else if tensor.matrix.is_some() {
        ui.label(model.assignment(layer).label());
    }
    let is_shown = |id: &str| ON_THE_CARD.contains(&id) || id == model.metric.id;
    Grid::new("card").num_columns(2).spacing([16.0, 2.0]).show(ui, |ui| {
        for metric in METRICS.iter().filter(|metric| is_shown(metric.id)) {
            let value = (metric.value)(model, layer).map_or_else(
                || match metric.needs {
                    Needs::Measuring if tensor.matrix.is_some() => "not measured yet".to_owned(),
                    _ => "–".to_owned(),
                },
                metric.format,
            );
            let title = RichText::new(metric.title);
            let is_colour = metric.id == model.metric.id;
            ui.label(if is_colour { title.strong() } else { title.color(context.tokens.weak) });
            ui.monospace(value);
            ui.end_row();
        }
    });
}
