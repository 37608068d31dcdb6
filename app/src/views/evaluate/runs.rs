//! The runs that are kept: a table, size against damage, and what one of them says of layers and blocks.

use egui::style::ScrollStyle;
use egui::{Align, Grid, Layout, RichText, ScrollArea, Sense, Ui};
use lapidary_engine::evaluation::{Figure as Estimate, Kept};

use super::send;
use crate::commands::Command;
use crate::commands::evaluate::Evaluate;
use crate::document::evaluation::{Evaluating, Order};
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::text;
use crate::views::ViewContext;
use crate::widgets::plot::{Options, plot};

/// Characters of a label that the table shows.
const LABEL: usize = 30;
const PLOT_HEIGHT: f32 = 190.0;
/// Bytes of a megabyte, as sizes are shown.
const MEGABYTE: f64 = 1e6;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    deleted(context, ui);
    if state.runs.is_empty() {
        ui.add_space(8.0);
        ui.weak(
            "No runs of this model yet. Score the original once to have a measure, then each plan.",
        );
        return;
    }
    ScrollArea::vertical().id_salt("evaluation").auto_shrink([false, true]).show(ui, |ui| {
        // The table alone is wider than the window may be; the plot is as wide as the window.
        ui.scope(|ui| {
            // A bar that is always seen says that there is more at the right.
            ui.spacing_mut().scroll = ScrollStyle::solid();
            ScrollArea::horizontal().id_salt("runs").show(ui, |ui| table(context, ui));
        });
        ui.weak("≈: a tie, as the difference is within its 95 % interval. Click a row to hold the others against it.");
        scatter(context, ui);
        if let Some(chosen) = state.chosen() {
            layers(context, ui, chosen);
            blocks(ui, chosen);
        }
    });
}

fn deleted(context: &ViewContext<'_>, ui: &mut Ui) {
    if let Some(kept) = &context.document.evaluation.deleted {
        ui.horizontal(|ui| {
            ui.weak(format!("Deleted {}.", kept.record.label));
            if ui.button("Bring it back").clicked() {
                send(context, Evaluate::Restore);
            }
        });
    }
}

const HEADS: [(&str, Option<Order>, &str); 12] = [
    ("when", Some(Order::Time), "When the run ended, UTC."),
    ("what", Some(Order::Label), "What was run."),
    ("text", None, "The text, and how many tokens of it were scored."),
    ("size", Some(Order::Size), "Bytes of the files of weights, and effective bits per weight."),
    (
        "perplexity",
        Some(Order::Perplexity),
        "exp of the mean −ln p of a token, ± half its 95 % interval over windows.",
    ),
    ("bits/char", None, "−Σ log₂ p over characters: comparable between tokenizers."),
    ("Δ original", None, "Nats per token beyond the original's on the same windows."),
    ("Δ chosen", None, "Nats per token beyond those of the chosen run, window by window."),
    ("KL", Some(Order::Kl), "Mean KL(original ‖ run) of a token, in nats."),
    ("KL 99 %", None, "99th percentile of the KL divergence of a token."),
    (
        "flips",
        Some(Order::Flips),
        "Share of tokens whose most likely successor is another than the original's.",
    ),
    (
        "top 5 · Σmin",
        None,
        "Share of the original's five most likely tokens that are among the run's; and Σ min(p, q).",
    ),
];

/// Columns of words, which begin at the left.
const WORDS: [&str; 3] = ["when", "what", "text"];

fn table(context: &ViewContext<'_>, ui: &mut Ui) {
    let state = &context.document.evaluation;
    Grid::new("runs").num_columns(HEADS.len() + 1).striped(true).spacing([10.0, 3.0]).show(
        ui,
        |ui| {
            for (title, order, tip) in HEADS {
                let is_by = order == Some(state.order.0);
                let arrow = match (is_by, state.order.1) {
                    (true, false) => " ▲",
                    (true, true) => " ▼",
                    (false, _) => "",
                };
                let head =
                    RichText::new(format!("{title}{arrow}")).small().color(context.tokens.weak);
                let is_clickable = order.is_some();
                let head = egui::Button::new(head).frame(false).sense(if is_clickable {
                    Sense::click()
                } else {
                    Sense::hover()
                });
                // Over numbers, which end at the right of their column.
                let side = if WORDS.contains(&title) { Align::Min } else { Align::Max };
                let layout = Layout::top_down(side);
                let answer = ui.with_layout(layout, |ui| ui.add(head).on_hover_text(tip)).inner;
                if let (true, Some(order)) = (answer.clicked(), order) {
                    send(context, Evaluate::OrderBy(order));
                }
            }
            ui.end_row();
            for kept in state.ordered() {
                row(context, ui, state, kept);
                ui.end_row();
            }
        },
    );
}

fn row(context: &ViewContext<'_>, ui: &mut Ui, state: &Evaluating, kept: &Kept) {
    let (record, found) = (&kept.record, &kept.record.evaluation);
    ui.monospace(text::time(record.seconds));
    let is_chosen = state.chosen.as_ref() == Some(&kept.id);
    let tip = format!("{}\n{}", record.label, reference(kept));
    let label = text::shortened(&record.label, LABEL);
    if ui.selectable_label(is_chosen, label).on_hover_text(tip).clicked() {
        send(context, Evaluate::Choose(kept.id.clone()));
    }
    let part = if found.is_complete() { "" } else { ", a part" };
    ui.label(format!("{} {}{part}", record.text.name, text::parameters(found.tokens())))
        .on_hover_text(format!(
            "{} tokens scored in {} windows of {}",
            text::count(found.tokens()),
            found.windows.len(),
            record.text.length
        ));
    number(ui, 16, format!("{} {}", text::bytes(record.bytes), text::bits(record.bits_per_weight)));
    number(ui, 15, with_margin(found.perplexity()));
    number(ui, 7, text::value(found.bits_per_character()));
    difference(ui, found.excess_nats(), "the original");
    let chosen = state.chosen().filter(|chosen| chosen.id != kept.id);
    difference(ui, chosen.and_then(|chosen| record.nats_beyond(&chosen.record)), "the chosen run");
    let value = |figure: Option<Estimate>, show: fn(f64) -> String| {
        figure.map_or_else(|| "–".to_owned(), |figure| show(figure.value))
    };
    number(ui, 8, value(found.mean_kl(), text::value));
    number(ui, 8, found.kl_p99.map_or_else(|| "–".to_owned(), text::value));
    number(ui, 7, value(found.flip_rate(), text::percent));
    let overlaps =
        [found.top_overlap(), found.overlap()].map(|figure| value(figure, text::percent));
    number(ui, 16, overlaps.join(" · "));
    if ui.small_button("×").on_hover_text("Delete this run; it can be brought back.").clicked() {
        send(context, Evaluate::Delete(kept.id.clone()));
    }
}

fn reference(kept: &Kept) -> String {
    match &kept.record.reference {
        Some(reference) => format!("Held against {reference}. Click to hold others against this."),
        None => "Click to hold others against this.".to_owned(),
    }
}

/// A number at the right of a column.
fn number(ui: &mut Ui, width: usize, value: String) -> egui::Response {
    ui.monospace(format!("{value:>width$}"))
}

fn with_margin(figure: Estimate) -> String {
    if figure.error.is_nan() {
        return text::value(figure.value);
    }
    format!("{} ± {:.2}", text::value(figure.value), figure.margin())
}

/// A paired difference, with ≈ before a tie.
fn difference(ui: &mut Ui, figure: Option<Estimate>, than: &str) {
    let Some(figure) = figure else {
        number(ui, 10, "–".to_owned());
        return;
    };
    let sign = if figure.is_tie() { "≈ " } else { "" };
    let low = text::value(figure.value - figure.margin());
    let high = text::value(figure.value + figure.margin());
    let verdict = if figure.is_tie() { "a tie" } else { "more than chance" };
    number(ui, 10, format!("{sign}{}", text::value(figure.value))).on_hover_text(format!(
        "{} nats per token beyond {than}, 95 % interval {low} to {high}, paired over windows: {verdict}.",
        text::value(figure.value)
    ));
}

/// Size against KL where there is an original, or else against perplexity.
fn scatter(context: &ViewContext<'_>, ui: &mut Ui) {
    let runs = context.document.evaluation.ordered();
    let is_kl = runs.iter().any(|kept| kept.record.evaluation.mean_kl().is_some());
    let place = |kept: &Kept| {
        let found = &kept.record.evaluation;
        let figure = if is_kl { found.mean_kl() } else { Some(found.perplexity()) };
        figure.map(|figure| (kept.record.bytes as f64 / MEGABYTE, figure))
    };
    let mut series = Vec::new();
    for (i, kept) in runs.iter().enumerate() {
        let Some((x, figure)) = place(kept) else { continue };
        let (name, ink, y) = (kept.record.label.as_str(), Ink::Data(i), figure.value);
        let margin = if figure.error.is_nan() { 0.0 } else { figure.margin() };
        series.push(Series::new(name, ink, Kind::Line, vec![[x, y - margin], [x, y + margin]]));
        series.push(Series::new(name, ink, Kind::Points, vec![[x, y]]));
    }
    if series.is_empty() {
        return;
    }
    let damage = if is_kl { Axis::new("mean KL").in_unit("nats") } else { Axis::new("perplexity") };
    let figure = Figure {
        title: "Size against damage".to_owned(),
        x: Axis::new("size").in_unit("MB"),
        y: damage.or_log(Scale::Linear),
        series,
    };
    let options = Options { height: PLOT_HEIGHT, is_listed_below: true, ..Options::default() };
    let answer = plot(ui, context.tokens, "size against damage", &figure, options);
    if let Some(clicked) = answer.clicked {
        let (xs, ys) = figure.extents();
        let away = |kept: &&Kept| {
            place(kept).map(|(x, figure)| {
                ((x - clicked[0]) / (xs.1 - xs.0))
                    .hypot((figure.value - clicked[1]) / (ys.1 - ys.0))
            })
        };
        let near = runs.iter().copied().filter(|kept| place(kept).is_some());
        let nearest =
            near.min_by(|a, b| away(a).partial_cmp(&away(b)).unwrap_or(std::cmp::Ordering::Equal));
        if let Some(kept) = nearest {
            send(context, Evaluate::Choose(kept.id.clone()));
        }
    }
    context.answer(answer);
}

/// The layers of the chosen run, the worst first.
fn layers(context: &ViewContext<'_>, ui: &mut Ui, kept: &Kept) {
    if kept.record.layers.is_empty() {
        return;
    }
    let mut layers: Vec<_> = kept.record.layers.iter().collect();
    layers.sort_by(|(_, a), (_, b)| b.relative().total_cmp(&a.relative()));
    let title = format!("Output error of {} layers, the worst first", layers.len());
    ui.collapsing(title, |ui| {
        Grid::new("output errors").num_columns(2).striped(true).show(ui, |ui| {
            for (name, error) in layers {
                if ui.link(name).on_hover_text("Select this layer.").clicked()
                    && let Some(layer) =
                        context.document.model.as_ref().and_then(|m| m.checkpoint.find(name))
                {
                    context.send(Command::Select(vec![layer]));
                }
                number(ui, 8, text::percent(error.relative()));
                ui.end_row();
            }
        });
    });
}

fn blocks(ui: &mut Ui, kept: &Kept) {
    if kept.record.blocks.is_empty() {
        return;
    }
    let heads = [
        ("block", ""),
        (
            "linear",
            "Share of the block's output that the best linear map of its input explains, on the tokens fitted.",
        ),
        (
            "held out",
            "The same on tokens the map was not fitted to: much lower means too few tokens.",
        ),
        ("without residual", "The same of what the block adds to its input."),
        ("cosine", "Mean cosine between input and output."),
        (
            "influence",
            "1 − cosine: how far the block turns the residual stream. Blocks of the least influence are missed least: select one on the map and take it out (Del).",
        ),
        ("change", "√(Σ‖output − input‖²/Σ‖input‖²)."),
        (
            "coding rate",
            "½·Σ ln(1 + d·λ/ε²) over the eigenvalues λ of the second moments of the output, ε² = 1 % of the mean ‖z‖², in nats.",
        ),
    ];
    ui.collapsing("Blocks: linearity and coding rate", |ui| {
        Grid::new("blocks").num_columns(heads.len()).striped(true).show(ui, |ui| {
            for (title, tip) in heads {
                ui.weak(title).on_hover_text(tip);
            }
            ui.end_row();
            for (index, block) in kept.record.blocks.iter().enumerate() {
                let scores = &block.linearity;
                number(ui, 5, index.to_string());
                number(ui, 8, text::value(scores.linear));
                number(ui, 8, scores.linear_held_out.map_or_else(|| "–".to_owned(), text::value));
                number(ui, 8, text::value(scores.linear_without_residual));
                number(ui, 8, text::value(scores.cosine));
                number(ui, 8, text::value(1.0 - scores.cosine));
                number(ui, 8, text::value(scores.relative_change));
                number(ui, 8, text::value(block.rate_after));
                ui.end_row();
            }
        });
    });
}
