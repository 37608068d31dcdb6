//! What can be done to a layer by a click with the right button, in the list as on the map.

use egui::Ui;
use lapidary_engine::target;

use crate::commands::{Command, Grow};
use crate::document::brush::Brush;
use crate::document::model::{Model, Pane};
use crate::document::selection::How;
use crate::views::{BITS, ViewContext};

impl ViewContext<'_> {
    /// The menu of a layer. A layer that is not selected is selected first, so that the menu is for what is marked.
    pub(super) fn layer_menu(&self, ui: &mut Ui, model: &Model, layer: usize, pane: Pane) {
        if !model.selection.has(layer) {
            self.send(Command::Click(layer, How::Replace, pane));
        }
        ui.set_min_width(200.0);
        self.bits_row(ui, model, layer);
        let is_matrix = model.is_matrix(layer);
        let item = |ui: &mut Ui, enabled: bool, (title, keys): (&str, &str), command: Command| {
            let button = egui::Button::new(title).shortcut_text(keys);
            if ui.add_enabled(enabled, button).clicked() {
                self.send(command);
                ui.close();
            }
        };
        item(ui, is_matrix, ("Keep", "0"), Command::Keep);
        item(ui, is_matrix, ("Lock or unlock", "L"), Command::ToggleLock);
        item(ui, is_matrix, ("Leave to the rules", ""), Command::Forget);
        ui.separator();
        item(ui, is_matrix, ("Copy assignment", "C"), Command::CopyAssignment);
        let can_paste = self.document.copied.is_some();
        item(ui, can_paste, ("Paste assignment", "V"), Command::PasteAssignment);
        let brush = Brush::Assignment(model.assignment(layer));
        item(ui, is_matrix, ("Paint with this assignment", ""), Command::SetBrush(Some(brush)));
        ui.separator();
        item(ui, true, ("Select the same role", "R"), Command::Grow(Grow::Role));
        item(ui, true, ("Select the same block", "B"), Command::Grow(Grow::Block));
        item(ui, true, ("Select the fused group", "G"), Command::Grow(Grow::Fused));
        item(ui, true, ("Invert the selection", "I"), Command::Invert);
    }

    /// Bits as a row of buttons; those the target does not hold are grey and say why.
    fn bits_row(&self, ui: &mut Ui, model: &Model, layer: usize) {
        let tensor = &model.checkpoint.tensors()[layer];
        let now = model.assignment(layer);
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = 2.0;
            for bits in BITS {
                let wanted = now.with_bits(bits);
                let held = target::held_at_same_bits(tensor, &wanted, model.target);
                let why_not = match held {
                    Some(_) => None,
                    None => target::refusal(tensor, &wanted, model.target),
                };
                let button = egui::Button::new(bits.to_string()).min_size(egui::vec2(22.0, 0.0));
                let response = ui.add_enabled(why_not.is_none(), button);
                if response.clicked() {
                    self.send(Command::SetBits(bits));
                    ui.close();
                }
                if let Some(why_not) = why_not {
                    response.on_disabled_hover_text(why_not);
                }
            }
            ui.weak("bits");
        });
    }
}
