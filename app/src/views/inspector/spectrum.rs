//! The singular values of a layer on a logarithmic axis, with the ranks read off them.

use egui::Ui;
use egui_plot::{GridInput, GridMark, Legend, Line, Plot, VLine};
use lapidary_engine::statistics::Spectrum;

use crate::document::model::Model;
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::weights::{few_marks, short, table_of_numbers};

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let tensor = &model.checkpoint.tensors()[layer];
    let Some(matrix) = tensor.matrix else {
        ui.weak(format!("No singular values: {}.", tensor.why_no_matrix()));
        return;
    };
    match model.spectrum_state(layer) {
        None => {
            ui.horizontal(|ui| {
                ui.spinner();
                ui.label(format!("Computing the singular values of a {} matrix…", matrix.shape));
            });
        }
        Some(Err(sentence)) => {
            ui.colored_label(context.tokens.error, sentence);
        }
        Some(Ok(spectrum)) => {
            plot(context, ui, spectrum, layer);
            let (rows, cols) = (matrix.shape.rows, matrix.shape.cols);
            numbers(context, ui, spectrum, (rows * cols).checked_div(rows + cols).unwrap_or(0));
        }
    }
}

fn plot(context: &ViewContext<'_>, ui: &mut Ui, spectrum: &Spectrum, layer: usize) {
    let largest = spectrum.singular_values.first().copied().unwrap_or(0.0);
    // Values at rounding level would stretch the axis by ten decades and say nothing.
    let floor = largest * 1e-8;
    let points = spectrum.singular_values.iter().enumerate().filter(|(_, s)| **s > floor);
    let points: Vec<[f64; 2]> = points.map(|(i, s)| [(i + 1) as f64, s.log10()]).collect();
    let line = Line::new("σ", points).color(context.tokens.data).width(2.0);
    let stable = VLine::new("stable rank", spectrum.stable_rank).color(context.tokens.mark_other);
    let effective =
        VLine::new("effective rank", spectrum.effective_rank).color(context.tokens.mark);
    Plot::new(("spectrum", layer))
        .height(PLOT_HEIGHT)
        .allow_scroll(false)
        .legend(Legend::default())
        .x_axis_label("index i")
        .y_axis_label("σ (log)")
        .y_grid_spacer(decade_marks)
        .y_axis_formatter(|mark, _| short(10_f64.powf(mark.value)))
        .x_grid_spacer(few_marks)
        .grid_color(context.tokens.weak.gamma_multiply(0.35))
        .show(ui, |plot| {
            plot.line(line);
            plot.vline(stable);
            plot.vline(effective);
        });
}

/// Marks at 1, 2 and 5 of every decade of a logarithmic axis, or at decades only where there are many.
fn decade_marks(input: GridInput) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    if !(low.is_finite() && high.is_finite()) {
        return Vec::new();
    }
    let steps: &[f64] = if high - low > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = (low.floor() as i32)..=(high.ceil() as i32).min(low.floor() as i32 + 40);
    let mark = |decade: i32, step: f64| GridMark {
        value: f64::from(decade) + step.log10(),
        step_size: 1.0,
    };
    decades
        .flat_map(|decade| steps.iter().map(move |&step| mark(decade, step)))
        .filter(|mark| (low..=high).contains(&mark.value))
        .collect()
}

fn numbers(context: &ViewContext<'_>, ui: &mut Ui, spectrum: &Spectrum, break_even: usize) {
    let full = spectrum.singular_values.len();
    let entries: [(&str, String, &str); 6] = [
        (
            "largest σ",
            text::value(spectrum.singular_values.first().copied().unwrap_or(0.0)),
            "Largest singular value: the most the layer stretches any input.",
        ),
        (
            "stable rank",
            text::value(spectrum.stable_rank),
            "‖W‖_F²/σ₁². Small: one direction dominates.",
        ),
        (
            "effective rank",
            text::value(spectrum.effective_rank),
            "exp(entropy of σ/Σσ) (Roy & Vetterli 2007). Near the full rank the spectrum is flat and low rank costs much.",
        ),
        (
            "rank for 90 %",
            text::count(spectrum.rank_for_energy(0.9) as u64),
            "Directions that hold 90 % of Σσ².",
        ),
        (
            "rank for 99 %",
            text::count(spectrum.rank_for_energy(0.99) as u64),
            "Directions that hold 99 % of Σσ².",
        ),
        (
            "break-even rank",
            text::count(break_even as u64),
            "rows·cols/(rows+cols): two factors of a higher rank take more bytes than the layer itself.",
        ),
    ];
    table_of_numbers(context, ui, &entries);
    ui.weak(format!("full rank {full}; every σ computed in double precision"));
}
