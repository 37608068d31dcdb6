//! Scales of inputs that go into what makes them, a norm or rows of another layer: what can take them, and what a plan that
//! asks for it comes to. In: a checkpoint, a plan. Out: producers with their readers, and the plan with the scales kept where
//! none takes them, each with its reason. Never computes a scale.

mod norms;
mod producer;
mod rows;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

pub use norms::{ByNorm, Divided, Norm};
pub use producer::{Divides, Producer, producer_of, producers};
pub use rows::{Bounds, ByRows, Rows};

use crate::checkpoint::Checkpoint;
use crate::method;
use crate::plan::{Assignment, Plan};

/// What a plan comes to: what takes scales, and which layers keep theirs.
#[derive(Clone, Debug)]
pub struct Settled<'a> {
    /// The plan, with scales kept where they cannot be folded.
    pub plan: Cow<'a, Plan>,
    /// What takes the scales of every layer that reads it.
    pub folds: Vec<Producer>,
    /// Layers whose scales are kept although the plan folds them.
    pub kept: Vec<Kept>,
}

/// Layers that keep their scales for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Why, half a sentence.
    pub because: String,
    /// What in the plan would change that; `None` where no plan does.
    pub mend: Option<&'static str>,
    /// Indices of their tensors.
    pub layers: Vec<usize>,
}

impl Settled<'_> {
    /// What takes the scales of a layer.
    pub fn of(&self, layer: usize) -> Option<&Producer> {
        self.folds.iter().find(|producer| producer.layers.contains(&layer))
    }

    /// The layers that a matrix takes the scales of with its rows, as a producer.
    pub fn by_rows_of(&self, matrix: usize) -> Option<&Producer> {
        self.folds.iter().find(|producer| producer.matrix() == Some(matrix))
    }

    /// Whether the weights of a layer are those of the source times or over something.
    pub fn is_scaled(&self, layer: usize) -> bool {
        self.of(layer).is_some() || self.by_rows_of(layer).is_some()
    }

    /// Matrices that the plan keeps and whose rows are divided.
    pub fn kept_matrices<'s>(&'s self, checkpoint: &'s Checkpoint) -> impl Iterator<Item = usize> {
        let all = self.folds.iter().filter_map(Producer::matrix);
        all.filter(|&matrix| is_kept(checkpoint, &self.plan, matrix))
    }
}

fn is_kept(checkpoint: &Checkpoint, plan: &Plan, tensor: usize) -> bool {
    plan.get(&checkpoint.tensors()[tensor].name).is_none_or(|assignment| assignment.is_keep())
}

/// Whether an assignment of a plan folds, so that what becomes of a tensor depends on others. Cost: one look at each.
pub fn is_asked(plan: &Plan) -> bool {
    plan.iter().any(|(_, assignment)| method::chain_folds(&assignment.steps))
}

/// Whether an assignment leaves each row of a matrix to itself, so that rows may be divided before.
pub fn is_by_row(checkpoint: &Checkpoint, matrix: usize, assignment: &Assignment) -> bool {
    let tensor = &checkpoint.tensors()[matrix];
    let layout = tensor.matrix.and_then(|of| assignment.layout(of.shape, tensor.dtype).ok());
    layout.is_some_and(|layout| layout.is_by_row())
}

/// Holds a plan against what makes the inputs of layers. That takes scales where it is exact and where every layer that
/// reads it asks for it; rows, where they are kept or compressed each by itself. Opens no weights. Cost: one look at each
/// assignment; where one folds, config.json is read.
pub fn settle<'a>(checkpoint: &Checkpoint, plan: &'a Plan) -> Settled<'a> {
    let name = |index: usize| checkpoint.tensors()[index].name.as_str();
    let asks = |index: &usize| {
        plan.get(name(*index)).is_some_and(|found| method::chain_folds(&found.steps))
    };
    let asking: BTreeSet<usize> = (0..checkpoint.tensors().len()).filter(asks).collect();
    let mut settled = Settled { plan: Cow::Borrowed(plan), folds: Vec::new(), kept: Vec::new() };
    if asking.is_empty() {
        return settled;
    }
    let mut reasons = Reasons::new();
    match producers(checkpoint) {
        Err(because) => {
            reasons.insert((None, because), asking.into_iter().collect());
        }
        Ok(producers) => {
            settled.folds = taken((checkpoint, plan), producers, asking, &mut reasons);
        }
    }
    for ((mend, because), layers) in reasons {
        for &layer in &layers {
            let assignment = plan.assignment(name(layer));
            let steps = method::with_kept_scales(&assignment.steps);
            settled.plan.to_mut().set(name(layer), Assignment { steps, ..(*assignment).clone() });
        }
        settled.kept.push(Kept { because, mend, layers });
    }
    settled
}

/// Layers that keep their scales, by what would change that and why.
type Reasons = BTreeMap<(Option<&'static str>, String), Vec<usize>>;

/// What takes scales: all its readers ask; the other layers that ask, by the reason why they keep theirs.
fn taken(
    (checkpoint, plan): (&Checkpoint, &Plan),
    producers: Vec<Producer>,
    mut asking: BTreeSet<usize>,
    reasons: &mut Reasons,
) -> Vec<Producer> {
    let mut folds = Vec::new();
    for producer in producers {
        let (readers, others): (Vec<usize>, Vec<usize>) =
            producer.layers.iter().partition(|layer| asking.contains(*layer));
        if readers.is_empty() {
            continue;
        }
        for reader in &readers {
            asking.remove(reader);
        }
        match why_kept((checkpoint, plan), &producer, others.first()) {
            Some(reason) => reasons.entry(reason).or_default().extend(readers),
            None => folds.push(producer),
        }
    }
    if !asking.is_empty() {
        let because = "they read something else than what a norm or another layer gives".to_owned();
        reasons.insert((None, because), asking.into_iter().collect());
    }
    folds
}

/// Why the layers that read a producer keep their scales, one of them not asking for it; what would change that.
fn why_kept(
    (checkpoint, plan): (&Checkpoint, &Plan),
    producer: &Producer,
    other: Option<&usize>,
) -> Option<(Option<&'static str>, String)> {
    let name = |index: usize| checkpoint.tensors()[index].name.as_str();
    if let Some(because) = &producer.why_not {
        return Some((None, because.clone()));
    }
    if let Some(&other) = other {
        let mend = "fold the scales of all layers that read the norm, or of none";
        let because = format!(
            "{} reads {} too and does not fold its scales",
            name(other),
            producer.name(checkpoint)
        );
        return Some((Some(mend), because));
    }
    let matrix = producer.matrix().filter(|&matrix| !is_kept(checkpoint, plan, matrix))?;
    if is_by_row(checkpoint, matrix, &plan.assignment(name(matrix))) {
        return None;
    }
    let mend = "compress the layer before each row by itself, in groups or whole rows, or keep it";
    let because = format!(
        "the rows of {}, which would take them, share what they are compressed with",
        name(matrix)
    );
    Some((Some(mend), because))
}
