//! The calibration form: texts, how much of them, what is kept; the calibrations on disk; how a run goes.

use egui::{
    Align2, Button, ComboBox, DragValue, Grid, Key, RichText, ScrollArea, TextEdit, Ui, Window,
};
use lapidary_engine::calibration::Ability;

use crate::commands::Command;
use crate::document::calibrations::{Ask, Before, Form, Known, Loaded, is_json_lines};
use crate::document::model::Model;
use crate::document::{Sheet, Slot};
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::busy::busy;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let (Some(Sheet::Calibrate), Some(model)) = (context.document.sheet, &context.document.model)
    else {
        return;
    };
    let mut open = true;
    let centre = ui.ctx().content_rect().center();
    let window = Window::new("Calibrate").open(&mut open).collapsible(false).resizable(true);
    window.pivot(Align2::CENTER_CENTER).default_pos(centre).default_width(560.0).show(
        ui.ctx(),
        |ui| {
            ui.label("Run text through the model, block by block, and measure what every layer receives. Errors of the plan are then weighted by it.");
            ui.add_space(6.0);
            match &model.calibrations.ability {
                None => {
                    ui.horizontal(|ui| {
                        busy(ui);
                        ui.label("Looking whether this model can be run…");
                    });
                }
                Some(Err(sentence)) => {
                    ui.colored_label(context.tokens.error, sentence);
                    import(context, ui);
                }
                Some(Ok(ability)) => form(context, ui, model, ability),
            }
            known(context, ui, model);
        },
    );
    let escaped =
        context.document.question.is_none() && ui.input(|input| input.key_pressed(Key::Escape));
    if !open || escaped {
        context.send(Command::ToggleSheet(Sheet::Calibrate));
    }
}

fn form(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ability: &Ability) {
    let before = &context.document.calibration_form;
    let mut form = before.clone();
    texts(context, ui, &mut form);
    ui.add_space(6.0);
    amounts(context, ui, &mut form, (model, ability));
    let has_text = !form.wishes().sources.is_empty();
    if form != *before {
        context.send(Command::Calibration(Ask::SetForm(Box::new(form))));
    }
    ui.add_space(6.0);
    let is_running = model.calibrations.run.is_running();
    ui.horizontal_wrapped(|ui| {
        let button = Button::new(RichText::new("Run").strong());
        let why_not = if is_running { "A calibration is running." } else { "Add a text first." };
        let button = ui.add_enabled(has_text && !is_running, button);
        if button.on_disabled_hover_text(why_not).clicked() {
            context.send(Command::Calibration(Ask::Run));
        }
        import(context, ui);
        ui.weak(
            "each block is kept as soon as it is done; the same texts and settings go on there",
        );
    });
    run(context, ui, model);
}

fn import(context: &ViewContext<'_>, ui: &mut Ui) {
    let button = ui.button("Import an importance matrix…");
    let tip = "Take an imatrix of llama.cpp (.gguf or .dat) of this model: mean squares alone, without outliers or Gram matrices.";
    if button.on_hover_text(tip).clicked() {
        context.send(Command::Pick(Purpose::ReadImatrix));
    }
}

fn texts(context: &ViewContext<'_>, ui: &mut Ui, form: &mut Form) {
    ui.horizontal(|ui| {
        ui.strong("Texts").on_hover_text("The model sees what it will see in use: take text of the same kind. Some ten thousand tokens settle the statistics of most layers.");
        if ui.button("Add file…").on_hover_text("A text file, Markdown, or JSON lines.").clicked() {
            context.send(Command::Pick(Purpose::CalibrationFile));
        }
        let tip = "Every .txt, .md and .jsonl file in a folder and the folders in it.";
        if ui.button("Add folder…").on_hover_text(tip).clicked() {
            context.send(Command::Pick(Purpose::CalibrationFolder));
        }
        ui.weak("or drop them on the window");
    });
    let mut removed = None;
    for (i, path) in form.paths.iter().enumerate() {
        ui.horizontal(|ui| {
            if ui.small_button("×").on_hover_text("Leave this text out.").clicked() {
                removed = Some(i);
            }
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            ui.label(name).on_hover_text(path.display().to_string());
        });
    }
    if let Some(i) = removed {
        form.paths.remove(i);
    }
    let label = ui.weak("Text, typed or pasted");
    let pasted = TextEdit::multiline(&mut form.pasted).desired_rows(3).desired_width(f32::INFINITY);
    ScrollArea::vertical().id_salt("pasted").max_height(90.0).show(ui, |ui| {
        ui.add(pasted).labelled_by(label.id);
    });
    if form.paths.iter().any(|path| path.is_dir() || is_json_lines(path)) {
        ui.horizontal(|ui| {
            let label = ui.label("Field of JSON lines");
            ui.add(TextEdit::singleline(&mut form.field).desired_width(100.0))
                .labelled_by(label.id);
        });
    }
}

fn amounts(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    form: &mut Form,
    (model, ability): (&Model, &Ability),
) {
    Grid::new("amounts").num_columns(2).spacing([12.0, 4.0]).show(ui, |ui| {
        let usual = ability.usual_sequence_tokens();
        let label = ui.label("Tokens of a sequence").on_hover_text(format!("How much text the model sees at once; it takes up to {}. The usual is the lesser of that and 2,048.", text::count(ability.context as u64)));
        let mut length = form.sequence_tokens.unwrap_or(usual);
        if ui.add(DragValue::new(&mut length).range(2..=ability.context)).labelled_by(label.id).changed() {
            form.sequence_tokens = Some(length).filter(|&length| length != usual);
        }
        ui.end_row();
        let label = ui.label("Tokens in all").on_hover_text("At least so many, in whole sequences drawn from the texts; all there are where they have fewer.");
        ui.add(DragValue::new(&mut form.tokens).range(2..=100_000_000).speed(100.0)).labelled_by(label.id);
        ui.end_row();
        let label = ui.label("Seed").on_hover_text("By which sequences are drawn: the same seed, the same sequences.");
        ui.add(DragValue::new(&mut form.seed)).labelled_by(label.id);
        ui.end_row();
    });
    ui.checkbox(&mut form.has_grams, "Keep Gram matrices").on_hover_text("Σ x·x^T of the inputs of each layer: for exact errors of outputs, whitened spectra, and methods that correct errors (GPTQ). 2·channels² bytes for each input that layers share.");
    before(ui, form, model.plan_compresses());
    let sites = text::count(ability.sites as u64);
    let forecast = if form.has_grams {
        format!(
            "{sites} inputs in {} blocks; Gram matrices take {} on disk",
            ability.blocks,
            text::bytes(ability.gram_bytes)
        )
    } else {
        format!("{sites} inputs in {} blocks; without Gram matrices", ability.blocks)
    };
    ui.label(RichText::new(forecast).color(context.tokens.weak).small());
}

/// Through what a block's inputs have passed, to choose.
fn before(ui: &mut Ui, form: &mut Form, compresses: bool) {
    const CHOICES: [(Before, &str, &str); 3] = [
        (
            Before::Original,
            "as in the original",
            "What each layer receives in the original model: one calibration serves every plan.",
        ),
        (
            Before::Plan,
            "as the plan compresses them",
            "The plan is carried out first, and the text runs through what it makes of the blocks, so that methods can make up for the errors of the blocks before.",
        ),
        (
            Before::InTurn,
            "compressed in turn",
            "Sequential compression, as GPTQ does: a block is compressed as the plan says as soon as it was measured, and the text runs on through that. An export with this calibration makes the same blocks again.",
        ),
    ];
    let shown = if compresses { form.before } else { Before::Original };
    let title = CHOICES.iter().find(|(before, ..)| *before == shown).map_or("", |choice| choice.1);
    ui.horizontal(|ui| {
        let label = ui.label("Blocks before");
        let choice = ComboBox::from_id_salt("blocks before").selected_text(title).width(200.0);
        let choose = |ui: &mut Ui| {
            let choice = choice.show_ui(ui, |ui| {
                for (before, title, tip) in CHOICES {
                    ui.selectable_value(&mut form.before, before, title).on_hover_text(tip);
                }
            });
            choice.response.labelled_by(label.id)
        };
        let choice = ui.add_enabled_ui(compresses, choose).inner;
        choice
            .on_hover_text("Through what the text has passed on its way to a block.")
            .on_disabled_hover_text("The plan compresses nothing yet.");
    });
}

fn run(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    match &model.calibrations.run {
        Slot::Idle | Slot::Ready(()) => {}
        Slot::Failed(sentence) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Slot::Running { what, progress } => {
            ui.horizontal(|ui| {
                if ui.button("Cancel").on_hover_text("Finished blocks are kept.").clicked() {
                    context.send(Command::Calibration(Ask::Cancel));
                }
                let Some(progress) = progress else {
                    busy(ui);
                    ui.label(format!("{what}…"));
                    return;
                };
                let share = progress.done as f32 / progress.total.max(1) as f32;
                let bar = egui::ProgressBar::new(share).desired_width(260.0);
                ui.add(bar.text(format!("{} {}", progress.stage, progress.item)));
                if let Some(left) = model.calibrations.seconds_left() {
                    ui.weak(format!("{} left", text::secs(left)));
                }
            });
        }
    }
}

/// Those on disk, one of them in use.
fn known(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let calibrations = &model.calibrations;
    if calibrations.known.is_empty() {
        return;
    }
    ui.separator();
    ui.strong("Calibrations of this model");
    ScrollArea::vertical().id_salt("known").max_height(120.0).show(ui, |ui| {
        for known in &calibrations.known {
            ui.horizontal(|ui| one(context, ui, model, known));
        }
    });
    if calibrations.loaded.is_some() {
        let button = ui.button("Write as an importance matrix…");
        let tip = "Write the mean squares of the one in use as an imatrix.gguf, as llama-quantize reads it.";
        if button.on_hover_text(tip).clicked() {
            context.send(Command::Pick(Purpose::WriteImatrix));
        }
    }
}

fn one(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, known: &Known) {
    let loaded = model.calibrations.loaded.as_ref();
    let is_used = loaded.is_some_and(|loaded| loaded.folder == known.folder);
    let title = Loaded::title(&known.folder);
    if known.is_finished {
        if ui.radio(is_used, title).on_hover_text("Use this one.").clicked() && !is_used {
            context.send(Command::Calibration(Ask::Use(known.folder.clone())));
        }
    } else {
        let is_running = model.calibrations.run.is_running();
        let state = if is_running { "being made" } else { "not finished" };
        ui.label(format!("{title}: {state}, {} blocks kept", known.parts))
            .on_hover_text("Run the same texts with the same settings to go on.");
    }
    ui.weak(text::bytes(known.bytes));
    if ui.small_button("Delete").on_hover_text("Remove it from disk.").clicked() {
        context.send(Command::Calibration(Ask::Delete(known.folder.clone())));
    }
}
