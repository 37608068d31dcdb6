//! The plan as ordered rules: patterns with what they decide, written, moved and taken out.

use egui::{Id, RichText, ScrollArea, TextEdit, Ui};
use lapidary_engine::plan::{Assignment, Matches, Pattern, Rule};
use lapidary_engine::target::PRESETS;

use crate::commands::Command;
use crate::document::model::Model;
use crate::theme::text;
use crate::views::{BITS, ViewContext};

/// How rules are written and who wins.
const HELP: &str = "A pattern is a name with * for any characters, role:down for a role, or default for every layer. A layer set by hand outranks all rules; * outranks roles, roles outrank default; of two alike the first decides.";

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(model) = &context.document.model else {
        return;
    };
    ui.add_space(4.0);
    head(context, ui, model);
    ui.separator();
    let rules = model.plan().rules();
    if rules.is_empty() {
        ui.weak("No rules: every assignment is by hand.").on_hover_text(HELP);
    }
    let matches = model.plan().matches();
    ScrollArea::vertical().id_salt("rules").auto_shrink(false).show(ui, |ui| {
        for (at, (rule, found)) in rules.iter().zip(matches).enumerate() {
            one(context, ui, model, (at, rule, found));
        }
        ui.add_space(6.0);
        new_rule(context, ui, model);
        ui.add_space(6.0);
        let by_hand = model.plan().by_hand().count();
        if by_hand > 0 {
            let layers = if by_hand == 1 {
                "1 layer is".to_owned()
            } else {
                format!("{by_hand} layers are")
            };
            ui.weak(format!("{layers} set by hand, which outranks every rule."));
        }
    });
}

fn head(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    ui.horizontal_wrapped(|ui| {
        ui.menu_button("Start from", |ui| {
            for preset in PRESETS {
                if ui.button(preset.title).on_hover_text(preset.summary).clicked() {
                    context.send(Command::Preset(preset.id));
                }
            }
        })
        .response
        .on_hover_text("Replace the plan by a starting point, fitted to the target; locked layers stay.");
        let by_hand = model.plan().by_hand().count();
        let tip = "Write the present plan as few rules: a role for what most of its layers have, patterns and names for the rest. Such a plan travels to other models.";
        let button = egui::Button::new("Sum up by hand");
        if ui.add_enabled(by_hand > 0, button).on_hover_text(tip).clicked() {
            context.send(Command::SumUp);
        }
    });
}

/// A rule: its pattern, what it decides, its assignment, its place.
fn one(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (at, rule, found): (usize, &Rule, Matches),
) {
    ui.horizontal(|ui| {
        ui.monospace(format!("{:>2}", at + 1));
        pattern(context, ui, model, (at, rule));
    });
    ui.horizontal(|ui| {
        ui.add_space(24.0);
        let said = match (found.all, found.decided) {
            (0, _) => RichText::new("matches nothing").color(context.tokens.error),
            (all, 0) => RichText::new(format!("decides none of {all}: outranked")).color(context.tokens.warning),
            (all, decided) if all == decided => RichText::new(format!("decides {}", text::count(all as u64))),
            (all, decided) => RichText::new(format!("decides {decided} of {all}")),
        };
        ui.label(said).on_hover_text("Layers it decides, of those its pattern matches; the others are set by hand or by a rule that outranks it.");
        assignment(context, ui, model, (at, rule));
        let mut moved = |tip: &str, sign: &str, to: Option<usize>| {
            let button = egui::Button::new(sign).small();
            if ui.add_enabled(to.is_some(), button).on_hover_text(tip).clicked()
                && let Some(to) = to
            {
                let mut rules = model.plan().rules().to_vec();
                rules.swap(at, to);
                context.send(Command::SetRules("Move a rule", rules));
            }
        };
        let last = model.plan().rules().len() - 1;
        moved("Move up.", "▲", at.checked_sub(1));
        moved("Move down.", "▼", (at < last).then_some(at + 1));
        if ui.small_button("Select").on_hover_text("Select the layers its pattern matches.").clicked() {
            let tensors = model.checkpoint.tensors().iter().enumerate();
            let matching = tensors.filter(|(_, tensor)| rule.pattern.matches(tensor));
            context.send(Command::Select(matching.map(|(layer, _)| layer).collect()));
        }
        if ui.small_button("×").on_hover_text("Take the rule out.").clicked() {
            let mut rules = model.plan().rules().to_vec();
            rules.remove(at);
            context.send(Command::SetRules("Take out a rule", rules));
        }
    });
    ui.add_space(4.0);
}

/// The pattern, to be edited; while it is typed, how many layers it matches.
fn pattern(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, (at, rule): (usize, &Rule)) {
    let id = Id::unique(("rule pattern", at));
    let written = rule.pattern.to_string();
    let mut typed = ui.data(|data| data.get_temp::<String>(id)).unwrap_or_else(|| written.clone());
    let field = TextEdit::singleline(&mut typed)
        .font(egui::TextStyle::Monospace)
        .desired_width(ui.available_width() - 90.0);
    let field = ui.add(field).on_hover_text(HELP);
    field.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::TextInput, true, format!("pattern {}", at + 1))
    });
    if field.has_focus() {
        count(context, ui, model, &typed);
        ui.data_mut(|data| data.insert_temp(id, typed));
        return;
    }
    if field.lost_focus() && typed != written {
        match Pattern::parse(&typed) {
            Ok(pattern) => {
                let mut rules = model.plan().rules().to_vec();
                rules[at].pattern = pattern;
                context.send(Command::SetRules("Change a pattern", rules));
            }
            Err(error) => context.send(Command::Complain(error.sentence())),
        }
    }
    ui.data_mut(|data| data.remove::<String>(id));
}

/// How many layers a pattern matches that is being typed.
fn count(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, typed: &str) {
    match Pattern::parse(typed) {
        Ok(pattern) => {
            let n = model.checkpoint.tensors().iter().filter(|t| pattern.matches(t)).count();
            let text = RichText::new(format!("{n} layers")).monospace();
            ui.label(if n == 0 { text.color(context.tokens.error) } else { text });
        }
        Err(error) => {
            ui.label(RichText::new("no pattern").color(context.tokens.error))
                .on_hover_text(error.sentence());
        }
    }
}

/// The assignment of a rule, with a menu of others.
fn assignment(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, (at, rule): (usize, &Rule)) {
    let set = |assignment: Assignment| {
        let mut rules = model.plan().rules().to_vec();
        rules[at].assignment = std::sync::Arc::new(assignment);
        context.send(Command::SetRules("Change a rule", rules));
    };
    ui.menu_button(rule.assignment.label(), |ui| choices(ui, model, &rule.assignment, set))
        .response
        .on_hover_text("What becomes of the layers it decides.");
}

/// Assignments to choose from: other bits, keep, that of the layer in the inspector.
fn choices(ui: &mut Ui, model: &Model, now: &Assignment, mut set: impl FnMut(Assignment)) {
    for bits in BITS {
        let with = now.with_bits(bits);
        if ui.button(with.label()).clicked() {
            set(with);
        }
    }
    if ui.button("Keep").clicked() {
        set(Assignment::keep());
    }
    if let Some(cursor) = model.selection.cursor() {
        let its = Assignment { locked: false, ..Assignment::clone(&model.assignment(cursor)) };
        let title = format!("as {}: {}", model.short_name(cursor), its.label());
        if ui.button(title).on_hover_text("The assignment of the layer in the inspector.").clicked()
        {
            set(its);
        }
    }
}

/// A line for one more rule.
fn new_rule(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let id = Id::unique("new rule");
    let mut typed = ui.data(|data| data.get_temp::<String>(id)).unwrap_or_default();
    ui.horizontal(|ui| {
        let label = ui.label("New");
        let field = TextEdit::singleline(&mut typed)
            .font(egui::TextStyle::Monospace)
            .hint_text("*.down_proj.weight, role:down, default")
            .desired_width(ui.available_width() - 130.0);
        ui.add(field).on_hover_text(HELP).labelled_by(label.id);
        if !typed.trim().is_empty() {
            count(context, ui, model, &typed);
        }
        ui.add_enabled_ui(Pattern::parse(&typed).is_ok(), |ui| {
            ui.menu_button("Add", |ui| {
                let mut added = None;
                choices(ui, model, &Assignment::keep(), |assignment| added = Some(assignment));
                let added = added.and_then(|assignment| Rule::new(&typed, assignment).ok());
                if let Some(rule) = added {
                    let rules = model.plan().rules().iter().cloned().chain([rule]).collect();
                    context.send(Command::SetRules("Add a rule", rules));
                    typed.clear();
                }
            });
        });
    });
    ui.data_mut(|data| data.insert_temp(id, typed));
}
