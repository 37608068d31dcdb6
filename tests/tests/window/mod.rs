//! The window without a display, for tests that click through it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egui_kittest::Harness;
use lapidary::app::App;
use lapidary::commands::Command;
use lapidary::document::Document;
use lapidary::document::model::Model;
use lapidary_tests::sample_path;

/// The window as a person would have it, made with the first frame.
pub(crate) struct Window {
    app: Option<App>,
    home: PathBuf,
    path: Option<PathBuf>,
}

impl Window {
    /// What is open.
    pub(crate) fn document(&self) -> &Document {
        self.app.as_ref().expect("the first frame has run").document()
    }

    /// The open model.
    pub(crate) fn model(&self) -> &Model {
        self.document().model.as_deref().expect("a model is open")
    }

    /// Sends a command as a view would.
    pub(crate) fn send(&self, command: Command) {
        self.app.as_ref().expect("the first frame has run").send(command);
    }
}

/// The window with its frames.
pub(crate) type Screen = Harness<'static, Window>;

/// A window whose own data lies in `home`.
pub(crate) fn open_window(home: &Path, path: Option<PathBuf>) -> Screen {
    let window = Window { app: None, home: home.to_path_buf(), path };
    let frame = |ui: &mut egui::Ui, window: &mut Window| {
        let app = window.app.get_or_insert_with(|| {
            App::new(ui.ctx(), window.home.clone(), window.path.take())
                .expect("threads for the window")
        });
        app.logic(ui.ctx());
        app.ui(ui);
    };
    Harness::builder().with_size(egui::vec2(1280.0, 720.0)).build_ui_state(frame, window)
}

/// How long background work is waited for: only a test that hangs takes so long, also on a machine at work.
const PATIENCE: Duration = Duration::from_mins(10);

/// Draws frames until something holds; background work takes its time.
#[track_caller]
pub(crate) fn wait_until(screen: &mut Screen, what: &str, holds: impl Fn(&Document) -> bool) {
    let begin = Instant::now();
    while !holds(screen.state().document()) {
        assert!(
            begin.elapsed() < PATIENCE,
            "waited in vain until {what}; {:?}",
            screen.state().document().notice
        );
        screen.step();
        std::thread::sleep(Duration::from_millis(2));
    }
    screen.run_steps(3);
}

/// A window on a checkpoint, as soon as it is open.
pub(crate) fn open(home: &Path, path: &Path) -> Screen {
    let mut screen = open_window(home, Some(path.to_path_buf()));
    screen.step();
    wait_until(&mut screen, "the model is open", |document| document.model.is_some());
    screen
}

/// A window on the sample.
pub(crate) fn open_sample(home: &Path) -> Screen {
    open(home, &sample_path())
}
