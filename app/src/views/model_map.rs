//! The model map: blocks down, roles across, filled by a metric, bits written in the cell.

use egui::{
    Align, Align2, ComboBox, FontId, Layout, Rect, ScrollArea, Sense, Stroke, StrokeKind, Ui,
    WidgetInfo, pos2, vec2,
};

use crate::commands::Command;
use crate::document::metrics::METRICS;
use crate::document::model::Model;
use crate::document::selection::How;
use crate::theme::{UNIT, bits_colour, sequential, text_on};
use crate::views::ViewContext;

const CELL_HEIGHT: f32 = 28.0;
const MAX_CELL_HEIGHT: f32 = 56.0;
const LABEL_WIDTH: f32 = 34.0;
const MAX_CELL_WIDTH: f32 = 120.0;
const TRAY_WIDTH: f32 = 118.0;
const TRAY_ROWS: f32 = 4.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let scale = Scale::new(model);
    head(context, ui, model);
    tray(context, ui, model, &scale);
    if model.map.blocks.is_empty() {
        ui.weak("This checkpoint has no blocks; its layers are in the tray above and in the list.");
        return;
    }
    let legend_height = 44.0;
    let columns = model.map.roles.len() as f32;
    let width = ((ui.available_width() - LABEL_WIDTH - 12.0) / columns).clamp(34.0, MAX_CELL_WIDTH);
    role_heads(ui, model, width);
    let height = ui.available_height() - legend_height;
    // Few blocks fill the room they have; many scroll.
    let spacing = ui.spacing().item_spacing.y;
    let cell_height =
        (height / model.map.blocks.len() as f32 - spacing).clamp(CELL_HEIGHT, MAX_CELL_HEIGHT);
    ScrollArea::both().id_salt("map").auto_shrink([false, true]).max_height(height).show_rows(
        ui,
        cell_height,
        model.map.blocks.len(),
        |ui, rows| {
            for row in rows {
                block_row(context, ui, model, &scale, (row, vec2(width, cell_height)));
            }
        },
    );
    legend(context, ui, model, &scale);
}

/// The colours of the present metric.
struct Scale {
    low: f64,
    high: f64,
    known: usize,
}

impl Scale {
    fn new(model: &Model) -> Self {
        let layers = model.map.tray.iter().chain(model.map.cells.iter().flatten());
        let values: Vec<f64> =
            layers.filter_map(|&layer| (model.metric.value)(model, layer)).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { low, high, known: values.len() }
    }

    /// The place of a value between the extremes; logarithmic metrics by the distance from the lowest.
    fn share(&self, value: f64, logarithmic: bool) -> f32 {
        let extent = self.high - self.low;
        if extent <= 0.0 {
            return 0.5;
        }
        let x = (value - self.low) / extent;
        // Evens out long tails and is defined at zero, where a plain logarithm is not.
        let x = if logarithmic { (1.0 + 99.0 * x).ln() / 100_f64.ln() } else { x };
        x as f32
    }

    fn colour(&self, model: &Model, value: f64) -> egui::Color32 {
        if model.metric.id == "bits" {
            bits_colour(value)
        } else {
            sequential(self.share(value, model.metric.logarithmic))
        }
    }
}

fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    ui.horizontal(|ui| {
        ui.strong("Model map");
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let choice = ComboBox::from_id_salt("metric").selected_text(model.metric.title);
            let choice = choice.show_ui(ui, |ui| metrics(context, ui, model));
            let label = ui.label("Colour").on_hover_text(model.metric.help);
            choice.response.labelled_by(label.id);
        });
    });
}

fn metrics(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    for metric in METRICS {
        let choice = ui.selectable_label(metric.id == model.metric.id, metric.title);
        if choice.on_hover_text(metric.help).clicked() {
            context.send(Command::SetMetric(metric.id));
        }
    }
}

/// Matrices outside the blocks.
fn tray(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, scale: &Scale) {
    if model.map.tray.is_empty() {
        return;
    }
    ScrollArea::vertical().id_salt("tray").max_height(TRAY_ROWS * CELL_HEIGHT).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().item_spacing = vec2(2.0, 2.0);
            for &layer in &model.map.tray {
                let (rect, _) =
                    ui.allocate_exact_size(vec2(TRAY_WIDTH, CELL_HEIGHT - 2.0), Sense::hover());
                let name = model.short_name(layer);
                let name = name.rsplit('.').next().unwrap_or(&name).to_owned();
                cell(
                    context,
                    ui,
                    model,
                    scale,
                    Cell { rect, layers: &[layer], caption: Some(&name) },
                );
            }
        });
    });
    ui.add_space(UNIT);
}

fn role_heads(ui: &mut Ui, model: &Model, width: f32) {
    let (rect, _) = ui.allocate_exact_size(
        vec2(LABEL_WIDTH + width * model.map.roles.len() as f32, 18.0),
        Sense::hover(),
    );
    let colour = ui.visuals().text_color();
    for (column, role) in model.map.roles.iter().enumerate() {
        let centre =
            pos2(rect.left() + LABEL_WIDTH + (column as f32 + 0.5) * width, rect.center().y);
        ui.painter().text(
            centre,
            Align2::CENTER_CENTER,
            role.name(),
            FontId::proportional(12.0),
            colour,
        );
    }
}

fn block_row(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    scale: &Scale,
    (row, size): (usize, egui::Vec2),
) {
    let columns = model.map.roles.len();
    let (rect, _) =
        ui.allocate_exact_size(vec2(LABEL_WIDTH + size.x * columns as f32, size.y), Sense::hover());
    let label = pos2(rect.left() + LABEL_WIDTH - 8.0, rect.center().y);
    let colour = context.tokens.weak;
    ui.painter().text(
        label,
        Align2::RIGHT_CENTER,
        model.map.blocks[row],
        FontId::monospace(12.0),
        colour,
    );
    for column in 0..columns {
        let layers = model.map.cell(row, column);
        if layers.is_empty() {
            continue;
        }
        let left = rect.left() + LABEL_WIDTH + column as f32 * size.x;
        let rect = Rect::from_min_size(pos2(left, rect.top()), vec2(size.x - 2.0, rect.height()));
        cell(context, ui, model, scale, Cell { rect, layers, caption: None });
    }
}

/// A rectangle of the map and the layers it stands for.
struct Cell<'a> {
    rect: Rect,
    layers: &'a [usize],
    caption: Option<&'a str>,
}

fn cell(context: &ViewContext<'_>, ui: &Ui, model: &Model, scale: &Scale, cell: Cell<'_>) {
    let Cell { rect, layers, caption } = cell;
    let first = layers[0];
    let response = ui.interact(rect, ui.scope_id().with(("cell", first)), Sense::click());
    let name = model.short_name(first);
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Button, true, format!("map {name}")));
    let values = layers.iter().filter_map(|&layer| (model.metric.value)(model, layer));
    // A cell of several experts takes the colour of the one that stands out most.
    let value = values.reduce(f64::max);
    let fill = value.map_or(context.tokens.unknown, |value| scale.colour(model, value));
    let painter = ui.painter();
    painter.rect_filled(rect, 3.0, fill);
    let bits = cell_text(model, layers);
    let text = caption.map_or_else(|| bits.clone(), |caption| format!("{caption} {bits}"));
    let colour = if value.is_some() { text_on(fill) } else { ui.visuals().text_color() };
    let inside = painter.with_clip_rect(rect);
    inside.text(rect.center(), Align2::CENTER_CENTER, text, FontId::proportional(12.0), colour);
    let width = if layers.iter().any(|&layer| model.selection.has(layer)) { 2.5 } else { 1.0 };
    if width > 1.0 || response.hovered() {
        let frame = Stroke::new(width, context.tokens.selected);
        painter.rect_stroke(rect.expand(width / 2.0), 3.0, frame, StrokeKind::Middle);
    }
    let response = response.on_hover_ui(|ui| {
        ui.label(hover_text(model, first, value));
    });
    if response.clicked() {
        click(context, ui, model, layers);
    }
}

/// Bits, in brackets where compressed; how many layers share the cell; a lock.
fn cell_text(model: &Model, layers: &[usize]) -> String {
    let first = layers[0];
    let bits = model.nominal_bits(first).to_string();
    let bits = if model.assignment(first).is_keep() { bits } else { format!("[{bits}]") };
    let several = if layers.len() > 1 { format!(" ×{}", layers.len()) } else { String::new() };
    let is_locked = model.plan().is_locked(&model.checkpoint.tensors()[first].name);
    format!("{bits}{several}{}", if is_locked { "🔒" } else { "" })
}

fn hover_text(model: &Model, layer: usize, value: Option<f64>) -> String {
    let tensor = &model.checkpoint.tensors()[layer];
    let shown = value.map_or_else(|| "not measured yet".to_owned(), model.metric.format);
    let label = model.assignment(layer).label();
    format!(
        "{}\n{} · {}\n{}: {shown}\n{label}",
        tensor.name, tensor.shape, tensor.dtype, model.metric.title
    )
}

fn click(context: &ViewContext<'_>, ui: &Ui, model: &Model, layers: &[usize]) {
    let modifiers = ui.input(|input| input.modifiers);
    if layers.len() > 1 {
        context.send(Command::Select(layers.to_vec()));
    } else if modifiers.shift {
        context.send(Command::Click(layers[0], How::Range, model.map.order()));
    } else if modifiers.command {
        context.send(Command::Click(layers[0], How::Toggle, model.map.order()));
    } else {
        context.send(Command::Click(layers[0], How::Replace, model.map.order()));
    }
}

fn legend(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, scale: &Scale) {
    ui.horizontal_wrapped(|ui| {
        if scale.known == 0 {
            ui.weak("Measuring…");
            return;
        }
        let is_bits = model.metric.id == "bits";
        let (low, high) = if is_bits { (2.0, 16.0) } else { (scale.low, scale.high) };
        ui.monospace((model.metric.format)(low));
        let (rect, response) = ui.allocate_exact_size(vec2(160.0, 12.0), Sense::hover());
        let steps = 32;
        for i in 0..steps {
            let x = i as f32 / (steps - 1) as f32;
            let fill = if is_bits {
                bits_colour(low + f64::from(x) * (high - low))
            } else {
                sequential(x)
            };
            let left = rect.left() + rect.width() * i as f32 / steps as f32;
            let piece = Rect::from_min_max(
                pos2(left, rect.top()),
                pos2(left + rect.width() / steps as f32 + 0.5, rect.bottom()),
            );
            ui.painter().rect_filled(piece, 0.0, fill);
        }
        response.on_hover_text(model.metric.help);
        ui.monospace((model.metric.format)(high));
        let kind = if model.metric.logarithmic { "log scale" } else { "linear scale" };
        for note in [kind, "number: bits, in [ ] compressed"] {
            let note = egui::RichText::new(note).color(context.tokens.weak).small();
            ui.add(egui::Label::new(note).extend());
        }
    });
}
