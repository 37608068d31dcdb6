//! What the bits of a layer carry: entropy by plane, the lossless floor, precision that is not used.

use egui::{Align, Grid, Layout, Rect, RichText, Sense, Ui, pos2, vec2};
use lapidary_engine::checkpoint::Tensor;
use lapidary_engine::statistics::{Bits, WEIGHTS_FOR_EACH_PATTERN};

use crate::document::model::Model;
use crate::theme::text;
use crate::views::ViewContext;
use crate::views::inspector::parts::{known, note};

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    let state = model.statistics_state(layer);
    let Some(statistics) = known(context, ui, state.as_ref(), "Counting bit patterns…") else {
        return;
    };
    let Some(bits) = &statistics.bits else {
        ui.weak(format!("{} values have no sign, exponent and mantissa.", tensor.dtype));
        return;
    };
    planes(context, ui, bits);
    floor(ui, tensor, bits);
    ui.add_space(4.0);
    precision(context, ui, model, (layer, bits));
    grid(context, ui, model, layer);
}

/// The fewest bits that a lossless coder of separate planes needs.
fn floor(ui: &mut Ui, tensor: &Tensor, bits: &Bits) {
    ui.add_space(4.0);
    let Some(floor) = bits.floor_bits() else {
        ui.label("Lossless floor: too few weights to tell.").on_hover_text(format!(
            "{} weights show {} patterns of sign, exponent and mantissa. With fewer than {WEIGHTS_FOR_EACH_PATTERN} weights for each pattern, counts say little about how often it would occur.",
            text::count(bits.values),
            text::count(bits.patterns)
        ));
        return;
    };
    let all = f64::from(1 + bits.exponent_bits + bits.mantissa_bits);
    let bytes = (floor * tensor.parameters() as f64 / 8.0) as u64;
    ui.monospace(format!("{} of {all} bits/weight", text::bits(floor)))
        .on_hover_text("Lossless floor of separate planes: the entropies of sign, exponent and mantissa added up. No lossless coder that codes them apart gets below it; DFloat11 and ZipNN come close by coding exponents. Coding whole 16-bit patterns together goes 0.02 to 0.06 bits lower.");
    ui.label(format!(
        "Lossless floor of separate planes {} of {} ({}), an estimate from counts of patterns.",
        text::bytes(bytes),
        text::bytes(tensor.bytes()),
        text::percent(floor / all)
    ));
}

fn planes(context: &ViewContext<'_>, ui: &mut Ui, bits: &Bits) {
    let rows = [
        (
            "sign",
            1,
            bits.sign_entropy,
            "Entropy of the sign bit: 1 where both signs are equally likely.",
        ),
        (
            "exponent",
            bits.exponent_bits,
            bits.exponent_entropy,
            "Entropy of the exponent. Weights of one layer have nearly one magnitude, so some 2.6 of 8 bits are used.",
        ),
        (
            "mantissa",
            bits.mantissa_bits,
            bits.mantissa_entropy,
            "Entropy of the mantissa, for F32 of 7 + 8 + 8 bits coded apart. Near its width unless weights were rounded before.",
        ),
    ];
    let is_told = bits.floor_bits().is_some();
    Grid::new("bit planes").num_columns(4).spacing([14.0, 4.0]).show(ui, |ui| {
        for head in ["plane", "bits", "entropy", "used"] {
            note(context, ui, head);
        }
        ui.end_row();
        for (name, width, entropy, help) in rows {
            ui.label(name).on_hover_text(help);
            right(ui, width.to_string());
            if is_told {
                right(ui, format!("{entropy:.3}"));
                bar(context, ui, entropy / f64::from(width.max(1)));
            } else {
                right(ui, "–".to_owned());
                right(ui, "–".to_owned());
            }
            ui.end_row();
        }
    });
}

fn right(ui: &mut Ui, text: String) {
    let layout = Layout::right_to_left(Align::Center);
    ui.allocate_ui_with_layout(vec2(52.0, 16.0), layout, |ui| ui.monospace(text));
}

fn bar(context: &ViewContext<'_>, ui: &mut Ui, share: f64) {
    let (rect, response) = ui.allocate_exact_size(vec2(150.0, 12.0), Sense::hover());
    let rect = rect.with_min_x(rect.left() + 10.0);
    ui.painter().rect_filled(rect, 2.0, context.tokens.unknown);
    let right = rect.left() + rect.width() * share.clamp(0.0, 1.0) as f32;
    let filled = Rect::from_min_max(rect.min, pos2(right, rect.bottom()));
    ui.painter().rect_filled(filled, 2.0, context.tokens.data);
    response.on_hover_text(text::percent(share));
}

/// Precision that is there but not used.
fn precision(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, (layer, bits): (usize, &Bits)) {
    let tensor = &model.checkpoint.tensors()[layer];
    if tensor.coded.is_some() {
        let (name, stored) = (tensor.type_name(), tensor.stored_bits());
        let told = format!(
            "These are the bits that {name} decodes to; on disk it takes {stored:.4} for each."
        );
        note(context, ui, told);
        return;
    }
    if let Some(narrow) = bits.narrowest {
        let saved = 1.0 - narrow.bits() as f64 / tensor.dtype.bits() as f64;
        ui.label(
            RichText::new(format!(
                "⚠ Stored as {}, but every value is exactly a {narrow}: {} of the bytes carry nothing.",
                tensor.dtype,
                text::percent(saved)
            ))
            .color(context.tokens.warning),
        )
        .on_hover_text("Every value converts to the narrower type and back unchanged. Storing it so is lossless.");
    } else if bits.low_zero_bits > 0 {
        let text = format!(
            "⚠ The lowest {} of {} mantissa bits are zero in every value: the weights were rounded before.",
            bits.low_zero_bits, bits.mantissa_bits
        );
        ui.label(RichText::new(text).color(context.tokens.warning));
    } else {
        note(
            context,
            ui,
            format!(
                "Every bit of {} is used: no narrower float type holds all values.",
                tensor.dtype
            ),
        );
    }
}

/// A grid that the weights were rounded to before.
fn grid(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    if model.checkpoint.tensors()[layer].matrix.is_none() {
        return;
    }
    let Some(structure) = model.structure(layer) else {
        return;
    };
    let Some(grid) = &structure.hidden_grid else {
        note(context, ui, "No grid: groups of weights have as many values as weights.")
            .on_hover_text("Rows spread over the matrix were searched for groups of 32 to 256 weights, and whole rows, with few distinct values.");
        return;
    };
    let code = usize::BITS - (grid.levels - 1).leading_zeros();
    let of = match grid.group_width() {
        Some(width) => format!("group of {width}"),
        None => "row".to_owned(),
    };
    let spacing =
        if grid.is_even { "evenly spaced: an integer grid" } else { "unevenly spaced: a codebook" };
    let text = format!(
        "⚠ Rounded before: each {of} has at most {} levels, {spacing}. {code} bits would hold each weight without loss.",
        grid.levels
    );
    ui.label(RichText::new(text).color(context.tokens.warning)).on_hover_text(format!(
        "Found in all {} groups examined, from rows spread evenly over the matrix.",
        text::count(grid.examined as u64)
    ));
}
