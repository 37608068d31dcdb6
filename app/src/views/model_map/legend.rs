//! The legend of the map: the scale of colours with its ends, and how much is known.

use egui::{Label, Mesh, Rect, RichText, Sense, Ui, pos2, vec2};

use crate::document::metrics::Needs;
use crate::document::model::{MapMode, Model};
use crate::theme::{bits_colour, sequential, text};
use crate::views::ViewContext;

const STEPS: usize = 64;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let shades = &model.shades;
    ui.horizontal_wrapped(|ui| {
        if shades.known == 0 {
            ui.weak(match model.metric.needs {
                Needs::Plan | Needs::Measuring => "Measuring…",
                Needs::Damage | Needs::Price => {
                    "No layer is compressed yet: assign bits to see what they cost."
                }
                Needs::Sensitivity => "Estimating…",
                Needs::Calibration => "Calibrate with a text first: menu File, Calibrate.",
                Needs::Other => "Open a second checkpoint in the inspector under Compare.",
            });
            return;
        }
        let is_bits = model.metric.id == "bits";
        let is_clipped = model.scaling.clip < 100.0 && !is_bits;
        let (low, high) = if is_bits { (2.0, 16.0) } else { (shades.low, shades.high) };
        let sign = |sign: &'static str| if is_clipped { sign } else { "" };
        ui.monospace(format!("{}{}", sign("≤ "), (model.metric.format)(low)));
        bar(ui, is_bits, (low, high)).on_hover_text(model.metric.help);
        ui.monospace(format!("{}{}", sign("≥ "), (model.metric.format)(high)));
        let kind = if is_bits { "linear" } else { shades.kind() };
        let of = model.checkpoint.tensors().len() as u64;
        let known = if shades.known as u64 == of {
            String::new()
        } else {
            format!(", {} of {}", text::count(shades.known as u64), text::count(of))
        };
        let meaning = match model.map_mode {
            MapMode::Blocks => "number: bits, in [ ] compressed",
            MapMode::Bytes => "area: bytes in the export",
        };
        let is_weighted = matches!(model.metric.needs, Needs::Damage | Needs::Sensitivity)
            && model.calibrations.loaded.is_some();
        let weighting = if is_weighted { ", activation-weighted" } else { "" };
        let placed = match kind {
            "linear" => LINEAR,
            "log" => LOGARITHMIC,
            _ => SYMMETRIC,
        };
        let notes = [(format!("{kind}{known}{weighting}"), placed), (meaning.to_owned(), CELLS)];
        for (note, help) in notes {
            let note = RichText::new(note).color(context.tokens.weak).small();
            ui.add(Label::new(note).extend()).on_hover_text(help);
        }
    });
}

const LINEAR: &str = "Colours are even in the value. The ends are those of the weight matrices; norms and others beyond them have the colours of the ends. Scale changes that, and at which percentiles the scale ends.";
const LOGARITHMIC: &str = "Colours are even in the logarithm of the value. The ends are those of the weight matrices; norms and others beyond them have the colours of the ends. Scale changes that, and at which percentiles the scale ends.";
const SYMMETRIC: &str = "Some values are zero or negative and have no logarithm: colours are even in sgn(v)·ln(1 + |v|/c) instead, c a hundredth of the largest magnitude, which is near the value itself around zero and near its logarithm far from it. The ends are those of the weight matrices; norms and others beyond them have the colours of the ends. Scale changes that, and at which percentiles the scale ends.";
const CELLS: &str =
    "Bits are those of everything stored, per weight; a layer without brackets is kept as it is.";

fn bar(ui: &mut Ui, is_bits: bool, (low, high): (f64, f64)) -> egui::Response {
    let (rect, response) = ui.allocate_exact_size(vec2(160.0, 12.0), Sense::hover());
    let mut mesh = Mesh::default();
    for i in 0..STEPS {
        let x = (i as f32 + 0.5) / STEPS as f32;
        let fill =
            if is_bits { bits_colour(low + f64::from(x) * (high - low)) } else { sequential(x) };
        let edge = |i: usize| rect.left() + rect.width() * i as f32 / STEPS as f32;
        let piece = Rect::from_min_max(pos2(edge(i), rect.top()), pos2(edge(i + 1), rect.bottom()));
        mesh.add_colored_rect(piece, fill);
    }
    ui.painter().add(mesh);
    response
}
