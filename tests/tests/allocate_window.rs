//! Spending a budget in the window: candidates scored, the slider moved, locks kept, one step of undo.

mod window;

use std::collections::BTreeMap;

use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::commands::allocate::Allocate;
use lapidary::document::{Document, Sheet};
use lapidary_engine::checkpoint::Role;
use lapidary_engine::plan::Assignment;
use lapidary_engine::scores::Bounds;
use lapidary_tests::rtn;
use window::{Screen, open_sample, wait_until};

fn send(screen: &mut Screen, command: Allocate) {
    screen.state().send(Command::Allocate(command));
    screen.run_steps(3);
}

fn bytes(document: &Document) -> u64 {
    document.model.as_ref().map_or(0, |model| model.outcome.tensor_bytes)
}

#[test]
fn the_plan_of_a_budget_is_one_step_and_leaves_locked_layers() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    let model = screen.state().model();
    let locked = model.checkpoint.find("model.layers.1.mlp.up_proj.weight").expect("a layer");
    screen.state().send(Command::Select(vec![locked]));
    screen.run_steps(2);
    screen.state().send(Command::ToggleLock);
    screen.run_steps(2);
    let before = screen.state().model().plan().clone();
    send(&mut screen, Allocate::Toggle);
    assert_eq!(screen.state().document().sheet, Some(Sheet::Allocate));
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "the candidates are scored", |d| d.allocation.ready.is_some());
    screen.run_steps(3);
    assert_eq!(*screen.state().model().plan(), before, "nothing moves before the slider does");
    let ready = screen.state().document().allocation.ready.clone().expect("scores");
    let [least, most] = ready.solved.range();
    let budget = least + (most - least) / 2;
    send(&mut screen, Allocate::Spend(budget));
    wait_until(&mut screen, "the plan is laid out", |d| {
        let model = d.model.as_ref();
        model.is_some_and(|model| !model.outcome.is_late)
    });
    let spent = bytes(screen.state().document());
    assert!(spent <= budget && spent > budget - (most - least) / 50, "{spent} of {budget}");
    let changed = screen.state().document().allocation.changed.clone();
    assert!(changed.len() > 20 && !changed.contains(&locked), "{}", changed.len());
    send(&mut screen, Allocate::SelectChanged);
    assert_eq!(screen.state().model().selection.len(), changed.len());
    screen.state().send(Command::Undo);
    screen.run_steps(2);
    assert_eq!(*screen.state().model().plan(), before);
}

#[test]
fn bounds_of_roles_hold_and_such_that_leave_nothing_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    send(&mut screen, Allocate::Toggle);
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "the candidates are scored", |d| d.allocation.ready.is_some());
    let floor = Bounds { floors: BTreeMap::from([(Role::Down, 8.0)]), ..Bounds::default() };
    send(&mut screen, Allocate::Bound(floor.clone()));
    let ready = screen.state().document().allocation.ready.clone().expect("scores");
    send(&mut screen, Allocate::Spend(ready.solved.range()[0]));
    let model = screen.state().model();
    let bits = |name: &str| model.nominal_bits(model.checkpoint.find(name).expect("a layer"));
    assert_eq!(bits("model.layers.3.mlp.down_proj.weight"), 8);
    assert_eq!(bits("model.layers.3.mlp.up_proj.weight"), 2, "the smallest that vLLM holds");
    let nothing = Bounds { ceilings: BTreeMap::from([(Role::Down, 4.0)]), ..floor.clone() };
    send(&mut screen, Allocate::Bound(nothing));
    let document = screen.state().document();
    assert_eq!(document.allocation.bounds, floor, "the bounds before stay");
    let notice = document.notice.clone().expect("the window says why");
    assert!(notice.is_error && notice.text.contains("down_proj"), "{notice:?}");
}

#[test]
fn the_window_says_why_a_layer_has_its_bits_and_what_is_predicted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    send(&mut screen, Allocate::Toggle);
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "the candidates are scored", |d| d.allocation.ready.is_some());
    let ready = screen.state().document().allocation.ready.clone().expect("scores");
    let [least, most] = ready.solved.range();
    send(&mut screen, Allocate::Spend(least + (most - least) / 3));
    let down = screen.state().model().checkpoint.find("model.layers.3.mlp.down_proj.weight");
    screen.state().send(Command::Select(down.into_iter().collect()));
    screen.run_steps(3);
    screen.get_by_label("Why 3 · down has what it has").click();
    screen.run_steps(4);
    assert!(screen.query_by_label_contains("a megabyte elsewhere saves").is_some());
    assert!(screen.query_by_label_contains("Up, ").is_some());
    assert!(screen.query_by_label_contains("Down, ").is_some());
    assert!(screen.query_by_label_contains("predicted damage").is_some());
    let other = Assignment::of(vec![rtn(4).with("group_size", 32)]);
    screen.state().send(Command::Assign(other));
    screen.run_steps(4);
    assert!(screen.query_all_by_label_contains("that were not scored").next().is_some());
}
