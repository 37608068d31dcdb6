//! What every form that needs no data can hold of a layer, or of values whose bounds are known.

use egui::{ComboBox, Grid, ProgressBar, Ui};
use lapidary_engine::job::{self, Held, Source};
use lapidary_engine::method::METHODS;
use lapidary_engine::plan::Assignment;

use crate::commands::Command;
use crate::document::capacity::{Choice, Found, Values};
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, note};

/// Room for every method, in points.
const POPUP_HEIGHT: f32 = 360.0;
/// Bits beyond which forms are as good as the weights themselves.
const MOST_BITS: f64 = 9.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    choice(context, ui, model);
    let values = model.look.capacity.values(layer);
    if matches!(values, Values::Layer(_)) && !model.is_matrix(layer) {
        let tensor = &model.checkpoint.tensors()[layer];
        ui.weak(format!("No forms: {}.", tensor.why_no_matrix()));
        return;
    }
    let Some(found) = model.look.capacity.found(values) else {
        parts::waiting(context, ui, "Reading…");
        return;
    };
    if let Some(sentence) = &found.failure {
        ui.colored_label(context.tokens.error, sentence);
        return;
    }
    let figure = figure(model, values, found);
    parts::plot_of_layers(context, ui, "capacity", &figure, PLOT_HEIGHT * 1.25);
    parts::swatches(context, ui, figure.series.iter());
    if found.is_complete() {
        let text = format!("{} forms hold {}", found.held.len(), title(model, values));
        note(context, ui, text).on_hover_text("Every quantiser that needs the weights alone, at all its bits, groups and choices, on 2^18 values or rows spread evenly over the layer. Bits count codes, scales and tables; the distortion is Σ(w−ŵ)²/Σw².");
    } else {
        let share = found.tried as f32 / found.of.max(1) as f32;
        let text = format!("{} of {} forms tried", found.tried, found.of);
        ui.add(ProgressBar::new(share).text(text).desired_height(14.0));
    }
    front(context, ui, (values, found));
}

/// What is held, and which method stands out.
fn choice(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let capacity = &model.look.capacity;
    ui.horizontal_wrapped(|ui| {
        let choices = [
            (Choice::Layer, "this layer", "Rows spread evenly over the layer in the inspector."),
            (
                Choice::Source(Source::Normal),
                "normal",
                "Independent normal values: no code of b bits leaves less than 2^(−2b), Shannon's bound.",
            ),
            (
                Choice::Source(Source::Laplace),
                "Laplace",
                "Independent Laplace values, with longer tails: no code of b bits leaves less than e/π·2^(−2b).",
            ),
        ];
        for (choice, title, help) in choices {
            let label = ui.selectable_label(capacity.choice == choice, title);
            if label.on_hover_text(help).clicked() {
                context.send(Command::Hold(choice));
            }
        }
        let titled = |id: &str| METHODS.iter().map(|m| m.about()).find(|about| about.id == id);
        let shown = capacity.highlighted.and_then(titled).map_or("no method", |about| about.title);
        let choice = ComboBox::from_id_salt("capacity-method").height(POPUP_HEIGHT);
        choice.selected_text(shown).show_ui(ui, |ui| {
            if ui.selectable_label(capacity.highlighted.is_none(), "no method").clicked() {
                context.send(Command::Highlight(None));
            }
            for about in job::holders() {
                let is_it = capacity.highlighted == Some(about.id);
                if ui.selectable_label(is_it, about.title).clicked() {
                    context.send(Command::Highlight(Some(about.id)));
                }
            }
        }).response.on_hover_text("The method whose forms stand out in the plot.");
    });
}

fn title(model: &Model, values: Values) -> String {
    match values {
        Values::Layer(layer) => model.short_name(layer).clone(),
        Values::Source(source) => source.title().to_owned(),
    }
}

fn figure(model: &Model, values: Values, found: &Found) -> Figure {
    let shown = || found.held.iter().filter(|held| held.bits <= MOST_BITS && held.distortion > 0.0);
    let point = |held: &Held| [held.bits, held.distortion];
    let points = |is_it: &dyn Fn(&Held) -> bool| -> Vec<[f64; 2]> {
        shown().filter(|held| is_it(held)).map(point).collect()
    };
    let mut series =
        vec![Series::new("all forms", Ink::OtherFit, Kind::Points, points(&|held| !held.is_best))];
    let highlighted = METHODS
        .iter()
        .map(|method| method.about())
        .find(|about| Some(about.id) == model.look.capacity.highlighted);
    if let Some(about) = highlighted {
        let own = points(&|held| held.steps.iter().any(|step| step.method == about.id));
        series.push(Series::new(about.title, Ink::Data(1), Kind::Points, own));
    }
    let best = points(&|held| held.is_best);
    series.push(Series::new("Pareto front", Ink::Data(0), Kind::Line, stairs(&best)));
    series.push(Series::new("forms on it", Ink::Data(0), Kind::Points, best));
    let within = |&&[bits, _]: &&[f64; 2]| bits <= MOST_BITS;
    let coded = found.entropy_coded.iter().filter(within).copied().collect();
    series.push(Series::new("entropy-coded scalars", Ink::Data(2), Kind::Line, coded));
    let bound = |i: u32| {
        let bits = 1.0 + (MOST_BITS - 1.0) * f64::from(i) / 64.0;
        [bits, values.source().bound(bits)]
    };
    let name = match values {
        Values::Layer(_) => "Shannon's bound, were the weights normal",
        Values::Source(_) => "Shannon's bound",
    };
    series.push(Series::new(name, Ink::Fit, Kind::Dashed, (0..=64).map(bound).collect()));
    Figure {
        title: format!("Capacity of forms on {}", title(model, values)),
        x: Axis::new("effective bits").in_unit("bits/weight"),
        y: Axis::new("distortion").or_log(Scale::Log),
        series,
    }
}

/// The least distortion in no more bits: a stair through points by bits.
fn stairs(best: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let corners = best.windows(2).map(|pair| [pair[1][0], pair[0][1]]);
    best.iter()
        .copied()
        .zip(corners.map(Some).chain([None]))
        .flat_map(|(at, corner)| [Some(at), corner])
        .flatten()
        .collect()
}

/// The forms of least distortion for their bits, of equal bits as they are written the last; each can be taken.
fn front(context: &ViewContext<'_>, ui: &mut Ui, (values, found): (Values, &Found)) {
    let grid = Grid::new("front").num_columns(4).striped(true).min_col_width(0.0);
    let number = |ui: &mut Ui, text: String, help: &str| {
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            ui.monospace(text).on_hover_text(help);
        });
    };
    ui.add_space(4.0);
    grid.spacing([8.0, 2.0]).show(ui, |ui| {
        for title in ["bits", "distortion", "× bound", "form of least distortion"] {
            note(context, ui, title);
        }
        ui.end_row();
        let best = found.held.iter().filter(|held| held.is_best && held.bits <= MOST_BITS);
        let mut best = best.map(|held| (format!("{:.3}", held.bits), held)).peekable();
        while let Some((bits, held)) = best.next() {
            if best.peek().is_some_and(|(next, _)| *next == bits) {
                continue;
            }
            let bound = values.source().bound(held.bits);
            number(ui, bits, "Bits a weight of everything stored.");
            number(ui, text::value(held.distortion), "Σ(w−ŵ)²/Σw².");
            let times = format!("{:.2}", held.distortion / bound);
            number(ui, times, "Distortion over Shannon's bound at these bits.");
            // While others come, rows move under the pointer.
            let form = egui::Button::new(&held.label).frame(false).truncate();
            let form = ui.add_enabled(found.is_complete(), form);
            if form
                .on_hover_text(format!("{} – click to give it to the selected layers.", held.label))
                .clicked()
            {
                context.send(Command::Assign(Assignment::of(held.steps.clone())));
            }
            ui.end_row();
        }
    });
}
