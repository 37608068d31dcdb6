//! What bits cost: error against size for every way to quantise a layer, the next steps and what they are worth.

use egui::{RichText, Ui};
use lapidary_engine::job::{Curve, Damage, Source, Weighting};
use lapidary_engine::plan::Assignment;
use lapidary_engine::target::{self, Next};

use crate::commands::Command;
use crate::document::damages::{MEAN, name_of_mean};
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, note};

/// The name of the marks at the present assignment.
const NOW: &str = "now";

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    if !model.is_matrix(layer) {
        let tensor = &model.checkpoint.tensors()[layer];
        ui.weak(format!("No damage: {}.", tensor.why_no_matrix()));
        return;
    }
    let curves = model.curves(layer);
    let figure = figure(model, layer, &curves);
    let (tried, wanted) = progress(model, layer, &curves);
    if figure.series.is_empty() && tried.len() == wanted {
        let title = model.target.about().title;
        ui.weak(format!("{title} holds none of these forms for this layer: it is best kept."));
        return;
    }
    // So many names would cover the curves.
    parts::plot_of_layers(context, ui, "damage", &figure, PLOT_HEIGHT * 1.25);
    parts::swatches(context, ui, figure.series.iter().filter(|series| series.name != NOW));
    let (known, all) = progress(model, layer, &curves);
    let sampled = known.iter().find(|damage| !damage.is_exact());
    let text = match (sampled, known.len() < all) {
        (_, true) => format!("{} of {all} tried…", known.len()),
        (Some(damage), false) => {
            format!(
                "estimates from {} of {} rows; the mark is exact once measured",
                damage.rows, damage.of
            )
        }
        (None, false) => "measured on every row".to_owned(),
    };
    note(context, ui, text).on_hover_text("Each point is a bit-width tried on rows spread evenly over the layer: effective bits on disk for the present target against ‖W−Ŵ‖/‖W‖. What the target stores in full is left out.");
    steps(context, ui, model, layer);
    selection(context, ui, model);
}

fn progress(model: &Model, layer: usize, curves: &[Curve]) -> (Vec<Damage>, usize) {
    let all = || curves.iter().flat_map(|curve| &curve.assignments);
    let known = all().filter_map(|assignment| model.damage_of(layer, assignment)).collect();
    (known, all().count())
}

fn figure(model: &Model, layer: usize, curves: &[Curve]) -> Figure {
    let parameters = model.checkpoint.tensors()[layer].parameters().max(1) as f64;
    let bits = |assignment: &Assignment| {
        let entry =
            target::entry_of(&model.checkpoint, layer, Some(assignment), model.target).ok()?;
        let is_held =
            model.target.capabilities().is_dense() || entry.storage == target::Storage::Native;
        // A dense target stores all alike; there the bits of the codes themselves tell more.
        let bytes = match (&entry.layout, model.target.capabilities().is_dense()) {
            (Some(layout), true) => layout.bytes(model.checkpoint.tensors()[layer].matrix?.shape),
            _ => entry.bytes,
        };
        is_held.then_some(bytes as f64 * 8.0 / parameters)
    };
    let point = |assignment: &Assignment| {
        let error = model.damage_of(layer, assignment)?.relative_error;
        Some([bits(assignment)?, error])
    };
    let mut series: Vec<Series> = curves
        .iter()
        .enumerate()
        .map(|(i, curve)| {
            let points: Vec<[f64; 2]> = curve.assignments.iter().filter_map(point).collect();
            // Colours come again after eight, dashed.
            let (name, kind) = match i {
                0..8 => (curve.name.clone(), Kind::Line),
                _ => (format!("{} (dashed)", curve.name), Kind::Dashed),
            };
            Series::new(&name, Ink::Data(i % 8), kind, points)
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let is_weighted = model.record(layer).is_some();
    if !is_weighted && !series.is_empty() {
        series.push(bound(&series));
    }
    let now = model.assignment(layer);
    if let Some(at) = point(&now).filter(|_| !now.is_keep()) {
        series.push(Series::new(NOW, Ink::Mark, Kind::Vertical, vec![at]));
        series.push(Series::new(NOW, Ink::Mark, Kind::Horizontal, vec![at]));
    }
    Figure {
        title: format!("Damage of {}", model.short_name(layer)),
        x: Axis::new("effective bits").in_unit("bits/weight"),
        y: Axis::new(if is_weighted {
            "relative error, activation-weighted"
        } else {
            "relative error"
        })
        .or_log(Scale::Log),
        series,
    }
}

/// What no code of so many bits leaves less of, were the weights normal, over the bits of the curves.
fn bound(curves: &[Series]) -> Series {
    let bits = || curves.iter().flat_map(|series| &series.points).map(|point| point[0]);
    let (least, most) = (bits().fold(f64::INFINITY, f64::min), bits().fold(0.0, f64::max));
    let at = |i: u8| least + (most - least) * f64::from(i) / 32.0;
    let points = (0..=32).map(|i| [at(i), Source::Normal.bound(at(i)).sqrt()]).collect();
    Series::new("Shannon's bound, normal weights", Ink::Fit, Kind::Dashed, points)
}

/// The next step down and up: what they change, and at what price.
fn steps(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let rows = [
        (Next::Down, "fewer bits", "price", "Damage added for each MB saved."),
        (Next::Up, "more bits", "worth", "Damage removed for each MB spent."),
    ];
    for (next, title, word, tip) in rows {
        let Some(step) = model.next_step(layer, next) else { continue };
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().item_spacing.x = 8.0;
            note(context, ui, title);
            ui.label(step.assignment.label());
            let sign = if step.bytes < 0 { "−" } else { "+" };
            ui.monospace(format!("{sign}{}", text::bytes(step.bytes.unsigned_abs())));
            let damage = step.damage.map_or_else(|| "…".to_owned(), signed);
            ui.monospace(format!("damage {damage}"))
                .on_hover_text("Change of ‖W−Ŵ‖²/‖W‖², estimated from a sample of rows.");
            let price = step.price().map_or_else(|| "–".to_owned(), text::percent);
            ui.monospace(format!("{word} {price}/MB")).on_hover_text(tip);
            let take = ui.small_button("Take");
            if take.on_hover_text("Give the selected layers this assignment.").clicked() {
                context.send(Command::Assign(Assignment::clone(&step.assignment)));
            }
        });
    }
}

/// A change in percent with its sign.
fn signed(change: f64) -> String {
    format!("{}{}", if change < 0.0 { "−" } else { "+" }, text::percent(change.abs()))
}

/// What the plan does to everything selected.
fn selection(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let layers: Vec<usize> = model.selection.layers().filter(|&l| model.is_matrix(l)).collect();
    if layers.len() < 2 {
        return;
    }
    let before: u64 = layers.iter().map(|&l| model.checkpoint.tensors()[l].bytes()).sum();
    let after: u64 = layers.iter().map(|&l| model.bytes(l)).sum();
    let weights = |layer: usize| model.checkpoint.tensors()[layer].parameters() as f64;
    let known = layers.iter().filter_map(|&l| Some((weights(l), model.damage(l)?)));
    let known: Vec<(f64, Damage)> = known.collect();
    let all: f64 = layers.iter().map(|&l| weights(l)).sum();
    let sum: f64 = known.iter().map(|(weights, of)| weights * of.relative_error.powi(2)).sum();
    let sign = if known.iter().all(|(_, damage)| damage.is_exact()) { "" } else { "~" };
    let more = if known.len() < layers.len() { "+" } else { "" };
    let is_weighted = known.iter().any(|(_, damage)| damage.weighting != Weighting::None);
    let title = name_of_mean(is_weighted);
    ui.add_space(4.0);
    ui.label(RichText::new(format!("{} layers selected", layers.len())).color(context.tokens.weak));
    ui.monospace(format!(
        "{} → {} ({} saved), {title} {sign}{}{more}",
        text::bytes(before),
        text::bytes(after),
        text::bytes(before.saturating_sub(after)),
        text::value(sum / all.max(1.0))
    ))
    .on_hover_text(format!("Bytes exact; {MEAN} Here the model is the selected layers alone. ~: samples of rows stand for some of them; +: some are not known."));
}
