//! Spending a budget in the window: candidates scored, the slider moved, locks kept, one step of undo.

mod window;

use std::collections::BTreeMap;

use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::commands::allocate::Allocate;
use lapidary::commands::evolve::Evolve;
use lapidary::document::evolution::Wish;
use lapidary::document::{Document, Sheet};
use lapidary::jobs::Purpose;
use lapidary_engine::checkpoint::Role;
use lapidary_engine::plan::Assignment;
use lapidary_engine::scores::Bounds;
use lapidary_tests::{rtn, write};
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
fn starting_points_have_their_place_once_what_they_assign_is_scored() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    send(&mut screen, Allocate::Toggle);
    let places = |screen: &Screen| -> Vec<&str> {
        let presets = &screen.state().document().allocation.presets;
        presets.iter().map(|(title, _)| *title).collect()
    };
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "the usual candidates are scored", |d| d.allocation.ready.is_some());
    assert!(!places(&screen).contains(&"4 bits, ends kept"), "its clipping is searched");
    screen.get_by_label("Add starting points").click();
    screen.run_steps(3);
    let others = screen.state().document().allocation.wish.others.len();
    assert!(others > 1, "{others}");
    screen.get_by_label("Add starting points").click();
    screen.run_steps(3);
    assert_eq!(screen.state().document().allocation.wish.others.len(), others, "each once");
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "they are scored too", |d| {
        d.allocation.presets.iter().any(|(title, _)| *title == "4 bits, ends kept")
    });
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
    assert!(screen.query_by_label_contains("predicted mean weight damage").is_some());
    // The line at the bottom has the same number, as soon as every layer is estimated.
    wait_until(&mut screen, "every damage is known", |document| {
        document.model.as_ref().is_some_and(|model| model.mean_damage.unknown == 0)
    });
    let model = screen.state().model();
    let choice = ready.solved.choice_of(&model.checkpoint, model.plan()).expect("scored");
    let (shown, of) = (model.mean_damage, choice.damage);
    assert!((shown.mean / of - 1.0).abs() < 0.1, "{shown:?} against {of}");
    assert_eq!((shown.title(), shown.without), ("mean weight damage", 0));
    let other = Assignment::of(vec![rtn(4).with("group_size", 32)]);
    screen.state().send(Command::Assign(other));
    screen.run_steps(4);
    assert!(screen.query_all_by_label_contains("that were not scored").next().is_some());
}

#[test]
fn scores_are_set_right_and_a_search_goes_on_where_it_was_and_its_best_is_one_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    let text = folder.path().join("a.txt");
    let words = "The river ran down to the mill, and the miller looked at the water. ".repeat(40);
    write(&text, words.as_bytes());
    let purpose = Purpose::EvaluationText;
    screen.state().send(Command::TakePath(purpose, text));
    send(&mut screen, Allocate::Toggle);
    send(&mut screen, Allocate::Evolve(Evolve::Start));
    let notice = screen.state().document().notice.clone().expect("the window says why not");
    assert!(notice.is_error && notice.text.contains("Score"), "{notice:?}");
    send(&mut screen, Allocate::Score);
    wait_until(&mut screen, "the candidates are scored", |d| d.allocation.ready.is_some());
    let ready = screen.state().document().allocation.ready.clone().expect("scores");
    let [least, most] = ready.solved.range();
    let budget = least + (most - least) / 8;
    send(&mut screen, Allocate::Spend(budget));
    // Two bits everywhere leave much to be found.
    let [all, bits] = [Command::SelectAll, Command::SetBits(2)];
    screen.state().send(all);
    screen.run_steps(2);
    screen.state().send(bits);
    screen.run_steps(2);
    let before = screen.state().model().plan().clone();
    let wish = Wish { generations: 1, offspring: 3, tokens: [32, 64], seed: 3 };
    send(&mut screen, Allocate::Evolve(Evolve::Wish(wish)));
    send(&mut screen, Allocate::Refine);
    wait_until(&mut screen, "what hangs is measured", |d| d.allocation.work.is_none());
    let allocation = &screen.state().document().allocation;
    assert_eq!((&allocation.failed, allocation.budget), (&None, Some(budget)));
    let ready = allocation.ready.clone().expect("scores");
    let [measured, all] = ready.refinement.expect("it was set right").counts;
    assert!(measured >= 25 && measured < all, "{measured} of {all}");
    assert!(screen.query_by_label_contains("candidates measured, for").is_some());
    let run = |screen: &mut Screen, wish: Wish| {
        send(screen, Allocate::Evolve(Evolve::Wish(wish)));
        send(screen, Allocate::Evolve(Evolve::Start));
        wait_until(screen, "the search ends", |d| d.evolution.work.is_none());
        let state = &screen.state().document().evolution;
        assert_eq!(state.failed, None);
        state.run.clone().and_then(|run| Some((run.search?, run.problem))).expect("a search")
    };
    let (first, _) = run(&mut screen, wish);
    assert_eq!(first.generations().len(), 1);
    assert_eq!(first.generations()[0].population.len(), 3);
    let (second, problem) = run(&mut screen, Wish { generations: 4, ..wish });
    assert_eq!(second.generations()[..1], *first.generations(), "the same search went on");
    let best = second.best(&problem);
    assert!(ready.solved.bytes_of(&best) <= budget);
    // Below what fits, where one scrolls to.
    screen.get_by_label("Search on the model itself").click_accesskit();
    screen.run_steps(6);
    assert!(screen.query_by_label_contains("generation 4: KL").is_some());
    assert!(screen.query_by_label("Population of the last generation").is_some());
    send(&mut screen, Allocate::Evolve(Evolve::Take));
    let model = screen.state().model();
    let taken = ready.solved.choice_of(&model.checkpoint, model.plan()).expect("a choice");
    assert_eq!(taken.options, best.options);
    assert_ne!(*model.plan(), before, "four generations found something better");
    screen.state().send(Command::Undo);
    screen.run_steps(2);
    assert_eq!(*screen.state().model().plan(), before);
}

#[test]
fn one_stack_for_any_size_is_one_click_where_the_target_holds_stacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    send(&mut screen, Allocate::Toggle);
    let click = |screen: &mut Screen| {
        screen.get_by_label("One stack for any size").click();
        screen.run_steps(3);
    };
    click(&mut screen);
    assert!(screen.state().document().allocation.wish.others.is_empty(), "not held");
    screen.state().send(Command::SetTarget("archive"));
    screen.run_steps(3);
    click(&mut screen);
    let state = &screen.state().document().allocation;
    assert!(state.work.is_some() || state.ready.is_some(), "scored at once");
    let palette = state.wish.palette().expect("candidates");
    assert_eq!(palette.len(), 8);
    assert!(palette.iter().all(|of| of.label().contains("levels of signs")), "{palette:?}");
    send(&mut screen, Allocate::Cancel);
}
