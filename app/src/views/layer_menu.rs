//! What can be done to a layer by a click with the right button, in the list as on the map.

use egui::Ui;
use lapidary_engine::target;

use crate::commands::removal::Parts;
use crate::commands::{Command, Grow};
use crate::document::brush::Brush;
use crate::document::model::{Model, Pane};
use crate::document::selection::How;
use crate::views::{BITS, ViewContext};

const BLOCK_TIP: &str = "The export is written without the block: the residual stream goes past it, and the blocks behind it are renumbered. Blocks that turn the stream least are missed least (evaluate with blocks, column influence). Undo brings it back.";
const EXPERT_TIP: &str = "The export is written without the expert: its row leaves the router, which chooses among the others. config.json has one number of experts for all blocks, so every block must lose as many.";

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
        self.removal_items(ui, model, layer);
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

    /// Taking out the block of a layer, or its expert; what is out already is put back.
    fn removal_items(&self, ui: &mut Ui, model: &Model, layer: usize) {
        let found = model.checkpoint.parts_of([layer]).into_iter().flatten().next();
        let Some((block, expert)) = found else { return };
        ui.separator();
        let removal = model.plan().removal();
        let mut item = |(title, keys, tip): (String, &str, &str), parts: Parts| {
            let button = egui::Button::new(title).shortcut_text(keys);
            if ui.add(button).on_hover_text(tip).clicked() {
                self.send(Command::ToggleRemoval(parts));
                ui.close();
            }
        };
        let several = model.selection.layers().count() > 1;
        let title = match (removal.has_block(block), several) {
            (true, _) => format!("Put block {block} back"),
            (false, false) => format!("Take out block {block}"),
            (false, true) => "Take out the selected blocks".to_owned(),
        };
        item((title, "Del", BLOCK_TIP), Parts::Blocks);
        if let Some(expert) = expert {
            let title = match (removal.has_expert(block, expert), several) {
                (true, _) => format!("Put expert {expert} back"),
                (false, false) => format!("Take out expert {expert}"),
                (false, true) => "Take out the selected experts".to_owned(),
            };
            item((title, "Shift+Del", EXPERT_TIP), Parts::Experts);
        }
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
