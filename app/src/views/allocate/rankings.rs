//! Plans by one ranking: no slider, one press.

use egui::{Button, DragValue, Ui};

use super::{MEGABYTE, send};
use crate::commands::allocate::Allocate;
use crate::document::model::Model;
use crate::document::ranking::Ranking;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let before = context.document.allocation.asked;
    let mut asked = before;
    ui.weak("Or one plan without a budget:").on_hover_text("Two rankings that make a plan at once: each layer gets its own share of what is best over the whole model.");
    ui.horizontal_wrapped(|ui| {
        let mut percent = 100.0 * asked.share;
        let drag = DragValue::new(&mut percent).range(0.0..=100.0).max_decimals(1).suffix(" %");
        let label = ui.label("mixed bits: 8 for");
        let drag = ui.add(drag.speed(0.5)).labelled_by(label.id);
        ui.label("of all outputs, 4 for the rest");
        let tip = "Share of the output rows of all layers together that get 8 bits; all other rows get 4.";
        if drag.on_hover_text(tip).changed() {
            asked.share = percent / 100.0;
        }
        let tip = "Ranks the outputs of all layers by what 4 bits do to them, and gives this share of them 8: each layer its own share (MixLLM).";
        press(context, ui, (model, "Rank outputs", tip), Ranking::Outputs(asked.share));
    });
    ui.horizontal_wrapped(|ui| {
        let mut megabytes = asked.bytes(model) as f64 / MEGABYTE;
        let speed = megabytes / 300.0;
        let drag = DragValue::new(&mut megabytes).range(0.001..=1e9).max_decimals(3).suffix(" MB");
        let label = ui.label("low rank: the model in");
        let drag = ui.add(drag.speed(speed)).labelled_by(label.id);
        if drag.on_hover_text("Bytes that all weight files may take; each layer keeps as many singular values as are worth their bytes.").changed() {
            asked.bytes = Some((megabytes * MEGABYTE).round() as u64);
        }
        let tip = "Ranks the singular values of all layers, whitened where Gram matrices are known, by what they are worth a byte, and keeps as many as fit the size: each layer its own rank (after ACIP), in factors of 8 and 16 bits (Dobi-SVD).";
        press(context, ui, (model, "Rank singular values", tip), Ranking::Values(asked.bytes(model)));
    });
    if asked != before {
        send(context, Allocate::Ask(asked));
    }
}

/// A button that makes the plan of a ranking.
fn press(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    (model, title, tip): (&Model, &str, &str),
    ranking: Ranking,
) {
    let why_not = match ranking.candidate(model) {
        Err(why_not) => Some(why_not),
        Ok(_) if context.document.allocation.work.is_some() => Some("Something is scored now."),
        Ok(_) => None,
    };
    let button = ui.add_enabled(why_not.is_none(), Button::new(title)).on_hover_text(tip);
    if button.on_disabled_hover_text(why_not.unwrap_or_default()).clicked() {
        send(context, Allocate::Rank(ranking));
    }
}
