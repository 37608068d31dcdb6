//! Spending a budget in the window: candidates scored, the slider moved, locks kept, one step of undo.

mod window;

use lapidary::commands::Command;
use lapidary::commands::allocate::Allocate;
use lapidary::document::{Document, Sheet};
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
