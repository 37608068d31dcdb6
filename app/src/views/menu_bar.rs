//! The menus, what is open, and the target.

use egui::{Align, Button, ComboBox, Layout, MenuBar, RichText, Ui};
use lapidary_engine::target::TARGETS;

use crate::commands::Command;
use crate::commands::actions::{ACTIONS, Action, Menu};
use crate::document::Document;
use crate::document::metrics::METRICS;
use crate::document::settings::Colours;
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
        if matches!(action.title, "Open the sample") {
            recent(context, ui);
            ui.separator();
        }
        if matches!(action.title, "Export…" | "Redo" | "Select all shown" | "Set 8 bits") {
            ui.separator();
        }
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
    let enabled = (action.enabled)(context.document);
    if ui.add_enabled(enabled, button).on_hover_text(action.tooltip).clicked() {
        context.send((action.command)());
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

fn target(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    let choice = ComboBox::from_id_salt("target")
        .selected_text(model.target.about().title)
        .width(250.0)
        .show_ui(ui, |ui| {
            for target in TARGETS {
                let about = target.about();
                let is_chosen = about.id == model.target.about().id;
                if ui
                    .selectable_label(is_chosen, about.title)
                    .on_hover_text(format!("{}\n{}", about.summary, about.source))
                    .clicked()
                {
                    context.send(Command::SetTarget(about.id));
                }
            }
        });
    let label = ui.label("Target");
    choice.response.labelled_by(label.id);
    label.on_hover_text("The runtime and format the export is for. It decides what can be stored and what saves bytes.");
}
