//! Blocks × roles: one row for each block, drawn only where visible; experts are squares inside their cell.

use egui::{Align2, FontId, Id, Pos2, Rect, ScrollArea, Sense, Ui, Vec2, WidgetInfo, pos2, vec2};

use crate::commands::Command;
use crate::document::model::{Model, Pane};
use crate::views::ViewContext;
use crate::views::model_map::{LEGEND_HEIGHT, card, paint};

const CELL_HEIGHT: f32 = 28.0;
const MAX_CELL_HEIGHT: f32 = 56.0;
const MAX_EXPERTS_HEIGHT: f32 = 160.0;
const LABEL_WIDTH: f32 = 34.0;
const MIN_CELL_WIDTH: f32 = 34.0;
const MAX_CELL_WIDTH: f32 = 120.0;
/// Side of an expert's square, where there is room.
const EXPERT: f32 = 7.0;

/// Where cells lie on the screen.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    /// Upper left corner of the first cell.
    origin: Pos2,
    /// From one cell to the next.
    pitch: Vec2,
}

impl Geometry {
    fn cell(&self, row: usize, column: usize) -> Rect {
        let at = vec2(column as f32, row as f32) * self.pitch;
        // Room on every side for the frame of a selected cell.
        Rect::from_min_size(self.origin + at, self.pitch).shrink(1.5)
    }

    /// The layer at a point.
    fn at(&self, model: &Model, point: Pos2) -> Option<usize> {
        let place = (point - self.origin) / self.pitch;
        if place.x < 0.0 || place.y < 0.0 {
            return None;
        }
        let (row, column) = (place.y as usize, place.x as usize);
        if row >= model.map.blocks.len() || column >= model.map.roles.len() {
            return None;
        }
        let layers = model.map.cell(row, column);
        let squares = paint::Squares::new(self.cell(row, column), layers.len());
        layers.get(squares.at(point)?).copied()
    }

    /// The layers whose squares or cells a rectangle touches.
    fn inside(&self, model: &Model, area: Rect) -> Vec<usize> {
        let map = &model.map;
        let range = |low: f32, high: f32, pitch: f32, n: usize| {
            let first = (low / pitch).max(0.0) as usize;
            first..((high / pitch).max(0.0).ceil() as usize).min(n)
        };
        let (low, high) = (area.min - self.origin, area.max - self.origin);
        let mut found = Vec::new();
        for row in range(low.y, high.y, self.pitch.y, map.blocks.len()) {
            for column in range(low.x, high.x, self.pitch.x, map.roles.len()) {
                let layers = map.cell(row, column);
                let squares = paint::Squares::new(self.cell(row, column), layers.len());
                let touched = (0..layers.len()).filter(|&i| squares.square(i).intersects(area));
                found.extend(touched.map(|i| layers[i]));
            }
        }
        found
    }
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let map = &model.map;
    let columns = map.roles.len();
    let room = (ui.available_width() - LABEL_WIDTH - 12.0) / columns as f32;
    let width = room.clamp(MIN_CELL_WIDTH, MAX_CELL_WIDTH);
    role_heads(ui, model, width);
    let height = ui.available_height() - LEGEND_HEIGHT;
    let pitch = vec2(width, cell_height(model, width, height));
    let area = ScrollArea::both().id_salt("map").auto_shrink([false, true]).max_height(height);
    ui.scope(|ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        area.show_rows(ui, pitch.y, map.blocks.len(), |ui, rows| {
            let size = vec2(LABEL_WIDTH + width * columns as f32, pitch.y * rows.len() as f32);
            let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
            let top = rect.top() - rows.start as f32 * pitch.y;
            let geometry = Geometry { origin: pos2(rect.left() + LABEL_WIDTH, top), pitch };
            for row in rows.clone() {
                block_row(context, ui, model, (geometry, row));
            }
            if model.brush.is_some() {
                let step = pitch.min_elem() / 2.0;
                let points = paint::stroke(ui, ui.clip_rect(), step);
                paint::paint_under(context, &points, |point| geometry.at(model, point));
            } else if let Some(area) = paint::finished_drag(context, ui) {
                paint::select(context, geometry.inside(model, area));
            }
            follow_cursor(ui, model, geometry);
            report_visible(context, model, rows);
        });
    });
}

/// Few blocks fill the room they have; many scroll; experts get room for their squares.
fn cell_height(model: &Model, width: f32, height: f32) -> f32 {
    let fitting = height / model.map.blocks.len() as f32;
    if model.map.most_in_a_cell > 1 {
        let across = (width / EXPERT).floor().max(1.0);
        let needed = (model.map.most_in_a_cell as f32 / across).ceil() * EXPERT + 4.0;
        return needed.max(fitting).clamp(CELL_HEIGHT, MAX_EXPERTS_HEIGHT);
    }
    fitting.clamp(CELL_HEIGHT, MAX_CELL_HEIGHT)
}

fn role_heads(ui: &mut Ui, model: &Model, width: f32) {
    let size = vec2(LABEL_WIDTH + width * model.map.roles.len() as f32, 18.0);
    let (rect, _) = ui.allocate_exact_size(size, Sense::hover());
    let colour = ui.visuals().text_color();
    for (column, role) in model.map.roles.iter().enumerate() {
        let x = rect.left() + LABEL_WIDTH + (column as f32 + 0.5) * width;
        let font = FontId::proportional(12.0);
        let centre = pos2(x, rect.center().y);
        ui.painter().text(centre, Align2::CENTER_CENTER, role.name(), font, colour);
    }
}

fn block_row(
    context: &ViewContext<'_>,
    ui: &Ui,
    model: &Model,
    (geometry, row): (Geometry, usize),
) {
    let first = geometry.cell(row, 0);
    let label = pos2(first.left() - 8.0, first.center().y);
    let (font, colour) = (FontId::monospace(12.0), context.tokens.weak);
    ui.painter().text(label, Align2::RIGHT_CENTER, model.map.blocks[row], font, colour);
    for column in 0..model.map.roles.len() {
        let layers = model.map.cell(row, column);
        let rect = geometry.cell(row, column);
        match layers {
            [] => {}
            [layer] => single(context, ui, model, (rect, *layer)),
            layers => experts(context, ui, model, (rect, layers)),
        }
    }
}

fn interact(ui: &Ui, model: &Model, rect: Rect, layer: usize) -> egui::Response {
    let id = Id::unique(("map cell", layer));
    let response = ui.interact(rect, id, Sense::click_and_drag());
    response.widget_info(|| {
        let name = model.short_name(layer);
        WidgetInfo::labeled(egui::Role::Button, true, format!("map {name}"))
    });
    paint::begin_drag(ui, model, &response);
    response
}

fn single(context: &ViewContext<'_>, ui: &Ui, model: &Model, (rect, layer): (Rect, usize)) {
    let response = interact(ui, model, rect, layer);
    let text = paint::bits_text(model, layer);
    paint::cell(context, ui, model, (layer, &text, response));
}

fn experts(context: &ViewContext<'_>, ui: &Ui, model: &Model, (rect, layers): (Rect, &[usize])) {
    let squares = paint::Squares::new(rect, layers.len());
    let response = interact(ui, model, rect, layers[0]);
    squares.paint(context, ui.painter(), model, layers);
    let hovered = response.hover_pos().and_then(|point| squares.at(point));
    let under = hovered.map_or(layers[0], |i| layers[i]);
    response.context_menu(|ui| context.layer_menu(ui, model, under, Pane::Map));
    let Some(i) = hovered else {
        // A click without a pointer, as an assistive technology sends it, is for all experts of the cell.
        if response.clicked() {
            paint::clicked(context, &response, layers);
        }
        return;
    };
    paint::frame(context, ui.painter(), squares.square(i), 1.0);
    let response = card::over(context, response, |ui| {
        card::ui(context, ui, model, layers[i]);
        ui.weak(format!("{} layers in this cell; double-click selects all.", layers.len()));
    });
    if model.brush.is_some() {
        // The stroke over the whole map paints.
    } else if response.double_clicked() {
        paint::clicked(context, &response, layers);
    } else if response.clicked() {
        paint::clicked(context, &response, &layers[i..=i]);
    }
}

/// Scrolls to the cursor when keys have moved it.
fn follow_cursor(ui: &Ui, model: &Model, geometry: Geometry) {
    let id = Id::unique("map cursor");
    let cursor = model.selection.cursor();
    let last = ui.data(|data| data.get_temp::<Option<usize>>(id)).flatten();
    if cursor == last {
        return;
    }
    ui.data_mut(|data| data.insert_temp(id, cursor));
    if let Some((row, column, _)) = cursor.and_then(|cursor| model.map.place(cursor)) {
        ui.scroll_to_rect(geometry.cell(row, column).expand(2.0), None);
    }
}

fn report_visible(context: &ViewContext<'_>, model: &Model, rows: std::ops::Range<usize>) {
    let columns = model.map.roles.len();
    let cells = &model.map.cells[rows.start * columns..rows.end * columns];
    let visible = || cells.iter().flatten();
    if !visible().eq(&model.visible[Pane::Map as usize]) {
        context.send(Command::Visible(Pane::Map, visible().copied().collect()));
    }
}
