//! The histogram of a layer's weights with the quantisation grid on it, and the numbers.

use egui::{Align, Grid, Id, Layout, RichText, Ui, vec2};
use egui_plot::{Bar, BarChart, GridInput, GridMark, Legend, Plot, VLine};
use lapidary_engine::job::Preview;
use lapidary_engine::statistics::Statistics;

use crate::document::model::Model;
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;

/// Grids of more levels would be a solid block.
const MAX_LEVELS: usize = 64;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    match model.statistics_state(layer) {
        None if model.checkpoint.tensors()[layer].dtype.is_readable() => {
            ui.horizontal(|ui| {
                ui.spinner();
                ui.label("Measuring this tensor…");
            });
        }
        None => {
            ui.weak("Values of this type are shown by name only.");
        }
        Some(Err(sentence)) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Some(Ok(statistics)) => {
            let preview = current_preview(model, layer);
            histogram(context, ui, statistics, preview, layer);
            numbers(context, ui, statistics);
        }
    }
}

/// What the present assignment does, if that is what was tried last.
pub(super) fn current_preview(model: &Model, layer: usize) -> Option<&Preview> {
    let (tried, assignment, result) = model.preview.as_ref()?;
    (*tried == layer && *assignment == model.assignment(layer)).then_some(())?;
    result.as_ref().ok().map(AsRef::as_ref)
}

fn histogram(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    statistics: &Statistics,
    preview: Option<&Preview>,
    layer: usize,
) {
    let id = Id::unique("histogram log");
    let mut is_log = ui.data(|data| data.get_temp::<bool>(id)).unwrap_or(false);
    let histogram = &statistics.histogram;
    let width = histogram.width();
    let height = |count: u64| {
        if is_log { (1.0 + count as f64).log10() } else { count as f64 }
    };
    let bars = histogram
        .counts
        .iter()
        .enumerate()
        .map(|(i, &count)| Bar::new(histogram.centre(i), height(count)).width(width));
    let bars =
        BarChart::new("weights", bars.collect()).color(context.tokens.data).allow_hover(false);
    let grid = preview.and_then(|preview| preview.grid.as_ref());
    let levels: Vec<f64> = grid
        .filter(|grid| grid.levels.len() <= MAX_LEVELS)
        .map_or_else(Vec::new, |grid| grid.levels.iter().map(|&level| f64::from(level)).collect());
    let colour = context.tokens.grid.gamma_multiply(0.75);
    Plot::new(("histogram", layer, is_log))
        .height(PLOT_HEIGHT)
        .allow_scroll(false)
        .legend(Legend::default())
        .x_axis_label("weight")
        .y_axis_label(if is_log { "count (log)" } else { "count" })
        .y_axis_formatter(move |mark, _| axis_count(mark.value, is_log))
        .x_grid_spacer(few_marks)
        .grid_color(context.tokens.weak.gamma_multiply(0.35))
        .x_axis_formatter(|mark, _| short(mark.value))
        .show(ui, |plot| {
            plot.bar_chart(bars);
            for level in levels {
                plot.vline(VLine::new("grid", level).color(colour).width(1.0));
            }
        });
    ui.horizontal_wrapped(|ui| {
        ui.checkbox(&mut is_log, "log count").on_hover_text("Logarithm of 1 + count: shows the few weights in the tails.");
        let outside = histogram.underflow + histogram.overflow;
        let beyond = format!("{} below, {} above this range", text::count(histogram.underflow), text::count(histogram.overflow));
        if outside > 0 {
            ui.weak(beyond).on_hover_text("The histogram ends 8 standard deviations from the mean, so that outliers do not squeeze it flat.");
        }
    });
    if let Some(grid) = grid {
        let steps = if grid.groups > 1 {
            format!(
                "{} groups, steps {} to {}; drawn: the median, {}",
                text::count(grid.groups as u64),
                short(f64::from(grid.least_step)),
                short(f64::from(grid.largest_step)),
                short(f64::from(grid.step))
            )
        } else {
            format!("one grid, step {}", short(f64::from(grid.step)))
        };
        ui.label(RichText::new(steps).color(context.tokens.weak).small())
            .on_hover_text("Every group has its own grid. The lines are the levels of the group whose step is the median of all groups.");
    }
    ui.data_mut(|data| data.insert_temp(id, is_log));
}

fn axis_count(value: f64, is_log: bool) -> String {
    let count = if is_log { 10_f64.powf(value) - 1.0 } else { value };
    if count < 0.0 { String::new() } else { text::parameters(count.round() as u64) }
}

/// A value on an axis, without zeros that say nothing.
pub(super) fn short(value: f64) -> String {
    let value = (value * 1e6).round() / 1e6;
    format!("{value}")
}

/// Names and values in two columns, values aligned right.
pub(super) fn table_of_numbers(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    entries: &[(&str, String, &str)],
) {
    Grid::new("numbers").num_columns(4).min_col_width(72.0).spacing([12.0, 2.0]).show(ui, |ui| {
        for pair in entries.chunks(2) {
            for (name, value, help) in pair {
                ui.label(RichText::new(*name).color(context.tokens.weak)).on_hover_text(*help);
                ui.allocate_ui_with_layout(
                    vec2(92.0, 16.0),
                    Layout::right_to_left(Align::Center),
                    |ui| {
                        ui.add_space(16.0);
                        ui.monospace(value).on_hover_text(*help);
                    },
                );
            }
            ui.end_row();
        }
    });
}

/// Marks at round numbers, about four of them, with finer ones between.
pub(super) fn few_marks(input: GridInput) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    let rough = (high - low) / 4.0;
    let decade = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|k| k * decade)
        .find(|step| *step >= rough)
        .unwrap_or(decade);
    if !step.is_finite() || step <= 0.0 {
        return Vec::new();
    }
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last.min(first + 40))
        .map(|i| GridMark { value: i as f64 * step, step_size: step })
        .collect()
}

fn numbers(context: &ViewContext<'_>, ui: &mut Ui, statistics: &Statistics) {
    if statistics.non_finite() > 0 {
        let text = format!(
            "⚠ {} NaN, {} +∞, {} −∞: not part of the numbers below; such a layer cannot be compressed",
            text::count(statistics.nan),
            text::count(statistics.positive_infinity),
            text::count(statistics.negative_infinity)
        );
        ui.colored_label(context.tokens.error, text);
    }
    let entries: [(&str, String, &str); 8] = [
        (
            "mean",
            text::value(statistics.mean),
            "Mean of the weights, Σw/n. Far from zero against the standard deviation, an asymmetric grid fits better.",
        ),
        (
            "std",
            text::value(statistics.std),
            "Standard deviation of the population, √(Σ(w−mean)²/n).",
        ),
        ("min", text::value(statistics.min), "Smallest weight."),
        ("max", text::value(statistics.max), "Largest weight."),
        (
            "abs max",
            text::value(statistics.abs_max),
            "Largest |w|: the range a min-max grid of the whole tensor must span.",
        ),
        (
            "kurtosis",
            text::value(statistics.kurtosis),
            "Excess kurtosis, m₄/m₂² − 3: 0 normal, 3 Laplace. High: outliers stretch the grid; use smaller groups or clipping.",
        ),
        (
            "outliers",
            text::percent(statistics.outlier_fraction),
            "Share of weights with |w − mean| > 6 std. A normal distribution has 2·10⁻⁹.",
        ),
        (
            "zeros",
            text::percent(statistics.zeros),
            "Share of weights that are exactly zero: sparsity that is already there.",
        ),
    ];
    table_of_numbers(context, ui, &entries);
}
