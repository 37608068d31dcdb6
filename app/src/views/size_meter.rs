//! What the export will weigh, to the byte, what it does to the weights, and what stands in its way.

use egui::{Label, ProgressBar, RichText, Ui};
use lapidary_engine::target::Severity;

use crate::commands::Command;
use crate::document::Sheet;
use crate::document::model::{Model, Side};
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    if let Some(defect) = &model.outcome.defect {
        ui.colored_label(context.tokens.error, defect);
        return;
    }
    ui.horizontal_wrapped(|ui| {
        sizes(ui, model);
        damage(ui, model);
        export(context, ui, model);
    });
    worst(context, ui, model);
    ui.add_space(2.0);
}

fn sizes(ui: &mut Ui, model: &Model) {
    let (before, after) = (model.checkpoint.tensor_bytes(), model.outcome.tensor_bytes);
    let share = if before == 0 { 1.0 } else { after as f64 / before as f64 };
    let folder = match model.manifest() {
        Ok(manifest) if !model.outcome.is_late => format!(
            " The folder with headers, config and tokenizer: {} bytes.",
            text::count(manifest.total_bytes())
        ),
        _ => String::new(),
    };
    let kind = if model.target.about().writes {
        "exact"
    } else {
        "a forecast from the target's layouts, whose files cannot be written yet"
    };
    ui.label(
        RichText::new(format!("{} → {}", text::bytes(before), text::bytes(after)))
            .strong()
            .size(16.0),
    )
    .on_hover_text(format!(
        "Tensors now and in the export, {kind}: {} and {} bytes.{folder}",
        text::count(before),
        text::count(after),
    ));
    ui.add(ProgressBar::new(share as f32).desired_width(90.0).text(text::percent(share)));
    let parameters = model.outcome.parameters.max(1);
    let bits = text::bits(after as f64 * 8.0 / parameters as f64);
    let bits = RichText::new(format!("{bits} bits/weight")).monospace();
    ui.add(Label::new(bits).extend())
        .on_hover_text("Effective bits per weight of the whole model: every byte of every tensor × 8 over all parameters that are left.");
}

/// The sum of the damages, with how it is known.
fn damage(ui: &mut Ui, model: &Model) {
    let sum = model.damage_sum;
    if sum.exact + sum.estimated + sum.unknown == 0 {
        return;
    }
    let sign = if sum.estimated > 0 { "~" } else { "" };
    let more = if sum.unknown > 0 { "+" } else { "" };
    let what = if sum.weighted > 0 { "Σ weighted damage" } else { "Σ damage" };
    let shown = RichText::new(format!("{what} {sign}{}{more}", text::value(sum.sum))).monospace();
    let weighted = match sum.weighted {
        0 => String::new(),
        n => format!(
            " In {n} of them the error is activation-weighted, ‖(W−Ŵ)x‖²/‖Wx‖² over the calibration."
        ),
    };
    ui.add(Label::new(shown).extend()).on_hover_text(format!(
        "Σ ‖W−Ŵ‖²/‖W‖² over the compressed layers: {} measured, {} estimated from a sample of rows, {} not known yet. It predicts the loss of the model as far as every layer matters alike.{weighted}",
        sum.exact, sum.estimated, sum.unknown
    ));
}

fn export(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let total =
        model.manifest().map_or(model.outcome.tensor_bytes, |manifest| manifest.total_bytes());
    if ui.button(format!("Export {}…", text::bytes(total))).clicked() {
        context.send(Command::ToggleSheet(Sheet::Export));
    }
}

/// The worst problem, and a way to all of them.
fn worst(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let lints = &model.outcome.laid_out.lints;
    let Some(first) = lints.iter().find(|lint| lint.severity < Severity::Note) else {
        return;
    };
    let colour = match first.severity {
        Severity::Error => context.tokens.error,
        Severity::Warning | Severity::Note => context.tokens.warning,
    };
    ui.horizontal(|ui| {
        let serious = lints.iter().filter(|lint| lint.severity < Severity::Note).count();
        let title = format!("⚠ {serious} problem{}", if serious == 1 { "" } else { "s" });
        if ui.button(title).on_hover_text("Show every problem with what mends it.").clicked() {
            context.send(Command::SetSide(Side::Problems));
        }
        let text = RichText::new(format!("{}; {}", first.what, first.mend)).color(colour);
        ui.add(Label::new(text).truncate());
    });
}
