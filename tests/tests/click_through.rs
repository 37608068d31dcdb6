//! The whole path through the window without a display: open, filter, select, set bits, undo, redo, save, reopen, export.

mod window;

use std::path::{Path, PathBuf};

use egui::{Key, Modifiers, Role};
use egui_kittest::kittest::{By, NodeT as _, Queryable as _};
use lapidary::commands::Command;
use lapidary::document::look::Tab;
use lapidary::document::model::Side;
use lapidary::document::settings::Settings;
use lapidary::document::{Document, Slot};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::target::Severity;
use lapidary_tests::sample_path;
use window::{Screen, open_sample, open_window, wait_until};

fn label_of(screen: &Screen, name: &str) -> String {
    let model = screen.state().model();
    model.assignment(model.checkpoint.find(name).expect("a layer of the sample")).label()
}

const DOWN: &str = "model.layers.3.mlp.down_proj.weight";

#[test]
fn from_opening_to_export() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.get_by_role(Role::TextInput).focus();
    screen.get_by_role(Role::TextInput).type_text("layers.3 down");
    screen.run_steps(4);
    assert_eq!(screen.state().model().rows().len(), 1, "the filter leaves one layer");
    screen.get_by_label("3 · down").click();
    screen.run_steps(4);
    let layer = screen.state().model().checkpoint.find(DOWN);
    assert_eq!(screen.state().model().selection.cursor(), layer);

    screen.key_press(Key::Num4);
    screen.run_steps(4);
    assert_eq!(label_of(&screen, DOWN), "4-bit g128");
    assert!(
        screen.query_by_label_contains("101,392 bytes").is_some(),
        "the form says what the layer will weigh"
    );
    wait_until(&mut screen, "the error is measured", |document| {
        document.model.as_ref().is_some_and(|m| m.preview.is_some())
    });
    assert!(screen.query_by_label_contains("(measured)").is_some());

    screen.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    screen.run_steps(4);
    assert_eq!(label_of(&screen, DOWN), "keep");
    screen.key_press_modifiers(Modifiers::COMMAND, Key::Y);
    screen.run_steps(4);
    assert_eq!(label_of(&screen, DOWN), "4-bit g128");

    let project = folder.path().join("plan.ron");
    screen.state().send(Command::SaveAs(project.clone()));
    screen.run_steps(4);
    assert!(!screen.state().document().has_unsaved_changes());
    screen.key_press(Key::Num0);
    screen.run_steps(4);
    screen.state().send(Command::Open(project));
    screen.run_steps(4);
    assert!(screen.state().document().question.is_some(), "losing a change is asked about");
    screen.get_by_label("Lose them and open").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the project is open again", |document| {
        document.model.as_ref().is_some_and(|model| model.project.is_some() && !model.is_changed())
    });
    assert_eq!(label_of(&screen, DOWN), "4-bit g128");

    let out = folder.path().join("out");
    screen.key_press_modifiers(Modifiers::COMMAND, Key::E);
    screen.run_steps(4);
    screen.state().send(Command::SetExportFolder(out.display().to_string()));
    screen.run_steps(4);
    let bytes = screen.state().model().manifest().expect("a legal plan").total_bytes();
    let button = format!("Export {}", lapidary::theme::text::bytes(bytes));
    screen.get_by_label(&button).click();
    screen.run_steps(2);
    wait_until(&mut screen, "the export is done", |document| {
        matches!(document.export, Slot::Ready(_) | Slot::Failed(_))
    });
    assert!(
        matches!(screen.state().document().export, Slot::Ready(_)),
        "{:?}",
        screen.state().document().notice
    );
    let exported = Checkpoint::open(&out).expect("the export opens");
    assert!(exported.find("model.layers.3.mlp.down_proj.weight_packed").is_some());
    let on_disk: u64 =
        lapidary_engine::disk::list_files(&out).unwrap().iter().map(|(_, bytes)| bytes).sum();
    let of = |name: &str| lapidary_engine::disk::file_bytes(&out.join(name)).unwrap();
    let report = of("lapidary-report.json") + of("lapidary-report.html");
    assert_eq!(on_disk, bytes + report, "the button promised the size of the folder");
}

#[test]
fn everything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    wait_until(&mut screen, "everything is measured", |document| {
        document.model.as_ref().is_some_and(|model| {
            let (done, all) = model.progress();
            done == all
        })
    });
    assert!(screen.query_by_label_contains("measuring").is_none());
    screen.get_by_label("Spectrum").click();
    screen.run_steps(3);
    assert!(screen.query_all_by_label("effective rank").next().is_some());
}

#[test]
fn the_map_selects_and_fused_layers_are_assigned_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    screen.get_by_label("map 2 · k").click();
    screen.run_steps(4);
    screen.key_press(Key::Num8);
    screen.run_steps(4);
    for part in ["q", "k", "v"] {
        assert_eq!(
            label_of(&screen, &format!("model.layers.2.self_attn.{part}_proj.weight")),
            "8-bit g128"
        );
    }
    assert_eq!(label_of(&screen, "model.layers.2.self_attn.o_proj.weight"), "keep");
    assert_eq!(screen.state().model().outcome.count(Severity::Error), 0);
}

#[test]
fn methods_are_found_in_the_palette_and_set_on_what_is_selected() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let method = |id: &str| lapidary_engine::method::find(id).expect("a method").about();
    let nearest = method("round-to-nearest");
    let take = |screen: &mut Screen| {
        screen.key_press_modifiers(Modifiers::COMMAND, Key::K);
        screen.run_steps(3);
        screen.state().send(Command::TypePalette(nearest.title.to_lowercase()));
        screen.run_steps(3);
        screen.get_by_label(&format!("Method: {}", nearest.title)).click();
        screen.run_steps(4);
    };
    screen.get_by_label("map 3 · down").click();
    screen.run_steps(3);
    take(&mut screen);
    assert!(label_of(&screen, DOWN).starts_with("4-bit"), "{}", label_of(&screen, DOWN));
    assert_eq!(screen.state().document().sheet, None);
    screen.key_press_modifiers(Modifiers::COMMAND, Key::Z);
    screen.run_steps(4);
    assert_eq!(label_of(&screen, DOWN), "keep", "it is one step of undo");
    // What lacks a calibration is refused with the reason.
    screen.state().send(Command::SetMethod(method("gptq").id));
    screen.run_steps(3);
    assert_eq!(label_of(&screen, DOWN), "keep");
    let notice = screen.state().document().notice.clone().expect("the window says why");
    assert!(notice.text.contains("needs the Gram matrix"), "{notice:?}");
    screen.state().send(Command::Select(Vec::new()));
    screen.run_steps(3);
    take(&mut screen);
    let notice = screen.state().document().notice.clone().expect("the window says why");
    assert!(notice.text.contains("Select weight matrices first"), "{notice:?}");
}

#[test]
fn locked_layers_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let down = screen.state().model().checkpoint.find("model.layers.1.mlp.down_proj.weight");
    screen.get_by_label("map 1 · down").click();
    screen.run_steps(3);
    assert_eq!(screen.state().model().selection.cursor(), down);
    screen.key_press(Key::L);
    screen.run_steps(3);
    assert_eq!(screen.state().model().history.undo_label(), Some("Lock 1 layer"));
    screen.key_press_modifiers(Modifiers::COMMAND, Key::A);
    screen.run_steps(3);
    screen.key_press(Key::Num4);
    screen.run_steps(3);
    assert_eq!(label_of(&screen, "model.layers.1.mlp.down_proj.weight"), "keep");
    assert_eq!(label_of(&screen, "model.layers.2.mlp.down_proj.weight"), "4-bit g128");
    let notice = screen.state().document().notice.clone().expect("the window says so");
    assert!(notice.text.contains("1 layer locked"), "{notice:?}");
}

#[test]
fn a_failed_open_keeps_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let bad = folder.path().join("bad.safetensors");
    lapidary_engine::disk::write_file(&bad, b"not a model at all").unwrap();
    screen.state().send(Command::Open(bad));
    screen.run_steps(2);
    wait_until(&mut screen, "the failure is said", |document| {
        matches!(document.opening, Slot::Failed(_))
    });
    assert_eq!(screen.state().model().checkpoint.title(), "sample-books-6m");
    let notice = screen.state().document().notice.clone().expect("the status bar says why");
    assert!(notice.is_error && notice.text.contains("bad.safetensors"), "{notice:?}");
}

#[test]
fn the_first_start_opens_the_sample_and_the_second_welcomes() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_window(folder.path(), None);
    screen.step();
    wait_until(&mut screen, "the sample is open", |document| document.model.is_some());
    assert_eq!(screen.state().model().checkpoint.title(), "sample-books-6m");
    drop(screen);
    let mut screen = open_window(folder.path(), None);
    screen.run_steps(3);
    assert!(screen.state().document().model.is_none());
    assert!(screen.query_by_label("Recent").is_some(), "the welcome lists what was open");
}

#[test]
fn an_export_over_an_existing_folder_asks_first_and_can_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("precious");
    lapidary_engine::disk::write_file(&out.join("thesis.tex"), b"years").unwrap();
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SetExportFolder(out.display().to_string()));
    screen.state().send(Command::Export(false));
    screen.run_steps(3);
    assert!(screen.state().document().question.is_some());
    screen.get_by_label("Replace it").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the export is refused", |document| {
        matches!(document.export, Slot::Failed(_))
    });
    assert!(out.join("thesis.tex").exists(), "a folder that is not ours is never removed");
}

#[test]
fn a_window_closed_during_an_export_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("exports").join("out");
    let mut screen = open_sample(folder.path());
    screen.state().send(Command::SelectAll);
    screen.state().send(Command::SetBits(4));
    screen.state().send(Command::SetExportFolder(out.display().to_string()));
    screen.state().send(Command::Export(false));
    screen.step();
    assert!(screen.state().document().export.is_running());
    drop(screen);
    let exports = folder.path().join("exports");
    let left = lapidary_tests::names_in(&exports);
    // Layers that were finished by then stay for the next attempt, and only they.
    let workplace = ".out.lapidary-work";
    assert!(left.iter().all(|name| name == "out" || name == workplace), "left behind: {left:?}");
    if exports.join(workplace).exists() {
        assert_eq!(lapidary_tests::names_in(&exports.join(workplace)), ["finished"]);
    }
    assert!(!out.exists() || Checkpoint::open(&out).is_ok(), "the folder is whole or not there");
}

#[test]
fn every_action_can_be_done_with_and_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    for with_model in [false, true] {
        for action in lapidary::commands::actions::ACTIONS {
            let command = (action.command)();
            // A dialog of the system would wait for a person.
            if matches!(command, Command::Pick(_))
                || (matches!(command, Command::Save) && with_model)
            {
                continue;
            }
            let mut screen = if with_model {
                open_sample(folder.path())
            } else {
                // The second start: nothing is opened by itself.
                Settings::default().save(folder.path());
                open_window(folder.path(), None)
            };
            screen.step();
            if (action.enabled)(screen.state().document()) {
                screen.state().send(command);
            }
            screen.run_steps(3);
            if !matches!((action.command)(), Command::OpenSample) {
                assert_eq!(
                    screen.state().document().model.is_some(),
                    with_model,
                    "{}",
                    action.title
                );
            }
        }
    }
}

/// A folder dragged onto the window.
#[derive(Debug)]
struct Dropped(PathBuf);

impl egui::DroppedFile for Dropped {
    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        Err("a folder has no bytes".to_owned())
    }
}

#[test]
fn a_folder_dropped_on_the_window_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    Settings::default().save(folder.path());
    let mut screen = open_window(folder.path(), None);
    screen.run_steps(2);
    assert!(screen.state().document().model.is_none());
    screen.input_mut().dropped_files.push(std::sync::Arc::new(Dropped(sample_path())));
    screen.step();
    wait_until(&mut screen, "what was dropped is open", |document| document.model.is_some());
    assert_eq!(screen.state().model().checkpoint.title(), "sample-books-6m");
    let recent = &screen.state().document().settings.recent;
    assert_eq!(recent.len(), 1, "it is among the recent ones");
}

/// What reaches over the right edge of the window.
fn cut_at_the_right(screen: &Screen) -> Vec<String> {
    let reaches = |node: &egui_kittest::Node<'_>| {
        node.accesskit_node().raw_bounds().is_some_and(|bounds| bounds.x1 > 1280.5)
    };
    let all = screen.query_all(By::new().predicate(|_| true));
    all.filter(reaches).map(|node| format!("{node:?}")).collect()
}

#[test]
fn the_map_stays_where_it_is_whatever_arrives_or_is_shown_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let place = |screen: &Screen| screen.get_by_label("map 1 · down").rect();
    let home = place(&screen);
    let is_measured = |screen: &Screen| {
        let (done, all) = screen.state().model().progress();
        done == all
    };
    while !is_measured(&screen) {
        screen.step();
        assert_eq!(place(&screen), home, "a click must not land beside what it was aimed at");
    }
    let all: Vec<usize> = screen.state().model().rows().to_vec();
    for (selected, bits) in [(&all[..1], Key::Num0), (&all[4..5], Key::Num4), (&all, Key::Num4)] {
        screen.state().send(Command::Select(selected.to_vec()));
        screen.key_press(bits);
        for (tab, title, _) in Tab::ALL {
            screen.state().send(Command::SetTab(tab));
            for _ in 0..40 {
                screen.step();
                assert_eq!(place(&screen), home, "{title}, {bits:?}");
            }
            let cut = cut_at_the_right(&screen);
            assert!(cut.is_empty(), "{title}, {bits:?}: {cut:?}");
        }
        for side in [Side::Rules, Side::Problems, Side::History, Side::Layers] {
            screen.state().send(Command::SetSide(side));
            screen.run_steps(4);
            assert_eq!(place(&screen), home, "{side:?}, {bits:?}");
        }
    }
}

#[test]
fn the_export_form_says_what_an_export_takes_and_of_which_plan() {
    let folder = tempfile::tempdir().unwrap();
    let mut screen = open_sample(folder.path());
    let layer = screen.state().model().checkpoint.find(DOWN).expect("a layer of the sample");
    screen.state().send(Command::Select(vec![layer]));
    screen.run_steps(4);
    screen.key_press(Key::Num4);
    screen.run_steps(4);
    screen.state().send(Command::SetExportFolder(folder.path().join("out").display().to_string()));
    screen.key_press_modifiers(Modifiers::COMMAND, Key::E);
    screen.run_steps(2);
    let is_told = |document: &Document| matches!(document.foretold, Slot::Ready(_));
    wait_until(&mut screen, "time, disk and memory are told", is_told);
    screen.run_steps(2);
    for line in ["Time: some 1 s, an estimate", "Disk: ", "Memory: at most "] {
        assert!(screen.query_by_label_contains(line).is_some(), "{line} is not shown");
    }
    let Slot::Ready(foretold) = &screen.state().document().foretold else { panic!("it is told") };
    assert_eq!((foretold.forecast.layers, foretold.estimate.layers.tried), (1, 1));
    let bytes = screen.state().model().manifest().expect("a legal plan").total_bytes();
    assert_eq!(foretold.forecast.output_bytes, bytes);
    // Another plan is another export.
    screen.state().send(Command::Undo);
    screen.run_steps(4);
    assert!(screen.query_by_label_contains("for another plan, folder").is_some());
    screen.get_by_label("Estimate again").click();
    screen.run_steps(2);
    wait_until(&mut screen, "it is told again", |document| match &document.foretold {
        Slot::Ready(foretold) => foretold.forecast.layers == 0,
        _ => false,
    });
    // So is another folder, and an export that begins ends the estimate.
    screen.state().send(Command::SetExportFolder(folder.path().join("else").display().to_string()));
    screen.run_steps(2);
    assert!(screen.query_by_label_contains("for another plan, folder").is_some());
    screen.get_by_label("Estimate again").click();
    screen.state().send(Command::Export(false));
    screen.run_steps(2);
    assert!(matches!(screen.state().document().foretold, Slot::Idle));
    wait_until(&mut screen, "the export ends", |document| !document.export.is_running());
    screen.run_steps(2);
    assert!(screen.query_by_label("Estimate time, disk and memory").is_some());
}
