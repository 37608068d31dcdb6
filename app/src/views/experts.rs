//! Expert coverage: blocks × experts of a mixture, coloured by the share of tokens that were routed there.

use std::collections::BTreeMap;

use egui::{
    Align2, FontId, Key, Rect, RichText, ScrollArea, Sense, Stroke, StrokeKind, Ui, Window, pos2,
    vec2,
};

use crate::commands::Command;
use crate::document::Sheet;
use crate::document::calibrations::{DEMANDS, Expert};
use crate::document::model::Model;
use crate::theme::{sequential, text};
use crate::views::ViewContext;

/// Points of a cell.
const CELL: egui::Vec2 = vec2(18.0, 16.0);
/// Points of the names of blocks.
const MARGIN: f32 = 56.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let (Some(Sheet::Experts), Some(model)) = (context.document.sheet, &context.document.model)
    else {
        return;
    };
    let mut open = true;
    let centre = ui.ctx().content_rect().center();
    let window = Window::new("Expert coverage").open(&mut open).collapsible(false);
    window.pivot(Align2::CENTER_CENTER).default_pos(centre).default_width(560.0).show(
        ui.ctx(),
        |ui| {
            let experts = model.calibrations.experts(model);
            if experts.is_empty() {
                ui.label(
                    "How many tokens go to each expert is known after a calibration with text.",
                );
                let button = ui.button("Calibrate…");
                if button.on_hover_text("Choose the text.").clicked() {
                    context.send(Command::ToggleSheet(Sheet::Calibrate));
                }
                return;
            }
            summary(context, ui, &experts);
            ScrollArea::both().max_height(420.0).show(ui, |ui| grid(context, ui, model, &experts));
        },
    );
    if !open || ui.input(|input| input.key_pressed(Key::Escape)) {
        context.send(Command::ToggleSheet(Sheet::Experts));
    }
}

fn is_few(expert: &Expert) -> bool {
    expert.tokens < DEMANDS.least_tokens
}

fn summary(context: &ViewContext<'_>, ui: &mut Ui, experts: &[Expert]) {
    let few = experts.iter().filter(|expert| is_few(expert)).count();
    let none = experts.iter().filter(|expert| expert.tokens == 0).count();
    ui.label(format!(
        "{} experts, the fewest tokens {}",
        text::count(experts.len() as u64),
        text::count(experts.iter().map(|of| of.tokens).min().unwrap_or(0))
    ));
    if few > 0 {
        let least = text::count(DEMANDS.least_tokens);
        ui.label(RichText::new(format!("⚠ {few} received fewer than {least} tokens, {none} none: what is measured of them is mostly chance")).color(context.tokens.warning))
            .on_hover_text("Calibrate with more text, or keep more bits for these experts.");
    }
    ui.weak("Rows are blocks, columns experts. Colour: share of the router's tokens. Outlined: few tokens. Struck through: taken out (click an expert, then Shift+Del).");
}

fn grid(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, experts: &[Expert]) {
    let mut blocks: BTreeMap<u32, Vec<&Expert>> = BTreeMap::new();
    for expert in experts {
        blocks.entry(expert.block).or_default().push(expert);
    }
    let columns = experts.iter().map(|expert| expert.expert + 1).max().unwrap_or(0);
    let most = experts.iter().map(|expert| expert.share).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let size = vec2(MARGIN + columns as f32 * CELL.x, blocks.len() as f32 * CELL.y);
    let (area, response) = ui.allocate_exact_size(size, Sense::click());
    let painter = ui.painter_at(area);
    let pointer = response.hover_pos();
    let mut pointed = None;
    for (row, (block, experts)) in blocks.iter().enumerate() {
        let y = area.top() + row as f32 * CELL.y;
        let at = pos2(area.left(), y + CELL.y / 2.0);
        let font = FontId::monospace(10.0);
        painter.text(at, Align2::LEFT_CENTER, format!("block {block}"), font, context.tokens.weak);
        for expert in experts {
            let x = area.left() + MARGIN + expert.expert as f32 * CELL.x;
            let cell = Rect::from_min_size(pos2(x, y), CELL - vec2(1.0, 1.0));
            painter.rect_filled(cell, 2.0, sequential((expert.share / most) as f32));
            if is_few(expert) {
                let stroke = Stroke::new(1.5, context.tokens.warning);
                painter.rect_stroke(cell, 2.0, stroke, StrokeKind::Inside);
            }
            if model.is_removed(expert.layer) {
                let stroke = Stroke::new(2.0, context.tokens.selected);
                painter.line_segment([cell.left_bottom(), cell.right_top()], stroke);
            }
            if pointer.is_some_and(|pointer| cell.contains(pointer)) {
                pointed = Some(**expert);
            }
        }
    }
    let Some(expert) = pointed else { return };
    if response.clicked() {
        context.send(Command::Select(vec![expert.layer]));
    }
    response.on_hover_ui_at_pointer(|ui| {
        ui.strong(format!("block {}, expert {}", expert.block, expert.expert));
        ui.monospace(format!("{} tokens", text::count(expert.tokens)));
        ui.monospace(format!("{} of the router's", text::percent(expert.share)));
        ui.weak(&model.checkpoint.tensors()[expert.layer].name);
    });
}
