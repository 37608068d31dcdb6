//! The picture of a matrix: from the whole down to single weights with their values and places.

use std::ops::Range;
use std::sync::Arc;

use egui::{
    Align2, Color32, ColorImage, ComboBox, FontId, Id, Pos2, Rect, Response, Sense, TextureHandle,
    TextureOptions, Ui, WidgetInfo, pos2, vec2,
};
use lapidary_engine::statistics::Pooled;

use crate::commands::Command;
use crate::document::FigureToSave;
use crate::document::look::{Quantity, Seen};
use crate::document::model::Model;
use crate::figure::{Drawing, Format, HeatFigure};
use crate::theme::{diverging, sequential, text, text_on};
use crate::views::ViewContext;
use crate::views::inspector::parts::{before_after, note, waiting};
use crate::widgets::zoom::Zoom;

/// Width of a cell that has room for its value.
const WRITTEN: f32 = 46.0;

/// What is remembered of the picture between frames.
#[derive(Clone)]
struct State {
    layer: usize,
    zoom: Zoom,
    anchor: Option<Pos2>,
    is_logarithmic: bool,
    /// The texture with what it shows.
    texture: Option<(Shown, TextureHandle)>,
}

/// What a texture shows: a change of any of it makes a new one.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    quantity: Quantity,
    is_logarithmic: bool,
    source: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

/// Cells at hand, with the row and column of weights their first one stands for.
#[derive(Clone, Copy)]
struct Cells<'a> {
    pooled: &'a Pooled,
    first: [usize; 2],
}

impl Cells<'_> {
    fn value(&self, quantity: Quantity, row: usize, col: usize) -> Option<f32> {
        let cells = if quantity.is_mean() { &self.pooled.mean_abs } else { &self.pooled.extreme };
        let value = *cells.get([row, col])?;
        Some(if quantity == Quantity::Signed { value } else { value.abs() })
    }
}

pub(super) fn state_id() -> Id {
    Id::unique("picture")
}

/// Shows the neighbourhood of a weight.
pub(super) fn go_to(ui: &Ui, (row, col): (usize, usize)) {
    ui.data_mut(|data| {
        if let Some(state) = data.get_temp_mut_or_default::<Option<State>>(state_id()) {
            state.zoom = state.zoom.near([col as f64 + 0.5, row as f64 + 0.5]);
        }
    });
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let look = &model.look;
    let matrix = model.checkpoint.tensors()[layer].matrix;
    let Some(shape) = matrix.map(|matrix| matrix.shape) else {
        return;
    };
    let kept = ui.data(|data| data.get_temp::<Option<State>>(state_id())).flatten();
    let mut state = kept.filter(|state| state.layer == layer).unwrap_or_else(|| State {
        layer,
        zoom: Zoom::whole(shape.cols, shape.rows),
        anchor: None,
        is_logarithmic: true,
        texture: None,
    });
    let save = toolbar(context, ui, model, &mut state);
    if look.quantity.is_error() && model.assignment(layer).is_keep() {
        ui.weak("The layer is kept as it is: there is no error. Assign bits to see one.");
        ui.data_mut(|data| data.insert_temp(state_id(), Some(state)));
        return;
    }
    let wanted = look.asked.picture.as_ref().or(look.picture.as_ref().map(|(subject, _)| subject));
    let picture = look.picture.as_ref().filter(|(subject, _)| {
        subject.0 == layer
            && matches!(subject.1, Seen::Error(_)) == look.quantity.is_error()
            && wanted.is_none_or(|wanted| wanted == subject)
    });
    match picture {
        None => waiting(context, ui, "Picturing the matrix…"),
        Some((_, Err(sentence))) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Some((_, Ok(picture))) => {
            draw(context, ui, model, (&mut state, &picture.map.levels, save));
        }
    }
    ui.data_mut(|data| data.insert_temp(state_id(), Some(state)));
}

/// The choice of what is shown; gives the format to save it in, if one was chosen.
fn toolbar(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    state: &mut State,
) -> Option<Format> {
    let now = model.look.quantity;
    let mut save = None;
    ui.horizontal_wrapped(|ui| {
        let title = Quantity::ALL.iter().find(|(quantity, _)| *quantity == now);
        let title = title.map_or("", |(_, title)| title);
        let choice = ComboBox::from_id_salt("quantity").selected_text(title).width(120.0);
        let choice = choice.show_ui(ui, |ui| {
            for (quantity, title) in Quantity::ALL {
                if ui.selectable_label(quantity == now, title).clicked() {
                    context.send(Command::SetQuantity(quantity));
                }
            }
        });
        let label = ui.label("shows").on_hover_text("What the picture shows. Seen from afar each cell stands for a block of weights: the largest, or their mean.");
        choice.response.labelled_by(label.id);
        ui.checkbox(&mut state.is_logarithmic, "log")
            .on_hover_text("Logarithmic colours: shows the many small values beside the few large ones.");
        before_after(context, ui, model);
        let all = egui::Button::new("Show all").small();
        if ui.add_enabled(!state.zoom.is_whole(), all).on_hover_text("Back to the whole matrix; so does a double-click.").clicked() {
            state.zoom = Zoom::whole(state.zoom.plane[0] as usize, state.zoom.plane[1] as usize);
        }
        let menu = ui.menu_button("Save", |ui| {
            for format in Format::ALL {
                if ui.button(format!("{}…", format.title())).clicked() {
                    save = Some(format);
                }
            }
        });
        menu.response.on_hover_text("Save what the picture shows as PNG, SVG or CSV.");
    });
    save
}

fn draw(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (state, levels, save): (&mut State, &[Pooled], Option<Format>),
) {
    let (rect, response) = canvas(ui, state.zoom.plane);
    response.widget_info(|| WidgetInfo::labeled(egui::Role::Image, true, "picture of the matrix"));
    let mut anchor = state.anchor;
    state.zoom.answer(ui, &response, &mut anchor);
    state.anchor = anchor;
    let zoom = state.zoom;
    let Some(coarsest) = levels.last() else { return };
    let quantity = model.look.quantity;
    let top = Cells { pooled: coarsest, first: [0, 0] };
    let largest = top.value(Quantity::Magnitude, 0, 0).unwrap_or(1.0).max(f32::MIN_POSITIVE);
    let cells = cells_for(context, model, (&zoom, rect.width()), levels);
    let is_logarithmic = state.is_logarithmic;
    let paint = |value: f32| colour(value / largest, quantity, is_logarithmic);
    texture(ui, state, (cells, quantity), (rect, &paint));
    if let (Some(format), Some((shown, _))) = (save, &state.texture) {
        let heat = heat_figure(model, (state.layer, shown), cells, &paint);
        let heat = HeatFigure { quantity: scale_text((largest, quantity)), ..heat };
        let drawing = Drawing::Heat(heat);
        context.send(Command::SaveFigure(Arc::new(FigureToSave { drawing, format })));
    }
    write_values(ui, (&zoom, rect), cells, (quantity, &paint));
    read_out(context, ui, (&zoom, &response), (cells, quantity));
    scale(context, ui, (largest, quantity));
}

/// Room for the picture: as wide as there is, as high as the matrix asks for within reason.
fn canvas(ui: &mut Ui, plane: [f64; 2]) -> (Rect, Response) {
    let width = ui.available_width();
    let height = (f64::from(width) * plane[1] / plane[0]).clamp(120.0, 300.0) as f32;
    ui.allocate_exact_size(vec2(width, height), Sense::click_and_drag())
}

/// The finest cells that are at hand and not finer than the screen; asks for finer ones where they would help.
fn cells_for<'a>(
    context: &ViewContext<'_>,
    model: &'a Model,
    (zoom, width): (&Zoom, f32),
    levels: &'a [Pooled],
) -> Cells<'a> {
    let per_pixel = (zoom.extent[0] / f64::from(width)).max(1.0) as usize;
    let best = levels.iter().rev().find(|level| level.step <= per_pixel.max(levels[0].step));
    let whole = Cells { pooled: best.unwrap_or(&levels[0]), first: [0, 0] };
    if levels[0].step <= per_pixel {
        return whole;
    }
    let (rows, cols) = shown(zoom);
    let near = model.look.near.as_ref().filter(|near| {
        Some(&near.subject) == model.look.picture.as_ref().map(|(subject, _)| subject)
    });
    let covers = |a: &Range<usize>, b: &Range<usize>| a.start <= b.start && b.end <= a.end;
    if let Some(near) = near
        && covers(&near.rows, &rows)
        && covers(&near.cols, &cols)
        && let Ok(pooled) = &near.cells
        && pooled.step < 2 * per_pixel
    {
        return Cells { pooled, first: [near.rows.start, near.cols.start] };
    }
    let wanted = (around(&rows, zoom.plane[1] as usize), around(&cols, zoom.plane[0] as usize));
    if model.look.wanted.as_ref() != Some(&wanted) {
        context.send(Command::LookNear(wanted.0, wanted.1));
    }
    whole
}

/// Rows and columns of weights that are shown.
fn shown(zoom: &Zoom) -> (Range<usize>, Range<usize>) {
    let range = |axis: usize| {
        let low = zoom.corner[axis].floor() as usize;
        low..((zoom.corner[axis] + zoom.extent[axis]).ceil() as usize)
            .min(zoom.plane[axis] as usize)
    };
    (range(1), range(0))
}

/// Half as much again on both sides, so that a little panning needs nothing new.
fn around(range: &Range<usize>, end: usize) -> Range<usize> {
    let margin = range.len() / 2;
    range.start.saturating_sub(margin)..(range.end + margin).min(end)
}

fn colour(share: f32, quantity: Quantity, is_logarithmic: bool) -> Color32 {
    let size = share.abs();
    let placed = if is_logarithmic { (1.0 + 99.0 * size).ln() / 100_f32.ln() } else { size };
    if quantity == Quantity::Signed {
        diverging(placed.copysign(share))
    } else {
        sequential(placed)
    }
}

/// Draws the cells that are shown as one texture of sharp squares.
fn texture(
    ui: &Ui,
    state: &mut State,
    (cells, quantity): (Cells<'_>, Quantity),
    (rect, paint): (Rect, &dyn Fn(f32) -> Color32),
) {
    let step = cells.pooled.step;
    let (rows, cols) = shown(&state.zoom);
    let range = |range: &Range<usize>, first: usize, n: usize| {
        (range.start.saturating_sub(first) / step)
            ..(range.end.saturating_sub(first).div_ceil(step)).min(n)
    };
    let (height, width) = cells.pooled.extreme.dim();
    let rows = range(&rows, cells.first[0], height);
    let cols = range(&cols, cells.first[1], width);
    if rows.is_empty() || cols.is_empty() {
        return;
    }
    let corner =
        [(cells.first[1] + cols.start * step) as f64, (cells.first[0] + rows.start * step) as f64];
    let extent = [(cols.len() * step) as f64, (rows.len() * step) as f64];
    let source = std::ptr::from_ref(cells.pooled) as usize;
    let is_logarithmic = state.is_logarithmic;
    let now = Shown { quantity, is_logarithmic, source, rows, cols };
    let kept = state.texture.take().filter(|(shown, _)| *shown == now);
    let (now, handle) = kept.unwrap_or_else(|| {
        let pixels = now.rows.clone().flat_map(|row| now.cols.clone().map(move |col| (row, col)));
        let pixels = pixels.map(|(row, col)| paint(cells.value(quantity, row, col).unwrap_or(0.0)));
        let image = ColorImage::new([now.cols.len(), now.rows.len()], pixels.collect());
        (now, ui.ctx().load_texture("picture", image, TextureOptions::NEAREST))
    });
    let place = state.zoom.place(rect, corner, extent);
    let whole = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
    ui.painter().with_clip_rect(rect).image(handle.id(), place, whole, Color32::WHITE);
    state.texture = Some((now, handle));
}

/// Writes the values into cells of single weights that have room for them.
fn write_values(
    ui: &Ui,
    (zoom, rect): (&Zoom, Rect),
    cells: Cells<'_>,
    (quantity, paint): (Quantity, &dyn Fn(f32) -> Color32),
) {
    let has_room = f64::from(rect.width()) / zoom.extent[0] >= f64::from(WRITTEN);
    if !has_room || cells.pooled.step != 1 {
        return;
    }
    let painter = ui.painter().with_clip_rect(rect);
    let (rows, cols) = shown(zoom);
    for (row, col) in rows.flat_map(|row| cols.clone().map(move |col| (row, col))) {
        let (down, across) = (row.wrapping_sub(cells.first[0]), col.wrapping_sub(cells.first[1]));
        let Some(value) = cells.value(quantity, down, across) else { continue };
        let place = zoom.place(rect, [col as f64, row as f64], [1.0, 1.0]);
        let (font, ink) = (FontId::monospace(10.5), text_on(paint(value)));
        let text = text::value(f64::from(value));
        painter.text(place.center(), Align2::CENTER_CENTER, text, font, ink);
    }
}

/// Says what lies under the pointer, or what the picture shows.
fn read_out(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    (zoom, response): (&Zoom, &Response),
    (cells, quantity): (Cells<'_>, Quantity),
) {
    let step = cells.pooled.step;
    let line = response.hover_pos().and_then(|point| {
        let [x, y] = zoom.under(response.rect, point);
        let (row, col) = (y as usize, x as usize);
        let down = row.checked_sub(cells.first[0])? / step;
        let across = col.checked_sub(cells.first[1])? / step;
        let value = text::value(f64::from(cells.value(quantity, down, across)?));
        let (top, left) = (cells.first[0] + down * step, cells.first[1] + across * step);
        Some(if step == 1 {
            format!("row {row}, column {col}: {value}")
        } else {
            let (bottom, right) = (top + step - 1, left + step - 1);
            format!("rows {top}–{bottom}, columns {left}–{right}: {value}")
        })
    });
    let (rows, cols) = shown(zoom);
    let shown = || {
        format!(
            "rows {}–{}, columns {}–{}; wheel zooms, drag pans, right-drag zooms into a box",
            rows.start,
            rows.end.saturating_sub(1),
            cols.start,
            cols.end.saturating_sub(1)
        )
    };
    match line {
        Some(line) => {
            ui.monospace(line);
        }
        None => {
            note(context, ui, shown());
        }
    }
}

/// What is shown, with its values and places, to be saved.
fn heat_figure(
    model: &Model,
    (layer, shown): (usize, &Shown),
    cells: Cells<'_>,
    paint: &dyn Fn(f32) -> Color32,
) -> HeatFigure {
    let step = cells.pooled.step;
    let places = shown.rows.clone().flat_map(|row| shown.cols.clone().map(move |col| (row, col)));
    let value = |(row, col)| cells.value(shown.quantity, row, col).unwrap_or(0.0);
    let values: Vec<f32> = places.map(value).collect();
    let colour = |&value: &f32| {
        let colour = paint(value);
        [colour.r(), colour.g(), colour.b()]
    };
    HeatFigure {
        title: model.short_name(layer),
        quantity: String::new(),
        first: [cells.first[0] + shown.rows.start * step, cells.first[1] + shown.cols.start * step],
        step,
        width: shown.cols.len(),
        colours: values.iter().map(colour).collect(),
        values,
    }
}

fn scale(context: &ViewContext<'_>, ui: &mut Ui, of: (f32, Quantity)) {
    note(context, ui, format!("colours: {}", scale_text(of)));
}

fn scale_text((largest, quantity): (f32, Quantity)) -> String {
    let largest = text::value(f64::from(largest));
    let title = Quantity::ALL.iter().find(|(other, _)| *other == quantity).map_or("", |(_, t)| t);
    if quantity == Quantity::Signed {
        format!("{title} from −{largest} to {largest}")
    } else {
        format!("{title} from 0 to {largest}")
    }
}
