//! Finished checkpoints looked at, converted, unpacked, squeezed and proved without holding up the window.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lapidary_engine::calibration::{Folder, model_key};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::export::{self, Contents, Destination};
use lapidary_engine::job::Limits;
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::target::{self, Target};
use lapidary_engine::{Error, Observer, Progress, Result};

use crate::calibrated::{CALIBRATIONS, Choice, finished};
use crate::converting::{self, Types, Unpacked, Wish};
use crate::document::finished::{Done, Field, Form, Looked, Outcome, Stored, Task};
use crate::jobs::{Event, Jobs, Kind};
use crate::size::bytes_of;

/// Something learnt about finished checkpoints.
#[derive(Debug)]
pub enum Finishing {
    /// Looking at an input has come this far.
    Looking(Progress),
    /// What was found out about an input, or why nothing can be.
    Looked(Task, Box<Result<Looked, String>>),
    /// What is at work has come this far.
    Progress(Progress),
    /// It ended: what came out, or a sentence; `None` if it was cancelled.
    Ended(Task, Option<Result<Box<Done>, String>>),
}

/// What is to be found out.
pub struct Looking {
    /// Of what.
    pub input: PathBuf,
    /// What was read before, perhaps of the same.
    pub read: Option<Arc<Stored>>,
    /// What is entered.
    pub form: Form,
    /// The program's own folder.
    pub home: PathBuf,
}

impl Jobs {
    /// Finds out what an input holds and comes to; the latest request wins.
    pub fn look_at_finished(&mut self, task: Task, looking: Looking) {
        let ticket = self.begin(Kind::Foresee);
        self.spawn("look at finished", move || {
            let looked = match look(task, &looking, &ticket) {
                Err(Error::Cancelled) => return,
                looked => looked.map_err(|error| error.sentence()),
            };
            ticket.send(Event::Finished(Finishing::Looked(task, Box::new(looked))));
        });
    }

    /// Stops finding out.
    pub fn stop_looking(&mut self) {
        self.stop(Kind::Foresee);
    }

    /// Carries a task out.
    pub fn finish(&mut self, task: Task, form: Form, replace: bool, home: PathBuf) {
        // Both would want the whole machine.
        self.stop(Kind::Foretell);
        let ticket = self.begin(Kind::Finish);
        self.finishing_thread = self.spawn("finished", move || {
            let ended = match run(task, (&form, replace), &home, &ticket) {
                Ok(done) => Some(Ok(Box::new(done))),
                Err(Error::Cancelled) => None,
                Err(error) => Some(Err(error.sentence())),
            };
            ticket.send(Event::Finished(Finishing::Ended(task, ended)));
        });
    }

    /// Asks what is at work to stop; its last answer still comes.
    pub fn cancel_finishing(&self) {
        self.flags[Kind::Finish as usize].store(true, Ordering::Relaxed);
    }

    /// Shows a folder in the system's own window of files.
    pub fn show_in_folder(&mut self, path: PathBuf) {
        let ticket = self.begin(Kind::Show);
        self.spawn("show", move || {
            let folder =
                if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(&path) };
            if let Err(why) = shown(folder) {
                let text =
                    format!("The system shows no folder here ({why}); it is {}", folder.display());
                ticket.send(Event::Noted(text));
            }
        });
    }
}

/// The program that shows a folder.
const SHOWS: &str = if cfg!(target_os = "macos") {
    "open"
} else if cfg!(target_os = "windows") {
    "explorer"
} else {
    "xdg-open"
};

fn shown(folder: &Path) -> std::result::Result<(), String> {
    use std::process::{Command, Stdio};
    let mut command = Command::new(SHOWS);
    command.arg(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().map_err(|error| format!("{SHOWS}: {error}"))?;
    // The Explorer gives 1 whether or not it shows the folder.
    if status.success() || cfg!(target_os = "windows") {
        Ok(())
    } else {
        Err(format!("{SHOWS}: {status}"))
    }
}

fn look(task: Task, looking: &Looking, observer: &dyn Observer) -> Result<Looked> {
    let Looking { input, form, .. } = looking;
    if task == Task::Squeeze {
        let base = form.entered(Field::Base);
        let (before, after) = export::estimate_squeezed(input, base.as_deref(), observer)?;
        return Ok(Looked::Squeezable(before, after));
    }
    if export::is_squeezed(input) {
        return Ok(Looked::Squeezed(export::squeezed_list(input)?));
    }
    let stored = match &looking.read {
        Some(read) if is_of(read, (input, form.limits())) => read.clone(),
        _ => Arc::new(stored(input, form, observer)?),
    };
    let checkpoint = &stored.checkpoint;
    let is_gguf = stored.contents.is_none();
    let calibrations =
        if is_gguf { calibrations(checkpoint, &looking.home, observer)? } else { Vec::new() };
    let targets: Vec<&'static dyn Target> = if task == Task::Unpack {
        vec![target::find("dense")?]
    } else {
        target::writable().filter(|target| !is_gguf || target.rewrites()).collect()
    };
    let (mut prospects, mut fitted) = (Vec::new(), Vec::new());
    for target in targets {
        observer.go_on()?;
        let whole = Form { size: String::new(), ..form.clone() };
        let wish = wish(&whole, (target, is_gguf), &looking.home)?;
        if is_gguf && wish.types.kind.is_none() {
            continue;
        }
        let found = converting::prospect(checkpoint, stored.contents.as_ref(), &wish, observer);
        let found = match found {
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => Err(error.sentence()),
            Ok((prospect, unfit)) => {
                fitted = unfit;
                Ok(prospect)
            }
        };
        prospects.push((target.about().id, found));
    }
    Ok(Looked::Checkpoint { stored, prospects, fitted, calibrations })
}

/// Whether what was read is of this input, and as it lies there now.
fn is_of(read: &Stored, (input, limits): (&Path, Limits)) -> bool {
    read.limits == limits
        && read.checkpoint.path() == input
        && read.checkpoint.check_all_unchanged().is_ok()
}

fn stored(input: &Path, form: &Form, observer: &dyn Observer) -> Result<Stored> {
    let checkpoint = Arc::new(Checkpoint::open(input)?);
    let contents = match checkpoint.gguf() {
        Some(_) => None,
        None => Some(Contents::read(&checkpoint, form.limits(), observer)?),
    };
    Ok(Stored { checkpoint, contents, limits: form.limits() })
}

/// The finished calibrations of a model, the latest first.
fn calibrations(
    checkpoint: &Checkpoint,
    home: &Path,
    observer: &dyn Observer,
) -> Result<Vec<Folder>> {
    // The key takes reading the model: not where there is nothing to find by it.
    if Folder::list(&home.join(CALIBRATIONS)).is_empty() {
        return Ok(Vec::new());
    }
    let cache = Cache::new(&home.join("measured"), CACHE_LIMIT_BYTES);
    Ok(finished(home, &model_key(checkpoint, Some(&cache), observer)?))
}

/// What a form asks for.
///
/// # Errors
/// [`Error::Plan`] for a size that is none.
fn wish(form: &Form, (target, is_gguf): (&'static dyn Target, bool), home: &Path) -> Result<Wish> {
    let wish = Wish::of(target, form.shard_bytes);
    if is_gguf {
        let kind = Some(form.kind.clone()).filter(|kind| !kind.is_empty());
        let choice = || Choice { home: home.to_path_buf(), named: form.calibration.clone() };
        let weighted = form.is_weighted.then(choice);
        return Ok(Wish { types: Types { kind, weighted }, ..wish });
    }
    let size = Some(form.size.trim()).filter(|size| !size.is_empty());
    Ok(Wish { size: size.map(bytes_of).transpose()?, ..wish })
}

fn run(
    task: Task,
    (form, replace): (&Form, bool),
    home: &Path,
    observer: &dyn Observer,
) -> Result<Done> {
    let named = |field: Field| form.entered(field).unwrap_or_default();
    let (input, folder) = (named(Field::Input), named(Field::Folder));
    let base = form.entered(Field::Base);
    if task == Task::Verify {
        let source = Checkpoint::open(&named(Field::Base))?;
        let found = export::verify(&input, &source, observer)?;
        let outcome = Outcome::Verified(Arc::new(found));
        return Ok(Done { path: input, outcome, fitted: Vec::new() });
    }
    let destination = Destination { folder: &folder, replace, limits: form.limits() };
    if form.is_fresh {
        export::discard_finished(&folder)?;
    }
    let fitted = RefCell::new(Vec::new());
    let outcome = match task {
        Task::Unpack => {
            let base = base.filter(|_| export::is_squeezed(&input));
            let of = (input.as_path(), base.as_deref());
            match converting::unpack(of, form.shard_bytes, destination, observer)? {
                Unpacked::Restored(list) => Outcome::Restored(list),
                Unpacked::Dense(report) => Outcome::Written(Arc::new(*report)),
            }
        }
        Task::Squeeze => {
            let done = export::squeeze(&input, base.as_deref(), destination, observer)?;
            Outcome::Squeezed(done)
        }
        Task::Convert | Task::Verify => {
            let checkpoint = Checkpoint::open(&input)?;
            let target = target::find(form.target.unwrap_or_default())?;
            let wish = wish(form, (target, checkpoint.gguf().is_some()), home)?;
            let tell = |lines: &[String]| *fitted.borrow_mut() = lines.to_vec();
            let report = converting::convert(&checkpoint, &wish, destination, &tell, observer)?;
            Outcome::Written(Arc::new(report))
        }
    };
    Ok(Done { path: folder, outcome, fitted: fitted.into_inner() })
}
