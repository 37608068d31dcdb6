//! What cells of all kinds have in common: their colour, their text, how they answer the pointer.

use egui::{
    Align2, Color32, FontId, Id, Mesh, Painter, Pos2, Rect, Response, Stroke, StrokeKind, Ui,
};

use crate::commands::Command;
use crate::document::model::{Model, Pane};
use crate::theme::{bits_colour, sequential, text_on};
use crate::views::model_map::card;
use crate::views::{ViewContext, how};

/// From one line of a hatched cell to the next.
const HATCH: f32 = 7.0;

/// The colour of a tensor's value of the present metric, if it is known.
fn colour(model: &Model, layer: usize) -> Option<Color32> {
    if model.metric.id == "bits" {
        model.shades.value(layer).map(bits_colour)
    } else {
        model.shades.place(layer).map(sequential)
    }
}

/// The colour of a tensor.
pub(super) fn fill(context: &ViewContext<'_>, model: &Model, layer: usize) -> Color32 {
    colour(model, layer).unwrap_or(context.tokens.unknown)
}

/// The colour to write in on a tensor's cell.
pub(super) fn ink(ui: &Ui, model: &Model, layer: usize) -> Color32 {
    colour(model, layer).map_or(ui.visuals().text_color(), text_on)
}

/// Bits, in brackets where compressed, and a lock.
pub(super) fn bits_text(model: &Model, layer: usize) -> String {
    if model.is_removed(layer) {
        return "out".to_owned();
    }
    let bits = model.nominal_bits(layer).to_string();
    let bits = if model.assignment(layer).is_keep() { bits } else { format!("[{bits}]") };
    let is_locked = model.plan().is_locked(&model.checkpoint.tensors()[layer].name);
    if is_locked { bits + "🔒" } else { bits }
}

/// Text in the middle of a cell, cut at its edges.
pub(super) fn write(painter: &Painter, rect: Rect, text: &str, ink: Color32) {
    let inside = painter.with_clip_rect(rect.intersect(painter.clip_rect()));
    inside.text(rect.center(), Align2::CENTER_CENTER, text, FontId::proportional(12.0), ink);
}

/// A cell of one layer: fill, text, frame, card, and what a click does.
pub(super) fn cell(
    context: &ViewContext<'_>,
    ui: &Ui,
    model: &Model,
    (layer, text, response): (usize, &str, Response),
) {
    let rect = response.rect;
    ui.painter().rect_filled(rect, 3.0, fill(context, model, layer));
    write(ui.painter(), rect, text, ink(ui, model, layer));
    if model.is_removed(layer) {
        strike(context, ui.painter(), rect);
        write(ui.painter(), rect, text, ui.visuals().text_color());
    }
    if model.selection.has(layer) {
        frame(context, ui.painter(), rect, 2.5);
    } else if response.hovered() {
        frame(context, ui.painter(), rect, 1.0);
    }
    let response = card::over(context, response, |ui| card::ui(context, ui, model, layer));
    response.context_menu(|ui| context.layer_menu(ui, model, layer, Pane::Map));
    if model.brush.is_some() {
        if response.contains_pointer() && is_painting(ui) {
            context.send(Command::Paint(vec![layer]));
        }
    } else if response.clicked() {
        clicked(context, &response, &[layer]);
    }
}

/// Whether the button that paints is down.
pub(super) fn is_painting(ui: &Ui) -> bool {
    ui.input(|input| input.pointer.primary_down())
}

/// Points along the way the pointer took since the last frame, so that a fast stroke leaves no gap; none while
/// nothing is painted, or where the stroke began outside `area`.
pub(super) fn stroke(ui: &Ui, area: Rect, step: f32) -> Vec<Pos2> {
    let id = Id::unique("map stroke");
    let (now, begun, is_down) = ui.input(|input| {
        let pointer = &input.pointer;
        (pointer.interact_pos(), pointer.press_origin(), pointer.primary_down())
    });
    let last = ui.data(|data| data.get_temp::<Option<Pos2>>(id)).flatten();
    let (Some(now), Some(begun), true) = (now, begun, is_down) else {
        ui.data_mut(|data| data.insert_temp::<Option<Pos2>>(id, None));
        return Vec::new();
    };
    if !area.contains(begun) {
        return Vec::new();
    }
    ui.data_mut(|data| data.insert_temp(id, Some(now)));
    let from = last.unwrap_or(begun);
    if last == Some(now) {
        return Vec::new();
    }
    let n = ((now - from).length() / step.max(1.0)).ceil().max(1.0) as usize;
    (0..=n).map(|i| from.lerp(now, i as f32 / n as f32)).collect()
}

/// Paints what lies under a stroke.
pub(super) fn paint_under(
    context: &ViewContext<'_>,
    points: &[Pos2],
    at: impl Fn(Pos2) -> Option<usize>,
) {
    let layers: std::collections::BTreeSet<usize> =
        points.iter().filter_map(|point| at(*point)).collect();
    if !layers.is_empty() {
        context.send(Command::Paint(layers.into_iter().collect()));
    }
}

/// Hatches a cell whose layer is taken out.
fn strike(context: &ViewContext<'_>, painter: &Painter, rect: Rect) {
    let inside = painter.with_clip_rect(rect.intersect(painter.clip_rect()));
    inside.rect_filled(rect, 3.0, context.tokens.unknown.gamma_multiply(0.8));
    let stroke = Stroke::new(1.5, context.tokens.weak);
    let mut x = rect.left() - rect.height();
    while x < rect.right() {
        let ends = [egui::pos2(x, rect.bottom()), egui::pos2(x + rect.height(), rect.top())];
        inside.line_segment(ends, stroke);
        x += HATCH;
    }
}

/// A frame around a selected or hovered cell.
pub(super) fn frame(context: &ViewContext<'_>, painter: &Painter, rect: Rect, width: f32) {
    let stroke = Stroke::new(width, context.tokens.selected);
    painter.rect_stroke(rect.expand(width / 2.0), 2.0, stroke, StrokeKind::Middle);
}

/// Layers as small squares that fill a rectangle, row by row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Squares {
    rect: Rect,
    columns: usize,
    pitch: egui::Vec2,
    n: usize,
}

impl Squares {
    /// `n` squares in `rect`, as large as fit.
    pub(super) fn new(rect: Rect, n: usize) -> Self {
        let aspect = (rect.width() / rect.height().max(1.0)).max(0.01);
        let columns = ((n as f32 * aspect).sqrt().ceil() as usize).clamp(1, n.max(1));
        let rows = n.div_ceil(columns).max(1);
        let pitch = egui::vec2(rect.width() / columns as f32, rect.height() / rows as f32);
        Self { rect, columns, pitch, n }
    }

    /// The place of the `i`-th.
    pub(super) fn square(&self, i: usize) -> Rect {
        let at = egui::vec2((i % self.columns) as f32, (i / self.columns) as f32);
        let gap = if self.pitch.min_elem() > 4.0 { 1.0 } else { 0.0 };
        Rect::from_min_size(self.rect.min + at * self.pitch, self.pitch - egui::Vec2::splat(gap))
    }

    /// The one at a point.
    pub(super) fn at(&self, point: egui::Pos2) -> Option<usize> {
        let place = (point - self.rect.min) / self.pitch;
        if !self.rect.contains(point) || place.x >= self.columns as f32 {
            return None;
        }
        Some(place.y as usize * self.columns + place.x as usize).filter(|&i| i < self.n)
    }

    /// Fills them, as one mesh, and frames what is selected.
    pub(super) fn paint(
        &self,
        context: &ViewContext<'_>,
        painter: &Painter,
        model: &Model,
        layers: &[usize],
    ) {
        let mut mesh = Mesh::default();
        for (i, &layer) in layers.iter().enumerate() {
            mesh.add_colored_rect(self.square(i), fill(context, model, layer));
        }
        painter.add(mesh);
        for (i, _) in layers.iter().enumerate().filter(|(_, layer)| model.is_removed(**layer)) {
            strike(context, painter, self.square(i));
        }
        let is_selected = |(_, layer): &(usize, &usize)| model.selection.has(**layer);
        for (i, _) in layers.iter().enumerate().filter(is_selected) {
            frame(context, painter, self.square(i), 1.5);
        }
    }
}

fn drag_id() -> Id {
    Id::unique("map drag")
}

/// Remembers where a drag over the map began.
pub(super) fn begin_drag(ui: &Ui, model: &Model, response: &Response) {
    if model.brush.is_some() {
        if response.hovered() {
            ui.output_mut(|output| output.cursor_icon = egui::CursorIcon::Crosshair);
        }
        return;
    }
    if response.drag_started() {
        let start = ui.input(|input| input.pointer.press_origin());
        ui.data_mut(|data| data.insert_temp(drag_id(), start));
    }
}

/// Draws the rectangle of a drag over the map; gives it when the drag ends.
pub(super) fn finished_drag(context: &ViewContext<'_>, ui: &Ui) -> Option<Rect> {
    let start = ui.data(|data| data.get_temp::<Option<Pos2>>(drag_id()))??;
    let (now, is_down) =
        ui.input(|input| (input.pointer.interact_pos(), input.pointer.primary_down()));
    let area = Rect::from_two_pos(start, now?);
    frame(context, ui.painter(), area, 1.0);
    ui.painter().rect_filled(area, 0.0, context.tokens.selected.gamma_multiply(0.12));
    if is_down {
        return None;
    }
    ui.data_mut(|data| data.insert_temp::<Option<Pos2>>(drag_id(), None));
    Some(area)
}

/// Selects layers, if there are any.
pub(super) fn select(context: &ViewContext<'_>, layers: Vec<usize>) {
    if !layers.is_empty() {
        context.send(Command::Select(layers));
    }
}

/// A click on layers selects them as the modifiers say.
pub(super) fn clicked(context: &ViewContext<'_>, response: &Response, layers: &[usize]) {
    let Some(&first) = layers.first() else {
        return;
    };
    if layers.len() > 1 {
        context.send(Command::Select(layers.to_vec()));
        return;
    }
    context.send(Command::Click(first, how(response), Pane::Map));
}
