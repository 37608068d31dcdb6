//! The menus, what is open, and the target.

use std::sync::Arc;

use egui::{Align, Button, ComboBox, Layout, MenuBar, RichText, Ui};
use lapidary_engine::target::{self, PRESETS, TARGETS, Target};

use crate::commands::Command;
use crate::commands::actions::{ACTIONS, Action, Menu};
use crate::document::Document;
use crate::document::metrics::METRICS;
use crate::document::model::Model;
use crate::document::outcome::Change;
use crate::document::recipe;
use crate::document::settings::Colours;
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::ViewContext;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    MenuBar::new().ui(ui, |ui| {
        for menu in Menu::ALL {
            ui.menu_button(menu.title(), |ui| menu_items(context, ui, menu));
        }
        ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
            if context.document.model.is_some() {
                target(context, ui);
                summary(context, ui);
            }
        });
    });
}

fn menu_items(context: &ViewContext<'_>, ui: &mut Ui, menu: Menu) {
    ui.set_min_width(240.0);
    for action in ACTIONS.iter().filter(|action| action.menu == menu) {
        item(context, ui, action);
        if matches!(action.title, "Save project as…") && context.document.model.is_some() {
            recipes(context, ui);
        }
        if matches!(action.title, "Open the sample") {
            recent(context, ui);
            ui.separator();
        }
        if matches!(
            action.title,
            "Verify…"
                | "Import an importance matrix…"
                | "Redo"
                | "Select the fused group"
                | "Set 8 bits"
                | "Lock or unlock"
        ) {
            ui.separator();
        }
    }
    if menu == Menu::Edit && context.document.model.is_some() {
        ui.separator();
        presets(context, ui);
    }
    if menu == Menu::View {
        ui.separator();
        metrics(context, ui);
        colours(context, ui);
    }
}

fn item(context: &ViewContext<'_>, ui: &mut Ui, action: &Action) {
    let title = title(context.document, action);
    let mut button = Button::new(title);
    if let Some(keys) = &action.keys {
        button = button.shortcut_text(ui.ctx().format_shortcut(keys));
    }
    let refused = refused(context.document, action);
    let enabled = (action.enabled)(context.document) && refused.is_none();
    let answer = ui.add_enabled(enabled, button).on_hover_text(action.tooltip);
    let why_not = refused.as_deref().unwrap_or_else(|| why_not(context.document, action));
    if answer.on_disabled_hover_text(why_not).clicked() {
        context.send((action.command)());
    }
}

/// Why none of the selected layers can have the bits of an action that sets them.
fn refused(document: &Document, action: &Action) -> Option<String> {
    match (action.command)() {
        Command::SetBits(bits) => document.model.as_ref()?.why_not_bits(bits),
        _ => None,
    }
}

/// Why an action cannot be done now.
fn why_not<'a>(document: &'a Document, action: &Action) -> &'a str {
    let ability = document.model.as_ref().and_then(|model| model.calibrations.ability.as_ref());
    match (action.title, ability) {
        ("Calibrate…", Some(Err(sentence))) => sentence,
        _ => action.tooltip,
    }
}

/// Undo and redo say what they would take back or repeat.
fn title(document: &Document, action: &Action) -> String {
    let history = document.model.as_ref().map(|model| &model.history);
    let step = match action.title {
        "Undo" => history.and_then(|history| history.undo_label()),
        "Redo" => history.and_then(|history| history.redo_label()),
        _ => None,
    };
    step.map_or_else(|| action.title.to_owned(), |step| format!("{}: {step}", action.title))
}

fn recent(context: &ViewContext<'_>, ui: &mut Ui) {
    let recent = &context.document.settings.recent;
    ui.add_enabled_ui(!recent.is_empty(), |ui| {
        ui.menu_button("Open recent", |ui| {
            for path in recent {
                let name = path.file_name().map_or_else(
                    || path.display().to_string(),
                    |name| name.to_string_lossy().into_owned(),
                );
                if ui.button(name).on_hover_text(path.display().to_string()).clicked() {
                    context.send(Command::Open(path.clone()));
                }
            }
        });
    });
}

fn metrics(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.menu_button("Colour the map by", |ui| {
        for metric in METRICS {
            if ui
                .radio(model.metric.id == metric.id, metric.title)
                .on_hover_text(metric.help)
                .clicked()
            {
                context.send(Command::SetMetric(metric.id));
            }
        }
    });
}

/// Recipes to take over and to write.
fn recipes(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.menu_button("Take over a recipe", |ui| {
        for kind in recipe::kinds() {
            if ui.button(format!("{}…", kind.title)).on_hover_text(kind.summary).clicked() {
                context.send(Command::Pick(Purpose::ReadRecipe(kind.id)));
            }
        }
        ui.separator();
        let tip = "Read off a finished checkpoint how each layer was quantised: its quantization_config, or the types of a GGUF.";
        for (title, purpose) in [
            ("From a finished folder…", Purpose::RecoverFolder),
            ("From a finished GGUF file…", Purpose::RecoverFile),
        ] {
            if ui.button(title).on_hover_text(tip).clicked() {
                context.send(Command::Pick(purpose));
            }
        }
    });
    ui.menu_button("Write as a recipe", |ui| {
        for kind in recipe::kinds() {
            if ui.button(format!("{}…", kind.title)).on_hover_text(kind.summary).clicked() {
                context.send(Command::Pick(Purpose::WriteRecipe(kind.id)));
            }
        }
    });
}

fn presets(context: &ViewContext<'_>, ui: &mut Ui) {
    let others = context.document.model.iter().flat_map(|model| model.history.current().others());
    let others: Vec<_> = others.filter_map(|(id, _)| target::find(id).ok()).collect();
    ui.add_enabled_ui(!others.is_empty(), |ui| {
        ui.menu_button("Take the plan of", |ui| {
            for about in others.iter().map(|other| other.about()) {
                let tip = "Every target that was chosen keeps its own plan; this takes that one over for the present target.";
                if ui.button(about.title).on_hover_text(tip).clicked() {
                    context.send(Command::TakePlanOf(about.id));
                }
            }
        });
    });
    ui.menu_button("Start from", |ui| {
        for preset in PRESETS {
            if ui.button(preset.title).on_hover_text(preset.summary).clicked() {
                context.send(Command::Preset(preset.id));
            }
        }
    });
}

fn colours(context: &ViewContext<'_>, ui: &mut Ui) {
    ui.menu_button("Colours", |ui| {
        for (colours, title) in
            [(Colours::System, "As the system"), (Colours::Light, "Light"), (Colours::Dark, "Dark")]
        {
            if ui.radio(context.document.settings.colours == colours, title).clicked() {
                context.send(Command::SetColours(colours));
            }
        }
    });
}

fn summary(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let checkpoint = &model.checkpoint;
    let kind =
        checkpoint.config().and_then(|config| config.model_type()).unwrap_or("no config.json");
    let facts = format!(
        "{kind} · {} parameters · {}",
        text::parameters(checkpoint.parameters()),
        text::bytes(checkpoint.tensor_bytes())
    );
    ui.label(RichText::new(facts).color(context.tokens.weak))
        .on_hover_text(checkpoint.path().display().to_string());
    ui.label(RichText::new(checkpoint.title()).strong());
}

/// Room for every target and the devices, in points.
const TARGETS_HEIGHT: f32 = 420.0;

/// What a target is, and what going there would change.
fn target_card(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, target: &'static dyn Target) {
    let about = target.about();
    ui.set_max_width(420.0);
    ui.label(about.summary);
    ui.weak(format!("Rules read from: {}.", about.source));
    if !about.writes {
        ui.colored_label(
            context.tokens.warning,
            "Its files cannot be written yet: plan for it, and sizes are forecasts.",
        );
    }
    if about.id == model.target.about().id {
        return;
    }
    // Laying out every tensor is no work for each frame of a pointer that rests.
    let id = egui::Id::unique(("change of target", about.id, model.outcome.revision));
    let known = ui.data(|data| data.get_temp::<Arc<Option<Change>>>(id));
    let change = known.unwrap_or_else(|| Arc::new(model.would_change(target)));
    ui.data_mut(|data| data.insert_temp(id, change.clone()));
    let Some(change) = change.as_ref() else {
        return;
    };
    ui.separator();
    ui.monospace(format!(
        "{} → {}",
        text::bytes(model.outcome.tensor_bytes),
        text::bytes(change.bytes)
    ));
    if change.own_plan > 0 {
        ui.label(format!(
            "Its own plan comes back: {} layers differ from the present one.",
            change.own_plan
        ));
    }
    for (because, layers) in change.in_full.iter().take(4) {
        let n = layers.len();
        let layers = if n == 1 { "1 layer".to_owned() } else { format!("{n} layers") };
        ui.label(format!("{layers} stored in full: {because}."));
    }
    if change.in_full.is_empty() && change.own_plan == 0 {
        ui.label("It holds the present plan as it is.");
    }
}

/// Over how many devices each layer is split when it is run.
fn parallel(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    if model.target.capabilities().kernel.is_none() {
        return;
    }
    ui.separator();
    ui.horizontal(|ui| {
        ui.weak("tensor parallel").on_hover_text("Devices that each layer is split over (vLLM --tensor-parallel-size). Groups must not be cut, and kernels ask for multiples of inputs and outputs in each part.");
        for devices in [1, 2, 4, 8] {
            let is_chosen = model.history.current().tensor_parallel == devices;
            if ui.selectable_label(is_chosen, devices.to_string()).clicked() {
                context.send(Command::SetTensorParallel(devices));
            }
        }
    });
}

fn target(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let choice = ComboBox::from_id_salt("target")
        .selected_text(model.target.about().title)
        .width(250.0)
        .height(TARGETS_HEIGHT)
        .show_ui(ui, |ui| {
            for target in TARGETS {
                let about = target.about();
                let is_chosen = about.id == model.target.about().id;
                let choice = ui.selectable_label(is_chosen, about.title);
                let choice = choice.on_hover_ui(|ui| target_card(context, ui, model, *target));
                if choice.clicked() {
                    context.send(Command::SetTarget(about.id));
                }
            }
            parallel(context, ui, model);
        });
    let label = ui.label("Target");
    choice.response.labelled_by(label.id);
    label.on_hover_text("The runtime and format the export is for. It decides what can be stored and what saves bytes.");
}
