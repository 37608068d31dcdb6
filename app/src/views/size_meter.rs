//! What the export will weigh, to the byte, what it does to the weights, and what stands in its way.

use egui::{Label, ProgressBar, RichText, Ui};
use lapidary_engine::target::Severity;

use crate::commands::Command;
use crate::document::Sheet;
use crate::document::damages::MEAN;
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
        // In a place of its own, whatever is known of the damage behind it.
        export(context, ui, model);
        damage(ui, model);
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

/// The mean of the damages, with how it is known.
fn damage(ui: &mut Ui, model: &Model) {
    let of = model.mean_damage;
    if of.layers() == 0 {
        return;
    }
    let sign = if of.estimated > 0 { "~" } else { "" };
    let missing = of.unknown + of.without;
    let more = if missing > 0 { "+" } else { "" };
    let shown = format!("{} {sign}{}{more}", of.title(), text::value(of.mean));
    let weighted = match of.weighted {
        0 => String::new(),
        n => format!(" In {n} of them the error is that of outputs, over the calibration."),
    };
    let missing = match (of.unknown, of.without) {
        (0, 0) => String::new(),
        (unknown, 0) => format!(" + because {unknown} of them are not known yet."),
        (unknown, without) => format!(
            " + because {without} of them have no damage, as weights that are NaN or infinite, and {unknown} are not known yet: Problems names what is wrong."
        ),
    };
    ui.add(Label::new(RichText::new(shown).monospace()).extend()).on_hover_text(format!(
        "{MEAN} {} layers are measured, {} estimated from a sample of rows (~).{weighted}{missing} Allocate predicts the same number.",
        of.exact, of.estimated
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
    let serious = || model.outcome.lints().filter(|lint| lint.severity < Severity::Note);
    let Some(first) = serious().next() else {
        return;
    };
    let colour = match first.severity {
        Severity::Error => context.tokens.error,
        Severity::Warning | Severity::Note => context.tokens.warning,
    };
    ui.horizontal_wrapped(|ui| {
        let serious = serious().count();
        let title = format!("⚠ {serious} problem{}", if serious == 1 { "" } else { "s" });
        if ui.button(title).on_hover_text("Show every problem with what mends it.").clicked() {
            context.send(Command::SetSide(Side::Problems));
        }
        let text = RichText::new(format!("{}; {}", first.what, first.mend)).color(colour);
        ui.add(Label::new(text).wrap());
    });
}
