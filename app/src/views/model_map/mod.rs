//! The model map: blocks down, roles across, experts inside a cell; or a treemap by bytes. Filled by a metric.

mod blocks;
mod brush;
mod card;
mod legend;
mod paint;
mod tray;
mod treemap;

use egui::{Align, ComboBox, Layout, Ui, WidgetInfo};

use crate::commands::Command;
use crate::document::metrics::METRICS;
use crate::document::model::{MapMode, Model};
use crate::document::shades::{CLIPS, Scaling};
use crate::views::ViewContext;

/// Width from which everything above the map stands in one line.
const ONE_LINE: f32 = 400.0;
/// Room for the legend under the map.
const LEGEND_HEIGHT: f32 = 44.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    head(context, ui, model);
    brush::ui(context, ui, model);
    match model.map_mode {
        MapMode::Bytes => treemap::ui(context, ui, model),
        MapMode::Blocks => {
            tray::ui(context, ui, model);
            if model.map.blocks.is_empty() {
                ui.weak("This checkpoint has no blocks; its layers are in the tray above and in the list.");
            } else {
                blocks::ui(context, ui, model);
            }
        }
    }
    legend::ui(context, ui, model);
}

fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let is_wide = ui.available_width() >= ONE_LINE;
    ui.horizontal(|ui| {
        ui.strong("Model map");
        for (mode, title, tip) in [
            (MapMode::Blocks, "Blocks", "Blocks down, roles across, experts inside a cell (M)."),
            (MapMode::Bytes, "Bytes", "A treemap: areas are bytes in the export (M)."),
        ] {
            let choice = ui.selectable_label(model.map_mode == mode, title).on_hover_text(tip);
            if choice.clicked() {
                context.send(Command::SetMapMode(mode));
            }
        }
        if is_wide {
            let layout = Layout::right_to_left(Align::Center);
            ui.with_layout(layout, |ui| colours(context, ui, model));
        }
    });
    if !is_wide {
        ui.horizontal(|ui| colours(context, ui, model));
    }
}

/// The metric that colours the map, and how.
fn colours(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let scale = ui.menu_button("Scale", |ui| scaling(context, ui, model));
    scale.response.on_hover_text("Linear or logarithmic colours, and clipping of extremes.");
    let choice = ComboBox::from_id_salt("metric").width(130.0).selected_text(model.metric.title);
    let choice = choice.height(400.0).show_ui(ui, |ui| metrics(context, ui, model));
    choice
        .response
        .widget_info(|| WidgetInfo::labeled(egui::Role::ComboBox, true, "Colour of the map"));
    choice.response.on_hover_text(model.metric.help);
}

fn metrics(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    for metric in METRICS {
        let choice = ui.selectable_label(metric.id == model.metric.id, metric.title);
        if choice.on_hover_text(metric.help).clicked() {
            context.send(Command::SetMetric(metric.id));
        }
    }
}

fn scaling(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let now = model.scaling;
    for (logarithmic, title) in
        [(None, "As the metric suggests"), (Some(false), "Linear"), (Some(true), "Logarithmic")]
    {
        if ui.radio(now.logarithmic == logarithmic, title).clicked() {
            context.send(Command::SetScaling(Scaling { logarithmic, ..now }));
        }
    }
    ui.separator();
    for clip in CLIPS {
        let title =
            if clip == 100.0 { "All values".to_owned() } else { format!("Clip to {clip} %") };
        let tip = "Values beyond this percentile take the colours of the ends, so that a few extremes do not hide the rest.";
        if ui.radio(now.clip == clip, title).on_hover_text(tip).clicked() {
            context.send(Command::SetScaling(Scaling { clip, ..now }));
        }
    }
}
