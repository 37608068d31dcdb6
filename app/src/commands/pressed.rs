//! Keys that were pressed, as actions.

use egui::{Key, KeyboardShortcut, Modifiers};

use crate::commands::actions::{ACTIONS, Action};

/// The action whose keys were pressed. Chords with more modifiers are matched first; single keys belong to a text
/// field while one has the focus.
pub fn pressed(context: &egui::Context) -> Vec<&'static Action> {
    let typing = context.egui_wants_keyboard_input();
    let mut actions: Vec<(&'static Action, KeyboardShortcut)> =
        ACTIONS.iter().filter_map(|action| Some((action, action.keys?))).collect();
    let weight = |modifiers: Modifiers| u8::from(modifiers.shift) + u8::from(modifiers.alt);
    actions.sort_by_key(|(_, keys)| std::cmp::Reverse(weight(keys.modifiers)));
    context.input_mut(|input| {
        let mut is_pressed = |keys: &KeyboardShortcut| {
            let is_plain = matches!(keys.modifiers, Modifiers::NONE | Modifiers::SHIFT);
            // What a text field does with these keys is not for the layers behind it.
            let is_of_text = matches!(keys.logical_key, Key::A | Key::Z | Key::Y);
            let is_function = matches!(keys.logical_key, Key::F1);
            if keys.logical_key == Key::C && keys.modifiers == Modifiers::COMMAND {
                // The system's own event, in the place of the key.
                return !typing && input.events.contains(&egui::Event::Copy);
            }
            (!typing || !(is_plain || is_of_text) || is_function) && input.consume_shortcut(keys)
        };
        actions.into_iter().filter(|(_, keys)| is_pressed(keys)).map(|(action, _)| action).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_actions_share_their_keys() {
        for (i, a) in ACTIONS.iter().enumerate() {
            for b in &ACTIONS[i + 1..] {
                assert!(
                    a.keys.is_none() || a.keys != b.keys,
                    "{} and {} have the same keys",
                    a.title,
                    b.title
                );
            }
        }
    }

    #[test]
    fn every_action_explains_itself() {
        for action in ACTIONS {
            assert!(action.tooltip.ends_with('.'), "{}", action.title);
            assert!(!action.title.ends_with('.'), "{}", action.title);
        }
    }
}
