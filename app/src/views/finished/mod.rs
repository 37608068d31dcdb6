//! The forms for finished checkpoints: converted, unpacked, squeezed, proved; what an input holds, what it comes to, how it went.

mod convert;
mod proof;
mod squeezed;

use egui::{
    Align, Align2, Button, DragValue, Frame, Key, Layout, Margin, ProgressBar, Response, RichText,
    ScrollArea, TextEdit, Ui, Window, vec2,
};
use lapidary_engine::Progress;

use crate::commands::Command;
use crate::commands::finished::Finished;
use crate::document::finished::{Bench, Done, Field, Form, Looked, Outcome, Task, why_not};
use crate::document::{Sheet, Slot};
use crate::jobs::Purpose;
use crate::theme::text;
use crate::views::{SHARDS_TIP, ViewContext, output_buttons, shard_choice, written};
use crate::widgets::busy::busy;

/// Width of the fields of paths.
const FIELD: f32 = 310.0;
/// Width of what stands before the fields.
const LABEL: f32 = 66.0;

/// What a view of a task works with: the form as it stands, and as it will be.
struct Desk<'a> {
    context: &'a ViewContext<'a>,
    task: Task,
    bench: &'a Bench,
}

pub(super) fn ui(context: &ViewContext<'_>, ui: &mut Ui) {
    let Some(Sheet::Finished(task)) = context.document.sheet else {
        return;
    };
    let mut open = true;
    let area = ui.ctx().content_rect();
    let window = Window::new(task.title()).open(&mut open).collapsible(false).resizable(true);
    let desk = Desk { context, task, bench: context.document.finished.bench(task) };
    window
        .id(egui::Id::unique(("finished", task.title())))
        .pivot(Align2::CENTER_CENTER)
        .default_pos(area.center())
        .default_width(600.0)
        .show(ui.ctx(), |ui| {
            // Room for the title and the frame, whatever the height of the window.
            let height = (area.height() - 96.0).max(120.0);
            let area = ScrollArea::vertical().max_height(height).min_scrolled_height(height);
            // Beside the bar.
            let frame = Frame::new().inner_margin(Margin { right: 10, ..Margin::ZERO });
            area.show(ui, |ui| frame.show(ui, |ui| desk.contents(ui)));
        });
    let escaped =
        context.document.question.is_none() && ui.input(|input| input.key_pressed(Key::Escape));
    if !open || escaped {
        context.send(Command::ToggleSheet(Sheet::Finished(task)));
    }
}

/// What a task is for.
fn about(task: Task) -> &'static str {
    match task {
        Task::Convert => {
            "Write a finished checkpoint for another target. Codes and scales are taken over, nothing is compressed again; what the target has no form for is written in full. The tensors of a GGUF file are given other types."
        }
        Task::Unpack => {
            "Make a dense checkpoint of an archive or another compressed one: each layer as it decodes. A squeezed folder becomes what it was, to the bit."
        }
        Task::Squeeze => {
            "Put the safetensors files of a folder into the bytes of their entropy, and copy the rest. No weight changes; Unpack makes the folder again, to the bit."
        }
        Task::Verify => {
            "Prove an output that is there already, whoever wrote it: every tensor is looked for, read back and compared with the checkpoint it was made from."
        }
    }
}

impl Desk<'_> {
    fn contents(&self, ui: &mut Ui) {
        ui.label(about(self.task));
        ui.add_space(6.0);
        let before = &self.bench.form;
        let mut form = before.clone();
        // Whether what is found out about the input is asked for now, and not at every letter.
        let mut is_settled = self.paths(ui, &mut form);
        match self.task {
            Task::Convert => convert::ui(self, ui, &mut form),
            Task::Unpack => squeezed::unpack(self, ui),
            Task::Squeeze => squeezed::squeeze(self, ui),
            Task::Verify => {}
        }
        let mut is_entered = false;
        if self.task.writes() {
            is_entered = self.path(ui, &mut form, Field::Folder);
            self.place(ui, &mut form);
        }
        let texts = |form: &Form| (form.input.clone(), form.base.clone());
        is_settled |= texts(&form) == texts(before) && form != *before;
        if form != *before {
            self.send(Finished::Set(self.task, Box::new(form)));
        }
        if is_settled {
            self.send(Finished::Look(self.task));
        }
        ui.add_space(6.0);
        self.begin(ui, is_entered);
        self.run(ui);
    }

    fn send(&self, command: Finished) {
        self.context.send(Command::Finished(command));
    }

    /// What is read; gives whether a path was entered to the end.
    fn paths(&self, ui: &mut Ui, form: &mut Form) -> bool {
        let mut is_entered = self.path(ui, form, Field::Input);
        let needs_base = match (self.task, self.bench.known()) {
            (Task::Verify | Task::Squeeze, _) => true,
            (Task::Unpack, Some(Looked::Squeezed(list))) => list.base.is_some(),
            _ => false,
        };
        if needs_base {
            is_entered |= self.path(ui, form, Field::Base);
        }
        is_entered
    }

    /// A path to type or to choose; gives whether it was entered to the end.
    fn path(&self, ui: &mut Ui, form: &mut Form, field: Field) -> bool {
        let (name, tip) = named(self.task, field);
        ui.horizontal(|ui| {
            let label = label(ui, name, tip);
            let edit = TextEdit::singleline(form.path_mut(field)).desired_width(FIELD);
            let edit = ui.add(edit).labelled_by(label.id);
            let pick = |purpose| self.context.send(Command::Pick(purpose));
            if ui.button("Folder…").on_hover_text("Choose a folder.").clicked() {
                pick(Purpose::FinishedFolder(self.task, field));
            }
            if field != Field::Folder
                && ui
                    .button("File…")
                    .on_hover_text("Choose a .gguf or .safetensors file.")
                    .clicked()
            {
                pick(Purpose::FinishedFile(self.task, field));
            }
            let is_open = field == Field::Input || self.task == Task::Verify;
            self.open_model(ui, form.path_mut(field), is_open && field != Field::Folder)
                || edit.lost_focus()
        })
        .inner
    }

    /// The open model, where that is another; gives whether it was chosen.
    fn open_model(&self, ui: &mut Ui, path: &mut String, is_offered: bool) -> bool {
        let Some(model) = self.context.document.model.as_ref().filter(|_| is_offered) else {
            return false;
        };
        let open = model.checkpoint.path().display().to_string();
        let is_other = *path != open;
        let button = ui.add_enabled(is_other, Button::new("Open model"));
        let button = button.on_hover_text(format!("The model that is open: {open}"));
        if button.clicked() {
            *path = open;
            return true;
        }
        false
    }

    /// How large files may be, how much memory is taken, what lies where the output goes.
    fn place(&self, ui: &mut Ui, form: &mut Form) {
        let is_restored = matches!(self.bench.known(), Some(Looked::Squeezed(_)));
        if self.task != Task::Squeeze && !is_restored {
            ui.horizontal_wrapped(|ui| {
                label(ui, "Files", SHARDS_TIP);
                if let Some(bytes) = shard_choice(ui, form.shard_bytes) {
                    form.shard_bytes = bytes;
                }
            });
            ui.horizontal(|ui| {
                let tip = "Working memory for the layers that are decoded at once. A layer that needs more is refused by its name.";
                let label = label(ui, "Memory", tip);
                let drag = DragValue::new(&mut form.memory_gib).range(0.25..=1024.0).speed(0.25);
                ui.add(drag.suffix(" GiB")).labelled_by(label.id);
            });
        }
        if let Some(free) = self.bench.free_bytes {
            ui.weak(format!("{} are free where it goes", text::bytes(free)));
        }
        if self.bench.has_kept && !self.bench.run.is_running() {
            let tip = "What an earlier attempt at this folder wrote is kept beside it, and the same conversion goes on with it, to the same bytes. Tick to throw it away.";
            ui.checkbox(&mut form.is_fresh, "Begin anew, without what an earlier attempt wrote")
                .on_hover_text(tip);
        }
    }

    /// The button that begins, with what stands in the way.
    fn begin(&self, ui: &mut Ui, is_entered: bool) {
        let document = self.context.document;
        let why_not = why_not(document, self.task);
        ui.horizontal_wrapped(|ui| {
            // Return in the field of the folder, or anywhere while nothing has the focus.
            let is_free = ui.memory(|memory| memory.focused().is_none()) || is_entered;
            let returned = why_not.is_none()
                && document.question.is_none()
                && is_free
                && ui.input(|input| input.key_pressed(Key::Enter));
            let button = Button::new(RichText::new(self.button()).strong());
            let button = ui.add_enabled(why_not.is_none(), button);
            let button = button.on_disabled_hover_text(why_not.as_deref().unwrap_or_default());
            if button.clicked() || returned {
                self.send(Finished::Run(self.task, false));
            }
            ui.weak(if self.task.writes() {
                "written under a temporary name, read back and compared before it appears"
            } else {
                "reads both, and changes neither"
            });
        });
    }

    /// What the button says: the bytes that will be there, where they are known.
    fn button(&self) -> String {
        let is_cut = !self.bench.form.size.trim().is_empty();
        let prospect = match (self.task, self.bench.known()) {
            (Task::Unpack, Some(looked)) => looked.prospect("dense"),
            _ => self.bench.prospect().filter(|_| !is_cut),
        };
        match prospect {
            Some(Ok(of)) => format!("{} to {}", self.task.title(), text::bytes(of.output_bytes)),
            _ => self.task.title().to_owned(),
        }
    }

    /// How far it is, how it went.
    fn run(&self, ui: &mut Ui) {
        if let Some(note) = &self.bench.note {
            ui.weak(note);
        }
        match &self.bench.run {
            Slot::Idle => {}
            Slot::Running { what, progress } => {
                ui.separator();
                ui.label(what);
                self.working(ui, progress.as_ref());
            }
            Slot::Failed(sentence) => {
                ui.separator();
                ui.colored_label(self.context.tokens.error, sentence);
            }
            Slot::Ready(done) => {
                ui.separator();
                self.done(ui, done);
            }
        }
    }

    fn working(&self, ui: &mut Ui, progress: Option<&Progress>) {
        match progress {
            Some(progress) => {
                let share = progress.done as f32 / progress.total.max(1) as f32;
                let bar = ProgressBar::new(share);
                ui.add(bar.text(format!("{} {}", progress.stage, progress.item)));
            }
            None => busy(ui),
        }
        let tip = match self.task {
            Task::Convert | Task::Unpack => {
                "What was written is kept in a hidden folder beside the output; the same conversion to the same folder goes on with it, to the same bytes. GGUF files and squeezed ones begin anew."
            }
            Task::Squeeze | Task::Verify => "Nothing is left behind.",
        };
        if ui.button("Cancel").on_hover_text(tip).clicked() {
            self.send(Finished::Cancel);
        }
    }

    fn done(&self, ui: &mut Ui, done: &Done) {
        let context = self.context;
        match &done.outcome {
            Outcome::Written(report) => {
                convert::fitted(context, ui, &done.fitted);
                written(context, ui, report, &done.path);
            }
            Outcome::Restored(list) => {
                let good = "✔ Written: every weight file is to the bit what was squeezed.";
                ui.colored_label(context.tokens.good, good);
                squeezed::files(ui, list);
                output_buttons(context, ui, &done.path);
            }
            Outcome::Squeezed(list) => {
                let good = "✔ Written, read back, and the same to the bit.";
                ui.colored_label(context.tokens.good, good);
                squeezed::files(ui, list);
                squeezed::output(context, ui, &done.path);
            }
            Outcome::Verified(found) => {
                proof::ui(context, ui, found);
                output_buttons(context, ui, &done.path);
            }
        }
    }

    /// What is being found out about the input, or why nothing can be.
    fn looking(&self, ui: &mut Ui) {
        match &self.bench.looked {
            Slot::Running { what, progress } => {
                ui.horizontal(|ui| {
                    busy(ui);
                    let share = progress.as_ref().map(|of| of.done as f64 / of.total.max(1) as f64);
                    let share =
                        share.map_or_else(String::new, |of| format!(", {}", text::percent(of)));
                    ui.label(format!("{what}{share}"));
                });
            }
            Slot::Failed(sentence) if self.bench.is_now() => {
                ui.colored_label(self.context.tokens.warning, sentence);
            }
            Slot::Idle if self.bench.form.entered(Field::Input).is_none() => {
                ui.weak("Name a folder or file, and what it holds is shown here.");
            }
            _ if self.bench.known().is_none() => {
                let (title, tip) = match self.task {
                    Task::Squeeze => (
                        "Estimate the size",
                        "Squeeze one chunk in 32 of every tensor, and write nothing.",
                    ),
                    _ => ("Look what it holds", "Read how its layers are stored."),
                };
                if ui.small_button(title).on_hover_text(tip).clicked() {
                    self.send(Finished::Estimate(self.task));
                }
            }
            _ => {}
        }
    }
}

/// How many files there are.
fn weight_files(n: usize) -> String {
    if n == 1 { "one weight file".to_owned() } else { format!("{n} weight files") }
}

/// What stands before a field, as wide as all others.
fn label(ui: &mut Ui, name: &str, tip: &str) -> Response {
    let size = vec2(LABEL, ui.spacing().interact_size.y);
    let layout = Layout::left_to_right(Align::Center);
    let before = ui.allocate_ui_with_layout(size, layout, |ui| {
        ui.set_min_width(LABEL);
        ui.label(name)
    });
    before.inner.on_hover_text(tip)
}

/// The name of a field, and what it is for.
fn named(task: Task, field: Field) -> (&'static str, &'static str) {
    match (task, field) {
        (Task::Convert, Field::Input) => (
            "Source",
            "A compressed checkpoint: an archive, one of compressed-tensors, GPTQ, AWQ, AQLM, SpQR or MLX, or a GGUF file.",
        ),
        (Task::Unpack, Field::Input) => (
            "Source",
            "An archive, another compressed checkpoint that is read here, or a folder that was squeezed.",
        ),
        (Task::Squeeze, Field::Input) => {
            ("Source", "A folder with safetensors files, whatever they hold, or one such file.")
        }
        (Task::Verify, Field::Input) => {
            ("Output", "What is to be proved: a folder or file in any format that is read here.")
        }
        (Task::Verify, Field::Base) => {
            ("Made from", "The checkpoint that the output was made from.")
        }
        (Task::Squeeze, Field::Base) => (
            "Against",
            "Tensors are held against those of this checkpoint where that takes less, as of a fine-tune against its base; it is needed again to unpack. May be empty.",
        ),
        (_, Field::Base) => ("Against", "The checkpoint that the folder was squeezed against."),
        (_, Field::Folder) => ("Folder", "The folder to write. It appears whole or not at all."),
    }
}
