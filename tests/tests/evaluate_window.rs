//! Running the model in the window: a text scored, runs kept and deleted, a prompt continued, questions answered.

mod window;

use std::path::Path;

use egui::{Key, Modifiers};
use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::commands::evaluate::Evaluate;
use lapidary::document::Document;
use lapidary::document::evaluation::{Order, Page, What, Wish};
use lapidary_tests::sample_path;
use window::{Screen, open_sample, wait_until};

fn send(screen: &mut Screen, command: Evaluate) {
    screen.state().send(Command::Evaluate(command));
    screen.run_steps(3);
}

fn ask(screen: &mut Screen, change: impl FnOnce(&mut Wish)) {
    let mut wish = screen.state().document().evaluation.wish.clone();
    change(&mut wish);
    send(screen, Evaluate::Wish(wish));
}

fn is_idle(document: &Document) -> bool {
    document.evaluation.work.is_none()
}

fn wait_until_able(screen: &mut Screen) {
    wait_until(screen, "it is known whether the model can be run", |document| {
        document.model.as_ref().is_some_and(|model| model.calibrations.ability.is_some())
    });
}

fn assert_no_failure(screen: &Screen) {
    let failed = &screen.state().document().evaluation.failed;
    assert!(failed.is_none(), "{failed:?}");
}

#[test]
fn a_plan_is_scored_kept_and_held_against_the_original() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    wait_until_able(&mut screen);
    screen.key_press_modifiers(Modifiers::COMMAND, Key::R);
    screen.run_steps(4);
    assert!(screen.query_by_label_contains("No runs of this model yet").is_some());
    assert!(screen.query_by_label("heldout_oz.txt").is_some(), "the sample brings its text");
    screen.state().send(Command::SelectAll);
    screen.run_steps(2);
    screen.state().send(Command::SetBits(4));
    screen.run_steps(3);
    for (runs, what) in [(1, What::Original), (2, What::Plan)] {
        ask(&mut screen, |wish| {
            wish.what = what;
            wish.tokens = 512;
            wish.layers = true;
        });
        screen.get_by_label("Score").click();
        screen.run_steps(2);
        // A press may be taken in a frame later than it is made.
        let is_kept = |document: &Document| document.evaluation.runs.len() == runs;
        wait_until(&mut screen, "the text is scored", |document| {
            is_idle(document) && (is_kept(document) || document.evaluation.failed.is_some())
        });
        assert_no_failure(&screen);
    }
    let state = &screen.state().document().evaluation;
    assert_eq!(state.runs.len(), 2);
    let [original, plan] = [&state.runs[0].record, &state.runs[1].record];
    assert!(original.reference.is_none() && original.evaluation.mean_kl().is_none());
    assert!(plan.label.starts_with("4-bit"), "{}", plan.label);
    assert!(plan.bytes < original.bytes && !plan.layers.is_empty());
    assert!(plan.evaluation.mean_kl().expect("an original").value > 0.001);
    let beyond = plan.nats_beyond(original).expect("the same windows").value;
    let excess = plan.evaluation.excess_nats().expect("an original").value;
    assert!((beyond - excess).abs() < 1e-9, "{beyond} paired by record, {excess} paired as run");

    send(&mut screen, Evaluate::OrderBy(Order::Size));
    let first = screen.state().document().evaluation.ordered()[0].record.bytes;
    let forecast = screen.state().model().manifest().map(|manifest| manifest.weight_file_bytes());
    assert_eq!(Ok(first), forecast, "the bytes of a run are those of the weight files");
    assert_eq!(first, screen.state().document().evaluation.runs[1].record.bytes);
    let id = screen.state().document().evaluation.runs[1].id.clone();
    send(&mut screen, Evaluate::Choose(id.clone()));
    assert!(screen.query_by_label_contains("Output error of").is_some());
    send(&mut screen, Evaluate::Delete(id));
    assert_eq!(screen.state().document().evaluation.runs.len(), 1);
    screen.get_by_label("Bring it back").click();
    screen.run_steps(4);
    assert_eq!(screen.state().document().evaluation.runs.len(), 2);

    // A window opened later finds both.
    drop(screen);
    let mut screen = open_sample(folder.path());
    send(&mut screen, Evaluate::Show(Page::Text));
    wait_until(&mut screen, "the runs are listed", |d| d.evaluation.runs.len() == 2);
}

#[test]
fn a_long_run_is_stopped_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    wait_until_able(&mut screen);
    screen.key_press_modifiers(Modifiers::COMMAND, Key::R);
    screen.run_steps(4);
    ask(&mut screen, |wish| {
        wish.what = What::Original;
        wish.tokens = 60_000;
    });
    screen.get_by_label("Score").click();
    wait_until(&mut screen, "the run has begun", |document| !is_idle(document));
    screen.run_steps(2);
    screen.get_by_label("Cancel").click();
    wait_until(&mut screen, "the run is stopped", is_idle);
    assert_no_failure(&screen);
    assert!(screen.state().document().evaluation.runs.is_empty());
}

#[test]
fn a_pasted_text_is_scored_in_windows_of_the_length_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    wait_until_able(&mut screen);
    send(&mut screen, Evaluate::Show(Page::Text));
    screen.get_by_label("Paste").click();
    screen.run_steps(3);
    send(&mut screen, Evaluate::Score);
    assert!(is_idle(screen.state().document()), "there is no text yet");
    ask(&mut screen, |wish| {
        wish.what = What::Plan;
        wish.pasted = Some("The old man went down to the river to fetch water. ".repeat(20));
        wish.length = Some(32);
    });
    assert!(screen.query_by_label("in windows of").is_some());
    for runs in 1..=2 {
        send(&mut screen, Evaluate::Score);
        wait_until(&mut screen, "the text is scored", is_idle);
        assert_no_failure(&screen);
        // The second run has the same plan: only the text differs.
        ask(&mut screen, |wish| {
            wish.pasted = wish.pasted.as_ref().map(|text| text.to_uppercase());
        });
        assert_eq!(screen.state().document().evaluation.runs.len(), runs);
    }
    let runs = &screen.state().document().evaluation.runs;
    let [first, second] = [&runs[0].record, &runs[1].record];
    assert_eq!((first.text.length, second.text.length), (32, 32));
    assert!(first.evaluation.windows.len() > 5, "{}", first.evaluation.windows.len());
    assert_eq!(first.subject, second.subject);
    assert_ne!(first.text.fingerprint, second.text.fingerprint);
}

#[test]
fn prompts_are_continued_questions_answered_and_failures_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut screen = open_sample(folder.path());
    send(&mut screen, Evaluate::Show(Page::Prompt));
    ask(&mut screen, |wish| {
        wish.what = What::Original;
        wish.prompt = "The old man".to_owned();
        wish.generate = 6;
    });
    send(&mut screen, Evaluate::Continue);
    wait_until(&mut screen, "the prompt is continued", is_idle);
    assert_no_failure(&screen);
    let [mine, original] = &screen.state().document().evaluation.continued;
    assert_eq!((mine.len(), mine), (6, original), "the original continues as the original does");

    let questions = folder.path().join("q.jsonl");
    let line = "{\"question\": \"The sun rose in the\", \"choices\": [\"east\", \"zqxj vvk\"], \"answer\": 0}\n";
    lapidary_tests::write(&questions, line.as_bytes());
    send(&mut screen, Evaluate::Show(Page::Questions));
    ask(&mut screen, |wish| wish.questions = Some(questions));
    send(&mut screen, Evaluate::Answer);
    wait_until(&mut screen, "the questions are answered", is_idle);
    assert_no_failure(&screen);
    assert!(screen.query_by_label_contains("0 answers differ").is_some());

    ask(&mut screen, |wish| wish.what = What::Other(Path::new("nowhere").to_path_buf()));
    send(&mut screen, Evaluate::Show(Page::Text));
    send(&mut screen, Evaluate::Score);
    wait_until(&mut screen, "it has failed", is_idle);
    let failed = screen.state().document().evaluation.failed.clone().expect("a sentence");
    assert!(failed.contains("nowhere"), "{failed}");
    assert!(sample_path().is_dir());
}
