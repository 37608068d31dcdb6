//! What a model takes while it runs: weights, the cache of keys and values, and what is read for each token.

use crate::checkpoint::{Checkpoint, Role};
use crate::network::design::{Block, Design, Feed};
use crate::target::Manifest;

/// Bytes of a cached key or value: half floats, as runtimes keep them unless told otherwise.
const CACHED_BYTES: u64 = 2;

/// Bytes of the keys and values of one sequence of `context` tokens:
/// Σ over blocks of 2·`kv_heads`·`head_dim`·min(context, window)·2. None in a network whose tokens see those after them:
/// it runs each text at once.
pub fn cache_bytes(design: &Design, context: u64) -> u64 {
    let of_block = |block: &Block| {
        let attention = &block.attention;
        let seen = attention.window.map_or(context, |window| context.min(window as u64));
        let values = 2 * attention.kv_heads as u64 * attention.head_dim as u64;
        values.saturating_mul(CACHED_BYTES).saturating_mul(seen)
    };
    if !design.causal {
        return 0;
    }
    design.blocks.iter().map(of_block).fold(0, u64::saturating_add)
}

/// Bytes of weights that are read for one token: of a mixture only the experts that are chosen, each taken as large as
/// the mean of its block; of a table that is looked up, one row.
pub fn active_bytes(checkpoint: &Checkpoint, manifest: &Manifest, design: &Design) -> u64 {
    let tied = checkpoint.tied().map(|tied| tied.embedding);
    let of = |entry: &crate::target::Entry| {
        let tensor = &checkpoint.tensors()[entry.tensor];
        let place = &tensor.place;
        let is_table = matches!(place.role, Role::Embedding | Role::Position);
        if is_table && tied != Some(entry.tensor) {
            let rows = tensor.shape.0.first().copied().unwrap_or(1).max(1);
            return entry.bytes as f64 / rows as f64;
        }
        let block = place.block.and_then(|block| design.blocks.get(block as usize));
        match (place.expert, block.map(|block| &block.feed)) {
            (Some(_), Some(Feed::Experts(experts))) => {
                let share = experts.chosen as f64 / experts.experts.len().max(1) as f64;
                entry.bytes as f64 * share.min(1.0)
            }
            _ => entry.bytes as f64,
        }
    };
    manifest.entries.iter().map(of).sum::<f64>().round() as u64
}
