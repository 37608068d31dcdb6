//! Scales of inputs that go into the norm before a layer: which norms can take them, and what a plan that asks for it
//! comes to. In: a checkpoint, a plan. Out: norms with their readers, and the plan with the scales kept where no norm takes
//! them, each with its reason. Never computes a scale.

mod norms;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use norms::{Norm, norms};

use crate::checkpoint::Checkpoint;
use crate::method;
use crate::plan::{Assignment, Plan};

/// What a plan comes to: which norms take scales, and which layers keep theirs.
#[derive(Clone, Debug)]
pub struct Settled<'a> {
    /// The plan, with scales kept where they cannot be folded.
    pub plan: Cow<'a, Plan>,
    /// The norms that take the scales of every layer that reads them.
    pub folds: Vec<Norm>,
    /// Layers whose scales are kept although the plan folds them.
    pub kept: Vec<Kept>,
}

/// Layers that keep their scales for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Why, half a sentence.
    pub because: String,
    /// Whether another plan would change that.
    pub is_by_plan: bool,
    /// Indices of their tensors.
    pub layers: Vec<usize>,
}

impl Settled<'_> {
    /// The norm that takes the scales of a layer.
    pub fn of(&self, layer: usize) -> Option<&Norm> {
        self.folds.iter().find(|norm| norm.layers.contains(&layer))
    }
}

/// Whether an assignment of a plan folds, so that what becomes of a tensor depends on others. Cost: one look at each.
pub fn is_asked(plan: &Plan) -> bool {
    plan.iter().any(|(_, assignment)| method::chain_folds(&assignment.steps))
}

/// Holds a plan against the norms of a checkpoint. A norm takes scales where that is exact and where every layer that
/// reads it asks for it. Opens no weights. Cost: one look at each assignment; where one folds, config.json is read.
pub fn settle<'a>(checkpoint: &Checkpoint, plan: &'a Plan) -> Settled<'a> {
    let name = |index: usize| checkpoint.tensors()[index].name.as_str();
    let asks =
        |index: usize| plan.get(name(index)).is_some_and(|found| method::chain_folds(&found.steps));
    let asking: Vec<usize> = (0..checkpoint.tensors().len()).filter(|&index| asks(index)).collect();
    let mut settled = Settled { plan: Cow::Borrowed(plan), folds: Vec::new(), kept: Vec::new() };
    if asking.is_empty() {
        return settled;
    }
    let mut reasons: BTreeMap<(bool, String), Vec<usize>> = BTreeMap::new();
    match norms(checkpoint) {
        Err(because) => {
            reasons.insert((false, because), asking);
        }
        Ok(norms) => settled.folds = taken(checkpoint, norms, asking, &mut reasons),
    }
    for ((is_by_plan, because), layers) in reasons {
        for &layer in &layers {
            let assignment = plan.assignment(name(layer));
            let steps = method::with_kept_scales(&assignment.steps);
            settled.plan.to_mut().set(name(layer), Assignment { steps, ..(*assignment).clone() });
        }
        settled.kept.push(Kept { because, is_by_plan, layers });
    }
    settled
}

/// The norms whose readers all ask; the other layers that ask, by the reason why they keep their scales.
fn taken(
    checkpoint: &Checkpoint,
    norms: Vec<Norm>,
    mut asking: Vec<usize>,
    reasons: &mut BTreeMap<(bool, String), Vec<usize>>,
) -> Vec<Norm> {
    let name = |index: usize| checkpoint.tensors()[index].name.as_str();
    let mut folds = Vec::new();
    for norm in norms {
        let (readers, others): (Vec<usize>, Vec<usize>) =
            norm.layers.iter().partition(|layer| asking.contains(layer));
        if readers.is_empty() {
            continue;
        }
        asking.retain(|layer| !readers.contains(layer));
        let reason = match (&norm.why_not, others.first()) {
            (Some(because), _) => (false, because.clone()),
            (None, Some(&other)) => {
                let (other, norm) = (name(other), name(norm.weight));
                (true, format!("{other} reads {norm} too and does not fold its scales"))
            }
            (None, None) => {
                folds.push(norm);
                continue;
            }
        };
        reasons.entry(reason).or_default().extend(readers);
    }
    if !asking.is_empty() {
        let because = "they read something else than what a norm gives".to_owned();
        reasons.insert((false, because), asking);
    }
    folds
}
