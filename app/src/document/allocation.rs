//! Spending a budget: which candidates are scored how, what came out, and where the slider stands.

use std::sync::Arc;

use lapidary_engine::plan::{Plan, quantisers_of_bits};
use lapidary_engine::scores::{Metric, Solved};

use crate::document::evaluation::Work;

/// Bits that can be candidates.
pub const BITS: [i64; 7] = [2, 3, 4, 5, 6, 7, 8];

/// What the person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The quantiser, by its id.
    pub method: String,
    /// Bits a layer may have.
    pub bits: Vec<i64>,
    /// By what damage is told.
    pub metric: Metric,
    /// Tokens to measure each candidate on.
    pub tokens: usize,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            method: quantisers_of_bits()
                .next()
                .map_or_else(String::new, |first| first.id.to_owned()),
            bits: vec![2, 3, 4, 5, 6, 8],
            metric: Metric::Weights,
            tokens: 2048,
        }
    }
}

/// Scores solved for every budget, and for what they are.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The scores and the frontier.
    pub solved: Arc<Solved>,
    /// What was asked for.
    pub wish: Wish,
    /// The target, by its id.
    pub target: &'static str,
    /// The plan when it was scored: its locks hold.
    pub plan: Arc<Plan>,
}

/// Everything about spending a budget on the open model.
#[derive(Debug, Default)]
pub struct Allocating {
    /// What is asked for.
    pub wish: Wish,
    /// Whether the person has chosen how damage is told.
    pub has_chosen: bool,
    /// What runs.
    pub work: Option<Work>,
    /// Why the last scoring failed.
    pub failed: Option<String>,
    /// What the slider moves over.
    pub ready: Option<Ready>,
    /// Where the slider stands: bytes of all tensors.
    pub budget: Option<u64>,
    /// The plan when the slider last stood still.
    pub stop: Option<Arc<Plan>>,
    /// Layers that changed since.
    pub changed: Vec<usize>,
    /// Damage that the scores predict for the plan where the slider stands.
    pub predicted: f64,
}
