//! Every view in every state and both themes draws, says what it should, and stays inside the window.

use std::cell::RefCell;
use std::sync::Arc;

use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use lapidary::document::capacity::{News, Values};
use lapidary::document::draft::Draft;
use lapidary::document::finished::Task;
use lapidary::document::look::{Picture, Seen, Tab};
use lapidary::document::measurements::{Finding, Measurements};
use lapidary::document::model::{Model, Opened};
use lapidary::document::other::Other;
use lapidary::document::project::View;
use lapidary::document::selection::Selection;
use lapidary::document::{Document, Sheet, Slot};
use lapidary::jobs::Purpose;
use lapidary::theme::{self, Tokens};
use lapidary::views::{self, VIEWS, ViewContext};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare;
use lapidary_engine::job::{self, Sample};
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::{
    Field, measure, measure_heat, measure_profile, measure_spectrum, measure_structure,
};
use lapidary_engine::target::TARGETS;
use lapidary_tests::{Weights, sample_path};

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Empty,
    Loading,
    Loaded,
    Failed,
}

fn model() -> Model {
    let checkpoint = Arc::new(Checkpoint::open(&sample_path()).expect("the sample opens"));
    let mut plan = Plan::default();
    plan.set("model.layers.0.mlp.down_proj.weight", Assignment::keep().with_bits(4));
    let opened = Opened {
        checkpoint,
        draft: Draft::new(plan, TARGETS[1]),
        view: View::default(),
        project: None,
        recovered: None,
    };
    Model::new(opened)
}

fn measured() -> Model {
    let mut model = model();
    let checkpoint = model.checkpoint.clone();
    for layer in 0..checkpoint.tensors().len() {
        let statistics = measure(&checkpoint, layer, &Silent).expect("statistics");
        let spread = (statistics.mean, statistics.std);
        model.take(layer, Finding::Statistics(Ok(Arc::new(statistics))));
        if checkpoint.tensors()[layer].matrix.is_some() {
            let structure = measure_structure(&checkpoint, layer, spread, &Silent);
            model.take(layer, Finding::Structure(Ok(Arc::new(structure.expect("a structure")))));
            let spectrum = measure_spectrum(&checkpoint, layer, &Silent).expect("a spectrum");
            model.take(layer, Finding::Spectrum(Ok(Arc::new(spectrum))));
        }
    }
    model
}

/// Draws something on a document for a few frames.
fn draw(
    document: Document,
    theme: egui::Theme,
    ui: impl Fn(&ViewContext<'_>, &mut egui::Ui) + 'static,
) -> Harness<'static, Document> {
    let commands = RefCell::new(Vec::new());
    let frame = move |root: &mut egui::Ui, document: &mut Document| {
        root.ctx().set_theme(theme);
        theme::apply(root.ctx());
        let tokens = Tokens::of(theme);
        ui(&ViewContext { document, commands: &commands, tokens: &tokens }, root);
    };
    let mut harness =
        Harness::builder().with_size(egui::vec2(1280.0, 720.0)).build_ui_state(frame, document);
    harness.run_steps(4);
    harness
}

#[test]
fn every_view_draws_in_every_state_and_theme() {
    assert!(VIEWS.len() > 5, "the list of views must not be empty");
    for state in [State::Empty, State::Loading, State::Loaded, State::Failed] {
        for theme in [egui::Theme::Light, egui::Theme::Dark] {
            for view in VIEWS {
                draw(document(state), theme, view.ui);
            }
            for sheet in [
                Sheet::Export,
                Sheet::Calibrate,
                Sheet::Experts,
                Sheet::Keys,
                Sheet::About,
                Sheet::Path(Purpose::OpenFolder),
                Sheet::Finished(Task::Convert),
                Sheet::Finished(Task::Unpack),
                Sheet::Finished(Task::Squeeze),
                Sheet::Finished(Task::Verify),
            ] {
                let document = Document { sheet: Some(sheet), ..document(state) };
                draw(document, theme, views::layout);
            }
        }
    }
}

/// The tabs of the inspector on one layer, on several, and on a tensor that is no matrix; with everything computed,
/// with nothing yet, and with failures.
#[test]
fn every_tab_draws_in_every_state_and_theme() {
    for state in [State::Loading, State::Loaded, State::Failed] {
        for (tab, title, _) in Tab::ALL {
            for selected in [vec![0], vec![3, 4, 5, 9], vec![8]] {
                let label = format!("{state:?} {title} {selected:?}");
                for theme in [egui::Theme::Light, egui::Theme::Dark] {
                    let harness = draw(looking(state, tab, &selected), theme, views::layout);
                    assert!(harness.query_all_by_label(title).next().is_some(), "{label}");
                }
            }
        }
    }
}

/// A document in a state whose inspector shows layers in a tab.
fn looking(state: State, tab: Tab, selected: &[usize]) -> Document {
    let mut document = document(state);
    let model = document.model.as_deref_mut().expect("a model in these states");
    model.selection = Selection::of(selected.to_vec());
    model.tab = tab;
    if state == State::Loaded {
        look_closely(model, selected);
    }
    document
}

/// Gives a model what the inspector computes for itself.
fn look_closely(model: &mut Model, layers: &[usize]) {
    let checkpoint = model.checkpoint.clone();
    let other = Other::new(checkpoint.clone(), compare::pairs(&checkpoint, &checkpoint));
    model.other = Slot::Ready(other);
    let cursor = layers[0];
    if checkpoint.tensors()[cursor].matrix.is_none() {
        return;
    }
    let is_matrix = |layer: &&usize| checkpoint.tensors()[**layer].matrix.is_some();
    for &layer in layers.iter().filter(is_matrix) {
        let profile = measure_profile(&checkpoint, layer, 0.0, &Silent).expect("a profile");
        model.look.profiles.insert(layer, Some(Ok(Arc::new(profile))));
    }
    let sample = Sample::new(&checkpoint, cursor, &Silent).expect("a sample");
    let capacity = &mut model.look.capacity;
    capacity.take(Values::Layer(cursor), News::Begun(job::entropy_coded(sample.weights()), 2));
    for bits in [2, 4] {
        let steps = Assignment::keep().with_bits(bits).steps;
        let held = job::hold(&sample, &steps, &Silent).expect("a form");
        capacity.take(Values::Layer(cursor), News::Tried(held.map(Box::new)));
    }
    let map = Arc::new(measure_heat(&checkpoint, cursor, Field::Weights, &Silent).expect("a map"));
    let picture = Picture { map, encoding: None };
    model.look.picture = Some(((cursor, Seen::Weights), Ok(picture)));
}

/// A document in a state. Measuring the sample anew for each would take most of the test's time.
fn document(state: State) -> Document {
    thread_local! { static KNOWN: RefCell<Option<Measurements>> = const { RefCell::new(None) }; }
    let mut document = Document::default();
    let mut model = model();
    match state {
        State::Empty => return document,
        State::Loading => {
            document.opening =
                Slot::Running { what: "Opening /models/big".to_owned(), progress: None };
            document.export =
                Slot::Running { what: "Exporting to /out".to_owned(), progress: None };
            for task in Task::ALL {
                let bench = document.finished.bench_mut(task);
                bench.run = Slot::Running { what: "Writing /out".to_owned(), progress: None };
                bench.ask();
            }
        }
        State::Loaded => KNOWN.with_borrow_mut(|known| {
            model.measured = known.get_or_insert_with(|| measured().measured).clone();
            model.changed();
        }),
        State::Failed => {
            document.opening = Slot::Failed("the file is broken; download it again".to_owned());
            document.complain("the file is broken; download it again");
            document.export = Slot::Failed("the disk is full".to_owned());
            for task in Task::ALL {
                let bench = document.finished.bench_mut(task);
                bench.run = Slot::Failed("the disk is full".to_owned());
                bench.looked = Slot::Failed("it holds no compressed layer".to_owned());
            }
            model.set_statistics(0, Err("tensor a cannot be read".to_owned()));
            model.set_spectrum(0, Err("tensor a: 3 weights are NaN".to_owned()));
            model.selection = Selection::one(0);
        }
    }
    model.refresh();
    document.model = Some(Box::new(model));
    document
}

/// A window on a model made on the spot, its layer `name` selected.
fn on(weights: &Weights, name: &str) -> Document {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.safetensors");
    weights.write(&path);
    let checkpoint = Arc::new(Checkpoint::open(&path).expect("a valid file"));
    let selected = checkpoint.find(name).expect("the layer");
    let opened = Opened {
        checkpoint,
        draft: Draft::new(Plan::default(), TARGETS[1]),
        recovered: None,
        view: View::default(),
        project: None,
    };
    let mut model = Model::new(opened);
    let statistics = measure(&model.checkpoint, selected, &Silent).expect("statistics");
    model.take(selected, Finding::Statistics(Ok(Arc::new(statistics))));
    model.selection = Selection::one(selected);
    model.refresh();
    Document { model: Some(Box::new(model)), ..Document::default() }
}

#[test]
fn a_layer_stored_the_other_way_round_says_how_it_is_seen() {
    let name = "h.0.attn.c_attn.weight";
    let weights = Weights::new().normal(name, &[8, 24]).normal("h.0.mlp.up.weight", &[8, 8]);
    let said = "seen as [out, in] 24 × 8 (transposed)";
    let harness = draw(on(&weights, name), egui::Theme::Dark, views::layout);
    assert!(harness.query_by_label(said).is_some());
    let harness = draw(on(&weights, "h.0.mlp.up.weight"), egui::Theme::Dark, views::layout);
    assert!(harness.query_by_label_contains("seen as").is_none());
}

#[test]
fn comparing_says_what_only_the_second_has_and_what_the_error_leaves_out() {
    let (down, up) = ("layers.0.mlp.down.weight", "layers.0.mlp.up.weight");
    let mine = Weights::new().normal(down, &[4, 8]).normal(up, &[4, 8]).normal("mine", &[4, 4]);
    let theirs = Weights::new().normal(down, &[4, 8]).normal(up, &[8, 8]).normal("theirs", &[2, 2]);
    let mut document = on(&mine, down);
    let other = on(&theirs, down).model.expect("a model").checkpoint;
    let model = document.model.as_deref_mut().expect("a model");
    let pairs = compare::pairs(&model.checkpoint, &other);
    let mut found = Other::new(other, pairs);
    for layer in 0..model.checkpoint.tensors().len() {
        if let Some(pair) = &found.pairs[layer] {
            let result =
                compare::compare(&model.checkpoint, layer, &found.checkpoint, pair, &Silent);
            found.found[layer] = Some(result.map(Arc::new).map_err(|error| error.sentence()));
        }
    }
    let tally = found.tally();
    assert_eq!((tally.identical, tally.alone, tally.only_there, tally.failed), (1, 1, 1, 1));
    model.other = Slot::Ready(found);
    model.tab = Tab::Compare;
    let harness = draw(document, egui::Theme::Dark, views::layout);
    assert!(harness.query_by_label("only there").is_some());
    let said = "leaves out 3 tensors: 1 only here, 1 only there, 1 not comparable";
    assert!(harness.query_by_label_contains(said).is_some());
}

/// What a person must read on the whole window in each state.
#[test]
fn each_state_says_what_it_is() {
    for (state, text) in [
        (State::Empty, "Open folder…"),
        (State::Loading, "Opening /models/big"),
        (State::Loaded, "0 · down"),
        (State::Failed, "tensor a cannot be read"),
    ] {
        let harness = draw(document(state), egui::Theme::Dark, views::layout);
        assert!(
            harness.query_all_by_label_contains(text).next().is_some(),
            "{state:?} does not say {text:?}"
        );
    }
}

#[test]
fn the_three_columns_fit_the_smallest_supported_window() {
    let harness = draw(document(State::Loaded), egui::Theme::Light, views::layout);
    for label in ["Model map", "Layer ▲", "Assignment", "Quantiser", "map 5 · down"] {
        let places: Vec<egui::Rect> =
            harness.query_all_by_label(label).map(|node| node.rect()).collect();
        assert!(!places.is_empty(), "{label} is missing");
        for rect in places {
            assert!(
                rect.left() >= 0.0 && rect.right() <= 1280.0 && rect.bottom() <= 720.0,
                "{label} is cut off: {rect:?}"
            );
        }
    }
}
