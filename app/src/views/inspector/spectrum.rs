//! The singular values of a layer: how much few directions carry, what noise would look like, what a rank costs.

use egui::{DragValue, Id, RichText, Ui};
use lapidary_engine::statistics::{Spectrum, SpectrumMethod};

use crate::commands::Command;
use crate::document::look::Seen;
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::cuts;
use crate::views::inspector::parts::{self, known, note};
use crate::widgets::plot::{self, Options};

/// Whitened singular values are drawn down to this share of the largest: H is known no better.
const WHITENED_FLOOR: f64 = 1e-4;
/// The name of that line.
const WHITENED: &str = "whitened";

/// What is drawn of a spectrum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Values,
    Energy,
    Cumulative,
}

impl View {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Values, "σ", "Singular values, the largest first."),
        (Self::Energy, "σ²/Σσ²", "Share of the energy ‖W‖² in each direction."),
        (
            Self::Cumulative,
            "cumulative",
            "Share of the energy in the first i directions: 1 minus the squared relative error of rank i.",
        ),
    ];

    fn points(self, spectrum: &Spectrum) -> Vec<[f64; 2]> {
        self.points_above(&spectrum.singular_values, spectrum.noise_floor)
    }

    fn points_above(self, values: &[f64], floor: f64) -> Vec<[f64; 2]> {
        let total: f64 = values.iter().map(|s| s * s).sum();
        let mut sum = 0.0;
        let mut y = |s: f64| {
            sum += s * s;
            match self {
                Self::Values => s,
                Self::Energy => s * s / total,
                Self::Cumulative => sum / total,
            }
        };
        let ys: Vec<f64> = values.iter().map(|&s| y(s)).collect();
        // Values at the level of rounding would stretch the axis by ten decades and say nothing.
        let is_drawn = |i: usize| self == Self::Cumulative || values[i] > floor;
        let points = ys.into_iter().enumerate().filter(|(i, _)| is_drawn(*i));
        points.map(|(i, y)| [(i + 1) as f64, y]).collect()
    }
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    let layer = layers[0];
    let tensor = &model.checkpoint.tensors()[layer];
    let Some(matrix) = tensor.matrix else {
        ui.weak(format!("No singular values: {}.", tensor.why_no_matrix()));
        return;
    };
    let doing = format!("Computing the singular values of a {} matrix…", matrix.shape);
    let state = model.spectrum_state(layer);
    let Some(spectrum) = known(context, ui, state.as_ref(), &doing) else {
        estimate(context, ui, model, layer);
        return;
    };
    let id = Id::unique("spectrum view");
    let mut view = ui.data(|data| data.get_temp::<View>(id)).unwrap_or(View::Values);
    ui.horizontal_wrapped(|ui| {
        for (choice, title, help) in View::ALL {
            ui.selectable_value(&mut view, choice, title).on_hover_text(help);
        }
        let mut wanted = model.look.wants_error_spectrum;
        let is_kept = model.assignment(layer).is_keep();
        let tick = egui::Checkbox::new(&mut wanted, "error of the assignment");
        if ui
            .add_enabled(!is_kept, tick)
            .on_hover_text("Singular values of W − Ŵ. Flat: no low-rank correction helps. Steep: a few directions would repair most of the error.")
            .on_disabled_hover_text("The layer is kept: there is no error.")
            .changed()
        {
            context.send(Command::ToggleErrorSpectrum);
        }
    });
    ui.data_mut(|data| data.insert_temp(id, view));
    let rank = model.look.rank.unwrap_or_else(|| spectrum.rank_for_energy(0.9));
    let rank = rank.clamp(1, spectrum.singular_values.len().max(1));
    let figure = figure(model, layers, view);
    let handle = Some(("rank", rank as f64));
    let is_listed_below = layers.len() > 1;
    let options = Options { height: PLOT_HEIGHT, handle, is_listed_below };
    let answer = plot::plot(ui, context.tokens, &format!("spectrum {view:?}"), &figure, options);
    if let Some(moved) = answer.moved_to {
        context.send(Command::SetRank(moved.round().max(1.0) as usize));
    }
    context.answer(answer);
    if layers.len() > 1 {
        parts::legend(context, ui, model, layers);
        let is_no_layer = |series: &&Series| !matches!(series.ink, Ink::Data(_));
        parts::swatches(context, ui, figure.series.iter().filter(is_no_layer));
    }
    if whitened(model, layer).is_some() {
        note(context, ui, "whitened: W·H^½ with H = E[x·x^T] of the calibration, scaled to the same Σσ²")
            .on_hover_text("The singular values of what the layer gives for the inputs there are. Steeper than the raw ones: the inputs fill few directions, and a low rank loses less of the output than of the weights.");
    }
    about_rank(context, ui, model, (layer, spectrum, rank));
    cuts::ui(context, ui, model, layer);
    numbers(context, ui, model, (layer, spectrum));
}

/// The leading singular values by random projections, while the exact ones are computed.
fn estimate(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let Some((_, estimate)) = model.look.estimate.as_ref().filter(|(of, _)| *of == layer) else {
        return;
    };
    let values = estimate.estimated_singular_values.iter().enumerate();
    let points = values.map(|(i, &s)| [(i + 1) as f64, s]).collect();
    let title = format!("Estimated leading singular values of {}", model.short_name(layer));
    let figure = Figure {
        title,
        x: Axis::new("index i"),
        y: Axis::new("σ, estimate").or_log(Scale::Log),
        series: vec![Series::new("estimate", Ink::OtherFit, Kind::Line, points)],
    };
    ui.label(RichText::new("Estimate by random projections, until the exact values are there:").color(context.tokens.warning))
        .on_hover_text("Halko, Martinsson & Tropp 2011, one power iteration. Leading values are never too large; in a flat spectrum they are too small by some percent.");
    parts::plot(context, ui, "estimated spectrum", &figure, PLOT_HEIGHT);
    let entries = [
        ("‖W‖", text::value(estimate.frobenius_norm), "Frobenius norm √Σw²: exact."),
        (
            "stable rank ≈",
            text::value(estimate.estimated_stable_rank),
            "‖W‖_F²/σ₁² with the estimate of σ₁: never too small.",
        ),
    ];
    parts::numbers(context, ui, &entries);
}

fn figure(model: &Model, layers: &[usize], view: View) -> Figure {
    let curve = |(i, &layer): (usize, &usize)| {
        let points = view.points(model.spectrum(layer)?);
        Some(Series::new(&model.short_name(layer), Ink::Data(i), Kind::Line, points))
    };
    let mut series: Vec<Series> = layers.iter().enumerate().filter_map(curve).collect();
    let layer = layers[0];
    if let (View::Values, Some(edge)) = (view, noise_edge(model, layer)) {
        let name = "edge of noise";
        series.push(Series::new(name, Ink::OtherMark, Kind::Horizontal, vec![[0.0, edge]]));
    }
    if let Some((subject, Ok(error))) = &model.look.error_spectrum
        && model.look.wants_error_spectrum
        && subject.0 == layer
        && subject.1 == Seen::Error(model.assignment(layer))
    {
        series.push(Series::new("error", Ink::Grid, Kind::Line, view.points(error)));
    }
    if let (Some(whitened), Some(raw)) = (whitened(model, layer), model.spectrum(layer)) {
        let norm = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>().sqrt();
        let factor = norm(&raw.singular_values) / norm(whitened);
        let values: Vec<f64> = whitened.iter().map(|s| s * factor).collect();
        let floor = values.first().map_or(0.0, |largest| largest * WHITENED_FLOOR);
        let points = view.points_above(&values, floor.max(raw.noise_floor));
        series.push(Series::new(WHITENED, Ink::Fit, Kind::Line, points));
    }
    let (_, title, _) = View::ALL[view as usize];
    let scale = if view == View::Cumulative { Scale::Linear } else { Scale::Log };
    Figure {
        title: format!("Singular values of {}", model.short_name(layer)),
        x: Axis::new("index i").or_log(Scale::Linear),
        y: Axis::new(title).or_log(scale),
        series,
    }
}

/// Singular values of W·H^½, where they are known.
fn whitened(model: &Model, layer: usize) -> Option<&[f64]> {
    let (of, through) = model.calibrations.through.as_ref()?;
    let values = through.whitened.as_ref()?.as_ref().ok()?;
    (*of == layer).then_some(values.as_slice())
}

/// Share of Σσ² beyond the first `rank` values, under the root: what a matrix of that rank loses at least.
fn tail(values: &[f64], rank: usize) -> f64 {
    let sum = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
    (sum(&values[rank.min(values.len())..]) / sum(values)).sqrt()
}

/// Largest singular value that a matrix of independent numbers of the same shape and spread would have.
fn noise_edge(model: &Model, layer: usize) -> Option<f64> {
    let shape = model.checkpoint.tensors()[layer].matrix?.shape;
    Some(lapidary_engine::statistics::noise_edge(shape, model.statistics(layer)?.std))
}

/// What a rank would cost and lose.
fn about_rank(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, spectrum, rank): (usize, &Spectrum, usize),
) {
    let tensor = &model.checkpoint.tensors()[layer];
    let Some(shape) = tensor.matrix.map(|matrix| matrix.shape) else { return };
    let most = spectrum.singular_values.len().max(1);
    let bytes = (rank * (shape.rows + shape.cols)) as u64 * tensor.dtype.bits() / 8;
    let error = spectrum.error_at_rank(rank);
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Rank").on_hover_text("Drag the line in the plot, or this number: what two factors of that rank would take and lose.");
        let mut typed = rank;
        let field = ui.add(DragValue::new(&mut typed).range(1..=most)).labelled_by(label.id);
        if field.changed() {
            context.send(Command::SetRank(typed));
        }
        ui.monospace(format!("{} ({})", text::bytes(bytes), text::percent(bytes as f64 / tensor.bytes().max(1) as f64)))
            .on_hover_text("Bytes of the two factors, rank·(rows + columns) numbers of the layer's own type, and their share of the layer.");
        ui.monospace(format!("error {}", text::percent(error)))
            .on_hover_text("√(Σ_{i>rank} σ²/Σσ²), the least relative error any matrix of that rank has (Eckart & Young 1936).");
        match whitened(model, layer) {
            None if model.calibrations.loaded.is_some() => {}
            Some(values) => {
                ui.monospace(format!("outputs {}", text::percent(tail(values, rank))))
                .on_hover_text("The same of W·H^½, H = E[x·x^T]: the least relative error of what the layer gives, for the inputs of the calibration.");
            }
            None => {
                ui.weak("calibrate to see the error of outputs");
            }
        }
    });
    if rank > shape.break_even_rank() {
        let text =
            "⚠ Above the break-even rank: the factors take more bytes than the layer itself.";
        ui.label(RichText::new(text).color(context.tokens.warning));
    }
}

fn numbers(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, spectrum): (usize, &Spectrum),
) {
    let Some(matrix) = model.checkpoint.tensors()[layer].matrix else { return };
    let full = spectrum.singular_values.len();
    let above = noise_edge(model, layer)
        .map_or_else(|| "–".to_owned(), |edge| text::count(spectrum.above(edge) as u64));
    let entries: [(&str, String, &str); 8] = [
        (
            "largest σ",
            text::value(spectrum.singular_values.first().copied().unwrap_or(0.0)),
            "Largest singular value: the most the layer stretches any input.",
        ),
        (
            "stable rank",
            text::value(spectrum.stable_rank),
            "‖W‖_F²/σ₁². Small: one direction dominates.",
        ),
        (
            "effective rank",
            text::value(spectrum.effective_rank),
            "exp(entropy of σ/Σσ) (Roy & Vetterli 2007). Near the full rank the spectrum is flat and low rank costs much.",
        ),
        (
            "above noise",
            above,
            "Singular values above the Marchenko-Pastur edge std·(√rows + √columns): directions that independent weights of the same spread would not have.",
        ),
        (
            "rank for 90 %",
            text::count(spectrum.rank_for_energy(0.9) as u64),
            "Directions that hold 90 % of Σσ².",
        ),
        (
            "rank for 99 %",
            text::count(spectrum.rank_for_energy(0.99) as u64),
            "Directions that hold 99 % of Σσ².",
        ),
        (
            "break-even rank",
            text::count(matrix.shape.break_even_rank() as u64),
            "rows·columns/(rows + columns): two factors of a higher rank take more bytes than the layer itself.",
        ),
        ("full rank", text::count(full as u64), "The lesser of rows and columns."),
    ];
    parts::numbers(context, ui, &entries);
    let how = match spectrum.method {
        SpectrumMethod::Direct => "every σ by decomposing the matrix in double precision",
        SpectrumMethod::Gram => {
            "every σ from the eigenvalues of the Gram matrix in double precision"
        }
    };
    note(context, ui, format!("{how}; exact above {}", text::value(spectrum.noise_floor)))
        .on_hover_text(
            "Singular values below this are noise of the computation, and are not drawn.",
        );
}
