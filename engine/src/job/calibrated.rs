//! What a job is given: a checkpoint, and who knows what its layers receive.

use std::collections::HashMap;
use std::sync::Arc;

use crate::calibration::{Calibration, Folder, Imported, Record, Settings, Stream};
use crate::checkpoint::{Checkpoint, MatrixKind, Role, Tensor};
use crate::error::{Error, Result};
use crate::method::{self, LayerInputs, Needs, Step};
use crate::plan::{Assignment, Plan};

/// Knows what layers receive. Whether the blocks before a layer were the original or the compressed ones is a matter of the
/// calibration, see [`crate::calibration::Prefix`].
pub trait Calibrated: Sync {
    /// The most that a method may need on the layer of this name.
    fn known(&self, layer: &str) -> Needs;

    /// What the layer of this name receives, with the Gram matrix where `needs` asks for it and it was kept; `None`
    /// where the layer was not measured.
    ///
    /// # Errors
    /// Whatever reading says.
    fn inputs(&self, layer: &str, needs: Needs) -> Result<Option<LayerInputs>>;

    /// Whether it was kept what entered a block, token by token.
    fn has_stream(&self, _block: u32) -> bool {
        false
    }

    /// What entered a block; `None` where that was not kept, or is not whole.
    fn stream(&self, _block: u32) -> Option<Stream> {
        None
    }

    /// The calibration it is of; `None` where nothing is known.
    fn settings(&self) -> Option<&Settings>;

    /// The importance matrix it was taken from, where it was.
    fn imported(&self) -> Option<&Imported> {
        None
    }

    /// What tells it from others: the same key says the same of a layer. Empty where nothing is known.
    fn key(&self) -> String {
        self.settings().map_or_else(String::new, Settings::key)
    }
}

/// Knows nothing: methods that need data refuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncalibrated;

impl Calibrated for Uncalibrated {
    fn known(&self, _layer: &str) -> Needs {
        Needs::Weights
    }

    fn inputs(&self, _layer: &str, _needs: Needs) -> Result<Option<LayerInputs>> {
        Ok(None)
    }

    fn settings(&self) -> Option<&Settings> {
        None
    }
}

impl Calibrated for Calibration {
    fn known(&self, layer: &str) -> Needs {
        known(self.record(layer), |record| record.gram.is_some())
    }

    fn inputs(&self, layer: &str, _needs: Needs) -> Result<Option<LayerInputs>> {
        let inputs = |record: &Record| LayerInputs { gram: record.gram.clone(), ..moments(record) };
        Ok(self.record(layer).map(inputs))
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }
}

fn known(record: Option<&Record>, has_gram: impl Fn(&Record) -> bool) -> Needs {
    match record {
        None => Needs::Weights,
        Some(record) if has_gram(record) => Needs::Gram,
        Some(_) => Needs::Moments,
    }
}

/// A calibration on disk, whose Gram matrices are read one at a time.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Where Gram matrices are read from.
    pub folder: &'a Folder,
    /// The records.
    pub calibration: &'a Calibration,
}

impl Calibrated for Measured<'_> {
    fn known(&self, layer: &str) -> Needs {
        // Whether a single matrix was left out is found when it is read.
        let known = known(self.calibration.record(layer), |_| self.calibration.settings.has_grams);
        if self.folder.has_tokens() { known.max(Needs::Tokens) } else { known }
    }

    fn inputs(&self, layer: &str, needs: Needs) -> Result<Option<LayerInputs>> {
        let counted = self.folder.tokens();
        let Some(record) = self.calibration.record(layer) else {
            let of = |(tokens, shares): (u64, Vec<f32>)| LayerInputs {
                tokens,
                shares,
                mean: Vec::new(),
                mean_square: Vec::new(),
                gram: None,
            };
            return Ok(counted.map(of));
        };
        let gram = if needs == Needs::Gram { self.folder.gram(record) } else { None };
        let shares = counted.map(|(_, shares)| shares).unwrap_or_default();
        Ok(Some(LayerInputs { gram, shares, ..moments(record) }))
    }

    fn has_stream(&self, block: u32) -> bool {
        self.folder.has_stream(block)
    }

    fn stream(&self, block: u32) -> Option<Stream> {
        self.folder.stream(block)
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.calibration.settings)
    }

    fn imported(&self) -> Option<&Imported> {
        self.folder.imported()
    }
}

fn moments(record: &Record) -> LayerInputs {
    LayerInputs {
        tokens: record.inputs.tokens,
        mean: record.inputs.mean.clone(),
        mean_square: record.inputs.mean_square.clone(),
        gram: None,
        shares: Vec::new(),
    }
}

/// What was measured of a model, asked for by the names that layers have once parts were taken out of it. The text ran
/// through the whole model.
pub struct Renamed<'a> {
    calibrated: &'a dyn Calibrated,
    /// Names in the whole model.
    names: HashMap<&'a str, &'a str>,
}

impl<'a> Renamed<'a> {
    /// What is known of the layers that are left.
    pub fn new(calibrated: &'a dyn Calibrated, reduced: &'a Checkpoint) -> Self {
        let name = |tensor: &'a Tensor| (tensor.name.as_str(), tensor.source_name());
        Self { calibrated, names: reduced.tensors().iter().map(name).collect() }
    }

    fn name<'n>(&'n self, layer: &'n str) -> &'n str {
        self.names.get(layer).copied().unwrap_or(layer)
    }
}

impl Calibrated for Renamed<'_> {
    fn known(&self, layer: &str) -> Needs {
        self.calibrated.known(self.name(layer))
    }

    fn inputs(&self, layer: &str, needs: Needs) -> Result<Option<LayerInputs>> {
        self.calibrated.inputs(self.name(layer), needs)
    }

    fn settings(&self) -> Option<&Settings> {
        self.calibrated.settings()
    }

    fn imported(&self) -> Option<&Imported> {
        self.calibrated.imported()
    }

    fn key(&self) -> String {
        self.calibrated.key()
    }
}

/// A checkpoint with what is known of its layers' inputs. Made from a checkpoint alone, nothing is.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Who knows what its layers receive.
    pub calibrated: &'a dyn Calibrated,
}

impl<'a> From<&'a Checkpoint> for Subject<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, calibrated: &Uncalibrated }
    }
}

impl<'a> From<&'a Arc<Checkpoint>> for Subject<'a> {
    fn from(checkpoint: &'a Arc<Checkpoint>) -> Self {
        Self { checkpoint, calibrated: &Uncalibrated }
    }
}

impl Subject<'_> {
    /// Does something with the model without what a plan takes out and with the plan for it; with this model and plan where
    /// it takes out nothing.
    ///
    /// # Errors
    /// Those of [`Plan::reduced`], and of what is done.
    pub fn reduced<T>(
        self,
        plan: &Plan,
        work: impl FnOnce(Subject<'_>, &Plan) -> Result<T>,
    ) -> Result<T> {
        let Some(reduced) = plan.reduced(self.checkpoint)? else { return work(self, plan) };
        let calibrated = Renamed::new(self.calibrated, &reduced.checkpoint);
        let subject = Subject { checkpoint: &reduced.checkpoint, calibrated: &calibrated };
        work(subject, &reduced.plan)
    }

    /// Refuses a chain of steps that needs more of a layer's inputs than is known, before anything is computed.
    ///
    /// # Errors
    /// [`Error::Plan`] with what is missing and how to come by it.
    pub fn check_inputs(&self, layer: usize, steps: &[Step]) -> Result<()> {
        let tensor = &self.checkpoint.tensors()[layer];
        let (needs, known) = (method::chain_needs(steps), self.calibrated.known(&tensor.name));
        if method::chain_counts_tokens(steps) {
            self.check_tokens(tensor)?;
        }
        if method::chain_refinement(steps).is_some() {
            self.check_stream(tensor)?;
        }
        if needs <= known {
            return Ok(());
        }
        if tensor.matrix.is_some_and(|matrix| matrix.kind == MatrixKind::Embedding) {
            return Err(Error::plan(
                format!("{} is looked up by token and receives no inputs", tensor.name),
                "choose a method without data for it",
            ));
        }
        Err(method::uncalibrated(&tensor.name, needs, known))
    }

    /// Refuses to count the rows of a layer as tokens where they are none, or nobody counted those.
    fn check_tokens(&self, tensor: &Tensor) -> Result<()> {
        if !matches!(tensor.place.role, Role::Embedding | Role::Head) {
            return Err(Error::plan(
                format!("the rows of {} are no tokens", tensor.name),
                "count all of them alike",
            ));
        }
        let inputs = self.calibrated.inputs(&tensor.name, Needs::Tokens)?;
        if inputs.is_some_and(|inputs| !inputs.shares.is_empty()) {
            return Ok(());
        }
        Err(method::uncalibrated(&tensor.name, Needs::Tokens, self.calibrated.known(&tensor.name)))
    }

    /// Refuses to refine the block of a layer where nobody kept what enters it.
    fn check_stream(&self, tensor: &Tensor) -> Result<()> {
        let Some(block) = tensor.place.block else {
            return Err(Error::plan(
                format!("{} lies in no block that it could be refined with", tensor.name),
                "refine layers of blocks alone",
            ));
        };
        if self.calibrated.has_stream(block) {
            return Ok(());
        }
        Err(Error::plan(
            format!("refining block {block} needs what enters it, which no calibration kept"),
            "calibrate with this plan, block by block: lapidary calibrate PROJECT --text FILE --sequential",
        ))
    }

    /// The calibration, where a plan needs any.
    pub fn calibration_for(&self, plan: &Plan) -> Option<&Settings> {
        let needs = |(_, assignment): (&str, &Arc<Assignment>)| {
            method::chain_needs(&assignment.steps) > Needs::Weights
        };
        self.calibrated.settings().filter(|_| plan.iter().any(needs))
    }

    /// The same for every layer that a plan compresses.
    ///
    /// # Errors
    /// Those of [`Subject::check_inputs`].
    pub fn check_plan(&self, plan: &Plan) -> Result<()> {
        for (layer, tensor) in self.checkpoint.tensors().iter().enumerate() {
            if let Some(assignment) = plan.get(&tensor.name).filter(|found| !found.is_keep()) {
                self.check_inputs(layer, &assignment.steps)?;
            }
        }
        Ok(())
    }
}
