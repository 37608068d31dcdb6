//! The tray above the blocks: embeddings and the head by name, norms and odd tensors as small squares.

use egui::{Rect, ScrollArea, Sense, Ui, WidgetInfo, vec2};

use crate::document::model::Model;
use crate::theme::UNIT;
use crate::views::ViewContext;
use crate::views::model_map::{card, paint};

const CELL: egui::Vec2 = vec2(118.0, 26.0);
const ROWS: f32 = 4.0;
/// Side of a small square.
const SQUARE: f32 = 11.0;
/// Lines of small squares before they scroll.
const SQUARE_ROWS: f32 = 3.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    if !model.map.tray.is_empty() {
        let scroll = ScrollArea::vertical().id_salt("tray").max_height(ROWS * (CELL.y + 2.0));
        scroll.show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                ui.spacing_mut().item_spacing = vec2(2.0, 2.0);
                for &layer in &model.map.tray {
                    named(context, ui, model, layer);
                }
            });
        });
    }
    if !model.map.odd.is_empty() {
        odd(context, ui, model);
    }
    ui.add_space(UNIT);
}

fn named(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let (_, response) = ui.allocate_exact_size(CELL, Sense::click());
    let name = model.short_name(layer);
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Button, true, format!("map {name}")));
    let caption = name.rsplit('.').next().unwrap_or(&name);
    let text = format!("{caption} {}", paint::bits_text(model, layer));
    paint::cell(context, ui, model, (layer, &text, response));
}

/// Norms, biases and odd tensors: squares in the checkpoint's order.
fn odd(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let layers = &model.map.odd;
    ui.horizontal_top(|ui| {
        ui.spacing_mut().item_spacing.x = UNIT;
        ui.add(egui::Label::new(egui::RichText::new("norms, others").small().weak()).extend())
            .on_hover_text("Tensors that are no weight matrices: norms, biases, and what has no known role. They are exported as they are.");
        let width = ui.available_width() - 12.0;
        let columns = ((width / SQUARE) as usize).max(1);
        let rows = layers.len().div_ceil(columns);
        let size = vec2(columns.min(layers.len()) as f32 * SQUARE, rows as f32 * SQUARE);
        let show = |ui: &mut Ui| {
            let (rect, response) = ui.allocate_exact_size(size, Sense::click());
            squares(context, ui, model, (rect, columns), &response);
        };
        if rows as f32 <= SQUARE_ROWS {
            show(ui);
        } else {
            let height = SQUARE_ROWS * SQUARE;
            ui.allocate_ui(vec2(width, height), |ui| {
                let scroll = ScrollArea::vertical().id_salt("odd").max_height(height);
                scroll.auto_shrink([false, true]).show(ui, show);
            });
        }
    });
}

fn squares(
    context: &ViewContext<'_>,
    ui: &Ui,
    model: &Model,
    (rect, columns): (Rect, usize),
    response: &egui::Response,
) {
    let layers = &model.map.odd;
    let label = format!("map of {} norms and others", layers.len());
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Button, true, label.clone()));
    let visible = ui.clip_rect();
    let mut mesh = egui::Mesh::default();
    let square = |i: usize| {
        let at = vec2((i % columns) as f32, (i / columns) as f32) * SQUARE;
        Rect::from_min_size(rect.min + at, vec2(SQUARE - 1.0, SQUARE - 1.0))
    };
    for (i, &layer) in layers.iter().enumerate() {
        let place = square(i);
        if !visible.intersects(place) {
            continue;
        }
        mesh.add_colored_rect(place, paint::fill(context, model, layer));
        if model.selection.has(layer) {
            paint::frame(context, ui.painter(), place, 1.5);
        }
    }
    ui.painter().add(mesh);
    let Some(point) = response.hover_pos() else {
        return;
    };
    let place = (point - rect.min) / SQUARE;
    let at = place.y as usize * columns + place.x as usize;
    let Some(&layer) = layers.get(at).filter(|_| (place.x as usize) < columns) else {
        return;
    };
    let response = card::over(context, response.clone(), |ui| card::ui(context, ui, model, layer));
    if response.clicked() {
        paint::clicked(context, &response, &[layer]);
    }
}
