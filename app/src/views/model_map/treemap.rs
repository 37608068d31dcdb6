//! The model by bytes: a treemap whose areas are sizes in the export.

use std::sync::Arc;

use egui::{Id, Mesh, Rect, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use crate::document::model::{Model, Pane};
use crate::document::treemap::{Area, Treemap};
use crate::views::ViewContext;
use crate::views::model_map::{LEGEND_HEIGHT, card, paint};

/// Tiles narrower or lower than this are not written on.
const LEAST_WRITTEN: egui::Vec2 = vec2(58.0, 15.0);

/// A layout with what it was made for.
#[derive(Clone)]
struct Kept {
    sizes: u64,
    size: (u32, u32),
    treemap: Arc<Treemap>,
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let size = vec2(ui.available_width(), (ui.available_height() - LEGEND_HEIGHT).max(40.0));
    let (rect, response) = ui.allocate_exact_size(size, Sense::click_and_drag());
    paint::begin_drag(ui, model, &response);
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Button, true, "map by bytes"));
    let treemap = laid_out(ui, model, rect);
    let place = |area: &Area| {
        let corner = rect.min + vec2(area.left, area.top);
        Rect::from_min_size(corner, vec2(area.width, area.height))
    };
    let mut mesh = Mesh::default();
    for tile in &treemap.tiles {
        let fill = paint::fill(context, model, tile.tensor);
        mesh.add_colored_rect(place(&tile.area).shrink(0.5), fill);
    }
    ui.painter().add(mesh);
    for tile in &treemap.tiles {
        let place = place(&tile.area);
        if model.selection.has(tile.tensor) {
            paint::frame(context, ui.painter(), place.shrink(1.5), 2.0);
        }
        if place.width() >= LEAST_WRITTEN.x && place.height() >= LEAST_WRITTEN.y {
            let ink = paint::ink(ui, model, tile.tensor);
            let text = model.short_name(tile.tensor);
            let text = format!("{} {}", text, paint::bits_text(model, tile.tensor));
            paint::write(ui.painter(), place, &text, ink);
        }
    }
    let stroke = Stroke::new(1.0, context.tokens.weak);
    for (_, area) in &treemap.blocks {
        ui.painter().rect_stroke(place(area), 1.0, stroke, StrokeKind::Inside);
    }
    if model.brush.is_some() {
        let points = paint::stroke(ui, rect, LEAST_WRITTEN.y);
        paint::paint_under(context, &points, |point| {
            treemap.at(point.x - rect.left(), point.y - rect.top())
        });
    } else if let Some(area) = paint::finished_drag(context, ui) {
        let touched = treemap.tiles.iter().filter(|tile| place(&tile.area).intersects(area));
        paint::select(context, touched.map(|tile| tile.tensor).collect());
    }
    answer(context, &response, model, (&treemap, rect));
}

fn answer(
    context: &ViewContext<'_>,
    response: &egui::Response,
    model: &Model,
    (treemap, rect): (&Treemap, Rect),
) {
    let tile = response.hover_pos().and_then(|point| {
        let point = pos2(point.x - rect.left(), point.y - rect.top());
        treemap.at(point.x, point.y)
    });
    if let Some(layer) = tile {
        card::over(context, response.clone(), |ui| card::ui(context, ui, model, layer));
        response.context_menu(|ui| context.layer_menu(ui, model, layer, Pane::Map));
        if response.clicked() && model.brush.is_none() {
            paint::clicked(context, response, &[layer]);
        }
    }
}

/// The layout for the present sizes, kept until plan, target or room change.
fn laid_out(ui: &Ui, model: &Model, rect: Rect) -> Arc<Treemap> {
    let id = Id::unique("treemap");
    let sizes = model.outcome.revision;
    let size = (rect.width() as u32, rect.height() as u32);
    let kept = ui.data(|data| data.get_temp::<Kept>(id));
    if let Some(kept) = kept.filter(|kept| (kept.sizes, kept.size) == (sizes, size)) {
        return kept.treemap;
    }
    let bytes = |layer: usize| model.bytes(layer);
    let treemap = Arc::new(Treemap::new(&model.map, bytes, (rect.width(), rect.height())));
    ui.data_mut(|data| {
        data.insert_temp(id, Kept { sizes, size, treemap: treemap.clone() });
    });
    treemap
}
