//! Outliers: the picture of the matrix, the largest weights, where the outlier mass sits, super-weights of the model.

use egui::{Grid, RichText, ScrollArea, Ui};
use lapidary_engine::statistics::{Concentration, Structure, Verdict};

use crate::commands::Command;
use crate::document::model::{Model, Pane};
use crate::document::selection::How;
use crate::theme::text;
use crate::views::ViewContext;
use crate::views::inspector::parts::{known, note, numbers};
use crate::views::inspector::picture;

/// Hot lines named one by one.
const NAMED: usize = 6;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    if tensor.matrix.is_none() {
        ui.weak(format!("No picture: {}.", tensor.why_no_matrix()));
        super_weights(context, ui, model);
        return;
    }
    picture::ui(context, ui, model, layer);
    ui.add_space(4.0);
    let state = &model.measured.structures[layer];
    if let Some(structure) = known(context, ui, state.as_ref(), "Looking where outliers sit…") {
        let super_weights = model.statistics(layer).map_or(0, |found| found.super_weight_count);
        concentration(context, ui, &structure.concentration, super_weights);
        largest(context, ui, structure);
    }
    super_weights(context, ui, model);
}

fn concentration(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    found: &Concentration,
    super_weights: u64,
) {
    let named = |lines: &[usize]| {
        let first: Vec<String> = lines.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if lines.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", first.join(", "))
    };
    let sentence = match found.verdict() {
        Verdict::NoOutliers if super_weights > 0 => format!(
            "Apart from {} beyond 50 std, the tails are no heavier than those of a normal distribution.",
            counted(super_weights as usize, "weight")
        ),
        Verdict::NoOutliers => "No outliers: the tails are no heavier than those of a normal distribution.".to_owned(),
        Verdict::Columns => format!(
            "Outliers sit in {} ({}): scale these inputs, or keep them at more bits.",
            counted(found.hot_columns.len(), "input column"),
            named(&found.hot_columns)
        ),
        Verdict::Rows => format!(
            "Outliers sit in {} ({}): a scale for each row, or small groups, will hold them.",
            counted(found.hot_rows.len(), "output row"),
            named(&found.hot_rows)
        ),
        Verdict::Scattered => "Outliers are scattered: small groups, clipping, or keeping single weights apart will help; scaling rows or columns will not.".to_owned(),
        Verdict::Mixed => "Outliers sit partly in rows, partly in columns, partly scattered.".to_owned(),
    };
    let sentence = format!("{sentence} Outliers here are weights beyond 4 std.");
    ui.label(sentence).on_hover_text("A column or row is hot when it holds more outliers than chance explains: more than λ + 6√λ + 3 beyond 4 std, with λ their mean number.");
    if found.verdict() == Verdict::NoOutliers {
        return;
    }
    let mass = "Share of the mass of the tails, Σ(w − mean)² over |w − mean| > 4 std. The three shares add up to 100 %.";
    let entries = [
        (
            "beyond 4 std",
            text::count(found.outliers),
            "Weights with |w − mean| > 4 std; a normal distribution has 63 in a million. The tab Weights and the list count those beyond 6 std, which are fewer.",
        ),
        ("in columns", text::percent(found.in_columns), mass),
        ("in rows", text::percent(found.in_rows), mass),
        ("scattered", text::percent(found.scattered), mass),
    ];
    numbers(context, ui, &entries);
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn largest(context: &ViewContext<'_>, ui: &mut Ui, structure: &Structure) {
    let title = format!("The {} largest weights", structure.largest.len());
    egui::CollapsingHeader::new(title).default_open(true).show(ui, |ui| {
        ScrollArea::vertical().id_salt("largest").max_height(130.0).show(ui, |ui| {
            let grid = Grid::new("largest").num_columns(4).striped(true).spacing([16.0, 1.0]);
            grid.show(ui, |ui| largest_rows(context, ui, structure));
        });
    });
}

fn largest_rows(context: &ViewContext<'_>, ui: &mut Ui, structure: &Structure) {
    for head in ["weight", "row", "column", ""] {
        note(context, ui, head);
    }
    ui.end_row();
    for place in &structure.largest {
        ui.monospace(text::value(f64::from(place.value)));
        ui.monospace(place.row.to_string());
        ui.monospace(place.col.to_string());
        if ui.small_button("Show").on_hover_text("Zoom to it in the picture.").clicked() {
            picture::go_to(ui, (place.row, place.col));
        }
        ui.end_row();
    }
}

/// Every weight of the model beyond 50 standard deviations.
fn super_weights(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let tensors = 0..model.checkpoint.tensors().len();
    let having: Vec<usize> = tensors
        .filter(|&layer| model.statistics(layer).is_some_and(|s| s.super_weight_count > 0))
        .collect();
    let count = |layer: usize| model.statistics(layer).map_or(0, |s| s.super_weight_count);
    let all: u64 = having.iter().map(|&layer| count(layer)).sum();
    let title = format!("Super-weights of the model: {}", text::count(all));
    let header = egui::CollapsingHeader::new(title).id_salt("super-weights").show(ui, |ui| {
        if all == 0 {
            let measured = model.measured.statistics.iter().flatten().count();
            ui.weak(format!(
                "None in the {} tensors measured so far.",
                text::count(measured as u64)
            ));
        }
        let scroll = ScrollArea::vertical().id_salt("super").max_height(160.0);
        scroll.show(ui, |ui| super_weight_rows(context, ui, model, &having));
    });
    header.header_response.on_hover_text("Weights with |w − mean| > 50 std. A single one can carry a model (Yu et al. 2024): keep it at full precision.");
}

fn super_weight_rows(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    Grid::new("super-weights").num_columns(4).striped(true).spacing([12.0, 1.0]).show(ui, |ui| {
        for &layer in layers {
            let Some(statistics) = model.statistics(layer) else { continue };
            let columns = model.checkpoint.tensors()[layer].shape.0.last().copied();
            let columns = columns.unwrap_or(1).max(1) as u64;
            for weight in &statistics.super_weights {
                if ui.link(model.short_name(layer)).on_hover_text("Select this layer.").clicked() {
                    context.send(Command::Click(layer, How::Replace, Pane::List));
                }
                ui.monospace(text::value(weight.value));
                let stds = (weight.value - statistics.mean).abs() / statistics.std;
                ui.monospace(format!("{stds:.0} std"));
                let place = format!("[{}, {}]", weight.index / columns, weight.index % columns);
                ui.label(RichText::new(place).monospace().color(context.tokens.weak))
                    .on_hover_text(
                        "Place in the tensor as stored; leading extents are counted together.",
                    );
                ui.end_row();
            }
        }
    });
}
