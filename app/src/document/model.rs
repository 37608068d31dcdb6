//! An open model: checkpoint, what was measured of it, plan, target, selection, and what the export would be.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::checkpoint::{Checkpoint, Role, SharedCheckpoint};
use lapidary_engine::compare::Comparison;
use lapidary_engine::job::{Damage, Preview, Weighting};
use lapidary_engine::numeric::grouping::Grouping;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::{Spectrum, Statistics, Structure};
use lapidary_engine::target::{self, Lint, Manifest, NonFinite, Storage, Target};

use crate::document::Slot;
use crate::document::allocation::BITS;
use crate::document::brush::Brush;
use crate::document::calibrations::Calibrations;
use crate::document::damages::MeanDamage;
use crate::document::draft::Draft;
use crate::document::held_bits::HeldBits;
use crate::document::history::History;
use crate::document::list::ListView;
use crate::document::look::{Look, MAX_OVERLAID, Tab};
use crate::document::map::MapLayout;
use crate::document::measurements::{Finding, Measured, Measurements, value};
use crate::document::metrics::{METRICS, Metric, Needs, metric, sensitive};
use crate::document::other::Other;
use crate::document::outcome::Outcome;
use crate::document::price::NextSteps;
use crate::document::project::View;
use crate::document::selection::Selection;
use crate::document::shades::{Scaling, Shades};

/// An assignment tried on a layer: which layer, which assignment, what it does or why it cannot.
pub type Tried = (usize, Arc<Assignment>, Result<Arc<Preview>, String>);

/// How the map shows the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapMode {
    /// Blocks down, roles across.
    #[default]
    Blocks,
    /// A treemap: areas are bytes in the export.
    Bytes,
}

/// The part of the window that arrow keys walk in: the one clicked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pane {
    /// The layer list.
    #[default]
    List,
    /// The model map.
    Map,
}

/// What the left column shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The layer list.
    #[default]
    Layers,
    /// The rules of the plan.
    Rules,
    /// What is wrong with the plan.
    Problems,
    /// The steps that undo takes back.
    History,
}

/// An open model.
pub struct Model {
    /// The checkpoint.
    pub checkpoint: SharedCheckpoint,
    /// Plan and target with their undo history.
    pub history: History<Draft>,
    /// The target of the export.
    pub target: &'static dyn Target,
    /// What dragging over the map paints, while the brush is out.
    pub brush: Option<Brush>,
    /// What the left column shows.
    pub side: Side,
    /// Fused groups whose layers have assignments of their own, where the target allows it.
    pub split: BTreeSet<usize>,
    /// What is selected.
    pub selection: Selection,
    /// The metric that colours the map.
    pub metric: &'static Metric,
    /// How the metric is laid on the scale of colours.
    pub scaling: Scaling,
    /// The values of the metric and the ends of their scale.
    pub shades: Shades,
    /// How the map shows the model.
    pub map_mode: MapMode,
    /// Where arrow keys walk.
    pub pane: Pane,
    /// The layer list.
    pub list: ListView,
    /// Where each layer stands on the map.
    pub map: MapLayout,
    /// Tensors on screen, by [`Pane`]: they are measured before the others.
    pub visible: [Vec<usize>; 2],
    /// What the inspector shows.
    pub tab: Tab,
    /// What was computed for the inspector alone.
    pub look: Look,
    /// What its layers receive when text runs through it.
    pub calibrations: Calibrations,
    /// A second checkpoint to compare with.
    pub other: Slot<Other>,
    /// The project's file, once it has one.
    pub project: Option<PathBuf>,
    /// What the assignment of the layer in the inspector does, with the assignment it was measured for.
    pub preview: Option<Tried>,
    /// What the plan comes to for the target.
    pub outcome: Outcome,
    /// What was measured.
    pub measured: Measurements,
    /// The next steps of every layer, as far as somebody asked for them.
    pub next_steps: Vec<NextSteps>,
    /// The damage of all weights together, as far as it is known.
    pub mean_damage: MeanDamage,
    /// Numbers of bits that no layer can have.
    pub held_bits: HeldBits,
    /// Grows with every change of what is shown, so that what is derived can be kept until then.
    pub revision: u64,
    is_stale: bool,
    rows_are_stale: bool,
    saved: Option<Arc<Draft>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("checkpoint", &self.checkpoint.path()).finish_non_exhaustive()
    }
}

/// What a model is opened with.
pub struct Opened {
    /// The checkpoint.
    pub checkpoint: SharedCheckpoint,
    /// Plan and target.
    pub draft: Draft,
    /// What was on screen.
    pub view: View,
    /// The project's file, if it was opened through one.
    pub project: Option<PathBuf>,
    /// The file of a window that did not close, where this was recovered from one.
    pub recovered: Option<PathBuf>,
}

impl Model {
    /// A model just opened: nothing measured yet.
    pub fn new(opened: Opened) -> Self {
        let selected: Vec<usize> =
            opened.view.selected.iter().filter_map(|name| opened.checkpoint.find(name)).collect();
        let selection = if selected.is_empty() {
            first_layer(&opened.checkpoint)
        } else {
            Selection::of(selected)
        };
        let outcome = Outcome::new(&opened.checkpoint, &opened.draft);
        let target = opened.draft.target();
        let is_recovered = opened.recovered.is_some();
        let history = History::new(opened.draft);
        let mut model = Self {
            selection,
            metric: metric(&opened.view.metric),
            scaling: Scaling::default(),
            shades: Shades::default(),
            map_mode: MapMode::default(),
            pane: Pane::default(),
            list: ListView::new(&opened.view.columns, &opened.view.filter),
            visible: [Vec::new(), Vec::new()],
            tab: Tab::default(),
            look: Look::default(),
            calibrations: Calibrations::default(),
            other: Slot::Idle,
            map: MapLayout::new(&opened.checkpoint),
            project: opened.project,
            preview: None,
            outcome,
            brush: None,
            side: Side::default(),
            split: BTreeSet::new(),
            measured: Measurements::new(&opened.checkpoint),
            next_steps: opened.checkpoint.tensors().iter().map(|_| NextSteps::default()).collect(),
            mean_damage: MeanDamage::default(),
            held_bits: HeldBits::default(),
            revision: 0,
            is_stale: true,
            rows_are_stale: false,
            saved: (!is_recovered).then(|| history.current().clone()),
            checkpoint: opened.checkpoint,
            target,
            history,
        };
        model.held_bits = HeldBits::of(&model, BITS);
        model.refresh_rows();
        model.refresh();
        model
    }

    /// The present plan.
    pub fn plan(&self) -> &Arc<Plan> {
        self.history.current().plan()
    }

    /// Whether the plan compresses any layer.
    pub fn plan_compresses(&self) -> bool {
        let mut all = self.checkpoint.tensors().iter();
        all.any(|tensor| self.plan().get(&tensor.name).is_some_and(|of| !of.is_keep()))
    }

    /// The export to the byte, or why there is none.
    pub fn manifest(&self) -> Result<&Arc<Manifest>, &str> {
        self.outcome.laid_out.manifest.as_ref().map_err(String::as_str)
    }

    /// The assignment of a layer.
    pub fn assignment(&self, layer: usize) -> Arc<Assignment> {
        self.plan().assignment(&self.checkpoint.tensors()[layer].name)
    }

    /// What was measured of a tensor, if it could be.
    pub fn statistics(&self, layer: usize) -> Option<&Arc<Statistics>> {
        value(&self.measured.statistics[layer])
    }

    /// How the weights of a layer are arranged, if it could be measured.
    pub fn structure(&self, layer: usize) -> Option<&Arc<Structure>> {
        value(&self.measured.structures[layer])
    }

    /// The spectrum of a layer, if it could be measured.
    pub fn spectrum(&self, layer: usize) -> Option<&Arc<Spectrum>> {
        value(&self.measured.spectra[layer])
    }

    /// The state of a tensor's statistics.
    pub fn statistics_state(&self, layer: usize) -> &Measured<Statistics> {
        &self.measured.statistics[layer]
    }

    /// The state of a layer's spectrum.
    pub fn spectrum_state(&self, layer: usize) -> &Measured<Spectrum> {
        &self.measured.spectra[layer]
    }

    /// What an assignment does to a layer, as far as it is known; nothing where it keeps the layer.
    pub fn damage_of(&self, layer: usize, assignment: &Assignment) -> Option<Damage> {
        self.checkpoint.tensors()[layer].matrix?;
        if assignment.is_keep() {
            return Some(Damage::none());
        }
        self.measured.damages.get(layer, assignment)?.as_ref().ok().copied()
    }

    /// What the present assignment of a layer does to it, as far as it is known.
    pub fn damage(&self, layer: usize) -> Option<Damage> {
        match self.plan().get(&self.checkpoint.tensors()[layer].name) {
            Some(assignment) => self.damage_of(layer, assignment),
            None => self.checkpoint.tensors()[layer].matrix.map(|_| Damage::none()),
        }
    }

    /// The relative error of a layer's present assignment, as far as it is known; 0 where it is kept.
    pub fn relative_error(&self, layer: usize) -> Option<f64> {
        self.damage(layer).map(|damage| damage.relative_error)
    }

    /// Whether a number of a layer rests on a sample of its rows.
    pub fn is_estimate(&self, layer: usize, metric: &Metric) -> bool {
        match metric.needs {
            Needs::Damage => self.damage(layer).is_some_and(|damage| !damage.is_exact()),
            Needs::Sensitivity => {
                self.damage_of(layer, &sensitive()).is_some_and(|damage| !damage.is_exact())
            }
            Needs::Price => true,
            Needs::Plan | Needs::Measuring | Needs::Other | Needs::Calibration => false,
        }
    }

    /// Which weights of a layer would share a scale, where it is quantised in groups.
    pub fn grouping(&self, layer: usize) -> Option<Grouping> {
        let tensor = &self.checkpoint.tensors()[layer];
        let layout = self.assignment(layer).layout(tensor.matrix?.shape, tensor.dtype).ok()?;
        Some(layout.affine()?.grouping)
    }

    /// How far a tensor is from its counterpart in the second checkpoint.
    pub fn comparison(&self, layer: usize) -> Option<&Comparison> {
        match &self.other {
            Slot::Ready(other) => other.comparison(layer).map(AsRef::as_ref),
            _ => None,
        }
    }

    /// Takes in a finding about a tensor.
    pub fn take(&mut self, layer: usize, finding: Finding) {
        self.measured.take(layer, finding);
        self.is_stale = true;
    }

    /// Records statistics.
    pub fn set_statistics(&mut self, layer: usize, result: Result<Arc<Statistics>, String>) {
        self.take(layer, Finding::Statistics(result));
    }

    /// Records a spectrum.
    pub fn set_spectrum(&mut self, layer: usize, result: Result<Arc<Spectrum>, String>) {
        self.take(layer, Finding::Spectrum(result));
    }

    /// Marks everything derived from plan, measurements and view to be computed again.
    pub fn changed(&mut self) {
        self.is_stale = true;
    }

    /// Computes again what is derived, if something changed: once a frame at most.
    pub fn refresh(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        self.revision += 1;
        let tensors = 0..self.checkpoint.tensors().len();
        let values = tensors.map(|layer| (self.metric.value)(self, layer)).collect();
        let logarithmic = self.scaling.logarithmic.unwrap_or(self.metric.logarithmic);
        // Norms have weights around one: on their scale the matrices would all look alike.
        let is_matrix = |layer: usize| self.is_matrix(layer);
        self.shades = Shades::over(values, is_matrix, (logarithmic, self.scaling.clip));
        self.mean_damage = self.add_up();
        self.outcome.measured = Arc::new(self.not_finite());
        if std::mem::take(&mut self.rows_are_stale) || self.list.depends_on_measurements() {
            self.refresh_rows();
        }
    }

    /// Problems with what was measured so far.
    fn not_finite(&self) -> Vec<Lint> {
        let count = |(tensor, of): (usize, &Arc<Statistics>)| {
            let infinite = of.positive_infinity + of.negative_infinity;
            NonFinite { tensor, nan: of.nan, infinite }
        };
        let tensors = 0..self.checkpoint.tensors().len();
        let known = tensors.filter_map(|tensor| Some((tensor, self.statistics(tensor)?)));
        let found = known.filter(|(_, of)| of.non_finite() > 0).map(count);
        target::non_finite(&self.checkpoint, self.plan(), &found.collect::<Vec<_>>())
    }

    fn add_up(&self) -> MeanDamage {
        let mut of = MeanDamage::default();
        let all = self.checkpoint.parameters().max(1) as f64;
        let entries = self.outcome.entries.iter().filter(|entry| entry.is_compressed());
        for entry in entries {
            let tensor = &self.checkpoint.tensors()[entry.tensor];
            match self.damage(entry.tensor) {
                None if self.has_no_damage(entry.tensor) => of.without += 1,
                None => of.unknown += 1,
                Some(damage) => {
                    let share = tensor.parameters() as f64 / all;
                    of.mean += share * damage.relative_error.powi(2);
                    of.weighted += usize::from(damage.weighting != Weighting::None);
                    let count = if damage.is_exact() { &mut of.exact } else { &mut of.estimated };
                    *count += 1;
                }
            }
        }
        of
    }

    /// Whether the damage of a layer could not be worked out, as where it holds NaN.
    fn has_no_damage(&self, layer: usize) -> bool {
        let found = self.measured.damages.get(layer, &self.assignment(layer));
        found.is_some_and(Result::is_err)
    }

    /// The layers the inspector shows, the cursor first, at most eight.
    pub fn inspected(&self) -> Vec<usize> {
        let Some(cursor) = self.selection.cursor() else { return Vec::new() };
        let others = self.selection.layers().filter(|&layer| layer != cursor);
        std::iter::once(cursor).chain(others).take(MAX_OVERLAID).collect()
    }

    /// Whether a metric of that need is on show.
    pub fn wants(&self, needs: Needs) -> bool {
        let mut ids = METRICS.iter().filter(|metric| metric.needs == needs).map(|metric| metric.id);
        ids.any(|id| self.metric.id == id || self.list.uses(id))
    }

    /// Bytes of a layer in the export, or in the source where no export is possible.
    pub fn bytes(&self, layer: usize) -> u64 {
        let entry = self.outcome.entries.get(layer);
        entry.map_or_else(|| self.checkpoint.tensors()[layer].bytes(), |entry| entry.bytes)
    }

    /// Effective bits per weight of a layer in the export.
    pub fn effective_bits(&self, layer: usize) -> Option<f64> {
        let parameters = self.checkpoint.tensors()[layer].parameters();
        (parameters > 0).then(|| self.bytes(layer) as f64 * 8.0 / parameters as f64)
    }

    /// The bits to write on a layer: those of its codes, or of its element type where it is kept.
    pub fn nominal_bits(&self, layer: usize) -> u32 {
        let tensor = &self.checkpoint.tensors()[layer];
        if let Some(coded) = tensor.coded.as_ref().filter(|_| self.assignment(layer).is_keep()) {
            return coded.bits;
        }
        let layout = tensor
            .matrix
            .and_then(|matrix| self.assignment(layer).layout(matrix.shape, tensor.dtype).ok());
        layout.map_or(tensor.dtype.bits() as u32, |layout| layout.nominal_bits())
    }

    /// Whether a tensor is taken out of the model with its block or expert.
    pub fn is_removed(&self, layer: usize) -> bool {
        self.outcome.removed.get(layer).copied().unwrap_or(false)
    }

    /// Why a compressed layer is stored in full by the target.
    pub fn why_dense(&self, layer: usize) -> Option<&str> {
        match &self.outcome.entries.get(layer)?.storage {
            Storage::Dense { because } => Some(because),
            Storage::Copied | Storage::Native | Storage::Changed { .. } => None,
        }
    }

    /// Layers in the order of the list, filtered and sorted.
    pub fn rows(&self) -> &[usize] {
        self.list.rows()
    }

    /// Whether plan or target differ from the saved project, or nothing of them was ever saved, as after a recovery.
    pub fn is_changed(&self) -> bool {
        let now = self.history.current();
        self.saved.as_ref().is_none_or(|saved| !Arc::ptr_eq(saved, now) && saved != now)
    }

    /// Remembers the present plan and target as saved.
    pub fn mark_saved(&mut self) {
        self.saved = Some(self.history.current().clone());
    }

    /// Takes in what depends on plan and target.
    pub fn plan_changed(&mut self) {
        for layer in self.outcome.follow(&self.checkpoint, self.history.current()) {
            self.next_steps[layer] = NextSteps::default();
        }
        self.target = self.history.current().target();
        self.held_bits = HeldBits::of(self, BITS);
        self.is_stale = true;
        self.rows_are_stale = true;
    }

    /// A short name for lists and cells: `3 · down`, or the full name where the role says too little.
    pub fn short_name(&self, layer: usize) -> String {
        let tensor = &self.checkpoint.tensors()[layer];
        let says_little = matches!(tensor.place.role, Role::Other | Role::Norm | Role::Bias);
        match (tensor.place.block, tensor.place.expert) {
            (None, _) => tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name).to_owned(),
            (Some(block), _) if says_little => {
                let mut parts = tensor.module().rsplit('.');
                let last = parts.next().unwrap_or_default();
                // A bias or a running mean says nothing without the module it belongs to.
                let is_module = tensor.name.ends_with(".weight");
                let owner = parts.next().filter(|_| !is_module);
                let tail = owner.map_or_else(|| last.to_owned(), |owner| format!("{owner}.{last}"));
                format!("{block} · {tail}")
            }
            (Some(block), None) => format!("{block} · {}", tensor.place.role),
            (Some(block), Some(expert)) => format!("{block} · e{expert} · {}", tensor.place.role),
        }
    }

    /// Measurements made so far and in all: statistics, structures and spectra.
    pub fn progress(&self) -> (usize, usize) {
        self.measured.progress()
    }
}

/// The first down projection, or else the first matrix: what is worth looking at first.
fn first_layer(checkpoint: &Checkpoint) -> Selection {
    let tensors = checkpoint.tensors();
    let down = tensors
        .iter()
        .position(|tensor| tensor.place.role == Role::Down && tensor.matrix.is_some());
    let matrix = || tensors.iter().position(|tensor| tensor.matrix.is_some());
    let any = || (!tensors.is_empty()).then_some(0);
    Selection::of(down.or_else(matrix).or_else(any))
}
