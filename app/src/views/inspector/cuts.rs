//! The cuts of a tensor train: singular values between its cores, with the ranks that are kept.

use egui::Ui;
use lapidary_engine::method::{self, Cut};

use crate::document::look::Seen;
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::parts;

/// Singular values are drawn down to this share of the largest: below it is rounding.
const FLOOR: f64 = 1e-9;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let assignment = model.assignment(layer);
    if !method::has_cuts(&assignment.steps) {
        return;
    }
    ui.separator();
    let subject = (layer, Seen::Error(assignment));
    match model.look.cuts.as_ref().filter(|(of, _)| *of == subject) {
        None => {
            ui.weak("Computing the cuts of the tensor train…");
        }
        Some((_, Err(sentence))) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Some((_, Ok(cuts))) => drawn(context, ui, (model, layer), cuts),
    }
}

fn drawn(context: &ViewContext<'_>, ui: &mut Ui, (model, layer): (&Model, usize), cuts: &[Cut]) {
    ui.label("Cuts of the tensor train").on_hover_text("Singular values of the matrix between two cores, a later one of what the directions kept before it leave. Vertical lines are the ranks that are kept: what lies beyond them is lost.");
    parts::plot(context, ui, "cuts", &figure(model, layer, cuts), PLOT_HEIGHT);
    let total = cuts.first().map_or(0.0, |cut| squares(&cut.singular_values));
    let lost: f64 = cuts.iter().map(beyond).sum();
    for (i, cut) in cuts.iter().enumerate() {
        let (rank, whole) = (cut.rank as u64, cut.singular_values.len() as u64);
        let error = text::percent((beyond(cut) / total).sqrt());
        let [rank, whole] = [rank, whole].map(text::count);
        ui.monospace(format!("cut {}: rank {rank} of {whole}, loses {error}", i + 1))
            .on_hover_text("√(Σ_{i>rank} σ²/Σw²): its part of the relative error of the layer.");
    }
    ui.monospace(format!("together {}", text::percent((lost / total).sqrt()))).on_hover_text(
        "The relative error of the train before its cores are rounded: squares of all cuts add up.",
    );
}

fn squares(values: &[f64]) -> f64 {
    values.iter().map(|s| s * s).sum()
}

fn beyond(cut: &Cut) -> f64 {
    squares(&cut.singular_values[cut.rank.min(cut.singular_values.len())..])
}

fn figure(model: &Model, layer: usize, cuts: &[Cut]) -> Figure {
    let of = |(i, cut): (usize, &Cut)| {
        let values = &cut.singular_values;
        let floor = values.first().map_or(0.0, |largest| largest * FLOOR);
        let points = values.iter().enumerate().filter(|(_, s)| **s > floor);
        let points = points.map(|(i, &s)| [(i + 1) as f64, s]).collect();
        [
            Series::new(&format!("cut {}", i + 1), Ink::Data(i), Kind::Line, points),
            Series::new(
                &format!("kept at cut {}", i + 1),
                Ink::Data(i),
                Kind::Vertical,
                vec![[cut.rank as f64, 0.0]],
            ),
        ]
    };
    Figure {
        title: format!("Cuts of the tensor train of {}", model.short_name(layer)),
        x: Axis::new("index i").or_log(Scale::Linear),
        y: Axis::new("σ").or_log(Scale::Log),
        series: cuts.iter().enumerate().flat_map(of).collect(),
    }
}
