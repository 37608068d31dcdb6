//! Why a layer has the bits it has, and how far metrics agree which layers matter.

use egui::{Grid, Ui};
use lapidary_engine::allocator::{Choice, Step};
use lapidary_engine::scores::Disagreement;

use super::{MEGABYTE, title};
use crate::commands::Command;
use crate::document::allocation::Ready;
use crate::document::model::Model;
use crate::theme::text;
use crate::views::ViewContext;

/// Rows of greatest disagreement that are shown.
const ROWS: usize = 8;

/// Explains the layer at the cursor.
pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let Some(layer) = model.selection.cursor() else { return };
    let name = model.short_name(layer);
    let header = egui::CollapsingHeader::new(format!("Why {name} has what it has"));
    let header = header.id_salt("why").show(ui, |ui| {
        let choice = ready.solved.choice_of(&model.checkpoint, model.plan());
        match (ready.solved.unit_of(layer), choice) {
            (None, _) => {
                ui.weak("It was not scored: the target holds none of the candidates for it.");
            }
            (_, None) => {
                ui.weak("The plan has assignments that were not scored; move the slider to have one that was.");
            }
            (Some(unit), Some(choice)) => explain(context, ui, (ready, &choice), unit),
        }
    });
    header.header_response.on_hover_text(
        "The price of the budget, and what the next step up or down would save or cost.",
    );
}

fn explain(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    (ready, choice): (&Ready, &Choice),
    unit: usize,
) {
    let of = &ready.solved.scores()[unit];
    let label = |option: usize| of.options[option].assignments[0].label();
    let budget = context.document.allocation.budget;
    let budget = budget.unwrap_or_else(|| ready.solved.bytes_of(choice));
    let found = ready.solved.explain(budget, choice, unit);
    let per_megabyte = |price: f64| text::value(price * MEGABYTE);
    ui.label(format!(
        "It has {}. At this budget a megabyte elsewhere saves {} of damage: that is the price.",
        label(choice.options[unit]),
        per_megabyte(found.multiplier)
    ));
    if found.is_locked {
        ui.label("It is locked: the solver leaves it as it is.");
        return;
    }
    let step = |step: &Step, verb: &str, verdict: &str| {
        format!(
            "{}: {} {} for {:.4} MB, {} a megabyte, {verdict}.",
            label(step.option),
            verb,
            text::value(step.damage),
            step.bytes as f64 / MEGABYTE,
            per_megabyte(step.price)
        )
    };
    match &found.up {
        Some(up) if up.price > found.multiplier => {
            ui.label(format!(
                "Up, {}",
                step(up, "saves", "more than the price, but its bytes do not fit what is left")
            ));
        }
        Some(up) => {
            ui.label(format!("Up, {}", step(up, "saves", "less than the price, so not taken")));
        }
        None if found.is_at_ceiling => {
            ui.label("Up: its role's ceiling is reached.");
        }
        None => {
            ui.label("Up: nothing larger does less damage.");
        }
    }
    match &found.down {
        Some(down) => {
            let verdict = if down.price >= found.multiplier {
                "more than the price, so not taken"
            } else {
                "less than the price, but the bytes it frees would buy nothing better"
            };
            ui.label(format!("Down, {}", step(down, "costs", verdict)));
        }
        None if found.is_at_floor => {
            ui.label("Down: its role's floor is reached.");
        }
        None => {
            ui.label("Down: there is nothing smaller.");
        }
    }
}

/// How the metrics that were scored agree.
pub(super) fn metrics(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let beside = &context.document.allocation.beside;
    let now = title(ready.wish.metric);
    let header = egui::CollapsingHeader::new("How the metrics agree").show(ui, |ui| {
        if beside.is_empty() {
            ui.weak(format!(
                "Only {now} was scored. Score by another metric too: both stay, and are compared here."
            ));
        }
        for other in beside {
            let name = title(other.ready.wish.metric);
            let Some(found) = &other.agreement else {
                ui.weak(format!("{name}: too few candidates were scored by both."));
                continue;
            };
            let over_units = found.over_units.map_or_else(|| "–".to_owned(), text::value);
            ui.label(format!(
                "{now} and {name}: ρ = {} over all {} candidates, {over_units} over layers at the same candidate.",
                text::value(found.over_candidates),
                found.compared
            ))
            .on_hover_text("Spearman's rank correlation. Over all candidates it is high as soon as both find fewer bits worse; over layers at the same bits it says whether they agree which layers matter.");
            disagreement(context, ui, (model, ready), (now, name, &found.rows));
        }
    });
    header.header_response.on_hover_text("Rank correlation of what was scored by more than one metric, and the layers about which they differ most.");
}

/// The layers about which two metrics differ most.
fn disagreement(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    (model, ready): (&Model, &Ready),
    (now, other, rows): (&str, &str, &[Disagreement]),
) {
    Grid::new(("agreement", other)).num_columns(3).striped(true).show(ui, |ui| {
        ui.weak("differ most");
        ui.weak(now).on_hover_text(
            "Mean rank among the layers at the same bits, 0 % the least damage, 100 % the most.",
        );
        ui.weak(other).on_hover_text("The same by the other metric.");
        ui.end_row();
        for row in rows.iter().take(ROWS) {
            let layers = &ready.solved.scores()[row.unit].unit.layers;
            if ui.link(model.short_name(layers[0])).on_hover_text("Select it.").clicked() {
                context.send(Command::Select(layers.clone()));
            }
            for rank in row.ranks {
                ui.monospace(format!("{:>5.0} %", 100.0 * rank));
            }
            ui.end_row();
        }
    });
}
