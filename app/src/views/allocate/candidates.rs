//! What a layer may become: methods at numbers of bits, and whatever assignment was made in the inspector.

use std::sync::Arc;

use egui::{Button, Id, Ui};
use lapidary_engine::plan::{Assignment, quantisers_of_bits};

use crate::document::allocation::{BITS, Wish, starting_assignments};
use crate::document::held_bits::HeldBits;
use crate::document::model::Model;

pub(super) fn ui(ui: &mut Ui, model: &Model, wish: &mut Wish) {
    ui.horizontal_wrapped(|ui| {
        methods(ui, wish);
        ui.label("at").on_hover_text("Bits that a layer may have, besides being kept as it is.");
        let held = held(ui, model, &wish.methods);
        for bits in BITS {
            let why_not = held.why_not(bits);
            let mut is_in = wish.bits.contains(&bits) && why_not.is_none();
            let tip = format!("Whether {bits} bits are a candidate, for the layers in which the target holds them.");
            let button = Button::selectable(is_in, bits.to_string());
            let button = ui.add_enabled(why_not.is_none(), button).on_hover_text(tip);
            if button.on_disabled_hover_text(why_not.unwrap_or_default()).clicked() {
                is_in = !is_in;
                wish.bits.retain(|other| *other != bits);
                wish.bits.extend(is_in.then_some(bits));
                wish.bits.sort_unstable();
            }
        }
    });
    others(ui, model, wish);
}

/// Which bits the target holds of the quantisers, worked out where one of the two changes.
fn held(ui: &Ui, model: &Model, methods: &[String]) -> Arc<HeldBits> {
    let path = model.checkpoint.path();
    let id = Id::unique(("held candidates", path, model.target.about().id, methods));
    let known = ui.data(|data| data.get_temp::<Arc<HeldBits>>(id));
    let held = known.unwrap_or_else(|| Arc::new(HeldBits::by(model, methods, BITS)));
    ui.data_mut(|data| data.insert_temp(id, held.clone()));
    held
}

/// The quantisers, any number of them.
fn methods(ui: &mut Ui, wish: &mut Wish) {
    let titles: Vec<&str> = quantisers_of_bits()
        .filter(|of| wish.methods.iter().any(|id| id == of.id))
        .map(|of| of.title)
        .collect();
    let title = match titles.as_slice() {
        [] => "no method".to_owned(),
        [one] => (*one).to_owned(),
        several => format!("{} methods", several.len()),
    };
    ui.label("Candidates");
    let menu = ui.menu_button(format!("{title} ▼"), |ui| {
        for of in quantisers_of_bits() {
            let mut is_in = wish.methods.iter().any(|id| id == of.id);
            if ui.checkbox(&mut is_in, of.title).on_hover_text(of.summary).changed() {
                wish.methods.retain(|id| id != of.id);
                wish.methods.extend(is_in.then(|| of.id.to_owned()));
            }
        }
    });
    menu.response.on_hover_text(format!(
        "The quantisers that make the candidates, each at every number of bits it has: {}. Those that need a calibration are left out without one.",
        if titles.is_empty() { "none".to_owned() } else { titles.join(", ") }
    ));
}

/// Assignments with other parameters, sparsity or rank: that of the inspected layer can be added, and those of the
/// starting points.
fn others(ui: &mut Ui, model: &Model, wish: &mut Wish) {
    let inspected = model.selection.cursor().filter(|&layer| model.is_matrix(layer));
    let inspected = inspected
        .map(|layer| Assignment { locked: false, ..Assignment::clone(&model.assignment(layer)) });
    ui.horizontal_wrapped(|ui| {
        let mut gone = None;
        for (at, other) in wish.others.iter().enumerate() {
            let button = ui.button(format!("{} ×", other.label()));
            if button.on_hover_text("Take it from the candidates.").clicked() {
                gone = Some(at);
            }
        }
        if let Some(gone) = gone {
            wish.others.remove(gone);
        }
        if let Some(new) = inspected.filter(|of| wish.is_new(of)) {
            let button = ui.button(format!("Add {}", new.label()));
            let tip = "Makes the assignment of the layer in the inspector a candidate for every layer: any method with any parameters, sparsity, rank or correction.";
            if button.on_hover_text(tip).clicked() {
                wish.others.push(new);
            }
        }
        let button = ui.button("Add starting points");
        let tip = "Makes every assignment of the starting points (Edit > Start from) a candidate, so that those plans have their place on the curve.";
        if button.on_hover_text(tip).clicked() {
            for new in starting_assignments(&model.checkpoint, model.history.current().aim()) {
                if wish.is_new(&new) {
                    wish.others.push(new);
                }
            }
        }
    });
}
