//! What a layer receives when text runs through the model: channels, outliers among them, spectra, how it settled.

use std::sync::Arc;

use egui::{Button, Id, RichText, Ui};
use lapidary_engine::calibration::Record;

use crate::commands::Command;
use crate::document::calibrations::{Ask, Loaded, Through};
use crate::document::model::Model;
use crate::document::{Sheet, Slot};
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{PLOT_HEIGHT, text};
use crate::views::ViewContext;
use crate::views::inspector::parts::{self, note};

const HEIGHT: f32 = 150.0;
/// Outlier channels and problems that are written out.
const LISTED: usize = 6;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, layer: usize) {
    let Some(loaded) = &model.calibrations.loaded else {
        return empty(context, ui, model);
    };
    note(context, ui, Loaded::title(&loaded.folder));
    let Some(record) = model.record(layer) else {
        ui.weak("This tensor receives no input that was measured: it is no linear layer of the network.");
        return;
    };
    problems(context, ui, loaded, record);
    numbers(context, ui, record);
    let through = model.calibrations.through.as_ref().filter(|(of, _)| *of == layer);
    let through = through.map(|(_, through)| through);
    ui.separator();
    channels(context, ui, model, (layer, record, through));
    let Some(through) = through else {
        parts::waiting(context, ui, "Reading the weights…");
        return;
    };
    outliers(context, ui, record, through);
    ui.separator();
    spectra(context, ui, model, (layer, loaded, through));
    convergence(context, ui, model, (layer, record));
}

fn empty(context: &ViewContext<'_>, ui: &mut Ui, model: &Model) {
    let calibrations = &model.calibrations;
    ui.add_space(8.0);
    if let Slot::Running { progress, .. } = &calibrations.run {
        let done = progress.as_ref().map_or_else(String::new, |progress| {
            format!(" {} of {}", progress.item, text::amount(progress.total, progress.unit))
        });
        parts::waiting(context, ui, &format!("Calibrating…{done}"));
        if ui.button("Cancel").on_hover_text("Finished blocks are kept.").clicked() {
            context.send(Command::Calibration(Ask::Cancel));
        }
        return;
    }
    ui.label("Weights alone do not say which of them matter. Run some text through the model, and this shows what the layer receives: channels far larger than the rest, and the spectrum of the weights as the inputs see them.");
    ui.add_space(4.0);
    let reason = match &calibrations.ability {
        Some(Err(sentence)) => sentence.as_str(),
        _ => "",
    };
    let button = ui.add_enabled(reason.is_empty(), Button::new("Calibrate…"));
    if button.on_hover_text("Choose the text.").on_disabled_hover_text(reason).clicked() {
        context.send(Command::ToggleSheet(Sheet::Calibrate));
    }
    if !reason.is_empty() {
        ui.label(RichText::new(reason).color(context.tokens.warning));
    }
}

fn problems(context: &ViewContext<'_>, ui: &mut Ui, loaded: &Loaded, record: &Record) {
    let of_record = |name: &str| record.layers.iter().any(|layer| layer == name);
    for problem in loaded.problems.iter().filter(|problem| of_record(problem.layer())).take(LISTED)
    {
        let sentence = format!("⚠ {}", problem.sentence());
        ui.label(RichText::new(sentence).color(context.tokens.warning));
    }
}

fn or_dash(value: f64, format: fn(f64) -> String) -> String {
    if value.is_finite() { format(value) } else { "–".to_owned() }
}

fn numbers(context: &ViewContext<'_>, ui: &mut Ui, record: &Record) {
    let (inputs, whole) = (&record.inputs, &record.inputs.whole);
    let is_imported = inputs.absmax.is_empty();
    let share = |share: f64| if is_imported { "–".to_owned() } else { text::percent(share) };
    let settled = inputs.change_after(0.5);
    let routed = record.routed_share();
    let mut entries: Vec<(&str, String, &str)> = vec![
        (
            "tokens seen",
            text::count(inputs.tokens),
            "Tokens of the calibration that reached this layer.",
        ),
        (
            "channels",
            text::count(inputs.channels() as u64),
            "Inputs of the layer: the columns of its matrix.",
        ),
        ("input rms", or_dash(whole.rms, text::value), "√E[x²] over all channels and tokens."),
        (
            "input abs max",
            or_dash(f64::from(whole.absmax), text::value),
            "Largest |x|: what one scale for all of it must span.",
        ),
        (
            "input kurtosis",
            or_dash(whole.kurtosis, text::value),
            "Excess kurtosis over all channels and tokens: 0 for a normal distribution; high where few values stand out.",
        ),
        (
            "outlier share",
            share(whole.outlier_share()),
            "Share of the values larger than 6 times the rms.",
        ),
        (
            "massive share",
            share(whole.massive_share()),
            "Share of the values larger than 100 and than 1,000 medians (Sun et al. 2024): a few tokens, often the first, at few channels.",
        ),
        (
            "still moving",
            settled.map_or_else(|| "–".to_owned(), text::percent),
            "Relative change of E[x²] from half of the tokens to all: below 10 % there was enough text.",
        ),
    ];
    if let Some(routed) = routed {
        entries.push(("routed here", text::percent(routed), "Share of the tokens its router saw."));
    }
    parts::numbers(context, ui, &entries);
    let others = record.layers.len().saturating_sub(1);
    if others > 0 {
        note(context, ui, format!("the same input goes to {others} more layers"))
            .on_hover_text(record.layers.join("\n"));
    }
}

/// What is shown of each channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    AbsMax,
    Rms,
    Importance,
}

impl Number {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::AbsMax, "abs max", "Largest |x| of each channel over all tokens."),
        (Self::Rms, "rms", "√E[x²] of each channel."),
        (
            Self::Importance,
            "importance",
            "Σ|w|·√E[x²] of each channel: weight times activation, as Wanda ranks weights (Sun et al. 2024).",
        ),
    ];

    fn of(self, record: &Record, through: Option<&Through>) -> Option<Vec<f64>> {
        match self {
            Self::AbsMax => Some(record.inputs.absmax.iter().map(|&x| f64::from(x)).collect()),
            Self::Rms => Some(record.inputs.rms()),
            Self::Importance => Some(through?.importance.as_ref()?.as_ref().ok()?.to_vec()),
        }
    }
}

fn channels(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, record, through): (usize, &Record, Option<&Through>),
) {
    let id = Id::unique("activation channels");
    let kept = ui.data(|data| data.get_temp::<(Number, bool)>(id));
    let (mut number, mut is_sorted) = kept.unwrap_or((Number::AbsMax, false));
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 3.0;
        ui.strong("Channels").on_hover_text("One number for each input. Few far above the rest are outlier channels: one scale for all of them leaves the others no levels.");
        for (choice, title, help) in Number::ALL {
            ui.selectable_value(&mut number, choice, title).on_hover_text(help);
        }
        ui.checkbox(&mut is_sorted, "sorted").on_hover_text("From the largest to the smallest, rather than in order.");
    });
    ui.data_mut(|data| data.insert_temp(id, (number, is_sorted)));
    let (_, title, _) = Number::ALL[number as usize];
    let Some(mut values) = number.of(record, through) else {
        parts::waiting(context, ui, "Reading the weights…");
        return;
    };
    if values.is_empty() {
        ui.weak("An imported importance matrix has mean squares alone: no largest values.");
        return;
    }
    if is_sorted {
        values.sort_by(|a, b| b.total_cmp(a));
    }
    let points = values.iter().enumerate().map(|(i, &value)| [i as f64, value]).collect();
    let figure = Figure {
        title: format!("Input {title} by channel of {}", model.short_name(layer)),
        x: Axis::new(if is_sorted { "channel, sorted" } else { "channel" }),
        y: Axis::new(title).or_log(Scale::Linear),
        series: vec![Series::new(title, Ink::Data(0), Kind::Line, points)],
    };
    parts::plot(context, ui, "activation channels", &figure, HEIGHT);
}

fn outliers(context: &ViewContext<'_>, ui: &mut Ui, record: &Record, through: &Through) {
    if record.inputs.absmax.is_empty() {
        return;
    }
    let found = &through.outliers;
    if found.is_empty() {
        note(context, ui, "no channel stands out").on_hover_text("None is more than 6 robust standard deviations above the median of all channels and 3 times that median, in its largest value or its rms.");
        return;
    }
    let n = found.len();
    let channels =
        if n == 1 { "1 channel stands out".to_owned() } else { format!("{n} channels stand out") };
    ui.label(channels).on_hover_text("More than 6 robust standard deviations above the median of all channels and 3 times that median.");
    for outlier in found.iter().take(LISTED) {
        ui.horizontal_wrapped(|ui| {
            ui.monospace(format!("{:>6}", outlier.channel));
            note(context, ui, &outlier.why);
        });
    }
    if n > LISTED {
        note(context, ui, format!("and {} more", n - LISTED));
    }
}

/// What is drawn of the spectra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Values,
    Cumulative,
    Inputs,
}

impl View {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (
            Self::Values,
            "σ/σ₁",
            "Singular values of W and of W·H^½ over the largest of each, H = E[x·x^T]. Flat against steep: what no rank can hold by itself, a low one holds for the inputs there are.",
        ),
        (
            Self::Cumulative,
            "cumulative",
            "Share of Σσ² in the first i directions: 1 minus the squared error of rank i, of the weights and of what the layer gives.",
        ),
        (
            Self::Inputs,
            "inputs",
            "Eigenvalues of E[x·x^T] over the largest: how many directions the inputs fill.",
        ),
    ];
}

type Seen<'a> = (usize, &'a Arc<Loaded>, &'a Through);

fn spectra(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, loaded, through): Seen<'_>,
) {
    let id = Id::unique("activation spectra");
    let mut view = ui.data(|data| data.get_temp::<View>(id)).unwrap_or(View::Values);
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 3.0;
        ui.strong("Spectra").on_hover_text("The weights as they are, and as the inputs see them.");
        for (choice, title, help) in View::ALL {
            ui.selectable_value(&mut view, choice, title).on_hover_text(help);
        }
    });
    ui.data_mut(|data| data.insert_temp(id, view));
    let wanted = if view == View::Inputs { &through.eigenvalues } else { &through.whitened };
    if wanted.is_none() && through.is_done {
        let has_grams = loaded.calibration.settings.has_grams;
        ui.weak(if has_grams {
            "No Gram matrix was kept of this input."
        } else {
            "The calibration has no Gram matrices: calibrate with them kept to see this."
        });
        return;
    }
    let doing = "Weighting the spectrum by the inputs…";
    let Some(values) = parts::known(context, ui, wanted.as_ref(), doing) else { return };
    let raw = model.spectrum(layer).map(|spectrum| spectrum.singular_values.as_slice());
    let figure = spectra_figure(&model.short_name(layer), view, values, raw);
    parts::plot(context, ui, &format!("activation spectra {view:?}"), &figure, PLOT_HEIGHT);
    if view != View::Inputs {
        let rank = |values: &[f64]| text::count(rank_for(values, 0.9) as u64);
        let raw = raw.map_or_else(|| "…".to_owned(), rank);
        let entries = [
            ("90 %, weights", raw, "Directions that hold 90 % of Σσ² of W."),
            (
                "90 %, whitened",
                rank(values),
                "Directions that hold 90 % of Σσ² of W·H^½: of what the layer gives for the inputs of the calibration.",
            ),
        ];
        parts::numbers(context, ui, &entries);
    }
}

/// Directions that hold a share of Σσ².
fn rank_for(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().map(|s| s * s).sum();
    let mut sum = 0.0;
    let needed = values.iter().position(|s| {
        sum += s * s;
        sum >= share * total
    });
    needed.map_or(values.len(), |i| i + 1)
}

fn spectra_figure(name: &str, view: View, values: &[f64], raw: Option<&[f64]>) -> Figure {
    let points = |values: &[f64]| -> Vec<[f64; 2]> {
        let largest = values.first().copied().unwrap_or(1.0);
        let total: f64 = values.iter().map(|s| s * s).sum();
        let mut sum = 0.0;
        let y = |s: f64| {
            sum += s * s;
            if view == View::Cumulative { sum / total } else { s / largest }
        };
        let ys = values.iter().copied().map(y).collect::<Vec<f64>>();
        // Values at the level of rounding say nothing and would stretch the axis.
        let floor = if view == View::Cumulative { 0.0 } else { 5e-4 };
        let points = ys.into_iter().enumerate().filter(|(_, y)| *y > floor);
        points.map(|(i, y)| [(i + 1) as f64, y]).collect()
    };
    let mut series = Vec::new();
    let (_, title, _) = View::ALL[view as usize];
    if view == View::Inputs {
        series.push(Series::new("inputs", Ink::Data(0), Kind::Line, points(values)));
    } else {
        if let Some(raw) = raw {
            series.push(Series::new("weights W", Ink::Data(0), Kind::Line, points(raw)));
        }
        series.push(Series::new("whitened W·H^½", Ink::Fit, Kind::Line, points(values)));
    }
    let scale = if view == View::Cumulative { Scale::Linear } else { Scale::Log };
    Figure {
        title: format!("Spectra of {name} and its inputs"),
        x: Axis::new("index i").or_log(Scale::Linear),
        y: Axis::new(if view == View::Inputs { "λ/λ₁" } else { title }).or_log(scale),
        series,
    }
}

fn convergence(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (layer, record): (usize, &Record),
) {
    let points = record.inputs.convergence.iter().map(|at| [at.tokens as f64, at.change]);
    let points: Vec<[f64; 2]> = points.filter(|[_, change]| *change > 0.0).collect();
    if points.len() < 2 {
        return;
    }
    ui.separator();
    ui.strong("Convergence").on_hover_text("How far the mean squares after so many tokens were from those of all, ‖s−t‖/‖t‖: a line that falls steadily says that more text would change little.");
    let figure = Figure {
        title: format!("Convergence of the inputs of {}", model.short_name(layer)),
        x: Axis::new("tokens").or_log(Scale::Log),
        y: Axis::new("change of E[x²]").or_log(Scale::Log),
        series: vec![Series::new("change", Ink::Data(0), Kind::Line, points)],
    };
    parts::plot(context, ui, "convergence", &figure, HEIGHT);
}
