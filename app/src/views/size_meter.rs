//! What the export will weigh, to the byte, and what stands in its way.

use egui::{Label, ProgressBar, RichText, Ui};

use crate::commands::Command;
use crate::document::Sheet;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    let manifest = match &model.manifest {
        Ok(manifest) => manifest,
        Err(sentence) => {
            ui.colored_label(context.tokens.error, sentence);
            return;
        }
    };
    let (before, after) = (model.checkpoint.tensor_bytes(), model.sizes.tensor_bytes);
    let share = if before == 0 { 1.0 } else { after as f64 / before as f64 };
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new(format!("{} → {}", text::bytes(before), text::bytes(after))).strong().size(16.0))
            .on_hover_text(format!(
                "Tensors now and in the export, exact: {} and {} bytes. The folder with headers, config and tokenizer: {} bytes.",
                text::count(before),
                text::count(after),
                text::count(model.sizes.total_bytes)
            ));
        ui.add(ProgressBar::new(share as f32).desired_width(110.0).text(text::percent(share)));
        let bits = text::bits(model.sizes.bits_per_weight);
        let bits = RichText::new(format!("{bits} bits/weight")).monospace();
        ui.add(Label::new(bits).extend())
            .on_hover_text("Effective bits per weight of the whole model: every byte of every tensor × 8 over all parameters.");
        if ui.button(format!("Export {}…", text::bytes(model.sizes.total_bytes))).clicked() {
            context.send(Command::ToggleSheet(Sheet::Export));
        }
    });
    for problem in manifest.problems.iter().take(3) {
        ui.horizontal_wrapped(|ui| {
            ui.colored_label(context.tokens.error, format!("⚠ {}; {}", problem.what, problem.mend));
            if !problem.tensors.is_empty()
                && ui.small_button("Show").on_hover_text("Select these layers.").clicked()
            {
                context.send(Command::Select(problem.tensors.clone()));
            }
        });
    }
    if manifest.problems.len() > 3 {
        ui.colored_label(context.tokens.error, format!("and {} more", manifest.problems.len() - 3));
    }
    ui.add_space(2.0);
}
