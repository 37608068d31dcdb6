//! The tabs over the left column: layers, rules, problems, history.

use egui::{RichText, Ui};
use lapidary_engine::target::Severity;

use crate::commands::Command;
use crate::document::model::{Model, Side};
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (side, tip) in [
            (Side::Layers, "Every tensor with its assignment and numbers."),
            (Side::Rules, "The plan as ordered rules: which pattern decides which layers."),
            (Side::Problems, "What keeps the plan from loading or saving, and what mends it."),
            (Side::History, "Every step of the plan; click to go back to one."),
        ] {
            let title = title(context, model, side);
            if ui.selectable_label(model.side == side, title).on_hover_text(tip).clicked() {
                context.send(Command::SetSide(side));
            }
        }
    });
}

fn title(context: &ViewContext<'_>, model: &Model, side: Side) -> RichText {
    match side {
        Side::Layers => RichText::new("Layers"),
        Side::Rules => match model.plan().rules().len() {
            0 => RichText::new("Rules"),
            n => RichText::new(format!("Rules {n}")),
        },
        Side::Problems => {
            let (errors, warnings) =
                (model.outcome.count(Severity::Error), model.outcome.count(Severity::Warning));
            match (errors, warnings) {
                (0, 0) => RichText::new("Problems"),
                (0, n) => RichText::new(format!("Problems ⚠ {n}")).color(context.tokens.warning),
                (n, m) => {
                    RichText::new(format!("Problems ⚠ {}", n + m)).color(context.tokens.error)
                }
            }
        }
        Side::History => RichText::new("History"),
    }
}
