//! Spending a budget: candidates, how damage is told, the frontier, and the slider over it.

use std::sync::Arc;

use egui::{Button, ComboBox, DragValue, Key, ProgressBar, Slider, Ui, Window};
use lapidary_engine::plan::quantisers_of_bits;
use lapidary_engine::scores::Metric;

use crate::commands::Command;
use crate::commands::allocate::Allocate;
use crate::document::allocation::{BITS, Ready, Wish};
use crate::document::model::Model;
use crate::document::{FigureToSave, Sheet};
use crate::figure::{Axis, Drawing, Figure, Ink, Kind, Scale, Series};
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::busy::busy;
use crate::widgets::plot::{Options, plot};

const PLOT_HEIGHT: f32 = 180.0;
/// Bytes of a megabyte, as sizes are shown.
const MEGABYTE: f64 = 1e6;
/// Points of the frontier that are drawn.
const DRAWN: usize = 600;
pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let (Some(Sheet::Allocate), Some(model)) = (context.document.sheet, &context.document.model)
    else {
        return;
    };
    let mut open = true;
    let screen = ui.ctx().content_rect();
    // Over the list, so that the map is seen while the slider moves.
    let place = screen.left_bottom() + egui::vec2(8.0, -470.0);
    let window = Window::new("Allocate").open(&mut open).collapsible(true).resizable(true);
    window.default_pos(place).default_width(500.0).show(ui.ctx(), |ui| {
        form(context, ui, model);
        work(context, ui);
        let state = &context.document.allocation;
        match &state.ready {
            Some(ready) => solved(context, ui, model, ready),
            None if state.work.is_none() => {
                ui.weak("Every candidate of every layer is scored once; then the budget is a slider, and the best plan of each size is looked up while it moves.");
            }
            None => {}
        }
    });
    let escaped =
        context.document.question.is_none() && ui.input(|input| input.key_pressed(Key::Escape));
    if !open || escaped {
        send(context, Allocate::Toggle);
    }
}

fn send(context: &ViewContext<'_>, command: Allocate) {
    context.send(Command::Allocate(command));
}

fn form(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let before = &context.document.allocation.wish;
    let mut wish = before.clone();
    ui.horizontal_wrapped(|ui| {
        method(ui, &mut wish);
        ui.label("at").on_hover_text("Bits that a layer may have, besides being kept as it is.");
        for bits in BITS {
            let mut is_in = wish.bits.contains(&bits);
            let tip = format!("Whether {bits} bits are a candidate, where the target holds them.");
            if ui.toggle_value(&mut is_in, bits.to_string()).on_hover_text(tip).changed() {
                wish.bits.retain(|other| *other != bits);
                wish.bits.extend(is_in.then_some(bits));
                wish.bits.sort_unstable();
            }
        }
    });
    ui.horizontal_wrapped(|ui| {
        metric(context, ui, model, &mut wish);
        if context.document.allocation.work.is_some() {
            if ui.button("Cancel").on_hover_text("Stop scoring.").clicked() {
                send(context, Allocate::Cancel);
            }
        } else if ui.button("Score").clicked() {
            send(context, Allocate::Score);
        }
    });
    if wish != *before {
        send(context, Allocate::Wish(wish));
    }
    if let Some(sentence) = &context.document.allocation.failed {
        ui.colored_label(context.tokens.error, sentence);
    }
}

fn method(ui: &mut Ui, wish: &mut Wish) {
    let title = quantisers_of_bits().find(|of| of.id == wish.method).map_or("", |of| of.title);
    let label = ui.label("Candidates");
    let choice = ComboBox::from_id_salt("method of candidates").selected_text(title);
    let choice = choice.show_ui(ui, |ui| {
        for of in quantisers_of_bits() {
            let choice = ui.selectable_value(&mut wish.method, of.id.to_owned(), of.title);
            choice.on_hover_text(of.summary);
        }
    });
    choice.response.labelled_by(label.id).on_hover_text(
        "The quantiser that makes the candidates; those that need a calibration are left out without one.",
    );
}

const METRICS: [(Metric, &str, &str); 3] = [
    (
        Metric::Weights,
        "weights",
        "Mean of ‖W−Ŵ‖²/‖W‖² over weights: cheap, and as if every weight mattered alike.",
    ),
    (
        Metric::Outputs,
        "outputs",
        "Mean of tr(Δ·H·Δ^T)/tr(W·H·W^T) over weights: the squared error of what layers give, for the inputs of the calibration.",
    ),
    (
        Metric::Measured,
        "measured",
        "KL divergence from the original with this layer alone changed, on the text of Evaluate: the best, and the dearest.",
    ),
];

fn metric(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, wish: &mut Wish) {
    ui.label("Damage by");
    for (metric, title, tip) in METRICS {
        let why_not = match metric {
            Metric::Outputs if model.calibrations.loaded.is_none() => {
                Some("Calibrate first (Ctrl+T).")
            }
            Metric::Measured if context.document.settings.evaluation_text.is_none() => {
                Some("Choose a text in Evaluate first (Ctrl+R).")
            }
            _ => None,
        };
        let button = Button::selectable(wish.metric == metric, title);
        let button = ui.add_enabled(why_not.is_none(), button).on_hover_text(tip);
        if button.on_disabled_hover_text(why_not.unwrap_or_default()).clicked() {
            wish.metric = metric;
        }
    }
    if wish.metric == Metric::Measured {
        let label = ui.label("tokens");
        let drag = DragValue::new(&mut wish.tokens).range(64..=1_000_000_usize).speed(50.0);
        ui.add(drag)
            .labelled_by(label.id)
            .on_hover_text("Each candidate of each layer is run on so many tokens.");
    }
}

fn work(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(work) = &context.document.allocation.work else { return };
    ui.horizontal(|ui| {
        let Some(progress) = &work.progress else {
            busy(ui);
            ui.label("beginning…");
            return;
        };
        let share = progress.done as f32 / progress.total.max(1) as f32;
        ui.add(ProgressBar::new(share).desired_width(160.0));
        let left = progress.total.saturating_sub(progress.done);
        let mut line = format!("{} left", text::amount(left, progress.unit));
        if let Some(seconds) = work.seconds_left() {
            line.extend([", ".to_owned(), text::secs(seconds)]);
        }
        ui.monospace(line).on_hover_text(&progress.item);
    });
}

fn solved(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let state = &context.document.allocation;
    ui.separator();
    let stale = if ready.target != model.target.about().id {
        Some("The scores are for another target: score again.")
    } else if ready.wish != state.wish {
        Some("The scores are for what was asked before: score again.")
    } else {
        None
    };
    if let Some(stale) = stale {
        ui.colored_label(context.tokens.warning, stale);
    }
    if ready.target != model.target.about().id {
        return;
    }
    let [least, most] = ready.solved.range();
    let budget = state.budget.unwrap_or(most);
    let mut bytes = budget;
    ui.horizontal(|ui| {
        ui.spacing_mut().slider_width = (ui.available_width() - 190.0).max(100.0);
        let label = ui.label("Budget");
        let slider = Slider::new(&mut bytes, least..=most)
            .custom_formatter(|bytes, _| format!("{:.3} MB", bytes / MEGABYTE))
            .custom_parser(|typed| {
                let number = typed.trim().trim_end_matches("MB").trim().parse::<f64>();
                number.ok().map(|megabytes| megabytes * MEGABYTE)
            });
        let slider = ui.add(slider).labelled_by(label.id);
        if slider.on_hover_text("Bytes of all tensors as they are exported. The plan is the best of that size by the scores; one drag is one step of undo.").changed() {
            send(context, Allocate::Spend(bytes));
        }
    });
    frontier(context, ui, model, ready);
    ui.horizontal_wrapped(|ui| {
        ui.monospace(format!("predicted damage {}", text::value(state.predicted)))
            .on_hover_text("The sum of the scores of the plan where the slider stands: a prediction, as damages of layers need not add up. Evaluate measures it.");
        if !state.changed.is_empty() {
            ui.label(format!("{} layers changed since the last stop", state.changed.len()));
            let tip = "Select them: the map frames them.";
            if ui.button("Select them").on_hover_text(tip).clicked() {
                send(context, Allocate::SelectChanged);
            }
        }
    });
}

fn frontier(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let state = &context.document.allocation;
    let place =
        |point: &lapidary_engine::allocator::Point| [point.bytes as f64 / MEGABYTE, point.damage];
    let points = ready.solved.points();
    let every = points.len().div_ceil(DRAWN).max(1);
    let drawn = points.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == points.len());
    let drawn: Vec<[f64; 2]> = drawn.map(|(_, point)| place(point)).collect();
    let uniforms: Vec<[f64; 2]> = ready.solved.uniforms().iter().map(place).collect();
    let mut series = vec![
        Series::new("best by the scores", Ink::Data(0), Kind::Line, drawn),
        Series::new("same bits everywhere", Ink::OtherMark, Kind::Points, uniforms),
    ];
    if state.budget.is_some() && !model.outcome.is_late {
        let now = [model.outcome.tensor_bytes as f64 / MEGABYTE, state.predicted];
        series.push(Series::new("the plan", Ink::Mark, Kind::Points, vec![now]));
    }
    let damage = match ready.wish.metric {
        Metric::Measured | Metric::Linearity => Axis::new("predicted KL").in_unit("nats"),
        Metric::Weights | Metric::Outputs => Axis::new("predicted error²"),
    };
    let figure = Figure {
        title: "Size against predicted damage".to_owned(),
        x: Axis::new("size").in_unit("MB"),
        y: damage.or_log(Scale::Log),
        series,
    };
    let handle = state.budget.map(|bytes| ("budget", bytes as f64 / MEGABYTE));
    let options = Options { height: PLOT_HEIGHT, handle, ..Options::default() };
    let answer = plot(ui, context.tokens, "frontier", &figure, options);
    if let Some(moved) = answer.moved_to {
        let [least, most] = ready.solved.range();
        let bytes = ((moved * MEGABYTE).round().max(0.0) as u64).clamp(least, most);
        send(context, Allocate::Spend(bytes));
    }
    if let Some((figure, format)) = answer.save {
        let drawing = Drawing::Plot(figure);
        context.send(Command::SaveFigure(Arc::new(FigureToSave { drawing, format })));
    }
    if let Some(text) = answer.copy {
        context.send(Command::Copy(text));
    }
}
