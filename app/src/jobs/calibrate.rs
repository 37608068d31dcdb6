//! Calibrating in the background: what is on disk, runs, imports, and layers seen through what they receive.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::calibration::{
    self, Calibration, Folder, Imatrix, Record, Through as Engine, Wishes, import_imatrix,
    model_key,
};
use lapidary_engine::checkpoint::SharedCheckpoint;
use lapidary_engine::job::Limits;
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::{Error, Observer as _};

use crate::calibrated::{CALIBRATIONS, written};
use crate::document::calibrations::{Before, Ended, Known, Loaded, News, Through, outliers};
use crate::document::model::Model;
use crate::jobs::measure::sentence;
use crate::jobs::{Event, Jobs, Kind};
use crate::running::{self, Subject};

/// A model on which calibrations are made, and where they and measurements are kept.
struct Place {
    checkpoint: SharedCheckpoint,
    root: PathBuf,
    cache: PathBuf,
}

impl Jobs {
    fn place(&self, model: &Model) -> Place {
        let root = self.cache_folder.with_file_name(CALIBRATIONS);
        Place { checkpoint: model.checkpoint.clone(), root, cache: self.cache_folder.clone() }
    }

    /// Finds out whether the model can be run, and which calibrations of it there are.
    pub fn list_calibrations(&mut self, model: &Model, with_latest: bool) {
        let ticket = self.begin(Kind::Calibrations);
        let Place { checkpoint, root, cache } = self.place(model);
        self.spawn("calibrations", move || {
            let ability = calibration::ability(&checkpoint).map_err(|error| error.sentence());
            ticket.send(Event::Calibration(News::Able(ability)));
            // The key takes reading the model: not where there is nothing to find by it.
            if Folder::list(&root).is_empty() {
                ticket.send(Event::Calibration(News::Listed(Vec::new(), None)));
                return;
            }
            let cache = Cache::new(&cache, CACHE_LIMIT_BYTES);
            let Ok(key) = model_key(&checkpoint, Some(&cache), &ticket) else { return };
            let known = Folder::list_of_model(&root, &key).into_iter().map(Known::of);
            let mut known: Vec<Known> = known.collect();
            known.sort_by_key(|known| std::cmp::Reverse(written(&known.folder)));
            let latest = known.iter().find(|known| with_latest && known.is_finished);
            let latest = latest.map(|known| load(known.folder.clone()));
            ticket.send(Event::Calibration(News::Listed(known, latest)));
        });
    }

    /// Calibrates, the text passing through blocks as they are before it.
    pub fn calibrate(&mut self, model: &Model, wishes: Wishes, before: Before) {
        let ticket = self.begin(Kind::Calibrate);
        let Place { checkpoint, root, cache } = self.place(model);
        let (plan, target) = (model.plan().clone(), model.target);
        let loaded = model.calibrations.loaded.clone();
        self.spawn("calibrate", move || {
            let cache = Cache::new(&cache, CACHE_LIMIT_BYTES);
            let place = (root.as_path(), Some(&cache));
            let result = match before {
                Before::Original => running::calibrate(&checkpoint, &wishes, None, place, &ticket),
                Before::Plan => {
                    let given = (plan.as_ref(), loaded.as_deref());
                    let planned = Subject::planned(checkpoint.clone(), given, target, &ticket);
                    planned.and_then(|planned| {
                        running::calibrate(&checkpoint, &wishes, Some(&planned), place, &ticket)
                    })
                }
                Before::InTurn => {
                    let planned = (plan.as_ref(), target, Limits::default());
                    running::calibrate_in_turn(&checkpoint, &wishes, planned, place, &ticket)
                }
            };
            let result = result.map(|(folder, found)| (folder, found, Vec::new()));
            ticket.send(Event::Calibration(News::Ended(ended(result))));
        });
    }

    /// Takes an importance matrix for a calibration.
    pub fn import_calibration(&mut self, model: &Model, path: PathBuf) {
        let ticket = self.begin(Kind::Calibrate);
        let Place { checkpoint, root, cache } = self.place(model);
        self.spawn("import", move || {
            let cache = Cache::new(&cache, CACHE_LIMIT_BYTES);
            let place = (root.as_path(), Some(&cache));
            let result = import_imatrix(&checkpoint, &path, place, &ticket);
            ticket.send(Event::Calibration(News::Ended(ended(result))));
        });
    }

    /// Writes a calibration as an importance matrix.
    pub fn export_calibration(&mut self, loaded: Arc<Loaded>, path: PathBuf) {
        let ticket = self.begin(Kind::Calibrations);
        self.spawn("importance matrix", move || {
            let (imatrix, unsaid) = Imatrix::from_calibration(&loaded.calibration);
            let written = imatrix.write(&path).map_err(|error| error.sentence());
            ticket.send(Event::Calibration(News::Exported(written.map(|()| (path, unsaid)))));
        });
    }

    /// Loads one of those on disk.
    pub fn load_calibration(&mut self, folder: Folder) {
        let ticket = self.begin(Kind::Calibrations);
        self.spawn("load", move || {
            ticket.send(Event::Calibration(News::Loaded(load(folder))));
        });
    }

    /// Asks a run to stop; its last answer still comes.
    pub fn cancel_calibrating(&self) {
        self.flags[Kind::Calibrate as usize].store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Stops everything about calibrations, as another model is open.
    pub fn leave_calibrations(&mut self) {
        for kind in [Kind::Calibrate, Kind::Calibrations, Kind::Through] {
            self.stop(kind);
        }
    }

    /// Sees a layer through what it receives; answers come one by one.
    pub fn see_through(&mut self, model: &Model, layer: usize) {
        let ticket = self.begin(Kind::Through);
        let checkpoint = model.checkpoint.clone();
        let Some(loaded) = model.calibrations.loaded.clone() else { return };
        self.spawn("through", move || {
            let name = &checkpoint.tensors()[layer].name;
            let Some(record) = loaded.calibration.record(name) else { return };
            let tell = |through: &Through| {
                let news = News::Through(layer, Box::new(through.clone()));
                ticket.send(Event::Calibration(news));
            };
            let mut through = Through { outliers: outliers(record), ..Through::default() };
            let read = match sentence(Engine::read(&checkpoint, layer, record, &ticket)) {
                None => return,
                Some(Err(because)) => {
                    through.importance = Some(Err(because));
                    through.is_done = true;
                    return tell(&through);
                }
                Some(Ok(read)) => read,
            };
            through.importance = Some(Ok(Arc::new(read.importance())));
            tell(&through);
            if let Some(gram) = read.gram(&loaded.folder).filter(|_| has_tokens(record)) {
                through.whitened = sentence(read.whitened(&gram, &ticket));
                tell(&through);
                through.eigenvalues = sentence(read.eigenvalues(&gram, &ticket));
            }
            if !ticket.is_cancelled() {
                through.is_done = true;
                tell(&through);
            }
        });
    }
}

fn has_tokens(record: &Record) -> bool {
    record.inputs.tokens > 0
}

fn load(folder: Folder) -> Box<Loaded> {
    let calibration = folder.load();
    Box::new(Loaded::new(folder, calibration))
}

fn ended(result: lapidary_engine::Result<(Folder, Calibration, Vec<String>)>) -> Ended {
    match result {
        Ok((folder, found, unsaid)) => Some(Ok((Box::new(Loaded::new(folder, found)), unsaid))),
        Err(Error::Cancelled) => None,
        Err(error) => Some(Err(error.sentence())),
    }
}
