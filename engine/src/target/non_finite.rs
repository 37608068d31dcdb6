//! Weights that are NaN or infinite, told before a plan meets them.

use crate::checkpoint::Checkpoint;
use crate::numeric::digits::count;
use crate::plan::Plan;
use crate::target::{Fix, Lint, Severity};

/// What was counted of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// Index of the tensor.
    pub tensor: usize,
    /// Values that are NaN.
    pub nan: u64,
    /// Values that are +∞ or −∞.
    pub infinite: u64,
}

impl NonFinite {
    fn told(&self) -> String {
        match (self.nan, self.infinite) {
            (nan, 0) => format!("{} NaN", count(nan)),
            (0, infinite) => format!("{} infinite", count(infinite)),
            (nan, infinite) => format!("{} NaN and {} infinite", count(nan), count(infinite)),
        }
    }
}

/// What is wrong with a plan for tensors that were found to hold NaN or infinite values: errors for those that it
/// compresses, which no method takes, warnings for those that are kept and go along as they are. What is taken out is left
/// out. Knows only what was counted, by whoever measured the tensors.
pub fn non_finite(checkpoint: &Checkpoint, plan: &Plan, found: &[NonFinite]) -> Vec<Lint> {
    if found.is_empty() {
        return Vec::new();
    }
    let removed = plan.removed_tensors(checkpoint);
    let left = found.iter().filter(|of| of.nan + of.infinite > 0 && !removed.contains(&of.tensor));
    let mut lints: Vec<Lint> = left.map(|of| lint(checkpoint, plan, of)).collect();
    lints.sort_by_key(|lint| lint.severity);
    lints
}

fn lint(checkpoint: &Checkpoint, plan: &Plan, of: &NonFinite) -> Lint {
    let tensor = &checkpoint.tensors()[of.tensor];
    let is_compressed =
        tensor.matrix.is_some() && plan.get(&tensor.name).is_some_and(|of| !of.is_keep());
    let (severity, what, mend, fix) = if is_compressed {
        (
            Severity::Error,
            "among its weights, and no method compresses such a layer",
            "keep the layer as it is",
            Some(Fix::Keep),
        )
    } else {
        (
            Severity::Warning,
            "among its values and is exported as it is; what the model makes of them is not a number",
            "start from a checkpoint without",
            None,
        )
    };
    Lint {
        id: "not-finite",
        severity,
        tensors: vec![of.tensor],
        what: format!("{} has {} {what}", tensor.name, of.told()),
        mend: mend.to_owned(),
        fix,
    }
}
