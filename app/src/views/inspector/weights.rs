//! The histogram of weights with fits and the quantisation grid on it, profiles of rows and columns, and the numbers.

use egui::{Id, Ui};
use lapidary_engine::job::Preview;
use lapidary_engine::statistics::{OUTLIER_STDS, Statistics};

use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series, compact};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, before_after, known, note};
use crate::views::inspector::profile;

/// Grids of more levels would be a solid block.
const MAX_LEVELS: usize = 64;
/// Points of a fitted curve.
const CURVE_POINTS: usize = 256;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    let layer = layers[0];
    if !model.checkpoint.tensors()[layer].is_readable() {
        ui.weak("Values of this type are shown by name only.");
        return;
    }
    let state = model.statistics_state(layer);
    let Some(statistics) = known(context, ui, state.as_ref(), "Measuring this tensor…") else {
        return;
    };
    let preview = current_preview(model, layer);
    if layers.len() > 1 {
        let figure = overlaid(model, layers);
        parts::plot_of_layers(context, ui, "densities", &figure, PLOT_HEIGHT);
        parts::legend(context, ui, model, layers);
    } else {
        single(context, ui, model, (layer, statistics, preview));
        numbers(context, ui, model, (layer, statistics));
    }
    profile::ui(context, ui, model, layers);
}

/// What the present assignment does, if that is what was tried last.
pub(super) fn current_preview(model: &Model, layer: usize) -> Option<&Preview> {
    let (tried, assignment, result) = model.preview.as_ref()?;
    (*tried == layer && *assignment == model.assignment(layer)).then_some(())?;
    result.as_ref().ok().map(AsRef::as_ref)
}

/// The histogram of one layer.
fn single(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, statistics, preview): (usize, &Statistics, Option<&Preview>),
) {
    let id = Id::unique("histogram fits");
    let mut fits = ui.data(|data| data.get_temp::<bool>(id)).unwrap_or(true);
    let figure = histogram(model, (layer, statistics, preview), fits);
    parts::plot(context, ui, "histogram", &figure, PLOT_HEIGHT);
    let histogram = &statistics.histogram;
    ui.horizontal_wrapped(|ui| {
        before_after(context, ui, model);
        ui.add_space(6.0);
        ui.checkbox(&mut fits, "fits").on_hover_text("A normal and a Laplace distribution of the same mean and spread.");
        if fits {
            let distance = |d| text::percent(statistics.distance(d));
            let (normal, laplace) =
                (distance(statistics.normal()), distance(statistics.laplace()));
            note(context, ui, format!("off by {normal} (normal), {laplace} (Laplace)"))
                .on_hover_text("Total variation ½Σ|p − q| between histogram and fit: the share of weights that would have to move. Near 0 the fit is right, and the tables for its distribution hold.");
        }
        let outside = histogram.underflow + histogram.overflow;
        if outside > 0 {
            note(context, ui, format!("{} beyond this range", text::count(outside)))
                .on_hover_text("The histogram ends 8 standard deviations from the mean, so that outliers do not squeeze it flat.");
        }
    });
    ui.data_mut(|data| data.insert_temp(id, fits));
    if let Some(grid) = preview.and_then(|preview| preview.grid.as_ref()) {
        let steps = if grid.groups > 1 {
            format!(
                "grid: {} groups, steps {} to {}; drawn: the median, {}",
                text::count(grid.groups as u64),
                compact(f64::from(grid.least_step)),
                compact(f64::from(grid.largest_step)),
                compact(f64::from(grid.step))
            )
        } else {
            format!("one grid, step {}", compact(f64::from(grid.step)))
        };
        note(context, ui, steps).on_hover_text("Every group has its own grid. The lines are the levels of the group whose step is the median of all groups; beyond the clip lines weights are cut to the last level.");
    }
}

fn histogram(
    model: &Model,
    (layer, statistics, preview): (usize, &Statistics, Option<&Preview>),
    fits: bool,
) -> Figure {
    // After the assignment the weights stand on the levels of the grid; the bins are the same.
    let after = preview.and_then(|preview| preview.after.as_ref()).filter(|_| model.look.after);
    let histogram = after.unwrap_or(&statistics.histogram).readable();
    let width = histogram.width();
    let bars = histogram.counts.iter().enumerate();
    let bars = bars.map(|(i, &count)| [histogram.centre(i), count as f64]).collect();
    let name = if after.is_some() { "weights after" } else { "weights" };
    let mut series = vec![Series::new(name, Ink::Data(0), Kind::Bars(width), bars)];
    let n = statistics.finite as f64;
    if fits {
        for (name, ink, fit) in [
            ("normal", Ink::Fit, statistics.normal()),
            ("Laplace", Ink::OtherFit, statistics.laplace()),
        ] {
            let point = |i: usize| {
                let share = i as f64 / (CURVE_POINTS - 1) as f64;
                let x = histogram.low + share * (histogram.high - histogram.low);
                [x, n * width * fit.density(x)]
            };
            let points = (0..CURVE_POINTS).map(point).filter(|[_, y]| y.is_finite()).collect();
            series.push(Series::new(name, ink, Kind::Dashed, points));
        }
    }
    let levels = preview.and_then(|preview| preview.grid.as_ref()).map(|grid| &grid.levels[..]);
    if let Some([first, .., last]) = levels {
        let levels = levels.unwrap_or_default();
        let at = |level: &f32| [f64::from(*level), 0.0];
        if levels.len() <= MAX_LEVELS {
            let points = levels.iter().map(at).collect();
            series.push(Series::new("grid", Ink::Grid, Kind::Vertical, points));
        }
        series.push(Series::new("clip", Ink::OtherMark, Kind::Vertical, vec![at(first), at(last)]));
    }
    Figure {
        title: format!("Weights of {}", model.short_name(layer)),
        x: Axis::new("weight"),
        y: Axis::new("count").in_unit("weights").or_log(Scale::Linear),
        series,
    }
}

/// Densities of several layers over weights in standard deviations, so that shapes compare.
fn overlaid(model: &Model, layers: &[usize]) -> Figure {
    let curve = |(i, &layer): (usize, &usize)| {
        let statistics = model.statistics(layer)?;
        let histogram = statistics.histogram.readable();
        let (n, std) = (statistics.finite as f64, statistics.std);
        let scale = std / (n * histogram.width());
        let points = histogram.counts.iter().enumerate().map(|(i, &count)| {
            [(histogram.centre(i) - statistics.mean) / std, count as f64 * scale]
        });
        let points = points.filter(|[x, _]| x.is_finite()).collect();
        Some(Series::new(&model.short_name(layer), Ink::Data(i), Kind::Line, points))
    };
    Figure {
        title: format!("Weights of {} layers", layers.len()),
        x: Axis::new("(weight − mean)").in_unit("std"),
        y: Axis::new("density").or_log(Scale::Linear),
        series: layers.iter().enumerate().filter_map(curve).collect(),
    }
}

fn numbers(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, statistics): (usize, &Statistics),
) {
    if statistics.non_finite() > 0 {
        let text = format!(
            "⚠ {} NaN, {} +∞, {} −∞: not part of the numbers below; such a layer cannot be compressed",
            text::count(statistics.nan),
            text::count(statistics.positive_infinity),
            text::count(statistics.negative_infinity)
        );
        ui.colored_label(context.tokens.error, text);
    }
    let peak = crate::document::metrics::metric("group-peak");
    let peak_value = (peak.value)(model, layer).map_or_else(|| "–".to_owned(), text::value);
    let outliers = format!(
        "Share of weights with |w − mean| > {OUTLIER_STDS} std: {} weights. A normal distribution has 2·10⁻⁹. The tab Outliers says where those beyond 4 std sit, which are more.",
        text::count((statistics.outlier_fraction * statistics.finite as f64).round() as u64)
    );
    let entries: [(&str, String, &str); 10] = [
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
        ("outliers, > 6 std", text::percent(statistics.outlier_fraction), &outliers),
        (
            "zeros",
            text::percent(statistics.zeros),
            "Share of weights that are exactly zero: sparsity that is already there.",
        ),
        ("group peak", peak_value, peak.help),
        (
            "mean |w−mean|",
            text::value(statistics.mean_abs_deviation),
            "Mean absolute deviation, the scale of the Laplace fit. 0.80 std for a normal, 0.71 std for a Laplace distribution.",
        ),
    ];
    parts::numbers(context, ui, &entries);
}
