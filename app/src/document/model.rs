//! An open model: checkpoint, what was measured of it, plan, target, selection, and what the export would be.

use std::path::PathBuf;
use std::sync::Arc;

use lapidary_engine::checkpoint::{Checkpoint, Role, SharedCheckpoint};
use lapidary_engine::job::Preview;
use lapidary_engine::plan::{Assignment, Plan};
use lapidary_engine::statistics::{Spectrum, Statistics};
use lapidary_engine::target::{self, Manifest, Storage, Target};

use crate::document::columns::{Column, Sort};
use crate::document::history::History;
use crate::document::map::MapLayout;
use crate::document::metrics::{Metric, metric};
use crate::document::project::View;
use crate::document::selection::Selection;

/// Something that is measured in the background: the value, or a sentence why there is none.
pub type Measured<T> = Option<Result<Arc<T>, String>>;

/// An assignment tried on a layer: which layer, which assignment, what it does or why it cannot.
pub type Tried = (usize, Arc<Assignment>, Result<Arc<Preview>, String>);

/// An open model.
pub struct Model {
    /// The checkpoint.
    pub checkpoint: SharedCheckpoint,
    /// The plan with its undo history.
    pub history: History<Plan>,
    /// The target of the export.
    pub target: &'static dyn Target,
    /// What is selected.
    pub selection: Selection,
    /// The metric that colours the map.
    pub metric: &'static Metric,
    /// The text of the layer filter.
    pub filter: String,
    /// The order of the layer list.
    pub sort: Sort,
    /// Where each layer stands on the map.
    pub map: MapLayout,
    /// The project's file, once it has one.
    pub project: Option<PathBuf>,
    /// What the assignment of the layer in the inspector does, with the assignment it was measured for.
    pub preview: Option<Tried>,
    /// The export to the byte, or why there is none.
    pub manifest: Result<Arc<Manifest>, String>,
    statistics: Vec<Measured<Statistics>>,
    spectra: Vec<Measured<Spectrum>>,
    rows: Vec<usize>,
    saved: (Arc<Plan>, &'static str),
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
    /// The plan.
    pub plan: Plan,
    /// The target.
    pub target: &'static dyn Target,
    /// What was on screen.
    pub view: View,
    /// The project's file, if it was opened through one.
    pub project: Option<PathBuf>,
}

impl Model {
    /// A model just opened: nothing measured yet.
    pub fn new(opened: Opened) -> Self {
        let n = opened.checkpoint.tensors().len();
        let selected: Vec<usize> =
            opened.view.selected.iter().filter_map(|name| opened.checkpoint.find(name)).collect();
        let selection = if selected.is_empty() {
            first_layer(&opened.checkpoint)
        } else {
            Selection::of(selected)
        };
        let history = History::new(opened.plan);
        let mut model = Self {
            selection,
            metric: metric(&opened.view.metric),
            filter: opened.view.filter,
            sort: Sort::default(),
            map: MapLayout::new(&opened.checkpoint),
            project: opened.project,
            preview: None,
            manifest: Err(String::new()),
            statistics: vec![None; n],
            spectra: vec![None; n],
            rows: Vec::new(),
            saved: (history.current().clone(), opened.target.about().id),
            checkpoint: opened.checkpoint,
            target: opened.target,
            history,
        };
        model.plan_changed();
        model.refresh_rows();
        model
    }

    /// The present plan.
    pub fn plan(&self) -> &Arc<Plan> {
        self.history.current()
    }

    /// The assignment of a layer.
    pub fn assignment(&self, layer: usize) -> Arc<Assignment> {
        self.plan().assignment(&self.checkpoint.tensors()[layer].name)
    }

    /// What was measured of a tensor, if it could be.
    pub fn statistics(&self, layer: usize) -> Option<&Arc<Statistics>> {
        self.statistics[layer].as_ref()?.as_ref().ok()
    }

    /// The spectrum of a layer, if it could be measured.
    pub fn spectrum(&self, layer: usize) -> Option<&Arc<Spectrum>> {
        self.spectra[layer].as_ref()?.as_ref().ok()
    }

    /// The state of a tensor's statistics.
    pub fn statistics_state(&self, layer: usize) -> &Measured<Statistics> {
        &self.statistics[layer]
    }

    /// The state of a layer's spectrum.
    pub fn spectrum_state(&self, layer: usize) -> &Measured<Spectrum> {
        &self.spectra[layer]
    }

    /// Records statistics.
    pub fn set_statistics(&mut self, layer: usize, result: Result<Arc<Statistics>, String>) {
        self.statistics[layer] = Some(result);
    }

    /// Records a spectrum.
    pub fn set_spectrum(&mut self, layer: usize, result: Result<Arc<Spectrum>, String>) {
        self.spectra[layer] = Some(result);
    }

    /// Bytes of a layer in the export, or in the source where no export is possible.
    pub fn bytes(&self, layer: usize) -> u64 {
        let entry = self.manifest.as_ref().ok().and_then(|manifest| manifest.entries.get(layer));
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
        let layout = tensor
            .matrix
            .and_then(|matrix| self.assignment(layer).layout(matrix.shape, tensor.dtype).ok());
        layout.map_or(tensor.dtype.bits() as u32, |layout| layout.nominal_bits())
    }

    /// Why a compressed layer is stored in full by the target.
    pub fn why_dense(&self, layer: usize) -> Option<&str> {
        match &self.manifest.as_ref().ok()?.entries.get(layer)?.storage {
            Storage::Dense { because } => Some(because),
            Storage::Copied | Storage::Native => None,
        }
    }

    /// Layers in the order of the list, filtered and sorted.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Whether plan or target differ from the saved project.
    pub fn is_changed(&self) -> bool {
        self.saved != (self.plan().clone(), self.target.about().id)
    }

    /// Remembers the present plan and target as saved.
    pub fn mark_saved(&mut self) {
        self.saved = (self.plan().clone(), self.target.about().id);
    }

    /// Computes again what depends on plan and target.
    pub fn plan_changed(&mut self) {
        let manifest = Manifest::new(&self.checkpoint, self.plan(), self.target);
        self.manifest = manifest.map(Arc::new).map_err(|error| error.sentence());
        if self.sort.column != Column::Layer {
            self.refresh_rows();
        }
    }

    /// Filters and sorts the list again.
    pub fn refresh_rows(&mut self) {
        let needle = self.filter.to_lowercase();
        let words: Vec<&str> = needle.split_whitespace().collect();
        let is_shown = |layer: &usize| {
            let tensor = &self.checkpoint.tensors()[*layer];
            let name = format!("{} {}", tensor.name.to_lowercase(), self.short_name(*layer));
            words.iter().all(|word| name.contains(word))
        };
        let mut rows: Vec<usize> = (0..self.checkpoint.tensors().len()).filter(is_shown).collect();
        self.sort.apply(self, &mut rows);
        self.rows = rows;
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

    /// Tensors measured so far and in all: statistics and spectra.
    pub fn measured(&self) -> (usize, usize) {
        let matrices =
            self.checkpoint.tensors().iter().filter(|tensor| tensor.matrix.is_some()).count();
        let statistics = self.statistics.iter().filter(|state| state.is_some()).count();
        let spectra = self.spectra.iter().filter(|state| state.is_some()).count();
        (statistics + spectra, self.statistics.len() + matrices)
    }

    /// Takes on another target.
    pub fn set_target(&mut self, id: &str) -> Result<(), String> {
        self.target = target::find(id).map_err(|error| error.sentence())?;
        self.plan_changed();
        Ok(())
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
