//! Colour tokens of the light and the dark theme, and the scales of maps.
#![expect(clippy::disallowed_methods, reason = "this is the file where colours are declared")]
#![expect(clippy::unreadable_literal, reason = "six hexadecimal digits are how colours are read")]

use egui::{Color32, Stroke, Theme, Visuals};

use crate::figure::Ink;

/// Colours by meaning.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Bars and curves of data.
    pub data: Color32,
    /// Levels of a quantisation grid.
    pub grid: Color32,
    /// Marks on a plot.
    pub mark: Color32,
    /// A second mark on a plot.
    pub mark_other: Color32,
    /// A cell without a value yet.
    pub unknown: Color32,
    /// The frame of a selected cell.
    pub selected: Color32,
    /// Secondary text.
    pub weak: Color32,
    /// Something went wrong.
    pub error: Color32,
    /// Something to look at.
    pub warning: Color32,
    /// Something is right.
    pub good: Color32,
    layers: [Color32; 8],
    fit: Color32,
    other_fit: Color32,
    accent: Color32,
    panel: Color32,
    text: Color32,
}

impl Tokens {
    /// The tokens of a theme.
    pub fn of(theme: Theme) -> Self {
        match theme {
            Theme::Light => Self {
                data: rgb(0x3b6ea5),
                grid: rgb(0xc2410c),
                mark: rgb(0xb45309),
                mark_other: rgb(0x0f766e),
                unknown: rgb(0xe3e6ea),
                selected: rgb(0x111827),
                weak: rgb(0x5b6470),
                error: rgb(0xb42318),
                warning: rgb(0x8a5200),
                good: rgb(0x1b6e4b),
                layers: LAYERS_LIGHT.map(rgb),
                fit: rgb(0x333333),
                other_fit: rgb(0x8a8f98),
                accent: rgb(0x2563a8),
                panel: rgb(0xf7f8fa),
                text: rgb(0x1d232b),
            },
            Theme::Dark => Self {
                data: rgb(0x6fa8dc),
                grid: rgb(0xff9f5a),
                mark: rgb(0xf2b84b),
                mark_other: rgb(0x5ed1c0),
                unknown: rgb(0x2c3138),
                selected: rgb(0xffffff),
                weak: rgb(0x9aa4b1),
                error: rgb(0xff8a7a),
                warning: rgb(0xf2c14e),
                good: rgb(0x6fd3a0),
                layers: LAYERS_DARK.map(rgb),
                fit: rgb(0xe8e8e8),
                other_fit: rgb(0x9aa4b1),
                accent: rgb(0x5b9bd5),
                panel: rgb(0x1b1f24),
                text: rgb(0xdfe4ea),
            },
        }
    }

    /// The colour of an ink of figures.
    pub fn ink(&self, ink: Ink) -> Color32 {
        match ink {
            Ink::Data(layer) => self.layers[layer % self.layers.len()],
            Ink::Fit => self.fit,
            Ink::OtherFit => self.other_fit,
            Ink::Grid => self.grid.gamma_multiply(0.75),
            Ink::Mark => self.mark,
            Ink::OtherMark => self.mark_other,
        }
    }

    /// egui's colours for a theme.
    pub(super) fn visuals(&self, theme: Theme) -> Visuals {
        let mut visuals = theme.default_visuals();
        visuals.panel_fill = self.panel;
        visuals.window_fill = self.panel;
        visuals.override_text_color = Some(self.text);
        visuals.weak_text_color = Some(self.weak);
        visuals.error_fg_color = self.error;
        visuals.warn_fg_color = self.warning;
        visuals.hyperlink_color = self.accent;
        visuals.selection.bg_fill =
            self.accent.gamma_multiply(if theme == Theme::Dark { 0.55 } else { 0.35 });
        visuals.selection.stroke = Stroke::new(1.0, self.text);
        visuals.striped = true;
        visuals
    }
}

/// Layers laid over one another: after Okabe & Ito, readable for colour-blind people, darkened for a light ground.
const LAYERS_LIGHT: [u32; 8] =
    [0x3b6ea5, 0xc2410c, 0x0b7a5b, 0xa4447f, 0x7a6200, 0x2a8fc9, 0x5b3a8c, 0x444444];
/// The same, lightened for a dark ground.
const LAYERS_DARK: [u32; 8] =
    [0x6fa8dc, 0xff9f5a, 0x4fd1a5, 0xe59ac7, 0xe6cf3d, 0x8fd3ff, 0xb79cf0, 0xc9ced6];

const fn rgb(hex: u32) -> Color32 {
    Color32::from_rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

/// Viridis at nine points: perceptually even, readable for colour-blind people.
const VIRIDIS: [u32; 9] =
    [0x440154, 0x472d7b, 0x3b528b, 0x2c728e, 0x21918c, 0x28ae80, 0x5ec962, 0xaddc30, 0xfde725];

/// The colour of `x` in [0, 1] on the sequential scale.
pub fn sequential(x: f32) -> Color32 {
    along(&VIRIDIS, x)
}

fn along(points: &[u32; 9], x: f32) -> Color32 {
    let at = x.clamp(0.0, 1.0) * (points.len() - 1) as f32;
    let below = (at as usize).min(points.len() - 2);
    rgb(points[below]).lerp_to_gamma(rgb(points[below + 1]), at - below as f32)
}

/// Vik (Crameri 2018) at nine points: blue below zero, red above, even in lightness, readable for colour-blind people.
const VIK: [u32; 9] =
    [0x001261, 0x033e7d, 0x1e6f9d, 0x71a8c4, 0xece5e0, 0xd9a27b, 0xc26534, 0x8b2506, 0x590008];

/// The colour of `x` in [−1, 1] on the diverging scale.
pub fn diverging(x: f32) -> Color32 {
    along(&VIK, f32::midpoint(x.clamp(-1.0, 1.0), 1.0))
}

/// The colour of a bit-width, the same everywhere: hot for few, cool for many, grey for untouched floats.
pub fn bits_colour(bits: f64) -> Color32 {
    const WIDTHS: [(f64, u32); 7] = [
        (2.0, 0xd73027),
        (3.0, 0xf46d43),
        (4.0, 0xfdae61),
        (5.0, 0xfee090),
        (6.0, 0xabd9e9),
        (7.0, 0x74add1),
        (9.0, 0x4575b4),
    ];
    if bits > 9.5 {
        return rgb(0x8d949e);
    }
    let above = WIDTHS.iter().position(|(width, _)| *width >= bits).unwrap_or(WIDTHS.len() - 1);
    let (high, high_colour) = WIDTHS[above];
    let (low, low_colour) = WIDTHS[above.saturating_sub(1)];
    let share = if high > low { (bits - low) / (high - low) } else { 1.0 };
    rgb(low_colour).lerp_to_gamma(rgb(high_colour), share.clamp(0.0, 1.0) as f32)
}

/// Black or white, whichever reads better on `background`: at least 4.5 : 1 on every colour.
pub fn text_on(background: Color32) -> Color32 {
    let linear = |channel: u8| {
        let c = f32::from(channel) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(background.r())
        + 0.7152 * linear(background.g())
        + 0.0722 * linear(background.b());
    // Contrast with black is (L + 0.05) / 0.05, with white 1.05 / (L + 0.05); they are equal at L = 0.179.
    if luminance > 0.179 { Color32::BLACK } else { Color32::WHITE }
}
