//! How things look: colours and spacing as tokens, numbers as text. No colour is named anywhere else.

mod colours;
pub mod text;

pub use colours::{Tokens, bits_colour, diverging, sequential, text_on};

use egui::{FontDefinitions, FontFamily, FontId, TextStyle};

/// Grid unit; distances are multiples of it.
pub const UNIT: f32 = 4.0;
/// Height of a row of a list.
pub const ROW_HEIGHT: f32 = 20.0;
/// Height of a plot in the inspector.
pub const PLOT_HEIGHT: f32 = 210.0;

/// egui's own fonts; signs the proportional one lacks, as → and σ, come from the monospaced one.
fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::default();
    let monospaced = fonts.families.get(&FontFamily::Monospace).cloned().unwrap_or_default();
    if let Some(proportional) = fonts.families.get_mut(&FontFamily::Proportional) {
        for font in monospaced {
            if !proportional.contains(&font) {
                proportional.push(font);
            }
        }
    }
    fonts
}

/// Applies fonts, spacing and both sets of colours to a window.
pub fn apply(context: &egui::Context) {
    context.set_fonts(fonts());
    context.all_styles_mut(|style| {
        style.spacing.item_spacing = egui::vec2(2.0 * UNIT, UNIT);
        style.spacing.button_padding = egui::vec2(1.5 * UNIT, 0.5 * UNIT);
        // Labels in lists and maps must pass clicks on to their rows.
        style.interaction.selectable_labels = false;
        style.interaction.tooltip_delay = 0.3;
        for (text_style, size) in [
            (TextStyle::Body, 13.5),
            (TextStyle::Button, 13.5),
            (TextStyle::Small, 11.5),
            (TextStyle::Heading, 18.0),
        ] {
            style.text_styles.insert(text_style, FontId::proportional(size));
        }
        style.text_styles.insert(TextStyle::Monospace, FontId::monospace(12.5));
    });
    for theme in [egui::Theme::Light, egui::Theme::Dark] {
        context.set_visuals_of(theme, Tokens::of(theme).visuals(theme));
    }
}
