//! A prompt continued by two models side by side, and questions answered by both.

use egui::text::{LayoutJob, TextFormat};
use egui::{DragValue, Grid, Id, ScrollArea, Stroke, TextEdit, TextStyle, Ui};

use super::{run_button, subject, wish, work};
use crate::commands::Command;
use crate::commands::evaluate::Evaluate;
use crate::jobs::Purpose;
use crate::running::differing;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn prompt(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    let mut prompt = state.wish.prompt.clone();
    let label = ui.label("Prompt");
    let field = TextEdit::multiline(&mut prompt)
        .desired_rows(3)
        .desired_width(f32::INFINITY)
        .hint_text("How the text begins");
    let field = ui.add(field).labelled_by(label.id);
    if field.changed() {
        wish(context, |wish| wish.prompt = prompt);
    }
    // What is typed next is the prompt.
    let shown = Id::unique("prompt page shown");
    let pass = ui.ctx().cumulative_pass_nr();
    let before = ui.data_mut(|data| *data.get_temp_mut_or_default::<u64>(shown));
    ui.data_mut(|data| data.insert_temp(shown, pass));
    if before + 1 < pass {
        field.request_focus();
    }
    ui.horizontal_wrapped(|ui| {
        subject(context, ui);
        let label = ui.label("tokens");
        let mut generate = state.wish.generate;
        if ui.add(DragValue::new(&mut generate).range(1..=2000_usize)).labelled_by(label.id).changed() {
            wish(context, |wish| wish.generate = generate);
        }
        let label = ui.label("temperature");
        let mut temperature = state.wish.temperature;
        let drag = DragValue::new(&mut temperature).range(0.0..=5.0).speed(0.02);
        let tip = "0 takes the most likely token each time; above, tokens are drawn by softmax(logits / temperature).";
        if ui.add(drag).labelled_by(label.id).on_hover_text(tip).changed() {
            wish(context, |wish| wish.temperature = temperature);
        }
        let label = ui.label("seed");
        let mut seed = state.wish.seed;
        let drag = ui.add_enabled(temperature > 0.0, DragValue::new(&mut seed));
        if drag.labelled_by(label.id).on_hover_text("Same seed, same text.").changed() {
            wish(context, |wish| wish.seed = seed);
        }
        let is_ready = !state.wish.prompt.trim().is_empty();
        run_button(context, ui, "Continue", is_ready, Evaluate::Continue);
    });
    work(context, ui);
    ui.separator();
    let [mine, original] = &state.continued;
    // While the second is still coming, its end is not a difference.
    let n = if state.work.is_some() { mine.len().min(original.len()) } else { mine.len() };
    let (of_mine, of_original) = differing(&mine[..n.min(mine.len())], original);
    ScrollArea::vertical().id_salt("continuations").auto_shrink([false, true]).show(ui, |ui| {
        ui.columns(2, |columns| {
            let sides = [("what is run", mine, &of_mine), ("the original", original, &of_original)];
            for (ui, (title, pieces, marks)) in columns.iter_mut().zip(sides) {
                ui.strong(title);
                ui.label(marked(context, ui, pieces, marks));
            }
        });
        if !mine.is_empty() && !original.is_empty() {
            ui.weak("Tokens that differ are underlined.");
        }
    });
}

fn marked(context: &ViewContext<'_>, ui: &Ui, pieces: &[String], marks: &[bool]) -> LayoutJob {
    let mut job = LayoutJob::default();
    job.wrap.max_width = ui.available_width();
    let plain = TextFormat {
        font_id: TextStyle::Body.resolve(ui.style()),
        color: ui.visuals().text_color(),
        ..TextFormat::default()
    };
    for (i, piece) in pieces.iter().enumerate() {
        let mut format = plain.clone();
        if marks.get(i).copied().unwrap_or(false) {
            format.underline = Stroke::new(1.5, context.tokens.mark);
            format.color = context.tokens.mark;
        }
        job.append(piece, 0.0, format);
    }
    job
}

pub(super) fn questions(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    ui.horizontal_wrapped(|ui| {
        subject(context, ui);
        let file = state.wish.questions.as_ref();
        let name = file.and_then(|path| path.file_name());
        let title = name
            .map_or_else(|| "choose questions…".to_owned(), |n| n.to_string_lossy().into_owned());
        let tip = "JSON lines: {\"question\": \"…\", \"choices\": [\"…\", \"…\"], \"answer\": 0}";
        if ui.button(title).on_hover_text(tip).clicked() {
            context.send(Command::Pick(Purpose::Questions));
        }
        run_button(context, ui, "Answer", file.is_some(), Evaluate::Answer);
    });
    work(context, ui);
    let Some(answers) = &state.answers else {
        ui.add_space(8.0);
        ui.weak("The option that is most likely after the question is the answer; per byte, short options are not favoured.");
        return;
    };
    Grid::new("answers").num_columns(4).striped(true).spacing([16.0, 3.0]).show(ui, |ui| {
        for head in ["", "answered", "right", "right per byte"] {
            ui.weak(head);
        }
        ui.end_row();
        for (title, probe) in ["what is run", "the original"].iter().zip(answers) {
            ui.label(*title);
            ui.monospace(format!("{:>8}", probe.answered.len()));
            for [share, error] in [probe.accuracy(), probe.accuracy_by_byte()] {
                ui.monospace(format!("{:>7} ± {}", text::percent(share), text::percent(error)))
                    .on_hover_text(
                        "Share answered rightly, ± its standard error √(p·(1 − p)/(n − 1)).",
                    );
            }
            ui.end_row();
        }
    });
    let [mine, original] = answers;
    let pairs = mine.answered.iter().zip(&original.answered);
    let changed = pairs.filter(|(a, b)| a.choice() != b.choice()).count();
    ui.label(format!("{changed} answers differ from the original's."));
}
