//! The palette: everything there is to do, found by typing a few letters of it.

use egui::{Align2, Key, Label, RichText, ScrollArea, TextEdit, Ui, Window};
use lapidary_engine::method::{METHODS, Stage};
use lapidary_engine::target::{PRESETS, TARGETS};
use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher};

use crate::commands::Command;
use crate::commands::actions::ACTIONS;
use crate::document::look::Tab;
use crate::document::metrics::METRICS;
use crate::document::{Document, Sheet};
use crate::views::ViewContext;

/// Entries on show.
const SHOWN: usize = 12;

/// Something that can be done.
struct Item {
    title: String,
    tip: &'static str,
    keys: String,
    command: Command,
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    if context.document.sheet != Some(Sheet::Palette) {
        return;
    }
    let top = ui.ctx().content_rect().center_top() + egui::vec2(0.0, 60.0);
    let window = Window::new("Palette").title_bar(false).collapsible(false).resizable(false);
    window
        .pivot(Align2::CENTER_TOP)
        .fixed_pos(top)
        .fixed_size([520.0, 0.0])
        .show(ui.ctx(), |ui| contents(context, ui));
}

fn contents(context: &ViewContext<'_>, ui: &mut Ui) {
    let mut typed = context.document.palette.clone();
    let field = TextEdit::singleline(&mut typed)
        .hint_text("What to do? Type a few letters of it")
        .desired_width(f32::INFINITY);
    let field = ui.add(field);
    field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "palette"));
    let entered = field.lost_focus() && ui.input(|input| input.key_pressed(Key::Enter));
    let escaped = ui.input(|input| input.key_pressed(Key::Escape));
    let at_id = egui::Id::unique("palette cursor");
    let mut at = ui.data(|data| data.get_temp::<usize>(at_id)).unwrap_or(0);
    if field.changed() {
        context.send(Command::TypePalette(typed.clone()));
        at = 0;
    }
    let found = matching(items(context.document, ui), &typed);
    let shown = found.len().min(SHOWN);
    ui.input(|input| {
        if input.key_pressed(Key::ArrowDown) {
            at = (at + 1).min(shown.saturating_sub(1));
        }
        if input.key_pressed(Key::ArrowUp) {
            at = at.saturating_sub(1);
        }
    });
    ui.data_mut(|data| data.insert_temp(at_id, at));
    let mut chosen = None;
    ScrollArea::vertical()
        .auto_shrink([false, true])
        .min_scrolled_height(SHOWN as f32 * 26.0)
        .show(ui, |ui| {
            for (i, item) in found.iter().take(SHOWN).enumerate() {
                if row(ui, item, i == at) {
                    chosen = Some(i);
                }
            }
            if found.is_empty() {
                ui.weak("Nothing is called that.");
            }
        });
    if entered && at < found.len() {
        chosen = Some(at);
    }
    if chosen.is_some() || escaped {
        context.send(Command::ToggleSheet(Sheet::Palette));
        context.send(Command::TypePalette(String::new()));
        ui.data_mut(|data| data.insert_temp(at_id, 0_usize));
    } else if !field.has_focus() {
        field.request_focus();
    }
    if let Some(item) = chosen.and_then(|i| found.into_iter().nth(i)) {
        context.send(item.command);
    }
}

fn row(ui: &mut Ui, item: &Item, is_at: bool) -> bool {
    ui.horizontal(|ui| {
        let clicked = ui.selectable_label(is_at, &item.title).on_hover_text(item.tip).clicked();
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.monospace(&item.keys);
            ui.add(Label::new(RichText::new(item.tip).weak().small()).truncate());
        });
        clicked
    })
    .inner
}

/// Everything that can be done now.
fn items(document: &Document, ui: &Ui) -> Vec<Item> {
    let enabled = ACTIONS.iter().filter(|action| (action.enabled)(document));
    let is_other = |action: &&crate::commands::actions::Action| {
        (action.command)() != Command::ToggleSheet(Sheet::Palette)
    };
    let mut items: Vec<Item> = enabled
        .filter(is_other)
        .map(|action| Item {
            title: action.title.to_owned(),
            tip: action.tooltip,
            keys: action.keys.map_or_else(String::new, |keys| ui.ctx().format_shortcut(&keys)),
            command: (action.command)(),
        })
        .collect();
    if document.model.is_none() {
        return items;
    }
    let item = |title: String, tip, command| Item { title, tip, keys: String::new(), command };
    items.extend(PRESETS.iter().map(|preset| {
        let title = format!("Start from: {}", preset.title);
        item(title, preset.summary, Command::Preset(preset.id))
    }));
    let methods = METHODS.iter().map(|method| method.about());
    items.extend(methods.filter(|about| about.stage != Stage::Keep).map(|about| {
        item(format!("Method: {}", about.title), about.summary, Command::SetMethod(about.id))
    }));
    items.extend(TARGETS.iter().map(|target| target.about()).map(|about| {
        item(format!("Target: {}", about.title), about.summary, Command::SetTarget(about.id))
    }));
    items.extend(METRICS.iter().map(|metric| {
        item(format!("Colour by: {}", metric.title), metric.help, Command::SetMetric(metric.id))
    }));
    items.extend(
        Tab::ALL
            .iter()
            .map(|(tab, title, tip)| item(format!("Inspect: {title}"), tip, Command::SetTab(*tab))),
    );
    items
}

/// The items whose titles hold the typed letters in order, the best first; all of them where nothing is typed.
fn matching(items: Vec<Item>, typed: &str) -> Vec<Item> {
    if typed.trim().is_empty() {
        return items;
    }
    let mut matcher = Matcher::new(Config::DEFAULT);
    let pattern = Pattern::parse(typed, CaseMatching::Ignore, Normalization::Smart);
    let mut buffer = Vec::new();
    let mut scored: Vec<(u32, Item)> = items
        .into_iter()
        .filter_map(|item| {
            let haystack = nucleo_matcher::Utf32Str::new(&item.title, &mut buffer);
            Some((pattern.score(haystack, &mut matcher)?, item))
        })
        .collect();
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    scored.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_letters_find_what_they_are_of() {
        let item = |title: &str| Item {
            title: title.to_owned(),
            tip: "",
            keys: String::new(),
            command: Command::Dismiss,
        };
        let all = || vec![item("Open folder…"), item("Set 4 bits"), item("Select all shown")];
        assert_eq!(matching(all(), "s4b")[0].title, "Set 4 bits");
        assert_eq!(matching(all(), "sel all")[0].title, "Select all shown");
        assert_eq!(matching(all(), "").len(), 3);
        assert!(matching(all(), "xyz").is_empty());
    }
}
