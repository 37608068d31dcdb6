//! A window that is killed in the middle of work loses nothing but the gesture at hand.

mod window;

use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use egui::Key;
use egui_kittest::kittest::Queryable as _;
use lapidary::commands::Command;
use lapidary::document::recovery::{Unsaved, orphans};
use lapidary_engine::plan::Plan;
use lapidary_tests::sample_path;
use window::{Screen, open_sample, open_window, wait_until};

/// Where the killed window keeps its data; set only in the process that is killed.
const HOME: &str = "LAPIDARY_TEST_KILLED_HOME";

/// The window that is killed: it assigns bits to one layer after the other, for ever. Without the variable, which
/// only [`killed_after`] sets, there is nothing to do.
#[test]
fn the_window_that_is_killed() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let mut screen = open_sample(Path::new(&home));
    for bits in [Key::Num4, Key::Num8].into_iter().cycle() {
        screen.key_press(Key::ArrowDown);
        screen.run_steps(2);
        screen.key_press(bits);
        screen.run_steps(2);
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs that window until `steps` layers were kept on disk, and kills it; gives what was on disk then.
fn killed_after(steps: usize, home: &Path) -> Unsaved {
    let child = Process::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_window_that_is_killed"])
        .env(HOME, home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("another window");
    let mut killed = Killed(child);
    let path = home.join("recovery").join("0.ron");
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < Duration::from_mins(2), "nothing was kept");
        assert!(killed.0.try_wait().expect("a state").is_none(), "the window ended by itself");
        assert!(orphans(home).is_empty(), "it is still held");
        let kept = Unsaved::read(&path).ok();
        if kept.is_some_and(|kept| kept.project.plan.0.len() >= steps) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(killed);
    Unsaved::read(&path).expect("whole, not half-written")
}

fn plan(screen: &Screen) -> Plan {
    Plan::clone(screen.state().model().plan())
}

#[test]
fn work_is_recovered_after_the_window_was_killed() {
    let home = tempfile::tempdir().unwrap();
    let kept = killed_after(5, home.path());
    let mut screen = open_window(home.path(), None);
    screen.step();
    wait_until(&mut screen, "it asks", |document| document.question.is_some());
    assert!(screen.query_by_label_contains("ended without saving its plan").is_some());
    screen.get_by_label("Open it").click();
    screen.run_steps(2);
    wait_until(&mut screen, "the work is there", |document| {
        document.model.as_ref().is_some_and(|model| !model.plan().is_empty())
    });
    let model = screen.state().model();
    assert!(model.is_changed(), "it is not saved yet");
    assert_eq!(model.checkpoint.path(), sample_path().canonicalize().unwrap());
    let wanted = kept.project.draft(&model.checkpoint).unwrap();
    assert_eq!(plan(&screen), **wanted.plan());
    assert!(plan(&screen).len() >= 5);
    // What is on disk now is this window's own, so that a second crash loses nothing either.
    let own = home.path().join("recovery").join("1.ron");
    let begun = Instant::now();
    while !own.exists() || home.path().join("recovery").join("0.ron").exists() {
        assert!(begun.elapsed() < Duration::from_mins(1), "not kept anew");
        screen.step();
        std::thread::sleep(Duration::from_millis(5));
    }
    screen.state().send(Command::SaveAs(home.path().join("saved.ron")));
    screen.run_steps(4);
    drop(screen);
    assert!(orphans(home.path()).is_empty());
    assert!(!own.exists(), "saved work is not kept twice");
}

#[test]
fn work_that_is_not_wanted_is_thrown_away() {
    let home = tempfile::tempdir().unwrap();
    killed_after(1, home.path());
    let mut screen = open_window(home.path(), None);
    screen.step();
    wait_until(&mut screen, "it asks", |document| document.question.is_some());
    screen.get_by_label("Throw it away").click();
    screen.run_steps(3);
    assert!(screen.state().document().question.is_none());
    assert!(orphans(home.path()).is_empty());
}
