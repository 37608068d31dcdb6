//! Which calibration a plan is carried out with, where no window says: one that is named, or the latest that will do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lapidary_engine::calibration::{Folder, Prefix, Settings, model_key};
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::evaluation::subject_key;
use lapidary_engine::job::refined_blocks;
use lapidary_engine::method::{Needs, chain_needs};
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::{CACHE_LIMIT_BYTES, Cache};
use lapidary_engine::target::{TARGETS, Target};
use lapidary_engine::{Error, Observer, Result, disk};

use crate::document::calibrations::Loaded;

/// The folder of calibrations in the program's own.
pub const CALIBRATIONS: &str = "calibrations";

/// By what a calibration is chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The program's own folder, where calibrations and keys of models are kept.
    pub home: PathBuf,
    /// A calibration's folder; the latest finished one of the model if `None`.
    pub named: Option<PathBuf>,
}

/// The most that a plan needs of layers' inputs, if anything, and the first layer that needs it.
pub fn needs<'a>(checkpoint: &'a Checkpoint, plan: &Plan) -> Option<(Needs, &'a str)> {
    let of_layer = |tensor: &'a lapidary_engine::checkpoint::Tensor| {
        let assignment = plan.get(&tensor.name)?;
        Some((chain_needs(&assignment.steps), tensor.name.as_str()))
    };
    let all = checkpoint.tensors().iter().filter_map(of_layer);
    let most = all.reduce(|most, next| if next.0 > most.0 { next } else { most })?;
    (most.0 > Needs::Weights).then_some(most)
}

/// A model and a plan with the calibration that it is carried out with.
pub struct Prepared {
    /// The model: without what the plan takes out, where the calibration is of that.
    pub checkpoint: Checkpoint,
    /// The plan for it.
    pub plan: Plan,
    /// The calibration, where the plan needs any.
    pub loaded: Option<Loaded>,
}

impl Choice {
    /// The calibration for a plan. Of a plan that takes parts out, one of the model without them comes first, as
    /// `calibrate --sequential` and `--behind-plan` make it, then one of the whole model.
    ///
    /// # Errors
    /// Those of [`Choice::find`].
    pub fn prepare(
        &self,
        (checkpoint, plan): (Checkpoint, Plan),
        observer: &dyn Observer,
    ) -> Result<Prepared> {
        if let (Some(reduced), true) =
            (plan.reduced(&checkpoint)?, needs(&checkpoint, &plan).is_some())
            && let Ok(Some(loaded)) = self.find(&reduced.checkpoint, &reduced.plan, observer)
        {
            let loaded = Some(loaded);
            return Ok(Prepared { checkpoint: reduced.checkpoint, plan: reduced.plan, loaded });
        }
        observer.go_on()?;
        let loaded = self.find(&checkpoint, &plan, observer)?;
        Ok(Prepared { checkpoint, plan, loaded })
    }

    /// The calibration for a plan; `None` where it needs none.
    ///
    /// # Errors
    /// [`Error::Plan`] where there is none that will do, with the command that makes one; [`Error::Cancelled`].
    pub fn find(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        observer: &dyn Observer,
    ) -> Result<Option<Loaded>> {
        let Some((needs, layer)) = needs(checkpoint, plan) else { return Ok(None) };
        let Some(found) = self.latest(checkpoint, (needs, Some(plan)), observer)? else {
            if let Some(block) = refined_blocks(checkpoint, plan).first() {
                return Err(Error::plan(
                    format!(
                        "refining block {block} needs what enters it, and no finished calibration with this plan keeps it"
                    ),
                    "run: lapidary calibrate PROJECT --text FILE --sequential",
                ));
            }
            let what = match needs {
                Needs::Gram => "the Gram matrix of its inputs",
                Needs::Tokens => "to know how often its tokens occur",
                Needs::Weights | Needs::Moments => "the mean squares of its inputs",
            };
            return Err(Error::plan(
                format!(
                    "layer {layer} needs {what}, and no finished calibration of this model holds it"
                ),
                format!("run: lapidary calibrate {} --text FILE", checkpoint.path().display()),
            ));
        };
        Ok(Some(found))
    }

    /// The calibration that was named, or the latest finished one that holds as much as is needed and was measured behind
    /// the original's blocks, or behind those of this plan: what another plan's blocks give is nothing its layers receive.
    ///
    /// # Errors
    /// [`Error::Plan`] where the one that was named is none of this model; [`Error::Cancelled`].
    pub fn latest(
        &self,
        checkpoint: &Checkpoint,
        (needs, plan): (Needs, Option<&Plan>),
        observer: &dyn Observer,
    ) -> Result<Option<Loaded>> {
        let cache = Cache::new(&self.home.join("measured"), CACHE_LIMIT_BYTES);
        let key = model_key(checkpoint, Some(&cache), observer)?;
        let refined = plan.map(|plan| refined_blocks(checkpoint, plan)).unwrap_or_default();
        let has_enough = |folder: &Folder| {
            let is_enough = match needs {
                Needs::Tokens => folder.has_tokens(),
                Needs::Gram => folder.settings().has_grams,
                Needs::Weights | Needs::Moments => true,
            };
            is_enough && refined.iter().all(|&block| folder.has_stream(block))
        };
        let found = if let Some(path) = &self.named {
            Some(named(path, &key)?)
        } else {
            let all = finished(&self.home, &key);
            let fits = |folder: &&Folder| {
                has_enough(folder) && is_behind(checkpoint, plan, folder.settings(), &all)
            };
            all.iter().find(fits).cloned()
        };
        Ok(found.map(|folder| {
            let calibration = folder.load();
            Loaded::new(folder, calibration)
        }))
    }
}

/// Whether a calibration was measured behind the original's blocks, or behind those of a plan as one of `all`, or none,
/// makes them for any target.
fn is_behind(
    checkpoint: &Checkpoint,
    plan: Option<&Plan>,
    settings: &Settings,
    all: &[Folder],
) -> bool {
    let (Prefix::Compressed { plan: key } | Prefix::InTurn { plan: key }) = &settings.prefix else {
        return true;
    };
    let Some(plan) = plan else { return false };
    let made_with =
        || std::iter::once(None).chain(all.iter().map(|folder| Some(folder.settings())));
    TARGETS.iter().any(|target| {
        made_with().any(|calibrated| plan_key(checkpoint, (plan, calibrated), *target) == *key)
    })
}

fn named(path: &Path, model_key: &str) -> Result<Folder> {
    let absolute = disk::absolute(path);
    let folder = Folder::open(&absolute).ok_or_else(|| {
        Error::plan(
            format!("{} is no calibration", path.display()),
            "give a folder that `lapidary calibrate` names at its end",
        )
    })?;
    if folder.settings().model_key == model_key {
        return Ok(folder);
    }
    Err(Error::plan(
        format!(
            "{} is a calibration of another model, {}",
            path.display(),
            folder.settings().model
        ),
        "calibrate this model",
    ))
}

/// The finished calibrations of a model, the latest first.
pub fn finished(home: &Path, model_key: &str) -> Vec<Folder> {
    let mut all = Folder::list_of_model(&home.join(CALIBRATIONS), model_key);
    all.retain(Folder::is_finished);
    all.sort_by_key(|folder| std::cmp::Reverse(written(folder)));
    all
}

/// When the youngest of its files was written.
pub fn written(folder: &Folder) -> Option<std::time::SystemTime> {
    let files = disk::list_tree(folder.path());
    files.iter().map(|found| found.modified).max()
}

/// A hash of what a plan does to each layer, with which calibration if it needs one, and for which target.
pub fn plan_key(
    checkpoint: &Checkpoint,
    (plan, calibrated): (&Plan, Option<&Settings>),
    target: &'static dyn Target,
) -> String {
    let of_layer = |(name, steps): (String, String)| format!("{name}\n{steps}");
    let layers: Vec<String> = assignments(checkpoint, plan).map(of_layer).collect();
    let key =
        subject_key(std::iter::once(target.about().id).chain(layers.iter().map(String::as_str)));
    match calibrated.filter(|_| needs(checkpoint, plan).is_some()) {
        Some(settings) => subject_key([key.as_str(), settings.key().as_str()]),
        None => key,
    }
}

/// What stands in the place of a layer's name before what a plan takes out.
pub const REMOVED: &str = "(taken out)";

/// What a plan gives each layer that it does not keep, as JSON of its steps, and what it takes out.
pub fn assignments(checkpoint: &Checkpoint, plan: &Plan) -> impl Iterator<Item = (String, String)> {
    let removal = serde_json::to_string(plan.removal()).ok();
    let removed = removal.filter(|_| !plan.removal().is_empty());
    let removed = removed.into_iter().map(|removal| (REMOVED.to_owned(), removal));
    let gone: BTreeSet<usize> = plan.removed_tensors(checkpoint).into_iter().collect();
    let left = checkpoint.tensors().iter().enumerate().filter(move |(at, _)| !gone.contains(at));
    removed.chain(left.filter_map(|(_, tensor)| {
        let assignment = plan.get(&tensor.name).filter(|assignment| !assignment.is_keep())?;
        let steps = serde_json::to_string(&assignment.steps).unwrap_or_default();
        Some((tensor.name.clone(), steps))
    }))
}
