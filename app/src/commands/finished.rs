//! What a person does with finished checkpoints: converting, unpacking, squeezing, proving.

use std::path::PathBuf;

use lapidary_engine::export::finished_for;

use crate::commands::{Command, ask};
use crate::document::finished::{Done, Field, Form, Looked, Outcome, Task, why_not};
use crate::document::{Document, Sheet, Slot};
use crate::jobs::{Finishing, Jobs, Looking};

/// Something about finished checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// Change what is entered.
    Set(Task, Box<Form>),
    /// Find out about the input, where that is not known and takes little.
    Look(Task),
    /// Find out about it, whatever it takes.
    Estimate(Task),
    /// Begin; the flag replaces an earlier output.
    Run(Task, bool),
    /// Stop what is at work.
    Cancel,
}

pub(super) fn apply(document: &mut Document, jobs: &mut Jobs, command: Finished) {
    match command {
        Finished::Set(task, form) => {
            let bench = document.finished.bench_mut(task);
            let folder = std::mem::replace(&mut bench.form, *form).folder;
            if bench.form.folder == folder {
                bench.suggest_folder(task);
            } else {
                bench.look_at_folder();
            }
        }
        Finished::Look(Task::Squeeze | Task::Verify) => {}
        Finished::Look(task) | Finished::Estimate(task) => look(document, jobs, task),
        Finished::Run(task, replace) => run(document, jobs, task, replace),
        Finished::Cancel => {
            jobs.cancel_finishing();
            if let Some(task) = document.finished.at_work()
                && let Slot::Running { what, .. } = &mut document.finished.bench_mut(task).run
            {
                "Stopping".clone_into(what);
            }
        }
    }
}

/// A form that opens suggests the open model, and finds out about it.
pub(super) fn opened(document: &mut Document, jobs: &mut Jobs, task: Task) {
    let path = document.model.as_ref().map(|model| model.checkpoint.path().to_path_buf());
    let made = match &document.finished.bench(Task::Convert).run {
        Slot::Ready(done) => Some(done.path.clone()),
        _ => None,
    };
    let exported = match &document.export {
        Slot::Ready(exported) => Some(exported.folder.clone()),
        _ => None,
    };
    let made = exported.or(made);
    let bench = document.finished.bench_mut(task);
    let (input, base) = if task == Task::Verify { (made, path) } else { (path, None) };
    for (field, path) in [(Field::Input, input), (Field::Base, base)] {
        if let Some(path) = path {
            bench.suggest(field, &path);
        }
    }
    bench.suggest_folder(task);
    bench.look_at_folder();
    apply(document, jobs, Finished::Look(task));
}

/// What a form that closes was finding out is of no use any more.
pub(super) fn closed(document: &mut Document, jobs: &mut Jobs, task: Task) {
    let bench = document.finished.bench_mut(task);
    if bench.looked.is_running() {
        jobs.stop_looking();
        bench.looked = Slot::Idle;
    }
}

/// Takes a path for a form, as a file dialog gives it.
pub(super) fn picked(document: &mut Document, jobs: &mut Jobs, to: (Task, Field), path: PathBuf) {
    let (task, field) = to;
    document.sheet = Some(Sheet::Finished(task));
    let bench = document.finished.bench_mut(task);
    if field == Field::Folder {
        // The dialog names a folder that exists; the output becomes a new one inside it.
        let old = bench.form.entered(Field::Folder);
        let name = old.as_deref().and_then(std::path::Path::file_name);
        let name = name.map_or_else(|| "output".into(), std::ffi::OsStr::to_os_string);
        bench.form.folder = path.join(name).display().to_string();
        bench.look_at_folder();
        return;
    }
    *bench.form.path_mut(field) = path.display().to_string();
    bench.suggest_folder(task);
    apply(document, jobs, Finished::Look(task));
}

/// Finds out about the input, unless that is known or being found out.
fn look(document: &mut Document, jobs: &mut Jobs, task: Task) {
    let bench = document.finished.bench(task);
    let is_told = bench.is_now() && !matches!(bench.looked, Slot::Idle);
    if is_told {
        return;
    }
    let Some(input) = bench.form.entered(Field::Input) else {
        document.finished.bench_mut(task).looked = Slot::Idle;
        return;
    };
    // What is being found out for another form is dropped.
    if let Some(other) = document.finished.looking() {
        document.finished.bench_mut(other).looked = Slot::Idle;
    }
    let bench = document.finished.bench_mut(task);
    let read = match &bench.looked {
        Slot::Ready(Looked::Checkpoint { stored, .. }) => Some(stored.clone()),
        _ => None,
    };
    bench.ask();
    let looking = Looking { input, read, form: bench.form.clone(), home: document.home.clone() };
    jobs.look_at_finished(task, looking);
}

/// Begins; what is there already is replaced only after a question.
fn run(document: &mut Document, jobs: &mut Jobs, task: Task, replace: bool) {
    if let Some(sentence) = why_not(document, task) {
        document.complain(sentence);
        return;
    }
    let home = document.home.clone();
    let bench = document.finished.bench_mut(task);
    let folder = bench.form.entered(Field::Folder).unwrap_or_default();
    if task.writes() && folder.exists() && !replace {
        let text = format!("{} already exists. Replace it?", folder.display());
        ask(document, &text, "Replace it", Command::Finished(Finished::Run(task, true)));
        return;
    }
    bench.note = None;
    let what = match task {
        Task::Verify => format!("Proving {}", bench.form.input.trim()),
        _ => format!("Writing {}", folder.display()),
    };
    bench.run = Slot::Running { what, progress: None };
    jobs.finish(task, bench.form.clone(), replace, home);
    if document.foretold.is_running() {
        document.foretold = Slot::Idle;
    }
}

pub(super) fn absorb(document: &mut Document, news: Finishing) {
    match news {
        Finishing::Looking(now) => {
            let looking = document.finished.looking();
            if let Some(task) = looking
                && let Slot::Running { progress, .. } =
                    &mut document.finished.bench_mut(task).looked
            {
                *progress = Some(now);
            }
        }
        Finishing::Progress(now) => {
            let task = document.finished.at_work();
            if let Some(task) = task
                && let Slot::Running { progress, .. } = &mut document.finished.bench_mut(task).run
            {
                *progress = Some(now);
            }
        }
        Finishing::Looked(task, looked) => looked_at(document, task, *looked),
        Finishing::Ended(task, ended) => match ended {
            None => stopped(document, task),
            Some(Err(sentence)) => {
                document.complain(sentence.clone());
                let bench = document.finished.bench_mut(task);
                bench.run = Slot::Failed(sentence);
                bench.look_at_folder();
            }
            Some(Ok(done)) => ended_well(document, task, *done),
        },
    }
}

fn looked_at(document: &mut Document, task: Task, looked: Result<Looked, String>) {
    let bench = document.finished.bench_mut(task);
    bench.looked = match looked {
        Ok(looked) => {
            let chosen = bench.form.target.and_then(|target| looked.prospect(target));
            if !matches!(chosen, Some(Ok(_))) {
                bench.form.target = looked.best();
            }
            Slot::Ready(looked)
        }
        Err(sentence) => Slot::Failed(sentence),
    };
    bench.suggest_folder(task);
}

fn stopped(document: &mut Document, task: Task) {
    let bench = document.finished.bench_mut(task);
    bench.run = Slot::Idle;
    bench.look_at_folder();
    let kept = bench.form.entered(Field::Folder).filter(|_| task.writes());
    let note = match kept.and_then(|folder| finished_for(&folder)) {
        Some(_) => {
            "Cancelled; what was written is kept beside the folder, and the same goes on with it"
        }
        None => "Cancelled; nothing was left behind",
    };
    bench.note = Some(note.to_owned());
    document.say(note);
}

fn ended_well(document: &mut Document, task: Task, done: Done) {
    let path = done.path.display();
    match &done.outcome {
        Outcome::Verified(found) if found.faults.is_empty() => {
            document.say(format!("Proved: {path}"));
        }
        Outcome::Verified(found) => {
            let n = found.faults.len();
            document.complain(format!("Not proved, {n} faults: {path}"));
        }
        Outcome::Written(report) => {
            let bytes = crate::theme::text::bytes(report.totals.total_bytes);
            document.say(format!("Written and proved: {bytes} in {path}"));
        }
        Outcome::Restored(_) | Outcome::Squeezed(_) => {
            document.say(format!("Written, and the same to the bit: {path}"));
        }
    }
    let bench = document.finished.bench_mut(task);
    bench.run = Slot::Ready(done);
    bench.look_at_folder();
}
