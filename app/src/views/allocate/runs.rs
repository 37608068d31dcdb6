//! Predictions held against measured runs: where damages add up, they lie on a line.

use egui::Ui;

use super::frontier::damage_axis;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::plot::{Options, plot};

const HEIGHT: f32 = 170.0;
/// Below this share of explained variance the sum of the scores is a poor guide.
const POOR: f64 = 0.9;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.allocation;
    let Some(ready) = &state.ready else { return };
    let against = &state.against;
    let runs = if against.runs.len() == 1 { "run" } else { "runs" };
    let title = format!("Predicted against measured: {} {runs}", against.runs.len());
    let header = egui::CollapsingHeader::new(title).id_salt("predicted").show(ui, |ui| {
        if against.runs.is_empty() {
            ui.weak("Evaluate plans that the slider makes (Ctrl+R): each run of a plan whose assignments were scored becomes a point here.");
        } else {
            let figure = figure(context, damage_axis(ready));
            let options = Options { height: HEIGHT, ..Options::default() };
            context.answer(plot(ui, context.tokens, "predicted against measured", &figure, options));
            verdict(context, ui);
        }
        if against.left_out > 0 {
            ui.weak(format!(
                "{} other runs are left out: another text, or assignments that were not scored.",
                against.left_out
            ));
        }
    });
    header.header_response.on_hover_text("Every run of a plan that the scores can foresee: what they predict, and the KL divergence that was measured, with its 95 % interval.");
}

fn figure(context: &ViewContext<'_>, x: Axis) -> Figure {
    let against = &context.document.allocation.against;
    let mut series = Vec::new();
    for run in &against.runs {
        let (x, y) = (run.predicted.damage, run.kl.value);
        let margin = if run.kl.error.is_nan() { 0.0 } else { run.kl.margin() };
        let ends = vec![[x, y - margin], [x, y + margin]];
        series.push(Series::new("runs", Ink::Data(0), Kind::Line, ends));
        series.push(Series::new("runs", Ink::Data(0), Kind::Points, vec![[x, y]]));
    }
    if let Some(line) = against.line {
        let xs = || against.runs.iter().map(|run| run.predicted.damage);
        let ends = [xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max)];
        let points = ends.map(|x| [x, line.intercept + line.slope * x]).to_vec();
        series.push(Series::new("line of least squares", Ink::Fit, Kind::Dashed, points));
    }
    Figure {
        title: format!("Predicted against measured damage on {}", against.text),
        x,
        y: Axis::new("measured KL").in_unit("nats").or_log(Scale::Linear),
        series,
    }
}

fn verdict(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(line) = context.document.allocation.against.line else {
        ui.weak("A line takes three runs of different plans.");
        return;
    };
    let sentence = format!(
        "measured ≈ {} + {} · predicted, R² = {}",
        text::value(line.intercept),
        text::value(line.slope),
        text::value(line.r_squared)
    );
    ui.monospace(sentence).on_hover_text("Least squares over the runs. R² is the share of the variance of what was measured that the predictions explain.");
    if line.r_squared < POOR {
        ui.colored_label(
            context.tokens.warning,
            "The damages of layers do not add up here: measure plans before trusting their order.",
        );
    }
}
