//! Blocks taken out through the window: by key and by menu, with the sizes of what is left, in one step of undo.

mod window;

use egui::{Key, Modifiers};
use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::commands::removal::Parts;
use lapidary_engine::checkpoint::Removal;
use lapidary_engine::target::{Manifest, Severity};
use window::{Screen, open_sample};

fn removed(screen: &Screen) -> String {
    screen.state().model().plan().removal().told()
}

#[test]
fn a_block_is_taken_out_by_a_key_and_put_back_by_undo() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let before = screen.state().model().outcome.tensor_bytes;
    screen.get_by_label("map 2 · down").click();
    screen.run_steps(2);
    screen.key_press(Key::Delete);
    screen.run_steps(2);
    assert_eq!(removed(&screen), "block 2");
    let model = screen.state().model();
    let of_block = |layer: &usize| model.checkpoint.tensors()[*layer].place.block == Some(2);
    let (gone, left): (Vec<usize>, Vec<usize>) =
        (0..model.checkpoint.tensors().len()).partition(|layer| of_block(layer));
    assert!(gone.iter().all(|&layer| model.is_removed(layer) && model.bytes(layer) == 0));
    assert!(left.iter().all(|&layer| !model.is_removed(layer) && model.bytes(layer) > 0));
    let bytes: u64 = gone.iter().map(|&layer| model.checkpoint.tensors()[layer].bytes()).sum();
    assert_eq!(model.outcome.tensor_bytes, before - bytes);
    let reduced = model.plan().reduced(&model.checkpoint).unwrap().unwrap();
    // What is kept is in BF16, so that weights that are left have 16 bits each.
    assert_eq!(model.outcome.tensor_bytes * 8, model.outcome.parameters * 16);
    let wanted = Manifest::new(&reduced.checkpoint, &reduced.plan, model.target).unwrap();
    assert_eq!(model.manifest().unwrap().total_bytes(), wanted.total_bytes());
    assert!(model.outcome.laid_out.lints.iter().any(|lint| lint.id == "removed"));
    assert_eq!(model.outcome.count(Severity::Error), 0);
    let notice = screen.state().document().notice.as_ref().unwrap().text.clone();
    assert!(notice.contains("Take out block 2") && notice.contains("Ctrl+R"), "{notice}");
    screen.get_by_label("map 2 · down");
    screen.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    screen.run_steps(2);
    assert_eq!(
        (removed(&screen).as_str(), screen.state().model().outcome.tensor_bytes),
        ("", before)
    );
    // The same key puts back what is out, and not all blocks go.
    screen.key_press(Key::Delete);
    screen.run_steps(2);
    screen.key_press(Key::Delete);
    screen.run_steps(2);
    assert_eq!(removed(&screen), "");
    screen.key_press_modifiers(Modifiers::COMMAND, Key::A);
    screen.run_steps(2);
    screen.key_press(Key::Delete);
    screen.run_steps(2);
    assert_eq!(removed(&screen), "");
    let notice = screen.state().document().notice.as_ref().unwrap().text.clone();
    assert!(notice.contains("leave at least one block"), "{notice}");
    // The sample has no experts.
    screen.state().send(Command::ToggleRemoval(Parts::Experts));
    screen.run_steps(2);
    assert!(screen.state().model().plan().removal().is_empty());
}

#[test]
fn the_menu_of_a_layer_takes_its_block_out_and_puts_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    for (title, wanted) in
        [("Take out block 4", Removal::of_blocks([4])), ("Put block 4 back", Removal::default())]
    {
        screen.get_by_label("map 4 · down").click_secondary();
        screen.run_steps(4);
        screen.get_by_label_contains(title).click();
        screen.run_steps(4);
        assert_eq!(*screen.state().model().plan().removal(), wanted, "{title}");
    }
}
