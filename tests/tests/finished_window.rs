//! Finished checkpoints in the window: converted, cut, given other types, unpacked, squeezed, proved; refused, stopped, replaced.

mod window;

use std::path::{Path, PathBuf};

use egui::{Key, Modifiers, Role};
use egui_kittest::kittest::{By, NodeT as _, Queryable as _};
use lapidary::commands::Command;
use lapidary::commands::finished::Finished;
use lapidary::document::finished::{Bench, Form, Looked, Outcome, Task, why_not};
use lapidary::document::{Sheet, Slot};
use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Destination, LIST};
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::target;
use lapidary_tests::networks::gguf_of;
use lapidary_tests::{
    names_in, plan, read, read_folder, read_output, rtn, sample, sample_path, write,
};
use window::{Screen, open, open_sample, wait_until};

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

/// The sample, its MLPs compressed by a step, as an export.
fn made(step: Step, id: &str, folder: &Path) {
    made_of("*.mlp.*_proj.weight", step, id, folder);
}

/// The same of other layers.
fn made_of(pattern: &str, step: Step, id: &str, folder: &Path) {
    let sample = sample();
    let plan = plan(&sample, &[(pattern, vec![step])]).expect("a plan");
    let target = target::find(id).expect("a target");
    export::export(&sample, &plan, target, to(folder), &Silent)
        .unwrap_or_else(|error| panic!("{}", error.sentence()));
}

fn four() -> Step {
    rtn(4).with("group_size", 64)
}

fn bench(screen: &Screen, task: Task) -> &Bench {
    screen.state().document().finished.bench(task)
}

/// Changes what is entered, as a view does.
fn enter(screen: &mut Screen, task: Task, change: impl FnOnce(&mut Form)) {
    let mut form = bench(screen, task).form.clone();
    change(&mut form);
    screen.state().send(Command::Finished(Finished::Set(task, Box::new(form))));
    screen.state().send(Command::Finished(Finished::Look(task)));
    screen.run_steps(3);
    wait_until(screen, "it is known what the input holds", |d| d.finished.looking().is_none());
}

fn show(screen: &mut Screen, task: Task) {
    screen.state().send(Command::ToggleSheet(Sheet::Finished(task)));
    screen.run_steps(3);
    wait_until(screen, "it is known what the input holds", |d| d.finished.looking().is_none());
}

/// Clicks the button that begins and waits for the end.
fn carry_out(screen: &mut Screen, task: Task) {
    let why_not = why_not(screen.state().document(), task);
    assert_eq!(why_not, None);
    let is_button = |node: &egui_kittest::Node<'_>| {
        let label = node.accesskit_node().label().unwrap_or_default();
        node.accesskit_node().role() == Role::Button && label.starts_with(task.title())
    };
    let found = screen.query_all(By::new().predicate(|_| true)).find(is_button);
    found.expect("the button that begins").click();
    screen.run_steps(4);
    wait_until(screen, "it ends", |d| {
        !matches!(d.finished.bench(task).run, Slot::Idle | Slot::Running { .. })
    });
}

fn outcome(screen: &Screen, task: Task) -> &Outcome {
    match &bench(screen, task).run {
        Slot::Ready(done) => &done.outcome,
        other => panic!("{other:?}"),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn an_archive_is_converted_from_the_keyboard_on_and_opened() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(four(), "archive", &at("archive"));
    let mut screen = open(folder.path(), &at("archive"));
    screen.key_press_modifiers(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::T);
    screen.run_steps(3);
    let task = Task::Convert;
    assert_eq!(screen.state().document().sheet, Some(Sheet::Finished(task)));
    wait_until(&mut screen, "it is known what it holds", |d| {
        d.finished.bench(task).known().is_some()
    });
    // The open model, the target that keeps most, a folder named after both.
    let form = &bench(&screen, task).form;
    assert_eq!(form.input, text(&at("archive")));
    assert!(form.folder.ends_with(&format!("archive-{}", form.target.expect("a target"))));
    enter(&mut screen, task, |form| {
        form.target = Some("mlx");
        form.folder = text(&at("window"));
    });
    let prospect = bench(&screen, task).prospect().expect("known").clone().expect("it holds them");
    assert_eq!((prospect.compressed, prospect.dense_layers()), (18, 0));
    let promised = format!("Convert to {}", lapidary::theme::text::bytes(prospect.output_bytes));
    assert!(screen.query_by_label(&promised).is_some(), "the button says {promised}");
    carry_out(&mut screen, task);
    assert!(screen.query_by_label_contains("✔ Written, read back and proved").is_some());
    assert!(screen.query_by_label("Show in folder").is_some());
    let archive = Checkpoint::open(&at("archive")).unwrap();
    export::convert(&archive, target::find("mlx").unwrap(), to(&at("engine")), &Silent).unwrap();
    let files = read_output(&at("window"));
    assert_eq!(files, read_output(&at("engine")), "as the command line writes it");
    assert_eq!(files.values().map(|f| f.len() as u64).sum::<u64>(), prospect.output_bytes);
    screen.get_by_label("Open it").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the output is open", |document| {
        let model = document.model.as_ref();
        model.is_some_and(|model| model.checkpoint.title() == "window")
    });
    assert_eq!(screen.state().document().sheet, None);
    let layer = "model.layers.0.mlp.down_proj.weight";
    assert!(screen.state().model().checkpoint.find(layer).is_some(), "as what it decodes to");
}

#[test]
fn targets_that_cannot_load_it_say_why_and_are_not_converted_to() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Of a fused group one alone, which most targets must refuse.
    made_of("*.self_attn.q_proj.weight", four(), "archive", &at("archive"));
    let mut screen = open(folder.path(), &at("archive"));
    show(&mut screen, Task::Convert);
    let Some(Looked::Checkpoint { prospects, .. }) = bench(&screen, Task::Convert).known() else {
        panic!("a checkpoint");
    };
    assert_eq!(prospects.len(), target::writable().count(), "every target is listed");
    // One that the engine refuses, whatever the reason, is refused in the same words.
    let archive = Checkpoint::open(&at("archive")).unwrap();
    let refused: Vec<(&str, String)> =
        prospects.iter().filter_map(|(id, of)| Some((*id, of.clone().err()?))).collect();
    assert!(refused.len() >= 4, "{refused:?}");
    for (id, sentence) in refused {
        let target = target::find(id).unwrap();
        let done = export::convert(&archive, target, to(&at(id)), &Silent);
        assert_eq!(done.unwrap_err().sentence(), sentence);
        enter(&mut screen, Task::Convert, |form| form.target = Some(id));
        assert_eq!(why_not(screen.state().document(), Task::Convert), Some(sentence));
        screen.state().send(Command::Finished(Finished::Run(Task::Convert, false)));
        screen.run_steps(3);
        assert!(matches!(bench(&screen, Task::Convert).run, Slot::Idle), "{id} is not begun");
    }
}

#[test]
fn stacks_are_cut_to_a_size_that_is_held_against_what_they_take() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(Step::new("bitstack").with("levels", 3).with("rank", 2), "archive", &at("archive"));
    let mut screen = open(folder.path(), &at("archive"));
    show(&mut screen, Task::Convert);
    enter(&mut screen, Task::Convert, |form| {
        form.target = Some("archive");
        form.folder = text(&at("cut"));
    });
    let prospect = bench(&screen, Task::Convert).prospect().unwrap().clone().unwrap();
    let least = prospect.least_bytes.expect("stacks");
    let bytes = lapidary::theme::text::bytes;
    let range = format!("from {} to {}", bytes(least), bytes(prospect.weight_bytes));
    assert!(screen.query_by_label(&range).is_some(), "{range}");
    for (size, said) in
        [("12 parsecs".to_owned(), "is no size"), (format!("{}", least - 1), "With one level")]
    {
        enter(&mut screen, Task::Convert, |form| form.size = size);
        let why_not = why_not(screen.state().document(), Task::Convert);
        assert!(why_not.as_ref().is_some_and(|why| why.contains(said)), "{why_not:?}");
    }
    let size = u64::midpoint(least, prospect.weight_bytes);
    enter(&mut screen, Task::Convert, |form| form.size = format!("{size}"));
    carry_out(&mut screen, Task::Convert);
    let bytes = read_output(&at("cut"))["model.safetensors"].len() as u64;
    assert!(least < bytes && bytes <= size, "{bytes} of {size}");
    // A size of what is no stack is refused, not passed over.
    enter(&mut screen, Task::Convert, |form| form.target = Some("dense"));
    let why_not = why_not(screen.state().document(), Task::Convert);
    assert!(why_not.is_some_and(|why| why.contains("Only an archive of stacks")));
}

#[test]
fn a_gguf_file_gets_the_types_that_are_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(Step::new("gguf-blocks").with("type", "Q8_0"), "gguf", &at("gguf"));
    let file = gguf_of(&at("gguf"));
    let mut screen = open(folder.path(), &file);
    show(&mut screen, Task::Convert);
    assert!(screen.query_by_label("Types").is_some());
    let asked = why_not(screen.state().document(), Task::Convert);
    assert!(asked.is_some(), "no type is chosen for anybody");
    enter(&mut screen, Task::Convert, |form| form.kind = "Q4_K".to_owned());
    // What is not known to be calibrated cannot count by inputs.
    assert!(screen.query_by_label_contains("of which there is none of this file").is_some());
    enter(&mut screen, Task::Convert, |form| form.folder = text(&at("window")));
    let prospect = bench(&screen, Task::Convert).prospect().unwrap().clone().unwrap();
    carry_out(&mut screen, Task::Convert);
    let source = Checkpoint::open(&file).unwrap();
    let aim: target::Aim = target::find("gguf").unwrap().into();
    let (plan, _) =
        target::retype(&source, "Q4_K", &|_| lapidary_engine::method::Needs::Weights, aim).unwrap();
    export::export(&source, &plan, aim, to(&at("engine")), &Silent).unwrap();
    let files = read_output(&at("window"));
    assert_eq!(files, read_output(&at("engine")));
    assert_eq!(files.values().map(|f| f.len() as u64).sum::<u64>(), prospect.output_bytes);
}

#[test]
fn what_is_squeezed_comes_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut screen = open_sample(folder.path());
    show(&mut screen, Task::Squeeze);
    assert!(bench(&screen, Task::Squeeze).known().is_none(), "an estimate is asked for");
    screen.get_by_label("Estimate the size").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the size is estimated", |d| {
        d.finished.bench(Task::Squeeze).known().is_some()
    });
    let Some(&Looked::Squeezable(before, after)) = bench(&screen, Task::Squeeze).known() else {
        panic!("an estimate");
    };
    let estimated = export::estimate_squeezed(&sample_path(), None, &Silent).unwrap();
    assert_eq!((before, after), estimated);
    enter(&mut screen, Task::Squeeze, |form| form.folder = text(&at("small")));
    carry_out(&mut screen, Task::Squeeze);
    assert!(matches!(outcome(&screen, Task::Squeeze), Outcome::Squeezed(_)));
    assert!(screen.query_by_label("Open it").is_none(), "it is no model");
    show(&mut screen, Task::Unpack);
    // The open model has nothing to unpack, and the form says so.
    assert!(screen.query_by_label_contains("holds no compressed layer").is_some());
    enter(&mut screen, Task::Unpack, |form| {
        form.input = text(&at("small"));
        form.folder = text(&at("whole"));
    });
    carry_out(&mut screen, Task::Unpack);
    assert_eq!(read_folder(&at("whole")), read_folder(&sample_path()));
    assert!(!at("whole").join(LIST).exists());
}

#[test]
fn a_fine_tune_is_unpacked_with_its_base_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(four(), "dense", &at("tuned"));
    export::squeeze(&at("tuned"), Some(&sample_path()), to(&at("small")), &Silent).unwrap();
    let mut screen = open_sample(folder.path());
    show(&mut screen, Task::Unpack);
    enter(&mut screen, Task::Unpack, |form| {
        form.input = text(&at("small"));
        form.folder = text(&at("whole"));
    });
    let why = why_not(screen.state().document(), Task::Unpack).expect("a base is missing");
    assert!(why.contains("name that checkpoint"), "{why}");
    enter(&mut screen, Task::Unpack, |form| form.base = text(&sample_path()));
    carry_out(&mut screen, Task::Unpack);
    assert_eq!(read_folder(&at("whole")), read_folder(&at("tuned")));
}

#[test]
fn an_archive_is_unpacked_to_the_dense_export_of_the_same_plan() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(four(), "archive", &at("archive"));
    made(four(), "dense", &at("dense"));
    let mut screen = open(folder.path(), &at("archive"));
    screen.key_press_modifiers(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::D);
    screen.run_steps(3);
    enter(&mut screen, Task::Unpack, |form| form.folder = text(&at("plain")));
    let told = bench(&screen, Task::Unpack).known().and_then(|of| of.prospect("dense")).cloned();
    let told = told.expect("known").expect("any archive");
    carry_out(&mut screen, Task::Unpack);
    let files = read_output(&at("plain"));
    assert_eq!(files, read_output(&at("dense")));
    assert_eq!(files.values().map(|f| f.len() as u64).sum::<u64>(), told.output_bytes);
}

#[test]
fn an_output_is_proved_and_one_that_was_changed_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    made(four(), "compressed-tensors", &out);
    let mut screen = open_sample(folder.path());
    screen.key_press_modifiers(Modifiers::COMMAND.plus(Modifiers::SHIFT), Key::P);
    screen.run_steps(3);
    assert_eq!(bench(&screen, Task::Verify).form.base, text(&sample_path()), "the open model");
    enter(&mut screen, Task::Verify, |form| form.input = text(&out));
    carry_out(&mut screen, Task::Verify);
    assert!(screen.query_by_label_contains("✔ Proved: ").is_some());
    assert!(screen.query_by_label_contains("held against the report beside it").is_some());
    assert!(
        screen.query_by_label("18 compressed").is_some()
            && screen.query_by_label("0 missing").is_some()
    );
    // One bit of the last norm, and a file that is not there any more.
    let weights = out.join("model.safetensors");
    let mut bytes = read(&weights);
    let n = bytes.len();
    bytes[n - 1] ^= 1;
    write(&weights, &bytes);
    lapidary_engine::disk::remove_file(&out.join("tokenizer.json")).unwrap();
    carry_out(&mut screen, Task::Verify);
    let Outcome::Verified(found) = outcome(&screen, Task::Verify) else { panic!("a proof") };
    let faults = found.faults.clone();
    assert!(faults.len() >= 3, "{faults:?}");
    for fault in &faults {
        assert!(screen.query_by_label_contains(fault).is_some(), "{fault} is not shown");
    }
    assert!(screen.query_by_label_contains("model.norm.weight was copied").is_some());
    assert!(screen.query_by_label_contains("tokenizer.json").is_some());
    assert!(screen.query_by_label_contains("Check that the source is the one").is_some());
    let copied = lapidary::document::finished::proof_text(found);
    assert!(faults.iter().all(|fault| copied.contains(&format!("fault: {fault}\n"))));
    assert!(copied.starts_with("not proved: ") && copied.contains("model.norm.weight\tchanged\t"));
    screen.get_by_label("Copy").click();
    screen.run_steps(3);
    let notice = screen.state().document().notice.clone().expect("the status bar says so");
    assert_eq!(notice.text, format!("Copied {} lines to the clipboard", copied.lines().count()));
}

#[test]
fn what_is_there_is_replaced_after_a_question_and_what_is_not_ours_never() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(four(), "archive", &at("archive"));
    write(&at("precious").join("thesis.tex"), b"years");
    let mut screen = open(folder.path(), &at("archive"));
    show(&mut screen, Task::Convert);
    for (out, is_ours) in [("precious", false), ("own", true)] {
        if is_ours {
            made(four(), "dense", &at(out));
        }
        enter(&mut screen, Task::Convert, |form| {
            form.target = Some("mlx");
            form.folder = text(&at(out));
        });
        screen.state().send(Command::Finished(Finished::Run(Task::Convert, false)));
        screen.run_steps(3);
        assert!(screen.state().document().question.is_some());
        screen.get_by_label("Replace it").click();
        screen.run_steps(2);
        wait_until(&mut screen, "it ends", |d| d.finished.at_work().is_none());
        assert_eq!(matches!(bench(&screen, Task::Convert).run, Slot::Ready(_)), is_ours, "{out}");
    }
    assert!(at("precious").join("thesis.tex").exists(), "a folder that is not ours stays");
}

#[test]
fn what_is_stopped_leaves_nothing_but_what_it_goes_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    made(four(), "archive", &at("archive"));
    let mut screen = open(folder.path(), &at("archive"));
    show(&mut screen, Task::Convert);
    std::fs::create_dir(at("outputs")).unwrap();
    let out = at("outputs").join("out");
    enter(&mut screen, Task::Convert, |form| {
        form.target = Some("mlx");
        form.folder = text(&out);
    });
    screen.state().send(Command::Finished(Finished::Run(Task::Convert, false)));
    screen.state().send(Command::Finished(Finished::Cancel));
    screen.step();
    let document = screen.state().document();
    assert!(document.would_lose_something(), "closing would ask");
    assert!(why_not(document, Task::Verify).is_some_and(|why| why.contains("at work")));
    wait_until(&mut screen, "it is stopped", |d| d.finished.at_work().is_none());
    // In the form and in the status bar.
    assert_eq!(screen.query_all_by_label_contains("Cancelled").count(), 2);
    assert!(!out.exists());
    let left = names_in(&at("outputs"));
    assert!(left.iter().all(|name| name == ".out.lapidary-work"), "{left:?}");
    // The same once more goes to the end, and a window that closes over it leaves nothing half-written.
    carry_out(&mut screen, Task::Convert);
    assert_eq!(names_in(&at("outputs")), ["out"]);
    enter(&mut screen, Task::Convert, |form| form.folder = text(&at("outputs").join("other")));
    screen.state().send(Command::Finished(Finished::Run(Task::Convert, false)));
    screen.step();
    drop(screen);
    let other = at("outputs").join("other");
    assert!(!other.exists() || Checkpoint::open(&other).is_ok(), "whole or not there");
    assert!(!at("outputs").join(".other.lapidary-work").join("partial").exists());
}

/// What of the small window reaches beyond the large one.
fn cut_off(screen: &Screen) -> Vec<String> {
    let is_out = |node: &egui_kittest::Node<'_>| {
        node.accesskit_node().raw_bounds().is_some_and(|of| of.x1 > 1280.5 || of.x0 < -0.5)
    };
    let all = screen.query_all(By::new().predicate(|_| true));
    all.filter(is_out).map(|node| format!("{node:?}")).collect()
}

#[test]
fn every_form_fits_the_smallest_window_empty_refused_and_filled() {
    let folder = tempfile::tempdir().unwrap();
    let archive: PathBuf = folder.path().join("archive");
    made(four(), "archive", &archive);
    for path in [sample_path(), archive] {
        let mut screen = open(folder.path(), &path);
        for task in Task::ALL {
            show(&mut screen, task);
            let cut = cut_off(&screen);
            assert!(cut.is_empty(), "{task:?}: {cut:?}");
            let folder_row = screen.query_all_by_label("Folder").next().map(|node| node.rect());
            assert!(
                task == Task::Verify || folder_row.is_some_and(|of| of.bottom() < 700.0),
                "{task:?}"
            );
            screen.key_press(Key::Escape);
            screen.run_steps(3);
            assert_eq!(screen.state().document().sheet, None, "Escape closes {task:?}");
        }
    }
    // Without a model there is nothing to suggest, and nothing begins.
    let mut screen = window::open_window(folder.path(), None);
    screen.run_steps(3);
    for task in Task::ALL {
        show(&mut screen, task);
        assert!(bench(&screen, task).form.input.is_empty() || task == Task::Verify);
        assert!(why_not(screen.state().document(), task).is_some());
    }
}
