//! The one way figures are drawn in the window: logarithmic switches, box zoom, crosshair, legend, saving.

use egui::{Align, Button, Color32, Id, Layout, PointerButton, Ui};
use egui_plot::{
    GridInput, GridMark, HLine, HoverPosition, Legend, Line, LineStyle, Plot, PlotUi, Points, VLine,
};

use crate::figure::{Axis, Figure, Format, Kind, Scale, Series, compact, csv, ticks};
use crate::theme::Tokens;

/// Points drawn of one line at most; longer ones show the extremes of each piece.
const MAX_POINTS: usize = 1500;
/// More names than these would cover the data; where they are listed below, the plot leaves them out.
const MAX_NAMED: usize = 4;
/// Room at the right for the half of the last mark's label that lies beyond the axis.
const LABEL_ROOM: f32 = 14.0;

/// How a figure is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Height in points.
    pub height: f32,
    /// A vertical line the person moves: its name and x.
    pub handle: Option<(&'a str, f64)>,
    /// Whether a table of the series stands below, which names every colour.
    pub is_listed_below: bool,
}

/// Whether the series are named inside the plot.
fn has_legend(figure: &Figure, options: Options<'_>) -> bool {
    let n = figure.series.len();
    n > 1 && !(options.is_listed_below && n > MAX_NAMED)
}

/// What the person did with a figure.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Save the figure, with the scales chosen, as a file.
    pub save: Option<(Figure, Format)>,
    /// Put it on the clipboard as CSV.
    pub copy: Option<String>,
    /// A click, as x and y, where there is no handle.
    pub clicked: Option<[f64; 2]>,
    /// The handle was moved to this x.
    pub moved_to: Option<f64>,
}

/// The scales the person chose, and whether the view was zoomed in the frame before.
#[derive(Clone, Copy, Default)]
struct State {
    x: Option<Scale>,
    y: Option<Scale>,
    is_zoomed: bool,
}

/// Draws a figure. `id` tells figures apart; chosen scales are kept by it.
pub fn plot(
    ui: &mut Ui,
    tokens: &Tokens,
    id: &str,
    figure: &Figure,
    options: Options<'_>,
) -> Answer {
    let id = Id::unique(("figure", id));
    let mut state = ui.data(|data| data.get_temp::<State>(id)).unwrap_or_default();
    let mut answer = Answer::default();
    let with_scales = |state: &State| {
        let mut figure = figure.clone();
        figure.x.scale = state.x.unwrap_or(figure.x.scale);
        figure.y.scale = state.y.unwrap_or(figure.y.scale);
        figure.without_tails()
    };
    let shown = with_scales(&state);
    let reset = toolbar(ui, (&mut state, &shown), &mut answer);
    // A change of scale is another plot, with bounds of its own.
    let mut plot = Plot::new((id, shown.x.scale as u8, shown.y.scale as u8))
        .height(options.height)
        .width((ui.available_width() - LABEL_ROOM).max(LABEL_ROOM))
        .allow_scroll(false)
        .allow_drag(false)
        .boxed_zoom_pointer_button(if options.handle.is_some() {
            PointerButton::Secondary
        } else {
            PointerButton::Primary
        })
        .x_axis_label(shown.x.title())
        .y_axis_label(shown.y.title())
        .x_grid_spacer(marks(shown.x.scale, 6))
        .y_grid_spacer(marks(shown.y.scale, 5))
        .x_axis_formatter(labels(shown.x.scale))
        .y_axis_formatter(labels(shown.y.scale))
        .grid_color(tokens.weak.gamma_multiply(0.35))
        .label_formatter(read_out(shown.x.clone(), shown.y.clone()));
    if has_legend(&shown, options) {
        let legend = Legend::default().background_alpha(0.5).text_style(egui::TextStyle::Small);
        plot = plot.legend(legend);
    }
    if reset {
        plot = plot.reset();
    }
    let floor = shown.extents().1.0;
    let response = plot.show(ui, |plot| {
        for series in &shown.series {
            draw(plot, &shown, (series, floor), tokens.ink(series.ink));
        }
        let auto = plot.auto_bounds();
        state.is_zoomed = !(auto.x && auto.y);
        if let Some((name, x)) = options.handle {
            handle(plot, &shown.x, (name, x), tokens.selected);
        }
    });
    if options.handle.is_some() {
        let touched =
            response.response.dragged_by(PointerButton::Primary) || response.response.clicked();
        let point = response.response.interact_pointer_pos().filter(|_| touched);
        let place = point.map(|point| response.transform.value_from_position(point).x);
        answer.moved_to = place.map(|place| shown.x.value(place));
    }
    if options.handle.is_none() && response.response.clicked() {
        let point = response.response.interact_pointer_pos();
        let place = point.map(|point| response.transform.value_from_position(point));
        answer.clicked = place.map(|place| [shown.x.value(place.x), shown.y.value(place.y)]);
    }
    ui.data_mut(|data| data.insert_temp(id, state));
    answer
}

/// Switches and the menu of files; gives whether to show all again.
fn toolbar(ui: &mut Ui, (state, shown): (&mut State, &Figure), answer: &mut Answer) -> bool {
    let mut reset = false;
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        switch(ui, (&shown.x, "log x"), &mut state.x);
        switch(ui, (&shown.y, "log y"), &mut state.y);
        let dropped = shown.dropped();
        if dropped > 0 {
            let points = if dropped == 1 { "point" } else { "points" };
            ui.weak(format!("{dropped} {points} ≤ 0 left out"))
                .on_hover_text("Zero and negative values have no logarithm, and so no place on this axis: as the damage 0 of a plan that keeps every layer. Switch the logarithm off to see them.");
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            let menu = ui.menu_button("Save", |ui| files(ui, shown, answer));
            menu.response.on_hover_text("Save the plot as PNG, SVG or CSV, or copy its numbers.");
            let button = Button::new("Reset zoom").small();
            reset = ui
                .add_enabled(state.is_zoomed, button)
                .on_hover_text("Show everything; so does a double-click.")
                .on_disabled_hover_text("Drag a box in the plot to zoom into it.")
                .clicked();
        });
    });
    reset
}

fn switch(ui: &mut Ui, (axis, title): (&Axis, &str), choice: &mut Option<Scale>) {
    if !axis.can_be_log {
        return;
    }
    let is_log = axis.scale == Scale::Log;
    let tip = "Lay the values by their logarithm; those that are not positive are left out.";
    if ui.selectable_label(is_log, title).on_hover_text(tip).clicked() {
        *choice = Some(if is_log { Scale::Linear } else { Scale::Log });
    }
}

fn files(ui: &mut Ui, shown: &Figure, answer: &mut Answer) {
    for format in Format::ALL {
        if ui.button(format!("{}…", format.title())).clicked() {
            answer.save = Some((shown.clone(), format));
        }
    }
    if ui.button("Copy CSV").clicked() {
        answer.copy = Some(csv(shown));
    }
}

/// Round numbers as marks. The step of labelled marks is made wide, so that their labels never fade.
fn marks(scale: Scale, n: usize) -> impl Fn(GridInput) -> Vec<GridMark> {
    move |input| {
        let (low, high) = input.bounds;
        let marks = ticks((low, high), n, scale).into_iter();
        let step = |label: &str| (high - low) / if label.is_empty() { 60.0 } else { 4.0 };
        marks.map(|tick| GridMark { value: tick.place, step_size: step(&tick.label) }).collect()
    }
}

fn labels(scale: Scale) -> impl Fn(GridMark, &std::ops::RangeInclusive<f64>) -> String {
    move |mark, range| {
        let bounds = (*range.start(), *range.end());
        let n = 6;
        let near = |tick: &crate::figure::Tick| {
            (tick.place - mark.value).abs() < (bounds.1 - bounds.0) * 1e-6
        };
        let tick = ticks(bounds, n, scale).into_iter().find(near);
        tick.map_or_else(
            || match scale {
                Scale::Linear => compact(mark.value),
                Scale::Log => compact(10_f64.powf(mark.value)),
            },
            |tick| tick.label,
        )
    }
}

/// The values under the crosshair, with units.
fn read_out(x: Axis, y: Axis) -> impl Fn(&HoverPosition<'_>) -> Option<String> {
    move |position| {
        let (name, place) = match position {
            HoverPosition::NearDataPoint { plot_name, position, .. } => (*plot_name, position),
            HoverPosition::Elsewhere { position } => ("", position),
        };
        let line = |axis: &Axis, place: f64| {
            let unit = if axis.unit.is_empty() { "" } else { " " };
            format!("{}: {}{unit}{}", axis.label, compact(axis.value(place)), axis.unit)
        };
        let head = if name.is_empty() { String::new() } else { format!("{name}\n") };
        Some(format!("{head}{}\n{}", line(&x, place.x), line(&y, place.y)))
    }
}

fn draw(plot: &mut PlotUi<'_>, figure: &Figure, (series, floor): (&Series, f64), colour: Color32) {
    let place = |[x, y]: &[f64; 2]| Some([figure.x.place(*x)?, figure.y.place(*y)?]);
    let name = series.name.as_str();
    match series.kind {
        Kind::Line | Kind::Dashed => {
            let places: Vec<[f64; 2]> = series.points.iter().filter_map(place).collect();
            // Bands would fill the corners of steps; what is dense is thinned already.
            let line = Line::new(name, thinned(places)).color(colour).width(1.8).allow_band(false);
            let dashed = LineStyle::Dashed { length: 6.0 };
            plot.line(if series.kind == Kind::Dashed { line.style(dashed) } else { line });
        }
        Kind::Bars(width) => {
            // One outline, filled: hundreds of single bars take a millisecond a frame.
            let bar = |point: &[f64; 2]| {
                let [_, top] = place(point)?;
                let low = figure.x.place(point[0] - width / 2.0)?;
                Some([[low, top], [figure.x.place(point[0] + width / 2.0)?, top]])
            };
            let outline: Vec<[f64; 2]> = series.points.iter().filter_map(bar).flatten().collect();
            let base = if figure.y.scale == Scale::Log { floor } else { 0.0 };
            // Filled alone: where bars are narrow, the joins of a stroke would reach below the axis and above the bars.
            let outline = Line::new(name, outline).color(colour).width(0.0).fill(base as f32);
            plot.line(outline.fill_alpha(0.8).allow_band(false).allow_hover(false));
        }
        Kind::Points => {
            let places: Vec<[f64; 2]> = series.points.iter().filter_map(place).collect();
            plot.points(Points::new(name, places).color(colour).radius(2.0));
        }
        Kind::Vertical => {
            for place in series.points.iter().filter_map(|[x, _]| figure.x.place(*x)) {
                plot.vline(VLine::new(name, place).color(colour).width(1.0).allow_hover(false));
            }
        }
        Kind::Horizontal => {
            for place in series.points.iter().filter_map(|[_, y]| figure.y.place(*y)) {
                plot.hline(HLine::new(name, place).color(colour).width(1.2).allow_hover(false));
            }
        }
    }
}

fn handle(plot: &mut PlotUi<'_>, axis: &Axis, (name, x): (&str, f64), colour: Color32) {
    if let Some(place) = axis.place(x) {
        plot.vline(VLine::new(name, place).color(colour).width(3.0).allow_hover(false));
    }
}

/// At most [`MAX_POINTS`] points: of each piece of a longer line the lowest and the highest, in their order, so that
/// no spike is lost.
fn thinned(places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    if places.len() <= MAX_POINTS {
        return places;
    }
    let piece = places.len().div_ceil(MAX_POINTS / 2);
    let by_height = |a: &&[f64; 2], b: &&[f64; 2]| a[1].total_cmp(&b[1]);
    let extremes = places.chunks(piece).filter_map(|piece| {
        let (low, high) = (piece.iter().min_by(by_height)?, piece.iter().max_by(by_height)?);
        Some(if low[0] <= high[0] { [*low, *high] } else { [*high, *low] })
    });
    extremes.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_left_to_the_table_below_where_there_is_one() {
        let figure = |n: usize| {
            let line = Series::new("a", crate::figure::Ink::Data(0), Kind::Line, vec![[0.0, 1.0]]);
            let (x, y) = (Axis::new("x"), Axis::new("y"));
            Figure { title: String::new(), x, y, series: vec![line; n] }
        };
        let listed = Options { is_listed_below: true, ..Options::default() };
        let alone = Options::default();
        let named = |n, options| has_legend(&figure(n), options);
        assert!(!named(1, alone) && named(4, listed) && named(8, alone));
        assert!(!named(8, listed), "eight names cover the data");
    }

    #[test]
    fn thinning_keeps_every_spike_and_the_order() {
        let mut places: Vec<[f64; 2]> = (0..100_000).map(|i| [f64::from(i), 0.0]).collect();
        places[12_345][1] = 9.0;
        places[54_321][1] = -9.0;
        let thin = thinned(places);
        assert!(thin.len() <= MAX_POINTS);
        assert!(thin.contains(&[12_345.0, 9.0]) && thin.contains(&[54_321.0, -9.0]));
        assert!(thin.windows(2).all(|pair| pair[0][0] <= pair[1][0]));
    }
}
