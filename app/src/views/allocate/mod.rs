//! Spending a budget: candidates, how damage is told, the frontier, and the slider over it.

mod bounds;
mod candidates;
mod evolution;
mod frontier;
mod memory;
mod rankings;
mod runs;
mod why;

use egui::{Button, DragValue, Key, ScrollArea, Ui, Window};
use lapidary_engine::scores::Metric;

use crate::commands::Command;
use crate::commands::allocate::Allocate;
use crate::document::Sheet;
use crate::document::allocation::{Ready, Wish};
use crate::document::model::Model;
use crate::views::{ViewContext, working};

/// Bytes of a megabyte, as sizes are shown.
const MEGABYTE: f64 = 1e6;
/// Height of the window where the screen allows it.
const MOST_HEIGHT: f32 = 560.0;
/// Height that what was solved has at least.
const LEAST_HEIGHT: f32 = 120.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let (Some(Sheet::Allocate), Some(model)) = (context.document.sheet, &context.document.model)
    else {
        return;
    };
    let mut open = true;
    let screen = ui.ctx().content_rect();
    // Over the list, so that the map is seen while the slider moves.
    let height = (screen.height() - 120.0).min(MOST_HEIGHT);
    let place = screen.left_bottom() + egui::vec2(8.0, -height - 60.0);
    let window = Window::new("Allocate").open(&mut open).collapsible(true).resizable(true);
    window.default_pos(place).default_size([460.0, height]).show(ui.ctx(), |ui| {
        let top = ui.cursor().top();
        form(context, ui, model);
        if let Some(work) = &context.document.allocation.work {
            ui.horizontal_wrapped(|ui| working(ui, work));
        }
        let state = &context.document.allocation;
        match &state.ready {
            Some(ready) => {
                // What the form leaves, so that the last section can be scrolled to.
                let left = (height - (ui.cursor().top() - top)).max(LEAST_HEIGHT);
                let scroll = ScrollArea::vertical().id_salt("allocation").max_height(left);
                scroll.show(ui, |ui| solved(context, ui, model, ready));
            }
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
    candidates::ui(ui, model, &mut wish);
    let mut is_asked = false;
    ui.horizontal_wrapped(|ui| {
        metric(context, ui, model, &mut wish);
        if context.document.allocation.work.is_some() {
            if ui.button("Cancel").on_hover_text("Stop scoring.").clicked() {
                send(context, Allocate::Cancel);
            }
        } else {
            is_asked = ui.button("Score").clicked() | one_stack(ui, model, &mut wish);
        }
    });
    rankings::ui(context, ui, model);
    if wish != *before {
        send(context, Allocate::Wish(wish));
    }
    if is_asked {
        send(context, Allocate::Score);
    }
    if let Some(sentence) = &context.document.allocation.failed {
        ui.colored_label(context.tokens.error, sentence);
    }
}

/// Stacks as the candidates; whether they are to be scored now.
fn one_stack(ui: &mut Ui, model: &Model, wish: &mut Wish) -> bool {
    let stacks = wish.of_stacks(model);
    let button = ui.add_enabled(stacks.is_some(), Button::new("One stack for any size"));
    let button = button.on_hover_text("Scores stacks of 1 to 8 levels for every layer, each the beginning of the next (BitStack). The budget below then takes levels on and off. Exported once at its largest, an archive can be cut to any size: lapidary convert --size.");
    let button =
        button.on_disabled_hover_text("The target holds no stacks of levels: choose Archive.");
    let Some(stacks) = stacks.filter(|_| button.clicked()) else { return false };
    *wish = stacks;
    true
}

const METRICS: [(Metric, &str, &str); 4] = [
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
        Metric::Linearity,
        "linearity",
        "KL divergence is close to linear in the squared error of a layer: its slope is measured once for each layer with a few levels of noise, on the text of Evaluate.",
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
            _ if metric.is_measured() && context.document.settings.evaluation_text.is_none() => {
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
    if wish.metric.is_measured() {
        let label = ui.label("tokens");
        let drag = DragValue::new(&mut wish.tokens).range(64..=1_000_000_usize).speed(50.0);
        ui.add(drag)
            .labelled_by(label.id)
            .on_hover_text("Each candidate of each layer is run on so many tokens.");
    }
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
    frontier::ui(context, ui, model, ready);
    memory::ui(context, ui, model, ready);
    bounds::ui(context, ui, model, ready);
    why::ui(context, ui, model, ready);
    evolution::ui(context, ui, model, ready);
    runs::ui(context, ui);
    why::metrics(context, ui, model, ready);
}

/// The name of a metric on screen.
fn title(metric: Metric) -> &'static str {
    METRICS.iter().find(|(of, ..)| *of == metric).map_or("", |(_, title, _)| title)
}
