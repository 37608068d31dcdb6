//! The brush: what a drag over the map leaves behind.

use std::sync::Arc;

use egui::{Key, RichText, Ui};
use lapidary_engine::plan::Assignment;

use crate::commands::Command;
use crate::document::brush::Brush;
use crate::document::model::Model;
use crate::theme::{bits_colour, text_on};
use crate::views::{BITS, ViewContext};

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = egui::vec2(2.0, 2.0);
        let is_out = model.brush.is_some();
        let tip = "Choose what to paint, then drag over the map: every cell under the pointer takes it, in one step of undo. P takes the brush with the assignment in the inspector, Escape lays it down.";
        if ui.selectable_label(is_out, "Brush").on_hover_text(tip).clicked() {
            context.send(Command::ToggleBrush);
        }
        for bits in BITS {
            let colour = bits_colour(bits as f64);
            let text = RichText::new(bits.to_string()).color(text_on(colour));
            let brush = Brush::Bits(bits);
            let is_this = model.brush.as_ref() == Some(&brush);
            let frame = if is_this { context.tokens.selected } else { egui::Color32::TRANSPARENT };
            let button = egui::Button::new(text)
                .fill(colour)
                .stroke(egui::Stroke::new(2.0, frame))
                .min_size(egui::vec2(19.0, 0.0))
                .small();
            let why_not = model.held_bits.why_not(bits);
            let response = ui.add_enabled(why_not.is_none(), button);
            let tip = format!("Paint {bits} bits; group, grid and clipping of each layer stay.");
            let response = response.on_hover_text(tip).on_disabled_hover_text(why_not.unwrap_or_default());
            response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, why_not.is_none(), format!("brush {bits}")));
            if response.clicked() {
                context.send(Command::SetBrush((!is_this).then_some(brush)));
            }
        }
        others(context, ui, model);
        if let Some(Brush::Assignment(assignment)) = &model.brush {
            ui.label(assignment.label());
        }
    });
    let escaped = model.brush.is_some() && ui.input(|input| input.key_pressed(Key::Escape));
    if escaped && context.document.sheet.is_none() && context.document.question.is_none() {
        context.send(Command::SetBrush(None));
    }
}

/// Brushes that are no bits: keep, locks, a whole assignment.
fn others(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let cursor = model.selection.cursor().filter(|&layer| model.is_matrix(layer));
    let its = cursor.map(|layer| {
        let its = Assignment { locked: false, ..Assignment::clone(&model.assignment(layer)) };
        Brush::Assignment(Arc::new(its))
    });
    let brushes = [
        (Some(Brush::Keep), "Keep", "Paint layers back to what they are on disk."),
        (Some(Brush::Lock(true)), "Lock", "Paint locks."),
        (Some(Brush::Lock(false)), "Unlock", "Paint locks away."),
        (its, "This", "Paint the whole assignment of the layer in the inspector."),
    ];
    for (brush, title, tip) in brushes {
        let is_this = brush.is_some() && model.brush == brush;
        let label = egui::Button::selectable(is_this, RichText::new(title).small());
        let response = ui.add_enabled(brush.is_some(), label).on_hover_text(tip);
        response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Button, true, format!("brush {title}"))
        });
        if response.clicked() {
            context.send(Command::SetBrush(brush.filter(|_| !is_this)));
        }
    }
}
