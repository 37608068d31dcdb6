//! What the plan comes to for the target: every tensor's entry at once, files, headers and lints soon after.

use std::collections::BTreeMap;
use std::sync::Arc;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::format::gguf_importance::Importance;
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Aim, Case, Entry, Lint, Manifest, Severity, Storage, Target};

use crate::document::draft::Draft;
use crate::document::model::Model;

/// Tensors up to which files, headers and lints are laid out within the frame; more are laid out in the background.
const AT_ONCE: usize = 3000;

/// Files, headers and lints of a plan.
#[derive(Clone, Debug)]
pub struct LaidOut {
    /// The export to the byte, or why there is none.
    pub manifest: Result<Arc<Manifest>, String>,
    /// What is wrong, errors first.
    pub lints: Arc<Vec<Lint>>,
}

impl LaidOut {
    /// Lays out everything of a draft, with where importances of inputs come from.
    pub fn of(checkpoint: &Checkpoint, draft: &Draft, importance: Option<&Importance>) -> Self {
        match target::entries_of_whole(checkpoint, draft.plan(), draft.target()) {
            Ok(entries) => Self::new(checkpoint, (draft.plan(), importance), draft.aim(), entries),
            Err(error) => Self { manifest: Err(error.sentence()), lints: Arc::default() },
        }
    }

    /// Lays out entries that are known. Cost: names and extents of every tensor are written as JSON.
    pub fn new(
        checkpoint: &Checkpoint,
        (plan, importance): (&Plan, Option<&Importance>),
        aim: Aim,
        entries: Vec<Entry>,
    ) -> Self {
        if !plan.removal().is_empty() {
            return Self::of_less(checkpoint, (plan, importance), aim);
        }
        let case = Case { checkpoint, plan, aim, entries: &entries };
        let lints = Arc::new(target::lints(&case));
        let manifest = Manifest::of(checkpoint, aim.target, entries)
            .and_then(|manifest| manifest.weighted(checkpoint, plan, importance))
            .and_then(|manifest| manifest.in_shards(checkpoint, aim));
        Self { manifest: manifest.map(Arc::new).map_err(|error| error.sentence()), lints }
    }
}

impl LaidOut {
    /// The same of a plan that takes parts out: files are those of what is left, lints speak of the whole model's tensors.
    fn of_less(
        checkpoint: &Checkpoint,
        (plan, importance): (&Plan, Option<&Importance>),
        aim: Aim,
    ) -> Self {
        let lints = Arc::new(target::lints_of_whole(checkpoint, plan, aim));
        let manifest = plan.reduced(checkpoint).and_then(|reduced| match reduced {
            Some(of) => Manifest::new(&of.checkpoint, &of.plan, aim.target)?
                .weighted(&of.checkpoint, &of.plan, importance)?
                .in_shards(&of.checkpoint, aim),
            None => Manifest::new(checkpoint, plan, aim.target),
        });
        Self { manifest: manifest.map(Arc::new).map_err(|error| error.sentence()), lints }
    }
}

/// What the plan comes to.
#[derive(Debug)]
pub struct Outcome {
    /// One entry for each tensor, always of the present plan.
    pub entries: Vec<Entry>,
    /// Whether each tensor is taken out with its block or expert.
    pub removed: Vec<bool>,
    /// Bytes of all tensors, always of the present plan.
    pub tensor_bytes: u64,
    /// Weights of all tensors but what is taken out.
    pub parameters: u64,
    /// Why there are no entries of the present plan, where an assignment has no layout.
    pub defect: Option<String>,
    /// What stands in the way of the plan by what was measured of tensors.
    pub measured: Arc<Vec<Lint>>,
    /// Files, headers and lints, perhaps of a moment ago.
    pub laid_out: LaidOut,
    /// Whether they are.
    pub is_late: bool,
    /// The draft that is being laid out in the background.
    pub in_flight: Option<Arc<Draft>>,
    /// Where importances of inputs come from, which GGUF files say.
    pub importance: Option<Arc<Importance>>,
    /// Grows with every change of a size.
    pub revision: u64,
    plan: Arc<Plan>,
    target: &'static str,
}

impl Outcome {
    /// That of a draft.
    pub fn new(checkpoint: &Checkpoint, draft: &Draft) -> Self {
        let nothing = LaidOut { manifest: Err(String::new()), lints: Arc::default() };
        let mut outcome = Self {
            entries: Vec::new(),
            removed: Vec::new(),
            tensor_bytes: 0,
            parameters: checkpoint.parameters(),
            defect: None,
            laid_out: nothing,
            measured: Arc::default(),
            is_late: true,
            in_flight: None,
            importance: None,
            revision: 0,
            plan: draft.plan().clone(),
            target: "",
        };
        outcome.follow(checkpoint, draft);
        outcome.lay_out(checkpoint, draft);
        outcome
    }

    /// Takes in a changed draft; gives the tensors whose assignment or storage may have changed.
    pub fn follow(&mut self, checkpoint: &Checkpoint, draft: &Draft) -> Vec<usize> {
        let target = draft.target();
        let is_new_target = self.target != target.about().id;
        let is_joint = target::is_joint(draft.plan()) || target::is_joint(&self.plan);
        let is_less = !draft.plan().removal().is_empty() || !self.plan.removal().is_empty();
        let changed = if is_new_target || is_joint || is_less || self.defect.is_some() {
            (0..checkpoint.tensors().len()).collect()
        } else {
            draft.plan().changed_from(&self.plan, checkpoint)
        };
        self.defect = self.replace(checkpoint, draft, &changed).err().map(|e| e.sentence());
        self.plan = draft.plan().clone();
        self.target = target.about().id;
        self.is_late = true;
        self.revision += 1;
        if checkpoint.tensors().len() <= AT_ONCE {
            self.lay_out(checkpoint, draft);
        }
        changed
    }

    fn replace(
        &mut self,
        checkpoint: &Checkpoint,
        draft: &Draft,
        changed: &[usize],
    ) -> lapidary_engine::Result<()> {
        let (plan, target) = (draft.plan(), draft.target());
        if self.entries.is_empty() || changed.len() == self.entries.len() {
            // Marked also where not all of it can be taken out yet: Problems says what is missing.
            self.removed = vec![false; checkpoint.tensors().len()];
            for index in plan.removed_tensors(checkpoint) {
                self.removed[index] = true;
            }
            self.entries = target::entries_of_whole(checkpoint, plan, target)?;
            self.tensor_bytes = self.entries.iter().map(|entry| entry.bytes).sum();
            let reduced = plan.reduced(checkpoint)?;
            let left = reduced.as_ref().map_or(checkpoint, |reduced| &reduced.checkpoint);
            self.parameters = left.parameters();
            return Ok(());
        }
        for &index in changed {
            let entry = target::entry(checkpoint, plan, target, index)?;
            self.tensor_bytes = self.tensor_bytes - self.entries[index].bytes + entry.bytes;
            self.entries[index] = entry;
        }
        Ok(())
    }

    /// Takes in another calibration, or none.
    pub fn weigh(&mut self, importance: Option<Importance>) {
        self.importance = importance.map(Arc::new);
        // What is being laid out has the old one.
        self.in_flight = None;
        self.is_late = true;
    }

    fn lay_out(&mut self, checkpoint: &Checkpoint, draft: &Draft) {
        let given = (draft.plan().as_ref(), self.importance.as_deref());
        self.laid_out = match &self.defect {
            Some(defect) => {
                // What cannot be taken out is a problem with a mend; other defects have none.
                let lints = if draft.plan().removal().is_empty() {
                    Vec::new()
                } else {
                    target::lints_of_whole(checkpoint, draft.plan(), draft.aim())
                };
                LaidOut { manifest: Err(defect.clone()), lints: Arc::new(lints) }
            }
            None => LaidOut::new(checkpoint, given, draft.aim(), self.entries.clone()),
        };
        self.is_late = false;
    }

    /// Takes in what was laid out in the background; whether it was of the present draft.
    pub fn take(&mut self, laid_out: LaidOut, present: &Arc<Draft>) -> bool {
        let is_present = self.in_flight.take().is_some_and(|of| Arc::ptr_eq(&of, present));
        self.laid_out = laid_out;
        self.is_late = !is_present;
        is_present
    }

    /// Everything that is wrong: errors first, of those what was measured first.
    pub fn lints(&self) -> impl Iterator<Item = &Lint> {
        const ORDER: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Note];
        let of = move |severity| {
            let all = self.measured.iter().chain(self.laid_out.lints.iter());
            all.filter(move |lint| lint.severity == severity)
        };
        ORDER.into_iter().flat_map(of)
    }

    /// Lints of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.lints().filter(|lint| lint.severity == severity).count()
    }
}

/// What going to another target would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Bytes of all tensors there.
    pub bytes: u64,
    /// Layers whose assignment differs, where the target has a plan of its own.
    pub own_plan: usize,
    /// Compressed layers that it would store in full, by the reason.
    pub in_full: BTreeMap<String, Vec<usize>>,
}

impl Model {
    /// What going to another target would change; `None` where its plan has no layout. Cost: that of laying out every
    /// tensor.
    pub fn would_change(&self, target: &'static dyn Target) -> Option<Change> {
        let draft = self.history.current();
        let plan = draft.plan_of(target.about().id);
        let mut change = Change {
            own_plan: plan.changed_from(draft.plan(), &self.checkpoint).len(),
            ..Change::default()
        };
        for entry in target::entries_of_whole(&self.checkpoint, plan, target).ok()? {
            change.bytes += entry.bytes;
            if let Storage::Dense { because } = entry.storage
                && !target.capabilities().is_dense()
            {
                change.in_full.entry(because).or_default().push(entry.tensor);
            }
        }
        Some(change)
    }
}
