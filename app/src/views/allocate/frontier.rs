//! The budget as a slider, and the least predicted damage of every size.

use egui::{Slider, Ui};
use lapidary_engine::allocator::Point;
use lapidary_engine::scores::Metric;

use super::{MEGABYTE, send};
use crate::commands::allocate::Allocate;
use crate::document::allocation::{Ready, Refinement};
use crate::document::damages::MEAN;
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::plot::{Options, plot};

const HEIGHT: f32 = 180.0;
/// Points of the frontier that are drawn.
const DRAWN: usize = 600;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    slider(context, ui, ready);
    let now = ready.solved.choice_of(&model.checkpoint, model.plan());
    let now =
        now.map(|choice| Point { bytes: ready.solved.bytes_of(&choice), damage: choice.damage });
    draw(context, ui, ready, now);
    ui.horizontal_wrapped(|ui| {
        match now {
            Some(now) if now.damage == 0.0 && !model.plan_compresses() => {
                ui.weak("Nothing is compressed yet: move the budget down.").on_hover_text("The budget begins where the plan is, and a plan that keeps every layer takes all bytes and does no damage.");
            }
            Some(now) => {
                ui.monospace(format!("predicted {} {}", told(ready), text::value(now.damage))).on_hover_text(predicted(ready));
            }
            None => {
                ui.weak("The plan has assignments that were not scored.").on_hover_text("Something was set by hand that is no candidate, so nothing is predicted for it. Moving the slider replaces it, unless it is locked.");
            }
        }
        let changed = &context.document.allocation.changed;
        if !changed.is_empty() {
            ui.label(format!("{} layers changed since the last stop", changed.len()));
            let tip = "Select them: the map frames them.";
            if ui.button("Select them").on_hover_text(tip).clicked() {
                send(context, Allocate::SelectChanged);
            }
        }
        refinement(context, ui, ready);
    });
}

fn slider(context: &ViewContext<'_>, ui: &mut Ui, ready: &Ready) {
    let [least, most] = ready.solved.range();
    let mut bytes = context.document.allocation.budget.unwrap_or(most);
    ui.horizontal(|ui| {
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).max(100.0);
        let tip = "Bytes of all tensors as they are exported. The plan is the best of that size by the scores; one drag is one step of undo.";
        let label = ui.label("Budget").on_hover_text(tip);
        let slider = Slider::new(&mut bytes, least..=most)
            .custom_formatter(|bytes, _| format!("{:.3} MB", bytes / MEGABYTE))
            .custom_parser(|typed| {
                let number = typed.trim().trim_end_matches("MB").trim().parse::<f64>();
                number.ok().map(|megabytes| megabytes * MEGABYTE)
            });
        let slider = ui.add(slider).labelled_by(label.id);
        // While it moves, the plot below is what is looked at.
        let slider = if slider.dragged() { slider } else { slider.on_hover_text(tip) };
        if slider.changed() {
            send(context, Allocate::Spend(bytes));
        }
    });
}

fn place(point: &Point) -> [f64; 2] {
    [point.bytes as f64 / MEGABYTE, point.damage]
}

fn draw(context: &ViewContext<'_>, ui: &mut Ui, ready: &Ready, now: Option<Point>) {
    let state = &context.document.allocation;
    let figure = figure(context, ready, now);
    let handle = state.budget.map(|bytes| ("budget", bytes as f64 / MEGABYTE));
    let options = Options { height: HEIGHT, handle, ..Options::default() };
    let answer = plot(ui, context.tokens, "frontier", &figure, options);
    if let Some(moved) = answer.moved_to {
        let [least, most] = ready.solved.range();
        let bytes = ((moved * MEGABYTE).round().max(0.0) as u64).clamp(least, most);
        send(context, Allocate::Spend(bytes));
    }
    context.answer(answer);
}

fn figure(context: &ViewContext<'_>, ready: &Ready, now: Option<Point>) -> Figure {
    let state = &context.document.allocation;
    let points = ready.solved.points();
    let every = points.len().div_ceil(DRAWN).max(1);
    let drawn = points.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == points.len());
    let drawn: Vec<[f64; 2]> = drawn.map(|(_, point)| place(point)).collect();
    let uniforms: Vec<[f64; 2]> = ready.solved.uniforms().iter().map(place).collect();
    let mut series = vec![
        Series::new("best by the scores", Ink::Data(0), Kind::Line, drawn),
        Series::new("same bits everywhere", Ink::OtherMark, Kind::Points, uniforms),
    ];
    for (i, (title, point)) in state.presets.iter().enumerate() {
        series.push(Series::new(title, Ink::Data(i + 3), Kind::Points, vec![place(point)]));
    }
    // Runs measure KL: only beside predictions of KL do they have a place.
    if ready.is_in_nats() {
        for run in &state.against.runs {
            let (x, y) = (run.predicted.bytes as f64 / MEGABYTE, run.kl.value);
            let margin = if run.kl.error.is_nan() { 0.0 } else { run.kl.margin() };
            // A logarithmic axis has no place for what is not positive.
            let low = (y - margin).max(y * 1e-3);
            let ends = vec![[x, low], [x, y + margin]];
            series.push(Series::new("measured runs", Ink::Data(2), Kind::Line, ends));
            series.push(Series::new("measured runs", Ink::Data(2), Kind::Points, vec![[x, y]]));
        }
    }
    series
        .extend(now.map(|now| Series::new("the plan", Ink::Mark, Kind::Points, vec![place(&now)])));
    Figure {
        title: "Size against predicted damage".to_owned(),
        x: Axis::new("size").in_unit("MB"),
        y: damage_axis(ready).or_log(Scale::Log),
        series,
    }
}

/// The name of what scores predict.
fn told(ready: &Ready) -> &'static str {
    if ready.is_in_nats() { Metric::Measured.quantity() } else { ready.wish.metric.quantity() }
}

/// What the number is.
fn predicted(ready: &Ready) -> String {
    if ready.is_in_nats() {
        return "The sum over layers of the divergence from the original with that layer alone changed, in nats: a prediction, as damages of layers need not add up. Evaluate measures it. The line at the bottom of the window has another number, the mean damage of weights or outputs.".to_owned();
    }
    format!(
        "Of the plan as it is now: {MEAN} The line at the bottom of the window has the same number, and ~ there while rows stand for layers. A prediction, as damages of layers need not add up: Evaluate measures what the model loses."
    )
}

/// The axis of what scores predict.
pub(super) fn damage_axis(ready: &Ready) -> Axis {
    let axis = Axis::new(&format!("predicted {}", told(ready)));
    if ready.is_in_nats() { axis.in_unit("nats") } else { axis }
}

/// Measuring where the choice at the slider hangs on scores that are cheap.
fn refinement(context: &ViewContext<'_>, ui: &mut Ui, ready: &Ready) {
    let state = &context.document.allocation;
    if let Some(Refinement { budget, counts: [measured, all] }) = ready.refinement {
        let size = text::bytes(budget);
        ui.label(format!("{measured} of {all} candidates measured, for {size}; a move of the slider takes their plan"))
            .on_hover_text("Those chosen at that budget, and the steps from them whose price is near; the others are estimated from the scores, in proportion to what was measured of the same layer.");
    }
    let is_here = ready.refinement.is_some_and(|of| Some(of.budget) == state.budget);
    if ready.wish.metric == Metric::Measured || is_here || state.work.is_some() {
        return;
    }
    let has_text = context.document.settings.evaluation_text.is_some();
    let button = ui.add_enabled(has_text, egui::Button::new("Measure where it hangs"));
    let tip = "Runs the model with one layer changed at a time, only for the candidates on which the choice at this budget hangs; the rest keep their scores, set right in proportion.";
    let why_not = "Choose a text in Evaluate first (Ctrl+R).";
    if button.on_hover_text(tip).on_disabled_hover_text(why_not).clicked() {
        send(context, Allocate::Refine);
    }
}
