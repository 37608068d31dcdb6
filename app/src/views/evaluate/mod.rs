//! Running the model: a text scored and the runs so far, a prompt continued, questions answered.

mod pages;
mod runs;

use std::path::Path;

use egui::{Align2, Button, ComboBox, DragValue, Key, ScrollArea, TextEdit, Ui, Window};
use lapidary_engine::evaluation::Evaluation;

use crate::commands::Command;
use crate::commands::evaluate::Evaluate;
use crate::document::calibrations::is_json_lines;
use crate::document::evaluation::{Page, What, Wish};
use crate::document::{Document, Sheet};
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::{ViewContext, working};

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    if context.document.sheet != Some(Sheet::Evaluate) || context.document.model.is_none() {
        return;
    }
    let mut open = true;
    let screen = ui.ctx().content_rect();
    let window = Window::new("Evaluate").open(&mut open).collapsible(false).resizable(true);
    let width = (screen.width() - 40.0).min(1370.0);
    window
        .pivot(Align2::CENTER_CENTER)
        .default_pos(screen.center())
        .default_size([width, (screen.height() - 120.0).min(640.0)])
        .max_height(screen.height() - 90.0)
        .show(ui.ctx(), |ui| contents(context, ui));
    let escaped =
        context.document.question.is_none() && ui.input(|input| input.key_pressed(Key::Escape));
    if !open || escaped {
        context.send(Command::ToggleSheet(Sheet::Evaluate));
    }
}

fn contents(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    // The same on every page, so that nothing moves under the pointer.
    ui.set_min_height((ui.ctx().content_rect().height() - 170.0).min(520.0));
    ui.horizontal(|ui| {
        for (page, title, tip) in [
            (Page::Text, "Score a text", "Perplexity on a text, and how far from the original."),
            (Page::Prompt, "Continue a prompt", "What is run and the original, side by side."),
            (Page::Questions, "Questions", "Multiple choice, by the likelihood of each option."),
        ] {
            if ui.selectable_label(state.page == page, title).on_hover_text(tip).clicked() {
                send(context, Evaluate::Show(page));
            }
        }
    });
    ui.separator();
    match state.page {
        Page::Text => {
            score_form(context, ui);
            work(context, ui);
            ui.separator();
            runs::ui(context, ui);
        }
        Page::Prompt => pages::prompt(context, ui),
        Page::Questions => pages::questions(context, ui),
    }
}

fn send(context: &ViewContext<'_>, command: Evaluate) {
    context.send(Command::Evaluate(command));
}

fn wish(context: &ViewContext<'_>, change: impl FnOnce(&mut Wish)) {
    let mut wish = context.document.evaluation.wish.clone();
    change(&mut wish);
    send(context, Evaluate::Wish(wish));
}

/// What is run, to choose.
fn subject(context: &ViewContext<'_>, ui: &mut Ui) {
    let what = &context.document.evaluation.wish.what;
    let title = match what {
        What::Plan => "the plan now".to_owned(),
        What::Original => "the original".to_owned(),
        What::Other(path) => path
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned()),
    };
    let label = ui.label("Run");
    let choice = ComboBox::from_id_salt("what is run").selected_text(title).width(150.0);
    let choice = choice.show_ui(ui, |ui| {
        for (choice, title) in [(What::Plan, "the plan now"), (What::Original, "the original")] {
            if ui.selectable_label(*what == choice, title).clicked() {
                wish(context, |wish| wish.what = choice);
            }
        }
        if ui.selectable_label(matches!(what, What::Other(_)), "another checkpoint…").clicked() {
            context.send(Command::Pick(Purpose::EvaluationModel));
        }
    });
    choice.response.labelled_by(label.id).on_hover_text("The plan is carried out into a temporary folder and run from there; it and other checkpoints are held against the original.");
}

fn score_form(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    let chosen = context.document.settings.evaluation_text.as_deref();
    ui.horizontal_wrapped(|ui| {
        subject(context, ui);
        ui.label("on");
        text_to_score(context, ui, chosen);
        amounts(context, ui);
        let mut layers = state.wish.layers;
        if ui.checkbox(&mut layers, "layers").on_hover_text("Measure √(Σ‖(W − Ŵ)x‖²/Σ‖Wx‖²) of every layer on the inputs it has in the original. Costs some three more passes.").changed() {
            wish(context, |wish| wish.layers = layers);
        }
        let mut blocks = state.wish.blocks;
        if ui.checkbox(&mut blocks, "blocks").on_hover_text("Measure how much of each block's output a linear map of its input explains, and the coding rate.").changed() {
            wish(context, |wish| wish.blocks = blocks);
        }
        let is_ready = state.wish.source(chosen).is_some();
        run_button(context, ui, "Score", is_ready, Evaluate::Score);
    });
    if let Some(pasted) = &state.wish.pasted {
        let mut pasted = pasted.clone();
        let field = TextEdit::multiline(&mut pasted)
            .desired_rows(3)
            .desired_width(f32::INFINITY)
            .hint_text("Type or paste the text to score");
        let field =
            ScrollArea::vertical().id_salt("pasted").max_height(90.0).show(ui, |ui| ui.add(field));
        if field.inner.changed() {
            wish(context, |wish| wish.pasted = Some(pasted));
        }
    }
}

/// The file to score, or the switch to a text of one's own.
fn text_to_score(context: &ViewContext<'_>, ui: &mut Ui, chosen: Option<&Path>) {
    let state = &context.document.evaluation;
    let is_pasted = state.wish.pasted.is_some();
    let name = chosen.and_then(Path::file_name);
    let title =
        name.map_or_else(|| "choose a text…".to_owned(), |n| n.to_string_lossy().into_owned());
    let tip = chosen.map_or_else(
        || "A text file, or JSON lines.".to_owned(),
        |path| format!("{}\nClick to choose another text.", path.display()),
    );
    if ui.add_enabled(!is_pasted, Button::new(title)).on_hover_text(tip).clicked() {
        context.send(Command::Pick(Purpose::EvaluationText));
    }
    let tip = "Score a text typed or pasted here rather than a file.";
    if ui.selectable_label(is_pasted, "Paste").on_hover_text(tip).clicked() {
        wish(context, |wish| wish.pasted = (!is_pasted).then(String::new));
    }
    let is_lines = |path: &Path| path.is_dir() || is_json_lines(path);
    if !is_pasted && chosen.is_some_and(is_lines) {
        let label = ui.label("field");
        let mut field = state.wish.field.clone();
        let edit = TextEdit::singleline(&mut field).desired_width(60.0);
        let edit = ui.add(edit).labelled_by(label.id);
        if edit.on_hover_text("The field of JSON lines that holds the text.").changed() {
            wish(context, |wish| wish.field = field);
        }
    }
}

/// How much of the text, in windows of which length.
fn amounts(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    let label = ui.label("tokens");
    let mut tokens = state.wish.tokens;
    let drag = DragValue::new(&mut tokens).range(2..=100_000_000_usize).speed(200.0);
    let drag = ui.add(drag).labelled_by(label.id);
    if drag.on_hover_text("The most tokens, from the beginning of the text. More make the intervals narrower: twice as narrow takes four times as many.").changed() {
        wish(context, |wish| wish.tokens = tokens);
    }
    let ability =
        context.document.model.as_ref().and_then(|model| match &model.calibrations.ability {
            Some(Ok(ability)) => Some(*ability),
            _ => None,
        });
    let Some(ability) = ability else { return };
    let usual = ability.usual_sequence_tokens();
    let label = ui.label("in windows of");
    let mut length = state.wish.length.unwrap_or(usual).min(ability.context);
    let drag = ui.add(DragValue::new(&mut length).range(2..=ability.context)).labelled_by(label.id);
    if drag.on_hover_text(format!("Tokens the model sees at once; it takes up to {}. Perplexities of different windows are not comparable: longer ones give the model more to go by.", text::count(ability.context as u64))).changed() {
        wish(context, |wish| wish.length = Some(length).filter(|&length| length != usual));
    }
}

/// The button that begins, or the one that stops.
fn run_button(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    title: &str,
    is_ready: bool,
    command: Evaluate,
) {
    if context.document.evaluation.work.is_some() {
        let tip = "Stop; what was found so far is kept.";
        if ui.button("Cancel").on_hover_text(tip).clicked() {
            send(context, Evaluate::Cancel);
        }
    } else if ui.add_enabled(is_ready, Button::new(title)).clicked() {
        send(context, command);
    }
}

/// How far it is, figures so far, or why it failed.
fn work(context: &ViewContext<'_>, ui: &mut Ui) {
    let Document { evaluation: state, .. } = context.document;
    if let Some(sentence) = &state.failed {
        ui.colored_label(context.tokens.error, sentence);
    }
    let Some(work) = &state.work else {
        return;
    };
    ui.horizontal(|ui| {
        working(ui, work);
        if let Some(partial) = &state.partial {
            ui.monospace(so_far(partial)).on_hover_text("Figures of the windows finished so far.");
        }
    });
}

fn so_far(partial: &Evaluation) -> String {
    let perplexity = partial.perplexity();
    let kl =
        partial.mean_kl().map_or_else(String::new, |kl| format!(", KL {}", text::value(kl.value)));
    format!("so far: perplexity {}{kl}", text::value(perplexity.value))
}
