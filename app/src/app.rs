//! The window: drains jobs and applies commands in `logic`, lays out panels in `ui`.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use egui::{Context, Ui, ViewportCommand};

use crate::commands::{Command, absorb, apply, look_again, pressed};
use crate::document::Document;
use crate::document::calibrations::{Ask, is_text};
use crate::document::draft::Draft;
use crate::document::project::Project;
use crate::document::recovery::{Keeper, Unsaved};
use crate::document::settings::{Colours, Settings};
use crate::jobs::Jobs;
use crate::theme::{self, Tokens};
use crate::views::{self, ViewContext};

/// Answers of background work taken in one frame; the rest wait for the next.
const EVENTS_A_FRAME: usize = 500;

/// The application: a document, background work, and the commands the views have sent.
pub struct App {
    document: Document,
    jobs: Jobs,
    commands: RefCell<Vec<Command>>,
    title: String,
    colours: Option<Colours>,
    /// Where work that is not saved is kept, and which state of it was kept last.
    keeper: Option<Keeper>,
    kept: Option<Arc<Draft>>,
}

impl App {
    /// A window on `path`, or on the sample at the first start. `home` holds the program's own data.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(context: &Context, home: PathBuf, path: Option<PathBuf>) -> anyhow::Result<Self> {
        theme::apply(context);
        let waker = context.clone();
        let jobs = Jobs::new(&home, move || waker.request_repaint())?;
        let remembered = Settings::load(&home);
        let is_first_start = remembered.is_none();
        let keeper = Keeper::new(&home);
        let document =
            Document { settings: remembered.unwrap_or_default(), home, ..Document::default() };
        let app = Self {
            document,
            jobs,
            commands: RefCell::default(),
            title: String::new(),
            colours: None,
            keeper,
            kept: None,
        };
        app.commands.borrow_mut().push(Command::AskRecovery);
        match path {
            Some(path) => app.commands.borrow_mut().push(Command::Open(path)),
            None if is_first_start => app.commands.borrow_mut().push(Command::OpenSample),
            None => {}
        }
        Ok(app)
    }

    /// What is open.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Sends a command as a view would.
    pub fn send(&self, command: Command) {
        self.commands.borrow_mut().push(command);
    }

    /// Takes answers and commands into the document. Shows nothing.
    pub fn logic(&mut self, context: &Context) {
        for _ in 0..EVENTS_A_FRAME {
            let Some(event) = self.jobs.poll() else { break };
            absorb(&mut self.document, &mut self.jobs, event);
        }
        for action in pressed(context) {
            if (action.enabled)(&self.document) {
                self.send((action.command)());
            }
        }
        self.take_dropped_files(context);
        let commands = std::mem::take(self.commands.get_mut());
        if !commands.is_empty() {
            // What the commands change is on screen only with another frame.
            context.request_repaint();
        }
        for command in commands {
            apply(&mut self.document, &mut self.jobs, command);
        }
        if let Some(model) = &mut self.document.model {
            model.refresh();
        }
        let is_gesture_over =
            context.input(|input| !input.pointer.any_down() && input.keys_down.is_empty());
        if let (true, Some(model)) = (is_gesture_over, &mut self.document.model)
            && model.history.is_open()
        {
            model.history.seal();
            look_again(model, &mut self.jobs);
        }
        if is_gesture_over {
            self.keep_work();
        }
        self.tell_window(context);
    }

    /// Keeps the plan on disk while it is not saved, so that a crash takes nothing but the gesture at hand.
    fn keep_work(&mut self) {
        let Some(keeper) = &self.keeper else {
            return;
        };
        let model = self.document.model.as_ref().filter(|model| model.is_changed());
        let Some(model) = model else {
            if self.kept.take().is_some() {
                self.jobs.stop_keeping();
                keeper.forget();
            }
            return;
        };
        let draft = model.history.current().clone();
        if self.kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &draft)) {
            return;
        }
        self.kept = Some(draft.clone());
        let checkpoint = lapidary_engine::disk::absolute(model.checkpoint.path());
        let checkpoint = checkpoint.to_string_lossy().into_owned();
        let (view, file) = (model.view(), model.project.clone());
        let step = model.history.undo_label().unwrap_or("recovered").to_owned();
        let unsaved =
            move || Unsaved { project: Project::of(checkpoint, &draft, view), file, step };
        let old = self.document.recovered.take();
        self.jobs.keep(unsaved, keeper.path().to_path_buf(), old);
    }

    fn take_dropped_files(&self, context: &Context) {
        let dropped = context
            .input(|input| input.raw.dropped_files.first().map(|file| file.path().to_path_buf()));
        if let Some(path) = dropped {
            let is_text = self.document.model.is_some() && is_text(&path);
            let add = |path| Command::Calibration(Ask::Add(path));
            self.send(if is_text { add(path) } else { Command::Open(path) });
        }
    }

    /// Title, colours and closing.
    fn tell_window(&mut self, context: &Context) {
        let title = self.document.title();
        if title != self.title {
            context.send_viewport_cmd(ViewportCommand::Title(title.clone()));
            self.title = title;
        }
        if let Some(text) = self.document.clipboard.take() {
            context.copy_text(text);
        }
        let colours = self.document.settings.colours;
        if self.colours != Some(colours) {
            context.set_theme(match colours {
                Colours::System => egui::ThemePreference::System,
                Colours::Light => egui::ThemePreference::Light,
                Colours::Dark => egui::ThemePreference::Dark,
            });
            self.colours = Some(colours);
        }
        if self.document.quit {
            context.send_viewport_cmd(ViewportCommand::Close);
        } else if context.input(|input| input.viewport().close_requested())
            && self.document.would_lose_something()
        {
            context.send_viewport_cmd(ViewportCommand::CancelClose);
            self.send(Command::Quit);
        }
    }

    /// Lays out the panels.
    pub fn ui(&mut self, ui: &mut Ui) {
        let tokens = Tokens::of(ui.ctx().theme());
        let context =
            ViewContext { document: &self.document, commands: &self.commands, tokens: &tokens };
        views::layout(&context, ui);
        if !self.commands.borrow().is_empty() {
            ui.ctx().request_repaint();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // A window that closes has asked about unsaved work; nothing may be written after its keeper is gone.
        self.jobs.stop_keeping();
    }
}

impl eframe::App for App {
    fn logic(&mut self, context: &Context, _frame: &mut eframe::Frame) {
        Self::logic(self, context);
    }

    fn ui(&mut self, ui: &mut Ui, _frame: &mut eframe::Frame) {
        Self::ui(self, ui);
    }
}
