//! Choices searched on the model itself: the trace of generations, and the population as a strip.

use egui::{CollapsingHeader, DragValue, Ui};
use lapidary_engine::allocator::{Choice, Generation, Search};

use crate::commands::Command;
use crate::commands::allocate::Allocate;
use crate::commands::evolve::Evolve;
use crate::document::allocation::Ready;
use crate::document::evolution::Run;
use crate::document::model::Model;
use crate::figure::{Axis, Figure, Ink, Kind, Scale, Series};
use crate::theme::{bits_colour, text};
use crate::views::{ViewContext, working};
use crate::widgets::plot::{Options, plot};
use crate::widgets::strip::{Cell, Place, strip};

use super::send;

const HEIGHT: f32 = 170.0;

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, ready: &Ready) {
    let header = CollapsingHeader::new("Search on the model itself").id_salt("evolution");
    let header = header.show(ui, |ui| {
        form(context, ui, ready);
        let state = &context.document.evolution;
        if let Some(work) = &state.work {
            ui.horizontal_wrapped(|ui| working(ui, work));
        }
        if let Some(sentence) = &state.failed {
            ui.colored_label(context.tokens.error, sentence);
        }
        let found = state.run.as_ref().and_then(|run| Some((run, run.search.as_deref()?)));
        match found {
            Some((run, search)) if !search.generations().is_empty() => {
                results(context, ui, model, (run, search));
            }
            _ if state.work.is_none() => {
                ui.weak("Whole plans of the budget's size are run on a text, changed at random and selected by their KL divergence from the original. It begins with the plan, or with the best of the scores.");
            }
            _ => {}
        }
    });
    header.header_response.on_hover_text("Evolution as in EvoPress (Sieberling et al., ICML 2025): for models whose layers' damages do not add up. Every generation is kept on disk; a search that was paused goes on, also another day.");
}

fn evolve(context: &ViewContext<'_>, command: Evolve) {
    send(context, Allocate::Evolve(command));
}

fn form(context: &ViewContext<'_>, ui: &mut Ui, ready: &Ready) {
    let state = &context.document.evolution;
    let mut wish = state.wish;
    ui.horizontal_wrapped(|ui| {
        let number = |ui: &mut Ui, name: &str, drag: DragValue<'_>, tip: &str| {
            let label = ui.label(name);
            ui.add(drag).labelled_by(label.id).on_hover_text(tip);
        };
        let generations = DragValue::new(&mut wish.generations).range(1..=10_000_u64);
        number(ui, "generations", generations, "In all. More of them go on with the same search.");
        let offspring = DragValue::new(&mut wish.offspring).range(1..=1024_usize);
        number(ui, "offspring", offspring, "Plans tried in each generation; the best quarter of them are tried again on more tokens, beside their parent.");
        let [first, last] = &mut wish.tokens;
        let first = DragValue::new(first).range(16..=1_000_000_u64).speed(16.0);
        number(ui, "tokens", first, "On which every offspring is run.");
        let last = DragValue::new(last).range(16..=10_000_000_u64).speed(64.0);
        number(ui, "then", last, "On which the best quarter and their parent are run.");
        let seed = DragValue::new(&mut wish.seed);
        number(ui, "seed", seed, "Decides every draw: the same seed finds the same plan.");
    });
    if wish != state.wish {
        evolve(context, Evolve::Wish(wish));
    }
    ui.horizontal_wrapped(|ui| {
        start(context, ui, ready);
        let tokens = text::count(state.wish.settings().tokens_of_a_generation());
        ui.weak(format!("{tokens} tokens a generation")).on_hover_text("Tokens that pass through the compressed model in each; the original runs once on the last stage's.");
    });
}

fn start(context: &ViewContext<'_>, ui: &mut Ui, ready: &Ready) {
    let document = context.document;
    let state = &document.evolution;
    if state.work.is_some() {
        let tip = "Stop now. The generations that are whole stay, and it goes on from there.";
        if ui.button("Pause").on_hover_text(tip).clicked() {
            evolve(context, Evolve::Pause);
        }
        return;
    }
    let text = document.settings.evaluation_text.as_ref();
    let budget = document.allocation.budget;
    let same = state.run.as_ref().filter(|run| {
        text.zip(budget)
            .is_some_and(|(text, budget)| run.is_same((ready, budget), (&state.wish, text)))
    });
    let done = same.and_then(|run| run.search.as_ref()).map_or(0, |of| of.generations().len());
    let title = if done > 0 { "Go on" } else { "Search" };
    let is_done = done as u64 >= state.wish.generations;
    let why_not = match text {
        None => "Choose a text in Evaluate first (Ctrl+R).",
        Some(_) => "All generations were; ask for more of them to go on.",
    };
    let button = ui.add_enabled(text.is_some() && !is_done, egui::Button::new(title));
    let size = text::bytes(budget.unwrap_or(0));
    let tip = format!("Search among plans of at most {size}, the budget of the slider.");
    if button.on_hover_text(tip).on_disabled_hover_text(why_not).clicked() {
        evolve(context, Evolve::Start);
    }
}

fn results(context: &ViewContext<'_>, ui: &mut Ui, model: &Model, (run, search): (&Run, &Search)) {
    let generations = search.generations();
    let best = search.best(&run.problem);
    let changed = best.options.iter().zip(&run.start).filter(|(now, then)| now != then).count();
    let kl = |kl: Option<f64>| kl.map_or_else(|| "–".to_owned(), text::value);
    let last = generations.last();
    ui.horizontal_wrapped(|ui| {
        ui.monospace(format!(
            "generation {}: KL {}, its parent {}",
            generations.len(),
            kl(last.and_then(Generation::fitness)),
            kl(last.and_then(|of| of.finalists.first()?.fitness)),
        ))
        .on_hover_text("Mean KL divergence from the original on the text of this generation. Each has text of its own, so only figures of one generation compare.");
        ui.label(format!("{changed} of {} units differ from the start", best.options.len()));
        let is_plan = run.ready.solved.choice_of(&model.checkpoint, model.plan());
        let is_plan = is_plan.is_some_and(|choice| choice.options == best.options);
        let button = ui.add_enabled(!is_plan, egui::Button::new("Make it the plan"));
        let size = text::bytes(run.ready.solved.bytes_of(&best));
        let tip = format!("The best so far, {size}; one step of undo, locked layers stay.");
        if button.on_hover_text(tip).on_disabled_hover_text("It is the plan.").clicked() {
            evolve(context, Evolve::Take);
        }
    });
    let options = Options { height: HEIGHT, ..Options::default() };
    context.answer(plot(ui, context.tokens, "evolution", &trace(generations), options));
    population(context, ui, model, (run, search, &best));
}

/// The fitness of everyone, generation by generation.
fn trace(generations: &[Generation]) -> Figure {
    let numbered = || generations.iter().enumerate().map(|(at, of)| ((at + 1) as f64, of));
    let rounds = generations.iter().flat_map(|of| &of.population).map(|of| of.stages).max();
    let last = rounds.unwrap_or(0);
    let of_population = |is_last: bool| -> Vec<[f64; 2]> {
        let of = |(x, of): (f64, &Generation)| -> Vec<[f64; 2]> {
            let judged = of.population.iter().filter(|one| (one.stages == last) == is_last);
            judged.filter_map(|one| Some([x, one.fitness?])).collect()
        };
        numbered().flat_map(of).collect()
    };
    let parent = numbered().filter_map(|(x, of)| Some([x, of.finalists.first()?.fitness?]));
    let best = numbered().filter_map(|(x, of)| Some([x, of.fitness()?]));
    Figure {
        title: "Evolution of plans on the model itself".to_owned(),
        x: Axis::new("generation"),
        y: Axis::new("KL").in_unit("nats").or_log(Scale::Log),
        series: vec![
            Series::new("left early", Ink::OtherFit, Kind::Points, of_population(false)),
            Series::new("in the last round", Ink::Data(2), Kind::Points, of_population(true)),
            Series::new("parent", Ink::Data(0), Kind::Dashed, parent.collect()),
            Series::new("best", Ink::Data(1), Kind::Line, best.collect()),
        ],
    }
}

/// What the start, the best and the finalists of the last generation give every unit.
fn population(
    context: &ViewContext<'_>,
    ui: &mut Ui,
    model: &Model,
    (run, search, best): (&Run, &Search, &Choice),
) {
    let mut choices: Vec<(String, &[usize])> =
        vec![("start".to_owned(), &run.start), ("best".to_owned(), &best.options)];
    if let Some(last) = search.generations().last() {
        for finalist in &last.finalists {
            let kl = finalist.fitness.map_or_else(|| "–".to_owned(), text::value);
            choices.push((format!("KL {kl}"), &finalist.options));
        }
    }
    let bits = |unit: usize, option: usize| run.problem.groups()[unit].options[option].bits;
    let row = |(name, options): &(String, &[usize])| {
        let cell = |(unit, &option): (usize, &usize)| Cell {
            fill: bits_colour(bits(unit, option)),
            text: format!("{:.0}", bits(unit, option)),
            is_marked: option != run.start[unit],
        };
        (name.clone(), options.iter().enumerate().map(cell).collect())
    };
    let rows: Vec<(String, Vec<Cell>)> = choices.iter().map(row).collect();
    let scores = run.ready.solved.scores();
    let tip = |place: Place| {
        let of = &scores[place.column];
        let label = |option: usize| of.options[option].assignments[0].label();
        let names: Vec<String> = of.unit.layers.iter().map(|&l| model.short_name(l)).collect();
        let now = label(choices[place.row].1[place.column]);
        format!("{}: {now}; {} at the start", names.join(", "), label(run.start[place.column]))
    };
    ui.weak(
        "Bits of every unit, in the order of the model; framed where they differ from the start.",
    );
    if let Some(unit) = strip(ui, "Population of the last generation", &rows, &tip) {
        context.send(Command::Select(scores[unit].unit.layers.clone()));
    }
}
