//! The fewest and the most bits of roles.

use std::collections::BTreeMap;

use egui::{ComboBox, Grid, Ui};
use lapidary_engine::checkpoint::Role;
use lapidary_engine::scores::Bounds;

use super::send;
use crate::commands::allocate::Allocate;
use crate::document::allocation::{BITS, Ready};
use crate::document::model::Model;
use crate::views::ViewContext;

const HELP: &str = "Nominal bits of a weight that the solver may not go below or above in layers of this role; locked layers stay as they are. Fused layers obey the strictest of their roles.";

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let before = &context.document.allocation.bounds;
    let n = before.floors.len() + before.ceilings.len();
    let title = match n {
        0 => "Bounds by role".to_owned(),
        n => format!("Bounds by role: {n} set"),
    };
    let header = egui::CollapsingHeader::new(title).id_salt("bounds").show(ui, |ui| {
        let mut bounds = before.clone();
        Grid::new("bounds of roles").num_columns(3).striped(true).show(ui, |ui| {
            for head in ["role", "at least", "at most"] {
                ui.weak(head);
            }
            ui.end_row();
            for role in ready.roles(&model.checkpoint) {
                ui.label(role.name());
                bound(ui, (role, "fewest"), &mut bounds.floors);
                bound(ui, (role, "most"), &mut bounds.ceilings);
                ui.end_row();
            }
        });
        if n > 0 && ui.button("Clear").on_hover_text("Take every bound away.").clicked() {
            bounds = Bounds::default();
        }
        if bounds != *before {
            send(context, Allocate::Bound(bounds));
        }
    });
    header.header_response.on_hover_text(HELP);
}

fn bound(ui: &mut Ui, (role, what): (Role, &str), of: &mut BTreeMap<Role, f64>) {
    let now = of.get(&role).copied();
    let text = now.map_or_else(|| "–".to_owned(), |bits| format!("{bits} bits"));
    let choice = ComboBox::from_id_salt((role, what)).selected_text(text).width(80.0);
    let choice = choice.show_ui(ui, |ui| {
        if ui.selectable_label(now.is_none(), "–").clicked() {
            of.remove(&role);
        }
        for bits in BITS {
            let is_it = now == Some(bits as f64);
            if ui.selectable_label(is_it, format!("{bits} bits")).clicked() {
                of.insert(role, bits as f64);
            }
        }
    });
    choice.response.on_hover_text(format!("The {what} bits of {}.", role.name()));
}
