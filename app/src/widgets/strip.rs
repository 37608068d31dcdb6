//! A strip of small cells, one row above another: what a few choices give every column, side by side.

use egui::{Align2, Color32, FontId, Rect, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use crate::theme::text_on;

const ROW: f32 = 16.0;
const GAP: f32 = 2.0;
/// Width for the names of the rows.
const NAMES: f32 = 74.0;
/// Cells at least so wide have their text in them.
const WIDE: f32 = 9.0;

/// A cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its colour.
    pub fill: Color32,
    /// What is written in it where there is room.
    pub text: String,
    /// Whether it is framed.
    pub is_marked: bool,
}

/// What was pointed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The row.
    pub row: usize,
    /// The column.
    pub column: usize,
}

/// Draws rows of cells under their names; the column that was clicked, if one was. `tip` tells of the cell under the
/// pointer.
pub fn strip(
    ui: &mut Ui,
    label: &str,
    rows: &[(String, Vec<Cell>)],
    tip: &dyn Fn(Place) -> String,
) -> Option<usize> {
    let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    if columns == 0 {
        return None;
    }
    let size = vec2(ui.available_width(), rows.len() as f32 * (ROW + GAP));
    let (rect, response) = ui.allocate_exact_size(size, Sense::click());
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Image, true, label));
    let width = (rect.width() - NAMES) / columns as f32;
    let cell_at = |place: Place| {
        let left = rect.left() + NAMES + place.column as f32 * width;
        let top = rect.top() + place.row as f32 * (ROW + GAP);
        Rect::from_min_size(pos2(left, top), vec2((width - 1.0).max(1.0), ROW))
    };
    let ink = ui.visuals().text_color();
    for (row, (name, cells)) in rows.iter().enumerate() {
        let middle = pos2(rect.left(), cell_at(Place { row, column: 0 }).center().y);
        let font = FontId::proportional(12.0);
        ui.painter().text(middle, Align2::LEFT_CENTER, name, font, ink);
        for (column, cell) in cells.iter().enumerate() {
            let area = cell_at(Place { row, column });
            ui.painter().rect_filled(area, 1.0, cell.fill);
            if width >= WIDE {
                let font = FontId::monospace(10.0);
                let ink = text_on(cell.fill);
                ui.painter().text(area.center(), Align2::CENTER_CENTER, &cell.text, font, ink);
            }
            if cell.is_marked {
                let frame = Stroke::new(1.5, ink);
                ui.painter().rect_stroke(area, 1.0, frame, StrokeKind::Inside);
            }
        }
    }
    let pointed = response.hover_pos().and_then(|at| {
        let column = ((at.x - rect.left() - NAMES) / width).floor();
        let row = ((at.y - rect.top()) / (ROW + GAP)).floor();
        let is_inside = column >= 0.0 && (column as usize) < columns && (row as usize) < rows.len();
        is_inside.then_some(Place { row: row as usize, column: column as usize })
    });
    let clicked = response.clicked();
    if let Some(place) = pointed {
        response.on_hover_text_at_pointer(tip(place));
    }
    pointed.filter(|_| clicked).map(|place| place.column)
}
