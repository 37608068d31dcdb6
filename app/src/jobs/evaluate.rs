//! Running models without holding up the window: texts scored, prompts continued, questions answered.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lapidary_engine::calibration::model_key;
use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::evaluation::{
    self, Evaluation, Kept, Probe, RunRecord, Sampling, keep_run, runs,
};
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::target::Target;
use lapidary_engine::text::{Source, read_questions};
use lapidary_engine::{Error, Progress, Result};

use crate::calibrated::{Choice, plan_key};
use crate::document::calibrations::Loaded;
use crate::document::evaluation::{What, Wish};
use crate::document::model::Model;
use crate::jobs::{Event, Jobs, Kind, Ticket};
use crate::running::{self, Found, Subject, Wanted};

/// What running a model answers.
#[derive(Debug)]
pub enum Ran {
    /// How far it is.
    Progress(Progress),
    /// The runs of the model that are kept.
    Runs(Vec<Kept>),
    /// Figures so far.
    Partial(Evaluation),
    /// A text was scored, wholly or in part.
    Scored(Box<Kept>),
    /// A token of what is run, or of the original.
    Token(usize, String),
    /// Questions were answered: by what is run, by the original.
    Answered([Probe; 2]),
    /// The end: whether it failed, as a sentence.
    Ended(Option<String>),
}

/// Where runs are kept.
fn runs_folder(home: &Path) -> PathBuf {
    home.join("runs")
}

/// What a job needs of the document.
struct Work {
    checkpoint: SharedCheckpoint,
    plan: Arc<Plan>,
    loaded: Option<Arc<Loaded>>,
    target: &'static dyn Target,
    wish: Wish,
    cache: PathBuf,
    ticket: Ticket,
    carried_out: CarriedOut,
}

/// The plan that was carried out last, for the next run of the same plan.
pub(super) type CarriedOut = Arc<Mutex<Option<Arc<Subject>>>>;

impl Jobs {
    fn running(&mut self, model: &Model, wish: Wish, kind: Kind) -> Work {
        Work {
            checkpoint: model.checkpoint.clone(),
            plan: model.plan().clone(),
            loaded: model.calibrations.loaded.clone(),
            target: model.target,
            wish,
            cache: self.cache_folder.clone(),
            ticket: self.begin(kind),
            carried_out: self.carried_out.clone(),
        }
    }

    /// Lists the runs of a model that are kept.
    pub fn list_runs(&mut self, model: &Model, home: &Path) {
        let work = self.running(model, Wish::default(), Kind::Runs);
        let root = runs_folder(home);
        self.spawn("runs", move || {
            if let Ok(key) = work.key() {
                work.ticket.send(Event::Ran(Ran::Runs(runs(&root, &key))));
            }
        });
    }

    /// Scores a text.
    pub fn evaluate(&mut self, model: &Model, wish: Wish, text: Source, home: &Path) {
        let work = self.running(model, wish, Kind::Evaluate);
        let root = runs_folder(home);
        self.spawn("evaluate", move || {
            let result = work.score(text).and_then(|record| keep_run(&root, record));
            work.end(result.map(|kept| Some(Ran::Scored(Box::new(kept)))));
        });
    }

    /// Continues a prompt by what is run and by the original, one after the other.
    pub fn continue_prompt(&mut self, model: &Model, wish: Wish) {
        let work = self.running(model, wish, Kind::Evaluate);
        self.spawn("continue", move || work.end(work.continued().map(|()| None)));
    }

    /// Answers questions by what is run and by the original.
    pub fn answer(&mut self, model: &Model, wish: Wish) {
        let work = self.running(model, wish, Kind::Evaluate);
        self.spawn("questions", move || {
            work.end(work.answered().map(|answers| Some(Ran::Answered(answers))));
        });
    }

    /// Asks what runs to stop; what was found so far still comes.
    pub fn cancel_evaluation(&self) {
        self.flags[Kind::Evaluate as usize].store(true, Ordering::Relaxed);
    }

    /// Stops what runs and drops its answers, as its model is gone.
    pub fn forget_evaluation(&mut self) {
        self.stop(Kind::Evaluate);
        self.stop(Kind::Runs);
        // What runs now has its own hold of it.
        self.carried_out = CarriedOut::default();
    }
}

impl Work {
    fn end(&self, result: Result<Option<Ran>>) {
        let failed = match result {
            Ok(answer) => {
                if let Some(answer) = answer {
                    self.ticket.send(Event::Ran(answer));
                }
                None
            }
            Err(Error::Cancelled) => None,
            Err(error) => Some(error.sentence()),
        };
        self.ticket.send(Event::Ran(Ran::Ended(failed)));
    }

    fn key(&self) -> Result<String> {
        let cache = Cache::new(&self.cache, CACHE_LIMIT_BYTES);
        model_key(&self.checkpoint, Some(&cache), &self.ticket)
    }

    /// By which calibrations of other models are chosen.
    fn choice(&self) -> Choice {
        let home = self.cache.parent().unwrap_or(&self.cache).to_path_buf();
        Choice { home, named: None }
    }

    fn original(&self) -> Arc<Subject> {
        Arc::new(Subject::plain(self.checkpoint.clone(), "the original"))
    }

    fn subject(&self) -> Result<Arc<Subject>> {
        match &self.wish.what {
            What::Plan => self.planned(),
            What::Original => Ok(self.original()),
            What::Other(path) => Ok(Arc::new(Subject::open(path, &self.choice(), &self.ticket)?.0)),
        }
    }

    /// The plan carried out, now or by the run before.
    fn planned(&self) -> Result<Arc<Subject>> {
        let mut last = self.carried_out.lock().unwrap_or_else(PoisonError::into_inner);
        let given = (self.plan.as_ref(), self.loaded.as_deref());
        let settings = self.loaded.as_deref().map(|loaded| loaded.folder.settings());
        let key = plan_key(&self.checkpoint, (self.plan.as_ref(), settings), self.target);
        let is_same = |subject: &&Arc<Subject>| {
            subject.key == key && Arc::ptr_eq(&subject.whole, &self.checkpoint)
        };
        if let Some(subject) = last.as_ref().filter(is_same) {
            return Ok(subject.clone());
        }
        // Its folder makes room before the next one is written.
        *last = None;
        let checkpoint = self.checkpoint.clone();
        let planned = Subject::planned(checkpoint, given, self.target, &self.ticket)?;
        Ok(last.insert(Arc::new(planned)).clone())
    }

    fn score(&self, text: Source) -> Result<RunRecord> {
        let model_key = self.key()?;
        let subject = self.subject()?;
        let reference = (self.wish.what != What::Original).then(|| self.original());
        let wanted = Wanted {
            text,
            length: self.wish.length,
            limit: Some(self.wish.tokens),
            layers: self.wish.layers && reference.is_some(),
            blocks: self.wish.blocks,
        };
        let mut partial =
            |so_far: &Evaluation| self.ticket.send(Event::Ran(Ran::Partial(so_far.clone())));
        let both = (subject.as_ref(), reference.as_deref());
        let found = running::evaluate(both, &wanted, &mut partial, &self.ticket)?;
        let Found { text, evaluation, layers, blocks } = found;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(RunRecord {
            label: subject.label.clone(),
            subject: subject.key.clone(),
            model_key,
            bytes: subject.bytes,
            bits_per_weight: 8.0 * subject.bytes as f64
                / self.checkpoint.parameters().max(1) as f64,
            reference: reference.map(|reference| reference.label.clone()),
            text,
            seconds: now.map_or(0, |now| now.as_secs()),
            evaluation,
            layers,
            blocks,
            assignments: subject.assignments.clone(),
        })
    }

    fn continued(&self) -> Result<()> {
        let wish = &self.wish;
        let sampling = if wish.temperature > 0.0 {
            Sampling::Random { temperature: wish.temperature, seed: wish.seed }
        } else {
            Sampling::Greedy
        };
        let how = (wish.prompt.as_str(), wish.generate, sampling);
        for (place, subject) in [self.subject()?, self.original()].iter().enumerate() {
            let mut each =
                |piece: &str| self.ticket.send(Event::Ran(Ran::Token(place, piece.to_owned())));
            running::continue_prompt(subject, how, &mut each, &self.ticket)?;
        }
        Ok(())
    }

    fn answered(&self) -> Result<[Probe; 2]> {
        let path = self.wish.questions.as_ref().ok_or_else(|| {
            Error::plan("no questions were chosen", "choose a file of JSON lines")
        })?;
        let questions = read_questions(path, &self.ticket)?;
        let mine = running::answer(self.subject()?.as_ref(), &questions, &self.ticket)?;
        let original = running::answer(self.original().as_ref(), &questions, &self.ticket)?;
        Ok([mine, original])
    }
}

/// Removes a run, or keeps it again.
///
/// # Errors
/// What the disk says.
pub fn set_kept(home: &Path, kept: &Kept, is_kept: bool) -> Result<()> {
    if is_kept {
        keep_run(&runs_folder(home), kept.record.clone()).map(drop)
    } else {
        evaluation::delete_run(&runs_folder(home), kept)
    }
}
