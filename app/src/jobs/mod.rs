//! Background work: named threads, one bounded channel, answers that carry a revision so that stale ones are dropped.
//! Numerics run in one pool of low priority, so that the window keeps drawing while every core is busy.

mod allocate;
mod calibrate;
mod capacity;
mod compare;
mod damage;
mod evaluate;
mod evolve;
mod export;
mod finished;
mod keep;
mod lay_out;
mod look;
mod measure;
mod open;
mod pick;
mod preview;
mod recipe;
mod save;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use lapidary_engine::compare::Comparison;
use lapidary_engine::job::Preview;
use lapidary_engine::method::Cut;
use lapidary_engine::plan::Assignment;
use lapidary_engine::statistics::{Profile, Spectrum, SpectrumEstimate};
use lapidary_engine::{Observer, Progress};
use thread_priority::ThreadPriority;

use crate::document::calibrations::News;
use crate::document::capacity::{News as CapacityNews, Values};
use crate::document::look::{Near, Picture, Subject};
use crate::document::measurements::Finding;
use crate::document::model::Opened;
use crate::document::other::Other;
use crate::document::outcome::LaidOut;
use crate::document::recipe::{Taken, Told};
use crate::document::{Exported, Foretold};
pub use allocate::Scoring;
pub use damage::Trial;
pub use evaluate::{Ran, set_kept};
pub use evolve::Evolved;
pub use finished::{Finishing, Looking};
pub use pick::{Picked, Purpose};

/// Answers that may wait to be read; a worker that is further ahead waits.
const CHANNEL: usize = 256;

/// An answer of background work.
pub enum Event {
    /// A checkpoint or project was opened, or not.
    Opened {
        /// What was asked for.
        path: PathBuf,
        /// The model, or a sentence.
        result: Box<Result<Opened, String>>,
    },
    /// Tensors were measured.
    Found(Vec<(usize, Finding)>),
    /// The rows and columns of a layer were measured.
    Profile(usize, Result<Arc<Profile>, String>),
    /// A layer was pictured.
    Picture(Subject, Result<Picture, String>),
    /// A part of it was pictured near by.
    Near(Near),
    /// The leading singular values of a layer were estimated.
    Estimate(usize, Arc<SpectrumEstimate>),
    /// The spectrum of an assignment's error was computed.
    ErrorSpectrum(Subject, Result<Arc<Spectrum>, String>),
    /// The cuts of a tensor train were computed.
    Cuts(Subject, Result<Arc<Vec<Cut>>, String>),
    /// A form was tried on values, or the trial began or failed.
    Capacity(Values, CapacityNews),
    /// A second checkpoint was opened, or not.
    OtherOpened(Result<Box<Other>, String>),
    /// A tensor was compared with its counterpart.
    Compared(usize, Result<Arc<Comparison>, String>),
    /// Files, headers and lints of a plan were laid out.
    LaidOut(LaidOut),
    /// A recipe was taken over onto the model, or not.
    RecipeRead(PathBuf, Result<Box<Taken>, String>),
    /// The plan was written as a recipe, or not.
    RecipeWritten(Result<Told, String>),
    /// A figure was saved, or not.
    Saved(Result<PathBuf, String>),
    /// An assignment was tried on a layer.
    Preview(usize, Arc<Assignment>, Result<Arc<Preview>, String>),
    /// What an export takes, or why there can be none.
    Foretold(Box<Result<Foretold, String>>),
    /// An export has come this far.
    ExportProgress(Progress),
    /// Something that is at work, or shown elsewhere, has something to say.
    Noted(String),
    /// An export ended: its result, or a sentence; `None` if it was cancelled.
    Exported(Option<Result<Exported, String>>),
    /// Something was learnt about calibrations.
    Calibration(News),
    /// The model ran, or did not.
    Ran(Ran),
    /// Candidates were scored, or not.
    Scoring(Scoring),
    /// A search went on, or ended.
    Evolved(Evolved),
    /// Something was learnt about finished checkpoints.
    Finished(Finishing),
    /// A file dialog ended.
    Picked(Purpose, Picked),
}

/// An event with the revision it answers, by kind of work.
struct Stamped {
    kind: Kind,
    revision: u64,
    event: Event,
}

/// Kinds of work: of each, the latest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Measure,
    Damage,
    LayOut,
    Preview,
    Profile,
    Picture,
    Near,
    Estimate,
    ErrorSpectrum,
    Cuts,
    Capacity,
    Compare,
    Export,
    Pick,
    Save,
    Recipe,
    Calibrations,
    Calibrate,
    Through,
    Evaluate,
    Runs,
    Allocate,
    Evolve,
    Foretell,
    Foresee,
    Finish,
    Show,
}

const KINDS: usize = 28;

/// A running piece of work.
#[derive(Clone)]
struct Ticket {
    kind: Kind,
    revision: u64,
    sender: SyncSender<Stamped>,
    wake: Arc<dyn Fn() + Send + Sync>,
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    /// Sends an answer, waiting for room. An error means that the window is gone, and the answer with it.
    fn send(&self, event: Event) {
        let stamped = Stamped { kind: self.kind, revision: self.revision, event };
        self.sender.send(stamped).ok();
        (self.wake)();
    }

    /// Sends progress if there is room; the next one will do as well.
    fn try_send(&self, event: Event) {
        let stamped = Stamped { kind: self.kind, revision: self.revision, event };
        self.sender.try_send(stamped).ok();
        (self.wake)();
    }
}

impl Observer for Ticket {
    fn progress(&self, progress: Progress) {
        match self.kind {
            Kind::Export => self.try_send(Event::ExportProgress(progress)),
            Kind::Finish => self.try_send(Event::Finished(Finishing::Progress(progress))),
            Kind::Foresee => self.try_send(Event::Finished(Finishing::Looking(progress))),
            Kind::Calibrate => self.try_send(Event::Calibration(News::Progress(progress))),
            Kind::Evaluate => self.try_send(Event::Ran(Ran::Progress(progress))),
            Kind::Allocate => self.try_send(Event::Scoring(Scoring::Progress(progress))),
            Kind::Evolve => self.try_send(Event::Evolved(Evolved::Progress(progress))),
            _ => {}
        }
    }

    fn warn(&self, text: String) {
        if matches!(self.kind, Kind::Export | Kind::Finish) {
            self.send(Event::Noted(text));
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Starts background work and hands out its answers.
pub struct Jobs {
    sender: SyncSender<Stamped>,
    receiver: Receiver<Stamped>,
    wake: Arc<dyn Fn() + Send + Sync>,
    pool: Arc<rayon::ThreadPool>,
    revisions: [u64; KINDS],
    flags: [Arc<AtomicBool>; KINDS],
    urgent: Arc<measure::Urgent>,
    trials: Arc<damage::Trials>,
    keeping: Arc<keep::Order>,
    cache_folder: PathBuf,
    carried_out: evaluate::CarriedOut,
    export_thread: Option<JoinHandle<()>>,
    finishing_thread: Option<JoinHandle<()>>,
}

impl Jobs {
    /// What is measured is kept in `home`. `wake` is called from workers whenever there is something to read.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(home: &Path, wake: impl Fn() + Send + Sync + 'static) -> anyhow::Result<Self> {
        let (sender, receiver) = sync_channel(CHANNEL);
        let pool = rayon::ThreadPoolBuilder::new()
            .thread_name(|i| format!("numerics-{i}"))
            .start_handler(|_| yield_to_the_window())
            .build()?;
        Ok(Self {
            sender,
            receiver,
            wake: Arc::new(wake),
            pool: Arc::new(pool),
            revisions: [0; KINDS],
            flags: std::array::from_fn(|_| Arc::default()),
            urgent: Arc::default(),
            trials: Arc::default(),
            keeping: Arc::default(),
            cache_folder: home.join("measured"),
            carried_out: evaluate::CarriedOut::default(),
            export_thread: None,
            finishing_thread: None,
        })
    }

    /// The next answer that is not stale.
    pub fn poll(&mut self) -> Option<Event> {
        loop {
            match self.receiver.try_recv() {
                Ok(Stamped { kind, revision, event })
                    if self.revisions[kind as usize] == revision =>
                {
                    return Some(event);
                }
                Ok(_stale) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return None,
            }
        }
    }

    /// Cancels what runs of this kind and drops its answers.
    fn stop(&mut self, kind: Kind) {
        self.flags[kind as usize].store(true, Ordering::Relaxed);
        self.revisions[kind as usize] += 1;
    }

    /// Cancels what runs of this kind and gives a ticket for what comes next.
    fn begin(&mut self, kind: Kind) -> Ticket {
        self.stop(kind);
        self.flags[kind as usize] = Arc::default();
        Ticket {
            kind,
            revision: self.revisions[kind as usize],
            sender: self.sender.clone(),
            wake: self.wake.clone(),
            cancelled: self.flags[kind as usize].clone(),
        }
    }

    /// Runs `work` on a thread of that name, its numerics in the pool.
    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
        let pool = self.pool.clone();
        let run = move || {
            yield_to_the_window();
            pool.install(work);
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        started.map_err(|error| tracing::error!("cannot start the thread {name}: {error}")).ok()
    }

    /// Stops measuring.
    pub fn stop_measuring(&mut self) {
        self.stop(Kind::Measure);
        self.stop(Kind::Damage);
        self.trials.clear();
    }

    /// Asks the export to stop; its last answer still comes.
    pub fn cancel_export(&self) {
        self.flags[Kind::Export as usize].store(true, Ordering::Relaxed);
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for flag in &self.flags {
            flag.store(true, Ordering::Relaxed);
        }
        // A window closed in the middle of an export or a conversion waits until the half-written folder is gone: some
        // 0.2 s. Last answers are taken out of the way, should the channel be full.
        for thread in
            [self.export_thread.take(), self.finishing_thread.take()].into_iter().flatten()
        {
            while !thread.is_finished() {
                while self.receiver.try_recv().is_ok() {}
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

/// Lowers the priority of this thread; where the system refuses, everything still works, less smoothly.
fn yield_to_the_window() {
    if let Err(error) = thread_priority::set_current_thread_priority(ThreadPriority::Min) {
        tracing::debug!("cannot lower the priority of a worker: {error:?}");
    }
}
