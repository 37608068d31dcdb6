//! The layer in a second checkpoint: how far it is from the open one, and how both differ as a whole.

use egui::{Grid, RichText, Ui};
use lapidary_engine::compare::{Comparison, Counterpart};

use crate::commands::Command;
use crate::document::Slot;
use crate::document::model::Model;
use crate::document::other::{Other, Tally};
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, known, note};
use crate::widgets::busy::busy;

const HEIGHT: f32 = 170.0;
/// Tensors named in a tooltip.
const NAMED: usize = 20;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layers: &[usize]) {
    match &model.other {
        Slot::Idle => choose(context, ui),
        Slot::Running { what, .. } => {
            ui.horizontal(|ui| {
                busy(ui);
                ui.label(what);
            });
        }
        Slot::Failed(sentence) => {
            ui.colored_label(context.tokens.error, sentence);
            choose(context, ui);
        }
        Slot::Ready(other) => compared(context, ui, model, (other, layers)),
    }
}

fn choose(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.label("Compare with a second checkpoint of the same architecture: the base of a fine-tune, or an export, dense or compressed.");
    ui.horizontal(|ui| {
        for (title, purpose) in
            [("Folder…", Purpose::CompareFolder), ("File…", Purpose::CompareFile)]
        {
            if ui.button(title).on_hover_text(purpose.title()).clicked() {
                context.send(Command::Pick(purpose));
            }
        }
    });
}

fn compared(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (other, layers): (&Other, &[usize]),
) {
    ui.horizontal_wrapped(|ui| {
        ui.label("with");
        ui.strong(other.checkpoint.title())
            .on_hover_text(other.checkpoint.path().display().to_string());
        if ui.small_button("Another…").clicked() {
            context.send(Command::Pick(Purpose::CompareFolder));
        }
        if ui.small_button("×").on_hover_text("Stop comparing.").clicked() {
            context.send(Command::StopComparing);
        }
    });
    summary(context, ui, other);
    ui.separator();
    let layer = layers[0];
    ui.strong(model.short_name(layer));
    match &other.pairs[layer] {
        None => {
            ui.weak("The second checkpoint has no tensor of this name.");
        }
        Some(pair) => {
            note(context, ui, pair_text(other, pair));
            if other.scales.contains_key(&layer) {
                note(context, ui, "Scales that the export folded are undone.").on_hover_text("Weights were multiplied where others were divided, so that the model computes the same. What is compared is what the layer does.");
            }
            let state = other.found[layer].as_ref();
            if let Some(found) = known(context, ui, state, "Comparing…") {
                numbers(context, ui, found);
            }
        }
    }
    if layers.len() > 1 {
        rows(context, ui, model, (other, layers));
    }
    let figure = over_the_model(model, other);
    parts::plot_of_layers(context, ui, "differences", &figure, HEIGHT);
    parts::swatches(context, ui, figure.series.iter());
    note(context, ui, "On the map: colour by difference, cosine, changed share or bit distance.");
}

fn pair_text(other: &Other, pair: &Counterpart) -> String {
    let names = pair.tensors().iter().map(|&tensor| &other.checkpoint.tensors()[tensor]);
    let names: Vec<String> = names
        .map(|tensor| format!("{} ({}, {})", tensor.name, tensor.shape, tensor.type_name()))
        .collect();
    names.join(" + ")
}

fn summary(context: &ViewContext<'_>, ui: &mut Ui, other: &Other) {
    let tally = other.tally();
    let count = |n: usize| text::count(n as u64);
    let entries = [
        ("identical", count(tally.identical), "Tensors with the same bits in both."),
        ("different", count(tally.different), "Tensors that differ in at least one bit."),
        ("only here", count(tally.alone), "Tensors the second checkpoint does not have."),
        ("only there", count(tally.only_there), &only_there(other)),
        (
            "not comparable",
            count(tally.failed),
            "Tensors of another shape, or in a format that is not read; select one to see why.",
        ),
        (
            "relative error",
            text::percent(tally.relative_error),
            "‖A − B‖/‖A‖ over all tensors compared so far.",
        ),
        ("to do", count(tally.waiting), "Tensors still to be compared."),
    ];
    parts::numbers(context, ui, &entries);
    if tally.left_out() > 0 {
        let text = format!("The relative error leaves out {}.", left_out(&tally));
        note(context, ui, text).on_hover_text("What only one of the two has, or what cannot be compared, adds nothing to ‖A − B‖: the checkpoints may be further apart than the number says.");
    }
}

/// `3 tensors: 2 only here, 1 not comparable`.
fn left_out(tally: &Tally) -> String {
    let all = tally.left_out();
    let kinds = [
        (tally.alone, "only here"),
        (tally.only_there, "only there"),
        (tally.failed, "not comparable"),
    ];
    let kinds = kinds.iter().filter(|(n, _)| *n > 0);
    let kinds: Vec<String> =
        kinds.map(|(n, what)| format!("{} {what}", text::count(*n as u64))).collect();
    let tensors = if all == 1 { "tensor" } else { "tensors" };
    format!("{} {tensors}: {}", text::count(all as u64), kinds.join(", "))
}

/// The names of tensors that only the second checkpoint has.
fn only_there(other: &Other) -> String {
    let names = other.only_there.iter().take(NAMED);
    let names = names.map(|&tensor| format!("\n{}", other.checkpoint.tensors()[tensor].name));
    let more = match other.only_there.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\nand {} more", text::count(more as u64)),
    };
    let names: String = names.collect();
    format!("Tensors of the second checkpoint that this one does not have.{names}{more}")
}

fn numbers(context: &ViewContext<'_>, ui: &mut Ui, found: &Comparison) {
    if found.identical {
        ui.label(RichText::new("✔ identical, bit for bit").color(context.tokens.good));
        return;
    }
    let bits = found.bit_distance.map_or_else(|| "–".to_owned(), text::value);
    let entries = [
        (
            "relative error",
            text::percent(found.relative_error),
            "‖A − B‖/‖A‖. A fine-tune moves weights by some 0.1 to 3 %; 4 bits by some 10 %.",
        ),
        (
            "1 − cosine",
            text::value(1.0 - found.cosine),
            "1 − ⟨A, B⟩/(‖A‖‖B‖): 0 where both point the same way, also if one is scaled.",
        ),
        ("largest |a − b|", text::value(found.max_abs_difference), "The most any weight differs."),
        ("changed", text::percent(found.changed), "Share of weights that differ."),
        (
            "bit distance",
            bits,
            "Mean number of bits in which a weight differs, where both have one element type: what a delta would have to store, at least.",
        ),
    ];
    parts::numbers(context, ui, &entries);
}

fn rows(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (other, layers): (&Other, &[usize]),
) {
    Grid::new("compared").num_columns(4).striped(true).spacing([12.0, 1.0]).show(ui, |ui| {
        for head in ["layer", "relative error", "1 − cosine", "changed"] {
            note(context, ui, head);
        }
        ui.end_row();
        for &layer in layers {
            ui.label(model.short_name(layer));
            let found = other.comparison(layer);
            let cell = |of: &dyn Fn(&Comparison) -> String| {
                found.map_or_else(|| "–".to_owned(), |found| of(found))
            };
            ui.monospace(cell(&|found| text::percent(found.relative_error)));
            ui.monospace(cell(&|found| text::value(1.0 - found.cosine)));
            ui.monospace(cell(&|found| text::percent(found.changed)));
            ui.end_row();
        }
    });
}

/// The relative error of every layer by block, a line for each role.
fn over_the_model(model: &Model, other: &Other) -> Figure {
    let map = &model.map;
    let line = |(column, role): (usize, &lapidary_engine::checkpoint::Role)| {
        let point = |(row, &block): (usize, &u32)| {
            let errors = map.cell(row, column).iter().filter_map(|&layer| other.comparison(layer));
            let largest = errors.map(|found| found.relative_error).reduce(f64::max)?;
            Some([f64::from(block), largest])
        };
        let points: Vec<[f64; 2]> = map.blocks.iter().enumerate().filter_map(point).collect();
        Series::new(role.name(), Ink::Data(column), Kind::Line, points)
    };
    let series = map.roles.iter().enumerate().map(line).filter(|s| !s.points.is_empty());
    Figure {
        title: format!("{} against {}", model.checkpoint.title(), other.checkpoint.title()),
        x: Axis::new("block"),
        y: Axis::new("relative error").or_log(Scale::Linear),
        series: series.collect(),
    }
}
