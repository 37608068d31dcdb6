//! Assigning by hand through the window: painting, locks, rules, targets, prices; undo of everything.

mod window;

use std::sync::Arc;

use egui::{Key, Modifiers, Pos2};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use lapidary::commands::{Command, Grow};
use lapidary::document::Document;
use lapidary::document::brush::Brush;
use lapidary::document::draft::Draft;
use lapidary::document::list::Row;
use lapidary::document::look::{Seen, Tab};
use lapidary::document::metrics::{Needs, find};
use lapidary::document::model::{Pane, Side};
use lapidary::document::selection::How;
use lapidary_engine::plan::{Assignment, Origin, Rule};
use lapidary_engine::target::{Fix, PRESETS, Severity, TARGETS};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use window::{Screen, open_sample, wait_until};

fn layer(screen: &Screen, name: &str) -> usize {
    screen.state().model().checkpoint.find(name).expect(name)
}

fn label(screen: &Screen, name: &str) -> String {
    screen.state().model().assignment(layer(screen, name)).label()
}

fn draft(screen: &Screen) -> Arc<Draft> {
    screen.state().model().history.current().clone()
}

fn steps(screen: &Screen) -> usize {
    screen.state().model().history.steps().1
}

/// Presses at the first cell, moves over the others, and releases.
fn drag(screen: &mut Screen, cells: &[&str]) {
    let places: Vec<Pos2> =
        cells.iter().map(|cell| screen.get_by_label(cell).rect().center()).collect();
    let button = |pos, pressed| egui::Event::PointerButton {
        pos,
        button: egui::PointerButton::Primary,
        pressed,
        modifiers: Modifiers::NONE,
    };
    screen.event(egui::Event::PointerMoved(places[0]));
    screen.step();
    screen.event(button(places[0], true));
    screen.step();
    for &place in &places {
        screen.event(egui::Event::PointerMoved(place));
        screen.step();
    }
    screen.event(button(*places.last().expect("a cell"), false));
    screen.run_steps(4);
}

#[test]
fn one_stroke_of_the_brush_is_one_step_and_leaves_locks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.get_by_label("map 2 · down").click();
    screen.run_steps(2);
    screen.key_press(Key::L);
    screen.run_steps(2);
    screen.get_by_label("brush 4").click();
    screen.run_steps(2);
    assert_eq!(screen.state().model().brush, Some(Brush::Bits(4)));
    let before = (draft(&screen), steps(&screen));
    drag(&mut screen, &["map 0 · down", "map 3 · down"]);
    let down = |block: u32| format!("model.layers.{block}.mlp.down_proj.weight");
    for (block, wanted) in [(0, "4-bit g128"), (1, "4-bit g128"), (2, "keep"), (3, "4-bit g128")] {
        assert_eq!(label(&screen, &down(block)), wanted, "block {block}");
    }
    assert_eq!(label(&screen, &down(4)), "keep");
    assert_eq!(steps(&screen), before.1 + 1, "a stroke is one step");
    assert_eq!(screen.state().model().history.undo_label(), Some("Paint 4 bits"));
    let notice = screen.state().document().notice.as_ref().unwrap().text.clone();
    assert!(notice.contains("locked and left alone"), "{notice}");
    screen.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    screen.run_steps(2);
    assert_eq!(draft(&screen), before.0);
    // What the target cannot hold is grey and says why; painted all the same, it is refused, and nothing is painted.
    let why = "packed differently before and after compressed-tensors 0.18";
    assert!(screen.get_by_label("brush 3").accesskit_node().is_disabled());
    assert!(!screen.get_by_label("brush 4").accesskit_node().is_disabled());
    assert!(screen.state().model().held_bits.why_not(3).is_some_and(|of| of.contains(why)));
    assert_eq!(screen.state().model().held_bits.why_not(8), None);
    assert!(screen.state().model().why_not_bits(5).is_some_and(|of| of.contains(why)));
    screen.state().send(Command::SetBrush(Some(Brush::Bits(3))));
    screen.run_steps(2);
    drag(&mut screen, &["map 0 · down", "map 1 · down"]);
    assert_eq!(draft(&screen), before.0);
    let notice = screen.state().document().notice.as_ref().unwrap().text.clone();
    assert!(notice.contains(why), "{notice}");
    // A click paints too; fused layers go together; Escape lays the brush down.
    screen.get_by_label("brush 8").click();
    screen.run_steps(2);
    drag(&mut screen, &["map 4 · k"]);
    for role in ["q", "k", "v"] {
        assert!(
            label(&screen, &format!("model.layers.4.self_attn.{role}_proj.weight"))
                .starts_with('8')
        );
    }
    screen.key_press(Key::Escape);
    screen.run_steps(2);
    assert_eq!(screen.state().model().brush, None);
}

#[test]
fn an_assignment_is_copied_pasted_and_painted() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.get_by_label("map 1 · down").click();
    screen.run_steps(2);
    let fancy = Assignment::keep().with_bits(4);
    let step = fancy.steps[0].clone().with("group_size", 32).with("clipping", "mse");
    let fancy = Assignment::of(vec![step]);
    screen.state().send(Command::Assign(fancy.clone()));
    screen.run_steps(2);
    screen.key_press(Key::C);
    screen.run_steps(2);
    screen.get_by_label("map 3 · down").click();
    screen.run_steps(2);
    screen.key_press(Key::V);
    screen.run_steps(2);
    assert_eq!(label(&screen, "model.layers.3.mlp.down_proj.weight"), fancy.label());
    screen.key_press(Key::P);
    screen.run_steps(2);
    drag(&mut screen, &["map 5 · o"]);
    assert_eq!(label(&screen, "model.layers.5.self_attn.o_proj.weight"), fancy.label());
}

#[test]
fn selections_grow_and_turn_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let start = layer(&screen, "model.layers.2.self_attn.k_proj.weight");
    for (to, wanted) in [(Grow::Fused, 3), (Grow::Block, 7), (Grow::Role, 8)] {
        screen.state().send(Command::Click(start, How::Replace, Pane::Map));
        screen.state().send(Command::Grow(to));
        screen.run_steps(2);
        let n = screen.state().model().selection.len();
        // Six blocks with a k each, and what k is fused with.
        assert_eq!(n, wanted, "{to:?}");
        assert_eq!(screen.state().model().selection.cursor(), Some(start));
    }
    let selected = screen.state().model().selection.len();
    let shown = screen.state().model().rows().len();
    screen.key_press(Key::I);
    screen.run_steps(2);
    let model = screen.state().model();
    assert_eq!(model.selection.len(), shown - selected);
    assert!(!model.selection.has(start));
}

#[test]
fn fused_layers_are_one_row_and_split_only_where_the_target_allows() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let group = |screen: &Screen| {
        let model = screen.state().model();
        model.checkpoint.fused_index_of(layer(screen, "model.layers.1.mlp.up_proj.weight")).unwrap()
    };
    let g = group(&screen);
    let rows = |screen: &Screen| {
        let lines = screen.state().model().list.lines().to_vec();
        lines.iter().filter(|line| matches!(line, Row::Fused(..))).count()
    };
    assert_eq!(rows(&screen), 12);
    screen.state().send(Command::ClickGroup(g, How::Replace));
    screen.run_steps(2);
    assert_eq!(screen.state().model().selection.len(), 2);
    screen.key_press(Key::Num8);
    screen.run_steps(2);
    let up = "model.layers.1.mlp.up_proj.weight";
    let gate = "model.layers.1.mlp.gate_proj.weight";
    assert_eq!(
        (label(&screen, up), label(&screen, gate)),
        ("8-bit g128".into(), "8-bit g128".into())
    );
    // vLLM runs them as one: an edit of one is an edit of both, split or not.
    screen.state().send(Command::Split(g));
    screen.state().send(Command::Click(layer(&screen, up), How::Replace, Pane::Map));
    screen.state().send(Command::SetBits(4));
    screen.run_steps(3);
    assert_eq!(label(&screen, gate), "4-bit g128");
    // MLX stores them apart.
    screen.state().send(Command::SetTarget("mlx"));
    screen.state().send(Command::SetBits(8));
    screen.run_steps(3);
    assert_eq!(
        (label(&screen, up), label(&screen, gate)),
        ("8-bit g128".into(), "4-bit g128".into())
    );
    screen.state().send(Command::SetTarget("compressed-tensors"));
    screen.run_steps(3);
    assert_eq!(label(&screen, up), "4-bit g128", "the other target's plan is as it was left");
}

#[test]
fn every_target_keeps_its_plan_and_problems_are_mended_by_a_click() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SetTarget("dense"));
    screen.state().send(Command::SelectAll);
    screen.state().send(Command::SetBits(3));
    screen.run_steps(3);
    assert_eq!(screen.state().model().outcome.count(Severity::Warning), 0);
    let dense = draft(&screen);
    screen.state().send(Command::SetTarget("gguf"));
    screen.run_steps(3);
    let notice = screen.state().document().notice.as_ref().unwrap().text.clone();
    assert!(notice.contains("44 layers cannot be held"), "{notice}");
    let model = screen.state().model();
    assert_eq!(model.plan(), dense.plan(), "a new target begins with the plan there is");
    assert_eq!(model.outcome.count(Severity::Warning), 1);
    screen.state().send(Command::SetSide(Side::Problems));
    screen.run_steps(3);
    assert!(screen.query_all_by_label_contains("stored in full").count() > 0);
    screen.get_by_label("Mend").click();
    screen.run_steps(3);
    let model = screen.state().model();
    assert_eq!(model.outcome.count(Severity::Warning) + model.outcome.count(Severity::Error), 0);
    assert_eq!(label(&screen, "model.layers.3.mlp.down_proj.weight"), "4-bit g32");
    assert!(screen.query_by_label_contains("Nothing stands in the way").is_some());
    screen.state().send(Command::SetTarget("dense"));
    screen.run_steps(3);
    assert_eq!(label(&screen, "model.layers.3.mlp.down_proj.weight"), "3-bit g128");
    screen.state().send(Command::TakePlanOf("gguf"));
    screen.run_steps(2);
    assert_eq!(label(&screen, "model.layers.3.mlp.down_proj.weight"), "4-bit g32");
}

#[test]
fn rules_are_added_and_say_what_they_decide() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let four = Assignment::keep().with_bits(4);
    let rules = vec![
        Rule::new("*.nothing", four.clone()).unwrap(),
        Rule::new("role:down", four.clone()).unwrap(),
        Rule::new("default", Assignment::keep().with_bits(8)).unwrap(),
    ];
    screen.state().send(Command::SetRules("Add rules", rules));
    screen.state().send(Command::SetSide(Side::Rules));
    screen.run_steps(3);
    assert!(screen.query_by_label("matches nothing").is_some());
    assert!(screen.query_by_label("decides 6").is_some());
    assert!(screen.query_by_label("decides 38 of 44").is_some());
    assert_eq!(screen.state().model().outcome.count(Severity::Error), 1, "a dead rule");
    let lints = screen.state().model().outcome.laid_out.lints.clone();
    let dead = lints.iter().find(|lint| lint.id == "dead-rule").unwrap();
    assert_eq!(dead.fix, Some(Fix::RemoveRule(0)));
    screen.state().send(Command::Mend(Arc::new(dead.clone())));
    screen.run_steps(3);
    assert!(screen.query_by_label("matches nothing").is_none());
    // A hand outranks the rules until it lets go.
    let name = "model.layers.3.mlp.down_proj.weight";
    screen.state().send(Command::Click(layer(&screen, name), How::Replace, Pane::Map));
    screen.state().send(Command::SetBits(2));
    screen.run_steps(3);
    assert_eq!(screen.state().model().plan().origin(name), Origin::ByHand);
    assert!(screen.query_by_label("decides 5 of 6").is_some());
    screen.state().send(Command::Forget);
    screen.run_steps(3);
    assert_eq!(screen.state().model().plan().origin(name), Origin::Rule(0));
}

#[test]
fn the_palette_finds_and_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.key_press_modifiers(Modifiers::COMMAND, Key::K);
    screen.run_steps(3);
    screen.event(egui::Event::Text("tar mlx".to_owned()));
    screen.run_steps(3);
    screen.key_press(Key::Enter);
    screen.run_steps(4);
    assert_eq!(screen.state().model().target.about().id, "mlx");
    assert_eq!(screen.state().document().sheet, None);
}

#[test]
fn prices_tell_which_step_is_worth_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SetTarget("mlx"));
    screen.state().send(Command::SelectAll);
    screen.state().send(Command::SetBits(4));
    screen.state().send(Command::SetMetric("price-down"));
    screen.run_steps(2);
    let price = find("price-down").unwrap();
    assert_eq!(price.needs, Needs::Price);
    wait_until(&mut screen, "every layer has its price", |document| {
        let model = document.model.as_ref().expect("open");
        (0..model.checkpoint.tensors().len())
            .filter(|&layer| model.is_matrix(layer))
            .all(|layer| (price.value)(model, layer).is_some())
    });
    let model = screen.state().model();
    let worth = find("price-up").unwrap();
    let down = layer(&screen, "model.layers.3.mlp.down_proj.weight");
    let (price, worth) = ((price.value)(model, down).unwrap(), (worth.value)(model, down).unwrap());
    // A bit fewer costs some four times what a bit more brings.
    assert!((2.5..6.0).contains(&(price / worth)), "{price} {worth}");
    assert_eq!(model.mean_damage.unknown, 0);
    assert!(model.mean_damage.mean > 0.0, "{:?}", model.mean_damage);
}

/// Something a person does to a plan.
fn edits() -> impl Strategy<Value = Command> {
    let names = ["*.down_proj.weight", "role:q", "default", "*.nothing"];
    let rules =
        proptest::collection::vec((0..names.len(), 2_i64..9), 0..4).prop_map(move |rules| {
            let rule = |(name, bits): (usize, i64)| {
                Rule::new(names[name], Assignment::keep().with_bits(bits)).expect("a pattern")
            };
            Command::SetRules("Set rules", rules.into_iter().map(rule).collect())
        });
    prop_oneof![
        4 => (0_usize..57).prop_map(|layer| Command::Click(layer, How::Replace, Pane::Map)),
        2 => (0_usize..57).prop_map(|layer| Command::Click(layer, How::Range, Pane::Map)),
        1 => Just(Command::SelectAll),
        1 => Just(Command::Invert),
        5 => (2_i64..9).prop_map(Command::SetBits),
        2 => Just(Command::Keep),
        2 => Just(Command::ToggleLock),
        2 => Just(Command::Forget),
        2 => (0_usize..57, 0_usize..57).prop_map(|(a, b)| Command::Paint(vec![a, b])),
        1 => (2_i64..9).prop_map(|bits| Command::SetBrush(Some(Brush::Bits(bits)))),
        1 => Just(Command::SetBrush(Some(Brush::Lock(true)))),
        1 => (0..PRESETS.len()).prop_map(|i| Command::Preset(PRESETS[i].id)),
        2 => (0..TARGETS.len()).prop_map(|i| Command::SetTarget(TARGETS[i].about().id)),
        1 => prop_oneof![Just(1), Just(2), Just(8)].prop_map(Command::SetTensorParallel),
        1 => prop_oneof![Just(0), Just(1_000_000)].prop_map(Command::SetShardBytes),
        1 => Just(Command::MendAll),
        1 => Just(Command::SumUp),
        1 => rules,
    ]
}

#[test]
fn any_sequence_of_edits_undone_gives_the_start_and_redone_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let screen = std::cell::RefCell::new(open_sample(folder.path()));
    let mut runner =
        TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let sequences = proptest::collection::vec(edits(), 1..14);
    let result = runner.run(&sequences, |sequence| {
        let screen = &mut *screen.borrow_mut();
        let (start, done) = (draft(screen), steps(screen));
        for command in sequence {
            screen.state().send(command);
            screen.step();
            screen.step();
        }
        let (end, after) = (draft(screen), steps(screen));
        for _ in done..after {
            screen.state().send(Command::Undo);
            screen.step();
        }
        screen.step();
        prop_assert_eq!(&draft(screen), &start);
        for _ in done..after {
            screen.state().send(Command::Redo);
            screen.step();
        }
        screen.step();
        prop_assert_eq!(&draft(screen), &end);
        // What is derived follows: sizes are those of the plan on show.
        let model = screen.state().model();
        let manifest = model.manifest().expect("layouts");
        prop_assert_eq!(manifest.tensor_bytes(), model.outcome.tensor_bytes);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn space_shows_the_layer_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.get_by_label("map 3 · down").click();
    screen.run_steps(2);
    screen.key_press(Key::Num2);
    screen.run_steps(2);
    screen.state().send(Command::SetTab(Tab::Outliers));
    screen.key_press(Key::Space);
    screen.run_steps(2);
    let is_seen = |document: &Document, wanted: fn(&Seen) -> bool| {
        let picture = document.model.as_ref().and_then(|model| model.look.picture.as_ref());
        picture.is_some_and(|(subject, found)| wanted(&subject.1) && found.is_ok())
    };
    wait_until(&mut screen, "the layer is pictured after", |document| {
        is_seen(document, |seen| matches!(seen, Seen::After(_)))
    });
    wait_until(&mut screen, "its histogram after is counted", |document| {
        let preview = document.model.as_ref().and_then(|model| model.preview.as_ref());
        preview.is_some_and(|(.., found)| found.as_ref().is_ok_and(|p| p.after.is_some()))
    });
    let model = screen.state().model();
    let (_, picture) = model.look.picture.as_ref().unwrap();
    let finest = &picture.as_ref().unwrap().map.levels[0].extreme;
    // Two bits in groups of 128: at most four values in each group of a row.
    for group in finest.row(0).to_vec().chunks(128) {
        let values: std::collections::BTreeSet<u32> = group.iter().map(|w| w.to_bits()).collect();
        assert!(values.len() <= 4, "{values:?}");
    }
    let (.., preview) = model.preview.as_ref().unwrap();
    let after = preview.as_ref().unwrap().after.as_ref().unwrap();
    assert_eq!(after.total(), 256 * 768);
    screen.key_press(Key::Space);
    screen.run_steps(2);
    wait_until(&mut screen, "the layer is pictured before", |document| {
        is_seen(document, |seen| *seen == Seen::Weights)
    });
}
