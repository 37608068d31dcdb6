//! A sign that something is at work, drawn four times a second: a spinner at every frame would take a core away from
//! the very work it stands for where there is no graphics card.

use std::time::Duration;

use egui::{Sense, Ui, WidgetInfo, pos2, vec2};

const STEP: Duration = Duration::from_millis(250);
const DOTS: usize = 3;

/// Three dots, one of them strong, the next a quarter of a second later.
pub fn busy(ui: &mut Ui) {
    let (rect, response) = ui.allocate_exact_size(vec2(22.0, 14.0), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(egui::Role::ProgressIndicator, true, "at work"));
    let time = ui.input(|input| input.time);
    let strong = (time / STEP.as_secs_f64()) as usize % DOTS;
    for dot in 0..DOTS {
        let x = rect.left() + 4.0 + 7.0 * dot as f32;
        let colour = ui.visuals().text_color();
        let colour = if dot == strong { colour } else { colour.gamma_multiply(0.35) };
        ui.painter().circle_filled(pos2(x, rect.center().y), 2.5, colour);
    }
    ui.ctx().request_repaint_after(STEP);
}
